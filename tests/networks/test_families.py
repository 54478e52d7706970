"""The articles' networks: published parameter counts and shapes, and each against its paper written out in functions."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads, networks
from deepsup.errors import ConfigError
from deepsup.features import Feature
from deepsup.networks.cndsnets import BRANCH_LAYERS
from deepsup.networks.families import build_own, listed
from deepsup.networks.resnets import SHORTCUTS, BasicBlock
from tests.support.small_nets import unsettled

torch.set_num_threads(1)

Net = Callable[[dict[str, Tensor], Tensor], Tensor]

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
# one small member of every family, in every form that changes its layers
SMALL: dict[str, dict[str, Any]] = {
    "resnet-8": {},
    "resnet-14": {"shortcut": "pool"},
    "resnet-20": {"shortcut": "project"},
    "wrn-16-2": {},
    "densenet-10-4": {},
    "densenet-bc-16-4": {},
    "mobilenet-v1": {"width": 0.25},
    "mobilenet-v2": {"width": 0.35},
    "nin": {},
}
COUNTED = {nn.Conv2d, nn.Linear}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(spec: str, *, classes: int = 10, **more: Any) -> nn.Module:
    with torch.device("meta"):
        return networks.build(spec, classes=classes, **more)


def shapes(model: nn.Module, names: list[str], size: int, channels: int = 3) -> list[tuple[int, ...]]:
    """(C, H, W) or (C,) that each named layer gives out for one image."""
    seen: dict[str, tuple[int, ...]] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, n=name: seen.update({n: tuple(out.shape[1:])})
        )
        for name in names
    ]
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size, device=device))
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    column = (slice(None), None, None)
    return (x - mean[column]) / torch.sqrt(var[column] + 1e-5) * weight[column] + bias[column]


def score(state: dict[str, Tensor], x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def resnet_on_paper(n: int, shortcut: str) -> Net:
    def run(s: dict[str, Tensor], x: Tensor) -> Tensor:
        x = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
        for stage in (1, 2, 3):
            for i in range(n):
                b = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                y = F.relu(norm(s, f"{b}.bn1", F.conv2d(x, s[f"{b}.conv1.weight"], stride=stride, padding=1)))
                y = norm(s, f"{b}.bn2", F.conv2d(y, s[f"{b}.conv2.weight"], padding=1))
                if stride == 2 and shortcut == "project":
                    x = norm(s, f"{b}.shortcut.bn", F.conv2d(x, s[f"{b}.shortcut.conv.weight"], stride=2))
                elif stride == 2:
                    kept = x[:, :, ::2, ::2]
                    if shortcut == "pool":
                        kept = (kept + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
                    x = torch.cat((kept, torch.zeros_like(kept)), 1)  # each stage is twice as wide as the one before
                x = F.relu(x + y)
        return score(s, x)

    return run


def wrn_on_paper(n: int) -> Net:
    def run(s: dict[str, Tensor], x: Tensor) -> Tensor:
        x = F.conv2d(x, s["conv1.weight"], padding=1)
        for stage in (1, 2, 3):
            for i in range(n):
                b = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                active = F.relu(norm(s, f"{b}.bn1", x))
                y = F.relu(norm(s, f"{b}.bn2", F.conv2d(active, s[f"{b}.conv1.weight"], stride=stride, padding=1)))
                y = F.conv2d(y, s[f"{b}.conv2.weight"], padding=1)
                x = y + (F.conv2d(active, s[f"{b}.shortcut.weight"], stride=stride) if i == 0 else x)
        return score(s, F.relu(norm(s, "bn1", x)))

    return run


def densenet_on_paper(n: int, *, bottleneck: bool) -> Net:
    def run(s: dict[str, Tensor], x: Tensor) -> Tensor:
        x = F.conv2d(x, s["conv1.weight"], padding=1)
        for block in (1, 2, 3):
            for i in range(n):
                b = f"layer{block}.{i}.new"
                y = F.conv2d(F.relu(norm(s, f"{b}.bn1", x)), s[f"{b}.conv1.weight"], padding=0 if bottleneck else 1)
                if bottleneck:
                    y = F.conv2d(F.relu(norm(s, f"{b}.bn2", y)), s[f"{b}.conv2.weight"], padding=1)
                x = torch.cat((x, y), 1)
            if block < 3:
                y = F.conv2d(F.relu(norm(s, f"transition{block}.bn1", x)), s[f"transition{block}.conv1.weight"])
                x = (y[:, :, ::2, ::2] + y[:, :, 1::2, ::2] + y[:, :, ::2, 1::2] + y[:, :, 1::2, 1::2]) / 4
        return score(s, F.relu(norm(s, "bn1", x)))

    return run


def mobilenet_v1_on_paper(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """Table 1 of Howard et al. 2017, row by row, but for the first stride."""
    x = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
    strides = {1: [1], 2: [2, 1], 3: [2, 1], 4: [2, 1, 1, 1, 1, 1], 5: [2, 1]}
    for stage, blocks in strides.items():
        for i, stride in enumerate(blocks):
            b, groups = f"layer{stage}.{i}", x.shape[1]
            y = F.conv2d(x, s[f"{b}.conv1.weight"], stride=stride, padding=1, groups=groups)
            x = F.relu(norm(s, f"{b}.bn2", F.conv2d(F.relu(norm(s, f"{b}.bn1", y)), s[f"{b}.conv2.weight"])))
    return score(s, x)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    exact, printed = PUBLISHED[name]
    found = parameters(on_meta(f"deepsup:{name}"))
    assert found == exact
    assert f"{found / 1e6:.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize(
    ("spec", "options", "paper"),
    [
        ("resnet-8", {}, resnet_on_paper(1, "subsample")),
        ("resnet-14", {}, resnet_on_paper(2, "subsample")),
        ("resnet-14", {"shortcut": "pool"}, resnet_on_paper(2, "pool")),
        ("resnet-14", {"shortcut": "project"}, resnet_on_paper(2, "project")),
        ("wrn-10-2", {}, wrn_on_paper(1)),
        ("wrn-16-2", {"dropout": 0.3}, wrn_on_paper(2)),
        ("densenet-10-4", {}, densenet_on_paper(2, bottleneck=False)),
        ("densenet-bc-16-4", {"dropout": 0.2}, densenet_on_paper(2, bottleneck=True)),
        ("mobilenet-v1", {"width": 0.25}, mobilenet_v1_on_paper),
    ],
)
def test_computes_what_the_paper_says(spec: str, options: dict[str, Any], paper: Net) -> None:
    torch.manual_seed(0)
    model = unsettled(networks.build(f"deepsup:{spec}", classes=7, in_channels=2, options=options)).double()
    x = torch.randn(3, 2, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), paper(model.state_dict(), x), rtol=1e-9, atol=1e-12)


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

    @pytest.mark.parametrize("spec", [s for s in SMALL if s != "nin"])
    def test_convolutions_begin_as_he_et_al_draw_them(self, spec: str) -> None:
        torch.manual_seed(0)
        model = networks.build(f"deepsup:{spec}", classes=5, options=SMALL[spec])
        drawn = []
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is None
                fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
                drawn.append(layer.weight.detach().flatten() / math.sqrt(2 / fan_out))
            elif isinstance(layer, nn.BatchNorm2d):
                assert bool((layer.weight == 1).all())
                assert not layer.bias.any()
        values = torch.cat(drawn)
        assert abs(values.std().item() - 1) < 4 / math.sqrt(2 * len(values))
        assert abs(values.mean().item()) < 4 / math.sqrt(len(values))
        assert values.abs().max() > 2.9  # a normal, not a uniform one

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


class TestShortcuts:
    @pytest.mark.parametrize("shortcut", SHORTCUTS)
    @pytest.mark.parametrize("size", [28, 9, 1])
    def test_any_size(self, shortcut: str, size: int) -> None:
        model = networks.resnet(8, classes=4, in_channels=1, shortcut=shortcut)
        assert model.eval()(torch.randn(2, 1, size, size)).shape == (2, 4)

    @pytest.mark.parametrize("shortcut", ["subsample", "pool"])
    def test_a_rebuilt_block_still_fits(self, shortcut: str) -> None:
        block = BasicBlock(16, 32, stride=2, shortcut=shortcut).eval()
        block.conv1, block.bn1 = nn.Conv2d(16, 80, 3, stride=2, padding=1), nn.BatchNorm2d(80).eval()
        block.conv2, block.bn2 = nn.Conv2d(80, 80, 3, padding=1), nn.BatchNorm2d(80).eval()
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        x = torch.rand(2, 16, 6, 6)
        out = block(x)
        expected = x[:, :, ::2, ::2] if shortcut == "subsample" else F.avg_pool2d(x, 2)
        assert torch.equal(out[:, :16], expected)
        assert out.shape == (2, 80, 3, 3)
        assert not out[:, 16:].any()

    def test_zeros_cost_nothing_and_projections_do(self) -> None:
        plain = parameters(networks.resnet(8, classes=10))
        assert parameters(networks.resnet(8, classes=10, shortcut="pool")) == plain
        extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        assert parameters(networks.resnet(8, classes=10, shortcut="project")) == plain + extra


class TestDropout:
    def test_wrn_drops_between_the_convolutions(self) -> None:
        model = networks.wrn(16, 1, classes=3, dropout=0.3)
        drops = [name for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)]
        assert drops == [f"layer{s}.{b}.dropout" for s in (1, 2, 3) for b in (0, 1)]
        assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.3}
        block = list(model.get_submodule("layer1.0")._modules)
        assert block.index("relu2") < block.index("dropout") < block.index("conv2")

    @pytest.mark.parametrize("spec", ["densenet-10-4", "densenet-bc-16-4"])
    def test_densenet_drops_after_every_convolution_but_the_first(self, spec: str) -> None:
        model = networks.build(f"deepsup:{spec}", classes=3, options={"dropout": 0.2})
        order = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Dropout))]
        kinds = "".join("c" if isinstance(layer, nn.Conv2d) else "d" for layer in order)
        assert kinds == "c" + "cd" * ((len(kinds) - 1) // 2)

    def test_none_unless_asked(self) -> None:
        for spec in ("wrn-16-2", "densenet-10-4", "densenet-bc-16-4", "resnet-8"):
            model = networks.build(f"deepsup:{spec}", classes=3)
            assert not any(isinstance(layer, nn.Dropout) for layer in model.modules())


class TestMobileNetV2:
    @pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
    def test_as_many_parameters_as_torchvision_has(self, width: float) -> None:
        with torch.device("meta"):
            theirs = torchvision.models.mobilenet_v2(num_classes=100, width_mult=width)
        ours = on_meta("deepsup:mobilenet-v2", classes=100, options={"width": width})
        assert parameters(ours) == parameters(theirs)
        assert width != 1 or parameters(ours) == 2_351_972

    def test_computes_what_torchvision_does_with_two_strides_changed(self) -> None:
        torch.manual_seed(0)
        theirs = torchvision.models.mobilenet_v2(num_classes=6, width_mult=0.5)
        for name in ("features.0.0", "features.2.conv.1.0"):
            convolution = theirs.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.stride == (2, 2)
            convolution.stride = (1, 1)
        ours = networks.mobilenet_v2(classes=6, width=0.5)
        unsettled(theirs)
        state = theirs.state_dict()
        ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
        x = 30 * torch.randn(2, 3, 20, 20, dtype=torch.float64)  # large enough for a ReLU6 to cut
        torch.testing.assert_close(ours.double().eval()(x), theirs.double()(x), rtol=1e-9, atol=1e-12)


class TestNin:
    def test_parameters_layer_by_layer(self) -> None:
        expected = [
            (3 * 25 + 1) * 192,
            (192 + 1) * 160,
            (160 + 1) * 96,
            (96 * 25 + 1) * 192,
            (192 + 1) * 192,
            (192 + 1) * 192,
            (192 * 9 + 1) * 192,
            (192 + 1) * 192,
            (192 + 1) * 10,
        ]
        model = networks.nin(classes=10)
        assert [parameters(layer) for layer in model if isinstance(layer, nn.Conv2d)] == expected
        assert parameters(model) == sum(expected) == 966_986

    def test_layers_of_the_release_in_order(self) -> None:
        released = (
            "conv1 relu1 cccp1 relu_cccp1 cccp2 relu_cccp2 pool1 drop1 "
            "conv2 relu2 cccp3 relu_cccp3 cccp4 relu_cccp4 pool2 drop2 "
            "conv3 relu3 cccp5 relu_cccp5 cccp6 pool3 flatten"
        )
        assert list(networks.nin(classes=10)._modules) == released.split()

    @pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (28, (28, 14, 7)), (4, (4, 2, 1))])
    def test_taps(self, size: int, sides: tuple[int, ...]) -> None:
        model = networks.nin(classes=10, in_channels=1)
        names = ["conv1", "conv2", "conv3"]
        assert shapes(model, names, size, channels=1) == [(192, side, side) for side in sides]
        assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)

    @pytest.mark.parametrize(("side", "expected"), [(32, 1_966_090), (16, 491_530), (8, 122_890)])
    def test_companion_classifiers_of_dsn(self, side: int, expected: int) -> None:
        with torch.device("meta"):
            head = heads.linear(Feature((192, side, side), "NCHW"), 10)
        assert parameters(head) == expected

    def test_taps_lie_before_the_relu(self) -> None:
        model = networks.nin(classes=10).eval()
        seen: list[Tensor] = []
        model.get_submodule("conv1").register_forward_hook(lambda *found: seen.append(found[2]))
        model(torch.randn(1, 3, 8, 8))
        assert seen[0].min() < 0  # still, after all that followed

    def test_begins_as_released(self) -> None:
        torch.manual_seed(0)
        for layer in networks.nin(classes=10):
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                assert not layer.bias.any()
                assert abs(layer.weight.std().item() / 0.05 - 1) < 4 / math.sqrt(2 * layer.weight.numel())


class TestCnds:
    CONVOLUTIONS_8 = (
        ("conv1", 64, 7, 2),
        ("conv2", 128, 3, 1),
        ("conv3_1", 256, 3, 1),
        ("conv3_2", 256, 3, 1),
        ("conv4_1", 512, 3, 1),
        ("conv4_2", 512, 3, 1),
        ("conv5_1", 512, 3, 1),
        ("conv5_2", 512, 3, 1),
    )

    def test_convolutions_of_the_release(self) -> None:
        model = on_meta("deepsup:cnds-8", classes=205)
        found = [(n, m) for n, m in model.named_children() if isinstance(m, nn.Conv2d)]
        assert tuple((n, m.out_channels, m.kernel_size[0], m.stride[0]) for n, m in found) == self.CONVOLUTIONS_8
        assert {m.padding for _, m in found} == {(1, 1)}
        assert parameters(model) == 60_407_885

    @pytest.mark.parametrize(("size", "first"), [(227, 112), (224, 110)])
    def test_sizes_round_up_as_caffe_does(self, size: int, first: int) -> None:
        model = on_meta("deepsup:cnds-8", size=size)
        names = ["conv1", "pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc8"]
        pooled = -(-(first - 3) // 2) + 1
        sides = [first, pooled, 28, 14, 7, 4]
        widths = [64, 64, 128, 256, 512, 512]
        expected = [(width, side, side) for width, side in zip(widths, sides, strict=True)]
        assert shapes(model, names, size) == [*expected, (4096,), (10,)]

    @pytest.mark.parametrize(("convolutions", "numbers"), [(8, [4]), (13, [4, 7, 10])])
    def test_branches_follow_the_convolutions_of_the_paper(self, convolutions: int, numbers: list[int]) -> None:
        order = list(on_meta(f"deepsup:cnds-{convolutions}")._modules)
        convs = [name for name in order if name.startswith("conv")]
        assert len(convs) == convolutions
        for layer, number in zip(BRANCH_LAYERS[convolutions], numbers, strict=True):
            place = order.index(layer)
            assert order[place - 1] == convs[number - 1]
            assert order[place + 1].startswith("pool")

    @pytest.mark.parametrize("spec", ["cnds-8", "cnds-13"])
    @pytest.mark.parametrize("size", [8, 28, 32, 64])
    def test_smaller_images(self, spec: str, size: int) -> None:
        model = on_meta(f"deepsup:{spec}", in_channels=1, size=size)
        assert shapes(model, ["fc8"], size, channels=1) == [(10,)]

    def test_begins_as_released(self) -> None:
        torch.manual_seed(0)
        model = networks.cnds_net(8, classes=10, size=32)
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                assert abs(layer.weight.std().item() / 0.01 - 1) < 4 / math.sqrt(2 * layer.weight.numel())
        biases = {name: layer.bias for name, layer in model.named_children() if type(layer) in COUNTED}
        values = {name: bias.unique().tolist() for name, bias in biases.items() if isinstance(bias, Tensor)}
        others = {name: pytest.approx([0.1]) for name, *_ in self.CONVOLUTIONS_8[1:]}
        assert values == {"conv1": [0.5], **others, "fc6": [1.0], "fc7": [1.0], "fc8": [0.0]}

    def test_biases_of_zero(self) -> None:
        model = networks.cnds_net(8, classes=10, size=8, biases="zero")
        assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))

    def test_gradients_fade_towards_the_input(self) -> None:
        torch.manual_seed(0)
        model = networks.cnds_net(13, classes=10, size=32).eval()
        F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
        mean = {name: p.grad.abs().mean().item() for name, p in model.named_parameters() if p.grad is not None}
        assert mean["conv1_1.weight"] < 1e-6 < 1e-4 < mean["fc6.weight"]

    @pytest.mark.parametrize(
        ("spec", "more", "message"),
        [
            ("cnds-9", {}, "networks of 8 and of 13 convolutions, none of 9"),
            ("cnds-8", {"size": 4}, "4x4 is too small"),
            ("cnds-8", {"options": {"biases": "one"}}, "'one' must be one of released, zero"),
            ("cnds-8", {"options": {"size": 32}}, "no option size. It takes: dropout, biases"),
        ],
    )
    def test_says_why_not(self, spec: str, more: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            on_meta(f"deepsup:{spec}", **more)


class TestNames:
    def test_those_listed_are_those_built(self) -> None:
        assert networks.names() == tuple(f"deepsup:{name}" for name in listed())
        assert set(PUBLISHED) < set(listed())
        assert len(set(listed())) == len(listed())

    @pytest.mark.parametrize(
        "spec", [name for name in networks.names() if name != "deepsup:resnet-1202"]
    )  # slow, no other
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
            ("resnet-8", {"shortcut": "b"}, "no shortcut 'b'. It has: subsample, pool, project"),
            ("resnet-8", {"widen": 2}, "no option widen. It takes: shortcut"),
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


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "classes", "expected"),
        [
            ("googlenet", 1000, 13_004_888),  # with both auxiliary heads
            ("inception_v3", 1000, 27_161_264),  # with its one
            ("resnet18", 1000, 11_689_512),
            ("resnet34", 1000, 21_797_672),
            ("resnet50", 1000, 25_557_032),
        ],
    )
    def test_parameters(self, name: str, classes: int, expected: int) -> None:
        assert parameters(on_meta(f"torchvision:{name}", classes=classes)) == expected

    def test_where_googlenet_has_its_heads(self) -> None:
        model = on_meta("torchvision:googlenet", classes=1000)
        assert shapes(model, ["inception4a", "inception4d"], 224) == [(512, 14, 14), (528, 14, 14)]
        assert model.get_submodule("aux1.conv.conv").in_channels == 512
        assert model.get_submodule("aux2.conv.conv").in_channels == 528

    def test_resnet34_block_by_block(self) -> None:
        """What the walk-through of ResNet-34 says at 224x224, without its slips.

        It counts one 256-channel block twice, and takes 256 channels at stride 2 into all three 512-channel blocks; only
        the first of a stage shrinks and widens.
        """
        stages = [(64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)]  # channels, side, blocks
        model = on_meta("torchvision:resnet34", classes=1000)
        assert shapes(model, ["conv1", "maxpool"], 224) == [(64, 112, 112), (64, 56, 56)]
        before = 64
        for stage, (width, side, count) in enumerate(stages, 1):
            blocks = model.get_submodule(f"layer{stage}")
            assert [name for name, _ in blocks.named_children()] == [str(i) for i in range(count)]
            for i in range(count):
                block = model.get_submodule(f"layer{stage}.{i}")
                first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
                shrinks = 2 if stage > 1 and i == 0 else 1
                described = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in (first, second)]
                assert described == [(before, width, 3, shrinks), (width, width, 3, 1)]
                if shrinks == 2:
                    shortcut = block.get_submodule("downsample.0")
                    assert (shortcut.in_channels, shortcut.out_channels, shortcut.stride) == (before, width, (2, 2))
                else:
                    assert block.downsample is None
                assert shapes(model, [f"layer{stage}.{i}"], 224) == [(width, side, side)]
                before = width
        assert shapes(model, ["avgpool", "fc"], 224) == [(512, 1, 1), (1000,)]


def test_the_resnet_of_small_images_keeps_their_size_and_has_the_published_parameters() -> None:
    model = networks.build("deepsup:resnet-18-3x3", classes=100)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    seen = ds.trace(model, torch.randn(2, 3, 32, 32))
    shapes = [str(seen.layers[f"layer{i}"].feature) for i in (1, 2, 3, 4)]
    assert shapes == ["64x32x32", "128x16x16", "256x8x8", "512x4x4"]
    with pytest.raises(ConfigError, match="'resnet-20-3x3' cannot be built: there are the depths 18, 34, 50, 101, 152"):
        networks.build("deepsup:resnet-20-3x3", classes=100)
