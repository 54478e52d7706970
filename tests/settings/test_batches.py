"""What methods need of batches is switched on with them, and what is set stays."""

from __future__ import annotations

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import batches, configs, training


def run(*words: str) -> training.TrainConfig:
    config = configs.load(None, words)
    assert isinstance(config, training.TrainConfig)
    return config


def test_a_method_brings_the_batches_that_it_needs() -> None:
    data = run("supervise.method=cds").data
    assert (data.views, data.augment, data.overlap) == (2, "standard", False)
    data = run("supervise.method=dlb(alpha=2)").data
    assert (data.views, data.augment, data.overlap) == (1, "none", True)
    data = run("supervise.method=dlb", "data.augment=standard").data  # as released: an augmentation of their own
    assert (data.views, data.augment, data.overlap) == (2, "standard", True)
    for method in ("aux", "dhm"):
        assert run(f"supervise.method={method}").data == run().data


@pytest.mark.parametrize(
    "words",
    [
        ["supervise.method=cds", "data.views=1"],
        ["supervise.method=cds", "data.views=2", "data.augment=cutout"],
        ["supervise.method=dlb", "data.overlap=false"],
        ["supervise.method=dlb", "data.augment=standard", "data.views=1"],
    ],
)
def test_what_is_set_stays(words: list[str]) -> None:
    data = run(*words).data
    for word in words[1:]:
        key, value = word.removeprefix("data.").split("=")
        assert str(getattr(data, key)).lower() == value


def test_an_augmentation_that_does_nothing_is_refused_beside_two_crops() -> None:
    with pytest.raises(ConfigError, match="views: 2 with augment: none"):
        run("supervise.method=cds", "data.augment=none")


def test_settings_are_read_back_as_they_were(tmp_path: object) -> None:
    config = run("supervise.method=cds", "data.augment=standard")
    assert configs.parse(config.model_dump(mode="json")) == config


def test_in_a_comparison_each_arm_has_its_own_and_the_notes_say_so() -> None:
    from deepsup.comparisons.results import notes

    config = configs.parse({"methods": ["none", "cds", "dlb"]})
    found = {cell.arm: cell.config.data for cell in config.expand()}  # type: ignore[union-attr]
    assert [(d.views, d.overlap) for d in found.values()] == [(1, False), (2, False), (1, True)]
    said = [note for note in notes(config) if note.startswith("Arm ")]
    assert said == [
        "Arm cds: method 'cds' compares two crops of each image: data.views is 2, data.augment standard.",
        "Arm dlb: method 'dlb' learns from the batch before: data.overlap is on, and images come back once, as they were "
        "(data.views is 1).",
    ]
    assert notes(run("supervise.method=cds")) == [batches.said("cds", run("supervise.method=cds").data)]
    assert not notes(run())


def test_labels_a_pixel_have_no_crops_to_switch_on() -> None:
    config = run("supervise.method=cds", "data.name=pairs", "data.root=nowhere")
    assert (config.data.views, batches.said("cds", config.data)) == (1, "")
