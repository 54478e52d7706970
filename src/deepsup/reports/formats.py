"""Numbers as a reader wants them: one spelling per kind, the same in the terminal, the page and the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Final

from deepsup.comparisons.arm_records import known as known

NONE: Final = "–"  # noqa: RUF001  (an en dash: nothing was measured)
MINUS: Final = "−"  # noqa: RUF001


def percent(fraction: Any, *, digits: int = 1) -> str:
    """Write a fraction as percent with so many decimals and no sign: `percent(0.9634)` is `"96.3"`."""
    return f"{100 * fraction:.{digits}f}" if known(fraction) else NONE


def share(fraction: Any) -> str:
    """Write a fraction as percent with its sign: `share(0.385)` is `"38.5 %"`."""
    return f"{percent(fraction)} %" if known(fraction) else NONE


def shape(sizes: Any) -> str:
    """Write a shape: `shape([16, 8, 8])` is `"16 x 8 x 8"`."""
    return " x ".join(map(str, sizes or ())) or NONE


def spread(mean: Any, std: Any, *, digits: int = 1) -> str:
    """Write a mean of fractions and its standard deviation in percent: `spread(0.9634, 0.004)` is `"96.3 ± 0.4"`."""
    text = percent(mean, digits=digits)
    return f"{text} ± {percent(std, digits=digits)}" if known(mean) and known(std) else text


def points(difference: Any, *, digits: int = 1) -> str:
    """Write a difference of fractions in percentage points, always with its sign: `points(0.0123)` is `"+1.2"`."""
    if not known(difference):
        return NONE
    text = f"{100 * abs(difference):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if difference > 0 else MINUS}{text}"


def count(number: Any) -> str:
    """Write a count with three digits and its unit: `count(103434)` is `"103 k"`."""
    if not known(number):
        return NONE
    value, unit = float(number), ""
    for unit in ("", " k", " M", " G", " T", " P"):
        if abs(value) < 999.5 or unit == " P":
            break
        value /= 1000
    if not unit:
        return f"{value:.0f}"
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}{unit}"


def size(number: Any) -> str:
    """Write bytes in binary units: `size(32768)` is `"32.0 KiB"`."""
    if not known(number):
        return NONE
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: Any) -> str:
    """Write a time: `duration(14.83)` is `"14.8 s"`, `duration(725)` is `"12 min 05 s"`."""
    if not known(seconds):
        return NONE
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: Any) -> str:
    """Write a short time: `milliseconds(24.53)` is `"24.5 ms"`."""
    return f"{value:.1f} ms" if known(value) else NONE


def between(values: Sequence[float]) -> str:
    """Write whole numbers that may differ: `between([12, 12])` is `"12"`, `between([14, 12])` is `"12 to 14"`."""
    low, high = (min(values), max(values)) if values else (None, None)
    return NONE if low is None else f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def times(ratio: Any) -> str:
    """Write a ratio: `times(1)` is `"1.0x"`, `times(6512)` is `"6,512x"`; timings carry no second decimal."""
    if not known(ratio):
        return NONE
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:,.0f}x" if ratio < 1e6 else f"{magnitude(ratio)}x"


def strength(ratio: Any) -> str:
    """Write how strong one thing is beside another, two digits: `strength(0.4)` is `"0.4"`, `strength(63425)` `"63,000"`."""
    if not known(ratio) or ratio <= 0 or not 1e-3 <= ratio < 1e6:
        return magnitude(ratio)
    ratio = float(f"{ratio:.1e}")
    text = f"{ratio:,.{max(0, 1 - math.floor(math.log10(ratio)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def magnitude(value: Any) -> str:
    """Write a number that may be very small: `magnitude(1.23e-07)` is `"1.2e-7"`, `magnitude(1e-07)` is `"1e-7"`."""
    if not known(value):
        return NONE
    digits, exponent = f"{value:.1e}".split("e")
    return "0" if value == 0 else f"{digits.removesuffix('.0')}e{int(exponent)}"


def epochs(values: Sequence[int | None]) -> str:
    """Write the epoch at which each seed got there: `epochs([4, 5, None])` is `"4, 5, never"`.

    More than five seeds are summed up: `"median 5 (8 of 10)"`.
    """
    reached = sorted(value for value in values if value is not None)
    if not values:
        return NONE
    if not reached:
        return "never"
    if len(values) <= 5:
        return ", ".join("never" if value is None else str(value) for value in values)
    return f"median {reached[len(reached) // 2]} ({len(reached)} of {len(values)})"


def short(name: str, most: int = 20) -> str:
    """Cut a layer name from the left, where it says least: `short("features.denseblock1.conv1", 14)` is `"…conv1"`.

    Cuts at a dot where there is one.
    """
    if len(name) <= most:
        return name
    tail = name[-(most - 1) :]
    return "…" + (tail.partition(".")[2] if "." in tail else tail)


def moment(created: Any) -> str:
    """Write a time stamp, unix seconds or ISO 8601, in UTC to the minute; any other text is passed through."""
    try:
        if known(created):
            when = datetime.fromtimestamp(created, tz=timezone.utc)
        else:
            when = datetime.fromisoformat(str(created).replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return str(created or "")
    return when.strftime("%Y-%m-%d %H:%M UTC")


def added(share: Any) -> str:
    """Write what was added on top of a whole: `added(0.176)` is `"+17.6 %"`, `added(0.0002)` is `"under 0.1 %"`."""
    if not known(share):
        return NONE
    return "under 0.1 %" if 0 < share < 0.0005 else f"+{100 * share:.1f} %"


def listing(words: Sequence[str]) -> str:
    """Join words the way a sentence does: `listing(["a", "b", "c"])` is `"a, b and c"`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
