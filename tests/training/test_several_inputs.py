"""Models that need several inputs, in every form that their batches have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import DatasetError
from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.loaders import inputs_of
from deepsup.training.fit import fit
from tests.support.training_runs import CPU, Interrupted, blobs, same_state, state_bytes, stop_at


class Both(nn.Module):
    """Reads images and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 + 3, 3)

    def forward(self, image: Tensor, numbers: Tensor, *, scale: float = 1.0) -> Tensor:
        seen = self.conv(image).relu().mean((2, 3))
        return self.fc(torch.cat([seen, numbers * scale], 1))


def three() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randn(8, *shape, generator=generator) for _ in range(5) for shape in ((1, 6, 6), (3,))]
    return [(a, b, torch.arange(8) % 3) for a, b in zip(draw[::2], draw[1::2], strict=True)]


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "three": lambda a, b, y: (a, b, y),
    "list": lambda a, b, y: [a, b, y],
    "nested": lambda a, b, y: ((a, b), y),
    "mapping": lambda a, b, y: {"image": a, "numbers": b, "target": y},
    "labels": lambda a, b, y: {"labels": y, "numbers": b, "image": a},
}


def made() -> ds.Supervised:
    torch.manual_seed(0)
    model = Both()
    return ds.attach(model, ds.plan(model, three()[0][:2], at=["conv"], head="pool", weight=0.5))


def trained(batches: Any, **options: Any) -> tuple[dict[str, Tensor], Any]:
    net = made()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    result = fit(net, batches, validation=batches, epochs=2, optimizer=optimizer, **({"engine": CPU} | options))
    return state_bytes(net), result


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Tensor]:
    net = made()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for a, b, y in three() * 2:
        optimizer.zero_grad()
        outputs = net(a, b)
        (F.cross_entropy(outputs.main, y) + 0.5 * F.cross_entropy(outputs.aux["conv"], y)).backward()
        optimizer.step()
    return state_bytes(net)


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[n], other[n], atol=1e-6) for n in one if n != "_extra_state")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_loop_by_hand(form: str, by_hand: dict[str, Tensor]) -> None:
    batches = [FORMS[form](*each) for each in three()]
    state, result = trained(batches)
    assert close(state, by_hand)
    net = made()
    net.load_state_dict(state)
    net.eval()
    right = [net(a, b).argmax(1) == y for a, b, y in three()]
    assert result.score == pytest.approx(torch.cat(right).float().mean().item())
    assert evaluate(net, batches).score["main"] == result.score


def test_any_other_call_is_said_by_a_function(by_hand: dict[str, Tensor], tmp_path: Path) -> None:
    batches = [({"picture": a, "more": [b, None]}, y) for a, b, y in three()]

    def call(net: Any, x: Any) -> Any:
        return net(x["picture"], x["more"][0])

    def run(name: str, **options: Any) -> dict[str, Tensor]:
        own = {"forward": call, "folder": tmp_path / name, "checkpoint_every": 2, "log": {"every": 1}}
        return trained(batches, **own, **options)[0]

    whole = run("whole")
    assert close(whole, by_hand)
    with pytest.raises(Interrupted):
        run("half", on_record=stop_at(7))
    assert same_state(run("half"), whole)
    four = [(a, b, "name", y) for a, b, y in three()]
    assert close(trained(four, forward=lambda net, x: net(x[0], x[1]))[0], by_hand)


def test_sixteen_bits_reach_every_input(by_hand: dict[str, Tensor]) -> None:
    state, _ = trained(three(), engine=CPU | {"precision": "bf16-mixed"})
    assert not close(state, by_hand)
    assert all(torch.allclose(state[n], by_hand[n], atol=0.05) for n in state if n != "_extra_state")


def test_what_could_be_meant_otherwise_is_refused() -> None:
    weighted = [(x, y, torch.ones(len(y))) for x, y in blobs()]
    with pytest.raises(DatasetError, match=r"found a tuple of length 3.*forward="):
        fit(nn.Linear(4, 3), weighted, engine=CPU)
    for batch in ({"image": three()[0][0]}, {"target": three()[0][2]}, three()[0][:1]):
        with pytest.raises(DatasetError, match="each batch must be a pair"):
            fit(made(), [batch], engine=CPU)
    assert (inputs_of(made()), inputs_of(nn.Linear(4, 3)), inputs_of(nn.Bilinear(2, 2, 1))) == (2, 1, 2)
