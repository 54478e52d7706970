"""Tests of searching for new images with a trained run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from deepsup import datasets
from deepsup.errors import ConfigError, DatasetError
from deepsup.supervision.embedding import embeddings
from deepsup.tasks.match_pictures import RIGHT, UNKNOWN, WRONG
from deepsup.training.predict import load, predict
from tests.support.searching_runs import FIGURES, trained, write_images
from tests.support.segmentation_runs import call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("figures") / "run")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_finished_run_keeps_what_its_report_shows_and_the_answers_of_its_queries(run: Path) -> None:
    told = json.loads((run / "search" / "search.json").read_text())
    assert list(told["cmc"]) == ["main", "early", "ensemble"]
    assert [query["file"] for query in told["queries"]] == ["0.png", "1.png", "2.png", "3.png"]
    split: Any = datasets.load(FIGURES).validation
    assert len(json.loads((run / "answers.json").read_text())["scores"]) == int(split.queries.sum())


def test_what_is_nearest_is_told_of_every_query_as_validation_would(run: Path, tmp_path: Path) -> None:
    queries = write_images(tmp_path / "query", queries=True, most=3)
    gallery = write_images(tmp_path / "gallery", queries=False, most=40)
    text = call(
        "predict", "--trust", str(run), *map(str, queries), "--gallery", str(tmp_path / "gallery"),
        "--out", str(tmp_path / "out"), "--top", "4", "--branches",
    )  # fmt: skip
    rows = rows_of(tmp_path / "out" / "matches.csv")
    assert list(rows[0]) == ["query", "output", "rank", "image", "distance", "identity", "camera"]
    assert len(rows) == 3 * 3 * 4
    assert {row["output"] for row in rows} == {"main", "early", "ensemble"}
    split: Any = datasets.load(FIGURES).validation
    stored = {Path(name).name: row for row, name in enumerate(split.names)}
    predictor = load(run, branches=True, trust=True)
    every, _ = next(split.batches(len(split), seed=0, epoch=0, shuffle=False))
    found = embeddings(predictor.net, every)["main"].detach().double()
    for query in queries:
        own = [row for row in rows if row["query"] == str(query) and row["output"] == "main"]
        far = {path.name: float(1 - found[stored[query.name]] @ found[stored[path.name]]) for path in gallery}
        assert [row["rank"] for row in own] == ["1", "2", "3", "4"]
        assert [float(row["distance"]) for row in own] == pytest.approx(sorted(far.values())[:4], abs=1e-4)
        for row in own:
            assert row["image"].startswith(f"{int(row['identity']):04}_c{row['camera']}_")
        assert f"{query}: {own[0]['image']} {float(own[0]['distance']):.3f}" in text
        with Image.open(tmp_path / "out" / f"{query.stem}.matches.png") as drawn:
            colours = {colour for _, colour in drawn.convert("RGB").getcolors(2**24) or ()}
        assert {RIGHT, WRONG} & colours


def test_a_query_is_not_found_by_itself_and_re_ranking_changes_the_order(run: Path, tmp_path: Path) -> None:
    gallery = write_images(tmp_path / "gallery", queries=False, most=40)
    text = call("predict", "--trust", str(run), str(gallery[0]), "--gallery", str(tmp_path / "gallery"), "--rerank")
    assert f"written to {run / 'predictions'}" in text
    rows = rows_of(run / "predictions" / "matches.csv")
    assert len(rows) == 10
    assert gallery[0].name not in {row["image"] for row in rows}
    plain = list(predict(run, gallery[:1], gallery=tmp_path / "gallery", out=tmp_path / "out", top=39, trust=True))
    assert len(rows_of(plain[0].files[0])) == 39
    assert all(0 <= float(row["distance"]) <= 1.0001 for row in rows)


def test_without_a_gallery_the_embeddings_are_written(run: Path, tmp_path: Path) -> None:
    queries = write_images(tmp_path / "query", queries=True, most=2)
    call("predict", "--trust", str(run), str(tmp_path / "query"), "--out", str(tmp_path / "out"), "--branches")
    found = load_file(tmp_path / "out" / "embeddings.safetensors")
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "main": (2, 16), "early": (2, 8), "ensemble": (2, 24),
    }  # fmt: skip
    assert torch.allclose(found["main"].norm(dim=1), torch.ones(2))
    both = torch.cat([F.normalize(found["main"]), F.normalize(found["early"])], 1)
    assert torch.allclose((both[0] * both[1]).sum() / 2, (found["ensemble"][0] * found["ensemble"][1]).sum(), atol=1e-5)
    rows = rows_of(tmp_path / "out" / "embeddings.csv")
    assert [row["image"] for row in rows] == [str(path) for path in queries]
    assert [row["row"] for row in rows] == ["0", "1"]
    assert rows[0]["camera"] == queries[0].name.partition("_c")[2][0]


def test_names_that_say_nothing_are_framed_grey_and_files_of_others_stay(run: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "gallery", queries=False, most=3)
    for path in images:
        shutil.move(path, path.with_name(f"photo{path.stem[-2:]}.png"))
    asked = sorted((tmp_path / "gallery").iterdir())[:1]
    said = list(predict(run, asked, gallery=tmp_path / "gallery", out=tmp_path / "out", trust=True))
    rows = rows_of(said[0].files[0])
    assert [(row["identity"], row["camera"]) for row in rows] == [("", "")] * 2
    with Image.open(said[0].files[1]) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(2**24) or ()}
    assert UNKNOWN in colours
    assert not {RIGHT, WRONG} & colours
    (tmp_path / "out" / "matches.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"matches\.csv"):
        list(predict(run, asked, gallery=tmp_path / "gallery", out=tmp_path / "out", trust=True))
    assert (tmp_path / "out" / "matches.csv").read_text() == "mine"


def test_a_folder_an_identity_says_who_is_in_it_where_no_name_does(run: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "drawn", queries=False, most=4)
    places = [
        tmp_path / name
        for name in ("people/anna/c1_1.png", "people/anna/c2_2.png", "people/bert/3.png", "anna/c3_4.png")
    ]
    for image, place in zip(images, places, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, place)
    said = list(predict(run, places[3:], gallery=tmp_path / "people", out=tmp_path / "out", trust=True))
    rows = {row["image"]: (row["identity"], row["camera"]) for row in rows_of(said[0].files[0])}
    assert rows == {"anna/c1_1.png": ("anna", "1"), "anna/c2_2.png": ("anna", "2"), "bert/3.png": ("bert", "")}
    with Image.open(said[0].files[1]) as drawn:
        assert {RIGHT, WRONG} <= {colour for _, colour in drawn.convert("RGB").getcolors(2**24) or ()}
    shutil.copyfile(images[0], tmp_path / "people" / "alone.png")  # now folders are no identities
    said = list(predict(run, places[3:], gallery=tmp_path / "people", out=tmp_path / "out", trust=True))
    assert {row["identity"] for row in rows_of(said[0].files[0])} == {""}


def test_what_cannot_be_searched_is_refused(run: Path, tmp_path: Path) -> None:
    (image,) = write_images(tmp_path / "query", queries=True, most=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"there is no image .* in .*empty\. Name the folder"):
        list(predict(run, [image], gallery=tmp_path / "empty", trust=True))
    with pytest.raises(ConfigError, match="give the folder that is searched, --gallery"):
        list(predict(run, [image], top=3, trust=True))
    with pytest.raises(ConfigError, match="top=0"):
        list(predict(run, [image], gallery=tmp_path, top=0, trust=True))
    with pytest.raises(ConfigError, match="tiles are for label maps"):
        list(predict(run, [image], tile=8, trust=True))
