"""`deepsup predict`: what a trained run says of new images or tokens, or finds among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepsup.cli import tables
from deepsup.cli.options import Trust
from deepsup.cli.terminal import print_lines
from deepsup.errors import DatasetError
from deepsup.specs import counted
from deepsup.training.predict import predict as predict_images


def predict(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.", show_default=False)],
    images: Annotated[
        list[Path], typer.Argument(help="Image files, files of tokens, and folders of them.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; RUN/predictions if not given.")] = None,
    branches: Annotated[bool, typer.Option("--branches", help="Every branch and the ensemble, too.")] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="Side of tiles in pixels; as in the run's validation.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="Pixels from one tile to the next; half a tile.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Of identities: the folder that is searched.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="How many of the nearest are told; 10 if not given.")
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Re-rank by k-reciprocal neighbours.")] = False,
    trust: Trust = False,
) -> None:
    """Let a trained run look at new images, or sequences of tokens, prepared as in its validation.

    Folders are walked; a file that cannot be read is named, passed over, and told by the exit status at the end. With labels
    a pixel: NAME.labels.png (class numbers, shown in colours), NAME.overlay.png and, of two classes, NAME.probability.png, in
    the size of the image. With one label an image: class and probability, predictions.csv and probabilities.csv (of all
    classes); with several the probability of each, with values their numbers. With a label a token: NAME.labels.npz, labels and
    probabilities. With identities and --gallery FOLDER: who is nearest, matches.csv and NAME.matches.png; without it
    embeddings.safetensors and embeddings.csv.
    """
    predicted, passed = 0, list[str]()
    how: dict[str, Any] = {"tile": tile, "stride": stride, "gallery": gallery, "top": top, "rerank": rerank}
    for said in predict_images(folder, images, out=out, branches=branches, trust=trust, **how):
        if said.problem:
            passed.append(said.problem)
            print_lines([f"{said.image}: passed over"])
            continue
        predicted += 1
        found = [f"{label} {share:.1%}{tables.of_output(name)}" for name, (label, share) in said.classes.items()]
        found += [f"{text}{tables.of_output(name)}" for name, text in said.told.items()]
        told = ", ".join(found or [file.name for file in said.files])
        print_lines([f"{said.image}: {told}"])
    if predicted:
        print_lines([f"written to {out or folder / 'predictions'}"])
    if passed:
        more = f" {predicted} others were predicted." if predicted else ""
        raise DatasetError("\n".join([f"{counted(len(passed), 'file')} could not be read.{more}", *passed]))
