"""Files of anybody: nothing hangs, and everything that is wrong has one kind of error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepsup import documents


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "", "{", b"\xff", "nul"])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        documents.parsed(text)


def test_json_is_parsed() -> None:
    assert documents.parsed(b'{"a": [1, null]}') == {"a": [1, None]}


def test_a_file_is_read_and_anything_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert documents.content(tmp_path / "file") == b"12345"
    assert documents.content(tmp_path / "file", most=2) == b"12"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "loop", "folder"):
        assert documents.is_odd(tmp_path / name)
        with pytest.raises(OSError, match=name):
            documents.content(tmp_path / name)
    assert not documents.is_odd(tmp_path / "file")
    assert not documents.is_odd(tmp_path / "nothing")
