"""The command line: layers, plan, probe, doctor, train, compare, report, predict, score, strip, methods."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from deepsup import methods as method_table
from deepsup import networks, reports
from deepsup.cli import tables
from deepsup.cli.predicting import predict
from deepsup.cli.progress import Display
from deepsup.cli.scoring import score
from deepsup.cli.words import run_settings, settings_of
from deepsup.comparisons import results
from deepsup.comparisons.compare import compare as compare_arms
from deepsup.doctor import diagnose
from deepsup.errors import ConfigError
from deepsup.files import write_atomically
from deepsup.gradients import RULES
from deepsup.heads import HEADS
from deepsup.layers.dry_run import trace
from deepsup.plans.planning import plan as make_plan
from deepsup.probes.placement import RULES as PLACING
from deepsup.probes.placement import check_rule
from deepsup.reports.pictures import PICTURES
from deepsup.settings import training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.specs import counted
from deepsup.training import prepare, runs
from deepsup.training.loggers import beside, guarded
from deepsup.training.verification import CERTIFICATE, WEIGHTS, verify_run

commands = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
console = Console(markup=False, emoji=False)  # names and paths may hold brackets

ModelName = Annotated[
    str,
    typer.Argument(
        help="`deepsup:NAME` (ours), `timm:NAME`, `torchvision:NAME`, or `package.module:factory` for your own, which is "
        "called with those of num_classes, in_channels and size that its signature names.",
        show_default=False,
    ),
]
Size = Annotated[int, typer.Option(help="Height and width of the input in pixels; of tokens the length.")]
Channels = Annotated[int, typer.Option(help="Channels of the input; of tokens how many symbols there are.")]
Classes = Annotated[int, typer.Option(help="Classes the model predicts.")]
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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")]


@commands.command()
def layers(
    model: ModelName,
    size: Size = 224,
    channels: Channels = 3,
    classes: Classes = 1000,
    every: Annotated[bool, typer.Option("--all", help="Every module, not only where the trunk can be tapped.")] = False,
) -> None:
    """List the layers of a model: name, type, output, depth. `50%` and `stride:16` choose from these rows."""
    seen = trace(*_build(model, size, channels, classes))
    console.print(tables.layer_table(seen, every=every))
    if not every:
        told = f"{len(seen.trunk)} of {len(seen.layers)} layers: where the trunk can be tapped. All: --all"
        console.print(told, style="dim")


@commands.command()
def plan(
    model: ModelName,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer to supervise: a name, a glob `layer[1-3].*`, `type:Bottleneck`, `50%`, `stride:16`. Repeatable; many "
            "methods know themselves where."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="A published method; `deepsup methods` lists them.")] = "aux",
    head: Annotated[str | None, typer.Option(help=f"{' | '.join(HEADS)}; options as in `cnds(hidden=256)`.")] = None,
    weight: Annotated[str | None, typer.Option(help="A number or a schedule: `linear(0.3, 0)`.")] = None,
    gradient: Annotated[
        str | None, typer.Option(help=f"What enters the trunk: {' | '.join(RULES)}, `scale(0.5)`.")
    ] = None,
    size: Size = 224,
    channels: Channels = 3,
    classes: Classes = 1000,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this JSON file.")] = None,
) -> None:
    """Show what would be attached where, and what it costs, before anything is attached."""
    if model.endswith((".yaml", ".yml")):
        raise ConfigError(f"{model} is a run's file, not a model. `deepsup train {model} --dry-run` shows its plan.")
    built, sample = _build(model, size, channels, classes)
    options: dict[str, Any] = {"head": head, "weight": weight, "gradient": gradient}
    made = make_plan(built, sample, at=at, method=method, **options)
    _print_lines(str(made).splitlines())
    if save:
        made.save(save)
        console.print(f"written to {save}")


@commands.command(no_args_is_help=True)
def probe(
    words: Words = None,
    rule: Annotated[str | None, typer.Option(help=f"How to choose: {' | '.join(PLACING)}; else as configured.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many branches the rule `evenly` places.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write everything measured to this JSON file.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Measure again with branches (where configured, or recommended) and draw both as a PNG."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Measure where gradients vanish on your data, and recommend layers to supervise.

    Takes the same settings as `train`: `deepsup probe model=torchvision:resnet18 data.name=cifar10 data.root=data`.
    Nothing is trained, and nothing written but what you ask for.
    """
    config = settings_of(words, trust=trust)
    if isinstance(config, ComparisonConfig):  # the arms share the model and the data
        config = next(c.config for c in config.expand() if c.arm in config.candidates)
    supervise = config.supervise or training.SuperviseConfig()
    check_rule(rule := rule or supervise.probe.rule or method_table.get(supervise.method).rule)
    found = prepare.measure(config)
    console.print(tables.probe_table(found, console.width))
    _print_lines(tables.rule_lines(found, threshold=supervise.probe.threshold, factor=supervise.probe.factor))
    places = count or supervise.probe.count
    heads = prepare.heads_of(supervise, [point.layer for point in found.points])
    advice = found.recommendation(rule, factor=supervise.probe.factor, count=places, head=heads)
    console.print(f"\nrecommended by rule '{advice.rule}': {advice.reason}", highlight=False, markup=False)
    console.print(tables.recommendation_table(advice, console.width))
    if save:
        found.save(save)
        console.print(f"written to {save}", highlight=False)
    if picture:
        at = supervise.at if supervise.at != "auto" else advice.at
        if not at:
            raise ConfigError(
                f"--picture shows gradients without and with branches, but by rule '{rule}' no layer needs one. Say where: "
                "supervise.at=[50%], or choose --rule evenly."
            )
        drawn = reports.gradient_figure(found, prepare.measure(config, at=at), picture)
        console.print(f"picture: {drawn}", highlight=False)
    _print_lines([advice.paste, tables.setting(advice.at)] if advice.at else [advice.paste])


@commands.command(no_args_is_help=True)
def doctor(
    words: Annotated[list[str] | None, typer.Argument(metavar="MODEL | [CONFIG.yaml] [KEY=VALUE]...")] = None,
    at: Annotated[list[str] | None, typer.Option(help="Layer to supervise, as in `plan`. Repeatable.")] = None,
    method: Annotated[str, typer.Option(help="A published method; `deepsup methods` lists them.")] = "aux",
    head: Annotated[str | None, typer.Option(help="As in `plan`.")] = None,
    weight: Annotated[str | None, typer.Option(help="A number or a schedule: `linear(0.3, 0)`.")] = None,
    size: Size = 224,
    channels: Channels = 3,
    classes: Classes = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch that you will train on.")] = 32,
    trust: Trust = False,
) -> None:
    """Find the traps before training does: one line each, with its fix. Exit status 1 if there is an error.

    A model by name is looked at with the options below, `deepsup doctor torchvision:resnet18 --at layer2 --size 64`;
    settings as for `train` with their data: `deepsup doctor examples/digits.yaml`. Nothing is trained or written.
    """
    if words and len(words) == 1 and "=" not in words[0] and not words[0].endswith((".yaml", ".yml")):
        built, sample = _build(words[0], size, channels, classes)
        options: dict[str, Any] = {"at": at, "method": method, "head": head, "weight": weight, "classes": classes}
        found = {"": diagnose(built, sample, batch_sizes=[batch_size], **options)}
    elif at:
        raise ConfigError("--at goes with a model's name; in a configuration write supervise.at=[LAYER, ...].")
    else:
        config = settings_of(words, trust=trust)
        found = prepare.diagnose(config)
        _print_lines(f"note: {note}" for note in results.notes(config))
    for name, diagnosis in found.items():
        _print_lines([*filter(None, [name]), *str(diagnosis).splitlines()])
    if any(diagnosis.errors for diagnosis in found.values()):
        raise typer.Exit(1)


@commands.command(no_args_is_help=True)
def train(words: Words = None, dry_run: DryRun = False, trust: Trust = False) -> None:
    """Train one run as configured; a stopped run goes on from its checkpoint, a finished one is left alone.

    `deepsup train examples/digits.yaml optimizer.name=adam optimizer.lr=0.001`
    """
    config = run_settings(words, trust=trust)
    if dry_run:
        _dry_run(config)
        return
    _print_lines(f"note: {note}" for note in results.notes(config) if runs.is_main_process())
    with Display(console, name=config.name) as display:
        result = runs.train(config, on_record=guarded(display.see, "the display"))
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
        _print_lines(f"note: {note}" for note in results.notes(config))
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
) -> None:
    """Make one HTML page from the journals of a run or a comparison; it opens without a network."""
    console.print(f"report: {reports.write_html(folder, out or folder / 'report.html')}", highlight=False)
    if picture:
        console.print(f"picture: {reports.picture(of, folder, picture, group)}", highlight=False)


commands.command()(predict)
commands.command(no_args_is_help=True)(score)


@commands.command()
def strip(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Check the certificate against the weights again.")] = False,
    out: Annotated[Path | None, typer.Option(help="Copy the plain weights to this file.")] = None,
    trust: Trust = False,
) -> None:
    """Write the plain weights of a run (safetensors) and a certificate that nothing of deepsup is left in them.

    `--verify` builds the untouched model anew, loads the weights strictly and runs it on the certified input. It writes
    nothing into the folder; what is missing, torn or altered there is an error with its name.
    """
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
        _print_lines([f"verified: weights sha256 {sha256}, no hook left, outputs {proof['outputs']}"])


@commands.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, with options if you like: `dhm(temperature=2)`.")
    ] = None,
) -> None:
    """List the published methods with formula, source, defaults and deviations."""
    for method in [method_table.get(name)] if name else method_table.METHODS.values():
        console.print(tables.method_card(method), highlight=False)


def _build(model: str, size: int, channels: int, classes: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network by name, and something that it can be shown."""
    built = networks.build(model, classes=classes, in_channels=channels, size=size)
    return built, networks.sample(model, channels=channels, size=size)


def _dry_run(config: training.TrainConfig) -> None:
    prepared = prepare.prepare(config)
    batches = prepared.data.train.n_batches(config.data.batch_size)
    lengths = (
        f"{counted(prepared.epochs, 'epoch')} of {batches} batches of {config.data.batch_size}, into {config.output}"
    )
    _print_lines([*prepared.data.found.lines, *str(prepared.plan).splitlines(), lengths])


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
