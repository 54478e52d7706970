"""What images of identities go through: whole, of the asked shape, and changed by the random stream alone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from deepsup.datasets.identity_views import view
from deepsup.datasets.normalisation import IMAGENET_MEAN
from deepsup.errors import ConfigError

SHAPE = (32, 16)


def picture(height: int = 32, width: int = 16) -> Tensor:
    return torch.randint(1, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seen(augment: str, image: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return view(augment, SHAPE)(image)


def test_without_augmentation_an_image_of_that_shape_is_itself_and_others_are_resized_whole() -> None:
    assert torch.equal(seen("none", picture()), picture())
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, 48:] = 255
    small = seen("none", stripes)
    assert small.shape == (3, *SHAPE)
    assert bool((small[:, :, :11] == 0).all())
    assert bool((small[:, :, 13:] == 255).all())


def test_files_and_images_in_memory_become_the_same() -> None:
    image = picture(32, 16)
    file = Image.fromarray(image.permute(1, 2, 0).numpy())
    for augment in ("none", "flips", "standard(padding=3)", "erasing(padding=3, share=1)"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            assert torch.equal(view(augment, SHAPE)(file), seen(augment, image, 4))


def test_half_are_mirrored() -> None:
    image = picture()
    flipped = [torch.equal(seen("flips", image, seed), image.flip(2)) for seed in range(60)]
    assert 15 < sum(flipped) < 45
    assert all(f or torch.equal(seen("flips", image, seed), image) for seed, f in enumerate(flipped))


def test_the_standard_cuts_out_of_the_image_with_a_black_edge() -> None:
    image = picture()
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    windows = {padded[:, y : y + 32, x : x + 16].numpy().tobytes() for y in range(5) for x in range(5)}
    found = {seen("standard(padding=2, mirror=False)", image, seed).numpy().tobytes() for seed in range(200)}
    assert found == windows


def test_erasing_paints_a_rectangle_of_the_recipes_size_in_the_mean_colour() -> None:
    image, mean = picture(), (255 * IMAGENET_MEAN).round().byte()
    whole = 0
    for seed in range(80):
        found = seen("erasing(padding=0, mirror=False)", image, seed)
        changed = (found != image).any(0)
        if not changed.any():
            whole += 1
            continue
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        box = found[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        assert torch.equal(box, mean[:, None, None].expand_as(box))
        assert 0.01 < box[0].numel() / image[0].numel() < 0.45  # 2 to 40 %, in whole pixels
    assert 20 < whole < 60


@pytest.mark.parametrize(
    ("augment", "says"),
    [
        ("reflect", "no augmentation is called 'reflect'"),
        ("standard(padding=-1)", "needs padding to be a whole number of pixels"),
        ("erasing(share=2)", "needs share to be a number from 0 to 1"),
        ("erasing(area=(0.4, 0.02))", "needs area to be two shares"),
        ("erasing(aspect=(0, 1))", "needs aspect to be two numbers above 0"),
    ],
)
def test_what_is_none_is_named(augment: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        view(augment, SHAPE)
