"""The command line: layers, plan, probe, doctor, train, compare, report, predict, export, evaluate, score, strip, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepsup import methods as method_table
from deepsup import ownership, reports
from deepsup.cli import looking, tables
from deepsup.cli.evaluating import evaluate
from deepsup.cli.exporting import export
from deepsup.cli.options import DryRun, Overwrite, Trust, Words
from deepsup.cli.predicting import predict
from deepsup.cli.progress import Display
from deepsup.cli.scoring import score
from deepsup.cli.terminal import console, print_lines
from deepsup.cli.words import run_settings, settings_of
from deepsup.comparisons import results
from deepsup.comparisons.compare import compare as compare_arms
from deepsup.errors import ConfigError
from deepsup.files import write_atomically
from deepsup.reports.pictures import PICTURES
from deepsup.settings import training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.specs import counted
from deepsup.training import prepare, runs
from deepsup.training.loggers import beside, guarded
from deepsup.training.verification import CERTIFICATE, WEIGHTS, verify_run

commands = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

commands.command()(looking.layers)
commands.command()(looking.plan)
commands.command(no_args_is_help=True)(looking.probe)
commands.command(no_args_is_help=True)(looking.doctor)


@commands.command(no_args_is_help=True)
def train(
    words: Words = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="RUN|FILE", help="Weights to begin with, as start=RUN.")
    ] = None,
    longer: Annotated[
        bool, typer.Option("--longer", help="Go on with a run that had fewer epochs, or less patience.")
    ] = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Train one run as configured; a stopped run goes on from its checkpoint, a finished one is left alone.

    `deepsup train examples/digits.yaml optimizer.name=adam optimizer.lr=0.001`
    """
    config = run_settings([*(words or []), *([f"start={start}"] if start else [])], trust=trust)
    if dry_run:
        _dry_run(config)
        return
    print_lines(f"note: {note}" for note in results.notes(config) if runs.is_main_process())
    with Display(console, name=config.name) as display:
        result = runs.train(config, on_record=guarded(display.see, "the display"), longer=longer)
    if result.already_done:
        console.print(f"{result.folder} is finished already; remove it or choose another output= to train again.")
    if runs.is_main_process():
        with beside("the table of the run"):
            console.print(reports.run_table(reports.run(result.folder)))
        console.print(f"plain weights: {result.folder / 'model.safetensors'}")


@commands.command(no_args_is_help=True)
def compare(words: Words = None, dry_run: DryRun = False, trust: Trust = False) -> None:
    """Train several arms, methods or settings, from the same seeds, and judge by a rule that is written down first.

    `deepsup compare config.yaml "methods=[none, label-smoothing, dsl]" minutes=30`; the same command goes on where it was
    stopped. Prints the table, the paired verdicts and the strip certificates, and writes `report.html`.
    """
    config = settings_of(words, trust=trust)
    if not isinstance(config, ComparisonConfig):
        raise ConfigError(
            "this configuration describes one run: it has no arms. Use `deepsup train`, or add arms or methods and seeds."
        )
    if dry_run:
        print_lines(f"note: {note}" for note in results.notes(config))
        for cell in config.expand():
            if cell.arm in config.candidates and cell.seed == config.seeds[0]:
                console.print(f"{cell.group}/{cell.arm}", style="bold")
                _dry_run(cell.config)
        return
    with Display(console, name=config.name) as display:
        result = compare_arms(config, on_event=guarded(display.see, "the display"))
    _print_comparison(result, Path(config.output))


def _print_comparison(result: dict[str, Any], folder: Path) -> None:
    for part in tables.comparison(result):
        console.print(part, highlight=False)
    console.print(f"certificates: {folder}/GROUP/ARM/seedN/certificate.json", highlight=False)
    with beside("the report"):
        console.print(f"report: {reports.write_html(folder, folder / 'report.html')}", highlight=False)


@commands.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's or a comparison's folder.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to write; FOLDER/report.html if not given.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw a PNG, of what --of says.")] = None,
    of: Annotated[str, typer.Option(help=f"What it shows: {' | '.join(PICTURES)}.")] = "gradients",
    group: Annotated[str | None, typer.Option(help="Which group of a comparison the picture shows.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Whether validation images are on the page.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Make one HTML page from the journals of a run or a comparison; it opens without a network."""
    ownership.refuse_taken(picture, overwrite=overwrite)
    page = reports.write_html(folder, out or folder / "report.html", pictures=pictures, overwrite=overwrite)
    console.print(f"report: {page}", highlight=False)
    if picture:
        console.print(f"picture: {reports.picture(of, folder, picture, group)}", highlight=False)


commands.command()(predict)
commands.command(no_args_is_help=True)(export)
commands.command(no_args_is_help=True)(evaluate)
commands.command(no_args_is_help=True)(score)


@commands.command()
def strip(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Check the certificate against the weights again.")] = False,
    out: Annotated[Path | None, typer.Option(help="Copy the plain weights to this file.")] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Write the plain weights of a run (safetensors) and a certificate that nothing of deepsup is left in them.

    `--verify` builds the untouched model anew, loads the weights strictly and runs it on the certified input. It writes
    nothing into the folder; what is missing, torn or altered there is an error with its name.
    """
    ownership.refuse_taken(out, overwrite=overwrite)
    proof = verify_run(folder, trust=trust) if verify else None
    weights, certificate = (
        (folder / WEIGHTS, proof and folder / CERTIFICATE) if verify else runs.strip_run(folder, trust=trust)
    )
    if out:
        write_atomically(out, lambda file: file.write_bytes(weights.read_bytes()))
    console.print(f"plain weights: {out or weights}", highlight=False)
    if runs.finished(folder) is None:
        console.print("note: this run is not finished; these are the weights of its last checkpoint", highlight=False)
    if certificate is None:
        console.print("this run trained the plain model: there was nothing to strip, so there is no certificate")
        return
    console.print(f"certificate: {certificate}", highlight=False)
    if proof:
        sha256 = proof["state_sha256"][:16]
        print_lines([f"verified: weights sha256 {sha256}, no hook left, outputs {proof['outputs']}"])


@commands.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, with options if you like: `dhm(temperature=2)`.")
    ] = None,
) -> None:
    """List the published methods with formula, source, defaults and deviations."""
    for method in [method_table.get(name)] if name else method_table.METHODS.values():
        console.print(tables.method_card(method), highlight=False)


def _dry_run(config: training.TrainConfig) -> None:
    prepared = prepare.prepare(config)
    batches = prepared.data.train.n_batches(config.data.batch_size)
    lengths = (
        f"{counted(prepared.epochs, 'epoch')} of {batches} batches of {config.data.batch_size}, into {config.output}"
    )
    print_lines([*prepared.data.found.lines, *str(prepared.plan).splitlines(), lengths])
