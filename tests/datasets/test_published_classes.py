"""Tests of published classes."""

from __future__ import annotations

from deepsup.datasets import published_classes


def test_colours_tell_all_classes_apart() -> None:
    for named in (published_classes.CAMVID, published_classes.CITYSCAPES, published_classes.DRIVE):
        assert len(set(named.values())) == len(named)
