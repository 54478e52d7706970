"""Drawn figures: who it is says the clothes, whatever the image; cameras change all that they see; nothing else is drawn from."""

from __future__ import annotations

import torch

from deepsup.datasets.stick_figures import SHAPE, drawn


def test_what_is_drawn() -> None:
    figures = drawn(5, 3, cameras=2, images=4, seed=0)
    assert figures.images.shape == (24, 3, *SHAPE)
    assert figures.images.dtype == torch.uint8
    assert figures.identities.tolist() == [5] * 8 + [6] * 8 + [7] * 8
    assert figures.cameras.tolist() == [1, 1, 1, 1, 2, 2, 2, 2] * 3
    assert len(figures.images.unique(dim=0)) == 24


def test_the_same_seed_draws_the_same_and_the_global_stream_is_not_touched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(1, 2, cameras=2, images=2, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.images, drawn(1, 2, cameras=2, images=2, seed=0).images)
    assert not torch.equal(first.images, drawn(1, 2, cameras=2, images=2, seed=1).images)


def test_a_figure_looks_like_itself_more_than_like_others_on_the_same_camera() -> None:
    figures = drawn(1, 10, cameras=1, images=6, seed=0)
    middle = figures.images[:, :, 18:52, 12:20].float().flatten(1)  # shirt and trousers
    far = torch.cdist(middle, middle)
    same = figures.identities[:, None] == figures.identities
    assert far[same & (far > 0)].mean() < 0.7 * far[~same].mean()


def test_a_camera_changes_the_light_of_all_it_sees() -> None:
    figures = drawn(1, 8, cameras=3, images=2, seed=0)
    light = [float(figures.images[figures.cameras == camera].float().mean()) for camera in (1, 2, 3)]
    assert max(light) > 1.15 * min(light)


def test_half_a_figure_is_another_picture() -> None:
    whole, half = (drawn(1, 2, cameras=1, images=2, seed=0, halved=h).images for h in (False, True))
    assert not torch.equal(whole, half)
