"""Training data as a step wants it: one source of batches of any size.

Now: arrays, on the device, gathered by index in the graph.
"""

import hashlib
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Arrays:
    """Examples in arrays that lie on the device, in the structure Keras hands to a step.

    Args:
        x: Array-like of shape (n, …), or a list, tuple or dict of them.
        y: Targets likewise, or None.
        sample_weight: Weights of shape (n,), or None.

    Raises:
        TypeError: If something is not array-like.
        ValueError: If the lengths differ, or there are no examples.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        if sample_weight is not None and keras.tree.is_nested(y) and not keras.tree.is_nested(sample_weight):
            weight = sample_weight  # of an example, whatever the output
            sample_weight = keras.tree.map_structure(lambda _: weight, y)
        parts = {"x": x, "y": y, "sample_weight": sample_weight}
        tensors = {name: _tensors(name, part) for name, part in parts.items() if part is not None}
        self.size = _common_length(tensors)
        if y is None:
            self.tensors: Any = tensors["x"] if not isinstance(tensors["x"], tuple) else (tensors["x"],)
        else:
            self.tensors = tuple(tensors.values())

    @property
    def spec(self) -> Any:
        """The shape and type of a batch in plain data: dicts, lists and `{"shape", "dtype"}`."""

        def plain(part: Any) -> Any:
            if isinstance(part, dict):
                return {name: plain(item) for name, item in part.items()}
            if isinstance(part, tuple):
                return [plain(item) for item in part]
            return {"shape": [None, *part.shape[1:]], "dtype": part.dtype.name}

        return plain(self.tensors)

    def fingerprint(self) -> str:
        """sha256 of shapes, types and up to 256 examples spread over the data, hexadecimal."""
        sha = hashlib.sha256()
        rows = np.unique(np.linspace(0, self.size - 1, min(self.size, 256)).astype(int))
        for array in keras.tree.flatten(self.tensors):
            sha.update(f"{array.dtype.name}{tuple(array.shape)};".encode())
            sha.update(tf.io.serialize_tensor(tf.gather(array, rows)).numpy())
        return sha.hexdigest()


def symbolic(spec: Any) -> Any:
    """The Keras tensors, without data, that a `spec` describes: what a model is built from."""
    if isinstance(spec, list):
        return tuple(symbolic(item) for item in spec)
    if isinstance(spec.get("dtype"), str):
        return keras.KerasTensor(tuple(spec["shape"]), spec["dtype"])
    return {name: symbolic(item) for name, item in spec.items()}


def split(arrays: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cuts the last `fraction` of every array off, for validation, as `Model.fit` does.

    Raises:
        ValueError: If a side would be left without examples.
    """
    first = next(array for array in keras.tree.flatten(arrays) if array is not None)
    size = len(first)
    at = math.floor(size * (1 - fraction))
    if not 0 < at < size:
        raise ValueError(
            f"`validation_split` must leave examples on both sides of the cut. Received: "
            f"validation_split={fraction} of {size} examples."
        )

    def cut(part: slice) -> tuple[Any, ...]:
        return tuple(keras.tree.map_structure(lambda array: _rows(array, part), arrays))

    return cut(slice(None, at)), cut(slice(at, None))


def _rows(array: Any, part: slice) -> Any:
    return array if array is None else array.iloc[part] if hasattr(array, "iloc") else array[part]


def _tensors(name: str, part: Any) -> Any:
    # Keras hands lists of inputs to a step as tuples.
    part = tuple(part) if isinstance(part, list) and any(np.ndim(item) for item in part) else part
    return keras.tree.map_structure(lambda array: _tensor(name, array), part)


def _tensor(name: str, array: Any) -> tf.Tensor:
    if not (tf.is_tensor(array) or hasattr(array, "__array__")):
        raise TypeError(
            f"`{name}` must be a NumPy array, a tensor, or a list or dict of them. "
            f"Received: {type(array).__name__}. Convert it with `np.asarray` first."
        )
    if hasattr(array, "iloc") and array.ndim == 1:
        array = array.to_frame()  # Keras hands a pandas series to a step as a column
    array = array if tf.is_tensor(array) else np.asarray(array)
    if not array.shape:
        raise ValueError(f"`{name}` must hold one row an example. Received: the single number {array}.")
    # Keras's adapters bring every float to floatx, and nothing else.
    if tf.as_dtype(array.dtype).is_floating:
        array = tf.cast(array, keras.config.floatx())
    return tf.convert_to_tensor(array)


def _common_length(tensors: dict[str, Any]) -> int:
    lengths = {name: {array.shape[0] for array in keras.tree.flatten(part)} for name, part in tensors.items()}
    sizes = set.union(*lengths.values())
    if len(sizes) > 1:
        found = ", ".join(f"`{name}` {'/'.join(map(str, sorted(length)))}" for name, length in lengths.items())
        raise ValueError(
            f"All arrays must hold the same number of examples. Received: {found}. Cut them to one length."
        )
    if sizes <= {0}:
        raise ValueError("`x` must hold at least one example. Received: none.")
    return int(sizes.pop())
