"""The section `embedding`: checked when it is read, handed to plans only where something is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepsup.errors import ConfigError, TrustError
from deepsup.settings import configs
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.feature_losses import EmbeddingConfig


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": "tripled"}, "tripled.*Did you mean triplet|triplet"),
        ({"loss": {"main": "triplet(margin=-1)"}}, "margin"),
        ({"weight": "liner(1, 0)"}, "liner"),
        ({"weight": {"main": "x"}}, "x"),
        ({"losses": "triplet"}, "losses"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        configs.parse({"embedding": given})


def test_it_reaches_plans_where_something_is_set() -> None:
    assert EmbeddingConfig().of_plan == {}
    assert EmbeddingConfig(weight=0.5).of_plan == {}
    found = EmbeddingConfig(loss={"main": "triplet", "early": None}, weight="linear(1, 0)", layer="fc").of_plan
    assert found == {
        "embedding_loss": {"main": "triplet", "early": None},
        "embedding_weight": "linear(1, 0)",
        "embedding": "fc",
    }


def test_all_arms_have_it_those_without_branches_too_and_one_may_do_without() -> None:
    comparison = configs.parse(
        {
            "base": {"embedding": {"loss": "triplet"}},
            "methods": ["none", "dsl", "label-smoothing"],
            "arms": {
                "softmax": {"embedding": {"loss": None}},
                "main-alone": {"embedding": {"loss": {"main": "triplet"}}},
            },
        }
    )
    assert isinstance(comparison, ComparisonConfig)
    found = {cell.arm: cell.config.embedding.loss for cell in comparison.expand()}
    assert found == {
        "none": "triplet",
        "dsl": "triplet",
        "label-smoothing": "triplet",
        "softmax": None,
        "main-alone": {"main": "triplet"},
    }


def test_a_file_may_not_name_a_loss_from_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("embedding: {loss: \"imported(path='elsewhere:Loss')\"}\n")
    with pytest.raises(TrustError, match="elsewhere"):
        configs.load(file)


def test_the_layer_of_main_is_known_apart() -> None:
    assert EmbeddingConfig().of_main is None
    assert EmbeddingConfig(layer="fc").of_main == "fc"
    assert EmbeddingConfig(layer={"late": "1"}).of_main is None
    assert EmbeddingConfig(layer={"main": "fc"}).of_main == "fc"
