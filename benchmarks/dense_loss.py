"""What the blocked loss on enlarged scores costs beside the two steps it replaces: time and peak memory.

    python benchmarks/dense_loss.py                          # writes benchmarks/results/dense_loss.json
    python benchmarks/dense_loss.py --accelerator cuda --out gpu.json

Forward and backward of `deepsup.losses.upsampled` beside `F.interpolate` (bilinear) and PyTorch's loss on the result, on float32
scores against labels of which about 5 % do not count. Before the clock runs, both must give one value and one gradient.

* time: both in turns in one process, in alternating order, with 1 and with 2 threads; the median of the ratios counts.
* memory: the highest sum of what PyTorch's allocator hands out during one call, from the profiler's record of each
  allocation: exact, the same in every run, scores and labels not counted in (of CUDA: `max_memory_allocated`).
* resident: the same from the system, which sees all libraries: how far the resident memory of a fresh process rises above
  where it was before the call (Linux).

Limits, for the first row: time 0.8, memory 0.15. On a GPU each row also says how long its unavoidable bytes take (scores
and labels read once, gradient written once) at the speed of a large copy, measured there. About 4 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from step_cost import compare
from torch import Tensor
from torch.nn import functional as F

from deepsup.losses.upsampled import upsampled_binary_cross_entropy, upsampled_cross_entropy

VOID = 255
LIMITS = {"time": 0.8, "memory": 0.15}


class Case(NamedTuple):
    """Scores (n, classes, h, w) against labels (n, height, width)."""

    form: str
    n: int
    classes: int
    small: tuple[int, int]
    large: tuple[int, int]
    rounds: int

    def __str__(self) -> str:
        (h, w), (height, width) = self.small, self.large
        return f"{self.form} {self.n}x{self.classes}x{h}x{w} -> {height}x{width}"


CASES = [
    Case("cross_entropy", 4, 150, (60, 60), (473, 473), 15),  # PSPNet on ADE20K
    Case("cross_entropy", 4, 12, (45, 60), (360, 480), 60),  # CamVid at stride 8
    Case("binary", 4, 12, (45, 60), (360, 480), 40),
    Case("binary", 4, 1, (73, 71), (584, 565), 60),  # vessels of DRIVE from a decoder's level
]


def example(case: Case, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = (3 * torch.randn(case.n, case.classes, *case.small)).to(device).requires_grad_()
    y = torch.randint(0, max(2, case.classes), (case.n, *case.large))
    y[torch.rand(y.shape) < 0.05] = VOID
    return x, y.to(device)


def losses(case: Case) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Ours, and the two steps."""

    def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.interpolate(x, case.large, mode="bilinear"), y, ignore_index=VOID)

    def binary(x: Tensor, y: Tensor) -> Tensor:
        big, counted = F.interpolate(x, case.large, mode="bilinear"), (y != VOID).unsqueeze(1)
        of_channel = torch.arange(x.shape[1], device=y.device) if x.shape[1] > 1 else y.new_ones(1)
        hot = (y.unsqueeze(1) == of_channel.view(-1, 1, 1)).to(x.dtype)
        total = F.binary_cross_entropy_with_logits(big, hot, counted.to(x.dtype), reduction="sum")
        return total / (counted.sum() * x.shape[1])

    ours = upsampled_cross_entropy if case.form == "cross_entropy" else upsampled_binary_cross_entropy
    return {
        "ours": lambda x, y: ours(x, y, ignore_index=VOID),
        "other": cross_entropy if case.form == "cross_entropy" else binary,
    }


def steps(case: Case, device: str) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Forward and backward of each, on the same scores and labels."""
    x, y = example(case, device)

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value = loss(x, y)
        found = value.detach(), torch.autograd.grad(value, x)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return {name: lambda loss=loss: step(loss) for name, loss in losses(case).items()}


def peak(step: Callable[[], object], device: str) -> float:
    """MiB that the allocator hands out at most during one call, above what stood before."""
    step()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    now = highest = 0
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for change in sorted(changes, key=lambda e: e.start_ns()):
        now += change.nbytes()
        highest = max(highest, now)
    return highest / 2**20


def resident(case: Case, name: str, threads: int) -> float | None:
    """MiB by which the resident memory of a fresh process rises during one call, after one on a small map."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--resident", name, str(CASES.index(case)), str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def rise(name: str, index: int, threads: int) -> float:
    torch.set_num_threads(threads)
    case = CASES[index]
    steps(case._replace(n=1, small=(8, 8), large=(64, 64)), "cpu")[name]()  # loads what the libraries load once
    step = steps(case, "cpu")[name]
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is now

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / 2**10


def measure(case: Case, threads: int, options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(threads)
    device = options.accelerator
    both = steps(case, device)
    torch.testing.assert_close(both["ours"](), both["other"](), rtol=1e-4, atol=1e-6)
    row = compare(both["ours"], both["other"], options.rounds or case.rounds)
    of_each: dict[str, Callable[[str], float | None]] = {"memory_mib": lambda name: peak(both[name], device)}
    if device == "cpu":
        of_each["resident_mib"] = lambda name: resident(case, name, threads)
    for field, found in of_each.items():
        numbers = {name: found(name) for name in both}
        ours, other = numbers["ours"], numbers["other"]
        if ours is not None and other is not None:
            row[field] = {"ours": round(ours, 1), "other": round(other, 1), "ratio": round(ours / other, 4)}
    if device == "cuda":
        row["floor_ms"] = round(floor(case), 4)
    return row


def floor(case: Case) -> float:
    """Milliseconds that a GPU takes to move the bytes that no way of doing it can spare."""
    large = torch.empty(2**28, device="cuda")
    large.clone()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        large.clone()
    torch.cuda.synchronize()
    bytes_a_second = 10 * 2 * large.nbytes / (time.perf_counter() - began)
    x, y = example(case, "cpu")
    return 1000 * (2 * x.nbytes + y.nbytes) / bytes_a_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, help="pairs of timed calls (default: 15 of the large case, 40 or 60)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dense_loss.json")
    options = parser.parse_args()
    if options.resident:
        name, index, threads = options.resident
        print(rise(name, int(index), int(threads)))
        return
    every = options.threads if options.accelerator == "cpu" else [1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    cuda = torch.cuda.get_device_name() if options.accelerator == "cuda" else ""
    result: dict[str, object] = {
        "command": " ".join(["python", "benchmarks/dense_loss.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "hardware": cuda or f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "measured": "forward + backward, ours / F.interpolate and PyTorch's loss; memory: peak of PyTorch's allocator "
        "during a call; resident: rise of a fresh process's resident memory during a call",
        "limits": LIMITS,
        "rows": {},
    }
    for case in CASES:
        for threads in every:
            row = measure(case, threads, options)
            name = str(case) if cuda else f"{case}, {threads} thread{'s' * (threads > 1)}"
            result["rows"][name] = row  # type: ignore[index]
            quartiles = " to ".join(f"{q:.3f}" for q in row["quartiles"])  # type: ignore[attr-defined]
            memory = row["memory_mib"]["ratio"]  # type: ignore[index]
            print(f"{name:60} time {row['ratio']:.3f} ({quartiles}), memory {memory:.3f}", flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
