"""Commands that look and change nothing: layers, plan, probe, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from deepsup import methods as method_table
from deepsup import networks, ownership, reports
from deepsup.cli import tables
from deepsup.cli.options import Channels, Classes, ModelName, Overwrite, Size, Trust, Words
from deepsup.cli.terminal import console, print_lines
from deepsup.cli.words import settings_of
from deepsup.comparisons import results
from deepsup.doctor import diagnose
from deepsup.errors import ConfigError
from deepsup.gradients import RULES
from deepsup.heads import HEADS
from deepsup.layers.dry_run import trace
from deepsup.plans.planning import plan as make_plan
from deepsup.probes.placement import RULES as PLACING
from deepsup.probes.placement import check_rule
from deepsup.settings import training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.training import prepare


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
    overwrite: Overwrite = False,
) -> None:
    """Show what would be attached where, and what it costs, before anything is attached."""
    if model.endswith((".yaml", ".yml")):
        raise ConfigError(f"{model} is a run's file, not a model. `deepsup train {model} --dry-run` shows its plan.")
    ownership.refuse_taken(save, overwrite=overwrite)
    built, sample = _build(model, size, channels, classes)
    options: dict[str, Any] = {"head": head, "weight": weight, "gradient": gradient}
    made = make_plan(built, sample, at=at, method=method, **options)
    print_lines(str(made).splitlines())
    if save:
        made.save(save)
        console.print(f"written to {save}")


def probe(
    words: Words = None,
    rule: Annotated[str | None, typer.Option(help=f"How to choose: {' | '.join(PLACING)}; else as configured.")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="How many branches the rule `evenly` places.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write everything measured to this JSON file.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Measure again with branches (where configured, or recommended) and draw both as a PNG."),
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Measure where gradients vanish on your data, and recommend layers to supervise.

    Takes the same settings as `train`: `deepsup probe model=torchvision:resnet18 data.name=cifar10 data.root=data`.
    Nothing is trained, and nothing written but what you ask for.
    """
    ownership.refuse_taken(save, picture, overwrite=overwrite)
    config = settings_of(words, trust=trust)
    if isinstance(config, ComparisonConfig):  # the arms share the model and the data
        config = next(c.config for c in config.expand() if c.arm in config.candidates)
    supervise = config.supervise or training.SuperviseConfig()
    check_rule(rule := rule or supervise.probe.rule or method_table.get(supervise.method).rule)
    found = prepare.measure(config)
    console.print(tables.probe_table(found, console.width))
    print_lines(tables.rule_lines(found, threshold=supervise.probe.threshold, factor=supervise.probe.factor))
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
    print_lines([advice.paste, tables.setting(advice.at)] if advice.at else [advice.paste])


def doctor(
    words: Annotated[list[str] | None, typer.Argument(metavar="MODEL | [CONFIG.yaml] [KEY=VALUE]...")] = None,
    at: Annotated[list[str] | None, typer.Option(help="Layer to supervise, as in `plan`. Repeatable.")] = None,
    method: Annotated[str, typer.Option(help="A published method; `deepsup methods` lists them.")] = "aux",
    head: Annotated[str | None, typer.Option(help="As in `plan`.")] = None,
    weight: Annotated[str | None, typer.Option(help="A number or a schedule: `linear(0.3, 0)`.")] = None,
    size: Size = 224,
    channels: Channels = 3,
    classes: Classes = 1000,
    batch_size: Annotated[int, typer.Option(min=1, max=2**31, help="Samples in a batch that you will train on.")] = 32,
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
        print_lines(f"note: {note}" for note in results.notes(config))
    for name, diagnosis in found.items():
        print_lines([*filter(None, [name]), *str(diagnosis).splitlines()])
    if any(diagnosis.errors for diagnosis in found.values()):
        raise typer.Exit(1)


def _build(model: str, size: int, channels: int, classes: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network by name, and something that it can be shown."""
    built = networks.build(model, classes=classes, in_channels=channels, size=size)
    return built, networks.sample(model, channels=channels, size=size)
