"""Networks by name: what is built, what is never downloaded, and what is said when it cannot be built."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from deepsup import networks
from deepsup.errors import ConfigError, MissingPackageError

torch.set_num_threads(1)

FACTORIES = """
import torch
from torch import nn

SEEN = {}

def named(num_classes, in_channels, size):
    SEEN.update(num_classes=num_classes, in_channels=in_channels, size=size)
    return nn.Linear(in_channels * size * size, num_classes)

def open_ended(**anything):
    SEEN.update(anything)
    return nn.Identity()

def fixed():
    return nn.Identity()

def fussy(width, *, num_classes):
    return nn.Linear(width, num_classes)

def no_module():
    return 3

def broken():
    raise RuntimeError("inside the factory")

class Holder:
    make = staticmethod(fixed)

number = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "somepackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(FACTORIES)
    (package / "lame.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "somepackage.nets"
    for name in [name for name in sys.modules if name.startswith("somepackage")]:
        del sys.modules[name]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


class TestPlain:
    def test_twelve_convolutions_in_three_stages(self) -> None:
        model = networks.build("deepsup:plain-12", classes=10, in_channels=1)
        assert [layer.out_channels for layer in convolutions(model)] == [16] * 4 + [32] * 4 + [64] * 4
        assert [layer.stride[0] for layer in convolutions(model)] == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
        assert {layer.kernel_size for layer in convolutions(model)} == {(3, 3)}
        names = [name for name, _ in model.named_children()]
        assert names[:4] == ["conv1", "relu1", "conv2", "relu2"]
        assert names[-5:] == ["conv12", "relu12", "pool", "flatten", "fc"]

    @pytest.mark.parametrize(("depth", "stages"), [(3, [1, 1, 1]), (7, [3, 2, 2]), (13, [5, 4, 4]), (14, [5, 5, 4])])
    def test_extra_convolutions_go_to_the_first_stages(self, depth: int, stages: list[int]) -> None:
        widths = [layer.out_channels for layer in convolutions(networks.plain(depth, classes=2))]
        assert [widths.count(width) for width in (16, 32, 64)] == stages

    def test_nothing_normalises_and_nothing_is_in_place(self) -> None:
        model = networks.plain(12, classes=10)
        kinds = {type(layer) for layer in model.children()}
        assert kinds == {nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}
        assert not any(layer.inplace for layer in model.modules() if isinstance(layer, nn.ReLU))

    def test_initialised_as_pytorch_does(self) -> None:
        torch.manual_seed(0)
        first = nn.Conv2d(3, 16, 3, padding=1)
        torch.manual_seed(0)
        model = networks.plain(3, classes=2)
        assert torch.equal(convolutions(model)[0].weight, first.weight)

    @pytest.mark.parametrize("size", [8, 16, 33])
    def test_takes_any_size(self, size: int) -> None:
        model = networks.build("deepsup:plain-6", classes=7, in_channels=2, size=size)
        assert model(torch.zeros(3, 2, size, size)).shape == (3, 7)

    def test_widths_are_an_option(self) -> None:
        model = networks.build("deepsup:plain-4", classes=2, options={"widths": [4, 8]})
        assert [layer.out_channels for layer in convolutions(model)] == [4, 4, 8, 8]

    def test_is_among_the_names(self) -> None:
        assert {"deepsup:plain-12", "deepsup:plain-13"} < set(networks.names())


class TestTimm:
    def test_channels_and_classes(self) -> None:
        model = networks.build("timm:resnet18", classes=5, in_channels=1, size=32)
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)

    def test_a_network_of_fixed_size_gets_the_data_size(self) -> None:
        model = networks.build("timm:vit_tiny_patch16_224", classes=5, size=32, options={"depth": 1})
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)

    def test_options_overrule_the_size(self) -> None:
        options = {"img_size": 64, "depth": 1}
        model = networks.build("timm:vit_tiny_patch16_224", classes=5, size=32, options=options)
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)

    @pytest.mark.parametrize(("options", "pretrained"), [({}, False), ({"pretrained": True}, True)])
    def test_trained_only_when_asked(
        self, monkeypatch: pytest.MonkeyPatch, options: Mapping[str, Any], pretrained: bool
    ) -> None:
        seen: dict[str, Any] = {}

        def create(name: str, **arguments: Any) -> nn.Module:
            seen.update(arguments, name=name)
            return nn.Identity()

        monkeypatch.setattr(timm, "create_model", create)
        networks.build("timm:resnet18.a1_in1k", classes=5, options=options)
        assert seen == {"name": "resnet18.a1_in1k", "pretrained": pretrained, "num_classes": 5, "in_chans": 3}


class TestTorchvision:
    @pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "mobilenet_v3_small"])
    def test_builds_without_a_warning(self, name: str) -> None:
        model = networks.build(f"torchvision:{name}", classes=6).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 6)

    def test_a_vision_transformer_gets_the_data_size(self) -> None:
        model = networks.build("torchvision:vit_b_32", classes=6, size=32)
        assert model.get_parameter("encoder.pos_embedding").shape[1] == 2

    def test_no_trained_backbone_in_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("tried to load trained weights")

        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", refuse)
        networks.build("torchvision:lraspp_mobilenet_v3_large", classes=6)

    @pytest.mark.parametrize(("name", "classifier"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
    def test_trained_weights_keep_the_trunk_and_lose_the_classifier(
        self, monkeypatch: pytest.MonkeyPatch, name: str, classifier: str
    ) -> None:
        trained = torchvision.models.get_model(name).state_dict()
        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: trained)
        model = networks.build(f"torchvision:{name}", classes=6, options={"weights": "DEFAULT"})
        state = model.state_dict()
        assert state.keys() == trained.keys()
        differing = {key for key in trained if state[key].shape != trained[key].shape}
        assert differing == {f"{classifier}.weight", f"{classifier}.bias"}
        assert all(torch.equal(state[key], trained[key]) for key in trained.keys() - differing)
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 6)

    def test_trained_classifier_stays_when_the_counts_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = torchvision.models.resnet18().state_dict()
        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: trained)
        model = networks.build("torchvision:resnet18", classes=1000, options={"weights": "IMAGENET1K_V1"})
        assert torch.equal(model.get_parameter("fc.weight"), trained["fc.weight"])


class TestFactory:
    def test_gets_what_its_signature_names(self, factories: str) -> None:
        model = networks.build(f"{factories}:named", classes=5, in_channels=2, size=4)
        assert model(torch.zeros(1, 32)).shape == (1, 5)

    def test_an_open_signature_gets_the_classes_and_the_options(self, factories: str) -> None:
        networks.build(f"{factories}:open_ended", classes=5, in_channels=2, size=4, options={"depth": 3})
        assert sys.modules[factories].SEEN == {"num_classes": 5, "depth": 3}

    def test_a_closed_signature_gets_nothing(self, factories: str) -> None:
        assert isinstance(networks.build(f"{factories}:fixed", classes=5), nn.Identity)

    def test_options_fill_in_the_rest(self, factories: str) -> None:
        model = networks.build(f"{factories}:fussy", classes=5, options={"width": 8})
        assert model(torch.zeros(1, 8)).shape == (1, 5)

    def test_an_attribute_of_a_class(self, factories: str) -> None:
        assert isinstance(networks.build(f"{factories}:Holder.make", classes=5), nn.Identity)

    def test_its_own_errors_are_its_own(self, factories: str) -> None:
        with pytest.raises(RuntimeError, match="inside the factory"):
            networks.build(f"{factories}:broken", classes=5)

    def test_a_missing_import_inside_is_reported_as_it_is(self, factories: str) -> None:
        with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
            networks.build("somepackage.lame:make", classes=5)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fuzzy", r"has no 'fuzzy'. Closest: fussy"),
            ("fussy", r"signature \(width, \*, num_classes\).*missing a required argument: 'width'"),
            ("no_module", "returned int, not an nn.Module"),
            ("number", "'number' is no function and no class: int"),
        ],
    )
    def test_says_why_not(self, factories: str, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            networks.build(f"{factories}:{name}", classes=5)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("resnet18", {}, "does not say where it comes from.*timm:NAME"),
        ("plain-12", {}, "Perhaps deepsup:plain-12"),
        ("wrn-28-10", {}, "Perhaps deepsup:wrn-28-10"),
        ("nin", {}, "Perhaps deepsup:nin"),
        ("deepsup:", {}, "does not say where it comes from"),
        ("deepsup:plane-12", {}, "Closest: deepsup:plain-12"),
        ("deepsup:plain-2", {}, "2 convolutions cannot fill 3 stages"),
        ("deepsup:plain-12", {"width": 3}, "no option width. It takes: widths"),
        ("deepsup:plain-12", {"widths": [0]}, "must be one or more channel counts"),
        ("deepsup:plain-12", {"widths": "big"}, "must be one or more channel counts"),
        ("timm:resnet81", {}, r"timm has no model called 'resnet81'. Closest: resnet18.*timm.list_models\(\)"),
        ("timm:resnet18", {"depht": 3}, "could not be built.*depht=3.*unexpected keyword"),
        ("timm:resnet18", {"in_chans": 1}, "take in_chans out"),
        ("timm:resnet18.no_such_tag", {}, "could not be built.*no_such_tag"),
        ("timm:resnet18", {"num_classes": 3}, "class count of 'timm:resnet18' is 10, from the data"),
        ("torchvision:resnet81", {}, r"Closest: resnet18.*torchvision.models.list_models\(\)"),
        ("torchvision:resnet18", {"weights": "V7"}, "no weights 'V7'. It has: IMAGENET1K_V1, DEFAULT"),
        ("torchvision:resnet18", {"weights": True}, "no weights True"),
        ("torchvision:resnet18", {"depth": 3}, "could not be built.*depth=3"),
        ("tim:resnet18", {}, "no module 'tim' can be imported. Closest: timm"),
        ("torch.no_such_part:net", {}, "no module 'torch.no_such_part'.*PYTHONPATH"),
    ],
)
def test_bad_specs_say_what_to_do(spec: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.build(spec, classes=10, options=options)


def test_torchvision_reads_three_channels_only() -> None:
    with pytest.raises(ConfigError, match=r"reads 3 channels, the data has 1.*timm:resnet18"):
        networks.build("torchvision:resnet18", classes=10, in_channels=1)


def test_class_count_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="classes=0"):
        networks.build("deepsup:plain-12", classes=0)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf'{package}, which is not installed.*pip install "deepsup\[train\]"'
    ):
        networks.build(f"{package}:resnet18", classes=10)
