"""The look at every file before anything is trained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.image_survey import gathered, ranges_of, survey
from deepsup.errors import DatasetError
from tests.support.drawn_images import COLOURS, GREY, write, write_palette, write_png


def images(folder: Path, count: int = 5, ending: str = "png") -> list[tuple[Path, str]]:
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(count)]
    return [(write(folder / f"{n}.{ending}", one), "image") for n, one in enumerate(pixels)]


def test_what_is_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", COLOURS, orientation=6)
    facts = survey([(path, "image")])[path]
    assert (facts.kind, facts.size, facts.turned, facts.transparent, facts.deep) == ("RGB", (5, 4), True, False, False)
    assert facts.extremes is not None
    assert (facts.extremes.low, facts.extremes.high) == (COLOURS.min(), COLOURS.max())


@pytest.mark.parametrize("read", [2**28, 0])  # all pixels, and beginnings and ends
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_all_that_is_broken_is_named_at_once(tmp_path: Path, ending: str, read: int) -> None:
    files = images(tmp_path, 9, ending)
    survey(files, read=read)
    for path, _ in files[2:4]:
        path.write_bytes(path.read_bytes()[:-600])
    files[5][0].write_bytes(b"")
    files[6][0].write_bytes(b"no image")
    files[7][0].unlink()
    with pytest.raises(DatasetError, match=r"^5 of 9 files cannot be used:\n- cannot read the image") as caught:
        survey(files, read=read)
    assert [n for n in range(9) if f"/{n}.{ending}: " in str(caught.value)] == [2, 3, 5]
    assert str(caught.value).endswith("\n- and 2 more")


def test_a_single_broken_file_is_said_as_it_is(tmp_path: Path) -> None:
    files = images(tmp_path)
    files[1][0].write_bytes(b"")
    with pytest.raises(DatasetError, match=r"^cannot read the image .*1\.png"):
        survey(files)


def test_of_many_files_pixels_are_left_alone_but_for_deep_ones(tmp_path: Path) -> None:
    shallow = write(tmp_path / "a.png", GREY)
    deep = write(tmp_path / "b.png", np.array([[0, 4000]], np.uint16))
    found = survey([(shallow, "image"), (deep, "image")], read=0)
    assert found[shallow].extremes is None
    assert found[deep].kind == "16-bit grey"
    assert ranges_of(found.values()) == Ranges(whole=4095)


def test_a_range_is_that_of_all_files_together(tmp_path: Path) -> None:
    files = [
        (write(tmp_path / f"{high}.tif", np.array([[0, high]], np.uint16)), "image") for high in (200, 1000, 60000)
    ]
    assert ranges_of(survey(files).values()) == Ranges(whole=65535)
    path = write_png(tmp_path / "c.png", np.full((2, 2, 3), 60000), depth=16, kind=2)
    assert ranges_of(survey([(path, "image")]).values()) == Ranges(whole=65535)


def test_a_name_that_no_report_could_write_is_refused(tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    write(tmp_path / "a.png", GREY).rename(strange)
    with pytest.raises(DatasetError, match=r"name of the image b'.*caf\\xe9\.png' is not UTF-8\. Rename") as caught:
        survey([(strange, "image")])
    str(caught.value).encode("utf-8")
    path = write(tmp_path / "Größe — 写真 (1).PNG", GREY)
    assert path in survey([(path, "image")])


def test_values_are_those_of_colours_not_of_numbers_or_transparency(tmp_path: Path) -> None:
    palette = write_palette(tmp_path / "p.png", [[0, 1]], [(7, 8, 9), (200, 10, 20)])
    clear = write(tmp_path / "t.png", np.array([[[7, 8, 200, 255], [9, 9, 9, 0]]], np.uint8))
    deep = write_png(tmp_path / "d.png", np.array([[[4095, 65535]]]), depth=16, kind=4)
    found = survey([(path, "image") for path in (palette, clear, deep)])
    assert [(one.extremes.low, one.extremes.high) for one in found.values() if one.extremes] == [
        (7, 200),
        (7, 200),
        (15, 15),
    ]
    with pytest.raises(DatasetError, match=r"d\.png has 16-bit colours.*12 bits"):  # opaque is no white
        ranges_of(found.values())


@pytest.mark.parametrize("read", [2**28, 0])
def test_pixels_that_no_reader_knows_are_named_at_once(tmp_path: Path, read: int) -> None:
    path = tmp_path / "a.tif"
    Image.new("LAB", (5, 4), (100, 3, 4)).save(path)
    with pytest.raises(DatasetError, match=r"a\.tif has pixels of the kind 'LAB'"):
        survey([(path, "image")], read=read)


def test_what_a_function_gives_comes_in_the_order_of_its_items() -> None:
    assert gathered(lambda n: n * n, range(20), what="numbers") == [n * n for n in range(20)]

    def refuse_odd(number: int) -> int:
        if number % 2:
            raise DatasetError(f"{number} is odd.")
        return number

    with pytest.raises(
        DatasetError, match=r"^10 of 20 numbers cannot be used:\n- 1 is odd\.\n- 3 is odd\.\n- 5 is odd"
    ):
        gathered(refuse_odd, range(20), what="numbers")
    with pytest.raises(DatasetError, match=r"^3 is odd\.$"):
        gathered(refuse_odd, [2, 3], what="numbers")
