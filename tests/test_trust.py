"""What a file may name by itself: known sources with plain values; everything else needs a person's word."""

from __future__ import annotations

from typing import Any

import pytest

from deepsup.errors import TrustError
from deepsup.trust import Asked, check, of_network


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deepsup:plain-12", {}),
        ("timm:resnet18.a1_in1k", {"pretrained": True, "drop_rate": 0.1}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("smp:Unet", {"encoder_name": "tu-resnet18"}),
        ("deepsup:pspnet", {"backbone": "timm:resnet50", "widths": [1, 2]}),
        ("deepsup:resnet-20", {"weights": "/data/resnet20.th", "activation": "prelu(init=0.25)"}),
        ("resnet18", {}),
    ],
)
def test_known_sources_with_plain_values_ask_for_nothing(name: str, options: dict[str, Any]) -> None:
    assert of_network(name, options) == []


@pytest.mark.parametrize(
    ("name", "options", "asked", "what"),
    [
        ("os:system", {"command": "rm"}, "os:system", "import the module os and call os:system(command='rm')"),
        ("my.nets:Net", None, "my.nets:Net", "import the module my.nets and call my.nets:Net()"),
        ("Timm:resnet18", {}, "Timm:resnet18", "import the module Timm"),
        (" timm:resnet18", {}, " timm:resnet18", "import"),
        ("timm:hf-hub:evil/net", {}, "timm:hf-hub:evil/net", "let timm fetch 'hf-hub:evil/net'"),
        ("timm:local-dir:/tmp/x", {}, "timm:local-dir:/tmp/x", "let timm fetch"),
        ("timm:resnet18", {"checkpoint_path": "a.pt"}, "checkpoint_path=a.pt", "let timm:resnet18 read checkpoint_path='a.pt'"),
        ("timm:resnet18", {"pretrained_cfg": {"file": "a.pt"}}, "pretrained_cfg={'file': 'a.pt'}", "read pretrained_cfg"),
        ("smp:Unet", {"encoder_name": "tu-hf-hub:evil/net"}, "tu-hf-hub:evil/net", "give smp:Unet the address"),
        ("deepsup:unet", {"deep": [{"backbone": "os:system"}]}, "os:system", "give deepsup:unet the address 'os:system'"),
    ],
)  # fmt: skip
def test_everything_else_is_asked_for_and_shown(
    name: str, options: dict[str, Any] | None, asked: str, what: str
) -> None:
    (found,) = of_network(name, options)
    assert found.name == asked
    assert what in found.what


ASKED = [Asked("mine:Net", "import the module mine and call mine:Net()")]


def test_a_name_that_was_typed_is_trusted_and_only_as_a_whole() -> None:
    for trust in (
        True,
        ["model=mine:Net"],
        ["supervise.head=network(name='mine:Net', options={})"],
        ["x=1", "mine:Net"],
    ):
        check(ASKED, where="a.yaml", trust=trust)
    for trust in (False, [], ["model=mine:Nets"], ["model=my.mine:Net"], ["model=mine"], ["model=a:mine:Net"]):
        with pytest.raises(TrustError):
            check(ASKED, where="a.yaml", trust=trust)
    check([], where="a.yaml", trust=False)


def test_the_error_says_what_would_be_imported_and_how_to_allow_it() -> None:
    with pytest.raises(TrustError) as caught:
        check(ASKED, where="runs/theirs/config.yaml", trust=False)
    for part in ("runs/theirs/config.yaml", "import the module mine and call mine:Net()", "--trust", "trust=True"):
        assert part in str(caught.value)
