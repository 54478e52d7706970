"""Controls: what a method must beat, and the plain model. They attach no branches."""

from __future__ import annotations

from deepsup.methods.method import BUILDERS, Method, Share


@BUILDERS.register
def none() -> Method:
    """No branches: the plain model, as the baseline of a comparison."""
    return Method(
        formula="L = L_main",
        source="-",
        bare=True,
    )


@BUILDERS.register
def label_smoothing(*, smoothing: Share = 0.1) -> Method:
    """Control: the plain model with softened labels, as many epochs.

    The plain model with softened labels: what a method must beat that gains by softening targets.
    """
    return Method(
        formula="L = CE(main, (1 - s) y + s / C),  s = 0.1",
        source="Inception-v3 (Szegedy et al. 2016, sec. 7)",
        bare=True,
        main_loss=f"cross_entropy(smoothing={smoothing})",
    )


@BUILDERS.register
def equal_compute() -> Method:
    """Control: the plain model, trained for as many FLOPs as the arm in `like` (more epochs)."""
    return Method(
        formula="L = L_main;  epochs * (trunk + heads FLOPs of the other arm) / trunk FLOPs",
        source="-",
        deviations="only in configurations: the comparison must say which arm's compute is to be matched",
        bare=True,
    )
