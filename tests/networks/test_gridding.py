"""The gridding check: against the gradient of one output pixel, the paper's examples and an exhaustive search."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torchvision
from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.gridding import Gridding, GriddingWarning, gridding, gridding_of, warn_of_gridding

torch.set_num_threads(1)


def reached(rates: tuple[int, ...], kernel: int, side: int) -> torch.Tensor:
    """Which pixels of a (side, side) picture the one output pixel depends on, by backpropagation."""
    stack = nn.Sequential(*(nn.Conv2d(1, 1, kernel, dilation=rate, bias=False) for rate in rates)).double()
    for layer in stack:
        nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    picture = torch.zeros(1, 1, side, side, dtype=torch.double, requires_grad=True)
    output = stack(picture)
    assert output.shape == (1, 1, 1, 1)  # the field fits into the picture exactly
    output.sum().backward()
    assert picture.grad is not None
    return picture.grad[0, 0] > 0


class TestCoverage:
    @pytest.mark.parametrize(
        ("rates", "kernel"),
        [
            ((1,), 3),
            ((2,), 3),
            ((2, 2, 2), 3),
            ((1, 2, 3), 3),
            ((1, 2, 5), 3),
            ((1, 2, 9), 3),
            ((4, 2, 4), 3),
            ((3, 1, 3, 1), 3),
            ((2, 3), 5),
            ((3, 3), 2),
            ((2, 5), 1),
        ],
    )
    def test_is_that_of_the_gradient(self, rates: tuple[int, ...], kernel: int) -> None:
        stack = gridding(rates, kernel=kernel)
        seen = torch.zeros(stack.side, dtype=torch.bool)
        seen[list(stack.seen)] = True
        expected = reached(rates, kernel, stack.side)
        assert torch.equal(seen[:, None] & seen[None], expected)
        assert stack.share == pytest.approx(expected.double().mean().item())
        assert stack.holes == (not expected.all())

    def test_of_the_figure_in_the_paper(self) -> None:
        """Rates 2, 2, 2 leave a checkerboard of 7x7 of 13x13 pixels; 1, 2, 3 cover the same field."""
        assert gridding((2, 2, 2)).seen == (0, 2, 4, 6, 8, 10, 12)
        assert gridding((2, 2, 2)).share == 49 / 169
        assert gridding((1, 2, 3)).seen == tuple(range(13))


class TestRuleOfThePaper:
    @pytest.mark.parametrize(
        ("rates", "distance"),
        [
            ((1, 2, 5), 2),  # the two examples of the paper: within K = 3,
            ((1, 2, 9), 5),  # and beyond it
            ((1, 2, 3), 2),
            ((2, 2, 2), 2),
            ((1, 3, 8), 3),
            ((1, 2, 5, 9), 2),  # M_4 = 9, M_3 = max(9 - 10, 10 - 9, 5) = 5, M_2 = max(5 - 4, 4 - 5, 2) = 2
            ((5,), 5),
        ],
    )
    def test_distance(self, rates: tuple[int, ...], distance: int) -> None:
        assert gridding(rates).distance == distance

    def test_the_distance_alone_does_not_find_a_common_factor(self) -> None:
        stack = gridding((2, 2, 2))
        assert stack.distance <= 3
        assert (stack.factor, stack.holes) == (2, True)
        assert gridding((1, 2, 9)).factor == 1
        assert gridding((4, 6)).factor == 2


class TestHybrid:
    @pytest.mark.parametrize(
        ("rates", "hybrid"),
        [
            ((2, 2, 2), (1, 2, 3)),
            ((2, 2), (1, 3)),
            ((2,), (1,)),  # one layer sees nothing without holes but its kernel
            ((12, 12), (1, 3)),  # nor two more than nine pixels
            ((2, 4, 4), (1, 3, 6)),
            ((2, 2, 2, 2), (1, 2, 2, 3)),
            ((2,) * 7, (1, 2, 3, 1, 2, 2, 3)),
            ((3, 1, 1), (3, 1, 1)),  # nothing to mend, in whatever order
        ],
    )
    def test_of(self, rates: tuple[int, ...], hybrid: tuple[int, ...]) -> None:
        assert gridding(rates).hybrid == hybrid

    @pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (2, 3), (3, 3), (2, 5), (3, 2)])
    def test_nothing_better_among_all_rates(self, layers: int, kernel: int) -> None:
        every = [Gridding(r, kernel) for r in itertools.product(range(1, 10), repeat=layers)]
        whole = [stack for stack in every if not stack.holes]
        for stack in every:
            if not stack.holes:
                continue
            ours = Gridding(stack.hybrid, kernel)
            assert len(ours.rates) == layers
            assert not ours.holes
            assert ours.side == max(other.side for other in whole if other.side <= stack.side)
            assert max(ours.rates) == min(max(other.rates) for other in whole if other.side == ours.side)

    def test_a_long_stack_keeps_its_field(self) -> None:
        stack = gridding((2,) * 22)  # conv4 of a dilated ResNet-101 behind its first block
        assert gridding(stack.hybrid).side == stack.side == 89
        assert not gridding(stack.hybrid).holes


class TestWords:
    def test_what_is_wrong_and_what_to_do(self) -> None:
        assert str(gridding((2, 2, 2))) == (
            "rates (2, 2, 2): one output pixel sees 49 of the 169 pixels (29%) of its 13x13 field: gridding, as all rates "
            "share the factor 2. Rates (1, 2, 3) see all of 13x13."
        )
        assert "gridding, as the rates grow too fast. Rates (1, 3, 8) see" in str(gridding((1, 2, 9)))
        assert str(gridding((1, 2))) == "rates (1, 2): one output pixel sees all of its 7x7 field."

    def test_one_warning_for_all_stacks(self) -> None:
        with pytest.warns(GriddingWarning) as caught:
            warn_of_gridding([(2, 2), (1, 2), (4, 4), (2, 2)])
        assert len(caught) == 1
        assert str(caught[0].message) == f"{gridding((2, 2))} {gridding((4, 4))}"
        assert issubclass(GriddingWarning, UserWarning)

    def test_no_warning_without_holes(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_gridding([(1, 2, 3), (1, 1)])

    @pytest.mark.parametrize("rates", [(), (0,), (1, -2), (1.5,), (True,), ("2",)])
    def test_rates_that_are_none(self, rates: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="dilation rate"):
            gridding(rates)

    def test_a_kernel_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="kernel=0"):
            gridding((1,), kernel=0)


class TestOfAModel:
    def test_a_dilated_resnet(self) -> None:
        """Stride 8: torchvision's layer3 has rates 1, 2, 2, ... and layer4 2, 4, 4, one 3x3 convolution a block."""
        with torch.device("meta"):
            model = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
        found = gridding_of(model, stages=["layer1", "layer2", "layer3", "layer4"])
        assert list(found) == ["layer4"]
        assert found["layer4"] == gridding((2, 4, 4))

    def test_stages_that_the_model_names(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.Conv2d(4, 4, 1, dilation=9), nn.Conv2d(4, 4, 3))
        model.stages = ("0", "2")  # type: ignore[assignment]
        assert gridding_of(model) == {"0": gridding((2,))}
        assert gridding_of(nn.Sequential(model), stages=["0"]) == {}  # rates 2, 1: the 1x1 between them looks nowhere

    def test_a_stride_begins_anew(self) -> None:
        layers = [nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 3, dilation=2)]
        assert gridding_of(nn.Sequential(nn.Sequential(*layers)), stages=["0"]) == {"0": gridding((2,))}

    def test_a_stage_of_several_kernels_is_passed_over(self) -> None:
        stage = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 5, dilation=2))
        assert gridding_of(nn.Sequential(stage), stages=["0"]) == {}

    def test_a_model_that_names_none(self) -> None:
        with pytest.raises(ConfigError, match="Conv2d does not say what its stages are"):
            gridding_of(nn.Conv2d(1, 1, 3))
