"""Do the masks hold what is to be learned? Asked of all pixels at once, before anything is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from deepsup.datasets.mask_files import VOID
from deepsup.datasets.pairs import Pairs
from deepsup.errors import DatasetError, stacklevel

_SAID = 5  # of a list of classes


class AbsentClassWarning(UserWarning):
    """A class that is named occurs in no mask of the training images: nothing can be learned of it."""


def check_occurrences(
    train: Pairs, validation: Pairs, names: Sequence[str], *, hint: str = "", whole: bool = True
) -> None:
    """Raise DatasetError for masks without labels, or with one class alone; warn of classes that no training mask has.

    A split too large to be kept in memory is not looked at. `hint` says what is often wrong with masks of one class;
    without `whole` (of a few images, on request) classes may be missing.
    """
    scored = validation.counts()
    if scored is not None and not _labelled(scored):
        raise DatasetError(
            f"no pixel of the {len(validation)} validation masks counts: all of them are void, so nothing can be scored. "
            "Correct the masks."
        )
    counts = train.counts()
    if counts is None:
        return
    if not _labelled(counts):
        raise DatasetError(
            f"no pixel of the {len(train)} training masks counts: all of them are void, so there is nothing to learn. "
            f"{hint or 'Correct the masks.'}"
        )
    absent = [name for name, count in zip(names, counts.tolist(), strict=False) if not count]
    void = int(counts[VOID]) / int(counts.sum())
    told = f"{_listed(absent)} in no training mask" + (f"; {100 * void:.3g} % of the pixels are void" if void else "")
    if len(absent) == len(names) - 1:
        advice = hint if hint and void else "Correct the masks, or take more images."
        raise DatasetError(f"{told}. With one class alone there is nothing to learn. {advice}")
    if absent and whole:
        warnings.warn(f"{told}.", AbsentClassWarning, stacklevel=stacklevel())


def _labelled(counts: Tensor) -> int:
    return int(counts.sum() - counts[VOID])


def _listed(names: Sequence[str]) -> str:
    """`class 'a' occurs`, `classes 'a', 'b' occur`, and not more than a few."""
    shown = ", ".join(map(repr, names[:_SAID]))
    if len(names) > _SAID:
        shown += f" and {len(names) - _SAID} more"
    return f"class {shown} occurs" if len(names) == 1 else f"classes {shown} occur"
