"""Run in each of two processes (gloo, CPU) that meet in a file: a step with heads that are the model's own, or shared.

Writes a JSON file a process: how far gradients and weights are from those of one process with both halves of the batch.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import deepsup as ds
from tests.support.lending_nets import Tokens, of_the_model
from tests.support.small_nets import CLASSES

STEPS, AT = 3, ["blocks.0", "blocks.1"]
HEADS = {"main": "main", "shared": "shared(pool)", "borrowed": of_the_model}


def made(head: str, weight: float) -> tuple[nn.Module, ds.Plan]:
    """The same net in every process, without what depends on the batch or on chance."""
    torch.manual_seed(0)
    model = Tokens()
    model.norm, model.drop = nn.LayerNorm(8), nn.Identity()
    weights = {AT[0]: weight, AT[1]: 0.5}
    plan = ds.plan(model, torch.zeros(2, 6), at=AT, head=HEADS[head], weight=weights)
    return ds.attach(model, plan), plan


def batch(step: int) -> tuple[Tensor, Tensor]:
    """What both processes see of a step together."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(0, CLASSES, (8,), generator=generator)


def train(way: str, rank: int) -> dict[str, object]:
    head, weight, unused = way.split(",")
    net, plan = made(head, float(weight))
    alone = copy.deepcopy(net)
    wrapped = DistributedDataParallel(net, find_unused_parameters=unused == "find-unused")
    objective, reference = ds.Objective(plan), ds.Objective(plan)
    ours, theirs = (torch.optim.SGD(n.parameters(), lr=0.1, weight_decay=0.01) for n in (wrapped, alone))
    far, missing = 0.0, 0
    for step in range(STEPS):
        x, y = batch(step)
        part = slice(4 * rank, 4 * rank + 4)
        ours.zero_grad()
        theirs.zero_grad()
        objective(wrapped(x[part]), y[part]).total.backward()
        reference(alone(x), y).total.backward()
        for mine, its in zip(net.parameters(), alone.parameters(), strict=True):
            missing += (mine.grad is None) != (its.grad is None)
            if mine.grad is not None and its.grad is not None:
                far = max(far, float((mine.grad - its.grad).abs().max()))
        ours.step()
        theirs.step()
    weights = [float((a - b).detach().abs().max()) for a, b in zip(net.parameters(), alone.parameters(), strict=True)]
    return {"gradients": far, "missing": missing, "weights": max(weights), "parameters": len(weights)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    way, folder, rank = sys.argv[1:]
    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=60), world_size=2, rank=int(rank))
    result = train(way, int(rank))
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(result, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as in `distributed_worker`
