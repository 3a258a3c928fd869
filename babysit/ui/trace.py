"""A trace: the losses of one branch, in a bounded number of columns however many steps it has."""

import math

import numpy as np

COLUMNS = 512


class Trace:
    """The losses of one branch, in at most `COLUMNS` columns: lowest, highest, smoothed.

    The smoothed line is the exponentially weighted average of the loss, corrected for its
    start (Kingma & Ba 2015, section 3).

    Args:
        start: Steps done where the branch begins.
        smoothing: Weight of the past, from 0 to below 1.
        average: The average at its start, and how many steps it has seen.
    """

    def __init__(self, start: int, smoothing: float = 0.97, average: tuple[float, int] = (0.0, 0)) -> None:
        self.start, self.width = start, 1
        self._smoothing = smoothing
        self._sum, self._weight = (average[0] * (1 - smoothing ** average[1]), 1 - smoothing ** average[1])
        self._columns = np.empty((3, 0))
        self._open: list[tuple[float, float]] = []  # (loss, average) of the column not yet full

    def append(self, losses: np.ndarray) -> None:
        """Adds the losses of the next steps."""
        for loss in losses.tolist():
            if math.isfinite(loss):
                self._sum = self._smoothing * self._sum + (1 - self._smoothing) * loss
                self._weight = self._smoothing * self._weight + (1 - self._smoothing)
            self._open.append((loss, self._sum / self._weight if self._weight else loss))
        whole = len(self._open) // self.width * self.width
        if whole:
            self._columns = np.hstack([self._columns, _columns(self._open[:whole], self.width)])
            del self._open[:whole]
        while self._columns.shape[1] > COLUMNS:
            self._halve()

    def _halve(self) -> None:
        if self._columns.shape[1] % 2:
            # What the last column held is known by its extremes; that is all it will tell again.
            low, high, average = self._columns[:, -1]
            self._open = [(low, average), *[(high, average)] * (self.width - 1), *self._open]
            self._columns = self._columns[:, :-1]
        pairs = self._columns.reshape(3, -1, 2)
        self._columns = np.stack([np.fmin.reduce(pairs[0], 1), np.fmax.reduce(pairs[1], 1), pairs[2, :, 1]])
        self.width *= 2

    @property
    def end(self) -> int:
        """Steps done where the branch ends for now."""
        return self.start + self._columns.shape[1] * self.width + len(self._open)

    def points(self, end: float = math.inf) -> np.ndarray:
        """Array of shape (4, columns): step, lowest, highest and smoothed loss, up to a step."""
        columns = self._columns
        steps = self.start + self.width * np.arange(1, columns.shape[1] + 1)
        if self._open:
            columns = np.hstack([columns, _columns(self._open, len(self._open))])
            steps = np.append(steps, self.end)
        inside = steps <= end
        return np.vstack([steps, columns])[:, inside]

    def average_at(self, step: int) -> tuple[float, int]:
        """The smoothed loss at a step, and how many steps it stands for."""
        smoothed = self.points(step)[3]
        return (float(smoothed[-1]), step - self.start) if smoothed.size else (0.0, 0)


def _columns(pairs: list[tuple[float, float]], width: int) -> np.ndarray:
    table = np.array(pairs).reshape(-1, width, 2)
    losses = table[:, :, 0]
    return np.stack([np.fmin.reduce(losses, 1), np.fmax.reduce(losses, 1), table[:, -1, 1]])
