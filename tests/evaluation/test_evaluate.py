"""Tests of evaluate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import deepsup as ds
from deepsup.evaluation import evaluate as evaluations
from deepsup.evaluation.evaluate import evaluate
from deepsup.supervision.objectives import Objective
from deepsup.training.journal import read
from tests.support.segmentation_runs import matrices
from tests.support.small_nets import CLASSES, images, labels
from tests.support.supervised_nets import supervised
from tests.support.tiny_shapes import SIDE, MapNet, batches


def test_the_mean_loss_is_over_labelled_places_and_scores_add_up_over_processes():
    torch.manual_seed(0)
    net = MapNet(3)
    data = batches(3)
    for (_, y), rows in zip(data, (3, 20, 32), strict=True):
        y[:, :rows] = -100  # the last batch is void
    found = evaluate(net, data)
    net.eval()
    scores = [F.interpolate(net(x), (SIDE, SIDE), mode="bilinear", align_corners=False) for x, _ in data]
    every, labels = torch.cat(scores), torch.cat([y for _, y in data])
    assert found.loss["main"] == pytest.approx(F.cross_entropy(every, labels).item(), rel=1e-5)
    shares = []
    for (_, y), raw in zip(data, scores, strict=True):
        sums = evaluations.Sums(Objective(), None)
        sums.add(raw.detach(), y, progress=1.0)
        shares.append(sums.share())
    together = evaluations.together(shares, None)
    assert matrices(together) == matrices(found)
    assert together.score == found.score
    assert together.loss == pytest.approx(found.loss, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_pytorch_is_the_mean_over_what_counts_whatever_its_batches_and_reduction(reduction: str):
    weight, net = torch.tensor([1.0, 2.0, 5.0]), torch.nn.Linear(4, 3)
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 2, -100, 1, 0])
    loss = torch.nn.CrossEntropyLoss(weight, reduction=reduction)
    found = evaluate(net, [(x[:2], y[:2]), (x[2:], y[2:])], objective=Objective(loss=loss))
    assert found.loss["main"] == pytest.approx(F.cross_entropy(net(x), y, weight).item(), rel=1e-5)


def test_a_validation_set_without_a_label_has_no_score_and_no_nan(tmp_path: Path):
    data = batches(1)
    void = [(data[0][0], torch.full_like(data[0][1], -100))]
    found = evaluate(MapNet(3), void)
    assert (found.score, found.loss, found.metrics, found.counts) == ({}, {}, {}, {})
    result = ds.fit(MapNet(3), data, validation=void, epochs=1, folder=tmp_path)
    assert result.score is None
    assert (read(tmp_path / "journal.jsonl", "end")[0]["score"], "NaN" in (tmp_path / "journal.jsonl").read_text()) == (
        None, False,
    )  # fmt: skip


def scored() -> tuple[ds.Supervised, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    return supervised().train(), [(images(8), labels(8)) for _ in range(3)]


@pytest.mark.parametrize("kind", ["compiled", "averaged", "distributed", "compiled and distributed"])
def test_a_net_in_a_wrapper_is_scored_with_its_branches(kind: str, tmp_path: Path) -> None:
    net, data = scored()
    expected = evaluate(net, data)
    assert set(expected.score) == {"main", "conv1", "relu2", "ensemble"}
    given: torch.nn.Module = net
    if "distributed" in kind:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        given = torch.nn.parallel.DistributedDataParallel(given) if "distributed" in kind else given
        given = torch.compile(given, backend="eager") if "compiled" in kind else given
        given = torch.optim.swa_utils.AveragedModel(given) if kind == "averaged" else given
        flags = [m.training for m in given.modules()]
        found = evaluate(given, data)
        assert [m.training for m in given.modules()] == flags
    finally:
        if "distributed" in kind:
            torch.distributed.destroy_process_group()
    assert found.score == expected.score
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_several_threads_evaluate_at_once_and_a_failure_leaves_nothing() -> None:
    net, data = scored()
    net.model.relu1.eval()
    flags, state = [m.training for m in net.modules()], torch.get_rng_state()
    expected = evaluate(net, data)

    def run(i: int) -> bool:
        if i % 5:
            return evaluate(net, data).record() == expected.record()
        with pytest.raises(RuntimeError):
            evaluate(net, [*data, (torch.zeros(2, 7, 16, 16), labels(2))])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(60)))
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(net(images()), ds.Outputs)
    assert not evaluations._FLAGS


def test_an_output_with_a_target_of_its_own_is_scored_by_it() -> None:
    net, x, y = supervised(), images(8), labels(8)
    name, other = net.plan.names[0], (y + 1) % CLASSES
    net.eval()
    with torch.no_grad(), ds.supervising(net):
        outputs = net(x)
    found = evaluate(net, [(x[:3], {"main": y[:3], name: other[:3]}), (x[3:], {"main": y[3:], name: other[3:]})])
    for output, scores, truth in (("main", outputs.main, y), (name, outputs.aux[name], other)):
        assert found.score[output] == pytest.approx((scores.argmax(1) == truth).float().mean().item())
        assert found.loss[output] == pytest.approx(F.cross_entropy(scores, truth).item(), rel=1e-5)
    assert found.samples == 8

    def right(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (scores.argmax(1) == target).float().mean()

    own = evaluate(net, [(x, {"main": y, name: other})], metric=right)
    assert own.score["main"] == pytest.approx(found.score["main"])
    assert own.score[name] == pytest.approx(found.score[name])
