"""Comparisons that take seconds: small nets, two seeds, and a finished one for all tests that only look at it."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from deepsup.comparisons.compare import Rounds, compare
from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.comparison import Cell, ComparisonConfig
from deepsup.settings.section import merge
from tests.support.tiny_runs import SUPERVISED, dropout_net, settings


def config(output: Path, **changes: Any) -> ComparisonConfig:
    base = {k: v for k, v in settings("").items() if k not in ("name", "output", "supervise")}
    data = {
        "name": "tiny",
        "base": base,
        "groups": {"adam": {}, "sgd": {"optimizer": {"name": "sgd", "lr": 0.05}}},
        "arms": {"plain": {"supervise": None}, "aux": {"supervise": SUPERVISED}},
        "seeds": [0, 1],
        "jobs": 2,
        "output": str(output),
    }
    checked = configs.parse(merge(data, changes))
    assert isinstance(checked, ComparisonConfig)
    return checked


def several(output: Path, **changes: Any) -> ComparisonConfig:
    """Two methods, a control of equal compute and another network, against the plain model."""
    base = {k: v for k, v in settings("", epochs=4, data={"limit": 64}).items() if k not in ("name", "output")}
    data = {
        "base": base,
        "methods": {"none": None, "aux": SUPERVISED, "smooth": "label-smoothing(smoothing=0.2)"},
        "arms": {
            "compute": {"supervise": {"method": "equal-compute", "like": "aux"}},
            "wide": {"model": "tests.support.tiny_comparisons:wide_net", "supervise": None},
        },
        "seeds": [0, 1],
        "output": str(output),
    }
    checked = configs.parse(data | changes)
    assert isinstance(checked, ComparisonConfig)
    return checked


class Finished:
    def __init__(self, folder: Path) -> None:
        self.config = config(folder)
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self.before: dict[str, Any] = {}
        self.result = compare(self.config, on_event=self.see)

    def see(self, event: dict[str, Any]) -> None:
        if event["kind"] == "rule":
            self.before = json.loads((self.folder / "compare.json").read_text())
            assert not any(self.folder.glob("*/*/*/journal.jsonl"))
        self.events.append(event)


def wide_net(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256 * in_channels, 32), nn.ReLU(), nn.Linear(32, num_classes))


def dies_when_supervised(num_classes: int, in_channels: int, deadly: bool = False) -> nn.Module:
    if deadly and "deepsup.comparisons.workers" in sys.orig_argv:  # not where the arms are checked before
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return dropout_net(num_classes, in_channels)


def breaks(num_classes: int, in_channels: int, broken: bool = False) -> nn.Module:
    if broken and "deepsup.comparisons.workers" in sys.orig_argv:
        raise ConfigError("named, and mendable")
    return dropout_net(num_classes, in_channels)


def pretending(score: Callable[[Cell], float], taken: list[str]) -> Callable[..., Iterator[tuple[str, str]]]:
    """What takes the place of `compare._run_all`: runs that have ended at once with a score, or diverged where it is nan."""

    def run_all(cells: Rounds, *, folder: Path, **_: Any) -> Iterator[tuple[str, str]]:
        while (cell := cells.take()) is not None:
            taken.append(cell.run)
            place = folder / cell.run
            place.mkdir(parents=True, exist_ok=True)
            configs.save(cell.config, place / "config.yaml")
            found = score(cell)
            start = {"kind": "start", "group": cell.group, "arm": cell.arm, "seed": cell.seed, "images": 1000}
            start |= {"name": cell.run, "config": cell.config.model_dump(mode="json")}
            end = {"kind": "end", "step": 1, "epochs": 1, "score": found, "seconds": 1.0, "step_ms": 1.0}
            end = {"kind": "stop", "step": 1, "reason": "the loss is nan"} if math.isnan(found) else end
            (place / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (start, end)))
            if not math.isnan(found):
                (place / "model.safetensors").touch()
        yield from ()

    return run_all
