"""The part of a model that follows a layer, as a graph of its own: traced with torch.fx, cut at the layer's output."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from deepsup.errors import ContinuationError
from deepsup.features import USUAL_NAMES, Pick, picked, show_pick, split_call
from deepsup.layers.selectors import INPUT as INPUT
from deepsup.layers.snapshot import untouched

# Never looked into, even where they have layers inside (timm's BatchNormAct2d): their channel counts can be changed.
LEAVES = (_ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.Linear, nn.PReLU)

# Functions that are told by an argument whether this is training, and the layers that see it for themselves.
_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "setitem"}


class Point(NamedTuple):
    """Where a model is cut: at the output of `layer`, or at its input. `main`: which of several outputs is meant."""

    root: nn.Module
    layer: str
    main: Pick = ()

    def refusal(self, found: str, advice: str = "") -> ContinuationError:
        """The error that says what is in the way, and what to do about it."""
        return ContinuationError(
            f"the rest of {type(self.root).__name__} after '{self.layer}' cannot be repeated: {found}. "
            + (advice or "Tap another layer, or give the branch a head of your own.")
        )


class Traced(NamedTuple):
    """A model's graph, and by path, in the order in which they returned, what its layers returned at each call."""

    graph: fx.Graph
    outputs: dict[str, list[Any]]
    training: bool

    @property
    def prediction(self) -> Any:
        """What the model returns: a node, or nodes in tuples and the like."""
        return _opened(next(n for n in reversed(self.graph.nodes) if n.op == "output").args[0])


def _opened(value: Any) -> Any:
    """An output with named tuples and dataclasses, which are nodes to a graph, as dicts of their fields."""
    if isinstance(value, fx.Node) and isinstance(value.target, type):
        names = getattr(value.target, "_fields", ())
        value = {**dict(zip(names, value.args, strict=False)), **value.kwargs}
    if isinstance(value, Mapping):
        return {key: _opened(item) for key, item in value.items()}
    return tuple(map(_opened, value)) if isinstance(value, (tuple, list)) else value


class _Tracer(fx.Tracer):
    """Notes of every node in which layer it was made, and of every layer what it returned."""

    proxy_buffer_attributes = True  # what is computed from buffers while tracing would become constants

    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.inside = [""]
        self.outputs: dict[str, list[Any]] = {}
        self.failed = ""

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]  # other arguments: their defaults

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        lone = not any(True for _ in m.children())  # may look at its own `training`, as stochastic depth does
        known = isinstance(m, LEAVES) or module_qualified_name in self.opaque
        return lone or known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        self.inside.append(path)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            if not self.failed and not self.is_leaf_module(m, path):
                self.failed = path
            raise
        finally:
            self.inside.pop()
        nodes = map_aggregate(output, lambda a: a.node if isinstance(a, fx.Proxy) else a)
        self.outputs.setdefault(path, []).append(nodes)
        return output

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["layer"] = self.inside[-1]
        node.meta["caller"] = self.inside[-2 if node.op == "call_module" else -1]
        return node


def trace(point: Point, opaque: set[str] | None = None) -> Traced:
    """The graph of the model, looked into as deep as can be; in training mode where it then returns one tensor.

    What cannot be looked into is added to `opaque`, and stands as one node. Raises `ContinuationError` where the model
    itself, or what is around the layer, cannot be traced.
    """
    opaque = set() if opaque is None else opaque
    training = _trace(point, opaque, training=True)
    if isinstance(training.prediction, fx.Node):
        return training
    named = _node_at(training.prediction, point.main) if point.main else None
    if named is not None and named is not _usual(training.prediction):
        return training  # one that evaluation leaves out, or calls otherwise
    evaluation = _trace(point, opaque, training=False)  # GoogLeNet and Inception return more only in training
    return evaluation if isinstance(evaluation.prediction, fx.Node) else training


def _trace(point: Point, opaque: set[str], *, training: bool) -> Traced:
    while True:
        tracer = _Tracer(opaque)
        try:
            with untouched(point.root):
                point.root.train(training)
                graph = tracer.trace(point.root)
            return Traced(graph, tracer.outputs, training)
        except Exception as error:
            failed = tracer.failed
            if not _can_be_opaque(failed, point.layer, opaque):
                raise point.refusal(
                    f"torch.fx cannot trace {_named(failed)}: {type(error).__name__}: {error}"
                ) from error
            opaque.add(failed)


def _can_be_opaque(path: str, layer: str, opaque: set[str]) -> bool:
    """Whether a module may stand as one node: not the model itself, nor one in which the cut lies."""
    return bool(path) and path not in opaque and not f"{layer}.".startswith(f"{path}.")


def cut(point: Point) -> fx.GraphModule:
    """What runs after the layer as a module of its own: the layer's output in, the model's prediction out.

    The result shares its layers with the model. Raises `ContinuationError` for a model that cannot be traced, a layer
    whose output is no single tensor, and where something after the layer reads what ran before it.
    """
    opaque: set[str] = set()
    while True:
        traced = trace(point, opaque)
        rest = _extracted(point, traced)
        if not (traced.training and isinstance(traced.prediction, fx.Node)):
            return rest
        odd = _difference(rest.graph, _extracted(point, _trace(point, opaque, training=False)).graph)
        if odd is None:
            return rest
        caller = str(odd.meta.get("caller", ""))
        if not _can_be_opaque(caller, point.layer, opaque):
            raise point.refusal(
                f"{_named(caller)} does one thing in training and another in evaluation at '{_show(odd)}', which a graph cannot "
                "switch; layers that look at their own `training`, such as nn.Dropout, can be repeated"
            )
        opaque.add(caller)  # as one node it goes on looking at its own flag


def _extracted(point: Point, traced: Traced) -> fx.GraphModule:
    start, end = _start(point, traced), _end(point, traced)
    kept = _needed(point, traced, start, end)
    _check_nothing_passes_by(point, traced, kept, (start, end))
    graph = fx.Graph()
    given = graph.placeholder("x")
    if _overwritten(point, kept, start):
        given = graph.call_method("clone", (given,))  # the trunk and other branches read it too
    copies = {start: given}
    for node in kept:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    rest = fx.GraphModule(point.root, graph, class_name="Continuation")
    _layers_for_functions(rest, training=traced.training)
    return rest


def _start(point: Point, traced: Traced) -> fx.Node:
    if point.layer == INPUT:
        given: fx.Node = next(n for n in traced.graph.nodes if n.op == "placeholder")
        return given
    layer, call = split_call(point.layer)
    wanted = point.root.get_submodule(layer)
    path = next(name for name, module in point.root.named_modules() if module is wanted)  # it may have several
    calls = traced.outputs.get(path, [])
    if not calls:
        raise point.refusal("the layer lies inside one that a graph cannot show, or never runs")
    if call and call not in (-1, len(calls)):
        raise point.refusal("the layer runs again after this call, so what follows is not a part of its own")
    if len(calls) > 1 and not call:
        raise point.refusal(f"the layer runs {len(calls)} times in one forward, so what follows it is ambiguous")
    if not isinstance(calls[-1], fx.Node):
        raise point.refusal("the layer returns something else than one tensor")
    return calls[-1]


def _end(point: Point, traced: Traced) -> fx.Node:
    """The model's prediction: what it returns, or of several outputs the one that `main` names, else the usual one."""
    prediction = traced.prediction
    several = not isinstance(prediction, fx.Node)
    found = _node_at(prediction, point.main) if several and point.main else _usual(prediction)
    if found is None:
        sought = f"no tensor at '{show_pick(point.main)}'" if point.main else "no prediction"
        raise point.refusal(f"the model returns {type(prediction).__name__}, in which {sought} is found")
    return found


def _usual(prediction: Any) -> fx.Node | None:
    """The prediction itself; of several outputs the one with a usual name, else the first."""
    picks: list[Pick] = [(), *((name,) for name in USUAL_NAMES), (0,)]
    return next((found for pick in picks if (found := _node_at(prediction, pick)) is not None), None)


def _node_at(prediction: Any, pick: Pick) -> fx.Node | None:
    try:
        found = picked(prediction, pick)
    except LookupError:
        return None
    return found if isinstance(found, fx.Node) else None


def _needed(point: Point, traced: Traced, start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """All nodes that `end` is computed from, without going past `start`; in order."""
    wanted = {end}
    for node in reversed(traced.graph.nodes):
        into = node.args[0] if node.args else None
        if node is not start and isinstance(into, fx.Node) and into in wanted and _writes(point.root, node):
            wanted.add(node)  # `x.add_(1)` counts even where nobody reads what it returns
        if node in wanted and node is not start:
            wanted.update(node.all_input_nodes)
    return [node for node in traced.graph.nodes if node in wanted and node is not start]


def _writes(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node overwrites its first argument."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = _show(node)
    told = node.kwargs.get("inplace", False) or node.kwargs.get("out") is not None
    return bool(told) or name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _overwritten(point: Point, kept: list[fx.Node], start: fx.Node) -> bool:
    """Whether anything may write into `start`, itself or through something that shares its memory."""
    shared = {start}
    for node in kept:
        if not shared & set(node.all_input_nodes):
            continue
        if _writes(point.root, node):
            return True
        if not (node.op == "call_module" and isinstance(point.root.get_submodule(str(node.target)), LEAVES)):
            shared.add(node)  # identities, dropout in evaluation, reshaping; rather too many than too few
    return False


def _check_nothing_passes_by(point: Point, traced: Traced, kept: list[fx.Node], ends: tuple[fx.Node, fx.Node]) -> None:
    """Raise `ContinuationError` where the rest reads something that was computed from the input before the cut."""
    start, end = ends
    after = {start}
    for node in kept:
        if after & set(node.all_input_nodes):
            after.add(node)
    if not kept:
        raise point.refusal("nothing runs after the layer, it makes the prediction itself", "Tap an earlier layer.")
    if end not in after:
        raise point.refusal("the model's prediction does not depend on the layer's output")
    reads_input = _reading_input(traced.graph)
    before = set(itertools.takewhile(lambda n: n is not start, traced.graph.nodes)) & reads_input
    for node in kept:
        past = [a for a in node.all_input_nodes if a in before]
        if past and node not in before:
            source = "the model's input" if past[0].op == "placeholder" else f"what {_named(_layer(past[0]))} computes"
            raise point.refusal(
                f"{_named(_layer(node))} also reads {source}, which passes by '{point.layer}'",
                f"Choose a layer that everything passes through{_passages(traced, start)}, or give the branch a head of "
                "your own.",
            )


def _reading_input(graph: fx.Graph) -> set[fx.Node]:
    """Every node that depends on the model's input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or found & set(node.all_input_nodes):
            found.add(node)
    return found


def _passages(traced: Traced, start: fx.Node) -> str:
    """`", such as 'layer1' or 'layer2'"`: the nearest layers, before and after, that nothing passes by."""
    reads_input = _reading_input(traced.graph)
    nodes = [n for n in traced.graph.nodes if n in reads_input]
    place = {n: i for i, n in enumerate(nodes)}
    narrow: set[fx.Node] = set()
    last_reader = 0
    for i, node in enumerate(nodes):
        if last_reader <= i:  # all that ran before this has been read by now
            narrow.add(node)
        last_reader = max([last_reader, *(place[user] for user in node.users if user in place)])
    paths: dict[fx.Node, str] = {}
    for path, outputs in traced.outputs.items():
        found = outputs[0] if len(outputs) == 1 else None
        if isinstance(found, fx.Node) and found in narrow and found is not traced.prediction:
            paths[found] = min((path, paths.get(found, path)), key=lambda p: (p.count("."), len(p)))
    ordered = sorted(paths, key=place.__getitem__)
    before = [n for n in ordered if place[n] < place[start]]
    behind = [n for n in ordered if place[n] > place[start]]
    near = " or ".join(f"'{paths[n]}'" for n in (*before[-1:], *behind[:1]))
    return f", such as {near}" if near else ""


def _layers_for_functions(rest: fx.GraphModule, *, training: bool) -> None:
    """Replace functional dropout, whose flag tracing has fixed, by layers that know whether they train."""
    for node in list(rest.graph.nodes):
        kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        if kind is None:
            continue
        told = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        told.apply_defaults()
        if told.arguments["training"] is not training or isinstance(told.arguments["p"], fx.Node):
            continue
        inside = _layer(node)
        taken = dict(rest.named_modules())
        names = (f"{inside}.dropout{n or ''}".lstrip(".") for n in itertools.count())
        path = next(name for name in names if name not in taken)
        rest.add_submodule(path, kind(told.arguments["p"], told.arguments["inplace"]))
        with rest.graph.inserting_before(node):
            layer = rest.graph.call_module(path, (told.arguments["input"],))
        layer.meta.update(node.meta)
        node.replace_all_uses_with(layer)
        rest.graph.erase_node(node)
    rest.recompile()


def _difference(one: fx.Graph, other: fx.Graph) -> fx.Node | None:
    """The first node of `one` that `other` has not, or has otherwise; None if they compute the same."""
    nodes: list[fx.Node] = list(one.nodes)
    for node, ours, theirs in itertools.zip_longest(nodes, _lines(one), _lines(other)):
        if ours != theirs:
            return node or nodes[-1]
    return None


def _lines(graph: fx.Graph) -> Iterator[str]:
    place: dict[fx.Node, Any] = {n: f"%{i}" for i, n in enumerate(graph.nodes)}
    for node in graph.nodes:
        yield f"{node.op} {node.target} {map_arg((node.args, node.kwargs), place.__getitem__)}"


def _layer(node: fx.Node) -> str:
    return str(node.meta.get("layer", ""))


def _named(path: str) -> str:
    return f"'{path}'" if path else "the model's own forward"


def _show(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
