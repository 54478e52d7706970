"""Train a supervised or plain net from a script of your own.

    net = ds.attach(model, plan)
    result = ds.fit(net, data.train, validation=data.validation, epochs=12, lr=0.02, folder="runs/mine")
    print(result.score)

The loop is the one of `deepsup train`; what differs is only where the model, the data and the settings come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from deepsup import schedules
from deepsup.datasets import Split
from deepsup.errors import ConfigError, LayerError, OutputError
from deepsup.evaluation import devices
from deepsup.evaluation.devices import Run
from deepsup.evaluation.loaders import Batches, Loader, as_loader, inputs_of
from deepsup.layers.dry_run import trace
from deepsup.settings.section import S, check
from deepsup.settings.training import CheckpointConfig, EngineConfig, LogConfig, MixConfig, OptimizerConfig, StepConfig
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.objectives import Objective
from deepsup.training import checkpoints, loggers, optimizers, owned_folders
from deepsup.training.asked import Asked, check_counts, check_heard, check_held, check_shared
from deepsup.training.checkpoints import Checkpoint
from deepsup.training.job import FitResult, Job
from deepsup.training.journal import Sink, environment
from deepsup.training.locks import locked
from deepsup.training.loop import Loop
from deepsup.training.mixing import Mixing
from deepsup.training.starting import Begun, start_from

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH_SIZE = 32  # of splits, unless the user says


def fit(
    net: nn.Module,
    train: Split | Batches,
    *,
    objective: Objective | None = None,
    validation: Split | Batches | None = None,
    metric: str | None = None,
    epochs: int = 1,
    optimizer: Optimizer | str = "sgd",
    lr: float | None = None,
    schedule: str | float | Callable[[float], float] | None = None,
    batch_size: int | None = None,
    seed: int | None = 0,
    folder: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint: Mapping[str, Any] | CheckpointConfig | None = None,
    validate_every: int = 1,
    patience: int | None = None,
    step: Mapping[str, Any] | StepConfig | None = None,
    mix: Mapping[str, Any] | MixConfig | None = None,
    start: str | Path | None = None,
    longer: bool = False,
    engine: Mapping[str, Any] | EngineConfig | None = None,
    log: Mapping[str, Any] | LogConfig | None = None,
    on_record: Sink | None = None,
    forward: Run | None = None,
) -> FitResult:
    """Train `net` (from `attach`, or a plain model) and score it, heads included, after every epoch.

    `train` and `validation` are splits of `deepsup.datasets`, or anything that yields `(x, y)` once an epoch: a
    `DataLoader`, a list, or a function of the epoch's number; in several processes each must be given its own share. Of a model
    that needs several inputs a batch is `(a, b, y)`, `((a, b), y)`, or a mapping of its arguments with `target` or `labels`;
    `forward(net, x)` says how to call any other on what a batch holds before its target.
    `optimizer` is one of yours or `"sgd"` (momentum 0.9; `lr` 0.02 if not given), `"adam"`, `"adamw"` (0.001);
    `schedule` multiplies the learning rate over progress. `batch_size` is for splits, 32 if not given. `seed` starts the
    random streams and orders a split's batches; None leaves the streams as they are.

    Where the method learns from the batch before (`dlb`), each batch begins with the samples of the last one, of splits and
    of anything else that does not overlap already.

    Targets that are label maps (N, H, W) are scored by "mean IoU" unless `metric` names another of
    `deepsup.tasks.METRICS`; other class indices by accuracy, a split for re-identification by "mAP". `validate_every` is how
    many epochs lie between two validations; the last epoch is followed by one.

    With `folder` a journal and, after every epoch (and every `checkpoint_every` steps), a checkpoint are kept there, and
    a call with the same settings goes on from the checkpoint; with `longer` also one to more `epochs`, or with more `patience`.
    `checkpoint` holds `every_steps`, `best` (also keep the best epoch's weights, in `best.safetensors`) and `last` (of how many
    epochs the checkpoints stay). `patience` ends training after so many epochs without a better score. `step`
    holds `accumulate`, `clip_norm`, `clip_value` and `ema`, `mix` holds `mixup` and `cutmix`. `start` is a run's
    folder or a file of weights to begin with, see `deepsup.training.starting`. `engine` holds accelerator, devices, precision
    (`"bf16-mixed"`, `"16-mixed"`), compile and threads.

    Raises `ConfigError` for what would be accepted and do nothing (`lr` beside an optimiser of yours, `metric` without
    validation, `checkpoint_every` or a logger without a folder, `batch_size` beside batches), for numbers out of range and
    for a folder that does not fit or where another process is at work; `NonFiniteError` when the loss is NaN or infinite
    (the last checkpoint stays), and `CheckpointError`.
    """
    asked = Asked(
        net,
        train,
        objective or Objective(net.plan if isinstance(net, Supervised) else None),
        validation=validation,
        metric=metric,
        epochs=epochs,
        schedule=None if schedule is None else schedules.as_schedule(schedule),
        batch_size=batch_size,
        seed=seed,
        folder=None if folder is None else Path(folder),
        checkpoint_every=checkpoint_every,
        checkpoint=_settings(CheckpointConfig, checkpoint),
        validate_every=validate_every,
        patience=patience,
        step=_settings(StepConfig, step),
        mix=_settings(MixConfig, mix),
        forward=forward,
        start=start,
        engine=_settings(EngineConfig, engine),
        log=_settings(LogConfig, log),
    )
    check_counts(asked)
    check_heard(asked, lr=lr, optimizer=optimizer)
    fabric = devices.start(asked.engine)
    check_shared(fabric.world_size, train, validation)
    held = _optimizer(net, optimizer, lr=lr)
    training, validating = _loaders(asked, fabric)
    sinks = [on_record] if on_record else []
    with nullcontext() if asked.folder is None else locked(asked.folder, enabled=fabric.is_global_zero):
        fabric.barrier()  # from here on all processes see the same in the folder
        return _run(asked, held, fabric, (training, validating), longer=longer, sinks=sinks)


def _run(
    asked: Asked,
    held: Optimizer,
    fabric: Fabric,
    loaders: tuple[Loader, Loader | None],
    *,
    longer: bool,
    sinks: list[Sink],
) -> FitResult:
    """Train in a folder that is nobody else's."""
    training, validating = loaders
    config = _config(asked, held, batches=training.length, processes=fabric.world_size)
    if asked.folder is not None:
        owned_folders.check(asked.folder, (*owned_folders.GROWING, *owned_folders.BEST))
    resumed = _resumable(asked.folder, config, longer=longer)
    if fabric.is_global_zero:
        sinks += _opened(asked, resumed)
    begun = start_from(asked.net, asked.start) if asked.start is not None and resumed is None else None
    job = _job(asked, held, training, validating, config=config, sinks=sinks, begun=begun, fabric=fabric)
    if asked.seed is not None and resumed is None:
        devices.seed_everything(asked.seed, rank=fabric.global_rank)
    return Loop(job, fabric, resumed).run()


def _opened(asked: Asked, resumed: Checkpoint | None) -> tuple[Sink, ...]:
    """The folder made ready, and the loggers that write there."""
    found = loggers.sinks(asked.log, asked.folder, step=resumed.step if resumed else None)
    if asked.folder is not None:
        checkpoints.remove_leftovers(asked.folder, asked.folder / "checkpoints")
        owned_folders.note(asked.folder)
    return found


def _optimizer(net: nn.Module, asked: Optimizer | str, *, lr: float | None) -> Optimizer:
    """The user's optimiser, or the one of that name; it must hold what there is to train."""
    if isinstance(asked, str):
        asked = optimizers.build(net, _settings(OptimizerConfig, {"name": asked, "lr": lr}))
    if not isinstance(asked, Optimizer):
        raise ConfigError(f"fit: optimizer= is a name or a torch.optim.Optimizer; found {asked!r:.100}.")
    check_held(net, asked)
    return asked


def _loaders(asked: Asked, fabric: Fabric) -> tuple[Loader, Loader | None]:
    """Where batches come from, for training and for validation, this process's share of them."""
    share: dict[str, Any] = {"seed": asked.seed or 0, "rank": fabric.global_rank, "world": fabric.world_size}
    share["device"] = fabric.device
    size = asked.batch_size or BATCH_SIZE
    plan = asked.objective.plan
    inputs = None if asked.forward else inputs_of(asked.net)
    training = as_loader(asked.train, size, inputs=inputs, overlap=plan is not None and plan.overlap, **share)
    if asked.validation is None:
        return training, None
    return training, as_loader(asked.validation, size, inputs=inputs, shuffle=False, **share)


def _config(asked: Asked, optimizer: Optimizer, *, batches: int | None, processes: int) -> dict[str, Any]:
    """What must not change between stopping and going on, as the journal and the checkpoint hold it."""
    net, objective = asked.net, asked.objective
    return {
        "epochs": asked.epochs,
        "batches": batches,
        "validation": asked.validation is not None,
        "optimizer": _describe(optimizer),
        "schedule": None if asked.schedule is None else schedules.show(asked.schedule),
        "terms": {e.name: f"{schedules.show(e.weight)} * {e}" for e in objective.edges},
        "dynamic": objective.plan is not None and objective.plan.dynamic,
        "rules": {b.name: repr(b.gradient) for b in net.plan.branches} if isinstance(net, Supervised) else {},
        "seed": asked.seed,
        "processes": processes,
        "patience": asked.patience,
        "step": None if asked.step == StepConfig() else asked.step.model_dump(),
        "mix": asked.mix.model_dump() if asked.mix.on else None,
        "start": None if asked.start is None else str(asked.start),
    }


def _job(
    asked: Asked,
    optimizer: Optimizer,
    training: Loader,
    validation: Loader | None,
    *,
    config: dict[str, Any],
    sinks: Sequence[Sink],
    begun: Begun | None,
    fabric: Fabric,
) -> Job:
    """What the loop works on; the same as `deepsup train` gives it."""
    name = asked.folder.name if asked.folder else type(asked.net).__name__
    return Job(
        net=asked.net,
        objective=asked.objective,
        train=training,
        optimizer=optimizer,
        epochs=asked.epochs,
        validation=validation,
        schedule=asked.schedule,
        log=asked.log,
        metric=asked.metric,
        checkpoint=asked.checkpoint.model_copy(
            update={"every_steps": asked.checkpoint_every or asked.checkpoint.every_steps}
        ),
        validate_every=asked.validate_every,
        patience=asked.patience,
        forward=asked.forward or devices.called,
        run=partial(_run_forward, fabric, asked.forward) if asked.forward else None,
        step=asked.step,
        mix=_mixing(asked, fabric.global_rank),
        opening=(begun.record(),) if begun else (),
        compile=asked.engine.compile,
        channels_last=asked.engine.channels_last,
        folder=asked.folder,
        config=config,
        start=_start(asked.net, training, name=name, seed=asked.seed, config=config),
        sinks=tuple(sinks),
    )


def _run_forward(fabric: Fabric, how: Run, net: nn.Module, x: Any) -> Any:
    return devices.forward(net, x, fabric, how)


def _mixing(asked: Asked, rank: int) -> Mixing | None:
    plan = asked.objective.plan
    classes = None if plan is None else plan.classes
    return Mixing(asked.mix, classes=classes, seed=asked.seed or 0, rank=rank) if asked.mix.on else None


def _settings(kind: type[S], given: Any) -> S:
    return given if isinstance(given, kind) else check(kind, dict(given or {}), where="fit")


def _describe(optimizer: Optimizer) -> str:
    """An optimiser's class and the settings of its groups: what must not change between stopping and going on."""
    groups = [{k: v for k, v in g.items() if k not in ("params", "initial_lr")} for g in optimizer.param_groups]
    return f"{type(optimizer).__name__}({groups})"


def _resumable(folder: Path | None, config: dict[str, Any], *, longer: bool) -> Checkpoint | None:
    if folder is None or not (folder / "checkpoint.ckpt").exists():
        return None
    checkpoint = checkpoints.load(folder / "checkpoint.ckpt")
    before = checkpoint.config or {}
    changed = {k: (before.get(k), v) for k, v in config.items() if before.get(k) != v}
    grown = {
        k for k, (old, new) in changed.items() if k in ("epochs", "patience") and None not in (old, new) and old < new
    }
    if changed and not (longer and grown == changed.keys()):
        told = "; ".join(f"{k} was {old}, now {new}" for k, (old, new) in changed.items())
        more = " To train it longer, give longer=True." if grown == changed.keys() else ""
        raise ConfigError(f"{folder} holds a run with other settings: {told}. Use them again, or another folder.{more}")
    return checkpoint


def _start(net: nn.Module, training: Loader, *, name: str, seed: int | None, config: dict[str, Any]) -> dict[str, Any]:
    """The content of a journal's first record."""
    plan = net.plan if isinstance(net, Supervised) else None
    return {
        "name": name,
        "group": None,
        "arm": None,
        "seed": seed,
        "config": config,
        "plan": plan.to_dict() if plan else None,
        "environment": environment(),
        "cost": plan.cost if plan else _plain_cost(net, training),
    }


def _plain_cost(net: nn.Module, training: Loader) -> dict[str, int] | None:
    """What the plain model costs; None for a model that cannot be traced, which may train all the same."""
    before = checkpoints.rng_state()  # looking at a batch must not change which batches come
    try:
        sample = next(training.epoch(0))[0]
        device = next((p.device for p in net.parameters()), None)
        seen = trace(net, sample if device is None else devices.moved(sample, device))
    except (StopIteration, LayerError, OutputError):
        return None
    finally:
        checkpoints.set_rng_state(before)
    return {"trunk_params": seen.params, "head_params": 0, "trunk_flops": seen.flops, "head_flops": 0}
