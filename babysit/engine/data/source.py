"""Whatever `Model.fit` takes as data, as one source of batches of any size.

Arrays lie on the device and are gathered by index in the graph; large or memory-mapped
ones stay on the host, which gathers the examples of the next steps alone. What comes
batch after batch is a stream.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.core.order import Shuffle
from babysit.engine.data.adapters import ArraysAdapter, batch_adapter, is_stream
from babysit.engine.data.arrays import Arrays
from babysit.engine.data.host import HostArrays
from babysit.engine.data.stream import Stream
from babysit.engine.data.window import Source, arrays_in
from babysit.engine.internals import ArrayDataAdapter, can_slice_array, is_scipy_sparse, train_validation_split

# Arrays of up to so many numbers together lie on the device: 1 GB of float32.
ON_DEVICE = 2**28


def source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: Shuffle = True,
    class_weight: Mapping[int, float] | None = None,
    seed: int = 0,
    steps_per_epoch: int | None = None,
) -> Source:
    """The data of a fit as a source of batches, whatever kind they are of.

    Args:
        x: What `Model.fit` takes: arrays or structures of them, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            generator.
        y: Targets, where `x` is arrays.
        sample_weight: Weights of the examples, where `x` is arrays.
        batch_size: Examples a step, where `x` is arrays; by default 32, or what makes `steps_per_epoch` steps.
        shuffle: Whether arrays, or the batches of a PyDataset, come in a new order each pass; `"batch"` shuffles
            arrays within each batch only.
        class_weight: Class -> weight of its examples.
        seed: With the pass it determines the order.
        steps_per_epoch: Steps an epoch.

    Raises:
        TypeError: If something is neither arrays nor a stream.
        ValueError: If the arguments do not go together, by Keras's rules, or there are no examples.
    """
    others = {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}
    if is_stream(x):
        return Stream(batch_adapter(x, shuffle, seed, steps_per_epoch, **others))
    _check_arrays(x=x, y=y, sample_weight=sample_weight)
    if class_weight is not None and y is None:
        raise ValueError("`class_weight` must come with targets. Received: y=None. Give `y`, or leave it out.")
    adapter = ArrayDataAdapter(x, batch_size=batch_size, steps=steps_per_epoch, **others)
    inputs = keras.tree.lists_to_tuples(adapter._inputs)
    if any(map(_is_sparse_or_ragged, arrays_in(inputs))):
        parts = keras.utils.unpack_x_y_sample_weight(inputs)
        return Stream(ArraysAdapter(parts, adapter.batch_size, shuffle, seed))
    is_large = sum(math.prod(array.shape) for array in arrays_in(inputs)) > ON_DEVICE
    kind = HostArrays if is_large or _any_on_disk(inputs) else Arrays
    return kind(inputs, adapter.batch_size, shuffle, seed)


def checked_shuffle(shuffle: Any) -> Shuffle:
    """Returns `shuffle` as True, False or `"batch"`.

    Raises:
        ValueError: If it is none of them.
    """
    if shuffle not in (True, False, "batch"):
        raise ValueError(f'`shuffle` must be True, False or "batch". Received: shuffle={shuffle!r}.')
    return "batch" if shuffle == "batch" else bool(shuffle)


def _check_arrays(**parts: Any) -> None:
    for name, part in parts.items():
        for array in arrays_in(part):
            if not (can_slice_array(array) and len(getattr(array, "shape", ()))):
                raise TypeError(
                    f"`{name}` must be a NumPy array or a tensor, with one row per example, or a list or dict of them. "
                    f"Received: {type(array).__name__}. Convert it with `np.asarray` first."
                )
    size = next((int(array.shape[0]) for array in arrays_in(parts["x"])), 0)
    if not size:
        raise ValueError("`x` must hold at least one example. Received: none.")


def _is_sparse_or_ragged(array: Any) -> bool:
    return isinstance(array, tf.SparseTensor | tf.RaggedTensor) or is_scipy_sparse(array)


def _any_on_disk(arrays: Any) -> bool:
    return any(isinstance(array, np.memmap) for array in arrays_in(arrays))


def split(arrays: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cuts the last `fraction` of every array off, for validation, as `Model.fit` does.

    Raises:
        ValueError: If they are no arrays, one is on disk, or a side would be left without examples.
    """
    if _any_on_disk(arrays):
        raise ValueError(
            "`validation_split` would read a memory-mapped array as a whole. Give `validation_data` instead: a slice."
        )
    parts: tuple[Any, Any] = train_validation_split(arrays, fraction)
    return parts
