"""What `fit` is asked for, and what of it is refused: what would be accepted and do nothing, and numbers out of range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from deepsup.datasets import Split
from deepsup.errors import ConfigError
from deepsup.evaluation.devices import Run
from deepsup.evaluation.loaders import Batches
from deepsup.settings.training import CheckpointConfig, EngineConfig, LogConfig, MixConfig, StepConfig
from deepsup.supervision.attaching import is_supervised, unwrap
from deepsup.supervision.objectives import Objective


@dataclass(frozen=True)
class Asked:
    """What `fit` was asked for, checked one by one; see there."""

    net: nn.Module
    train: Split | Batches
    objective: Objective
    _: KW_ONLY
    validation: Split | Batches | None
    metric: str | None
    epochs: int
    schedule: Callable[[float], float] | None
    batch_size: int | None
    seed: int | None
    folder: Path | None
    checkpoint_every: int | None
    checkpoint: CheckpointConfig
    validate_every: int
    patience: int | None
    step: StepConfig
    mix: MixConfig
    forward: Run | None
    start: str | Path | None
    engine: EngineConfig
    log: LogConfig


def check_heard(asked: Asked, *, lr: float | None, optimizer: Optimizer | str) -> None:
    """Refuse what would be accepted and change nothing."""
    if lr is not None and not isinstance(optimizer, str):
        raise ConfigError("fit: lr= is for an optimiser by name, and yours has its own rates. Set them there.")
    if asked.metric is not None and asked.validation is None:
        raise ConfigError("fit: metric= is what validation is scored by, and there is none. Give validation=.")
    kept = asked.checkpoint != CheckpointConfig()
    if kept and asked.folder is None:
        raise ConfigError("fit: checkpoint= needs a place for checkpoints. Give folder=.")
    if asked.checkpoint_every is not None and asked.checkpoint.every_steps is not None:
        raise ConfigError("fit: checkpoint_every= is checkpoint={'every_steps': ...}. Give one of them.")
    if asked.validation is None and (asked.patience is not None or asked.checkpoint.best):
        name = "checkpoint={'best': True}" if asked.patience is None else "patience="
        raise ConfigError(f"fit: {name} follows the score of validation, and there is none. Give validation=.")
    if asked.checkpoint_every is not None and asked.folder is None:
        raise ConfigError("fit: checkpoint_every= needs a place for checkpoints. Give folder=.")
    splits = isinstance(asked.train, Split) or isinstance(asked.validation, Split)
    if asked.batch_size is not None and not splits:
        raise ConfigError(
            "fit: batch_size= is for splits of deepsup.datasets, and your batches have theirs. Leave it out."
        )


def check_counts(asked: Asked) -> None:
    """Refuse numbers that settings of `train` would refuse."""
    least = {"epochs": 1, "batch_size": 1, "checkpoint_every": 1, "validate_every": 1, "patience": 1, "seed": 0}
    for name, smallest in least.items():
        value = getattr(asked, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= smallest):
            raise ConfigError(f"fit: {name} must be a whole number of at least {smallest}; found {value!r}.")
    for name in ("epochs", "validate_every"):
        if getattr(asked, name) is None:
            raise ConfigError(f"fit: {name} must be a whole number of at least 1; found None.")


def check_held(net: nn.Module, optimizer: Optimizer) -> None:
    """An optimiser made before `attach` would leave the heads as they were initialised, without a word."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    heads = unwrap(net).heads if is_supervised(net) else nn.Module()
    left_out = [name for name, p in heads.named_parameters() if p.requires_grad and id(p) not in held]
    if left_out:
        raise ConfigError(
            f"the optimiser does not hold {len(left_out)} parameters of the heads ({left_out[0]}, ...), so they would stay "
            "as they are. Make it after attach: SGD(deepsup.parameter_groups(net, lr=...)), or freeze them."
        )


def check_shared(world: int, *sources: object) -> None:
    """Every process must read its own share; a split sees to that itself."""
    for source in sources:
        if world > 1 and isinstance(source, DataLoader) and not isinstance(source.sampler, DistributedSampler):
            raise ConfigError(
                f"all {world} processes would read the same batches from this DataLoader. Give it a DistributedSampler, "
                "or pass a Split."
            )
