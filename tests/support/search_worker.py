"""Run in each of several processes (gloo, CPU) that meet in a file: search a split together.

`python -m tests.support.search_worker FOLDER RANK WORLD` writes FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.loaders import SplitLoader
from deepsup.evaluation.search import How
from tests.support.drawn_search import SearchSplit, counting

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=60), world_size=world, rank=rank)
    fabric: Any = SimpleNamespace(global_rank=rank, world_size=world, device=torch.device("cpu"))
    seen: list[int] = []
    loader = SplitLoader(SearchSplit(), 16, shuffle=False, rank=rank, world=world)
    found = evaluate(nn.Module(), loader, run=counting(seen), fabric=fabric)
    images = sum(seen)
    again = evaluate(nn.Module(), loader, run=counting(seen), fabric=fabric, how=How(rerank=True))
    first = found.counts["main"].scores.first.tolist()  # type: ignore[attr-defined]
    told = {"scores": found.metrics, "reranked": again.metrics, "samples": found.samples, "first": first}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({**told, "images": images}, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)
