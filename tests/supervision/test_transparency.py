"""A supervised net looks like its model: attributes, signature, and the rules that timm's optimisers ask for."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import deepsup as ds
from deepsup.errors import PlanError
from tests.support.small_nets import Plain, images
from tests.support.supervised_nets import supervised


class Marked(Plain):
    """A model with what libraries look for: a flag, a count, a property, a method, notes of its own, arguments of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.deep_supervision, self.num_classes, self.calls, self._note = True, 5, "the model's", 1
        self.decoder = nn.Sequential(nn.Identity())
        self.decoder.flag = True

    @property
    def dtype(self) -> torch.dtype:
        return self.fc.weight.dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.checkpoints = enable

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores."""
        return super().forward(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Marked:  # as torch.fx's; a copy of the net must not be this
        memo[id(self)] = other = Marked()
        other.load_state_dict(self.state_dict())
        for path, layer in self.named_modules():
            other.get_submodule(path)._forward_hooks = copy.deepcopy(layer._forward_hooks, memo)
        return other


def net_and_model() -> tuple[ds.Supervised, Marked]:
    model = Marked()
    return supervised(model), model


@pytest.mark.parametrize(
    "again",
    [
        lambda net: net,
        copy.copy,
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: AveragedModel(net).module,
    ],
    ids=["itself", "copy", "deepcopy", "pickle", "average"],
)
def test_attributes_and_signature_are_the_models_also_in_copies(
    again: Callable[[ds.Supervised], ds.Supervised],
) -> None:
    net = again(net_and_model()[0])
    assert (net.num_classes, net.dtype, net.deep_supervision) == (5, torch.float32, True)
    assert net.decoder is net.model.decoder
    net.set_grad_checkpointing(False)
    assert net.model.checkpoints is False
    for seen in (net.forward, net):
        assert list(inspect.signature(seen).parameters) == ["x", "labels"]
    assert list(inspect.signature(type(net).forward).parameters) == ["self", "x", "labels"]  # Hugging Face's Trainer
    assert isinstance(net, ds.Supervised)
    assert set(net(images(), labels=None).aux) == {"conv1", "relu2"}
    assert {"num_classes", "decoder", "heads", "plan"} <= set(dir(net))


def test_what_neither_has_is_an_attribute_error_and_our_own_names_and_notes_stay_ours() -> None:
    net, model = net_and_model()
    with pytest.raises(AttributeError, match="'Marked' object has no attribute 'nothing'"):
        net.nothing  # noqa: B018
    assert not hasattr(net, "gradient_checkpointing_enable")
    assert net.calls == 0
    assert not hasattr(net, "_note")  # hooks of libraries, such as _orig_mod, must not be found here
    net._note = 2
    assert model._note == 1
    empty = ds.Supervised.__new__(ds.Supervised)  # as pickle makes one
    assert not hasattr(empty, "model")


def test_what_the_model_has_is_set_and_deleted_on_the_model() -> None:
    net, model = net_and_model()
    net.deep_supervision = False
    net.decoder.flag = False
    assert (model.deep_supervision, model.decoder.flag) == (False, False)
    net.fc = nn.Linear(16, 7)
    assert net(images()).main.shape == (2, 7)
    assert "fc.weight" not in net.state_dict()
    del net.num_classes
    assert not hasattr(model, "num_classes")
    net.own, net.calls = 1, 3
    assert (hasattr(model, "own"), model.calls) == (False, "the model's")


def test_one_graph_under_compile_and_no_trouble_with_a_scripted_layer() -> None:
    net, _ = net_and_model()
    net.register_forward_hook(lambda *_: None)
    found = torch.compile(net, fullgraph=True, backend="eager")
    assert (set(found(images()).aux), found.num_classes) == ({"conv1", "relu2"}, 5)
    torch.compiler.reset()
    scripted = Marked()
    with pytest.warns(Warning, match="deprecated"):
        scripted.relu1 = torch.jit.script(nn.ReLU())
    assert supervised(scripted, ["conv1"]).relu1 is scripted.relu1


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_the_plain_model_are_refused_in_one_sentence(strict: bool) -> None:
    net, model = net_and_model()
    for holder, prefix in ((net, ""), (nn.ModuleDict({"module": net}), "module.")):
        state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
        with pytest.raises(
            PlanError, match=r"weights of the plain Marked, without heads: .* net\.model\.load_state_dict"
        ):
            holder.load_state_dict(state, strict=strict)
    assert not net.load_state_dict(net.state_dict()).missing_keys
    assert not net.load_state_dict({}, strict=False).unexpected_keys  # nothing was given, and nothing is said


class Nested(nn.Module):
    """A model with a part called `model`, so that its own names look like those of a net."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def test_a_model_inside_that_is_called_model_confuses_nothing() -> None:
    net = supervised(Nested(), ["model.conv1"])
    assert not net.load_state_dict(net.state_dict()).missing_keys
    with pytest.raises(PlanError, match="the plain Nested"):
        net.load_state_dict(net.model.state_dict())
    assert (net.model.model.fc, type(net.model)) == (net.model.model.fc, Nested)


def named(optimizer: torch.optim.Optimizer, of: nn.Module) -> list[tuple[float, float, list[str]]]:
    names = {id(p): n.removeprefix("model.") for n, p in of.named_parameters()}
    return [
        (group.get("lr_scale", 1.0), group["weight_decay"], [names[id(p)] for p in group["params"]])
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_timms_optimizers_group_the_net_as_they_group_the_model(name: str, layer_decay: float | None) -> None:
    if name == "vit":
        tiny = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}
        model, at = timm.create_model("vit_tiny_patch16_224", **tiny), "blocks.0"
    else:
        model, at = timm.create_model("resnet10t", num_classes=5), "layer1"
    options = {"lr": 0.1, "weight_decay": 0.05, "layer_decay": layer_decay}
    alone = named(create_optimizer_v2(model, "sgd", **options), model)
    net = supervised(model, [at])
    found = named(create_optimizer_v2(net, "sgd", **options), net)
    trunk = [(scale, decay, [n for n in names if not n.startswith("heads.")]) for scale, decay, names in found]
    assert sorted(trunk) == sorted(alone)
    heads = {scale for scale, _, names in found if any(n.startswith("heads.") for n in names)}
    assert heads == {1.0}  # as high as the classifier
