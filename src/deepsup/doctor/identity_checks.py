"""Traps of identities: too few images, what a search cannot find, images made too small, and what is searched by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepsup.doctor.findings import ERROR, Finding, some, warning
from deepsup.layers.dry_run import Trace
from deepsup.layers.last_linear import LastLinear
from deepsup.specs import counted

LONE_IDENTITIES = warning(
    "lone-identities",
    why="A loss on features compares images of one identity: of these there are none, and they are only pushed away",
    fix="Add images of them, or take them out",
)
REPEATED_IMAGES = warning(
    "repeated-images",
    why="They are filled up with the same images again, which are near each other without being learned",
    fix="Choose a smaller data.per_identity",
)
NO_PAIRS = warning(
    "no-pairs",
    why="A loss on features compares images of one identity within a batch: where an image is alone, it counts for nothing",
    fix="Draw batches of identities, data.per_identity=4 with data.batch_size=64",
)
ONE_CAMERA = warning(
    "one-camera",
    why="What is searched for are matches from other cameras, and nothing shows what another camera makes of somebody",
    fix="Add images of other cameras; where names give the camera wrongly, set a pattern of your own",
)
NO_MATCH = warning(
    "no-match",
    why="They count for nothing: scores are those of the other queries",
    fix="Add images of them to the gallery, from another camera, or take the queries out",
)
SHARED_IDENTITIES = warning(
    "shared-identities",
    why="The score is of people that the net has learned by heart, not of new ones",
    fix="Take them out of train/; where two people have one number, number them apart",
)
SQUARED_IMAGES = warning(
    "squared-images",
    why="Upright images that are made square lose half of their height, or are computed with twice the width for nothing",
    fix="Set data.size=[256, 128], or [128, 64]",
)
MIRRORED_ONLY = warning(
    "mirrored-only",
    why="A few images of each identity are learned by heart: with random erasing the usual recipe gains 4 points of mAP on "
    "Market-1501 (Luo et al. 2019)",
    fix="Set data.augment=erasing",
)
LAST_STRIDE = warning(
    "last-stride",
    why="Little is left of the shape for the features to say: with a last stride of 1 the usual recipe gains 1.4 points of mAP "
    "on Market-1501 (Luo et al. 2019), for more time in the last stage",
    fix="Set the stride of the last stage to 1, or choose larger images",
)
CLASS_SIZED_EMBEDDING = warning(
    "class-sized-embedding",
    why="A search is by what enters the last linear layer: if those are scores already, it is by scores, which tell people that "
    "nobody trained on apart less well",
    fix="If a layer before makes the scores, name it (embedding.layer, embedding= in Python), or end the model with it; if it is "
    "an embedding, leave it",
)
SHIFTED_NECK = warning(
    "shifted-neck",
    why="A loss on features and the classifier pull one another less where the neck does not shift what it normalises: the usual "
    "recipe has no shift there (Luo et al. 2019)",
    fix="Set the bias to 0 and freeze it, model.get_submodule(NECK).bias.requires_grad_(False), or take deepsup:reid",
)
_MANY = 0.25  # of the identities, from which on too few images are said
_MOST = 0.9  # of the identities on one camera
_PAIRED = 0.5  # of the samples of a shuffled batch
_UPRIGHT = 1.3  # height over width
_NARROW = 4  # places across


@dataclass(frozen=True)
class Drawn:
    """What training sees of identities: classes and cameras (N,), how they are drawn, and whether a loss compares features."""

    labels: Tensor
    cameras: Tensor | None
    per_identity: int
    batch_size: int
    compared: bool
    augment: str = "none"
    served: tuple[int, int] = (256, 128)
    stored: tuple[int, int] | None = None  # height and width of a usual file


def drawing(seen: Drawn) -> Iterator[Finding]:
    """Identities with too few images, or too few in a batch, for losses that compare them; images in the wrong shape."""
    images = torch.bincount(seen.labels)
    of = counted(len(images), "identity", "identities")
    few, lone = int((images < seen.per_identity).sum()), int((images < 2).sum())
    if seen.compared:
        yield from _paired(seen, images)
        if lone:
            yield LONE_IDENTITIES.found("training data", f"{lone} of {of} have one image")
    if few > _MANY * len(images):
        what = (
            f"{few} of {of} have fewer than the {seen.per_identity} images that a batch has of each (data.per_identity)"
        )
        yield REPEATED_IMAGES.found("training data", what)
    if seen.cameras is not None:
        each = torch.unique(torch.stack([seen.labels, seen.cameras], 1), dim=0)[:, 0].bincount()
        alone = int((each == 1).sum())
        if alone > _MOST * len(images):
            yield ONE_CAMERA.found("training data", f"{alone} of {of} are on one camera alone")
    if seen.augment.startswith("flips"):
        yield MIRRORED_ONLY.found("data.augment", "images are mirrored, and nothing else")
    if seen.stored and seen.stored[0] > _UPRIGHT * seen.stored[1] and seen.served[0] == seen.served[1]:
        what = f"images of {seen.stored[0]}x{seen.stored[1]} are served as {seen.served[0]}x{seen.served[1]}"
        yield SQUARED_IMAGES.found("data.size", what)


def _paired(seen: Drawn, images: Tensor) -> Iterator[Finding]:
    """Batches in which an image has no other of its identity beside it."""
    if seen.per_identity == 1:
        what = "a batch has one image of each identity (data.per_identity=1), so that nothing is compared"
        yield NO_PAIRS.found("data.per_identity", what, severity=ERROR)
    if seen.per_identity:
        return
    total = int(images.sum())
    others = (images - 1).clamp(min=0).double() / max(1, total - 1)
    share = float((images * (1 - (1 - others) ** (seen.batch_size - 1))).sum() / total)
    if share < _PAIRED:
        what = (
            f"in a shuffled batch of {seen.batch_size} about {share:.0%} of the images have another of their identity"
        )
        yield NO_PAIRS.found("data.per_identity", what)


def searching(without: Sequence[str], queries: int, shared: Sequence[str]) -> Iterator[Finding]:
    """Queries that find nothing, by the names of their files, and identities of the test that are trained on."""
    if without:
        what = f"{len(without)} of {counted(queries, 'query', 'queries')} have no match in the gallery: {some(list(without))}"
        yield NO_MATCH.found("validation data", what)
    if shared:
        who = counted(len(shared), "identity is", "identities are")
        yield SHARED_IDENTITIES.found("validation data", f"{who} in training, too: {some(list(shared))}")


def shrinking(seen: Trace) -> Iterator[Finding]:
    """Last feature maps in which hardly a place is left across."""
    height, width = seen.input_shape[-2:]
    maps = [layer.stride for layer in seen.layers.values() if layer.feature and layer.leads_to_output and layer.stride]
    stride = max((each for each in maps if 2 * each <= height), default=1)
    if stride >= 32 and width / stride <= _NARROW:  # smaller nets are small on purpose
        what = f"images of {height}x{width} end as a map of {height // stride}x{width // stride}"
        yield LAST_STRIDE.found("model", what)


def embedding(model: nn.Module, found: LastLinear, *, compared: bool) -> Iterator[Finding]:
    """What a search would be by: numbers that may be scores; a neck that shifts them while a loss compares features."""
    weight = model.get_submodule(found.layer).weight
    if isinstance(weight, Tensor) and weight.ndim > 1 and weight.shape[0] == weight.shape[1]:
        what = f"what enters '{found.layer}' has {weight.shape[1]} numbers, as many as there are identities"
        yield CLASS_SIZED_EMBEDDING.found("model", what)
    shift = model.get_submodule(found.neck).bias if found.neck and compared else None
    if isinstance(shift, Tensor) and shift.requires_grad:
        yield SHIFTED_NECK.found("model", f"the neck '{found.neck}' before '{found.layer}' has a bias that learns")
