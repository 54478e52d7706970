"""Heads that tell identities apart: the neck of batch normalisation before the scores, and stripes of a body."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads.build_head import head
from deepsup.heads.modules import GateNorm, Mean, Pooling, channels_first
from deepsup.specs import COUNT, INDEX, Limit, one_of

WIDTH = Limit("None or a whole number of at least 1", lambda v: v is None or COUNT.fits(v))
POOLINGS = one_of("avg", "gem")


class GeM(Mean):
    """Generalised mean over the axes `dims` (Radenovic et al. 2018, eq. 3): mean(x^p)^(1/p), p learned, 3 at first.

    What is below 1e-6 counts as that. p = 1 is the mean, of large p the maximum.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__(*dims)
        self.p = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.p, 3.0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x.clamp(min=1e-6).pow(self.p), mask).pow(1 / self.p)


class Neck(GateNorm):
    """The neck of Luo et al. 2019 (BNNeck), (N, C): batch normalisation whose shift is always 0, as it has none."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        nn.init.ones_(self.weight)


class Scoring(nn.Linear):
    """The classifier behind a neck: no bias, weights from N(0, 0.001²)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.001)


class Stripe(nn.Module):
    """The mean over one of `of` horizontal stripes of a map, (N, C, H, W) -> (N, C), cut as adaptive pooling cuts."""

    def __init__(self, index: int, of: int) -> None:
        super().__init__()
        self.index = index
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[2]
        return x[:, :, self.index * rows // self.of : -(-(self.index + 1) * rows // self.of)].mean((2, 3))

    def extra_repr(self) -> str:
        return f"index={self.index}, of={self.of}"


def pooling(kind: str, *places: int) -> list[nn.Module]:
    """The pooling called "avg" or "gem" over these axes; nothing where there are none."""
    return [{"avg": Mean, "gem": GeM}[kind](*places)] if places else []


@head(light=True)
def neck(
    feature: Feature,
    classes: int,
    *,
    pool: Annotated[str, POOLINGS] = "avg",
    dim: Annotated[int | None, WIDTH] = None,
) -> nn.Module:
    """The end of the strong baseline of re-identification (Luo et al. 2019): global average or generalised-mean pooling, batch
    normalisation without shift, a linear layer without bias that begins at N(0, 0.001²).

    Its feature is what was pooled, its embedding what was normalised. With `dim` a linear layer without bias brings what was
    pooled to that width first, as fast-reid's does.
    """
    reduced = [] if dim is None else [nn.Linear(feature.channels, dim, bias=False)]
    width = feature.channels if dim is None else dim
    return Pooling(*pooling(pool, *feature.places), *reduced, Neck(width), Scoring(width, classes))


@head(light=True)
def stripe(
    feature: Feature,
    classes: int,
    *,
    index: Annotated[int, INDEX],
    of: Annotated[int, COUNT] = 6,
    dim: Annotated[int, COUNT] = 256,
) -> nn.Module:
    """One of the part classifiers of PCB (Sun et al. 2018): the mean over horizontal stripe `index` of `of`, from the top, a
    linear layer to `dim` with batch normalisation and ReLU, one that scores.

    PCB is six of them on the last map: `at={"top": "layer4", ...}`, `head={"top": "stripe(index=0)", ...}`. There the
    layer to `dim` is one for all stripes; here each has its own, as MGN's parts have (Wang et al. 2018).
    """
    front = channels_first("stripe", feature)
    if index >= of or feature.size[0] < of:
        raise HeadError(
            f"head 'stripe' reads one of {of} stripes, 0 to {of - 1}, of a map of at least as many rows; asked for index={index} "
            f"of a map of {'x'.join(map(str, feature.size))}."
        )
    reduced = nn.Linear(feature.channels, dim, bias=False)
    nn.init.kaiming_normal_(reduced.weight, mode="fan_out")  # as released
    body = [reduced, nn.BatchNorm1d(dim), nn.ReLU()]
    return nn.Sequential(*front, Stripe(index, of), *body, Scoring(dim, classes))
