"""Who is on new images: what a trained run finds in a gallery, or the embeddings to search with elsewhere.

for said in find("runs/market", ["query.jpg"], gallery="photos/"):
    said.files          # matches.csv, query.matches.png
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepsup import ownership
from deepsup.datasets.identity_names import CAMERA, USUAL, pattern_of
from deepsup.datasets.image_listing import listed
from deepsup.datasets.layouts import LAYOUTS
from deepsup.errors import DatasetError
from deepsup.evaluation.ranked_lists import TOP, Ranked, first
from deepsup.evaluation.search import extractor
from deepsup.tasks import match_pictures
from deepsup.tasks.match_pictures import Found
from deepsup.tasks.task import Said

MATCHES, TABLE, VECTORS = "matches.csv", "embeddings.csv", "embeddings.safetensors"
_AT_ONCE, _TOLD = 32, 3


class Named(NamedTuple):
    """An image file, as tables call it, and who and which camera its name says, empty where it does not."""

    path: Path
    name: str
    identity: str = ""
    camera: str = ""


def find(
    predictor: Any,
    queries: Mapping[str, Path],
    out: Path,
    *,
    gallery: Path | None,
    branches: bool,
    top: int = TOP,
    rerank: bool = False,
) -> Iterator[Said]:
    """Search a folder and all below it for each image, or without one write the images' embeddings.

    `out` receives `matches.csv`, a row a query, output and rank, and NAME.matches.png; or `embeddings.safetensors`, (N, D) by
    output, and `embeddings.csv`, whose rows are theirs. Who it is say names of files; where no name in the gallery does and
    all of it lies in folders, these are called like people. A query is not found by itself, where it lies in the gallery, too.
    Raises `DatasetError` for a gallery without images and one that cannot be read, `ConfigError` for files of somebody else.
    """
    pattern = str(LAYOUTS.read(predictor.config.data.name)[1].get("pattern") or USUAL)
    named = partial(_named, pattern=pattern)
    asked = [named(path, str(path)) for path in queries.values()]
    if gallery is None:
        ownership.refuse_foreign(out, [VECTORS, TABLE])
        yield from _embedded(predictor, asked, out, branches=branches)
        return
    pictures = [f"{name}.matches.png" for name in queries]
    ownership.refuse_foreign(out, [MATCHES, *pictures])
    among = [named(path, path.relative_to(gallery).as_posix()) for path in _files(gallery)]
    asked, among = _by_folder(asked, among)
    vectors = [_vectors(predictor, images, branches=branches) for images in (asked, among)]
    ranked = {name: first(vectors[0][name], vectors[1][name], top=top + 1, rerank=rerank) for name in vectors[0]}
    found = [
        {name: list(_others(query, among, lists[i]))[:top] for name, lists in ranked.items()}
        for i, query in enumerate(asked)
    ]
    rows = [["query", "output", "rank", "image", "distance", "identity", "camera"]]
    rows += [
        [query.name, output, str(rank), one.name, f"{far:.6f}", one.identity, one.camera]
        for query, matches in zip(asked, found, strict=True)
        for output, ranking in matches.items()
        for rank, (one, far) in enumerate(ranking, 1)
    ]
    ownership.write(out, MATCHES, partial(_save_table, rows))
    for query, matches, picture in zip(asked, found, pictures, strict=True):
        ownership.write(out, picture, partial(_draw, predictor, query, matches))
        told = {name: ", ".join(f"{one.name} {far:.3f}" for one, far in m[:_TOLD]) for name, m in matches.items()}
        yield Said(query.path, (out / MATCHES, out / picture), {}, told)


def _files(gallery: Path) -> Sequence[Path]:
    files = listed(gallery, below=True).files if gallery.is_dir() else ()
    if not files:
        raise DatasetError(f"there is no image (png, jpg, tif, ...) in {gallery}. Name the folder that is searched.")
    return files


def _named(path: Path, name: str, *, pattern: str) -> Named:
    match = pattern_of(pattern).match(path.name)
    said = match.groupdict() if match else {}
    return Named(path, name, said.get("identity") or "", said.get("camera") or "")


def _by_folder(asked: list[Named], among: list[Named]) -> tuple[list[Named], list[Named]]:
    """Both with identities by folder, if the gallery is a folder an identity; a query's folder has to be called like one."""
    if any(one.identity or "/" not in one.name for one in among):
        return asked, among
    people = {one.name.partition("/")[0] for one in among}
    told = [one._replace(identity=one.name.partition("/")[0], camera=one.camera or _camera(one)) for one in among]
    folders = [one.path.absolute().parent.name for one in asked]
    known = [
        one._replace(identity=folder, camera=one.camera or _camera(one))
        if folder in people and not one.identity
        else one
        for one, folder in zip(asked, folders, strict=True)
    ]
    return known, told


def _camera(one: Named) -> str:
    match = pattern_of(CAMERA).match(one.path.name)
    return match["camera"] if match else ""


def _vectors(predictor: Any, images: Sequence[Named], *, branches: bool) -> dict[str, Tensor]:
    """Embeddings (N, D) by output, on the CPU; memory is these and a few images."""
    embed = extractor(predictor.net, predictor.config.embedding.of_main)
    parts: dict[str, list[Tensor]] = {}
    for at in range(0, len(images), _AT_ONCE):
        batch = [predictor.inputs.read(one.path, predictor.config.data)[0] for one in images[at : at + _AT_ONCE]]
        with torch.no_grad():
            for name, found in embed(torch.cat(batch).to(predictor.device)).items():
                if branches or name == "main":
                    parts.setdefault(name, []).append(found.cpu())
    return {name: torch.cat(own) for name, own in parts.items()}


def _embedded(predictor: Any, images: Sequence[Named], out: Path, *, branches: bool) -> Iterator[Said]:
    vectors = _vectors(predictor, images, branches=branches)
    rows = [["row", "image", "identity", "camera"]]
    rows += [[str(row), one.name, one.identity, one.camera] for row, one in enumerate(images)]
    ownership.write(out, VECTORS, partial(save_file, vectors))
    ownership.write(out, TABLE, partial(_save_table, rows))
    told = {name: f"{found.shape[1]} numbers" for name, found in vectors.items()}
    for one in images:
        yield Said(one.path, (out / VECTORS, out / TABLE), {}, told)


def _others(query: Named, among: Sequence[Named], ranked: Ranked) -> Iterator[tuple[Named, float]]:
    """What was found but for the very file that was asked with."""
    own = query.path.resolve()
    for column, far in zip(ranked.columns, ranked.distances, strict=True):
        if among[column].path.resolve() != own:
            yield among[column], far


def _draw(predictor: Any, query: Named, found: Mapping[str, Sequence[tuple[Named, float]]], place: Path) -> None:
    def pixels(one: Named) -> Any:
        return predictor.inputs.read(one.path, predictor.config.data)[1].numpy()

    def right(one: Named) -> bool | None:
        return one.identity == query.identity if one.identity and query.identity else None

    rows = {name: [Found(pixels(one), far, right(one)) for one, far in matches] for name, matches in found.items()}
    match_pictures.picture(pixels(query), rows).save(place, format="PNG")


def _save_table(rows: Iterable[Sequence[Any]], place: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    place.write_text(text.getvalue(), "utf-8", newline="")
