"""Settings of branches: those that may be left out of a step, on their way into the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deepsup as ds
from deepsup.errors import BranchNameError, ConfigError, TapError
from deepsup.settings import configs, training
from deepsup.settings.section import check
from deepsup.settings.supervise import SuperviseConfig
from deepsup.training import prepare, runs
from deepsup.training.journal import read
from tests.support import tiny_runs
from tests.support.training_runs import Interrupted, stop_at

BY_NAME = {"at": {"early": "blocks.0", "late": "blocks.2"}, "head": "linear", "weight": 0.3}


def dropping(output: Path, **supervise: Any) -> training.TrainConfig:
    """A run of a net that skips its blocks by chance."""
    data = tiny_runs.settings(output, model="tests.support.odd_nets:dropping_on_images", data={"size": 16})
    checked = configs.parse({**data, "supervise": {**BY_NAME, **supervise}})
    assert isinstance(checked, training.TrainConfig)
    return checked


def test_a_net_that_drops_layers_trains_by_settings_and_goes_on_exactly(tmp_path: Path) -> None:
    whole = runs.train(dropping(tmp_path / "whole", optional=True))
    found = [set(record["parts"]) for record in read(tmp_path / "whole" / "journal.jsonl", "step")]
    assert {"main"} < set.union(*found) == {"main", "early", "late"}
    assert any(parts != {"main", "early", "late"} for parts in found)
    with pytest.raises(Interrupted):
        runs.train(dropping(tmp_path / "half", optional=True), on_record=stop_at(12))
    again = runs.train(dropping(tmp_path / "half", optional=True))
    assert (again.resumed, again.score) == (True, whole.score)
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "half"))
    assert one.read_bytes() == two.read_bytes()
    assert [b.optional for b in ds.Plan.load(tmp_path / "half" / "plan.json").branches] == [True, True]


@pytest.mark.filterwarnings("ignore::deepsup.training.preflight.TrapWarning")
def test_without_it_the_error_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(TapError, match=r"supervise\.optional=true in settings"):
        runs.train(dropping(tmp_path / "run"))


def test_one_branch_by_name_in_an_arm_and_names_that_are_none(tmp_path: Path) -> None:
    text = ["supervise.at={late: blocks.2}", "supervise.optional={late: true}"]
    config = configs.load(None, text)
    assert isinstance(config, training.TrainConfig)
    assert config.supervise is not None
    assert config.supervise.optional == {"late": True}
    planned = prepare.prepare(dropping(tmp_path, optional={"late": True})).plan
    assert [b.optional for b in planned.branches] == [False, True]
    with pytest.raises(BranchNameError, match="optional= names branch 'middle'"):
        prepare.prepare(dropping(tmp_path, optional={"middle": True}))
    with pytest.raises(ConfigError, match="optional"):
        check(SuperviseConfig, {"optional": "sometimes"}, where="test")
