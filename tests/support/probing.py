"""Batches to probe with, and probes of made-up numbers."""

from __future__ import annotations

from torch import Tensor

from deepsup.features import Feature
from deepsup.probes import LayerGradient, Probe
from deepsup.probes.magnitudes import Magnitudes
from deepsup.probes.placement import Point
from tests.support.small_nets import images, labels

FEATURE = Feature((8, 4, 4), "NCHW")


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(images(4), labels(4)) for _ in range(count)]


def hand_made(*means: float, classes: int | None = 10) -> Probe:
    """Layers a, b, c, ... with these mean gradients; the last is the classifier, behind every tap."""
    names = "abcdefghijkl"[: len(means)]
    rows = [
        LayerGradient(
            layer=n,
            tap=f"tap_{n}" if i < len(means) - 1 else None,
            depth=(i + 1) / len(means),
            weight=Magnitudes((m / 2, 3 * m / 2), (m, m), (m / 10, m / 10), (0.25, 0.75)),
            activation=(1.0, 3.0),
        )
        for i, (n, m) in enumerate(zip(names, means, strict=True))
    ]
    points = tuple(Point(r.tap, r.depth, 2, FEATURE) for r in rows if r.tap is not None)
    return Probe("Net", tuple(rows), 2, points=points, classes=classes)
