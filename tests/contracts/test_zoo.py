"""A sample of the model zoos, held to every law; `benchmarks/zoo.py` runs them all, `docs/zoo.md` tells what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import OutputError
from deepsup.plans import branch_layers
from tests.support.small_nets import CLASSES, Plain

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "zoo.json"
sys.path.insert(0, str(BENCHMARKS))

import zoo  # noqa: E402
import zoo_laws  # noqa: E402
import zoo_page  # noqa: E402
from zoo_models import Entry, Model, PlainError, catalogue, images  # noqa: E402

SAMPLE = """
torchvision:densenet:densenet121              torchvision:efficientnet:efficientnet_b0
torchvision:googlenet:googlenet               torchvision:mobilenetv3:mobilenet_v3_small
torchvision:resnet:resnet18                   torchvision:shufflenetv2:shufflenet_v2_x0_5
torchvision:squeezenet:squeezenet1_1          torchvision:segmentation:lraspp_mobilenet_v3_large
torchvision:video:r3d_18
timm:convnext:convnext_atto                   timm:levit:levit_128s
timm:edgenext:edgenext_xx_small               timm:mobilevit:mobilevit_xxs
timm:fasternet:fasternet_t0                   timm:nest:nest_tiny
timm:mambaout:mambaout_femto                  timm:starnet:starnet_s050
timm:pit:pit_ti_224                           timm:swin_transformer:swin_tiny_patch4_window7_224
timm:vovnet:ese_vovnet19b_slim_dw             timm:xcit:xcit_nano_12_p8_224
transformers:resnet                           transformers:convnext
transformers:vit                              transformers:swin
transformers:segformer                        transformers:dpt
transformers:detr                             transformers:deformable_detr
transformers:dinov2                           transformers:upernet
transformers:mobilevit
monai:unet_2d                                 monai:unet_3d
monai:dynunet_deep_2d                         monai:segresnet_ds_deep_2d
monai:densenet_2d                             monai:swin_unetr_2d
smp:Unet:resnet18                             smp:FPN:mobilenet_v2
smp:DeepLabV3Plus:resnet18                    smp:Segformer:mobilenet_v2
"""


@pytest.mark.parametrize("key", SAMPLE.split())
def test_a_model_of_a_zoo_keeps_every_law(key: str) -> None:
    row = zoo.run(Entry(*key.split(":")))
    assert (row["outcome"], row["message"]) == ("pass", "")
    assert len(row["layers"]) == 2


def test_the_page_tells_what_the_results_say() -> None:
    assert zoo_page.PAGE.read_text() == zoo_page.page(json.loads(RESULTS.read_text()))


def test_the_results_hold_every_entry_of_the_catalogue() -> None:
    results = json.loads(RESULTS.read_text())
    if any(results["versions"][p] != metadata.version(p) for p in ("timm", "torchvision")):
        pytest.skip("the results were made with other versions, which have other families")
    assert [r["key"] for r in results["rows"]] == [e.key for e in catalogue()]


def small(build: Any = Plain) -> Model:
    def built() -> nn.Module:
        torch.manual_seed(7)
        net: nn.Module = build()
        return net

    return Model("small", built, images(16), shape=(2, 3, 16, 16))


def examined(model: Model) -> ds.Plan | None:
    findings = zoo_laws.Findings()
    zoo_laws.examine(model, findings)
    assert not findings.doubts
    return findings.plan


def test_the_laws_hold_on_a_plain_net() -> None:
    assert examined(small()) is not None


class Mixing(nn.Module):
    """Subtracts the mean over the batch, so that no answer is a sample's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x - x.mean(0, keepdim=True))
        return self.fc(self.second(y.relu()).mean((2, 3)))


class Whimsical(Mixing):
    """Two runs from one seed differ."""

    drawn = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x * torch.rand((), generator=self.drawn)) if self.training else self.first(x)
        return self.fc(self.second(y.relu()).mean((2, 3)))


class Several(Mixing):
    """Returns two tensors and names none."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.first(x)
        return {"one": self.fc(y.mean((2, 3))), "other": self.fc(self.second(y).mean((2, 3)))}


def break_nothing(patch: pytest.MonkeyPatch) -> None:
    pass


def leave_taps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ds.supervision.stripping, "remove_taps", lambda *_: None)


def run_heads_in_eval(patch: pytest.MonkeyPatch) -> None:
    plain = ds.Supervised.forward

    def forward(self: ds.Supervised, *args: Any, **kwargs: Any) -> Any:
        with ds.supervising(self):
            return plain(self, *args, **kwargs).main if not self.training else plain(self, *args, **kwargs)

    patch.setattr(ds.Supervised, "forward", forward)


def share_the_random_stream(patch: pytest.MonkeyPatch) -> None:
    class Shared:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    patch.setattr(ds.Supervised, "_own_random_stream", lambda self: Shared())


def forget_to_restore(patch: pytest.MonkeyPatch) -> None:
    trace = branch_layers.trace_of_all

    def leaving(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        model.register_forward_hook(lambda *_: None)
        return trace(model, *args, **kwargs)

    patch.setattr(branch_layers, "trace_of_all", leaving)


def cut_the_branches(patch: pytest.MonkeyPatch) -> None:
    predict = ds.Supervised._predict
    patch.setattr(
        ds.Supervised,
        "_predict",
        lambda self, branch, seen, mask: predict(self, branch, {k: v.detach() for k, v in seen.items()}, mask),
    )


@pytest.mark.parametrize(
    ("build", "spoil", "error", "law"),
    [
        (Mixing, break_nothing, zoo_laws.BrokenLaw, "batch: .* mixes samples"),
        (Whimsical, break_nothing, PlainError, "nondeterministic"),
        (Several, break_nothing, OutputError, "Say which one is meant"),
        (Plain, leave_taps, zoo_laws.BrokenLaw, "strip: taps are left"),
        (Plain, run_heads_in_eval, zoo_laws.BrokenLaw, "eval: a head ran"),
        (Plain, share_the_random_stream, zoo_laws.BrokenLaw, "zero: the state agrees; the random streams differ"),
        (Plain, forget_to_restore, zoo_laws.BrokenLaw, "no trace: hooks changed"),
        (Plain, cut_the_branches, zoo_laws.BrokenLaw, "batch: .* does not see its own sample"),
    ],
)
def test_what_breaks_a_law_is_found(
    build: Any, spoil: Any, error: type[Exception], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    with pytest.raises(error, match=law):
        examined(small(build))


def test_channels_on_the_wrong_axis_are_doubted() -> None:
    model = small()
    net = model.build()
    plan = zoo_laws.planned(model, net)
    assert zoo_laws.doubtful_layouts(model, net, plan) == []
    turned = [replace(b, feature=ds.Feature(b.feature.shape, "NHWC")) for b in plan.branches]
    assert len(zoo_laws.doubtful_layouts(model, net, replace(plan, branches=tuple(turned)))) == 2


def test_a_model_that_fails_or_hangs_costs_its_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(zoo.run_all([Entry("monai", "no-such-net"), Entry("monai", "resnet_2d")], jobs=1, limit=0.0))
    assert {e.family: r["outcome"] for e, r in rows.items()} == {"no-such-net": "failed", "resnet_2d": "failed"}
    assert all("no answer in 0 s" in r["message"] for r in rows.values())


def rows() -> Iterator[dict[str, Any]]:
    for zoo_name, outcome, message in (
        ("timm", "pass", ""),
        ("monai", "refused", "OutputError: two"),
        ("smp", "plain", "no"),
    ):
        yield {
            "zoo": zoo_name,
            "family": "f",
            "name": "n",
            "input": [2, 3, 8, 8],
            "outcome": outcome,
            "message": message,
            "layers": [{"layer": "a", "shape": [4, 2, 2], "layout": "NCHW"}],
        }


def test_the_page_lists_what_did_not_pass_with_its_reason() -> None:
    text = zoo_page.page({"command": "c", "hardware": "h", "versions": {"torch": "1"}, "rows": list(rows())})
    assert "| all | 3 | 1 | 1 | 1 |" in text
    assert "say which one with `main=`:\n\n- MONAI `n`: OutputError: two" in text
    assert "## Fail without deepsup" in text
    assert "## Fail\n" not in text
    assert "| f | `n` | 3x8x8 | `a` 4x2x2 NCHW | pass |" in text
