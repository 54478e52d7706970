"""The page of methods says what the methods are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
import torchvision

import deepsup as ds
from deepsup.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_cards_are_those_of_the_methods() -> None:
    page = (DOCS / "methods.md").read_text("utf-8")
    maker = runpy.run_path(str(DOCS / "make_methods.py"))
    assert maker["render"](page) == page, "docs/methods.md is out of date: run `python docs/make_methods.py`."
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == list(METHODS)


def test_the_example_of_a_method_of_ones_own_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "methods.md").read_text("utf-8"), flags=re.S)
    names = {"ds": ds, "model": torchvision.models.resnet18(num_classes=5), "images": torch.randn(2, 3, 32, 32)}
    exec(compile(code, "methods.md", "exec"), names)
    assert "rampup(0.5, 0.3) * kl(temperature=3)(a <- ensemble)" in capsys.readouterr().out
