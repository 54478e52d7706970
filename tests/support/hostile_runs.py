"""Runs of somebody else whose files would run code, and leave a marker, if anything in them were believed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from deepsup.training import checkpoints

KEPT = Path(__file__).parents[1] / "kept"


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def copied(name: str, folder: Path) -> Path:
    """A kept run (`half` or `finished`) under the folder."""
    shutil.copytree(KEPT / name, folder)
    settings(folder, output=str(folder))
    return folder


def settings(run: Path, **changes: Any) -> None:
    """Change the settings of a run."""
    told = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(told | changes, sort_keys=False))


def command(marker: Path) -> dict[str, Any]:
    """Options with which os:system would make the marker."""
    return {"command": f"touch {marker}"}


def head(marker: Path, name: str = "os:system") -> str:
    """The head that would make it when the plan is attached."""
    return f"network(name={name!r}, options={command(marker)!r})"


def with_head(plan: dict[str, Any], text: str) -> dict[str, Any]:
    """A plan with another first head."""
    first, *rest = plan["branches"]
    return {**plan, "branches": [{**first, "head": text}, *rest]}


def poison_plan(run: Path, text: str) -> None:
    """Put a head into the plan of a run, and into that of its checkpoint."""
    file = run / "plan.json"
    file.write_text(json.dumps(with_head(json.loads(file.read_text()), text)))
    if (run / "checkpoint.ckpt").exists():
        checkpoint = checkpoints.load(run / "checkpoint.ckpt")
        assert checkpoint.plan is not None
        checkpoints.save(
            dataclasses.replace(checkpoint, plan=with_head(checkpoint.plan, text)), run / "checkpoint.ckpt"
        )


def poison_checkpoint(run: Path, marker: Path) -> None:
    """A checkpoint whose checksum is right and whose payload is a pickle that makes the marker."""
    checkpoint = checkpoints.load(run / "checkpoint.ckpt")
    checkpoints.save(dataclasses.replace(checkpoint, metric=Payload(marker)), run / "checkpoint.ckpt")  # type: ignore[arg-type]


def poison_weights(file: Path, marker: Path) -> None:
    """What torch.save writes, in the place of safetensors."""
    torch.save({"x": Payload(marker)}, file)
