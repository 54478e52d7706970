"""U-Net++: Zhou et al. 2018 (arXiv 1807.10165) and 2020 (arXiv 1912.05074)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from torch import Tensor, nn

from deepsup.networks.blocks import check_positive
from deepsup.networks.families import family
from deepsup.networks.levels import Style, Up, check_widths, convolutions, initialise


@family("unetpp")
def unetpp(
    *,
    classes: int,
    in_channels: int = 3,
    widths: Sequence[int] = (32, 64, 128, 256, 512),
    convs: int = 2,
    norm: str | None = "batch",
    dropout: float = 0.0,
    activation: str = "relu",
    upsample: str = "bilinear",
) -> UNetPlusPlus:
    """A U-Net++: (N, in_channels, H, W) to scores (N, classes, H, W), for images of any size.

    Example: `unetpp(classes=1, in_channels=1, norm=None, upsample="transpose")` is the authors' network, of 9,041,601
    parameters; they put dropout of 0.5 behind every convolution, here `dropout` stands between them.

    Node X^{i,j}, layer `xij`, is at level i (0 is the finest) and has come up j times: it reads all of x{i}0 ... x{i}(j-1)
    and x(i+1)(j-1), enlarged. `score`, a 1x1 convolution, reads x04. Nodes run in the order x00, x10, x01, x20, x11, x02,
    ..., so that what x01 and x02 do not need lies behind them, and an early exit there costs what a smaller U-Net++ costs.
    `model.levels` are x01 ... x04, which the paper supervises, all of the image's size; `model.stages` x00 ... x40. The
    options are those of `deepsup.networks.unets.unet`. Raises ConfigError for one that there is not, and for more than
    ten widths, where the layers' names would end.
    """
    check_positive(classes=classes, in_channels=in_channels, convs=convs)
    check_widths(widths)
    style = Style(norm=norm, dropout=dropout, activation=activation, upsample=upsample)
    return UNetPlusPlus(in_channels, widths, classes, style, rates=(1,) * convs)


@final
class UNetPlusPlus(nn.Module):
    """What `unetpp` builds."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], classes: int, style: Style, *, rates: Sequence[int]
    ) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i, j in self._order():
            width = widths[i]
            if j:
                self.add_module(f"x{i}{j}", Up(widths[i + 1], j * width, width, style, rates=rates))
                continue
            if i:
                self.add_module(f"pool{i}", nn.MaxPool2d(2))
            self.add_module(f"x{i}0", convolutions(widths[i - 1] if i else in_channels, width, style, rates=rates))
        self.score = nn.Conv2d(widths[0], classes, 1)
        self.stages = tuple(f"x{i}0" for i in range(self.depth + 1))
        self.levels = tuple(f"x0{j}" for j in range(1, self.depth + 1))
        initialise(self)

    def _order(self) -> Iterator[tuple[int, int]]:
        """The nodes by diagonals i + j, each from the bottom up."""
        for diagonal in range(self.depth + 1):
            yield from ((diagonal - j, j) for j in range(diagonal + 1))

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) to (N, classes, H, W)
        maps: list[list[Tensor]] = [[] for _ in range(self.depth + 1)]  # of each level, by how often they came up
        for i, j in self._order():
            if j:
                x = self.get_submodule(f"x{i}{j}")(maps[i + 1][j - 1], *maps[i])
            else:
                x = self.get_submodule(f"x{i}0")(self.get_submodule(f"pool{i}")(maps[i - 1][0]) if i else x)
            maps[i].append(x)
        return self.score(x)  # type: ignore[no-any-return]
