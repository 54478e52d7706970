"""The published methods, each as the defaults that `plan` fills in: head, loss and weight schedule.

A method never brings a training loop of its own; whatever it presets can be overridden in `plan`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class Method:
    """One preset: what it does, its formula and source, where it departs from the source, and its defaults."""

    name: str
    summary: str
    formula: str
    source: str
    deviations: str
    head: str
    weight: str
    loss: str = "cross_entropy"  # of the branches
    rule: str = "drop"  # of the probe, for at="auto"

    def weight_over(self, epochs: int = 100) -> str:
        """The default weight schedule; where it counts epochs, for a training of that many."""
        return self.weight.format(epochs=epochs)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            name="none",
            summary="no branches: the plain model, as the baseline of a comparison",
            formula="L = L_main",
            source="-",
            deviations="-",
            head="auto",
            weight="constant(0)",
        ),
        Method(
            name="aux",
            summary="auxiliary classifiers with a constant weight, dropped at test",
            formula="L = L_main + sum_k w_k L_k",
            source="GoogLeNet (Szegedy et al. 2015, sec. 5; w = 0.3), PSPNet (Zhao et al. 2017; w = 0.4)",
            deviations="the head is pooling and one linear layer instead of GoogLeNet's 5x5 pool, 1x1 conv, FC 1024",
            head="auto",
            weight="constant(0.3)",
        ),
        Method(
            name="cnds",
            summary="one convolutional branch where gradients vanish, its weight decaying to zero",
            formula="L = L_main + alpha_t L_s,  alpha_t = 0.3 prod_{s<=t} (1 - s/N)",
            source="CNDS (Wang, Lee, Tu, Lazebnik 2015, arXiv 1505.02496)",
            deviations="the branch follows the released network (1x1 conv 64, FC 1024 twice); the released solver keeps "
            "the weight constant at 0.4, here it decays as in the paper; cnds(..., reading='linear') is the other reading",
            head="cnds",
            weight="cnds(0.3, {epochs})",
            rule="threshold",
        ),
    )
}


def get(name: str) -> Method:
    """The method of that name. Raises `ConfigError` naming the known ones."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.3)
        hint = f" Closest: {close[0]}." if close else ""
        raise ConfigError(f"no method is called {name!r}.{hint} Methods: {', '.join(METHODS)}.")
    return METHODS[name]
