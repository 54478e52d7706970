"""One process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.errors import ConfigError
from deepsup.training import locks


def test_a_folder_is_one_process_own_and_free_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)
    with locks.locked(tmp_path / "new", enabled=True):
        with (
            pytest.raises(ConfigError, match="another process is at work in"),
            locks.locked(tmp_path / "new", enabled=True),
        ):
            pass
        with locks.locked(tmp_path / "new", enabled=False):
            pass
    assert not (tmp_path / "new").exists()  # nothing came of it
    with locks.locked(tmp_path, enabled=True):
        (tmp_path / "kept").touch()
    assert (tmp_path / "kept").exists()
