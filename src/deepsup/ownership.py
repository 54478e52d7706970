"""Which files of a folder deepsup wrote itself: it overwrites these and no others.

`FOLDER/manifest.json` holds under `files` the sha256 of each by its path in the folder, null for those that grow while a run
is at work, and under `before` that of the file it replaced: a kill may come before the new one is in its place.

A file elsewhere, that a person named, is on no list: its place must be free (`refuse_taken`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from deepsup import documents
from deepsup.errors import ConfigError
from deepsup.files import write_atomically

MANIFEST = "manifest.json"
FORMAT = 1


def recorded(folder: Path) -> dict[str, str | None]:
    """The sha256 of what deepsup wrote into a folder, by name; empty where it wrote nothing.

    Raises `ConfigError` for a manifest that is damaged or of somebody else.
    """
    return dict(_read(folder)["files"])


def foreign(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that are there, and are not as deepsup wrote them."""
    manifest = _read(folder)
    return [name for name in names if not _is_ours(folder, name, manifest)]


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Raise `ConfigError` with the names that deepsup would overwrite and has not written."""
    found = foreign(folder, names)
    if found:
        raise ConfigError(
            f"{folder} holds files that would be overwritten and that deepsup did not write, or that were changed since: "
            f"{', '.join(found)}. Move them away, or choose another folder."
        )


def refuse_taken(*paths: Path | None, overwrite: bool = False) -> None:
    """Raise `ConfigError` unless nothing is at the places where somebody wants something written.

    With `overwrite` a file may be there, but nothing that deepsup keeps on a folder's list: the run there needs it.
    """
    for path in paths:
        if path is None or not os.path.lexists(path):
            continue
        if not path.is_file() or path.is_symlink():
            raise ConfigError(f"{path} is there, and is no file that could be replaced. Choose another name.")
        if _is_listed(path):
            raise ConfigError(f"{path} belongs to what deepsup keeps in {path.parent}. Choose another name.")
        if not overwrite:
            raise ConfigError(f"{path} is there already. Choose another name, or say --overwrite.")


def write(folder: Path, name: str, how: Callable[[Path], object]) -> None:
    """Let `how` write a file and put it in its place in the folder, unless another one than ours is there (`ConfigError`)."""
    refuse_foreign(folder, [name])
    path = folder / name

    def noted(temporary: Path) -> None:
        how(temporary)
        manifest = _read(folder)
        if path.exists():
            manifest["before"][name] = sha256(path)
        manifest["files"][name] = sha256(temporary)
        _save(folder, manifest)

    write_atomically(path, noted)


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write these files as `write` does, but check and note them all at once: the list costs the same for one and for many."""
    refuse_foreign(folder, files)
    manifest = _read(folder)
    for name, content in files.items():
        if (folder / name).exists():
            manifest["before"][name] = sha256(folder / name)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    if files:
        _save(folder, manifest)
    for name, content in files.items():
        write_atomically(folder / name, partial(_fill, content))


def _fill(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text in UTF-8, as `write` does."""
    write(folder, name, lambda file: file.write_text(text, "utf-8"))


def remove(folder: Path, name: str) -> None:
    """Remove a file that deepsup wrote; one of somebody else stays."""
    manifest = _read(folder)
    if name in manifest["files"] and _is_ours(folder, name, manifest):
        (folder / name).unlink(missing_ok=True)
        manifest["before"].pop(name, None)
        del manifest["files"][name]
        _save(folder, manifest)


def claim(folder: Path, names: Iterable[str], *, growing: bool = True) -> None:
    """Note that these files are deepsup's: whatever they will hold, or if not `growing`, as they are now."""
    manifest = _read(folder)
    told = {name: None if growing else sha256(folder / name) for name in names}
    if any(name not in manifest["files"] for name in told):
        manifest["files"] |= told
        _save(folder, manifest)


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _is_listed(path: Path) -> bool:
    """Whether a file is on the list of a folder above it, or is such a list."""
    for folder in path.absolute().parents:
        if (folder / MANIFEST).is_file():
            with suppress(ConfigError):  # somebody else's, of that name
                if str(path.absolute().relative_to(folder)) in {MANIFEST, *recorded(folder)}:
                    return True
    return False


def _is_ours(folder: Path, name: str, manifest: dict[str, Any]) -> bool:
    """Whether nothing is there, or what deepsup put there."""
    path, files = folder / name, manifest["files"]
    if not path.exists():
        parents = [parent for parent in path.parents if parent.is_relative_to(folder)]
        return not path.is_symlink() and not any(parent.is_file() for parent in parents)
    if not path.is_file() or name not in files:
        return False
    return files[name] is None or sha256(path) in (files[name], manifest["before"].get(name))


def _read(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        told = documents.parsed(documents.content(file))
        if told["format"] == FORMAT and all(isinstance(told[key], dict) for key in ("files", "before")):
            return dict(told)
    except (FileNotFoundError, NotADirectoryError):
        return {"format": FORMAT, "files": {}, "before": {}}
    except (ValueError, TypeError, KeyError):
        pass
    raise ConfigError(
        f"{file} is not the list of what deepsup wrote, or is damaged. Move it away if it is yours, else restore it, or choose "
        "another folder."
    )


def _save(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(folder / MANIFEST, lambda file: file.write_text(text, "utf-8"))
