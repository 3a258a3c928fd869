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
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils

from babysit.core.position import FitSpec, Position
from babysit.engine.data.arrays import Arrays
from babysit.engine.data.background import in_background
from babysit.engine.data.window import Window, arrays_in, map_arrays

# What is gathered for the next steps takes about this much memory; twice, with what is gathered meanwhile.
GATHER_BYTES = 64 * 2**20


class HostArrays(Arrays):
    """Examples in arrays too large for the device, or on disk: gathered for the next steps alone.

    No array on disk is copied as a whole.
    """

    _bytes = GATHER_BYTES
    _next: "Future[_Stretch] | None" = None
    _present: "_Stretch | None" = None

    def _keep(self, arrays: Any) -> None:
        self._arrays = map_arrays(_in_numpy, arrays)

    def _rows(self, rows: np.ndarray) -> Any:
        return map_arrays(tf.convert_to_tensor, self._read(rows))

    def _read(self, rows: np.ndarray) -> Any:
        return map_arrays(lambda array: _read(array, rows), self._arrays)

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`."""
        order, start = self._order_of(position, fit), position.example
        present = self._present
        if present is None or not self._holds(present, order, start, batch_size):
            bytes_ = sum(math.prod(array.shape[1:]) * array.dtype.itemsize for array in arrays_in(self._arrays))
            most = max(1, self._bytes // max(1, batch_size * bytes_))
            present = self._advance(order, start, batch_size, min(steps, most))
        left = present.stop - start
        count = -(-left // batch_size) if present.stop == self.size else left // batch_size
        offset = start - present.start
        return self._window(present.data, present.place, offset, position, batch_size, min(steps, count), fit)

    def _holds(self, stretch: "_Stretch", order: np.ndarray, start: int, batch_size: int) -> bool:
        """Whether the next step's examples lie in a stretch."""
        return stretch.order is order and stretch.start <= start and min(start + batch_size, self.size) <= stretch.stop

    def _advance(self, order: np.ndarray, start: int, batch_size: int, steps: int) -> "_Stretch":
        """Moves on to the next stretch, and has the one after it gathered meanwhile."""
        stretch = self._next.result() if self._next is not None else None
        if stretch is None or not self._holds(stretch, order, start, batch_size):
            stretch = self._gather(order, start, batch_size * steps)
        self._present = present = stretch._replace(
            data=map_arrays(tf.convert_to_tensor, stretch.data), place=tf.convert_to_tensor(stretch.place)
        )
        over = stretch.stop == self.size
        self._next = None if over else in_background(self._gather, order, stretch.stop, batch_size * steps)
        return present

    def _made(self, order: np.ndarray) -> np.ndarray:
        return order

    def _gather(self, order: np.ndarray, start: int, count: int) -> "_Stretch":
        """The examples from `start` on, in NumPy: rows in rising order, as disks like it, and where each is wanted."""
        wanted = order[start : start + count]
        rising = np.argsort(wanted, kind="stable")
        place = np.empty_like(wanted)
        place[rising] = np.arange(len(wanted), dtype=wanted.dtype)
        return _Stretch(order, start, start + len(wanted), self._read(wanted[rising]), place)


class _Stretch(NamedTuple):
    """The examples from `start` to `stop` in the order of a pass."""

    order: np.ndarray
    start: int
    stop: int
    data: Any
    place: Any


def is_on_disk(array: Any) -> bool:
    """Whether an array is memory-mapped, or one of a file as h5py gives it: one of no kind that lies in memory."""
    utils = data_adapter_utils
    if isinstance(array, np.ndarray):
        return isinstance(array, np.memmap)
    kinds = (utils.is_tensorflow_tensor, utils.is_jax_array, utils.is_torch_tensor, utils.is_scipy_sparse)
    return not (hasattr(array, "iloc") or any(kind(array) for kind in kinds)) and hasattr(array, "__getitem__")


def _in_numpy(array: Any) -> Any:
    if is_on_disk(array):
        return array
    return np.asarray(array_slicing.convert_to_sliceable(array, target_backend="tensorflow"))


def _read(array: Any, rows: np.ndarray) -> np.ndarray:
    """Copies of the rows, which must be in rising order, as Keras's adapters would hand them to a step."""
    together = rows[-1] - rows[0] + 1 == len(rows)
    part = np.asarray(array[int(rows[0]) : int(rows[-1]) + 1] if together else array[rows])
    other_float = "float" in part.dtype.name and part.dtype.name != keras.config.floatx()
    return part.astype(keras.config.floatx() if other_float else part.dtype, copy=together)
