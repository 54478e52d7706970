"""OSNet against its paper: parameters, multiply-adds, and what a block computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.layers.last_linear import LastLinear, last_linear
from tests.support.paper_nets import norm, on_meta, parameters, shapes
from tests.support.small_nets import unsettled

torch.set_num_threads(1)

# Zhou et al. 2019, by width: millions of parameters and of multiply-adds at 256x128, without the classifier
PUBLISHED = {0.25: ("0.2", "82.3"), 0.5: ("0.6", "272.9"), 0.75: ("1.3", "571.8"), 1.0: ("2.2", "978.9")}


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters_and_multiply_adds_are_those_published(width: float) -> None:
    model = on_meta("deepsup:osnet", classes=751, options={"width": width})
    size, work = PUBLISHED[width]
    assert f"{(parameters(model) - 751 * 513) / 1e6:.1f}" == size
    assert width != 1 or parameters(model) - 751 * 513 == 2_169_508
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 256, 128, device="meta"))
    assert f"{(counter.get_total_flops() / 2 - 751 * 512) / 1e6:.1f}" == work


def test_stages_are_those_of_table_1() -> None:
    names = ["relu1", "maxpool", "layer1", "transition1", "layer2", "transition2", "layer3", "relu5", "relu6", "fc"]
    assert shapes(on_meta("deepsup:osnet"), names, 256) == [
        (64, 128, 128),
        (64, 64, 64),
        (256, 64, 64),
        (256, 32, 32),
        (384, 32, 32),
        (384, 16, 16),
        (512, 16, 16),
        (512, 16, 16),
        (512,),
        (10,),
    ]


def test_a_block_adds_gated_streams_of_one_to_four_light_convolutions() -> None:
    torch.manual_seed(0)
    model = unsettled(networks.build("deepsup:osnet", classes=5, options={"width": 0.25})).double()
    block, s = model.layer1[0], {k.removeprefix("layer1.0."): v for k, v in model.state_dict().items()}
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    seen = F.relu(norm(s, "conv1.1", F.conv2d(x, s["conv1.0.weight"])))
    total = torch.zeros_like(seen)
    for stream in range(4):
        y = seen
        for light in range(stream + 1):
            at = f"streams.{stream}.{light}"
            y = F.conv2d(y, s[f"{at}.0.weight"])
            y = F.relu(norm(s, f"{at}.2", F.conv2d(y, s[f"{at}.1.weight"], padding=1, groups=16)))
        gate = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), s["gate.fc1.weight"], s["gate.fc1.bias"]))
        total += y * F.conv2d(gate, s["gate.fc2.weight"], s["gate.fc2.bias"]).sigmoid()
    residual = norm(s, "conv3.1", F.conv2d(total, s["conv3.0.weight"]))
    shortcut = norm(s, "shortcut.1", F.conv2d(x, s["shortcut.0.weight"]))
    torch.testing.assert_close(block(x), F.relu(residual + shortcut), rtol=1e-9, atol=1e-12)


def test_the_embedding_is_512_wide_and_methods_place_themselves() -> None:
    torch.manual_seed(0)
    model, x = networks.build("deepsup:osnet", classes=5, options={"width": 0.25}), torch.randn(2, 3, 64, 32)
    assert last_linear(model, lambda: model(x)) == LastLinear("fc")
    plan = ds.plan(model, x, method="adaloss", embedding_loss="triplet")
    assert [b.layer for b in plan.branches] == ["layer1", "layer2"]
    net = ds.attach(model, plan)
    ds.Objective(plan)(net(torch.randn(4, 3, 64, 32)), torch.tensor([0, 0, 1, 1]), progress=0.5).total.backward()
    found = ds.embeddings(net.eval(), x)
    assert {name: t.shape[1] for name, t in found.items()} == {
        "main": 512,
        "layer1": 64,
        "layer2": 96,
        "ensemble": 672,
    }


def test_it_begins_as_in_the_authors_code() -> None:
    torch.manual_seed(0)
    model = networks.osnet(classes=100)
    assert float(model.fc1.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    last = model.conv5
    assert isinstance(last, nn.Conv2d)
    assert float(last.weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert not any(layer.bias.any() for layer in (model.fc, model.layer1[0].gate.fc1))


@pytest.mark.parametrize("width", [0, 2, True, "1"])
def test_other_widths_are_refused(width: object) -> None:
    with pytest.raises(ConfigError, match=r"OSNet has the widths 0\.25, 0\.5, 0\.75, 1\.0"):
        networks.build("deepsup:osnet", classes=5, options={"width": width})
