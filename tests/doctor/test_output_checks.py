"""Traps in predictions, labels and losses."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import losses
from deepsup.doctor.output_checks import normalised
from tests.support.patients import Maps, Normalised, among, attached, examined, map_labels, only
from tests.support.small_nets import CLASSES, Plain, images, labels

CROSS_ENTROPIES = [
    "cross_entropy",
    "cross_entropy(smoothing=0.1)",
    losses.get("cross_entropy(smoothing=0.1)"),
    functools.partial(losses.get("cross_entropy(smoothing=0.1)")),
    F.cross_entropy,
    nn.CrossEntropyLoss(),
    functools.partial(F.cross_entropy, weight=None),
]


def map_head(feature: ds.Feature, classes: int) -> nn.Module:
    return nn.Conv2d(feature.channels, classes, 1)


def shrinking(prediction: Tensor, target: Tensor) -> Tensor:
    """Labels to the size of the scores."""
    small = F.interpolate(target[:, None].float(), size=prediction.shape[2:], mode="nearest")[:, 0].long()
    return F.cross_entropy(prediction, small, ignore_index=255)


def enlarging(prediction: Tensor, target: Tensor) -> Tensor:
    """Scores to the size of the labels."""
    return F.cross_entropy(F.interpolate(prediction, size=target.shape[1:], mode="bilinear"), target, ignore_index=255)


def dense(target: Tensor, loss: Any = shrinking, main: Any = F.cross_entropy, **options: Any) -> ds.Diagnosis:
    given = {"at": ["relu"], "head": map_head, **options}
    return ds.diagnose(Maps(), images(len(target)), target, branch_loss=loss, loss=main, **given)


@pytest.mark.parametrize("loss", CROSS_ENTROPIES)
@pytest.mark.parametrize(("last", "kind"), [(nn.LogSoftmax(1), "log-probabilities"), (nn.Softmax(1), "probabilities")])
def test_normalised_scores_in_cross_entropy_are_found(last: nn.Module, kind: str, loss: Any) -> None:
    found = examined(Normalised(last), at=["relu1"], loss=loss)
    assert kind in only(found, "normalised-scores", "main output", "Give out raw scores: remove the").what
    assert not examined(Normalised(nn.Identity()), at=["relu1"], loss=loss)
    if kind == "log-probabilities":
        named = "smoothing" in str(loss)  # nll_loss would drop it
        assert named != ("Objective(plan, loss=F) with F = torch.nn.functional.nll_loss" in found.findings[0].fix)
        assert not examined(Normalised(last), objective=ds.Objective(loss=F.nll_loss))


def test_a_head_that_gives_log_probabilities_is_found() -> None:
    def head(feature: ds.Feature, classes: int) -> nn.Module:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(feature.channels, classes), nn.LogSoftmax(1)
        )

    found = examined(Plain(), at=["relu1", "relu2"], head={"relu2": head})
    only(
        found,
        "normalised-scores",
        "branch 'relu2'",
        "plan(..., branch_loss={'relu2': F}) with F = torch.nn.functional.nll_loss",
    )
    assert not examined(Plain(), at=["relu2"], head=head, branch_loss=F.nll_loss)


def test_raw_scores_in_nll_loss_are_found() -> None:
    only(examined(Plain(), loss=nn.NLLLoss()), "raw-scores-in-nll", "main output", "Use loss='cross_entropy'")
    assert not examined(Normalised(nn.LogSoftmax(1)), loss=nn.NLLLoss())


def test_scores_are_called_normalised_only_if_they_are() -> None:
    scores = torch.randn(4, CLASSES, 3, 3)
    assert normalised(scores.softmax(1)) == normalised(scores.softmax(1).half()) == "probabilities"
    assert normalised(scores.log_softmax(1)) == normalised(scores.log_softmax(1).bfloat16()) == "log-probabilities"
    for raw in (scores, torch.zeros(4, CLASSES), scores.sigmoid(), torch.full((2, 3), torch.nan), torch.ones(4, 1)):
        assert normalised(raw) == ""


def test_the_softened_loss_of_a_method_is_looked_through() -> None:
    net = Normalised(nn.LogSoftmax(1))
    found = examined(net, method="label-smoothing")
    what = only(found, "normalised-scores", "main output", "remove the log_softmax").what
    assert what.endswith("its loss is cross_entropy(smoothing=0.1)")
    found = examined(net, method="dml-released")
    assert [(f.code, f.where) for f in found] == [
        ("normalised-scores", "main output, branch 'peer1'"),  # in the same words: one finding
    ]


def test_a_loss_of_the_main_output_that_has_no_such_name_is_a_finding() -> None:
    only(examined(Plain(), loss="crossentropy"), "bad-setting", "option loss=", "Closest: cross_entropy")
    only(examined(attached(), loss="cross_entropy(smoothing=2)"), "bad-setting", "option loss=")


def test_a_mean_over_scores_in_the_kl_divergence_is_found() -> None:
    def soft(x: Tensor) -> Tensor:
        return torch.full((len(x), CLASSES), 1 / CLASSES)

    x = images(4)
    found = ds.diagnose(Normalised(nn.LogSoftmax(1)), x, soft(x), loss=nn.KLDivLoss())
    only(found, "mean-kl", "main output", "reduction='none'", severity="warning")
    assert not ds.diagnose(Normalised(nn.LogSoftmax(1)), x, soft(x), loss=nn.KLDivLoss(reduction="batchmean"))


def test_labels_without_a_class_are_found_and_said_once() -> None:
    found = ds.diagnose(Plain(), images(4), torch.tensor([0, 1, CLASSES, 77]), at=["relu1"])
    assert "labels 5, 77" in only(found, "class-count", "main output", "as many classes as the data").what
    only(ds.diagnose(Plain(), images(2), torch.tensor([0, -1])), "class-count", "main output")
    assert not ds.diagnose(Plain(), images(3), torch.tensor([0, 1, -100]), at=["relu1"])


def test_the_fix_of_labels_counted_from_one_and_of_label_255_is_its_own() -> None:
    only(ds.diagnose(Plain(), images(5), labels(5) + 1), "class-count", "main output", "counted from 1: subtract 1")
    target = map_labels()
    target[0, 0, 0] = 255
    only(ds.diagnose(Maps(), images(), target), "class-count", "main output", "set those labels to -100")
    assert not ds.diagnose(Maps(), images(), target, loss=nn.CrossEntropyLoss(ignore_index=255))


def test_a_head_with_too_few_classes_is_found_by_its_branch() -> None:
    def head(feature: ds.Feature, classes: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(feature.channels, 3))

    found = ds.diagnose(Plain(), images(5), labels(5), at=["relu1"], head=head, branch_loss=nn.CrossEntropyLoss())
    only(found, "class-count", "branch 'relu1'", "model and heads with as many classes")
    only(examined(Plain(), at=["relu1"], head=head), "head-unfit", "branch 'relu1'", "Give the branch a head")


def test_classes_that_shrinking_loses_are_named() -> None:
    found = dense(map_labels(2, 4))
    what = only(found, "lost-classes", "branch 'relu'", "Enlarge the scores", severity="warning").what
    assert what == "labels of 16x16, shrunk to its map of 8x8, lose classes 2, 4"


def test_nothing_is_lost_where_scores_are_enlarged_or_small_classes_are_ignored() -> None:
    assert not dense(map_labels(2, 4), enlarging)
    assert not dense(map_labels())
    assert not dense(map_labels(255), main=nn.CrossEntropyLoss(ignore_index=255))


def test_a_target_that_does_not_fit_is_found() -> None:
    found = ds.diagnose(Plain(), images(8), labels(4), at=["relu1"])
    what = only(found, "target-unfit", "main output", "the target of one and the same batch").what
    assert what == "the target has 4 samples, the input 8"
    found = ds.diagnose(Plain(), images(4), torch.zeros(4, 2).long())
    only(found, "target-unfit", "main output", "fits the target")


@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy(smoothing=0.1)", nn.CrossEntropyLoss()])
@pytest.mark.parametrize(
    ("target", "fix"),
    [
        (labels(4).float(), "target.long()"),
        (labels(4).int(), "target.long()"),
        (labels(4)[:, None], "target.squeeze(1)"),
        (labels(4)[:, None].float(), "target.squeeze(1).long()"),
        (F.one_hot(labels(4), CLASSES), "target.float()"),
    ],
)
def test_the_fix_of_a_target_of_another_type_or_shape_makes_it_fit(target: Tensor, fix: str, loss: Any) -> None:
    found = ds.diagnose(Plain(), images(4), target, at=["relu1"], loss=loss, branch_loss=loss)
    if isinstance(loss, str) and fix in ("target.long()", "target.squeeze(1)") and not target.is_floating_point():
        assert not found  # ours take whole numbers of any type, with an axis of one or without
        return
    assert only(found, "target-unfit", "main output").fix == f"Convert it: {fix}"
    assert not ds.diagnose(Plain(), images(4), eval(fix), at=["relu1"], loss=loss, branch_loss=loss)


def test_maps_of_labels_with_an_axis_of_one_are_found_with_their_fix() -> None:
    target = map_labels()[:, None]
    found = ds.diagnose(Maps(), images(), target, loss=nn.CrossEntropyLoss())
    assert "target.squeeze(1)" in only(found, "target-unfit", "main output").fix
    assert not ds.diagnose(Maps(), images(), target.squeeze(1), loss=nn.CrossEntropyLoss())
    assert not ds.diagnose(Maps(), images(), target)


def test_losses_that_fail_or_give_no_number_are_found_by_branch() -> None:
    def broken(prediction: Tensor, target: Tensor) -> Tensor:
        raise KeyError("mask")

    found = examined(Plain(), at=["relu1", "relu2"], branch_loss={"relu2": broken})
    assert "KeyError: 'mask'" in only(found, "loss-failed", "branch 'relu2'", "Try the loss").what
    found = examined(Plain(), loss=functools.partial(F.cross_entropy, reduction="none"))
    only(found, "loss-failed", "main output", "Return one number")


def test_losses_that_are_not_finite_or_have_no_graph_are_found() -> None:
    found = examined(Plain(), loss=lambda prediction, target: prediction.sum() / 0)
    only(found, "loss-not-finite", "main output", "division of zero")
    found = examined(Plain(), loss=lambda prediction, target: prediction.detach().sum())
    only(found, "loss-without-gradient", "main output", "without .detach()")
    found = examined(Normalised(Detached()))
    assert only(found, "loss-without-gradient", "main output", "without .detach()").what == "it has no graph"


@pytest.mark.parametrize(
    ("options", "severity", "why", "spoilt"),
    [
        ({}, "error", "One step makes its head and every weight up to 'relu1' NaN", {"conv1", "head"}),
        ({"gradient": "detach"}, "error", "One step makes its head NaN, and the total that is shown", {"head"}),
        ({"weight": 0.0}, "warning", "Its weight is 0, so nothing learns from it yet", set()),
    ],
)
def test_what_a_branch_that_is_not_finite_makes_nan_is_what_is_said(
    options: dict[str, Any], severity: str, why: str, spoilt: set[str]
) -> None:
    def bad(prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.sum() * torch.nan

    found = examined(Plain(), at=["relu1"], branch_loss=bad, **options)
    said = among(found, "loss-not-finite", "branch 'relu1'", "division of zero", severity=severity)
    assert said.why.startswith(why)
    model = Plain()
    plan = ds.plan(model, images(4), at=["relu1"], branch_loss=bad, **options)
    net = ds.attach(model, plan)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ds.Objective(plan)(net(images(4)), labels(4)).total.backward()
    optimizer.step()
    nan = {name for name, p in net.named_parameters() if bool(p.isnan().any())}
    assert {"head" if "heads" in name else name.split(".")[1] for name in nan} == spoilt, nan


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_without_a_target_scores_are_still_looked_at_and_losses_are_not() -> None:
    found = ds.diagnose(attached(), images(4), loss=lambda prediction, target: None)
    assert not found
    looked, _, unseen = found.summary.partition("not looked at: ")
    for part in ("labels", "losses"):
        assert part not in looked
        assert part in unseen
    only(ds.diagnose(Normalised(nn.Softmax(1)), images(4)), "normalised-scores", "main output")


@pytest.mark.parametrize(
    ("target", "loss", "says"),
    [
        (torch.tensor([[0.5, -2, 3]] * 4), "cross_entropy", "real values need loss='mse'"),
        (torch.tensor([[1.0, 1, 0]] * 4), "cross_entropy", "several labels a sample: loss='binary'"),
        (torch.tensor([0.5, 1.5, 2, -1]), "cross_entropy", "Real values: loss mse"),
        (torch.zeros(4), F.mse_loss, "would stretch a target"),
        (torch.tensor([[2.0, 0, 0]] * 4), nn.BCEWithLogitsLoss(), "reads labels from 0 to 1"),
    ],
)
def test_targets_that_mean_something_else_than_the_loss_are_found(target: Tensor, loss: Any, says: str) -> None:
    found = ds.diagnose(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6), target, loss=loss
    )
    assert any(f.code == "target-unfit" and says in f"{f.what} {f.fix}" for f in found.findings), str(found)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(4, 6), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def test_tokens_are_examined_on_their_axis() -> None:
    x, y = torch.randn(2, 7, 4), torch.randint(0, 9, (2, 7))
    assert str(ds.diagnose(Tagger(), x, y, at=["body"])).startswith(
        "no finding: looked at model, layers, heads, outputs, labels"
    )
    found = ds.diagnose(Tagger(), x, y, at=["body"], classes_axis=1, head=lambda f, c: nn.Linear(6, 9))
    assert "classes_axis=-1" in str(found)


def test_a_loss_of_the_users_own_is_tried_as_a_step_gives_it_its_output_and_target() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.conv(x))).movedim(1, -1)

    def own(output: Tensor, target: Tensor, *, batch: dict[str, Tensor]) -> Tensor:
        assert output.shape[-1] == 4
        assert set(batch) == {"w"}
        return (batch["w"] * F.cross_entropy(output.flatten(0, 2), target.flatten(), reduction="none")).mean()

    x, y = images(2, 8), torch.randint(0, 4, (2, 8, 8))
    plan = ds.plan(Last(), x, at=["act"], loss=own, branch_loss="cross_entropy")
    net = ds.attach(Last(), plan)
    found = ds.diagnose(net, x, {"target": y, "w": torch.rand(128)}, objective=ds.Objective(plan))
    assert {finding.code for finding in found.findings} <= {"dear-branch"}


def test_a_batch_of_which_nothing_counts_is_found() -> None:
    x, y = torch.randn(2, 7, 4), torch.full((2, 7), -100)
    found = ds.diagnose(Tagger(), x, y, at=["body"])
    assert found.codes == ("nothing-counts",)
    assert "main output, branch 'body': not one label or value of this batch counts for its loss cross_entropy" in str(
        found
    )
    y[0, 3] = 2
    assert not ds.diagnose(Tagger(), x, y, at=["body"])
    values = ds.diagnose(Tagger(), x, torch.full((2, 7, 9), float("nan")), at=["body"], task="values")
    assert set(values.codes) == {"nothing-counts"}
