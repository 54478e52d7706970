"""What a search found: the pictures and curves that finished runs left in RUN/search."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepsup.evaluation.ranked_lists import FILE, FOLDER
from deepsup.reports import colours, depths, panels
from deepsup.reports.curves import Curve
from deepsup.reports.formats import known
from deepsup.reports.panels import WIDE, Sheet
from deepsup.reports.summary import Evidence
from deepsup.specs import require
from deepsup.training.records import Run

_QUALITY: Final = 82


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a run: its name, the picture of what every output found, and the same in words."""

    name: str
    source: str
    words: str


@dataclass(frozen=True, slots=True)
class Searches:
    """The queries of a single run, whether cameras were known, and sentences about what could not be shown."""

    queries: tuple[Query, ...]
    cameras: bool
    problems: tuple[str, ...]


def searches(found: Evidence, *, pictures: bool = True) -> Searches | None:
    """Return what a single run's search found, without pictures if not wanted; None where nothing was searched."""
    told = {run.name: _read(run) for run in found.runs if (run.path / FOLDER / FILE).is_file()}
    if not told:
        return None
    broken = tuple(
        f"{FOLDER}/{FILE} of {name} is damaged. Run it again to have it." for name, one in told.items() if not one
    )
    if not found.single or broken or not pictures:
        cameras = all(one.get("cameras", True) for one in told.values())
        return Searches((), cameras=bool(cameras), problems=broken)
    (run,) = found.runs
    queries: list[Query] = []
    problems: list[str] = []
    for query in told[run.name]["queries"]:
        try:
            file = run.path / FOLDER / Path(str(query["file"])).name
            queries.append(Query(str(query["name"]), _embedded(file), _words(query)))
        except (OSError, KeyError, TypeError, ValueError) as error:
            problems.append(f"A query of {run.name} is left out: {error}.")
    return Searches(tuple(queries), cameras=bool(told[run.name].get("cameras")), problems=tuple(problems))


def _read(run: Run) -> dict[str, Any]:
    """The search.json of a run; empty where it is damaged."""
    try:
        told = json.loads((run.path / FOLDER / FILE).read_bytes())
        good = isinstance(told["queries"], list) and isinstance(told["cmc"], dict)
        return dict(told) if good and all(map(known, (v for c in told["cmc"].values() for v in c))) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _embedded(file: Path) -> str:
    """A picture as a `data:` address."""
    image, buffer = require("PIL.Image", purpose="a ranked list", install="deepsup[report]"), io.BytesIO()
    with image.open(file) as drawn:
        drawn.convert("RGB").save(buffer, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _words(query: Mapping[str, Any]) -> str:
    """What the picture shows, for who cannot see it."""
    lines = []
    for output, told in query["outputs"].items():
        ranks = [str(rank) for rank, right in enumerate(told["right"], 1) if right]
        lines.append(f"{output}: right at {', '.join(ranks)}" if ranks else f"{output}: none right")
    return f"{query['name']}, the ten nearest. {'; '.join(lines)}."


def curves_of(found: Evidence, group: str) -> dict[str, Curve]:
    """The share of queries that are found by rank: of a single run by output, else by arm, main's, over the seeds."""
    if found.single:
        cmc = {str(name): [one] for name, one in _read(found.runs[0]).get("cmc", {}).items()}
        cmc = {name: cmc[name] for name in depths.in_order(cmc, found.runs[0].plan)}
    else:
        arms = found.ordered(group).items()
        cmc = {arm: [c for run in runs if (c := _read(run).get("cmc", {}).get("main"))] for arm, runs in arms}
    return {name: _curve(every) for name, every in cmc.items() if every}


def _curve(every: Sequence[Sequence[float]]) -> Curve:
    return Curve.of({rank: [one[rank - 1] for one in every] for rank in range(1, min(map(len, every)) + 1)})


def by_rank(groups: Mapping[str, Mapping[str, Curve]], *, width: int = WIDE) -> Sheet | None:
    """Draw the share of queries with a match up to a rank (CMC), outputs or arms over each other, one panel a group."""
    drawn = {group: lines for group, lines in groups.items() if lines}
    if not drawn:
        return None
    sheet = Sheet(list(drawn), [280], width)
    for panel, lines in zip(sheet.panels, drawn.values(), strict=True):
        baseline = "main" if "main" in lines else next(iter(lines))
        for name, colour, dash in colours.of_arms(lines, baseline=baseline):
            thick = 2.6 if name == baseline else 1.8
            panels.mean(panel, lines[name], name=name, colour=colour, shade=0.1, linestyle=dash, linewidth=thick)
        panel.set_xlim(left=0.5)
        panels.whole(panel)
    panels.shares(sheet.panels[0].yaxis)
    sheet.labels(x="rank", y="queries with a match so far")
    return sheet.laid_out()
