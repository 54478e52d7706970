"""The record of a run: one JSON object a line, appended and flushed as things happen.

    with Journal("runs/digits/journal.jsonl") as journal:
        journal.write("step", step=10, total=0.7)
    [r["total"] for r in read("runs/digits/journal.jsonl", "step")]

A checkpoint remembers how long the journal was; on resume the file is cut back to that length, so that
no step is ever told twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from deepsup import documents
from deepsup.errors import CheckpointError, stacklevel

FORMAT = 1

Record = dict[str, Any]
Sink = Callable[[Record], None]


class LostJournalWarning(UserWarning):
    """The journal of a run that goes on is gone; its checkpoint is not."""


class Journal:
    """An append-only file of records; with `path=None` nothing is written, but sinks are still told.

    `offset` is the length in bytes to keep of a file that is there already: 0 starts over, None keeps all of it. Where all
    of it is gone a new file is begun with a warning, and the journal is `lost`. Raises `CheckpointError` where what is kept
    is too short, or not the bytes of that `sha256`.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        offset: int | None = 0,
        sha256: str | None = None,
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        self.path = None if path is None else Path(path)
        self._sinks = sinks
        self.lost = self.path is not None and bool(offset) and not (self.path.exists() and self.path.stat().st_size)
        if self.lost:
            told = f"{self.path} is lost, and with it what it told until the last checkpoint; the run goes on with a new one"
            warnings.warn(told, LostJournalWarning, stacklevel=stacklevel())
        self._digest = hashlib.sha256()
        self._file = None if self.path is None else self._opened(self.path, 0 if self.lost else offset, sha256)

    def _opened(self, path: Path, offset: int | None, sha256: str | None) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes()[:offset] if path.exists() else b""
        self._digest.update(before)
        wrong = f"{len(before)} bytes long" if len(before) < (offset or 0) else ""
        if not wrong and sha256 is not None and not self.lost and self.sha256 != sha256:
            wrong = "altered"
        if wrong:
            raise CheckpointError(
                f"{path} is {wrong}, but its checkpoint was written after {offset} bytes: the journal was cut, replaced or "
                "damaged. Restore it; if you remove it the run goes on with a new one, and forgets what it told before."
            )
        file = path.open("ab")
        if offset is not None:
            file.truncate(offset)
            file.seek(0, os.SEEK_END)
        return file

    @property
    def offset(self) -> int:
        """The length of the file in bytes."""
        return 0 if self._file is None else self._file.tell()

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return self._digest.hexdigest()

    def write(self, kind: str, **fields: Any) -> Record:
        """Append one record and hand it to the sinks; NaN and infinity become null, as JSON has neither."""
        record: Record = {"kind": kind, "time": round(time.time(), 3), **_plain(fields)}
        if self._file is not None:
            line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
            self._digest.update(line)
            self._file.write(line)
            self._file.flush()
        for sink in self._sinks:
            sink(record)
        return record

    def sync(self) -> int:
        """Make the file survive a power failure, and say how long it is.

        Raises `CheckpointError` where it is no longer at its path: the folder was moved, or the file replaced or removed.
        """
        if self._file is not None and self.path is not None:
            os.fsync(self._file.fileno())
            if not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
                raise CheckpointError(
                    f"{self.path} was moved, replaced or removed while its run was at work, and nothing more is written there. "
                    "Put it back, then start again: the run goes on from its last checkpoint."
                )
        return self.offset

    def close(self) -> None:
        """Close the file; the journal cannot be written any more."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | Path, kind: str | None = None) -> list[Record]:
    """The records of a journal, in order, all or one kind; a half-written last line is left out."""
    file = Path(path)
    if not file.is_file():
        return []
    return [r for r in parse_lines(file.read_bytes())[0] if kind is None or r["kind"] == kind]


def parse_lines(data: bytes) -> tuple[list[Record], int]:
    """The records of the complete lines in `data`, and how many bytes these lines take."""
    end = data.rfind(b"\n") + 1
    records = []
    for line in data[:end].splitlines():
        try:
            record = documents.parsed(line)
        except ValueError:  # a line torn by a crash of the machine; the next checkpoint's offset lies before it
            continue
        if isinstance(record, dict) and "kind" in record and (record["kind"] != "end" or _tells_the_end(record)):
            records.append(record)
    return records, end


def _tells_the_end(record: Record) -> bool:
    """Whether a record says what a run ended with, as ours do."""
    scores = (final_score(record), final_score(record, best=True))  # null where nothing was scored
    return isinstance(record.get("seconds"), (int, float)) and all(
        isinstance(s, (int, float, NoneType)) for s in scores
    )


def final_score(end: Record, *, best: bool = False) -> float | None:
    """The score that a run ended with, or its `best` one; journals from before scores had names call it accuracy."""
    names = ("best_score", "best_accuracy") if best else ("score", "accuracy")
    found: float | None = next((end[name] for name in names if name in end), None)
    return found


def output_scores(epoch: Record) -> dict[str, float]:
    """The score of each output after an epoch, in a journal of today or from before scores had names."""
    validation = epoch["validation"] or {}
    return dict(validation.get("score", validation.get("accuracy", {})))


def environment() -> dict[str, Any]:
    """What a number depends on besides the configuration: versions, processor, threads, commit and command."""
    import torch  # here, so that reading journals does not need it

    from deepsup import __version__

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "deepsup": __version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the library's own source tree, with `+` for uncommitted changes; None outside a repository."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        if not git("ls-files", "--", Path(__file__).name):  # installed inside someone else's repository
            return None
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
