"""U-Net++: the authors' counts, the definition written out, and what an early exit leaves out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.nested import UNetPlusPlus, unetpp
from deepsup.networks.unets import unet
from tests.support.paper_nets import parameters

torch.set_num_threads(1)

WIDTHS = (4, 6, 8, 10, 12)
ORDER = ["x00", "x10", "x01", "x20", "x11", "x02", "x30", "x21", "x12", "x03", "x40", "x31", "x22", "x13", "x04"]
# what each node of the top row needs, by X^{i,j} <- X^{i,k<j}, X^{i+1,j-1} and X^{i,0} <- X^{i-1,0}
NEEDED = {"x01": ORDER[:3], "x02": ORDER[:6], "x03": ORDER[:10], "x04": ORDER}


def small(**options: Any) -> UNetPlusPlus:
    torch.manual_seed(0)
    return unetpp(**{"classes": 2, "widths": WIDTHS, **options})


def calls(model: nn.Module, x: Tensor) -> list[str]:
    """The nodes in the order in which they ran."""
    seen: list[str] = []
    handles = [model.get_submodule(n).register_forward_hook(lambda *_, n=n: seen.append(n)) for n in ORDER]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


def on_paper(s: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Every node in evaluation, by the recursion of the paper's equation 1, the other way round: from the top."""
    nodes: dict[str, Tensor] = {}

    def block(name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            n = {key: s[f"{name}.norm{i}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
            x = F.conv2d(x, s[f"{name}.conv{i}.weight"], padding=1)
            x = F.relu(F.batch_norm(x, n["running_mean"], n["running_var"], n["weight"], n["bias"]))
        return x

    def node(i: int, j: int) -> Tensor:
        name = f"x{i}{j}"
        if name in nodes:
            return nodes[name]
        if j == 0:
            nodes[name] = block(name, F.max_pool2d(node(i - 1, 0), 2) if i else x)
        else:
            beside = torch.cat([node(i, k) for k in range(j)], 1)
            below = F.interpolate(node(i + 1, j - 1), scale_factor=2, mode="bilinear")
            h, w = beside.shape[2:]
            rows, columns = torch.arange(h).clamp(max=below.shape[2] - 1), torch.arange(w).clamp(max=below.shape[3] - 1)
            nodes[name] = block(f"{name}.convs", torch.cat((below[:, :, rows][:, :, :, columns], beside), 1))
        return nodes[name]

    node(0, 4)
    return nodes


class TestPublished:
    def test_parameters_of_the_authors(self) -> None:
        """ "Total params: 9,041,601" in their Keras code: one channel, one class, transposed convolutions, biases."""
        with torch.device("meta"):
            model = unetpp(classes=1, in_channels=1, norm=None, upsample="transpose")
        assert parameters(model) == 9_041_601

    def test_parameters_by_arithmetic(self) -> None:
        """Two 3x3 convolutions and two normalisations a node; node (i, j) reads j maps of its level and one from below."""
        total = WIDTHS[0] * 2 + 2
        for i, width in enumerate(WIDTHS):
            for j in range(len(WIDTHS) - i):
                before = (WIDTHS[i - 1] if i else 3) if j == 0 else j * width + WIDTHS[i + 1]
                total += before * width * 9 + width * width * 9 + 4 * width
        assert parameters(small()) == total

    def test_two_levels_are_a_unet(self) -> None:
        nested, plain = unetpp(classes=2, widths=(4, 8)), unet(classes=2, widths=(4, 8), upsample="bilinear")
        names = {"down1": "x00", "bottom": "x10", "up1": "x01", "score": "score"}
        for theirs, ours in names.items():
            nested.get_submodule(ours).load_state_dict(plain.get_submodule(theirs).state_dict())
        x = torch.randn(1, 3, 9, 12)
        assert torch.equal(nested.eval()(x), plain.eval()(x))


class TestDefinition:
    @pytest.mark.parametrize("size", [(32, 16), (21, 35)])
    def test_is_that_written_out(self, size: tuple[int, int]) -> None:
        model = small().eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                    tensor.uniform_(0.5, 1.5)
        seen: dict[str, Tensor] = {}
        for name in ORDER:
            model.get_submodule(name).register_forward_hook(lambda _, __, y, n=name: seen.update({n: y}))
        x = torch.randn(2, 3, *size)
        scores = model(x)
        expected = on_paper(model.state_dict(), x)
        assert set(seen) == set(expected)
        for name, y in expected.items():
            assert torch.allclose(seen[name], y, rtol=1e-4, atol=1e-4), name
        assert torch.equal(scores, model.score(seen["x04"]))

    def test_layers_by_name(self) -> None:
        model = small()
        assert model.levels == ("x01", "x02", "x03", "x04")
        assert model.stages == ("x00", "x10", "x20", "x30", "x40")
        assert [n for n, _ in model.named_children() if n[0] == "x"] == ORDER
        assert {n for n, _ in model.named_children()} - set(ORDER) == {"pool1", "pool2", "pool3", "pool4", "score"}

    def test_nodes_run_by_diagonals(self) -> None:
        assert calls(small().eval(), torch.randn(1, 3, 16, 16)) == ORDER

    @pytest.mark.parametrize("level", NEEDED)
    def test_a_level_needs_just_what_runs_before_it(self, level: str) -> None:
        """By gradients: what came before reaches it, so stopping there computes no node in vain and misses none."""
        model = small().eval()
        kept: dict[str, Tensor] = {}
        handle = model.get_submodule(level).register_forward_hook(lambda _, __, y: kept.update(y=y))
        model(torch.randn(1, 3, 32, 32))
        handle.remove()
        kept["y"].sum().backward()
        reached = [n for n in ORDER if any(p.grad is not None for p in model.get_submodule(n).parameters())]
        assert reached == NEEDED[level]


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "authors": {"norm": None, "upsample": "transpose", "dropout": 0.5},
    "nearest": {"upsample": "nearest"},
    "prelu": {"activation": "prelu", "convs": 1},
    "instance": {"norm": "instance", "activation": "leaky_relu(slope=0.01)"},
}


@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryVariant:
    def test_any_size_and_every_gradient(self, variant: str) -> None:
        model = small(**VARIANTS[variant])
        for size in [(32, 32), (33, 50)]:
            assert model(torch.randn(2, 3, *size)).shape == (2, 2, *size)
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

    def test_copies(self, variant: str) -> None:
        model = small(**VARIANTS[variant]).eval()
        x = torch.randn(1, 3, 32, 24)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), model(x))
            assert other.levels == model.levels

    def test_channels_last_and_half_precision(self, variant: str) -> None:
        model = small(**VARIANTS[variant]).eval()
        x = torch.randn(2, 3, 32, 32)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.allclose(last(x.contiguous(memory_format=torch.channels_last)), model(x), atol=1e-5)
        half = copy.deepcopy(model).bfloat16().train()
        half(x.bfloat16()).float().square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())


class TestSupervised:
    """Method `unetpp`: 1x1 convolutions at the nodes, of which the paper keeps one ("fast") or all ("accurate")."""

    @pytest.mark.parametrize("level", ["x01", "x02", "x03"])
    def test_an_early_exit_runs_the_smaller_network_alone(self, level: str) -> None:
        model, x = small(), torch.randn(2, 3, 32, 32)
        net = ds.attach(model, ds.plan(model, x, method="unetpp")).eval()
        ran: list[str] = []
        for name, layer in model.named_children():
            layer.register_forward_pre_hook(lambda *_, n=name: ran.append(n))
        scores = ds.early_exit(net, level)(x)
        assert [n for n in ran if n in ORDER] == NEEDED[level]
        assert sum(n.startswith("pool") for n in ran) == int(level[-1])
        with ds.supervising(net):
            assert torch.equal(scores, net(x).aux[level])

    def test_the_ensemble_is_the_mean_over_the_top_row(self) -> None:
        model, x = small(), torch.randn(2, 3, 32, 32)
        net = ds.attach(model, ds.plan(model, x, method="unetpp")).eval()
        with ds.supervising(net):
            out = net(x)
        assert set(out.aux) == {"x01", "x02", "x03"}
        expected = torch.stack([y.softmax(1) for y in (out.main, *out.aux.values())]).mean(0)
        assert torch.allclose(ds.ensemble(net)(x), expected, atol=1e-6)


class TestUse:
    def test_compiles_into_one_graph(self) -> None:
        model = small(widths=WIDTHS[:3]).eval()
        x = torch.randn(2, 3, 17, 16)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), model(x), atol=1e-6)

    def test_by_name(self) -> None:
        options = {"widths": [2, 4, 6], "upsample": "nearest"}
        model = networks.build("deepsup:unetpp", classes=3, in_channels=1, options=options)
        assert isinstance(model, UNetPlusPlus)
        assert model.levels == ("x01", "x02")
        assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3, 8, 8)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"widths": (4,)}, "channels of 2 to 10 levels"),
            ({"widths": (1,) * 11}, "channels of 2 to 10 levels"),
            ({"norm": "none"}, "no norm 'none'"),
            ({"convs": 0}, "convs=0"),
            ({"activation": "elu"}, "no activation is called 'elu'"),
        ],
    )
    def test_says_why_not(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            small(**options)
