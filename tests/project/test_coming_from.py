"""What `docs/coming-from.md` shows runs, and before and after are the same loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds

PAGE = (Path(__file__).parents[2] / "docs/coming-from.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def run(*blocks: str) -> list[dict[str, Any]]:
    """The names after each block, which know those of the blocks before it."""
    names: dict[str, Any] = {}
    found = []
    for block in blocks:
        exec(compile(block, "coming-from.md", "exec"), names)
        found.append(dict(names))
    return found


def without_chance(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0


def test_torchvision() -> None:
    before, after = run(*BLOCKS[:2])
    net = after["net"]
    net.model.load_state_dict({k: v for k, v in before["model"].state_dict().items() if not k.startswith("aux_")})
    theirs = before["model"].aux_classifier.state_dict().values()
    ours = net.heads["aux"].state_dict()
    net.heads["aux"].load_state_dict(dict(zip(ours, theirs, strict=True)))
    without_chance(before["model"])
    without_chance(net)
    images, masks = before["images"], before["masks"]
    out = before["model"](images)
    expected = nn.functional.cross_entropy(out["out"], masks) + 0.5 * nn.functional.cross_entropy(out["aux"], masks)
    torch.testing.assert_close(ds.Objective(net.plan)(net(images), masks).total, expected)


@pytest.mark.filterwarnings("ignore")
def test_monai() -> None:
    names = run("import torch\nimport deepsup as ds\n" + BLOCKS[2], BLOCKS[3])[1]
    net, volumes, labels = names["net"], names["volumes"], names["labels"]
    outputs = net(volumes)
    levels = [outputs.main, *(outputs.aux[name] for name in net.plan.names)]
    levels.sort(key=lambda level: -level.shape[-1])
    expected = names["DeepSupervisionLoss"](names["DiceCELoss"](to_onehot_y=True, softmax=True))(levels, labels.float())
    torch.testing.assert_close(ds.Objective(net.plan)(outputs, labels).total, expected)


def test_the_others_run() -> None:
    start = "import torch\nimport deepsup as ds\n"
    plan = run(start + BLOCKS[4])[0]["plan"]
    assert (plan.names, plan.branches[0].weight(0.0)) == (("auxiliary",), 0.4)
    run(start + BLOCKS[5])
