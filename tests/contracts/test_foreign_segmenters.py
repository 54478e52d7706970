"""Segmentation networks of other packages, unedited: supervised by layer name, trained, evaluated, given back."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError, MissingPackageError

with warnings.catch_warnings():  # both packages warn of their own future
    warnings.simplefilter("ignore")
    pytest.importorskip("segmentation_models_pytorch")
    nets = pytest.importorskip("monai.networks.nets")

torch.set_num_threads(1)

CLASSES = 3


@dataclass(frozen=True)
class Case:
    """How to build a network, the places of its input, the layers to supervise."""

    build: Callable[[], nn.Module]
    layers: tuple[str, ...]
    places: tuple[int, ...] = (64, 64)
    channels: int = 3


def built(spec: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: networks.build(spec, classes=CLASSES, options=options)


def smp(name: str, *layers: str, **options: Any) -> Case:
    return Case(built(f"smp:{name}", encoder_name="mobilenet_v2", **options), layers)


def monai(name: str, *layers: str, places: tuple[int, ...] = (64, 64), **options: Any) -> Case:
    dims = {} if name in {"DynUNet"} else {"spatial_dims": len(places)}
    options |= {"in_channels": 1, "out_channels": CLASSES, **dims}
    return Case(lambda: getattr(nets, name)(**options), layers, places, 1)


DYN: dict[str, Any] = {"strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": (4, 8, 16)}
CASES = {
    "smp Unet": smp("Unet", "encoder.features.13", "decoder.blocks.1", "decoder.blocks.3"),
    "smp UnetPlusPlus": smp("UnetPlusPlus", "decoder.blocks.x_0_0", "decoder.blocks.x_0_1", decoder_channels=(32, 16, 8, 8, 4)),
    "smp Linknet": smp("Linknet", "decoder.blocks.1", "decoder.blocks.2"),
    "smp FPN": smp("FPN", "decoder.p4", "decoder.p3"),
    "smp PSPNet": smp("PSPNet", "encoder.features.4", "decoder.psp"),
    "smp DeepLabV3": smp("DeepLabV3", "encoder.features.13", "decoder.conv"),
    "smp DeepLabV3Plus": smp("DeepLabV3Plus", "encoder.features.13", "decoder.aspp"),
    "smp PAN": replace(smp("PAN", "decoder.gau3", "decoder.gau2"), places=(128, 128)),
    "smp UPerNet": smp("UPerNet", "encoder.features.13", decoder_channels=16),
    "smp Segformer": smp("Segformer", "encoder.features.13", decoder_segmentation_channels=16),
    "torchvision FCN": Case(built("torchvision:fcn_resnet50"), ("backbone.layer3", "backbone.layer2")),
    "torchvision DeepLabV3": Case(built("torchvision:deeplabv3_mobilenet_v3_large"), ("backbone.12",)),
    "torchvision LR-ASPP": Case(built("torchvision:lraspp_mobilenet_v3_large"), ("backbone.12", "classifier.cbr")),
    "monai BasicUNet 2-D": monai("BasicUNet", "upcat_4", "upcat_3", features=(4, 4, 8, 8, 8, 4)),
    "monai BasicUNet 3-D": monai("BasicUNet", "upcat_3", "upcat_2", places=(16, 16, 32), features=(4, 4, 8, 8, 8, 4)),
    "monai UNet 2-D": monai("UNet", "model.1.submodule.2", channels=(4, 8, 16), strides=(2, 2)),
    "monai UNet 3-D": monai("UNet", "model.1.submodule.2", "model.0", places=(16, 16, 8), channels=(4, 8, 16), strides=(2, 2)),
    "monai DynUNet 2-D": monai("DynUNet", "upsamples.0", spatial_dims=2, kernel_size=(3, 3, 3), **DYN),
    "monai DynUNet 3-D": monai("DynUNet", "upsamples.0", places=(16, 16, 16), spatial_dims=3, kernel_size=(3, 3, 3), **DYN),
    "monai SegResNet 2-D": monai("SegResNet", "up_layers.0", "up_layers.1", init_filters=8),
    "monai SegResNet 3-D": monai("SegResNet", "up_layers.0", "down_layers.2", places=(16, 24, 16), init_filters=8),
    "monai AttentionUnet 2-D": monai("AttentionUnet", "model.1.submodule.1.merge", channels=(4, 8, 16), strides=(2, 2)),
    "monai UNETR 3-D": monai(
        "UNETR", "decoder5", "decoder4", places=(32, 32, 32), img_size=(32, 32, 32), feature_size=4, hidden_size=12,
        mlp_dim=16, num_heads=2,
    ),
}  # fmt: skip


def prediction(output: Any) -> Tensor:
    return output["out"] if isinstance(output, dict) else output  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_trains_with_branches_and_comes_back_as_it_was(name: str) -> None:
    case = CASES[name]
    model = case.build().eval()
    x = torch.randn(2, case.channels, *case.places)
    y = torch.randint(0, CLASSES, (2, *case.places))
    y[:, :2] = ds.losses.IGNORE
    before = copy.deepcopy(model.state_dict())
    identities = [id(layer) for layer in model.modules()]
    with torch.no_grad():
        expected = prediction(model(x))
    assert expected.shape == (2, CLASSES, *case.places)

    plan = ds.plan(model, x, at=case.layers)
    net = ds.attach(model, plan)
    with torch.no_grad():
        assert torch.equal(prediction(net.eval()(x)), expected)
    outputs = net.train()(x)
    assert set(outputs.aux) == set(case.layers)
    for branch in plan.branches:
        scores = outputs.aux[branch.name]
        assert scores.shape[:2] == (2, CLASSES)
        assert 1 < scores.shape[2:].numel() <= y[0].numel()
        assert len(scores.shape) == len(expected.shape)
    terms = ds.Objective(plan)(outputs, y, progress=0.0)
    sum(terms.parts[layer] for layer in case.layers).backward()  # of the branches alone
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.heads.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.heads.parameters() if p.grad is not None and p.ndim > 1)
    first = next(p for p in model.parameters() if p.ndim > 1)
    assert first.grad is not None
    assert first.grad.abs().sum() > 0

    model.load_state_dict(before)  # running statistics moved
    stripped = ds.strip(net.eval())
    assert stripped is model
    assert [id(layer) for layer in stripped.modules()] == identities
    assert list(stripped.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in stripped.state_dict().items())
    with torch.no_grad():
        assert torch.equal(prediction(stripped(x)), expected)


class TestSource:
    """`smp:NAME`."""

    def test_untrained_with_the_datas_channels_and_classes(self) -> None:
        model = networks.build("smp:Unet", classes=4, in_channels=2, options={"encoder_name": "resnet18"})
        assert type(model).__name__ == "Unet"
        assert model(torch.zeros(1, 2, 64, 32)).shape == (1, 4, 64, 32)

    def test_options_of_timms_encoders_reach_them(self) -> None:
        options = {"encoder_name": "tu-resnet18", "stem_type": "deep"}
        model = networks.build("smp:FPN", classes=4, options=options)
        assert isinstance(model.get_submodule("encoder.model.conv1"), nn.Sequential)

    def test_trained_when_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def init(self: nn.Module, encoder_name: str = "", encoder_weights: str | None = "imagenet", **_: Any) -> None:
            nn.Module.__init__(self)
            seen["weights"] = encoder_weights

        monkeypatch.setattr(sys.modules["segmentation_models_pytorch"].Unet, "__init__", init)
        networks.build("smp:unet", classes=4, options={"encoder_weights": "imagenet"})
        assert seen == {"weights": "imagenet"}
        networks.build("smp:unet", classes=4)
        assert seen == {"weights": None}

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("Unett", {}, "segmentation_models_pytorch has no model called 'Unett'. Closest: Unet"),
            ("create_model", {}, "no model called 'create_model'"),
            ("Unet", {"in_channels": 1}, "take in_channels out"),
            ("Unet", {"classes": 1}, "class count of 'smp:Unet' is 3"),
            ("Unet", {"encoder": "resnet18"}, "'smp:Unet' has no option encoder. It takes: encoder_name, "),
            ("Unet", {"encoder_name": "resnet81"}, "'smp:Unet' could not be built with .*Wrong encoder name"),
            ("Unet", {"encoder_depth": 9}, "could not be built with .*encoder_depth=9"),
        ],
    )
    def test_says_why_not(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            networks.build(f"smp:{name}", classes=3, options=options)

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
        with pytest.raises(MissingPackageError, match='pip install "segmentation-models-pytorch"'):
            networks.build("smp:Unet", classes=3)
