"""Find layers by exact name, glob, type, depth or stride; unknown ones are answered with the closest.

    layer2            the layer of that dotted name
    layer[1-3].*      a glob; `*` and `?` stay within one part of the name, `**` crosses dots
    type:BasicBlock   every layer of that class (glob allowed)
    50%               the tap point of the trunk whose depth is nearest to one half
    stride:16         the deepest tap point at 1/16 of the input's height
    cell#2            the second run of a layer that runs several times in one forward; `#-1` is the last
    block.3@hidden    after any exact name: which tensor of a layer that returns several

`LayerNotCalledError` and `LayerReusedError` say that a named layer has no output, or more than one.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from deepsup.errors import LayerError, LayerNotCalledError, LayerReusedError, UnknownLayerError
from deepsup.features import Pick, read_pick, split_call
from deepsup.layers.dry_run import Layer, Trace
from deepsup.specs import alike

# What the model itself reads, as if it were the output of a layer. No module is ever called so; users write `input`.
INPUT = "<input>"


def split_pick(selector: str) -> tuple[str, Pick | None]:
    """`"block@hidden"` as layer and pick; the pick is None where none is written."""
    layer, at, pick = selector.partition("@")
    return layer, read_pick(pick) if at else None


def is_measure(selector: str) -> bool:
    """Whether a selector says where, by depth or stride, rather than what."""
    return selector.endswith("%") or selector.startswith("stride:")


def select(trace: Trace, selectors: str | Iterable[str]) -> list[str]:
    """The names of the layers that `selectors` mean, in the order in which they run, each once.

    Raises `UnknownLayerError` for a selector that matches nothing.
    """
    wanted = [selectors] if isinstance(selectors, str) else list(selectors)
    found = {name for selector in wanted for name in matches(trace, selector)}
    return sorted(found, key=lambda n: trace.layers[n].order)


def matches(trace: Trace, selector: str) -> list[str]:
    """The layers that one selector means."""
    text, pick = split_pick(selector)
    if text in trace.layers:
        return [text]
    if text.endswith("#*"):
        raise UnknownLayerError(
            f"{text!r} is every call of a layer, which no branch can read. Name each: '{text[:-1]}1', '{text[:-1]}2', ..."
        )
    if pick is not None:
        raise UnknownLayerError(_unknown(trace, text))
    if text.startswith("type:"):
        return _by_type(trace, text.removeprefix("type:"))
    if text.endswith("%"):
        return [_by_depth(trace, text)]
    if text.startswith("stride:"):
        return [_by_stride(trace, text)]
    if any(letter in text for letter in "*?["):
        return _by_glob(trace, text)
    raise UnknownLayerError(_unknown(trace, text))


def _by_glob(trace: Trace, pattern: str) -> list[str]:
    try:
        regex = re.compile(_glob_regex(pattern))
    except re.error:  # an unclosed or reversed range matches nothing
        raise UnknownLayerError(_unknown(trace, pattern)) from None
    found = [n for n, layer in trace.layers.items() if regex.fullmatch(n) and layer.calls and not split_call(n)[1]]
    if not found:
        raise UnknownLayerError(_unknown(trace, pattern))
    return found


def _glob_regex(pattern: str) -> str:
    """A glob as a regular expression; unlike fnmatch's, `*` and `?` do not cross dots and `**` does."""
    parts = re.split(r"(\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    special = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return "".join(
        special.get(p) or (p.replace("[!", "[^") if p.startswith("[") and p.endswith("]") else re.escape(p))
        for p in parts
    )


def _by_type(trace: Trace, pattern: str) -> list[str]:
    of_type = [n for n, layer in trace.layers.items() if fnmatch.fnmatchcase(layer.type, pattern) and layer.calls]
    found = [n for n in of_type if not split_call(n)[1]]
    if found:
        return found
    types = sorted({layer.type for layer in trace.layers.values()})
    close = alike(pattern, types, most=3, cutoff=0.3) or types[:5]
    raise UnknownLayerError(f"no layer of {trace.model} has type {pattern!r}. Closest: {', '.join(close)}.")


def tap_points(trace: Trace) -> list[Layer]:
    """One tap point per depth of the trunk, the model's prediction left out, in order of running.

    Of several layers that are done at the same depth (conv and relu, last block and stage) the last to run counts:
    an activation rather than a convolution, a stage rather than its last block.
    """
    by_depth: dict[float, Layer] = {}
    for name in trace.trunk:
        layer = trace.layers[name]
        pooled = layer.feature is not None and set(layer.feature.size) <= {1}
        if layer.depth < 1 and not (pooled and layer.depth in by_depth):  # a pooled map tells less than the map
            by_depth[layer.depth] = layer
    return list(by_depth.values())


def _by_depth(trace: Trace, text: str) -> str:
    try:
        wanted = float(text.removesuffix("%")) / 100
    except ValueError:
        raise UnknownLayerError(f"{text!r} is not a depth. Write a percentage such as '50%'.") from None
    points = tap_points(trace)
    if not 0 <= wanted <= 1 or not points:
        raise UnknownLayerError(
            f"no layer of {trace.model} at depth {text!r}: {len(points)} tap points found, depths run from 0% to 100%."
        )
    return min(points, key=lambda p: abs(p.depth - wanted)).name


def _by_stride(trace: Trace, text: str) -> str:
    points = tap_points(trace)
    found = [p.name for p in points if str(p.stride) == text.removeprefix("stride:")]
    if not found:
        there = sorted({p.stride for p in points if p.stride})
        raise UnknownLayerError(
            f"no tap point of {trace.model} has {text!r}. Strides found: {', '.join(map(str, there)) or 'none (no maps)'}."
        )
    return found[-1]


def _unknown(trace: Trace, asked: str) -> str:
    names = list(trace.layers)
    close = alike(asked, names, most=3, cutoff=0.5)
    same_end = [n for n in names if n.endswith(asked.split(".")[-1]) and n not in close] if asked else []
    close += same_end[: 3 - len(close)]
    top = [n for n in names if "." not in n][:8]
    hint = f"Closest: {', '.join(close)}. " if close else f"There are: {', '.join(top)}. " if top else ""
    return f"no layer matches {asked!r} in {trace.model}. {hint}List all {len(names)} with: deepsup layers MODEL"


def check_readable(trace: Trace, name: str, layer: Layer | None = None) -> Layer:
    """The layer, if a tap can read it: called exactly once, with a tensor that a gradient can flow through."""
    layer = layer or trace.layers[name]
    if layer.problem and not layer.calls:  # it runs where nobody sees it
        raise LayerError(layer.problem)
    path, call = split_call(name)
    if layer.calls == 0 and call and trace.layers[path].calls:
        raise LayerNotCalledError(
            f"layer '{path}' of {trace.model} ran {trace.layers[path].calls} times in the dry run, so there is no call "
            f"'{name}'. The last is '{path}#-1'."
        )
    if layer.calls == 0:
        raise LayerNotCalledError(
            f"layer '{name}' of {trace.model} was never called in the dry run (in training mode, input "
            f"{trace.input_shape}). Choose a layer that runs, for example: {', '.join(trace.trunk[:3])}."
        )
    if layer.calls > 1:
        raise LayerReusedError(
            f"layer '{name}' of {trace.model} ran {layer.calls} times in one forward, so its output is ambiguous. "
            f"Name the call, from '{name}#1' to '{name}#{layer.calls}' or '{name}#-1', the last; or choose the block around it."
        )
    if layer.problem:
        raise LayerError(layer.problem)
    if layer.feature is None:
        raise LayerError(f"layer '{name}' of {trace.model} gives out a tensor with too many dimensions for a head.")
    if not layer.reads_input:
        raise LayerError(
            f"the output of layer '{name}' of {trace.model} does not depend on the input: it is a position embedding, learned "
            f"queries or a mask, which tell no sample from another. Choose a layer that does, for example: "
            f"{', '.join(trace.trunk[:3])}."
        )
    if not layer.trains:
        raise LayerError(
            f"no gradient can flow into the output of layer '{name}' of {trace.model}: it was computed without a graph, "
            "as reentrant checkpointing or torch.no_grad do. Checkpoint with use_reentrant=False, or tap outside it."
        )
    return layer
