"""A model is left as it was, whatever was run on it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup.layers.snapshot import Interrupts, untouched
from deepsup.probes.probe import _in_float32
from tests.support.odd_nets import Scripted
from tests.support.small_nets import Residual
from tests.support.states import assert_untouched, snapshot, with_grads


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def state(model: nn.Module, own: torch.Generator) -> list[Any]:
    parameters = [(p.clone(), p.grad is not None and p.grad.clone(), p.requires_grad) for p in model.parameters()]
    return [parameters, [b.clone() for b in model.buffers()], model.training, torch.get_rng_state(), own.get_state()]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


def damage(model: nn.Module, own: torch.Generator) -> None:
    torch.rand(3)
    torch.rand(3, generator=own)
    model.eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    for p in model.parameters():
        p.grad = None
        p.requires_grad = False


def interrupted(at: int, enter: Callable[[], Any], body: Callable[[], None]) -> int:
    """Ctrl-C at line number `at` of all that runs in snapshot.py and probe.py; returns how many lines ran."""
    seen = 0

    def look(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(("snapshot.py", "probes/probe.py")):
            return None
        if event == "line":
            seen += 1
            if seen == at:
                signal.raise_signal(signal.SIGINT)
        return look

    before = sys.gettrace()
    manager = enter()
    try:
        sys.settrace(look)
        with manager:
            body()
    finally:
        sys.settrace(before)
    return seen


@pytest.mark.parametrize("half", [False, True], ids=["untouched", "lent float32"])
def test_ctrl_c_at_any_line_of_set_up_and_restoration_leaves_everything_as_it_was(half: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16 if half else torch.float32)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    own = torch.Generator().manual_seed(1)
    before, handler = state(model, own), signal.getsignal(signal.SIGINT)

    @contextmanager
    def everything() -> Iterator[None]:
        with untouched(model, parameters=True, generators=[own]), _in_float32(model):
            yield

    lines = interrupted(0, everything, lambda: damage(model, own))
    assert lines > 60
    for at in range(1, lines + 1):
        with pytest.raises(KeyboardInterrupt):
            interrupted(at, everything, lambda: damage(model, own))
        assert same(state(model, own), before), f"line {at} of {lines}"
        assert signal.getsignal(signal.SIGINT) == handler


def test_ctrl_c_inside_is_raised_at_once() -> None:
    reached: list[str] = []

    def stop() -> None:
        reached.append("before")
        signal.raise_signal(signal.SIGINT)
        reached.append("after")

    with pytest.raises(KeyboardInterrupt), untouched(nn.Identity()):
        stop()
    assert reached == ["before"]


def test_a_handler_of_the_users_own_hears_of_it_afterwards_and_is_put_back() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        mine, interrupts = signal.getsignal(signal.SIGINT), Interrupts()
        signal.raise_signal(signal.SIGINT)
        assert heard == []
        interrupts.close()
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_signals_are_left_alone() -> None:
    handlers: list[Any] = []

    def work() -> None:
        with untouched(nn.Identity()):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_untouched_can_restore_parameters_too() -> None:
    model = with_grads(Residual())
    before = snapshot(model)
    with contextlib.suppress(ZeroDivisionError), untouched(model, parameters=True):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.rand_like(p))
                p.grad = None
                p.requires_grad_(False)
        raise ZeroDivisionError
    assert_untouched(before, snapshot(model))


def test_scripted_parts_get_flags_and_buffers_back() -> None:
    model = Scripted().train()
    model.inner.bn.eval()
    values = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    with untouched(model):
        model.train()
        model(torch.randn(2, 3, 8, 8))
        assert not torch.equal(model.inner.bn.running_mean, values["inner.bn.running_mean"])
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
