"""Where the stages of a trunk end, and where DHM puts its branches."""

from __future__ import annotations

import itertools
import math
from statistics import median

from torch import nn

from deepsup.errors import LayerError
from deepsup.heads.continuation.stage_blocks import Stage, following, stages_of
from deepsup.layers.dry_run import Layer, Trace

# The tables of DHM's released code (d-li14/DHM, models/cifar and models/imagenet): blocks of the early branch's two stages
# and of the late one's, by the number of blocks in each stage of the trunk; for DenseNet also by convolutions a layer.
# What is not written here follows the rule that all others there do: `_early_and_late`.
_CIFAR_RESNETS = {18: ([9, 9], [18]), 200: ([100, 100], [200])}
_DENSENETS = {
    (32, 1): ([16, 16], [32]),
    (16, 2): ([16, 16], [32]),
    (41, 2): ([22, 22], [41]),
    (31, 2): ([16, 16], [31]),
}
FAIR = 0.4
_RESNETS, _WIDE, _DENSE = ("ResNet", "CifarResNet"), ("WideResNet",), ("DenseNet",)


def stages(seen: Trace) -> list[str]:
    """The layers that end the model's stages, in order of running: resnet18 has layer1, layer2, layer3, layer4.

    A stage is what runs at one resolution. It counts if it has more than two fifths of the weight-bearing layers that the
    median stage has: a mere stem has not. A model without maps (a vision transformer) has none: [].
    """
    ends: dict[tuple[int, ...], Layer] = {}
    for name in seen.trunk:
        size = _size(seen, name)
        if len(size) >= 2 and not _leads_on(seen, seen.layers[name]):
            ends[size] = seen.layers[name]
    if len(ends) < 2:
        return []
    before = [0.0, *(layer.depth for layer in ends.values())]
    shares = [end - start for start, end in itertools.pairwise(before)]
    return [layer.name for layer, share in zip(ends.values(), shares, strict=True) if share > FAIR * median(shares)]


def said_stages(model: nn.Module, seen: Trace) -> list[str] | None:
    """The ends of the stages where the model, which gives one label a sample, says them itself; None: it does not.

    Stages of one resolution cannot be told apart by their maps, such as the last two of re-identification.
    """
    said = getattr(model, "stages", None)
    names = isinstance(said, tuple) and all(isinstance(n, str) and n in seen.layers for n in said)
    return list(said) if names and said and len(seen.output[seen.main]) == 2 else None


def _leads_on(seen: Trace, layer: Layer) -> bool:
    """Whether a layer is no end of a stage: it does nothing, it pools, or it is part of something small that pools."""
    if layer.type in ("Identity", "Dropout") or "pool" in layer.type.lower():
        return True
    parts = layer.name.split(".")
    around = (".".join(parts[:n]) for n in range(1, len(parts)))  # DenseNet's transitions, ConvNeXt's downsampling
    return any(_size(seen, path) not in ((), _size(seen, layer.name)) and _share(seen, path) < 0.25 for path in around)


def _share(seen: Trace, path: str) -> float:
    """The share of the model's weight-bearing layers that a module holds, give or take one layer."""
    inside = [layer.depth for name, layer in seen.layers.items() if layer.calls and name.startswith(f"{path}.")]
    return seen.layers[path].depth - min(inside, default=0.0)


def _size(seen: Trace, path: str) -> tuple[int, ...]:
    feature = seen.layers[path].feature
    return feature.size if feature else ()


def hierarchical(model: nn.Module, seen: Trace) -> dict[str, tuple[str, str]]:
    """DHM's two branches (Li and Chen 2020): {"early": (layer, head), "late": (layer, head)}, in order of running.

    Example: resnet18 has {"early": ("layer2", "continuation(blocks=[1, 2])"), "late": ("layer3",
    "continuation(width=2, blocks=[2])")}.

    The early branch repeats the last two stages as wide as they are, with fewer blocks; the late one the last stage, twice
    as wide (DenseNet: three times the growth) with as many blocks. ResNets for CIFAR and ImageNet, WideResNets and
    DenseNets, known by their class names, get the numbers of the released code. Every other network gets branches after
    the last two stages but one (`stages`): the early one with all blocks of the first stage and half of the later ones',
    rounded up, the late one twice as wide. MobileNet too: the branches of the paper's own MobileNets were never released.

    Raises `LayerError` for a model with fewer than three stages.
    """
    family = next((m for m in model.modules() if type(m).__name__ in (*_RESNETS, *_WIDE, *_DENSE)), None)
    found = stages_of(model)
    if family is not None and len(found) in (3, 4):
        layers = [_before(seen, found[-2]), _before(seen, found[-1])]
        early, late = _early_and_late(model, type(family).__name__, found)
        width = 3 if type(family).__name__ in _DENSE else 2
        if layers[0] and layers[1]:
            return {
                "early": (layers[0], f"continuation(blocks={early})"),
                "late": (layers[1], f"continuation(width={width}, blocks={late})"),
            }
    return _by_the_rule(model, seen)


def _early_and_late(model: nn.Module, family: str, found: list[Stage]) -> tuple[list[int], list[int]]:
    counts = [len(stage.blocks) for stage in found]
    *_, first, last = counts
    if len(set(counts)) == 1 and len(counts) == 3:
        layer = model.get_submodule(found[0].paths[0])
        convolutions = sum(any(p is not None and p.ndim > 2 for p in m._parameters.values()) for m in layer.modules())
        table = _CIFAR_RESNETS.get(first) if family in _RESNETS else _DENSENETS.get((first, convolutions))
        if table is not None and family not in _WIDE:
            return table
    if len(counts) == 4 and family in _RESNETS:
        return [math.ceil(first / 2), min(2, last)], [last]
    return [first, math.ceil(last / 2)], [last]


def _before(seen: Trace, stage: Stage) -> str:
    """The last point of the trunk before a stage begins."""
    inside = [layer.order for name, layer in seen.layers.items() if f"{name}.".startswith(f"{stage.paths[0]}.")]
    begin = min((order for order in inside if order >= 0), default=-1)
    before = [name for name in seen.trunk if seen.layers[name].order < begin]
    return before[-1] if before else ""


def _by_the_rule(model: nn.Module, seen: Trace) -> dict[str, tuple[str, str]]:
    said = said_stages(model, seen)
    ends = stages(seen) if said is None else said
    if len(ends) < 3:
        raise LayerError(
            f"hierarchical branches follow the last stages but one, and {seen.model} has {len(ends)} stages of different "
            "resolution, not three. Say where the branches go: at=..., each with head='continuation'."
        )
    early, late = ends[-3:-1]
    ran = [name for name, layer in sorted(seen.layers.items(), key=lambda item: item[1].order) if layer.order >= 0]
    later = following(model, early, ran)
    orders = [seen.layers[end].order for end in ends]
    sizes: list[object] = [
        _size(seen, stage.paths[-1]) if said is None else sum(seen.layers[stage.paths[-1]].order > o for o in orders)
        for stage in later
    ]
    counts = [
        len(s.blocks) if size == sizes[0] else math.ceil(len(s.blocks) / 2)
        for s, size in zip(later, sizes, strict=True)
    ]
    head = f"continuation(blocks={counts})" if counts else "continuation"
    return {"early": (early, head), "late": (late, "continuation(width=2)")}
