"""What a head costs: its output, parameters, FLOPs and activation memory, from one run on an empty activation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepsup.errors import DeepsupError, HeadError
from deepsup.features import Feature, Pick
from deepsup.heads.build_head import HeadLike, build, read, show
from deepsup.heads.head_weights import scoring_layer
from deepsup.heads.lent_layers import Lent, lent, tried
from deepsup.layers.dry_run import trace
from deepsup.layers.snapshot import untouched
from deepsup.predictions import BY_SHAPE

Seen = TypeVar("Seen")


class Price(NamedTuple):
    """Of one head: the shape of its scores (for two samples), and what it costs in training."""

    shape: tuple[int, ...]
    params: int
    flops: int  # forward, per sample; multiplications and additions counted separately
    activation_bytes: int  # kept for backward, per sample
    extras: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # shapes of what a head gives out beside its scores
    borrowed: bool = False  # the layer that makes its scores is the model's own
    axis: int | None = (
        None  # of the channels of a user's own that scores places, by its last weighted layer; None: nothing tells
    )


def price(
    name: str,
    head: HeadLike,
    feature: Feature,
    classes: int,
    *,
    model: nn.Module | None = None,
    layer: str | None = None,
    main: Pick = (),
    made_for: Feature | None = None,
) -> Price:
    """Run the head of branch `name` once on an empty activation; nothing of it, nor the random state, is changed.

    A head named by a text is built on the meta device, so that large ones cost neither time nor memory; one that cannot
    be (some networks read numbers back as they are built) is built on the CPU. `model`, `layer` and `main` are for
    heads made from the model; what the model lends a head (`lent_layers`) is no new parameter. `made_for` is the
    activation that the head is made for, if it is another. Raises `HeadError` for a head that cannot be built, cannot read
    `feature`, or returns neither one tensor nor a dict of tensors with `scores`.
    """

    def look(module: nn.Module, device: str) -> Price:
        return _price(name, head, feature, module, device=device, model=model)

    return looked_at(head, made_for or feature, classes, look, model=model, layer=layer, main=main)


def looked_at(
    head: HeadLike, feature: Feature, classes: int, look: Callable[[nn.Module, str], Seen], **context: Any
) -> Seen:
    """What `look` makes of a head built for that alone, and its device: "meta" for a text, unless that fails, else "cpu"."""

    def on(device: str) -> Seen:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            module = build(head, feature, classes, **context)
        return look(module, device)

    if isinstance(head, str):
        read(head)  # what is wrong with the text is said at once
        with suppress(HeadError, NotImplementedError):
            return on("meta")
    return on("cpu")


def _price(
    name: str, head: HeadLike, feature: Feature, module: nn.Module, *, device: str, model: nn.Module | None
) -> Price:
    if any(is_lazy(p) for p in module.parameters()):
        raise HeadError(
            f"the head of branch '{name}' has lazy parameters without a shape. Give its layers their sizes."
        )
    module = tried(module, model)
    theirs = lent(module, model)
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, see layers/dry_run.py

    p = next(module.parameters(), torch.zeros((), device=device))
    x = torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device)
    version = x._version
    with untouched(module), torch.no_grad(), FlopCounterMode(display=False) as counter, _sizes(module) as sizes:
        try:
            out = module(x)
        except Exception as error:
            raise HeadError(
                f"the head of branch '{name}' ({show(head)}) cannot read an activation of {feature} a sample "
                f"in layout {feature.layout}: {type(error).__name__}: {error}"
            ) from error
    if x._version != version:
        raise HeadError(
            f"the head of branch '{name}' ({show(head)}) overwrites the activation that it is given in place, and with it "
            "what the model and other branches read. Its first layer must work out of place: inplace=False."
        )
    scores, *extras = _outputs(name, out).items()
    return Price(
        tuple(scores[1].shape),
        sum(q.numel() for key, q in module.named_parameters() if not theirs.has(key)),
        counter.get_total_flops() // 2,
        sum(sizes) // 2,
        {key: tuple(tensor.shape) for key, tensor in extras},
        _borrowed(module, theirs, feature),
        None if isinstance(head, str) else _axis(module, x, out),
    )


def _axis(module: nn.Module, x: Tensor, out: object) -> int | None:
    """The axis of the channels by the layers of a head, which see numbers by chance: of zeros all places say the same."""
    if (scores := _outputs("", out)["scores"]).ndim < 3:
        return None
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        seen = trace(
            nn.Sequential(module), drawn, main=() if isinstance(out, Tensor) else ("scores",), training=module.training
        )
    except DeepsupError:
        return None
    return None if seen.axis_source == BY_SHAPE or seen.output[seen.main] != scores.shape else seen.axis


def _borrowed(module: nn.Module, theirs: Lent, feature: Feature) -> bool:
    if not any(True for _ in theirs.all_tensors()):
        return False
    path = scoring_layer(module, feature)
    return path is not None and theirs.touches(path)


def _outputs(name: str, out: object) -> dict[str, Tensor]:
    """What a head gave out by name, the scores first."""
    if isinstance(out, Tensor):
        return {"scores": out}
    if not isinstance(out, dict):
        raise HeadError(f"the head of branch '{name}' returned {type(out).__name__}; it must return one tensor.")
    if "scores" not in out or not all(isinstance(v, Tensor) for v in out.values()):
        found = ", ".join(f"{k!r}: {type(v).__name__}" for k, v in out.items()) or "nothing"
        raise HeadError(
            f"the head of branch '{name}' returned a dict of {found}; it must hold tensors, the scores under 'scores'."
        )
    return {"scores": out["scores"], **out}


@contextmanager
def _sizes(module: nn.Module) -> Iterator[list[int]]:
    """The bytes of what each leaf of `module` gives out while this is open."""
    sizes: list[int] = []
    leaves = [m for m in module.modules() if not any(m.children()) and not isinstance(m, torch.jit.ScriptModule)]
    handles = [m.register_forward_hook(lambda m, a, out: sizes.append(_bytes(out))) for m in leaves]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _bytes(out: object) -> int:
    tensors = out.values() if isinstance(out, dict) else [out]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def aligned(lines: Sequence[Sequence[str]], *, right: Collection[int]) -> list[str]:
    """The lines of a table, its columns as wide as they need; those in `right` are of numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return [f"  {'  '.join(line)}".rstrip() for line in padded]


def millions(count: int) -> str:
    """A count of parameters or FLOPs to three digits: `11.2M`, `650`."""
    if count < 1000:
        return str(count)
    mantissa, exponent = f"{count:.2e}".split("e")  # rounded first, so that 999,999 becomes 1M and not 1000k
    thousands = min(3, int(exponent) // 3)
    return f"{float(mantissa) * 10 ** (int(exponent) - 3 * thousands):g}{' kMG'[thousands]}"
