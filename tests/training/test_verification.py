"""Verifying reads only, and names what is missing, torn or altered, however much of it there is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deepsup.errors import CertificateError, ConfigError
from deepsup.training import runs
from deepsup.training.verification import verify_run
from tests.support.tiny_runs import config
from tests.support.training_runs import Interrupted, stop_at

KEPT = Path(__file__).parents[1] / "kept"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    runs.train(config(folder))
    return folder


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "run"))


def tampered(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, run / "model.safetensors")


def damaged(run: Path, how: str) -> None:
    match how.split(" ", 1):
        case ["no", name]:
            (run / name).unlink()
        case ["torn", name]:
            (run / name).write_bytes((run / name).read_bytes()[:-20])
        case ["flipped", name]:
            data = bytearray((run / name).read_bytes())
            data[data.index(b"\n") + 1] ^= 4
            (run / name).write_bytes(data)
        case _:
            tampered(run)


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def refused(run: Path) -> str:
    before = contents(run)
    with pytest.raises(CertificateError) as caught:
        verify_run(run, trust=True)
    assert contents(run) == before
    return str(caught.value)


def test_a_whole_run_is_verified_and_nothing_written(run: Path) -> None:
    before = contents(run)
    proof = verify_run(run, trust=True)
    assert proof is not None
    assert proof["outputs"] == "identical"
    assert contents(run) == before


DAMAGES = [
    *("no certificate.json", "no model.safetensors", "no heads.safetensors", "no plan.json", "no journal.jsonl"),
    *("torn certificate.json", "torn model.safetensors", "torn heads.safetensors", "torn journal.jsonl"),
    *("flipped journal.jsonl", "torn manifest.json", "tampered weights"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_missing_or_torn_is_named(run: Path, how: str) -> None:
    damaged(run, how)
    said = refused(run)
    assert ("model.safetensors" if how == "tampered weights" else how.split(" ")[1]) in said


@pytest.mark.parametrize("how", [d for d in DAMAGES if "model.safetensors" not in d and d != "tampered weights"])
@pytest.mark.parametrize("earlier", [False, True])
def test_tampered_weights_are_said_whatever_else_is_broken(run: Path, how: str, earlier: bool) -> None:
    if earlier:
        (run / "manifest.json").unlink()
    if how == "torn manifest.json" and earlier:
        return
    tampered(run)
    damaged(run, how)
    said = refused(run)
    assert re.search(r"certifies weights with|model\.safetensors (is not the file|does not hold)", said), said


def test_a_plain_run_is_held_against_its_list_and_its_checkpoint(tmp_path: Path) -> None:
    runs.train(config(tmp_path, supervise=None, epochs=1))
    assert verify_run(tmp_path, trust=True) is None
    tampered(tmp_path)
    assert "model.safetensors is not the file that deepsup wrote" in refused(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert "does not hold the weights of checkpoint.ckpt" in refused(tmp_path)


def test_an_unfinished_run_is_verified_once_it_was_stripped(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        runs.train(config(tmp_path), on_record=stop_at(12))
    assert "model.safetensors is missing.\nheads.safetensors" in refused(tmp_path).replace("plan.json", "")
    runs.strip_run(tmp_path, trust=True)
    assert verify_run(tmp_path, trust=True) is not None


def test_a_run_of_an_earlier_version_is_verified(tmp_path: Path) -> None:
    run = Path(shutil.copytree(KEPT / "finished", tmp_path / "run"))
    assert verify_run(run) is not None
    tampered(run)
    assert "certifies weights with" in refused(run)
    with pytest.raises(ConfigError, match="there is no run in"):
        verify_run(tmp_path)


def test_a_certificate_of_other_weights_is_refused(run: Path) -> None:
    proof = json.loads((run / "certificate.json").read_text())
    (run / "certificate.json").write_text(json.dumps(proof | {"state_sha256": "0" * 64}))
    assert "certificate.json is not the file that deepsup wrote" in refused(run)
