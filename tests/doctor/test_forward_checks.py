"""Traps that one forward shows: tapped layers, normalisation, who gets a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deepsup as ds
from deepsup.doctor.batch_checks import doubled, length, sizes_of
from deepsup.errors import ConfigError
from deepsup.evaluation.loaders import overlapping
from tests.support.patients import OneValue, PoolsItself, SidePath, attached, examined, one_process, only
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels


def loader(samples: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(samples), labels(samples)), **options)


def test_an_in_place_successor_is_found_with_what_the_copy_costs() -> None:
    found = examined(Residual(), at=["bn1"])
    what = only(found, "inplace-successor", "layer 'bn1'", "Tap the layer that follows", severity="warning").what
    assert what.endswith("keeps a copy of 1.02k bytes a sample")
    assert not examined(Residual(), at=["relu"])


def test_a_layer_that_is_overwritten_since_it_was_planned_is_an_error() -> None:
    net = attached(Plain(), ["conv1"])
    net.model.relu1.inplace = True
    found = examined(net)
    only(found, "inplace-successor", "layer 'conv1'", "plan and attach again", "inplace=False")
    net.model.relu1.inplace = False
    assert not examined(net)


def test_a_branch_on_a_side_path_is_found() -> None:
    found = examined(SidePath(), at=["side"])
    only(found, "side-path", "branch 'side'", "between the input and the prediction", severity="warning")


def test_a_branch_over_a_frozen_trunk_is_found() -> None:
    model = Plain()
    model.conv1.requires_grad_(False)
    only(examined(model, at=["relu1"]), "head-only", "branch 'relu1'", "Unfreeze", severity="warning")
    net = attached()
    net.model.conv1.requires_grad_(False)
    only(examined(net), "head-only", "branch 'relu1'", "requires_grad_(True)", severity="warning")
    net.model.conv1.requires_grad_(True)
    assert not examined(net)


def test_a_head_of_another_type_than_its_activation_is_found_outside_autocast() -> None:
    net = attached()
    net.model.bfloat16()
    x = images(4).bfloat16()
    found = ds.diagnose(net, x)
    only(found, "dtype-mismatch", "branch 'relu1'", "torch.autocast", severity="warning")
    assert found.findings[0].what == "layer 'relu1' gives bfloat16, its head computes in float32"
    with torch.autocast("cpu", torch.bfloat16):
        assert not ds.diagnose(attached(), images(4))
    assert not ds.diagnose(net.bfloat16(), x)


def test_one_value_per_channel_is_found_in_the_model() -> None:
    where = "layer 'norm'"
    only(examined(OneValue(), batch_sizes=[8, 1]), "one-value-per-channel", where, "drop_last=True", "GroupNorm")
    only(ds.diagnose(OneValue(), images(1), labels(1)), "one-value-per-channel", where, "another batch size")
    assert not examined(OneValue(), batch_sizes=[8, 2])
    assert not ds.diagnose(Residual(), images(1), labels(1)), "maps of several pixels have a spread"


def test_one_value_per_channel_is_found_in_a_head() -> None:
    def head(feature: ds.Feature, classes: int) -> nn.Module:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(feature.channels))
        return nn.Sequential(pooled, nn.Linear(feature.channels, classes))

    found = examined(Plain(), at=["relu1"], head=head, batch_sizes=[4, 1])
    only(found, "one-value-per-channel", "head of branch 'relu1', layer '0.2'", "drop_last=True")
    assert not examined(Plain(), at=["relu1"], head=head)


def test_one_value_per_channel_is_found_where_a_batch_of_one_stops_the_forward() -> None:
    class Pair(OneValue):
        def forward(self, x: Tensor, scale: float) -> Tensor:
            return super().forward(x) * scale

    only(ds.diagnose(Pair(), (images(1), 1.0)), "one-value-per-channel", "layer 'norm'", "drop_last=True")


def test_frozen_statistics_need_no_second_value() -> None:
    class Frozen(OneValue):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    assert not examined(Frozen().train(), batch_sizes=[1])


def test_a_last_batch_of_one_is_read_off_the_loader() -> None:
    model = OneValue()
    only(examined(model, batches=loader(9, batch_size=4)), "one-value-per-channel", "layer 'norm'", "drop_last=True")
    assert not examined(model, batches=loader(9, batch_size=4, drop_last=True))
    only(
        examined(model, batches=[(images(4), labels(4)), (images(1), labels(1))]),
        "one-value-per-channel",
        "layer 'norm'",
    )


def test_batch_sizes_are_told_without_reading_a_batch() -> None:
    class Endless(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("a batch was read")

    assert sizes_of(loader(9, batch_size=4)) == {4, 1}
    assert sizes_of(loader(3, batch_size=4)) == {3}
    assert sizes_of(loader(9, batch_size=4, drop_last=True)) == {4}
    assert sizes_of(DataLoader(Endless(), batch_size=4)) is None
    assert sizes_of(loader(9, batch_size=None)) is None
    assert sizes_of([(images(3), labels(3))]) == {3}
    assert sizes_of(iter([])) is None


def test_a_lone_sample_is_doubled_with_its_target() -> None:
    x, y = doubled(images(1), labels(1))
    assert (len(x), len(y)) == (2, 2)
    assert doubled(images(3), None)[1] is None
    assert length((torch.ones(()), images(3))) == 3
    assert length({"x": images(5)}) == 5


def test_a_batch_without_a_second_crop_is_found_and_the_first_step_does_refuse_it() -> None:
    net = staged(method="cds")
    x, one = images(4), torch.tensor([0, 1, 2, 3])
    found = ds.diagnose(net, x, one)
    assert "the two halves of these 4 labels differ" in only(found, "one-crop", "batch", "torch.cat([y, y])").what
    with pytest.raises(ConfigError, match="compares two crops"):
        ds.Objective(net.plan)(net(x), one)
    assert not ds.diagnose(net, x, torch.tensor([0, 1, 0, 1]))
    assert ds.Objective(net.plan)(net(x), torch.tensor([0, 1, 0, 1])).total.isfinite()


def test_an_odd_number_of_crops_is_found_with_and_without_labels() -> None:
    net = staged(method="cds")
    assert "the target is of 3" in only(ds.diagnose(net, images(3), labels(3)), "one-crop", "batch").what
    assert "the sample is of 3" in only(ds.diagnose(net, images(3)), "one-crop", "batch").what
    only(ds.diagnose(net, images(1), labels(1)), "one-crop", "batch")
    assert not ds.diagnose(net, images(4))
    assert not ds.diagnose(staged(method="byot"), images(3), labels(3)), "it compares no crops"


def staged(**options: Any) -> ds.Supervised:
    model = Residual()
    return ds.attach(model, ds.plan(model, images(), **options))


def test_batches_that_do_not_overlap_are_found_where_the_method_needs_it() -> None:
    apart = [(images(4), labels(4)), (images(4), labels(4))]
    wrong = [(images(4), torch.tensor([0, 1, 2, 3])), (images(8), torch.tensor([0, 1, 2, 4, 0, 1, 2, 3]))]
    for method in ("dlb", "dlb(alpha=0.5)"):
        for batches in (apart, tuple(apart), wrong):
            found = examined(Plain(), method=method, batches=batches)
            only(found, "no-overlap", "batches", "deepsup.evaluation.loaders.overlapping(batches)", "data.overlap=true")
    assert not examined(Plain(), method="none", batches=apart)
    assert not examined(attached(), batches=apart)
    plan = ds.plan(Plain(), images(), method="dlb")
    only(examined(Plain(), plan=plan, batches=apart), "no-overlap", "batches")
    only(examined(Plain(), objective=ds.Objective(plan), batches=apart), "no-overlap", "batches")


def test_batches_that_overlap_are_not_found_wherever_in_the_epoch_they_are_from() -> None:
    batches = list(overlapping([(images(4), torch.randperm(40)[:4] % CLASSES) for _ in range(4)]))
    assert [len(x) for x, _ in batches] == [4, 8, 8, 8]
    model = Plain()
    for several in (batches, batches[1:], batches[:1], [], [images(4), images(4)], loader(8, batch_size=4)):
        assert "no-overlap" not in examined(model, method="dlb", batches=several).codes
    objective = ds.Objective(ds.plan(model, images(), method="dlb"))
    for x, y in batches:
        assert objective(model(x), y).total.isfinite()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parameters_that_ddp_would_wait_for_in_vain_are_found() -> None:
    with one_process():
        found = examined(DistributedDataParallel(attached(SidePath())))
        only(found, "unused-parameters", "model", "requires_grad_(False)", "find_unused_parameters=True")
        assert "model.side.weight" in found.findings[0].what
        net = attached(SidePath())
        assert not examined(DistributedDataParallel(net, find_unused_parameters=True))
        net.model.side.requires_grad_(False)
        assert not examined(DistributedDataParallel(net))


def test_further_predictions_of_the_model_are_found() -> None:
    class Two(Plain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), super().forward(x)

    found = examined(Two())
    only(found, "unused-prediction", "model", "return the prediction alone", severity="warning")


@pytest.mark.parametrize(
    ("build", "size", "lines"),
    [
        (torchvision.models.googlenet, 64, "model.aux_logits = False; model.aux1 = None; model.aux2 = None"),
        (torchvision.models.inception_v3, 299, "model.aux_logits = False; model.AuxLogits = None"),
    ],
)
def test_the_fix_of_further_predictions_can_be_run_as_it_is_printed(build: Any, size: int, lines: str) -> None:
    model = build(weights=None, num_classes=CLASSES, init_weights=False)
    found = ds.diagnose(model, images(2, size), labels())
    fix = only(found, "unused-prediction", "model", severity="warning").fix
    assert fix == f"Switch them off before planning and attaching: {lines}"
    exec(lines, {"model": model})
    assert not ds.diagnose(model, images(2, size), labels())


def test_a_layer_that_uses_its_own_output_is_found_and_the_layer_inside_is_not() -> None:
    where = ("layer-read-inside", "branch 'inner'", "Tap a layer inside it")
    only(examined(PoolsItself(), at=["inner"]), *where, severity="warning")
    assert not examined(PoolsItself(), at=["inner.conv"])


@pytest.mark.parametrize("rule", ["project", "pcgrad", "mgda", "equilibrium", lambda above, branch: above + branch])
def test_a_rule_that_weighs_what_it_cannot_see_is_an_error(rule: Any) -> None:
    found = examined(PoolsItself(), at=["inner"], gradient=rule)
    only(found, "layer-read-inside", "branch 'inner'", "Tap a layer inside")
    assert not examined(PoolsItself(), at=["inner.conv"], gradient=rule)
