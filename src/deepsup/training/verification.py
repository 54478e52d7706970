"""What a run left, held against its certificate and the list of what was written; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepsup import ownership
from deepsup.errors import CertificateError, DeepsupError, TrustError
from deepsup.files import load_weights
from deepsup.settings.training import TrainConfig
from deepsup.supervision.stripping import verify
from deepsup.training import checkpoints, owned_folders, run_folders, runs
from deepsup.trust import Trust

WEIGHTS, CERTIFICATE = "model.safetensors", "certificate.json"


def verify_run(folder: str | Path, *, trust: Trust = False) -> dict[str, Any] | None:
    """The proof of a run's certificate with what was found now, as of `verify`; None for a run of the plain model.

    Reads only. Raises `CertificateError` with everything that is missing, torn or altered, `ConfigError` for a folder
    without a run and `TrustError` where its settings name a network from elsewhere, unless `trust` allows it.
    """
    place = Path(folder)
    config = runs.configured(place, trust=trust)
    wrong: list[str] = []
    supervised = _supervised(place, config, wrong)
    needed = ["journal.jsonl", WEIGHTS, *(["plan.json", "heads.safetensors", CERTIFICATE] if supervised else [])]
    wrong += [f"{name} is missing." for name in needed if not (place / name).is_file()]
    _check_list(place, wrong)
    _check_journal(place, wrong)
    proof = _check_weights(place, supervised, trust, wrong)
    if wrong:
        again = f"Restore what is named; what `deepsup strip {place}` can write it writes from the last checkpoint."
        raise CertificateError("\n".join([f"{place} is not as its run left it:", *wrong, again]))
    return proof


@contextmanager
def _noted(wrong: list[str]) -> Iterator[None]:
    """An error is noted, and what follows is looked at all the same."""
    try:
        yield
    except TrustError:
        raise
    except DeepsupError as error:
        wrong.append(str(error))


def _supervised(place: Path, config: TrainConfig, wrong: list[str]) -> bool:
    found = config.supervise is not None
    with _noted(wrong):
        found = owned_folders.had_branches(place, config)
    return found


def _check_list(place: Path, wrong: list[str]) -> None:
    """Files that are not as the manifest has them; runs of earlier versions have none."""
    names = ("config.yaml", "plan.json", *owned_folders.RESULTS)
    if not owned_folders.older(place):
        with _noted(wrong):
            wrong += [f"{name} is not the file that deepsup wrote." for name in ownership.foreign(place, names)]


def _check_journal(place: Path, wrong: list[str]) -> None:
    file = place / "journal.jsonl"
    if file.is_file():
        with _noted(wrong):
            run_folders.run(place)
        if not file.read_bytes().endswith(b"\n"):
            wrong.append("journal.jsonl is torn: its last line is cut off.")


def _check_weights(place: Path, supervised: bool, trust: Trust, wrong: list[str]) -> dict[str, Any] | None:
    """The proof, where there are weights and a certificate; weights of a finished run are those of its checkpoint, too."""
    proof, model = None, None
    if (place / WEIGHTS).is_file():
        with _noted(wrong):
            model = runs.untouched_model(place, trust=trust)
            load_weights(model, place / WEIGHTS)
    if model is not None and supervised and (place / CERTIFICATE).is_file():
        with _noted(wrong):
            proof = verify(place / CERTIFICATE, model, sample=runs.shown_tokens(place))
    if model is not None and (place / "checkpoint.ckpt").is_file() and runs.finished(place) is not None:
        with _noted(wrong):
            _check_trained(place, model)
    return proof


def _check_trained(place: Path, model: nn.Module) -> None:
    trained = checkpoints.load(place / "checkpoint.ckpt").weights
    for key, value in model.state_dict().items():
        found = trained.get(f"model.{key}", trained.get(key))  # with heads beside it, or alone
        if found is None or not torch.equal(value, found):
            raise CertificateError(f"{WEIGHTS} does not hold the weights of checkpoint.ckpt: {key} differs.")
