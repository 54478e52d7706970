"""One configured run, from settings to stripped weights; safe to start again at any time.

    result = train(load("digits.yaml"))

The run's folder holds `config.yaml`, `inputs.json`, `plan.json`, `journal.jsonl`, `checkpoint.ckpt` and, at the end,
`model.safetensors` (plain weights), `certificate.json` and `heads.safetensors`. A finished run is left alone, an
unfinished one goes on from its checkpoint, and a folder with other settings is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup import ownership
from deepsup.datasets import Dataset
from deepsup.errors import CheckpointError, ConfigError, PlanError
from deepsup.evaluation import devices, ranked_lists
from deepsup.evaluation.devices import is_main_process as is_main_process
from deepsup.evaluation.evaluate import evaluating
from deepsup.evaluation.loaders import SplitLoader
from deepsup.evaluation.search import How, embed, extractor, searched
from deepsup.evaluation.sliding_window import Forward, in_tiles
from deepsup.files import save_weights
from deepsup.layers.taps import put_back, remove_taps, taps_on
from deepsup.plans.plan import Plan
from deepsup.settings import configs
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.training import TrainConfig
from deepsup.supervision.attaching import Supervised, attach
from deepsup.supervision.objectives import Objective
from deepsup.supervision.stripping import strip
from deepsup.tasks import TASKS, image_values
from deepsup.tasks.classification import ACCURACY
from deepsup.training import checkpoints, loggers, optimizers, owned_folders
from deepsup.training.checkpoints import Checkpoint
from deepsup.training.inputs import FILE as INPUTS
from deepsup.training.inputs import Inputs
from deepsup.training.job import Job
from deepsup.training.journal import Record, Sink, environment, final_score, read
from deepsup.training.locks import locked
from deepsup.training.loop import Loop
from deepsup.training.mixing import Mixing
from deepsup.training.prepare import Prepared, build, classes_of, load_data, prepare, training_loader
from deepsup.trust import Trust

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LONGER = ("epochs", "validation.patience")
FREE = ("output", "jobs", "minutes", "vary")  # keys that may change from one start to the next; `vary` has become arms


class RunResult(NamedTuple):
    """How a run ended. `already_done`: it had finished before, and nothing was run now."""

    folder: Path
    score: float | None
    best_score: float | None
    seconds: float
    resumed: bool = False
    already_done: bool = False


def train(
    config: TrainConfig,
    *,
    on_record: Sink | None = None,
    group: str | None = None,
    arm: str | None = None,
    longer: bool = False,
) -> RunResult:
    """Train as configured, or go on where it was stopped.

    `on_record` sees every journal record; `group` and `arm` say which place in a comparison the run has. With `longer` a run,
    finished or not, goes on to more `epochs` (or with more `validation.patience`) than its settings said; rates and weights that
    follow the progress then follow that of the longer training. Raises
    `ConfigError` for a folder that holds other settings or is in use, and what preparing and training raise; a folder
    with a run in it is never damaged.
    """
    folder = Path(config.output)
    grown = check_folder(folder, config, longer=longer)
    loggers.named(config.log)
    if not grown and (done := finished(folder)) is not None:
        return _result(folder, done, already_done=True)
    fabric = devices.start(config.engine)
    with locked(folder, enabled=fabric.is_global_zero):
        fabric.barrier()  # from here on the folder is ours, and all processes see the same in it
        if not grown and (done := finished(folder)) is not None:
            return _result(folder, done, already_done=True)
        owned_folders.check(folder)
        checkpoint = own_checkpoint(folder, config)
        resumes: dict[str, Any] = {"plan": checkpoint.plan if checkpoint else None, "resumes": checkpoint is not None}
        prepared = prepare(config, fabric=fabric, **resumes)
        sinks = [on_record] if on_record else []
        if fabric.is_global_zero:
            checkpoints.remove_leftovers(folder, folder / "maps", folder / "checkpoints")
            sinks += loggers.sinks(config.log, folder, step=checkpoint.step if checkpoint else None)
            owned_folders.note(folder)
        if fabric.is_global_zero and checkpoint is None:
            ownership.write(folder, "config.yaml", lambda path: configs.save(config, path))
            Inputs.of(prepared.data, classes=classes_of(config, prepared.data)).save(folder)
            if prepared.plan.outputs:
                ownership.write(folder, "plan.json", prepared.plan.save)
        job = _job(config, prepared, fabric, labels={"group": group, "arm": arm}, sinks=tuple(sinks))
        if checkpoint is None:  # whatever preparing drew, both arms of a pair train from the same random state
            devices.seed_everything(config.seed, rank=fabric.global_rank)
        loop = Loop(
            job, fabric, checkpoint
        )  # cuts the end off a finished run's journal, and only then it is another run
        if grown and fabric.is_global_zero:
            ownership.write(folder, "config.yaml", lambda path: configs.save(config, path))
        end = loop.run()
    return _result(folder, end._asdict(), resumed=checkpoint is not None)


def untouched_model(folder: str | Path, *, plan: Path | None = None, trust: Trust = False) -> nn.Module:
    """A new plain model like the one that the run in `folder` trained, with weights of its own.

    Classes and input shape come from the run's `plan.json` or another `plan`, else from its `inputs.json`; runs of older
    versions without any load the data, and fetch nothing. Raises `ConfigError` for a folder without a run, `TrustError`
    where its settings name a network from elsewhere, unless `trust` allows it.
    """
    place = Path(folder)
    config = configured(place, trust=trust)
    file, inputs = plan or place / "plan.json", _inputs(place)
    if file.exists():
        seen = Plan.load(file, trust=True)  # for its numbers alone
        if inputs is not None and inputs.tokens is not None:
            return build(config, classes=seen.classes, channels=inputs.channels, size=inputs.length)
        if len(seen.input_shape) < 3:
            raise PlanError(f"{file} was made for an input of shape {seen.input_shape}, and runs train on images.")
        return build(config, classes=seen.classes, channels=seen.input_shape[1], size=max(seen.input_shape[2:]))
    if inputs is not None and inputs.built is not None:
        return build(config, **dict(zip(("classes", "channels", "size"), inputs.built, strict=True)))
    data = load_data(config.model_copy(update={"data": config.data.model_copy(update={"download": False})}))
    return build(config, classes=classes_of(config, data), channels=data.train.channels, size=data.train.size)


def shown_tokens(folder: Path) -> Tensor | None:
    """What the certificate of a run on tokens is made with, and what its forward is timed on; None of a run on images."""
    inputs = _inputs(folder)
    return None if inputs is None else inputs.tokens


def _inputs(folder: Path) -> Inputs | None:
    """What a run says of its inputs; runs of older versions say nothing."""
    return Inputs.load(folder) if (folder / INPUTS).exists() else None


def strip_run(folder: str | Path, *, trust: Trust = False) -> tuple[Path, Path | None]:
    """The plain weights of a run and their certificate (None for a run of the plain model).

    A finished run has them already; of an unfinished one, or where one of them is gone, the last checkpoint is stripped.
    Raises `ConfigError` for a folder without a run or where they were changed, `CheckpointError` for a run without a
    checkpoint, `TrustError` where settings or checkpoint name a network from elsewhere, unless `trust` allows it.
    """
    place = Path(folder)
    config = configured(place, trust=trust)
    weights, certificate = place / "model.safetensors", place / "certificate.json"
    supervised = owned_folders.had_branches(place, config)
    owned_folders.check(place)
    whole = weights.exists() and (certificate.exists() or not supervised)
    if not whole or finished(place) is None:
        with locked(place):
            checkpoint = own_checkpoint(place, config) or checkpoints.load(place / "checkpoint.ckpt")  # which says it
            plan = None if config.supervise is None or checkpoint.plan is None else checkpoint.plan
            planned = None if plan is None else Plan.from_dict(plan, trust=trust)  # before anything is built
            net = untouched_model(place, trust=trust)
            net = net if planned is None else attach(net, planned)
            checkpoints.load_net(net, checkpoint, trained=True)
            owned_folders.note(place)
            _finish(net, place)
    return weights, certificate if supervised else None


def check_folder(folder: Path, config: configs.Config, *, longer: bool = False) -> bool:
    """Raise `ConfigError` unless the folder is free or holds what `config` describes; says whether it is `longer` now, if it may.

    Of a comparison the settings of arms may have changed of which no run has finished, and that no finished one follows.
    """
    owned_folders.refuse_odd(folder)
    file = folder / "config.yaml"
    what = "a comparison" if isinstance(config, ComparisonConfig) else "a run"
    if not file.exists():
        if any((folder / name).exists() for name in ("journal.jsonl", "checkpoint.ckpt", "compare.json")):
            raise ConfigError(f"{folder} holds {what} without its config.yaml. Choose another output folder.")
        return False
    lost = not (folder / "checkpoint.ckpt").exists() and finished(folder) is None
    if lost and (folder / "model.safetensors").exists():
        raise ConfigError(
            f"{folder} holds the weights of a run whose checkpoint.ckpt is lost, and the end of its journal.jsonl. Training it "
            "again would overwrite model.safetensors: restore them, choose another output folder, or remove this one."
        )
    there = configs.load(file, trust=True)  # to be compared, not to be built
    if type(there) is not type(config):
        kind = "a comparison" if isinstance(there, ComparisonConfig) else "a single run"
        raise ConfigError(f"{folder} holds {kind}. Choose another output folder.")
    before: configs.Config = there
    if isinstance(there, ComparisonConfig) and isinstance(config, ComparisonConfig):
        open_ = {
            arm: config.arms.get(arm, own) for arm, own in there.arms.items() if not _has_finished(folder, arm, there)
        }
        before = there.model_copy(update={"arms": there.arms | open_})
    changed = configs.differences(before, config, ignore=FREE)
    grown = _grown(changed) if isinstance(config, TrainConfig) else set()
    if longer and changed.keys() == grown:
        return bool(grown)
    if changed:
        more = " To train it longer, say so: --longer, or longer=True." if changed.keys() == grown else ""
        raise ConfigError(
            f"{folder} holds {what} with other settings: {_shown(changed)}. Choose another output folder, or remove this "
            f"one.{more}"
        )
    return False


def _grown(changed: dict[str, tuple[Any, Any]]) -> set[str]:
    """The keys of which there is more than before, and that make a run longer."""
    return {key for key in LONGER if key in changed and None not in changed[key] and changed[key][0] < changed[key][1]}


def _has_finished(folder: Path, arm: str, config: ComparisonConfig) -> bool:
    """Whether a run of the arm has, or one of an arm whose length follows from it."""
    followers = {a for a, own in config.arms.items() if (own.get("supervise") or {}).get("like") == arm}
    return any(finished(folder / cell.run) is not None for cell in config.expand() if cell.arm in {arm, *followers})


def finished(folder: Path) -> Record | None:
    """The last record of a run that has ended with everything in its place, else None."""
    records = read(folder / "journal.jsonl")
    ended = bool(records) and records[-1]["kind"] == "end" and (folder / "model.safetensors").exists()
    return records[-1] if ended else None


def diverged(folder: Path) -> bool:
    """Whether a run gave up because its loss was not finite; with the same settings it would do so again."""
    records = read(folder / "journal.jsonl")
    return bool(records) and records[-1]["kind"] == "stop"


def configured(folder: Path, *, trust: Trust = False) -> TrainConfig:
    """The settings of the run in a folder. Raises `ConfigError` where there is none, `TrustError` as `configs.load` does."""
    owned_folders.refuse_odd(folder)
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"there is no run in {folder}: it has no config.yaml. Give the folder of a run.")
    config = configs.load(folder / "config.yaml", trust=trust)
    if isinstance(config, ComparisonConfig):
        runs = ", ".join(cell.run for cell in config.expand())
        raise ConfigError(f"{folder} holds a comparison. Give the folder of one of its runs: {runs}.")
    return config


def _result(folder: Path, end: Record, **flags: bool) -> RunResult:
    return RunResult(folder, final_score(end), final_score(end, best=True), end["seconds"], **flags)


def own_checkpoint(folder: Path, config: TrainConfig) -> Checkpoint | None:
    """The last checkpoint of the run in a folder, if there is one. Raises `CheckpointError` for that of another run."""
    path = folder / "checkpoint.ckpt"
    checkpoint = checkpoints.load(path) if path.exists() else None
    if checkpoint is not None and checkpoint.config is not None:
        there = configs.parse(checkpoint.config, where=str(path))
        changed = configs.differences(there, config, ignore=FREE)
        if changed.keys() - _grown(changed):  # what the folder's settings say more is known there
            raise CheckpointError(
                f"{path} is of another run: {_shown(changed)}. Put this run's own in its place, or remove it to begin again."
            )
    return checkpoint


def _shown(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())


def _job(
    config: TrainConfig, prepared: Prepared, fabric: Fabric, *, labels: dict[str, Any], sinks: tuple[Sink, ...]
) -> Job:
    net, plan, data, placement, epochs, begun = prepared
    folder, objective = Path(config.output), Objective(plan)
    run = _forward(config, data, objective, fabric)
    how = How(config.validation.rerank, config.validation.multi_query, config.embedding.of_main)
    share: dict[str, Any] = {"rank": fabric.global_rank, "world": fabric.world_size, "device": fabric.device}

    def show() -> None:
        with torch.no_grad(), evaluating(net.to(fabric.device)):
            _show(net, data, objective, run, how, config=config, fabric=fabric)

    return Job(
        net=net,
        objective=objective,
        train=training_loader(config, data, **share),
        validation=SplitLoader(data.validation, _validation_batch(config, data), shuffle=False, **share),
        metric=config.score_name,
        run=run,
        validate_every=config.validation.every,
        patience=config.validation.patience,
        how=how,
        optimizer=optimizers.build(net, config.optimizer),
        epochs=epochs,
        schedule=config.optimizer.schedule_over(epochs),
        step=config.step,
        mix=Mixing(config.mix, classes=plan.classes, seed=config.seed, rank=fabric.global_rank)
        if config.mix.on
        else None,
        log=config.log,
        checkpoint=config.checkpoint,
        compile=config.engine.compile,
        channels_last=config.engine.channels_last,
        folder=folder,
        config=config.model_dump(mode="json"),
        start=_start(config, plan.to_dict() if isinstance(net, Supervised) else None, labels)
        | {"cost": plan.cost, "images": data.validation.n_images, "data": data.found.to_dict()},
        opening=tuple(record for record in (begun, placement) if record),
        sinks=sinks,
        finish=partial(_finish_and_show, net, folder, show),
    )


def _show(
    net: nn.Module,
    data: Dataset,
    objective: Objective,
    run: Forward | None,
    how: How,
    *,
    config: TrainConfig,
    fabric: Fabric,
) -> None:
    """Keep in the run's folder what its report shows of the validation images."""
    folder, here = Path(config.output), fabric.device
    if (images := searched(data.validation)) is not None:
        extract = partial(devices.forward, extractor(net, how.layer), fabric=fabric)
        ranked_lists.keep(folder, embed(images, extract, device=here), how, metric=config.score_name)
        return

    def shown(x: Tensor) -> Any:
        return run(net, x.to(here)) if run else devices.forward(net, x.to(here), fabric)

    TASKS[data.task].save(folder, data.validation, objective, shown, metric=config.score_name)
    if config.score_name != ACCURACY:  # of which the answers are kept
        own: dict[str, Any] = {"metric": config.score_name, "size": _validation_batch(config, data)}
        image_values.save(folder, TASKS[data.task], data.validation, objective, shown, **own)


def _start(config: TrainConfig, plan: dict[str, Any] | None, labels: dict[str, Any]) -> dict[str, Any]:
    """The content of a journal's first record, but for the cost."""
    told = {"name": config.name, **labels, "seed": config.seed, "config": config.model_dump(mode="json")}
    return told | {"plan": plan, "environment": environment()}


def _validation_batch(config: TrainConfig, data: Dataset) -> int:
    """How many validation images at a time: as many pixels as two training batches have, but one image at least."""
    pixels = 2 * config.data.batch_size * math.prod(data.train.shape)
    return max(1, pixels // math.prod(data.validation.shape))


def _forward(config: TrainConfig, data: Dataset, objective: Objective, fabric: Fabric) -> Forward | None:
    """What validation runs in place of the net: one that works in tiles, where that is set."""
    if config.data.tile is None:
        return None
    side = config.data.tile if isinstance(config.data.tile, tuple) else (config.data.tile, config.data.tile)
    tiles = max(1, 2 * config.data.batch_size * math.prod(data.train.shape) // math.prod(side))
    return in_tiles(objective, side=side, stride=config.data.stride, batch_size=tiles, fabric=fabric)


def _finish_and_show(net: nn.Module, folder: Path, show: Callable[[], None]) -> None:
    """Weights and certificate first, then what is shown of the validation images, which may fail."""
    taps = taps_on(net)
    _finish(net, folder)
    put_back(taps)  # what the branches say is shown, too
    with loggers.beside("what the run shows of its validation images"):
        show()
    remove_taps(net)


def _finish(net: nn.Module, folder: Path) -> None:
    """Leave what the user came for: the plain weights, the proof that nothing else is in them, and the heads beside."""
    net.to("cpu")
    model = net
    if isinstance(net, Supervised):
        ownership.write(folder, "heads.safetensors", partial(save_weights, net.heads))
        tokens = shown_tokens(folder)
        ownership.write(folder, "certificate.json", lambda path: strip(net, certificate=path, sample=tokens))
        model = net.model
    ownership.write(folder, "model.safetensors", partial(save_weights, model))
