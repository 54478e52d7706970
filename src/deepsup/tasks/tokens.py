"""One label a token of a sequence: the share that is right of those that count."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepsup import losses
from deepsup.losses.full_size import enlarged
from deepsup.predictions import Word
from deepsup.supervision.objectives import Objective
from deepsup.tasks.classification import Hits, accuracy, add_hits
from deepsup.tasks.outputs import is_labels, loss_of, with_ensemble, without_channel
from deepsup.tasks.segmentation import safe
from deepsup.tasks.task import Said, Task, Values, Writer, metric, register

TOKEN_ACCURACY = metric("token accuracy", "the share of labelled tokens whose class is right", task="tokens", digits=1)(
    accuracy
)


class TokenHits(Hits):
    """How many tokens have a label, and how many of these the class with the highest score is right for."""

    def metrics(self) -> Values:
        return {"token accuracy": accuracy(self)} if self.labelled else {}

    def __add__(self, other: Hits) -> TokenHits:
        return TokenHits(self.right + other.right, self.labelled + other.labelled)

    def cpu(self) -> TokenHits:
        return TokenHits(int(self.right), int(self.labelled))


class TokenFiles(Writer):
    """NAME.labels.npz, and NAME.BRANCH.labels.npz: `labels` (N, L), the class of each place, and its `probability`."""

    def kept(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """(N, 2, L) of each output: how probable its class is, and the class."""
        said = {}
        for output, scores in with_ensemble(dict(found), self.objective).items():
            if self.wanted(output):
                own = output in found  # the ensemble is one of probabilities already
                shares = losses.probabilities(scores, self.objective.kind(output)) if own else scores
                said[output] = torch.stack([part.double() for part in shares.max(1)], 1).cpu()
        return said

    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        numpy = importlib.import_module("numpy")
        files = []
        for output, said in found.items():
            stem = name if output == "main" else f"{name}.{safe(output)}"
            buffer = io.BytesIO()
            numpy.savez(buffer, labels=said[:, 1].long().numpy(), probability=said[:, 0].float().numpy())
            files.append(self.put(f"{stem}.labels.npz", buffer.getvalue()))
        return Said(image, tuple(files), {})


@register
class Tokens(Task):
    """A class index for every place of a sequence (N, L)."""

    name = "tokens"
    targets = "sequences with a label a token"
    labelled = "a label a token"
    metric = "token accuracy"
    writer = TokenFiles
    word = Word("class", -1, "cross_entropy")

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        several = (
            kind == "labels" and places is None
        )  # (N, C): of places, indices may be held against each class by itself
        if not is_labels(target) or kind == "values" or several or places not in (None, 1):
            return False
        target = without_channel(target, places)
        return target.ndim == 2 and (target.shape[1] > 1 or places == 1)

    def add(self, counts: dict[str, Any], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        target = without_channel(target, 1)
        size = target.shape[1:]
        found = {name: enlarged(scores, size, loss_of(name, objective)) for name, scores in found.items()}
        shift = int(objective.option("shift", 0))
        if shift:
            found = {name: scores[:, :, :-shift] for name, scores in found.items()}
            target = target[:, shift:]
        add_hits(counts, found, target, objective, make=TokenHits)
