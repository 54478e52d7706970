"""The networks that methods were published on, known by what they are built of and not by what they are called."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from deepsup.methods.method import Scene

CASCADED = 2  # 1x1 convolutions after each wider one


def nin_convolutions(scene: Scene) -> list[str]:
    """The layers that DSN's companions read in a network in network: its wide convolutions, before their ReLU.

    Empty for every other network. A network in network (Lin et al. 2014) is one chain of convolutions without a linear
    layer, in which at least two 1x1 convolutions follow each wider one.
    """
    chain = _chain(scene)
    wide = [i for i, (_, layer) in enumerate(chain) if max(layer.kernel_size) > 1]
    runs = [after - before - 1 for before, after in pairwise([*wide, len(chain)])]
    found = len(wide) > 1 and wide[0] == 0 and min(runs) >= CASCADED
    return [chain[i][0] for i in wide] if found else []


def _chain(scene: Scene) -> list[tuple[str, nn.Conv2d]]:
    """The convolutions of a network that is one chain of them, in order of running; empty for every other network."""
    ran = sorted((layer for layer in scene.seen.layers.values() if layer.calls), key=lambda layer: layer.order)
    layers = [(layer.name, scene.model.get_submodule(layer.name)) for layer in ran]
    weighted = [(name, layer) for name, layer in layers if _has_weights(layer)]
    found = [(name, layer) for name, layer in weighted if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    chained = all(before.out_channels == after.in_channels for (_, before), (_, after) in pairwise(found))
    return found if chained and len(found) == len(weighted) else []


def _has_weights(layer: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in layer._parameters.values())
