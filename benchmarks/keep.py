"""Copies what a comparison's committed result needs: configuration, result, plans, certificates and journals.

    python benchmarks/keep.py runs/cifar100-methods benchmarks/results/cifar100-methods

Of the journals the records of single steps (`step`, `conflict`, `gradients`) are left out: nine tenths of the bytes, and
nothing that the table or the verdicts are made from.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

LEFT_OUT = {"step", "conflict", "gradients"}
WHOLE = ("config.yaml", "compare.json", "plan.json", "certificate.json")


def keep(source: Path, target: Path) -> None:
    """Copy `source` to `target`, which must not be there yet."""
    target.mkdir(parents=True)
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.name in WHOLE:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        elif file.name == "journal.jsonl":
            place.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text("utf-8").splitlines(keepends=True)
            place.write_text("".join(line for line in lines if json.loads(line)["kind"] not in LEFT_OUT), "utf-8")


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]))
