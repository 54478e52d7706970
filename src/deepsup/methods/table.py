"""The methods by name; a text may give options: `dhm(temperature=2)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from deepsup import specs
from deepsup.errors import ConfigError
from deepsup.methods import auxiliary_classifiers, decoder_supervision, self_distillation
from deepsup.methods.method import Method

_BUILDERS: tuple[Callable[..., Method], ...] = (
    auxiliary_classifiers.none,
    auxiliary_classifiers.aux,
    auxiliary_classifiers.googlenet,
    auxiliary_classifiers.dsn,
    auxiliary_classifiers.dsn_released,
    auxiliary_classifiers.cnds,
    auxiliary_classifiers.cnds_released,
    self_distillation.dsl,
    self_distillation.dks,
    self_distillation.dhm,
    self_distillation.dml,
    self_distillation.dml_released,
    self_distillation.dml_shared,
    self_distillation.byot,
    self_distillation.byot_released,
    self_distillation.one,
    self_distillation.cds,
    self_distillation.dlb,
    auxiliary_classifiers.sdn,
    auxiliary_classifiers.adaloss,
    auxiliary_classifiers.equilibrium,
    decoder_supervision.pspnet,
    decoder_supervision.c1_deepsup,
    decoder_supervision.ppm_deepsup,
    decoder_supervision.nnunet,
    decoder_supervision.monai,
    decoder_supervision.hed,
    decoder_supervision.unetpp,
    auxiliary_classifiers.label_smoothing,
    auxiliary_classifiers.equal_compute,
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
