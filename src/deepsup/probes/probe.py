"""Where do gradients vanish? Run a few iterations on the user's own data and look at every layer.

The placement procedure of CNDS (Wang et al. 2015): supervise at the top only, run 10 to 50 iterations, and look at
the mean gradient magnitude of every layer. The model is afterwards what it was, bit for bit.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepsup import losses, specs
from deepsup.errors import CompiledModelError, ConfigError, DatasetError, LayerError, NonFiniteError, OutputError
from deepsup.features import main_prediction, picked, read_pick, show_pick
from deepsup.layers.dry_run import Layer, Trace, as_call, trace
from deepsup.layers.selectors import tap_points
from deepsup.layers.snapshot import Interrupts, untouched
from deepsup.layers.taps import taps_on
from deepsup.layers.wrappers import bare, is_compiled
from deepsup.probes.magnitudes import Meter
from deepsup.probes.measurements import PAPER_THRESHOLD, LayerGradient, Probe
from deepsup.probes.placement import Point

Goal = Callable[[Any, Any], Tensor]  # (what the model returned, target) -> the scalar to go down


def probe(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    iterations: int = 30,
    loss: str | losses.Loss = "cross_entropy",
    lr: float = 0.01,
    main: str | None = None,
    objective: Goal | None = None,
    threshold: float = PAPER_THRESHOLD,
) -> Probe:
    """Gradients and activations of every weight-bearing layer over `iterations` steps of plain SGD with the top loss only.

        >>> found = ds.probe(model, loader, iterations=30, loss=my_loss)
        >>> print(found.recommendation("drop"))
        >>> supervised = ds.probe(net, loader, objective=lambda out, y: ds.Objective(plan)(out, y, progress=0).total)

    `batches` yields (input, target), which are moved to the model's device, and is run through again if it is short;
    `lr=0` measures at the present weights; `main` says where the prediction is in an output with several tensors.
    `objective`, a function of (all that the model returns, target), takes the place of `loss`; a supervised net needs it.

    One backward a step; gradients of parameters, and hooks on the tensors that layers give out (module backward hooks
    break models with in-place operations). Means of gradients are exact, the other numbers estimates for tensors of more
    than 4096 values (module `magnitudes`). All is computed in float32: a model in half precision is lent float32 copies of its
    values, autocast around the call is off. What happened to the model, its gradients and the random state is undone,
    also after Ctrl-C; so are generators of the user's own in a `DataLoader` or its sampler.

    Raises `DatasetError` for no batches or other ones, `LayerError` for a frozen trunk or a batch too small for batch
    normalisation, `ConfigError` for a loss that the model has no part in or an `lr` below 0, `NonFiniteError` for a loss or a
    gradient that is not finite.
    """
    specs.hold("probe", specs.INTEGER, iterations=iterations)
    specs.hold("probe", specs.NOT_NEGATIVE, threshold=threshold)
    if iterations < 1:
        raise ConfigError(f"the probe needs at least 1 iteration; found {iterations}.")
    if not specs.NOT_NEGATIVE.fits(lr):
        raise ConfigError(
            f"the probe steps down the loss with lr >= 0 (0 measures at the present weights); found {lr}."
        )
    net, inner = _parts(model, supervised=objective is not None)
    value_of = losses.get(loss)
    pick = None if main is None else read_pick(main)
    meter = Meter(threshold)
    found: list[Tensor] = []
    own = _generators(batches)  # loaders draw random numbers too
    with untouched(net, parameters=True, generators=own), _in_float32(net):
        stream = (_moved(_pair(batch), _device(net)) for batch in _cycle(batches))
        first = next(stream, None)
        if first is None:
            raise DatasetError(
                "the probe got no batch: `batches` yielded nothing. Pass an iterable of (input, target)."
            )
        if not net.training:
            net.train()
        seen = trace(inner, first[0], main=pick)
        weights = _weights(inner, seen)
        goal = objective or (lambda output, y: value_of(main_prediction(output, show_pick(seen.main)), y))
        with _Watch(inner, {n: seen.layers[n] for n in weights}, meter) as watch:
            for x, y in itertools.islice(itertools.chain([first], stream), iterations):
                found.append(_step(net, x, y, goal=goal, lr=lr, watch=watch, weights=weights))
                meter.step()
    return _result(seen, weights, meter, found, lr=lr, branches=_branches(net, inner) if objective else ())


def weight_layers(model: nn.Module) -> dict[str, Tensor]:
    """Every layer with a trainable weight of two dimensions or more, and that weight, in order of definition."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.ndim >= 2:
                found.setdefault(name, parameter)
    return found


def _parts(model: nn.Module, *, supervised: bool) -> tuple[nn.Module, nn.Module]:
    """What is run, and the plain model in it, whose layers are measured."""
    model = bare(model)  # the same parameters
    for name, module in model.named_modules():
        if is_compiled(module):
            raise CompiledModelError(
                f"{f'layer {name!r}' if name else 'the model'} is compiled, so the probe cannot look inside. Probe the plain "
                "model first, then compile."
            )
    if any(is_lazy(p) for p in model.parameters()):
        raise LayerError(
            f"{type(model).__name__} has lazy parameters without a shape. Run the model once on a sample before probing."
        )
    taps = taps_on(model)
    if not taps or getattr(model, "recorder", None) is not taps[0][2].recorder:
        return model, model  # a plain model, or the one inside a supervised net, whose taps are idle
    if not supervised:
        raise ConfigError(
            "this net is supervised, so its loss is more than loss=. Pass objective=lambda out, y: "
            "ds.Objective(plan)(out, y, progress=0).total, or probe the plain model in it: ds.probe(net.model, ...)."
        )
    return model, model.get_submodule("model")


def _branches(net: nn.Module, inner: nn.Module) -> tuple[str, ...]:
    tapped = [id(module) for module, _, _ in taps_on(net)] if net is not inner else []
    return tuple(name for name, module in inner.named_modules() if id(module) in tapped)


def _weights(model: nn.Module, seen: Trace) -> dict[str, Tensor]:
    every = weight_layers(model)
    ran = [n for n in every if n in seen.layers and seen.layers[n].calls and seen.layers[n].leads_to_output]
    if not ran:
        frozen = (
            "every parameter is frozen" if not any(p.requires_grad for p in model.parameters()) else "none of them ran"
        )
        raise LayerError(
            f"{seen.model} has no layer whose gradient could be probed: {frozen}. "
            "Set requires_grad on the trunk, or choose at=[...] by hand."
        )
    frozen_below = [n for n, p in model.named_parameters() if not p.requires_grad and p.ndim >= 2]
    if frozen_below and not any(_taps_after(seen, ran).values()):
        raise LayerError(
            f"the trunk of {seen.model} is frozen: of its weights only {', '.join(ran)} can be trained, behind the last place "
            "for a branch. Set requires_grad on the layers that you mean to train, then probe."
        )
    return {n: every[n] for n in sorted(ran, key=lambda n: seen.layers[n].order)}


class _Watch:
    """Forward hooks on the layers to measure, and hooks on what they give out; all are gone when the block ends."""

    def __init__(self, model: nn.Module, layers: dict[str, Layer], meter: Meter) -> None:
        self.model = model
        self.layers = layers
        self.meter = meter
        self.going_up = False  # checkpointing runs layers again in backward
        self.handles: list[Any] = []

    def __enter__(self) -> _Watch:
        for name, layer in self.layers.items():
            module = self.model.get_submodule(name)
            self.handles.append(module.register_forward_hook(partial(self.leave, layer)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()

    def leave(self, layer: Layer, module: nn.Module, args: Any, output: Any) -> None:
        try:
            tensor = picked(output, layer.pick)
        except LookupError:
            return
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return
        if self.going_up:  # now, because a later operation may overwrite it
            self.meter.add_mean(("activation", layer.name), tensor)
        if tensor.requires_grad:
            tensor.register_hook(  # type: ignore[no-untyped-call]
                partial(self.meter.add, ("output", layer.name), calls=layer.calls)
            )


def _step(
    net: nn.Module, x: Any, y: Any, *, goal: Goal, lr: float, watch: _Watch, weights: dict[str, Tensor]
) -> Tensor:
    """One step of SGD; the loss, still on the device."""
    args, kwargs = as_call(x)
    net.zero_grad(set_to_none=True)
    watch.going_up = True
    try:
        output = net(*args, **kwargs)
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise LayerError(
            f"batch normalisation needs more than one value per channel, and a batch left it one ({error}): the batch holds "
            "a single sample. Take larger batches, and leave out a last batch of one: DataLoader(..., drop_last=True)."
        ) from error
    watch.going_up = False
    value = goal(output, y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f"the loss of the probe must be one number in a tensor; found {found}. Average it, or take .total."
        )
    if not value.requires_grad:
        raise ConfigError(
            "the loss has no graph, so it cannot train the model: it does not depend on what the model returned, or was "
            "detached or turned into a number on the way. Compute it from the prediction with torch operations alone."
        )
    value.backward()  # type: ignore[no-untyped-call]
    for name, weight in weights.items():
        if weight.grad is not None:
            watch.meter.add(("weight", name), weight.grad)
    moved: list[tuple[Tensor, Tensor]] = [(p, p.grad) for p in net.parameters() if p.grad is not None]
    if lr and moved:
        with torch.no_grad():
            torch._foreach_add_([p for p, _ in moved], [grad for _, grad in moved], alpha=-lr)
    return value.detach()


def _result(
    seen: Trace, weights: dict[str, Tensor], meter: Meter, found: list[Tensor], *, lr: float, branches: tuple[str, ...]
) -> Probe:
    measured, taps = meter.read(), _taps_after(seen, weights)
    rows = [
        LayerGradient(
            layer=n,
            tap=taps[n],
            depth=seen.layers[n].depth,
            weight=measured["weight", n],
            output=measured.get(("output", n)),
            activation=measured["activation", n].mean if ("activation", n) in measured else (),
        )
        for n in weights
        if ("weight", n) in measured
    ]
    _check_finite(rows, torch.stack([v.reshape(()) for v in found]).tolist(), lr)
    if not rows:
        raise ConfigError(
            f"the loss gave no gradient to any weight of {seen.model}: it does not depend on what the model returned. "
            "Compute it from the prediction."
        )
    if not any(value for row in rows for value in row.gradients):
        raise ConfigError(
            f"no gradient reaches any layer of {seen.model}: all are exactly 0 in each of {len(found)} iterations, so there is "
            "nothing to choose by. Look for a loss times 0, weights that are all 0, or activations that are all dead."
        )
    points = [
        Point(p.name, p.depth, p.stride, p.feature)
        for p in tap_points(seen)
        if p.feature is not None and p.requires_grad
    ]
    try:
        classes = seen.classes
    except OutputError:
        classes = None
    return Probe(seen.model, tuple(rows), len(found), meter.threshold, tuple(points), classes, branches)


def _check_finite(rows: list[LayerGradient], values: list[float], lr: float) -> None:
    """Raise `NonFiniteError` for the first number that is not finite: from there on everything is lost."""
    for i, value in enumerate(values):
        if not math.isfinite(value):
            fix = (
                f"Lower lr (now {lr:g}) or check the data" if i and lr else "No update came before: check data and loss"
            )
            raise NonFiniteError(f"the loss is {value} at iteration {i} of the probe. {fix}.")
        bad = [r.layer for r in rows if not math.isfinite(r.weight.mean[i] + (r.output.mean[i] if r.output else 0))]
        if bad:
            raise NonFiniteError(
                f"the loss is finite at iteration {i} of the probe, but the gradient is not, in {len(bad)} of {len(rows)} "
                f"layers: {', '.join(bad)}. Look behind the last of them for what has no derivative there: sqrt or a norm "
                "at 0, log of 0, a division by 0."
            )


def _taps_after(seen: Trace, names: Iterable[str]) -> dict[str, str | None]:
    """For each layer the first tap point that is done with it or after it; None behind the last."""
    points = sorted(tap_points(seen), key=lambda point: point.order)
    found = {n: bisect_left(points, seen.layers[n].order, key=lambda point: point.order) for n in names}
    return {n: points[i].name if i < len(points) else None for n, i in found.items()}


def _cycle(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty or isinstance(batches, Iterator):
            return


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    found = type(batch).__name__
    if isinstance(batch, Tensor):
        found = f"one tensor of shape {tuple(batch.shape)}"
    elif isinstance(batch, Mapping):
        found = f"{found} with {', '.join(map(repr, batch))}"
    elif isinstance(batch, (tuple, list)):
        found = f"{found} of {len(batch)}"
    raise DatasetError(
        f"the probe needs batches of (input, target); the loader yielded {found}. Pass a generator of pairs, for example "
        "((b['image'], b['label']) for b in loader), and several inputs as a tuple or dict: ((x1, x2), y)."
    )


def _generators(batches: Any) -> list[torch.Generator]:
    """Those that a `DataLoader` and its samplers draw from, where the user gave them one."""
    sampler = getattr(batches, "sampler", None)
    inner = getattr(getattr(batches, "batch_sampler", None), "sampler", None)
    found = [getattr(owner, "generator", None) for owner in (batches, sampler, inner)]
    return [g for g in found if isinstance(g, torch.Generator)]


def _device(model: nn.Module) -> torch.device | None:
    """Of the parameters; None where they lie on several devices."""
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _moved(value: Any, device: torch.device | None) -> Any:
    """Every tensor in there on the device, half precision as float32."""
    if isinstance(value, Tensor):
        return value.to(device, torch.float32 if _is_half(value) else None, non_blocking=True)
    if isinstance(value, Mapping):
        return {k: _moved(v, device) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(v, device) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(v, device) for v in value)
    return value


def _is_half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Lend parameters and buffers in half precision float32 copies of their values; autocast is off, gradients are on."""
    interrupts = Interrupts()
    try:
        lent = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if _is_half(t)]
        devices = {p.device.type for p in model.parameters()} - {"meta"}
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            for kind in devices:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            try:
                try:
                    for p in model.parameters():
                        p.grad = None  # of the old dtype; `untouched` has kept it
                    for tensor, values in lent:
                        tensor.data = values.float()
                    interrupts.release()
                    yield
                finally:
                    interrupts.held = True
            finally:
                interrupts.held = True  # as in `untouched`
                for tensor, values in lent:
                    tensor.data = values
    finally:
        interrupts.close()
