"""What campaigns start from: a finished run, one that stopped half-way, another one, and a comparison, all tiny."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from deepsup.label_maps import write_picture
from deepsup.settings import configs
from deepsup.settings.section import merge
from deepsup.settings.training import TrainConfig
from deepsup.training import runs
from tests.campaigns.outcomes import story
from tests.support.tiny_runs import SUPERVISED, settings
from tests.support.training_runs import Interrupted, stop_at

ROOT = Path(__file__).parents[2]


class Started(NamedTuple):
    """The place of everything, and what the unbroken run left."""

    place: Path
    weights: bytes
    story: list[dict[str, Any]]


def of_a_run(output: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a run of two epochs, four steps each."""
    tiny: dict[str, Any] = {
        "model": "deepsup:plain-4",
        "epochs": 2,
        "data": {"limit": 64},
        "log": {"every": 1, "gradients": 1},
    }
    return settings(output, **merge(tiny, changes))


def of_a_comparison(output: Path) -> dict[str, Any]:
    """The settings of a comparison of two arms, two seeds."""
    base = {k: v for k, v in of_a_run(output, epochs=1).items() if k not in ("name", "output", "supervise")}
    arms = {"plain": {"supervise": None}, "aux": {"supervise": SUPERVISED}}
    return {"name": "pair", "base": base, "arms": arms, "seeds": [0, 1], "jobs": 1, "output": str(output)}


def write_settings(file: Path, told: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(told, sort_keys=False))


def train_all(place: Path) -> Started:
    """`finished`, `half` and `other` in their own folder each, with `NAME.yaml` beside it, and an image."""
    torch.set_num_threads(1)
    place.mkdir(parents=True, exist_ok=True)
    write_picture(place / "image.png", (np.arange(192) % 256).astype(np.uint8).reshape(8, 8, 3))
    for name, changes in {"finished": {}, "half": {}, "other": {"seed": 1}}.items():
        told = of_a_run(place / "RUN", **changes, checkpoint={"every_steps": 3})
        write_settings(place / f"{name}.yaml", told)
        config = configs.parse(told)
        assert isinstance(config, TrainConfig)
        try:
            runs.train(config, on_record=stop_at(7) if name == "half" else None)
        except Interrupted:
            pass
        (place / "RUN/notes.txt").write_text("mine")
        (place / "RUN").rename(place / name)
    whole = place / "finished"
    return Started(place, (whole / "model.safetensors").read_bytes(), story(whole / "journal.jsonl"))


def compared(place: Path) -> Path:
    """The folder of a finished comparison."""
    place.mkdir(parents=True, exist_ok=True)
    write_settings(place / "pair.yaml", of_a_comparison(place / "PAIR"))
    words = [sys.executable, "-m", "deepsup", "compare", str(place / "pair.yaml")]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    return place / "PAIR"


def copied(started: Started, name: str, place: Path) -> Path:
    """A copy of one of the runs, at the place that its settings name."""
    run = place / "RUN"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(started.place / name, run, symlinks=True)
    return run
