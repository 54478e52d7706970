"""Image files: turned, in RGB and 8 bits by stated rules, or an error that names the file."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from deepsup.datasets.image_files import in_colour, opened, opened_pages, read_image, read_rgb, size_in, turned
from deepsup.datasets.image_ranges import Ranges
from deepsup.errors import DatasetError
from tests.support.drawn_images import COLOURS, GREY, write, write_pages, write_palette, write_png

SIXTEEN = Ranges(whole=65535)


@pytest.mark.parametrize("name", ["a.png", "b.PNG", "c.bmp", "d.tif", "e.ppm", "f g.tiff", "h.webp"])
def test_pixels_are_those_that_were_saved(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, COLOURS, **({"lossless": True} if name.endswith("webp") else {}))
    assert (read_rgb(path) == COLOURS).all()
    assert (np.asarray(in_colour(path)) == COLOURS).all()
    assert size_in(path) == (4, 5)


def test_grey_is_three_equal_channels(tmp_path: Path) -> None:
    assert (read_rgb(write(tmp_path / "a.png", GREY)) == GREY[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_a_photograph_is_turned_as_it_says(tmp_path: Path, ending: str, orientation: int) -> None:
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(ending, {})
    path = write(tmp_path / f"a.{ending}", COLOURS, orientation=orientation, **options)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    read = read_image(path)
    assert read.orientation == orientation
    assert np.array_equal(read.pixels, seen)
    assert np.array_equal(np.asarray(in_colour(path)), seen)
    assert size_in(path) == seen.shape[:2]
    assert np.array_equal(turned(COLOURS, orientation), seen) or ending == "jpg"  # which is lossy


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_makes_no_sense_turns_nothing(tmp_path: Path, orientation: int) -> None:
    assert (read_rgb(write(tmp_path / "a.png", COLOURS, orientation=orientation)) == COLOURS).all()


def test_damaged_exif_beside_good_pixels_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path, exif=b"Exif\0\0MM\0*\0\0\xff\xffgarbage")
    assert (read_rgb(path) == COLOURS).all()


class TestKindsOfPixels:
    def test_one_bit_is_black_and_white(self, tmp_path: Path) -> None:
        assert (read_rgb(write(tmp_path / "a.png", GREY > 100))[..., 0] == (GREY > 100) * 255).all()
        assert (read_rgb(write(tmp_path / "a.tif", GREY > 100))[..., 0] == (GREY > 100) * 255).all()

    @pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17)])
    def test_few_bits_span_black_to_white(self, tmp_path: Path, depth: int, step: int) -> None:
        samples = np.arange(20).reshape(4, 5) % 2**depth
        assert (read_rgb(write_png(tmp_path / "a.png", samples, depth=depth, kind=0))[..., 0] == samples * step).all()

    @pytest.mark.parametrize("ending", ["png", "gif"])
    def test_a_palette_is_its_colours(self, tmp_path: Path, ending: str) -> None:
        path = write_palette(tmp_path / f"a.{ending}", [[0, 1, 2]], [(9, 8, 7), (255, 0, 0), (0, 0, 200)])
        assert read_rgb(path).tolist() == [[[9, 8, 7], [255, 0, 0], [0, 0, 200]]]

    def test_cmyk_is_inks_on_white(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 0]]], np.uint8), mode="CMYK")
        assert read_rgb(path).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]

    def test_what_is_transparent_lies_on_black(self, tmp_path: Path) -> None:
        rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
        expected = [[[200, 100, 50], [100, 50, 25], [0, 0, 0]]]
        assert read_rgb(write(tmp_path / "a.png", rgba)).tolist() == expected
        assert np.asarray(in_colour(tmp_path / "a.png")).tolist() == expected
        grey = np.array([[[200, 255], [200, 128], [200, 0]]], np.uint8)
        assert read_rgb(write_png(tmp_path / "la.png", grey, depth=8, kind=4))[0, :, 0].tolist() == [200, 100, 0]

    @pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
    def test_a_palette_with_transparency_lies_on_black(self, tmp_path: Path, transparency: int | bytes) -> None:
        colours = [(9, 8, 7), (255, 0, 0), (0, 0, 200)]
        path = write_palette(tmp_path / "a.png", [[0, 1, 2]], colours, transparency=transparency)
        assert read_rgb(path).tolist() == [[[9, 8, 7], [0, 0, 0], [0, 0, 200]]]

    def test_a_colour_declared_transparent_lies_on_black(self, tmp_path: Path) -> None:
        pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
        assert read_rgb(write(tmp_path / "a.png", pixels, transparency=(1, 2, 3))).tolist() == [[[0, 0, 0], [4, 5, 6]]]

    def test_colours_that_nobody_knows_are_refused(self, tmp_path: Path) -> None:
        Image.new("LAB", (5, 4), (100, 3, 4)).save(tmp_path / "a.tif")
        with pytest.raises(DatasetError, match=r"a\.tif has pixels of the kind 'LAB'.*in RGB"):
            read_rgb(tmp_path / "a.tif")


class TestManyBits:
    @pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
    def test_sixteen_bits_keep_their_shades(self, tmp_path: Path, ending: str) -> None:
        values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        read = read_rgb(write(tmp_path / f"a.{ending}", values), SIXTEEN)
        assert (read[..., 0].ravel() == np.arange(256)).all()

    def test_twelve_bits_in_sixteen_reach_white(self, tmp_path: Path) -> None:
        read = read_rgb(write(tmp_path / "a.png", np.array([[0, 2048, 4095]], np.uint16)), Ranges(whole=4095))
        assert read[0, :, 0].tolist() == [0, 128, 255]

    def test_big_endian_and_turned(self, tmp_path: Path) -> None:
        Image.frombytes("I;16B", (2, 1), np.array([[0, 65535]], ">u2").tobytes()).save(tmp_path / "a.tif")
        assert read_rgb(tmp_path / "a.tif", SIXTEEN)[0, :, 0].tolist() == [0, 255]
        path = write(tmp_path / "b.png", np.array([[0, 65535]], np.uint16), orientation=6)
        assert read_rgb(path, SIXTEEN)[..., 0].tolist() == [[0], [255]]

    def test_floats_and_32_bits(self, tmp_path: Path) -> None:
        path = write(tmp_path / "f.tif", np.array([[0, 0.5, 1]], np.float32))
        assert read_rgb(path, Ranges(real=1.0))[0, :, 0].tolist() == [0, 128, 255]
        path = write(tmp_path / "i.tif", np.array([[0, 1023]], np.int32))
        assert read_rgb(path, Ranges(whole=1023))[0, :, 0].tolist() == [0, 255]

    def test_sixteen_bit_colours_are_their_upper_halves(self, tmp_path: Path) -> None:
        path = write_png(tmp_path / "a.png", np.array([[[0, 0x1234, 0xFFFF]]]), depth=16, kind=2)
        assert read_rgb(path, SIXTEEN).tolist() == [[[0, 0x12, 255]]]
        assert opened(path, "image").is_cut

    @pytest.mark.parametrize("ranges", [Ranges(), Ranges(real=1.0)])
    def test_where_no_range_is_known_they_are_refused(self, tmp_path: Path, ranges: Ranges) -> None:
        with pytest.raises(DatasetError, match=r"a\.png has whole numbers of more than 8 bits.*which value is white"):
            read_rgb(write(tmp_path / "a.png", np.array([[300]], np.uint16)), ranges)
        with pytest.raises(DatasetError, match=r"c\.png has 16-bit colours, of which the upper 8 bits"):
            read_rgb(write_png(tmp_path / "c.png", np.zeros((1, 1, 3), int), depth=16, kind=2), ranges)


class TestPages:
    @pytest.mark.parametrize(("name", "pages"), [("stack.tif", 24), ("moving.gif", 3), ("moving.png", 3)])
    def test_several_images_in_a_file_are_refused(self, tmp_path: Path, name: str, pages: int) -> None:
        path = write_pages(tmp_path / name, [GREY + k for k in range(pages)])
        with pytest.raises(DatasetError, match=rf"{name} holds {pages} images.*Split it.*ImageSequence") as caught:
            read_rgb(path)
        code = str(caught.value).partition("same order: ")[2].rstrip(".")
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)  # what the message says works
        split = sorted(tmp_path.glob(f"{path.stem}-*.{'tif' if path.suffix == '.tif' else 'png'}"))
        assert len(split) == pages
        assert (read_rgb(split[2])[..., 0] == GREY + 2).all()

    def test_pages_of_floats_are_split_as_they_are(self, tmp_path: Path) -> None:
        pages = [np.array([[0.25, np.nan], [-3, k]], np.float32) for k in range(2)]
        path = write_pages(tmp_path / "depth.tif", pages)
        with pytest.raises(
            DatasetError, match=r"holds 2 images.*set data\.name=value-maps\(pages='channels'\)"
        ) as caught:
            opened(path, "map")
        code = str(caught.value).partition("same order: ")[2].rstrip(".")
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / "depth-001.tif", "map").image), pages[1])
        found = opened_pages(path, "map")
        np.testing.assert_array_equal(np.stack([np.asarray(page.image) for page in found]), np.stack(pages))
        assert [page.pages for page in found] == [2, 2]

    def test_a_stack_behind_one_header_is_refused(self, tmp_path: Path) -> None:
        told = "ImageJ=1.53t\nimages=24\nslices=24\n"
        path = write(tmp_path / "a.tif", GREY, description=told)
        with pytest.raises(DatasetError, match=r"a\.tif holds 24 images"):
            read_rgb(path)

    def test_a_photograph_with_a_preview_is_one(self, tmp_path: Path) -> None:
        path = write_pages(tmp_path / "a.mpo", [COLOURS, COLOURS // 2]).rename(tmp_path / "a.jpg")
        assert np.abs(read_rgb(path)[..., 0].astype(int) - GREY).max() < 60
        assert opened(path, "image").image.format == "MPO"


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("content", [b"", b"not an image", None])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "broken.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"broken\.png"):
            read_rgb(path)

    @pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "webp", "bmp", "ppm"])
    def test_damage_anywhere_is_a_named_error_or_none(self, tmp_path: Path, ending: str) -> None:
        random = np.random.default_rng(0)
        path = write(tmp_path / f"whole.{ending}", random.integers(0, 255, (9, 7, 3), np.uint8))
        content = path.read_bytes()
        for number in range(60):
            cut = content[: int(random.integers(len(content)))]
            changed = bytearray(content)
            changed[int(random.integers(len(content)))] = int(random.integers(256))
            broken = tmp_path / f"broken.{ending}"
            broken.write_bytes(cut if number % 2 else bytes(changed))
            with suppress(DatasetError):  # and nothing else
                read_rgb(broken)

    @pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
    def test_a_file_that_is_cut_off_is_named(self, tmp_path: Path, ending: str) -> None:
        random = np.random.default_rng(0)
        path = write(tmp_path / f"a.{ending}", random.integers(0, 255, (64, 64, 3), np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DatasetError, match=rf"^cannot read the image .*a\.{ending}: "):
            read_rgb(path)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (os.mkfifo, "no regular file"),
            (Path.mkdir, "no regular file"),
            (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
            (lambda path: path.symlink_to(path), "a link to nothing"),
        ],
    )
    def test_only_regular_files_are_opened(self, tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
        make(tmp_path / "a.png")
        with pytest.raises(DatasetError, match=rf"a\.png: it is {message}"):
            read_rgb(tmp_path / "a.png")

    def test_a_socket_is_not_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a.png")
            with pytest.raises(DatasetError, match=r"a\.png: it is no regular file"):
                read_rgb(Path("a.png"))

    def test_a_decompression_bomb_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(DatasetError, match=r"a\.png: Image size \(1600 pixels\) exceeds.*MAX_IMAGE_PIXELS"):
            read_rgb(path)
