"""HED: torchvision's VGG-16 below, side scores and fusion by hand above."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.hed import Hed, hed
from tests.support.paper_nets import parameters

torch.set_num_threads(1)

READ = {"side1": "relu1_2", "side2": "relu2_2", "side3": "relu3_3", "side4": "relu4_3", "side5": "relu5_3"}
WIDTHS = (64, 128, 256, 512, 512)


def made(classes: int = 1) -> Hed:
    """With side scores that are not all 0, as they begin."""
    torch.manual_seed(0)
    model = hed(classes=classes)
    for name in model.sides:
        nn.init.normal_(model.get_parameter(f"{name}.weight"), std=0.05)
    nn.init.uniform_(model.fuse.weight)
    return model


def maps(model: nn.Module, x: Tensor, names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    handles = [model.get_submodule(n).register_forward_hook(lambda _, __, y, n=n: seen.update({n: y})) for n in names]
    out = model(x)
    for handle in handles:
        handle.remove()
    return out, seen


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.vgg16(weights=None).features


class TestTrunk:
    def test_parameters(self) -> None:
        """13 convolutions of VGG-16 (14,714,688, as torchvision has them), five 1x1 and the fusion of five."""
        with torch.device("meta"):
            assert parameters(torchvision.models.vgg16().features) == 14_714_688
            assert parameters(hed()) == 14_714_688 + sum(w + 1 for w in WIDTHS) + 5 + 1 == 14_716_171
            assert parameters(hed(classes=3)) == 14_714_688 + 3 * sum(w + 1 for w in WIDTHS) + 3 * (5 + 1)

    def test_is_vgg_16_up_to_the_last_relu(self, vgg: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def trained(**options: object) -> SimpleNamespace:
            asked.append(options)
            return SimpleNamespace(features=vgg)

        monkeypatch.setattr(torchvision.models, "vgg16", trained)
        model = hed(pretrained=True).eval()
        assert asked == [{"weights": "DEFAULT"}]
        x = torch.randn(1, 3, 32, 48)
        _, seen = maps(model, x, list(model.stages))
        for name, end in zip(model.stages, (4, 9, 16, 23, 30), strict=True):  # torchvision's features up to each ReLU
            assert torch.equal(seen[name], vgg[:end](x)), name  # type: ignore[index]

    def test_the_trained_one_needs_colours(self) -> None:
        with pytest.raises(ConfigError, match="VGG-16 reads 3 channels, the data has 1"):
            hed(in_channels=1, pretrained=True)

    def test_layers_by_name(self) -> None:
        with torch.device("meta"):
            model = hed()
        assert model.sides == tuple(READ)
        assert model.stages == tuple(READ.values())
        names = [name for name, _ in model.named_children()]
        assert [n for n in names if "_" not in n] == ["pool1", "pool2", "pool3", "pool4", *READ, "fuse"]
        assert sum(n.startswith("conv") for n in names) == sum(n.startswith("relu") for n in names) == 13


class TestScores:
    @pytest.mark.parametrize(("classes", "size"), [(1, (32, 48)), (1, (37, 50)), (3, (33, 16))])
    def test_are_sides_enlarged_and_fused(self, classes: int, size: tuple[int, int]) -> None:
        model = made(classes)
        x = torch.randn(2, 3, *size)
        out, seen = maps(model, x, [*READ, *READ.values()])
        assert out.shape == (2, classes, *size)
        enlarged = []
        for level, (side, layer) in enumerate(READ.items()):
            assert seen[side].shape == (2, classes, size[0] // 2**level, size[1] // 2**level)
            weight, bias = model.get_parameter(f"{side}.weight"), model.get_parameter(f"{side}.bias")
            assert torch.allclose(
                seen[side],
                torch.einsum("kc,nchw->nkhw", weight[:, :, 0, 0], seen[layer]) + bias[:, None, None],
                atol=1e-4,
            )
            enlarged.append(F.interpolate(seen[side], size, mode="bilinear", align_corners=False))
        for k in range(classes):  # each class from its own five scores
            fused = sum(model.fuse.weight[k, s, 0, 0] * enlarged[s][:, k] for s in range(5)) + model.fuse.bias[k]
            assert torch.allclose(out[:, k], fused, atol=1e-4)

    def test_begin_at_0_with_equal_weights(self) -> None:
        model = hed(classes=2)
        out, seen = maps(model, torch.randn(1, 3, 16, 16), list(READ))
        assert not out.any()
        assert not any(s.any() for s in seen.values())
        assert torch.equal(model.fuse.weight, torch.full((2, 5, 1, 1), 0.2))

    def test_equal_sides_are_passed_on(self) -> None:
        """Five weights of 0.2 average: where all sides say s, the fusion says s."""
        model = hed()
        for name in READ:
            nn.init.constant_(model.get_parameter(f"{name}.bias"), 1.5)
        assert torch.allclose(model(torch.randn(1, 3, 16, 16)), torch.full((1, 1, 16, 16), 1.5))


def enlarged(scores: Tensor, factor: int) -> Tensor:
    """A transposed convolution of stride `factor` with FCN's bilinear kernel, 2 factor wide, a place at a time."""
    side, (n, channels, h, w) = 2 * factor, scores.shape
    across = [1 - abs(i - (factor - 0.5)) / factor for i in range(side)]
    kernel = torch.tensor([[a * b for b in across] for a in across], dtype=scores.dtype)
    out = scores.new_zeros(n, channels, (h - 1) * factor + side, (w - 1) * factor + side)
    for i in range(h):
        for j in range(w):
            place = out[:, :, i * factor : i * factor + side, j * factor : j * factor + side]
            place += scores[:, :, i, j, None, None] * kernel
    return out


def offset(side: int) -> int:
    """Where Caffe's Crop begins: the coordinate of the image's origin in the enlarged map of a side output (1 to 5)."""
    shift = (3 - 1) / 2 - 35  # a place of conv1_1 sees the image from there
    for pool in range(side - 1):
        shift += 2**pool * (2 - 1) / 2
    factor = 2 ** (side - 1)
    shift -= (2 * factor - 1) / 2 if side > 1 else 0
    return round(-shift)


class TestReleased:
    """Against train_val.prototxt of s9xie/hed, its layers written one by one."""

    @pytest.mark.parametrize(("classes", "size"), [(1, (5, 7)), (1, (32, 17)), (2, (1, 18))])
    def test_is_the_prototxt_at_any_size(self, classes: int, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        model = hed(classes=classes, released=True).double()
        for name in READ:
            nn.init.normal_(model.get_parameter(f"{name}.weight"), std=0.05)
        nn.init.uniform_(model.fuse.weight)
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        x, cut = image, []
        for group, count in enumerate((2, 2, 3, 3, 3), 1):
            if group > 1:
                odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
                x = F.max_pool2d(F.pad(x, odd, value=-torch.inf), 2)  # Caffe counts up
            for place in range(1, count + 1):
                own = model.get_submodule(f"conv{group}_{place}")
                x = F.relu(F.conv2d(x, own.weight, own.bias, padding=35 if (group, place) == (1, 1) else 1))
            side = model.get_submodule(f"side{group}")
            scores = F.conv2d(x, side.weight, side.bias)
            scores = scores if group == 1 else enlarged(scores, 2 ** (group - 1))
            first = offset(group)
            cut.append(scores[:, :, first : first + size[0], first : first + size[1]])
        out, seen = maps(model, image, list(model.sides))
        for name, expected in zip(model.sides, cut, strict=True):
            assert seen[name].shape == (2, classes, *size)
            assert torch.allclose(seen[name], expected, rtol=1e-12, atol=1e-12), name
        for k in range(classes):
            fused = sum(model.fuse.weight[k, s, 0, 0] * cut[s][:, k] for s in range(5)) + model.fuse.bias[k]
            assert torch.allclose(out[:, k], fused, rtol=1e-12, atol=1e-12)

    def test_crops_begin_where_other_readers_of_the_release_found_them(self) -> None:
        assert [offset(side) for side in range(1, 6)] == [34, 35, 36, 38, 42]

    def test_has_the_same_weights(self) -> None:
        plain, released = made(), hed(released=True)
        released.load_state_dict(plain.state_dict(), strict=True)
        assert parameters(released) == 14_716_171
        assert torch.equal(copy.deepcopy(released)(torch.ones(1, 3, 9, 9)), released(torch.ones(1, 3, 9, 9)))

    def test_is_supervised_at_the_size_of_the_image(self) -> None:
        model, x = hed(released=True), torch.randn(1, 3, 9, 12)
        plan = ds.plan(model, x, method="hed-released")
        assert [(b.layer, b.head, tuple(b.feature.shape)) for b in plan.branches] == [
            (f"crop{n}", "identity", (1, 9, 12)) for n in range(1, 6)
        ]
        net, y = ds.attach(model, plan), torch.randint(0, 2, (1, 9, 12))
        terms = ds.Objective(plan)(net(x), y)
        beta = (y == 0).double().mean()
        one = -(beta * (y == 1) + (1 - beta) * (y == 0)).sum() * torch.tensor(0.5).log()  # every side says 0
        assert float(terms.total.detach()) == pytest.approx(6 * float(one), rel=1e-5)


class TestSupervised:
    def test_side_scores_are_the_outputs_of_the_branches(self) -> None:
        model, x = made(), torch.randn(1, 3, 32, 32)
        net = ds.attach(model, ds.plan(model, x, method="hed")).eval()
        plain, seen = maps(model, x, list(READ))
        with ds.supervising(net):
            out = net(x)
        assert list(out.aux) == list(READ)
        assert torch.equal(out.main, plain)
        assert all(torch.equal(out.aux[name], seen[name]) for name in READ)
        assert sum(p.numel() for p in net.parameters()) == parameters(ds.strip(net))  # the heads weigh nothing


class TestRunning:
    def test_every_gradient(self) -> None:
        model = made()
        model(torch.randn(1, 3, 32, 32)).square().mean().backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

    def test_from_the_start_within_two_steps(self) -> None:
        """The sides' zeros hold the trunk back for one step only: they themselves get gradients at once."""
        torch.manual_seed(0)
        model = hed()
        x, y = torch.randn(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x), y).backward()
            assert model.get_parameter("side5.weight").grad.abs().sum() > 0
            assert (model.get_parameter("conv1_1.weight").grad.abs().sum() > 0) == (step == 1)
            optimizer.step()

    def test_copies(self) -> None:
        model = made().eval()
        x = torch.randn(1, 3, 16, 20)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), model(x))
            assert other.sides == model.sides

    def test_channels_last_and_half_precision(self) -> None:
        model = made()
        x = torch.randn(1, 3, 32, 32)
        expected = model(x).detach()
        last = model.to(memory_format=torch.channels_last)
        assert torch.allclose(last(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4)
        half = model.bfloat16()
        scores = half(x.bfloat16())
        assert scores.dtype == torch.bfloat16
        assert torch.allclose(scores.float(), expected, atol=0.05 * expected.abs().max().item())

    def test_compiles_into_one_graph(self) -> None:
        model = made().eval()
        x = torch.randn(1, 3, 16, 17)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), model(x), atol=1e-5)

    def test_by_name(self) -> None:
        with torch.device("meta"):
            model = networks.build("deepsup:hed", classes=1, in_channels=1)
        assert isinstance(model, Hed)
        with pytest.raises(ConfigError, match="'deepsup:hed' has no option widths"):
            networks.build("deepsup:hed", classes=1, options={"widths": [4]})
        with pytest.raises(ConfigError, match="classes=0"):
            hed(classes=0)
