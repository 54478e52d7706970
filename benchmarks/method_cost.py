"""What a method costs beside the same arithmetic in a plain loop written by hand.

    python benchmarks/method_cost.py                         # writes benchmarks/results/method_cost.json
    python benchmarks/method_cost.py --accelerator cuda --batch 128 --precision bf16-mixed --compile --out gpu.json

`none`, `dsl` and `dhm` on a CIFAR ResNet, each a whole step of deepsup's training loop (forward, loss, backward, SGD, and
what the loop looks after: sums for the journal, the watch for NaN, the conflict meter) beside the step written by hand:
the same modules called in a rewritten forward, the formula with torch's own functions, nothing else. Both are timed back to
back many times in alternating order, in one process; the median of the ratios counts. Limit 1.03. Before that both must
give the same loss. Expected time: about 2 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from step_cost import compare
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.evaluation import devices
from deepsup.evaluation.loaders import as_loader
from deepsup.settings import training
from deepsup.supervision.objectives import Objective
from deepsup.training.job import Job
from deepsup.training.loop import Loop

METHODS = ("none", "dsl", "dhm")
LIMIT = 1.03


class ByHand(nn.Module):
    """A CIFAR ResNet whose forward was rewritten to call two branches, as a paper's repository does."""

    def __init__(self, body: nn.Module, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.body, self.branches = body, nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> list[Tensor]:
        b = self.body
        first = b.layer1(b.relu1(b.bn1(b.conv1(x))))
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


def steps(method: str, options: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of deepsup's own loop (journal, loss and conflict meters as they are by default) and one by hand."""
    torch.manual_seed(0)
    fabric = devices.start(training.EngineConfig(accelerator=options.accelerator, precision=options.precision))
    device = fabric.device
    model = networks.build(options.model, classes=100).to(device)
    x, y = torch.randn(options.batch, 3, 32, 32), torch.randint(0, 100, (options.batch,))
    twin = copy.deepcopy(model)
    plan = ds.plan(model, torch.randn(2, 3, 32, 32, device=device), method=method)
    net = ds.attach(model, plan) if plan.branches else model
    hand = ByHand(twin, {name: copy.deepcopy(net.heads[name]) for name in plan.names}).to(device)

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    log = training.LogConfig(every=10, gradients=0, conflict=not options.no_meter)
    source = as_loader([(x, y)], options.batch)
    job = Job(net, Objective(plan), source, optimizer(net), epochs=10**6, log=log, compile=options.compile)
    loop = Loop(job, fabric)
    loop.conflicts.__enter__()
    x, y = x.to(device), y.to(device)
    run, its = (torch.compile(hand) if options.compile else hand), optimizer(hand)
    bf16 = options.precision == "bf16-mixed"
    seen: list[Tensor] = []

    def ours() -> None:
        loop._step(x, y)
        wait(device)

    def by_hand() -> None:
        its.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = run(x)
        total = loss_by_hand([o.float() for o in outputs], y, mimic=method == "dhm")
        total.backward()
        its.step()
        wait(device)
        seen[:] = [total.detach()]

    by_hand()
    check(method, net, plan, x, y, float(seen[0]), tolerance=2e-2 if bf16 else 1e-5)
    return ours, by_hand


def check(
    method: str, net: nn.Module, plan: ds.Plan, x: Tensor, y: Tensor, expected: float, *, tolerance: float
) -> None:
    """There is nothing to compare unless both compute the same loss."""
    found = float(Objective(plan)(net.train()(x), y, progress=0.0).total.detach())
    if abs(found - expected) > tolerance * abs(expected):
        raise SystemExit(f"{method}: our loss {found} is not the one by hand, {expected}")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--model", default="deepsup:resnet-20", help="a CIFAR ResNet of ours")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60, help="pairs of timed steps (default 60)")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-meter", action="store_true", help="leave the conflict meter out, which is on by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "method_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {method: compare(*steps(method, options), options.rounds) for method in METHODS}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    cuda = torch.cuda.get_device_name() if options.accelerator == "cuda" else ""
    result = {
        "command": " ".join(["python", "benchmarks/method_cost.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "hardware": cuda or f"{platform.machine()}, 1 thread",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "model": f"{options.model}, batch {options.batch}, 32x32",
        "limit": LIMIT,
        "rows": {
            name: {**row, "images_a_second": round(1000 * options.batch / row["median_ms"]["ours"])}
            for name, row in found.items()
        },
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["rows"].items():
        quartiles = " to ".join(f"{q:.3f}" for q in row["quartiles"])
        print(f"{name:5} ours / by hand {row['ratio']:.3f} ({quartiles}), {row['images_a_second']} images a second")


if __name__ == "__main__":
    main()
