"""The methods by name; a text may give options: `dhm(temperature=2)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from deepsup import specs
from deepsup.errors import ConfigError
from deepsup.methods import classifiers, mimics, segmenters
from deepsup.methods.presets import Method

_BUILDERS: tuple[Callable[..., Method], ...] = (
    classifiers.none,
    classifiers.aux,
    classifiers.googlenet,
    classifiers.dsn,
    classifiers.dsn_released,
    classifiers.cnds,
    classifiers.cnds_released,
    mimics.dsl,
    mimics.dks,
    mimics.dhm,
    mimics.dml,
    mimics.dml_released,
    mimics.dml_shared,
    mimics.byot,
    mimics.byot_released,
    mimics.one,
    mimics.cds,
    mimics.dlb,
    classifiers.sdn,
    classifiers.adaloss,
    classifiers.equilibrium,
    segmenters.pspnet,
    segmenters.c1_deepsup,
    segmenters.ppm_deepsup,
    segmenters.nnunet,
    segmenters.monai,
    segmenters.hed,
    segmenters.unetpp,
    classifiers.label_smoothing,
    classifiers.equal_compute,
)
BUILDERS: dict[str, Callable[..., Method]] = {f.__name__.replace("_", "-"): f for f in _BUILDERS}


def _defaults(build: Callable[..., Method]) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(build).parameters.items()}


METHODS: dict[str, Method] = {name: replace(build(), options=_defaults(build)) for name, build in BUILDERS.items()}


def get(text: str) -> Method:
    """The method that a text names, with its options. Raises `ConfigError` naming the known ones.

    >>> get("dhm(temperature=2)").name
    'dhm(temperature=2)'
    """
    name, bracket, rest = str(text).partition("(")
    if name.strip() in METHODS and not bracket:
        return METHODS[name.strip()]
    # A dash is a minus in a text that is parsed, so names are read with their function's underscores.
    plain = {f.__name__: f for f in _BUILDERS}
    if name.strip() not in BUILDERS:
        plain = dict(BUILDERS)
    read, options = specs.read(
        name.strip().replace("-", "_") + bracket + rest if bracket else name, plain, "method", ConfigError
    )
    whole = {**_defaults(plain[read]), **options}
    return replace(plain[read](**options), name=specs.show_call(read.replace("_", "-"), options), options=whole)
