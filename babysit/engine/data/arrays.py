"""Examples in arrays, as one source of batches of any size.

They lie on the device and are gathered by index in the graph.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from babysit.core.order import Shuffle, permutation
from babysit.core.position import FitSpec, Position
from babysit.engine.data.window import (
    Source,
    Window,
    arrays_in,
    described,
    fingerprint_of,
    map_arrays,
    signature_of,
)
from babysit.engine.internals import convert_to_sliceable


class Arrays(Source):
    """Examples in arrays that lie on the device.

    Args:
        arrays: Of shape (n, …), in the structure Keras hands to a step.
        batch_size: Examples a step.
        shuffle: Whether the order is shuffled anew each pass, or `"batch"`.
        seed: With the pass it determines the order.
    """

    size: int
    _key: Any = None  # of the pass that `_order` is of
    _order: Any
    _as_order = staticmethod(tf.constant)  # where the examples lie, their order lies too

    def __init__(self, arrays: Any, batch_size: int, shuffle: Shuffle, seed: int) -> None:
        self.size, self.shuffle = int(arrays_in(arrays)[0].shape[0]), shuffle
        self.batch_size = min(batch_size, self.size)
        self.static_size = self.batch_size if batch_size <= self.size else None
        self._seed = seed
        self._keep(arrays)
        examples = self._rows(np.unique(np.linspace(0, self.size - 1, min(self.size, 256)).astype(int)))
        self.spec = described(map_arrays(tf.type_spec_from_value, examples))
        self.signature = signature_of(self.spec), tf.TensorSpec([None], tf.int32 if self.size < 2**31 else tf.int64)
        self.fingerprint = fingerprint_of(self.spec, self.size, examples)

    def _keep(self, arrays: Any) -> None:
        self.tensors = map_arrays(_tensor, arrays)

    def _rows(self, rows: np.ndarray) -> Any:
        """Tensors of the examples at these rows, which must be in rising order."""
        return map_arrays(lambda array: tf.gather(array, rows), self.tensors)

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`."""
        at, key = position.example, (position.data_pass, fit.shuffle, fit.batch_size)
        if at > self.size:
            raise ValueError(
                f"The run stood after {at:,} examples, and the data hold only {self.size:,}. "
                "Give the data that the run began with."
            )
        if key != self._key:
            self._key, self._order = key, self._as_order(permutation(self.size, self._seed, *key))
        data, order, offset, stop = self._place(at, batch_size)
        count = min(steps, math.ceil((stop - at) / batch_size) if stop == self.size else (stop - at) // batch_size)
        # `Model.fit` makes the size of its batches known to the graph where they are all alike.
        unchanged = batch_size == fit.batch_size and self.static_size is not None
        static_size = batch_size if unchanged and self.size % batch_size == at % batch_size == 0 else None
        return Window(data, order, offset, batch_size, count, min(count * batch_size, self.size - at), static_size)

    def _place(self, at: int, batch_size: int) -> tuple[Any, Any, int, int]:
        """(data, order, place in it of the next example, the example at which the data end)."""
        return self.tensors, self._order, at, self.size

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited."""
        return position.example >= self.size

    def steps_left(self, position: Position, batch_size: int) -> int:
        """How many steps the pass still has at a batch size."""
        return math.ceil((self.size - position.example) / batch_size)


def _tensor(array: Any) -> Any:
    return tf.convert_to_tensor(convert_to_sliceable(array, target_backend="tensorflow"))
