"""Examples in arrays, as one source of batches of any size.

They lie on the device and are gathered by index in the graph.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters import array_slicing

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


class Arrays(Source):
    """Examples in arrays that lie on the device.

    Args:
        arrays: Of shape (n, …), in the structure Keras hands to a step.
        batch_size: Examples a step.
        shuffle: Whether the order is shuffled anew each pass, or `"batch"`.
        seed: With the pass it determines the order.
    """

    size: int

    def __init__(self, arrays: Any, batch_size: int, shuffle: Shuffle, seed: int) -> None:
        self.size, self.shuffle = int(arrays_in(arrays)[0].shape[0]), shuffle
        self.batch_size = min(batch_size, self.size)
        self.static_size = self.batch_size if batch_size <= self.size else None
        self._seed, self._order_key, self._order = seed, _OrderKey(-1, False, 0), None
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
        order = self._order_of(position, fit)
        return self._window(self.tensors, order, position.example, position, batch_size, steps, fit)

    def _window(
        self,
        data: Any,
        order: Any,
        offset: int,
        position: Position,
        batch_size: int,
        steps: int,
        fit: FitSpec,
    ) -> Window:
        count = min(steps, self.steps_left(position, batch_size))
        examples = min(count * batch_size, self.size - position.example)
        return Window(data, order, offset, batch_size, count, examples, self._static_size(position, batch_size, fit))

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited."""
        return position.example >= self.size

    def steps_left(self, position: Position, batch_size: int) -> int:
        """How many steps the pass still has at a batch size."""
        return -(-(self.size - position.example) // batch_size)

    def _order_of(self, position: Position, fit: FitSpec) -> Any:
        """The order of the pass, made when it begins.

        Raises:
            ValueError: If it has no such place.
        """
        if position.example > self.size:
            raise ValueError(
                f"The data have no place after {position.example} examples; they are {self.size}. "
                "Give the data that the run began with."
            )
        key = _OrderKey(
            position.data_pass if fit.shuffle else 0, fit.shuffle, fit.batch_size if fit.shuffle == "batch" else 0
        )
        if key != self._order_key:
            self._order_key, self._order = key, self._made(permutation(self.size, self._seed, *key))
        return self._order

    def _made(self, order: np.ndarray) -> Any:
        return tf.constant(order)

    def _static_size(self, position: Position, batch_size: int, fit: FitSpec) -> int | None:
        # `Model.fit` makes the size of its batches known to the graph where they are all alike.
        unchanged = batch_size == fit.batch_size and self.static_size is not None
        return batch_size if unchanged and self.size % batch_size == position.example % batch_size == 0 else None


class _OrderKey(NamedTuple):
    """What the order of a pass depends on, besides the seed."""

    data_pass: int
    shuffle: Shuffle
    batch_size: int


def _tensor(array: Any) -> Any:
    array = array_slicing.convert_to_sliceable(array, target_backend="tensorflow")
    return array if isinstance(array, tf.RaggedTensor) else tf.convert_to_tensor(array)
