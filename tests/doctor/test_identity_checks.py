"""Traps of identities, each planted, and nothing said where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup.doctor.findings import Finding
from deepsup.doctor.identity_checks import Drawn, drawing, embedding, searching, shrinking
from deepsup.heads.identities import Neck
from deepsup.layers.dry_run import trace
from deepsup.layers.last_linear import last_linear


def seen(images: list[int], **options: Any) -> Drawn:
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    defaults: dict[str, Any] = {
        "cameras": torch.arange(len(labels)) % 2,
        "per_identity": 4,
        "batch_size": 64,
        "compared": True,
        "stored": (128, 64),
    }
    return Drawn(labels, **defaults | options)


def said(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in found]


def what(found: Iterable[Finding]) -> str:
    (finding,) = found
    return finding.what


def test_a_set_as_it_should_be_has_no_finding() -> None:
    assert said(drawing(seen([6] * 20))) == []
    assert said(searching([], 8, [])) == []


def test_an_identity_with_one_image_matters_to_losses_that_compare() -> None:
    assert what(drawing(seen([1, 1] + [8] * 20))) == "2 of 22 identities have one image"
    assert said(drawing(seen([1, 1] + [8] * 20, compared=False))) == []


def test_images_are_repeated_where_many_identities_have_fewer() -> None:
    few = seen([2] * 10 + [8] * 10)
    assert said(drawing(few)) == [("repeated-images", "warning")]
    assert "10 of 20 identities have fewer than the 4 images" in what(drawing(few))
    assert said(drawing(seen([2] * 2 + [8] * 10))) == []


def test_a_shuffled_batch_has_few_pairs() -> None:
    alone = seen([4] * 750, per_identity=0)
    assert "about 6% of the images have another" in what(drawing(alone))
    assert said(drawing(seen([40] * 10, per_identity=0))) == []
    assert said(drawing(seen([4] * 750, per_identity=0, compared=False))) == []
    assert said(drawing(seen([4] * 20, per_identity=1))) == [("no-pairs", "error")]


def test_the_share_of_pairs_is_that_of_drawing() -> None:
    images = [3] * 40 + [9] * 10
    labels = seen(images).labels
    chance = torch.manual_seed(0)
    drawn = [labels[torch.randperm(len(labels), generator=chance)[:16]] for _ in range(400)]
    beside = [float((batch[:, None] == batch).sum(1).gt(1).float().mean()) for batch in drawn]
    share = sum(beside) / len(beside)
    told = what(drawing(seen(images, per_identity=0, batch_size=16)))
    assert abs(int(told.split("about ")[1].split("%")[0]) / 100 - share) < 0.02


def test_nearly_all_on_one_camera_each() -> None:
    images = [4] * 20
    one = torch.arange(20).repeat_interleave(4)
    assert what(drawing(seen(images, cameras=one))) == "20 of 20 identities are on one camera alone"
    some = one.clone()
    some[:40:4] = 30
    assert said(drawing(seen(images, cameras=some))) == []
    assert said(drawing(seen(images, cameras=None))) == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"augment": "flips"}, ["mirrored-only"]),
        ({"augment": "erasing"}, []),
        ({"served": (128, 128)}, ["squared-images"]),
        ({"served": (128, 128), "stored": (100, 90)}, []),
        ({"served": (128, 128), "stored": None}, []),
    ],
)
def test_images_that_are_changed_too_little_or_too_much(options: dict[str, Any], code: list[str]) -> None:
    assert [finding.code for finding in drawing(seen([6] * 20, **options))] == code


def test_queries_without_a_match_and_people_in_both_halves_are_named() -> None:
    assert what(searching(["query/3.jpg"], 8, [])) == "1 of 8 queries have no match in the gallery: query/3.jpg"
    assert what(searching([], 8, ["0002", "0007"])) == "2 identities are in training, too: 0002, 0007"


class Deep(nn.Module):
    """Halves its images `times`, and pools what is left."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3 if n == 0 else 4, 4, 3, stride=2, padding=1) for n in range(times)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.body(x)).flatten(1))


@pytest.mark.parametrize(
    ("times", "size", "told"),
    [
        (5, (256, 128), ["images of 256x128 end as a map of 8x4"]),
        (4, (256, 128), []),
        (5, (256, 256), []),
        (3, (64, 32), []),
    ],
)
def test_a_last_map_with_hardly_a_place_across(times: int, size: tuple[int, int], told: list[str]) -> None:
    assert [finding.what for finding in shrinking(trace(Deep(times), torch.rand(2, 3, *size)))] == told


def searched_by(model: nn.Module, *, compared: bool = True) -> list[str]:
    found = last_linear(model, lambda: model(torch.rand(2, 6)))
    return [finding.what for finding in embedding(model, found, compared=compared)]


def test_an_embedding_as_wide_as_there_are_classes_may_be_scores() -> None:
    said = ["what enters '2' has 5 numbers, as many as there are identities"]
    assert searched_by(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5))) == said
    assert searched_by(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))) == []


def test_a_neck_that_shifts_matters_to_losses_that_compare() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))
    assert searched_by(model) == ["the neck '1' before '2' has a bias that learns"]
    assert searched_by(model, compared=False) == []
    model.get_submodule("1").bias.requires_grad_(False)
    assert searched_by(model) == []
    assert searched_by(nn.Sequential(nn.Linear(6, 4), Neck(4), nn.Linear(4, 5))) == []
