"""Tests of data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.evaluation import devices
from deepsup.settings.section import check
from deepsup.settings.training import DataConfig, EngineConfig, TrainConfig
from deepsup.training.prepare import load_data, training_loader

IDENTITIES = {
    "name": "drawn-figures(identities=20, cameras=2, images=2)",
    "size": [32, 16],
    "batch_size": 12,
    "per_identity": 3,
}


class TestIdentities:
    def test_batches_of_identities(self) -> None:
        data = check(DataConfig, IDENTITIES | {"spread": True, "augment": "erasing(padding=4)"}, where="test")
        assert data.task == "re-identification"
        config = TrainConfig(data=data)
        feed = training_loader(config, load_data(config))
        labels = [y.tolist() for _, y in feed.epoch(0)]
        assert len(labels) == feed.length
        assert all(sorted(batch.count(who) for who in set(batch)) == [3] * 4 for batch in labels)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"batch_size": 10},
                "per_identity: 10 images a batch.*not whole identities of 3.*multiple of it, such as 48",
            ),
            (
                {"spread": True, "per_identity": 0},
                "spread chooses among the images of an identity; set data.per_identity",
            ),
            ({"overlap": True}, "overlap: not for drawn-figures"),
            ({"crop": 8}, "crop: not for drawn-figures.*which has an identity an image"),
            ({"name": "digits", "size": 16}, "per_identity: not for digits, which has one label an image"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            check(DataConfig, IDENTITIES | change, where="test")


class TestSettings:
    def test_data(self) -> None:
        settings = {"augment": "standard", "views": 2, "overlap": True, "classes": 3}
        data = check(DataConfig, settings, where="test")
        assert (data.views, data.overlap, data.classes) == (2, True, 3)
        config = TrainConfig(data=data.model_copy(update={"augment": "standard(mirror=False)", "limit": 40}))
        loaded = load_data(config)
        assert (loaded.train.views, loaded.classes, len(loaded.train)) == (2, 3, 40)
        loader = training_loader(config, loaded)
        assert [len(y) for _, y in loader.epoch(0)] == [32, 32 + 8]  # the second time in the second view
        assert loader.batch_sizes == {32, 40}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"views": 2}, "views: 2 with augment: none would show every image twice"),
            ({"views": 3, "augment": "standard"}, "views cannot be 3"),
            ({"classes": 1}, "classes cannot be 1"),
        ],
    )
    def test_data_that_makes_no_sense(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            check(DataConfig, settings, where="test")

    @pytest.mark.parametrize("mode", [False, True, "reduce-overhead", "max-autotune"])
    def test_compile_takes_a_mode(self, mode: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = check(EngineConfig, {"compile": mode}, where="test")
        assert settings.compile == mode
        asked: list[Any] = []
        monkeypatch.setattr(torch, "compile", lambda net, **options: asked.append(options) or net)
        if mode:
            devices.compiled(nn.Identity(), settings.compile)
            assert asked == [{"mode": None if mode is True else mode}]

    def test_no_other_mode(self) -> None:
        with pytest.raises(ConfigError, match="compile cannot be 'fast'"):
            check(EngineConfig, {"compile": "fast"}, where="test")

    def test_tf32_ends_with_the_runs_that_ask_for_it(self) -> None:
        assert torch.get_float32_matmul_precision() == "highest"
        seen = []
        for tf32 in (False, True, True, False):
            devices.start(EngineConfig(accelerator="cpu", tf32=tf32))
            seen.append(torch.get_float32_matmul_precision())
        assert seen == ["highest", "high", "high", "highest"]

    def test_tf32_leaves_what_the_user_has_set(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            for tf32, expected in ((False, "medium"), (True, "high"), (False, "medium")):
                devices.start(EngineConfig(accelerator="cpu", tf32=tf32))
                assert torch.get_float32_matmul_precision() == expected
        finally:
            torch.set_float32_matmul_precision("highest")
