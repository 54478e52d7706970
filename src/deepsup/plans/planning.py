"""Decide where branches go and what they cost: `plan`, from selectors, a method's presets and a dry run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import gradients, heads, losses, methods, probes, schedules
from deepsup.errors import BranchNameError, ClassCountError, ConfigError, HeadError, LayerError, UnknownLayerError
from deepsup.features import Feature, Pick, read_pick, show_pick
from deepsup.heads.cost import Price, price
from deepsup.layers.dry_run import Layer, Trace, trace
from deepsup.layers.selectors import check_readable, is_measure, select, split_pick
from deepsup.layers.taps import refuse_wrapped
from deepsup.losses.full_size import is_map
from deepsup.plans import compatibility
from deepsup.plans.plan import Branch, Plan, fingerprint
from deepsup.terms import ENSEMBLE, INPUT, PREVIOUS, TARGET, Edge, Gate

RESERVED = {
    "main": "that is the model's own output",
    ENSEMBLE: "that is the mean of all outputs",
    PREVIOUS: "that is the main output of the batch before",
    "y": "that is the target",
}


def plan(
    model: nn.Module,
    sample: Any,
    at: str | Iterable[str] | Mapping[str, str] | None = None,
    *,
    method: str = "aux",
    head: heads.HeadLike | Mapping[str, heads.HeadLike] | None = None,
    loss: str | losses.Loss | Mapping[str, str | losses.Loss] | None = None,
    main_loss: str | losses.Loss | None = None,
    weight: schedules.Weight | Mapping[str, schedules.Weight] | None = None,
    gradient: gradients.GradientLike | Mapping[str, gradients.GradientLike] | None = None,
    zero_heads: bool | Mapping[str, bool] = False,
    epochs: int = 100,
    classes: int | None = None,
    main: str | None = None,
    layout: Mapping[str, str] | None = None,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
) -> Plan:
    """Decide which branches to attach, and price them; the model is left exactly as it was.

        >>> ds.plan(model, torch.randn(2, 3, 32, 32), at=["layer1", "50%"], method="aux", weight=0.3)
        >>> ds.plan(model, x, at={"early": "layer1"}, weight={"early": "linear(0.3, 0)"})
        >>> ds.plan(model, x, method="dhm(temperature=2)")

    `sample` is a model input: a tensor, or a tuple or dict of arguments. `at` takes layer selectors (module `layers`),
    a mapping branch name -> selector, or `"auto"`, which probes on `batches` of (input, target); methods that say
    themselves where their branches go need none. `main_loss` is the main output's loss, and that of branches which by the
    method have the same one. `head`, `loss` and `weight` override the method's, for all branches or by branch name;
    `gradient` says the same way how a branch's gradient enters the trunk (module `gradients`: "scale(0.5)", "project",
    ...). `zero_heads` starts the last layers of heads that give class scores at zero, so that at first their losses send no
    gradient into the trunk (a term between features, a gate or an embedding still does);
    `epochs` is the length of the training, for schedules that count epochs. `main` says where the
    prediction is in an output with several tensors, `layout` ({layer: "NHWC"}) corrects a wrong guess, `classes` checks
    the class count.

    Raises `LayerError`, `HeadError`, `BranchNameError`, `ClassCountError`, `OutputError` or `ConfigError`.
    """
    refuse_wrapped(model)
    preset = methods.get(method).under(main_loss)
    pick_of_main = read_pick(main) if main is not None else None
    itself = at is None and preset.places is not None
    selectors = {} if itself else _selectors(model, at, preset, batches, main)
    chosen = {name for name, pick in map(split_pick, selectors.values()) if pick is not None}
    plain = {name: text for name, text in (layout or {}).items() if name not in chosen}
    seen = trace(model, sample, layouts=plain, main=pick_of_main)
    _check_asked(seen, layout, classes)
    if itself and preset.places is not None:
        selectors = dict(preset.places.find(methods.Scene(model, seen)))

    def look(name: str, pick: Pick) -> Layer:
        return trace(model, sample, layouts=layout, picks={name: pick}, main=pick_of_main).layers[name]

    placed = _layers(seen, selectors, look, sample)
    wanted = preset.branches(methods.Scene(model, seen), {name: layer.name for name, layer in placed.items()})
    layers = _arranged(seen, wanted, placed, look, sample)
    given = {"head": head, "loss": loss, "weight": weight, "gradient": gradient, "zero": zero_heads}
    per_branch = {
        part: _by_branch(part, value, _defaults(part, wanted, epochs), wanted) for part, value in given.items()
    }
    _refuse_shared(per_branch["head"])
    chosen_heads, by_name = per_branch["head"], isinstance(zero_heads, Mapping)
    per_branch["zero"] = compatibility.zeros(per_branch["zero"], chosen_heads, per_branch["loss"], by_name=by_name)
    priced = [
        _branch(
            model, seen, name, layer, wanted[name].gate, **{part: values[name] for part, values in per_branch.items()}
        )
        for name, layer in layers.items()
    ]
    branches, edges = _agreed(preset, priced, seen)
    losses.check_channels(preset.main_loss, seen.classes)
    return Plan(
        model=seen.model,
        method=preset.name,
        branches=tuple(branches),
        classes=seen.classes,
        main=seen.main,
        input_shape=seen.input_shape if isinstance(sample, Tensor) and sample.is_floating_point() else (),
        fingerprint=fingerprint(model),
        params=seen.params,
        flops=seen.flops,
        notes=(
            *_notes(seen, branches, layers),
            *_departures(preset, wanted, branches),
            *_one_channel(seen, preset.main_loss),
        ),
        main_loss=preset.main_loss,
        main_weight=preset.main_weight(len(branches)) if preset.main_weight and weight is None else 1.0,
        edges=edges,
        dynamic=preset.dynamic,
        views=preset.views,
        overlap=preset.overlap,
    )


def _selectors(
    model: nn.Module, at: Any, preset: methods.Method, batches: Iterable[tuple[Any, Tensor]] | None, main: str | None
) -> dict[str, str]:
    if preset.name == "equal-compute":
        raise ConfigError(
            "method 'equal-compute' is a length of training, not a plan: it means something in a comparison, where it says "
            "which arm's compute is matched (supervise: {method: equal-compute, like: ARM})."
        )
    if preset.bare:
        if at is not None:
            raise ConfigError(
                f"method '{preset.name}' attaches no branches, but at={at!r} was asked. Choose another method."
            )
        return {}
    preset.check_at(at)
    if at is None:
        raise ConfigError(
            f"method '{preset.name}' needs at=: layer names, or 'auto' with batches= to let the probe decide."
        )
    if at == "auto":
        if batches is None:
            raise ConfigError("at='auto' probes gradients on your data: pass batches=, an iterable of (input, target).")
        found = probes.probe(model, batches, main=main).recommend(preset.rule)
        if not found:
            raise ConfigError(
                f"no gradient vanishes by the rule '{preset.rule}', so at='auto' found no layer to supervise. "
                "Choose layers by name or depth, for example at=['50%']."
            )
        return {f: f for f in found}
    if isinstance(at, Mapping) and at:
        return {str(k): str(v) for k, v in at.items()}
    names: list[Any] = [at] if isinstance(at, (str, int)) else list(at)
    if not names or not all(isinstance(s, (str, int)) for s in names):
        raise ConfigError(
            f"at= takes the names of layers, at least one; found {at!s:.200}. Choose with: deepsup layers MODEL"
        )
    return {str(s): str(s) for s in names}


def _layers(
    seen: Trace, selectors: Mapping[str, str], look: Callable[[str, Pick], Layer], sample: Any
) -> dict[str, Layer]:
    """Branch name -> layer, in order of running. A branch is named after its layer unless `at` names it.

    `look` reads a layer again with a pick of the user's.
    """
    found: dict[str, Layer] = {}
    selected: dict[str, str] = {}
    for name, selector in selectors.items():
        if selector == INPUT or (selector == "input" and "input" not in seen.layers):
            found["whole" if name == selector else name] = _input_layer(seen, sample)
            continue
        names = select(seen, selector)
        pick = split_pick(selector)[1]
        for layer in names:
            branch = layer if name == selector else name if len(names) == 1 else f"{name}.{layer}"
            other = selected.get(branch, selector)
            if other != selector and any(is_measure(s) or "@" in s for s in (selector, other)):
                raise ConfigError(
                    f"at= means layer '{layer}' twice, as {selected[branch]!r} and as {selector!r}. Ask for another layer, or "
                    "name the branches: at={'NAME': 'LAYER', ...}."
                )
            selected[branch] = selector
            found[branch] = check_readable(seen, layer, None if pick is None else look(layer, pick))
    bad = [name for name in found if not name or "/" in name or "<-" in name]  # "/" is the dot in the keys of the heads
    if bad:
        raise BranchNameError(
            f"a branch needs a name without '/' and '<-'; found {bad[0]!r}. Name it: at={{'NAME': 'LAYER'}}."
        )
    for name in found:
        if name in RESERVED:
            raise BranchNameError(
                f"no branch may be called '{name}': {RESERVED[name]}. Name it: at={{'NAME': '{found[name].name}'}}."
            )
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def _input_layer(seen: Trace, sample: Any) -> Layer:
    """What the model reads, as if it were the output of a layer: for branches that are whole networks."""
    if not isinstance(sample, Tensor) or not sample.is_floating_point() or sample.ndim < 2:
        raise LayerError(
            f"a branch on 'input' reads the one tensor of numbers that {seen.model} is called with; this sample is a "
            f"{type(sample).__name__}. Give the model one tensor, or tap a layer."
        )
    layout = {2: "NC", 3: "NCL", 4: "NCHW", 5: "NCDHW"}.get(sample.ndim)
    if layout is None:
        raise LayerError(f"a branch on 'input' reads 2 to 5 dimensions; this sample has {sample.ndim}. Tap a layer.")
    feature = Feature(tuple(sample.shape[1:]), layout)
    return Layer(INPUT, INPUT, calls=1, feature=feature, dtype=sample.dtype, requires_grad=False)


def _arranged(
    seen: Trace,
    wanted: Mapping[str, methods.Preset],
    placed: Mapping[str, Layer],
    look: Callable[[str, Pick], Layer],
    sample: Any,
) -> dict[str, Layer]:
    """The layer of every branch that the method wants, those of its own included, in order of running."""
    known = {layer.name: layer for layer in placed.values()}
    for name, preset in wanted.items():
        if name in placed and placed[name].name != preset.layer:
            raise BranchNameError(
                f"the method has a branch of its own called '{name}', on '{preset.layer}', and at= gives that name to "
                f"'{placed[name].name}'. Choose another name."
            )
    found = {
        name: placed.get(name) or known.get(preset.layer) or _layers(seen, {name: preset.layer}, look, sample)[name]
        for name, preset in wanted.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def _agreed(
    preset: methods.Method, priced: list[tuple[Branch, Price]], seen: Trace
) -> tuple[list[Branch], tuple[Edge, ...]]:
    """The branches and the terms between outputs, which have been seen to fit one another."""
    shapes = {"main": seen.output[seen.main]}
    for branch, cost in priced:
        shapes |= {branch.name: cost.shape, **{f"{branch.name}/{key}": shape for key, shape in cost.extras.items()}}
    branches = [branch for branch, _ in priced]
    edges = _edges(preset, branches)
    branches = compatibility.weighed(branches, edges, shapes)
    compatibility.check_edges(edges, shapes)
    return branches, edges


def _edges(preset: methods.Method, branches: list[Branch]) -> tuple[Edge, ...]:
    """The method's terms between outputs; a mixture of all scores has the loss that the branches have."""
    found = preset.edges([b.name for b in branches]) if preset.edges else ()
    usual = next((b.loss for b in branches if b.predicts), "cross_entropy")
    edges = tuple(replace(e, loss=usual) if e.target == TARGET and e.source == ENSEMBLE else e for e in found)
    given = {name for b in branches for name in b.outputs}
    for edge in edges:
        for output in (edge.source, edge.target):
            if output not in given and output not in RESERVED:
                raise HeadError(
                    f"method '{preset.name}' holds '{edge.source}' against '{edge.target}', but the heads give out only "
                    f"{', '.join(sorted(given))}. Give the branch a head that has it, such as the method's own."
                )
    return edges


def _check_asked(seen: Trace, layout: Mapping[str, str] | None, classes: int | None) -> None:
    """Refuse a layout for a layer that there is not, and another class count than the model's."""
    unknown = [name for name in layout or {} if name not in seen.layers]
    if unknown:
        raise UnknownLayerError(f"layout= names layer {unknown[0]!r}, which {seen.model} does not have.")
    if classes is not None and classes != seen.classes:
        raise ClassCountError(
            f"{seen.model} predicts {seen.classes} classes, but classes={classes} was asked. "
            f"Build the model with {classes} classes."
        )


def _defaults(part: str, wanted: Mapping[str, methods.Preset], epochs: int) -> dict[str, Any]:
    """What the method has for every branch."""
    if part == "zero":
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
        part = "zero_heads" if part == "zero" else part
        raise BranchNameError(
            f"{part}= names branch {unknown[0]!r}, which is not there. Branches: {', '.join(wanted) or 'none'}."
        )
    return {name: given.get(name, defaults[name]) for name in wanted}


def _refuse_shared(chosen: Mapping[str, heads.HeadLike]) -> None:
    owner: dict[int, str] = {}
    for name, head in chosen.items():
        if isinstance(head, nn.Module) and owner.setdefault(id(head), name) != name:
            raise HeadError(
                f"branches '{owner[id(head)]}' and '{name}' would share one head module. Pass a function of (feature, "
                "classes) that makes a new one for each, or head={'BRANCH': module, ...}."
            )


def _branch(
    model: nn.Module,
    seen: Trace,
    name: str,
    layer: Layer,
    gate: Gate | None,
    *,
    head: Any,
    loss: Any,
    weight: Any,
    gradient: Any,
    zero: bool,
) -> tuple[Branch, Price]:
    assert layer.feature is not None  # check_readable has seen to it
    losses.get(loss)
    rule = gradients.get(gradient)
    if layer.read_inside and rule.needs_above:
        raise LayerError(
            f"layer '{layer.name}' of {seen.model} uses its output again before it returns it, so the gradient rule {rule!r} of "
            f"branch '{name}' would see a part only of what comes from above. Tap a layer inside or around it, or use add, "
            "scale, warmup or detach."
        )
    if isinstance(head, str):
        head = heads.resolve(head, layer.feature, maps=is_map(seen.output[seen.main]))
    cost = price(name, head, layer.feature, seen.classes, model=model, layer=layer.name, main=seen.main)
    main = seen.output[seen.main]
    predicts = compatibility.predicts(head) and compatibility.same_scores(cost.shape, main)
    compatibility.check_output(name, layer.name, head=head, loss=loss, shape=cost.shape, main=main)
    branch = Branch(
        name=name,
        layer=layer.name,
        feature=layer.feature,
        head=head,
        loss=loss,
        weight=schedules.as_schedule(weight),
        gradient=rule,
        depth=round(layer.depth, 4),
        pick=layer.pick,
        clone=layer.overwritten,
        requires_grad=layer.requires_grad,
        read_inside=layer.read_inside,
        gate=gate,
        zero=zero,
        predicts=predicts,
        extras=tuple(cost.extras),
        params=cost.params,
        flops=cost.flops,
        activation_bytes=cost.activation_bytes + 4 * layer.overwritten * int(torch.Size(layer.feature.shape).numel()),
    )
    return branch, cost


def _departures(
    preset: methods.Method, wanted: Mapping[str, methods.Preset], branches: Iterable[Branch]
) -> Iterable[str]:
    """Heads of the user's in place of those that make the method what it is."""
    for b in branches:
        published = wanted[b.name].head
        if preset.places is not None and b.layer != INPUT and published != heads.AUTO and b.head != published:
            yield f"branch '{b.name}' has the head {heads.show(b.head)}; method '{preset.name}' has {published}"


def _one_channel(seen: Trace, loss: str | losses.Loss) -> Iterable[str]:
    """A softmax over one channel is always 1; the loss may yet be given to the objective, so this is no error."""
    if seen.classes == 1 and is_map(seen.output[seen.main]) and losses.show(loss).startswith("cross_entropy"):
        yield "the model gives one channel, over which a softmax is always 1: for two classes use main_loss='binary'"


def _notes(seen: Trace, branches: Iterable[Branch], layers: Mapping[str, Layer]) -> Iterable[str]:
    for b in branches:
        if b.clone:
            yield f"'{b.layer}' is overwritten in place by what follows, so its tap keeps a copy"
        if b.read_inside:
            yield (
                f"'{b.layer}' uses its output again before it returns it: whether branch '{b.name}' is in conflict with what "
                "comes from above cannot be measured there"
            )
        if not b.requires_grad and b.layer != INPUT:
            yield f"nothing before '{b.layer}' can be trained: branch '{b.name}' trains its head only"
        if not layers[b.name].leads_to_output:
            yield f"'{b.layer}' does not lead to the prediction: branch '{b.name}' trains a side path"
        if show_pick(b.pick):
            yield f"'{b.layer}' returns several tensors; branch '{b.name}' reads '{show_pick(b.pick)}'"
    main = seen.output[seen.main]
    own = [show_pick(p) for p, shape in seen.output.items() if p != seen.main and shape == main]
    if own:
        yield f"the model returns further predictions of its own in training ({', '.join(own)}); no loss is put on them"
