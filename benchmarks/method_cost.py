"""What a method costs beside the same arithmetic in a plain loop written by hand.

    python benchmarks/method_cost.py                         # writes benchmarks/results/method_cost.json
    python benchmarks/method_cost.py --device cuda --model deepsup:resnet-32 --batch 128 --bf16 --compile --out gpu.json

`none`, `dsl` and `dhm` on a CIFAR ResNet, each a whole training step (forward, loss, backward, SGD) of deepsup and of the
step written by hand: the same modules called in a rewritten forward, the formula with torch's own functions. Both are
timed back to back many times in alternating order, in one process; the median of the ratios counts. Limit 1.03.
Before that both must give the same loss to the last bit or two. Expected time: about 4 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from step_cost import compare, environment
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks

METHODS = ("none", "dsl", "dhm")
LIMIT = 1.03


class ByHand(nn.Module):
    """A CIFAR ResNet whose forward was rewritten to call two branches, as a paper's repository does."""

    def __init__(self, body: nn.Module, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.body, self.branches = body, nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> list[Tensor]:
        b = self.body
        first = b.layer1(b.relu(b.bn1(b.conv1(x))))
        second = b.layer2(first)
        main = b.fc(b.layer3(second).mean((2, 3)))
        if not len(self.branches):
            return [main]
        return [main, self.branches["early"](first), self.branches["late"](second)]


def loss_by_hand(outputs: list[Tensor], y: Tensor, *, mimic: bool) -> Tensor:
    """Cross-entropy of all outputs and, if asked, every pair's KL divergence with a detached teacher."""
    total = F.cross_entropy(outputs[0], y)
    for output in outputs[1:]:
        total = total + F.cross_entropy(output, y)
    if mimic:
        for j, student in enumerate(outputs):
            for k, teacher in enumerate(outputs):
                if j != k:
                    log_q, log_p = student.log_softmax(1), teacher.detach().log_softmax(1)
                    total = total + F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return total


def steps(method: str, options: argparse.Namespace) -> tuple[Callable[[], float], Callable[[], float]]:
    """Our step and the one by hand, from the same weights; each returns nothing that would make a device wait."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    model = networks.build(options.model, classes=100).to(device)
    x, y = torch.randn(options.batch, 3, 32, 32, device=device), torch.randint(0, 100, (options.batch,), device=device)
    twin = copy.deepcopy(model)
    plan = ds.plan(model, torch.randn(2, 3, 32, 32, device=device), method=method)
    net = ds.attach(model, plan) if plan.branches else model
    heads = {name: copy.deepcopy(net.heads[name]) for name in plan.names}
    objective = ds.Objective(plan)
    hand = ByHand(twin, heads)

    def step(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], Tensor]:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
        run = torch.compile(module) if options.compile else module

        def once() -> Tensor:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                total = loss(run)
            total.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return total.detach()

        return once

    ours = step(net, lambda run: objective(run(x), y, progress=0.5).total)
    by_hand = step(hand, lambda run: loss_by_hand(run(x), y, mimic=method == "dhm"))
    first, second = float(ours()), float(by_hand())
    if abs(first - second) > 1e-5 * abs(second) + (2e-2 * options.bf16):
        raise SystemExit(f"{method}: our loss {first} is not the one by hand {second}; nothing to compare")
    return ours, by_hand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="deepsup:resnet-20")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "method_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {method: compare(*steps(method, options), options.rounds) for method in METHODS}
    result = {
        **environment(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"},
        "limit": LIMIT,
        "training": found,
        "passed": all(row["ratio"] <= LIMIT for row in found.values()),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for method, row in found.items():
        print(
            f"{method:6} ours / by hand: {row['ratio']:.3f}  (quartiles {row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f})"
        )


if __name__ == "__main__":
    main()
