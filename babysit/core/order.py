"""The order in which examples are visited, and how far the visit has come.

The order of a pass follows from (seed, pass) alone, so that these two and the cursor
say everything about it: there is nothing else to save.
"""

import math
from typing import Any

import numpy as np


class Sampler:
    """Visits every example exactly once an epoch, in batches of any size.

    Args:
        size: How many examples there are.
        seed: Any whole number from 0 on; with the epoch it determines the order.
        shuffle: Whether the order is shuffled anew each epoch; `"batch"` shuffles only within
            consecutive stretches of `batch_size` examples, as Keras does.
        batch_size: The length of those stretches.
    """

    def __init__(self, size: int, seed: int, shuffle: bool | str = True, batch_size: int = 32) -> None:
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.shuffle: Any = shuffle
        self.epoch = 0
        self.cursor = 0

    @property
    def order(self) -> np.ndarray:
        """The present epoch's order: an int32 (or int64) permutation of shape (size,)."""
        return self.order_of(self.epoch)

    def order_of(self, epoch: int) -> np.ndarray:
        """That of any epoch."""
        dtype = np.int32 if self.size < 2**31 else np.int64
        if not self.shuffle:
            return np.arange(self.size, dtype=dtype)
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        if self.shuffle != "batch":
            return rng.permutation(self.size).astype(dtype)
        return self._within_batches(rng, np.arange(self.size, dtype=dtype))

    def _within_batches(self, rng: np.random.Generator, order: np.ndarray) -> np.ndarray:
        whole = self.size - self.size % self.batch_size
        batches = rng.permuted(order[:whole].reshape(-1, self.batch_size), axis=1)
        return np.concatenate([batches.ravel(), rng.permutation(order[whole:])])

    @property
    def finished(self) -> bool:
        """Whether every example of this epoch has been visited."""
        return self.cursor >= self.size

    def steps_left(self, batch_size: int) -> int:
        """How many steps this epoch still takes at a batch size."""
        return math.ceil((self.size - self.cursor) / batch_size)

    def advance(self, steps: int, batch_size: int) -> None:
        """Moves on by a number of batches; the last one of an epoch may be smaller."""
        self.cursor = min(self.cursor + steps * batch_size, self.size)

    def next_epoch(self) -> None:
        """Begins the next epoch."""
        self.epoch, self.cursor = self.epoch + 1, 0

    def restore(self, epoch: int, cursor: int) -> None:
        """Returns to where the visit stood at another time."""
        self.epoch, self.cursor = epoch, cursor
