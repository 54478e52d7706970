"""Features from files: what both formats may hold, and every way in which a file may be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepsup.errors import DatasetError
from deepsup.tasks.search_files import read_search

ARRAYS: dict[str, Any] = {
    "query": np.arange(12, dtype="f4").reshape(3, 4),
    "gallery": np.arange(20, dtype="f4").reshape(5, 4),
    "query_identities": np.array([1, 2, 3]),
    "gallery_identities": np.array([1, 2, 3, 0, -1]),
}


def written(folder: Path, ending: str = "npz", **changes: Any) -> Path:
    file = folder / f"features.{ending}"
    arrays = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    if ending == "npz":
        np.savez_compressed(file, **arrays)
    else:
        save_file({name: torch.as_tensor(array) for name, array in arrays.items()}, file)
    return file


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_arrays_are_read_by_name_and_others_left_alone(tmp_path: Path, ending: str) -> None:
    found = read_search(written(tmp_path, ending, distances=np.ones(3)))
    assert found.query_cameras is found.gallery_cameras is None
    for name, array in ARRAYS.items():
        assert torch.equal(getattr(found, name), torch.as_tensor(array))
    cameras = {"query_cameras": np.array([0, 1, 2]), "gallery_cameras": np.arange(5)}
    assert read_search(written(tmp_path, ending, **cameras)).gallery_cameras.tolist() == [0, 1, 2, 3, 4]


def test_arrays_of_another_order_of_bytes_or_of_memory_are_read(tmp_path: Path) -> None:
    odd = {"query": ARRAYS["query"].astype(">f8"), "gallery": np.asfortranarray(ARRAYS["gallery"])}
    found = read_search(written(tmp_path, **odd, query_identities=np.array([1, 2, 3], dtype=">u2")))
    assert torch.equal(found.query, torch.as_tensor(ARRAYS["query"]).double())
    assert torch.equal(found.gallery, torch.as_tensor(ARRAYS["gallery"]))
    assert found.query_identities.tolist() == [1, 2, 3]


class Harm:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


FLAWED = [
    ({"query": None}, r"has no array 'query'\. There are: gallery, gallery_identities, query_identities\."),
    ({"query_camera": np.arange(3)}, r"has no array 'query_cameras'\. Closest: query_camera\."),
    ({"query_identities": np.array(["a", "b", "c"])}, "holds numbers; its array 'query_identities' is of <U1"),
    ({"query": ARRAYS["query"].astype("longdouble")}, "holds numbers; its array 'query' is of float"),
    ({"query": np.array([Harm()], dtype=object)}, "Object arrays cannot be loaded"),
]


@pytest.mark.parametrize(("flaw", "says"), FLAWED, ids=[says for _, says in FLAWED])
def test_arrays_that_are_missing_misspelt_or_no_numbers_are_refused(tmp_path: Path, flaw: Any, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        read_search(written(tmp_path, **flaw))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no file"):
        read_search(tmp_path / "nowhere.npz")
    with pytest.raises(DatasetError, match="there is no file"):
        read_search(tmp_path)
    (tmp_path / "features.mat").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"features\.mat is neither \.npz nor \.safetensors"):
        read_search(tmp_path / "features.mat")
    for content in (b"", pickle.dumps(Harm()), np.lib.format.MAGIC_PREFIX):
        for ending in ("npz", "safetensors"):
            (tmp_path / f"x.{ending}").write_bytes(content)
            with pytest.raises(DatasetError, match=rf"is cut off, damaged or no \.{ending} file"):
                read_search(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_torn_and_altered_files_are_named_errors_or_read_as_they_are(tmp_path: Path, ending: str) -> None:
    whole, torn = written(tmp_path, ending).read_bytes(), tmp_path / f"torn.{ending}"
    for at in range(0, len(whole), 7):
        torn.write_bytes(whole[:at])
        with pytest.raises(DatasetError):
            read_search(torn)
        for flip in (0xFF, 0x10):
            torn.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                read_search(torn)
            except DatasetError as error:
                assert str(error).startswith(str(torn))  # noqa: PT017
