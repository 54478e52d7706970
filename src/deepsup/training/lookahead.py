"""Whether a net that is to tell the next token has been shown it: what it says of a place must not depend on those behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepsup import losses
from deepsup.datasets import Dataset
from deepsup.errors import ConfigError
from deepsup.features import main_prediction
from deepsup.layers.snapshot import untouched
from deepsup.plans.plan import Plan
from deepsup.settings.training import TrainConfig

_NEAR = 1e-4  # of the largest score: what sums in another order differ by


def follows(data: Dataset) -> bool:
    """Whether the labels of a data set are the tokens that follow."""
    return bool(getattr(data.train, "follows", False))


def check_shift(config: TrainConfig, data: Dataset) -> None:
    """Raise `ConfigError` for a loss that shifts labels which are the tokens that follow already."""
    shift = losses.option(config.main_loss, "shift", 0) if config.main_loss else 0
    if follows(data) and shift:
        raise ConfigError(
            f"loss: {config.main_loss} shifts the labels by {shift}, and in {config.data.name} each token's label is the one "
            "that follows already. Set loss=cross_entropy."
        )


def check_unseen(model: nn.Module, x: Tensor, plan: Plan, *, name: str, symbols: int) -> None:
    """Raise `ConfigError` where what the model says of tokens (N, L) changes with the last of them before the last place."""
    if plan.prediction is None or x.shape[1] < 2:
        return
    other = x.clone()
    other[:, -1] = (other[:, -1] + 1) % symbols
    with untouched(model), torch.no_grad():
        model.eval()
        one, again, changed = (plan.prediction.first(main_prediction(model(each), plan.main)) for each in (x, x, other))
    if not torch.equal(one, again):  # a forward that is random in evaluation tells nothing
        return
    moved = (one - changed)[:, :, :-1].abs().amax((0, 1))
    if bool((moved > _NEAR * one.abs().max()).any()):
        place = int((moved > _NEAR * one.abs().max()).nonzero()[0])
        raise ConfigError(
            f"model: what {name} says of place {place} depends on the last token, and labels are the tokens that follow: it "
            "would read them off its input. Take a causal net, such as deepsup:transformer-4 with causal=true, or give labels."
        )
