"""What exact scores of a search cost beside the usual ways: processor time and memory, distances included.

    python benchmarks/search_scores.py                       # writes benchmarks/results/search_scores.json

Features by chance in the shape of Market-1501's test set (3,368 queries, 750 identities on 6 cameras, 13,115 images of theirs
and 2,798 distractors; 384 and 2,048 numbers wide), one thread. Beside `deepsup.tasks.retrieval_scores` two ways written here
from what torchreid's scorers are described to do, both on the whole table of distances, every row of it sorted:

* interpreted: of each query the sorted row is filtered by NumPy, and precision at every rank is a Python list;
* compiled: the same in C (`cc -O3`, by ctypes), as its Cython build. The gallery's identities in the order of each row are a
  second table. Left out where there is no C compiler.

And re-ranking beside its formulas on whole matrices in NumPy, on every second image. Before the clock runs, scores must agree to
1e-6; re-ranked distances are held against each other. Times are processor seconds, in turns, the median of ratios counts; the
interpreted way runs on every twentieth query. Memory is how far the resident memory of a fresh process rises above the features
(Linux).

Limits: 1 / 25 of the interpreted time (384 wide), the compiled time, 64 MiB; re-ranking 1 / 3 of the time, 1 / 10 of the memory.
About 5 minutes on 1 CPU core.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deepsup.tasks import KReciprocal, retrieval_scores
from deepsup.tasks.reranking import Reranked

LIMITS = {"of interpreted": 1 / 25, "of compiled": 1.0, "mib": 64, "re-ranking": 1 / 3, "re-ranking memory": 1 / 10}
SOURCE = """
#include <stdint.h>
void score(const int64_t *order, const int64_t *sorted, const int64_t *gc, const int64_t *qi, const int64_t *qc, int64_t Q,
           int64_t G, double *ap, int64_t *first) {
  for (int64_t q = 0; q < Q; q++) {
    int64_t rank = 0, found = 0; double sum = 0; first[q] = 0;
    for (int64_t k = 0; k < G; k++) {
      int own = sorted[q * G + k] == qi[q];
      if (own && gc[order[q * G + k]] == qc[q]) continue;
      rank++;
      if (own) { found++; sum += (double)found / rank; if (!first[q]) first[q] = rank; }
    }
    ap[q] = found ? sum / found : 0;
  }
}
"""


class Data(NamedTuple):
    query: Any
    gallery: Any
    query_identities: Any
    gallery_identities: Any
    query_cameras: Any
    gallery_cameras: Any

    def every(self, n: int) -> Data:
        """Every n-th image of both sides."""
        return Data(*(side[::n].contiguous() for side in self))

    def numpy(self) -> Data:
        return Data(*(side.numpy() for side in self))


def market(width: int) -> Data:
    chance = torch.manual_seed(0)
    gi = torch.cat([torch.arange(1, 751).repeat(18)[:13115], torch.zeros(2798, dtype=torch.int64)])
    qi = torch.arange(1, 751).repeat(5)[:3368]
    centres = torch.randn(751, width)

    def features(identities: torch.Tensor) -> torch.Tensor:
        near = centres[identities] * (identities > 0)[:, None]
        return 0.35 * near + torch.randn(len(identities), width, generator=chance)

    cameras = [torch.randint(1, 7, (len(i),), generator=chance) for i in (qi, gi)]
    return Data(features(qi), features(gi), qi, gi, *cameras)


def distances(data: Data) -> np.ndarray:
    """1 - cos, the whole table in float32."""
    q, g = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in data[:2])
    return 1 - q @ g.T


def interpreted(data: Data) -> tuple[float, float]:
    order = np.argsort(distances(data), axis=1)
    matches = (data.gallery_identities[order] == data.query_identities[:, None]).astype(np.int32)
    precisions, firsts = [], []
    for i in range(len(data.query)):
        own_camera = data.gallery_cameras[order[i]] == data.query_cameras[i]
        hits = matches[i][~(own_camera & (matches[i] == 1))]
        if not hits.any():
            continue
        at = [found / (k + 1.0) for k, found in enumerate(hits.cumsum())]
        precisions.append((np.asarray(at) * hits).sum() / hits.sum())
        firsts.append(int(hits[0]))
    return float(np.mean(precisions)), float(np.mean(firsts))


@cache
def library() -> ctypes.CDLL | None:
    folder = tempfile.mkdtemp()
    Path(folder, "score.c").write_text(SOURCE)
    try:
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", "score.so", "score.c"], cwd=folder, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return ctypes.CDLL(str(Path(folder, "score.so")))


def compiled(data: Data) -> tuple[float, float]:
    order = np.argsort(distances(data), axis=1)
    ordered = data.gallery_identities[order]
    queries, gallery = order.shape
    precision, first = np.empty(queries), np.empty(queries, dtype=np.int64)
    arrays = (order, ordered, data.gallery_cameras, data.query_identities, data.query_cameras)
    place = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, precision, first)]
    found = library()
    assert found is not None
    found.score(*place[:5], ctypes.c_int64(queries), ctypes.c_int64(gallery), *place[5:])
    return float(precision[first > 0].mean()), float((first[first > 0] == 1).mean())


def ours(data: Data) -> tuple[float, float]:
    found = retrieval_scores(*data).metrics()
    return found["mAP"], found["rank-1"]


def dense_reranking(data: Data, k1: int = 20, k2: int = 6, weight: float = 0.3) -> np.ndarray:
    """Zhong's formulas on matrices of all pairs, in float32."""
    every = np.concatenate([data.query, data.gallery])
    every = every / np.linalg.norm(every, axis=1, keepdims=True)
    square = 2 - 2 * every @ every.T
    square /= square.max(axis=1, keepdims=True)
    order = np.argsort(square, axis=1)
    size, shares = len(every), np.zeros_like(square)

    def mutual(p: int, k: int) -> np.ndarray:
        near = order[p, : k + 1]
        return near[(order[near, : k + 1] == p).any(axis=1)]

    for p in range(size):
        close = mutual(p, k1)
        sets = [close]
        for q in close:
            around = mutual(q, round(k1 / 2))
            if len(np.intersect1d(around, close)) > 2 / 3 * len(around):
                sets.append(around)
        extended = np.unique(np.concatenate(sets))
        weights = np.exp(-square[p, extended])
        shares[p, extended] = weights / weights.sum()
    shares = np.stack([shares[order[p, :k2]].mean(axis=0) for p in range(size)])
    held = [np.nonzero(shares[:, j])[0] for j in range(size)]
    queries = len(data.query)
    found = np.empty((queries, size), dtype=np.float32)
    for p in range(queries):
        common = np.zeros(size, dtype=np.float32)
        for j in np.nonzero(shares[p])[0]:
            common[held[j]] += np.minimum(shares[p, j], shares[held[j], j])
        found[p] = 1 - common / (2 - common)
    return ((1 - weight) * found + weight * square[:queries])[:, queries:]


def our_reranking(data: Data) -> np.ndarray:
    q, g = len(data.query), len(data.gallery)
    whole, rows = Reranked(data.query, data.gallery, "cosine", KReciprocal(), chosen=torch.arange(g)), []
    for part in torch.arange(q).split(whole.at_once):
        table = torch.empty(len(part), g)
        for row, column, values in whole.of(part).blocks():
            table[row : row + len(values), column : column + values.shape[1]] = values
        rows.append(table)
    return torch.cat(rows).numpy()


WAYS: dict[str, Callable[[Data], Any]] = {
    "ours": ours,
    "compiled": compiled,
    "interpreted": interpreted,
    "our re-ranking": our_reranking,
    "dense re-ranking": dense_reranking,
}


def run(name: str, data: Data) -> Any:
    return WAYS[name](data if name.startswith("our") else data.numpy())


def seconds(name: str, data: Data) -> float:
    began = time.process_time()
    run(name, data)
    return time.process_time() - began


def resident(name: str, width: int, every: int) -> float | None:
    """MiB by which the resident memory of a fresh process rises during one call, after one on few images."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--resident", name, str(width), str(every)]
    return round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1)


def rise(name: str, width: int, every: int) -> float:
    data = market(width).every(every)
    run(name, data.every(20))  # loads what libraries load once
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is now

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    before = status("VmRSS")
    run(name, data)
    return (status("VmHWM") - before) / 2**10


def compare(data: Data, name: str, other: str, rounds: int, share: int = 1) -> dict[str, Any]:
    """In turns; `other` on every `share`-th query, whose time counts that many times."""
    few = data._replace(
        **{field: getattr(data, field)[::share].contiguous() for field in data._fields if field.startswith("query")}
    )
    ratios, both = [], ([], [])
    for _ in range(rounds):
        times = seconds(name, data), seconds(other, few) * share
        ratios.append(times[0] / times[1])
        for one, found in zip(both, times, strict=True):
            one.append(found)
    medians = [1000 * statistics.median(one) / len(data.query) for one in both]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "range": [round(min(ratios), 4), round(max(ratios), 4)],
        "ms_a_query": {name: round(medians[0], 3), other: round(medians[1], 3)},
        "rounds": rounds,
    }


def scoring(width: int, rounds: int) -> dict[str, Any]:
    data = market(width)
    others = ["compiled", "interpreted"] if library() else ["interpreted"]
    few, row = data.every(10), {}
    for other in others:
        assert np.allclose(run("ours", few), run(other, few), atol=1e-6), other
        share = 20 if other == "interpreted" else 1
        row[f"of {other}"] = compare(data, "ours", other, 3 if share > 1 else rounds, share)
    row["resident_mib"] = {name: resident(name, width, 1) for name in ("ours", *others[:1])}
    return row


def reranking(every: int) -> dict[str, Any]:
    data = market(384).every(every)
    off = float(np.abs(run("our re-ranking", data) - run("dense re-ranking", data)).max())
    row = compare(data, "our re-ranking", "dense re-ranking", 3)
    memory = {name: resident(name, 384, every) for name in ("our re-ranking", "dense re-ranking")}
    return {**row, "largest_difference": off, "resident_mib": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_scores.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.resident:
        name, width, every = options.resident
        print(rise(name, int(width), int(every)))
        return
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/search_scores.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "measured": "processor time, ours / other, one thread, distances included; resident: rise of a fresh process's "
        "resident memory during a call",
        "limits": {name: round(limit, 4) for name, limit in LIMITS.items()},
        "rows": {f"scores, {width} wide": scoring(width, options.rounds) for width in (384, 2048)},
    }
    result["rows"]["re-ranking, every second image"] = reranking(2)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
