"""The page: one pure function from journals on disk to one HTML file that needs no network."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deepsup import label_maps, ownership
from deepsup.files import write_atomically
from deepsup.reports import (
    ablations,
    colours,
    columns,
    contrasts,
    curves,
    depths,
    figures,
    formats,
    galleries,
    metric_tables,
    panels,
    searches,
    sections,
    shrinking,
    text_tables,
    unseen,
)
from deepsup.reports.metrics import meaning, score, titled, unit
from deepsup.reports.sections import path
from deepsup.reports.summary import Evidence, evidence
from deepsup.specs import require
from deepsup.training import run_folders
from deepsup.training.records import Run

Views = Mapping[str, figures.Arms]


class Shown(NamedTuple):
    """A figure of the page: its name there, the group that it is of, the drawing, and what is said under it."""

    name: str
    group: str
    svg: str
    caption: str


_SEAL = b"<!-- deepsup report, sha256 %s -->\n"
_BEFORE, _AFTER = "before, without branches", "after, with branches"


def write_html(path_in: str | Path, out: str | Path, *, pictures: bool = True, overwrite: bool = False) -> Path:
    """Write the report of the run or comparison at `path_in` to the file `out` (or report.html in the directory `out`).

    >>> write_html("runs/demo", "runs/demo/report.html")      # doctest: +SKIP
    PosixPath('runs/demo/report.html')

    Without `pictures` no validation image is in it. Raises `ConfigError` where another file than a report as deepsup wrote it
    is there, unless you `overwrite`. Needs the extra: `pip install "deepsup[report]"`.
    """
    target = Path(out)
    target = target / "report.html" if target.is_dir() or not target.suffix else target
    if not (target.is_file() and _is_ours(target.read_bytes())):
        ownership.refuse_taken(target, overwrite=overwrite)
    text = render(path_in, beside=target.parent, pictures=pictures)
    whole = _sealed(text.encode())
    write_atomically(target, lambda unfinished: unfinished.write_bytes(whole))
    return target


def _sealed(page: bytes) -> bytes:
    """A page with its own hash behind it, by which the next one knows it again wherever it lies."""
    return page + _SEAL % hashlib.sha256(page).hexdigest().encode()


def _is_ours(page: bytes) -> bool:
    length = len(page) - len(_SEAL % bytes(64))
    return length >= 0 and _sealed(page[:length]) == page


def render(path_in: str | Path, *, beside: str | Path | None = None, pictures: bool = True) -> str:
    """Return the report of `path_in` as HTML: the same files on disk always give the same text.

    `beside` is the directory that the file will lie in, so that links to certificates work; by default `path_in`. Without
    `pictures` there are no validation images in it.
    """
    jinja2 = require("jinja2", purpose="a report", install="deepsup[report]")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader(__package__, ""),
    )
    written = (formats.count, formats.size, formats.percent, formats.share, formats.shape, formats.magnitude, titled)
    environment.filters |= {write.__name__: write for write in written}
    page = environment.get_template("page.html.j2")
    with _undisturbed():
        found = evidence(path_in)
        html: str = page.render(content(found, beside=Path(beside or found.path), pictures=pictures))
    return html


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Pause the garbage collector: it would look again and again at the million objects of a long journal, which stay."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def content(found: Evidence, *, beside: Path, pictures: bool = True) -> dict[str, Any]:
    """Return everything the template shows, as plain values."""
    compare = found.compare
    views, baselines = _views(found)
    earlier = views.get("", {}).get(_BEFORE, ())
    spans = dict.fromkeys(str(curves.same_span(arms)[1]) for arms in views.values())
    return _facts(found) | {
        "iterations": max((curves.first_iterations([run]) for run in found.runs), default=0),
        "before": bool(earlier),
        "probed": curves.first_iterations(earlier) if curves.first_iterations(earlier) > 1 else 0,
        "span": formats.listing(list(spans)),
        "seeds": any(len(runs) > 1 for arms in found.groups.values() for runs in arms.values()),
        "css": colours.CSS,
        "threshold": formats.magnitude(curves.THRESHOLD),
        "figures": _figures(found, views, baselines),
        "seen": {
            "gradients": sections.gradients(views, baselines),
            "score": _last_scores(found),
            "pulls": sections.pulls(found),
        },
        "score_tables": metric_tables.score_tables(found),
        "galleries": galleries.galleries(found) if pictures else [],
        "searches": searches.searches(found, pictures=pictures),
        "hatch": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in label_maps.HATCH],
        "legend": {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in label_maps.LEGEND.items()},
        "varied": ablations.varied(compare),
        "findings": sections.findings(found),
        "unseen": unseen.unseen(found),
        "conflicts": any(run.conflicts for run in found.runs),
        "placements": sections.placements(found),
        "plans": _plans(found.runs),
        "certificates": _certificates(found, beside=beside),
        "environment": _environment(found),
        "configs": _configs(found.runs),
    }


def _facts(found: Evidence) -> dict[str, Any]:
    """Return what a comparison or a run says of itself, without its curves."""
    compare = found.compare
    return {
        "name": str(found.runs[0].name if found.single else compare.get("name")),
        "single": found.single,
        "metric": found.metric,
        "in_percent": bool(unit(found.metric)),
        "meaning": meaning(found.metric, found.task),
        "many": max(len(arms) for arms in found.groups.values()) > curves.FEW,
        "created": formats.moment(compare.get("created")),
        "outcome": _outcome(found),
        "rule": compare.get("rule"),
        "detectable": (compare.get("detectable") or {}).get("says"),
        "looks": shrinking.looks(compare),
        "notes": found.notes,
        "facts": text_tables.run_facts(found.runs[0]) if found.single else [],
        "grouped": len(compare["groups"]) > 1,
        "results": columns.page_table(compare, columns.RESULTS),
        "costs": columns.page_table(compare, *columns.COSTS),
        "baseline": next(iter(found.baselines.values()), None),
    }


def _outcome(found: Evidence) -> list[text_tables.Verdict]:
    """Return the verdict of each group, or the state of the one run."""
    if found.single:
        run = found.runs[0]
        ended = f" {titled(run.metric)} {score(run.end.score, run.metric)}{unit(run.metric)}." if run.end else ""
        state = text_tables.state(run)
        return [text_tables.Verdict("", "", "", f"{state[:1].upper()}{state[1:]}.{ended}")]
    return text_tables.verdicts(found.compare)


def _views(found: Evidence) -> tuple[Views, figures.Baselines]:
    """Return the runs whose gradients are drawn beside each other, by group and arm, and the arm to measure against.

    A single run whose layers a probe chose is set against what the probe saw before.
    """
    if found.single and (earlier := sections.before(found.runs[0])):
        return {"": {_BEFORE: (earlier,), _AFTER: found.runs}}, {"": _BEFORE}
    return found.groups, found.baselines


def _figures(found: Evidence, views: Views, baselines: figures.Baselines) -> dict[str, list[Shown]]:
    """Return the figures by their kind; an empty list where no journal holds what a figure shows."""
    groups, told = found.groups, found.compare["groups"]
    metric: Any = {"metric": found.metric}
    probed = {
        group: {arm: runs for arm, runs in arms.items() if curves.first_iterations(runs)}
        for group, arms in views.items()
        if any(map(curves.first_iterations, arms.values()))
    }
    trained = {group: arms for group, arms in groups.items() if any(run.epochs for r in arms.values() for run in r)}
    same = {group: curves.same_span(arms)[0] for group, arms in probed.items()}
    span: Any = {"limits": figures.limits(probed)}
    timelines = [(group, chunk) for group, arms in groups.items() for chunk in _conflicts(arms)]
    titled = {"titled": not found.single}
    drawn: dict[str, list[tuple[str, panels.Draw]]] = {
        "gradients": [(group, partial(figures.gradients, _with_steps(arms), **span)) for group, arms in probed.items()],
        "profile": [("", partial(figures.profile, same, baselines=baselines, **span))] if probed else [],
        "differences": [("", partial(contrasts.differences, told, **metric))],
        "ablation": [("", partial(ablations.ablation, found.compare, **metric))],
        "ranks": [("", partial(searches.by_rank, {group: searches.curves_of(found, group) for group in groups}))],
        "depth": [("", partial(contrasts.by_depth, told, **metric))],
        "score": [("", partial(figures.score, trained, baselines=found.baselines, **metric))] if trained else [],
        "weights": [("", partial(figures.weights, groups, baselines=found.baselines))],
        "conflicts": [("" if found.single else g, partial(figures.conflict, arms, **titled)) for g, arms in timelines],
    }
    return {kind: _shown(kind, of_kind) for kind, of_kind in drawn.items()}


def _shown(kind: str, drawn: Iterable[tuple[str, panels.Draw]]) -> list[Shown]:
    made = ((f"{kind}-{i}", group, panels.inline(draw, f"{kind}-{i}")) for i, (group, draw) in enumerate(drawn))
    return [Shown(name, group, *inline) for name, group, inline in made if inline[0]]


def _with_steps(arms: figures.Arms) -> figures.Arms:
    """Leave out what a probe saw before if only its means were written down: they are no timeline."""
    return {arm: runs for arm, runs in arms.items() if arm != _BEFORE or curves.first_iterations(runs) > 1}


def _conflicts(arms: figures.Arms) -> Iterator[figures.Arms]:
    """Yield the arms of a group with measured conflicts, two at a time."""
    measured = [arm for arm, runs in arms.items() if curves.measured(runs)]
    for i in range(0, len(measured), 2):
        yield {arm: arms[arm] for arm in measured[i : i + 2]}


def _last_scores(found: Evidence) -> list[str]:
    """Return the score of every output after the last epoch, mean over seeds, arms with branches only."""
    lines = []
    for group in found.compare["groups"]:
        for arm, fields in group["arms"].items():
            outputs = [f"{o.name} {score(o.mean, found.metric)}{unit(found.metric)}" for o in depths.of(fields)]
            if len(outputs) > 1:
                lines.append(f"After the last epoch, {path(group['name'], arm)}: {', '.join(outputs)}.")
    return lines


def _plans(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return each different plan once, with the runs that used it."""
    different: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.plan:
            parts = ("model", "method", "branches", "trunk", "edges", "main_loss")
            key = json.dumps([run.plan.get(part) for part in parts], sort_keys=True)
            entry = different.setdefault(key, {"plan": run.plan, "runs": []})
            entry["runs"].append(run)
    return [_plan(entry["plan"], entry["runs"], everyone=runs) for entry in different.values()]


def _plan(plan: Mapping[str, Any], runs: Sequence[Run], *, everyone: Sequence[Run]) -> dict[str, Any]:
    branches = [dict(branch) for branch in plan.get("branches") or ()]
    trunk = plan.get("trunk") or {}
    heads = {key: sum(b.get(key) or 0 for b in branches) for key in ("params", "flops", "activation_bytes")}
    ratio = {key: heads[key] / trunk[key] if trunk.get(key) else None for key in ("params", "flops")}
    absent = {"model": "the network", "method": None, "notes": (), "main_loss": "cross_entropy", "edges": ()}
    return {
        **absent,
        **{key: value for key, value in plan.items() if value},
        "used_by": sections.owners(runs, everyone),
        "rules": any(branch.get("gradient") not in (None, "add") for branch in branches),
        "branches": branches,
        "trunk": trunk,
        "heads": heads,
        "extra": {key: formats.added(value) for key, value in ratio.items()},
    }


def _certificates(found: Evidence, *, beside: Path) -> list[dict[str, Any]]:
    """Return the strip certificates that compare.json lists, or else those that lie beside the journals."""
    files = [(run, run.path / run_folders.CERTIFICATE) for run in found.runs]
    listed = found.compare.get("certificates") or [
        run_folders.document(file) | {"run": run.name, "path": str(file.resolve())}
        for run, file in files
        if file.is_file()
    ]
    result = []
    for entry in listed:
        path = Path(str(entry.get("path") or ""))
        places = [found.path / path, found.path / str(entry.get("run", "")) / path.name, path]
        file = next((place for place in places if place.is_file()), None)
        link = Path(os.path.relpath(file.resolve(), beside.resolve())).as_posix() if file else None
        identical = entry.get("identical", entry.get("result")) in (True, "identical")
        sha256 = str(entry.get("state_sha256") or formats.NONE)
        result.append(
            {"run": entry.get("run"), "identical": identical, "link": link, "sha256": sha256, "file": path.name}
        )
    return result


def _environment(found: Evidence) -> list[tuple[str, str]]:
    """Return where the runs were made; a value that differs between runs is given in full."""
    stated = found.compare.get("environment") or {}
    values: dict[str, list[str]] = {}
    for source in [run.environment for run in found.runs] or [stated]:
        for key, value in source.items():
            if value not in (None, "") and str(value) not in values.setdefault(key, []):
                values[key].append(str(value))
    if stated.get("command"):
        values["command"] = [str(stated["command"])]  # the runs themselves were started by that one command
    commits = values.get("commit", [])
    values["commit"] = [f"{c[:-1]}, and changes that were not committed" if c.endswith("+") else c for c in commits]
    order = ["command", "commit", "deepsup", "torch", "python"]
    order += [key for key in values if key not in order]
    return [(key, "; ".join(values[key])) for key in order if values.get(key)]


def _configs(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the configuration of the first run of each arm: its seeds differ in nothing else."""
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.config:
            first.setdefault((run.group, run.arm), run)
    return [{"name": run.name, "text": json.dumps(run.config, indent=2, ensure_ascii=False)} for run in first.values()]
