"""Label maps of a finished run, for people to look at: its first few validation images, their truth and what was predicted.

`RUN/maps/maps.json` names the files beside it: images as PNG, label maps as grey PNGs with the number of the class in
every pixel (255: does not count), of two classes also the probability of the second one as a grey PNG.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepsup import label_maps
from deepsup.datasets import MapSplit
from deepsup.evaluation.devices import forward
from deepsup.evaluation.evaluate import evaluating
from deepsup.evaluation.predictions import Answer, Forward, answers, ignored, predictions
from deepsup.files import write_atomically
from deepsup.supervision.objectives import Objective
from deepsup.tasks.segmentation import Counts

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAMPLES = 4
FOLDER = "maps"


def write(
    folder: Path,
    net: nn.Module,
    split: MapSplit,
    objective: Objective,
    *,
    metric: str,
    fabric: Fabric | None = None,
    run: Forward | None = None,
) -> None:
    """Write the maps of the first images of a split into `folder/maps`; what is there is replaced.

    `run` takes the place of `net(x)`, as in `evaluate`. The score of an output is that of the one image.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    device = fabric.device if fabric else next((p.device for p in net.parameters()), torch.device("cpu"))
    samples = []
    with torch.no_grad(), evaluating(net):
        for index in range(min(SAMPLES, split.n_images)):
            x, y = (part[None].to(device) for part in split.item(index))
            output = run(net, x) if run else forward(net, x, fabric)
            samples.append(_sample(place, split, index, y, objective, output, metric=metric))
    told = {
        "classes": list(split.class_names),
        "palette": [list(colour) for colour in split.palette],
        "ignore": label_maps.IGNORE,
        "metric": metric,
        "samples": samples,
    }
    write_atomically(place / "maps.json", lambda file: file.write_text(json.dumps(told, indent=1) + "\n", "utf-8"))


def _sample(
    place: Path, split: MapSplit, index: int, y: Tensor, objective: Objective, output: Any, *, metric: str
) -> dict[str, Any]:
    """Write one image, its truth and what every output says of it; the entry in `maps.json`."""
    name = split.names[index]
    stem = f"{index}-{safe(name)}"  # two images of different folders may share a name
    void = (y < 0) | (y == ignored(objective))
    label_maps.write_picture(place / f"{stem}.image.png", split.picture(index).permute(1, 2, 0).contiguous().numpy())
    label_maps.write_picture(place / f"{stem}.truth.png", grey(y.masked_fill(void, label_maps.IGNORE)))
    outputs: dict[str, dict[str, Any]] = {}
    for found, said in whole_answers(output, y, objective):
        told: dict[str, Any] = {"file": f"{stem}.{safe(found)}.png", "score": _score(said, y, objective, split, metric)}
        label_maps.write_picture(place / told["file"], grey(said.labels))
        if said.logit is not None:
            told["probability"] = f"{stem}.{safe(found)}.probability.png"
            label_maps.write_picture(place / told["probability"], grey(said.logit.float().sigmoid().mul(255).round()))
        outputs[found] = told
    return {"name": name, "image": f"{stem}.image.png", "truth": f"{stem}.truth.png", "outputs": outputs}


def whole_answers(output: Any, y: Tensor, objective: Objective) -> Iterator[tuple[str, Answer]]:
    """What every output says of one image (1, H, W), by name."""
    for name, _, said in answers(predictions(output, objective), y.shape[1:], objective):
        yield name, said


def _score(said: Answer, y: Tensor, objective: Objective, split: MapSplit, metric: str) -> float | None:
    counts = Counts(split.classes, y.device)
    counts.add(said.labels, y, ignore=ignored(objective), logit=said.logit)
    return counts.scores().get(metric)


def grey(values: Tensor) -> Any:
    """One map (1, H, W) of whole numbers up to 255 as an array (H, W) of bytes."""
    return values[0].to("cpu", torch.uint8).contiguous().numpy()


def safe(name: str) -> str:
    """A name as a part of a file's name.

    >>> safe("layer3/side 1")
    'layer3_side_1'
    """
    return re.sub(r"[^\w.+=-]+", "_", name)
