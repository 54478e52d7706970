"""Where branches go: what was asked of `plan`, and the layers that it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from deepsup import methods, probes
from deepsup.errors import BranchNameError, ConfigError, LayerError, UnknownLayerError
from deepsup.features import WHOLE, Feature, Pick, read_pick, split_call
from deepsup.layers.dry_run import Layer, Trace, trace_of_all
from deepsup.layers.selectors import check_readable, is_measure, select, split_pick
from deepsup.plans.naming import check_name
from deepsup.plans.output_predictions import Said
from deepsup.terms import INPUT


@dataclass(frozen=True)
class Asked:
    """What was asked of `plan`: its arguments, gathered once. `given` are those that may differ from branch to branch."""

    model: nn.Module
    sample: Any
    at: Any
    preset: methods.Method
    given: Mapping[str, Any]
    epochs: int
    classes: int | None
    main: str | None
    layout: Mapping[str, str]
    batches: Iterable[tuple[Any, Tensor]] | None
    said: Said

    @property
    def whole(self) -> bool:
        """Whether the main loss is given all that the model returns."""
        return self.main is not None and read_pick(self.main) == WHOLE

    def run(
        self, layouts: Mapping[str, str], picks: Mapping[str, Pick] | None = None, calls: Iterable[str] = ()
    ) -> Trace:
        """A dry run of the model on the sample; `calls` are single runs of layers to look at, such as `cell#2`."""
        main = None if self.main is None else read_pick(self.main)
        return trace_of_all(self.model, self.sample, layouts=layouts, picks=picks, calls=calls, main=main)

    def look(self, layer: str, pick: Pick) -> Layer:
        """A layer once more, as the user picks one tensor of its output."""
        return self.run(self.layout, {layer: pick}, single_calls([layer])).layers[layer]


def single_calls(layers: Iterable[str]) -> list[str]:
    """Those that name one run of a layer, such as `cell#2`."""
    return [layer for layer in layers if split_call(layer)[1]]


class Placed(NamedTuple):
    """What the dry run saw, and by branch name what the method wants and the layer it goes to, in order of running."""

    seen: Trace
    wanted: Mapping[str, methods.Preset]
    layers: Mapping[str, Layer]


def place(asked: Asked) -> Placed:
    """Find the layers that `at` means or, where it says nothing, those that the method chooses itself."""
    own = (asked.preset.places or asked.preset.published) if asked.at is None else None
    selectors = _selectors(asked) if own is None else {}
    picked = {name for name, pick in map(split_pick, selectors.values()) if pick is not None}
    calls = single_calls(split_pick(selector)[0] for selector in selectors.values())
    seen = asked.run({name: text for name, text in asked.layout.items() if name not in picked}, calls=calls)
    _check_asked(asked, seen)
    scene = methods.Scene(asked.model, seen)
    if own is not None:
        selectors = dict(own.find(scene)) or _selectors(asked)  # which refuses where the network is none of the paper's
    found = _layers(asked, seen, selectors)
    wanted = asked.preset.branches(scene, {name: layer.name for name, layer in found.items()})
    return Placed(seen, wanted, _arranged(asked, seen, wanted, found))


def _selectors(asked: Asked) -> dict[str, str]:
    """Branch name -> selector, as `at` says."""
    at, preset = asked.at, asked.preset
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
        if asked.batches is None:
            raise ConfigError("at='auto' probes gradients on your data: pass batches=, an iterable of (input, target).")
        found = probes.probe(asked.model, asked.batches, main=asked.main).recommend(preset.rule)
        if not found:
            raise ConfigError(
                f"no gradient vanishes by the rule '{preset.rule}', so at='auto' found no layer to supervise. "
                "Choose layers by name or depth, for example at=['50%']."
            )
        return {f: f for f in found}
    if isinstance(at, Mapping) and at:
        return {str(k): str(v) for k, v in at.items()}
    names: list[Any] = [at] if isinstance(at, (str, int)) else list(at) if isinstance(at, Iterable) else []
    if not names or not all(isinstance(s, (str, int)) for s in names):
        raise ConfigError(
            f"at= takes the names of layers, at least one; found {at!s:.200}. Choose with: deepsup layers MODEL"
        )
    return {str(s): str(s) for s in names}


def _check_asked(asked: Asked, seen: Trace) -> None:
    """Refuse a layout for a layer that there is not."""
    unknown = [name for name in asked.layout if name not in seen.layers]
    if unknown:
        raise UnknownLayerError(f"layout= names layer {unknown[0]!r}, which {seen.model} does not have.")


def _layers(asked: Asked, seen: Trace, selectors: Mapping[str, str]) -> dict[str, Layer]:
    """Branch name -> layer, in order of running. A branch is named after its layer unless `at` names it."""
    found: dict[str, Layer] = {}
    selected: dict[str, str] = {}
    for name, selector in selectors.items():
        if selector == INPUT or (selector == "input" and "input" not in seen.layers):
            found["whole" if name == selector else name] = _input_layer(seen, asked.sample)
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
            found[branch] = check_readable(seen, layer, None if pick is None else asked.look(layer, pick))
    for name in found:
        check_name(name, found[name].name)
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
    asked: Asked, seen: Trace, wanted: Mapping[str, methods.Preset], placed: Mapping[str, Layer]
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
        name: placed.get(name) or known.get(preset.layer) or _layers(asked, seen, {name: preset.layer})[name]
        for name, preset in wanted.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].order))
