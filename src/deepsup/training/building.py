"""From settings to what a run trains: data, model, plan and branches; trains and writes nothing.

prepared = prepare(load("digits.yaml"))
prepared.net, prepared.plan, prepared.data
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from deepsup import datasets, doctor, methods, networks
from deepsup.doctor.findings import Diagnosis, diagnosis, from_error
from deepsup.errors import ConfigError, DeepsupError, HeadError
from deepsup.objectives import Objective
from deepsup.planning import plan as make_plan
from deepsup.plans import Plan
from deepsup.probes import Probe, probe
from deepsup.supervised import attach

from . import configs, engines
from .configs import TrainConfig
from .feeds import SplitFeed
from .journals import Record

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Prepared(NamedTuple):
    """What a run will train: `net` is supervised, or the plain model; `placement` is what the probe saw, if asked."""

    net: nn.Module
    plan: Plan
    data: datasets.Dataset
    placement: Record | None


def prepare(config: TrainConfig, *, plan: dict[str, Any] | None = None, fabric: Fabric | None = None) -> Prepared:
    """Load the data, build the model and attach its branches, on the CPU; writes nothing.

    `plan` is that of a checkpoint; without one it is made here, by the probe if `supervise.at` is `auto`. The model's
    weights depend on the seed alone, not on the branches. Raises `ClassCountError` when model and data disagree.
    """
    data = load_data(config)
    engines.seed_everything(config.seed)
    model = build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
    placement = None
    if plan is not None and config.supervise is not None:
        chosen = Plan.from_dict(plan)
    else:
        chosen, placement = _plan(config, model, data)
        if fabric is not None and fabric.world_size > 1 and chosen.branches:
            chosen = Plan.from_dict(engines.gathered(fabric, chosen.to_dict())[0])
    return Prepared(attach(model, chosen) if chosen.branches else model, chosen, data, placement)


def measure(config: TrainConfig, *, at: list[str] | dict[str, str] | None = None) -> Probe:
    """Probe the gradients of the configured model on its training batches; trains and writes nothing.

    With `at` the model is supervised there, from the same weights and on the same batches, and measured under the whole
    objective as it is at the start of training.
    """
    data = load_data(config)
    engines.seed_everything(config.seed)
    model = build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
    if at is None:
        return _probe(config, model, data)
    settings = config.supervise or configs.SuperviseConfig()
    method = "aux" if settings.method == "none" else settings.method
    supervise = settings.model_copy(update={"at": at, "method": method})
    plan, _ = _plan(config.model_copy(update={"supervise": supervise}), model, data)
    net = attach(model, plan)
    net.set_progress(0.0)
    return _probe(config, net, data, objective=Objective(plan))


def diagnose(config: configs.Config) -> dict[str, Diagnosis]:
    """Look for traps in model, branches and data as configured, on the first training batch; trains and writes nothing.

    Of a comparison, in the supervised run of every group, by the name GROUP/ARM; a single run has no name. What `prepare`
    would refuse is a finding here. Raises only what leaves nothing to look at (`DatasetError`, `ConfigError`).
    """
    if isinstance(config, TrainConfig):
        return {"": _diagnose(config)}
    cells = {c.group: c.config for c in config.expand() if c.arm == config.candidate}
    return {f"{group}/{config.candidate}": _diagnose(cells[group]) for group in config.groups}


def _diagnose(config: TrainConfig) -> Diagnosis:
    data = load_data(config)
    engines.seed_everything(config.seed)
    model = build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
    sample, target = next(_batches(config, data))
    settings = config.supervise
    look = partial(
        doctor.diagnose, model, sample, target, batch_sizes=SplitFeed(data.train, config.data.batch_size).batch_sizes
    )
    if settings is None or settings.method == "none":
        return look(classes=data.classes)
    if settings.at == "auto":
        try:
            return look(plan=_plan(config, model, data)[0])
        except DeepsupError as error:
            plain = look(classes=data.classes)
            return diagnosis([from_error(error, _key_of(error)), *plain.findings], plain.checked)
    return look(at=settings.at, branch_loss=settings.loss, classes=data.classes, **_branch_options(config, settings))


def _key_of(error: DeepsupError) -> str:
    """The key of the settings that a refusal of `plan` is about."""
    named = next((part for part in ("head", "loss", "weight", "gradient") if str(error).startswith(f"{part}=")), "at")
    return f"supervise.{'head' if isinstance(error, HeadError) else named}"


def load_data(config: TrainConfig) -> datasets.Dataset:
    settings = config.data.model_dump(exclude={"batch_size"})
    return datasets.load(**settings, seed=0)  # the same images for every seed


def build(config: TrainConfig, *, classes: int, channels: int, size: int) -> nn.Module:
    return networks.build(config.model, classes=classes, in_channels=channels, size=size, options=config.model_options)


def _plan(config: TrainConfig, model: nn.Module, data: datasets.Dataset) -> tuple[Plan, Record | None]:
    settings = config.supervise
    sample = next(_batches(config, data))[0][:2]
    if settings is None or settings.method == "none":
        return make_plan(model, sample, method="none", classes=data.classes), None
    at, placement = settings.at, None
    if at == "auto":
        rule = settings.probe.rule or methods.get(settings.method).rule
        seen = _probe(config, model, data)
        advice = seen.recommendation(rule, factor=settings.probe.factor, count=settings.probe.count)
        at = advice.at
        placement = {"kind": "placement", "rule": rule, "layers": at, "gradients": seen.means()}
        placement |= {"reason": advice.reason, "probe": seen.to_dict()}
        if not at:
            raise ConfigError(
                f"supervise.at is auto, but by the rule '{rule}' no gradient vanishes in {config.model}:\n{seen}\n"
                "Choose layers by name or depth (supervise.at=[50%]), or train the plain model (supervise=null)."
            )
    options = _branch_options(config, settings)
    return make_plan(model, sample, at, loss=settings.loss, classes=data.classes, **options), placement


def _branch_options(config: TrainConfig, settings: configs.SuperviseConfig) -> dict[str, Any]:
    """What `plan` and the doctor are told alike about the branches."""
    weight = settings.weight if settings.weight is not None else methods.get(settings.method).weight_over(config.epochs)
    return {"method": settings.method, "head": settings.head, "weight": weight, "gradient": settings.gradient}


def _batches(config: TrainConfig, data: datasets.Dataset, *, epoch: int = 0) -> Iterator[Any]:
    return data.train.batches(config.data.batch_size, seed=config.seed, epoch=epoch, shuffle=True)


def _probe(
    config: TrainConfig, model: nn.Module, data: datasets.Dataset, *, objective: Objective | None = None
) -> Probe:
    """Over as many epochs as it takes, because a small data set has fewer batches than the probe has iterations."""
    settings = config.supervise.probe if config.supervise else configs.ProbeConfig()
    epochs = chain.from_iterable(_batches(config, data, epoch=epoch) for epoch in count())
    goal = None if objective is None else lambda output, y: objective(output, y, progress=0).total
    limits: dict[str, Any] = {"iterations": settings.iterations, "threshold": settings.threshold}
    return probe(model, islice(epochs, settings.iterations), objective=goal, **limits)
