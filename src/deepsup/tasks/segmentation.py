"""One label a pixel: outputs enlarged to their labels and counted class by class, and label maps kept as pictures.

`RUN/maps/maps.json` names the files beside it: images as PNG, label maps as grey PNGs with the number of the class in
every pixel (255: does not count), of two classes also the probability of the second one as a grey PNG.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepsup import label_maps, losses, ownership
from deepsup.losses import full_size
from deepsup.predictions import Word
from deepsup.supervision.exits import average
from deepsup.supervision.objectives import Objective
from deepsup.tasks.label_map_metrics import MEAN_IOU, THRESHOLD, Confusion, iou
from deepsup.tasks.outputs import class_kinds, classes_in, ignored, is_labels, loss_of, scores_of, without_channel
from deepsup.tasks.task import Said, Task, Values, Writer, register
from deepsup.terms import ENSEMBLE

SAMPLES = 4  # images of a finished run that are kept
FOLDER = "maps"

_ELEMENTS = 2**25  # of the scores of all outputs at full size that are there at a time


class Labelled(NamedTuple):
    """Of each place (N, *places) its class, int64; of two classes also how strongly it is taken for the second."""

    labels: Tensor
    logit: Tensor | None

    @property
    def probability(self) -> Tensor | None:
        """Of two classes the probability of the second, 0 to 255."""
        return None if self.logit is None else self.logit.float().sigmoid().mul(255).round()


def labelled(
    scores: Tensor,  # (N, C, *places), raw; a single channel is the log-odds of the second of two classes
) -> Labelled:
    """The class of each place."""
    if scores.shape[1] == 1:
        logit = scores[:, 0]
        return Labelled((logit >= math.log(THRESHOLD / (1 - THRESHOLD))).long(), logit)
    return Labelled(scores.argmax(1), scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else None)


def at_full_size(
    found: Mapping[str, Tensor],  # (N, C, *places) each, raw
    size: Sequence[int],
    objective: Objective,
) -> Iterator[tuple[str, slice, Labelled]]:
    """What each output says at `size`, some rows of the batch at a time: name, rows, labels.

    Scores are enlarged as the loss of the output does it. The ensemble is the mean of the probabilities of all outputs
    at `size`; there is none of a single output, nor of outputs that score different numbers of classes.
    """
    main = found["main"]
    step = max(1, _ELEMENTS // (math.prod(size) * main.shape[1] * len(found)))
    same = len(found) > 1 and ENSEMBLE not in found and all(s.shape[1] == main.shape[1] for s in found.values())
    by = [loss_of(name, objective) for name in found]
    for first in range(0, len(main), step):
        rows = slice(first, first + step)
        wide = [full_size.enlarged(scores[rows], size, loss) for scores, loss in zip(found.values(), by, strict=True)]
        yield from ((name, rows, labelled(scores)) for name, scores in zip(found, wide, strict=True))
        if same:
            mean = average([scores.float() for scores in wide], class_kinds(found, objective))
            yield ENSEMBLE, rows, labelled(mean.logit() if mean.shape[1] == 1 else mean.log())


class Pictures(Writer):
    """NAME.labels.png in the classes' colours, NAME.overlay.png and, of two classes, NAME.probability.png."""

    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        files: list[Path] = []
        for output, _, said in at_full_size(found, original.shape[:2], self.objective):
            if self.wanted(output):
                stem = name if output == "main" else f"{name}.{safe(output)}"
                files += self._write(stem, original.numpy(), said)
        return Said(image, tuple(files), {})

    def _write(self, stem: str, picture: Any, said: Labelled) -> Iterator[Path]:
        labels = grey(said.labels)
        yield self.put(f"{stem}.labels.png", label_maps.png(labels, self.palette))
        overlay = label_maps.overlay(picture, labels, self.palette)
        yield self.put(f"{stem}.overlay.png", label_maps.png(overlay))
        if said.probability is not None:
            yield self.put(f"{stem}.probability.png", label_maps.png(grey(said.probability)))


@register
class Segmentation(Task):
    """A class index for every place of an image (N, H, W), or of a volume (N, D, H, W)."""

    name = "segmentation"
    targets = "label maps"
    labelled = "a label a pixel"
    metric = MEAN_IOU
    word = Word("class", None, "cross_entropy")
    options = frozenset({"crop", "patches", "prepare", "tile", "stride"})
    whole_images = True
    writer = Pictures

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        maps = is_labels(target) and target.ndim >= 3 and kind != "values" and places != 1
        return maps and (places is None or without_channel(target, places).ndim == places + 1)

    def channels(self, classes: int, loss: str | losses.Loss) -> int:
        """A single one for two classes where the loss takes each score through a sigmoid."""
        return 1 if classes == 2 and losses.describe(loss).binary else classes

    def add(self, counts: dict[str, Confusion], found: dict[str, Tensor], target: Tensor, objective: Objective) -> None:
        target = without_channel(target, found["main"].ndim - 2)
        if found["main"].ndim != target.ndim + 1:
            return
        void = ignored(objective)
        for name, rows, said in at_full_size(found, target.shape[1:], objective):
            if name not in counts:
                counts[name] = Confusion(classes_in(found.get(name, found["main"])), target.device)
            counts[name].add(said.labels, target[rows], ignore=void, logit=said.logit)

    def record(self, counts: Mapping[str, Confusion], metrics: Mapping[str, Values]) -> dict[str, Any]:
        """All metrics, the intersection over union of every class, and for two classes the counts."""
        matrices = {name: counts[name].matrix for name in metrics}
        two = {name: matrix.tolist() for name, matrix in matrices.items() if len(matrix) == 2}
        found = {"scores": metrics, "iou": {n: iou(m) for n, m in matrices.items()}} if metrics else {}
        return found | ({"confusion": two, "threshold": THRESHOLD} if two else {})

    def save(
        self, folder: Path, split: Any, objective: Objective, run: Callable[[Tensor], Any], *, metric: str
    ) -> None:
        """The first few validation images, their truth and what was predicted, in `folder/maps`, beside what else is there.

        The metric of an output is that of the one image.
        """
        told = {
            "classes": list(split.class_names),
            "palette": [list(colour) for colour in split.palette],
            "ignore": label_maps.IGNORE,
            "metric": metric,
            "samples": [
                _sample(folder, split, index, objective, run, metric=metric)
                for index in range(min(SAMPLES, split.n_images))
            ],
        }
        ownership.write_text(folder, f"{FOLDER}/maps.json", json.dumps(told, indent=1) + "\n")


def _sample(
    folder: Path, split: Any, index: int, objective: Objective, run: Callable[[Tensor], Any], *, metric: str
) -> dict[str, Any]:
    """Write one image, its truth and what every output says of it; the entry in `maps.json`."""
    x, y = (part[None] for part in split.item(index))
    name, void = split.names[index], ignored(objective)
    stem = f"{index}-{safe(name)}"  # two images of different folders may share a name
    truth = y.masked_fill((y < 0) | (y == void), label_maps.IGNORE)
    _keep(folder, f"{stem}.image.png", split.picture(index).permute(1, 2, 0).contiguous().numpy())
    _keep(folder, f"{stem}.truth.png", grey(truth))
    outputs: dict[str, dict[str, Any]] = {}
    for output, _, said in at_full_size(scores_of(run(x), objective), y.shape[1:], objective):
        confusion = Confusion(split.classes, said.labels.device)
        confusion.add(said.labels, y.to(said.labels.device), ignore=void, logit=said.logit)
        told: dict[str, Any] = {"file": f"{stem}.{safe(output)}.png", "score": confusion.metrics().get(metric)}
        _keep(folder, told["file"], grey(said.labels))
        if said.probability is not None:
            told["probability"] = f"{stem}.{safe(output)}.probability.png"
            _keep(folder, told["probability"], grey(said.probability))
        outputs[output] = told
    return {"name": name, "image": f"{stem}.image.png", "truth": f"{stem}.truth.png", "outputs": outputs}


def _keep(folder: Path, name: str, picture: Any) -> None:
    """Write a picture into the maps of a run."""
    ownership.write(folder, f"{FOLDER}/{name}", lambda file: file.write_bytes(label_maps.png(picture)))


def grey(
    values: Tensor,  # (1, H, W), whole numbers up to 255
) -> Any:
    """One map as an array (H, W) of bytes."""
    return values[0].to("cpu", torch.uint8).contiguous().numpy()


def safe(name: str) -> str:
    """A name as a part of a file's name.

    >>> safe("layer3/side 1")
    'layer3_side_1'
    """
    return re.sub(r"[^\w.+=-]+", "_", name)
