"""What a split of identities holds, counted and in words, and what of it cannot be searched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepsup.datasets.identity_names import JUNK, NOBODY
from deepsup.datasets.identity_split import IdentitySplit
from deepsup.errors import DatasetError
from deepsup.specs import counted

_SAID = 5


def counts(split: IdentitySplit) -> dict[str, int]:
    """Numbers by what they count: identities and cameras, images of an identity; queries and what the gallery is made of."""
    seen = 0 if split.cameras is None else len(torch.unique(split.cameras))
    if not split.searched:
        images = torch.bincount(split.labels, minlength=split.classes)
        ends = {"fewest images": int(images.min()), "most images": int(images.max())}
        return {"identities": split.classes, **ends, "cameras": seen}
    gallery = split.identities[split.gallery]
    return {
        "queries": int(split.queries.sum()),
        "identities": len(torch.unique(split.identities[split.queries])),
        "more queries": int(split.more_queries.sum()),
        "gallery": len(gallery),
        "distractors": int((gallery == NOBODY).sum()),
        "junk": int((gallery == JUNK).sum()),
        "without match": int((matches(split) == 0).sum()),
        "cameras": seen,
    }


def said(found: Mapping[str, int]) -> str:
    """The counts in words."""
    cameras = counted(found["cameras"], "camera") if found["cameras"] else "cameras not known"
    people = counted(found["identities"], "identity", "identities")
    if "queries" not in found:
        least, most = found["fewest images"], found["most images"]
        images = counted(least, "image") + " each" if least == most else f"{least} to {most} images"
        return f"{people} of {images}, {cameras}"
    kinds = {"distractors": counted(found["distractors"], "distractor"), "junk": f"{found['junk']} junk"}
    some = ", ".join(text for name, text in kinds.items() if found[name])
    of = f" ({some})" if some else ""
    queries = counted(found["queries"], "query", "queries")
    queries += f" (and {found['more queries']} more images of them)" if found["more queries"] else ""
    return f"{queries} of {people}, a gallery of {found['gallery']}{of}, {cameras}"


def matches(split: IdentitySplit, *, cameras: bool = True) -> Tensor:  # (queries,)
    """How many images of the gallery are of a query's identity, from another camera where cameras are known and asked for."""
    found = _alike(split.identities, split.queries, split.gallery)
    if split.cameras is None or not cameras:
        return found
    pairs = torch.stack([split.identities, split.cameras], 1)
    return found - _alike(torch.unique(pairs, dim=0, return_inverse=True)[1], split.queries, split.gallery)


def _alike(keys: Tensor, ours: Tensor, others: Tensor) -> Tensor:
    """How many of the others have the key of each of ours."""
    numbers = torch.unique(keys, return_inverse=True)[1]
    return torch.bincount(numbers[others], minlength=len(numbers))[numbers[ours]]


def check_searchable(split: IdentitySplit) -> list[str]:
    """Notes of queries that find nothing; DatasetError where none finds anything."""
    anywhere, elsewhere = matches(split, cameras=False) == 0, matches(split) == 0
    people = len(torch.unique(split.identities[split.queries]))
    names = [name for name, query in zip(split.names, split.queries.tolist(), strict=True) if query]
    if anywhere.all():
        raise DatasetError(
            f"none of the {counted(people, 'query identity', 'query identities')} is in the gallery, such as that "
            f"of {names[0]}: nothing can be found. Name identities alike in both."
        )
    if elsewhere.all():
        who = counted(people, "identity", "identities")
        raise DatasetError(
            f"every query is on the only camera of its matches ({who}, such as that of {names[0]}), and what its own camera took "
            "does not count. Name the true cameras, or set cameras=False where there is one."
        )
    notes = []
    for lacks, why in (
        (anywhere, "is not in the gallery"),
        (elsewhere & ~anywhere, "is there on their own camera alone"),
    ):
        if lacks.any():
            some = [name for name, without in zip(names, lacks.tolist(), strict=True) if without]
            more = ", ..." if len(some) > _SAID else ""
            notes.append(
                f"{counted(len(some), 'query has', 'queries have')} no match, since their identity {why}, and count for "
                f"nothing: {', '.join(some[:_SAID])}{more}"
            )
    return notes
