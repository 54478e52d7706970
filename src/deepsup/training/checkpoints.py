"""Everything a run needs to go on as if nothing had happened, in one file that is whole or is not there.

A checkpoint is written beside its place, flushed to the disk and renamed over the old one, so that a kill at any moment
leaves the last good one. It begins with a header of its own:

    8 bytes  b"DEEPSUP\\n"     4 bytes  format version     8 bytes  length of the payload     32 bytes  its SHA-256

so that a file that is cut off, altered, foreign or from another version is told apart before anything is read from
it. The payload is read with `weights_only=True`: it can hold tensors and plain values, never code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import __version__, documents
from deepsup.errors import CheckpointError
from deepsup.files import LEFTOVER, write_atomically

MAGIC = b"DEEPSUP\n"
FORMAT = 2
_HEADER = struct.Struct("<8sIQ32s")
_STORED = {
    "epoch_rng": "feed_rng",
    "sums": "tallies",
}  # what fields are called in files, since the first of this format


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    `step` counts optimiser steps done, `epoch` finished epochs and `batch` the batches done of the epoch under way.
    `rng` holds one state a process, `epoch_rng` those at the beginning of the epoch, from which an epoch's own
    shuffling can be repeated, `sums` the sums of the epoch so far. `seconds` is the training time so far,
    `epoch_began` that before the epoch under way. `journal` is the length of the journal in bytes, `journal_sha256` their hash.
    `averaged` are the mean weights over the steps, where they are kept, `scaler` is of 16 bits.
    """

    net: dict[str, Any]
    optimizer: dict[str, Any]
    epoch: int
    batch: int
    step: int
    rng: list[dict[str, Any]]
    epoch_rng: list[dict[str, Any]]
    sums: list[dict[str, Any]]
    journal: int
    score: float | None = None
    metric: str = "accuracy"
    best_score: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    epoch_began: float = 0.0
    step_ms: list[float] = field(default_factory=list)
    plan: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    journal_sha256: str | None = None
    averaged: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    library: str = __version__

    @property
    def weights(self) -> dict[str, Any]:
        """The state of the net that was validated: the mean over the steps where that is kept, else the net's own."""
        return self.net if self.averaged is None else self.averaged


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint so that `path` holds either the old one or the new one, whatever happens meanwhile."""
    buffer = io.BytesIO()
    torch.save({_STORED.get(f.name, f.name): getattr(checkpoint, f.name) for f in fields(checkpoint)}, buffer)
    payload = buffer.getvalue()
    data = _HEADER.pack(MAGIC, FORMAT, len(payload), hashlib.sha256(payload).digest()) + payload
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(data))


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises `CheckpointError` when the file is missing, truncated, altered, not a deepsup checkpoint or of another
    format.
    """
    file = Path(path)
    try:
        data = documents.content(file)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {file}: {error.strerror or error}.") from None
    payload = _verified(file, data)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        named = {stored: name for name, stored in _STORED.items()}
        return Checkpoint(**{named.get(key, key): value for key, value in content.items()})
    except (TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"the checkpoint {file} is intact, but does not hold what this version of deepsup ({__version__}) expects: "
            f"{error}. Resume it with the version that wrote it, or remove it to start the run again."
        ) from None


def _verified(file: Path, data: bytes) -> bytes:
    again = "Remove it to start the run again, or put an intact copy in its place."
    if not data.startswith(MAGIC[: len(data)]):
        raise CheckpointError(f"{file} is not a deepsup checkpoint: it does not begin with {MAGIC!r}. {again}")
    if len(data) < _HEADER.size:
        raise CheckpointError(f"the checkpoint {file} is truncated: {len(data)} bytes, less than its header. {again}")
    _, number, length, digest = _HEADER.unpack_from(data)
    if number != FORMAT:
        raise CheckpointError(
            f"the checkpoint {file} has format {number}; this deepsup ({__version__}) reads format {FORMAT}. "
            "Resume it with the version that wrote it, or remove it to start the run again."
        )
    payload = data[_HEADER.size :]
    if len(payload) < length:
        raise CheckpointError(
            f"the checkpoint {file} is truncated: {len(payload)} of {length} bytes of payload are there. {again}"
        )
    if len(payload) > length or hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"the checkpoint {file} was altered: its content does not match its checksum. {again}")
    return payload


def remove_leftovers(*folders: Path) -> None:
    """Remove what a kill in the middle of writing a file left behind in these folders."""
    for folder in folders:
        for leftover in folder.glob(f".*.{LEFTOVER}{'[0-9a-f]' * 12}"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:  # of versions before
                leftover.unlink(missing_ok=True)


def rng_state() -> dict[str, Any]:
    """The state of every random stream of this process: torch on CPU and GPU, `random`, and numpy if it is in use."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "random": random.getstate()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        import numpy as np

        name, keys, *rest = np.random.get_state(legacy=True)
        state["numpy"] = [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *map(float, rest)]
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue every random stream from where `rng_state` saw it."""
    torch.set_rng_state(state["torch"])
    version_, internal, gauss = state["random"]
    random.setstate((version_, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)
    if "numpy" in state:
        import numpy as np

        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))


def on_cpu(state: Any) -> Any:
    """Plain values and tensors with the tensors on the CPU, to be sent to another process or stored."""
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state


def load_net(net: nn.Module, checkpoint: Checkpoint, *, trained: bool = False) -> None:
    """Load model and heads, to train on or as they were `trained` so far, the mean over the steps where that is kept.

    Raises `CheckpointError` when the checkpoint is of another net.
    """
    try:
        net.load_state_dict(checkpoint.weights if trained else checkpoint.net)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this net: {error} Resume with the model and plan that it was written with."
        ) from None
