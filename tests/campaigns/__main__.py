"""The long form: `python -m tests.campaigns --long` goes on where it was stopped, and tells in JSON what it found.

benchmarks/results/campaigns.json holds the counts, every problem, the command, the commit and the versions. A case is known by
its number: `python -m tests.campaigns --only kills --case 17` does it again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from deepsup import __version__
from deepsup.files import write_atomically
from tests.campaigns.outcomes import Campaign

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/campaigns.json"
ROOMS = ("kills", "damages", "fuzzing", "disks")


def campaigns() -> list[Campaign]:
    return [importlib.import_module(f"tests.campaigns.{room}").CAMPAIGN for room in ROOMS]


def versions() -> dict[str, Any]:
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    found = {"deepsup": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {"commit": commit, "command": " ".join(["python -m tests.campaigns", *sys.argv[1:]]), "versions": found}


def save(told: dict[str, Any], file: Path) -> None:
    text = json.dumps(told, indent=1).replace(f"{ROOT}/", "") + "\n"  # tracebacks name files
    write_atomically(file, lambda path: path.write_text(text, "utf-8"))


def carry_out(campaign: Campaign, told: dict[str, Any], file: Path, place: Path, *, until: float, count: int) -> None:
    """The cases of a campaign that are left, until the time is over."""
    now = told["campaigns"].setdefault(campaign.name, {"cases": 0, "problems": {}, "seconds": 0.0, "counts": {}})
    if now["cases"] >= count:
        return
    state = campaign.prepare(place)
    known = Counter(now["counts"])
    while now["cases"] < count and time.monotonic() < until:
        number, began = now["cases"], time.monotonic()
        wrong = campaign.case(state, number, place)
        now["cases"] += 1
        now["seconds"] = round(now["seconds"] + time.monotonic() - began, 2)
        now["counts"] = dict(sorted((known + getattr(state, "counts", Counter())).items()))
        if wrong:
            now["problems"][str(number)] = wrong
            print(campaign.name, number, wrong, flush=True)
        save(told, file)
    print(campaign.name, now["cases"], "cases,", len(now["problems"]), "with problems", now["counts"], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="as many cases as the targets say; else as the tests do")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after that; the same command goes on")
    parser.add_argument("--only", help="one campaign: kills, damages, ...")
    parser.add_argument("--case", type=int, help="do one case again, by its number")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [c for c, room in zip(campaigns(), ROOMS, strict=True) if asked.only in (None, room)]
    with TemporaryDirectory(prefix="deepsup-campaigns-") as folder:
        if asked.case is not None:
            (campaign,) = wanted
            print(
                *campaign.case(campaign.prepare(Path(folder)), asked.case, Path(folder)) or ["nothing wrong"], sep="\n"
            )
            return 0
        told = json.loads(asked.result.read_text("utf-8")) if asked.result.exists() else {"campaigns": {}}
        told |= versions()
        until = time.monotonic() + 60 * asked.minutes
        for campaign in wanted:
            place = Path(folder) / campaign.name.replace(" ", "-")
            count = campaign.target if asked.long else campaign.short
            carry_out(campaign, told, asked.result, place, until=until, count=count)
    return int(any(now["problems"] for now in told["campaigns"].values()))


if __name__ == "__main__":
    sys.exit(main())
