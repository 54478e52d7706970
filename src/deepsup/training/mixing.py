"""Mixup and cutmix of a run's batches, by torchvision: which are mixed with which is a function of seed, epoch and batch."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from deepsup.datasets.splits import derived_seed
from deepsup.errors import ConfigError
from deepsup.settings.batches import MixConfig


class Mixing:
    """Batches `(x, y)` of images (N, C, H, W) and class indices (N,) as mixed images and class probabilities (N, classes).

    The global random state is neither read nor changed.
    """

    def __init__(self, settings: MixConfig, *, classes: int | None, seed: int, rank: int = 0) -> None:
        if classes is None or classes < 2:
            raise ConfigError(
                f"mixed labels are probabilities of two classes or more, and the net has {classes or 'no known number'}. In fit, "
                "give objective=Objective(ds.plan(model, x, method='none')), which knows them."
            )
        v2 = importlib.import_module("torchvision.transforms.v2")
        asked = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
        self._ways = [way(alpha=alpha, num_classes=classes) for way, alpha in asked if alpha is not None]
        self._share, self._keys, self._checked = settings.share, (seed, rank), False

    def __call__(self, x: Any, y: Any, *, epoch: int, batch: int) -> tuple[Any, Any]:
        """Mix the batch of that number, or leave it as it is."""
        if not self._checked:
            self._check(x, y)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed("mix", *self._keys, epoch, batch))
            if float(torch.rand(())) >= self._share:
                return x, y
            way = self._ways[int(torch.randint(len(self._ways), ()))]
            mixed: tuple[Any, Any] = way(x, y.long())
            return mixed

    def _check(self, x: Any, y: Any) -> None:
        """Once, since looking at labels makes a device wait."""
        images = isinstance(x, Tensor) and x.ndim == 4
        classes = isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point()
        if not images or not classes or int(y.min()) < 0:
            told = [f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else type(v).__name__ for v in (x, y)]
            raise ConfigError(
                f"mix needs images (N, C, H, W) with a class index from 0 on each, (N,); found {told[0]} and {told[1]}. Leave it "
                "out, or mix in a loader of your own."
            )
        self._checked = True
