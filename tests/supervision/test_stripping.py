"""Strip gives the very model back; a certificate proves it and can be checked later."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import AttachError, CertificateError, DeepsupError
from deepsup.files import state_sha256
from deepsup.layers.taps import taps_on
from deepsup.supervision.stripping import SEED
from tests.support.odd_nets import Tied, TwoInputs
from tests.support.small_nets import CLASSES, Plain, Residual, images
from tests.support.states import assert_untouched, snapshot, with_grads


def supervised(model: nn.Module | None = None, at: Any = ("layer1", "layer2")) -> ds.Supervised:
    model = Residual() if model is None else model
    return ds.attach(model, ds.plan(model, images(), at))


def test_the_very_model_comes_back_without_a_trace() -> None:
    model = with_grads(Residual()).train()
    model.bn1.eval()
    theirs = model.layer1.register_forward_hook(lambda *_: None)
    plan = ds.plan(model, images(), ["layer1", "layer2"])
    before, text = snapshot(model), repr(model)
    net = ds.attach(model, plan)
    stripped = ds.strip(net)
    assert stripped is model
    assert type(stripped) is Residual
    assert repr(stripped) == text
    assert_untouched(before, snapshot(model))
    assert list(model.layer1._forward_hooks) == [theirs.id]
    assert list(net.heads["layer1"].state_dict()) == ["1.weight", "1.bias"]  # still there for who wants it


def test_a_copy_is_stripped_without_touching_the_original() -> None:
    net = supervised()
    twin = copy.deepcopy(net)
    ds.strip(twin)
    assert (len(taps_on(net.model)), len(taps_on(twin.model))) == (2, 0)
    assert list(net.train()(images()).aux) == ["layer1", "layer2"]


def test_a_plain_model_cannot_be_stripped() -> None:
    for model in (Plain(), ds.strip(supervised())):
        with pytest.raises(AttachError, match="is not supervised: it was never attached or is stripped already"):
            ds.strip(model)


def certified(path: Path, net: ds.Supervised | None = None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    model = ds.strip(net or supervised(), certificate=path, **options)
    return model, json.loads(path.read_text())


def test_what_a_certificate_says(tmp_path: Path) -> None:
    model, proof = certified(tmp_path / "new" / "certificate.json")
    assert taps_on(model) == []
    assert list(proof) == [
        "format",
        "model",
        "identical",
        "state_sha256",
        "state_keys",
        "hooks_left",
        "input_seed",
        "input_shape",
        "outputs_sha256",
        "outputs_start",
        "versions",
        "machine",
        "created",
    ]
    assert (proof["format"], proof["identical"], proof["hooks_left"]) == (1, True, 0)
    assert proof["model"] == f"{Residual.__module__}.Residual"
    assert (proof["state_sha256"], proof["state_keys"]) == (state_sha256(model), len(model.state_dict()))
    assert (proof["input_seed"], proof["input_shape"]) == (SEED, [2, 3, 16, 16])
    assert proof["versions"]["torch"] == torch.__version__
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        assert proof["outputs_start"] == model.eval()(x).flatten().tolist()


def test_certifying_leaves_the_model_and_the_random_state_alone(tmp_path: Path) -> None:
    model = with_grads(Residual()).train()
    model.bn1.eval()
    plan = ds.plan(model, images(), ["layer1", "layer2"])
    before = snapshot(model)
    ds.strip(ds.attach(model, plan), certificate=tmp_path / "c.json")
    assert_untouched(before, snapshot(model))


def test_a_certificate_holds_for_the_model_and_for_its_weights_loaded_elsewhere(tmp_path: Path) -> None:
    model, proof = certified(tmp_path / "c.json")
    ds.save_weights(model, tmp_path / "model.safetensors")
    assert ds.verify(tmp_path / "c.json", model) == {**proof, "outputs": "identical"}
    elsewhere = Residual().train()
    ds.load_weights(elsewhere, tmp_path / "model.safetensors")
    before = snapshot(elsewhere)
    assert ds.verify(tmp_path / "c.json", elsewhere)["outputs"] == "identical"
    assert_untouched(before, snapshot(elsewhere))


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    model, proof = certified(tmp_path / "c.json")
    with torch.no_grad():
        model.fc.bias[0] += 1e-6
    with pytest.raises(CertificateError) as caught:
        ds.verify(tmp_path / "c.json", model)
    assert str(caught.value) == (
        f"{tmp_path / 'c.json'} certifies weights with sha256 {proof['state_sha256'][:16]}..., these have "
        f"{state_sha256(model)[:16]}... Load the weights that were written with the certificate."
    )


def test_a_model_with_taps_on_it_is_refused(tmp_path: Path) -> None:
    model, _ = certified(tmp_path / "c.json")
    net = supervised(model)
    for tapped in (model, net):
        with pytest.raises(CertificateError):
            ds.verify(tmp_path / "c.json", tapped)
    with pytest.raises(CertificateError, match=r"this Residual still has 2 taps on it\. Strip it first"):
        ds.verify(tmp_path / "c.json", model)


def rewrite(path: Path, **changes: Any) -> None:
    proof = json.loads(path.read_text())
    proof.update(changes)
    path.write_text(json.dumps(proof))


@pytest.mark.parametrize(
    "changes",
    [
        {"state_sha256": "0" * 64},
        {"outputs_sha256": "0" * 64, "outputs_start": [0.0] * 10},
        {"outputs_sha256": "0" * 64, "outputs_start": [0.0]},
        {"outputs_sha256": "0" * 64, "outputs_start": []},
        {"outputs_sha256": "0" * 64, "outputs_start": None},
        {"outputs_sha256": "0" * 64, "outputs_start": "text"},
        {"input_shape": "text"},
        {"input_shape": [3, 3, 16, 16]},
        {"state_sha256": None},
        {"format": 2},
    ],
    ids=lambda c: ", ".join(f"{k}={str(v)[:9]}" for k, v in c.items()),
)
def test_a_certificate_that_was_tampered_with_does_not_hold(changes: dict[str, Any], tmp_path: Path) -> None:
    model, _ = certified(tmp_path / "c.json")
    rewrite(tmp_path / "c.json", **changes)
    with pytest.raises(CertificateError):
        ds.verify(tmp_path / "c.json", model)


def test_other_roundings_are_told_from_other_outputs(tmp_path: Path) -> None:
    model, proof = certified(tmp_path / "c.json")
    near = [v + 1e-6 for v in proof["outputs_start"]]
    rewrite(tmp_path / "c.json", outputs_sha256="0" * 64, outputs_start=near)
    assert ds.verify(tmp_path / "c.json", model)["outputs"] == "equal within 0.0001"
    rewrite(tmp_path / "c.json", outputs_start=[v + 1e-2 for v in near])
    with pytest.raises(
        CertificateError, match=r"does not give the outputs that .* certifies, though its weights match"
    ):
        ds.verify(tmp_path / "c.json", model)


def test_code_that_changed_under_the_same_weights_is_found(tmp_path: Path) -> None:
    certified(tmp_path / "c.json", supervised(model := Residual()))
    model.relu.register_forward_hook(lambda m, a, out: out * 2)
    with pytest.raises(CertificateError, match="though its weights match"):
        ds.verify(tmp_path / "c.json", model)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', '"text"', "null"])
def test_a_file_that_is_no_certificate(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(CertificateError, match=r"c\.json is not a (strip )?certificate"):
        ds.verify(tmp_path / "c.json", Plain())


def test_a_missing_or_binary_file_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"c\.json is not a certificate"):
        ds.verify(tmp_path / "c.json", Plain())
    ds.save_weights(Plain(), tmp_path / "model.safetensors")
    with pytest.raises(CertificateError, match=r"model\.safetensors is not a certificate"):
        ds.verify(tmp_path / "model.safetensors", Plain())


def test_an_input_of_the_users_own(tmp_path: Path) -> None:
    x = images(3, 20)
    model, proof = certified(tmp_path / "c.json", sample=x)
    assert (proof["input_seed"], proof["input_shape"]) == (None, None)
    assert ds.verify(tmp_path / "c.json", model, sample=x)["outputs"] == "identical"
    with pytest.raises(
        CertificateError, match="was made with an input of the user's own: pass the same one as sample="
    ):
        ds.verify(tmp_path / "c.json", model)
    with pytest.raises(CertificateError, match="though its weights match"):
        ds.verify(tmp_path / "c.json", model, sample=images(3, 20))


def test_a_model_of_several_inputs_is_certified_with_the_users(tmp_path: Path) -> None:
    model, sample = TwoInputs(), (torch.randn(2, 3), torch.randn(2, 4))
    net = ds.attach(model, ds.plan(model, sample, "a"))
    ds.strip(net, certificate=tmp_path / "c.json", sample=sample)
    assert ds.verify(tmp_path / "c.json", model, sample=sample)["outputs"] == "identical"


@pytest.mark.parametrize(
    ("model", "sample", "at"),
    [
        (Tied(), torch.randint(0, CLASSES, (2, 7)), "embed"),
        (TwoInputs(), (torch.randn(2, 3), torch.randn(2, 4)), "a"),
    ],
    ids=["token ids", "two inputs"],
)
def test_a_model_that_takes_no_random_image_asks_for_an_input(
    model: nn.Module, sample: Any, at: str, tmp_path: Path
) -> None:
    net = ds.attach(model, ds.plan(model, sample, at))
    with pytest.raises(DeepsupError, match="sample="):
        ds.strip(net, certificate=tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []
    assert ds.is_supervised(net)
    assert ds.strip(net, certificate=tmp_path / "c.json", sample=sample) is model


def test_a_model_that_never_answers_twice_the_same_is_not_certified_and_not_changed(tmp_path: Path) -> None:
    counter = itertools.count()

    class Counting(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + next(counter)

    net = supervised(Counting(), "conv1")
    with pytest.raises(CertificateError, match="does not answer as the supervised one did"):
        ds.strip(net, certificate=tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []
    assert ds.is_supervised(net)
    assert isinstance(ds.strip(net), Counting)


def test_a_certificate_that_cannot_be_written_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        ds.strip(supervised(), certificate=tmp_path / "file" / "c.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_certificate_that_cannot_be_written_leaves_the_model_supervised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    net = supervised()
    with pytest.raises(OSError, match="file"):
        ds.strip(net, certificate=tmp_path / "file" / "c.json")
    assert ds.is_supervised(net)


def test_a_certificate_may_be_asked_for_while_supervising(tmp_path: Path) -> None:
    net = supervised()
    with ds.supervising(net):
        ds.strip(net, certificate=tmp_path / "c.json")
    assert ds.verify(tmp_path / "c.json", net.model)["outputs"] == "identical"


def test_a_net_of_before_leaves_the_taps_of_the_new_one_alone(tmp_path: Path) -> None:
    model = Plain()
    old = supervised(model, ["conv1"])
    ds.strip(old)
    new = supervised(model, ["relu2"])
    for net in (old, copy.deepcopy(old)):
        for certificate in (None, tmp_path / "proof.json"):
            with pytest.raises(AttachError, match="stripped already"):
                ds.strip(net, certificate=certificate)
    assert ds.is_supervised(new)
    assert not ds.is_supervised(old)
    assert set(new.train()(images()).aux) == {"relu2"}
    assert ds.strip(copy.deepcopy(new).model) is not model
    assert ds.strip(new) is model
    assert not ds.is_supervised(model)
