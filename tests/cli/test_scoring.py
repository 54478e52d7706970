"""`deepsup score`: numbers by hand, as text and as JSON, and what it says of files that cannot be scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepsup.errors import ConfigError, DatasetError
from tests.support.command_line import call
from tests.support.retrieval_data import ranks_by, search, slow_metrics, slow_ranks
from tests.support.slow_reranking import dense_reranking

LINE = {
    "query": np.zeros((1, 1)),
    "gallery": np.arange(1.0, 6.0)[:, None],
    "query_identities": np.array([7]),
    "gallery_identities": np.array([7, 8, 7, 0, 7]),
    "query_cameras": np.array([1]),
    "gallery_cameras": np.array([1, 2, 1, 2, 3]),
}
KEYS = ["mAP", "mAP (trapezoid)", "rank-1", "rank-5", "rank-10", "rank-20", "mINP", "queries", "without match"]


@pytest.fixture
def line(tmp_path: Path) -> str:
    np.savez(tmp_path / "line.npz", **LINE)
    return str(tmp_path / "line.npz")


def test_a_search_by_hand_as_text(line: str) -> None:
    assert call("score", line, "--distance", "euclidean") == (
        "mAP                33.33%\n"  # of 8, a distractor, and the match on the third camera
        "mAP (trapezoid)    16.67%\n"
        "rank-1              0.00%\n"
        "rank-5            100.00%\n"
        "rank-10           100.00%\n"
        "rank-20           100.00%\n"
        "mINP               33.33%\n"
        "queries                 1\n"
        "without match           0\n"
        "left out: identity -1, and the query's own identity on its own camera\n"
    )


def test_json_is_one_object_of_exactly_these_keys(line: str) -> None:
    found = json.loads(call("score", line, "--distance", "euclidean", "--no-cameras", "--json"))
    assert list(found) == KEYS
    assert found["mAP"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["mAP (trapezoid)"] == pytest.approx(0.711111, abs=1e-6)
    assert (found["queries"], found["without match"]) == (1, 0)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_features_of_either_kind_of_file_are_scored(tmp_path: Path, ending: str, distance: str) -> None:
    data = search(0)
    arrays = data._asdict()
    file = tmp_path / f"features.{ending}"
    if ending == "npz":
        np.savez_compressed(file, **{name: array.numpy() for name, array in arrays.items()})
    else:
        save_file(arrays, file)
    found = json.loads(call("score", str(file), "--distance", distance, "--json"))
    assert found == pytest.approx(slow_metrics(slow_ranks(data, distance)), abs=1e-12)


def test_reranking_is_that_of_the_formulas(tmp_path: Path) -> None:
    data = search(2, queries=20, gallery=90)
    gallery = torch.randn(90, 6, generator=torch.manual_seed(1))  # without doubles
    np.savez(tmp_path / "x.npz", **{n: a.numpy() for n, a in data._replace(gallery=gallery)._asdict().items()})
    found = json.loads(call("score", str(tmp_path / "x.npz"), "--rerank", "--json"))
    far = dense_reranking(data.query, gallery, "cosine", 20, 6, 0.3)
    assert found == pytest.approx(slow_metrics(ranks_by(data, far)), abs=1e-12)
    assert found["mAP"] != json.loads(call("score", str(tmp_path / "x.npz"), "--json"))["mAP"]


def test_it_says_when_cameras_do_not_count(tmp_path: Path, line: str) -> None:
    note = call("score", line, "--distance", "euclidean", "--no-cameras").splitlines()[-1]
    assert note.startswith("as asked, cameras do not count: images of the query's own camera are matches")
    np.savez(tmp_path / "bare.npz", **{name: LINE[name] for name in list(LINE)[:4]})
    note = call("score", str(tmp_path / "bare.npz"), "--distance", "euclidean").splitlines()[-1]
    assert note.startswith("the file names no cameras: images of the query's own camera are matches")


def test_what_cannot_be_scored_is_a_named_error_with_status_1(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match="query has 1 row of zeros"):
        call("score", line)
    with pytest.raises(ConfigError, match="no distance is called 'manhattan'"):
        call("score", line, "--distance", "manhattan")
    np.savez(tmp_path / "alone.npz", **(LINE | {"gallery_cameras": np.ones(5)}))
    with pytest.raises(DatasetError, match=r"no query has a match: 1 query find"):
        call("score", str(tmp_path / "alone.npz"), "--distance", "euclidean")
    torn = tmp_path / "torn.npz"
    torn.write_bytes(Path(line).read_bytes()[:-40])
    done = run("score", str(torn))
    assert done.returncode == 1
    assert done.stderr.startswith("DatasetError: ")
    assert "torn.npz is cut off, damaged or no .npz file" in done.stderr
    assert "Traceback" not in done.stderr


def run(*words: str) -> Any:
    return subprocess.run([sys.executable, "-m", "deepsup", *words], capture_output=True, text=True, timeout=120)


def test_the_command_leaves_torch_as_it_was(line: str) -> None:
    before = torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    call("score", line, "--distance", "euclidean")
    assert (torch.get_float32_matmul_precision(), torch.is_grad_enabled()) == before
