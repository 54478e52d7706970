"""Weights that a run begins with: those of another run, or of a file; what does not fit is named, and nothing is run.

begun = start_from(net, "runs/pretrained")
print(begun)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from deepsup import documents
from deepsup.errors import CheckpointError, stacklevel
from deepsup.networks.public_weights import read_tensors
from deepsup.ownership import sha256
from deepsup.supervision.attaching import Supervised
from deepsup.training import checkpoints
from deepsup.training.checkpoints import MAGIC


class StartWarning(UserWarning):
    """Some of the weights that a run was to begin with do not fit its net."""


class Begun(NamedTuple):
    """What came of it: how many tensors were taken, and what was left of model and heads, each with its reason."""

    source: str
    sha256: str
    taken: int
    left: list[str]

    def __str__(self) -> str:
        more = f" and {len(self.left) - 4} more" if len(self.left) > 4 else ""
        left = f"; not: {', '.join(self.left[:4])}{more}" if self.left else ""
        return f"{self.taken} tensors of {self.source}{left}"

    def record(self) -> dict[str, Any]:
        """What a journal says of it."""
        return {"kind": "begun", **self._asdict()}


def start_from(net: nn.Module, source: str | Path, *, warn: bool = True) -> Begun:
    """Give `net` the weights of a run's folder or a file, by name, where name and shape fit; a `StartWarning` says what did not.

    A finished run's are `model.safetensors` and the heads beside it, an unfinished one's those of its checkpoint. Files are
    safetensors, `.ckpt` of deepsup, or what `torch.save` wrote, of which tensors in plain containers alone are read.
    A branch begins with the head of the same name. Raises `CheckpointError` where there are none, or none that fits.
    """
    file, tensors = _read(Path(source))
    taken, left = 0, []
    parts = [("", net)] if not isinstance(net, Supervised) else [("", net.model), ("heads.", net.heads)]
    for prefix, part in parts:
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith("heads.") == bool(prefix)}
        fits, why = _fitting(part, own)
        if not prefix and not fits:
            raise CheckpointError(
                f"{source} holds nothing that fits this {type(part).__name__}: {', '.join(why[:3])}. Give the weights of a "
                "network of the same kind."
            )
        part.load_state_dict(fits, strict=False)
        taken += len(fits)
        left += [prefix + each for each in why] if own else []
    begun = Begun(str(source), sha256(file), taken, left)
    if left and warn:
        warnings.warn(f"begins with {begun}. These begin as initialised.", StartWarning, stacklevel=stacklevel())
    return begun


def _fitting(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Of the tensors those that `module` has in the same shape, and what is wrong with the rest on either side."""
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    fits = {n: t for n, t in tensors.items() if n in state and state[n].shape == t.shape}
    wrong = [
        f"{n} ({tuple(tensors[n].shape)} there, {tuple(state[n].shape)} here)" if n in tensors else f"{n} (not there)"
        for n in state
        if n not in fits and (n in tensors or not n.endswith(("num_batches_tracked", "_extra_state")))
    ]
    return fits, wrong + [f"{n} (not here)" for n in tensors if n not in state]


def _read(source: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file with weights and all that it, and one with heads beside it, hold; heads begin with `heads.`."""
    file = _file(source)
    if source.is_dir() and file.suffix == ".safetensors":
        heads = source / "heads.safetensors"
        of_heads = read_tensors(heads, {"^": "heads."}) if heads.is_file() else {}
        return file, read_tensors(file, {}) | of_heads
    with file.open("rb") as opened:
        ours = opened.read(len(MAGIC)) == MAGIC
    if not ours:
        return file, _split(read_tensors(file, {}))
    held = checkpoints.load(file)
    return file, _split({name: t for name, t in held.weights.items() if isinstance(t, Tensor)})


def _file(source: Path) -> Path:
    names = ("model.safetensors", "checkpoint.ckpt")
    found = source if not source.is_dir() else next((source / n for n in names if (source / n).exists()), None)
    if found is None:
        raise CheckpointError(f"the folder {source} holds none of {', '.join(names)}. Give a run's folder, or a file.")
    if documents.is_odd(found) or not found.is_file():
        raise CheckpointError(
            f"there is no file {found} to take weights from. Give a run's folder, or a file of weights."
        )
    return found


def _split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a supervised net with its model's names as they are without it; any other state as it is."""
    kept = {name: t for name, t in tensors.items() if name != "_extra_state"}
    if not all(name.startswith(("model.", "heads.")) for name in kept):
        return tensors
    return {name.removeprefix("model."): t for name, t in kept.items()}
