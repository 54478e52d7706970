"""What a training run or a comparison is made of: checked settings, read from YAML and from dotted overrides.

    config = load("digits.yaml", ["optimizer.lr=0.1", "supervise.at=[stage2]"])

A file with `groups`, `arms`, `methods` or `vary` describes a comparison, any other file a single run. Settings are frozen; a
key that does not exist is an error that names the closest one that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, field_validator, model_validator

from deepsup import losses, schedules
from deepsup.errors import ConfigError
from deepsup.settings import foreign
from deepsup.settings.arms import check_parts, check_seeds, completed, settings_of
from deepsup.settings.batches import as_needed
from deepsup.settings.data import DataConfig as DataConfig
from deepsup.settings.feature_losses import EmbeddingConfig as EmbeddingConfig
from deepsup.settings.goals import check_comparable, check_loss, check_method, check_metric, usual_loss
from deepsup.settings.section import Settings, check, flattened, merge, override, read
from deepsup.settings.supervise import ProbeConfig as ProbeConfig
from deepsup.settings.supervise import SuperviseConfig as SuperviseConfig
from deepsup.settings.watching import CheckpointConfig as CheckpointConfig
from deepsup.settings.watching import LogConfig as LogConfig
from deepsup.settings.watching import ValidationConfig as ValidationConfig
from deepsup.tasks import TASKS
from deepsup.trust import Asked, Trust
from deepsup.trust import check as check_trust

Weight = float | str


class OptimizerConfig(Settings):
    """The optimiser, for the model and for the heads."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Which optimiser."""
    lr: float | None = Field(default=None, gt=0)
    """The learning rate; null is 0.02 for `sgd` and 0.001 for `adam` and `adamw`."""
    momentum: float = Field(default=0.9, ge=0)
    """Of SGD; Adam and AdamW keep PyTorch's betas."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the model's parameters, and of the heads' unless `head_weight_decay` says otherwise."""
    nesterov: bool = False
    """Nesterov's momentum, for SGD; needs a momentum above 0."""
    head_lr_factor: float | None = Field(default=None, ge=0)
    """The heads' learning rate is `lr` times this; null is the method's own, which is 1 for most and 0.001 for `dsn`."""
    head_weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of the heads; null is the method's own, which is `weight_decay` for most and 0 for `dsn`."""
    schedule: Weight = "constant(1)"
    """A number or a schedule that multiplies the learning rate, step by step: `cosine(1, 0)`, or PSPNet's `poly(1, 0)`."""

    @property
    def rate(self) -> float:
        """The learning rate, the optimiser's usual one where none is set."""
        return self.lr if self.lr is not None else 0.02 if self.name == "sgd" else 0.001

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, value: Weight) -> Weight:
        schedules.parse(value)
        return value

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerConfig:
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov: true needs a momentum above 0; set optimizer.momentum=0.9 or nesterov=false.")
        return self


class EngineConfig(Settings):
    """Where and how the arithmetic runs; under `torchrun` the processes it started win over `devices`."""

    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto"
    """What to compute on; `auto` takes the best there is, `gpu` is `cuda` or `mps`."""
    devices: int = Field(default=1, ge=1)
    """How many of them, one process each."""
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true"
    """Of the arithmetic; with `bf16-mixed` the weights stay in 32 bits."""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """Run the net through `torch.compile`, in its default mode (`true`) or the one that is named."""
    channels_last: bool = False
    """Keep weights and images with their channels side by side in memory, which GPUs convolve faster in 16 bits."""
    tf32: bool = False
    """Multiply matrices of 32 bits in TF32 on GPUs that have it; convolutions do so in any case, by PyTorch's default."""
    threads: int | None = Field(default=None, ge=1)
    """Threads for arithmetic on the CPU; null leaves it to PyTorch."""


class TrainConfig(Settings):
    """One training run."""

    name: str = "run"
    """What the run is called in displays and reports."""
    model: str = "deepsup:plain-12"
    """Which network: `deepsup:NAME` (`deepsup.networks.names()`), `timm:NAME`, `torchvision:NAME` or
    `package.module:factory`. That predict maps: `deepsup:pspnet`, `c1`, `ppm`, `unet`, `unetpp`, `hed`, and `smp:NAME`
    of segmentation-models-pytorch (`smp:Unet`)."""
    model_options: dict[str, Any] = Field(default={})
    """Arguments for the network's constructor: `{pretrained: true}`, `{weights: FILE, shortcut: centred}`; null clears those
    of a file."""
    data: DataConfig = DataConfig()
    supervise: SuperviseConfig | None = None
    loss: str | None = None
    """The main output's loss, and that of branches whose method gives both the same: `cross_entropy`, `binary`,
    `dice_cross_entropy`, ...; null is `binary` for several labels, `mse` for values, and else the method's."""
    metric: str | None = None
    """The score that counts; null is `accuracy` for one label an image, `mAP` for several (also `label F1`, `label accuracy`)
    and for identities (also `mAP (trapezoid)`, `rank-1`, `rank-5`, `rank-10`, `rank-20`, `mINP`), `R²` for values (also
    `MAE` and `RMSE`, the lower the better), and `mean IoU` for one a pixel. There are also `pixel accuracy` and `mean Dice`,
    and of two classes `F1`, `Dice`, `Jaccard`, `sensitivity`, `specificity`, `precision`, `ROC-AUC` and `PR-AUC` (average
    precision)."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(default=12, ge=1)
    """How often every training image is seen."""
    seed: int = Field(default=0, ge=0)
    """Start of all random streams: the model's weights, the order of images, augmentation, dropout."""
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    output: str = ""
    """The run's folder; `runs/NAME` with the run's `name` if not given."""

    @model_validator(mode="before")
    @classmethod
    def _output_follows_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("output"):
            return {**data, "output": f"runs/{data.get('name', 'run')}"}
        return data

    @model_validator(mode="before")
    @classmethod
    def _batches_are_as_the_method_needs_them(cls, data: Any) -> Any:
        return as_needed(data) if isinstance(data, Mapping) else data

    @field_validator("model_options", mode="before")
    @classmethod
    def _null_is_no_option(cls, value: Any) -> Any:
        return {} if value is None else value

    @property
    def score_name(self) -> str:
        """What the score is called."""
        return self.metric or TASKS[self.data.task].metric

    @property
    def main_loss(self) -> str | None:
        """The main output's loss as settings or task have it; None where it is the method's."""
        return self.loss or usual_loss(self.data.task)

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, value: str | None) -> str | None:
        if value is not None and not losses.describe(value).scores:
            raise ConfigError(
                f"{value!r} does not compare class scores with labels. The main output needs one that does."
            )
        return value

    @model_validator(mode="after")
    def _goals_fit_the_task(self) -> TrainConfig:
        check_loss(self.loss, self.data.task, of=self.data.name)
        check_metric(self.metric, self.data.task, of=self.data.name)
        self.validation.check(self.data.task, of=self.data.name)
        if self.supervise:
            check_method(self.supervise.method, self.data.task, of=self.data.name)
        return self


class Cell(NamedTuple):
    """One run of a comparison: its place in the table and its full configuration."""

    group: str
    arm: str
    seed: int
    config: TrainConfig

    @property
    def run(self) -> str:
        """The run's name and its folder inside the comparison: `sgd/plain/seed0`."""
        return f"{self.group}/{self.arm}/seed{self.seed}"


class ComparisonConfig(Settings):
    """Arms, trained from the same seeds in every group; a run is `base`, its group and its arm, key by key."""

    name: str = "comparison"
    """What the comparison is called."""
    base: dict[str, Any] = Field(default={})
    """Settings of a run that all runs share."""
    groups: dict[str, dict[str, Any]] = Field(default={"all": {}})
    """What is compared in several settings, such as optimisers: the name of each and its settings."""
    methods: list[str | None] | dict[str, Any] | None = None
    """Arms in short: methods (`[none, dsl, dhm(temperature=2)]`), or names and what is under `supervise` in each."""
    vary: dict[str, list[Any]] | None = None
    """Arms in short: one key of a run and the values that it takes, `{supervise.weight: [0, 0.2, 0.4]}`; an arm each, named
    `weight=0.2`. A weight of 0 is the plain network, `none`."""
    arms: dict[str, dict[str, Any]] = Field(default={})
    """The things that are compared, two or more: the name of each and its settings, laid over those of `methods` and `vary`."""
    baseline: str = ""
    """The arm that every other one is measured against; `plain` if there is an arm of that name, else `none`; with
    `vary` alone the first value."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Each arm of each group is trained once from each of these."""
    until: Literal["decided"] | None = None
    """`decided`: go on with the next whole numbers as seeds until each arm helps or hurts, or there are `max_seeds`."""
    max_seeds: int | None = Field(default=None, ge=2)
    """Of `until: decided`: how many seeds there may be, those of `seeds` among them."""
    jobs: int = Field(default=1, ge=1)
    """Runs at a time, a process each."""
    minutes: float | None = Field(default=None, gt=0)
    """After so long no further seed is begun; the same command goes on with the next. Null is no limit."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the interval around a mean difference, on which the verdict rests."""
    correction: Literal["holm", "bonferroni", "none"] = "holm"
    """For several verdicts at a time: wider intervals that hold all together with `confidence`, by `holm` no wider than needed
    or by `bonferroni` all alike; or `none`."""
    output: str = ""
    """The comparison's folder; `runs/NAME` with the comparison's `name` if not given."""

    @model_validator(mode="before")
    @classmethod
    def _what_follows_from_the_rest(cls, data: Any) -> Any:
        return completed(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _is_a_comparison(self) -> ComparisonConfig:
        check_parts(self.base, self.groups, self.arms, baseline=self.baseline)
        check_seeds(self.seeds, until=self.until, most=self.max_seeds)
        cells = self.expand()  # so that a wrong key in a group or an arm is found before anything runs
        check_comparable({cell.config.score_name for cell in cells})
        return self

    @property
    def score_name(self) -> str:
        """What the score is called by which the arms are judged."""
        return self.expand()[0].config.score_name

    @property
    def candidates(self) -> tuple[str, ...]:
        """The arms that are measured against the baseline."""
        return tuple(arm for arm in self.arms if arm != self.baseline)

    def expand(self) -> list[Cell]:
        """Every run, seed by seed, the arms of a seed side by side: wherever it is cut off, what is there is paired."""
        return [
            Cell(group, arm, seed, self._cell(group, arm, seed))
            for seed in self.seeds
            for group in self.groups
            for arm in (self.baseline, *self.candidates)
        ]

    def _cell(self, group: str, arm: str, seed: int) -> TrainConfig:
        run = f"{group}/{arm}/seed{seed}"
        data = settings_of(arm, self.arms, merge(self.base, self.groups[group]))
        data = {**data, "name": run, "seed": seed, "output": str(Path(self.output) / run)}
        return check(TrainConfig, data, where=f"base + groups.{group} + arms.{arm}")


Config = TrainConfig | ComparisonConfig


def load(path: str | Path | None = None, overrides: Iterable[str] = (), *, trust: Trust = False) -> Config:
    """The settings of a YAML file (or the defaults) with dotted overrides such as `optimizer.lr=0.1` laid over them.

    The value of an override is read as YAML: `supervise.at=[stage1, stage2]`, `supervise=null`.
    Raises `ConfigError` that names the key, what was found and the closest key that exists; `TrustError` where the file
    names a network that would be imported from elsewhere, unless an override names it too or `trust` allows it.
    """
    typed = tuple(overrides)
    data = {} if path is None else read(Path(path))
    for text in typed:
        data = override(data, text)
    config = parse(data, where="the defaults" if path is None else str(path))
    if path is not None:
        check_trust(asks(config), where=str(path), trust=trust if trust is True else (*(trust or ()), *typed))
    return config


def asks(config: Config) -> list[Asked]:
    """What settings ask for that a file may not, see `foreign`."""
    runs = [config] if isinstance(config, TrainConfig) else [cell.config for cell in config.expand()]
    return [one for run in runs for one in foreign.asks(run.model_dump())]


def asked_names(config: Config) -> tuple[str, ...]:
    """The names of what settings ask for: who has these settings at hand, and no file, has been told of them."""
    return tuple(dict.fromkeys(one.name for one in asks(config)))


def parse(data: Mapping[str, Any], *, where: str = "the configuration") -> Config:
    """A plain mapping, checked: a comparison if it has `groups`, `arms`, `methods` or `vary`, else one run."""
    if {"groups", "arms", "methods", "vary"} & data.keys():
        return check(ComparisonConfig, dict(data), where=where)
    return check(TrainConfig, dict(data), where=where)


def save(config: Config, path: str | Path) -> None:
    """Write the full settings, defaults included, as YAML that `load` reads back."""
    Path(path).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), "utf-8")


def differences(one: Config, other: Config, *, ignore: Iterable[str] = ("output",)) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values."""
    left, right = (dict(flattened(c.model_dump(mode="json"))) for c in (one, other))
    keys = [k for k in {**left, **right} if k.split(".")[0] not in set(ignore)]
    return {
        k: (left.get(k), right.get(k)) for k in keys if left.get(k) != right.get(k) or _is_only_in_one(k, left, right)
    }


def _is_only_in_one(key: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether one has the key, as null, and the other neither it nor anything below it: an arm's null overrides `base`."""
    other = right if key in left else left
    return not any(k == key or k.startswith(f"{key}.") for k in other)
