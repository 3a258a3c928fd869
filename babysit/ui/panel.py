"""A panel of the chart: one pair of axes, its curves, and their last values at its right edge."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from babysit.core.words import label
from babysit.ui import theme
from babysit.ui.ticks import kept_limits, linear_limits, log_limits, short_number, three_digits, value_locator

ROLES = ("other", "other valid", "valid", "running", "hyperparameter", "train")  # the lowest first
LABEL_PX, DOTS = 15, 60
_RUNAWAY = 100  # a loss is followed up to so many times its beginning and its 90 % quantile
_DECADES = 1e8  # at most eight decades are shown


@dataclass
class Curve:
    """One curve of a panel.

    Attributes:
        role: `train`, `valid`, `running`, `other`, `other valid` or `hyperparameter`.
        x: Positions on the axis, of shape (n,).
        y: Values, of shape (n,).
        band: Its lower and upper edge, of shape (2, n), if it has one.
        label: The word before its last value; None if the value is not written.
    """

    role: str
    x: np.ndarray
    y: np.ndarray
    band: np.ndarray | None = None
    label: str | None = None


class ChartPanel:
    """One pair of axes.

    Args:
        figure: The figure to draw on.
        box: Left, bottom, width and height, as parts of the figure.
        name: The name of what it shows.
        kind: `loss`, `metric` or `hyperparameter`.
        height_px: The height of the box.
        font_size: The size of the numbers at its edges.
    """

    def __init__(
        self,
        figure: Figure,
        box: tuple[float, float, float, float],
        name: str,
        kind: str,
        height_px: float,
        font_size: float = 9,
    ) -> None:
        self.name, self.kind, self.height_px = name, kind, height_px
        self.limits: tuple[float, float] | None = None
        self.log = False
        axes: Any = figure.add_axes(box, facecolor="none")
        self.axes = axes
        self._style_axes(font_size)
        self._lines = {role: axes.plot([], [], animated=True, **theme.line(role))[0] for role in ROLES}
        self._raw = axes.plot([], [], color=theme.TRAIN, alpha=0.3, linewidth=1, animated=True)[0]
        fill: dict[str, Any] = {"color": theme.TRAIN, "alpha": 0.22, "linewidth": 0, "animated": True}
        self._band = axes.fill_between([0.0], [0.0], [0.0], **fill)
        colours = {role: theme.line(role)["color"] for role in ROLES}
        word = {"va": "center", "transform": axes.transAxes, "animated": True, "clip_on": False, "fontsize": font_size}
        self._words = {
            role: axes.text(1, 0, "", color=colour, weight="bold" if role in ("train", "valid") else "normal", **word)
            for role, colour in colours.items()
        }
        self._inset_px = figure.dpi * 0.07  # between the edge and the values

    def _style_axes(self, font_size: float) -> None:
        axes = self.axes
        axes.grid(color=theme.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.AXIS)
        axes.tick_params(colors=theme.FAINT, length=3, color=theme.AXIS, labelsize=font_size, labelbottom=False)
        axes.set_title(label(self.name), loc="left", fontsize=9, color=theme.INK, pad=5, parse_math=False)

    # ------------------------------------------------------------------------- limits and ticks

    def wanted(self, curves: Iterable[Curve], log: bool) -> tuple[bool, tuple[float, float]]:
        """Whether the axis is logarithmic, and limits that contain the curves except a diverging loss."""
        # The running values of an epoch begin anywhere, and may leave the chart.
        ended = [curve.y for curve in curves if curve.role != "running" and len(curve.x) > 1]
        values = _finite(ended or [curve.y for curve in curves])
        if not values.size:
            return log, self.limits or (0.1, 1.0) if log else (0.0, 1.0)
        log = log and values.min() > 0
        lowest, highest = _band_limits(curves)
        low, high = min(values.min(), lowest), max(values.max(), highest)
        if self.kind == "loss":
            high = min(high, _runaway_limit(values, curves))
        if log:
            low = max(values.min() if low <= 0 else low, high / _DECADES)
        new = self._padded(*(log_limits if log else linear_limits)(low, high), log)
        return log, kept_limits(self.limits if log == self.log else None, new, low, high, log)

    def _padded(self, low: float, high: float, log: bool) -> tuple[float, float]:
        share = {"loss": 0, "hyperparameter": 0.2}.get(self.kind, 0.06)
        if log:
            factor = (high / low) ** share
            return low / factor, high * factor
        return low - share * (high - low), high + share * (high - low)

    def set_limits(self, log: bool, limits: tuple[float, float]) -> None:
        """Sets the axis and its ticks."""
        self.log, self.limits = log, limits
        self.axes.set_ylim(*limits)  # before the scale: a logarithmic one warns of a limit of 0
        self.axes.set_yscale("log", nonpositive="mask") if log else self.axes.set_yscale("linear")
        self.axes.set_ylim(*limits)
        self.axes.yaxis.set_major_locator(value_locator(log, *limits, max(int(self.height_px / 30), 2)))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        self.axes.minorticks_off()

    # ------------------------------------------------------------------------- curves

    def move(self, curves: Iterable[Curve]) -> list[Any]:
        """Moves the artists to the curves; returns those to draw, the lowest first."""
        found = {curve.role: curve for curve in curves}
        artists = list(self._move_bands(found.values()))
        for role in filter(found.__contains__, ROLES):
            self._lines[role].set_data(found[role].x, found[role].y)
            artists.append(self._lines[role])
        if "valid" in found:
            self._lines["valid"].set_marker("o" if len(found["valid"].x) <= DOTS else "")
        return artists + self._move_words(found)

    def _move_bands(self, curves: Iterable[Curve]) -> Iterable[Any]:
        """Moves the line of every step, or the band of each column's lowest and highest where that has no room."""
        for curve in curves:
            if curve.band is None:
                continue
            if len(curve.x) > 1 and np.any(curve.band[1] > curve.band[0]):
                self._band.set_data(curve.x, *_envelope(curve.band, self.limits))
                yield self._band
            else:
                self._raw.set_data(curve.x, curve.band[0])
                yield self._raw

    def _move_words(self, found: Mapping[str, Curve]) -> list[Any]:
        """Writes the last value of each curve at its height, without overlaps."""
        heights: dict[str, float] = {}
        for role in filter(found.__contains__, self._words):
            curve = found[role]
            if curve.label is None or not len(known := self._in_sight(curve)):
                continue
            last = float(curve.y[known[-1]])
            text = short_number(last) if role == "hyperparameter" else three_digits(last)
            self._words[role].set_text(f"{curve.label} {text}".strip())
            heights[role] = self.height_of(last)
        inset = self._inset_px / self.axes.bbox.width
        for role, height in spread(heights, LABEL_PX / self.height_px).items():
            self._words[role].set_position((1 + inset, height))
        return [self._words[role] for role in heights]

    def _in_sight(self, curve: Curve) -> np.ndarray:
        left, right = self.axes.get_xlim()
        return np.flatnonzero(np.isfinite(curve.y) & (curve.x >= left) & (curve.x <= right))

    def height_of(self, value: float) -> float:
        """The height of a value as a part of the axes."""
        if self.log:
            value = math.log10(value) if value > 0 else -math.inf
        return float(self.axes.transLimits.transform((0, value))[1])


def _finite(arrays: Iterable[np.ndarray]) -> np.ndarray:
    values: np.ndarray = np.concatenate([np.empty(0), *arrays])
    return np.compress(np.isfinite(values), values)


def _band_limits(curves: Iterable[Curve]) -> tuple[float, float]:
    """Lowest and highest of the bands without the rarest spikes, which may leave the chart."""
    bands = [curve.band for curve in curves if curve.band is not None]
    low, high = _finite([band[0] for band in bands]), _finite([band[1] for band in bands])
    if not low.size or not high.size:
        return math.inf, -math.inf
    return float(np.quantile(low, 0.01)), float(np.quantile(high, 0.99))


def _runaway_limit(values: np.ndarray, curves: Iterable[Curve]) -> float:
    """The highest loss shown: a diverging one would squeeze everything before it into a corner."""
    firsts = [known[0] for curve in curves if len(known := _finite([curve.y]))]
    usual = max([float(np.quantile(values, 0.9)), *firsts])
    return _RUNAWAY * usual if usual > 0 else math.inf


def _envelope(band: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Min and max over each pixel column and the next, so that neighbouring bands touch."""
    whole = band.copy()
    whole[0, :-1], whole[1, :-1] = np.fmin(band[0, :-1], band[0, 1:]), np.fmax(band[1, :-1], band[1, 1:])
    return whole.clip(*limits) if limits else whole


def spread(heights: dict[str, float], gap: float) -> dict[str, float]:
    """The same heights, moved at least `gap` apart and within 0 to 1 where there is room for that."""
    order = sorted(heights, key=lambda role: -heights[role])
    found, above = {}, math.inf
    for role in order:
        above = found[role] = min(heights[role], 1.0, above - gap)
    below = -gap
    for role in reversed(order):
        below = found[role] = max(found[role], 0.0, below + gap)
    return found
