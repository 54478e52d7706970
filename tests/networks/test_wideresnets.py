"""Wide residual networks against their paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import networks
from tests.support.paper_nets import Net, assert_computes, norm, score

torch.set_num_threads(1)


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


@pytest.mark.parametrize(
    ("spec", "options", "paper"),
    [
        ("wrn-10-2", {}, wrn_on_paper(1)),
        ("wrn-16-2", {"dropout": 0.3}, wrn_on_paper(2)),
    ],
)
def test_a_wrn_computes_what_the_paper_says(spec: str, options: dict[str, Any], paper: Net) -> None:
    assert_computes(spec, options, paper)


class TestWrnDropout:
    def test_wrn_drops_between_the_convolutions(self) -> None:
        model = networks.wrn(16, 1, classes=3, dropout=0.3)
        drops = [name for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)]
        assert drops == [f"layer{s}.{b}.dropout" for s in (1, 2, 3) for b in (0, 1)]
        assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.3}
        block = list(model.get_submodule("layer1.0")._modules)
        assert block.index("relu2") < block.index("dropout") < block.index("conv2")
