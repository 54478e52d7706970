"""Journals and comparisons that no training made: quick, always the same, and shaped like the real ones."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from deepsup.training import run_folders

LAYERS = [f"conv{i}" for i in range(1, 13)] + ["classifier"]
BRANCHES = {"conv3": 16, "conv6": 32, "conv9": 64}
EPOCHS = 12
STEPS = 45  # per epoch
ENVIRONMENT = {
    "python": "3.11.7", "torch": "2.15.0", "deepsup": "0.1.0", "platform": "Linux-6.1-x86_64", "processor": "2 cores",
    "threads": 1, "commit": "0123abcd", "command": "deepsup compare demo.yaml",
}  # fmt: skip
COST = {"trunk_params": 213_418, "head_params": 34_590, "trunk_flops": 3_940_000, "head_flops": 69_120}


def plan() -> dict[str, Any]:
    branches = [
        {"name": layer, "layer": layer, "shape": [width, 16 // (i + 1), 16 // (i + 1)], "layout": "NCHW",
         "depth": round(int(layer[4:]) / len(LAYERS), 4), "head": "linear", "loss": "cross_entropy", "weight": "linear(0.3, 0)",
         "params": 20_490 // (i + 1), "flops": 40_960 // (i + 1), "activation_bytes": 16_384 // (i + 1)}
        for i, (layer, width) in enumerate(BRANCHES.items())
    ]  # fmt: skip
    trunk = {"params": COST["trunk_params"], "flops": COST["trunk_flops"]}
    return {
        "format": 1,
        "model": "Plain",
        "method": "aux",
        "classes": 10,
        "main": "",
        "trunk": trunk,
        "branches": branches,
    }


def accuracy_at(group: str, arm: str, epoch: int, draw: random.Random) -> float:
    late = {("sgd", "plain"): 99.0, ("sgd", "supervised"): 2.0, ("adam", "plain"): 6.0, ("adam", "supervised"): 1.5}
    reach = 0.965 / (1 + math.exp(-(epoch - late[group, arm]) * 1.1))
    return max(0.08, min(1.0, reach + draw.uniform(-0.012, 0.012)))


def faded(layer: int, step: int) -> float:
    """The gradient of the plain net, without its noise."""
    return 3e-3 * 10 ** (-0.47 * (len(LAYERS) - 1 - layer) + 0.01 * step)


def placement() -> dict[str, Any]:
    """Make the record of a probe that chose `BRANCHES`, shaped like the real one."""
    rows, points = [], []
    for i, layer in enumerate(LAYERS):
        means = [faded(i, step) for step in range(20)]
        vanished = [min(1.0, 2e-8 / value) for value in means]
        weight = {"mean": means, "median": means, "p5": means, "vanished": vanished}
        tap, depth = (None if layer == "classifier" else layer), (i + 1) / len(LAYERS)
        rows.append({"layer": layer, "tap": tap, "depth": depth, "weight": weight, "output": None, "activation": [0.1]})
        if tap:
            points.append({"layer": tap, "depth": depth, "stride": 1, "shape": [16, 8, 8], "layout": "NCHW"})
    probe = {"format": 1, "model": "Plain", "iterations": 20, "threshold": 1e-7, "classes": 10, "branches": []}
    means = {row["layer"]: statistics.fmean(row["weight"]["mean"]) for row in rows}
    reason = "the training signal fades on its way down: three times it falls below 1/5 of what it was."
    return {"kind": "placement", "time": 0, "rule": "drop", "layers": list(BRANCHES), "gradients": means,
            "reason": reason, "probe": probe | {"rows": rows, "points": points}}  # fmt: skip


def doctor(*, supervised: bool) -> dict[str, Any]:
    inplace = {
        "code": "inplace-successor", "severity": "warning", "where": "conv6", "what": "relu6 overwrites what conv6 gives out",
        "why": "Without a copy the branch would read what the next layer made of it; the tap therefore keeps one",
        "fix": "Tap the layer that follows, or set inplace=False there",
    }  # fmt: skip
    labels = {
        "code": "class-count", "severity": "error", "where": "labels", "what": "label 10 was found, and there are 10 scores",
        "why": "Cross-entropy has no score for such a label: it raises, or on a GPU aborts the process",
        "fix": "Build model and heads with as many classes as the data have, and count labels from 0",
    }  # fmt: skip
    return {"kind": "doctor", "time": 0, "findings": [inplace, labels] if supervised else []}


def pulls(step: int, draw: random.Random) -> dict[str, dict[str, float | None]]:
    """Make the branches of one conflict record: the first turns against the rest, the second helps, the last ends early."""
    progress = step / (EPOCHS * STEPS)
    found: dict[str, dict[str, float | None]] = {}
    for i, branch in enumerate(BRANCHES):
        cosine = (0.25, 0.35, 0.3)[i] - (0.6, 0.2, 0.1)[i] * progress + draw.uniform(-0.05, 0.05)
        ratio = (2.0, 0.4, 0.08)[i] * (1.02 - progress) * draw.uniform(0.8, 1.2)
        share = min(1.0, max(0.0, 0.5 - 2.2 * cosine))
        found[branch] = {"cosine": cosine, "ratio": ratio, "kept": 1 + ratio * cosine, "share": share}
    if progress > 0.8:
        found["conv9"] = dict.fromkeys(found["conv9"])
    return found


def older(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what journals did not hold before gradients were made visible."""
    return [record for record in records if record["kind"] not in ("placement", "doctor", "cost", "conflict")]


def journal(group: str, arm: str, seed: int, *, epochs: int = EPOCHS, end: bool = True) -> list[dict[str, Any]]:
    """Make the records of one run; the same arguments always give the same records."""
    draw = random.Random(f"{group} {arm} {seed}")
    supervised = arm == "supervised"
    start: dict[str, Any] = {"kind": "start", "time": 1_780_000_000.0, "format": 1, "name": f"{group}/{arm}/seed{seed}"}
    start |= {
        "group": group,
        "arm": arm,
        "seed": seed,
        "environment": ENVIRONMENT,
        "plan": plan() if supervised else None,
    }
    start["config"] = {"name": "demo", "epochs": EPOCHS, "optimizer": {"name": group}, "seed": seed}
    start["cost"] = COST if supervised else COST | {"head_params": 0, "head_flops": 0}
    cost = {"kind": "cost", "time": 0, "saved_bytes": 3_000_000 if supervised else 2_000_000, "samples": 32}
    records = [start, *([placement()] if supervised else []), doctor(supervised=supervised), cost]
    for step in range(30):
        layers = {}
        for i, layer in enumerate(LAYERS):
            lost = min((b - i) % 13 for b in (2, 5, 8, 12) if b >= i)
            value = 3e-3 * 10 ** (-0.47 * lost + 0.01 * step) if supervised else faded(i, step)
            layers[layer] = value * draw.uniform(0.6, 1.6)
        records.append({"kind": "gradients", "time": 0, "step": step, "layers": layers})
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * STEPS, epoch * STEPS, 10):
            progress = step / (EPOCHS * STEPS)
            weights = {"main": 1.0} | ({b: 0.3 * (1 - progress) for b in BRANCHES} if supervised else {})
            parts = {head: 2.3 - 2 * progress for head in weights}
            records.append({"kind": "step", "time": 0, "step": step, "epoch": epoch, "progress": progress,
                            "total": sum(parts.values()), "parts": parts, "weights": weights, "lr": 0.02})  # fmt: skip
            if supervised:
                records.append({"kind": "conflict", "time": 0, "step": step, "epoch": epoch, "progress": progress,
                                "steps": 10, "branches": pulls(step, random.Random(f"{seed} {step}"))})  # fmt: skip
        main = accuracy_at(group, arm, epoch, draw)
        heads = {"main": main} | ({b: main * (0.8 + 0.06 * i) for i, b in enumerate(BRANCHES)} if supervised else {})
        heads |= {"ensemble": main * 1.01} if supervised else {}
        records.append({"kind": "epoch", "time": 0, "epoch": epoch, "step": epoch * STEPS, "progress": epoch / EPOCHS,
                        "train": {"total": 1.0, "parts": {"main": 1.0}}, "seconds": 1.1 + 0.1 * supervised,
                        "validation": {"accuracy": heads, "loss": dict.fromkeys(heads, 1.0)}})  # fmt: skip
    if end:
        scores = [r["validation"]["accuracy"]["main"] for r in records if r["kind"] == "epoch"]
        records.append({"kind": "end", "time": 0, "step": epochs * STEPS, "epochs": epochs, "accuracy": scores[-1],
                        "best_accuracy": max(scores), "seconds": 13.2 + supervised, "step_ms": 24.5})  # fmt: skip
    return records


def write(folder: Path, records: list[dict[str, Any]], *, tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "journal.jsonl").write_text(text + tail, encoding="utf-8")
    return folder


def compare_file(folder: Path) -> dict[str, Any]:
    """Make the compare.json of the finished runs below `folder`."""
    groups = []
    for group in ("sgd", "adam"):
        arms: dict[str, Any] = {}
        for arm in ("plain", "supervised"):
            runs = [run_folders.run(folder / group / arm / f"seed{seed}") for seed in range(3)]
            final = [run.end.score for run in runs if run.end]
            arms[arm] = {
                "runs": [run.name for run in runs], "final": final, "mean": statistics.fmean(final),
                "std": statistics.stdev(final), "epochs_to_90": [run.epochs_to(0.9) for run in runs],
                "seconds": [run.seconds for run in runs], "step_ms": [24.5] * 3,
                "train_params": COST["trunk_params"] + runs[0].cost["head_params"],
                "train_flops": COST["trunk_flops"] + runs[0].cost["head_flops"],
                "inference_params": COST["trunk_params"], "inference_flops": COST["trunk_flops"],
                "inference_ms": 1.25 if arm == "plain" else 1.251,
            }  # fmt: skip
        difference = arms["supervised"]["mean"] - arms["plain"]["mean"]
        verdict = {"verdict": "helps" if difference > 0.1 else "no evidence", "mean_difference": difference, "n": 3,
                   "ci_low": difference - 0.011, "ci_high": difference + 0.011, "confidence": 0.95,
                   "baseline": "plain", "candidate": "supervised"}  # fmt: skip
        groups.append({"name": group, "baseline": "plain", "arms": arms, "verdicts": {"supervised": verdict}})
    rule = "Supervised helps if the 95 % interval of the mean paired difference in final accuracy lies above zero."
    name = "sgd/supervised/seed0"
    certificate = {"run": name, "path": f"{name}/certificate.json", "identical": True, "state_sha256": "a1b2c3d4" * 8}
    return {"format": 1, "name": "digits-demo", "rule": rule, "metric": "accuracy", "created": 1_780_000_000,
            "environment": ENVIRONMENT, "groups": groups, "certificates": [certificate]}  # fmt: skip


def make_demo(folder: Path) -> Path:
    """Write a whole comparison: 2 groups x 2 arms x 3 seeds."""
    for group in ("sgd", "adam"):
        for arm in ("plain", "supervised"):
            for seed in range(3):
                write(folder / group / arm / f"seed{seed}", journal(group, arm, seed))
    (folder / "sgd/supervised/seed0/certificate.json").write_text('{"identical": true}')
    (folder / "compare.json").write_text(json.dumps(compare_file(folder)))
    return folder


NINE = ["none", "label-smoothing", "aux", "dsn", "cnds", "dsl", "dhm", "byot", "compute"]


def make_many(folder: Path) -> Path:
    """Write a comparison of nine arms x 2 seeds, each a little better than the one before; two have no branches."""
    arms: dict[str, Any] = {}
    for i, arm in enumerate(NINE):
        kind = "plain" if arm in ("none", "label-smoothing", "compute") else "supervised"
        runs = [f"all/{arm}/seed{seed}" for seed in range(2)]
        for seed, name in enumerate(runs):
            start, *rest = journal("adam", kind, seed, epochs=3)
            for record in rest:
                for scores in [record["validation"]["accuracy"]] if record["kind"] == "epoch" else []:
                    scores.update({head: value * (0.5 + 0.05 * i) for head, value in scores.items()})
            write(folder / name, [start | {"group": "all", "arm": arm, "name": name, "seed": seed}, *rest])
        found = [run_folders.run(folder / name) for name in runs]
        final = [run.epochs[-1].score["main"] for run in found]
        arms[arm] = {"runs": runs, "final": final, "mean": statistics.fmean(final), "std": statistics.stdev(final)}
    base = arms["none"]["mean"]
    verdicts = {
        arm: {"verdict": ["hurts", "no evidence", "helps"][i % 3], "mean_difference": fields["mean"] - base, "n": 2,
              "ci_low": fields["mean"] - base - 0.01, "ci_high": fields["mean"] - base + 0.03, "confidence": 0.95,
              "baseline": "none", "candidate": arm}
        for i, (arm, fields) in enumerate(arms.items()) if i
    }  # fmt: skip
    group = {"name": "all", "baseline": "none", "arms": arms, "verdicts": verdicts}
    (folder / "compare.json").write_text(
        json.dumps({"format": 1, "name": "nine", "groups": [group], "rule": "The rule."})
    )
    return folder


# As compare.json was written when a comparison had two arms: one `verdict` a group, nothing of memory or other outputs.
COMPARISON: dict[str, Any] = {
    "name": "golden",
    "groups": [
        {
            "name": "sgd",
            "arms": {
                "plain": {"runs": ["a", "b", "c"], "final": [0.1, 0.1, 0.13], "mean": 0.11, "std": 0.0173,
                          "epochs_to_90": [None] * 3, "seconds": [13.0, 14.0, 15.0], "train_params": 213418,
                          "train_flops": 3.94e6, "inference_params": 213418, "inference_flops": 3.94e6, "inference_ms": 2},
                "aux[1]": {"runs": ["d", "e", "f"], "final": [0.95, 0.96, 0.97], "mean": 0.96, "std": 0.01,
                           "epochs_to_90": [5, 6, 11], "seconds": [16.0, 17.0, 18.0], "train_params": 1248008,
                           "train_flops": 4.01e9, "inference_params": 213418, "inference_flops": 3.94e6, "inference_ms": 2},
            },
            "verdict": {"verdict": "helps", "mean_difference": 0.85, "ci_low": 0.82, "ci_high": 0.88, "n": 3,
                        "confidence": 0.95, "baseline": "plain", "candidate": "aux[1]", "reason": "above 0"},
        },
        {"name": "adam", "arms": {"plain": {"runs": ["g"], "final": [None]}, "aux[1]": {}}, "verdict": None},
    ],
}  # fmt: skip


def conflicts(
    *records: tuple[int, float, dict[str, tuple[float | None, float | None, float | None, float | None]]],
) -> Any:
    """Make the records of (steps, progress, branch -> cosine, ratio, kept, share), behind the start of a run."""
    names = ("cosine", "ratio", "kept", "share")
    made = [
        {"kind": "conflict", "time": 0, "step": i, "epoch": 1, "progress": progress, "steps": steps,
         "branches": {branch: dict(zip(names, values, strict=True)) for branch, values in branches.items()}}
        for i, (steps, progress, branches) in enumerate(records)
    ]  # fmt: skip
    return [*older(journal("sgd", "supervised", 0, epochs=1, end=False)), *made]
