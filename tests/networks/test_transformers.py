"""The transformer of tokens: GPT-2's count, what a place sees, and what it may not be asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from deepsup import networks
from deepsup.errors import ConfigError
from tests.support.paper_nets import parameters

torch.set_num_threads(1)


def tiny(**options: Any) -> networks.transformers.Transformer:
    return networks.transformer(2, classes=5, in_channels=7, size=6, width=8, heads=2, **options).eval()


def test_parameters_are_gpt2s_and_an_output_layer() -> None:
    with torch.device("meta"):
        model = networks.transformer(12, classes=50257, in_channels=50257, size=1024, width=768, heads=12)
    assert parameters(model) - parameters(model.fc) == 124_439_808


@pytest.mark.parametrize("causal", [True, False])
def test_a_place_sees_those_before_it_and_with_causal_none_behind(causal: bool) -> None:
    torch.manual_seed(0)
    model, x = tiny(causal=causal), torch.tensor([[0, 1, 2, 3, 4, 5]])
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    changed = x.clone()
    changed[0, 3] = 6
    one, two = model(x), model(changed)
    assert one.shape == (1, 6, 5)
    assert torch.equal(one[:, :3], two[:, :3]) == causal
    assert all(not torch.equal(one[:, place], two[:, place]) for place in range(3, 6))


def test_a_block_is_that_of_a_slow_loop() -> None:
    torch.manual_seed(0)
    block, x = tiny().blocks[0], torch.randn(1, 4, 8)
    q, k, v = block.attention.mix(block.norm1(x))[0].split(8, -1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        rows = []
        for i in range(4):
            shares = torch.softmax(torch.stack([q[i, h] @ k[j, h] / 2 for j in range(i + 1)]), 0)
            rows.append(sum(s * v[j, h] for j, s in enumerate(shares)))
        heads.append(torch.stack(rows))
    seen = x + block.attention.out(torch.cat(heads, -1))[None]
    hidden = F.gelu(block.mlp[0](block.norm2(seen)), approximate="tanh")
    assert torch.allclose(block(x), seen + block.mlp[2](hidden), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 10}, "width=10 cannot be shared by heads=4"),
        ({"heads": 0}, "heads=0 must be a whole number"),
        ({"causal": "no"}, "causal='no' must be true or false"),
        ({"dropout": 1}, "dropout=1 must be"),
        ({"depth": 3}, "no option depth. It takes: width, heads, dropout, causal"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        networks.build("deepsup:transformer-2", classes=3, in_channels=5, size=8, options=options)


def test_who_reads_what_and_what_can_be_shown() -> None:
    told = {"deepsup:transformer-4": "tokens", "deepsup:plain-12": "images", "timm:resnet18": "images"}
    assert {spec: networks.reads(spec) for spec in told} == told
    assert networks.reads("mine:net") is networks.reads("deepsup:nothing") is None
    assert networks.sample("deepsup:transformer-4", channels=3, size=4).tolist() == [[0, 1, 2, 0], [1, 2, 0, 1]]
    assert networks.sample("deepsup:plain-12", channels=3, size=4).shape == (2, 3, 4, 4)
