"""The articles' networks by name: published parameter counts, and what holds for every one of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.families import build_own, family, listed
from tests.support.paper_nets import SMALL, on_meta, parameters, shapes
from tests.support.small_nets import unsettled

torch.set_num_threads(1)

# parameters for 10 classes, and the figure in the paper in millions
PUBLISHED = {
    "resnet-20": (269_722, "0.27"),  # He et al. 2016, table 6
    "resnet-32": (464_154, "0.46"),
    "resnet-44": (658_586, "0.66"),
    "resnet-56": (853_018, "0.85"),
    "resnet-110": (1_727_962, "1.7"),
    "resnet-1202": (19_421_274, "19.4"),
    "wrn-16-8": (10_961_370, "11.0"),  # Zagoruyko and Komodakis 2016, table 4
    "wrn-28-10": (36_479_194, "36.5"),
    "wrn-40-4": (8_949_210, "8.9"),
    "densenet-40-12": (1_019_722, "1.0"),  # Huang et al. 2017, table 2
    "densenet-100-12": (6_979_642, "7.0"),
    "densenet-100-24": (27_249_082, "27.2"),
    "densenet-bc-100-12": (769_162, "0.8"),
    "densenet-bc-250-24": (15_324_406, "15.3"),
    "densenet-bc-190-40": (25_624_430, "25.6"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    exact, printed = PUBLISHED[name]
    found = parameters(on_meta(f"deepsup:{name}"))
    assert found == exact
    assert f"{found / 1e6:.{len(printed.partition('.')[2])}f}" == printed


class TestEveryNetwork:
    @pytest.mark.parametrize("spec", SMALL)
    def test_is_traced_as_it_runs(self, spec: str) -> None:
        model = unsettled(networks.build(f"deepsup:{spec}", classes=5, options=SMALL[spec]))
        traced = fx.symbolic_trace(model)
        for size in (16, 12):  # nothing of the first size may be frozen in the graph
            x = torch.randn(2, 3, size, size)
            assert torch.equal(traced(x), model(x))

    @pytest.mark.parametrize("spec", ["resnet-8", "resnet-14", "wrn-16-2", "densenet-bc-16-4", "mobilenet-v2"])
    def test_compiles_as_one_graph(self, spec: str) -> None:
        model = networks.build(f"deepsup:{spec}", classes=5, options=SMALL[spec]).eval()
        x = torch.randn(2, 3, 8, 8)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))

    @pytest.mark.parametrize("spec", [*SMALL, "cnds-8"])
    def test_runs_each_layer_once_and_overwrites_nothing(self, spec: str) -> None:
        model = networks.build(f"deepsup:{spec}", classes=5, size=16, options=SMALL.get(spec, {}))
        runs: dict[str, int] = {}
        written: dict[str, tuple[Tensor, int]] = {}

        def see(name: str, out: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            written[name] = (out, out._version)

        for name, layer in model.named_modules():
            layer.register_forward_hook(lambda _, __, out, n=name: see(n, out))
        model(torch.randn(2, 3, 16, 16))
        assert runs == {name: 1 for name, _ in model.named_modules()}
        assert all(out._version == version for out, version in written.values())

    @pytest.mark.parametrize("spec", SMALL)
    def test_copies_and_pickles(self, spec: str) -> None:
        model = networks.build(f"deepsup:{spec}", classes=5, options=SMALL[spec]).eval()
        x = torch.randn(1, 3, 8, 8)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(twin) is type(model)
            assert torch.equal(twin(x), model(x))

    @pytest.mark.parametrize(
        ("spec", "names", "expected"),
        [
            ("resnet-20", ["layer1", "layer2", "layer3"], [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
            ("wrn-16-8", ["layer1", "layer2", "layer3"], [(128, 32, 32), (256, 16, 16), (512, 8, 8)]),
            (
                "densenet-40-12",
                ["layer1", "transition1", "layer2", "transition2", "layer3"],
                [(160, 32, 32), (160, 16, 16), (304, 16, 16), (304, 8, 8), (448, 8, 8)],
            ),
            (
                "densenet-bc-100-12",
                ["conv1", "layer1", "transition1", "layer2", "transition2", "layer3"],
                [(24, 32, 32), (216, 32, 32), (108, 16, 16), (300, 16, 16), (150, 8, 8), (342, 8, 8)],
            ),
            (
                "mobilenet-v1",
                [f"layer{i}" for i in range(1, 6)],
                [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1024, 2, 2)],
            ),
            (
                "mobilenet-v2",
                [*(f"layer{i}" for i in range(1, 5)), "relu2"],
                [(24, 32, 32), (32, 16, 16), (96, 8, 8), (320, 4, 4), (1280, 4, 4)],
            ),
        ],
    )
    def test_stages(self, spec: str, names: list[str], expected: list[tuple[int, ...]]) -> None:
        assert shapes(on_meta(f"deepsup:{spec}"), names, 32) == expected

    @pytest.mark.parametrize(
        ("spec", "lengths"),
        [
            ("resnet-32", [5, 5, 5]),
            ("wrn-28-10", [4, 4, 4]),
            ("densenet-40-12", [12, 12, 12]),
            ("densenet-bc-100-12", [16, 16, 16]),
            ("densenet-bc-190-40", [31, 31, 31]),
            ("mobilenet-v1", [1, 2, 2, 6, 2]),
            ("mobilenet-v2", [3, 3, 7, 4]),
        ],
    )
    def test_blocks_of_each_stage(self, spec: str, lengths: list[int]) -> None:
        model = on_meta(f"deepsup:{spec}")
        stages = [stage for name, stage in model.named_children() if name.startswith("layer")]
        assert [len(stage) for stage in stages if isinstance(stage, nn.Sequential)] == lengths


class TestNoDropout:
    def test_none_unless_asked(self) -> None:
        for spec in ("wrn-16-2", "densenet-10-4", "densenet-bc-16-4", "resnet-8"):
            model = networks.build(f"deepsup:{spec}", classes=3)
            assert not any(isinstance(layer, nn.Dropout) for layer in model.modules())


class TestNames:
    def test_those_listed_are_those_built(self) -> None:
        assert networks.names() == tuple(f"deepsup:{name}" for name in listed())
        assert set(PUBLISHED) < set(listed())
        assert len(set(listed())) == len(listed())

    @pytest.mark.parametrize(
        "spec",
        [n for n in networks.names() if n != "deepsup:resnet-1202" and networks.reads(n) == "images"],  # slow, no other
    )
    def test_every_listed_name_builds_and_runs(self, spec: str) -> None:
        model = on_meta(spec, classes=3, in_channels=1, size=32).eval()  # one 1x1 map cannot be normalised in training
        out = model(torch.empty(1, 1, 32, 32, device="meta"))
        assert out.shape == (1, 3) if out.ndim == 2 else out.shape[:2] == (1, 3)

    def test_numbers_between_the_listed_ones(self) -> None:
        assert parameters(networks.build("deepsup:wrn-22-2", classes=10)) == parameters(networks.wrn(22, 2, classes=10))
        ours = networks.build("deepsup:densenet-bc-22-6", classes=10)
        assert parameters(ours) == parameters(networks.densenet(22, 6, classes=10, bottleneck=True))

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("resnet-33", {}, r"'resnet-33' cannot be built: its depth is 6n\+2.*Closest: 32 and 38\."),
            ("resnet-2", {}, r"Closest: 8\."),
            ("resnet-0", {}, r"Closest: 8\."),
            ("wrn-30-10", {}, r"'wrn-30-10'.*6n\+4.*Closest: 28 and 34\."),
            ("wrn-28-0", {}, "widen=0 must be a whole number of at least 1"),
            ("wrn-28", {}, "Closest: deepsup:wrn-28-10.*wrn-N-K"),
            ("densenet-41-12", {}, r"3n\+4.*Closest: 40 and 43\."),
            ("densenet-bc-43-12", {}, r"'densenet-bc-43-12'.*6n\+4.*Closest: 40 and 46\."),
            ("densenet-40-0", {}, "growth=0"),
            ("densenet-40-12", {"bottleneck": True}, "no option bottleneck. It takes: dropout"),
            (
                "unet",
                {"activation:prelu": None},
                r"no option activation:prelu\..* Write a space after the colon, activation: prelu, or "
                "model_options.activation=prelu",
            ),
            ("resnet32", {}, "Closest: deepsup:resnet-32"),
            ("nin-3", {}, "no network of ours is called 'deepsup:nin-3'"),
            ("resnet-8", {"shortcut": "b"}, "no shortcut 'b'. It has: subsample, pool, centred, project"),
            ("resnet-8", {"widen": 2}, "no option widen. It takes: shortcut, block, weights"),
            ("wrn-16-1", {"dropout": 1.0}, "dropout=1.0 must be a number of at least 0 and below 1"),
            ("wrn-16-1", {"dropout": "high"}, "dropout='high'"),
            ("mobilenet-v1", {"width": 0}, "width=0 must be a positive number"),
            ("mobilenet-v2", {"width": "wide"}, "width='wide'"),
            ("mobilenet-v3", {}, "Closest: deepsup:mobilenet-v[12]"),
        ],
    )
    def test_says_why_not(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_own(name, classes=10, options=options)


def test_a_network_is_known_by_what_is_written_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsup.networks.families.FAMILIES", {})

    @family("line-N", "line-3", bias=False)
    def line(width: int, *, classes: int, in_channels: int = 3, bias: bool = True, scale: float = 1.0) -> nn.Module:
        return nn.Linear(width * in_channels, classes, bias=bias)

    assert networks.names() == ("deepsup:line-3",)
    made = networks.build("deepsup:line-5", classes=2, in_channels=1, options={"scale": 2.0})
    assert (made.in_features, made.out_features, made.bias) == (5, 2, None)
    with pytest.raises(ConfigError, match=r"'deepsup:line-5' has no option bias. It takes: scale\."):
        networks.build("deepsup:line-5", classes=2, options={"bias": True})
    with pytest.raises(ValueError, match="two networks are registered as 'line-N'"):
        family("line-N")(line)


@pytest.mark.parametrize("name", ["plain-99999", "resnet-10000", "wrn-28-99999"])
def test_what_would_take_for_ever_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="at most 9999"):
        build_own(name, classes=10)
