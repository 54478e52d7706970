"""What a training run is made of: checked settings, frozen; see `configs` for the files that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from deepsup import losses, schedules
from deepsup.errors import ConfigError
from deepsup.settings.batches import MixConfig as MixConfig
from deepsup.settings.batches import as_needed
from deepsup.settings.data import DataConfig as DataConfig
from deepsup.settings.feature_losses import EmbeddingConfig as EmbeddingConfig
from deepsup.settings.goals import check_loss, check_method, check_metric, check_model, usual_loss
from deepsup.settings.section import Settings
from deepsup.settings.steps import StepConfig as StepConfig
from deepsup.settings.supervise import ProbeConfig as ProbeConfig
from deepsup.settings.supervise import SuperviseConfig as SuperviseConfig
from deepsup.settings.watching import CheckpointConfig as CheckpointConfig
from deepsup.settings.watching import LogConfig as LogConfig
from deepsup.settings.watching import ValidationConfig as ValidationConfig
from deepsup.tasks import TASKS

Weight = float | str


class OptimizerConfig(Settings):
    """The optimiser, for the model and for the heads."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Which optimiser."""
    lr: float | None = Field(default=None, gt=0)
    """The learning rate; null is 0.02 for `sgd` (0.002 for `dsn` with hinges, less with over 10 classes; 1e-6 for
    `hed-released`) and 0.001 for `adam` and `adamw`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; Adam and AdamW keep PyTorch's betas."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the model's parameters, and of the heads' unless `head_weight_decay` says otherwise."""
    nesterov: bool = False
    """Nesterov's momentum, for SGD; needs a momentum above 0."""
    head_lr_factor: float | None = Field(default=None, ge=0)
    """The heads' learning rate is `lr` times this; null is the method's own, which is 1 for most and 0.001 or less for `dsn`."""
    head_weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of the heads; null is the method's own, which is `weight_decay` for most and 0 for `dsn`."""
    schedule: Weight = "constant(1)"
    """A number or a schedule that multiplies the learning rate, step by step: `cosine(1, 0)`, or PSPNet's `poly(1, 0)`."""

    branch_lr_factors: dict[str, float] = Field(default={})
    """The learning rate of single branches' heads is `lr` times this, by branch; the others have that of `head_lr_factor`."""
    no_decay: bool = False
    """Leave out of weight decay what timm leaves out: biases, scales of normalisations, and what the model names itself."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """The rate is multiplied by this once for each layer between a parameter and the classifier, for timm's models; null is 1."""
    warmup: float = Field(default=0.0, ge=0)
    """Epochs, or parts of one, over which the learning rate rises in a line from 0, as `schedule: warmup(..., until)` does."""

    @property
    def rate(self) -> float:
        """The learning rate, the optimiser's usual one where none is set."""
        return self.lr if self.lr is not None else 0.02 if self.name == "sgd" else 0.001

    def schedule_over(self, epochs: int) -> schedules.Schedule:
        """What multiplies the learning rate over the progress of so many epochs. Raises `ConfigError` for too long a warm-up."""
        schedule = schedules.parse(self.schedule)
        if self.warmup >= epochs:
            raise ConfigError(
                f"optimizer.warmup={self.warmup:g} is not shorter than the {epochs} epochs of the training."
            )
        return schedules.warmup(schedule, self.warmup / epochs) if self.warmup else schedule

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
    devices: int = Field(default=1, ge=1, le=1024)
    """How many of them, one process each."""
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
    """Of the arithmetic; with `bf16-mixed` and `16-mixed` the weights stay in 32 bits. `16-mixed` scales the loss, and leaves
    out a step whose gradients overflow."""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """Run the net through `torch.compile`, in its default mode (`true`) or the one that is named."""
    channels_last: bool = False
    """Keep weights and images with their channels side by side in memory, which GPUs convolve faster in 16 bits."""
    tf32: bool = False
    """Multiply matrices of 32 bits in TF32 on GPUs that have it; convolutions do so in any case, by PyTorch's default."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads for arithmetic on the CPU; null leaves it to PyTorch."""


class TrainConfig(Settings):
    """One training run."""

    name: str = Field(default="run", min_length=1)
    """What the run is called in displays and reports."""
    model: str = "deepsup:plain-12"
    """Which network: `deepsup:NAME` (`deepsup.networks.names()`), `timm:NAME`, `torchvision:NAME` or
    `package.module:factory`. That predict maps: `deepsup:pspnet`, `c1`, `ppm`, `unet`, `unetpp`, `hed`, and `smp:NAME`
    of segmentation-models-pytorch (`smp:Unet`). That read tokens: `deepsup:transformer-N`; a factory is given how many symbols
    there are as `in_channels`, and the length as `size`."""
    model_options: dict[str, Any] = Field(default={})
    """Arguments for the network's constructor: `{pretrained: true}`, `{weights: FILE, shortcut: centred}`; null clears those
    of a file."""
    data: DataConfig = DataConfig()
    mix: MixConfig = MixConfig()
    supervise: SuperviseConfig | None = None
    loss: str | None = None
    """The main output's loss, and that of branches whose method gives both the same: `cross_entropy`, `binary`,
    `dice_cross_entropy`, ...; null is `binary` for several labels, `mse` for values, and else the method's."""
    class_weight: Literal["balanced"] | None = None
    """`balanced`: in the main output's loss, and that of branches that have the same one, a class counts in inverse proportion
    to its share of the training labels; numbers of your own are `loss: cross_entropy(class_weight=[...])`. With one label an
    image or a pixel."""
    metric: str | None = None
    """The score that counts; null is `accuracy` for one label an image, `mAP` for several (also `label F1`, `label accuracy`)
    and for identities (also `mAP (trapezoid)`, `rank-1`, `rank-5`, `rank-10`, `rank-20`, `mINP`), `R²` for values (also
    `MAE` and `RMSE`, the lower the better), `token accuracy` for one a token, and `mean IoU` for one a pixel. There are also
    `pixel accuracy` and `mean Dice`, and of two classes `F1`, `Dice`, `Jaccard`, `sensitivity`, `specificity`, `precision`,
    `ROC-AUC` and `PR-AUC` (average precision)."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    step: StepConfig = StepConfig()
    start: str | None = None
    """Weights to begin with, `--from` on the command line: a run's folder, or a file (safetensors, a `.ckpt` of ours, or what
    `torch.save` wrote, of which tensors alone are read). What does not fit is named, and begins as initialised."""
    epochs: int = Field(default=12, ge=1)
    """How often every training image is seen; `deepsup train --longer` goes on with a run whose settings said less."""
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
        if isinstance(data, Mapping) and data.get("output") in (None, ""):
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
        self.optimizer.schedule_over(self.epochs)
        check_model(self.model, self.data.task, of=self.data.name)
        check_loss(self.loss, self.data.task, of=self.data.name)
        check_metric(self.metric, self.data.task, of=self.data.name)
        self.mix.check(self.data)
        if self.mix.on and self.embedding.loss is not None:
            raise ConfigError("embedding.loss tells identities apart, and mix makes one of two. Set one of them.")
        if self.class_weight and self.data.task not in ("classification", "segmentation"):
            raise ConfigError(
                f"class_weight is for one label an image or a pixel, and {self.data.name} has {TASKS[self.data.task].labelled}. "
                "Take it out."
            )
        self.validation.check(self.data.task, of=self.data.name)
        if self.supervise:
            check_method(self.supervise.method, self.data.task, of=self.data.name)
        return self
