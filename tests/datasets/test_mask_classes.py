"""Which number or colour of a mask is which class: by classes.txt, by a palette, or counted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsup.datasets.mask_classes import Classes, DoubtfulClassesWarning, classes_of, lines_in
from deepsup.datasets.mask_files import VOID
from deepsup.errors import DatasetError
from tests.support.drawn_images import write, write_palette
from tests.support.tiny_layouts import blocks

BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)
OBJECT = np.zeros((10, 10), np.uint8)
OBJECT[:7, 0] = 1  # 7 % of the pixels


def read(folder: Path, *masks: Path, classes: str | None = None, void: int | None = 255) -> Classes:
    file = folder / "classes.txt"
    if classes is not None:
        file.write_text(classes)
    return classes_of(masks, file, void=void)


def quantised(path: Path) -> Path:
    """A black and white mask that was made a palette's, with white as number 0."""
    image = Image.fromarray(OBJECT * 255).convert("RGB").quantize(2)
    assert image.getpalette()[:3] == list(WHITE)  # type: ignore[index]
    image.save(path)
    return path


class TestPalettes:
    @pytest.mark.parametrize("ending", ["png", "gif"])
    def test_black_and_white_as_a_palette_are_read_by_colour(self, tmp_path: Path, ending: str) -> None:
        path = quantised(tmp_path / f"a.{ending}")
        found = read(tmp_path, path, classes="background 0 0 0\nobject 255 255 255")
        assert np.array_equal(found.masks.read(path).pixels, OBJECT)

    def test_a_grey_mask_saved_as_gif_keeps_its_colours(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.gif", OBJECT * 255)
        found = read(tmp_path, path, classes="background 0 0 0\nobject 255 255 255")
        assert np.array_equal(found.masks.read(path).pixels, OBJECT)

    @pytest.mark.parametrize("ending", ["png", "gif"])
    def test_without_colours_black_and_white_are_asked_about(self, tmp_path: Path, ending: str) -> None:
        with pytest.raises(DatasetError, match=r"hold 0 and 255 alone.*'background 0 0 0' and 'object 255 255 255'"):
            read(tmp_path, quantised(tmp_path / f"a.{ending}"))

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_the_order_of_a_palette_swaps_no_classes(self, tmp_path: Path, order: tuple[int, ...]) -> None:
        colours = [BLACK, RED, GREEN]
        truth = blocks(0)
        place = np.argsort(order)  # where in the palette a class stands
        path = write_palette(tmp_path / "a.png", place[truth], [colours[label] for label in order])
        found = read(tmp_path, path, classes="nothing 0 0 0\ncat 255 0 0\ndog 0 255 0")
        assert np.array_equal(found.masks.read(path).pixels, truth)
        assert (found.names, found.colours) == (("nothing", "cat", "dog"), (BLACK, RED, GREEN))

    def test_a_palette_colour_that_no_class_has_is_named(self, tmp_path: Path) -> None:
        path = write_palette(tmp_path / "a.png", [[0, 1]], [BLACK, (9, 9, 8)])
        with pytest.raises(DatasetError, match=r"a\.png has the colour \(9, 9, 8\).*no class has"):
            read(tmp_path, path, classes="nothing 0 0 0\ncat 255 0 0")

    def test_greys_of_a_palette_are_numbers_as_in_a_grey_mask(self, tmp_path: Path) -> None:
        truth = blocks(0)
        gif = write(tmp_path / "a.gif", truth)
        mixed = write_palette(tmp_path / "b.png", 2 - truth, [(2, 2, 2), (1, 1, 1), (0, 0, 0)])
        found = read(tmp_path, gif, mixed)
        assert found.names == ("0", "1", "2")
        for path in (gif, mixed):
            assert np.array_equal(found.masks.read(path).pixels, truth)

    def test_entries_of_coloured_palettes_are_numbers_if_all_masks_agree(self, tmp_path: Path) -> None:
        voc = [BLACK, (128, 0, 0), (0, 128, 0)]
        whole = write_palette(tmp_path / "a.png", blocks(0), voc)
        trimmed = write_palette(tmp_path / "b.png", np.zeros((4, 4)), voc[:1])
        found = read(tmp_path, whole, trimmed)
        assert np.array_equal(found.masks.read(whole).pixels, blocks(0))
        other = write_palette(tmp_path / "c.png", blocks(0), [(128, 0, 0), BLACK, (0, 128, 0)])
        with pytest.raises(DatasetError, match=r"a\.png and .*c\.png have palettes in which number 0 is the colour"):
            read(tmp_path, whole, other)

    def test_a_palette_of_one_colour_says_nothing(self, tmp_path: Path) -> None:
        path = write_palette(tmp_path / "a.png", blocks(0), [BLACK] * 3)
        assert np.array_equal(read(tmp_path, path).masks.read(path).pixels, blocks(0))


class TestNumbersOfLines:
    @pytest.mark.parametrize(
        ("void", "classes", "names", "labels"),
        [
            (255, "a\nb\nc", "abc", [0, 1, 2]),
            (255, "void\nb\nc", "bc", [VOID, 0, 1]),  # a line called void has its number
            (255, "a\nvoid\nc", "ac", [0, VOID, 1]),
            (0, "void\nb\nc", "bc", [VOID, 0, 1]),
            (0, "a\nb\nc", "bc", [VOID, 0, 1]),  # as many lines as numbers: 1 is b, as without void=0
            (0, "b\nc", "bc", [VOID, 0, 1]),  # one less: the void has no line
            (1, "a\nb\nc", "ac", [0, VOID, 1]),
            (1, "a\nc", "ac", [0, VOID, 1]),
            (None, "a\nb\nc", "abc", [0, 1, 2]),
        ],
    )
    def test_no_name_is_shifted(
        self, tmp_path: Path, void: int | None, classes: str, names: str, labels: list[int]
    ) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
        found = read(tmp_path, path, classes=classes, void=void)
        assert found.names == tuple(names)
        assert found.masks.read(path).pixels.tolist() == [labels]

    def test_where_the_masks_do_not_tell_it_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
        with pytest.raises(
            DatasetError, match=r"void=0, and .* has 4 lines for numbers up to 2: nothing says whether line 1"
        ):
            read(tmp_path, path, classes="a\nb\nc\nd", void=0)
        assert read(tmp_path, path, classes="void\nb\nc\nd", void=0).names == ("b", "c", "d")

    def test_two_voids_that_differ_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
        with pytest.raises(
            DatasetError, match=r"void=2 is the number of line 3 .*'c', and another line is called void\. Line"
        ):
            read(tmp_path, path, classes="void\nb\nc", void=2)

    def test_a_number_without_a_line_states_the_rule(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 1, 3]], np.uint8))
        with pytest.raises(DatasetError, match=r"holds 3 .*Line 1 of classes\.txt names number 0, line 2 number 1"):
            read(tmp_path, path, classes="a\nb\nc")

    @pytest.mark.parametrize("void", [0, 255, None])
    def test_masks_in_colours_have_no_numbers(self, tmp_path: Path, void: int | None) -> None:
        path = write(tmp_path / "m.png", np.array([[BLACK, RED]], np.uint8))
        found = read(tmp_path, path, classes="a 0 0 0\nb 255 0 0", void=void)
        assert found.masks.read(path).pixels.tolist() == [[0, 1]]

    def test_counted_classes_are_called_by_their_numbers(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
        assert read(tmp_path, path, void=0).names == ("1", "2")
        assert read(tmp_path, path, void=1).names == ("0", "2")

    def test_the_file_may_be_of_windows(self, tmp_path: Path) -> None:
        (tmp_path / "classes.txt").write_bytes("\ufeffStraße\r\nb\r\n".encode())
        assert [line.name for line in lines_in(tmp_path / "classes.txt")] == ["Straße", "b"]
        (tmp_path / "classes.txt").write_bytes("Straße\n".encode("latin-1"))
        with pytest.raises(DatasetError, match=r"classes\.txt is not written in UTF-8"):
            lines_in(tmp_path / "classes.txt")


class TestDoubts:
    def objects(self, folder: Path, *counts: int) -> list[Path]:
        return [
            write(folder / f"{count}.png", np.arange(count + 1, dtype=np.uint8).repeat(3)[None]) for count in counts
        ]

    def test_numbers_of_objects_are_doubted(self, tmp_path: Path) -> None:
        with pytest.warns(
            DoubtfulClassesWarning,
            match=r"^40 classes were counted: the largest number in the masks is 39, in .*39\.png\..*up to 12 in one.*"
            r"instance masks.*classes\.txt\.$",
        ):
            assert len(read(tmp_path, *self.objects(tmp_path, 12, 39)).names) == 40

    @pytest.mark.parametrize(("counts", "classes"), [((12, 12), None), ((1, 2), None), ((12, 39), 40)])
    def test_others_are_not(self, tmp_path: Path, counts: tuple[int, ...], classes: int | None) -> None:
        names = "\n".join(f"class {n}" for n in range(classes)) if classes else None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(tmp_path, *self.objects(tmp_path, *counts), classes=names)

    def test_greys_are_doubted(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 127, 254]], np.uint8))
        with pytest.warns(DoubtfulClassesWarning, match=r"^255 classes were counted.*Only 3 different ones occur"):
            read(tmp_path, path)

    @pytest.mark.parametrize("values", [(0, 255), (0, 254), (0, 128), (5, 9)])
    def test_two_numbers_apart_are_asked_about(self, tmp_path: Path, values: Any) -> None:
        low, high = values
        path = write(tmp_path / "m.png", np.array([values], np.uint8))
        with pytest.raises(DatasetError, match=f"hold {low} and {high} alone.*'object {high} {high} {high}'"):
            read(tmp_path, path)
        lines = f"background {low} {low} {low}\nobject {high} {high} {high}"
        assert read(tmp_path, path, classes=lines).masks.read(path).pixels.tolist() == [[0, 1]]

    def test_too_many_are_refused_and_doubted(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.png", np.array([[0, 26001]], np.uint16))
        with pytest.raises(DatasetError, match=r"m\.png holds 26001: more than 255 classes.*instance masks"):
            read(tmp_path, path)
