"""Run in each of two processes (gloo, CPU) that meet in a file: train a supervised model in one of several ways.

Writes a JSON file a process: whether weights agree between the ranks, whether they moved, and the heads' gradients.
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
import deepsup.supervision.attaching

STEPS = 3


class Net(nn.Module):
    """Small, with dropout in the trunk, so that random streams matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def wrap(net: nn.Module, way: str) -> nn.Module:
    if way == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(net.model.second, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net
    return DistributedDataParallel(net, find_unused_parameters=way == "ddp-find-unused")


def full(parameter: Tensor) -> Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()


def train(way: str) -> dict[str, object]:
    torch.manual_seed(0)
    model = Net().train()
    plain = copy.deepcopy(model)
    x = torch.randn(4, 3, 8, 8)
    plan = ds.plan(
        model,
        x,
        at=["first", "second"],
        head="cnds(hidden=16)",
        weight={"first": 0.0, "second": 0.5},
        gradient={"second": "project"},
        embedding_loss={"main": "triplet(margin='soft')", "second": "circle"},
    )
    wrapped = wrap(ds.attach(model, plan), way)
    meter = ds.ConflictMeter(wrapped)
    objective = ds.Objective(plan)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    start = [full(p).clone() for p in wrapped.parameters()]
    rank = dist.get_rank()
    zero_gradients = True
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(10 * step + rank)
        x, y = torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 5, (4,), generator=generator)
        optimizer.zero_grad()
        objective(wrapped(x), y, progress=step / STEPS).total.backward()
        meter.step()
        head = ds.supervision.attaching.unwrap(wrapped).heads["first"]
        zero_gradients &= all(p.grad is not None and not full(p.grad).any() for p in head.parameters())
        optimizer.step()
    end = [full(p) for p in wrapped.parameters()]
    stripped = ds.strip(wrapped)  # the meter's taps go, too
    plain.load_state_dict({k: full(v) for k, v in stripped.state_dict().items()})
    plain.eval()
    with torch.no_grad():
        answers = plain(x)
    return {
        "rank": rank,
        "same_on_both_ranks": all(agree(p) for p in end),
        "moved": sum(not torch.equal(a, b) for a, b in zip(start, end, strict=True)),
        "parameters": len(end),
        "zero_gradients_at_weight_zero": zero_gradients,
        "conflict": [c.cosine for c in meter.steps()["second"]],
        "stripped_into_plain": bool(torch.isfinite(answers).all()) and stripped is model,
    }


def agree(parameter: Tensor) -> bool:
    both = [torch.empty_like(parameter) for _ in range(2)]
    dist.all_gather(both, parameter.contiguous())
    return torch.equal(*both)


if __name__ == "__main__":
    torch.set_num_threads(1)
    way, folder, rank = sys.argv[1:]
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=2, rank=int(rank))
    result = train(way)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(result, file)
    dist.barrier()
    dist.destroy_process_group()
    # Now and then gloo aborts while the interpreter takes down its threads, after everything is done.
    os._exit(0)
