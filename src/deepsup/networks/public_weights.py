"""Weights that others have published: a file of tensors, its names made ours, taken whole or not at all."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deepsup.errors import CheckpointError

NESTED = ("state_dict", "model_state_dict", "model", "net")  # under which a checkpoint keeps its weights
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")  # what DataParallel, torch.compile and the like put before names


def read_tensors(path: str | Path, renames: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file, by the names that they have here.

    Reads safetensors, and of what `torch.save` wrote tensors in plain containers only: nothing in the file is run. What
    wrappers put before every name goes; `renames` says as regular expressions which parts of names become which.
    Raises `CheckpointError` for a file that is not there, holds anything else, or gives one name to two tensors.
    """
    tensors = _weights_in(_read(Path(path)), path)
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = name
        for old, new in renames.items():
            ours = re.sub(old, new, ours)
        if ours in found:
            raise CheckpointError(
                f"{path} holds {ours!r} twice, the second time as {name!r}: two sets of weights in one."
            )
        found[ours] = tensor
    return found


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path} to take weights from.") from None
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is cut off, or no file of weights alone, and nothing else is read from it ({reason:.200}). Save the "
            "state_dict of the model where it was made, best as safetensors."
        ) from None


def _weights_in(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The one state dict in what was read."""
    if isinstance(content, Mapping):
        nested = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), content)
        tensors = {str(name): value for name, value in nested.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(nested):
            return tensors
    raise CheckpointError(f"{path} holds no state dict: names and tensors, by themselves or under {', '.join(NESTED)}.")


def take(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, *, whose: str) -> None:
    """Give `model` all of these weights: every name and shape on both sides, or `CheckpointError` and nothing changed.

    Only the counters of batches that normalisations keep, which older files lack, may be missing. `whose` names the
    model in the message.
    """
    state = model.state_dict()
    needed = {name for name in state if not name.endswith("num_batches_tracked")}
    wrong = [f"lacks {name}" for name in sorted(needed - tensors.keys())]
    wrong += [f"has {name}, which is not there" for name in sorted(tensors.keys() - state.keys())]
    shared = sorted(tensors.keys() & state.keys())
    wrong += [
        f"has {name} of {_shape(tensors[name])} where {_shape(state[name])} is needed"
        for name in shared
        if tensors[name].shape != state[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path} holds the weights of another network than {whose}: it {_listed(wrong)}{more}.")
    model.load_state_dict(dict(tensors), strict=False)


def _listed(wrong: Iterable[str]) -> str:
    return ", ".join(list(wrong)[:3])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
