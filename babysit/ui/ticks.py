"""Numbers as a person writes them, ticks, and limits that move in steps."""

import math

import numpy as np
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator

_ROUND = (1, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10)
_CLOCK = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def three_digits(value: float) -> str:
    """A number with three significant digits: `0.231`, `12.3`, `1,230`, `1.2e-5`."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(float(f"{value:.3g}"))
    if not 1e-3 <= size < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.{max(2 - math.floor(math.log10(size)), 0)}f}"


def short_number(value: float) -> str:
    """A round number without superfluous digits: `0.2`, `1,500`, `1e-5`."""
    value = float(f"{value:.4g}")
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.10f}".rstrip("0").rstrip(".")


def short_count(value: float) -> str:
    """A number of steps or epochs: `1,500`, `2.5M`."""
    return f"{value / 1e6:,.10g}M" if value >= 1e6 else f"{value:,.10g}"


def clock(seconds: float) -> str:
    """A duration: `0:40`, `1:02:30`, `2d 3:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock_locator(low: float, high: float, most: int) -> Locator:
    """Ticks on round durations between two limits in seconds."""
    rough = (high - low) / max(most, 1)
    step = next((step for step in _CLOCK if step >= rough), 86400 * math.ceil(rough / 86400))
    return FixedLocator([i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)])


def value_locator(log: bool, low: float, high: float, most: int) -> Locator:
    """About `most` ticks on round numbers."""
    if not log or high / low <= 4:
        return MaxNLocator(most, steps=[1, 2, 5, 10], min_n_ticks=1)
    decades = math.log10(high / low)
    subs = next((subs for subs in ((1, 2, 3, 5), (1, 2, 5), (1, 3)) if len(subs) * decades <= most), (1,))
    return LogLocator(subs=subs, numticks=most)


def round_up(value: float) -> float:
    """The next round number, so that a limit moves about twenty times a decade and not more."""
    decade = 10.0 ** math.floor(math.log10(value))
    return next((step * decade for step in _ROUND if step * decade >= value * (1 - 1e-12)), 10 * decade)


def linear_limits(low: float, high: float, intervals: int = 8) -> tuple[float, float]:
    """Round limits around two values, never equal."""
    if high <= low:
        margin = abs(high) / 10 or 1.0
        low, high = low - margin, high + margin
    ticks = MaxNLocator(intervals, steps=[1, 2, 5, 10]).tick_values(low, high)
    return min(float(ticks[0]), low), max(float(ticks[-1]), high)


def log_limits(low: float, high: float) -> tuple[float, float]:
    """Round limits around two positive values on a logarithmic axis, never equal."""
    low, high = linear_limits(math.log10(low) - 0.01, math.log10(high) + 0.01, 16)
    return 10.0**low, 10.0**high


def kept_limits(
    old: tuple[float, float] | None, new: tuple[float, float], low: float, high: float, log: bool
) -> tuple[float, float]:
    """The old limits if they contain `low` and `high` and are less than twice too wide; else the new ones."""
    if old is None or not old[0] <= low <= high <= old[1] or (log and old[0] <= 0):
        return new
    width, wanted = (np.diff(np.log10(pair) if log else pair)[0] for pair in (old, new))
    return old if width <= 2 * wanted else new
