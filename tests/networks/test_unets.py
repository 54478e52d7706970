"""U-Nets: published counts, the definition written out in functions, a trusted library, and every option by itself."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError, DeepsupError
from deepsup.networks.gridding import GriddingWarning
from deepsup.networks.unets import UNet, unet
from tests.support.paper_nets import parameters
from tests.support.tiny_unets import BACKBONE, SMALL, VARIANTS, maps, small

torch.set_num_threads(1)


def on_meta(**options: Any) -> nn.Module:
    with torch.device("meta"):
        return unet(**options)


def doubled(x: Tensor, like: Tensor) -> Tensor:
    """Every value twice along both sides, then the last one again where that is too short."""
    rows = (torch.arange(like.shape[2]) // 2).clamp(max=x.shape[2] - 1)
    columns = (torch.arange(like.shape[3]) // 2).clamp(max=x.shape[3] - 1)
    return x[:, :, rows][:, :, :, columns]


def on_paper(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """The default U-Net of three levels in evaluation, written out."""

    def level(name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            x = F.conv2d(x, s[f"{name}.conv{i}.weight"], padding=1)
            n = {key: s[f"{name}.norm{i}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
            x = F.relu(F.batch_norm(x, n["running_mean"], n["running_var"], n["weight"], n["bias"]))
        return x

    one = level("down1", x)
    two = level("down2", F.max_pool2d(one, 2))
    y = level("bottom", F.max_pool2d(two, 2))
    y = level("up2.convs", torch.cat((doubled(y, two), two), 1))
    y = level("up1.convs", torch.cat((doubled(y, one), one), 1))
    return F.conv2d(y, s["score.weight"], s["score.bias"])


class TestPublished:
    def test_orobix(self) -> None:
        """retina-unet's get_unet on one channel, convolution by convolution: inputs * outputs * 9 + outputs."""
        model = on_meta(classes=2, in_channels=1, norm=None)
        pairs = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]  # down
        pairs += [(128 + 64, 64), (64, 64), (64 + 32, 32), (32, 32)]  # up
        assert parameters(model) == sum(i * o * 9 + o for i, o in pairs) + 32 * 2 + 2 == 471_010
        found = [(m.in_channels, m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert found == [*pairs, (32, 2)]
        level = model.get_submodule("up1.convs")
        assert [type(m) for m in level.children()] == [nn.Conv2d, nn.ReLU, nn.Dropout, nn.Conv2d, nn.ReLU]
        assert level.get_submodule("dropout1").p == 0.2
        assert isinstance(model.get_submodule("score"), nn.Conv2d)  # and no ReLU behind it
        assert list(dict(model.named_children()))[-1] == "score"

    @pytest.mark.parametrize(("width", "expected"), [(32, 7_759_521), (35, 9_282_246)])
    def test_the_two_baselines_of_unetpp(self, width: int, expected: int) -> None:
        """ "Total params" in the U-Net++ authors' Keras code, of U-Net and of the wide U-Net."""
        widths = tuple(width * 2**i for i in range(5))
        model = on_meta(classes=1, in_channels=1, widths=widths, norm=None, upsample="transpose")
        assert parameters(model) == expected

    def test_resnet34_has_the_shapes_of_the_walk_through(self) -> None:
        model = on_meta(classes=2, encoder="resnet34").eval()
        found = [tuple(m.shape[1:]) for m in maps(model, torch.empty(1, 3, 224, 224, device="meta"), model.stages)]
        assert model.stages == tuple(f"encoder.{name}" for name in ("act1", "layer1", "layer2", "layer3", "layer4"))
        assert found == [(64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
        assert [len(model.get_submodule(f"encoder.layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]


class TestDefinition:
    @pytest.mark.parametrize("size", [(16, 16), (13, 22), (7, 9)])
    def test_is_that_written_out(self, size: tuple[int, int]) -> None:
        model = small("default").eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                    tensor.uniform_(0.5, 1.5)
        x = torch.randn(2, 3, *size)
        assert torch.allclose(model(x), on_paper(model.state_dict(), x), atol=1e-5)

    def test_with_a_backbone_is_that_of_segmentation_models_pytorch(self) -> None:
        widths = (4, 4, 8, 8, 16)
        torch.manual_seed(0)
        ours = unet(classes=2, encoder="timm:resnet18", widths=widths, dropout=0.0).eval()
        theirs = smp.Unet("resnet18", encoder_weights=None, decoder_channels=widths[::-1], classes=2).eval()
        theirs.encoder.load_state_dict(ours.encoder.state_dict())
        for level, block in zip(ours.levels, theirs.decoder.blocks, strict=True):
            convs = ours.get_submodule(f"{level}.convs")
            for i, conv in ((1, block.conv1), (2, block.conv2)):
                conv[0].load_state_dict(convs.get_submodule(f"conv{i}").state_dict())
                conv[1].load_state_dict(convs.get_submodule(f"norm{i}").state_dict())
        x = torch.randn(1, 3, 64, 96)
        decoded = theirs.decoder(theirs.encoder(x))
        assert torch.allclose(maps(ours, x, ("up1",))[0], decoded, atol=1e-5)
        assert torch.equal(ours(x), ours.score(maps(ours, x, ("up1",))[0]))

    def test_layers_by_name(self) -> None:
        model = small("default")
        names = ["down1", "pool1", "down2", "pool2", "bottom", "up2", "up1", "score"]
        assert [name for name, _ in model.named_children()] == names
        assert model.stages == ("down1", "down2", "bottom")
        assert model.levels == ("up2", "up1")
        x = torch.randn(1, 3, 16, 24)
        shapes = [tuple(m.shape[1:]) for m in maps(model, x, (*model.stages, *model.levels))]
        assert shapes == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (8, 8, 12), (4, 16, 24)]
        backbone = small("backbone")
        assert backbone.levels == ("up5", "up4", "up3", "up2", "up1")
        sides = [m.shape[-1] for m in maps(backbone, torch.randn(2, 3, 64, 64), (*backbone.stages, *backbone.levels))]
        assert sides == [32, 16, 8, 4, 2, 4, 8, 16, 32, 64]

    def test_the_last_level_is_what_the_score_reads(self) -> None:
        for variant in ("default", "backbone"):
            model = small(variant).eval()
            x = torch.randn(1, 3, 32, 32)
            assert torch.equal(model(x), model.score(maps(model, x, model.levels[-1:])[0]))


@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryVariant:
    def test_any_size_and_every_gradient(self, variant: str) -> None:
        model = small(variant)
        for size in [(32, 32), (37, 51)]:
            assert model(torch.randn(2, 3, *size)).shape == (2, 2, *size)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.ones_(
                    layer.weight
                )  # timm begins the last of each block with 0, which stops gradients for a step
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

    def test_copies(self, variant: str) -> None:
        model = small(variant).eval()
        x = torch.randn(1, 3, 32, 40)
        expected = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
            assert (other.stages, other.levels) == (model.stages, model.levels)


@pytest.mark.parametrize("variant", ["default", "prelu", "rrelu", "transpose", "bilinear", "backbone"])
class TestRunning:
    def test_compiles_into_one_graph(self, variant: str) -> None:
        model = small(variant).eval()
        x = torch.randn(2, 3, 33, 32)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), model(x), atol=1e-6)

    def test_channels_last_and_half_precision(self, variant: str) -> None:
        model = small(variant).eval()
        x = torch.randn(2, 3, 32, 32)
        expected = model(x)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.allclose(last(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)
        half = copy.deepcopy(model).bfloat16().train()
        scores = half(x.bfloat16())
        assert scores.dtype == torch.bfloat16
        scores.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())


class TestDilations:
    def test_one_row_is_for_every_level(self) -> None:
        model = small("dilated")
        for name in ("down1", "down2", "bottom", "up2.convs", "up1.convs"):
            level = model.get_submodule(name)
            assert [level.get_submodule(f"conv{i}").dilation for i in (1, 2, 3)] == [(1, 1), (2, 2), (3, 3)]
            assert [n for n, _ in level.named_children() if "dropout" in n] == ["dropout1", "dropout2"]

    def test_a_row_a_level(self) -> None:
        model = small("default", dilations=[[1, 1], [1, 2], [1, 3]])
        rates = {n: model.get_submodule(f"{n}.conv2").dilation[0] for n in ("down1", "down2", "bottom")}
        assert rates == {"down1": 1, "down2": 2, "bottom": 3}
        assert model.up2.convs.conv2.dilation[0] == 2
        assert model.up1.convs.conv2.dilation[0] == 1

    def test_gridding_is_told_once_with_better_rates(self) -> None:
        with pytest.warns(GriddingWarning, match=r"sees 49 of the 169 pixels \(29%\).*Rates \(1, 2, 3\)") as caught:
            unet(**SMALL, convs=3, dilations=(2, 2, 2))
        assert len(caught) == 1
        assert caught[0].filename == __file__  # where the network was asked for
        with pytest.warns(GriddingWarning, match=r"Rates \(1, 3\)"):
            unet(**(SMALL | VARIANTS["backbone"]), dilations=((1, 1), (1, 1), (1, 1), (1, 1), (2, 2)))

    def test_what_the_warning_says_is_what_the_level_does(self) -> None:
        """The gradient of one value of a level of ones reaches 49 of its 13x13 pixels, or all."""
        for rates, reached in (((2, 2, 2), 49), ((1, 2, 3), 169)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GriddingWarning)
                level = unet(
                    classes=1, in_channels=1, widths=(1, 1), convs=3, norm=None, dropout=0, dilations=rates
                ).down1
            for conv in level.children():
                if isinstance(conv, nn.Conv2d):
                    nn.init.ones_(conv.weight)
            x = torch.ones(1, 1, 31, 31, requires_grad=True)
            level(x)[0, 0, 15, 15].backward()
            assert x.grad is not None
            assert int((x.grad != 0).sum()) == reached


class TestSupervised:
    @pytest.mark.parametrize(
        ("method", "levels"), [("monai", ["up3", "up2"]), ("nnunet", ["up2"]), ("aux", ["bottom", "up1"])]
    )
    def test_at_the_levels_of_the_decoder(self, method: str, levels: list[str]) -> None:
        model, x = unet(classes=2, widths=(4, 8, 8, 8)), torch.randn(2, 3, 24, 40)
        plan = ds.plan(model, x, method=method, at=levels if method == "aux" else None)
        net = ds.attach(model, plan)
        out = net(x)
        assert set(out.aux) == set(levels)
        assert all(out.aux[n].shape == (2, 2, *maps(model, x, (n,))[0].shape[2:]) for n in levels)
        ds.Objective(plan)(out, torch.randint(0, 2, (2, 24, 40))).total.backward()
        assert all(p.grad is not None for p in net.parameters())
        assert ds.strip(net) is model


class TestSaysWhyNot:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm": "layer"}, "no norm 'layer'. There are: batch, group, instance, or None"),
            ({"upsample": "bicubic"}, "no upsample 'bicubic'. There are: nearest, bilinear, transpose"),
            ({"dropout": 1.0}, "dropout=1.0 must be"),
            ({"convs": 0}, "convs=0 must be"),
            ({"classes": 0}, "classes=0 must be"),
            ({"widths": (32,)}, r"widths=\(32,\) must name the channels of 2 to 10 levels"),
            ({"widths": 32}, "widths=32 must name"),
            ({"widths": (32, 0)}, "width 2=0 must be"),
            ({"dilations": (1, 2, 3)}, r"must be 2 rates, one a convolution \(convs=2\), or 3 rows"),
            ({"dilations": ((1, 1), (1, 1))}, "or 3 rows"),
            ({"dilations": 2}, "dilations=2 must be"),
            ({"dilations": ((1, 1), 2)}, r"dilation rate 1=\(1, 1\) must be"),
            ({"dilations": (1, 0)}, "dilation rate 2=0 must be"),
            ({"pretrained": True}, "the plain encoder has no trained weights"),
            ({"encoder": "resnet"}, "'resnet'"),
            ({"encoder": "timm:no_such_net"}, "no_such_net"),
            ({"encoder": BACKBONE}, r"has 5 levels to come back from; widths=\(4, 8, 16\) names 3"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(DeepsupError, match=message):
            unet(**{**SMALL, **options})

    def test_by_name(self) -> None:
        model = networks.build("deepsup:unet", classes=1, in_channels=1, size=48, options={"widths": [4, 8]})
        assert isinstance(model, UNet)
        assert model(torch.randn(2, 1, 48, 48)).shape == (2, 1, 48, 48)
        with pytest.raises(ConfigError, match=r"'deepsup:unet' has no option depth\. It takes: widths, convs"):
            networks.build("deepsup:unet", classes=1, options={"depth": 3})
