"""Which layer of a network or head makes its scores, and the neck before it: where the embedding and the feature are.

The embedding of an output is what enters its last linear layer. Its feature is what enters the batch normalisation
directly before that layer, the neck (Luo et al. 2019), or the embedding itself where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map_only

from deepsup.errors import EmbeddingError
from deepsup.features import tensors_in
from deepsup.layers.snapshot import untouched
from deepsup.specs import closest

_LAYERS = (nn.Linear, _ConvNd, _BatchNorm)  # also where a parametrisation has put something inside them


class LastLinear(NamedTuple):
    """The path of the layer that makes the scores ("" is the module itself), and of the neck before it ("" is none)."""

    layer: str
    neck: str = ""

    @property
    def first(self) -> str:
        """The layer whose input is the feature."""
        return self.neck or self.layer


@dataclass
class _Run:
    """What went into and came out of the layers with weights, in one forward."""

    calls: dict[str, int] = field(default_factory=dict)
    read: dict[str, Tensor] = field(default_factory=dict)
    nodes: dict[Any, str] = field(default_factory=dict)  # of the autograd graph, by the layer that gave out the tensor
    necks: list[tuple[str, Tensor, int]] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)  # the neck before a layer

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if x is None:
            return
        self.read[name] = x
        for neck, gave, version in reversed(self.necks):
            if _storage(gave) == _storage(x) and gave.numel() == x.numel() and x._version == version:
                self.before[name] = neck
                return

    def leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        for tensor in tensors_in(output).values():
            if tensor.grad_fn is not None:
                self.nodes.setdefault(tensor.grad_fn, name)
        if isinstance(module, _BatchNorm) and isinstance(output, Tensor):
            self.necks.append((name, output, output._version))


def last_linear(
    module: nn.Module, run: Callable[[], Tensor], *, output: str = "main", said: str | None = None
) -> LastLinear:
    """The layer that makes the scores which `run()`, a forward of `module` in evaluation mode, returns.

    `said` names it instead; `output` is what messages call it. Nothing of `module` or the random state is changed. Raises
    `EmbeddingError` where several layers or none make the scores, or where the one that does reads no vector a sample.
    """
    seen = _Run()
    with untouched(module), torch.inference_mode(False), torch.enable_grad():
        module.eval()
        for p in module.parameters():
            if p.is_floating_point():  # frozen ones have no graph
                p.requires_grad_(True)
        for name, layer in module.named_modules():
            if (isinstance(layer, _LAYERS) or _is_leaf(layer) or name == said) and not isinstance(
                layer, torch.jit.ScriptModule
            ):
                layer.register_forward_pre_hook(partial(seen.enter, name), with_kwargs=True)
                layer.register_forward_hook(partial(seen.leave, name))
        scores = run()
    found = _found(scores, seen, module, output) if said is None else said
    _check(found, seen, module, output)
    return LastLinear(found, seen.before.get(found, ""))


def two_of(inputs: Any) -> Any:
    """Copies of the first two samples of a call's arguments, for a dry run; a lone one stays one."""
    with torch.inference_mode(False):
        return tree_map_only(Tensor, lambda t: t[:2].detach().clone() if t.ndim else t, inputs)


@contextmanager
def reading(module: nn.Module, path: str, then: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, `then` is given what enters the layer at `path`, (N, D), before the layer runs."""

    def see(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        then(vector(args, kwargs))

    handle = module.get_submodule(path).register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def vector(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer is called with, one vector a sample, (N, D)."""
    x: Tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return x.flatten(1)


def _is_leaf(layer: nn.Module) -> bool:
    return not any(layer.children()) and any(True for _ in layer.parameters(recurse=False))


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _found(scores: Tensor, seen: _Run, module: nn.Module, output: str) -> str:
    """The one layer with weights behind which there is none on the way to the scores."""
    ends, loose = _ends(scores, seen)
    if len(ends) > 1:
        listed = " and ".join(f"'{name}'" for name in ends)
        raise EmbeddingError(
            f"the scores of '{output}' are made by several layers side by side, {listed}, so nobody knows which vector is its "
            f"embedding. Name the layer whose input it is: {_option(output, ends[0])}."
        )
    if not ends or loose:
        end = (
            f"a weight of shape {tuple(loose[0].shape)} that belongs to no layer" if loose else "no layer with weights"
        )
        raise EmbeddingError(
            f"the scores of '{output}' are made by {end}, and not by a last linear layer. {_remedy(seen, module, output)}"
        )
    layer, x = module.get_submodule(ends[0]), seen.read.get(ends[0])
    linear = isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and all(n == 1 for n in layer.kernel_size))
    if not linear or x is None or not _is_vector(x):
        shape = "" if x is None else f", which reads {tuple(x.shape)}"
        raise EmbeddingError(
            f"the scores of '{output}' are made by {type(layer).__name__} '{ends[0]}'{shape}, and not by a linear layer that "
            f"reads one vector a sample. {_remedy(seen, module, output)}"
        )
    return ends[0]


def _ends(scores: Tensor, seen: _Run) -> tuple[list[str], list[Tensor]]:
    """The layers with weights that are met first on the way back from the scores, and weights that are met before any."""
    ends: list[str] = []
    loose: list[Tensor] = []
    met: set[Any] = set()
    todo: list[Any] = [scores.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if node in seen.nodes:
            ends.append(seen.nodes[node])
            continue
        weight = getattr(node, "variable", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            loose.append(weight)
        todo += [parent for parent, _ in node.next_functions]
    return sorted(set(ends)), loose


def _check(name: str, seen: _Run, module: nn.Module, output: str) -> None:
    """Raise `EmbeddingError` unless the layer ran once in a forward, and read one vector a sample."""
    x = seen.read.get(name)
    if x is None or seen.calls.get(name, 0) != 1 or not _is_vector(x):
        known = dict(module.named_modules())
        if name not in known:
            found = f"there is no layer '{name}'.{closest(name, known)}"
        elif x is None:
            found = f"layer '{name}' did not run."
        elif not _is_vector(x):
            found = f"layer '{name}' reads {tuple(x.shape)}, and not one vector a sample."
        else:
            found = f"layer '{name}' ran {seen.calls[name]} times in one forward."
        raise EmbeddingError(f"there is no embedding of '{output}': {found} {_remedy(seen, module, output)}")


def _is_vector(x: Tensor) -> bool:
    return x.ndim >= 2 and x.numel() == x.shape[0] * x.shape[1]


def _option(output: str, layer: str) -> str:
    return f"embedding='{layer}'" if output == "main" else f"embedding={{'{output}': '{layer}'}}"


def _remedy(seen: _Run, module: nn.Module, output: str) -> str:
    able = [
        n
        for n, x in seen.read.items()
        if n in seen.calls and _is_vector(x) and not isinstance(module.get_submodule(n), _BatchNorm)
    ]
    listed = ", ".join(able[-5:]) or "none"
    return (
        f"Name the layer whose input is the embedding, {_option(output, 'LAYER')}; layers that read vectors: {listed}."
    )
