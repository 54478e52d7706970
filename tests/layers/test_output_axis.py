"""On which axis the classes are, told by the layers that made them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from deepsup.layers.dry_run import trace


class Then(nn.Module):
    """A layer, and what is done to its output."""

    def __init__(self, layer: nn.Module, then: str) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.layer = layer
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.stem(x))
        x = x[0] if isinstance(x, tuple) else x
        return {
            "stays": lambda: x,
            "turns": lambda: x.transpose(1, -1),
            "last": lambda: x.movedim(1, -1),
            "grows": lambda: nn.functional.interpolate(x, scale_factor=2),
            "tanh": lambda: x.tanh() * 3,
            "shuffles": lambda: nn.functional.pixel_shuffle(x, 2),
            "pools": lambda: x.mean(1),
            "times": lambda: x @ torch.ones(x.shape[-1], 7),  # a weight that is no layer's, as of tied embeddings
            "of axis 1": lambda: torch.einsum("nld,dc->ncl", x, torch.ones(x.shape[-1], 7)),
            "map": lambda: x.mT.unflatten(-1, (3, 3)),
            "doubles": lambda: x * 2,
            "mixed": lambda: x + x.mean((1, 2), keepdim=True),
        }[self.then]()


@pytest.mark.parametrize(
    ("layer", "then", "shape", "axis", "source"),
    [
        (nn.Linear(4, 9), "stays", (2, 6, 4), -1, "the last Linear 'layer'"),
        (nn.Linear(4, 9), "turns", (2, 6, 4), 1, "the last Linear 'layer'"),
        (nn.Linear(4, 9), "stays", (2, 5, 6, 4), -1, "the last Linear 'layer'"),
        (nn.Linear(4, 9), "tanh", (2, 9, 4), -1, "the last Linear 'layer'"),  # two axes of 9: the layer's own
        (nn.Linear(4, 9), "turns", (2, 9, 4), 1, "the last Linear 'layer'"),  # turned: seen in the numbers
        (nn.Conv1d(4, 9, 1), "stays", (2, 4, 6), 1, "the last Conv1d 'layer'"),
        (nn.Conv2d(4, 9, 1), "stays", (2, 4, 5, 6), 1, "the last Conv2d 'layer'"),
        (nn.Conv2d(4, 9, 1), "last", (2, 4, 5, 6), -1, "the last Conv2d 'layer'"),
        (nn.Conv2d(4, 9, 1), "last", (2, 4, 9, 9), -1, "the last Conv2d 'layer'"),
        (nn.Conv2d(4, 9, 1), "grows", (2, 4, 5, 6), 1, "the last Conv2d 'layer'"),
        (nn.Conv3d(4, 9, 1), "last", (2, 4, 3, 5, 6), -1, "the last Conv3d 'layer'"),
        (nn.Conv2d(4, 12, 1), "shuffles", (2, 4, 5, 6), 1, "the last Conv2d 'layer'"),
        (nn.Conv2d(4, 32, 1), "shuffles", (2, 4, 5, 4), 1, "the last Conv2d 'layer'"),  # as many columns as classes
        (nn.Linear(4, 9), "times", (2, 6, 4), -1, "the last Linear 'layer'"),
        (nn.Linear(4, 9), "times", (2, 9, 4), -1, "the last Linear 'layer'"),  # as many tokens as channels
        (nn.Linear(4, 9), "times", (2, 7, 4), -1, "the last Linear 'layer'"),  # and as classes
        (nn.Linear(4, 9), "of axis 1", (2, 7, 4), 1, "the last Linear 'layer'"),
        (nn.Linear(4, 9), "of axis 1", (2, 9, 4), 1, "the last Linear 'layer'"),
        (
            nn.Linear(4, 3),
            "map",
            (2, 9, 4),
            1,
            "the last Linear 'layer'",
        ),  # tokens as a map, as wide as there are classes
        (nn.GRU(4, 6, batch_first=True), "doubles", (2, 6, 4), -1, "the last GRU 'layer'"),
        (weight_norm(nn.Linear(4, 6)), "stays", (2, 6, 4), -1, "the last ParametrizedLinear 'layer'"),
        (nn.Linear(6, 6), "mixed", (2, 6, 6), 1, "its shape"),  # of places or of classes: nobody knows
        (nn.Linear(4, 9), "pools", (2, 6, 4), 1, "its shape"),  # (N, 9): nothing to choose
    ],
)
def test_the_last_weighted_layer_knows(
    layer: nn.Module, then: str, shape: tuple[int, ...], axis: int, source: str
) -> None:
    seen = trace(Then(layer, then), torch.randn(shape))
    assert (seen.axis, seen.axis_source) == (axis, source)


@pytest.mark.parametrize(
    ("layer", "then", "shape", "axis", "source"),
    [
        (nn.Linear(4, 9), "times", (2, 50, 4), -1, "the places of the last Linear 'layer'"),
        (nn.Linear(4, 9), "times", (2, 7, 4), -1, "its shape"),
        (nn.Linear(4, 9), "turns", (2, 9, 4), 1, "the last Linear 'layer'"),  # turned: seen in the numbers
        (nn.Conv2d(4, 9, 1), "grows", (2, 4, 5, 6), 1, "the last Conv2d 'layer'"),
        (nn.Conv2d(4, 12, 1), "shuffles", (2, 4, 5, 6), 1, "its shape"),
    ],
)
def test_of_a_frozen_model_numbers_and_sizes_tell(
    layer: nn.Module, then: str, shape: tuple[int, ...], axis: int, source: str
) -> None:
    seen = trace(Then(layer, then).requires_grad_(False), torch.randn(shape))
    assert (seen.axis, seen.axis_source) == (axis, source)


def test_looking_for_the_axis_leaves_no_gradient() -> None:
    model = Then(nn.Linear(4, 9), "of axis 1")
    trace(model, x := torch.randn(2, 7, 4, requires_grad=True))
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
