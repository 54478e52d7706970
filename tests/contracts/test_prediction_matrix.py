"""Every layout of output x kind of target x loss x place in the program: equal to loops, or an error of ours.

The loops know nothing of deepsup: an output is listed place by place as scores of C channels, by an axis that the case
says; a target likewise; the loss is computed in Python floats. What a loss cannot read must be a `DeepsupError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import DeepsupError
from deepsup.evaluation.evaluate import evaluate

N = 2
LAYOUTS = {
    "vector": (),
    "sequence": (5,),
    "tokens": (5,),
    "map": (2, 4),
    "map-last": (2, 4),
    "volume": (2, 1, 4),
    "volume-last": (2, 1, 4),
}
CHANNELS = (1, 3)
IGNORED = 1


class Scores(nn.Module):
    """A body and a classifier that gives C channels at every place, on axis 1 or on the last."""

    def __init__(self, layout: str, channels: int) -> None:
        super().__init__()
        self.places = len(LAYOUTS[layout])
        self.last = layout in ("tokens", "map-last", "volume-last")
        conv = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.places]
        size = () if conv is nn.Linear else (1,)
        self.body, self.act = conv(4, 6, *size), nn.Tanh()
        linear = self.last and layout != "map-last"  # one of them ends in a convolution that is turned
        self.fc = nn.Linear(6, channels) if linear or not size else conv(6, channels, 1)
        self.turns = "before" if linear else "after" if self.last else ""

    def forward(self, x: Tensor) -> Tensor:  # (N, 4, *places)
        x = self.act(self.body(x))
        if self.turns == "before":
            return self.fc(x.movedim(1, -1))
        return self.fc(x).movedim(1, -1) if self.turns == "after" else self.fc(x)


class Case(NamedTuple):
    layout: str
    channels: int
    target: str
    loss: str

    @property
    def last(self) -> bool:
        return self.layout in ("tokens", "map-last", "volume-last")

    @property
    def places(self) -> tuple[int, ...]:
        return LAYOUTS[self.layout]


def rows(x: Tensor, case: Case) -> list[list[float]]:
    """A tensor with channels as a list of channels for every sample and place."""
    first = x.movedim(-1, 1) if case.last else x
    return first.movedim(1, -1).reshape(-1, first.shape[1]).tolist()


TARGETS = (
    "indices",
    "bytes",
    "ignored",
    "indices-1",
    "shares",
    "hot",
    "hot-bool",
    "hot-int",
    "values",
    "holes",
    "flat",
    "wrong",
)


def target_of(case: Case) -> Tensor | None:
    """The target of a case, as data in the model's own layout; None where it makes no sense."""
    draw = torch.Generator().manual_seed(hash_of(case))
    labels = torch.randint(0, max(2, case.channels), (N, *case.places), generator=draw)
    wide = (N, *case.places, case.channels) if case.last else (N, case.channels, *case.places)
    values = torch.randn(wide, generator=draw, dtype=torch.float64) * 3
    hot = (torch.rand(wide, generator=draw) < 0.5).double()
    found = {
        "indices": lambda: labels,
        "bytes": lambda: labels.byte(),
        "ignored": lambda: torch.where(torch.arange(labels.numel()).view(labels.shape) % 3 == 0, -100, labels),
        "indices-1": lambda: labels.unsqueeze(-1 if case.last else 1),
        "shares": lambda: values.softmax(-1 if case.last else 1) if case.channels > 1 else None,
        "hot": lambda: hot,
        "hot-bool": lambda: hot.bool(),
        "hot-int": lambda: hot.long() if case.channels > 1 else None,
        "values": lambda: values,
        "holes": lambda: torch.where(torch.arange(values.numel()).view(wide) % 4 == 0, math.nan, values),
        "flat": lambda: values.select(-1 if case.last else 1, 0) if case.channels == 1 else None,
        "wrong": lambda: torch.zeros(N + 1, *case.places, dtype=torch.long),
    }[case.target]()
    return found


def hash_of(case: Case) -> int:
    return sum(map(ord, f"{case.layout}{case.channels}{case.target}"))


# --- the loops ---------------------------------------------------------------------------------------------------------


def log_sigmoid(s: float) -> float:
    return -math.log1p(math.exp(-s)) if s > -30 else s


def log_softmax(s: list[float]) -> list[float]:
    top = max(s)
    norm = top + math.log(sum(math.exp(v - top) for v in s))
    return [v - norm for v in s]


LABELS = ("indices", "bytes", "ignored", "indices-1")
HOT = ("hot", "hot-bool", "hot-int")


def truths(case: Case, target: Tensor) -> list[Any]:
    """Of every sample and place its class (None: does not count), or its list of numbers."""
    if case.target in LABELS:
        return [None if v < 0 else int(v) for v in target.flatten().tolist()]
    if case.target == "flat":
        return [[float(v)] for v in target.flatten().tolist()]
    return [[float(v) for v in row] for row in rows(target, case)]


def expected(case: Case, scores: list[list[float]], target: Tensor) -> float | None:
    """The loss by loops; None where the loss cannot read such a target."""
    name = case.loss.partition("(")[0]
    if case.target == "wrong":
        return None
    truth = truths(case, target)
    if name in ("cross_entropy", "squared_hinge", "torch-cross-entropy"):
        return of_classes(case, name, scores, truth)
    if name in ("binary", "torch-binary"):
        return of_labels(case, scores, truth)
    if name in ("mse", "l1", "torch-mse"):
        return of_values(case, name, scores, truth)
    return of_overlap(case, name, scores, truth)


def of_classes(case: Case, name: str, scores: list[list[float]], truth: list[Any]) -> float | None:
    if case.channels == 1 or (case.target == "shares" and name == "squared_hinge"):
        return None
    if case.target == "shares":
        return sum(
            -sum(t * v for t, v in zip(y, log_softmax(s), strict=True)) for s, y in zip(scores, truth, strict=True)
        ) / len(scores)
    if case.target not in LABELS:
        return None
    ignored = IGNORED if "ignore_index" in case.loss else None
    if ignored is not None and case.target == "ignored":
        return None  # -100 is then a label without a class
    kept = [(s, y) for s, y in zip(scores, truth, strict=True) if y is not None and y != ignored]
    if name == "squared_hinge":
        each = [sum(max(0.0, 1 - s[y] + v) ** 2 for k, v in enumerate(s) if k != y) for s, y in kept]
    else:
        each = [-log_softmax(s)[y] for s, y in kept]
    return sum(each) / len(each)


def of_labels(case: Case, scores: list[list[float]], truth: list[Any]) -> float | None:
    if case.target in ("values", "flat"):
        return None
    terms = []
    for s, y in zip(scores, truth, strict=True):
        if y is None:
            continue
        wanted = (
            y if isinstance(y, list) else [float(y)] if case.channels == 1 else [float(k == y) for k in range(len(s))]
        )
        for v, t in zip(s, wanted, strict=True):
            if not math.isnan(t):
                terms.append(-t * log_sigmoid(v) - (1 - t) * log_sigmoid(-v))
    if case.target == "holes":
        return None  # values outside 0..1
    return sum(terms) / len(terms)


def of_values(case: Case, name: str, scores: list[list[float]], truth: list[Any]) -> float | None:
    if case.target in LABELS:
        if case.channels > 1:
            return None
        if case.target == "ignored":
            truth = [-100 if y is None else y for y in truth]  # a value like any other
        truth = [[float(y)] for y in truth]
    each = abs if name == "l1" else (lambda d: d * d)
    terms = [
        each(v - t) for s, y in zip(scores, truth, strict=True) for v, t in zip(s, y, strict=True) if not math.isnan(t)
    ]
    return sum(terms) / len(terms)


def of_overlap(case: Case, name: str, scores: list[list[float]], truth: list[Any]) -> float | None:
    if case.target in ("values", "holes", "flat"):
        return None
    regions = case.target in (*HOT, "shares")
    one = case.channels == 1
    inter, said, there = ([0.0] * case.channels for _ in range(3))
    for s, y in zip(scores, truth, strict=True):
        if y is None:
            continue
        p = [math.exp(log_sigmoid(v)) for v in s] if regions or one else [math.exp(v) for v in log_softmax(s)]
        wanted = y if isinstance(y, list) else [float(y)] if one else [float(k == y) for k in range(len(s))]
        for k in range(case.channels):
            inter[k] += p[k] * wanted[k]
            said[k] += p[k]
            there[k] += wanted[k]
    found = [1 - (2 * i + 1e-5) / (p + t + 1e-5) for i, p, t in zip(inter, said, there, strict=True) if t > 0]
    value = sum(found) / max(1, len(found))
    if name == "dice":
        return value
    rest = of_labels(case, scores, truth) if regions or one else of_classes(case, "cross_entropy", scores, truth)
    return None if rest is None else value + rest


# --- the cases ---------------------------------------------------------------------------------------------------------

LOSSES: dict[str, Any] = {
    **{
        name: name
        for name in (
            *("cross_entropy", f"cross_entropy(ignore_index={IGNORED})", "squared_hinge", "binary"),
            *("dice", "dice_cross_entropy", "mse", "l1"),
        )
    },
    "torch-cross-entropy": F.cross_entropy,
    "torch-binary": F.binary_cross_entropy_with_logits,
    "torch-mse": F.mse_loss,
}
CASES = [Case(*parts) for parts in itertools.product(LAYOUTS, CHANNELS, TARGETS, LOSSES)]


def inputs(case: Case) -> Tensor:
    return torch.randn(N, 4, *case.places, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net_of(case: Case) -> nn.Module:
    torch.manual_seed(3)
    return Scores(case.layout, case.channels).double()


def cases(layout: str) -> Iterator[tuple[Case, Tensor]]:
    for case in CASES:
        target = target_of(case) if case.layout == layout else None
        if target is not None:
            yield case, target


def step(case: Case, net: nn.Module, x: Tensor, target: Tensor) -> Any:
    """Outputs and terms of a supervised step, or how it was refused: by us, or by a loss of PyTorch's in its own words."""
    theirs = (RuntimeError, ValueError, IndexError) if case.loss.startswith("torch") else ()
    head = (lambda f, c: nn.Linear(6, c)) if case.layout == "vector" else "conv1x1"
    try:
        plan = ds.plan(net, x, at=["act"], head=head, loss=LOSSES[case.loss])
        outputs = ds.attach(net, plan)(x)
        return outputs, ds.Objective(plan)(outputs, target)
    except (DeepsupError, *theirs) as error:
        return error


@pytest.mark.parametrize("layout", LAYOUTS)
def test_main_and_branch_have_the_loss_of_the_loops_or_are_refused(layout: str) -> None:
    counted = {"equal": 0, "refused": 0}
    for case, target in cases(layout):
        theirs = case.loss.startswith("torch")
        if theirs and case.target not in ("indices", "shares", "hot", "values"):
            continue
        net = net_of(case)
        x, wanted = inputs(case), expected(case, rows(net(inputs(case)).detach(), case), target)
        if theirs and case.loss != "torch-cross-entropy" and case.target == "indices":
            wanted = None  # a target of another shape, which PyTorch would stretch
        found = step(case, net, x, target)
        if isinstance(found, Exception):
            assert wanted is None, f"{case}: {found}"
            counted["refused"] += 1
            continue
        outputs, terms = found
        assert wanted is not None, f"{case} was computed: {float(terms.parts['main'].detach())}"
        main = float(terms.parts["main"].detach())
        assert main == pytest.approx(wanted, rel=1e-6, abs=1e-9), case
        side = rows(outputs.aux["act"].detach(), case._replace(layout="map"))  # heads of ours: classes on axis 1
        assert float(terms.parts["act"].detach()) == pytest.approx(expected(case, side, target), rel=1e-6, abs=1e-9), (
            case
        )
        terms.total.backward()
        counted["equal"] += 1
    assert min(counted.values()) >= 20, counted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ensembles_mimicry_exits_and_scores_read_the_same_axis_and_kind(layout: str) -> None:
    done = 0
    for case, target in cases(layout):
        if case.loss not in ("cross_entropy", "binary", "mse") or case.target not in ("indices", "hot", "values"):
            continue
        net, x = net_of(case), inputs(case)
        if expected(case, rows(net(x).detach(), case), target) is None:
            continue
        head = (lambda f, c: nn.Linear(6, c)) if layout == "vector" else "conv1x1"
        plan = ds.plan(net, x, at=["act"], head=head, loss=case.loss)
        net = ds.attach(net, plan).eval()
        with torch.no_grad(), ds.supervising(net):
            outputs = net(x)
        main, side = rows(outputs.main, case), rows(outputs.aux["act"], case._replace(layout="map"))
        mean = rows(ds.ensemble(net).eval()(x).detach(), case)
        said = [[said_of(case, s) for s in found] for found in (main, side)]
        for got, one, other in zip(mean, *said, strict=True):
            assert got == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)], abs=1e-6), case
        found = evaluate(net, [(x, target)], objective=ds.Objective(plan))
        assert found.loss["main"] == pytest.approx(expected(case, main, target), rel=1e-5), case
        if (wanted := score(case, main, truths(case, target), found.metric)) is not None:
            assert found.score["main"] == pytest.approx(wanted, abs=1e-6), (case, found.metric)
        if case.loss != "mse":
            kl = float(
                ds.losses.kl(
                    *(
                        ds.Objective(plan).first({n: t})[n]
                        for n, t in (("main", outputs.main), ("act", outputs.aux["act"]))
                    ),
                    kind=ds.Objective(plan).kind("main"),
                )
            )
            assert kl == pytest.approx(divergence(case, main, side), rel=1e-5, abs=1e-9), case
        done += 1
    assert done >= 4


def said_of(case: Case, s: list[float]) -> list[float]:
    if case.loss == "mse":
        return s
    if case.loss == "binary" or case.channels == 1:
        return [math.exp(log_sigmoid(v)) for v in s]
    return [math.exp(v) for v in log_softmax(s)]


def divergence(case: Case, student: list[list[float]], teacher: list[list[float]]) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = said_of(case, t), said_of(case, s)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        if case.loss == "binary" or case.channels == 1:
            total += sum((1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True))
    return total / len(student)


def score(case: Case, scores: list[list[float]], truth: list[Any], metric: str) -> float | None:
    if metric in ("accuracy", "token accuracy", "pixel accuracy"):
        said = [int(s[0] >= 0) if case.channels == 1 else s.index(max(s)) for s in scores]
        return sum(a == b for a, b in zip(said, truth, strict=True)) / len(truth)
    return None
