"""Whatever `Model.fit` takes as data, as one source of batches of any size.

Arrays lie on the device and are gathered by index in the graph; large or memory-mapped
ones stay on the host, which gathers the examples of the next steps alone. What comes
batch after batch is a stream.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

from babysit.core.order import Shuffle
from babysit.engine.data.adapters import SparseAdapter, batch_adapter, is_stream
from babysit.engine.data.arrays import Arrays
from babysit.engine.data.host import HostArrays, is_on_disk
from babysit.engine.data.stream import Stream
from babysit.engine.data.window import Source, arrays_in, map_arrays

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
        ValueError: If the arguments do not go together, by Keras's rules, or there are no examples.
    """
    others = {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}
    if is_stream(x):
        return Stream(batch_adapter(x, shuffle, seed, steps_per_epoch, **others))
    _check_arrays(x=x, y=y, sample_weight=sample_weight)
    if class_weight is not None and y is None:
        raise ValueError("`class_weight` must come with targets. Received: y=None. Give `y`, or leave it out.")
    adapter = ArrayDataAdapter(x, batch_size=batch_size, steps=steps_per_epoch, **others)
    inputs, batch_size = keras.tree.lists_to_tuples(adapter._inputs), adapter.batch_size
    arrays = arrays_in(inputs)
    if any(_is_sparse(array) for array in arrays):
        return Stream(SparseAdapter(keras.utils.unpack_x_y_sample_weight(inputs), batch_size, shuffle, seed))
    kind = HostArrays if _stay_on_host(arrays) else Arrays
    return kind(inputs, batch_size, shuffle, seed)


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
            if not (array_slicing.can_slice_array(array) and len(getattr(array, "shape", ()))):
                raise TypeError(
                    f"`{name}` must be a NumPy array or a tensor, with one row an example, or a list or dict of them. "
                    f"Received: {type(array).__name__}. Convert it with `np.asarray` first."
                )
    size = next((int(array.shape[0]) for array in arrays_in(parts["x"])), 0)
    if not size:
        raise ValueError("`x` must hold at least one example. Received: none.")


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
    _check_arrays(**dict(zip(("x", "y", "sample_weight"), arrays, strict=False)))
    size = int(arrays_in(arrays)[0].shape[0])
    at = math.floor(size * (1 - fraction))
    if not 0 < at < size:
        raise ValueError(
            f"`validation_split` must leave examples on both sides of the cut. Received: "
            f"validation_split={fraction} of {size} examples."
        )

    def cut(start: int, stop: int) -> tuple[Any, ...]:
        return tuple(map_arrays(lambda array: _sliceable(array)[start:stop], arrays))

    return cut(0, at), cut(at, size)


def _sliceable(array: Any) -> Any:
    """An array, or Keras's wrapper of it, which would read one on disk as a whole."""
    return array if is_on_disk(array) else array_slicing.convert_to_sliceable(array)


def _is_sparse(array: Any) -> bool:
    """Whether an array is sparse, in SciPy, TensorFlow or JAX."""
    utils = data_adapter_utils
    return any(kind(array) for kind in (utils.is_scipy_sparse, utils.is_tensorflow_sparse, utils.is_jax_sparse))
