"""What every output is held against: one target for all, one by output name, two that are mixed, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from deepsup.errors import BranchNameError, HeadError
from deepsup.losses.labels import free_to_look
from deepsup.specs import closest, is_number

TARGET = "target"  # the key of the target in a mapping that has more to say
MASK = "mask"


class Targets(NamedTuple):
    """By output name, the targets and the share of each in the loss; `main` stands for outputs that have none of their own.

    `mask` and `batch` (all of a mapping's other entries) go to losses that ask for them.
    """

    goals: Mapping[str, Sequence[tuple[Any, Any]]]
    mask: Tensor | None = None
    batch: Mapping[str, Any] | None = None

    def of(self, output: str) -> Sequence[tuple[Any, Any]]:
        """The targets of an output."""
        return self.goals[output] if output in self.goals else self.goals["main"]

    def mapped(self, change: Callable[[Any], Any]) -> Targets:
        """With every target changed, and the mask as they are."""
        goals = {n: tuple((change(y), share) for y, share in ys) for n, ys in self.goals.items()}
        return self._replace(goals=goals, mask=None if self.mask is None else change(self.mask))

    @property
    def main(self) -> Any:
        """The target of the main output; of two that are mixed the first."""
        return self.goals["main"][0][0]


def read(target: Any, outputs: Sequence[str]) -> Targets:
    """A target as it came: a tensor (or whatever the loss takes), `(y1, y2, share)` of mixup, one for every output by name
    or as a list in the order of `outputs`, or a mapping with the target under "target" and, say, a "mask".

    Raises `BranchNameError` for a name that is no output, `HeadError` for a list of another length.
    """
    if isinstance(target, Tensor) or target is None:
        return Targets({"main": ((target, None),)})
    if isinstance(target, Mapping) and TARGET in target:
        rest = {key: value for key, value in target.items() if key != TARGET}
        return read(target[TARGET], outputs)._replace(mask=rest.get(MASK), batch=rest)
    if isinstance(target, Mapping) and "main" in target:
        unknown = [str(name) for name in target if name not in outputs]
        if unknown:
            raise BranchNameError(
                f"the target names the output {unknown[0]!r}, which is not there.{closest(unknown[0], outputs)} Outputs: "
                f"{', '.join(outputs)}."
            )
        return Targets({name: _mixed(value) for name, value in target.items()})
    if isinstance(target, Mapping) and target and all(name in outputs for name in target):
        raise BranchNameError(
            f"the target names {', '.join(map(str, target))}, and not main: give 'main' its own, which also is that of every "
            f"output that is not named. Outputs: {', '.join(outputs)}."
        )
    if isinstance(target, list) and len(outputs) > 1 and all(isinstance(value, Tensor) for value in target):
        if len(target) != len(outputs):
            raise HeadError(
                f"a list of targets has one for every output ({', '.join(outputs)}); found {len(target)}. Give one tensor for "
                "all, or a mapping by name."
            )
        return Targets({name: ((value, None),) for name, value in zip(outputs, target, strict=True)})
    return Targets({"main": _mixed(target)})


def _mixed(target: Any) -> Sequence[tuple[Any, Any]]:
    """`(y1, y2, share)` as two targets, whose losses are added by share and 1 - share (Zhang et al. 2018)."""
    three = isinstance(target, (tuple, list)) and len(target) == 3
    if not three or not all(isinstance(y, Tensor) for y in target[:2]):
        return ((target, None),)
    share = target[2]
    number = is_number(share) or (isinstance(share, Tensor) and share.numel() == 1)
    seen = is_number(share) or (number and free_to_look(share))
    if not number or (seen and not 0 <= float(share) <= 1):
        raise HeadError(
            f"a target of three is mixup's (y1, y2, share), with one share from 0 to 1 for the batch; found {share!r:.80}."
        )
    return ((target[0], share), (target[1], 1 - share))
