"""Labels that no class is there for are found and named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import ClassCountError
from deepsup.losses import labels


@pytest.mark.parametrize("labels", [[0, 5], [-1, 2], [-100, 7], [255, 0]], ids=str)
def test_labels_out_of_range_are_found(labels: list[int]) -> None:
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4"):
        losses.check_labels(5, torch.tensor(labels))


@pytest.mark.parametrize(
    "target",
    [torch.tensor([0, 4]), torch.tensor([-100, 4]), torch.rand(2, 5), torch.zeros(0, dtype=torch.long)],
    ids=["in range", "ignored", "soft", "empty"],
)
def test_labels_in_range_pass(target: Tensor) -> None:
    losses.check_labels(5, target)


def test_255_as_void_is_guessed() -> None:
    with pytest.raises(
        ClassCountError, match=r"say so for all outputs: plan\(\.\.\., loss='cross_entropy\(ignore_index=255\)'\)"
    ):
        losses.check_target("cross_entropy", torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255))


def test_a_batch_on_another_device_is_not_looked_at() -> None:
    assert labels.free_to_look(torch.zeros(1))
    assert not labels.free_to_look(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("resize", ["enlarge", "interpolate", "nearest", "area", "preserve"])
@pytest.mark.parametrize("name", ["binary", "dice", "dice_cross_entropy", "balanced"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.bool, torch.int64])
def test_one_logit_reads_whole_numbers_alike_with_and_without_an_axis_for_channels(
    resize: str, name: str, kind: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    scores, target = torch.randn(2, 1, 5, 5, generator=draw), torch.randint(0, 2, (2, 8, 7), generator=draw)
    expected = losses.LOSSES[name](scores, target, resize=resize)
    for form in (target.to(kind), target.to(kind)[:, None]):
        assert torch.equal(losses.LOSSES[name](scores, form, resize=resize), expected)
