"""DenseNets against their paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import networks
from tests.support.paper_nets import Net, assert_computes, norm, score

torch.set_num_threads(1)


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


@pytest.mark.parametrize(
    ("spec", "options", "paper"),
    [
        ("densenet-10-4", {}, densenet_on_paper(2, bottleneck=False)),
        ("densenet-bc-16-4", {"dropout": 0.2}, densenet_on_paper(2, bottleneck=True)),
    ],
)
def test_a_densenet_computes_what_the_paper_says(spec: str, options: dict[str, Any], paper: Net) -> None:
    assert_computes(spec, options, paper)


class TestDensenetDropout:
    @pytest.mark.parametrize("spec", ["densenet-10-4", "densenet-bc-16-4"])
    def test_densenet_drops_after_every_convolution_but_the_first(self, spec: str) -> None:
        model = networks.build(f"deepsup:{spec}", classes=3, options={"dropout": 0.2})
        order = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Dropout))]
        kinds = "".join("c" if isinstance(layer, nn.Conv2d) else "d" for layer in order)
        assert kinds == "c" + "cd" * ((len(kinds) - 1) // 2)
