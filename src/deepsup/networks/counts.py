"""The whole numbers that networks are built from, and what is said when one cannot be built."""

from __future__ import annotations

from deepsup.errors import ConfigError


def check_positive(**counts: int) -> None:
    """Raise ConfigError unless every count is a whole number of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"{name}={count!r} must be a whole number of at least 1.")


def check_share(**shares: float) -> None:
    """Raise ConfigError unless every share lies in [0, 1), as the rate of a dropout must."""
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise ConfigError(f"{name}={share!r} must be a number of at least 0 and below 1.")


def repeats(depth: int, *, step: int, rest: int, network: str) -> int:
    """The n of a network that is `step * n + rest` layers deep.

    Example: `repeats(32, step=6, rest=2, network="resnet-32") == 5`.

    Raises ConfigError for every other depth, and names the nearest ones that exist.
    """
    n, left = divmod(depth - rest, step)
    if n >= 1 and not left:
        return n
    near = [step * m + rest for m in (n, n + 1) if m >= 1] or [step + rest]
    raise ConfigError(
        f"{network!r} cannot be built: its depth is {step}n+{rest} with n of at least 1. "
        f"Closest: {' and '.join(map(str, near))}."
    )
