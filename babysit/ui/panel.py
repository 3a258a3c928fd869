"""A panel: one pair of axes of the chart, its curves, and their values written at its right edge."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from babysit.ui import theme
from babysit.ui.ticks import figure as in_figures
from babysit.ui.ticks import linear_limits, linear_ticks, log_limits, log_ticks, settled, tick

ROLES = ("running", "other", "other valid", "hyperparameter", "train", "valid")
SLOW = ("gap", "other", "other valid", "hyperparameter", "valid")  # that change once an epoch at most
LABEL_PX, DOTS = 15, 60
_NONE = np.empty((2, 0))
# Times the loss of the beginning, and what nine tenths of all that is shown stay below.
_RUNAWAY = 100
_DECADES = 1e8  # eight decades tell more than all of them when a loss has run away


@dataclass
class Curve:
    """One curve of a panel.

    Attributes:
        role: `train`, `valid`, `running`, `other`, `other valid` or `hyperparameter`.
        x: On the axis, of shape (n,).
        y: Likewise.
        band: Its lower and upper edge, of shape (2, n), if it has one.
        label: What stands before its last value; None for a curve without one.
    """

    role: str
    x: np.ndarray
    y: np.ndarray
    band: np.ndarray | None = None
    label: str | None = None


class Panel:
    """One pair of axes.

    Args:
        figure: To draw on.
        box: Left, bottom, width and height, as parts of the figure.
        name: What it shows.
        kind: `loss`, `metric` or `hyperparameter`.
        height_px: Of the box.
        font_size: Of the numbers at its edges.
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
        self.axes: Any = figure.add_axes(box, facecolor="none")
        self._dress(name.replace("_", " ").replace(".", " "), font_size)
        self._raw: Any = self.axes.plot([], [], color=theme.TRAIN, alpha=0.3, linewidth=1, animated=True)[0]
        band: dict[str, Any] = {"color": theme.TRAIN, "alpha": 0.22, "linewidth": 0, "animated": True}
        self._band: Any = self.axes.fill_between([0.0], [0.0], [0.0], **band)
        gap: dict[str, Any] = {"color": theme.VALID, "alpha": 0.13, "linewidth": 0, "animated": True}
        self._gap: Any = self.axes.fill_between([0.0], [0.0], [0.0], **gap)
        self._lines: dict[str, Any] = {
            role: self.axes.plot([], [], animated=True, **theme.line(role))[0] for role in ROLES
        }
        word: dict[str, Any] = {
            "va": "center",
            "transform": self.axes.transAxes,
            "animated": True,
            "clip_on": False,
            "fontsize": font_size,
        }
        weights = dict.fromkeys(("train", "valid"), "bold")
        colours = {role: theme.line(role)["color"] for role in ROLES} | {"gap": theme.FAINT}
        self._words: dict[str, Any] = {
            role: self.axes.text(1, 0, "", color=colours[role], weight=weights.get(role, "normal"), **word)
            for role in colours
        }
        self._offset = figure.dpi * 0.07  # of the values from the edge
        self._shown_gap = self._shown_band = False

    def _dress(self, title: str, font_size: float) -> None:
        axes = self.axes
        axes.grid(color=theme.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.AXIS)
        axes.tick_params(
            colors=theme.FAINT, which="both", length=3, color=theme.AXIS, labelsize=font_size, labelbottom=False
        )
        axes.minorticks_off()
        axes.set_title(title, loc="left", fontsize=9, color=theme.INK, pad=5, parse_math=False)

    # ------------------------------------------------------------------------- what stands still

    def wanted(self, curves: Iterable[Curve], log: bool) -> tuple[bool, tuple[float, float]]:
        """Whether the axis is logarithmic, and limits that hold everything but a loss that runs away; they stay."""
        # The running values of an epoch begin anywhere, and may leave the chart.
        ended = [curve.y for curve in curves if curve.role != "running" and len(curve.x) > 1]
        values = _finite(ended or [curve.y for curve in curves])
        edges = _edges(curves)
        if not values.size:
            return log, self.limits or (0.1, 1.0) if log else (0.0, 1.0)
        log = log and values.min() > 0
        low, high = min(values.min(), edges[0]), max(values.max(), edges[1])
        if self.kind == "loss":
            high = min(high, _reach(values, curves))
        if log:
            positive = values.min() if low <= 0 else low
            low = max(positive, high / _DECADES)
        new = self._padded(*(log_limits if log else linear_limits)(low, high), log)
        old = self.limits if log == self.log else None
        return log, settled(old, new, low, high, log)

    def _padded(self, low: float, high: float, log: bool) -> tuple[float, float]:
        if self.kind == "loss":
            return low, high
        share = 0.2 if self.kind == "hyperparameter" else 0.06
        if log:
            factor = (high / low) ** share
            return low / factor, high * factor
        return low - share * (high - low), high + share * (high - low)

    def set_limits(self, log: bool, limits: tuple[float, float], values: Sequence[float] = ()) -> None:
        """Sets the axis and its ticks; those at `values`, where some are given and find room."""
        self.log, self.limits = log, limits
        self.axes.set_ylim(*limits)  # before the scale, which does not like to find a 0
        self.axes.set_yscale("log", nonpositive="mask") if log else self.axes.set_yscale("linear")
        most = max(int(self.height_px / 30), 2)
        ticks = list(values) if 0 < len(values) <= most else (log_ticks if log else linear_ticks)(*limits, most)
        self.axes.set_ylim(*limits)
        self.axes.set_yticks(ticks, [tick(float(f"{value:.4g}")) for value in ticks])
        self.axes.minorticks_off()

    # ------------------------------------------------------------------------- what moves

    def move(self, curves: Iterable[Curve], gap: Curve | None = None) -> None:
        """Brings the artists to where the curves are now."""
        found = {curve.role: curve for curve in curves}
        for role, line in self._lines.items():
            curve = found.get(role)
            line.set_data(*((curve.x, curve.y) if curve else ([], [])))
        if "valid" in found:
            self._lines["valid"].set_marker("o" if len(found["valid"].x) <= DOTS else "")
        self._move_band(next((curve for curve in found.values() if curve.band is not None), None))
        self._shown_gap = gap is not None and len(gap.x) > 1
        if gap is not None and gap.band is not None and self._shown_gap:
            self._gap.set_data(gap.x, *gap.band)
        self._write(found, gap)

    def _move_band(self, curve: Curve | None) -> None:
        """Draws each step while there is room for that, and then from the lowest to the highest of a column."""
        x, band = (curve.x, curve.band) if curve is not None and curve.band is not None else (np.empty(0), _NONE)
        self._shown_band = len(x) > 1 and bool(np.any(band[1] > band[0]))
        self._raw.set_data(*(([], []) if self._shown_band else (x, band[0])))
        if self._shown_band:
            self._band.set_data(x, *_envelope(band, self.limits))

    def artists(self) -> tuple[list[Any], list[Any]]:
        """Those that change once an epoch at most, and those that change with each step; the lowest first."""
        lines = {role: line for role, line in self._lines.items() if len(line.get_xdata(orig=True))}
        words = {role: word for role, word in self._words.items() if word.get_text()}
        slow: list[Any] = [self._gap] if self._shown_gap else []
        slow += [lines[role] for role in ("other", "other valid", "valid") if role in lines]
        slow += [words[role] for role in SLOW if role in words]
        fast: list[Any] = [self._band if self._shown_band else self._raw]
        fast += [lines[role] for role in ("running", "hyperparameter", "train") if role in lines]
        return slow, fast + [word for role, word in words.items() if role not in SLOW]

    def told(self) -> list[tuple[str, Any]]:
        """What the slow words say, and where."""
        return [(self._words[role].get_text(), self._words[role].get_position()) for role in SLOW]

    def _write(self, found: dict[str, Curve], gap: Curve | None) -> None:
        """Writes the last value of each curve at its height, none upon another."""
        places: dict[str, float] = {}
        for role, word in self._words.items():
            word.set_text("")
            curve = gap if role == "gap" else found.get(role)
            if curve is not None and curve.label is not None and len(known := self._in_sight(curve)):
                last = float(curve.y[known[-1]])
                text = tick(last) if role == "hyperparameter" else in_figures(last)
                word.set_text(f"{curve.label} {'+' if role == 'gap' and last > 0 else ''}{text}".strip())
                if role != "gap":
                    places[role] = float(self.axes.transLimits.transform((0, self._scaled(last)))[1])
        if self._words["gap"].get_text():
            places["gap"] = min(places.values(), default=0.0) - 1e-6
        inset = self._offset / self.axes.bbox.width
        for role, place in spread(places, LABEL_PX / self.height_px).items():
            self._words[role].set_position((1 + inset, place))

    def _in_sight(self, curve: Curve) -> np.ndarray:
        left, right = self.axes.get_xlim()
        return np.flatnonzero(np.isfinite(curve.y) & (curve.x >= left) & (curve.x <= right))

    def _scaled(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(value) if value > 0 else -math.inf


def _finite(arrays: Iterable[np.ndarray]) -> np.ndarray:
    values: np.ndarray = np.concatenate([np.empty(0), *arrays])
    return np.compress(np.isfinite(values), values)


def _edges(curves: Iterable[Curve]) -> tuple[float, float]:
    """Where the bands are but for their rarest spikes, which may leave the chart."""
    bands = [_NONE, *(curve.band for curve in curves if curve.band is not None)]
    low, high = _finite([band[0] for band in bands]), _finite([band[1] for band in bands])
    if not low.size or not high.size:
        return math.inf, -math.inf
    return float(np.quantile(low, 0.01)), float(np.quantile(high, 0.99))


def _reach(values: np.ndarray, curves: Iterable[Curve]) -> float:
    """How high a loss is followed: one that has run away would leave all that came before it in a corner."""
    firsts = [known[0] for curve in curves if len(known := _finite([curve.y]))]
    usual = max([float(np.quantile(values, 0.9)), *firsts])
    return _RUNAWAY * usual if usual > 0 else math.inf


def _envelope(band: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Lowest and highest of a column and its right neighbour, so that no column stands apart."""
    whole = band.copy()
    whole[0, :-1], whole[1, :-1] = np.fmin(band[0, :-1], band[0, 1:]), np.fmax(band[1, :-1], band[1, 1:])
    if limits:
        whole = whole.clip(*limits)
    return whole


def spread(places: dict[str, float], gap: float) -> dict[str, float]:
    """The same places, at least `gap` apart and from 0 to 1 where there is room for that."""
    order = sorted(places, key=lambda role: -places[role])
    found, above = {}, math.inf
    for role in order:
        above = found[role] = min(places[role], 1.0, above - gap)
    below = -gap
    for role in reversed(order):
        below = found[role] = max(found[role], 0.0, below + gap)
    return found
