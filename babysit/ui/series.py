"""A trace: one column of what was measured, in bounded room however many steps it has.

The newest steps are kept one by one, those before them in pairs, those before in fours,
and so on: zooming to the last thousand steps of ten million shows every one of them, and
however far one looks back there is about a column for each two pixels. The room grows with the
logarithm of the steps, and slowly: of wide columns there are fewer.
"""

import functools
import math
from typing import Any

import numpy as np

KEEP = 1024  # the fewest columns that are kept of one width, of up to four steps
KEEP_WIDE = 256  # and of each width above
STEP, COUNT, LOW, HIGH, MEAN, SMOOTHED = range(6)
ROWS = 6
_SPAN = 64  # steps that are averaged at once
_PIECES = 100


class Trace:
    """Values at growing steps, in columns: lowest, highest, mean, and smoothed at the column's end.

    The smoothed line is the exponentially weighted average, corrected for its start
    (Kingma & Ba 2015, section 3). It is exact while its strength stands; a new strength
    is applied to what is kept.

    Args:
        smoothing: Weight of the past, from 0 to below 1.
        average: The average at its start, and how many values it has seen.
    """

    def __init__(self, smoothing: float = 0.0, average: tuple[float, float] = (math.nan, 0)) -> None:
        self._smoothing, self._start = smoothing, average
        self._average = average
        self._levels = [np.empty((ROWS, 0))]  # the newest first, each twice as wide as the one before
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []  # what was added since somebody looked

    def append(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Adds the values of the next steps; a value that is not finite counts for nothing."""
        self._waiting.append((steps, values))
        if len(self._waiting) >= _PIECES or len(steps) >= KEEP:
            self._take_in()

    def _take_in(self) -> None:
        if not self._waiting:
            return
        steps, values = (np.concatenate(pieces, dtype="float64") for pieces in zip(*self._waiting, strict=True))
        self._waiting = []
        finite = np.isfinite(values)
        smoothed, self._average = averaged(values, finite, self._smoothing, self._average)
        rows = (steps, finite, values, values, np.where(finite, values, np.nan), smoothed)
        self._levels[0] = np.hstack([self._levels[0], np.stack(rows)])
        self._settle()

    def _settle(self) -> None:
        """Hands the oldest columns of a level on to the next, in pairs, once it holds too many."""
        for i, level in enumerate(self._levels):  # the list may grow meanwhile, and then that level is looked at too
            keep = KEEP if i < 3 else KEEP_WIDE
            if level.shape[1] > 2 * keep:
                if i + 1 == len(self._levels):
                    self._levels.append(np.empty((ROWS, 0)))
                oldest = (level.shape[1] - keep) // 2 * 2
                self._levels[i + 1] = np.hstack([self._levels[i + 1], _paired(level[:, :oldest])])
                self._levels[i] = level[:, oldest:].copy()

    def columns(self, after: float = -math.inf, end: float = math.inf) -> np.ndarray:
        """Array of shape (6, columns), rows as named in this module, of the steps behind `after` up to `end`."""
        self._take_in()
        levels = [level for level in reversed(self._levels) if level.shape[1]]
        found = [level for level in levels if level[STEP, -1] > after and level[STEP, 0] <= end]
        if not found:
            return np.empty((ROWS, 0))
        columns = np.hstack(found) if len(found) > 1 else found[0]
        first, last = np.searchsorted(columns[STEP], (after, end), "right")
        return columns[:, first:last]

    @property
    def end(self) -> float:
        """The last step; -infinity where there is none."""
        self._take_in()
        return max((level[STEP, -1] for level in self._levels if level.shape[1]), default=-math.inf)

    @property
    def width(self) -> int:
        """How many columns there are."""
        self._take_in()
        return sum(level.shape[1] for level in self._levels)

    def average_at(self, step: float) -> tuple[float, float]:
        """The smoothed value at a step, and how many values it stands for."""
        columns = self.columns(end=step)
        if not columns.shape[1]:
            return self._start
        return float(columns[SMOOTHED, -1]), self._start[1] + float(columns[COUNT].sum())

    def smooth(self, smoothing: float, average: tuple[float, float] = (math.nan, 0)) -> None:
        """Smooths what is kept anew, each column as so many values equal to its mean."""
        self._take_in()
        self._smoothing, self._start = smoothing, average
        value, count = average
        total = value * (1 - smoothing**count) if count else 0.0
        for level in reversed(self._levels):
            for column in level.T:
                if column[COUNT]:
                    kept = smoothing ** column[COUNT]
                    total, count = kept * total + (1 - kept) * column[MEAN], count + column[COUNT]
                    value = total / (1 - smoothing**count)
                column[SMOOTHED] = value
        self._average = float(value), float(count)

    def thin(self, most: int) -> None:
        """Keeps no more than so many columns, of what will not be added to any more."""
        if self.width <= most:
            return
        columns = self.columns()
        while columns.shape[1] > most:
            columns = np.hstack(
                [_paired(columns[:, : columns.shape[1] // 2 * 2]), columns[:, columns.shape[1] // 2 * 2 :]]
            )
        self._levels = [columns.copy()]


def averaged(
    values: np.ndarray, finite: np.ndarray, weight: float, average: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """The bias-corrected average behind each value, and as `average`, where it now stands.

    Args:
        values: Of shape (n,).
        finite: Which of them count, likewise.
        weight: Of the past, from 0 to below 1.
        average: The average before them, and how many values it has seen.
    """
    value, count = average
    total = value * (1 - weight**count) if count else 0.0
    counts = count + np.arange(1, finite.sum() + 1)
    averages = _decaying(values[finite], weight, total) / (1 - weight**counts)
    line = np.concatenate([[value], averages])
    return line[np.cumsum(finite)], (float(line[-1]), float(count + len(averages)))


def _decaying(values: np.ndarray, weight: float, total: float) -> np.ndarray:
    """What s = weight · s + (1 - weight) · value comes to behind each value, from `total` on."""
    kernel, powers = _kernel(weight)
    sums = np.empty(len(values))
    for first in range(0, len(values), _SPAN):
        piece = values[first : first + _SPAN]
        sums[first : first + _SPAN] = kernel[: len(piece), : len(piece)] @ piece + powers[: len(piece)] * total
        total = sums[first + len(piece) - 1]
    return sums


@functools.lru_cache(8)
def _kernel(weight: float) -> tuple[np.ndarray, np.ndarray]:
    age = np.subtract.outer(np.arange(_SPAN), np.arange(_SPAN))
    kernel = np.where(age >= 0, (1 - weight) * weight ** np.maximum(age, 0.0), 0.0)
    return kernel, weight ** np.arange(1.0, _SPAN + 1)


def _paired(columns: np.ndarray) -> np.ndarray:
    """Each two columns made one; of shape (6, n / 2)."""
    pairs: Any = columns.reshape(ROWS, -1, 2)
    count = pairs[COUNT].sum(axis=1)
    total = np.where(pairs[COUNT] > 0, pairs[MEAN] * pairs[COUNT], 0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    low, high = np.fmin.reduce(pairs[LOW], 1), np.fmax.reduce(pairs[HIGH], 1)
    return np.stack([pairs[STEP, :, 1], count, low, high, mean, pairs[SMOOTHED, :, 1]])


def mean(columns: np.ndarray) -> float:
    """The mean of all values in some columns; NaN where there are none."""
    counted = columns[COUNT] > 0
    return float(np.average(columns[MEAN, counted], weights=columns[COUNT, counted])) if counted.any() else math.nan


def reduced(
    x: np.ndarray, columns: np.ndarray, left: float, right: float, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """What lies between two values of x, with one point beyond each, in at most a column a pixel.

    Args:
        x: Where each column belongs, of shape (n,), never falling.
        columns: Of shape (6, n).
        left: Of the chart.
        right: Of the chart.
        pixels: Its width.

    Returns:
        x and columns again; a value that is not finite is NaN.
    """
    first, last = max(np.searchsorted(x, left) - 1, 0), np.searchsorted(x, right, "right") + 1
    x, columns = x[first:last], columns[:, first:last]
    if not len(x):
        return x, columns
    bins = np.floor((x - left) * (pixels / (right - left)))
    starts = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
    ends = np.append(starts[1:], len(x)) - 1
    thin = columns[:, ends]
    thin[LOW], thin[HIGH] = np.fmin.reduceat(columns[LOW], starts), np.fmax.reduceat(columns[HIGH], starts)
    thin[~np.isfinite(thin)] = np.nan
    return x[ends], thin
