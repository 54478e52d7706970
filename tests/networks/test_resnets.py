"""Residual networks against their paper, shortcut by shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import CheckpointError, ConfigError
from deepsup.networks.resnets import SHORTCUTS, BasicBlock
from deepsup.settings import configs
from deepsup.settings import training as settings
from deepsup.training import prepare
from tests.support.paper_nets import Net, assert_computes, norm, parameters, score
from tests.support.small_nets import unsettled

torch.set_num_threads(1)


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
                    zeros = torch.zeros_like(kept)  # each stage is twice as wide as the one before
                    half = kept.shape[1] // 2
                    sides = (zeros[:, :half], kept, zeros[:, half:])
                    x = torch.cat(sides if shortcut == "centred" else (kept, zeros), 1)
                x = F.relu(x + y)
        return score(s, x)

    return run


@pytest.mark.parametrize(
    ("spec", "options", "paper"),
    [
        ("resnet-8", {}, resnet_on_paper(1, "subsample")),
        ("resnet-14", {}, resnet_on_paper(2, "subsample")),
        ("resnet-14", {"shortcut": "centred"}, resnet_on_paper(2, "centred")),
        ("resnet-14", {"shortcut": "pool"}, resnet_on_paper(2, "pool")),
        ("resnet-14", {"shortcut": "project"}, resnet_on_paper(2, "project")),
    ],
)
def test_a_resnet_computes_what_the_paper_says(spec: str, options: dict[str, Any], paper: Net) -> None:
    assert_computes(spec, options, paper)


class TestShortcuts:
    @pytest.mark.parametrize("shortcut", SHORTCUTS)
    @pytest.mark.parametrize("size", [28, 9, 1])
    def test_any_size(self, shortcut: str, size: int) -> None:
        model = networks.resnet(8, classes=4, in_channels=1, shortcut=shortcut)
        assert model.eval()(torch.randn(2, 1, size, size)).shape == (2, 4)

    @pytest.mark.parametrize("shortcut", ["subsample", "pool", "centred"])
    def test_a_rebuilt_block_still_fits(self, shortcut: str) -> None:
        block = BasicBlock(16, 32, stride=2, shortcut=shortcut).eval()
        block.conv1, block.bn1 = nn.Conv2d(16, 80, 3, stride=2, padding=1), nn.BatchNorm2d(80).eval()
        block.conv2, block.bn2 = nn.Conv2d(80, 80, 3, padding=1), nn.BatchNorm2d(80).eval()
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        x = torch.rand(2, 16, 6, 6)
        out = block(x)
        expected = F.avg_pool2d(x, 2) if shortcut == "pool" else x[:, :, ::2, ::2]
        before = 32 if shortcut == "centred" else 0
        assert torch.equal(out[:, before : before + 16], expected)
        assert out.shape == (2, 80, 3, 3)
        assert not out[:, :before].any()
        assert not out[:, before + 16 :].any()

    def test_zeros_cost_nothing_and_projections_do(self) -> None:
        plain = parameters(networks.resnet(8, classes=10))
        assert parameters(networks.resnet(8, classes=10, shortcut="pool")) == plain
        extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        assert parameters(networks.resnet(8, classes=10, shortcut="project")) == plain + extra


def test_the_resnet_of_small_images_keeps_their_size_and_has_the_published_parameters() -> None:
    model = networks.build("deepsup:resnet-18-3x3", classes=100)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    seen = ds.trace(model, torch.randn(2, 3, 32, 32))
    shapes = [str(seen.layers[f"layer{i}"].feature) for i in (1, 2, 3, 4)]
    assert shapes == ["64x32x32", "128x16x16", "256x8x8", "512x4x4"]
    with pytest.raises(ConfigError, match="'resnet-20-3x3' cannot be built: there are the depths 18, 34, 50, 101, 152"):
        networks.build("deepsup:resnet-20-3x3", classes=100)


def bottlenecks_on_paper(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-14 of bottlenecks: two a stage, each 1x1, 3x3 with the stride, 1x1 to four times the width."""
    x = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
    for stage in (1, 2, 3):
        for i in range(2):
            b = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = F.relu(norm(s, f"{b}.bn1", F.conv2d(x, s[f"{b}.conv1.weight"])))
            y = F.relu(norm(s, f"{b}.bn2", F.conv2d(y, s[f"{b}.conv2.weight"], stride=stride, padding=1)))
            y = norm(s, f"{b}.bn3", F.conv2d(y, s[f"{b}.conv3.weight"]))
            if i == 0:
                x = norm(s, f"{b}.shortcut.bn", F.conv2d(x, s[f"{b}.shortcut.conv.weight"], stride=stride))
            x = F.relu(x + y)
    return score(s, x)


def test_bottlenecks_compute_what_the_release_of_one_says() -> None:
    assert_computes("resnet-14", {"block": "bottleneck"}, bottlenecks_on_paper)
    with pytest.raises(ConfigError, match=r"a resnet has no block 'wide'\. It has: basic, bottleneck"):
        networks.resnet(14, classes=7, block="wide")


class Akamaster(nn.Module):
    """The network of the public weights, as their author writes it: planes // 4 zero channels on both sides."""

    class Block(nn.Module):
        def __init__(self, inputs: int, planes: int, stride: int, project: bool) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
            self.side = planes // 4
            self.stride = stride
            self.downsample: nn.Module | None = None
            if stride > 1 and project:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
                )

        def forward(self, x: Tensor) -> Tensor:
            out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.downsample is not None:
                x = self.downsample(x)
            elif self.stride > 1:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side))
            return F.relu(out + x)

    def __init__(self, depth: int, project: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inputs = 16
        for stage, planes in enumerate((16, 32, 64), 1):
            blocks = [self.Block(inputs, planes, 2 if stage > 1 else 1, project)]
            blocks += [self.Block(planes, planes, 1, project) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            inputs = planes
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


def published(depth: int, path: Path, *, project: bool = False) -> Akamaster:
    """A trained network of others, and its file as they publish it."""
    torch.manual_seed(depth)
    model = unsettled(Akamaster(depth, project))
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}, "best_prec1": 92.1}, path)
    return model.double().requires_grad_(False)


class TestPublicWeights:
    @pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
    def test_of_option_a_answer_as_where_they_were_trained(self, tmp_path: Path, depth: int) -> None:
        theirs, x = published(depth, tmp_path / "a.th"), torch.randn(2, 3, 8, 8).double()
        options = {"weights": str(tmp_path / "a.th"), "shortcut": "centred"}
        ours = networks.build(f"deepsup:resnet-{depth}", classes=10, options=options).double().eval()
        expected = theirs(x)
        assert 1e-3 < float(expected.std()) < torch.inf
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-12)

    def test_are_a_setting_of_the_command_line(self, tmp_path: Path) -> None:
        theirs, x = published(20, tmp_path / "a.th"), torch.randn(2, 3, 8, 8).double()
        words = [
            "model=deepsup:resnet-20",
            f"model_options.weights={tmp_path / 'a.th'}",
            "model_options.shortcut=centred",
        ]
        config = configs.load(None, words)
        assert isinstance(config, settings.TrainConfig)
        ours = prepare.build(config, classes=10, channels=3, size=32).double().eval()
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("depth", [20, 110])
    def test_of_option_b_say_so_themselves(self, tmp_path: Path, depth: int) -> None:
        theirs, x = published(depth, tmp_path / "b.pt", project=True), torch.randn(2, 3, 8, 8).double()
        ours = networks.build(f"deepsup:resnet-{depth}", classes=10, options={"weights": tmp_path / "b.pt"})
        torch.testing.assert_close(ours.double().eval()(x), theirs(x), rtol=1e-9, atol=1e-12)
        with pytest.raises(CheckpointError, match=r"has layer2\.0\.shortcut\.bn\.bias, which is not there"):
            networks.resnet(depth, classes=10, weights=tmp_path / "b.pt", shortcut="centred")

    def test_no_other_layout_answers_so(self, tmp_path: Path) -> None:
        theirs, x = published(20, tmp_path / "a.th"), torch.randn(2, 3, 16, 16).double()
        for shortcut in ("subsample", "pool"):
            ours = networks.resnet(20, classes=10, weights=tmp_path / "a.th", shortcut=shortcut).double().eval()
            assert float((ours(x) - theirs(x)).detach().abs().max()) > 0.01
        with pytest.raises(CheckpointError, match=r"it lacks layer2\.0\.shortcut\.bn\.bias"):
            networks.resnet(20, classes=10, weights=tmp_path / "a.th", shortcut="project")

    def test_whose_zeros_are_not_known_are_refused_until_it_is_said(self, tmp_path: Path) -> None:
        published(20, tmp_path / "a.th")
        with pytest.raises(ConfigError, match="Say which: shortcut='centred' for akamaster's"):
            networks.build("deepsup:resnet-20", classes=10, options={"weights": tmp_path / "a.th"})
        ds.save_weights(networks.resnet(20, classes=10), tmp_path / "ours.safetensors")  # ours do not tell either
        with pytest.raises(ConfigError, match=r"nothing in it tells.*model_options\.shortcut=centred"):
            networks.resnet(20, classes=10, weights=tmp_path / "ours.safetensors")
        assert networks.resnet(20, classes=10, weights=tmp_path / "ours.safetensors", shortcut="subsample")

    def test_of_another_network_are_refused(self, tmp_path: Path) -> None:
        published(20, tmp_path / "a.th")
        with pytest.raises(
            CheckpointError, match=r"another network than resnet-32 of 10 classes with shortcut='centred'"
        ):
            networks.resnet(32, classes=10, weights=tmp_path / "a.th", shortcut="centred")
        with pytest.raises(CheckpointError, match=r"has fc\.bias of 10 where 100 is needed"):
            networks.resnet(20, classes=100, weights=tmp_path / "a.th", shortcut="centred")
