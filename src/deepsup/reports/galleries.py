"""What each output sees: the label maps that finished runs left in RUN/maps, as pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepsup import documents, label_maps
from deepsup.errors import DatasetError, DeepsupError
from deepsup.reports import depths, metrics
from deepsup.reports.formats import known
from deepsup.reports.summary import Evidence
from deepsup.specs import require
from deepsup.training.records import Run

FOLDER: Final = "maps"
FILE: Final = "maps.json"
BUDGET: Final = 1_500_000
"""Characters that all pictures of a page may take; they are made smaller until they fit."""

_SAMPLES: Final = 4
_ARMS: Final = 6
_WIDTH: Final = 360  # pixels at most, on the longer side; drawn about half as wide
_NARROWEST: Final = 96
_CLASSES: Final = 30  # up to which all are named, whether they occur or not
_COLOURS: Final = 128
_AROUND: Final = 40  # a grey that an error's edge is mixed with where a map is made smaller


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps.json of a run: what its classes are called and look like, and the files of its samples."""

    folder: Path
    classes: tuple[str, ...]
    palette: tuple[label_maps.Colour, ...]
    ignore: int
    metric: str
    samples: tuple[Mapping[str, Any], ...]


@dataclass(slots=True)
class Picture:
    """One picture of the page: `array` (H, W, 3) until `source` is made of it, what it is called, and its words."""

    label: str
    words: str
    array: Any = field(repr=False)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One output of one sample: its name, its score as text, and its pictures from top to bottom."""

    name: str
    score: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with what every output made of it; the first column is the image and its labels."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The samples of one run, or of the first seeds of the arms of one group; `problems` say what could not be shown."""

    title: str
    binary: bool
    metric: str
    samples: tuple[Sample, ...]
    classes: tuple[tuple[str, str], ...]  # name and colour
    problems: tuple[str, ...]


def galleries(found: Evidence) -> list[Gallery]:
    """Return what there is to look at: all outputs of a single run, or the main outputs of arms side by side.

    Empty where no run is about label maps. A maps.json that is missing or damaged becomes a sentence in `problems`.
    """
    if not any(_maps_of(run) for run in found.runs):
        return []
    groups = [""] if found.single else list(found.groups)
    made = [_gallery(found, title, most=max(1, _SAMPLES // len(groups))) for title in groups[:_SAMPLES]]
    _embed([p for g in made for sample in g.samples for column in sample.columns for p in column.pictures])
    return [gallery for gallery in made if gallery.samples or gallery.problems]


def read(run: Run) -> Maps:
    """Read the maps.json of a run. Raises `DatasetError` where it is missing or not what it should be."""
    file = run.path / FOLDER / FILE
    if not file.is_file():
        raise DatasetError(f"{run.name} has no {FOLDER}/{FILE}: it is written when a run ends.")
    try:
        told = documents.parsed(file.read_bytes())
        palette = tuple((int(r), int(g), int(b)) for r, g, b in told["palette"])
        return Maps(
            folder=file.parent,
            classes=tuple(map(str, told["classes"])),
            palette=palette,
            ignore=int(told.get("ignore", label_maps.IGNORE)),
            metric=str(told.get("metric") or run.metric),
            samples=tuple({**sample, "outputs": dict(sample["outputs"])} for sample in told["samples"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"{FOLDER}/{FILE} of {run.name} is damaged ({what}). Run it again to have its maps."
        ) from error


def _maps_of(run: Run) -> bool:
    """Whether a run is about label maps."""
    scores = run.epochs[-1].scores if run.epochs else {}
    return (run.path / FOLDER).is_dir() or any("mean IoU" in own for own in scores.values())


def _gallery(found: Evidence, title: str, *, most: int) -> Gallery:
    """Return the first samples of a run, or of one run of each arm of a group, as many as there is room for."""
    problems: list[str] = []
    maps: dict[str, tuple[Run, Maps]] = {}
    seen = {"": found.runs} if found.single else found.ordered(title)
    for arm, (run, *_) in list(seen.items())[:_ARMS]:
        try:
            maps[arm] = run, read(run)
        except DeepsupError as error:
            problems.append(str(error))
    if not maps:
        return Gallery(title, binary=False, metric=found.metric, samples=(), classes=(), problems=tuple(problems))
    first = next(iter(maps.values()))[1]
    samples = []
    for stated in first.samples[:most]:
        try:
            columns = _outputs(*maps[""], stated) if found.single else _mains(maps, stated, problems)
            samples.append(Sample(str(stated.get("name")), (_given(first, stated), *columns)))
        except (DeepsupError, KeyError, TypeError) as error:
            problems.append(_left_out(str(stated.get("name")), error))
    return Gallery(
        title,
        binary=len(first.classes) == 2,
        metric=first.metric,
        samples=tuple(samples),
        classes=_named_classes(first, first.samples[:most]),
        problems=tuple(dict.fromkeys(problems)),
    )


def _given(maps: Maps, sample: Mapping[str, Any]) -> Column:
    """Return the image and its labels laid over it."""
    image, truth = _image(maps, sample), _labels(maps, sample["truth"])
    name = sample.get("name")
    shown = label_maps.overlay(image, truth, maps.palette, alpha=_alpha(maps), ignore=maps.ignore)
    shown = label_maps.hatched(shown, truth, ignore=maps.ignore)
    pictures = [Picture("image", f"{name}: the image", image), Picture("truth", f"{name}: the labels", shown)]
    return Column("given", "", tuple(_shrunk(pictures)))


def _outputs(run: Run, maps: Maps, sample: Mapping[str, Any]) -> Iterator[Column]:
    """Yield a column for each output: the branches by depth, then main, then all of them together."""
    for name in depths.in_order(sample["outputs"], run.plan):
        yield _column(maps, sample, output=name, name=name)


def _mains(maps: Mapping[str, tuple[Run, Maps]], stated: Mapping[str, Any], problems: list[str]) -> Iterator[Column]:
    """Yield a column for each arm: its main output on the same image."""
    for arm, (run, own) in maps.items():
        sample = next((sample for sample in own.samples if sample.get("image") == stated.get("image")), None)
        if sample is None:
            problems.append(f"{run.name} has no map of {stated.get('name')}.")
            continue
        try:
            yield _column(own, sample, output="main", name=arm)
        except (DeepsupError, KeyError, TypeError) as error:
            problems.append(_left_out(f"{stated.get('name')} of {run.name}", error))


def _column(maps: Maps, sample: Mapping[str, Any], *, output: str, name: str) -> Column:
    told = sample["outputs"][output]
    image, truth = _image(maps, sample), _labels(maps, sample["truth"])
    said = _labels(maps, told["file"])
    words = f"{sample.get('name')}, {name}"
    shown = label_maps.overlay(image, said, maps.palette, alpha=_alpha(maps))
    errors = label_maps.error_map(said, truth, image, classes=len(maps.classes), ignore=maps.ignore)
    pictures = [Picture("prediction", f"{words}: what it predicts", shown)]
    pictures.append(Picture("errors", f"{words}: where it is right and wrong", errors))
    if told.get("probability"):
        grey = label_maps.read_picture(_inside(maps, told["probability"]))
        pictures.append(Picture("probability", f"{words}: how sure it is", grey))
    for picture in pictures:  # what it says where nothing counts is not asked
        picture.array = label_maps.hatched(picture.array, truth, ignore=maps.ignore)
    score = told.get("score")
    text = f"{metrics.score(score, maps.metric)}{metrics.unit(maps.metric)}" if known(score) else ""
    return Column(name, text, tuple(_shrunk(pictures)))


def _left_out(what: str, error: Exception) -> str:
    reason = f"{FILE} names no {error}." if isinstance(error, KeyError) else str(error)
    return f"{what} is left out: {reason}"


def _alpha(maps: Maps) -> float:
    """How much of an overlay is colour: all of it where one thing is looked for, else the image shines through."""
    return 1.0 if len(maps.classes) == 2 else 0.7


def _image(maps: Maps, sample: Mapping[str, Any]) -> Any:
    return label_maps.read_picture(_inside(maps, sample["image"]))


def _labels(maps: Maps, name: str) -> Any:
    return label_maps.read_labels(_inside(maps, name))


def _inside(maps: Maps, name: str) -> Path:
    """Return a file of the folder; a name cannot lead out of it."""
    return maps.folder / Path(str(name)).name


def _named_classes(maps: Maps, samples: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return the classes with their colours; of very many only those that occur in the truth that is shown."""
    shown = set(range(len(maps.classes)))
    if len(shown) > _CLASSES:
        shown = set()
        for sample in samples:
            try:
                shown |= set(_needed("numpy").unique(_labels(maps, sample["truth"])).tolist())
            except (DeepsupError, KeyError):
                continue
    pairs = enumerate(zip(maps.classes, maps.palette, strict=False))
    return tuple((name, "#{:02x}{:02x}{:02x}".format(*colour)) for i, (name, colour) in pairs if i in shown)


def _shrunk(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """Make pictures no larger than they will ever be shown, so that few of them are large at a time."""
    for picture in pictures:
        picture.array = _needed("numpy").asarray(_resized(picture.array, _WIDTH))
    return pictures


def _embed(pictures: Sequence[Picture]) -> None:
    """Turn the arrays into PNG inside `data:` addresses, as large as the budget allows."""
    width = float(_WIDTH)
    while True:
        for picture in pictures:
            picture.source = _png(picture.array, round(width), errors=picture.label == "errors")
        if sum(len(picture.source) for picture in pictures) <= BUDGET or width <= _NARROWEST:
            return
        width *= 0.8


def _resized(array: Any, longest: int) -> Any:
    image = _needed("PIL.Image")
    picture = image.fromarray(array)
    factor = longest / max(picture.size)
    if factor >= 1:
        return picture
    size = [max(1, round(factor * side)) for side in picture.size]
    return picture.resize(size, image.Resampling.BOX)


def _png(array: Any, longest: int, *, errors: bool) -> str:
    """Return a picture of few colours as a `data:` address; `errors` in the colours that an error map is drawn with."""
    small = _resized(array, longest)
    image = _needed("PIL.Image")
    if errors:
        small = small.quantize(palette=_of_errors(), dither=0)
    else:
        small = small.quantize(_COLOURS, method=image.Quantize.MEDIANCUT, dither=0)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _of_errors() -> Any:
    """Return the palette of error maps: dark greys, and the legend's colours pure and mixed with the grey around them."""
    greys = [(level, level, level) for level in range(0, 104, 4)]
    shares = ((share, tuple(colour)) for colour in label_maps.LEGEND.values() for share in (1.0, 0.75, 0.5, 0.25))
    mixed = [tuple(round(share * part + (1 - share) * _AROUND) for part in colour) for share, colour in shares]
    palette = _needed("PIL.Image").new("P", (1, 1))
    palette.putpalette([part for colour in dict.fromkeys([*greys, *mixed]) for part in colour])
    return palette


def _needed(module: str) -> Any:
    return require(module, purpose="a gallery", install="deepsup[report]")
