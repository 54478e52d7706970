"""Plain weights on disk as safetensors: no pickle, atomic, strict in both directions."""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from deepsup.errors import CheckpointError

LEFTOVER = "deepsup-"  # begins the ending of the folder of a file that is being written


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write parameters and buffers of `model` as safetensors; `load_weights` reads them into an untouched model."""
    try:
        write_atomically(Path(path), lambda temporary: save_model(model, str(temporary)))
    except SafetensorError as error:  # its own word for a full disk
        raise OSError(f"{path} cannot be written: {error}") from None


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read `path` into `model`, strictly: every key on both sides, or `CheckpointError` and nothing changed."""
    if not Path(path).is_file():  # a pipe would be waited for
        raise CheckpointError(f"there is no file {path} to read weights from.")
    before = {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    try:
        load_model(model, str(path), strict=True)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is cut off or no safetensors file: {error}. Put an intact copy in its place."
        ) from None
    except (RuntimeError, OSError) as error:
        model.load_state_dict(before, strict=False)
        raise CheckpointError(
            f"{path} does not hold the weights of this {type(model).__name__}: {error}. "
            "Build the model as it was when the file was written."
        ) from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in place at once: old or new, never half.

    The file lies in a folder of its own beside `path`: a library may write temporary files beside it in turn (safetensors
    does), and what a kill leaves of those goes with the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{LEFTOVER}{secrets.token_hex(6)}")
    folder.mkdir()
    temporary = folder / path.name
    try:
        temporary.open("xb").close()
        rights = temporary.stat().st_mode  # those of any new file; safetensors would leave the file to its owner alone
        write(temporary)
        temporary.chmod(rights)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def state_sha256(model: nn.Module) -> str:
    """sha256 over every key, dtype, shape and byte of the state dict, in its order."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key};".encode())
        if isinstance(value, Tensor):
            update_digest(digest, value)
    return digest.hexdigest()


def update_digest(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed dtype, shape and bytes of a tensor into a hash; needs no numpy."""
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()) if plain.numel() else b"")
