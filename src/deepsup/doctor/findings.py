"""What the doctor says: one `Finding` a trap, gathered in a `Diagnosis` that prints one line each.

Every trap has a code, by which `docs/doctor.md` explains it and tests name it. It is registered in the file of the check
that finds it:

    SIDE_PATH = warning("side-path", why="The branch trains ...", fix="Choose a layer between ...")
    ...
    yield SIDE_PATH.found("branch 'a'", "layer 'side' does not lead to the prediction")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from deepsup.errors import DeepsupError

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """One trap that was found. `severity` is "error" (will stop or train wrongly) or "warning"; texts lack the full stop."""

    code: str
    severity: str
    where: str
    what: str
    why: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """For a journal."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}. {self.why}. Fix: {self.fix}. [{self.code}]"


@dataclass(frozen=True)
class Diagnosis:
    """All findings, errors first. Prints one line each and a closing line; empty (and false) when nothing was found."""

    findings: tuple[Finding, ...]
    checked: str = ""  # what was looked at, for the closing line

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that will stop training or make it wrong."""
        return tuple(f for f in self.findings if f.severity == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Those that cost something or are rarely meant."""
        return tuple(f for f in self.findings if f.severity == WARNING)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, each once."""
        return tuple(dict.fromkeys(f.code for f in self.findings))

    def to_dict(self) -> list[dict[str, str]]:
        """For a journal."""
        return [f.to_dict() for f in self.findings]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def summary(self) -> str:
        """The closing line: `no finding: ...`, or `2 errors, 1 warning`."""
        if not self.findings:
            return f"no finding: {self.checked}"
        counts = [(len(self.errors), ERROR), (len(self.warnings), WARNING)]
        return ", ".join(f"1 {severity}" if n == 1 else f"{n} {severity}s" for n, severity in counts if n)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary])


def diagnosis(found: list[Finding], checked: str) -> Diagnosis:
    """The findings without repetitions, errors first, else in the order in which they were found.

    What is found of several outputs in the very same words is one finding, of all of them.
    """
    places: dict[Finding, dict[str, None]] = {}
    for f in found:
        places.setdefault(replace(f, where=""), {})[f.where] = None
    joined = [replace(f, where=", ".join(where)) for f, where in places.items()]
    return Diagnosis(tuple(sorted(joined, key=lambda f: f.severity != ERROR)), checked)


@dataclass(frozen=True)
class Trap:
    """What is known of a trap wherever it lies: how bad it is, why it hurts, and the usual remedy."""

    code: str
    severity: str
    why: str
    fix: str

    def found(self, where: str, what: str, *, fix: str = "", why: str = "", severity: str = "") -> Finding:
        """It lies here; what is not given is the trap's own."""
        fix = _one_line(fix) or self.fix
        return Finding(self.code, severity or self.severity, where, _one_line(what), why or self.why, fix)


TRAPS: dict[str, Trap] = {}  # by code
RAISED: dict[type[DeepsupError], Trap] = {}  # by the error that planning or training would raise there


def error(code: str, *, why: str, fix: str, raised: type[DeepsupError] | None = None) -> Trap:
    """Register a trap that stops training or makes it wrong; texts lack the full stop. An error
    of the class `raised`, or a more special one, is a finding of it.
    """
    return _registered(Trap(code, ERROR, why, fix), raised)


def warning(code: str, *, why: str, fix: str) -> Trap:
    """Register a trap that costs something or is rarely meant."""
    return _registered(Trap(code, WARNING, why, fix), None)


def _registered(trap: Trap, raised: type[DeepsupError] | None) -> Trap:
    if TRAPS.setdefault(trap.code, trap) is not trap:
        raise ValueError(f"two traps are registered as {trap.code!r}")
    if raised is not None:
        RAISED[raised] = trap
    return trap


def from_error(raised: BaseException, where: str, *, trap: Trap | None = None, fix: str = "") -> Finding:
    """An error that planning or training would raise, as a finding; its last sentences are the remedy."""
    trap = trap or next((RAISED[kind] for kind in type(raised).__mro__ if kind in RAISED), FORWARD_FAILED)
    if not isinstance(raised, DeepsupError):
        return trap.found(where, f"{type(raised).__name__}: {raised}", fix=fix)
    text = str(raised)
    if trap is FORWARD_FAILED and text.endswith(f"{trap.fix}."):  # what the model itself said may have full stops
        return trap.found(where, text.removesuffix(f"{trap.fix}."), fix=fix)
    what, *rest = re.split(r"\.\s+(?=[A-Z])", text, maxsplit=1)
    return trap.found(where, what, fix=fix or "".join(rest))


def branch(name: str) -> str:
    """How a finding says where."""
    return f"branch '{name}'"


def some(names: list[str], most: int = 5) -> str:
    """The names, but not too many: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if flat.endswith("...") else flat.removesuffix(".")


FORWARD_FAILED = error(  # also whatever has no trap of its own
    "forward-failed",
    why="No training step can run",
    fix="The sample must be what the model takes in training, batch axis first, on the model's device",
)
