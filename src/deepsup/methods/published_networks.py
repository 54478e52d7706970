"""The networks that methods were published on, known by what they are built of and not by what they are called."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from deepsup.methods.method import Scene

CASCADED = 2  # 1x1 convolutions after each wider one
CNDS_BRANCHES = {8: (4,), 13: (4, 7, 10)}  # by the number of convolutions: after which there is a branch


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


def cnds_activations(scene: Scene) -> list[str]:
    """The layers that CNDS's branches read: in a chain of 8 convolutions the activation of the 4th, in one of 13 those of the
    4th, 7th and 10th, three linear layers following (Wang et al. 2015; VGG-11 and VGG-16 are such chains, too).

    Empty for every other network, and where these convolutions have no activation that is a layer.
    """
    chain = _chain(scene, linear=3)
    places = CNDS_BRANCHES.get(len(chain), ())
    found = [_activation(scene, chain[place - 1][0], chain[place][0]) for place in places]
    return found if all(found) else []


def _activation(scene: Scene, convolution: str, following: str) -> str:
    """The last layer that keeps the convolution's size and runs before the next one; "" where it is the convolution."""
    layers = scene.seen.layers
    here, there = layers[convolution], layers[following]
    between = [layer for layer in layers.values() if here.order < layer.order < there.order]
    last = here
    for layer in sorted(between, key=lambda layer: layer.order):
        leaf = not any(True for _ in scene.model.get_submodule(layer.name).children())
        if leaf and layer.feature == here.feature and layer.type not in ("Dropout", "Dropout2d", "Identity"):
            last = layer
    normalises = isinstance(scene.model.get_submodule(last.name), (nn.Conv2d, _NormBase, nn.LocalResponseNorm))
    return "" if normalises else last.name


def _chain(scene: Scene, *, linear: int = 0) -> list[tuple[str, nn.Conv2d]]:
    """The convolutions of a network that is one chain of them, in order of running, with so many linear layers behind;
    empty for every other network.
    """
    ran = sorted((layer for layer in scene.seen.layers.values() if layer.calls), key=lambda layer: layer.order)
    layers = [(layer.name, scene.model.get_submodule(layer.name)) for layer in ran]
    weighted = [(name, layer) for name, layer in layers if _has_weights(layer)]
    split = len(weighted) - linear
    found = [(name, layer) for name, layer in weighted[:split] if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    chained = all(before.out_channels == after.in_channels for (_, before), (_, after) in pairwise(found))
    ends = all(isinstance(layer, nn.Linear) for _, layer in weighted[split:])
    return found if chained and ends and len(found) == split else []


def _has_weights(layer: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in layer._parameters.values())
