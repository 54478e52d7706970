"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[
    str,
    typer.Argument(
        help="`deepsup:NAME` (ours), `timm:NAME`, `torchvision:NAME`, or `package.module:factory` for your own, which is "
        "called with those of num_classes, in_channels and size that its signature names.",
        show_default=False,
    ),
]
Size = Annotated[
    int, typer.Option(min=1, max=2**15, help="Height and width of the input in pixels; of tokens the length.")
]
Channels = Annotated[
    int, typer.Option(min=1, max=2**24, help="Channels of the input; of tokens how many symbols there are.")
]
Classes = Annotated[int, typer.Option(min=1, max=2**24, help="Classes the model predicts.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [KEY=VALUE]...",
        help="A YAML file, and settings laid over it: `optimizer.lr=0.1 supervise.at=[relu5]`.",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Import what the files name (`mymodule:Net`): you know who wrote them. See docs/security.md."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, with shares from 0 to 1.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files you name, if they are there already.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")]
