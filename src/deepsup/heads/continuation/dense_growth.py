"""Networks in which every block adds channels to those before it: how wide what stands between their stages has to be."""

from __future__ import annotations

import itertools

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


def transition_width(convolution: _ConvNd, channels: int) -> int:
    """The channels that a transition makes of `channels`: the share that it made of its own, rounded down.

    Which share its author meant is not written in the layer: the one with the smallest denominator that gives its counts,
    1 for DenseNet and 1/2 for DenseNet-BC (Huang et al. 2017).
    """
    given, made = convolution.in_channels, convolution.out_channels
    for whole in itertools.count(1):
        part = -(-made * whole // given)
        if part * given // whole == made:
            return max(1, part * channels // whole)
    raise AssertionError  # whole = given fits at the latest


def is_transition(rest: fx.GraphModule, path: str, convolution: _ConvNd) -> bool:
    """Whether a layer is a 1x1 convolution on what a dense stage has piled up: a concatenation of values, one of which was
    computed from another. Those beside one another in an inception block were not.
    """
    calls = [node for node in rest.graph.nodes if node.op == "call_module" and node.target == path]
    if len(calls) != 1 or max(convolution.kernel_size) > 1 or convolution.groups > 1:
        return False
    node = calls[0].all_input_nodes[0]
    while node.op == "call_module" and not isinstance(rest.get_submodule(str(node.target)), (_ConvNd, nn.Linear)):
        node = node.all_input_nodes[0]  # through normalisations, activations and dropout
    if node.target not in _CONCATENATIONS:
        return False
    piled = set(node.all_input_nodes)
    return any(piled & _before(part) for part in piled)


def _before(node: fx.Node) -> set[fx.Node]:
    """Everything that a node is computed from."""
    found: set[fx.Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.all_input_nodes
    return found
