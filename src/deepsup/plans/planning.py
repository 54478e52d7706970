"""Decide where branches go and what they cost: `plan`, from selectors, a method's presets and a dry run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import gradients, heads, losses, methods, schedules, specs
from deepsup.errors import BranchNameError, ClassCountError, HeadError
from deepsup.features import WHOLE
from deepsup.heads.cost import Price, price
from deepsup.layers.dry_run import Trace
from deepsup.layers.taps import refuse_wrapped
from deepsup.plans import compatibility
from deepsup.plans.branch_layers import Asked, Placed, place
from deepsup.plans.embedding_terms import EmbeddingLoss, EmbeddingTerms, with_embeddings
from deepsup.plans.naming import RESERVED
from deepsup.plans.output_predictions import Said, of_branch, of_main, of_whole, usual_loss
from deepsup.plans.plan import Branch, Plan, fingerprint
from deepsup.plans.plan_notes import notes
from deepsup.plans.shared_heads import check_alike, first_of, refuse_one_module
from deepsup.predictions import Prediction
from deepsup.terms import ENSEMBLE, TARGET, Edge


def plan(
    model: nn.Module,
    sample: Any,
    at: str | Iterable[str] | Mapping[str, str] | None = None,
    *,
    method: str = "aux",
    head: heads.HeadLike | Mapping[str, heads.HeadLike] | None = None,
    loss: str | losses.Loss | None = None,
    branch_loss: str | losses.Loss | Mapping[str, str | losses.Loss] | None = None,
    weight: schedules.Weight | Mapping[str, schedules.Weight] | None = None,
    gradient: gradients.GradientLike | Mapping[str, gradients.GradientLike] | None = None,
    zero_heads: bool | Mapping[str, bool] = False,
    optional: bool | Mapping[str, bool] = False,
    epochs: int = 100,
    classes: int | None = None,
    main: str | None = None,
    layout: Mapping[str, str] | None = None,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
    task: str | None = None,
    classes_axis: int | None = None,
    embedding_loss: EmbeddingLoss = None,
    embedding_weight: schedules.Weight | Mapping[str, schedules.Weight] = 1.0,
    embedding: str | Mapping[str, str] | None = None,
) -> Plan:
    """Decide which branches to attach, and price them; the model is left exactly as it was.

        >>> ds.plan(model, torch.randn(2, 3, 32, 32), at=["layer1", "50%"], method="aux", weight=0.3)
        >>> ds.plan(model, x, at={"early": "layer1"}, weight={"early": "linear(0.3, 0)"})
        >>> ds.plan(model, x, method="dhm(temperature=2)")

    `sample` is a model input: a tensor, or a tuple or dict of arguments. `at` takes layer selectors (`layers/selectors.py`),
    a mapping branch name -> selector, or `"auto"`, which probes on `batches` of (input, target); methods that say
    themselves where their branches go need none. `loss` is the main output's loss, and that of branches which by the
    method have the same one. `head`, `branch_loss` and `weight` override the method's, for all branches or by branch name;
    `gradient` says the same way how a branch's gradient enters the trunk (module `gradients`: "scale(0.5)", "project",
    ...). `zero_heads` starts the last layers of heads that give class scores at zero, so that at first their losses send no
    gradient into the trunk (a term between features, a gate or an embedding still does);
    `optional` branches are left out of a step in which the model skips their layer (LayerDrop, stochastic depth).
    `epochs` is the length of the training, for schedules that count epochs. `main` says where the
    prediction is in an output with several tensors ("-1", a path such as "decoder.logits"; "*": all of it, for a loss of
    your own), `layout` ({layer: "NHWC"}) corrects a wrong guess, `classes` checks the class count. `task` says what the main
    output is and with it the usual loss ("classification", "segmentation", "tokens": classes on the last axis, "labels": any
    of C, "values"), `classes_axis`
    (1 or -1) where its classes stand; both are found where they are not said, printed, and held against the first batch.
    `embedding_loss` is one further term, weighed by `embedding_weight`, on the feature of main and of each branch that scores
    (`layers/last_linear.py`): "triplet(margin=0.3)", "circle", or a function of (features, labels), for all or by output (None:
    none). `embedding` names the layer that makes main's scores, or those of outputs by name, where it is not found.

    Raises `LayerError`, `HeadError`, `BranchNameError`, `ClassCountError`, `OutputError` or `ConfigError`.
    """
    refuse_wrapped(model)
    specs.hold("plan", specs.POSITIVE, epochs=epochs)
    specs.hold("plan", specs.INTEGER, classes_axis=classes_axis)
    usual, own = usual_loss(model, sample, task, main) if loss is None else (loss, None)
    said, preset = Said(task, classes_axis, own), methods.get(method).under(usual)
    given = {
        "head": head,
        "loss": branch_loss,
        "weight": weight,
        "gradient": gradient,
        "zero": zero_heads,
        "optional": optional,
    }
    asked = Asked(model, sample, at, preset, given, epochs, classes, main, layout or {}, batches, said)
    placed = place(asked)
    prediction = _main(asked, placed.seen)
    settings = _settings(asked, placed.wanted)
    priced: list[tuple[Branch, Price]] = []
    for name in placed.layers:
        priced.append(_branch(asked, placed, name, prediction, before=[b for b, _ in priced], **settings[name]))
    branches, edges = _agreed(preset, priced, placed.seen, prediction, epochs)
    made = _plan(asked, placed, branches, edges, prediction)
    wanted = EmbeddingTerms(embedding_loss, embedding_weight, embedding)
    return with_embeddings(made, wanted, model, sample, placed.seen) if wanted.asked else made


def _main(asked: Asked, seen: Trace) -> Prediction:
    """What the main output predicts, which must be as many classes as were asked for."""
    if asked.whole:
        return of_whole(seen, asked.classes, asked.preset.main_loss)
    found = of_main(seen, asked.said, asked.preset.main_loss)
    if asked.classes is not None and asked.classes != found.classes:
        raise ClassCountError(
            f"{seen.model} predicts {found.classes} classes, but classes={asked.classes} was asked. "
            f"Build the model with {asked.classes} classes."
        )
    return found


def _settings(asked: Asked, wanted: Mapping[str, methods.Preset]) -> dict[str, dict[str, Any]]:
    """Head, loss, weight, gradient rule and start at zero of every branch: the user's, else the method's."""
    parts = {
        part: _by_branch(part, value, _defaults(part, wanted, asked.epochs), wanted)
        for part, value in asked.given.items()
    }
    refuse_one_module(parts["head"])
    by_name = isinstance(asked.given["zero"], Mapping)
    parts["zero"] = compatibility.zeros(parts["zero"], parts["head"], parts["loss"], by_name=by_name)
    return {name: {part: values[name] for part, values in parts.items()} for name in wanted}


def _defaults(part: str, wanted: Mapping[str, methods.Preset], epochs: int) -> dict[str, Any]:
    """What the method has for every branch."""
    if part in ("zero", "optional"):
        return dict.fromkeys(wanted, False)
    values = {name: getattr(preset, part) for name, preset in wanted.items()}
    return {n: v.replace("{epochs}", str(epochs)) for n, v in values.items()} if part == "weight" else values


def _by_branch(
    part: str, given: Any, defaults: Mapping[str, Any], wanted: Mapping[str, methods.Preset]
) -> dict[str, Any]:
    """One value a branch, from one for all (but the method's own) or from a mapping by branch name."""
    if not isinstance(given, Mapping):
        return {n: defaults[n] if given is None or preset.own else given for n, preset in wanted.items()}
    unknown = [name for name in given if name not in wanted]
    if unknown:
        part = {"zero": "zero_heads", "loss": "branch_loss"}.get(part, part)
        raise BranchNameError(
            f"{part}= names branch {unknown[0]!r}, which is not there. Branches: {', '.join(wanted) or 'none'}."
        )
    return {name: given.get(name, defaults[name]) for name in wanted}


def _branch(
    asked: Asked,
    placed: Placed,
    name: str,
    main: Prediction,
    *,
    before: list[Branch],
    head: Any,
    loss: Any,
    weight: Any,
    gradient: Any,
    zero: bool,
    optional: bool,
) -> tuple[Branch, Price]:
    """One branch, its head run once on nothing to see what it gives and costs."""
    seen, layer = placed.seen, placed.layers[name]
    assert layer.feature is not None  # check_readable has seen to it
    losses.get(loss)
    if isinstance(head, str):
        head = heads.resolve(head, layer.feature, places=main.places)
    first = first_of(before, head)
    if first is not None:
        check_alike(first, name, layer.feature)
    source, made_for = (first.layer, first.feature) if first else (layer.name, None)
    given: dict[str, Any] = {"model": asked.model, "layer": source, "main": seen.main, "made_for": made_for}
    cost = price(name, head, layer.feature, main.classes, **given)
    prediction = of_branch(name, head, loss, cost, main)
    shape, whole = prediction.first_shape(cost.shape), main.first_shape(seen.output[seen.main])
    compatibility.check_output(name, layer.name, head=head, loss=loss, shape=shape, main=whole, kind=prediction.kind)
    copied = 4 * torch.Size(layer.feature.shape).numel() if layer.overwritten else 0
    branch = Branch(
        name=name,
        layer=layer.name,
        feature=layer.feature,
        head=head,
        loss=loss,
        weight=schedules.as_schedule(weight),
        gradient=gradients.get(gradient),
        depth=round(layer.depth, 4),
        pick=layer.pick,
        clone=layer.overwritten,
        requires_grad=layer.requires_grad,
        read_inside=layer.read_inside,
        bracket=placed.wanted[name].bracket,
        zero=compatibility.can_be_zero(name, zero, cost, by_name=isinstance(asked.given["zero"], Mapping)),
        optional=optional,
        predicts=not asked.whole and heads.describe(head).scores and compatibility.same_scores(shape, whole),
        prediction=prediction,
        extras=tuple(cost.extras),
        params=0 if first else cost.params,
        flops=cost.flops,
        activation_bytes=cost.activation_bytes + copied,
    )
    return branch, cost


def _agreed(
    preset: methods.Method, priced: list[tuple[Branch, Price]], seen: Trace, main: Prediction, epochs: int
) -> tuple[list[Branch], tuple[Edge, ...]]:
    """The branches and the terms between outputs, which have been seen to fit one another."""
    shapes = {"main": main.first_shape(seen.output[seen.main])}
    for branch, cost in priced:
        assert branch.prediction is not None  # `_branch` has found it
        shapes |= {
            branch.name: branch.prediction.first_shape(cost.shape),
            **{f"{branch.name}/{key}": shape for key, shape in cost.extras.items()},
        }
    branches = [branch for branch, _ in priced]
    edges = _edges(preset, branches, epochs)
    branches = compatibility.weighed(branches, edges, shapes)
    compatibility.check_edges(edges, shapes, {b.name: b.prediction for b in branches} | {"main": main})
    return branches, edges


def _edges(preset: methods.Method, branches: list[Branch], epochs: int) -> tuple[Edge, ...]:
    """The method's terms between outputs; a mixture of all scores has the loss that the branches have."""
    found = preset.edges([b.name for b in branches]) if preset.edges else ()
    usual = next((b.loss for b in branches if b.predicts), "cross_entropy")
    edges = tuple(replace(e, loss=usual) if e.target == TARGET and e.source == ENSEMBLE else e for e in found)
    if preset.by_epoch:
        edges = tuple(
            replace(e, weight=replace(e.weight, epochs=epochs)) if isinstance(e.weight, schedules.rampup) else e
            for e in edges
        )
    given = {name for b in branches for name in b.outputs}
    for edge in edges:
        for output in (edge.source, edge.target):
            if output not in given and output not in RESERVED:
                raise HeadError(
                    f"method '{preset.name}' holds '{edge.source}' against '{edge.target}', but the heads give out only "
                    f"{', '.join(sorted(given))}. Give the branch a head that has it, such as the method's own."
                )
    return edges


def _plan(
    asked: Asked, placed: Placed, branches: list[Branch], edges: tuple[Edge, ...], prediction: Prediction
) -> Plan:
    seen, preset = placed.seen, asked.preset
    one_tensor = isinstance(asked.sample, Tensor) and asked.sample.is_floating_point()
    summing = preset.main_weight if asked.given["weight"] is None else None
    return Plan(
        model=seen.model,
        method=preset.name,
        branches=tuple(branches),
        classes=prediction.classes,
        prediction=prediction,
        main=WHOLE if asked.whole else seen.main,
        input_shape=seen.input_shape if one_tensor else (),
        fingerprint=fingerprint(asked.model),
        params=seen.params,
        flops=seen.flops,
        notes=tuple(notes(preset, placed, branches, prediction)),
        main_loss=preset.main_loss,
        main_weight=1.0 if summing is None else summing(len(branches)),
        edges=edges,
        dynamic=preset.dynamic,
        views=preset.views,
        overlap=preset.overlap,
        forwards=preset.forwards,
    )
