"""The `deepsup` command from outside: its list of commands, which needs no torch, and what happens around each of them."""

from __future__ import annotations

import io
import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from deepsup import __version__
from deepsup.cli import signals
from deepsup.errors import DeepsupError

INTERRUPTED = 130  # exit status after Ctrl-C, which typer turns into it without a word

SUMMARIES = {
    "layers": "List the layers of a model: name, type, output, depth.",
    "plan": "Show what would be attached where, and what it costs, before anything is attached.",
    "probe": "Measure where gradients vanish on your data, and recommend layers to supervise.",
    "doctor": "Find the traps before training does: one line each, with its fix.",
    "train": "Train one run as configured; a stopped run goes on from its checkpoint, a finished one is left alone.",
    "compare": "Train several arms, methods or settings, from the same seeds, and judge by a rule that is written down first.",
    "report": "Make one HTML page from the journals of a run or a comparison; it opens without a network.",
    "predict": "Let a trained run look at new images, or sequences of tokens, prepared as in its validation.",
    "export": "Write a run's model as ONNX or a torch.export program, with all that its inputs go through beside it, checked.",
    "evaluate": "Score a trained run on labelled data of your own, prepared as in its validation; nothing is written.",
    "score": "Score a search by the protocol of Market-1501: mAP, rank-k and mINP of features from anywhere.",
    "strip": "Write the plain weights of a run (safetensors) and a certificate that nothing of deepsup is left in them.",
    "methods": "List the published methods with formula, source, defaults and deviations.",
}
"""Each command's first sentence, as its own help begins."""


class Commands(TyperGroup):
    """Lists the commands by their first sentences; the one that is called brings everything it needs, torch first of all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options | {"commands": {name: TyperCommand(name, help=one) for name, one in SUMMARIES.items()}}
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in SUMMARIES:
            from deepsup.cli.commands import commands  # takes seconds: torch

            return typer.main.get_group(commands).resolve_command(ctx, args)
        return super().resolve_command(ctx, args)  # says that there is none, and which is close


app = typer.Typer(
    cls=Commands,
    name="deepsup",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train the middle of a network, not only its end: attach auxiliary supervision to any PyTorch layer by name, "
    "train, prove whether it helped, and remove it without a trace.",
    epilog="Try: `deepsup layers torchvision:resnet18`, then `deepsup plan torchvision:resnet18 --at layer2`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"deepsup {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names need not be UTF-8, nor does the terminal know every letter
            with suppress(OSError):  # of a pipe that was opened to be read as well
                stream.reconfigure(errors="backslashreplace")


def _plain_warnings() -> None:
    """From now on a warning is one line, without a line of source."""
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    warnings.filterwarnings("ignore", message="the doctor found a trap")  # `Display` shows them


def run() -> NoReturn:
    """The `deepsup` command: named errors are printed without a traceback, status 1; 128 + signal where one stopped it."""
    _plain_warnings()
    told = signals.stopped_by_signals()
    try:
        app()
    except (DeepsupError, OSError) as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]: ", end="")
        print(error if isinstance(error, DeepsupError) else f"{error}. Mend that, and start again.", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != INTERRUPTED:
            raise
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(128 + told[0] if told else INTERRUPTED)
    finally:
        torch = sys.modules.get("torch")
        if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # gloo may abort at exit otherwise
        signals.done()
    sys.exit(0)
