"""Every layout of identities, from tiny files: who and which camera, junk and distractors, sorted, or an error with a name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepsup import datasets
from deepsup.datasets import Dataset, IdentitySplit
from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.search import How
from tests.support.drawn_search import pixels
from tests.support.tiny_identities import GALLERY, QUERY, TRAIN, write_market, write_names, write_own


def parts(data: Dataset) -> tuple[IdentitySplit, IdentitySplit]:
    assert isinstance(data.train, IdentitySplit)
    assert isinstance(data.validation, IdentitySplit)
    return data.train, data.validation


def cameras(split: IdentitySplit) -> list[int] | None:
    return None if split.cameras is None else split.cameras.tolist()


def load(name: str, root: Path, **options: Any) -> Dataset:
    return datasets.load(name, root=root, **{"size": [16, 8]} | options)


class TestMarket:
    def test_all_of_it(self, tmp_path: Path) -> None:
        data = load("market1501", write_market(tmp_path))
        train, test = parts(data)
        assert data.task == "re-identification"
        assert train.class_names == test.class_names == ("0002", "0007", "0011")
        assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert cameras(train) == [1, 1, 2, 2] * 3
        assert train.names == tuple(f"bounding_box_train/{name}" for name in TRAIN)
        gallery = sorted(GALLERY)
        assert test.names == tuple([f"query/{n}" for n in QUERY] + [f"bounding_box_test/{n}" for n in gallery])
        assert test.identities.tolist() == [3, 5, -1, 0, 3, 3, 5]
        assert cameras(test) == [1, 2, 2, 1, 1, 2, 1]
        assert test.queries.tolist() == [True, True] + [False] * 5
        assert data.found.lines[:2] == [
            f"training: 12 images (RGB), 64x32, {_values(data, 0)}; 3 identities of 4 images each, 2 cameras",
            f"validation: 7 images (RGB), 64x32, {_values(data, 1)}; 2 queries of 2 identities, a gallery of 5 (1 distractor, "
            "1 junk), 2 cameras",
        ]

    def test_the_default_is_upright_and_the_folder_of_the_archive_is_found(self, tmp_path: Path) -> None:
        write_market(tmp_path / "Market-1501-v15.09.15")
        assert datasets.load("market1501", root=tmp_path).train.shape == (256, 128)

    def test_the_order_of_files_on_the_disk_is_of_no_matter(self, tmp_path: Path) -> None:
        one = load("market1501", write_market(tmp_path / "a"))
        write_market(tmp_path / "b", train=TRAIN[::-1], query=QUERY[::-1], gallery=GALLERY[::-1])
        other = load("market1501", tmp_path / "b")
        for first, second in zip(parts(one), parts(other), strict=True):
            assert first.names == second.names
            assert torch.equal(first.labels, second.labels)
            assert torch.equal(first.identities, second.identities)

    def test_traps_of_the_archive(self, tmp_path: Path) -> None:
        root = write_market(tmp_path, query=[*QUERY, "0003_c3s1_000009_00.jpg.jpg"])
        for part in ("query", "bounding_box_test"):
            (root / part / "Thumbs.db").write_text("no image")
        write_names(root / "query" / "__MACOSX", ["0009_c1s1_1_1.jpg"])
        data = load("market1501", root)
        assert int(parts(data)[1].queries.sum()) == 3
        assert "not read: 2 *.db, 1 hidden" in data.found.lines

    def test_more_images_of_queries_are_neither_looked_for_nor_searched(self, tmp_path: Path) -> None:
        root = write_market(tmp_path)
        every = [
            "0003_c1s1_000001_00.jpg",
            "0003_c1s1_000005_00.jpg",
            "0003_c2s1_000005_00.jpg",
            "0009_c1s1_000005_00.jpg",
        ]
        write_names(root / "gt_bbox", every)
        data = load("market1501(multi_query=True)", root)
        test = parts(data)[1]
        assert test.names[7:] == tuple(f"gt_bbox/{name}" for name in every[:2])
        assert test.more_queries.tolist() == [False] * 7 + [True] * 2
        assert test.gallery.tolist() == [False] * 2 + [True] * 5 + [False] * 2
        assert "2 queries (and 2 more images of them) of 2 identities, a gallery of 5 (" in data.found.lines[1]
        alone, found = (evaluate(nn.Module(), load(name, root).validation, run=pixels, how=How(multi_query="mean"))
                        for name in ("market1501", "market1501(multi_query=True)"))  # fmt: skip
        assert alone.samples == found.samples == 2
        with pytest.raises(DatasetError, match="gt_bbox/, and found is"):
            load("market1501(multi_query=True)", write_market(tmp_path / "without"))

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        root = write_market(tmp_path)
        shutil.rmtree(root / "query")
        with pytest.raises(DatasetError, match=r"market1501 is not in .*: it has bounding_box_train/, query/, "
                           "bounding_box_test/, and found is bounding_box_test, bounding_box_train"):  # fmt: skip
            load("market1501", root)
        (root / "query").mkdir()
        (root / "query" / "Thumbs.db").touch()
        with pytest.raises(DatasetError, match=r"market1501 has no query image in .*Files that are none: 1 \*\.db"):
            load("market1501", root)

    def test_a_file_that_is_no_image_is_named_before_anything_is_trained(self, tmp_path: Path) -> None:
        root = write_market(tmp_path)
        (root / "bounding_box_test" / GALLERY[1]).write_bytes(b"")
        with pytest.raises(DatasetError, match=GALLERY[1]):
            load("market1501", root)

    def test_people_who_were_trained_on_are_noted(self, tmp_path: Path) -> None:
        data = load("market1501", write_market(tmp_path, gallery=[*GALLERY, "0007_c1s1_000077_01.jpg"]))
        assert any("1 identity is in training and test alike, such as 0007" in line for line in data.found.lines)

    def test_one_identity_is_nothing_to_tell_apart(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="one identity to train on, 0002"):
            load("market1501", write_market(tmp_path, train=TRAIN[:4]))


def _values(data: Dataset, part: int) -> str:
    found = (data.found.training, data.found.validation)[part].values
    assert found is not None
    return f"values {found[0]:g} to {found[1]:g}"


def test_duke_and_veri_are_told_by_their_names(tmp_path: Path) -> None:
    duke = {
        "train": [f"000{who}_c{camera}_f00{n}.jpg" for who in (1, 2) for camera in (2, 8) for n in (1, 2)],
        "query": ["0005_c2_f0046985.jpg"],
        "gallery": ["0005_c6_f0046985.jpg", "7139_c1_f0046985.jpg"],
    }
    data = load("dukemtmc", write_market(tmp_path / "duke", **duke))
    assert (cameras(parts(data)[1]), parts(data)[1].identities.tolist()) == ([2, 6, 1], [5, 5, 7139])
    veri = {
        "train": [f"000{who}_c00{camera}_0001645{n}_0.jpg" for who in (1, 3) for camera in (1, 2) for n in (1, 2)],
        "query": ["0002_c002_00030600_0.jpg"],
        "gallery": ["0002_c014_00030600_0.jpg"],
    }
    folders = ("image_train", "image_query", "image_test")
    write_market(tmp_path / "VeRi", **veri, folders=folders)
    data = datasets.load("veri776", root=tmp_path)
    assert cameras(parts(data)[1]) == [2, 14]  # not 0, as a search for `c(\d)` reads it
    assert data.train.shape == (256, 256)


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17_by_its_lists(tmp_path: Path, folders: tuple[str, str]) -> None:
    lists = {
        "train": [
            f"000{who}/000{who}_00{n}_0{c}_0303morning_0008_{n}.jpg {who}"
            for who in (0, 1)
            for n, c in ((0, 1), (1, 5))
        ],
        "val": ["0001/0001_007_09_0303noon_0008_0.jpg 1"],
        "query": ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
        "gallery": ["0000/0000_001_14_0303morning_0015_0.jpg 0", "0001/0001_000_01_0303morning_0015_0.jpg 1"],
    }
    for part, lines in lists.items():
        (tmp_path / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
        write_names(tmp_path / folders[part in ("query", "gallery")], [line.split()[0] for line in lines])
    train, test = parts(load("msmt17", tmp_path))
    assert (train.labels.tolist(), cameras(train)) == ([0, 0, 1, 1, 1], [1, 5, 1, 5, 9])
    assert (test.identities.tolist(), cameras(test)) == ([1, 1, 2], [1, 14, 1])  # from 1: 0 would be a distractor
    assert not any("alike" in line for line in load("msmt17", tmp_path).found.lines)  # numbers start again in testing
    assert len(load("msmt17(val=False)", tmp_path).train) == 4
    with (tmp_path / "list_query.txt").open("a") as file:
        file.write("0000/nonsense.jpg\n")
    with pytest.raises(DatasetError, match=r"list_query\.txt, line 2: '0000/nonsense\.jpg' is no path"):
        load("msmt17", tmp_path)


VEHICLES = {
    "train_list": ["0000001 0", "0000002 0", "0000003 7"],
    "test_list_800": ["0000011 3", "0000012 3", "0000013 3", "0000014 9", "0000015 9", "0000016 4"],
}


def write_vehicles(root: Path) -> None:
    (root / "train_test_split").mkdir(parents=True)
    for name, lines in VEHICLES.items():
        (root / "train_test_split" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        write_names(root / "image", [f"{line.split()[0]}.jpg" for line in lines])


def test_vehicleid_searches_one_image_of_each_drawn_at_random(tmp_path: Path) -> None:
    write_vehicles(tmp_path / "VehicleID_V1.0")
    data = load("vehicleid", tmp_path)
    train, test = parts(data)
    assert (train.labels.tolist(), list(train.class_names)) == ([0, 0, 1], ["1", "8"])  # from 1: 0 would be nobody
    assert cameras(test) is None
    assert sorted(test.identities[test.gallery].tolist()) == [4, 5, 10]
    assert sorted(test.identities[test.queries].tolist()) == [4, 4, 10]  # whoever is alone is in the gallery
    drawn = {
        draw: {name for name, found in zip(split.names, split.gallery.tolist(), strict=True) if found}
        for draw in range(12)
        for split in [parts(load(f"vehicleid(draw={draw})", tmp_path))[1]]
    }
    assert drawn[0] == {name for name, found in zip(test.names, test.gallery.tolist(), strict=True) if found}
    assert set.union(*drawn.values()) == {f"image/00000{n}.jpg" for n in range(11, 17)}
    assert len({frozenset(names) for names in drawn.values()}) > 2


def test_vehicleid_names_what_is_wrong_with_its_lists(tmp_path: Path) -> None:
    write_vehicles(tmp_path)
    with pytest.raises(DatasetError, match=r"test_list_1600\.txt is not there"):
        load("vehicleid(test=1600)", tmp_path)
    with pytest.raises(ConfigError, match="800 or 1600 or 2400"):
        load("vehicleid(test=900)", tmp_path)
    file = tmp_path / "train_test_split" / "train_list.txt"
    for line, said in (("0000003", "line 4: '0000003' is no image with"), ("0000001 7", "has image/0000001.jpg twice")):
        file.write_text("\n".join([*VEHICLES["train_list"], line]))
        with pytest.raises(DatasetError, match=said):
            load("vehicleid", tmp_path)


def test_cuhk03_by_its_file_or_in_the_folders_of_market(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    names = ["1_001_1_01.png", "1_001_2_06.png", "1_002_1_01.png", "1_003_1_01.png", "1_003_2_06.png", "1_004_1_01.png"]
    write_names(tmp_path / "images_labeled", names)
    cells = np.empty(len(names), dtype=object)
    cells[:] = names
    told = {
        "filelist": cells,
        "labels": [1, 1, 2, 3, 3, 4],
        "train_idx": [1, 2, 3],
        "query_idx": [4],
        "gallery_idx": [6, 5],
    }
    scipy.savemat(tmp_path / "cuhk03_new_protocol_config_labeled.mat", told)
    train, test = parts(load("cuhk03(boxes='labeled')", tmp_path))
    assert (train.labels.tolist(), cameras(train)) == ([0, 0, 1], [1, 2, 1])
    assert (test.identities.tolist(), cameras(test)) == ([3, 3, 4], [1, 2, 1])
    write_market(tmp_path / "cuhk03")
    assert len(load("cuhk03", tmp_path).train) == len(TRAIN)


class TestOwn:
    def test_a_folder_an_identity(self, tmp_path: Path) -> None:
        train, test = parts(load("identities", write_own(tmp_path)))
        assert train.class_names == ("anna", "bert", "cleo")
        assert cameras(train) == [1, 1, 2, 2] * 3
        assert test.names[:3] == ("query/dora/c1_0.png", "query/emil/c1_0.png", "gallery/-1/c2_0.png")
        assert test.identities.tolist() == [1, 2, -1, 0, 1, 2]

    def test_without_cameras_in_names_none_is_known(self, tmp_path: Path) -> None:
        data = load("identities", write_own(tmp_path, cameras=False))
        assert [split.cameras for split in parts(data)] == [None, None]
        assert "cameras not known" in data.found.lines[1]

    def test_one_camera_can_be_left_out(self, tmp_path: Path) -> None:
        write_market(tmp_path, query=["0003_c1_1.jpg"], gallery=["0003_c1_2.jpg", "0004_c1_1.jpg"],
                     folders=("train", "query", "gallery"))  # fmt: skip
        with pytest.raises(DatasetError, match="every query is on the only camera of its matches"):
            load("identities", tmp_path)
        assert parts(load("identities(cameras=False)", tmp_path))[1].cameras is None

    def test_without_cameras_names_need_none(self, tmp_path: Path) -> None:
        flat = write_market(tmp_path / "flat", train=["1_a.png", "1_b.png", "2_a.png"], query=["3_a.png"],
                            gallery=["3_b.png", "0_a.png"], folders=("train", "query", "gallery"))  # fmt: skip
        with pytest.raises(DatasetError, match=r"3 of 3 images in .*identities\(cameras=False\) needs no camera"):
            load("identities", flat)
        assert parts(load("identities(cameras=False)", flat))[1].identities.tolist() == [3, 0, 3]
        mixed = write_own(tmp_path / "mixed")
        write_names(mixed / "gallery" / "dora", ["portrait.png"])
        with pytest.raises(DatasetError, match=r"1 of 5 images .* such as portrait\.png"):
            load("identities", mixed)
        assert len(parts(load("identities(cameras=False)", mixed))[1]) == 7

    def test_a_query_that_is_in_the_gallery_itself_is_noted(self, tmp_path: Path) -> None:
        for cameras_, noted in ((False, True), (True, False)):
            root = write_own(tmp_path / str(cameras_), cameras=cameras_)
            file = next((root / "query" / "dora").iterdir())
            shutil.copy(file, root / "gallery" / "dora" / f"{file.stem}_9.png")
            lines = load("identities", root).found.lines
            told = [
                line for line in lines if "1 query is in the gallery, the very same file, such as query/dora/" in line
            ]
            assert bool(told) is noted

    def test_a_pattern_of_ones_own(self, tmp_path: Path) -> None:
        names = {"train": ["w-A-7.png", "e-A-8.png", "w-B-7.png", "e-B-9.png"], "query": ["w-C-1.png"],
                 "gallery": ["e-C-1.png", "w-D-1.png"]}  # fmt: skip
        for part, listed in names.items():
            write_names(tmp_path / part, listed)
        train, test = parts(load("identities(pattern='(?P<camera>.)-(?P<identity>[A-Z])')", tmp_path))
        assert (train.class_names, train.labels.tolist()) == (("A", "B"), [0, 1, 0, 1])
        assert (test.identities.tolist(), cameras(test)) == ([1, 1, 2], [2, 1, 2])

    def test_what_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="needs root="):
            datasets.load("identities")
        write_own(tmp_path)
        with pytest.raises(ConfigError, match="names nothing"):
            load(r"identities(pattern='\\d+')", tmp_path)
        flat = write_market(tmp_path / "flat", folders=("train", "query", "gallery"))
        with pytest.raises(DatasetError, match="says no identity"):
            load("identities(pattern='(?P<camera>.)')", flat)


class TestDrawnFigures:
    def test_the_same_protocol_without_a_file(self) -> None:
        data = datasets.load("drawn-figures(identities=8, cameras=2, images=3)")
        train, test = parts(data)
        assert (len(train), train.classes, train.shape) == (24, 4, (64, 32))
        assert data.found.validation.identities == {
            "queries": 8, "identities": 4, "more queries": 0,
            "gallery": 16 + 8 + 2, "distractors": 8, "junk": 2, "without match": 0, "cameras": 2,
        }  # fmt: skip
        assert not {int(i) for i in train.class_names} & set(test.identities.tolist())

    def test_fewer_identities_to_train_on_leave_the_search_as_it_is(self) -> None:
        name = "drawn-figures(identities=8, cameras=2, images=3)"
        whole, few = (parts(datasets.load(name, classes=c)) for c in (None, 2))
        assert (few[0].classes, len(few[0])) == (2, 12)
        assert torch.equal(whole[1].images, few[1].images)  # type: ignore[arg-type]
        limited = parts(datasets.load(name, limit=5))[0]
        assert (len(limited), int(limited.labels.max()) + 1) == (5, limited.classes)
        with pytest.raises(DatasetError, match=r"classes=9, but .* has only 4 identities"):
            datasets.load(name, classes=9)
