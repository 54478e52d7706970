"""What a head costs: its output, parameters, FLOPs and activation memory, from one run on an empty activation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from . import heads
from .errors import HeadError
from .features import Feature
from .traces import untouched


class Price(NamedTuple):
    """Of one head: the shape of its output (for two samples), and what it costs in training."""

    shape: tuple[int, ...]
    params: int
    flops: int  # forward, per sample; multiplications and additions counted separately
    activation_bytes: int  # kept for backward, per sample


def price(name: str, head: heads.HeadLike, feature: Feature, classes: int) -> Price:
    """Run the head of branch `name` once on an empty activation; nothing of it, nor the random state, is changed.

    A head named by a text is built on the meta device, so that large ones cost neither time nor memory. Raises
    `HeadError` for a head that cannot be built, cannot read `feature`, or does not return one tensor.
    """
    device = "meta" if isinstance(head, str) else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(device):
        module = heads.build(head, feature, classes)
    if any(is_lazy(p) for p in module.parameters()):
        raise HeadError(
            f"the head of branch '{name}' has lazy parameters without a shape. Give its layers their sizes."
        )
    p = next(module.parameters(), None)
    x = torch.zeros(
        2, *feature.shape, dtype=p.dtype if p is not None else None, device=p.device if p is not None else device
    )
    version = x._version
    sizes: list[int] = []
    leaves = [m for m in module.modules() if not any(m.children())]
    with untouched(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        handles = [m.register_forward_hook(lambda m, a, out: sizes.append(_bytes(out))) for m in leaves]
        try:
            out = module(x)
        except Exception as error:
            raise HeadError(
                f"the head of branch '{name}' ({heads.show(head)}) cannot read an activation of {feature} a sample "
                f"in layout {feature.layout}: {type(error).__name__}: {error}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    if not isinstance(out, Tensor):
        raise HeadError(f"the head of branch '{name}' returned {type(out).__name__}; it must return one tensor.")
    if x._version != version:
        raise HeadError(
            f"the head of branch '{name}' ({heads.show(head)}) overwrites the activation that it is given in place, and with it "
            "what the model and other branches read. Its first layer must work out of place: inplace=False."
        )
    params = sum(q.numel() for q in module.parameters())
    return Price(tuple(out.shape), params, counter.get_total_flops() // 2, sum(sizes) // 2)


def _bytes(out: object) -> int:
    return out.numel() * out.element_size() if isinstance(out, Tensor) else 0


def millions(count: int) -> str:
    """A count of parameters or FLOPs to three digits: `11.2M`, `650`."""
    if count < 1000:
        return str(count)
    mantissa, exponent = f"{count:.2e}".split("e")  # rounded first, so that 999,999 becomes 1M and not 1000k
    thousands = min(3, int(exponent) // 3)
    return f"{float(mantissa) * 10 ** (int(exponent) - 3 * thousands):g}{' kMG'[thousands]}"
