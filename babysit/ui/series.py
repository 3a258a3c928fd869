"""A decimated series: one column of measurements, in bounded memory however many steps it has.

The newest steps are kept one by one, those before them in pairs, those before in fours,
and so on: zooming to the last thousand steps of ten million shows every one of them, and
any longer range has about a column for each two pixels. Memory grows with the logarithm of
the steps, and slowly: there are fewer wide columns.
"""

import functools
import math
from typing import Any

import numpy as np

KEEP = 1024  # at least so many columns are kept of each width of up to four steps
KEEP_WIDE = 256  # and of each greater width
STEP, COUNT, LOW, HIGH, MEAN, SMOOTHED = range(6)
ROWS = 6
_SPAN = 64  # steps that are averaged at once
_BUFFERED = 100


class DecimatedSeries:
    """Values at growing steps, in columns: lowest, highest, mean, and smoothed at the column's end.

    The smoothed line is the exponentially weighted average, corrected for its start
    (Kingma & Ba 2015, section 3). It is exact as long as its weight is not changed; a new weight
    is applied to the columns that are kept.

    Args:
        smoothing: Weight of the past, from 0 to below 1.
        average: The average at its start, and the number of values in it.
    """

    def __init__(self, smoothing: float = 0.0, average: tuple[float, float] = (math.nan, 0)) -> None:
        self._smoothing, self._start = smoothing, average
        self._average = average
        self._levels = [np.empty((ROWS, 0))]  # the newest first, each twice as wide as the one before
        self._buffer: list[tuple[np.ndarray, np.ndarray]] = []  # appended since the last read

    def append(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Adds the values of the next steps; values that are not finite are ignored."""
        self._buffer.append((steps, values))
        if len(self._buffer) >= _BUFFERED or len(steps) >= KEEP:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        steps, values = (np.concatenate(pieces, dtype="float64") for pieces in zip(*self._buffer, strict=True))
        self._buffer = []
        finite = np.isfinite(values)
        smoothed, self._average = averaged(values, finite, self._smoothing, self._average)
        rows = (steps, finite, values, values, np.where(finite, values, np.nan), smoothed)
        self._levels[0] = np.hstack([self._levels[0], np.stack(rows)])
        self._compact()

    def _compact(self) -> None:
        """Moves the oldest columns of a full level to the next, in pairs."""
        for i, level in enumerate(self._levels):  # the loop also visits a level appended here
            keep = KEEP if i < 3 else KEEP_WIDE
            if level.shape[1] > 2 * keep:
                if i + 1 == len(self._levels):
                    self._levels.append(np.empty((ROWS, 0)))
                oldest = (level.shape[1] - keep) // 2 * 2
                self._levels[i + 1] = np.hstack([self._levels[i + 1], _paired(level[:, :oldest])])
                self._levels[i] = level[:, oldest:].copy()

    def columns(self, after: float = -math.inf, end: float = math.inf) -> np.ndarray:
        """Array of shape (6, columns), rows as named in this module, of the steps after `after` up to `end`."""
        self._flush()
        levels = [level for level in reversed(self._levels) if level.shape[1]]
        found = [level for level in levels if level[STEP, -1] > after and level[STEP, 0] <= end]
        if not found:
            return np.empty((ROWS, 0))
        columns = np.hstack(found) if len(found) > 1 else found[0]
        first, last = np.searchsorted(columns[STEP], (after, end), "right")
        return columns[:, first:last]

    @property
    def end(self) -> float:
        """The last step; -infinity if there is none."""
        self._flush()
        return max((level[STEP, -1] for level in self._levels if level.shape[1]), default=-math.inf)

    @property
    def width(self) -> int:
        """The number of columns."""
        self._flush()
        return sum(level.shape[1] for level in self._levels)

    def average_at(self, step: float) -> tuple[float, float]:
        """The smoothed value at a step, and the number of values in it."""
        columns = self.columns(end=step)
        if not columns.shape[1]:
            return self._start
        return float(columns[SMOOTHED, -1]), self._start[1] + float(columns[COUNT].sum())

    def smooth(self, smoothing: float, average: tuple[float, float] = (math.nan, 0)) -> None:
        """Smooths the kept columns with another weight, each as `count` values equal to its mean."""
        self._flush()
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
        """Reduces a series that will not grow any more to at most `most` columns."""
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
    """The bias-corrected average after each value, and the pair `average` after the last one.

    Args:
        values: Of shape (n,).
        finite: Which of them count, of shape (n,).
        weight: Of the past, from 0 to below 1.
        average: The average before them, and the number of values in it.
    """
    value, count = average
    total = value * (1 - weight**count) if count else 0.0
    counts = count + np.arange(1, finite.sum() + 1)
    averages = _decaying(values[finite], weight, total) / (1 - weight**counts)
    line = np.concatenate([[value], averages])
    return line[np.cumsum(finite)], (float(line[-1]), float(count + len(averages)))


def _decaying(values: np.ndarray, weight: float, total: float) -> np.ndarray:
    """S = weight · s + (1 - weight) · value after each value, starting from s = `total`."""
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
    """Pairs of columns merged into one; of shape (6, n / 2)."""
    pairs: Any = columns.reshape(ROWS, -1, 2)
    count = pairs[COUNT].sum(axis=1)
    total = np.where(pairs[COUNT] > 0, pairs[MEAN] * pairs[COUNT], 0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    low, high = np.fmin.reduce(pairs[LOW], 1), np.fmax.reduce(pairs[HIGH], 1)
    return np.stack([pairs[STEP, :, 1], count, low, high, mean, pairs[SMOOTHED, :, 1]])


def mean(columns: np.ndarray) -> float:
    """The mean of all values in `columns`; NaN if there are none."""
    counted = columns[COUNT] > 0
    return float(np.average(columns[MEAN, counted], weights=columns[COUNT, counted])) if counted.any() else math.nan


def reduced(
    x: np.ndarray, columns: np.ndarray, left: float, right: float, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The columns between two values of x, with one point beyond each, at most one per pixel.

    Args:
        x: Position of each column, of shape (n,), never decreasing.
        columns: Of shape (6, n).
        left: Left limit of the chart.
        right: Right limit of the chart.
        pixels: Width of the chart.

    Returns:
        x and columns, reduced; values that are not finite become NaN.
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
