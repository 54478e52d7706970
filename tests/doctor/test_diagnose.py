"""What one call finds in whole set-ups: healthy ones, broken ones, and those of settings."""

from __future__ import annotations

import random
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import deepsup as ds
from deepsup import networks
from deepsup.errors import DeepsupError
from deepsup.methods import METHODS
from deepsup.settings import configs
from deepsup.training import prepare
from tests.support.odd_nets import Dropping
from tests.support.patients import Normalised, among, attached, examined, one_process, only
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
    among(found, "reused-layer", "layer 'relu'", "choose the block around it")
    among(found, "unknown-branch", "branch 'lat'", "early, late, relu, typo")
    assert [f.severity for f in found] == sorted(f.severity for f in found), "errors come first"


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
    found = prepare.diagnose(configs.load(None, [*words, "supervise.probe.iterations=1", setting]))[""]
    only(found, code, setting.split("=")[0])


HEALTHY = {  # what a method needs besides its name, in settings
    "aux": ["supervise.at=[layer1, layer2]"],
    "cnds": ["supervise.at=[layer1]"],
    "cnds-released": ["supervise.at=[layer1]"],
    "equal-compute": ["supervise.like={method: dhm}"],
}


def configured(*words: str) -> ds.Diagnosis:
    """What `deepsup doctor` says of a small net on digits with these settings."""
    return prepare.diagnose(configs.load(None, ["model=deepsup:resnet-8", "epochs=1", "data.limit=64", *words]))[""]


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
    assert not ds.diagnose(TinySegmenter(1), x, y, method="pspnet", loss="binary")
    only(ds.diagnose(TinySegmenter(1), x, y, method="pspnet"), "class-count", "main output", "loss='binary'")
    sigmoid = nn.Sequential(TinySegmenter(1), nn.Sigmoid())
    found = ds.diagnose(sigmoid, x, y, at=["0.layer2"], loss="binary")
    only(found, "normalised-scores", "main output", "remove the sigmoid", severity="warning")
    y[y < 0] = 255
    found = ds.diagnose(TinySegmenter(), x, y, method="pspnet")
    only(found, "class-count", "main output", "plan(..., loss='cross_entropy(ignore_index=255)'")
    told = ds.diagnose(TinySegmenter(), x, y, method="pspnet", loss="cross_entropy(ignore_index=255)")
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
    assert not unsqueezed  # labels with an axis of one are labels


def test_settings_that_a_run_would_refuse_are_findings_by_their_key() -> None:
    found = configured("supervise.method=cds", "data.views=1")
    fix = only(found, "one-crop", "data.views", "Set data.views=2", "data.augment=standard")
    assert "compares 2 crops" in fix.what
    only(
        configured("supervise.method=dlb", "data.overlap=false"), "no-overlap", "data.overlap", "Set data.overlap=true"
    )
    found = configured("supervise.method=equal-compute")
    assert "needs supervise.like" in only(found, "bad-setting", "supervise.like").what
    found = configured("supervise.method=equal-compute", "supervise.like={method: dhm, at: [nowhere]}")
    only(found, "unknown-layer", "supervise.like", "deepsup layers MODEL")
    for words in (
        ["cds", "data.views=1"],
        ["dlb", "data.overlap=false"],
        ["equal-compute"],
        ["equal-compute", "supervise.like={method: dhm, at: [nowhere]}"],
    ):
        with pytest.raises(DeepsupError):
            prepare.prepare(configs.load(None, ["model=deepsup:resnet-8", f"supervise.method={words[0]}", *words[1:]]))


def test_the_rest_is_looked_at_where_the_batches_are_refused() -> None:
    found = configured("supervise.method=cds", "data.views=1", "supervise.at=[layr1]")
    assert [(f.code, f.where) for f in found] == [("one-crop", "data.views"), ("unknown-layer", "layer 'layr1'")]
    found = configured("supervise.method=cds", "data.views=1", "supervise.at=auto")
    assert [(f.code, f.where) for f in found] == [("one-crop", "data.views"), ("bad-setting", "supervise.at")]
    found = configured("supervise.method=dlb", "data.overlap=false", "supervise.at=[layer1]")
    assert found.codes == ("no-overlap", "bad-setting")
    assert "attaches no branches" in found.findings[1].what


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


def test_a_layer_that_is_dropped_by_chance_is_one_that_runs() -> None:
    for seed in range(6):
        random.seed(seed)
        model, x = Dropping().train(), torch.randn(4, 3)
        net = ds.attach(model, ds.plan(model, x, ["blocks.2"], optional=True))
        assert not ds.diagnose(net, x, labels(4))
