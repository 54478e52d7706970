"""`deepsup evaluate`: how good a trained run is on labelled data that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deepsup.cli.options import AsJson, Trust
from deepsup.cli.terminal import print_lines
from deepsup.evaluation.evaluate import Evaluation
from deepsup.tasks import shown
from deepsup.training.labelled_data import evaluate_run


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="A folder of labelled data; of tokens a file.", show_default=False)],
    branches: Annotated[bool, typer.Option("--branches", help="Every branch and the ensemble, too.")] = False,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Score a trained run on labelled data of your own, prepared as in its validation; nothing is written.

    One label an image: CLASS/*, with the names of the run's classes. Several labels, or numbers: labels.csv or values.csv and its
    images. A label a pixel: images/ and masks/; a number a pixel: images/ and maps/. A label a token: a file, .npz or
    .safetensors, with inputs and labels.
    """
    found = evaluate_run(folder, data, branches=branches, trust=trust)
    if as_json:
        typer.echo(json.dumps(_told(found)))
        return
    lines = [f"{found.samples} samples, scored by {found.metric}"]
    for output, values in found.metrics.items():
        lines += [f"{output}: " + ", ".join(f"{name} {shown(name, value)}" for name, value in values.items())]
    print_lines(lines)


def _told(found: Evaluation) -> dict[str, Any]:
    return {
        "task": found.task.name,
        "metric": found.metric,
        "samples": found.samples,
        "score": found.score,
        "metrics": found.metrics,
        "loss": found.loss,
    }
