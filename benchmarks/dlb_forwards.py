"""What it changes that DLB's two halves go through the network in one forward here, and in two in the released code.

    python benchmarks/dlb_forwards.py DATA        # writes benchmarks/results/dlb_forwards.json; DATA holds CIFAR-100

Batch normalisation then has the statistics of both halves, and not of each. A ResNet-20 trains as released (two
forwards, independent augmentation); in some steps the gradient of the same step in one forward is held against it.

Expected time: about 2 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import datasets, networks
from deepsup.evaluation.loaders import SplitLoader

LOOKED_AT, BATCH, LR = (1, 10, 50, 100, 200), 64, 0.1


def gradient(model: nn.Module, total: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()), retain_graph=True)])


def measure(root: Path) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    data = datasets.load("cifar100", root=root, augment="standard", views=2)
    loader = SplitLoader(data.train, BATCH, seed=0, overlap=True)
    model = networks.resnet(20, classes=100)
    plan = ds.plan(model, next(iter(loader.epoch(0)))[0], method="dlb")
    objective, beside = ds.Objective(plan), ds.Objective(plan)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rows = {}
    for step, (x, y) in enumerate(loader.epoch(0)):
        new = model(x[-BATCH:])
        halves = torch.cat([model(x[:-BATCH]), new]) if step else new
        beside.load_state_dict(objective.state_dict())
        total = objective(halves, y).total
        if step in LOOKED_AT:
            two, one = gradient(model, total), gradient(model, beside(model(x), y).total)
            cosine = float(F.cosine_similarity(one, two, 0))
            rows[str(step)] = {"difference": float((one - two).norm() / two.norm()), "cosine": cosine}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if step == max(LOOKED_AT):
            break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dlb_forwards.json")
    args = parser.parse_args()
    rows = measure(args.data)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    result = {
        "command": " ".join(["python", "benchmarks/dlb_forwards.py", "DATA", *sys.argv[2:]]),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "setting": f"ResNet-20, CIFAR-100, {BATCH} new and {BATCH} repeated images, SGD {LR} Nesterov, by step",
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
