"""Which forward is run once more: checkpointing repeats, in backward, any of the forwards before it.

Non-reentrant checkpointing says so by the hook for saved tensors that is on top: in the forward and in its repetition it
belongs to one and the same frame. Where torch's own names change and no frame is found, the last forward is taken.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch


@dataclass
class _Calls:
    """What was called inside one checkpoint: by net the numbers of its calls, and how many a repetition has come to."""

    made: dict[int, list[int]] = field(default_factory=dict)
    repeated: dict[tuple[int, int], int] = field(default_factory=dict)


_CALLS: WeakKeyDictionary[Any, _Calls] = WeakKeyDictionary()


def running_again() -> int | None:
    """The number of the backward that this code runs in; None outside of one."""
    task = torch._C._current_graph_task_id()
    return None if task == -1 else int(task)


def note(net: object, call: int) -> None:
    """Remember that the forward under way, where it may be repeated, is this call of `net`."""
    frame = _held().get("frame")
    if frame is not None:
        _CALLS.setdefault(frame, _Calls()).made.setdefault(id(net), []).append(call)


def call_repeated(net: object) -> int | None:
    """The number under which `note` saw the forward that is being repeated; None where nothing is known of it."""
    reference = _held().get("target_frame_ref")
    calls = _CALLS.get(reference()) if callable(reference) and reference() is not None else None
    made = calls.made.get(id(net), []) if calls else []
    if calls is None or not made:
        return None
    key = (id(net), running_again() or 0)
    place = calls.repeated.get(key, 0)
    calls.repeated[key] = place + 1
    return made[place % len(made)]


def _held() -> dict[str, Any]:
    """What the uppermost hook for saved tensors holds, by the names that its source gives it."""
    try:
        top = torch._C._autograd._top_saved_tensors_default_hooks(False)
        pack = inspect.unwrap(top[0]) if top else None
        return dict(inspect.getclosurevars(pack).nonlocals) if pack is not None else {}
    except (AttributeError, TypeError, ValueError):
        return {}
