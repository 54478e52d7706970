"""Large images tile by tile: against a slow loop, and what has to come out by construction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepsup.errors import ConfigError, OutputError
from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.sliding_window import in_tiles, tiled
from deepsup.supervision.objectives import Objective


def slow(forward: Callable[[Tensor], Tensor], x: Tensor, side: int, stride: int, *, binary: bool) -> Tensor:
    """Averaged probabilities of one image `(C, H, W)`, tile by tile and pixel by pixel."""
    height, width = x.shape[1:]
    tops = sorted({*range(0, height - side + 1, stride), height - side})
    lefts = sorted({*range(0, width - side + 1, stride), width - side})
    total: Any = 0
    seen = torch.zeros(height, width, dtype=torch.float64)
    for top in tops:
        for left in lefts:
            scores = forward(x[None, :, top : top + side, left : left + side])
            scores = functional.interpolate(scores, (side, side), mode="bilinear", align_corners=False).double()
            found = scores.sigmoid()[0] if binary else scores.softmax(1)[0]
            total = torch.zeros(len(found), height, width, dtype=torch.float64) if isinstance(total, int) else total
            for row in range(side):
                for column in range(side):
                    total[:, top + row, left + column] += found[:, row, column]
                    seen[top + row, left + column] += 1
    assert float(seen.min()) >= 1
    return total / seen


class TestAverages:
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (16, 8)])
    @pytest.mark.parametrize(("stride", "binary", "batch_size"), [(3, False, 4), (8, False, 1), (5, True, 100)])
    def test_as_the_slow_loop(self, height: int, width: int, stride: int, binary: bool, batch_size: int) -> None:
        net = nn.Conv2d(2, 1 if binary else 3, 3, stride=2, padding=1)  # sees a tile's border, at half resolution
        x = torch.randn(2, 2, height, width)
        found = tiled(net, x, side=8, stride=stride, binary=binary, batch_size=batch_size)
        assert isinstance(found, Tensor)
        assert found.shape == (2, 1 if binary else 3, height, width)
        averaged = found.sigmoid() if binary else found.softmax(1)
        with torch.no_grad():
            expected = torch.stack([slow(net, image, 8, stride, binary=binary) for image in x])
        torch.testing.assert_close(averaged.double(), expected, atol=1e-6, rtol=1e-5)

    def test_stride_of_a_side_gives_the_tiles_one_by_one(self) -> None:
        net = nn.Conv2d(1, 2, 3, padding=1)
        x = torch.randn(1, 1, 12, 8)
        found = tiled(net, x, side=4, stride=4)
        assert isinstance(found, Tensor)
        with torch.no_grad():
            rows = [torch.cat([net(tile) for tile in row.split(4, 3)], 3) for row in x.split(4, 2)]
        torch.testing.assert_close(found, torch.cat(rows, 2).log_softmax(1))

    def test_a_network_that_sees_single_pixels_needs_no_tiles(self) -> None:
        net = nn.Conv2d(3, 4, 1)
        x = torch.randn(2, 3, 11, 13)
        found = tiled(net, x, side=(5, 6))
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, net(x).detach().log_softmax(1))

    @pytest.mark.parametrize("binary", [True, False])
    def test_constants_stay_constants_however_sure(self, binary: bool) -> None:
        scores = torch.tensor([40.0, -40.0, 0.5])
        found = tiled(
            lambda tiles: scores.view(1, 3, 1, 1).expand(len(tiles), 3, 2, 2),
            torch.zeros(1, 1, 10, 7),
            side=4,
            stride=3,
            binary=binary,
        )
        assert isinstance(found, Tensor)
        expected = scores if binary else scores.log_softmax(0)
        torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand(1, 3, 10, 7))

    def test_branches_by_name_with_classes_of_their_own(self) -> None:
        main, side = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 5, 4, stride=4)
        x = torch.randn(1, 1, 10, 10)
        found = tiled(lambda tiles: {"main": main(tiles), "layer3": side(tiles)}, x, side=8, stride=2)
        assert isinstance(found, dict)
        assert [(name, scores.shape[1]) for name, scores in found.items()] == [("main", 2), ("layer3", 5)]
        torch.testing.assert_close(found["main"], main(x).detach().log_softmax(1))
        alone = tiled(side, x, side=8, stride=2)
        assert isinstance(alone, Tensor)
        assert torch.equal(found["layer3"], alone)

    def test_corners_may_be_aligned(self) -> None:
        scores = torch.arange(4.0).view(1, 1, 2, 2)
        x = torch.zeros(1, 1, 5, 5)
        found = {
            aligned: tiled(lambda tiles: scores, x, side=5, binary=True, align_corners=aligned)
            for aligned in (True, False)
        }
        assert isinstance(found[True], Tensor)
        assert isinstance(found[False], Tensor)
        torch.testing.assert_close(found[True][0, 0, 0], torch.linspace(0, 1, 5))
        assert float(found[False][0, 0, 0, 1]) != pytest.approx(0.25)

    def test_volumes(self) -> None:
        net = nn.Conv3d(1, 2, 1)
        x = torch.randn(1, 1, 5, 6, 7)
        found = tiled(net, x, side=4, stride=2)
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, net(x).detach().log_softmax(1))


class TestTiles:
    def test_every_tile_is_full_and_asked_for_once(self) -> None:
        seen: list[Tensor] = []

        def forward(tiles: Tensor) -> Tensor:
            seen.append(tiles)
            return tiles

        x = torch.arange(2 * 9 * 11.0).view(2, 1, 9, 11)
        tiled(forward, x, side=4, stride=3, batch_size=5)
        corners = [tile[0, 0, 0].item() for batch in seen for tile in batch]
        assert corners == [x[n, 0, top, left].item() for n in (0, 1) for top in (0, 3, 5) for left in (0, 3, 6, 7)]
        assert [len(batch) for batch in seen] == [5] * (24 // 5) + [24 % 5]
        assert {batch.shape[1:] for batch in seen} == {(1, 4, 4)}

    def test_images_smaller_than_a_tile_are_filled_up_with_zeros(self) -> None:
        seen: list[Tensor] = []

        def forward(tiles: Tensor) -> Tensor:
            seen.append(tiles)
            return tiles

        found = tiled(forward, torch.ones(1, 2, 3, 9), side=6, stride=6)
        assert isinstance(found, Tensor)
        assert found.shape == (1, 2, 3, 9)
        assert all(float(batch[:, :, 3:].abs().max()) == 0 for batch in seen)
        assert sum(float(batch.sum()) for batch in seen) == 2 * 2 * 3 * 6
        torch.testing.assert_close(found, torch.full((1, 2, 3, 9), -math.log(2)))

    def test_no_gradient_is_kept(self) -> None:
        found = tiled(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4), side=4)
        assert isinstance(found, Tensor)
        assert not found.requires_grad

    def test_scores_in_sixteen_bits_are_averaged_in_thirty_two(self) -> None:
        found = tiled(lambda tiles: tiles.to(torch.bfloat16), torch.randn(1, 3, 8, 8), side=4)
        assert isinstance(found, Tensor)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.softmax(1).sum(1), torch.ones(1, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 0}, r"side=0 must be one whole number of at least 1, or 2 of them"),
        ({"side": [4, 4, 4]}, r"side=\[4, 4, 4\] must be"),
        ({"side": 4, "stride": 5}, r"stride=\[5, 5\] is larger than side=\[4, 4\]"),
        ({"side": 4, "batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_sizes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiled(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 8, 8), **arguments)


def test_what_is_no_image_and_no_scores() -> None:
    with pytest.raises(ConfigError, match=r"needs images.*\(2, 3\)"):
        tiled(nn.Linear(3, 2), torch.zeros(2, 3), side=2)
    with pytest.raises(OutputError, match=r"scores \(n, K, ...\) of its 4 tiles of \(4, 4\); found \(4, 16\)"):
        tiled(lambda tiles: tiles.flatten(1), torch.zeros(1, 1, 8, 8), side=4, stride=4)


def test_without_a_plan_the_first_tile_says_where_the_classes_are() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).movedim(1, -1)

    net, objective = Last().eval(), Objective()
    x, y = torch.randn(2, 2, 8, 12), torch.randint(0, 3, (2, 8, 12))
    whole = evaluate(net, [(x, y)])
    found = evaluate(net, [(x, y), (x, y)], objective=objective, run=in_tiles(objective, side=8))
    assert found.loss["main"] == pytest.approx(whole.loss["main"], rel=1e-5)
    assert found.score["main"] == pytest.approx(whole.score["main"])
