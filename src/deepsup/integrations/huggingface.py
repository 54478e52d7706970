"""Hugging Face's Trainer, with branches:

>>> class Supervised(DeepSupervision, transformers.Trainer): ...
>>> trainer = Supervised(model=ds.attach(model, plan), args=args, train_dataset=images)

Nothing else changes: `save_model` writes the plain model with its config, and the heads beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepsup.errors import ConfigError
from deepsup.files import load_weights, save_weights
from deepsup.layers.wrappers import bare
from deepsup.specs import require
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.criterion import Criterion

if TYPE_CHECKING:
    Base: Any = object
else:
    Base = object

HEADS, STATE = "heads.safetensors", "supervision.pt"


class DeepSupervision(Base):  # type: ignore[misc]
    """Put before `transformers.Trainer`, or a class of yours that is one: `class Mine(DeepSupervision, Trainer)`.

    `model` is what `deepsup.attach` returned, and `criterion` the loss of outputs and labels, `Criterion(plan)` with the
    trainer's progress unless given. Labels come as `labels`, and do not enter the model, which so computes no loss of its own.

    - With gradient accumulation, and in several processes, each batch counts by its labels (-100 counts for nothing), as the
      Trainer has it for models with a loss; the gradient is that of one large batch.
    - `evaluate` and `predict` run the plain model: its loss is main's, its predictions are what `compute_metrics` reads.
    - Beside `loss` every term is logged, unweighted, as `loss/NAME`: the mean since the last log, of this process.
    - A saved model and a checkpoint hold the plain model as it saves itself, `heads.safetensors`, and `supervision.pt` (how far
      random heads and the objective are; numbers alone are read back), which `resume_from_checkpoint` and
      `load_best_model_at_end` read.

    Raises `ConfigError` for a model without branches and for batches without `labels`.
    """

    def __init__(self, model: Any = None, *args: Any, criterion: Criterion | None = None, **options: Any) -> None:
        trainer = require("transformers", purpose="its Trainer", install="deepsup[huggingface]").Trainer
        net = bare(model) if isinstance(model, torch.nn.Module) else None
        if not isinstance(net, Supervised) or not isinstance(self, trainer):
            found = type(model).__name__ if isinstance(self, trainer) else f"{type(self).__name__}, which is no Trainer"
            raise ConfigError(f"DeepSupervision trains what attach returned, in front of a Trainer; found {found}.")
        self.net = net
        self.criterion = criterion or Criterion(net.plan, progress=self._progress)
        self._parts: dict[str, Tensor] = {}
        self._batches = 0
        super().__init__(model, *args, compute_loss_func=self._loss, **options)
        self.model_accepts_loss_kwargs = False  # the count of labels is for the loss and not for the model
        self._loss_shifts_labels = self.criterion.objective.option("shift", 0) == 1  # and of those that it counts

    def _progress(self) -> float:
        done: float = self.state.global_step / max(1, self.state.max_steps)
        return min(1.0, done)

    def _loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """The share of the batch in the mean over all labels of the step."""
        if labels is None:
            raise ConfigError("a batch has no 'labels'. Let the data set or the collator call them so.")
        total: Tensor = self.criterion(outputs, labels)
        if total.requires_grad and self.criterion.terms is not None:
            for name, part in self.criterion.terms.parts.items():
                self._parts[name] = self._parts[name] + part if name in self._parts else part
            self._batches += 1
        if num_items_in_batch is None:
            return total / self.current_gradient_accumulation_steps if total.requires_grad else total
        counted = (labels[..., 1:] if self._loss_shifts_labels else labels).ne(-100).sum()
        share: Tensor = counted / num_items_in_batch.clamp(min=1)
        return total * share

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the terms beside the loss."""
        if "loss" in logs and self._batches:
            logs |= {f"loss/{name}": float(part) / self._batches for name, part in self._parts.items()}
            self._parts, self._batches = {}, 0
        super().log(logs, *args, **options)

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """The trainer's model is the plain one, whose own rules say how it is saved and read."""
        whole: Any = self.model
        self.model: Any = self.net.model
        try:
            yield
        finally:
            self.model = whole

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The plain model by its own rules, and what is ours beside it."""
        prefix = "model."
        own = state_dict and {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        with self._plain():
            super()._save(output_dir, own or None)
        place = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            save_weights(self.net.heads, place / HEADS)
            torch.save({"calls": self.net.calls, "criterion": self.criterion.get_extra_state()}, place / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """What `_save` wrote; `model` is the net, in whatever wraps it."""
        place = Path(resume_from_checkpoint)
        plain: Any = self.net.model
        if hasattr(plain, "from_pretrained"):  # which knows names that weights have on disk alone; the Trainer does not
            plain.load_state_dict(type(plain).from_pretrained(place).state_dict())
        else:
            with self._plain():
                super()._load_from_checkpoint(resume_from_checkpoint, plain)
        load_weights(self.net.heads, place / HEADS)
        state = torch.load(place / STATE, map_location="cpu", weights_only=True)
        self.net.calls = int(state["calls"])
        self.criterion.set_extra_state(state["criterion"])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
