"""How long a person waits for what should take no time: help, import, a probe of a deep net, the report of a long run.

    python benchmarks/waits.py        # writes benchmarks/results/waits.json

Processor seconds of one thread, the least of three; commands are started as a person starts them. `import deepsup` is what it
takes beyond `import torch`, with every public name asked for.

Expected time: about a minute on one CPU core.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.support import synthetic_journals
from torch import nn

import deepsup as ds
from deepsup import reports

ROOT = Path(__file__).parents[1]
LINES = 100_000
NAMES = """
import time, torch
before = time.process_time()
import deepsup
[getattr(deepsup, name) for name in deepsup.__all__ if name != "fit"]
print(time.process_time() - before)
"""


def of_process(*words: str) -> float:
    """Processor seconds of a Python of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_import() -> float:
    """Processor seconds of importing every public name where torch is there already."""
    done = subprocess.run([sys.executable, "-c", NAMES], check=True, capture_output=True, text=True)
    return float(done.stdout)


def of_call(function: Callable[..., Any], *given: Any) -> float:
    """Processor seconds of a call."""
    before = time.process_time()
    function(*given)
    return time.process_time() - before


def deep(layers: int) -> nn.Sequential:
    """So many linear layers and activations, one behind the other."""
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 4))


def probed(layers: int) -> float:
    """A probe of two iterations."""
    batch = (torch.randn(4, 8), torch.tensor([0, 1, 2, 3]))
    return of_call(lambda: ds.probe(deep(layers), [batch], iterations=2))


def long_run(folder: Path) -> Path:
    """A run whose journal has `LINES` lines, most of them steps."""
    records = synthetic_journals.journal("adam", "supervised", 0)
    first = next(i for i, record in enumerate(records) if record["kind"] == "step")
    more = [records[first]] * (LINES - len(records))
    run = folder / "run"
    synthetic_journals.write(run, [*records[:first], *more, *records[first:]])
    return run


def least(measure: Callable[[], float]) -> float:
    """The least of three."""
    return round(min(measure() for _ in range(3)), 3)


def main() -> None:
    """Measure all of it, print and keep it."""
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as place:
        run, page = long_run(Path(place)), Path(place) / "report.html"
        found = {
            "deepsup --help": least(lambda: of_process("-m", "deepsup", "--help")),
            "deepsup --version": least(lambda: of_process("-m", "deepsup", "--version")),
            "import deepsup beyond torch": least(of_import),
            "probe, 300 layers": least(lambda: probed(300)),
            "probe, 3,000 layers": least(lambda: probed(3_000)),
            f"report of {LINES:,} lines": least(lambda: of_call(reports.write_html, run, page)),
        }
        size = page.stat().st_size
    for name, seconds in found.items():
        print(f"{name:32} {seconds:7.3f} s")
    said = {
        "command": "python benchmarks/waits.py", "commit": commit.stdout.strip(), "python": platform.python_version(),
        "torch": torch.__version__, "processor": platform.processor() or platform.machine(), "rows": found, "report_bytes": size,
    }  # fmt: skip
    (ROOT / "benchmarks/results/waits.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
