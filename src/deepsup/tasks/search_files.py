"""Features and labels of a search from one file, .npz or .safetensors, whoever wrote it.

Arrays: `query` (Q, D), `gallery` (G, D), `query_identities` (Q,), `gallery_identities` (G,) and, where they are known,
`query_cameras` (Q,) and `gallery_cameras` (G,). Others are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from deepsup.tasks.array_files import Wanted


class Search(NamedTuple):
    """What `retrieval_scores` takes."""

    query: Tensor
    gallery: Tensor
    query_identities: Tensor
    gallery_identities: Tensor
    query_cameras: Tensor | None = None
    gallery_cameras: Tensor | None = None


NEEDED = Search._fields[:4]
_WANTED = Wanted(Search._fields, NEEDED, "features", f"{', '.join(NEEDED)}; cameras if known")


def read_search(path: str | Path) -> Search:
    """The arrays of a file. Raises `DatasetError` for one that is missing, torn, or has not what is needed."""
    return Search(**_WANTED.read(path))
