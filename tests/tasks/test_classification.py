"""One label an image: what is counted, against a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepsup.datasets import load
from deepsup.errors import ConfigError
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS
from deepsup.tasks.classification import ACCURACY, Hits, answers


def test_labels_below_zero_do_not_count_and_counts_add_up() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 2.0]])
    one, other = Hits(), Hits()
    one.add(scores[:2], torch.tensor([0, 0]))
    other.add(scores[2:], torch.tensor([0, -100]))
    assert one.cpu().metrics() == {ACCURACY: 0.5}
    assert (one + other).cpu().metrics() == {ACCURACY: pytest.approx(2 / 3)}
    assert Hits().metrics() == {}


def test_every_output_and_their_ensemble_is_counted() -> None:
    found = {"main": torch.tensor([[0.0, 9.0]]), "early": torch.tensor([[1.0, 0.0]])}
    counts: dict[str, Hits] = {}
    TASKS["classification"].add(counts, found, torch.tensor([1]), Objective(None))
    assert {name: hits.cpu().metrics()[ACCURACY] for name, hits in counts.items()} == {
        "main": 1.0, "early": 0.0, "ensemble": 1.0,
    }  # fmt: skip


def test_it_takes_class_indices_of_a_batch_alone() -> None:
    task = TASKS["classification"]
    assert task.takes(torch.tensor([1, 2]), "class", None)
    assert not task.takes(torch.tensor([0.5, 1.0]), "class", None)
    assert not task.takes(torch.zeros(2, 4, 4, dtype=torch.long), "class", None)


def test_a_finished_run_keeps_which_images_it_is_right_for(tmp_path: Path) -> None:
    split = load("digits").validation
    truth = torch.cat([y for _, y in split.batches(100, seed=0, epoch=0, shuffle=False)])

    def says(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    assert answers(tmp_path) is None
    TASKS["classification"].save(tmp_path, split, Objective(None), says, metric=ACCURACY)
    found = answers(tmp_path)
    assert found is not None
    assert torch.equal(found, truth == 3)
    places = tmp_path / "places"
    TASKS["classification"].save(places, split, Objective(None), lambda x: torch.zeros(len(x), 10, 7), metric=ACCURACY)
    assert answers(places) is None  # several answers an image


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"right": 1}', '{"right": "12"}', "[" * 100_000])
def test_damaged_answers_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(ConfigError, match=r"answers\.json is damaged"):
        answers(tmp_path)
