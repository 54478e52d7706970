"""A model is left as it was, whatever was run on it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from deepsup.restoring import untouched


class SelfHooking(nn.Module):
    """Puts a hook on its layers in its first forward and remembers that, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.hooked = False
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            for layer in (self.first, self.second):
                layer.register_forward_hook(lambda m, a, out: self.seen.append(out))
            self.hooked = True
        self.seen.clear()
        x = self.second(self.first(x))
        return torch.stack(self.seen).sum(0) + x


def test_hooks_that_a_model_puts_on_itself_are_taken_back_with_its_memory_of_them() -> None:
    model, x = SelfHooking(), torch.randn(2, 3)
    with untouched(model):
        once = model(x)
    assert not model.hooked
    assert not model.first._forward_hooks
    assert torch.equal(model(x), once)
    assert len(model.seen) == 2


def test_hooks_that_were_there_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("kept"))
    with untouched(model):
        model[0].register_forward_pre_hook(lambda *_: calls.append("gone"))
        model[0]._forward_hooks.clear()
    model(torch.randn(1, 3))
    assert calls == ["kept"]


def test_ordered_and_default_dicts_get_their_content_back() -> None:
    model: Any = nn.Identity()
    model.ordered, model.counts = OrderedDict(a=1), defaultdict(int)
    with untouched(model):
        model.ordered["b"] = 2
        model.counts["x"] += 1
    assert model.ordered == {"a": 1}
    assert model.counts == {}
    assert model.counts["new"] == 0
