"""The order of the files: imports run one way, the core needs torch alone, only the command line prints."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepsup

PACKAGE = Path(deepsup.__file__).parent

# A core file imports only from files before it. A new file has to find its place here.
ORDER = [
    "errors",
    "callers",
    "calls",
    "labels",
    "kernels",
    "fused",
    "targets",
    "pixels",
    "contrastive",
    "schedules",
    "features",
    "lineage",
    "restoring",
    "traces",
    "layers",
    "gradients",
    "taps",
    "pieces",
    "continuations/cutting",
    "continuations/resizing",
    "continuations/blocks",
    "continuations/building",
    "continuations/hierarchies",
    "dense",
    "heads",
    "costs",
    "losses",
    "maps",
    "edges",
    "methods/presets",
    "methods/classifiers",
    "methods/mimics",
    "methods/segmenters",
    "methods/table",
    "weights",
    "probes/magnitudes",
    "probes/placements",
    "probes/readings",
    "probes/probing",
    "plans",
    "agreement",
    "planning",
    "supervised",
    "objectives",
    "stripping",
    "exits",
    "conflicts",
    "doctor/findings",
    "doctor/checks",
    "doctor/scores",
    "doctor/rehearsals",
    "doctor/diagnosing",
]
ABOVE_THE_CORE = {"networks", "datasets", "scores", "overlays", "training", "reports", "screens", "cli"}
ENTRY_POINTS = {"__init__", "__main__", "cli", "screens"}

PUBLIC = [
    "Branch",
    "Conflict",
    "ConflictMeter",
    "Diagnosis",
    "Edge",
    "Feature",
    "Finding",
    "Objective",
    "Outputs",
    "Plan",
    "Probe",
    "Supervised",
    "Terms",
    "attach",
    "diagnose",
    "early_exit",
    "ensemble",
    "errors",
    "features",
    "fit",
    "gradients",
    "heads",
    "is_supervised",
    "jacobian_backward",
    "load_weights",
    "losses",
    "main_prediction",
    "methods",
    "parameter_conflicts",
    "parameter_groups",
    "plan",
    "probe",
    "save_weights",
    "schedules",
    "strip",
    "supervising",
    "trace",
    "verify",
]

SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = [PACKAGE / f"{name}.py" for name in ORDER]


def imported(path: Path) -> Iterator[str]:
    """Names of the deepsup modules that a file imports, top level part: `traces`, `training`."""
    package = ["deepsup", *path.parent.relative_to(PACKAGE).parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*up, *([node.module] if node.module else [])])
            found = [f"{module}.{a.name}" for a in node.names]
        else:
            continue
        yield from (place(name.split(".")[1:]) for name in found if name.startswith("deepsup."))


def place(parts: list[str]) -> str:
    """Where a module stands in `ORDER`; a folder as a whole stands where its last file does."""
    nested = "/".join(parts[:2])
    inside = [name for name in ORDER if name.startswith(f"{parts[0]}/")]
    return nested if nested in ORDER else inside[-1] if inside else parts[0]


def outside(path: Path) -> set[str]:
    """Top level packages that a file imports from outside of deepsup."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - {"deepsup"}


def test_every_core_file_has_its_place() -> None:
    folders = {name.partition("/")[0] for name in ORDER if "/" in name}
    nested = {f"{folder}/{p.stem}" for folder in folders for p in (PACKAGE / folder).glob("*.py")}
    found = {p.stem for p in PACKAGE.glob("*.py")} - ENTRY_POINTS - ABOVE_THE_CORE | nested - {
        f"{folder}/__init__" for folder in folders
    }
    assert found == set(ORDER)


@pytest.mark.parametrize("path", CORE, ids=ORDER)
def test_a_core_file_imports_only_from_files_before_it(path: Path) -> None:
    assert set(imported(path)) <= set(ORDER[: CORE.index(path)])


@pytest.mark.parametrize("path", CORE, ids=ORDER)
def test_a_core_file_needs_torch_alone(path: Path) -> None:
    more = {
        "weights": {"safetensors"},
        "conflicts": {"torchjd"},  # the bridge to torchjd, imported when it is called
        "kernels": {
            "triton"
        },  # a GPU's way to do what `fused` does anywhere; imported there, where Triton is installed
    }
    assert outside(path) - set(sys.stdlib_module_names) <= {"torch"} | more.get(path.stem, set())
    at_once = [n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert not re.search(r"\b(torchjd|kernels)\b", "\n".join(map(ast.unparse, at_once)))


def test_the_package_imports_the_rest_only_when_asked() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    tree.body = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]  # neither `if` nor `def`
    at_once = {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.level} - {None}
    assert {place([name]) for name in at_once} <= set(ORDER)
    assert at_once


def test_no_file_is_called_after_what_everything_is() -> None:
    names = {p.stem for p in (*SOURCES, *Path(__file__).parents[1].rglob("*.py"))}
    assert not names & {"utils", "util", "common", "helpers", "helper", "base", "core", "misc"}


def test_only_the_command_line_prints() -> None:
    printing = [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if path.stem not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint")
    ]
    assert printing == []


def test_the_public_names_are_these() -> None:
    assert deepsup.__all__ == PUBLIC == sorted(PUBLIC)
    assert all(hasattr(deepsup, name) for name in PUBLIC)
    public = {n for n in vars(deepsup) if not n.startswith("_")} | {"fit"}
    implied = {"annotations", "Any", "TYPE_CHECKING"} | {name.partition("/")[0] for name in ORDER} | ABOVE_THE_CORE
    assert public - implied == set(PUBLIC) - implied
    with pytest.raises(AttributeError, match="module 'deepsup' has no attribute 'fitt'"):
        _ = deepsup.fitt


ALONE = """
import sys

HIDDEN = {"pydantic", "yaml", "rich", "typer", "timm", "torchvision", "lightning", "lightning_fabric", "sklearn",
          "plotly", "matplotlib", "jinja2", "scipy", "torchmetrics", "tensorboard", "torchjd"}

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
