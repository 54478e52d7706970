"""What a trained run says of new images.

for said in predict("runs/camvid", ["street.png", "photos/"]):
    said.files          # street.labels.png, street.overlay.png, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.datasets.image_files import SUFFIXES as IMAGES
from deepsup.datasets.image_listing import listed
from deepsup.datasets.layouts import is_map
from deepsup.errors import CheckpointError, ConfigError, DatasetError
from deepsup.evaluation.sliding_window import Forward, in_tiles
from deepsup.files import load_weights
from deepsup.plans.plan import Plan
from deepsup.plans.planning import plan as make_plan
from deepsup.predictions import Prediction, word
from deepsup.settings.training import TrainConfig
from deepsup.supervision.attaching import Supervised, attach, supervising
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS
from deepsup.tasks.array_files import SUFFIXES as TOKENS
from deepsup.tasks.outputs import scores_of
from deepsup.tasks.reidentification import RE_IDENTIFICATION
from deepsup.tasks.task import Said
from deepsup.training import checkpoints, finding, owned_folders, runs
from deepsup.training.inputs import Inputs
from deepsup.trust import Trust

_AT_ONCE = 64  # files that are told of together at most
READ = ("inputs.json", "plan.json", "model.safetensors", "heads.safetensors")


class Predictor(NamedTuple):
    """A trained net and all that is needed to read images for it and its outputs."""

    net: nn.Module
    objective: Objective
    config: TrainConfig
    inputs: Inputs
    device: torch.device


def load(folder: str | Path, *, branches: bool = False, trust: Trust = False) -> Predictor:
    """The net of a run, finished or not, with its last weights; with its heads if `branches` are asked for.

    Raises `ConfigError` for a folder without a run and for branches that a run has not, `CheckpointError` without
    weights, `TrustError` where settings or plan name a network from elsewhere, unless `trust` allows it.
    """
    place = Path(folder)
    config = runs.configured(place, trust=trust)
    owned_folders.refuse_altered(place, READ)
    inputs = Inputs.load(place)
    plan = Plan.load(place / "plan.json", trust=trust) if (place / "plan.json").exists() else None
    done = runs.finished(place) is not None
    if plan is None and (branches or not done):
        if owned_folders.had_branches(place, config):
            raise ConfigError(
                f"{place} was trained with branches, and its plan.json, which says where, is missing. Restore it."
            )
    if branches and (plan is None or not plan.branches):
        raise ConfigError(f"{place} trained the plain model: it has no branches. Leave --branches out.")
    checkpoint = None if done else runs.own_checkpoint(place, config)
    if not done and checkpoint is None:
        raise CheckpointError(f"{place} has no weights yet: its first epoch has not finished. Train it first.")
    net = runs.untouched_model(place, trust=trust)
    if plan is not None and (branches or not done):
        net = attach(net, plan)
    if checkpoint is not None:
        checkpoints.load_net(net, checkpoint, trained=True)
    elif isinstance(net, Supervised):
        load_weights(net.model, place / "model.safetensors")
        load_weights(net.heads, place / "heads.safetensors")
    else:
        load_weights(net, place / "model.safetensors")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if plan is None and inputs.tokens is not None:  # whose classes may stand on either axis
        plan = make_plan(net, inputs.tokens, method="none", loss=config.main_loss, classes=len(inputs.classes))
    objective = Objective(plan, loss=config.main_loss if plan is None else None)
    if plan is None and (kind := word(inputs.task).kind) != "class":  # which a loss alone does not tell of new images
        places = 2 if is_map(config.data.name) else 0
        objective.predictions["main"] = Prediction(kind, 1, len(inputs.classes), places, f"the task '{inputs.task}'")
    return Predictor(net.to(device).eval(), objective, config, inputs, device)


def predict(
    folder: str | Path,
    images: Iterable[str | Path],
    *,
    out: str | Path | None = None,
    branches: bool = False,
    tile: int | None = None,
    stride: int | None = None,
    gallery: str | Path | None = None,
    top: int | None = None,
    rerank: bool = False,
    trust: Trust = False,
) -> Iterator[Said]:
    """Predict images, and all images in folders and below them, as the run in `folder` was validated, in their order.

    Of label maps `out` (`FOLDER/predictions` if not given) receives NAME.labels.png (a class number a pixel, shown in the
    classes' colours), NAME.overlay.png and, of two classes, NAME.probability.png, all in the size of the image; with
    `branches` also NAME.BRANCH.labels.png and so on, and the ensemble of all outputs. Of one label an image, several, or
    numbers, it receives `predictions.csv` (of one label also `probabilities.csv`, those of all classes), of maps of numbers
    NAME.values.npy, (C, H, W) in the size of the image, of tokens NAME.labels.npz with `labels` and `probability` (N, L).
    `tile` and `stride` are those of the run's validation unless given. Of a run that searches for identities see
    `finding.find`: `gallery` is the folder that is searched, of which the nearest `top` are told (10), re-ranked if `rerank`.

    NAME is a file's path within its folder, without the suffix. A file that cannot be read is passed over: what is said of it
    is its `problem`. What was said of some images comes at once, when their files are written.

    Raises `ConfigError` for a folder without a run or images of one name, `DatasetError` where there is no image.
    """
    predictor = load(folder, branches=branches, trust=trust)
    place = Path(folder) / "predictions" if out is None else Path(out)
    files = found_files(images, predictor.inputs.task, but=place)
    if tile is not None or stride is not None:
        predictor = _retiled(predictor, tile, stride)
    if predictor.inputs.task == RE_IDENTIFICATION:
        _check_search(gallery, top, rerank)
        among = None if gallery is None else Path(gallery)
        yield from finding.find(predictor, files, place, gallery=among, branches=branches, top=top or 10, rerank=rerank)
        return
    _check_no_search(predictor, gallery, top, rerank)
    yield from _written(predictor, files, place, branches=branches)


def _written(predictor: Predictor, files: Mapping[str, Path], place: Path, *, branches: bool) -> Iterator[Said]:
    """What is said of each file, when it is on the disk: of more and more files at once, since each time has its price."""
    inputs = predictor.inputs
    kept: dict[str, Any] = {"classes": inputs.classes, "palette": inputs.palette, "branches": branches}
    writer = TASKS[inputs.task].writer
    if writer is None:
        raise ConfigError(f"predictions of a run of task '{inputs.task}' are not written to files yet: call the net.")
    writes, run = writer(place, predictor.objective, **kept), forward_of(predictor)
    waiting, most = list[Said](), 1
    for name, path in files.items():
        try:
            x, original = inputs.read(path, predictor.config.data)
        except DatasetError as error:
            waiting.append(Said(path, (), {}, problem=str(error)))
            continue
        waiting.append(writes.write(name, path, original, _outputs(predictor, x, run, writes.kept, branches=branches)))
        if len(waiting) >= most:
            writes.flush()
            yield from waiting
            waiting, most = [], min(2 * most, _AT_ONCE)
    writes.flush()
    yield from waiting


def _outputs(
    predictor: Predictor, x: Tensor, run: Forward, keep: Callable[..., Mapping[str, Tensor]], *, branches: bool
) -> dict[str, Tensor]:
    """The scores of a file by output: an image is one sample, and a file of tokens may hold many."""
    parts = []
    for part in torch.split(x, 2 * predictor.config.data.batch_size):
        with torch.no_grad(), supervising(predictor.net) if branches else nullcontext():
            output = run(predictor.net, part.to(predictor.device))
        parts.append(keep(scores_of(output, predictor.objective)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _check_search(gallery: Any, top: int | None, rerank: bool) -> None:
    if top is not None and top < 1:
        raise ConfigError(f"top={top}: at least 1 image is told of each search.")
    if gallery is None and (top is not None or rerank):
        raise ConfigError("top and rerank are for a search: give the folder that is searched, --gallery FOLDER.")


def _check_no_search(predictor: Predictor, gallery: Any, top: int | None, rerank: bool) -> None:
    if gallery is not None or top is not None or rerank:
        labelled = TASKS[predictor.inputs.task].labelled
        raise ConfigError(f"gallery, top and rerank are for searches, and {predictor.config.name} learned {labelled}.")


def found_files(
    images: Iterable[str | Path], task: str = "classification", *, but: Path | None = None
) -> dict[str, Path]:
    """Image files, or files of tokens, by the name that their predictions will have; of a folder all below it, without what
    lies in `but`, where predictions are written.
    """
    own = None if but is None else but.resolve()
    what, kinds = ("file of tokens", "npz, safetensors") if task == "tokens" else ("image", "png, jpg, tif, ...")
    found: dict[str, Path] = {}
    for given in map(Path, images):
        if given.is_dir():
            every = listed(given, below=True, suffixes=TOKENS if task == "tokens" else IMAGES).files
            paths = [path for path in every if own is None or own not in path.resolve().parents]
            if not paths:
                raise DatasetError(f"there is no {what} ({kinds}) in the folder {given}.")
            names = [path.relative_to(given).with_suffix("").as_posix() for path in paths]
        elif given.is_file():
            paths, names = [given], [given.stem]
        else:
            raise DatasetError(f"there is no {what} or folder {given}. Check the path.")
        for name, path in zip(names, paths, strict=True):
            other = found.setdefault(name, path)
            if other.resolve() != path.resolve():
                raise ConfigError(
                    f"{other} and {path} are both called {name!r}, so that one prediction would replace the other. "
                    "Predict them one after the other, each with an --out of its own."
                )
    if not found:
        raise DatasetError(f"no {what} was given. Name files or folders.")
    return found


def _retiled(predictor: Predictor, tile: int | None, stride: int | None) -> Predictor:
    """The predictor with other tiles than those of the run."""
    if "tile" not in (task := TASKS[predictor.inputs.task]).options:
        raise ConfigError(f"tiles are for label maps; {predictor.config.name} gives {task.labelled}. Leave --tile out.")
    before = predictor.config.data
    tiles: dict[str, Any] = {"tile": tile or before.tile, "stride": stride if tile or stride else before.stride}
    if tiles["tile"] is None:
        raise ConfigError("--stride is the distance of tiles; give --tile as well.")
    changed = predictor.config.model_copy(update={"data": before.model_copy(update=tiles)})
    return predictor._replace(config=changed)


def forward_of(predictor: Predictor) -> Forward:
    """What runs in place of the net: one that works in tiles, where the run's validation did."""
    data = predictor.config.data
    if data.tile is None:
        return lambda net, x: net(x)
    return in_tiles(predictor.objective, side=data.tile, stride=data.stride)
