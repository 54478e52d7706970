"""Images that stay whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from deepsup.datasets.whole_images import WHOLE


def test_nothing_is_cut_off() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :20], pixels[:, 40:] = 255, 128  # what a square out of the middle would not show
    (whole,) = WHOLE["none"](12)
    small = whole(Image.fromarray(pixels))
    assert small.shape == (3, 12, 12)
    assert small[0, :, 0].tolist() == [255] * 12
    assert small[0, :, -1].tolist() == [128] * 12


@pytest.mark.parametrize("seed", range(3))
def test_half_are_mirrored_left_to_right(seed: int) -> None:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8))
    plain, (flipped,) = WHOLE["none"](12)[0](image), WHOLE["flips"](12)
    torch.manual_seed(seed)
    seen = [flipped(image) for _ in range(20)]
    mirrored = sum(torch.equal(one, plain.flip(2)) for one in seen)
    assert 0 < mirrored < 20
    assert sum(torch.equal(one, plain) for one in seen) == 20 - mirrored
