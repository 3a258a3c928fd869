"""Arrays too large for the device, or on disk, as one source of batches of any size.

The host gathers the examples of the next steps alone, and those after them while these
run: in NumPy, on a thread of its own, a bounded number of bytes at a time.
"""

import math
from concurrent.futures import Future
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.data.adapters import in_background
from babysit.engine.data.arrays import Arrays
from babysit.engine.data.window import arrays_in, map_arrays
from babysit.engine.internals import convert_to_sliceable

# What is gathered for the next steps takes about this much memory; twice, with what is gathered meanwhile.
GATHER_BYTES = 64 * 2**20


class HostArrays(Arrays):
    """Examples in arrays too large for the device, or on disk: gathered for the next steps alone.

    No array on disk is copied as a whole.
    """

    _bytes = GATHER_BYTES
    _next: "Future[_Stretch] | None" = None
    _present: "_Stretch | None" = None
    _as_order = staticmethod(np.asarray)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.signature = self.signature[0], None

    def _keep(self, arrays: Any) -> None:
        self._arrays = map_arrays(_in_numpy, arrays)

    def _rows(self, rows: np.ndarray) -> Any:
        return map_arrays(lambda array: tf.convert_to_tensor(_read(array, rows)), self._arrays)

    def _place(self, at: int, batch_size: int) -> tuple[Any, Any, int, int]:
        if (present := self._present) is None or not self._holds(present, at, batch_size):
            present = self._present = self._advance(at, batch_size)
        return present.data, None, at - present.start, present.stop

    def _holds(self, stretch: "_Stretch", at: int, batch_size: int) -> bool:
        """Whether the next step's examples lie in a stretch."""
        is_within = stretch.start <= at and min(at + batch_size, self.size) <= stretch.stop
        return stretch.order is self._order and is_within

    def _advance(self, at: int, batch_size: int) -> "_Stretch":
        """Moves on to the next stretch, and has the one after it gathered meanwhile."""
        step_bytes = batch_size * sum(math.prod(one.shape[1:]) * one.dtype.itemsize for one in arrays_in(self._arrays))
        count = batch_size * max(1, self._bytes // max(1, step_bytes))
        stretch = None if self._next is None else self._next.result()
        if stretch is None or not self._holds(stretch, at, batch_size):
            stretch = self._gather(self._order, at, count)
        over = stretch.stop == self.size
        self._next = None if over else in_background(self._gather, self._order, stretch.stop, count)
        return stretch._replace(data=map_arrays(tf.convert_to_tensor, stretch.data))

    def _gather(self, order: np.ndarray, start: int, count: int) -> "_Stretch":
        rows = order[start : start + count]
        return _Stretch(order, start, start + len(rows), map_arrays(lambda array: _read(array, rows), self._arrays))


class _Stretch(NamedTuple):
    """The examples from `start` to `stop` in the order of a pass, gathered."""

    order: np.ndarray
    start: int
    stop: int
    data: Any


def _in_numpy(array: Any) -> Any:
    if isinstance(array, np.memmap):
        return array
    return np.asarray(convert_to_sliceable(array, target_backend="tensorflow"))


def _read(array: Any, rows: np.ndarray) -> np.ndarray:
    """Copies of the rows, as Keras's adapters would hand them to a step."""
    part = np.asarray(array[rows])
    return part.astype(keras.config.floatx(), copy=False) if "float" in part.dtype.name else part
