"""Arrays too large for the device, or on disk, as one source of batches of any size.

The host gathers the examples of the next steps alone, and those behind them while these
run: in NumPy, on a thread of its own, a bounded number of bytes at a time.
"""

import math
from concurrent.futures import Future
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.data.arrays import Arrays, is_other_float
from babysit.engine.data.window import Piece

# What is gathered for the next steps takes about this much memory; twice, with what is gathered meanwhile.
GATHER_BYTES = 64 * 2**20


class HostArrays(Arrays):
    """Examples in arrays too large for the device, or on disk: gathered for the next steps alone.

    While these run, a thread gathers those behind them, in NumPy. No array is copied as a whole.
    """

    _bytes = GATHER_BYTES

    def _prepared(self, array: Any) -> Any:
        return _Array(array)

    def _keep(self, data: Any) -> None:
        self._arrays = data
        self._example_bytes = max(1, sum(array.example_bytes for array in keras.tree.flatten(data)))
        self._ahead: Future[_Window] | None = None
        self._window: _Window | None = None

    def declare(self, shuffle: bool | str, batch_size: int) -> None:
        """See `Arrays.declare`; what was gathered is of the order before."""
        super().declare(shuffle, batch_size)
        if not self._orders:
            self._window = self._ahead = None

    def _rows(self, rows: np.ndarray) -> Any:
        return keras.tree.map_structure(lambda array: tf.convert_to_tensor(array[rows]), self._arrays)

    def piece(self, batch_size: int, steps: int) -> Piece:
        """The examples of the next steps, without moving on.

        Args:
            batch_size: Examples a step.
            steps: How many at most, 1 or more.
        """
        if not self._holds(self._window, batch_size):
            self._turn(batch_size, min(steps, max(1, self._bytes // (batch_size * self._example_bytes))))
        window = self._window
        assert window is not None
        left = window.stop - self._sampler.cursor
        count = math.ceil(left / batch_size) if window.stop == self.size else left // batch_size
        cursor = self._sampler.cursor - window.start
        return Piece(window.data, window.order, cursor, batch_size, min(steps, count), self._fixed(batch_size))

    def _holds(self, window: "_Window | None", batch_size: int) -> bool:
        """Whether the next step's examples lie in a window."""
        number, cursor = self.place
        if window is None or window.number != number:
            return False
        return window.start <= cursor and min(cursor + batch_size, self.size) <= window.stop

    def _turn(self, batch_size: int, steps: int) -> None:
        """Takes the next window, and has the one behind it gathered meanwhile."""
        window = self._ahead.result() if self._ahead is not None else None
        if window is None or not self._holds(window, batch_size):
            window = self._gathered(*self.place, self._pass_order, batch_size * steps)
        convert = tf.convert_to_tensor
        self._window = window._replace(
            data=keras.tree.map_structure(convert, window.data), order=convert(window.order)
        )  # fmt: skip
        next_one = (window.number, window.stop, self._pass_order, batch_size * steps)
        self._ahead = self._beside(self._gathered, *next_one) if window.stop < self.size else None

    def _order_of(self, number: int) -> np.ndarray:
        return self._sampler.order_of(number)

    def _gathered(self, number: int, start: int, order: np.ndarray, count: int) -> "_Window":
        """The examples from `start` on, in NumPy: rows in rising order, as disks like it, and where each is wanted."""
        wanted = order[start : start + count]
        rising = np.argsort(wanted, kind="stable")
        place = np.empty_like(wanted)
        place[rising] = np.arange(len(wanted), dtype=wanted.dtype)
        data = keras.tree.map_structure(lambda array: array[wanted[rising]], self._arrays)
        return _Window(number, start, start + len(wanted), data, place)


class _Window(NamedTuple):
    """The examples from `start` to `stop` in the order of a pass."""

    number: int
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
