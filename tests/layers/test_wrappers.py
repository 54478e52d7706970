"""Wrappers are seen through, however many stand around a model, and a model's own layers are not taken for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from deepsup.layers.wrappers import bare, chain, clean, is_compiled, is_sharded
from tests.support.small_nets import Plain


class Fabricated(nn.Module):
    """As Lightning Fabric wraps: the module as it was, and what runs forward."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self._forward_module = self._original_module = inside


class FSDPLike(nn.Module): ...


FSDPLike.__name__ = "FSDPPlain"


def test_the_model_inside_all_wrappers_is_found() -> None:
    model = Plain()
    around = torch.compile(Fabricated(nn.DataParallel(model)), backend="eager")
    assert [type(m).__name__ for m in chain(around)] == ["OptimizedModule", "Fabricated", "DataParallel", "Plain"]
    assert bare(around) is model
    assert bare(model) is model


def test_a_layer_called_module_is_a_layer_unless_anything_goes() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    own = Own()
    assert bare(own) is own
    averaged = AveragedModel(Plain())
    assert bare(averaged) is averaged
    assert list(chain(averaged, any_module=True))[-1] is averaged.module


def test_compiled_in_either_way() -> None:
    model = Plain()
    assert not is_compiled(model)
    assert is_compiled(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    assert is_compiled(model)


@pytest.mark.parametrize("name", ["layer1.0", "layer1._orig_mod.0", "_orig_mod.layer1.0", "layer1.0._orig_mod"])
def test_the_name_of_a_layer_is_that_of_the_plain_model(name: str) -> None:
    assert clean(name) == "layer1.0"


def test_a_shard_anywhere_shows() -> None:
    assert not is_sharded(Plain())
    assert is_sharded(nn.Sequential(Plain(), FSDPLike()))
