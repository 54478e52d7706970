"""A dry run of a model that sees what every layer gives out and leaves no trace.

One forward in training mode with gradients on, because taps read layers in training: a layer that only runs then,
a tensor that is cut off from the graph, or a successor that works in place shows itself. Flags, buffers, attributes,
hooks and random state are afterwards what they were, also when the forward fails.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from deepsup.errors import DeepsupError, LayerError, OutputError
from deepsup.features import Feature, Pick, default_pick, picked, show_pick, split_call, tensors_in
from deepsup.layers import readers
from deepsup.layers.channel_axis import Layouts, batch_is_second
from deepsup.layers.input_dependence import Lineage
from deepsup.layers.output_axis import main_of, output_axis
from deepsup.layers.readers import nodes_above, sequence_number
from deepsup.layers.snapshot import begin, untouched
from deepsup.predictions import BY_SHAPE

TRIES = 32  # for a dry run in which no layer is dropped
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Layer:
    """What the dry run saw of one layer (one entry of `named_modules()`)."""

    name: str
    type: str
    calls: int = 0
    order: int = -1  # position of its first exit among all exits
    depth: float = 0.0  # share of the model's weight-bearing layers that have run when it is done, in [0, 1]
    params: int = 0  # of the layer and everything inside it
    feature: Feature | None = None
    pick: Pick = ()
    stride: int | None = None  # input height / map height
    overwritten: bool = False  # a later operation wrote into its output in place
    leads_to_output: bool = True  # the prediction depends on it
    reads_input: bool = True  # it depends on the model's input, as position embeddings and learned queries do not
    trains: bool = True  # a gradient can flow into its output, or nothing before it could be trained
    requires_grad: bool = True  # its output had a graph
    dtype: torch.dtype | None = None  # of its output
    read_inside: bool = False  # the prediction also depends on its output past what it returned: it used it itself
    added: bool = False  # its output is only added to what it was made of: no stream of a residual net
    problem: str = ""  # why its output cannot be read, if so
    guessed: bool = False  # only the shape tells where the channels of a sequence are


@dataclass(frozen=True)
class Trace:
    """The dry run of one model: its layers by name, the points where its trunk can be tapped, its output."""

    model: str
    layers: dict[str, Layer]
    trunk: tuple[str, ...]
    input_shape: tuple[int, ...]
    output: dict[Pick, tuple[int, ...]]
    main: Pick
    params: int
    flops: int  # forward, per sample; multiplications and additions counted separately
    axis: int = 1  # of the channels of the main prediction, 1 or -1
    axis_source: str = BY_SHAPE

    @property
    def classes(self) -> int:
        """Channels of the main prediction. Raises `OutputError` when it has no axis for them."""
        shape = self.output[self.main]
        if len(shape) < 2:
            raise OutputError(f"{self.model} predicts a tensor of shape {shape}; scores need shape (N, classes, ...).")
        return shape[self.axis]


@dataclass
class _Recorder:
    """Forward hooks for one dry run. Holds every output until the end, to see who was overwritten."""

    input_shape: tuple[int, ...]
    layouts: Layouts
    picks: Mapping[str, Pick]
    lineage: Lineage
    wanted: frozenset[str] = frozenset()  # single calls of layers, such as "cell#2", which are held under that name
    apart: set[str] = field(default_factory=set)  # outputs that do not depend on the input
    calls: dict[str, int] = field(default_factory=dict)
    exits: list[str] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)  # where in `exits` a layer stands first
    held: dict[str, tuple[Tensor, int, Pick]] = field(default_factory=dict)
    graphs: dict[str, bool] = field(default_factory=dict)
    # Where each output stands in the graph, and when.
    nodes: dict[str, tuple[Any, int, int]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # outputs without a graph, though something before them could be trained
    trainable: bool = False
    problems: dict[str, str] = field(default_factory=dict)

    def record(self, name: str, module: nn.Module, args: object, output: object) -> None:
        own = (p for p in module._parameters.values() if p is not None)
        self.trainable = self.trainable or any(p.requires_grad for p in own)
        self.calls[name] = self.calls.get(name, 0) + 1
        self.first.setdefault(name, len(self.exits))
        self.exits.append(name)
        call = self.calls[name]
        if call == 1:
            self._hold(name, name, module, output)
        for label in self.wanted & {f"{name}#{call}", f"{name}#-1"}:
            self.calls[label], self.first[label] = 1, len(self.exits) - 1
            for kept in (self.held, self.nodes, self.problems):  # of the last call so far, which it was not
                kept.pop(label, None)
            self.apart, self.cut = self.apart - {label}, self.cut - {label}
            self._hold(label, name, module, output)

    def _hold(self, name: str, layer: str, module: nn.Module, output: object) -> None:
        try:
            pick = self.picks[name] if name in self.picks else default_pick(output, f"layer '{layer}'")
            tensor = picked(output, pick)
        except OutputError as error:
            self.problems[name] = str(error)
            return
        except LookupError:
            tensor = None
        if not isinstance(tensor, Tensor):
            self.problems[name] = _no_pick(name, pick, output)
            return
        self.held[name] = (tensor, tensor._version, pick)
        self.layouts.see(name, module, tuple(tensor.shape))
        if tensor.ndim == 3 and batch_is_second(module):
            self.problems[name] = _no_batch_axis(name, tensor.shape, tensor.shape[1])
        if not self.lineage.follows(tensor):
            self.apart.add(name)
        self.graphs[name] = tensor.requires_grad
        if tensor.grad_fn is not None:
            self.nodes[name] = (tensor.grad_fn, tensor.output_nr, sequence_number())
        inside = any(p.requires_grad for p in module.parameters())
        without_graph = self.trainable and not torch.is_grad_enabled()
        if not tensor.requires_grad and (inside or without_graph):  # asked now: checkpointing may add a graph later
            self.cut.add(name)

    def feature(self, name: str) -> Feature | None:
        return self.layouts.feature(name, tuple(self.held[name][0].shape)) if name in self.held else None

    def depth_of_call(self, label: str, weighted: set[str]) -> float:
        """The share of all runs of weight-bearing layers that are over when this one is."""
        runs = [name in weighted for name in self.exits]
        return sum(runs[: self.first.get(label, -1) + 1]) / max(1, sum(runs))


def _no_pick(name: str, pick: Pick, output: object) -> str:
    there = [] if isinstance(output, Tensor) else [show_pick(p) for p in tensors_in(output)]
    found = f" with {', '.join(there)}" if there else ""
    return f"layer '{name}' has no output '{show_pick(pick)}'; it returned {type(output).__name__}{found}."


def _compiled_to_script(name: str) -> str:
    return (
        f"layer '{name}' is compiled to TorchScript (torch.jit), where nothing can be read. "
        "Tap a layer before or behind it, or build the model without torch.jit.script."
    )


def _no_batch_axis(name: str, shape: tuple[int, ...], batch: int) -> str:
    return (
        f"layer '{name}' gives out {tuple(shape)}, whose first axis is not the batch ({batch} samples): a sequence-first or "
        "windowed layer, over which a head would pool the wrong axis. Choose the block around it, whose output starts "
        "with the batch."
    )


def trace(
    model: nn.Module,
    sample: Any,
    *,
    layouts: Mapping[str, str] | None = None,
    picks: Mapping[str, Pick] | None = None,
    calls: Iterable[str] = (),
    main: Pick | None = None,
    seed: int | None = None,
    training: bool = True,
) -> Trace:
    """Run `model` once on `sample` and say what every layer gave out; the model is left untouched.

    `sample` is a tensor (N, ...), a tuple of positional or a dict of keyword arguments, on the model's device. Of a
    lone tensor two samples are used (one is doubled, because batch normalisation needs two). `layouts`, `picks` and
    `main` say by layer name what inference would otherwise guess; `calls` are single runs, such as `cell#2`, seen as layers of
    that name. `seed` starts the random numbers, for models that drop layers by chance. `LayerError` if the forward fails.
    """
    names = {m: n for n, m in model.named_modules() if n}
    args, kwargs = as_call(sample, batch=2)
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton: a third of a second

    lineage = Lineage((args, kwargs))
    shape = _shape_of(args, kwargs)
    said, wanted = dict(layouts or {}), frozenset(c for c in calls if split_call(c)[0] in names.values())
    said |= {c: said[layer] for c in wanted if (layer := split_call(c)[0]) in said and c not in said}
    recorder = _Recorder(shape, Layouts.of(model, shape, said), picks or {}, lineage, wanted)
    flops = FlopCounterMode(display=False)
    with untouched(model):
        scripted = {n for m, n in names.items() if isinstance(m, torch.jit.ScriptModule)}
        recorder.problems |= {n: _compiled_to_script(n) for n in scripted}
        handles = [m.register_forward_hook(partial(recorder.record, n)) for m, n in names.items() if n not in scripted]
        try:
            _check_materialised(model)
            if model.training is not training:
                model.train(training)
            if seed is not None:
                begin(seed)
            with torch.enable_grad(), flops, lineage, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = model(*args, **kwargs)
        except DeepsupError:
            raise
        except Exception as error:
            given = _shape_of(*as_call(sample))
            raise LayerError(
                f"the dry run of {type(model).__name__} on a sample of shape {given} failed: {type(error).__name__}: {error}. "
                "The sample must be what the model takes in training, batch axis first, on the model's device."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    return _summary(model, recorder, output, main, flops.get_total_flops())


def trace_of_all(model: nn.Module, sample: Any, **said: Any) -> Trace:
    """A dry run in which nothing was skipped by chance, as stochastic depth and LayerDrop do; else one in evaluation mode.

    Where layers that have parameters did not run in training and do run in evaluation, it is tried again with other random
    numbers. `said` is what `trace` takes.
    """
    seen = trace(model, sample, **said)
    silent = {n for n, one in seen.layers.items() if not (one.calls or one.problem or split_call(n)[1]) and one.params}
    if not silent:
        return seen
    try:
        scoring = trace(model, sample, training=False, **said)
    except DeepsupError:
        return seen
    dropped = {n for n in silent if scoring.layers[n].calls}
    for seed in range(TRIES if dropped else 0):
        tried = trace(model, sample, seed=seed, **said)
        if all(tried.layers[n].calls or not scoring.layers[n].calls for n in tried.layers):
            return tried
    return scoring if dropped else seen


def as_call(sample: Any, *, batch: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A sample as positional and keyword arguments; a lone tensor is cut or repeated to `batch` samples."""
    if isinstance(sample, Mapping):
        return (), dict(sample)
    if isinstance(sample, (tuple, list)):
        return tuple(sample), {}
    if batch and isinstance(sample, Tensor) and sample.ndim:
        sample = sample[:batch] if len(sample) >= batch else sample.repeat(batch, *[1] * (sample.ndim - 1))
    return (sample,), {}


def _shape_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    return tuple(max(tensors, key=lambda t: t.ndim).shape) if tensors else ()


def _check_materialised(model: nn.Module) -> None:
    lazy = [n for n, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise LayerError(
            f"{type(model).__name__} has {len(lazy)} lazy parameters without a shape ({lazy[0]}, ...). "
            "Run the model once on a sample before planning."
        )


def _summary(model: nn.Module, rec: _Recorder, output: Any, main: Pick | None, flops: int) -> Trace:
    main, outputs = main_of(type(model).__name__, output, main), tensors_in(output)
    if not rec.lineage.follows(outputs[main]):  # the way was lost, through numpy say
        rec.apart.clear()
    ancestors = nodes_above(outputs[main])
    read_inside, added = readers.inside(ancestors, rec.nodes), readers.added(ancestors, rec.nodes)
    upstream = {n: not ancestors or t.grad_fn is None or t.grad_fn in ancestors for n, (t, _, _) in rec.held.items()}
    for name, (tensor, _, _) in rec.held.items():
        if tensor.ndim and outputs[main].ndim and len(tensor) != len(outputs[main]):
            rec.problems[name] = _no_batch_axis(name, tensor.shape, len(outputs[main]))
    modules = dict(model.named_modules())
    weighted = {n for n, m in modules.items() if n in rec.calls and upstream.get(n) and _bears_weights(m)}
    layers: dict[str, Layer] = {}
    done = dict(_depths(rec.exits, weighted))
    for name, module in modules.items():
        if name:
            layer = _layer(name, module, rec, upstream.get(name, False), done.get(name, 0.0))
            layers[name] = replace(layer, read_inside=name in read_inside, added=name in added)
    for call in sorted(rec.wanted):
        module = modules[split_call(call)[0]]
        layer = _layer(call, module, rec, upstream.get(call, False), rec.depth_of_call(call, weighted))
        layers[call] = replace(layer, read_inside=call in read_inside, added=call in added)
    batch = rec.input_shape[0] if rec.input_shape else 1
    axis, axis_source = _output_axis(outputs[main], rec, modules, weighted)
    return Trace(
        model=type(model).__name__,
        layers=layers,
        trunk=_trunk(model, layers, weighted),
        input_shape=rec.input_shape,
        output={p: tuple(t.shape) for p, t in outputs.items()},
        main=main,
        params=sum(p.numel() for p in model.parameters()),
        flops=flops // max(1, batch),
        axis=axis,
        axis_source=axis_source,
    )


def _output_axis(main: Tensor, rec: _Recorder, modules: Mapping[str, nn.Module], weighted: set[str]) -> tuple[int, str]:
    last = [n for n in dict.fromkeys(reversed(rec.exits)) if n in weighted and n in rec.held]
    return output_axis(main, ((n, modules[n], rec.held[n][0]) for n in last), rec.input_shape)


def _layer(name: str, module: nn.Module, rec: _Recorder, upstream: bool, depth: float) -> Layer:
    feature = rec.feature(name)
    tensor, version, pick = rec.held.get(name, (None, 0, ()))
    size = feature.size if feature else ()
    stride = round(rec.input_shape[2] / size[0]) if len(size) >= 2 and len(rec.input_shape) >= 4 and size[0] else None
    return Layer(
        name=name,
        type=type(module).__name__,
        calls=rec.calls.get(name, 0),
        order=rec.first.get(name, -1) if name in rec.calls else -1,
        depth=depth,
        params=sum(p.numel() for p in module.parameters()),
        feature=feature,
        pick=pick,
        stride=stride,
        overwritten=tensor is not None and tensor._version != version,
        leads_to_output=upstream,
        reads_input=name not in rec.apart,
        trains=name not in rec.cut,
        requires_grad=rec.graphs.get(name, False),
        dtype=tensor.dtype if tensor is not None else None,
        problem=rec.problems.get(name, ""),
        guessed=tensor is not None and rec.layouts.is_guess(name, tuple(tensor.shape)),
    )


def _bears_weights(module: nn.Module) -> bool:
    own = any(p.ndim >= 2 for p in module._parameters.values() if p is not None)
    return own or is_parametrized(module)


def _depths(exits: list[str], weighted: set[str]) -> Iterator[tuple[str, float]]:
    """For every layer the share of weight-bearing layers that were done when it first was."""
    done: set[str] = set()
    seen: set[str] = set()
    for name in exits:
        if name in weighted:
            done.add(name)
        if name not in seen:
            seen.add(name)
            yield name, len(done) / max(1, len(weighted))


def _trunk(model: nn.Module, layers: dict[str, Layer], weighted: set[str]) -> tuple[str, ...]:
    """Where the trunk can be tapped: outputs of stages and blocks, never the inside of a block, in order of running.

    The root, plain containers and any module that holds half of the weights or more are looked into; everything else
    is a block, whose inner tensors (one arm of a residual sum, say) are not what the next block reads.
    """
    points: dict[str, None] = {}  # in order
    inside = Counter(path for name in weighted for path in _with_parents(name))

    def look_into(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if path in layers and path not in points:
                points[path] = None
                if type(child) in CONTAINERS or (2 * inside[path] >= len(weighted) and any(child.children())):
                    look_into(f"{path}.", child)

    look_into("", model)
    usable = sorted((p for p in points if _is_trunk_point(layers[p])), key=lambda p: layers[p].order)
    # Only the first ones: later ones without a graph are masks and the like.
    frozen = takewhile(lambda p: not layers[p].requires_grad, usable)
    return (*frozen, *(p for p in usable if layers[p].requires_grad))


def _with_parents(name: str) -> list[str]:
    """A layer's name and those of all it stands in."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _is_trunk_point(layer: Layer) -> bool:
    usable = layer.feature is not None and not layer.problem
    passes_on = layer.reads_input and layer.leads_to_output
    return layer.calls == 1 and passes_on and usable and layer.trains and layer.depth > 0
