"""Tests of preparation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup import datasets
from deepsup.errors import MissingPackageError
from tests.support.published_pixels import maps
from tests.support.tiny_layouts import (
    write_drive,
)


class TestVessels:
    def test_as_the_published_code_does_it(self) -> None:
        cv2 = pytest.importorskip("cv2")
        random = np.random.default_rng(0)
        rows, columns = np.mgrid[:64, :72]
        images = [
            (120 + 60 * np.sin(rows / 9 + k) + 40 * np.cos(columns / 5) + random.normal(0, 9, (64, 72)))[..., None]
            * np.array([1.0, 0.6, 0.3])
            for k in range(3)
        ]
        images = [image.clip(0, 255).astype(np.uint8) for image in images]
        grey = np.stack([0.299 * i[..., 0] + 0.587 * i[..., 1] + 0.114 * i[..., 2] for i in images])
        standardised = (grey - grey.mean()) / grey.std()  # over all images, then each stretched by itself
        table = np.array([((i / 255.0) ** (1 / 1.2)) * 255 for i in range(256)]).astype(np.uint8)
        for image, values in zip(images, standardised, strict=True):
            stretched = ((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8)
            expected = cv2.LUT(cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(stretched), table)
            found = datasets.preparation.vessels(image)
            assert found.shape == (64, 72)
            assert float((found == expected).mean()) > 0.995  # the last digit of a float decides the others
            assert int(np.abs(found.astype(int) - expected).max()) <= 3

    def test_standardised_by_what_is_in_view_of_all_training_images(self, tmp_path: Path) -> None:
        pytest.importorskip("cv2")
        train, validation = maps("drive", write_drive(tmp_path, images=3), prepare="vessels")
        values = torch.cat([train.item(i)[0][0][train.item(i)[1] >= 0] for i in range(3)]).double()
        assert abs(float(values.mean())) < 1e-5
        assert abs(float(values.std(correction=0)) - 1) < 1e-5
        limited, _ = maps("drive", tmp_path, prepare="vessels", limit=1)
        assert torch.equal(limited.mean, train.mean)
        assert torch.equal(validation.mean, train.mean)
        assert (train.channels, train.item(0)[0].shape, train.picture(0).shape) == (1, (1, 40, 36), (3, 40, 36))

    def test_without_opencv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write_drive(tmp_path)
        monkeypatch.setitem(sys.modules, "cv2", None)
        assert maps("drive", root)[0].channels == 3
        with pytest.raises(MissingPackageError, match=r'opencv-python-headless.*pip install "deepsup\[maps\]"'):
            datasets.load("drive", root=root, prepare="vessels")

    def test_a_flat_image_stays_finite(self) -> None:
        pytest.importorskip("cv2")
        assert datasets.preparation.vessels(np.full((16, 16, 3), 90, np.uint8)).shape == (16, 16)
