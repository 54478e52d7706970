"""What supervision costs beside the same arithmetic written by hand, and what an idle attachment costs in eval.

    python benchmarks/step_cost.py                # writes benchmarks/results/step_cost.json

Two ratios, each side by side in one process, in alternating order, on ResNet-18 (batch 16, 64x64, one thread):

* training: a step with two branches through deepsup / the same step with the two heads called by hand in a
  rewritten forward. Limit 1.03.
* eval: a forward of the supervised model in eval mode / of the plain model. Limit 1.01.

Time on shared machines is noisy, so each pair is timed back to back many times and the median of the ratios counts.
Expected time: about 3 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds

WEIGHTS = {"layer2": 0.3, "layer3": 0.3}


class ByHand(nn.Module):
    """ResNet-18 with its forward rewritten to return the two activations, and two heads beside it."""

    def __init__(self, body: nn.Module, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        b = self.body
        x = b.layer1(b.maxpool(b.relu(b.bn1(b.conv1(x)))))
        x2 = b.layer2(x)
        x3 = b.layer3(x2)
        main = b.fc(torch.flatten(b.avgpool(b.layer4(x3)), 1))
        return main, {"layer2": self.heads["layer2"](x2), "layer3": self.heads["layer3"](x3)}


def training_steps(batch: int, size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The two steps to compare: ours, and the one written by hand, from the same weights."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    plan = ds.plan(model, x, at=["layer2", "layer3"], method="aux", weight=WEIGHTS)
    twin = copy.deepcopy(model)
    net = ds.attach(model, plan)
    hand = ByHand(twin, {name: copy.deepcopy(net.heads[name]) for name in WEIGHTS})
    objective = ds.Objective(plan)
    optimizers = {id(n): torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.9) for n in (net, hand)}

    def ours() -> None:
        optimizers[id(net)].zero_grad()
        objective(net(x), y, progress=0.5).total.backward()
        optimizers[id(net)].step()

    def by_hand() -> None:
        optimizers[id(hand)].zero_grad()
        main, aux = hand(x)
        loss = F.cross_entropy(main, y)
        for name, weight in WEIGHTS.items():
            loss = loss + weight * F.cross_entropy(aux[name], y)
        loss.backward()
        optimizers[id(hand)].step()

    return ours, by_hand


def eval_forwards(batch: int, size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The two forwards to compare: supervised model in eval mode, and the plain model.

    Both are the same object with the same memory, supervised and stripped in turn outside the clock: two copies of a
    model differ by more than 1 % in speed for where their weights happen to lie.
    """
    model = torchvision.models.resnet18(num_classes=10).eval()
    x = torch.randn(batch, 3, size, size)
    plan = ds.plan(model, x, at=["layer2", "layer3"])
    attached: list[nn.Module] = []

    def run(net: nn.Module) -> None:
        with torch.no_grad():
            net(x)

    def ours() -> None:
        run(attached[0])

    def prepare_ours() -> None:
        if not attached or not ds.is_supervised(attached[0]):
            attached[:] = [ds.attach(model, plan).eval()]

    def prepare_plain() -> None:
        if ds.is_supervised(attached[0] if attached else model):
            ds.strip(attached[0])

    ours.prepare = prepare_ours  # type: ignore[attr-defined]

    def plain() -> None:
        run(model)

    plain.prepare = prepare_plain  # type: ignore[attr-defined]
    return ours, plain


def compare(ours: Callable[[], None], other: Callable[[], None], rounds: int) -> dict[str, object]:
    """Median over rounds of time(ours) / time(other), the order alternating."""

    def seconds_of(call: Callable[[], None]) -> float:
        getattr(call, "prepare", lambda: None)()
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    for warm in (other, ours, other, ours, other):
        seconds_of(warm)
    ratios, seconds = [], {"ours": [], "other": []}
    for i in range(rounds):
        order = [("ours", ours), ("other", other)]
        for name, run in order if i % 2 else order[::-1]:
            seconds[name].append(seconds_of(run))
        ratios.append(seconds["ours"][-1] / seconds["other"][-1])
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(q, 4) for q in (quartiles[0], quartiles[2])],
        "rounds": rounds,
        "median_ms": {k: round(1000 * statistics.median(v), 2) for k, v in seconds.items()},
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=120, help="pairs of timed calls (default 120)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        "training step / by hand": (compare(*training_steps(16, 64), args.rounds), 1.03),
        "eval forward / plain": (compare(*eval_forwards(16, 64), 3 * args.rounds), 1.01),
    }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    result = {
        "command": " ".join(["python", "benchmarks/step_cost.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, 1 thread",
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "model": "ResNet-18, batch 16, 64x64, branches after layer2 and layer3",
        "rows": {name: {**row, "limit": limit} for name, (row, limit) in rows.items()},
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, (row, limit) in rows.items():
        print(f"{name:<26} {row['ratio']:.4f}  quartiles {row['quartiles']}  limit {limit}")


if __name__ == "__main__":
    main()
