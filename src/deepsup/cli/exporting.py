"""`deepsup export`: a run's model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepsup.cli.options import Overwrite, Trust
from deepsup.cli.terminal import print_lines
from deepsup.training.export import MAIN
from deepsup.training.export import export as export_run


def export(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    form: Annotated[str, typer.Option("--format", help="onnx, or torch: a torch.export program.")] = "onnx",
    branch: Annotated[str, typer.Option("--exit", help="Up to this branch, and its head.")] = MAIN,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width, of label maps whose images differ.")
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Write a run's model as ONNX or a torch.export program, with all that its inputs go through beside it, checked.

    FILE.json says how an image becomes the input (sizes, crops, channels, mean and deviation) and what the output means (classes,
    threshold). What the file says of drawn numbers is held against the net. Of identities the output is the embedding.
    """
    made = export_run(folder, output, form=form, output=branch, size=size, trust=trust, overwrite=overwrite)
    print_lines(
        [
            f"written to {made.file}, what goes before and after it to {made.description}",
            f"largest difference from the net: {made.difference:.3g}",
        ]
    )
