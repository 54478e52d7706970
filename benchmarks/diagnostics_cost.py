"""What looking at gradients costs, side by side in one process.

    python benchmarks/diagnostics_cost.py         # writes benchmarks/results/diagnostics_cost.json

On ResNet-18 (batch 16, 64x64) and a U-Net (ResNet-18 encoder, batch 8, 96x96), one thread, each with two branches:

* probe step / plain training step, with the usual SGD (momentum 0.9, weight decay) and with the bare one that the
  probe itself uses. Limit 1.05. Step beside step: the probe's loader takes the plain ones.
* supervised step with the conflict meter / without. Limit 1.05.
* the same with two gradients of the losses with respect to the shared parameters instead, as published recipes do it.
* supervised step after the meter was closed / before it was made: all off. Limit 1.00, give or take the noise.

Time on shared machines is noisy, so the ways are timed in turn many times, in processor time of the one thread, and the
median of the ratios counts.
Expected time: about 12 minutes on 2 CPU cores.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds

Way = Callable[[], None]
WARM = 4  # steps that do not count


class DenseHead(nn.Module):
    """A 1x1 convolution, enlarged to the size of the labels."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.classify, self.size = nn.Conv2d(channels, classes, 1), size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.classify(x), self.size, mode="bilinear")


def resnet() -> tuple[nn.Module, Tensor, Tensor, dict[str, object]]:
    """Model, batch, labels and what to plan."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    return model, torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,)), {"at": ["layer2", "layer3"]}


def unet() -> tuple[nn.Module, Tensor, Tensor, dict[str, object]]:
    """Model, batch, labels and what to plan."""
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=4)
    options = {
        "at": ["decoder.blocks.1", "decoder.blocks.3"],
        "head": lambda feature, classes: DenseHead(feature.channels, classes, 96),
    }
    return model, torch.randn(8, 3, 96, 96), torch.randint(0, 4, (8, 96, 96)), options


def conflict_ways(build: Callable[[], tuple[nn.Module, Tensor, Tensor, dict[str, object]]]) -> dict[str, Way]:
    """One supervised net, stepped without meter, with it, and with the published way of measuring."""
    model, x, y, options = build()
    plan = ds.plan(model, x, **options)  # type: ignore[arg-type]
    net, objective = ds.attach(model, plan), ds.Objective(plan)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    state: dict[str, ds.ConflictMeter] = {}

    def step(before_backward: Callable[[ds.Terms], None] = lambda terms: None) -> None:
        optimizer.zero_grad()
        terms = objective(net(x), y)
        before_backward(terms)
        terms.total.backward()
        if "meter" in state:
            state["meter"].step()
        optimizer.step()

    def on() -> None:
        state["meter"] = state.get("meter") or ds.ConflictMeter(net)

    def off() -> None:
        if "meter" in state:
            state.pop("meter").close()

    shared = [p for p in model.parameters() if p.requires_grad]

    def extra(terms: ds.Terms) -> None:
        """The branches' and the main gradients, both on the shared parameters: cosine by hand."""
        aux = sum(terms.weights[n] * p for n, p in terms.parts.items() if n != "main")
        one = torch.autograd.grad(aux, shared, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        other = torch.autograd.grad(terms.parts["main"], shared, retain_graph=True, allow_unused=True)
        pairs = [(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
        F.cosine_similarity(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]), dim=0)

    def one_extra(terms: ds.Terms) -> None:
        """One extra backward, with what the trained one gives as the other gradient."""
        aux = sum(terms.weights[n] * p for n, p in terms.parts.items() if n != "main")
        torch.autograd.grad(aux, shared, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]

    ways: dict[str, Way] = {
        "off": step,
        "metered": step,
        "closed": step,
        "one extra backward": lambda: step(one_extra),
        "a backward a loss": lambda: step(extra),
    }
    prepare = {"metered": on}
    return {name: _prepared(way, prepare.get(name, off)) for name, way in ways.items()}


def _prepared(way: Way, prepare: Way) -> Way:
    def call() -> None:
        way()

    call.prepare = prepare  # type: ignore[attr-defined]
    return call


def seconds(way: Way) -> float:
    """One timed call; what it needs beforehand is not timed."""
    getattr(way, "prepare", lambda: None)()
    began = time.process_time()
    way()
    return time.process_time() - began


def compare(ways: dict[str, Way], base: str, rounds: int) -> dict[str, dict[str, object]]:
    """Median over rounds of time(way) / time(base), the order turning round."""
    names = list(ways)
    for name in names * 2:
        seconds(ways[name])
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds(ways[name]))
    return {name: _row(times[name], times[base]) for name in names if name != base}


def _row(mine: list[float], base: list[float]) -> dict[str, object]:
    ratios = [a / b for a, b in zip(mine, base, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "rounds": len(ratios),
        "median_ms": {
            "this": round(1000 * statistics.median(mine), 1),
            "base": round(1000 * statistics.median(base), 1),
        },
    }


def probe_cost(
    build: Callable[[], tuple[nn.Module, Tensor, Tensor, dict[str, object]]], rounds: int
) -> dict[str, dict[str, object]]:
    """One probe whose loader, between two of its steps, takes a plain training step of a twin: step beside step."""
    model, x, y, _ = build()
    twins = {"bare": copy.deepcopy(model), "usual": copy.deepcopy(model)}
    options = {"bare": {}, "usual": {"momentum": 0.9, "weight_decay": 5e-4}}
    optimizers = {n: torch.optim.SGD(twin.parameters(), lr=0.001, **options[n]) for n, twin in twins.items()}
    mine: list[float] = []
    base: dict[str, list[float]] = {"bare": [], "usual": []}

    def plain(name: str) -> None:
        optimizers[name].zero_grad()
        F.cross_entropy(twins[name](x), y).backward()
        optimizers[name].step()

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(rounds + WARM):
            for name in ("bare", "usual") if i % 2 else ("usual", "bare"):
                base[name].append(seconds(lambda name=name: plain(name)))
            began = time.process_time()
            yield x, y
            mine.append(time.process_time() - began)  # the probe's step, with all that it does between two batches

    ds.probe(model, loader(), iterations=rounds + WARM, lr=0.001)
    return {name: _row(mine[WARM:], times[WARM : len(mine)]) for name, times in base.items()}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "diagnostics_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, object]] = {}
    limits = {"metered": 1.05, "closed": 1.0}
    for name, build in (("ResNet-18", resnet), ("U-Net", unet)):
        probed = probe_cost(build, args.rounds)
        rows[f"{name}: probe step / step of SGD with momentum and weight decay"] = {**probed["usual"], "limit": 1.05}
        rows[f"{name}: probe step / step of bare SGD"] = {**probed["bare"], "limit": 1.05}
        for way, row in compare(conflict_ways(build), "off", args.rounds).items():
            rows[f"{name}: supervised step, {way} / off"] = {**row, "limit": limits.get(way)}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    result = {
        "command": " ".join(["python", "benchmarks/diagnostics_cost.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, 1 thread",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "smp": smp.__version__},
        "rows": rows,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:<72} {row['ratio']:.3f}  quartiles {row['quartiles']}  limit {row['limit'] or '-'}")


if __name__ == "__main__":
    main()
