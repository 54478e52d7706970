"""A part of a net as a module of its own, with no more weights than it needs, that every exporter takes.

The forward is followed once by `torch.export`, with nothing in it run for real; what the outputs do not depend on is dropped,
and with it the layers behind. What cannot be followed (control flow that depends on numbers) is refused.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map

from deepsup.errors import DeepsupError, ExportError
from deepsup.layers.dry_run import as_call

SEED = 20150507
TOLERANCE = 1e-4  # of the largest value: a cut runs the same operations, exporters may fuse some


def cut(module: nn.Module, sample: Any) -> fx.GraphModule:
    """What `module` does in eval mode, as a module with copies of only those weights that its outputs depend on.

    `sample` is an input (a tensor, or a tuple or dict of arguments) of any batch, as is the cut's; other sizes are refused by
    `ValueError`. The result has no Python of the model in it: `torch.export`, ONNX and
    `torch.jit.trace` take it. It is for scoring: `train()` changes nothing in it.

    Raises `ExportError` where the forward cannot be followed, or where the cut answers otherwise than `module` does.
    """
    args, kwargs = two_samples(sample)
    made = program(module, args, kwargs).run_decompositions({}).module()
    graph = made.graph
    for node in [n for n in graph.nodes if n.op == "call_module"]:  # checks of sizes, which cannot be stored: ours can
        graph.erase_node(node)
    graph.eliminate_dead_code()
    _plain(graph)
    parts: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            target = str(node.target)
            node.target = target.removeprefix("every.").removeprefix("net.")
            parts[node.target] = _at(made, target)
        if node.op == "placeholder":
            parts[f"of_size_{node.name}"] = OfSize(list(node.meta["val"].shape[1:]))
            with graph.inserting_after(node):
                checked = graph.create_node("call_module", f"of_size_{node.name}", (node,))
            node.replace_all_uses_with(checked, delete_user_cb=lambda user, own=checked: user is not own)
    found = copy.deepcopy(fx.GraphModule(parts, graph, class_name=f"Cut{type(module).__name__}")).eval()
    check(module, found, args, kwargs)
    return found


def program(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """The program of a module in eval mode, for any batch of samples of this size. Raises `ExportError`."""
    shapes = tree_map(lambda t: {0: torch.export.Dim.AUTO}, (args, kwargs))
    named = dict(inspect.signature(module.forward).bind(*shapes[0], **shapes[1]).arguments)
    try:
        with torch.no_grad():
            return torch.export.export(module, args, kwargs, dynamic_shapes=named, strict=False)
    except DeepsupError:
        raise
    except Exception as error:
        raise ExportError(
            f"the forward of this {type(module).__name__} cannot be followed by torch.export, so nothing can be cut from it or "
            f"exported: {_first_line(error)}. Without cut=True it runs as it is, in Python."
        ) from error


def _first_line(error: Exception) -> str:
    return f"{str(error).strip().partition(chr(10))[0]:.300}".rstrip(".")


class OfSize(nn.Module):
    """Lets tensors of one size a sample through, for which the rest was made. Raises `ValueError` for others."""

    def __init__(self, size: list[int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if list(x.shape[1:]) != self.size:
            raise ValueError(
                "this was cut or exported for samples of another size: cut it anew with a sample of this one"
            )
        return x


def two_samples(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with two samples, as many as tell a batch from a number that is fixed. Raises `ExportError` for no tensors."""
    args, kwargs = as_call(sample)
    leaves = tree_flatten((args, kwargs))[0]
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
        raise ExportError(f"only calls with tensors (N, ...) can be cut and exported; this sample has {kinds}.")
    return tree_map(lambda t: torch.cat([t, t])[:2], (args, kwargs))  # type: ignore[no-any-return]


def check(
    whole: Callable[..., Tensor], part: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The largest difference between what two say of the same inputs, batches of 1 and 3, numbers drawn from a fixed seed.

    Raises `ExportError` beyond `TOLERANCE` of the largest value.
    """
    generator, worst = torch.Generator().manual_seed(SEED), 0.0
    for batch in (1, 3):
        drawn = tree_map(lambda t, n=batch: _drawn(t, n, generator), (args, kwargs))
        with torch.no_grad():
            expected = whole(*drawn[0], **drawn[1])
            try:
                found = part(*drawn[0], **drawn[1])
            except Exception as error:
                raise ExportError(
                    f"what was exported does not take a batch of {batch} samples, so its batch is fixed inside the model: "
                    f"{_first_line(error)}."
                ) from error
        if found.shape != expected.shape:
            raise ExportError(f"what was exported gives {tuple(found.shape)}, and the net {tuple(expected.shape)}.")
        difference = float((found.to(expected) - expected).abs().max())
        if not difference <= TOLERANCE * max(float(expected.abs().max()), 1.0):
            raise ExportError(
                f"what was exported answers otherwise than the net, by up to {difference:.3g}: numbers that change from input to "
                "input were fixed, as in control flow that depends on them. It cannot be used."
            )
        worst = max(worst, difference)
    return worst


def _drawn(like: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    if like.is_floating_point():
        return torch.randn(batch, *like.shape[1:], generator=generator).to(like)
    return torch.cat([like] * batch)[-batch:]


def _plain(graph: fx.Graph) -> None:
    """Tensors in, one tensor out, without the containers that `torch.export` knows."""
    graph.set_codegen(fx.graph.CodeGen())
    end = next(node for node in graph.nodes if node.op == "output")
    (outputs,) = end.args
    if len(outputs) != 1:
        raise ExportError(f"one tensor is cut out of a net, and this module gives {len(outputs)}.")
    end.args = (outputs[0],)


def _at(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
