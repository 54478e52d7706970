"""The tree in the docstring of `errors` is the tree of the classes."""

from __future__ import annotations

import inspect
import re

import pytest

from deepsup import errors
from deepsup.errors import BranchNameError, DeepsupError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


def drawn_tree() -> dict[str, tuple[str, ...]]:
    """Class name -> the names of its bases, read off the drawing."""
    tree: dict[str, tuple[str, ...]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+Error)(?:\((\w+)\))?(?: {2,}\S.*)?$", line)
        if match:
            depth, name, builtin = len(match[1]) // 4, match[2], match[3]
            path[depth:] = [name]
            tree[name] = (*path[depth - 1 : depth], *([builtin] if builtin else []))
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {c.__name__: tuple(b.__name__ for b in c.__bases__) for c in CLASSES}
    real["DeepsupError"] = ()
    assert drawn_tree() == real


def test_every_line_of_the_drawing_says_what_the_error_means() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if "── " in line]
    assert len(lines) == len(CLASSES) - 1
    assert all(re.search(r" {2,}\w", line) for line in lines)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_a_message_prints_as_it_was_written(cls: type[DeepsupError]) -> None:
    message = "no branch 'a'.\nBranches: 'b'."
    assert str(cls(message)) == message
    assert issubclass(cls, DeepsupError)
    assert cls.__doc__


def test_a_branch_name_error_is_caught_as_the_key_error_it_is() -> None:
    with pytest.raises(KeyError):
        raise BranchNameError("no branch 'a'")
