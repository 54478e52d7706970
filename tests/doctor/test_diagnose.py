"""The doctor as a whole: healthy nets, nets with everything wrong at once, and what it leaves behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import deepsup as ds
from deepsup import networks
from deepsup.errors import DeepsupError
from deepsup.evaluation.loaders import overlapping
from deepsup.layers.taps import taps_on
from deepsup.methods import METHODS
from deepsup.settings import training
from deepsup.training import prepare
from tests.support.laws import assert_same_state, state_of
from tests.support.patients import Checkpointed, Normalised, among, attached, examined, one_process, only
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels
from tests.support.tiny_maps import TinySegmenter, maps, segmenter


def healthy(model: nn.Module, size: int, at: list[str], channels: int = 3, **options: Any) -> None:
    x, y = torch.randn(4, channels, size, size), torch.randint(0, 10, (4,))
    assert not ds.diagnose(model, x, y, at=at, classes=10, **options)
    net = ds.attach(model, ds.plan(model, x, at=at, **options))
    optimizer = torch.optim.SGD(ds.parameter_groups(net, lr=0.1))
    found = ds.diagnose(net, x, y, optimizer=optimizer, batch_sizes=[4, 2])
    assert not found, str(found)
    assert str(found).startswith("no finding: ")
    assert all(name in str(found) for name in net.plan.names)


def test_a_healthy_resnet_has_no_finding() -> None:
    healthy(torchvision.models.resnet18(num_classes=10), 64, ["layer1", "50%"])


def test_a_healthy_vision_transformer_has_no_finding() -> None:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 10}
    model = timm.models.vision_transformer.VisionTransformer(**options)
    healthy(model, 32, ["blocks.1", "75%"])


def test_the_net_of_the_example_has_no_finding() -> None:
    model = networks.build("deepsup:plain-12", classes=10, in_channels=1)
    healthy(model, 16, ["relu5", "relu7", "relu10"], channels=1, head="linear", weight=0.3)


def test_a_plain_model_and_a_compiled_net_have_no_finding() -> None:
    assert not examined(Plain())
    assert not examined(torch.compile(Plain()))
    assert not examined(torch.compile(attached()))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_net_wrapped_as_it_should_be_has_no_finding() -> None:
    with one_process():
        assert not examined(DistributedDataParallel(attached()))


def test_all_traps_of_a_broken_set_up_are_found_at_once() -> None:
    class Worst(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).log_softmax(1)

    model = torch.nn.DataParallel(Worst())
    x, y = images(4), labels(4) + 3
    optimizer = torch.optim.SGD(Residual().parameters(), lr=0.1)
    at = {"early": "bn1", "relu": "layer1.0.relu", "typo": "layr2", "late": "layer2"}
    weight = {"early": 0.7, "late": 0, "lat": 1}
    head = {"early": "pool", "late": "token"}
    found = ds.diagnose(model, x, y, at=at, weight=weight, head=head, optimizer=optimizer, batch_sizes=[4, 1])
    assert set(found.codes) == {
        "data-parallel", "reused-layer", "unknown-layer", "unknown-branch", "head-unfit", "inplace-successor",
        "early-heavy-branch", "class-count", "normalised-scores", "foreign-optimizer", "head-not-in-optimizer",
    }  # fmt: skip
    among(found, "head-unfit", "branch 'late'", "Use 'pool' or 'linear'")
    among(found, "unknown-layer", "layer 'typo'", "Closest: layer2")
    among(found, "reused-layer", "layer 'relu'", "Choose the block around it")
    among(found, "unknown-branch", "branch 'lat'", "early, late, relu, typo")
    assert [f.severity for f in found] == sorted(f.severity for f in found), "errors come first"


def test_no_trace_is_left_of_a_look_at_a_plain_model_an_attached_one_or_one_that_fails() -> None:
    class Failing(Plain):
        def forward(self, x: Tensor) -> Tensor:
            self.pool.seen = x  # type: ignore[assignment]
            super().forward(x)
            raise KeyError("no such thing")

    net = attached(Residual(), ["layer1"], head="cnds(width=4, hidden=8)")
    net.eval()
    patients: list[tuple[nn.Module, dict[str, Any]]] = [
        (Residual(), {"at": ["layer1", "bn1"]}),
        (net, {}),
        (net.model, {}),
        (Failing(), {"at": ["relu1"]}),
        (torch.compile(Plain()), {"at": ["relu1"]}),
        (nn.DataParallel(Plain()), {"at": ["relu1"]}),
    ]
    for model, options in patients:
        next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
        before, numbers = state_of(model), np.random.get_state()[1].tolist()  # type: ignore[index]
        modules, calls = list(model.modules()), net.calls
        examined(model, **options)
        assert_same_state(before, state_of(model))
        assert np.random.get_state()[1].tolist() == numbers  # type: ignore[index]
        assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
        assert net.calls == calls
    assert len(taps_on(net.model)) == 1


def test_no_trace_is_left_of_a_look_that_is_interrupted() -> None:
    class Impatient(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.count = 1
            random.random()
            raise KeyboardInterrupt

    loss, model = Impatient(), Residual()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        examined(model, at=["layer1"], branch_loss=loss, loss=loss)
    assert_same_state(before, state_of(model))


def test_a_compiled_part_and_its_container_are_where_they_were() -> None:
    model = Residual()
    model.layer1 = torch.compile(model.layer1)  # type: ignore[assignment]
    there = model.layer1
    model.layer2.compile()
    examined(model, at=["layer1", "layer2"])
    assert model.layer1 is there
    assert model.layer2._compiled_call_impl is not None


def test_a_head_module_of_the_user_is_neither_run_nor_moved() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).eval()
    model = Plain()
    before = state_of(head)
    assert examined(model, at=["relu1"], head=head, batch_sizes=[4, 1]).codes == ("one-value-per-channel",)
    assert_same_state(before, state_of(head))
    assert next(head.parameters()).dtype == torch.float32


def test_an_unknown_layer_is_a_finding_and_the_other_layers_are_still_looked_at() -> None:
    found = examined(Residual(), at=["bn1", "layr2"])
    among(found, "unknown-layer", "layer 'layr2'", "Closest: layer2")
    among(found, "inplace-successor", "layer 'bn1'", "inplace=False", severity="warning")


def test_a_layer_that_runs_twice_is_a_finding_with_its_remedy() -> None:
    found = examined(Residual(), at=["layer1.0.relu"])
    only(found, "reused-layer", "layer 'layer1.0.relu'", "Choose the block around it")
    assert not examined(Residual(), at=["layer1.0"])


def test_a_layer_that_never_runs_is_a_finding() -> None:
    model = Plain()
    model.spare = nn.Linear(3, 3)
    only(examined(model, at=["spare"]), "layer-not-called", "layer 'spare'", "Choose a layer that runs")


def test_reentrant_checkpointing_over_a_tap_is_a_finding_before_and_after_attaching() -> None:
    found = examined(Checkpointed(reentrant=True), at=["relu1"])
    only(found, "reentrant-checkpoint", "layer 'relu1'", "use_reentrant=False")
    assert not examined(Checkpointed(reentrant=False), at=["relu1"])
    net = attached(Checkpointed(reentrant=False), ["relu1"])
    net.model.reentrant = True
    only(examined(net), "reentrant-checkpoint", "layer 'relu1'", "use_reentrant=False")


def test_a_layer_without_a_graph_for_another_reason_is_unreadable() -> None:
    class Cut(Plain):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.relu1(self.conv1(x))
            return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))

    only(examined(Cut(), at=["relu1"]), "unreadable-layer", "layer 'relu1'", "tap outside it")


def test_heads_losses_and_settings_that_do_not_fit_are_findings_by_branch() -> None:
    def broken(feature: ds.Feature, classes: int) -> nn.Module:
        raise ZeroDivisionError("nothing left")

    found = examined(Plain(), at=["relu1", "relu2"], head={"relu1": "token", "relu2": broken})
    among(found, "head-unfit", "branch 'relu1'", "'pool'")
    assert "nothing left" in among(found, "head-unfit", "branch 'relu2'").what
    found = examined(Plain(), at=["relu1"], weight="linear(0.3")
    only(found, "bad-setting", "branch 'relu1'", "Write a number or one of")
    shared = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))
    found = examined(Plain(), at=["relu1"], head=shared)
    only(found, "head-unfit", "branch 'relu1'", "Give its layers their sizes")


def test_what_only_all_branches_together_do_wrong_is_a_finding() -> None:
    found = examined(Residual(), at=["layer1.0", "layer1.1"], head=head_of(4))
    only(found, "head-unfit", "plan", "makes a new one for each")
    assert not examined(Residual(), at=["layer2"], head=head_of(8))


def head_of(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def test_a_plan_of_another_model_or_a_layer_that_is_gone_is_a_finding() -> None:
    plan = ds.plan(Residual(), images(), at=["layer1"])
    only(examined(Plain(), plan=plan), "foreign-plan", "plan", "Plan again")
    assert not examined(Residual(), plan=plan)
    net = attached()
    net.model.relu1 = nn.ReLU()
    found = examined(net)
    assert "did not fire" in only(found, "forward-failed", "model", "Plan and attach again").what


def test_further_branches_for_a_net_that_has_some_are_a_finding() -> None:
    net = attached()
    only(examined(net, at=["relu2"]), "already-attached", "model", "Strip it first")
    assert not examined(net, plan=net.plan)


def test_a_forward_that_fails_is_a_finding_and_the_rest_is_still_looked_at() -> None:
    found = ds.diagnose(Plain(), torch.randn(2, 4, 16, 16), labels(2), at=["relu1"], optimizer=foreign())
    among(found, "forward-failed", "model", "The sample must be what the model takes")
    among(found, "foreign-optimizer", "optimizer")
    assert "(2, 4, 16, 16)" in found.findings[0].what


def test_the_error_of_the_model_is_kept_whole_apart_from_the_fix() -> None:
    class Failing(Plain):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("Too small. Output would be empty")

    found = only(examined(Failing()), "forward-failed", "model", "The sample must be what")
    assert found.what.endswith("RuntimeError: Too small. Output would be empty")
    assert found.fix.startswith("The sample")


def test_a_loader_in_place_of_a_batch_is_said_in_one_line() -> None:
    loader = DataLoader(TensorDataset(images(4), labels(4)), batch_size=2)
    for given in (None, loader, iter(loader), loader.dataset, (batch for batch in loader)):
        found = ds.diagnose(Plain(), given, at=["relu1"])
        only(found, "forward-failed", "sample", "Pass a batch, not the loader: sample, target = next(iter(loader))")
    assert not ds.diagnose(Plain(), *next(iter(loader)), at=["relu1"])


def test_an_option_that_does_not_exist_is_found_with_the_closest_and_the_rest_is_looked_at() -> None:
    found = examined(Plain(), at=["relu1"], wieght=0.3)
    only(found, "bad-setting", "option wieght=", "Closest: weight=")
    only(examined(Plain(), xyz=1), "bad-setting", "option xyz=", "Options: at, batch_sizes, ")
    assert examined(Plain(), at=["relu1"], wieght=0.3, weight=0).codes == ("bad-setting", "weight-always-zero")


def foreign() -> torch.optim.Optimizer:
    return torch.optim.SGD(Plain().parameters(), lr=0.1)


def test_an_output_with_several_tensors_asks_for_main() -> None:
    class Two(Plain):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"first": super().forward(x), "second": super().forward(x)}

    only(examined(Two(), at=["relu1"]), "output-unclear", "model", "main=")
    among(
        examined(Two(), main="first"), "unused-prediction", "model", "return the prediction alone", severity="warning"
    )


def test_a_layer_found_by_the_probe_is_looked_at() -> None:
    batches = [(images(4), labels(4))]
    found = examined(Plain(), at="auto", method="cnds", batches=batches)
    only(found, "bad-setting", "plan", "Choose layers by name or depth")


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("supervise.weight={relu77: 0.3}", "unknown-branch"),
        ("supervise.gradient={relu77: detach}", "unknown-branch"),
        ("supervise.head=tokn", "head-unfit"),
    ],
)
def test_a_refused_setting_of_a_probed_run_is_named_by_its_key(setting: str, code: str) -> None:
    words = ["model=deepsup:plain-12", "epochs=1", "data.limit=64", "supervise.at=auto", "supervise.probe.rule=drop"]
    found = prepare.diagnose(training.load(None, [*words, "supervise.probe.iterations=1", setting]))[""]
    only(found, code, setting.split("=")[0])


HEALTHY = {  # what a method needs besides its name, in settings
    "aux": ["supervise.at=[layer1, layer2]"],
    "cnds": ["supervise.at=[layer1]"],
    "cnds-released": ["supervise.at=[layer1]"],
    "cds": ["data.views=2", "data.augment=standard"],
    "dlb": ["data.overlap=true"],
    "equal-compute": ["supervise.like={method: dhm}"],
}


def configured(*words: str) -> ds.Diagnosis:
    """What `deepsup doctor` says of a small net on digits with these settings."""
    return prepare.diagnose(training.load(None, ["model=deepsup:resnet-8", "epochs=1", "data.limit=64", *words]))[""]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_has_a_finding_on_a_healthy_net(method: str) -> None:
    if METHODS[method].maps:
        x, y = maps(2, method=method)
        found = ds.diagnose(segmenter(method), x, y, method=method)
        assert not found, str(found)
        return
    found = configured(f"supervise.method={method}", *HEALTHY.get(method, []))
    assert not found, str(found)
    assert str(found).startswith("no finding: ")


def test_what_the_doctor_says_of_maps() -> None:
    x, y = maps(2, method="hed")
    assert not ds.diagnose(TinySegmenter(1), x, y, method="pspnet", main_loss="binary")
    only(ds.diagnose(TinySegmenter(1), x, y, method="pspnet"), "class-count", "main output", "loss='binary'")
    sigmoid = nn.Sequential(TinySegmenter(1), nn.Sigmoid())
    found = ds.diagnose(sigmoid, x, y, at=["0.layer2"], main_loss="binary")
    only(found, "normalised-scores", "main output", "remove the sigmoid", severity="warning")
    y[y < 0] = 255
    found = ds.diagnose(TinySegmenter(), x, y, method="pspnet")
    only(found, "class-count", "main output", "main_loss='cross_entropy(ignore_index=255)'")
    told = ds.diagnose(TinySegmenter(), x, y, method="pspnet", main_loss="cross_entropy(ignore_index=255)")
    assert [f for f in told if f.code == "class-count"] == []
    y = torch.zeros_like(y)
    y[:, 0] = 3
    thin = ds.diagnose(TinySegmenter(), x, y, at=["layer2"], branch_loss="cross_entropy(resize='nearest')")
    assert (
        "lose class 3" in only(thin, "lost-classes", "branch 'layer2'", "Enlarge the scores", severity="warning").what
    )
    assert not ds.diagnose(TinySegmenter(), x, y, at=["layer2"], branch_loss="cross_entropy(resize='area')")
    y[:, 2::3, 2::3] = 3  # in every cell, so that nothing else is left of the rest
    kept = ds.diagnose(TinySegmenter(), x, y, at=["layer3"], branch_loss="cross_entropy(resize='preserve')")
    assert "lose class 0" in only(kept, "lost-classes", "branch 'layer3'", severity="warning").what
    unsqueezed = ds.diagnose(TinySegmenter(), x, y[:, None], at=["layer2"])
    assert any("target.squeeze(1)" in f.fix for f in unsqueezed)


def test_settings_that_a_run_would_refuse_are_findings_by_their_key() -> None:
    found = configured("supervise.method=cds")
    fix = only(found, "one-crop", "data.views", "Set data.views=2", "data.augment=standard")
    assert "compares 2 crops" in fix.what
    only(configured("supervise.method=dlb"), "no-overlap", "data.overlap", "Set data.overlap=true")
    found = configured("supervise.method=equal-compute")
    assert "needs supervise.like" in only(found, "bad-setting", "supervise.like").what
    found = configured("supervise.method=equal-compute", "supervise.like={method: dhm, at: [nowhere]}")
    only(found, "unknown-layer", "supervise.like", "deepsup layers MODEL")
    for words in (
        ["cds"],
        ["dlb"],
        ["equal-compute"],
        ["equal-compute", "supervise.like={method: dhm, at: [nowhere]}"],
    ):
        with pytest.raises(DeepsupError):
            prepare.prepare(training.load(None, ["model=deepsup:resnet-8", f"supervise.method={words[0]}", *words[1:]]))


def test_the_rest_is_looked_at_where_the_batches_are_refused() -> None:
    found = configured("supervise.method=cds", "supervise.at=[layr1]")
    assert [(f.code, f.where) for f in found] == [("one-crop", "data.views"), ("unknown-layer", "layer 'layr1'")]
    found = configured("supervise.method=cds", "supervise.at=auto")
    assert [(f.code, f.where) for f in found] == [("one-crop", "data.views"), ("bad-setting", "supervise.at")]
    found = configured("supervise.method=dlb", "supervise.at=[layer1]")
    assert found.codes == ("no-overlap", "bad-setting")
    assert "attaches no branches" in found.findings[1].what


@pytest.mark.parametrize("method", ["dlb", "adaloss"])
def test_what_an_objective_remembers_is_not_moved(method: str) -> None:
    model = Residual()
    net = ds.attach(model, ds.plan(model, images(), method=method))
    objective, undisturbed = ds.Objective(net.plan), ds.Objective(net.plan)
    batches = list(overlapping([(images(4), labels(4).roll(k)) for k in range(4)]))
    model.eval()  # so that both see the same scores; taps are on by `supervising`
    with ds.supervising(net):
        for x, y in batches[:3]:
            assert_same_terms(objective(net(x), y), undisturbed(net(x), y))
        memory, before = objective.memory, vars(objective).copy()
        values = {name: value.clone() for name, value in memory.items()}
        assert values, "there is something to remember"
        x, y = batches[3]
        assert not ds.diagnose(net, x, y, objective=objective, batches=batches)
        assert objective.memory is memory
        assert all(torch.equal(memory[name], values[name]) for name in values)
        assert vars(objective) == before
        assert_same_terms(objective(net(x), y), undisturbed(net(x), y))


def assert_same_terms(one: ds.Terms, other: ds.Terms) -> None:
    assert torch.equal(one.total, other.total)
    assert {n: float(w) for n, w in one.weights.items()} == {n: float(w) for n, w in other.weights.items()}


def test_a_loss_of_a_branch_that_counts_its_calls_is_run_as_a_copy() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return nn.functional.cross_entropy(prediction, target)

    loss = Counting()
    assert not examined(Plain(), at=["relu1"], branch_loss=loss, loss=loss)
    assert loss.calls == 0


def test_a_mismatch_of_classes_that_are_asked_for_is_a_finding() -> None:
    only(examined(Plain(), at=["relu1"], classes=7), "class-count", "main output", "as many classes as the data")
    assert not examined(Plain(), at=["relu1"], classes=CLASSES)


def test_inputs_of_several_arguments_are_taken_as_they_are() -> None:
    class Pair(Plain):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return super().forward(x) * scale

    assert not ds.diagnose(Pair(), (images(4), torch.ones(())), labels(4), at=["relu1"])
    found = ds.diagnose(Pair(), {"x": images(4), "scale": torch.ones(())}, labels(4) + 3, at=["relu1"])
    only(found, "class-count", "main output", "as many classes as the data")


def test_every_finding_of_a_normalised_output_names_output_and_remedy() -> None:
    assert ds.diagnose(Normalised(nn.Softmax(1)), images(4), at=["relu1"]).codes == ("normalised-scores",)


def test_the_documentation_explains_every_code() -> None:
    from deepsup.doctor.findings import TRAPS

    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert sorted(line[3:] for line in text.splitlines() if line.startswith("## ")) == sorted(TRAPS)
