"""Segmentation runs that no training made: journals of today with scores of label maps, and the pictures in RUN/maps."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepsup import label_maps
from deepsup.training import run_folders
from tests.support.synthetic_journals import COST, ENVIRONMENT, write

WEIGHTS = {"0": 0, "0.1": 0.1, "0.2": 0.2, "0.4": 0.4, "0.7": 0.7, "1": 1}
CLASSES = ("sky", "building", "road", "tree", "car")
EPOCHS = 8
Pair = tuple[str, Any, Any]
"""A name, an image uint8 (H, W, 3) and its labels uint8 (H, W)."""


def plan(weight: float) -> dict[str, Any]:
    branch = {"name": "layer3", "layer": "backbone.layer3", "shape": [64, 8, 8], "layout": "NCHW", "depth": 0.72,
              "head": "fcn", "loss": "cross_entropy", "weight": str(weight), "params": 147_000, "flops": 9_400_000,
              "activation_bytes": 65_536}  # fmt: skip
    trunk = {"params": COST["trunk_params"], "flops": COST["trunk_flops"]}
    return {
        "format": 1,
        "model": "PSPNet",
        "method": "pspnet",
        "classes": 5,
        "main": "",
        "trunk": trunk,
        "branches": [branch],
    }


def journal(arm: str, seed: int, *, weight: float, metric: str, group: str = "") -> list[dict[str, Any]]:
    """Make the records of one run; the score is best at a weight of 0.4."""
    draw = random.Random(f"{arm} {seed}")
    best = 0.62 - 0.12 * (weight - 0.4) ** 2 + draw.uniform(-0.006, 0.006)
    name = f"{group}/{arm}/seed{seed}".lstrip("/")
    start = {"kind": "start", "time": 1_780_000_000.0, "format": 1, "name": name, "group": group, "arm": arm, "seed": seed,
             "metric": metric, "environment": ENVIRONMENT, "cost": COST, "epochs": EPOCHS,
             "config": {"supervise": {"weight": weight}}, "plan": plan(weight) if weight else None}  # fmt: skip
    records: list[dict[str, Any]] = [start]
    for epoch in range(1, EPOCHS + 1):
        score = best * (1 - 0.7 ** (epoch + 1))
        outputs = ({"layer3": score - 0.05} if weight else {}) | {"main": score}
        outputs |= {"ensemble": score + 0.004} if weight else {}
        records.append({"kind": "epoch", "time": 0, "epoch": epoch, "step": epoch * 20, "progress": epoch / EPOCHS,
                        "seconds": 2.5, "train": {"total": 1.0, "parts": {"main": 1.0}},
                        "validation": {"score": outputs, "loss": dict.fromkeys(outputs, 1.0),
                                       **scores(outputs, metric)}})  # fmt: skip
    last = records[-1]["validation"]["score"]["main"]
    end = {"kind": "end", "time": 0, "step": 20 * EPOCHS, "epochs": EPOCHS, "score": last, "best_score": last + 0.001,
           "seconds": 20.0, "step_ms": 31.0}  # fmt: skip
    return [*records, end]


def scores(outputs: dict[str, float], metric: str) -> dict[str, Any]:
    """Make what validation says of label maps beside the score that counts."""
    found = {
        output: {"mean IoU": value, "pixel accuracy": min(1.0, value + 0.25), "mean Dice": value + 0.1}
        for output, value in outputs.items()
    }
    if metric == "mean IoU":
        return {"scores": found, "iou": {o: [v - 0.05 * i for i in range(len(CLASSES))] for o, v in outputs.items()}}
    for output, value in outputs.items():
        found[output] |= {"F1": value + 0.2, "sensitivity": value + 0.15, metric: value}
    confusion = {output: [[3_895_256, 65_238], [134_513, 443_136]] for output in outputs}
    iou = {output: [value, value / 2] for output, value in outputs.items()}
    return {"scores": found, "iou": iou, "confusion": confusion, "threshold": 0.5}


def drawn_pairs(n: int, *, binary: bool, size: tuple[int, int] = (48, 64)) -> list[Pair]:
    """Draw images of a few bars and blocks with their labels; a part of each does not count."""
    pairs = []
    for i in range(n):
        rng = np.random.default_rng(i)
        truth = np.zeros(size, dtype=np.uint8)
        if binary:
            for _ in range(6):
                at = int(rng.integers(4, size[1] - 4))
                truth[:, at : at + 2] = 1
        else:
            for label in range(1, 5):
                top, left = rng.integers(0, size[0] - 16), rng.integers(0, size[1] - 20)
                truth[top : top + 16, left : left + 20] = label
        shades = 40 + 45 * truth[..., None] + np.asarray([0, 20, 40], dtype=np.uint8)
        image = np.clip(shades + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
        truth[: size[0] // 8, : size[1] // 8] = 255
        pairs.append((f"sample{i:02d}", image, truth))
    return pairs


def write_maps(run: Path, pairs: Sequence[Pair], *, outputs: Sequence[str], metric: str, classes: Sequence[str],
               palette: Any = None, seed: int = 0) -> Path:  # fmt: skip
    """Write RUN/maps as a run does: each output is the truth with some of its pixels taken from elsewhere."""
    folder = run / "maps"
    samples = []
    for name, image, truth in pairs:
        label_maps.write_picture(folder / f"{name}.image.png", image)
        label_maps.write_picture(folder / f"{name}.truth.png", truth)
        told = {}
        for i, output in enumerate(outputs):
            rng = np.random.default_rng([seed, i])
            said = np.where(truth == 255, 0, truth).astype(np.uint8)
            noise = rng.random((truth.shape[0] // 4 + 1, truth.shape[1] // 4 + 1)).repeat(4, 0).repeat(4, 1)
            wrong = noise[: truth.shape[0], : truth.shape[1]] < 0.2 / (i + 1)
            said[wrong] = np.roll(said, 7, axis=1)[wrong]
            file = f"{name}.{output.replace('/', '_')}.png"
            label_maps.write_picture(folder / file, said)
            told[output] = {"file": file, "score": float((said == truth)[truth != 255].mean())}
            if len(classes) == 2:
                sure = np.clip(255 * said * 0.9 + rng.normal(12, 8, said.shape), 0, 255).astype(np.uint8)
                told[output]["probability"] = file.replace(".png", ".probability.png")
                label_maps.write_picture(folder / told[output]["probability"], sure)
        samples.append({"name": name, "image": f"{name}.image.png", "truth": f"{name}.truth.png", "outputs": told})
    content = {"classes": list(classes), "palette": list(palette or label_maps.palette(len(classes))), "ignore": 255,
               "metric": metric, "samples": samples}  # fmt: skip
    (folder / "maps.json").write_text(json.dumps(content))
    return folder


def make_ablation(folder: Path, *, binary: bool = False, seeds: int = 3, pairs: Sequence[Pair] | None = None,
                  classes: Sequence[str] = CLASSES, palette: Any = None) -> Path:  # fmt: skip
    """Write an ablation of the branch's weight: six values x some seeds, the first seeds with maps."""
    metric = "ROC-AUC" if binary else "mean IoU"
    classes = ("background", "vessel") if binary else classes
    pairs = drawn_pairs(2, binary=binary) if pairs is None else pairs
    arms: dict[str, Any] = {}
    for i, (arm, weight) in enumerate(WEIGHTS.items()):
        names = [f"camvid/{arm}/seed{seed}" for seed in range(seeds)]
        for seed, name in enumerate(names):
            write(folder / name, journal(arm, seed, weight=weight, metric=metric, group="camvid"))
        outputs = ["main"] if weight == 0 else ["layer3", "main", "ensemble"]
        write_maps(folder / names[0], pairs, outputs=outputs, metric=metric, classes=classes, palette=palette, seed=i)
        final = [end.score for name in names if (end := run_folders.run(folder / name).end)]
        arms[arm] = {"runs": names, "final": final, "mean": statistics.fmean(final),
                     "std": statistics.stdev(final) if seeds > 1 else None}  # fmt: skip
    base = arms["0"]["mean"]
    verdicts = {arm: {"verdict": "helps", "mean_difference": fields["mean"] - base, "n": seeds, "confidence": 0.95,
                      "ci_low": fields["mean"] - base - 0.004, "ci_high": fields["mean"] - base + 0.004,
                      "baseline": "0", "candidate": arm} for arm, fields in arms.items() if arm != "0"}  # fmt: skip
    compare = {"format": 1, "name": "pspnet-weights", "metric": metric, "rule": "The rule.", "created": 1_780_000_000,
               "environment": ENVIRONMENT, "vary": {"key": "supervise.weight", "values": WEIGHTS},
               "groups": [{"name": "camvid", "baseline": "0", "arms": arms, "verdicts": verdicts}]}  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(compare))
    return folder
