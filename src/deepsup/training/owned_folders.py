"""A run's folder is deepsup's own, or free: nothing of anybody else is overwritten in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepsup import documents, ownership
from deepsup.errors import CheckpointError, ConfigError
from deepsup.settings.training import TrainConfig
from deepsup.training import checkpoints, journal
from deepsup.training.checkpoints import MAGIC

GROWING = ("journal.jsonl", "checkpoint.ckpt")
BEST = ("best.safetensors", "best_heads.safetensors")
RESULTS = ("heads.safetensors", "certificate.json", "model.safetensors")
FILES = (
    "config.yaml",
    "inputs.json",
    "plan.json",
    *GROWING,
    *RESULTS,
    *BEST,
    "answers.json",
    "image_values.json",
    "maps/maps.json",
    "search/search.json",
)


def check(folder: Path, names: Iterable[str] = FILES) -> None:
    """Raise `ConfigError` where one of the names is a file of somebody else; what an earlier version left is ours."""
    if not older(folder):
        ownership.refuse_foreign(folder, names)


def refuse_altered(folder: Path, names: Iterable[str]) -> None:
    """Raise `CheckpointError` where one of the names is there and not as deepsup wrote it; it tells of another run then.

    What no list of files names was written by an earlier version, or copied without it, and is believed.
    """
    written = ownership.recorded(folder)
    if found := ownership.foreign(folder, [name for name in names if name in written]):
        raise CheckpointError(
            f"{folder}: {', '.join(found)} is not as deepsup wrote it, or damaged. Restore it; if the change is your own, remove "
            f"{ownership.MANIFEST}."
        )


def refuse_odd(folder: Path) -> None:
    """Raise `ConfigError` where a folder, a pipe or a link to nothing has the name of a file of ours."""
    if odd := [name for name in (*FILES, ownership.MANIFEST, "compare.json") if documents.is_odd(folder / name)]:
        raise ConfigError(f"{folder} has {', '.join(odd)}, which is no file. Move it away, and restore what was there.")


def note(folder: Path) -> None:
    """Before anything is written: list what an earlier version left, and what will grow."""
    if older(folder):
        there = {name for name in FILES if (folder / name).is_file()}
        ownership.claim(folder, there - set(GROWING), growing=False)
    ownership.claim(folder, GROWING)


def had_branches(folder: Path, config: TrainConfig) -> bool:
    """Whether the run was supervised, by all that it left: a file that is gone makes no plain run of it.

    Raises `CheckpointError` where nothing that is left tells.
    """
    written = ownership.recorded(folder)
    if "plan.json" in written or any((folder / name).exists() for name in ("plan.json", *RESULTS[:2])):
        return True
    if config.supervise is None and config.embedding.loss is None:
        return False
    if (folder / "checkpoint.ckpt").exists():
        return checkpoints.load(folder / "checkpoint.ckpt").plan is not None
    begun = journal.read(folder / "journal.jsonl", "start")
    if begun:
        return begun[-1].get("plan") is not None
    raise CheckpointError(
        f"{folder} does not tell whether its run had branches: plan.json, certificate.json, checkpoint.ckpt and journal.jsonl "
        "are missing or damaged. Restore one of them."
    )


def older(folder: Path) -> bool:
    """Whether a version that kept no list of its files was at work here: by its checkpoint, or its journal's first line."""
    if (folder / ownership.MANIFEST).exists():
        return False
    told, checkpoint = (folder / name for name in GROWING)
    if checkpoint.is_file():
        with checkpoint.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    if not told.is_file():
        return False
    with told.open("rb") as file:
        line = file.readline(2**20)
    try:
        first = documents.parsed(line)
    except ValueError:
        return False
    return isinstance(first, dict) and first.get("kind") == "start" and "format" in first
