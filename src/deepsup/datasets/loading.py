"""Data sets by name: the one entry point, and what it checks before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepsup.datasets import folder_split, identity_views, paired_transforms, preparation, transforms
from deepsup.datasets.layouts import LAYOUTS, is_map, task_of, with_labels_a_pixel
from deepsup.datasets.request import Dataset, Request
from deepsup.datasets.whole_images import WHOLE
from deepsup.errors import ConfigError, DatasetError
from deepsup.specs import closest
from deepsup.tasks import TASKS

SMALLEST = 8
Size = int | Sequence[int]


def names() -> tuple[str, ...]:
    """The names that `load` knows.

    Example: `"digits" in names()`.
    """
    return tuple(LAYOUTS)


def load(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    size: Size | None = None,
    crop: Size | None = None,
    patches: int = 1,
    augment: str = "none",
    prepare: str = "none",
    views: int = 1,
    classes: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 0,
    per_identity: int = 0,
    spread: bool = False,
) -> Dataset:
    """Load a dataset's training and validation split.

    Example: `load("digits", size=16)`, `load("cifar100", root="data", augment="standard")` or `load("drive", root="data",
    crop=48, patches=1000, prepare="vessels")`.

    `digits` (1,797 images, inside scikit-learn) has a fixed validation set of a fifth, the same for every seed.
    `mnist`, `fashion-mnist`, `cifar10`, `cifar100` and `svhn` (without its extra images) are read from `root` (default
    `data/`) in torchvision's layout, or fetched there with `download`. `folder` reads `root/train/CLASS/*` and
    `root/val/CLASS/*`, ImageNet's layout, with `workers` processes. `size` is the side that images are resized to, at
    least 8; the default is the images' own (digits 16, folder 224).

    With several labels, or numbers, an image: `labels` and `values` read `root/labels.csv` and `root/values.csv`, a row an
    image: its path in `root`, then a column a label (0 or 1; or one column `labels` with names) or a number; empty ones do
    not count. A column `split` says train, val or test, else a fifth is held out (`held_out=0.2`). `augment` is `none`
    or `flips`.

    `value-maps` has a number, or several, for every pixel: `root/train/{images,maps}` and `root/val/{images,maps}`, matched by
    file stem, maps as `.npy` (H, W) or (C, H, W), or as TIFF or PNG with a number a pixel; NaN does not count.

    `tokens` has a label for every token: `root/train.npz` and `root/val.npz` (or .safetensors) with `inputs` (N, L) and, if there
    are any, `labels` (N, L), -100 where none counts, and `mask` (N, L); without labels it is the token that follows.

    With an identity an image, to be found again: `market1501`, `dukemtmc`, `msmt17`, `cuhk03`, `veri776`, `vehicleid` as
    they are distributed, `identities` of your own in `root/train`, `root/query` and `root/gallery`, and `drawn-figures`, drawn
    in memory.
    `size` is the side or `(height, width)`, `per_identity` how many images of each of its identities a training batch has (0: as
    it comes), `spread` takes them from different cameras; `classes` keeps the first so many identities of training alone.
    `augment` is `none`, `flips`, `standard` or `erasing`.

    With a label for every pixel: `camvid`, `drive`, `ade20k`, `cityscapes` in the layouts in which they are distributed,
    and `pairs`: `root/train/{images,masks}` and `root/val/{images,masks}`, matched by file stem. Some have options:
    `drive(observer=2)`, `pairs(void=0)`. There `size` is the length of the shorter side, or `(height, width)`; `crop` the
    side, or height and width, of training patches, of which an epoch has `patches` from every image; `prepare` is done
    to all images: `none`, or `vessels`. Validation sees whole images.

    `augment` and `views` are for the training split alone. `augment`: `none`, `standard` (random crop and mirroring),
    `contrastive` (a pair of views), and except for folders `reflect` and `cutout`, most with options:
    `standard(mirror=False)`, since digits change their meaning in a mirror; `cutout(length=8)`. For maps: `none`,
    `standard` (scale, rotation, blur, mirroring), `flips`. `views=2` serves every sample twice in a batch, see `Split`;
    not for maps. `classes` keeps the first so many classes in both splits (not for maps), `limit` that many training
    images, picked by `seed`. Images are standardised with the statistics of the whole training split (folders and maps:
    ImageNet's; maps that are prepared: those of all labelled training pixels). Raises DatasetError for what is missing,
    empty or damaged, ConfigError for an option that does not exist, MissingPackageError.
    """
    plain = str(name).partition("(")[0].strip()
    if plain not in LAYOUTS:
        close = closest(plain, LAYOUTS, most=2, cutoff=0.5)
        raise DatasetError(f"no dataset is called {plain!r}.{close} Known: {', '.join(names())}.")
    _, options = LAYOUTS.read(name)
    place = None if root is None else Path(root).expanduser()
    request = Request(
        name, place, download, _size(size), _pair(crop, "crop"), patches, augment, prepare, views, classes, limit, seed,
        workers, per_identity, spread,
    )  # fmt: skip
    _check_counts(request)
    task = task_of(plain)
    if TASKS[task].whole_images:
        _check_maps(request)
    elif task in ("labels", "values"):
        _check_table(request)
    elif task == "re-identification":
        _check_whole(request, "an identity", square=False)
        identity_views.VIEWS.read(request.augment)
    elif task == "tokens":
        _check_tokens(request)
    else:
        _check_classification(request)
    return LAYOUTS[plain](request, **options)


def _check_counts(request: Request) -> None:
    name = request.name
    least = min(request.size) if isinstance(request.size, tuple) else request.size
    if least is not None and least < SMALLEST:
        shown = request.size if isinstance(request.size, int) else list(request.size or ())
        raise DatasetError(f"size={shown} is too small for {name}: images must be at least {SMALLEST} pixels wide.")
    if request.limit is not None and request.limit < 1:
        raise DatasetError(
            f"limit={request.limit} would leave no training image of {name}; use 1 or more, or None for all."
        )
    if request.classes is not None and request.classes < 2:
        raise DatasetError(
            f"classes={request.classes} would leave nothing to tell apart; use 2 or more, or None for all."
        )
    if request.per_identity < 0:
        raise ConfigError(f"per_identity={request.per_identity} must be 0 (as it comes) or more.")
    if (request.per_identity or request.spread) and task_of(request.name) != "re-identification":
        raise ConfigError(
            f"per_identity, spread: not for {request.name}, whose images have no identities. Leave them out."
        )
    if request.workers < 0:
        raise ConfigError(f"workers={request.workers} must be 0 (read in this process) or more.")


def _check_whole(request: Request, has: str, *, square: bool = True) -> None:
    """Raise for what is for labels a pixel alone."""
    given = {"crop": request.crop is not None, "patches": request.patches != 1, "prepare": request.prepare != "none"}
    wrong = [option for option, is_given in given.items() if is_given]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: not for {request.name}, whose images have {has} each. They are for labels a "
            f"pixel: {with_labels_a_pixel()}."
        )
    if square and isinstance(request.size, tuple):
        raise ConfigError(f"size={list(request.size)}: images of {request.name} are square; give one number.")


def _check_table(request: Request) -> None:
    maps = is_map(request.name)
    _check_whole(request, "a map of numbers" if maps else "a row of a table", square=not maps)
    name = request.augment.partition("(")[0].strip()
    if not maps and name not in WHOLE and name in {*folder_split.AUGMENTATIONS, *transforms.AUGMENTATIONS}:
        raise ConfigError(
            f"augment={request.augment!r} shows parts of images, and what {request.name} says of an image need not be true of a "
            f"part. It has {', '.join(WHOLE)}."
        )
    WHOLE.read(request.augment)
    wrong = {
        f"views={request.views}": request.views != 1,
        f"classes={request.classes}": request.classes is not None,
        "download=true": request.download,
    }
    for option, given in wrong.items():
        if given:
            raise ConfigError(f"{option}: not for {request.name}, whose images and targets are your own. Leave it out.")


def _check_tokens(request: Request) -> None:
    """Raise for what is done to images."""
    given = {
        "size": request.size is not None,
        "crop": request.crop is not None,
        "patches": request.patches != 1,
        "prepare": request.prepare != "none",
        "augment": request.augment != "none",
        "views": request.views != 1,
        "classes": request.classes is not None,
        "download": request.download,
        "workers": request.workers != 0,
    }
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"{option}: not for {request.name}, which has sequences of tokens and no images. Leave it out."
            )


def _check_classification(request: Request) -> None:
    _check_whole(request, "one label")
    if request.name == "folder":  # looked at before anything is read; the splits look again
        folder_split.AUGMENTATIONS.read(request.augment)
    else:
        transforms.parse(request.augment)


def _check_maps(request: Request) -> None:
    paired_transforms.parse(request.augment)
    preparation.get(request.prepare)
    if request.views != 1:
        raise ConfigError(
            f"views={request.views}: {request.name} has a label a pixel, and two views would differ in them."
        )
    if request.classes is not None:
        raise ConfigError(
            f"classes={request.classes}: the images of {request.name} show all classes at once; none can be left out."
        )
    if request.patches < 1:
        raise ConfigError(f"patches={request.patches} must be at least 1.")
    if request.crop is not None and min(request.crop) < 1:
        raise ConfigError(f"crop={list(request.crop)} must be at least 1 pixel.")


def _size(value: Size | None) -> int | tuple[int, int] | None:
    return value if isinstance(value, int) else _pair(value, "size")


def _pair(value: Size | None, what: str) -> tuple[int, int] | None:
    if value is None or isinstance(value, int):
        return None if value is None else (value, value)
    if len(value) != 2 or not all(isinstance(side, int) for side in value):
        raise ConfigError(f"{what}={value!r} must be one whole number, or two: [height, width].")
    return value[0], value[1]
