"""Would a test notice? One small change of the core at a time, and the tests that should fail of it.

    python -m tests.campaigns.mutants [--count 300] [--seed 0] [--minutes 60] [--again]

Draws changes of operators, comparisons, constants and of dropped `.detach()` and `.clone()` from the committed sources, and runs
for each the tests of its own file, then those of its room, then the contracts, until one fails. What is known stands in
benchmarks/results/mutants.json: the same command goes on there, `--again` tries the survivors with today's tests, and a `reason`
that somebody wrote beside one stays. Tests run in children of a process that has imported torch already.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/mutants.json"
CORE = (
    "losses/",
    "supervision/",
    "plans/",
    "layers/",
    "features.",
    "gradients.",
    "schedules.",
    "terms.",
    "comparisons/statistics.",
)
STAGES = ("file", "room", "contracts")
GPU = "upsampled_triton"  # its tests skip without one
WARM = ("torch._dynamo", "scipy.stats", "torchvision", "sklearn.datasets", "lightning_fabric")
SWAPS = "Add Sub, Mult Div, FloorDiv Mult, Pow Mult, Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, And Or"
OTHER: dict[type, Any] = {}
for one, two in (map(ast.__dict__.__getitem__, pair.split()) for pair in SWAPS.split(", ")):
    OTHER |= {two: OTHER.get(two, one), one: two}


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its one small change; None for one that has none."""
    match node:
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OTHER:
            return ast.BinOp(a, OTHER[type(op)](), b)
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(OTHER[type(op)](), values)
        case ast.Compare(left=a, ops=[op, *rest], comparators=others):
            return ast.Compare(a, [OTHER[type(op)](), *rest], others)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inner):
            return inner
        case ast.Call(func=ast.Attribute(value=inner, attr="detach" | "clone"), args=[], keywords=[]):
            return inner
        case ast.Constant(value=bool(flag)):
            return ast.Constant(not flag)
        case ast.Constant(value=int(number) | float(number)):
            return ast.Constant(number + 1 if number in (0, 1) and type(number) is int else number * 2 or 1.0)
    return None


def walked(node: ast.AST) -> Iterator[ast.AST]:
    """What runs and counts of a tree: no annotations, and nothing of what is raised or warned."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(value, (ast.Raise, ast.Assert, ast.JoinedStr)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr)):
                yield from walked(child)


def mutants(package: Path) -> dict[str, str]:
    """The source of each file changed at one place, by a name that other changes of the sources leave alone."""
    found: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        if path.stem == GPU or not str(path.relative_to(package)).startswith(CORE):
            continue
        text = path.read_text("utf-8")
        raw, starts = text.encode(), [0]
        for line in raw.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        seen: Counter[str] = Counter()
        for node in walked(ast.parse(text)):
            if (other := changed(node)) is None:
                continue
            begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            line = text.splitlines()[node.lineno - 1].strip()  # type: ignore[attr-defined]
            name = f"{path.relative_to(package)}: {ast.unparse(node)} -> {ast.unparse(other)} in: {line}"
            seen[name] += 1
            name += f" #{seen[name]}" if seen[name] > 1 else ""
            found[name] = (raw[:begin] + f"({ast.unparse(other)})".encode() + raw[end:]).decode()
    return found


def stages(file: str) -> dict[str, list[str]]:
    """The tests to run, the closest first."""
    path = Path(file)
    top = [f"tests/{p.name}" for p in (ROOT / "tests").glob("test_*.py")]
    room = [f"tests/{path.parent}"] if path.parent.name else top
    return {"file": [f"tests/{path.with_name(f'test_{path.name}')}"], "room": room, "contracts": ["tests/contracts"]}


def _be_pytest(copy: Path, tests: list[str]) -> None:
    os.setsid()
    os.chdir(copy)
    with (copy / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "deepsup")]:
        del sys.modules[name]  # the copy's, not ours
    sys.path[:0] = [str(copy / "src"), str(copy)]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])))


def tested(copy: Path, tests: list[str], limit: float) -> str:
    """`passed`, `failed` or `late`, from a child of its own."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            _be_pytest(copy, tests)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    until, done = time.monotonic() + limit, (0, 0)
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what its tests may have left running
    if done[0] == 0:
        os.waitpid(child, 0)
        return "late"
    return "passed" if os.waitstatus_to_exitcode(done[1]) == 0 else "failed"


def judged(copy: Path, file: str, text: str, usual: dict[str, float], found: dict[str, Any], last: str) -> None:
    """Write into `found` which tests up to the `last` stage noticed the changed text of a file, if any did."""
    path, began = copy / "src/deepsup" / file, time.monotonic()
    before = path.read_text("utf-8")
    for stage, tests in stages(file).items():
        if stage in found["passed"] or STAGES.index(stage) > STAGES.index(last):
            continue
        if (key := tests[0]) not in usual:
            start, state = time.monotonic(), tested(copy, tests, 3600)
            usual[key] = time.monotonic() - start if state == "passed" else -1.0
        if usual[key] < 0:
            print("without a change these fail already:", tests, flush=True)
            continue
        path.write_text(text, "utf-8")
        try:
            state = tested(copy, tests, 60 + 5 * usual[key])
        finally:
            path.write_text(before, "utf-8")
        found["seconds"] = round(found["seconds"] + time.monotonic() - began, 1)
        if state != "passed":
            found |= {"killed": stage, "how": state}
            return
        found["passed"].append(stage)


def save(told: dict[str, Any]) -> None:
    """Counts, versions and all mutants, in one file."""
    told["counts"] = dict(
        Counter(found["killed"] or "survived" for found in told["mutants"].values() if found["seconds"])
    )
    told["versions"] = {"python": sys.version.split()[0], "torch": str(sys.modules["torch"].__version__)}
    RESULT.with_suffix(".new").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    RESULT.with_suffix(".new").replace(RESULT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--again", action="store_true", help="try the survivors again, with today's tests")
    asked, until = parser.parse_args(), time.monotonic()
    until += 60 * asked.minutes
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = True
    for name in WARM:
        importlib.import_module(name)
    told: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {"mutants": {}}
    git = ["git", "-C", str(ROOT)]
    told["commit"] = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    told["command"] = f"python -m tests.campaigns.mutants --count {asked.count} --seed {asked.seed}"
    with TemporaryDirectory(prefix="deepsup-mutants-") as place:
        copy, usual = Path(place), dict[str, float]()
        archive = subprocess.run([*git, "archive", "HEAD"], capture_output=True, check=True).stdout
        subprocess.run(["tar", "x", "-C", place], input=archive, check=True)
        known = mutants(copy / "src/deepsup")
        drawn = random.Random(asked.seed).sample(sorted(known), min(asked.count, len(known)))
        told["of"] = len(known)
        if asked.again:
            drawn = [name for name, old in told["mutants"].items() if not old["killed"] and name in known]
            told["mutants"] |= {name: told["mutants"][name] | {"passed": []} for name in drawn}
        for last in STAGES[1:]:  # the contracts take long, and come for those that nothing else has noticed
            for name in drawn:
                found = told["mutants"].setdefault(name, {"killed": None, "passed": [], "seconds": 0.0})
                if time.monotonic() > until or found["killed"] or last in found["passed"]:
                    continue
                judged(copy, name.partition(":")[0], known[name], usual, found, last)
                print(found, name, flush=True)
                save(told)
    print(told.get("counts"))


if __name__ == "__main__":
    main()
