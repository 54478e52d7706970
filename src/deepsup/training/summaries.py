"""A comparison's result, computed from the journals of its runs: `compare.json`."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepsup.plans import Plan
from deepsup.weights import load_weights

from . import runs, verdicts
from .configs import Cell, ComparisonConfig
from .journals import Record, environment, read

FORMAT = 1
GOAL = 0.9
TIMING_SECONDS = 1.5


def announce(config: ComparisonConfig) -> dict[str, Any]:
    """What is known before anything runs: the rule, and the runs that will be judged by it."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in config.expand():
        groups.setdefault(cell.group, {}).setdefault(cell.arm, {"runs": []})["runs"].append(cell.run)
    return {
        "format": FORMAT,
        "name": config.name,
        "rule": verdicts.rule(
            metric="accuracy",
            baseline=config.baseline,
            candidate=config.candidate,
            seeds=config.seeds,
            confidence=config.confidence,
        ),
        "metric": "accuracy",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        "complete": False,
        "groups": [{"name": name, "arms": arms} for name, arms in groups.items()],
        "certificates": [],
    }


def summarise(config: ComparisonConfig, stated: dict[str, Any]) -> dict[str, Any]:
    """`stated` (see `announce`) with what the finished runs say; unfinished ones are null, and count for nothing."""
    folder = Path(config.output)
    cells = config.expand()
    ends = {cell.run: _end(folder / cell.run) for cell in cells}
    groups = []
    for name in config.groups:
        arms = {}
        for arm in (config.baseline, config.candidate):
            members = [c for c in cells if (c.group, c.arm) == (name, arm)]
            arms[arm] = _arm(folder, members)
        for arm, milliseconds in _inference_ms(folder, [c for c in cells if c.group == name and ends[c.run]]).items():
            arms[arm]["inference_ms"] = milliseconds
        groups.append({"name": name, "arms": arms, "verdict": _verdict(config, arms)})
    return {
        **stated,
        "complete": all(ends.values()),
        "groups": groups,
        "certificates": [c for cell in cells if (c := _certificate(folder, cell))],
    }


def _end(folder: Path) -> Record | None:
    records = read(folder / "journal.jsonl", "end")
    return records[-1] if records else None


def _arm(folder: Path, cells: list[Cell]) -> dict[str, Any]:
    ends = [_end(folder / cell.run) for cell in cells]
    final: list[float | None] = [end["accuracy"] if end else None for end in ends]
    known = [value for value in final if value is not None]
    return {
        "runs": [cell.run for cell in cells],
        "final": final,
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "epochs_to_90": [_epochs_to(folder / cell.run) if end else None for cell, end in zip(cells, ends, strict=True)],
        "seconds": [end["seconds"] if end else None for end in ends],
        "step_ms": [end["step_ms"] if end else None for end in ends],
        **_cost(folder, cells),
    }


def _epochs_to(folder: Path) -> int | None:
    for record in read(folder / "journal.jsonl", "epoch"):
        if ((record["validation"] or {}).get("accuracy", {}).get("main") or 0.0) >= GOAL:
            return int(record["epoch"])
    return None


def _cost(folder: Path, cells: list[Cell]) -> dict[str, Any]:
    """Parameters and FLOPs in training and inference; branches placed by seed may differ, so the dearest run counts."""
    starts = [start for cell in cells for start in read(folder / cell.run / "journal.jsonl", "start")[:1]]
    costs = [start["cost"] for start in starts]
    dearest = max(costs, key=lambda c: c["head_flops"], default=None)
    if dearest is None:
        return dict.fromkeys(("train_params", "train_flops", "inference_params", "inference_flops"))
    return {
        "train_params": dearest["trunk_params"] + dearest["head_params"],
        "train_flops": dearest["trunk_flops"] + dearest["head_flops"],
        "inference_params": dearest["trunk_params"],
        "inference_flops": dearest["trunk_flops"],
    }


def _verdict(config: ComparisonConfig, arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Judge the seeds whose two runs have both finished."""
    both = zip(arms[config.baseline]["final"], arms[config.candidate]["final"], strict=True)
    pairs = [(b, c) for b, c in both if b is not None and c is not None]
    found = verdicts.verdict([b for b, _ in pairs], [c for _, c in pairs], confidence=config.confidence)
    return {**found._asdict(), "baseline": config.baseline, "candidate": config.candidate}


def _certificate(folder: Path, cell: Cell) -> dict[str, Any] | None:
    path = folder / cell.run / "certificate.json"
    if not path.exists():
        return None
    proof = json.loads(path.read_text())
    return {
        "run": cell.run,
        "path": f"{cell.run}/certificate.json",
        "identical": proof["identical"],
        "state_sha256": proof["state_sha256"],
    }


def _inference_ms(folder: Path, cells: list[Cell]) -> dict[str, float]:
    """The time of a batch in eval mode for one stripped model of each arm, if a plan remembers the shape of the input."""
    first = {cell.arm: cell for cell in reversed(cells)}
    plans = [path for cell in first.values() if (path := folder / cell.run / "plan.json").exists()]
    if not plans:
        return {}
    shape = Plan.load(plans[0]).input_shape
    size = next(iter(first.values())).config.data.batch_size
    state = {arm: _stripped(folder / cell.run, plans[0]).state_dict() for arm, cell in first.items()}
    model = runs.untouched_model(folder / next(iter(first.values())).run, plan=plans[0]).eval()
    return time_side_by_side(model, state, torch.randn(size, *shape[1:], generator=torch.Generator().manual_seed(0)))


def time_side_by_side(
    model: nn.Module, states: dict[str, dict[str, Any]], x: torch.Tensor, *, seconds: float = TIMING_SECONDS
) -> dict[str, float]:
    """Milliseconds of a forward with each arm's weights, taken in turns in one and the same model.

    Two models of one architecture differ by some percent for where their weights lie in memory, and a shared machine
    changes its speed from second to second; both would look like a cost that is not there. So the first arm gives the
    scale, and of the others the median of the ratios to the forward just before counts.
    """
    times: dict[str, list[float]] = {name: [] for name in states}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another are what makes timings jump
    try:
        with torch.no_grad():
            deadline = time.perf_counter() + seconds
            while time.perf_counter() < deadline or not all(times.values()):
                for name, state in states.items():
                    model.load_state_dict(state)
                    model(x)  # the first forward finds the new weights out of the cache
                    began = time.perf_counter()
                    model(x)
                    times[name].append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    scale = next(iter(times.values()))
    ratios = {name: statistics.median(t / s for t, s in zip(ts, scale, strict=True)) for name, ts in times.items()}
    return {name: ratio * statistics.median(scale) for name, ratio in ratios.items()}


def _stripped(folder: Path, plan: Path) -> nn.Module:
    """A run's model with its plain weights; the arms of a pair are alike, so one's plan tells the other's input, too."""
    model = runs.untouched_model(folder, plan=plan)
    load_weights(model, folder / "model.safetensors")
    return model.eval()
