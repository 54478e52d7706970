"""One configured run, from settings to stripped weights; safe to start again at any time.

    result = train(load("digits.yaml"))

The run's folder holds `config.yaml`, `plan.json`, `journal.jsonl`, `checkpoint.ckpt` and, at the end,
`model.safetensors` (plain weights) and `certificate.json`. A finished run is left alone, an unfinished one goes on from
its checkpoint, and a folder with other settings is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from deepsup import datasets, doctor, methods, networks, schedules
from deepsup.doctor.findings import Diagnosis, diagnosis, from_error
from deepsup.errors import ConfigError, DeepsupError, HeadError
from deepsup.objectives import Objective
from deepsup.planning import plan as make_plan
from deepsup.plans import Plan
from deepsup.probes import Probe, probe
from deepsup.stripping import strip
from deepsup.supervised import Supervised, attach
from deepsup.weights import save_weights, write_atomically

from . import checkpoints, configs, engines, optimizers
from .checkpoints import Checkpoint
from .configs import TrainConfig
from .engines import is_main_process as is_main_process
from .feeds import SplitFeed
from .journals import Record, Sink, environment, read
from .loops import Job, Loop, load_net

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOCK_SECONDS = 10.0
FILES = ("config.yaml", "plan.json", "checkpoint.ckpt", "model.safetensors", "certificate.json")


class RunResult(NamedTuple):
    """How a run ended. `already_done`: it had finished before, and nothing was run now."""

    folder: Path
    accuracy: float | None
    best_accuracy: float | None
    seconds: float
    resumed: bool = False
    already_done: bool = False


class Prepared(NamedTuple):
    """What a run will train: `net` is supervised, or the plain model; `placement` is what the probe saw, if asked."""

    net: nn.Module
    plan: Plan
    data: datasets.Dataset
    placement: Record | None


def train(
    config: TrainConfig, *, on_record: Sink | None = None, group: str | None = None, arm: str | None = None
) -> RunResult:
    """Train as configured, or go on where it was stopped.

    `on_record` sees every journal record; `group` and `arm` say which place in a comparison the run has. Raises
    `ConfigError` for a folder that holds other settings or is in use, and what preparing and training raise; a folder
    with a run in it is never damaged.
    """
    folder = Path(config.output)
    check_folder(folder, config)
    if (done := finished(folder)) is not None:
        return _result(folder, done, already_done=True)
    fabric = engines.start(config.engine)
    with locked(folder, enabled=fabric.is_global_zero):
        fabric.barrier()  # from here on the folder is ours, and all processes see the same in it
        if (done := finished(folder)) is not None:
            return _result(folder, done, already_done=True)
        checkpoint = _checkpoint(folder)
        prepared = prepare(config, plan=checkpoint.plan if checkpoint else None, fabric=fabric)
        sinks = [on_record] if on_record else []
        if config.log.tensorboard and fabric.is_global_zero:
            from .tensorboards import sink

            sinks.append(sink(folder, purge_step=checkpoint.step if checkpoint else None))
        if fabric.is_global_zero and checkpoint is None:
            write_atomically(folder / "config.yaml", lambda path: configs.save(config, path))
            if prepared.plan.branches:
                write_atomically(folder / "plan.json", prepared.plan.save)
        job = _job(config, prepared, fabric, labels={"group": group, "arm": arm}, sinks=tuple(sinks))
        if checkpoint is None:  # whatever preparing drew, both arms of a pair train from the same random state
            engines.seed_everything(config.seed, rank=fabric.global_rank)
        end = Loop(job, fabric, checkpoint).run()
    return _result(folder, end._asdict(), resumed=checkpoint is not None)


def prepare(config: TrainConfig, *, plan: dict[str, Any] | None = None, fabric: Fabric | None = None) -> Prepared:
    """Load the data, build the model and attach its branches, on the CPU; writes nothing.

    `plan` is that of a checkpoint; without one it is made here, by the probe if `supervise.at` is `auto`. The model's
    weights depend on the seed alone, not on the branches. Raises `ClassCountError` when model and data disagree.
    """
    data = _load_data(config)
    engines.seed_everything(config.seed)
    model = _build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
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
    data = _load_data(config)
    engines.seed_everything(config.seed)
    model = _build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
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
    data = _load_data(config)
    engines.seed_everything(config.seed)
    model = _build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)
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


def untouched_model(folder: str | Path, *, plan: Path | None = None) -> nn.Module:
    """A new plain model like the one that the run in `folder` trained, with weights of its own.

    Classes and input shape come from the run's `plan.json` or another `plan`; without either the data is loaded. Raises
    `ConfigError` for a folder without a run.
    """
    place = Path(folder)
    config = _configured(place)
    file = plan or place / "plan.json"
    if file.exists():
        seen = Plan.load(file)
        return _build(config, classes=seen.classes, channels=seen.input_shape[1], size=seen.input_shape[2])
    data = _load_data(config)
    return _build(config, classes=data.classes, channels=data.train.channels, size=data.train.size)


def strip_run(folder: str | Path) -> tuple[Path, Path | None]:
    """The plain weights of a run and their certificate (None for a run of the plain model).

    A finished run has them already; of an unfinished one the last checkpoint is stripped. Raises `ConfigError` for a
    folder without a run, `CheckpointError` for a run without a checkpoint.
    """
    place = Path(folder)
    config = _configured(place)
    weights, certificate = place / "model.safetensors", place / "certificate.json"
    if finished(place) is None:
        with locked(place, enabled=True):
            checkpoint = checkpoints.load(place / "checkpoint.ckpt")
            net = untouched_model(place)
            if config.supervise is not None and checkpoint.plan is not None:
                net = attach(net, Plan.from_dict(checkpoint.plan))
            load_net(net, checkpoint)
            _finish(net, place)
    return weights, certificate if certificate.exists() else None


def check_folder(folder: Path, config: configs.Config) -> None:
    """Raise `ConfigError` unless the folder is free or holds what `config` describes."""
    file = folder / "config.yaml"
    if not file.exists():
        if any((folder / name).exists() for name in ("journal.jsonl", "checkpoint.ckpt", "compare.json")):
            raise ConfigError(f"{folder} holds a run without its config.yaml. Choose another output folder.")
        return
    there = configs.load(file)
    if type(there) is not type(config):
        kind = "a comparison" if isinstance(there, configs.ComparisonConfig) else "a single run"
        raise ConfigError(f"{folder} holds {kind}. Choose another output folder.")
    changed = configs.differences(there, config, ignore=("output", "jobs"))
    if changed:
        shown = "; ".join(f"{key} was {before!r}, now {now!r}" for key, (before, now) in changed.items())
        raise ConfigError(
            f"{folder} holds a run with other settings: {shown}. Choose another output folder, or remove this one."
        )


def finished(folder: Path) -> Record | None:
    """The last record of a run that has ended with everything in its place, else None."""
    records = read(folder / "journal.jsonl")
    ended = bool(records) and records[-1]["kind"] == "end" and (folder / "model.safetensors").exists()
    return records[-1] if ended else None


def _configured(folder: Path) -> TrainConfig:
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"there is no run in {folder}: it has no config.yaml. Give the folder of a run.")
    config = configs.load(folder / "config.yaml")
    if isinstance(config, configs.ComparisonConfig):
        runs = ", ".join(cell.run for cell in config.expand())
        raise ConfigError(f"{folder} holds a comparison. Give the folder of one of its runs: {runs}.")
    return config


def _load_data(config: TrainConfig) -> datasets.Dataset:
    settings = config.data.model_dump(exclude={"batch_size"})
    return datasets.load(**settings, seed=0)  # the same images for every seed


def _build(config: TrainConfig, *, classes: int, channels: int, size: int) -> nn.Module:
    return networks.build(config.model, classes=classes, in_channels=channels, size=size, options=config.model_options)


def _result(folder: Path, end: Record, **flags: bool) -> RunResult:
    return RunResult(folder, end["accuracy"], end["best_accuracy"], end["seconds"], **flags)


def _checkpoint(folder: Path) -> Checkpoint | None:
    path = folder / "checkpoint.ckpt"
    checkpoints.remove_leftovers(folder, *FILES)
    return checkpoints.load(path) if path.exists() else None


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


def _job(
    config: TrainConfig, prepared: Prepared, fabric: Fabric, *, labels: dict[str, Any], sinks: tuple[Sink, ...]
) -> Job:
    net, plan, data, placement = prepared
    folder = Path(config.output)
    share: dict[str, Any] = {"seed": config.seed, "rank": fabric.global_rank, "world": fabric.world_size}
    supervised = isinstance(net, Supervised)
    return Job(
        net=net,
        objective=Objective(plan),
        train=SplitFeed(data.train, config.data.batch_size, **share),
        validation=SplitFeed(data.validation, 2 * config.data.batch_size, shuffle=False, **share),
        optimizer=optimizers.build(net, config.optimizer),
        epochs=config.epochs,
        schedule=schedules.parse(config.optimizer.schedule),
        log=config.log,
        checkpoint_every=config.checkpoint.every_steps,
        compile=config.engine.compile,
        folder=folder,
        config=config.model_dump(mode="json"),
        start={
            "name": config.name,
            **labels,
            "seed": config.seed,
            "config": config.model_dump(mode="json"),
            "plan": plan.to_dict() if supervised else None,
            "environment": environment(),
            "cost": plan.cost,
        },
        opening=(placement,) if placement else (),
        sinks=sinks,
        finish=lambda: _finish(net, folder),
    )


def _finish(net: nn.Module, folder: Path) -> None:
    """Leave what the user came for: the plain weights, and the proof that nothing else is in them."""
    net.to("cpu")
    model = strip(net, certificate=folder / "certificate.json") if isinstance(net, Supervised) else net
    save_weights(model, folder / "model.safetensors")


@contextmanager
def locked(folder: Path, *, enabled: bool) -> Iterator[None]:
    """Keep other processes out of the folder; an operating system without locks trusts the user."""
    try:
        import fcntl
    except ImportError:
        enabled = False
    if not enabled:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS  # a killed process needs a moment to let go
        while not _taken(lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another process is at work in {folder}. Wait for it, stop it, or choose another output."
                )
            time.sleep(0.1)
        try:
            yield
        finally:
            if not any(folder.iterdir()):  # nothing came of it: leave no empty folder behind
                folder.rmdir()
    finally:
        os.close(handle)


def _taken(lock: Callable[[], None]) -> bool:
    try:
        lock()
    except OSError:
        return False
    return True
