"""Label maps in the page: every output in its place, small enough, and a damaged file is a sentence, not an end."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsup import label_maps, reports
from deepsup.errors import DatasetError
from deepsup.reports import galleries
from deepsup.reports.galleries import Gallery
from deepsup.training import run_folders
from tests.support.shown_reports import Page
from tests.support.synthetic_maps import CLASSES, drawn_pairs, write_maps


@pytest.fixture
def one(streets: Path, tmp_path: Path) -> Path:
    """A run of its own, to be changed."""
    return shutil.copytree(streets / "camvid/0.4/seed0", tmp_path / "run")


def found(folder: Path) -> list[Gallery]:
    return galleries.galleries(reports.evidence(folder))


def pixels(source: str) -> Any:
    """What a browser would decode from an address."""
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def changed(folder: Path, **fields: Any) -> None:
    file = folder / "maps/maps.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_run_shows_its_outputs_from_the_first_branch_to_all_together(one: Path) -> None:
    told = json.loads((one / "maps/maps.json").read_text())
    for sample in told["samples"]:
        sample["outputs"] = {name: sample["outputs"][name] for name in ("ensemble", "main", "layer3")}
    changed(one, samples=told["samples"])
    (gallery,) = found(one)
    assert (gallery.binary, gallery.metric, gallery.problems) == (False, "mean IoU", ())
    assert [sample.name for sample in gallery.samples] == ["sample00", "sample01"]
    for sample, stated in zip(gallery.samples, told["samples"], strict=True):
        assert [column.name for column in sample.columns] == ["given", "layer3", "main", "ensemble"]
        scores_ = [f"{100 * stated['outputs'][name]['score']:.2f} %" for name in ("layer3", "main", "ensemble")]
        assert [column.score for column in sample.columns] == ["", *scores_]
        labels = [[picture.label for picture in column.pictures] for column in sample.columns]
        assert labels == [["image", "truth"], *[["prediction", "errors"]] * 3]
    assert gallery.classes == tuple(
        (name, "#{:02x}{:02x}{:02x}".format(*colour))
        for name, colour in zip(CLASSES, label_maps.palette(5), strict=True)
    )


def test_pictures_show_what_the_files_hold(one: Path) -> None:
    (gallery,) = found(one)
    folder = one / "maps"
    image, truth = (
        label_maps.read_picture(folder / "sample00.image.png"),
        label_maps.read_labels(folder / "sample00.truth.png"),
    )
    said = label_maps.read_labels(folder / "sample00.main.png")
    given, _, main, _ = gallery.samples[0].columns
    errors = pixels(main.pictures[1].source)
    assert errors.shape == image.shape
    wrong = (errors == label_maps.LEGEND["wrong"]).all(axis=2)
    assert (wrong == ((said != truth) & (truth != 255))).all()  # exact, although the picture has few colours
    void = label_maps.hatched(np.zeros_like(image), truth)[truth == 255]
    assert set(map(tuple, void.tolist())) == set(label_maps.HATCH)
    assert (errors[truth == 255] == void).all()
    palette = label_maps.palette(5)
    for picture, drawn in (
        (given.pictures[0], image),
        (given.pictures[1], label_maps.hatched(label_maps.overlay(image, truth, palette, alpha=0.7), truth)),
        (main.pictures[0], label_maps.hatched(label_maps.overlay(image, said, palette, alpha=0.7), truth)),
    ):
        assert np.abs(pixels(picture.source).astype(int) - drawn).mean() < 6


def test_two_classes_have_their_probability_too(vessels: Path) -> None:
    (gallery,) = found(vessels / "camvid/1/seed0")
    assert gallery.binary
    main = gallery.samples[0].columns[2]
    assert [picture.label for picture in main.pictures] == ["prediction", "errors", "probability"]
    folder = vessels / "camvid/1/seed0/maps"
    said, truth = (label_maps.read_labels(folder / f"sample00.{name}.png") for name in ("main", "truth"))
    errors = pixels(main.pictures[1].source)
    for name, where in (
        ("true", (said == 1) & (truth == 1)),
        ("missed", (said == 0) & (truth == 1)),
        ("false", (said == 1) & (truth == 0)),
    ):
        assert where.any()
        assert ((errors == label_maps.LEGEND[name]).all(axis=2) == where).all()
    sure = label_maps.read_picture(folder / "sample00.main.probability.png")
    assert np.abs(pixels(main.pictures[2].source).astype(int) - sure).mean() < 6


def test_a_comparison_shows_main_outputs_of_the_first_seeds_the_baseline_first(streets: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(streets, tmp_path / "streets")
    (gallery,) = found(folder)
    assert gallery.title == "camvid"
    assert [column.name for column in gallery.samples[0].columns] == ["given", "0", "0.1", "0.2", "0.4", "0.7", "1"]
    told = json.loads((folder / "camvid/0.2/seed0/maps/maps.json").read_text())
    assert gallery.samples[1].columns[3].score == f"{100 * told['samples'][1]['outputs']['main']['score']:.2f} %"
    shutil.rmtree(folder / "camvid/0.2/seed0/maps")
    changed(folder / "camvid/0.4/seed0", samples=told["samples"][:1])
    (gallery,) = found(folder)
    assert [column.name for column in gallery.samples[1].columns] == ["given", "0", "0.1", "0.7", "1"]
    assert gallery.problems == (
        "camvid/0.2/seed0 has no maps/maps.json: it is written when a run ends.",
        "camvid/0.4/seed0 has no map of sample01.",
    )


def test_at_most_four_samples_are_shown_and_fewer_of_several_groups(one: Path, tmp_path: Path) -> None:
    pairs = drawn_pairs(6, binary=False, size=(24, 24))
    write_maps(one, pairs, outputs=["main"], metric="mean IoU", classes=CLASSES)
    assert len(found(one)[0].samples) == 4
    for group in ("a", "b"):
        target = shutil.copytree(one, tmp_path / "two" / group / "plain/seed0")
        start, *rest = (target / "journal.jsonl").read_text().splitlines()
        record = json.loads(start) | {"group": group, "arm": "plain", "name": f"{group}/plain/seed0"}
        (target / "journal.jsonl").write_text("\n".join([json.dumps(record), *rest]) + "\n")
    assert [(g.title, len(g.samples)) for g in found(tmp_path / "two")] == [("a", 2), ("b", 2)]


def test_pictures_are_made_smaller_until_they_fit(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_maps(one, drawn_pairs(1, binary=False, size=(150, 400)), outputs=["main"], metric="mean IoU", classes=CLASSES)
    pictures = [p for c in found(one)[0].samples[0].columns for p in c.pictures]
    assert {pixels(p.source).shape for p in pictures} == {(135, 360, 3)}
    whole = sum(len(p.source) for p in pictures)
    monkeypatch.setattr(galleries, "BUDGET", whole - 1)
    smaller = [p for c in found(one)[0].samples[0].columns for p in c.pictures]
    assert {pixels(p.source).shape for p in smaller} == {(108, 288, 3)}
    monkeypatch.setattr(galleries, "BUDGET", 0)  # never smaller than can be seen
    assert {pixels(p.source).shape[1] for c in found(one)[0].samples[0].columns for p in c.pictures} == {94}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda maps: maps.unlink(), "run has no maps/maps.json: it is written when a run ends."),
        (lambda maps: maps.write_text('{"classes": ['), "maps/maps.json of run is damaged (Expecting value"),
        (lambda maps: maps.write_text("[]"), "maps/maps.json of run is damaged (list indices must be integers"),
        (lambda maps: maps.write_text('{"palette": []}'), "is damaged (no field 'classes'). Run it again"),
        (lambda maps: changed(maps.parents[1], samples=[{"name": "x"}]), "is damaged (no field 'outputs')"),
        (lambda maps: (maps.parent / "sample00.main.png").unlink(), "sample00 is left out: there is no picture"),
        (lambda maps: (maps.parent / "sample00.truth.png").write_bytes(b"\x89PNG"), "sample00 is left out: "),
        (lambda maps: changed(maps.parents[1], palette=[[0, 0, 0]]), "the palette has 1 colours"),
    ],
)
def test_what_is_missing_or_damaged_is_said_and_the_page_goes_on(one: Path, damage: Any, text: str) -> None:
    records = (one / "journal.jsonl").read_text().replace("camvid/0.4/seed0", "run")
    (one / "journal.jsonl").write_text(records)
    damage(one / "maps/maps.json")
    (gallery,) = found(one)
    assert text in " ".join(gallery.problems)
    page = Page(reports.render(one)).text
    assert text in page
    assert "What was attached, and what it cost" in page


def test_a_name_cannot_lead_out_of_the_folder(one: Path, tmp_path: Path) -> None:
    label_maps.write_picture(tmp_path / "secret.png", np.zeros((48, 64, 3), dtype=np.uint8))
    told = json.loads((one / "maps/maps.json").read_text())["samples"]
    told[0]["image"] = "../../secret.png"
    changed(one, samples=told)
    (gallery,) = found(one)
    assert [sample.name for sample in gallery.samples] == ["sample01"]
    assert "there is no picture" in gallery.problems[0]


def test_runs_that_are_not_about_maps_have_no_gallery(one: Path) -> None:
    shutil.rmtree(one / "maps")
    assert [g.samples for g in found(one)] == [()]  # its journal holds scores of maps: the pictures are missed
    run = dataclasses.replace(run_folders.run(one), epochs=())
    evidence = dataclasses.replace(reports.evidence(one), runs=(run,))
    assert galleries.galleries(evidence) == []
    with pytest.raises(DatasetError, match=r"has no maps/maps\.json"):
        galleries.read(run)


def test_the_page_embeds_its_pictures_and_names_what_their_colours_mean(streets: Path, vessels: Path) -> None:
    for folder, words in (
        (streets / "camvid/1/seed0", ("wrong", *CLASSES)),
        (vessels, ("found", "missed", "falsely found")),
    ):
        html = reports.render(folder)
        page = Page(html)
        images = [attrs for tag, attrs in page.tags if tag == "img"]
        assert len(images) == sum(len(c.pictures) for g in found(folder) for s in g.samples for c in s.columns)
        assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in images)
        assert {tag for tag, attrs in page.tags if "src" in attrs} == {"img"}
        assert "What each output sees" in page.text
        legend = re.findall(
            r'<span><i (?:class="(?:right|void)"|style="background: #[0-9a-f]{6}")></i>([^<]*)</span>', html
        )
        assert set(words) <= set(legend)
        assert reports.render(folder) == html
    assert "min-width: 0" in html
    assert "grid-auto-flow: column" in html  # a picture stays in its row, which scrolls where the page is narrow
    assert legend.count("does not count") == 1


def test_names_in_maps_are_text_and_never_markup(one: Path) -> None:
    text = (one / "maps/maps.json").read_text()
    (one / "maps/maps.json").write_text(
        text.replace('"road"', '"<b onload=x>"').replace('"layer3": {', '"<i onload=y>": {')
    )
    html = reports.render(one)
    assert "<b onload" not in html
    assert "<i onload" not in html
    assert "&lt;i onload=y&gt;" in html


# --- the score that counts has a name, and the others have a table
