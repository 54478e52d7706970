"""Targets of every form: one for all, by name, mixed, with a mask."""

from __future__ import annotations

import pytest
import torch

from deepsup.errors import BranchNameError, HeadError
from deepsup.supervision.targets import read

Y, Z = torch.tensor([0, 1]), torch.tensor([1, 0])
OUTPUTS = ("main", "a", "b")


def test_one_target_is_for_every_output() -> None:
    for target in (Y, None, {"boxes": Y}, "text"):
        found = read(target, OUTPUTS)
        assert found.main is target
        assert found.of("a")[0][0] is target


def test_targets_by_name_and_in_order() -> None:
    named = read({"main": Y, "b": Z}, OUTPUTS)
    assert [named.of(name)[0][0] is Z for name in OUTPUTS] == [False, False, True]
    listed = read([Y, Z, Y], OUTPUTS)
    assert [listed.of(name)[0][0] is Z for name in OUTPUTS] == [False, True, False]
    with pytest.raises(BranchNameError, match=r"names the output 'c', which is not there.* Outputs: main, a, b"):
        read({"main": Y, "c": Z}, OUTPUTS)
    with pytest.raises(BranchNameError, match=r"names a, b, and not main: give 'main' its own"):
        read({"a": Y, "b": Z}, OUTPUTS)
    with pytest.raises(HeadError, match=r"one for every output \(main, a, b\); found 2"):
        read([Y, Z], OUTPUTS)


def test_a_mask_and_the_rest_go_along() -> None:
    mask = torch.tensor([True, False])
    found = read({"target": Y, "mask": mask, "lengths": Z}, OUTPUTS)
    assert found.main is Y
    assert found.mask is mask
    assert set(found.batch or {}) == {"mask", "lengths"}


def test_a_mask_is_turned_with_its_target() -> None:
    found = read({"target": torch.zeros(2, 3, 4), "mask": torch.ones(2, 3, 4)}, OUTPUTS)
    turned = found.mapped(lambda t: t.movedim(-1, 1))
    assert turned.mask is not None
    assert turned.main.shape == turned.mask.shape == (2, 4, 3)


def test_two_that_are_mixed() -> None:
    found = read((Y, Z, 0.3), OUTPUTS)
    assert [share for _, share in found.of("a")] == [0.3, 0.7]
    assert found.main is Y
    with pytest.raises(HeadError, match=r"mixup's \(y1, y2, share\), with one share from 0 to 1"):
        read((Y, Z, 1.5), OUTPUTS)
    with pytest.raises(HeadError, match=r"found tensor\(-0\.1"):
        read((Y, Z, torch.tensor(-0.1)), OUTPUTS)
    with pytest.raises(HeadError, match="one share"):
        read((Y, Z, torch.tensor([0.2, 0.4])), OUTPUTS)
