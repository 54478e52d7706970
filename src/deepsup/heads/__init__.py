"""From an activation to class scores: the heads of branches, those of maps in module `dense`.

A head is named by a text (`"pool"`, `"cnds(hidden=256)"`), or is the user's own: a module, or a function of
`(feature, classes)` that returns one. Every head maps the activation, batch first, to scores of shape (N, classes), those
of module `dense` to (N, classes, *places), or to a dict that has them under `"scores"` and more beside them, such as the
`"feature"` that they were made from. Those in `EMBEDDINGS` give something else than scores.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepsup import specs
from deepsup.errors import HeadError
from deepsup.features import Feature, Pick
from deepsup.heads import dense
from deepsup.heads.continuation import continuation
from deepsup.heads.modules import (
    First,
    GateNorm,
    Mean,
    MixedPool,
    Scored,
    chain_shape,
    channels_first,
    initialised,
    places,
    separable_chain,
)
from deepsup.layers.snapshot import untouched

Builder: TypeAlias = Callable[..., nn.Module]
HeadLike: TypeAlias = "str | nn.Module | Builder"


def linear(feature: Feature, classes: int) -> nn.Module:
    """Flatten and one linear layer, the companion classifier of DSN (Lee et al. 2015); needs a fixed input size."""
    width = feature.channels
    for n in feature.size:
        width *= n
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))


def pool(feature: Feature, classes: int) -> nn.Module:
    """Global average pooling and one linear layer; any input size."""
    return nn.Sequential(*_pooled(feature), nn.Linear(feature.channels, classes))


def token(feature: Feature, classes: int, *, take: str = "mean") -> nn.Module:
    """Layer normalisation, the mean of all tokens (or `take="first"`, the class token), one linear layer."""
    if feature.layout not in ("NLC", "NHWC"):
        raise HeadError(
            f"head 'token' reads tokens (N, L, C) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use 'pool' or 'linear', or pass layout= to plan if the layout was guessed wrong."
        )
    if take not in ("mean", "first") or (take == "first" and feature.layout == "NHWC"):
        raise HeadError(f"head 'token' takes 'mean', or 'first' where there is a token axis; asked for {take!r}.")
    gather = First() if take == "first" else Mean(*range(1, len(feature.layout) - 1))
    return nn.Sequential(nn.LayerNorm(feature.channels), gather, nn.Linear(feature.channels, classes))


def cnds(feature: Feature, classes: int, *, width: int = 64, hidden: int = 1024, dropout: float = 0.5) -> nn.Module:
    """The branch of CNDS as released (Wang et al. 2015, train_val.prototxt): average pool 5/2, 1x1 convolution to
    `width` without activation, two fully connected layers of `hidden` with ReLU and dropout, one plain one.

    On maps smaller than 5 the pool covers the whole map. Needs a fixed input size.
    """
    front = channels_first("cnds", feature)
    kernel = [min(5, n) for n in feature.size]
    left = [(n - k) // 2 + 1 for n, k in zip(feature.size, kernel, strict=True)]
    return nn.Sequential(
        *front,
        nn.AvgPool2d((kernel[0], kernel[1]), stride=2),
        nn.Conv2d(feature.channels, width, 1),
        nn.Flatten(),
        nn.Linear(width * left[0] * left[1], hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


def googlenet(
    feature: Feature,
    classes: int,
    *,
    bn: bool = False,
    pooling: str = "4x4",
    width: int = 128,
    hidden: int = 1024,
    dropout: float = 0.7,
) -> nn.Module:
    """The auxiliary classifier of GoogLeNet (Szegedy et al. 2015, sec. 5): average pool, 1x1 convolution to `width`, ReLU,
    a fully connected layer of `hidden`, ReLU, dropout, and one that scores.

    `pooling="4x4"` averages to at most 4x4 whatever the size of the map, as torchvision does; `pooling="5/3"` is the
    paper's (5x5, stride 3), which makes 4x4 of the paper's 14x14. `bn=True` normalises after the convolution, as
    Inception-v3 and torchvision do (+0.4 % there, Szegedy et al. 2016). Needs a fixed input size.
    """
    front = channels_first("googlenet", feature)
    if pooling not in ("4x4", "5/3"):
        raise HeadError(f"head 'googlenet' has no pooling {pooling!r}. Choose '4x4' or '5/3'.")
    rows, columns = feature.size
    if pooling == "4x4":
        height, wide = min(4, rows), min(4, columns)
        pool: nn.Module = nn.AdaptiveAvgPool2d((height, wide))
    elif min(feature.size) < 5:
        raise HeadError(
            f"head 'googlenet' with pooling='5/3' needs maps of at least 5x5; this one is {rows}x{columns}."
        )
    else:
        height, wide = (rows - 5) // 3 + 1, (columns - 5) // 3 + 1
        pool = nn.AvgPool2d(5, stride=3)
    return nn.Sequential(
        *front,
        pool,
        nn.Conv2d(feature.channels, width, 1, bias=not bn),
        *([nn.BatchNorm2d(width, eps=0.001)] if bn else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * height * wide, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


def mixed(feature: Feature, classes: int) -> nn.Module:
    """The internal classifier of Shallow-Deep Networks (Kaya et al. 2019): a learned mix of maximum and average pooling
    to about 4x4 (windows of a quarter of the map), one linear layer. Smaller maps are not pooled. Needs a fixed size.
    """
    front = channels_first("mixed", feature)
    rows, columns = feature.size
    kernel = max(1, rows // 4), max(1, columns // 4)
    pooled = [MixedPool(kernel)] if max(feature.size) >= 4 else []
    width = feature.channels * (rows // kernel[0]) * (columns // kernel[1])
    return nn.Sequential(*front, *pooled, nn.Flatten(), nn.Linear(width, classes))


def bottleneck(feature: Feature, classes: int, *, channels: int | None = None, steps: int | None = None) -> nn.Module:
    """The branch of BYOT (Zhang et al. 2019): 1x1 convolution to a quarter of `channels`, one of 2^steps x 2^steps with
    that stride, 1x1 to `channels`, each with batch normalisation and ReLU; global average pool, one linear layer.

    Gives `{"scores", "feature"}`, the feature being the pooled vector (N, channels), to be held against the deepest one.
    `channels` and `steps` lead to the deepest feature's; unless said, the map is halved until it is below 8, the
    channels doubled each time, which fits ResNets on CIFAR (4x4) and ImageNet (7x7).
    """
    front = channels_first("bottleneck", feature)
    channels, steps = chain_shape("bottleneck", feature, channels, steps)
    middle = max(1, channels // 4)
    body: list[nn.Module] = []
    for a, b, kernel in ((feature.channels, middle, 1), (middle, middle, 2**steps), (middle, channels, 1)):
        body += [nn.Conv2d(a, b, kernel, stride=kernel), nn.BatchNorm2d(b), nn.ReLU()]
    return initialised(Scored(nn.Sequential(*front, *body, Mean(2, 3)), channels, classes))


def sepconv(feature: Feature, classes: int, *, channels: int | None = None, steps: int | None = None) -> nn.Module:
    """The branch of BYOT's journal version (Zhang et al. 2021, as released, without its attention): `steps` times two
    separable 3x3 convolutions that halve the map and widen it to `channels`; global average pool, one linear layer.

    Gives `{"scores", "feature"}` and has the options of `bottleneck`.
    """
    front = channels_first("sepconv", feature)
    channels, steps = chain_shape("sepconv", feature, channels, steps)
    chain = separable_chain(feature.channels, channels, steps)
    return initialised(Scored(nn.Sequential(*front, *chain, Mean(2, 3)), channels, classes))


def embed(
    feature: Feature,
    classes: int,
    *,
    channels: int | None = None,
    steps: int | None = None,
    dim: int | None = 128,
) -> nn.Module:
    """The projection head of Contrastive Deep Supervision (Zhang et al. 2022): the convolutions of `sepconv`, global average
    pool, two fully connected layers with ReLU between them to an embedding (N, dim), which is no class score.

    `dim=None` leaves those two out, as the released code does: the embedding then is (N, channels). What the paper has
    there is from memory; two layers are SimCLR's and SupCon's. The losses normalise embeddings, the head does not.
    """
    front = channels_first("embed", feature)
    channels, steps = chain_shape("embed", feature, channels, steps)
    chain = separable_chain(feature.channels, channels, steps)
    project = [] if dim is None else [nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, dim)]
    return initialised(nn.Sequential(*front, *chain, Mean(2, 3), *project))


def gate(feature: Feature, classes: int, *, outputs: int = 3) -> nn.Module:
    """The gate of ONE (Lan et al. 2018): how much each of `outputs` predictions counts in the ensemble, a sample at a time.

    Global average pool, one linear layer, batch normalisation, ReLU, softmax: (N, outputs), each row sums to 1. Reads
    the last map that the branches share. A batch of one sample, which has no variance, is normalised as in evaluation.
    """
    return nn.Sequential(
        *_pooled(feature), nn.Linear(feature.channels, outputs), GateNorm(outputs), nn.ReLU(), nn.Softmax(1)
    )


def mean(feature: Feature, classes: int) -> nn.Module:
    """Global average pooling alone, without parameters: the vector (N, channels) that others are held against."""
    return nn.Sequential(*_pooled(feature))


def network(
    feature: Feature, classes: int, *, name: str = "timm:resnet18", options: Mapping[str, object] | None = None
) -> nn.Module:
    """A whole network of its own, the peer of Deep Mutual Learning (Zhang et al. 2018); reads images at the layer `input`.

    `name` and `options` are those of `deepsup.networks.build`, for instance `network(name='deepsup:plain-12')`.
    """
    front = channels_first("network", feature)
    # By name, when it is asked for: networks need timm and torchvision, and this file only torch.
    networks = importlib.import_module("deepsup.networks")
    built: nn.Module = networks.build(
        name, classes=classes, in_channels=feature.channels, size=feature.size[0], options=options
    )
    return nn.Sequential(*front, built) if front else built


def _pooled(feature: Feature) -> list[nn.Module]:
    return [Mean(*places(feature))] if feature.size else []


HEADS: dict[str, Callable[..., nn.Module]] = {
    f.__name__: f
    for f in (
        linear,
        pool,
        token,
        cnds,
        googlenet,
        mixed,
        bottleneck,
        sepconv,
        embed,
        gate,
        mean,
        dense.fcn,
        dense.c1,
        dense.conv1x1,
        dense.identity,
        continuation,
        network,
    )
}
AUTO = "auto"
EMBEDDINGS = frozenset({"embed", "gate", "mean"})  # the heads whose output is no class scores
CONTEXT = frozenset({"model", "layer", "main"})  # what `build` gives to builders that ask for it, and no text can


def resolve(text: str, feature: Feature, *, maps: bool = False) -> str:
    """`"auto"` as the head it stands for: `fcn` where the model predicts maps, `token` for tokens, `pool` for everything
    else. Others stay.
    """
    if text != AUTO:
        return text
    if maps:
        return dense.fcn.__name__
    return token.__name__ if feature.layout == "NLC" else pool.__name__


def build(
    head: HeadLike,
    feature: Feature,
    classes: int,
    *,
    model: nn.Module | None = None,
    layer: str | None = None,
    main: Pick = (),
) -> nn.Module:
    """The head as a module: built from its text, returned by the user's function, or the user's module itself.

    Builders that declare keyword-only `model`, `layer` or `main`, a head's or the user's, are given the model that is
    supervised, the layer that the branch reads, and where in the model's output its prediction is (a pick, `()` for a bare
    tensor); they must leave the model as it is. Raises `HeadError` for a head that cannot
    be built, or that needs a model where there is none.
    """
    if isinstance(head, nn.Module):
        return head
    if isinstance(head, str):
        name, options = read(head)
        return _built(head, HEADS[name], feature, classes, options | _context(HEADS[name], head, model, layer, main))
    context = _context(head, show(head), model, layer, main)
    try:
        built = head(feature, classes, **context)
    except TypeError as error:
        raise HeadError(
            f"the head function {show(head)} is called as head(feature, classes) and failed: {error}. `feature` has "
            "channels, size, shape and layout; return an nn.Module."
        ) from error
    if not isinstance(built, nn.Module):
        raise HeadError(f"the head function {show(head)} returned {type(built).__name__}; it must return an nn.Module.")
    return built


def _built(
    text: str, builder: Callable[..., nn.Module], feature: Feature, classes: int, options: Mapping[str, object]
) -> nn.Module:
    try:
        return builder(feature, classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"head {text!r} cannot be built for an activation of {feature} a sample: {error}.") from None


def _context(
    builder: Callable[..., nn.Module], shown: str, model: nn.Module | None, layer: str | None, main: Pick
) -> dict[str, object]:
    """Those of model, layer and main that the builder declares. One with a default is left out where there is none to give."""
    given: dict[str, object] = {"model": model, "layer": layer, "main": main}
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # a callable without a readable signature cannot ask
        return {}
    asked = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in CONTEXT]
    missing = [p.name for p in asked if given[p.name] is None and p.default is p.empty]
    if missing:
        raise HeadError(
            f"head '{shown}' is made from the model that it supervises, and no {' and no '.join(missing)} was given. "
            "Name it in plan(model, ...), or pass model= and layer= to heads.build."
        )
    return {p.name: given[p.name] for p in asked if given[p.name] is not None}


def read(text: str) -> tuple[str, dict[str, object]]:
    """`"cnds(hidden=256)"` as name and options; nothing is evaluated as code. Raises `HeadError`."""
    return specs.read(text, HEADS, "head", HeadError, hidden=CONTEXT)


def show(head: HeadLike) -> str:
    """A head as a plan prints it: its text, or `custom:` and the name of the user's module or function."""
    if isinstance(head, str):
        return head
    name = type(head).__name__ if isinstance(head, nn.Module) else getattr(head, "__name__", type(head).__name__)
    return f"custom:{name}"


def zero(head: nn.Module, feature: Feature) -> nn.Module:
    """The head itself, its last layer set to zero: at first it scores all classes alike, so that the loss of its scores
    sends the trunk no gradient.

    Zero initialisation of auxiliary heads: LION-DG (arXiv 2601.02105). The last layer is the linear or convolutional one
    that runs last on an activation of `feature`, wherever it was registered. Raises `HeadError` where there is none.
    """
    layers = _ran(head, feature)
    if not layers:
        raise HeadError(
            f"the head {show(head)} has no linear or convolutional layer whose weights could start at zero. Leave it out "
            "of zero_heads, or set its last layer to zero yourself."
        )
    with torch.no_grad():
        for parameter in layers[-1].parameters(recurse=False):
            parameter.zero_()
    return head


def _ran(head: nn.Module, feature: Feature) -> list[nn.Module]:
    """The linear and convolutional layers of a head as they run, from one run on an empty activation."""
    found: list[nn.Module] = []
    p = next(head.parameters(), torch.zeros(()))
    with untouched(head), torch.no_grad():  # takes the hooks away again, too
        for layer in head.modules():
            if isinstance(layer, (nn.Linear, _ConvNd)):
                layer.register_forward_hook(lambda module, args, output: found.append(module))
        head(torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device))
    return found


def squared_norm(head: nn.Module) -> Tensor:
    """The sum of squares of a head's weights (parameters of 2 or more dimensions; no biases): |w|^2 of DSN."""
    weights = [p if p.dtype == torch.float64 else p.float() for p in head.parameters() if p.ndim >= 2]
    squares = [w.square().sum() for w in weights]
    return torch.stack(squares).sum() if squares else torch.zeros(())
