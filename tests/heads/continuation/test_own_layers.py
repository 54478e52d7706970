"""`head="main"`: the model's own last layers on an earlier activation, shared with the model and never changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads
from deepsup.errors import ContinuationError
from deepsup.features import Feature
from tests.support.laws import assert_same_state, state_of
from tests.support.lending_nets import Step, Tokens, vectors
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels

VECTOR = Feature((8,), "NC")


def test_it_is_what_the_model_runs_on_the_last_layer_like_the_tapped_one() -> None:
    model, x = Tokens().eval(), torch.randn(3, 8)
    head = heads.build("main", VECTOR, CLASSES, model=model, layer="blocks.0").eval()
    assert torch.equal(head(x), model.fc(model.norm(x)))
    assert {id(p) for p in head.parameters()} == {id(p) for p in (*model.norm.parameters(), *model.fc.parameters())}


def test_a_vision_transformer_reads_early_tokens_with_its_own_norm_and_classifier() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7, depth=4).eval()
    x = torch.randn(2, 3, 32, 32)
    plan = ds.plan(model, x, ["blocks.1"], head="main")
    assert plan.cost["head_params"] == 0
    net = ds.attach(model, plan).eval()
    with ds.supervising(net), torch.no_grad():
        outputs = net(x)
    tokens = model.blocks[:2](model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x)))))
    assert torch.allclose(outputs.aux["blocks.1"], model.forward_head(model.norm(tokens)), atol=1e-6)
    assert not torch.allclose(outputs.aux["blocks.1"], outputs.main)


def test_where_channels_change_it_goes_on_behind_the_last_layer_that_has_them() -> None:
    model, x = Residual().eval(), images()
    net = ds.attach(model, ds.plan(model, x, ["layer1.0"], head="main")).eval()
    with ds.supervising(net):
        found = net(x).aux["layer1.0"]
    early = model.layer1[0](model.relu(model.bn1(model.conv1(x))))
    assert torch.allclose(found, model.fc(model.avgpool(model.layer2(early)).flatten(1)), atol=1e-6)


@pytest.mark.parametrize("layer", ["blocks.2", "stem"])
def test_where_it_would_be_the_prediction_itself_it_is_refused_by_name(layer: str) -> None:
    with pytest.raises(
        ContinuationError, match=rf"no later \w+ gives out 8 channels .* top of '{layer}' is its prediction"
    ):
        ds.plan(Tokens(), vectors(), [layer], head="main")


def test_what_cannot_be_traced_or_has_no_layer_is_refused_by_name() -> None:
    class Asking(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1e9 else x

    with pytest.raises(ContinuationError, match=r"torch\.fx cannot trace the model's own forward"):
        ds.plan(Asking(), vectors(), ["blocks.0"], head="main")
    with pytest.raises(ContinuationError, match="Tap a layer, not the input"):
        ds.plan(Tokens(), vectors(), ["input"], head="main")


def test_neither_planning_nor_building_leaves_a_trace_and_no_hook_of_the_users_sees_it() -> None:
    class Functional(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.dropout(self.norm(self.blocks(self.stem(x))), 0.5, self.training))

    model, seen = Functional().train(), []
    model.norm.eval()

    def spy(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(type(output))

    for module in model.modules():
        module.register_forward_hook(spy)
    before = state_of(model)
    head = heads.build("main", VECTOR, CLASSES, model=model, layer="blocks.0")
    assert not [kind for kind in seen if not issubclass(kind, Tensor)]
    assert_same_state(before, state_of(model))
    assert [type(m) for m in head.modules() if isinstance(m, nn.Dropout)] == [nn.Dropout]


def test_it_trains_copies_stores_and_strips_as_the_models_own(tmp_path: Any) -> None:
    model = Tokens().train()
    net = ds.attach(model, ds.plan(model, vectors(), ["blocks.0", "blocks.1"], head="main", zero_heads=True))
    assert not [key for key in net.state_dict() if key.startswith("heads.")]
    assert [g["name"] for g in ds.parameter_groups(net, lr=0.1)] == ["model"]
    ds.Objective(net.plan)(net(vectors()), labels(4)).total.backward()
    assert all(p.grad is not None for p in net.parameters())
    twin = copy.deepcopy(net)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in twin.model.parameters()}
    twin.load_state_dict(net.state_dict(), strict=True)
    ds.save_weights(net.heads, tmp_path / "heads.safetensors")
    ds.load_weights(twin.heads, tmp_path / "heads.safetensors")
    assert ds.strip(net, certificate=tmp_path / "proof.json") is model
    assert ds.early_exit(net.eval(), "blocks.0")(vectors()).shape == (4, CLASSES)


def test_a_plan_with_it_is_stored_and_attached_again(tmp_path: Any) -> None:
    model = Tokens()
    ds.plan(model, vectors(), ["blocks.0"], head="main").save(tmp_path / "plan.json")
    net = ds.attach(model, ds.Plan.load(tmp_path / "plan.json"))
    assert set(net(vectors()).aux) == {"blocks.0"}
    assert isinstance(model.blocks[0], Step)


def test_a_plain_chain_of_layers_has_one_too() -> None:
    model = Plain()
    with pytest.raises(ContinuationError, match="no later Conv2d gives out 8 channels"):
        ds.plan(model, images(), ["conv1"], head="main")
