"""A fresh copy of all that follows a layer, ending in class scores: the branches of DSL, DHM, DKS and DML."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from deepsup.errors import ContinuationError
from deepsup.features import Feature, Pick, split_call
from deepsup.heads.build_head import head
from deepsup.heads.continuation.cutting import INPUT, Point, cut, trace
from deepsup.heads.continuation.stage_blocks import Stage, following, has_stride, stages_of
from deepsup.heads.continuation.widths import Resizing, check_plain, fit_convolution, fit_linear


@head(large=True, fitted=True, whole=True, as_model=True)
def continuation(
    feature: Feature,
    classes: int,
    *,
    model: nn.Module,
    layer: str,
    main: Pick = (),
    width: float = 1.0,
    blocks: float | Sequence[int] | None = None,
) -> nn.Module:
    """All that `model` runs after `layer`, once more and untrained: the branch of DSL and DHM (Li and Chen 2020).

    Example: `continuation(feature, 100, model=resnet18, layer="layer2", blocks=[1, 2])` repeats layer3 with one block and
    layer4 with two. Layers keep the names that they have in the model: `layer3.0.conv1`.

    `feature` is what the layer gives out, the result maps it to scores (N, `classes`). Of a model with several outputs
    (a tuple, a dict, named fields) the copy makes the one that `main` picks, or unless said the usual one. `width`
    multiplies the channels of everything in the copy, rounded; what comes in and the scores keep theirs, depthwise
    convolutions stay depthwise, grouped ones keep their groups. `blocks` says how many blocks each following stage has
    (`blocks.stages_of`): one count for each of them, or a factor, rounded up; stages are cut at their end or go on with
    copies of their last block. A DenseNet's transition then keeps its compression: it makes the same share of the channels
    that arrive. The layer `INPUT` repeats the whole model, as the peers of deep mutual learning do.

    Convolutions are drawn from N(0, 2 / fan_out), He et al. 2015, fan_out being kernel positions times output channels
    in a group; normalisations start as identity, everything else as its own `reset_parameters` says. Parameters of
    modules that have none (position embeddings, layer scales) keep the model's present values. Built on PyTorch's default
    device in the model's own precision; neither the model nor, but for the draws, the random state is changed. Hooks are
    not repeated. Raises `ContinuationError` for what cannot be traced, cut or resized, and says why.
    """
    _check(model, layer, width, blocks)
    replica, values = _replica(model)
    point = Point(replica, layer, main)
    changed = width != 1 or blocks is not None
    if layer == INPUT and not changed and _maps_to(replica, feature, classes, main):
        return _freshened(point, replica, values)
    if blocks is not None:
        _lengthen(point, blocks, values)
    rest = cut(point)
    path, last = _classifier(point, rest)
    if changed:
        within = [path for stage in stages_of(replica) for path in stage.paths]
        resizing = Resizing(point, values, width=width, classifier=last, classes=classes, blocks=within)
        found = resizing.run(rest, feature)
        if found != (2, classes):
            raise point.refusal(f"it gives out {'x'.join(map(str, found[1:]))} a sample instead of {classes} scores")
    elif isinstance(last, nn.Linear):
        fit_linear(last, last.in_features, classes)
    elif isinstance(last, _ConvNd):
        fit_convolution(point, last, path, last.in_channels, outputs=classes)
    return _freshened(point, rest, values)


def _check(model: object, layer: object, width: object, blocks: object) -> None:
    if not isinstance(model, nn.Module) or not isinstance(layer, str):
        raise ContinuationError(
            "the head 'continuation' repeats the rest of a model, so it has to know which: plan and attach tell it; a call of "
            "your own needs model= and layer=."
        )
    if layer != INPUT and split_call(layer)[0] not in dict(model.named_modules(remove_duplicate=False)):
        raise ContinuationError(f"{type(model).__name__} has no layer '{layer}' after which it could be repeated.")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        raise ContinuationError(f"width={width!r} must be a positive number: 2 for twice the channels, 0.5 for half.")
    each = blocks if isinstance(blocks, (list, tuple)) else []
    counts = isinstance(blocks, (list, tuple)) and all(type(n) is int and n > 0 for n in each)
    factor = type(blocks) in (int, float) and 0 < blocks < math.inf  # type: ignore[operator]
    if not (blocks is None or counts or factor):
        raise ContinuationError(
            f"blocks={blocks!r} must be a list with one count of at least 1 for each following stage, such as [5, 3], or a "
            "positive factor."
        )


def _replica(model: nn.Module) -> tuple[nn.Module, dict[Tensor, Tensor]]:
    """A copy without hooks whose parameters and buffers are empty, and of each of them the one that it stands for."""
    memo: dict[int, object] = {}
    values: dict[Tensor, Tensor] = {}
    for parameter in model.parameters():
        empty = nn.Parameter(torch.empty_like(parameter, device="meta"), _can_learn(parameter))
        memo[id(parameter)], values[empty] = empty, parameter
    for buffer in model.buffers():
        memo[id(buffer)] = blank = torch.empty_like(buffer, device="meta")
        values[blank] = buffer
    for module in model.modules():
        memo |= {id(v): OrderedDict() for k, v in vars(module).items() if "_hooks" in k and isinstance(v, OrderedDict)}
    try:
        return copy.deepcopy(model, memo), values
    except Exception as error:
        raise ContinuationError(
            f"{type(model).__name__} cannot be copied, so what follows a layer cannot be repeated: {type(error).__name__}: "
            f"{error}. Give the branch a head of your own."
        ) from error


def _can_learn(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _maps_to(replica: nn.Module, feature: Feature, classes: int, main: Pick) -> bool:
    """Whether the whole model, as it is, gives out these scores; where it cannot run empty, it is taken to.

    But not where its prediction is one of several outputs, which the copy has to pick.
    """
    try:
        with torch.no_grad():
            dtype = next((p.dtype for p in replica.parameters() if p.is_floating_point()), None)
            found = copy.deepcopy(replica).train()(torch.zeros(2, *feature.shape, dtype=dtype, device="meta"))
    except Exception:
        return not main
    return isinstance(found, Tensor) and tuple(found.shape) == (2, classes)


def _classifier(point: Point, rest: fx.GraphModule) -> tuple[str, nn.Module]:
    """The layer that makes the scores, which is the last one with weights, and its path."""
    called = [str(n.target) for n in rest.graph.nodes if n.op == "call_module"]
    found = [path for path in called if any(True for _ in rest.get_submodule(path).parameters())]
    if not found:
        raise point.refusal("nothing with weights runs after the layer", "Tap earlier, or choose another head.")
    inside = rest.get_submodule(found[-1]).named_modules(prefix=found[-1])
    scoring = [(path, module) for path, module in inside if isinstance(module, (nn.Linear, _ConvNd))]
    return scoring[-1] if scoring else (found[-1], rest.get_submodule(found[-1]))


def _lengthen(point: Point, blocks: float | Sequence[int], values: dict[Tensor, Tensor]) -> None:
    """Give the stages after the cut as many blocks as asked."""
    ran = list(trace(point).outputs)
    stages = following(point.root, "" if point.layer == INPUT else split_call(point.layer)[0], ran)
    there = [len(stage.blocks) for stage in stages]
    counts = [math.ceil(n * blocks) for n in there] if isinstance(blocks, (int, float)) else list(blocks)
    if not stages or len(counts) != len(stages):
        found = ", ".join(map(str, stages)) or "none (blocks of one class side by side in a container)"
        raise point.refusal(
            f"blocks={blocks!r} does not fit the stages that follow: {found}",
            f"Write one count for each: blocks={there}." if stages else "Leave blocks= away.",
        )
    for stage, n in zip(stages, counts, strict=True):
        _set_length(point, stage, n, values)


def _set_length(point: Point, stage: Stage, n: int, values: dict[Tensor, Tensor]) -> None:
    """Cut a stage at its end, or let it go on with copies of its last block."""
    container = point.root.get_submodule(stage.container)
    last = container._modules[stage.blocks[-1]]
    assert last is not None
    if n > len(stage.blocks) and has_stride(last):
        raise point.refusal(
            f"the one block of stage '{stage.container}' shrinks the map, so copies of it cannot make the stage longer",
            "Ask for one block there.",
        )
    children: OrderedDict[str, nn.Module | None] = OrderedDict()
    for name, child in container._modules.items():
        if name not in stage.blocks[n:]:
            children[name] = child
        if name == stage.blocks[-1]:
            for _ in range(n - len(stage.blocks)):
                name = _next_name(name, {*container._modules, *children})
                children[name] = _copied(last, values)
    container._modules.clear()  # in place, because it is a table that others may hold
    container._modules.update(children)


def _copied(block: nn.Module, values: dict[Tensor, Tensor]) -> nn.Module:
    """One more block, which stands for the same parameters and buffers."""
    twin = copy.deepcopy(block)
    for old, new in zip((*block.parameters(), *block.buffers()), (*twin.parameters(), *twin.buffers()), strict=True):
        values[new] = values[old]
    return twin


def _next_name(name: str, taken: set[str]) -> str:
    """`denselayer16` -> `denselayer17`; where that is taken, `denselayer16_`."""
    number = re.search(r"\d+$", name)
    after = f"{name[: number.start()]}{int(number[0]) + 1}" if number else f"{name}2"
    while after in taken:
        name = after = f"{name}_"
    return after


def _freshened(point: Point, rest: nn.Module, values: dict[Tensor, Tensor]) -> nn.Module:
    """`rest` itself, its parameters and buffers with memory on the default device, and begun anew."""
    device = torch.get_default_device()
    made = {p: nn.Parameter(torch.empty_like(p, device=device), _can_learn(p)) for p in rest.parameters()}
    # The model has the layers to which parameters belong, also where the rest reads them past their layer.
    owners = {id(module): module for module in (*point.root.modules(), *rest.modules())}.values()
    for path, module in rest.named_modules():
        check_plain(point, module, path)
        for name, b in [(name, b) for name, b in module._buffers.items() if b is not None]:
            value = values.get(b, b)
            fresh = torch.zeros_like(b, device=device) if value.is_meta else value.to(device, copy=True)
            setattr(module, name, fresh)
    for module in owners:
        for name, p in [(name, p) for name, p in module._parameters.items() if p in made]:
            setattr(module, name, made[p])
    _begin(owners, {new: values.get(old) for old, new in made.items()})
    return rest.train()


@torch.no_grad()
def _begin(owners: Iterable[nn.Module], left: dict[nn.Parameter, Tensor | None]) -> None:
    """Draw the parameters in `left` as the layers that they belong to say, or give them the values that stand there."""
    for module in owners:
        own = {name: p for name, p in module._parameters.items() if p in left}
        if own or isinstance(module, _NormBase):
            for name in _reset(module, list(own)):
                left.pop(own[name])
    for p, value in left.items():
        if value is None or value.is_meta:
            p.zero_()
        else:
            p.copy_(value)


def _reset(module: nn.Module, own: list[str]) -> list[str]:
    """Draw anew those of a layer's own parameters for which it is known how, and name them."""
    if isinstance(module, _ConvNd):
        wide = module.weight.shape[1] if isinstance(module, _ConvTransposeNd) else module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (wide * math.prod(module.kernel_size))))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        return [name for name in own if name in ("weight", "bias")]
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if not callable(reset):
        return []
    reset()
    return own
