"""Limits that move in jumps, ticks on round numbers, and figures as a person writes them."""

import math

import numpy as np

_ROUND = (1, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10)
_CLOCK = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def figure(value: float) -> str:
    """Three digits that tell: `0.231`, `12.3`, `1,230`, `1.2e-5`."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(float(f"{value:.3g}"))
    if not 1e-3 <= size < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.{max(2 - math.floor(math.log10(size)), 0)}f}"


def tick(value: float) -> str:
    """A round number, no longer than it must be: `0.2`, `1,500`, `1e-5`."""
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.10f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.0f}"


def count(value: float) -> str:
    """A number of steps or epochs: `1,500`, `2.5M`."""
    return f"{value / 1e6:,.10g}M" if value >= 1e6 else tick(value)


def clock(seconds: float) -> str:
    """A duration: `0:40`, `1:02:30`, `2d 3:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def round_up(value: float) -> float:
    """The next round number, so that a limit moves some twenty times a decade and not more."""
    decade = 10.0 ** math.floor(math.log10(value))
    return next((step * decade for step in _ROUND if step * decade >= value * (1 - 1e-12)), 10 * decade)


def interval(span: float, most: int, whole: bool = False) -> float:
    """The distance of ticks, 1, 2 or 5 times a power of ten, of which at most so many fit into a span."""
    rough = span / max(most, 1)
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(step * decade for step in (1, 2, 5, 10) if step * decade >= rough * (1 - 1e-12))
    return max(step, 1.0) if whole else step


def linear_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Multiples of a round number between two limits."""
    step = interval(high - low, most, whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def clock_ticks(low: float, high: float, most: int) -> list[float]:
    """The same for a duration in seconds."""
    rough = (high - low) / max(most, 1)
    step = next((step for step in _CLOCK if step >= rough), 86400 * math.ceil(rough / 86400))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two limits of a logarithmic axis; multiples of one where that has too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{first}e{decade}") for decade in decades for first in leading]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    if len(found) > most:
        return found[:: math.ceil(len(found) / most)]
    return found if len(found) > 1 else linear_ticks(low, high, most)


def linear_limits(low: float, high: float) -> tuple[float, float]:
    """Round limits around two values, never the same."""
    if high <= low:
        margin = abs(high) / 10 or 1.0
        low, high = low - margin, high + margin
    step = interval(high - low, 8)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def log_limits(low: float, high: float) -> tuple[float, float]:
    """The same on a logarithmic axis; both positive."""
    low, high = math.log10(low) - 0.01, math.log10(high) + 0.01
    step = interval(high - low, 16)
    return 10.0 ** (math.floor(low / step) * step), 10.0 ** (math.ceil(high / step) * step)


def settled(
    old: tuple[float, float] | None, new: tuple[float, float], low: float, high: float, log: bool
) -> tuple[float, float]:
    """The old limits as long as they hold all from `low` to `high` and are not twice too wide; else the new."""
    if old is None or not old[0] <= low <= high <= old[1] or (log and old[0] <= 0):
        return new
    width, wanted = (np.diff(np.log10(pair) if log else pair)[0] for pair in (old, new))
    return old if width <= 2 * wanted else new
