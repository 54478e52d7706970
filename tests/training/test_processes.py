"""Two processes on the CPU, started by torchrun, through `train` and through `fit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepsup as ds
from deepsup import datasets
from deepsup.evaluation.evaluate import evaluate
from deepsup.training import runs
from deepsup.training.journal import read
from tests.support.tiny_shapes import write_shapes

ROOT = Path(__file__).parents[2]

SCRIPT = """
import hashlib, json, os, sys, warnings
from pathlib import Path

import torch

import deepsup as ds
from deepsup import datasets
from deepsup.training.runs import train
from tests.support.tiny_runs import config, dropout_net
from tests.support.tiny_shapes import config as maps

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), os.environ["RANK"]


def digest(net):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest()


tiny = dict(optimizer={"name": "sgd", "lr": 0.05}, supervise={"weight": 0.0}, checkpoint={"every_steps": 3})
train(config(folder / "run", **tiny))

who = dict(name="drawn-figures(identities=18, cameras=2, images=3)", size=[16, 16], batch_size=6, per_identity=3)
train(config(folder / "figures", data=who, epochs=1, supervise={"method": "none", "at": None}, embedding={"loss": "triplet"}))

train(maps(folder / "shapes", folder / "maps", loss="binary", data={"batch_size": 2}))

torch.manual_seed(0)
model = dropout_net(10, 1)
net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"], head="cnds(width=4, hidden=8)"))
data = datasets.load("digits", limit=101)  # neither 2 x 16 nor 2 divides it
result = ds.fit(net, data.train, validation=data.validation, epochs=2, batch_size=16, folder=folder / f"fit{rank}",
                engine={"accelerator": "cpu"})


class Stop(Exception):
    pass


def resumable(name, *, stop):
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"], head="cnds(width=4, hidden=8)"))

    def source(epoch):
        batches = data.train.batches(16, seed=0, epoch=epoch, shuffle=True, rank=int(rank), world=2)
        for number, batch in enumerate(batches):
            if stop and (epoch, number) == (1, 3):
                raise Stop
            yield batch

    try:
        ds.fit(net, source, validation=data.validation, epochs=2, folder=folder / name, checkpoint_every=2,
               optimizer="adam", engine={"accelerator": "cpu"})
    except Stop:
        pass
    return digest(net)


undisturbed = resumable("undisturbed", stop=False)
stopped = resumable("stopped", stop=True)
resumed = resumable("stopped", stop=False)
report = {"undisturbed": undisturbed, "stopped": stopped, "resumed": resumed, "digest": digest(net),
          "accuracy": result.score, "steps": result.step, "draws": torch.rand(3).tolist()}
(folder / f"rank{rank}.json").write_text(json.dumps(report))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # now and then gloo aborts while the interpreter takes down its threads, after everything is done
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    write_shapes(folder / "shapes", classes=2)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(folder / "script.py"), str(folder)),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_all_ranks_end_with_the_same_weights_and_scores(finished: Path):
    one, other = (json.loads((finished / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["digest"] == other["digest"]
    assert one["accuracy"] == other["accuracy"]
    assert one["steps"] == other["steps"] == 2 * 4
    assert one["draws"] != other["draws"]  # or both would drop out the same units


def test_a_stopped_run_goes_on_on_every_rank_as_if_undisturbed(finished: Path):
    """Each rank draws its own dropout, in the trunk and in the heads, so each has its own state to come back to."""
    one, other = (json.loads((finished / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["resumed"] == one["undisturbed"] == other["resumed"] == other["undisturbed"]
    assert one["stopped"] != one["resumed"]
    assert [r["step"] for r in read(finished / "stopped" / "journal.jsonl", "resume")] == [6]


def test_only_the_first_rank_writes(finished: Path):
    assert (finished / "fit0" / "journal.jsonl").exists()
    assert not (finished / "fit1").exists()
    kinds = [r["kind"] for r in read(finished / "run" / "journal.jsonl")]
    end = read(finished / "run" / "journal.jsonl", "end")[0]
    assert sum(r["steps"] for r in read(finished / "run" / "journal.jsonl", "conflict")) == end["step"]
    assert [k for k in kinds if k not in ("step", "conflict")] == [
        "start",
        "doctor",
        "cost",
        *["gradients"] * 3,
        "epoch",
        "epoch",
        "end",
    ]
    steps = [r["step"] for r in read(finished / "run" / "journal.jsonl", "step")]
    assert steps == sorted(set(steps))
    assert (finished / "run" / "model.safetensors").exists()


def test_maps_are_counted_by_two_processes_as_by_one(finished: Path):
    """Three validation images and two processes: one of them has an image more."""
    run = finished / "maps"
    told = read(run / "journal.jsonl", "epoch")[-1]["validation"]
    plan = ds.Plan.load(run / "plan.json")
    net = ds.attach(runs.untouched_model(run, trust=True), plan)
    ds.load_weights(net.model, run / "model.safetensors")
    ds.load_weights(net.heads, run / "heads.safetensors")
    split = datasets.load("pairs", root=finished / "shapes").validation
    alone = evaluate(net, split, objective=ds.Objective(plan))
    assert len(split) == 3
    assert set(alone.counts) == {"main", "stage1", "ensemble"}
    assert told["confusion"] == alone.record()["confusion"]
    assert told["score"] == alone.score
    assert told["loss"] == pytest.approx(alone.loss, rel=1e-5)


def test_a_batch_of_identities_is_shared_out_whole_and_a_search_counts_every_query_once(finished: Path):
    """Each process compares the images of its own identities, so that a loss on features is never 0."""
    run = finished / "figures"
    (epoch,) = read(run / "journal.jsonl", "epoch")
    split = datasets.load("drawn-figures(identities=18, cameras=2, images=3)", size=[16, 16], per_identity=3)
    assert epoch["step"] == split.train.n_batches(6, 2)
    assert epoch["train"]["parts"]["main/feature"] > 0
    net = runs.untouched_model(run, trust=True)
    ds.load_weights(net, run / "model.safetensors")
    alone = evaluate(net, split.validation)
    assert epoch["validation"]["score"] == alone.score
    assert epoch["validation"]["queries"] == 18


def test_scores_count_every_sample_once(finished: Path):
    last = read(finished / "run" / "journal.jsonl", "epoch")[-1]
    right = last["validation"]["score"]["main"] * 360
    assert right == pytest.approx(round(right), abs=1e-6)
