"""Which images a run sees, and how many at a time: settings of the section `data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepsup.datasets.layouts import task_of
from deepsup.errors import ConfigError
from deepsup.settings.section import Settings
from deepsup.tasks import TASKS

Side = Annotated[int, Field(ge=1, le=2**15)]


class DataConfig(Settings):
    """Which images, and how many at a time."""

    name: str = "digits"
    """One label an image: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `svhn`, or `folder`, images of your
    own or ImageNet's in `train/CLASS/` and `val/CLASS/`. Several labels: `labels`, your own with `labels.csv`; numbers:
    `values`, your own with `values.csv`; options as in `values(held_out=0.3)`. Numbers a pixel: `value-maps`, your own in
    `train/` and `val/`, each with `images/` and `maps/`. One label a token: `tokens`, arrays of your own in `train.npz` and
    `val.npz` (or .safetensors), options as in `tokens(symbols=50257)`. One label a pixel: `camvid`, `drive`, `ade20k`,
    `cityscapes`, or `pairs`, your own in `train/` and `val/`, each with `images/` and `masks/`; options as in `pairs(void=0)`.
    An identity an image, to be found again: `market1501`, `dukemtmc`, `msmt17`, `cuhk03`, `veri776`, `vehicleid`,
    `drawn-figures` (stick figures, made in memory), or `identities`, your own in `train/`, `query/` and `gallery/`; options as in
    `identities(cameras=False)`."""
    root: str | None = None
    """The folder that holds the data; null is `data/`. `digits` and `drawn-figures` need none, `folder`, `labels`, `values`,
    `value-maps`, `tokens`, `pairs` and `identities` have no default."""
    download: bool = False
    """Fetch what is missing into `root`; not for `digits` and data of your own, nor where every pixel has a label."""
    size: Side | tuple[Side, Side] | None = None
    """Side in pixels that images are resized to, at least 8; null is their own (`digits` 16, images in files
    224, `value-maps` as they are). With labels a pixel: of the shorter side. `[height, width]` for these, `value-maps` and
    identities, whose usual one is [256, 128], of vehicles [256, 256], of `drawn-figures` [64, 32]."""
    crop: Side | tuple[Side, Side] | None = None
    """With labels a pixel: side, or `[height, width]`, of the patches that training sees; null is whole images."""
    patches: int = Field(default=1, ge=1, le=2**15)
    """Patches of each image in an epoch; needs `crop`."""
    batch_size: int = Field(default=32, ge=1)
    """New images a training step, in each process; validation takes twice as many at a time, of maps in tiles or of
    patches as many images as fill it, at least one."""
    augment: str = "none"
    """What happens to the training images: `none`, `standard` (random crops and mirroring), `reflect` (the same, padded
    by reflection), `cutout` (and a square cut out), `contrastive` (a pair of different views), with options:
    `standard(mirror=False)`, `cutout(length=8)`. `folder` and images in
    memory also have `randaugment(operations=2, magnitude=9)` (`standard` and so many random changes of colour or place).
    `folder` has `none`, `standard`, `contrastive`; `labels`, `values` and
    `value-maps` have `none` and `flips` (mirroring); identities have `none`, `flips`, `standard(padding=10)` (and shifted) and
    `erasing(padding=10, share=0.5)` (and partly erased); with labels a pixel there are `none`, `standard` (scale, rotation, blur,
    mirroring) and `flips`."""
    prepare: str = "none"
    """With labels a pixel: what is done to every image first: `none`, or `vessels` (grey, contrast equalised)."""
    tile: Side | tuple[Side, Side] | None = None
    """With labels a pixel: side, or `[height, width]`, of the tiles in which validation images are predicted; null is whole
    images."""
    stride: Side | tuple[Side, Side] | None = None
    """Pixels from one tile to the next, at most `tile`: where tiles overlap, the mean of their probabilities counts. Null
    is half a tile."""
    views: Literal[1, 2] = 1
    """How often an image is in a training batch, augmented anew each time: `[all in view 1; all in view 2]`. Where
    it is not set, 2 with a method that compares crops (`cds`), `augment` being then `standard` unless set."""
    overlap: bool = False
    """Every training batch begins with the samples that were new in the one before, so that it is twice as large;
    with `views: 2` they come back in their second view. On with `dlb`, if it is not set."""
    balanced: bool = False
    """Every class is as frequent in an epoch as any other: images are drawn anew each epoch, with replacement, as many as there
    are. Only with one label an image."""
    per_identity: int = Field(default=0, ge=0)
    """Images of each of its identities in a training batch, for losses that compare them: `batch_size` is a multiple of it. 0 is
    as it comes. Only with an identity an image."""
    spread: bool = False
    """Take these from different cameras, as far as there are."""
    classes: int | None = Field(default=None, ge=2)
    """Keep the first so many classes only, in training and validation (of identities in training alone); null is all. Only
    with one label, or identity, an image."""
    limit: int | None = Field(default=None, ge=1)
    """Train on this many images only, the same for every seed; null is all. Validation keeps all of its own."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Processes that read ahead, for images in files alone; they change no batch."""

    @property
    def task(self) -> str:
        """What the images are labelled for, by name in `deepsup.tasks.TASKS`."""
        return task_of(self.name)

    @model_validator(mode="after")
    def _options_fit_the_task(self) -> DataConfig:
        fields = type(self).model_fields
        given = [name for name, field in fields.items() if getattr(self, name) != field.default]
        TASKS[self.task].check_options(given, of=self.name)
        if self.per_identity and self.batch_size % self.per_identity:
            raise ConfigError(
                f"per_identity: {self.batch_size} images a batch (data.batch_size) are not whole identities of "
                f"{self.per_identity}. Set data.batch_size to a multiple of it, such as {16 * self.per_identity}."
            )
        if self.spread and not self.per_identity:
            raise ConfigError("spread chooses among the images of an identity; set data.per_identity as well.")
        if self.stride is not None and self.tile is None:
            raise ConfigError("stride is the distance of tiles; set data.tile as well, or leave data.stride out.")
        if self.views == 2 and self.augment == "none":
            raise ConfigError(
                "views: 2 with augment: none would show every image twice as it is. Choose an augmentation, such as "
                "data.augment=standard, or data.views=1."
            )
        return self
