"""The kernels in Triton's interpreter, against the tiles; and that they are used on request alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from deepsup.losses import upsampled
from deepsup.losses.upsampled import upsampled_cross_entropy

KERNELS = """
import torch
from deepsup.losses import upsampled, upsampled_triton

torch.manual_seed(0)

def check(small, large, classes, align_corners, ignore_index=-100, weight=None, smoothing=0.0):
    x, y = 3 * torch.randn(2, classes, *small), torch.randint(0, classes, (2, *large))
    y[torch.rand(y.shape) < 0.2] = ignore_index
    rule = upsampled.PlaceOptions("softmax", ignore_index, None if weight is None else weight.double(), smoothing)
    expected = upsampled.in_tiles(x.double(), y, rule, align_corners=align_corners, wanted=True)
    given = {"align_corners": align_corners, "ignore_index": ignore_index, "smoothing": smoothing}
    found = upsampled_triton.cross_entropy(x, y, weight, wanted=True, **given)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    return x, y, found

check((2, 2), (7, 5), 5, True, smoothing=0.2)
check((1, 2), (6, 2), 3, False, weight=torch.rand(3), ignore_index=255)
check((2, 1), (2, 3), 35, False, ignore_index=1, weight=torch.rand(35), smoothing=0.1)
x, y, found = check((1, 2), (3, 18), 2, False)
given = {"align_corners": False, "ignore_index": -100, "smoothing": 0.0}
again = upsampled_triton.cross_entropy(x, y, None, wanted=True, **given)
assert all(torch.equal(a, b) for a, b in zip(again, found))
y[0, 0, 0] = 2  # there is no such class
total, whole, slope = upsampled_triton.cross_entropy(x, y, None, wanted=False, **given)
assert total.isnan() and whole.isnan() and slope is None
print("the kernels are right")
"""


def test_the_kernels_agree_with_the_tiles() -> None:
    pytest.importorskip("triton")
    variables = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", KERNELS], env=variables, capture_output=True, text=True)
    assert found.stdout.strip() == "the kernels are right", found.stderr


def test_the_kernels_are_used_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, asked = torch.device("cuda"), {"dtype": torch.float32, "form": "softmax"}
    monkeypatch.delenv("DEEPSUP_TRITON", raising=False)
    assert not upsampled.wants_kernels(gpu, **asked)
    monkeypatch.setenv("DEEPSUP_TRITON", "0")
    assert not upsampled.wants_kernels(gpu, **asked)
    monkeypatch.setenv("DEEPSUP_TRITON", "1")
    assert upsampled.wants_kernels(gpu, **asked)
    assert not upsampled.wants_kernels(torch.device("cpu"), **asked)
    assert not upsampled.wants_kernels(gpu, torch.float64, "softmax")  # what the kernels cannot do
    assert not upsampled.wants_kernels(gpu, torch.float32, "sigmoid")


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_asked_for_is_what_runs(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Kernels:
        @staticmethod
        def cross_entropy(*args: Any, **options: Any) -> tuple[Tensor, Tensor, None]:
            ran.append("kernels")
            return torch.ones(()), torch.ones(()), None

    monkeypatch.setattr(upsampled, "wants_kernels", lambda *_: wanted)
    monkeypatch.setattr(upsampled, "require", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "deepsup.losses.upsampled_triton", Kernels)
    monkeypatch.setattr("deepsup.losses.upsampled_triton", Kernels, raising=False)
    upsampled_cross_entropy(torch.randn(2, 3, 2, 2), torch.randint(0, 3, (2, 5, 4)))
    assert ran == (["kernels"] if wanted else [])
