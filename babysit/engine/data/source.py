"""Whatever `Model.fit` takes as data, as one source of batches of any size.

Arrays lie on the device and are gathered by index in the graph; large or memory-mapped
ones stay on the host, which gathers the examples of the next steps alone. What comes
batch after batch is a stream.
"""

import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.core.order import Shuffle
from babysit.engine.data.adapters import SparseAdapter, batch_adapter, is_stream
from babysit.engine.data.arrays import Arrays, common_length, is_on_disk, is_sparse, packed
from babysit.engine.data.host import HostArrays
from babysit.engine.data.stream import Stream
from babysit.engine.data.window import Source, Window, arrays_in, symbolic

__all__ = ["Arrays", "HostArrays", "Source", "Stream", "Window", "checked_shuffle", "source", "split", "symbolic"]

# Arrays up to this share of the device's memory lie on the device.
DEVICE_SHARE = 0.25


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
        x: What `Model.fit` takes: arrays or structures of them, a `tf.data.Dataset`, a `keras.utils.PyDataset`,
            a generator, a torch `DataLoader` or a grain dataset.
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
        ValueError: If the arguments do not go together, or there are no examples.
    """
    shuffle = checked_shuffle(shuffle)
    if is_stream(x):
        _check_alone(x, y=y, sample_weight=sample_weight)
        return Stream(batch_adapter(x, class_weight, shuffle, seed, steps_per_epoch))
    parts = packed(x, y, sample_weight, class_weight)
    size = common_length(parts)
    batch_size = batch_size or (math.ceil(size / steps_per_epoch) if steps_per_epoch else 32)
    arrays = arrays_in(list(parts.values()))
    if any(is_sparse(array) for array in arrays):
        return Stream(SparseAdapter(tuple(parts.values()), batch_size, shuffle, seed))
    kind = HostArrays if _stay_on_host(arrays) else Arrays
    return kind(*parts.values(), batch_size=batch_size, shuffle=shuffle, seed=seed)


def checked_shuffle(shuffle: Any) -> Shuffle:
    """Returns `shuffle` as True, False or `"batch"`; 1 and 0, and NumPy's own, count as True and False.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(shuffle, str) and shuffle == "batch":
        return "batch"
    if isinstance(shuffle, bool | np.bool_ | numbers.Integral) and shuffle in (0, 1):
        return bool(shuffle)
    raise ValueError(f'`shuffle` must be True, False or "batch". Received: shuffle={shuffle!r}.')


def _check_alone(x: Any, **others: Any) -> None:
    for name, other in others.items():
        if other is not None:
            raise ValueError(
                f"`{name}` must be left out where `x` brings its own. Received: x of type {type(x).__name__} "
                f"and {name} of type {type(other).__name__}. Let `x` give tuples of (x, y) or (x, y, sample_weight)."
            )


def _stay_on_host(arrays: list[Any]) -> bool:
    if any(is_on_disk(array) for array in arrays):
        return True
    if any(isinstance(array, tf.RaggedTensor) for array in arrays):
        return False
    return sum(map(_size_bytes, arrays)) > DEVICE_SHARE * _device_memory_bytes()


def _size_bytes(array: Any) -> int:
    if hasattr(array, "nbytes"):
        return int(array.nbytes)
    return int(math.prod(array.shape)) * 8  # a data frame, whose columns have types of their own, or strings


def _device_memory_bytes() -> int:
    if tf.config.list_physical_devices("GPU"):
        from tensorflow.python.client import device_lib

        devices = device_lib.list_local_devices()
        return min(int(device.memory_limit) for device in devices if device.device_type == "GPU")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**63


def split(arrays: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cuts the last `fraction` of every array off, for validation, as `Model.fit` does.

    Raises:
        ValueError: If they are no arrays, or a side would be left without examples.
    """
    if is_stream(arrays[0]):
        raise ValueError(
            f"`validation_split` must come with arrays. Received: x of type {type(arrays[0]).__name__}. "
            "Give `validation_data` instead."
        )
    first = next(array for array in keras.tree.flatten(arrays) if array is not None)
    size = int(first.shape[0]) if hasattr(first, "shape") else len(first)
    at = math.floor(size * (1 - fraction))
    if not 0 < at < size:
        raise ValueError(
            f"`validation_split` must leave examples on both sides of the cut. Received: "
            f"validation_split={fraction} of {size} examples."
        )

    def cut(part: slice) -> tuple[Any, ...]:
        return tuple(keras.tree.map_structure(lambda array: _rows(array, part), arrays))

    return cut(slice(0, at)), cut(slice(at, size))


def _rows(array: Any, part: slice) -> Any:
    if isinstance(array, tf.SparseTensor):
        return tf.sparse.slice(
            array, [part.start, *[0] * (len(array.shape) - 1)], [part.stop - part.start, *array.shape[1:]]
        )
    if is_sparse(array):
        array = array.tocsr()
    return array if array is None else array.iloc[part] if hasattr(array, "iloc") else array[part]
