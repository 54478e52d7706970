"""Predictions that are maps, brought to one size."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from deepsup.losses.full_size import alike, enlarged, is_map, lost_classes


def test_scores_are_enlarged_as_their_loss_enlarges_them() -> None:
    scores = torch.randn(2, 3, 4, 5)
    for loss, corners in (("cross_entropy", False), ("dice(align_corners=True)", True)):
        expected = F.interpolate(scores, (9, 11), mode="bilinear", align_corners=corners)
        assert torch.equal(enlarged(scores, (9, 11), loss), expected)
    assert enlarged(scores, (4, 5)) is scores


def test_several_outputs_meet_at_the_size_of_the_largest() -> None:
    small, large, vector = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 6, 4), torch.randn(2, 3)
    found = alike(iter([small, large]))
    assert [tuple(s.shape) for s in found] == [(2, 3, 6, 4)] * 2
    assert found[1] is large
    assert alike([vector])[0] is vector
    assert (is_map(vector.shape), is_map(small.shape)) == (False, True)


def test_only_shrunk_labels_lose_classes() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 0] = 2  # a thin line that no cell has in its middle
    scores = torch.zeros(1, 3, 2, 2)
    assert lost_classes(scores, target, "cross_entropy(resize='nearest')") == (2,)
    assert lost_classes(scores, target, "cross_entropy(resize='nearest', ignore_index=2)") == ()
    assert lost_classes(scores, target, "cross_entropy") == ()
    assert lost_classes(torch.zeros(1, 3, 8, 8), target, "cross_entropy(resize='nearest')") == ()


def test_flow_grows_with_its_map() -> None:
    small = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 4)
    wide = enlarged(small, (6, 8), "mse(flow=True)")
    assert wide[0, :, 0, 0].tolist() == [2, 6]  # x by the width, y by the height
    assert enlarged(small, (6, 8), "mse")[0, :, 0, 0].tolist() == [1, 2]
    assert enlarged(small, (2, 4), "mse(flow=True)") is small
