"""The examples of one step, out of those of many."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def batch_at(data: Any, order: Any, start: Any, batch_size: Any, static_size: int | None = None) -> Any:
    """The examples of a step: `order[start : start + batch_size]`, or as they lie without an `order`."""
    if order is None:
        return map_parts(lambda part: _rows(part, start, batch_size, static_size), data)
    index = _rows(order, start, batch_size, static_size)
    return map_parts(lambda part: tf.gather(part, index), data)


def _rows(part: Any, start: Any, batch_size: Any, static_size: int | None) -> Any:
    if isinstance(part, tf.SparseTensor):
        return part  # which cannot be cut: it is the batch
    if static_size is None or isinstance(part, tf.RaggedTensor):
        return part[start : start + batch_size]
    if isinstance(batch_size, int):  # in an XLA program, which would be compiled anew for each start of a slice
        return tf.gather(part, start + tf.range(static_size, dtype=start.dtype))
    shape = [-1 if size is None else size for size in part.shape[1:]]
    return tf.slice(part, [start] + [0] * len(shape), [static_size, *shape])


def map_parts(function: Callable[[Any], Any], data: Any) -> Any:
    """Applies a function to each tensor of a batch."""
    return keras.tree.map_structure(lambda part: part if part is None else function(part), data)


def length_of(data: Any, order: Any) -> int:
    """How many examples there are."""
    part = next(part for part in keras.tree.flatten(data) if part is not None) if order is None else order
    return int(part.nrows()) if isinstance(part, tf.RaggedTensor) else int(part.shape[0])
