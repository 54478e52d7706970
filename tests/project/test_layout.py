"""The house: rooms in one order, imports one way, the core on torch alone, a test file for every source file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import deepsup

ROOT = Path(__file__).parents[2]
PACKAGE = Path(deepsup.__file__).parent
TESTS = ROOT / "tests"
SOURCES = sorted(PACKAGE.rglob("*.py"))
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()

# The order of the rooms stands in CONTRIBUTING.md, as the tree that a newcomer reads: nowhere else.
TREE = GUIDE.partition("```text\nsrc/deepsup/")[2].partition("```")[0]
ORDER = re.findall(r"^  ([a-z_]+)(?:\.py|/)", TREE, re.MULTILINE)
CORE = ORDER[: ORDER.index("doctor") + 1]
ENTRANCES = {"__init__", "__main__"}

PUBLIC_NAMESPACES = ["errors", "features", "gradients", "heads", "losses", "methods", "schedules"]
PUBLIC = [
    *("Branch", "Conflict", "ConflictMeter", "Criterion", "Diagnosis", "Edge", "Feature", "Finding", "Objective"),
    *("Outputs", "Plan"),
    *("Probe", "Supervised", "Terms", "attach", "diagnose", "early_exit", "embedder", "embeddings"),
    *("ensemble", "errors", "features", "fit"),
    *(
        "gradients",
        "heads",
        "is_supervised",
        "jacobian_backward",
        "load_weights",
        "losses",
        "main_prediction",
        "methods",
    ),
    *("parameter_conflicts", "parameter_groups", "plan", "probe", "save_weights", "schedules", "strip", "supervising"),
    *("trace", "verify"),
]

# What a core file may import beside torch, and not before it is used.
MORE = {"files": {"safetensors"}, "conflict_meter": {"torchjd"}, "upsampled_triton": {"triton"}}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it, and with `from package import name` also package.name; and those of ours
    that it names in a text of its own, for `import_module` and the like.
    """
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"deepsup(\.\w+)+", str(node.value)):
            yield str(node.value)


def test_the_tree_names_every_room_once() -> None:
    assert ORDER == list(dict.fromkeys(ORDER))
    assert set(ORDER) == {room_of(path) for path in SOURCES} - ENTRANCES


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    above = {*ORDER[: ORDER.index(room) + 1], "__version__"}
    for path in (p for p in SOURCES if room_of(p) == room):
        found = {name.split(".")[1] for name in imports(path) if name.startswith("deepsup.")}
        assert found <= above, f"{path.relative_to(PACKAGE)} imports {sorted(found - above)}"


def test_names_of_modules_that_are_imported_by_a_text_are_written_in_full() -> None:
    anybodys = {"specs", "build", "import_paths"}  # which import what they are told
    for path in (p for p in SOURCES if p.stem not in ENTRANCES | anybodys):
        for call in (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)):
            if ast.unparse(call.func).rpartition(".")[2] in ("import_module", "__import__", "find_spec"):
                name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
                assert re.fullmatch(r"\w+(\.\w+)*", str(name)), f"{path}: {ast.unparse(call)}"


def test_no_file_imports_itself_in_a_circle() -> None:
    names = {".".join(("deepsup", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in SOURCES}
    left = {n: {m for i in imports(p) for m in (i, i.rpartition(".")[0]) if m in names} - {n} for n, p in names.items()}
    while ready := {n for n, needs in left.items() if not needs & left.keys()}:
        left = {n: needs for n, needs in left.items() if n not in ready}
    assert not left


@pytest.mark.parametrize("room", CORE)
def test_the_core_needs_torch_alone(room: str) -> None:
    for path in (p for p in SOURCES if room_of(p) == room):
        found = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"deepsup"}
        assert found <= {"torch"} | MORE.get(path.stem, set()), path
        at_once = {a.name for n in tree_of(path).body if isinstance(n, ast.Import) for a in n.names}
        at_once |= {str(n.module) for n in tree_of(path).body if isinstance(n, ast.ImportFrom)}
        late = {name for name in at_once if name.partition(".")[0] in ("torchjd", "triton")}
        assert not late or path.stem == "upsampled_triton", path  # a file that is itself imported when it is asked for


def test_no_two_files_have_one_name_and_none_a_name_that_says_nothing() -> None:
    names = Counter(p.stem for p in SOURCES if p.stem not in ENTRANCES)
    assert [name for name, count in names.items() if count > 1] == []
    everywhere = {p.stem for p in (*SOURCES, *TESTS.rglob("*.py"))}
    assert not everywhere & {"utils", "util", "common", "helpers", "helper", "base", "core", "misc"}


def test_every_source_file_has_the_test_file_of_its_name() -> None:
    wanted = {TESTS / p.relative_to(PACKAGE).with_name(f"test_{p.name}") for p in SOURCES if p.stem not in ENTRANCES}
    assert sorted(str(p.relative_to(TESTS)) for p in wanted if not p.exists()) == []


def test_no_test_imports_a_test() -> None:
    for path in TESTS.rglob("*.py"):
        assert not [n for n in imports(path) if re.search(r"\.test_\w+", n)], path
    for path in (TESTS / "support").glob("*.py"):
        assert not re.search(r"^def test_", path.read_text(), re.MULTILINE), path


def test_only_the_command_line_prints() -> None:
    for path in SOURCES:
        if room_of(path) not in ("cli", "__main__"):
            calls = {
                n.func.id for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
            }
            assert not calls & {"print", "pprint"}, path


def test_files_and_functions_stay_short() -> None:
    long = [str(p) for p in SOURCES if p.read_text().count("\n") > 400]
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                long += [f"{path}: {node.name}"] if lines > 40 else []
    assert long == []


def test_the_public_names_are_these() -> None:
    assert deepsup.__all__ == PUBLIC == sorted(PUBLIC)
    assert all(hasattr(deepsup, name) for name in PUBLIC)
    assert {n for n in vars(deepsup) if not n.startswith("_")} - {
        "annotations",
        "Any",
        "TYPE_CHECKING",
        "import_module",
        "find_spec",
        "partial",
        *ORDER,
    } <= set(PUBLIC)
    assert set(PUBLIC_NAMESPACES) <= set(PUBLIC)
    homes = {f"deepsup.{home}": set(names) for home, names in deepsup._NAMES.items()}
    typed = next(node for node in tree_of(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    imported = [node for node in typed.body if isinstance(node, ast.ImportFrom) and node.module != "deepsup"]
    assert {str(node.module): {name.name for name in node.names} for node in imported} == homes
    with pytest.raises(AttributeError, match="module 'deepsup' has no attribute 'fitt'"):
        _ = deepsup.fitt


def test_the_changes_that_the_guide_explains_name_files_that_exist() -> None:
    table = GUIDE.partition("## The twenty changes")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| \d+ ", line)]
    assert [int(row[1]) for row in rows] == list(range(1, 21))
    for row in rows:
        named = re.findall(
            r"`((?:src|tests|docs|benchmarks|recipes)/[\w/.-]*|[\w-]+(?:/[\w.-]+)*(?:\.py|/))`", "|".join(row[3:])
        )
        assert named, row
        for name in named:
            assert (ROOT / name).exists() or (PACKAGE / name).exists(), f"{name} of change {row[1]} is not there"


ALONE = """
import sys

HIDDEN = {"pydantic", "yaml", "rich", "typer", "timm", "torchvision", "lightning", "lightning_fabric", "sklearn",
          "matplotlib", "jinja2", "scipy", "torchmetrics", "tensorboard", "torchjd"}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(f) for f in sys.meta_path]

import torch
from torch import nn
import deepsup as ds

assert not HIDDEN & {m.split(".")[0] for m in sys.modules}
assert not {"deepsup.training", "deepsup.reports", "deepsup.datasets", "deepsup.networks"} & set(sys.modules)
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 5))
x, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
plan = ds.plan(model, x, at=["1", "100%"], method="cnds")
assert str(plan)
plan.save(sys.argv[1] + "/plan.json")
net = ds.attach(model, ds.Plan.load(sys.argv[1] + "/plan.json")).train()
ds.Objective(plan)(net(x), y, progress=0.5).total.backward()
ds.probe(model, [(x, y)], iterations=2)
assert ds.strip(net, certificate=sys.argv[1] + "/c.json") is model
ds.save_weights(model, sys.argv[1] + "/model.safetensors")
ds.load_weights(model, sys.argv[1] + "/model.safetensors")
assert ds.verify(sys.argv[1] + "/c.json", model)["outputs"] == "identical"
try:
    ds.fit
except ds.errors.MissingPackageError as error:
    assert 'pip install "deepsup[train]"' in str(error), error
else:
    raise AssertionError("fit came up without its packages")
sys.stdout.write("all of it\\n")
"""


def test_the_core_runs_with_torch_and_safetensors_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "all of it\n"), done.stderr
