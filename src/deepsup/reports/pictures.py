"""Still pictures for a README: the same curves as the page, drawn with matplotlib and saved as PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepsup.errors import ConfigError
from deepsup.reports import ablations, colours, curves, figures
from deepsup.reports.colours import EDGE, GRID, INK, MUTED
from deepsup.reports.curves import THRESHOLD
from deepsup.reports.formats import known, magnitude, short
from deepsup.reports.panels import some
from deepsup.reports.summary import Evidence, baseline, evidence, judged
from deepsup.specs import counted, require
from deepsup.training.records import ACCURACY, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepsup.probes import Probe

WIDTH: Final = 9.0
DPI: Final = 200
"""9 inches at 200 dots: 1800 pixels, drawn for a place that is 900 pixels wide on a sharp screen."""

_NAMED: Final = 16  # layers that have room for their names under a panel
_DASHES: Final[tuple[Any, ...]] = (":", "--", "-.", (0, (5, 1)), (0, (1, 1)))


def picture(kind: str, path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw one of `PICTURES` by its name: `gradients`, `scores` or `ablation`; raises `ConfigError` for another one."""
    if kind not in PICTURES:
        raise ConfigError(f"there is no picture of {kind!r}. Choose: {', '.join(PICTURES)}.")
    return PICTURES[kind](path_in, out_png, group)


def gradient_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the mean |gradient| of each layer over the first iterations, the baseline left, the supervised arm right.

    >>> gradient_picture("runs/demo", "docs/gradients.png", group="sgd")     # doctest: +SKIP

    Without `group` the first group with recorded gradients is drawn. A single run is one panel.
    """
    found = evidence(path_in)
    probed = {g: arms for g, arms in found.groups.items() if any(map(curves.first_iterations, arms.values()))}
    if not probed:
        raise ConfigError(f"no gradients were recorded in {path_in}. Train with log.gradients above 0.")
    name = _chosen(group, probed)
    arms = {arm: runs for arm, runs in _pair(found, name).items() if curves.first_iterations(runs)}
    figure, panels = _canvas(len(arms), height=4.1)
    layers = curves.layers(run for runs in arms.values() for run in runs)
    tones = dict(zip(layers, colours.depth_colours(len(layers)), strict=True))
    low, high = figures.limits({name: arms})
    for panel, (arm, runs) in zip(panels, arms.items(), strict=True):
        for layer, curve in curves.gradients(runs).items():
            panel.plot(curve.positive().x, curve.positive().mean, color=tones[layer], linewidth=1.5)
        panel.set(xlabel="iteration", yscale="log", ylim=(low / 2.5, high * 2.5))
        panel.tick_params(axis="y", which="minor", length=0)
        n = sum(bool(run.gradients) for run in runs)
        _head(panel, f"{arm} (mean of {n} seeds)" if n > 1 else f"{arm} (1 seed)")
        last = panel is panels[-1]
        _level(panel, THRESHOLD, text=f"{magnitude(THRESHOLD)}, the CNDS paper's threshold" if last else "")
    panels[0].set_ylabel("mean |gradient| of a layer")
    _layer_bar(figure, panels, layers=layers, tones=list(tones.values()))
    return _saved(figure, out_png)


def gradient_figure(before: Probe, after: Probe, out_png: str | Path) -> Path:
    """Draw two probes of one model, without and with branches: each layer over the iterations, and all along the depth.

    >>> gradient_figure(ds.probe(model, loader), ds.probe(net, loader, objective=total), "gradients.png")  # doctest: +SKIP

    Raises `ConfigError` for probes of different models.
    """
    layers = [row.layer for row in before.rows]
    if layers != [row.layer for row in after.rows]:
        raise ConfigError(
            f"these are probes of different models: {before.model} with {len(layers)} layers, {after.model} with "
            f"{len(after.rows)}. Probe the same model without and with branches."
        )
    figure, panels = _canvas(3, height=4.3)
    figure.set_size_inches(13.5, 4.3)
    tones = dict(zip(layers, colours.depth_colours(len(layers)), strict=True))
    seen = [g for found in (before, after) for row in found.rows for g in (*row.gradients, row.mean) if g > 0]
    low, high = min(seen, default=THRESHOLD), max(seen, default=THRESHOLD)
    n = len(after.branches)
    titles = ("without branches", f"with {counted(n, 'branch', 'branches')}")
    for panel, found, title in zip(panels, (before, after), titles, strict=False):
        for row in found.rows:
            shown = [g if g > 0 else math.nan for g in row.gradients]
            point = "o" if len(shown) == 1 else None
            panel.plot(range(1, len(shown) + 1), shown, color=tones[row.layer], linewidth=1.5, marker=point)
        panel.xaxis.set_major_locator(_mpl("ticker").MaxNLocator(integer=True))
        panel.set(xlabel="iteration", yscale="log", ylim=(low / 2.5, high * 2.5))
        _head(panel, title)
    _profile(figure, panels[2], before, after)
    for panel in panels:
        panel.tick_params(axis="y", which="minor", length=0)
        if low / 2.5 < before.threshold < high * 2.5:
            text = f"under {magnitude(before.threshold)}: vanished" if panel is panels[1] else ""
            _level(panel, before.threshold, text=text)
    panels[0].set_ylabel("mean |gradient| of a layer")
    _layer_bar(figure, panels[:2], layers=layers, tones=list(tones.values()))
    return _saved(figure, out_png)


def _profile(figure: Figure, panel: Axes, before: Probe, after: Probe) -> None:
    """Draw the mean over the iterations by layer, before and after, and where the branches are."""
    rows = list(before.rows)
    last = {row.tap: i for i, row in enumerate(rows) if row.tap in after.branches}  # the layer in front of each branch
    for i, at in enumerate(last.values()):
        look: dict[str, Any] = {"color": colours.tint(colours.MARK, 0.35), "linewidth": 1.4, "linestyle": (0, (4, 2))}
        panel.axvline(at + 1.5, label=None if i else "branch", **look)
    for found, colour, width, label in (
        (before, colours.BASELINE, 5.0, "without branches"),  # broad, to be seen where both are the same
        (after, colours.ACCENT, 2.0, "with branches"),
    ):
        means = [row.mean if row.mean > 0 else math.nan for row in found.rows]
        point = "o" if len(means) <= _NAMED else None
        look = {"color": colour, "linewidth": width, "marker": point, "markersize": 2.2 * width**0.5 + 1, "zorder": 3}
        panel.plot(range(1, len(means) + 1), means, label=label, **look)
    if len(rows) <= _NAMED:
        names = [short(row.layer, 14) for row in rows]
        panel.set_xticks(range(1, len(rows) + 1), names, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_xlabel("layer, from the input to the output")
    else:
        panel.set_xlabel("number of the layer, from the input to the output")
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower right", ncols=3, frameon=False, fontsize=9.5, labelcolor=INK)
    _head(panel, "before and after, layer by layer")


def score_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the validation score over epochs: one panel a group (or only `group`), all arms in it.

    Thick: the networks' own outputs, mean over seeds and the range between them. Thin: the branches, of a few arms.
    """
    found = evidence(path_in)
    trained = {g: arms for g, arms in found.groups.items() if any(run.epochs for r in arms.values() for run in r)}
    if not trained:
        raise ConfigError(f"no epoch has finished in {path_in}, so there is no score to draw yet.")
    names = list(trained) if group is None else [_chosen(group, trained)]
    figure, panels = _canvas(len(names), height=4.3)
    for panel, name in zip(panels, names, strict=True):
        tones = colours.arm_colours(list(trained[name]), baseline=_baseline(found, name))
        for arm, runs in trained[name].items():
            _score_lines(panel, arm, runs, colour=tones[arm], alone=len(trained[name]) > curves.FEW)
        panel.set(xlabel="epoch")
        panel.xaxis.set_major_locator(_mpl("ticker").MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(_mpl("ticker").PercentFormatter(1.0))
        _head(panel, name)
        if found.metric == ACCURACY:
            panel.set_ylim(0, 1.02)
            _level(panel, 0.9, text="90 %", left=True)
    panels[0].set_ylabel(f"{found.metric} on validation data")
    _legend(figure, panels)
    return _saved(figure, out_png)


def _score_lines(panel: Axes, arm: str, runs: Sequence[Run], *, colour: str, alone: bool) -> None:
    heads = curves.scores(runs)
    main = heads.pop("main", None)
    pale = colours.tint(colour, 0.25)
    if main:
        name = arm if alone else f"{arm}: main output"
        panel.plot(main.x, main.mean, color=colour, linewidth=2.6, label=name, zorder=3)
    if main and main.low != main.high:
        panel.fill_between(main.x, main.low, main.high, color=colour, alpha=0.16, linewidth=0)
    for i, (head, curve) in enumerate({} if alone else heads.items()):
        dash = _DASHES[i % len(_DASHES)]
        panel.plot(curve.x, curve.mean, color=pale, linewidth=1.2, linestyle=dash, label=f"{arm}: {head}")


def ablation_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the score over the one setting that the arms of an ablation differ in: one panel a group (or only `group`).

    Every seed is a circle, the mean a line with its 95 % interval, the baseline a dotted level and a diamond.
    """
    found = evidence(path_in)
    key = ablations.varied(found.compare)
    drawn = {str(g["name"]): (g, ablations.points(found.compare, g)) for g in found.compare["groups"]} if key else {}
    drawn = {name: (g, points) for name, (g, points) in drawn.items() if len(points) > 1}
    if not key or not drawn:
        raise ConfigError(
            f"{path_in} holds no ablation with two finished values to draw. Compare arms that differ in one setting (vary)."
        )
    names = list(drawn) if group is None else [_chosen(group, drawn)]
    figure, panels = _canvas(len(names), height=4.1)
    for panel, name in zip(panels, names, strict=True):
        stated, points = drawn[name]
        _ablation(panel, points, reference=baseline(stated))
        mean = stated["arms"].get(baseline(stated), {}).get("mean")
        if known(mean):
            _level(panel, mean, text="")
        panel.set_xlabel(key)
        low, high = ablations.span([point for shown in names for point in drawn[shown][1]])
        panel.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        panel.yaxis.set_major_formatter(_mpl("ticker").PercentFormatter(1.0))
        _head(panel, name)
    panels[0].set_ylabel(f"{found.metric} after the last epoch")
    _legend(figure, panels)
    return _saved(figure, out_png)


def _ablation(panel: Axes, points: Sequence[ablations.Point], *, reference: str | None) -> None:
    x = [point.x for point in points]
    low, high = ([e if known(e) else p.mean for p, e in zip(points, ends, strict=True)]
                 for ends in zip(*((p.low, p.high) for p in points), strict=True))  # fmt: skip
    blue: Any = colours.ACCENT
    panel.plot(x, [point.mean for point in points], color=blue, linewidth=2.2, marker="o", markersize=4, label="mean")
    if low != high:
        panel.fill_between(x, low, high, color=blue, alpha=0.16, linewidth=0, label="95 % interval of the mean")
    dots = [(point.x, score) for point in points for score in point.scores]
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": blue, "s": 30, "linewidths": 1.1, "zorder": 3}
    panel.scatter(*zip(*dots, strict=True), label="one seed", **look)
    base = next((point for point in points if point.arm == reference), None)
    if base:
        panel.plot([base.x], [base.mean], "D", color=colours.BASELINE, markersize=8, zorder=4, label="baseline")


PICTURES: Final[dict[str, Callable[[str | Path, str | Path, str | None], Path]]] = {
    "gradients": gradient_picture,
    "scores": score_picture,
    "ablation": ablation_picture,
}


def _canvas(panels: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure that belongs to no window and no global state, and its panels with one shared y axis."""
    figure: Figure = _mpl("figure").Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    _mpl("backends.backend_agg").FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    for i, panel in enumerate(axes):
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(EDGE)
        panel.tick_params(colors=MUTED, labelsize=9.5)
        panel.tick_params(axis="y", length=0 if i else 3.5)
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set(fontsize=10.5, color=INK)
    return figure, axes


def _head(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)


def _level(panel: Axes, value: float, *, text: str, left: bool = False) -> None:
    """Draw a dotted line over the whole width, its label under the right (or over the left) end."""
    panel.axhline(value, color=MUTED, linewidth=1.1, linestyle=":")
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    panel.annotate(
        text,
        (0 if left else 1, value),
        xycoords=("axes fraction", "data"),
        xytext=(3, 3) if left else (-3, -4),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom" if left else "top",
        fontsize=8.5,
        color=MUTED,
        bbox=behind if text else None,
    )


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name every line once, the networks' own outputs first."""
    found: dict[str, Any] = {}
    for panel in panels:
        handles, names = panel.get_legend_handles_labels()
        found = dict(zip(names, handles, strict=True)) | found
    names = sorted(found, key=lambda name: not name.endswith(": main output"))
    look: dict[str, Any] = {"ncols": min(5, len(names)), "frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend([found[name] for name in names], names, loc="outside lower center", **look)


def _layer_bar(figure: Figure, panels: Sequence[Axes], *, layers: Sequence[str], tones: Sequence[str]) -> None:
    """Draw the legend: one band of colour a layer, the first at the bottom."""
    n = len(layers)
    norm = _mpl("colors").BoundaryNorm([i - 0.5 for i in range(n + 1)], n)
    scale = _mpl("cm").ScalarMappable(norm, _mpl("colors").ListedColormap(list(tones)))
    shown = some(n)
    bar = figure.colorbar(scale, ax=list(panels), ticks=shown, pad=0.015, aspect=28)
    bar.set_ticklabels([short(layers[i]) for i in shown], fontsize=8.5, color=MUTED)
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    bar.ax.set_title("layer", fontsize=9.5, color=INK)
    bar.outline.set_visible(False)


def _pair(found: Evidence, group: str) -> Mapping[str, Sequence[Run]]:
    """Return the baseline and the first arm that is judged against it: a picture has room for two."""
    arms = found.groups[group]
    stated = next(g for g in found.compare["groups"] if g["name"] == group)
    candidate = next(iter(judged(stated)), None)
    order = [arm for arm in dict.fromkeys((_baseline(found, group), candidate, *arms)) if arm in arms]
    return {arm: arms[arm] for arm in order[:2]}


def _baseline(found: Evidence, group: str) -> str | None:
    return next((baseline(stated) for stated in found.compare["groups"] if stated["name"] == group), None)


def _chosen(group: str | None, groups: Mapping[str, Any]) -> str:
    if group is None:
        return next(iter(groups))
    if group not in groups:
        raise ConfigError(f"no group {group!r} with something to draw. There is: {', '.join(map(repr, groups))}.")
    return group


def _saved(figure: Figure, out_png: str | Path) -> Path:
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out


def _mpl(module: str) -> Any:
    return require(f"matplotlib.{module}", purpose="a picture", install="deepsup[report]")
