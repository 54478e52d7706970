"""Who is on an image: by the beginning of base names, or by folders; numbered by sorted identity, whatever the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.datasets.identity_names import (
    CAMERA,
    USUAL,
    Marked,
    by_file,
    by_folder,
    cameras,
    classes,
    pattern_of,
    people,
)
from deepsup.errors import ConfigError, DatasetError
from tests.support.tiny_identities import write_names


def marked(*said: tuple[str, str | None]) -> list[Marked]:
    return [Marked(Path(f"{who}.jpg"), f"{who}.jpg", who, camera) for who, camera in said]


def named(*names: str) -> list[Marked]:
    return marked(*((name, None) for name in names))


@pytest.mark.parametrize(
    ("name", "identity", "camera"),
    [
        ("0002_c1s1_000451_03.jpg", "0002", "1"),  # Market-1501
        ("-1_c3s2_000451_03.jpg", "-1", "3"),
        ("0005_c2_f0046985.jpg", "0005", "2"),  # DukeMTMC-reID
        ("0001_c001_00016450_0.jpg", "0001", "001"),  # VeRi-776
        ("0002_c1s1_000451_03.jpg.jpg", "0002", "1"),  # as six queries of Market-1501 are called
        ("12_c14.png", "12", "14"),
    ],
)
def test_the_names_of_the_published_sets(tmp_path: Path, name: str, identity: str, camera: str) -> None:
    write_names(tmp_path, [name])
    (mark,) = by_file(tmp_path, tmp_path, pattern_of(USUAL)).images
    assert (mark.identity, mark.camera, mark.name, mark.path) == (identity, camera, name, tmp_path / name)


def test_only_base_names_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "01_c2" / "query"
    write_names(folder, ["0007_c3s1_000001_00.jpg"])
    (mark,) = by_file(folder, tmp_path, pattern_of(USUAL)).images
    assert (mark.identity, mark.camera) == ("0007", "3")
    write_names(folder, ["portrait.jpg", "shot_0001_c2.jpg"])
    with pytest.raises(
        DatasetError, match=r"2 of 3 images in .*query have names of another form than .*, such as"
    ) as found:
        by_file(folder, tmp_path, pattern_of(USUAL))
    assert "portrait.jpg, shot_0001_c2.jpg. Only file names are read" in str(found.value)


def test_what_lies_beside_the_images_is_counted(tmp_path: Path) -> None:
    write_names(tmp_path, ["0002_c1.jpg", "0001_c1.jpg"])
    (tmp_path / "Thumbs.db").touch()
    (tmp_path / "._0001_c1.jpg").touch()
    write_names(tmp_path / "__MACOSX", ["0009_c1.jpg"])
    found = by_file(tmp_path, tmp_path, pattern_of(USUAL))
    assert [mark.identity for mark in found.images] == ["0001", "0002"]
    assert dict(found.skipped) == {"*.db": 1, "hidden": 2}


def test_folders_say_who_it_is_and_two_files_may_have_one_name(tmp_path: Path) -> None:
    write_names(tmp_path, ["bert/c1_0.png", "bert/x/c2_0.png", "anna/c1_0.png"])
    found = by_folder(tmp_path, tmp_path, pattern_of(CAMERA), asked=False)
    assert [(m.name, m.identity, m.camera) for m in found.images] == [
        ("anna/c1_0.png", "anna", "1"),
        ("bert/c1_0.png", "bert", "1"),
        ("bert/x/c2_0.png", "bert", "2"),
    ]


def test_a_camera_is_in_all_names_or_in_none(tmp_path: Path) -> None:
    write_names(tmp_path, ["anna/1.png", "bert/2.png"])
    found = by_folder(tmp_path, tmp_path, pattern_of(CAMERA), asked=False)
    assert [m.camera for m in found.images] == [None, None]
    with pytest.raises(DatasetError, match="2 of 2 images"):
        by_folder(tmp_path, tmp_path, pattern_of(CAMERA), asked=True)
    write_names(tmp_path, ["bert/c3_1.png"])
    with pytest.raises(DatasetError, match=r"2 of 3 images .*such as 1\.png, 2\.png"):
        by_folder(tmp_path, tmp_path, pattern_of(CAMERA), asked=False)


def test_a_part_of_a_pattern_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    write_names(tmp_path, ["a1_c2.png", "b_c2.png"])
    with pytest.raises(DatasetError, match=r"1 of 2 images .* such as b_c2\.png"):
        by_file(tmp_path, tmp_path, pattern_of(r"[ab](?P<identity>\d+)?_c(?P<camera>\d)"))


def test_cameras_are_of_all_images_or_of_none() -> None:
    with pytest.raises(DatasetError, match=r"1 of 2 have none in their names, such as 2\.jpg"):
        cameras(marked(("1", "1"), ("2", None)))
    alone, both = cameras(named("1"), marked(("1", "1")))
    assert alone is None
    assert both is not None


def test_classes_are_numbered_by_sorted_identity() -> None:
    labels, names = classes(named("0010", "0002", "0002", "0009"))
    assert (labels.tolist(), names) == ([2, 0, 0, 1], ["0002", "0009", "0010"])
    assert classes(named("10", "9"))[1] == ["9", "10"]
    assert classes(named("10", "9", "anna"))[1] == ["10", "9", "anna"]


def test_people_keep_their_numbers_and_names_get_some() -> None:
    assert people(named("0003"), named("0003", "0000", "-1", "0012")).tolist() == [3, 3, 0, -1, 12]
    assert people(named("bert"), named("anna", "bert", "0", "-1", "7")).tolist() == [3, 2, 3, 0, -1, 1]


def test_cameras_are_numbered_alike_in_all_parts() -> None:
    first, second = cameras(marked(("1", "003")), marked(("1", "1"), ("2", "12")))
    assert first is not None
    assert second is not None
    assert (first.tolist(), second.tolist()) == ([3], [1, 12])
    first, second = cameras(marked(("1", "west")), marked(("1", "east")))
    assert first is not None
    assert second is not None
    assert (first.tolist(), second.tolist()) == ([2], [1])
    assert cameras(named("1"), named("2")) == [None, None]


@pytest.mark.parametrize("part", ["training", "query"])
@pytest.mark.parametrize("who", ["-1", "0000"])
def test_nobody_is_trained_on_or_looked_for(part: str, who: str) -> None:
    images = named("0003", who)
    with pytest.raises(DatasetError, match=rf"1 of the {part} images are of nobody, such as {who}\.jpg"):
        classes(images) if part == "training" else people(images, named("0003"))


def test_a_number_is_written_one_way() -> None:
    with pytest.raises(DatasetError, match="the identities '0003' and '3' have one number"):
        people(named("0003"), named("3"))
    with pytest.raises(DatasetError, match="'-2' is no number of an identity"):
        people(named("0003"), named("-2"))


def test_patterns_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="is no regular expression"):
        pattern_of("(?P<identity>")
    with pytest.raises(ConfigError, match="names nothing"):
        pattern_of(r"\d+_c\d+")
