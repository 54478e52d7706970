"""The networks of this package by name: `resnet-32`, `wrn-28-10`, `densenet-bc-100-12`, `pspnet`, `unet`, ..."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.cndsnets import cnds_net
from deepsup.networks.decoders import c1, ppm
from deepsup.networks.densenets import densenet
from deepsup.networks.hed import hed
from deepsup.networks.mobilenets import mobilenet_v1, mobilenet_v2
from deepsup.networks.nested import unetpp
from deepsup.networks.nin import nin
from deepsup.networks.packages import closest, missing_space
from deepsup.networks.plain import plain
from deepsup.networks.pspnets import pspnet
from deepsup.networks.resnets import resnet
from deepsup.networks.stems import resnet_3x3
from deepsup.networks.unets import unet
from deepsup.networks.wideresnets import wrn

FROM_THE_DATA = {"classes", "in_channels", "size"}


@dataclass(frozen=True)
class Family:
    """Networks that differ in the numbers of their names.

    `form` is the name with a capital letter for each number, in the order in which `make` takes them; `listed` names the
    members that the papers trained; `fixed` are arguments of `make` that the name decides.
    """

    form: str
    make: Callable[..., nn.Module]
    listed: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """What a user may ask of `make` beyond the name and what the data decides."""
        parameters = inspect.signature(self.make).parameters.values()
        named = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        return [name for name in named if name not in FROM_THE_DATA | self.fixed.keys()]

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """The numbers in `name`, or None if it is no name of this family."""
        match = re.fullmatch(re.sub("[A-Z]", r"(\\d+)", self.form), name)
        return None if match is None else tuple(map(int, match.groups()))


FAMILIES = (
    Family("plain-N", plain, ("plain-12", "plain-13")),
    Family("nin", nin, ("nin",)),
    Family("cnds-N", cnds_net, ("cnds-8", "cnds-13")),
    Family("resnet-N", resnet, tuple(f"resnet-{depth}" for depth in (20, 32, 44, 56, 110, 1202))),
    Family("resnet-N-3x3", resnet_3x3, ("resnet-18-3x3", "resnet-50-3x3")),
    Family("wrn-N-K", wrn, ("wrn-16-8", "wrn-28-10", "wrn-40-4")),
    Family(
        "densenet-N-K",
        densenet,
        ("densenet-40-12", "densenet-100-12", "densenet-100-24"),
        fixed={"bottleneck": False},
    ),
    Family(
        "densenet-bc-N-K",
        densenet,
        ("densenet-bc-100-12", "densenet-bc-250-24", "densenet-bc-190-40"),
        fixed={"bottleneck": True},
    ),
    Family("mobilenet-v1", mobilenet_v1, ("mobilenet-v1",)),
    Family("mobilenet-v2", mobilenet_v2, ("mobilenet-v2",)),
    # These give maps of scores, and take options only.
    Family("pspnet", pspnet, ("pspnet",)),
    Family("c1", c1, ("c1",)),
    Family("ppm", ppm, ("ppm",)),
    Family("unet", unet, ("unet",)),
    Family("unetpp", unetpp, ("unetpp",)),
    Family("hed", hed, ("hed",)),
)
LISTED = tuple(name for family in FAMILIES for name in family.listed)


def find(name: str) -> tuple[Family, tuple[int, ...]] | None:
    """The family of `name` and the numbers in it, or None where no family has such names."""
    for family in FAMILIES:
        numbers = family.numbers(name)
        if numbers is not None:
            return family, numbers
    return None


def build_published(
    name: str, *, classes: int, in_channels: int = 3, size: int | None = None, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build one of the package's own networks by its name.

    Example: `build_published("wrn-28-10", classes=100, options={"dropout": 0.3})`.

    `size`, the side of the square input, goes to the networks that are built for one size. Raises ConfigError for a name
    that no family has, numbers that a family cannot have, and options that it does not take.
    """
    options = dict(options or {})
    found = find(name)
    if found is None:
        raise ConfigError(
            f"no network of ours is called 'deepsup:{name}'.{closest(name, LISTED, prefix='deepsup:')} There are "
            f"{', '.join(family.form for family in FAMILIES)}. List them with deepsup.networks.names()."
        )
    family, numbers = found
    unknown = sorted(options.keys() - set(family.options))
    if unknown:
        takes = f"It takes: {', '.join(family.options)}." if family.options else "It takes none."
        raise ConfigError(f"'deepsup:{name}' has no option {', '.join(unknown)}. {takes}{missing_space(unknown)}")
    known = {"classes": classes, "in_channels": in_channels, **family.fixed, **options}
    if size is not None and "size" in inspect.signature(family.make).parameters:
        known["size"] = size
    return family.make(*numbers, **known)
