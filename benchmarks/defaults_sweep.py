"""Does a method train with its own defaults, at the trainer's default rate, on the networks that it was made for?

    python benchmarks/defaults_sweep.py DATA      # goes on with benchmarks/results/defaults_sweep.json

DATA holds CIFAR-100, `CamVid` and `DRIVE`. Every method on every network of ours that it was published for (or on the smallest
of its family), DSN's also where its heads were never published: some steps of SGD as `deepsup train` takes them, batches of 8 of
ten classes at 32x32 pixels. Reported are the loss of the first steps and of the last, the highest, and whether all were finite.
A row is kept as soon as it is there, and made anew only where `--again METHOD` says so. About 8 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch

from deepsup.files import write_atomically
from deepsup.methods import METHODS
from deepsup.settings import configs
from deepsup.settings.training import TrainConfig
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.halves import outputs_of
from deepsup.supervision.objectives import Objective
from deepsup.training import optimizers, prepare

STEPS, MEAN, LONG = 20, 3, 1000  # steps taken, of how many the mean is told, of how long a training they begin
RESIDUAL = ("deepsup:resnet-20", "deepsup:resnet-56", "deepsup:wrn-16-2")
DENSE, MOBILE = ("deepsup:densenet-40-12",), ("deepsup:mobilenet-v1", "deepsup:mobilenet-v2")
HIERARCHIES = (
    "deepsup:resnet-20",
    "deepsup:wrn-16-2",
    *DENSE,
    "deepsup:densenet-bc-40-12",
    *MOBILE,
    "torchvision:resnet18",
)
NETWORKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("none", "label-smoothing"), ("deepsup:resnet-20", "deepsup:plain-12")),
    **dict.fromkeys(("dsn", "dsn-released"), ("deepsup:nin", *RESIDUAL, *DENSE, MOBILE[0], "deepsup:plain-12")),
    **dict.fromkeys(("cnds", "cnds-released"), ("deepsup:cnds-8", "deepsup:cnds-13")),
    "googlenet": ("torchvision:googlenet",),
    "aux": ("deepsup:resnet-20",),
    "sdn": ("deepsup:resnet-56", "deepsup:wrn-16-2", MOBILE[0]),
    **dict.fromkeys(("adaloss", "equilibrium"), ("deepsup:resnet-20", *DENSE)),
    **dict.fromkeys(("dsl", "dks", "dhm"), HIERARCHIES),
    **dict.fromkeys(("dml", "dml-released"), ("deepsup:resnet-20", "deepsup:wrn-16-2", MOBILE[0])),
    "dml-shared": ("deepsup:resnet-20",),
    **dict.fromkeys(("byot", "byot-released"), ("deepsup:resnet-18-3x3", "deepsup:wrn-16-2")),
    "cds": ("deepsup:resnet-18-3x3",),
    **dict.fromkeys(("one", "dlb"), ("deepsup:resnet-20", "deepsup:wrn-16-2")),
    "pspnet": ("deepsup:pspnet",),
    "c1-deepsup": ("deepsup:c1",),
    "ppm-deepsup": ("deepsup:ppm",),
    **dict.fromkeys(("nnunet", "monai"), ("deepsup:unet",)),
    **dict.fromkeys(("hed", "hed-released"), ("deepsup:hed",)),
    **dict.fromkeys(("unetpp", "unetpp-released"), ("deepsup:unetpp",)),
}
LEFT_OUT = {"equal-compute": "it is the plain network, and longer"}
OPTIONS = {"googlenet": {"aux_logits": False}, "hed-released": {"released": True}}
AT = {  # of methods that leave the place to the user, who would ask the probe; of CNDS the published ones
    "deepsup:cnds-8": ["relu3_2"],
    "deepsup:cnds-13": ["relu2_2", "relu3_3", "relu4_3"],
    "deepsup:resnet-20": ["layer1", "layer2"],
}
IMAGES = {"name": "cifar100", "classes": 10, "size": 32, "batch_size": 8}
SCENES = {"size": 64, "crop": 64, "batch_size": 4, "limit": 8}
VESSELS = {"name": "drive", "crop": 48, "patches": 4, "prepare": "vessels", "batch_size": 4, "limit": 4}


def settings(method: str, model: str, root: Path) -> TrainConfig:
    """The run with nothing but defaults: what is set says what there is to see, and not how to train."""
    if not METHODS[method].maps:
        data = {**IMAGES, "root": str(root)}
    elif method in ("pspnet", "c1-deepsup", "ppm-deepsup"):
        data = {"name": "camvid", "root": str(root / "CamVid"), **SCENES}
    else:
        data = {**VESSELS, "root": str(root / "DRIVE")}
    if model == "torchvision:googlenet":
        data["size"] = 64
    open_ = METHODS[method].places is None and not METHODS[method].bare
    supervise = {"method": method} | ({"at": AT[model]} if open_ else {})
    run = {"model": model, "data": data, "supervise": supervise, "model_options": OPTIONS.get(method)}
    found = configs.parse(run)
    assert isinstance(found, TrainConfig)
    return found


def row(config: TrainConfig, steps: int) -> dict[str, Any]:
    """The losses of so many steps of the trainer."""
    prepared = prepare.prepare(config)
    net, objective = prepared.net.train(), Objective(prepared.plan)
    optimizer = optimizers.build(net, config.optimizer)
    loader = prepare.training_loader(config, prepared.data)
    found: list[float] = []
    for step, (x, y) in enumerate(islice(chain.from_iterable(loader.epoch(e) for e in count()), steps)):
        if isinstance(net, Supervised):
            net.set_progress(step / LONG)
        optimizer.zero_grad()
        total = objective(outputs_of(net, objective, x, y), y, progress=step / LONG).total
        found.append(float(total.detach()))
        if not math.isfinite(found[-1]):
            break
        total.backward()
        optimizer.step()
    finite = [loss for loss in found if math.isfinite(loss)]
    return {
        "rate": optimizer.param_groups[0]["lr"],
        "steps": len(found),
        "first": round(statistics.mean(finite[:MEAN]), 4),
        "last": round(statistics.mean(finite[-MEAN:]), 4),
        "highest": round(max(finite), 4),
        "finite": len(finite) == len(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--again", nargs="*", default=[], help="methods whose rows are made anew")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further row after so long")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "defaults_sweep.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ends = time.monotonic() + 60 * args.minutes
    rows = json.loads(args.out.read_text("utf-8"))["rows"] if args.out.exists() else {}
    rows = {name: found for name, found in rows.items() if name.partition(" on ")[0] not in args.again}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    about = {
        "command": " ".join(["python", "benchmarks/defaults_sweep.py", "DATA", *sys.argv[2:]]),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, 1 thread",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "left_out": LEFT_OUT,
    }
    pairs = [(place, method, model) for method, models in NETWORKS.items() for place, model in enumerate(models)]
    for _, method, model in sorted(pairs, key=lambda pair: pair[0]):  # every method once before any a second time
        name = f"{method} on {model}"
        if name in rows or time.monotonic() > ends:
            continue
        rows[name] = row(settings(method, model, args.data), STEPS)
        print(f"{name:45} {rows[name]}", flush=True)
        text = json.dumps({**about, "rows": rows}, indent=1) + "\n"
        write_atomically(args.out, lambda file, text=text: file.write_text(text, "utf-8"))


if __name__ == "__main__":
    main()
