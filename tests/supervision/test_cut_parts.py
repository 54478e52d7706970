"""A cut answers as the whole, has no more weights than it needs, and goes through every exporter."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import ExportError
from deepsup.supervision.cut_parts import check, cut, two_samples
from tests.support.small_nets import Plain, Residual, images
from tests.support.supervised_nets import supervised


def eval_net(model: nn.Module, at: list[str], **options: Any) -> ds.Supervised:
    return supervised(model, at, **options).eval()


@pytest.mark.parametrize("stripped", [False, True])
def test_a_cut_exit_is_the_exit_with_the_weights_before_it(stripped: bool) -> None:
    net = eval_net(Residual(), ["layer1.0.bn1"])  # what follows writes into what the branch reads
    if stripped:
        ds.strip(net)
    whole, part = ds.early_exit(net, "layer1.0.bn1").eval(), ds.early_exit(net, "layer1.0.bn1", cut=True)
    assert isinstance(part, nn.Module)
    for batch in (1, 2, 5):
        x = images(batch)
        with torch.no_grad():
            assert torch.equal(part(x), whole(x))
    needed = {"model.conv1", "model.bn1", "model.layer1.0.conv1", "model.layer1.0.bn1", "heads.layer1/0/bn1.1"}
    state = part.state_dict()
    assert {key.rpartition(".")[0] for key in state} == needed
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    for parameter in part.parameters():
        parameter.data.zero_()
    assert net.model.conv1.weight.any()  # copies
    assert len([m for m in net.modules() if m._forward_hooks]) == (0 if stripped else 1)


def test_a_cut_survives_copies_and_refuses_other_sizes() -> None:
    part, x = ds.early_exit(eval_net(Plain(), ["relu1"]), "relu1", cut=True), images(3)
    for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(part)), part.train()):
        assert torch.equal(again(x), part(x))
    with pytest.raises(ValueError, match="cut it anew"):
        part(images(3, size=20))


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=5
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("build", "at"), [(Residual, "layer1"), (vit, "blocks.0")], ids=["residual", "vit"])
def test_a_cut_and_a_whole_exit_go_through_every_exporter(build: Any, at: str, tmp_path: Path) -> None:
    net, x = eval_net(build(), [at]), images(3)
    whole, part = ds.early_exit(net, at).eval(), ds.early_exit(net, at, cut=True)
    with torch.no_grad():
        expected = whole(x)
        for module in (whole, part):
            program = torch.export.export(module, (x,))
            torch.testing.assert_close(program.module()(x), expected)
            torch.testing.assert_close(torch.jit.trace(module, (x,))(x), expected)
    file = tmp_path / "exit.onnx"
    torch.onnx.export(
        part, (images(2),), file, dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False
    )
    session = onnxruntime.InferenceSession(file)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["main", "relu2", "ensemble"])
def test_a_cut_embedder_is_the_embedder_without_the_classifier(name: str) -> None:
    net = eval_net(Plain(), ["relu2"])
    whole, part, x = ds.embedder(net, name).eval(), ds.embedder(net, name, cut=True), images(3)
    with torch.no_grad():
        torch.testing.assert_close(part(x), whole(x))
    assert not {"model.fc.weight", "heads.relu2.1.weight"} & part.state_dict().keys()
    assert "model.conv2.weight" in part.state_dict()


def test_a_plain_model_is_cut_with_a_sample() -> None:
    model, x = Plain().eval(), images(2)
    part = ds.embedder(model, cut=True, sample=x)
    torch.testing.assert_close(part(x), ds.embedder(model).eval()(x))
    with pytest.raises(ExportError, match="needs sample="):
        ds.embedder(model, cut=True)


class Deciding(Plain):
    """Its forward goes one of two ways, as the numbers are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1 if x.sum() > 0 else x)


class Changing(nn.Module):
    """Says something else in each call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_what_cannot_be_followed_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"this EarlyExit cannot be followed by torch\.export"):
        ds.early_exit(eval_net(Deciding(), ["relu1"]), "relu1", cut=True)


def test_a_cut_that_answers_otherwise_is_refused() -> None:
    with pytest.raises(ExportError, match="answers otherwise than the net"):
        cut(Changing().eval(), torch.randn(2, 3))
    args, kwargs = two_samples(torch.randn(1, 4))
    with pytest.raises(ExportError, match="does not take a batch of 1 samples"):
        check(nn.Identity(), lambda x: x.view(2, 4), args, kwargs)


def test_calls_without_tensors_are_refused() -> None:
    with pytest.raises(ExportError, match="this sample has int"):
        two_samples((3,))


def test_arguments_by_name_are_taken_by_name() -> None:
    class Two(nn.Module):
        def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
            return a - 2 * b

    part = cut(Two().eval(), {"a": torch.randn(2, 3), "b": torch.randn(2, 3)})
    a, b = torch.randn(2, 5, 3)
    assert torch.equal(part(a=a, b=b), a - 2 * b)
