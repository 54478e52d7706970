"""Files of tokens: what is read, what each label is, and every way in which a file may be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepsup.datasets.token_files import read_inputs, read_tokens, token_file
from deepsup.errors import DatasetError
from tests.support.tiny_tokens import drawn, save

INPUTS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_whole_numbers_of_every_kind(tmp_path: Path, suffix: str, kind: Any) -> None:
    labels = np.array([[0, 156, 1, 1], [1, 1, 0, 0]]).astype(kind)  # 156 in a byte is -100 in a signed one
    found = read_tokens(save(tmp_path / f"a{suffix}", inputs=INPUTS.astype(kind), labels=labels))
    assert (found.inputs.tolist(), found.labels.tolist()) == (INPUTS.tolist(), labels.astype(int).tolist())
    assert found.follows is found.ahead is False
    assert bool(found.counted.all())


def test_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    labels, mask = np.array([[0, -100, 1, 1], [1, 1, 0, 0]]), np.array([[1, 1, 1, 0], [0, 1, 1, 1]])
    for kind in (bool, np.int8):
        found = read_tokens(save(tmp_path / "a.npz", inputs=INPUTS, labels=labels, mask=mask.astype(kind)))
        assert found.labels.tolist() == [[0, -100, 1, -100], [-100, 1, 0, 0]]


def test_without_labels_the_token_that_follows_is_one(tmp_path: Path) -> None:
    found = read_tokens(save(tmp_path / "a.npz", inputs=INPUTS))
    assert found.labels.tolist() == [[1, 2, 3, -100], [2, 1, 0, -100]]
    assert found.follows is found.ahead is True
    masked = read_tokens(save(tmp_path / "a.npz", inputs=INPUTS, mask=np.array([[1, 1, 0, 1], [1, 1, 1, 1]])))
    assert masked.labels.tolist() == [[1, -100, -100, -100], [2, 1, 0, -100]]


def test_labels_that_are_the_tokens_that_follow_are_known_as_such(tmp_path: Path) -> None:
    inputs = drawn(3, 0)
    after = np.concatenate([inputs[:, 1:], np.full((3, 1), 5)], 1)
    assert read_tokens(save(tmp_path / "a.npz", inputs=inputs, labels=after)).ahead
    assert not read_tokens(save(tmp_path / "a.npz", inputs=inputs, labels=inputs)).ahead
    same = np.zeros((2, 4), int)
    assert not read_tokens(save(tmp_path / "a.npz", inputs=same, labels=same)).ahead


FLAWED = [
    ({"inputs": INPUTS.astype(float)}, r"inputs holds float64, and tokens are whole numbers"),
    ({"inputs": INPUTS > 1}, r"inputs holds bool"),
    ({"inputs": INPUTS[0]}, r"inputs has the shape \(4,\), and sequences are \(N, L\)"),
    ({"inputs": INPUTS[None]}, r"inputs has the shape \(1, 2, 4\)"),
    ({"inputs": INPUTS[:0]}, r"inputs has the shape \(0, 4\)"),
    ({"inputs": np.array([[0, 1], [2]], dtype=object)}, r"Object arrays cannot be loaded"),
    ({"inputs": -INPUTS}, r"inputs has -1 \(row 0, place 1\)\. Write whole numbers from 0 to"),
    ({"inputs": INPUTS * 10**9}, r"inputs has 1000000000 \(row 0, place 1\)"),
    ({"labels": INPUTS * 1.0}, r"labels holds float64"),
    ({"labels": INPUTS - 1}, r"labels has -1 \(row 0, place 0\).* or -100 where none counts"),
    ({"labels": INPUTS[:, :3]}, r"labels has the shape \(2, 3\), and inputs \(2, 4\)"),
    ({"labels": np.full((2, 4), -100)}, r"no label counts in all 2 sequences"),
    ({"inputs": INPUTS[:, :1]}, r"no label counts in all 2 sequences"),
    ({"mask": INPUTS[:1]}, r"mask has the shape \(1, 4\), and inputs \(2, 4\)"),
    ({"mask": INPUTS}, r"mask says where a token counts"),
    ({"mask": np.ones((2, 4))}, r"mask says where a token counts.*floats, whose 0 may mean either"),
    ({"mask": np.zeros((2, 4), bool)}, r"no label counts"),
    ({"inputs": None}, r"has no array 'inputs'"),
    ({"targets": INPUTS, "label": INPUTS}, r"has no array 'labels'\. Closest: label\."),
]


@pytest.mark.parametrize(("flaw", "says"), FLAWED, ids=[says for _, says in FLAWED])
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path: Path, flaw: dict[str, Any], says: str) -> None:
    path = save(tmp_path / "a.npz", **{"inputs": INPUTS, **flaw})
    with pytest.raises(DatasetError, match=rf"{path}.*{says}"):
        read_tokens(path)


def test_one_file_a_part(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere is not a folder"):
        token_file(tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match=r"has no train\.npz or train\.safetensors\. It has: nothing"):
        token_file(tmp_path, "train")
    save(tmp_path / "train.safetensors", inputs=INPUTS)
    assert token_file(tmp_path, "train").name == "train.safetensors"
    save(tmp_path / "train.npz", inputs=INPUTS)
    with pytest.raises(DatasetError, match=r"train\.npz and train\.safetensors are both there"):
        token_file(tmp_path, "train")


def test_new_sequences_are_those_that_the_net_knows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", inputs=INPUTS, labels=INPUTS * 1.0)  # what is not read may be anything
    assert read_inputs(path, symbols=4, length=9).tolist() == INPUTS.tolist()
    with pytest.raises(DatasetError, match=r"a\.npz has sequences of 4 tokens, and the net was trained on 3"):
        read_inputs(path, symbols=4, length=3)
    with pytest.raises(
        DatasetError, match=r"a\.npz: inputs has 3 \(row 0, place 3\), and the net was trained with 0 to 2"
    ):
        read_inputs(path, symbols=3, length=4)
