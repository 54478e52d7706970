"""Networks from elsewhere in settings: found wherever they stand, allowed where they were typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deepsup.errors import TrustError
from deepsup.settings import configs
from deepsup.settings.foreign import asks

HEAD = "network(name='mine:Net', options={'width': 3})"
ARMS: dict[str, Any] = {"arms": {"none": {"supervise": None}, "b": {"supervise": {"method": "aux", "at": ["a"]}}}}
FILES: list[dict[str, Any]] = [
    {"model": "mine:Net"},
    {"supervise": {"at": ["a"], "head": HEAD}},
    {"supervise": {"at": {"x": "a", "y": "b"}, "head": {"y": HEAD}}},
    {"supervise": {"method": "equal-compute", "like": {"at": ["a"], "head": HEAD}}},
    {"base": {"model": "mine:Net"}, **ARMS},
    {"groups": {"g": {"model": "mine:Net"}}, **ARMS},
    {"arms": {**ARMS["arms"], "c": {"model": "mine:Net"}}},
    {"methods": {"none": None, "mine": {"method": "aux", "at": ["a"], "head": HEAD}}},
    {"vary": {"model": ["deepsup:plain-4", "mine:Net"]}},
]


def written(content: dict[str, Any], folder: Path) -> Path:
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    return folder / "c.yaml"


@pytest.mark.parametrize("content", FILES, ids=range(len(FILES)))
def test_a_network_from_elsewhere_in_a_file_is_refused_wherever_it_stands(
    content: dict[str, Any], tmp_path: Path
) -> None:
    file = written(content, tmp_path)
    with pytest.raises(TrustError, match=r"c\.yaml asks for code .* import the module mine and call mine:Net\("):
        configs.load(file)
    config = configs.load(file, trust=True)
    assert configs.asked_names(config) == ("mine:Net",)
    assert configs.load(file, trust=["mine:Net"]) == config
    assert configs.parse(content) == config  # in Python it is typed


def test_what_is_typed_over_a_file_is_the_users_word(tmp_path: Path) -> None:
    file = written({"model": "mine:Net", "epochs": 3}, tmp_path)
    for typed in ("model=mine:Net", "model=deepsup:plain-4"):
        assert configs.load(file, [typed]).epochs == 3  # type: ignore[union-attr]
    with pytest.raises(TrustError):
        configs.load(file, ["model_options={width: 2}"])
    configs.load(None, ["model=mine:Net"])
    typed_head = written({"supervise": {"at": ["a"]}}, tmp_path)
    assert configs.asked_names(configs.load(typed_head, [f'supervise.head="{HEAD}"'])) == ("mine:Net",)


def test_known_networks_and_heads_ask_for_nothing(tmp_path: Path) -> None:
    content = {"model": "timm:resnet18", "supervise": {"at": ["a"], "head": "network(name='timm:resnet18')"}}
    assert asks(configs.load(written(content, tmp_path)).model_dump()) == []
    content = {"model": "deepsup:plain-4", "supervise": {"at": ["a"], "head": "no head at all"}}
    assert asks(configs.load(written(content, tmp_path)).model_dump()) == []
