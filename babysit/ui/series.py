"""A decimated series: one column of measurements, in bounded memory however many steps it has.

The newest steps are kept one by one, those before them in pairs, those before in fours,
and so on: zooming to the last thousand steps of ten million shows every one of them, and
any longer range has about a column for each two pixels. Memory grows with the logarithm of
the steps, and slowly: there are fewer wide columns.
"""

from itertools import accumulate
from typing import Any

import numpy as np

KEEP = 1024  # at least so many columns are kept of each width of up to four steps
KEEP_WIDE = 256  # and of each greater width
STEP, COUNT, LOW, HIGH, MEAN, SMOOTHED = range(6)
ROWS = 5  # of a series; `with_smoothed` adds the last one


class DecimatedSeries:
    """Values at growing steps, in columns: the last step, the number of finite values, lowest, highest and mean.

    Attributes:
        count: How many values were added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._levels = [np.empty((ROWS, 0))]  # the newest first, each twice as wide as the one before

    def append(self, steps: Any, values: Any) -> None:
        """Adds the values of the next steps; values that are not finite are ignored."""
        self.count += len(steps)
        finite = np.isfinite(values)
        rows = np.stack([steps, finite, values, values, np.where(finite, values, np.nan)], dtype=float)
        self._levels[0] = np.hstack([self._levels[0], rows])
        for i, level in enumerate(self._levels):  # the loop also visits a level appended here
            keep = KEEP if i < 3 else KEEP_WIDE
            if level.shape[1] > 2 * keep:
                if i + 1 == len(self._levels):
                    self._levels.append(np.empty((ROWS, 0)))
                oldest = (level.shape[1] - keep) // 2 * 2
                self._levels[i + 1] = np.hstack([self._levels[i + 1], _paired(level[:, :oldest])])
                self._levels[i] = level[:, oldest:].copy()

    def columns(self) -> np.ndarray:
        """Array of shape (5, columns), rows as named in this module."""
        return np.hstack(self._levels[::-1])


def _paired(columns: np.ndarray) -> np.ndarray:
    """Pairs of columns merged into one; of shape (5, n / 2)."""
    pairs: Any = columns.reshape(ROWS, -1, 2)
    count = pairs[COUNT].sum(axis=1)
    total = np.where(pairs[COUNT] > 0, pairs[MEAN] * pairs[COUNT], 0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return np.stack([pairs[STEP, :, 1], count, np.fmin.reduce(pairs[LOW], 1), np.fmax.reduce(pairs[HIGH], 1), mean])


def with_smoothed(columns: np.ndarray, weight: float) -> np.ndarray:
    """The columns with one more row: the exponentially weighted average at the end of each; of shape (6, n).

    It is corrected for its start (Kingma & Ba 2015, section 3). The values of a column count as equal to its mean.

    Args:
        columns: All columns from the first step on, of shape (5, n).
        weight: Weight of the past, from 0 to below 1.
    """
    count = columns[COUNT]
    kept = weight**count
    added = np.where(count > 0, (1 - kept) * columns[MEAN], 0)
    pairs = zip(kept.tolist(), added.tolist(), strict=True)
    totals = list(accumulate(pairs, lambda total, pair: pair[0] * total + pair[1], initial=0.0))[1:]
    norm = 1 - weight ** np.cumsum(count)
    return np.vstack([columns, np.divide(totals, norm, out=np.full(len(count), np.nan), where=norm > 0)])


def reduced(columns: np.ndarray, left: float, right: float, pixels: int) -> np.ndarray:
    """The columns between two steps, with one beyond each, at most one per pixel: its last, lowest and highest.

    Args:
        columns: Of shape (rows, n), by step.
        left: First step in sight.
        right: Last step in sight.
        pixels: Width of the chart.
    """
    first, last = np.searchsorted(columns[STEP], left) - 1, np.searchsorted(columns[STEP], right, "right") + 1
    columns = columns[:, max(first, 0) : last]
    if not columns.shape[1]:
        return columns
    bins = np.floor((columns[STEP] - left) * (pixels / (right - left)))
    starts = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
    thin = columns[:, np.append(starts[1:], columns.shape[1]) - 1]
    thin[LOW], thin[HIGH] = np.fmin.reduceat(columns[LOW], starts), np.fmax.reduceat(columns[HIGH], starts)
    thin[~np.isfinite(thin)] = np.nan
    return thin
