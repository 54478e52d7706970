"""A comparison's result, computed from the journals of its runs: `compare.json`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepsup import losses, methods
from deepsup.comparisons import statistics as verdicts
from deepsup.comparisons.arm_records import arm_record
from deepsup.comparisons.detectable import lacking
from deepsup.comparisons.image_variance import image_count, image_variances
from deepsup.comparisons.looks import Looks, judged_in_turn, looks_of, unlooked
from deepsup.files import load_weights
from deepsup.plans.plan import Plan
from deepsup.settings import batches
from deepsup.settings.arms import varied
from deepsup.settings.comparison import Cell, ComparisonConfig
from deepsup.settings.configs import Config, asked_names
from deepsup.settings.training import TrainConfig
from deepsup.supervision.stripping import certified
from deepsup.training import runs
from deepsup.training.journal import environment
from deepsup.training.run_folders import found_run

FORMAT = 1
TIMING_SECONDS = 1.5


def announce(config: ComparisonConfig) -> dict[str, Any]:
    """What is known before anything runs: the rule, and the runs that will be judged by it."""
    cells = config.expand()
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(cell.group, {}).setdefault(cell.arm, {"runs": []})["runs"].append(cell.run)
    return {
        "format": FORMAT,
        "name": config.name,
        "rule": verdicts.rule(
            metric=config.score_name,
            baseline=config.baseline,
            candidates=config.candidates,
            seeds=config.seeds,
            confidence=config.confidence,
            correction=config.correction,
            groups=len(config.groups),
            epochs=_epochs_of(config, cells),
            looks=looks.rule(config.confidence) if (looks := looks_of(config)) else "",
        ),
        "metric": config.score_name,
        **_vary(config),
        "notes": notes(config),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        "complete": False,
        "groups": [{"name": name, "baseline": config.baseline, "arms": arms} for name, arms in groups.items()],
        "certificates": [],
    }


def _vary(config: ComparisonConfig) -> dict[str, Any]:
    """The key that the arms differ in, and its value in each, if there is one."""
    if config.vary is None:
        return {}
    found = varied(config.vary)
    return {"vary": {"key": found.key, "values": found.values}}


def notes(config: Config) -> list[str]:
    """What differs between arms besides their branches: the main output's loss, and what batches hold, where methods bring
    their own. Of a single run what its batches hold.
    """
    if isinstance(config, TrainConfig):
        return list(filter(None, [_batches(config)]))
    found: dict[str, list[str]] = {}
    for group in config.groups:
        arms: dict[str, list[str]] = {}
        for arm, loss in _losses_of_methods(config, group).items():
            arms.setdefault(loss, []).append(arm)
        if len(arms) > 1:
            found.setdefault("; ".join(f"{', '.join(a)}: {loss}" for loss, a in arms.items()), []).append(group)
    said = []
    for told, groups in found.items():
        where = "" if len(groups) == len(config.groups) else f" of {', '.join(groups)}"
        said.append(
            f"The main output's loss differs between the arms{where} ({told}), and a difference in score may come from that. "
            "Set base.loss to give all of them the same."
        )
    said += [f"Arm {arm}: {text}" for arm, text in _batches_of_arms(config).items()]
    rates = {cell.arm: rate for cell in config.expand() if (rate := _rate_of_method(cell.config))}
    said += [
        f"Arm {arm}: SGD's rate is {rate}, its method's own, since none is set. Set base.optimizer.lr to give all arms one."
        for arm, rate in rates.items()
    ]
    return said


def _rate_of_method(config: TrainConfig) -> str:
    """The rate that the method brings, where it counts; else ""."""
    method = methods.get(config.supervise.method) if config.supervise else None
    counts = config.optimizer.lr is None and config.optimizer.name == "sgd"
    return method.rate_said if method is not None and method.rate is not None and counts else ""


def _batches(config: TrainConfig) -> str:
    """What batches hold because of the method."""
    return batches.said(config.supervise.method if config.supervise else None, config.data)


def _batches_of_arms(config: ComparisonConfig) -> dict[str, str]:
    """What batches of an arm hold because of its method, by arm."""
    found = {cell.arm: _batches(cell.config) for cell in config.expand()}
    return {arm: text for arm, text in found.items() if text}


def _losses_of_methods(config: ComparisonConfig, group: str) -> dict[str, str]:
    """The main output's loss in each arm of a group whose method brings its own."""
    cells = [cell for cell in config.expand() if (cell.group, cell.seed) == (group, config.seeds[0])]
    return {cell.arm: loss for cell in cells if (loss := _loss_of_method(cell.config))}


def _loss_of_method(config: TrainConfig) -> str | None:
    """The main output's loss as the method has it; None where it is the point: set by hand, or the control's."""
    method = methods.get(config.supervise.method if config.supervise else "none")
    meant = config.main_loss is not None or method.name.partition("(")[0] == "label-smoothing"
    return None if meant else losses.show(method.main_loss)


def _epochs_of(config: ComparisonConfig, cells: list[Cell]) -> str:
    """How long the arms train, as a part of the rule."""
    epochs: dict[tuple[str, str], int] = {(cell.group, cell.arm): cell.config.epochs for cell in cells}
    same = all(len({n for (g, _), n in epochs.items() if g == group}) == 1 for group in config.groups)
    told = ", ".join(f"{group}/{arm} {n}" for (group, arm), n in epochs.items())
    text = "for as many epochs" if same else f"for these epochs: {told}"
    controls = {arm: (settings.get("supervise") or {}).get("like") for arm, settings in config.arms.items()}
    longer = [f"{arm} trains as many as cost the arithmetic of {like}" for arm, like in controls.items() if like]
    return f"{text}; {', '.join(longer)}" if longer else text


def summarise(
    config: ComparisonConfig, stated: dict[str, Any], *, looks: Looks | None = None, timed: bool = True
) -> dict[str, Any]:
    """`stated` (see `announce`) with what the finished runs say; unfinished ones are null, and count for nothing.

    `looks` are those of a comparison that adds seeds, of which `config` has as many as there are by now; it is complete
    once all arms are decided, or with the last seed. `timed`: inference is measured anew.
    """
    folder = Path(config.output)
    cells = config.expand()
    journals = {cell.run: found_run(folder / cell.run) for cell in cells}
    ended = {name: run is not None and run.finished for name, run in journals.items()}
    groups: list[dict[str, Any]] = []
    for name in config.groups:
        arms = {}
        for arm in (config.baseline, *config.candidates):
            members = [c for c in cells if (c.group, c.arm) == (name, arm)]
            data = members[0].config.data.model_dump()
            arms[arm] = arm_record([c.run for c in members], [journals[c.run] for c in members], data=data)
        done = [c for c in cells if c.group == name and ended[c.run]]
        for arm, milliseconds in (_inference_ms(folder, done) if timed else {}).items():
            arms[arm]["inference_ms"] = milliseconds
        for arm in config.candidates:
            both = arms[config.baseline], arms[arm]
            metric, images = config.score_name, _images(*both)
            if images is None:
                images = arms[arm]["image_count"] = image_count(folder, *both, metric=metric)
            arms[arm]["image_variance"] = image_variances(folder, *both, images, metric)
        groups.append({"name": name, "baseline": config.baseline, "arms": arms})
    groups = judge(groups, confidence=config.confidence, correction=config.correction, looks=looks)
    for group in groups:
        own = _losses_of_methods(config, group["name"])
        for arm, verdict in group["verdicts"].items():
            if len({own[a] for a in (arm, config.baseline) if a in own}) > 1:
                verdict["losses_differ"] = True
    open_ = any(v["verdict"] == "no evidence" for group in groups for v in group["verdicts"].values())
    more = looks is not None and open_ and len(config.seeds) < looks.most
    settled = {name: run is not None and (run.finished or run.stop is not None) for name, run in journals.items()}
    return {
        **stated,
        "complete": all(settled.values()) and not more,
        "missing": [run for run, done in settled.items() if not done],
        "groups": groups,
        "certificates": [c for cell in cells if (c := _certificate(folder, cell))],
    }


def judge(
    groups: Sequence[Mapping[str, Any]], *, confidence: float, correction: str, looks: Looks | None = None
) -> list[dict[str, Any]]:
    """The groups with a verdict of each arm but the baseline, all of them judged together.

    Asks of an arm its `runs`, `final`, `diverged` and `images` (see `arm_record`) and uses `image_variance`, and so judges what
    was written before. With `looks` the verdicts are those of all looks so far; one is taken once every run of so many
    seeds has ended.
    """
    now = _differences(groups)
    judged: dict[str, dict[str, Any]] = {group["name"]: {} for group in groups}
    told: dict[tuple[str, str], tuple[verdicts.Verdict, dict[str, Any]]]
    if looks is None:
        told = {key: (v, {}) for key, v in verdicts.judged(now, confidence=confidence, correction=correction).items()}
    else:
        seen = [_differences(groups, k) for k in range(looks.first, min(looks.most, _ended(groups)) + 1)]
        in_turn = judged_in_turn(seen, plan=looks, confidence=confidence, correction=correction)
        told = {key: (v, {"looks": history}) for key, (v, history) in in_turn.items()} or {
            key: (unlooked(one, looks, confidence), {"looks": []}) for key, one in now.items()
        }
    for (name, arm), (verdict, more) in told.items():
        baseline = next(group["baseline"] for group in groups if group["name"] == name)
        level = 1 - (1 - verdict.confidence) / (looks.number if looks else 1)
        lacks = lacking(now[name, arm], verdict, level, names=(baseline, arm))
        own = verdict._asdict() | {"remarks": [*verdict.remarks, *lacks.pop("remarks")]}
        judged[name][arm] = {**own, **lacks, **more, "baseline": baseline, "candidate": arm}
    return [{**group, "verdicts": judged[group["name"]]} for group in groups]


def _differences(
    groups: Sequence[Mapping[str, Any]], seeds: int | None = None
) -> dict[tuple[str, str], verdicts.Difference]:
    """By group and arm the difference from the baseline, of the first so many seeds or all."""
    return {
        (group["name"], arm): _difference(group["arms"], group["baseline"], arm, seeds)
        for group in groups
        for arm in group["arms"]
        if arm != group["baseline"]
    }


def _difference(
    arms: Mapping[str, Mapping[str, Any]], baseline: str, candidate: str, seeds: int | None
) -> verdicts.Difference:
    """What the pairs of two arms say, by the seeds of which both runs have ended, well or badly."""
    both, names = [arms[name] for name in (baseline, candidate)], (baseline, candidate)
    pairs = [f"seed {run.rpartition('seed')[2]}" for run in both[0]["runs"]][:seeds]
    scores = [
        [math.nan if run in arm["diverged"] else score for run, score in zip(arm["runs"], arm["final"], strict=True)]
        for arm in both
    ]
    variance = ((arms[candidate].get("image_variance") or [None])[:seeds])[-1]
    first, second = (own[:seeds] for own in scores)
    images, values = _images(*both), None if variance is None else arms[candidate].get("image_count")
    found = verdicts.compared(first, second, images=images, variance=variance, values=values, names=names, pairs=pairs)
    unknown = images is None and values is None and found.n > 0
    return replace(found, remarks=(*found.remarks, IMAGES_UNKNOWN)) if unknown else found


IMAGES_UNKNOWN = (
    "how the score varies with the choice of validation images was not kept: the interval is of the seeds alone"
)


def _ended(groups: Sequence[Mapping[str, Any]]) -> int:
    """The first so many seeds of which every run of every arm has ended."""
    arms = [arm for group in groups for arm in group["arms"].values()]
    ended = [
        [score is not None or run in arm["diverged"] for run, score in zip(arm["runs"], arm["final"], strict=True)]
        for arm in arms
    ]
    return min([[*own, False].index(False) for own in ended], default=0)


def pilot(config: ComparisonConfig) -> list[verdicts.Difference]:
    """The differences of the runs that lie in the folder of a comparison."""
    folder = Path(config.output)
    groups: list[dict[str, Any]] = []
    for name in config.groups:
        arms = {}
        for arm in (config.baseline, *config.candidates):
            names = [c.run for c in config.expand() if (c.group, c.arm) == (name, arm)]
            arms[arm] = arm_record(names, [found_run(folder / run) for run in names])
        groups.append({"name": name, "baseline": config.baseline, "arms": arms})
    return list(_differences(groups).values())


def _images(*arms: Mapping[str, Any]) -> int | None:
    """How many images the scores of arms are shares of."""
    return min((arm["images"] for arm in arms if arm["images"]), default=None)


def _certificate(folder: Path, cell: Cell) -> dict[str, Any] | None:
    path = folder / cell.run / "certificate.json"
    if not path.exists():
        return None
    proof = certified(path)
    return {
        "run": cell.run,
        "path": f"{cell.run}/certificate.json",
        "identical": proof["identical"],
        "state_sha256": proof["state_sha256"],
    }


def _inference_ms(folder: Path, cells: list[Cell]) -> dict[str, float]:
    """The time of a batch in eval mode for one stripped model of each arm, if a plan remembers the shape of the input."""
    first = {cell.arm: cell for cell in reversed(cells) if _network(cell) == _network(cells[0])}
    plans = [path for cell in first.values() if (path := folder / cell.run / "plan.json").exists()]
    if not plans:
        return {}
    shape = Plan.load(plans[0], trust=True).input_shape  # for its numbers alone
    size = next(iter(first.values())).config.data.batch_size
    state = {arm: _stripped(folder, cell, plans[0]).state_dict() for arm, cell in first.items()}
    model = _stripped(folder, next(iter(first.values())), plans[0])
    tokens = runs.shown_tokens(folder / cells[0].run)
    if tokens is not None:
        x = tokens[:1].repeat(size, 1)
    else:
        x = torch.randn(size, *shape[1:], generator=torch.Generator().manual_seed(0))
    return time_side_by_side(model, state, x, seconds=TIMING_SECONDS / 2 * len(state))


def time_side_by_side(
    model: nn.Module, states: dict[str, dict[str, Any]], x: torch.Tensor, *, seconds: float = TIMING_SECONDS
) -> dict[str, float]:
    """Milliseconds of a forward with each arm's weights, taken in turns in one and the same model.

    Two models of one architecture differ by some percent for where their weights lie in memory, and a shared machine
    changes its speed from second to second; both would look like a cost that is not there. So the first arm gives the
    scale, and of the others the median of the ratios to the forward just before counts.
    """
    times: dict[str, list[float]] = {name: [] for name in states}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another are what makes timings jump
    try:
        with torch.no_grad():
            deadline = time.perf_counter() + seconds
            while time.perf_counter() < deadline or not all(times.values()):
                for name, state in states.items():
                    model.load_state_dict(state)
                    model(x)  # the first forward finds the new weights out of the cache
                    began = time.perf_counter()
                    model(x)
                    times[name].append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    scale = next(iter(times.values()))
    ratios = {name: statistics.median(t / s for t, s in zip(ts, scale, strict=True)) for name, ts in times.items()}
    return {name: ratio * statistics.median(scale) for name, ratio in ratios.items()}


def _network(cell: Cell) -> tuple[Any, ...]:
    """What a network is built from."""
    config = cell.config
    return config.model, config.model_options, config.data.name, config.data.size


def _stripped(folder: Path, cell: Cell, plan: Path) -> nn.Module:
    """A run's model with its plain weights; the arms of a pair are alike, so one's plan tells the other's input, too."""
    model = runs.untouched_model(folder / cell.run, plan=plan, trust=asked_names(cell.config))
    load_weights(model, folder / cell.run / "model.safetensors")
    return model.eval()
