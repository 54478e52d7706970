"""Where embeddings are, as plans hold it and JSON stores it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import deepsup as ds
from deepsup.errors import PlanError
from deepsup.plans.embedding_layers import EmbeddingLayer, check_embeddings, main_feature
from tests.support.small_nets import Residual, images


def planned(**options: Any) -> ds.Plan:
    return ds.plan(Residual(), images(), at=["layer1", "layer2.0"], embedding_loss="triplet(margin=0.5)", **options)


def test_a_plan_with_them_comes_back_from_json_as_it_was() -> None:
    plan = planned(embedding_weight={"layer1": "linear(1, 0)"})
    data = json.loads(json.dumps(plan.to_dict()))
    back = ds.Plan.from_dict(data)
    assert back == plan
    assert data["embeddings"][1] == {"output": "layer1", "layer": "1", "neck": "", "adds": "feature"}
    assert [e["from"] for e in data["edges"]] == ["main/feature", "layer1/feature", "layer2.0/feature"]
    assert "1 * triplet(margin=0.5): main/feature, y; layer2.0/feature, y" in str(plan)


def test_a_plan_without_them_is_stored_as_before() -> None:
    data = ds.plan(Residual(), images(), at=["layer1"]).to_dict()
    assert "embeddings" not in data
    assert ds.Plan.from_dict(data).embeddings == ()


def test_json_that_was_altered_is_refused_by_its_key() -> None:
    data = planned().to_dict()
    for change, says in {
        "adds": "embeddings\\[0\\].adds is 'more'",
        "layer": "embeddings\\[0\\].layer is 'more\\\\n'",
    }.items():
        found = {**data, "embeddings": [{**data["embeddings"][0], change: "more" if change == "adds" else "more\n"}]}
        with pytest.raises(PlanError, match=says):
            ds.Plan.from_dict(found)
    with pytest.raises(PlanError, match="names the output 'main/feature'"):
        ds.Plan.from_dict({key: value for key, value in data.items() if key != "embeddings"})
    with pytest.raises(PlanError, match="two outputs are called 'main/feature'"):
        ds.Plan.from_dict({**data, "embeddings": [*data["embeddings"], data["embeddings"][0]]})


def test_an_output_must_be_there_and_the_model_have_the_layer() -> None:
    check_embeddings([EmbeddingLayer("main", "fc"), EmbeddingLayer("a", "1", adds="feature")], {"a": ("feature",)})
    twice = [EmbeddingLayer("main", "fc"), EmbeddingLayer("main", "fd")]
    for wrong in ([EmbeddingLayer("b", "1")], [EmbeddingLayer("a", "1", adds="embedding")], twice):
        with pytest.raises(PlanError, match=f"embedding of '{wrong[0].output}' is {len(wrong)} times"):
            check_embeddings(wrong, {"a": ("feature",)})
    plan = planned()
    other = replace(plan, embeddings=(replace(plan.embeddings[0], layer="fd"), *plan.embeddings[1:]))
    with pytest.raises(PlanError, match="the feature of 'main' is what enters the layer 'fd', which"):
        ds.attach(Residual(), other)


def test_what_a_tap_on_main_adds() -> None:
    assert main_feature([EmbeddingLayer("main", "fc", adds="feature")]) == ("main/feature",)
    assert main_feature([EmbeddingLayer("main", "fc"), EmbeddingLayer("a", "1", adds="feature")]) == ()
    assert EmbeddingLayer("main", "fc", "bn").first == "bn"
    assert EmbeddingLayer("main", "fc").first == "fc"
