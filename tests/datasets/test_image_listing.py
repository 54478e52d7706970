"""Which files in a folder are images."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deepsup.datasets.image_listing import AGAIN, FOLDER, HIDDEN, IRREGULAR, folders_in, is_hidden, listed
from deepsup.errors import DatasetError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("b.png", "a b.JPG", "sub/c.TIFF", "sub/deep/d.webp", "10.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path, *, below: bool = True) -> list[str]:
    return [str(path.relative_to(folder)) for path in listed(folder, below=below).files]


def test_images_whatever_case_and_depth(place: Path) -> None:
    assert names(place, below=False) == ["10.gif", "a b.JPG", "b.png"]
    assert names(place) == ["10.gif", "a b.JPG", "b.png", "sub/c.TIFF", "sub/deep/d.webp"]
    assert not listed(place, below=True).skipped
    assert listed(place).skipped == {FOLDER: 1}


def test_hidden_files_and_those_of_systems_are_none(place: Path) -> None:
    before = names(place)
    for name in ("._b.png", ".DS_Store", "__MACOSX/._b.png", "@eaDir/b.png", ".ipynb_checkpoints/b-checkpoint.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    assert names(place) == before
    assert listed(place, below=True).skipped == {HIDDEN: 5}
    assert [path.name for path in folders_in(place)] == ["sub"]
    assert is_hidden(".x")
    assert not is_hidden("x")


def test_others_are_counted_by_reason(place: Path) -> None:
    for name in ("Thumbs.db", "a.heic", "b.heic", "README"):
        (place / name).touch()
    assert listed(place, below=True).skipped == {"*.db": 1, "*.heic": 2, "without a suffix": 1}


def test_only_regular_files_are_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(place)
    os.mkfifo(place / "pipe.png")
    (place / "device.png").symlink_to("/dev/null")
    (place / "folder.png").mkdir()
    monkeypatch.chdir(place)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert names(place) == before
        assert listed(place, below=True).skipped == {IRREGULAR: 3}


def test_a_file_counts_once_whatever_links_lead_to_it(place: Path) -> None:
    before = names(place)
    (place / "z.png").symlink_to(place / "b.png")
    (place / "zub").symlink_to(place / "sub")
    assert names(place) == before
    assert listed(place, below=True).skipped == {AGAIN: 3}
    assert "z.png" in names(place, below=False)  # in one folder names are what counts: two images may share a mask


@pytest.mark.parametrize("target", [".", "..", "deep"])
def test_a_link_to_a_folder_that_it_lies_in_is_refused(place: Path, target: str) -> None:
    (place / "sub" / "deep" / "loop").symlink_to(Path("..") / target if target != "." else Path("."))
    with pytest.raises(DatasetError, match=r"loop.* leads through a link back to .*, which it lies in"):
        listed(place, below=True)


def test_a_link_to_nothing_is_left_to_the_reader(place: Path) -> None:
    (place / "gone.png").symlink_to(place / "nowhere.png")
    assert "gone.png" in names(place)
