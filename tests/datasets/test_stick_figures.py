"""Drawn figures: who it is says the clothes, whatever the image; cameras change all that they see; nothing else is drawn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import datasets
from deepsup.datasets.stick_figures import SHAPE, drawn
from deepsup.evaluation.evaluate import evaluate


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


class Small(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in ((3, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.body, self.neck = nn.Sequential(*layers), nn.BatchNorm1d(32)
        self.fc = nn.Linear(32, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(self.body(x).amax((2, 3))))


def test_a_small_net_learns_to_find_figures_that_it_has_never_seen() -> None:
    data = datasets.load("drawn-figures(identities=80, images=3)", augment="standard(padding=4)", per_identity=4)
    torch.manual_seed(0)
    net = Small(data.classes)
    before = evaluate(net, data.validation).score["main"]
    engine = {"accelerator": "cpu", "threads": 1}
    found = ds.fit(
        net, data.train, validation=data.validation, epochs=8, optimizer="adam", lr=0.005, batch_size=64, engine=engine
    )
    assert found.metric == "mAP"
    assert before < 0.15
    assert found.score is not None
    assert 0.25 < found.score < 0.9  # learned, and with something left to learn
