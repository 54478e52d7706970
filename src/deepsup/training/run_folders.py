"""Journals and comparisons on disk: the only door between a run and what a report shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepsup import documents
from deepsup.errors import ConfigError
from deepsup.training.records import ACCURACY, Conflict, End, Epoch, Gradients, Run, Step, number, numbers

JOURNAL: Final = "journal.jsonl"
COMPARISON: Final = "compare.json"
CERTIFICATE: Final = "certificate.json"
FORMAT: Final = 1


@dataclass(slots=True)
class _Draft:
    """A journal while it is being read: keyed by step or epoch, so that a resumed run replaces what it repeats."""

    start: Mapping[str, Any]
    gradients: dict[int, Gradients] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    conflicts: dict[int, Conflict] = field(default_factory=dict)
    epochs: dict[int, Epoch] = field(default_factory=dict)
    findings: tuple[Mapping[str, Any], ...] | None = None
    placement: Mapping[str, Any] | None = None
    saved_bytes: float = math.nan
    resumed: list[int] = field(default_factory=list)
    stop: str | None = None
    end: End | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        match record["kind"]:
            case "gradients":
                gradients = Gradients(int(record["step"]), numbers(record["layers"]))
                self.gradients[gradients.step] = gradients
            case "step":
                step = Step.of(record)
                self.steps[step.step] = step
            case "conflict":
                conflict = Conflict.of(record)
                self.conflicts[conflict.step] = conflict
            case "doctor":
                self.findings = tuple(dict(finding) for finding in record["findings"])
            case "placement":
                self.placement = {**record, "gradients": numbers(record.get("gradients"))}
            case "cost":
                self.saved_bytes = number(record["saved_bytes"])
            case "epoch":
                epoch = Epoch.of(record)
                self.epochs[epoch.epoch] = epoch
            case "resume":
                self.rewind(int(record["step"]))
            case "stop":
                self.stop = str(record["reason"])
            case "end":
                self.end = End.of(record)
            case _:
                pass  # a kind that a later version added: nothing here shows it

    def rewind(self, step: int) -> None:
        """Forget what the killed process did after the checkpoint: the resumed one did it again."""
        self.gradients = {k: v for k, v in self.gradients.items() if v.step <= step}
        self.steps = {k: v for k, v in self.steps.items() if v.step <= step}
        self.conflicts = {k: v for k, v in self.conflicts.items() if v.step <= step}
        self.epochs = {k: v for k, v in self.epochs.items() if v.step <= step}
        self.resumed.append(step)
        self.stop = self.end = None


def runs(path: str | Path) -> list[Run]:
    """Read the run at `path`, or every run of the comparison at `path`.

    >>> for run in runs("runs/demo"):           # doctest: +SKIP
    ...     print(run.name, run.finished)

    A last line that a killed writer left torn is ignored. Any other malformed line is a `ConfigError` that names file
    and line. In a comparison the runs come in the order of its compare.json (by name when there is none yet), and a run
    killed before its first record is left out.
    """
    folder = Path(path)
    if (folder / JOURNAL).is_file():
        return [run(folder)]
    compare = comparison(folder)
    found = sorted(file.parent for file in folder.rglob(JOURNAL)) if folder.is_dir() else []
    if compare is not None and (listed := listed_runs(compare)):
        found = [folder / name for name in listed if (folder / name / JOURNAL).is_file()]
    if not found and compare is None:
        raise ConfigError(_nothing_to_read(folder))
    return [read for place in found if (read := _read(place / JOURNAL)) is not None]


def run(folder: str | Path) -> Run:
    """Read the journal of one run directory."""
    journal = Path(folder) / JOURNAL
    if not journal.is_file():
        raise ConfigError(_nothing_to_read(Path(folder)))
    read = _read(journal)
    if read is None:
        raise ConfigError(
            f"{journal} holds no complete record: the run was killed before its first line. Start it again."
        )
    return read


def found_run(folder: str | Path) -> Run | None:
    """Read the journal of one run directory; None where there is none yet, or not one complete record."""
    journal = Path(folder) / JOURNAL
    return _read(journal) if journal.is_file() else None


def comparison(folder: str | Path) -> dict[str, Any] | None:
    """Read compare.json in `folder`, or return None when there is none (a single run, or a comparison under way)."""
    file = Path(folder) / COMPARISON
    return document(file) if file.is_file() else None


def document(file: Path) -> dict[str, Any]:
    """Read one JSON object from a file; a `ConfigError` names the file and the line that is wrong."""
    try:
        content = documents.parsed(file.read_bytes())
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}). Restore the file, or run again what wrote it."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text. Restore the file, or run again what wrote it.") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}). Restore the file, or run again what wrote it.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds a JSON {type(content).__name__}, and an object was expected.")
    _check_format(content, where=str(file))
    return content


def listed_runs(compare: Mapping[str, Any]) -> list[str]:
    """Return the names of the runs that a comparison says it is made of, in its order.

    Raises `ConfigError` for one that lies outside of the comparison's folder: a report shows nothing of other folders.
    """
    arms = (arm for group in compare.get("groups") or () for arm in (group.get("arms") or {}).values())
    names = [str(name) for arm in arms for name in arm.get("runs") or ()]
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ConfigError(
            f"{COMPARISON} lists the run {outside[0]!r}, which does not lie in its folder. Restore the file."
        )
    return names


def _nothing_to_read(folder: Path) -> str:
    if not folder.exists():
        return f"asked for a report of {folder}, which does not exist. Give a run or comparison directory."
    here = ", ".join(sorted(item.name for item in folder.iterdir())[:8]) if folder.is_dir() else "a file"
    return (
        f"no run found in {folder}. Looked for {JOURNAL} (one run), {COMPARISON} (a comparison) and */{JOURNAL} at any "
        f"depth; found {here or 'an empty directory'}. Give the directory that `deepsup train` or `compare` wrote."
    )


def _read(journal: Path) -> Run | None:
    """Read a journal; None when not even its first record is complete."""
    lines = journal.read_bytes().split(b"\n")
    draft: _Draft | None = None
    for n, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{journal}, line {n}"
        record = _record(line, where=where, torn=n == len(lines))
        if record is None:
            break
        draft = _take(draft, record, where=where)
    return _finish(journal.parent, draft) if draft else None


def _record(line: bytes, *, where: str, torn: bool) -> dict[str, Any] | None:
    """Parse one line; None when it is the torn last one (`torn`: nothing, not even a newline, follows it)."""
    try:
        record = documents.parsed(line)
    except ValueError as error:
        if torn:
            return None
        raise ConfigError(
            f"{where}: not a JSON record ({line[:60]!r}). A killed writer can tear only the last line, so this file "
            "was changed or damaged afterwards. Restore it, or delete the line if you can do without it."
        ) from error
    if not isinstance(record, dict) or "kind" not in record:
        raise ConfigError(f'{where}: a record must be an object with a "kind", found {line[:60]!r}.')
    return record


def _take(draft: _Draft | None, record: dict[str, Any], *, where: str) -> _Draft:
    if record["kind"] == "start":
        _check_format(record, where=where)
        _check_start(record, where=where)
        return _Draft(record)
    if draft is None:
        raise ConfigError(f'{where}: a journal begins with a "start" record, found {record["kind"]!r}.')
    try:
        draft.add(record)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f'{where}: a malformed "{record["kind"]}" record ({what}). Was this file edited?') from error
    return draft


def _finish(folder: Path, draft: _Draft) -> Run:
    start = draft.start
    seed = start.get("seed")
    return Run(
        path=folder,
        name=str(start.get("name") or folder.name),
        group=str(start.get("group") or ""),
        arm=str(start.get("arm") or ("supervised" if start.get("plan") else "plain")),
        seed=None if seed is None else int(seed),
        config=start.get("config") or {},
        plan=start.get("plan"),
        environment=start.get("environment") or {},
        cost=start.get("cost") or {},
        planned=start.get("epochs") or (start.get("config") or {}).get("epochs"),
        metric=str(start.get("metric") or ACCURACY),
        images=start.get("images"),
        gradients=tuple(draft.gradients[key] for key in sorted(draft.gradients)),
        steps=tuple(draft.steps[key] for key in sorted(draft.steps)),
        conflicts=tuple(draft.conflicts[key] for key in sorted(draft.conflicts)),
        epochs=tuple(draft.epochs[key] for key in sorted(draft.epochs)),
        findings=draft.findings,
        placement=draft.placement,
        saved_bytes=draft.saved_bytes,
        resumed=tuple(draft.resumed),
        stop=draft.stop,
        end=draft.end,
    )


def _check_start(record: Mapping[str, Any], *, where: str) -> None:
    kinds: dict[str, type] = dict.fromkeys(("config", "plan", "environment", "cost"), dict)
    kinds |= dict.fromkeys(("seed", "images", "epochs"), int)
    wrong = [name for name, kind in kinds.items() if not isinstance(record.get(name), (kind, type(None)))]
    if wrong:
        raise ConfigError(
            f'{where}: a malformed "start" record ({wrong[0]}: {record[wrong[0]]!r:.40}). Was this file edited?'
        )


def _check_format(content: Mapping[str, Any], *, where: str) -> None:
    found = content.get("format", FORMAT)
    if found != FORMAT:
        raise ConfigError(
            f"{where}: format {found}, and this deepsup reads format {FORMAT}. Use the version that wrote it."
        )
