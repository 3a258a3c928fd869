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

from babysit.core.position import FitSpec, Position
from babysit.engine.data.arrays import Arrays, is_other_float
from babysit.engine.data.window import Window, arrays_in, map_arrays

# What is gathered for the next steps takes about this much memory; twice, with what is gathered meanwhile.
GATHER_BYTES = 64 * 2**20


class HostArrays(Arrays):
    """Examples in arrays too large for the device, or on disk: gathered for the next steps alone.

    While these run, a thread gathers those after them, in NumPy. No array is copied as a whole.
    """

    _bytes = GATHER_BYTES

    def _prepared(self, array: Any) -> Any:
        return _Array(array)

    def _keep(self, data: Any) -> None:
        self._arrays = data
        self._example_bytes = max(1, sum(array.example_bytes for array in arrays_in(data)))
        self._next: Future[_Stretch] | None = None
        self._present: _Stretch | None = None

    def _rows(self, rows: np.ndarray) -> Any:
        return map_arrays(lambda array: tf.convert_to_tensor(array[rows]), self._arrays)

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`."""
        key, start = self._key(position, fit), self._checked(position)
        present = self._present
        if present is None or not self._holds(present, key, start, batch_size):
            most = max(1, self._bytes // (batch_size * self._example_bytes))
            present = self._advance(key, start, batch_size, min(steps, most))
        left = present.stop - start
        count = -(-left // batch_size) if present.stop == self.size else left // batch_size
        offset = start - present.start
        return self._window(present.data, present.order, offset, position, batch_size, min(steps, count), fit)

    def _holds(self, stretch: "_Stretch", key: Any, start: int, batch_size: int) -> bool:
        """Whether the next step's examples lie in a stretch."""
        return stretch.key == key and stretch.start <= start and min(start + batch_size, self.size) <= stretch.stop

    def _advance(self, key: Any, start: int, batch_size: int, steps: int) -> "_Stretch":
        """Moves on to the next stretch, and has the one after it gathered meanwhile."""
        stretch, order = self._next.result() if self._next is not None else None, self._order(key)
        if stretch is None or not self._holds(stretch, key, start, batch_size):
            stretch = self._gather(key, start, order, batch_size * steps)
        convert = tf.convert_to_tensor
        self._present = stretch._replace(data=map_arrays(convert, stretch.data), order=convert(stretch.order))
        following = key, stretch.stop, order, batch_size * steps
        self._next = self._in_background(self._gather, *following) if stretch.stop < self.size else None
        return self._present

    def _make_order(self, key: Any) -> np.ndarray:
        return self._permutation(key)

    def _gather(self, key: Any, start: int, order: np.ndarray, count: int) -> "_Stretch":
        """The examples from `start` on, in NumPy: rows in rising order, as disks like it, and where each is wanted."""
        wanted = order[start : start + count]
        rising = np.argsort(wanted, kind="stable")
        place = np.empty_like(wanted)
        place[rising] = np.arange(len(wanted), dtype=wanted.dtype)
        data = map_arrays(lambda array: array[wanted[rising]], self._arrays)
        return _Stretch(key, start, start + len(wanted), data, place)


class _Stretch(NamedTuple):
    """The examples from `start` to `stop` in the order of a pass."""

    key: Any
    start: int
    stop: int
    data: Any
    order: Any


class _Array:
    """An array of which rows are read, as Keras's adapters would hand them to a step."""

    def __init__(self, array: Any) -> None:
        frame = hasattr(array, "iloc")
        types = list(array.dtypes) if frame and array.ndim == 2 else [array.dtype]
        if tf.is_tensor(array):
            array = array.numpy()
        self._array = array.to_numpy().reshape(len(array), -1) if frame else array
        floating = any(is_other_float(dtype) for dtype in types)
        self.dtype = np.dtype(keras.config.floatx() if floating else self._array.dtype)
        self.shape = tuple(self._array.shape)
        self.example_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Copies of the rows, which must be in rising order."""
        together = rows[-1] - rows[0] + 1 == len(rows)
        part = self._array[int(rows[0]) : int(rows[-1]) + 1] if together else self._array[rows]
        return np.asarray(part).astype(self.dtype, copy=together)
