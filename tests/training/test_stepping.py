"""Steps against loops written by hand, and after a kill against themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.evaluation.evaluate import evaluate
from deepsup.settings import configs
from deepsup.training import checkpoints
from deepsup.training.fit import fit
from deepsup.training.journal import read
from deepsup.training.runs import strip_run, train, untouched_model
from deepsup.training.verification import verify_run
from tests.support.tiny_runs import config
from tests.support.training_runs import CPU, Interrupted, blobs, same_state, state_bytes, stop_at

Batches = list[tuple[Tensor, Tensor]]


def plain(*, norm: bool = False, double: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 3))
    return net.double() if double else net


def with_branch() -> ds.Supervised:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return ds.attach(
        model.double(), ds.plan(model, torch.zeros(2, 1, 8, 8).double(), at=["1"], head="pool", weight=0.3)
    )


def in_pieces(sizes: list[int], *shape: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64)
    return list(zip(x.split(sizes), (torch.arange(sum(sizes)) % 3).split(sizes), strict=True))


def by_hand(
    net: nn.Module, batches: Batches, *, clip: Callable[[Any], object] = lambda _: None, ema: float | None = None
) -> dict[str, Tensor]:
    """Three epochs of SGD; gives the mean of all states over the steps, or the last state."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    mean: dict[str, Tensor] = {}
    for x, y in batches * 3:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        clip(list(net.parameters()))
        optimizer.step()
        for name, now in net.state_dict().items():
            whole = ema is None or name not in mean or not now.is_floating_point()
            mean[name] = now.clone() if whole else ema * mean[name] + (1 - ema) * now
    return mean


def fitted(net: nn.Module, batches: Any, **options: Any) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    fit(net, batches, optimizer=optimizer, **({"epochs": 3, "engine": CPU} | options))
    return {name: value for name, value in state_bytes(net).items() if name != "_extra_state"}


def close(one: dict[str, Tensor], other: dict[str, Tensor], **limits: float) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], **limits) for k in one)


@pytest.mark.parametrize(
    ("sizes", "step", "large"),
    [([8] * 6, 3, [24, 24]), ([8] * 7, 3, [24, 24, 8]), ([8] * 4 + [3], 2, [16, 16, 3]), ([8, 5, 7, 4, 2], 3, [20, 6]),
     ([8, 8], 5, [16])],
)  # fmt: skip
@pytest.mark.parametrize("told", [True, False], ids=["length", "no length"])
def test_several_batches_make_the_step_of_one_large_one(
    sizes: list[int], step: int, large: list[int], told: bool
) -> None:
    small, whole = in_pieces(sizes, 1, 8, 8), in_pieces(large, 1, 8, 8)
    options: dict[str, Any] = {"schedule": "cosine(1, 0)"} if told else {}
    one = fitted(with_branch(), small if told else lambda _: iter(small), step={"accumulate": step}, **options)
    other = fitted(with_branch(), whole if told else lambda _: iter(whole), **options)
    assert close(one, other, rtol=1e-11, atol=1e-13)
    result = fit(with_branch(), small, epochs=2, engine=CPU, step={"accumulate": step})
    assert result.step == 2 * len(large)


def test_gradients_are_clipped_by_norm_and_by_value(tmp_path: Path) -> None:
    norm = by_hand(plain(), blobs(), clip=lambda p: nn.utils.clip_grad_norm_(p, 0.05))
    assert same_state(fitted(plain(), blobs(), step={"clip_norm": 0.05}, folder=tmp_path, log={"every": 1}), norm)
    told = [r["gradient_norm"] for r in read(tmp_path / "journal.jsonl", "step")]
    assert len(told) == 12
    assert all(value > 0.05 for value in told)
    value = by_hand(plain(), blobs(), clip=lambda p: nn.utils.clip_grad_value_(p, 0.01))
    assert same_state(fitted(plain(), blobs(), step={"clip_value": 0.01}), value)
    assert not close(norm, value)
    assert same_state(fitted(plain(), blobs(), step={"clip_norm": 1e9}), by_hand(plain(), blobs()))


def test_the_mean_of_weights_and_buffers_is_scored_and_left_in_the_net() -> None:
    net, scores = plain(norm=True), []
    state = fitted(net, blobs(), step={"ema": 0.8}, validation=blobs(), on_record=lambda r: scores.append(r))
    expected = by_hand(plain(norm=True), blobs(), ema=0.8)
    assert close(state, expected, rtol=1e-5, atol=1e-7)
    assert not close(state, by_hand(plain(norm=True), blobs()), rtol=1e-2)
    assert state["1.num_batches_tracked"] == 12
    (last,) = [r for r in scores if r["kind"] == "epoch"][-1:]
    copied = plain(norm=True)
    copied.load_state_dict(expected)
    assert last["validation"]["loss"]["main"] == pytest.approx(evaluate(copied, blobs()).loss["main"], rel=1e-5)


def test_a_run_saves_the_mean_and_its_checkpoint_goes_on_from_both(tmp_path: Path) -> None:
    train(config(tmp_path, step={"ema": 0.9}, checkpoint={"best": True}))
    kept = checkpoints.load(tmp_path / "checkpoint.ckpt")
    assert kept.averaged is not None
    assert not same_state(kept.averaged, kept.net)
    verify_run(tmp_path, trust=True)  # the weights are those of the checkpoint
    (tmp_path / "model.safetensors").unlink()
    strip_run(tmp_path, trust=True)
    model = untouched_model(tmp_path, trust=True)
    ds.load_weights(model, tmp_path / "model.safetensors")
    mean = {n.removeprefix("model."): t for n, t in kept.averaged.items() if n.startswith("model.")}
    assert same_state(state_bytes(model), mean)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_sixteen_bits_are_those_of_autocast_and_scaler(precision: str, tmp_path: Path) -> None:
    """The first scale, 65,536, is too large for a loss of 1000: the first steps are left out, by both."""
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    loss = lambda output, y: F.cross_entropy(output.float(), y) * 1000  # noqa: E731
    net = plain()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=half is torch.float16)
    for x, y in blobs() * 3:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=half):
            output = net(x.to(half))
        scaler.scale(loss(output, y)).backward()
        scaler.step(optimizer)
        scaler.update()
    ours = plain()
    fit(
        ours, blobs(), objective=ds.Objective(None, loss=loss), epochs=3, folder=tmp_path,
        optimizer=torch.optim.SGD(ours.parameters(), lr=1e-4, momentum=0.9), engine=CPU | {"precision": precision},
    )  # fmt: skip
    assert same_state(state_bytes(ours), state_bytes(net))
    kept = checkpoints.load(tmp_path / "checkpoint.ckpt").scaler
    if half is torch.float16:
        assert kept == scaler.state_dict()
        assert scaler.get_scale() < 65536
    else:
        assert kept is None


@pytest.mark.parametrize(
    "options",
    [
        {"step": {"accumulate": 3, "ema": 0.9}},
        {"step": {"clip_norm": 0.1, "ema": 0.5, "accumulate": 2}},
        {"engine": {**CPU, "precision": "16-mixed"}, "step": {"clip_norm": 0.1, "ema": 0.5}},
    ],
    ids=["accumulate", "clip", "fp16"],
)
@pytest.mark.parametrize("step", [1, 4, 5])
def test_after_a_kill_all_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, options: dict[str, Any], step: int
) -> None:
    def run(name: str, **more: Any) -> dict[str, Tensor]:
        net = plain(norm=True)
        net.append(nn.Dropout(0.2))
        own = {"checkpoint_every": 1, "folder": tmp_path / name, "log": {"every": 1}, "validation": blobs()}
        return fitted(net, blobs(), **options, **own, **more)

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("half", on_record=stop_at(step))
    assert same_state(run("half"), whole)
    one, other = (checkpoints.load(tmp_path / name / "checkpoint.ckpt") for name in ("whole", "half"))
    assert same_state(one.averaged, other.averaged)
    assert same_state(one.net, other.net)
    assert one.scaler == other.scaler


def test_what_is_off_is_not_there(tmp_path: Path) -> None:
    fitted(plain(), blobs(), folder=tmp_path)
    kept = checkpoints.load(tmp_path / "checkpoint.ckpt")
    assert (kept.averaged, kept.scaler) == (None, None)
    assert all("gradient_norm" not in r for r in read(tmp_path / "journal.jsonl", "step"))
    assert kept.config is not None
    assert kept.config["step"] is None
    with pytest.raises(ConfigError, match=r"step was None, now \{'accumulate': 2"):
        fitted(plain(), blobs(), folder=tmp_path, step={"accumulate": 2})


def test_a_rate_warms_up_over_epochs(tmp_path: Path) -> None:
    made = {"optimizer": {"name": "sgd", "lr": 0.5, "warmup": 1.5, "schedule": "linear(1, 0)"}, "epochs": 3}
    train(config(tmp_path, data={"limit": 32}, supervise=None, log={"every": 1}, **made))
    rates = [r["lr"] for r in read(tmp_path / "journal.jsonl", "step")]
    assert rates == pytest.approx([0.5 * (1 - t / 6) * min(1, t / 3) for t in range(6)])
    with pytest.raises(ConfigError, match=r"optimizer\.warmup=3 is not shorter than the 3 epochs"):
        configs.parse({"optimizer": {"warmup": 3}, "epochs": 3})
