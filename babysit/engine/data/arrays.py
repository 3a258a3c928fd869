"""Examples in arrays, as one source of batches of any size.

They lie on the device and are gathered by index in the graph; the order of the next pass
is made on a thread of its own while this one is trained on.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils

from babysit.core.order import Shuffle, permutation
from babysit.core.position import FitSpec, Position
from babysit.engine.data.window import Source, Window, any_length, arrays_in, described, map_arrays


class Arrays(Source):
    """Examples in arrays that lie on the device, in the structure Keras hands to a step.

    Args:
        x: Array-like of shape (n, …), or a list, tuple or dict of them.
        y: Targets likewise, or None.
        sample_weight: Weights of shape (n,), or None.
        batch_size: Examples a step.
        shuffle: Whether the order is shuffled anew each pass, or `"batch"`.
        seed: With the pass it determines the order.

    Raises:
        TypeError: If something is not array-like.
        ValueError: If the lengths differ, or there are no examples.
    """

    size: int

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        shuffle: Shuffle = True,
        seed: int = 0,
    ) -> None:
        parts = packed(x, y, sample_weight)
        self.size, self.shuffle = common_length(parts), shuffle
        self.batch_size = min(batch_size, self.size)
        self.static_size = self.batch_size if batch_size <= self.size else None
        self._seed = seed
        self._orders: dict[_OrderKey, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="babysit-data")
        self._keep(_handed(map_arrays(self._prepared, parts)))
        batch = map_arrays(tf.type_spec_from_value, self._rows(np.arange(1)))
        order = tf.TensorSpec([None], tf.int32 if self.size < 2**31 else tf.int64)
        self.signature = any_length(batch), order
        self.spec, self.fingerprint = described(self.signature[0]), self._fingerprint()

    def _prepared(self, array: Any) -> Any:
        return _tensor(array)

    def _keep(self, data: Any) -> None:
        self.tensors = data

    def _fingerprint(self) -> str:
        """sha256 of shapes, types and up to 256 examples spread over the data, hexadecimal."""
        sha = hashlib.sha256()
        rows = np.unique(np.linspace(0, self.size - 1, min(self.size, 256)).astype(int))
        for array in keras.tree.flatten(self._rows(rows)):
            sha.update(b"None;" if array is None else hashable(array, self.size))
        return sha.hexdigest()

    def _rows(self, rows: np.ndarray) -> Any:
        """Tensors of the examples at these rows."""
        return map_arrays(lambda array: tf.gather(array, rows), self.tensors)

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`."""
        order, offset = self._order(self._key(position, fit)), self._checked(position)
        return self._window(self.tensors, order, offset, position, batch_size, steps, fit)

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

    def _checked(self, position: Position) -> int:
        if position.example > self.size:
            raise ValueError(
                f"The data have no place after {position.example} examples; they are {self.size}. "
                "Give the data that the run began with."
            )
        return position.example

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited."""
        return position.example >= self.size

    def steps_left(self, position: Position, batch_size: int) -> int:
        """How many steps the pass still has at a batch size."""
        return -(-(self.size - position.example) // batch_size)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _key(position: Position, fit: FitSpec) -> "_OrderKey":
        return _OrderKey(
            position.data_pass if fit.shuffle else 0, fit.shuffle, fit.batch_size if fit.shuffle == "batch" else 0
        )

    def _order(self, key: "_OrderKey") -> Any:
        """The order of a pass; that of the next one is made meanwhile."""
        following = key._replace(data_pass=key.data_pass + 1) if key.shuffle else key
        known = self._orders
        if key not in known or following not in known:
            self._orders = {
                each: known.get(each) or self._in_background(self._make_order, each) for each in (key, following)
            }
        return self._orders[key].result()

    def _make_order(self, key: "_OrderKey") -> Any:
        return tf.constant(self._permutation(key))

    def _permutation(self, key: "_OrderKey") -> np.ndarray:
        return permutation(self.size, self._seed, *key)

    def _in_background(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        try:
            return self._thread.submit(work, *given)
        except RuntimeError:  # the interpreter is ending and starts no more work; the training goes on until it rests
            done: Future[Any] = Future()
            done.set_result(work(*given))
            return done

    def _static_size(self, position: Position, batch_size: int, fit: FitSpec) -> int | None:
        # `Model.fit` makes the size of its batches known to the graph where they are all alike.
        unchanged = batch_size == fit.batch_size and self.static_size is not None
        return batch_size if unchanged and self.size % batch_size == position.example % batch_size == 0 else None


class _OrderKey(NamedTuple):
    """What the order of a pass depends on, besides the seed."""

    data_pass: int
    shuffle: Shuffle
    batch_size: int


def packed(x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None) -> dict[str, Any]:
    """The parts of the data by name, lists as tuples, checked as `Model.fit` checks them.

    Raises:
        TypeError: If something is not array-like.
        ValueError: If the parts do not go together.
    """
    sample_weight = _weights(y, sample_weight, class_weight)
    parts = {"x": x, "y": y, "sample_weight": sample_weight if y is not None else None}
    parts = {name: keras.tree.lists_to_tuples(part) for name, part in parts.items() if part is not None}
    for name, part in parts.items():
        for array in arrays_in(part):
            _check_array(name, array)
    return parts


def common_length(parts: dict[str, Any]) -> int:
    """The number of examples.

    Raises:
        ValueError: If the arrays differ in it, or there are none.
    """
    lengths = {name: {int(array.shape[0]) for array in arrays_in(part)} for name, part in parts.items()}
    sizes = set.union(*lengths.values())
    if len(sizes) > 1:
        found = ", ".join(f"`{name}` {'/'.join(map(str, sorted(length)))}" for name, length in lengths.items())
        raise ValueError(
            f"All arrays must hold the same number of examples. Received: {found}. Cut them to one length."
        )
    if sizes <= {0}:
        raise ValueError("`x` must hold at least one example. Received: none.")
    return sizes.pop()


def _weights(y: Any, sample_weight: Any, class_weight: Any) -> Any:
    """The weights of the examples, by the rules of Keras's adapter for arrays."""
    if class_weight is not None:
        if sample_weight is not None:
            raise ValueError("`class_weight` and `sample_weight` must not be given together. Leave one of them out.")
        if y is None or keras.tree.is_nested(y):
            raise ValueError(
                "`class_weight` must come with the targets of a single output. "
                f"Received: y of type {type(y).__name__}. Give `sample_weight` instead."
            )
        return data_adapter_utils.class_weight_to_sample_weights(y, class_weight)
    if sample_weight is None or not keras.tree.is_nested(y):
        return sample_weight
    if keras.tree.is_nested(sample_weight):
        return _matching(y, sample_weight)
    shape = np.shape(sample_weight)
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            "`sample_weight` for several outputs must hold one number an example, or one array an output. "
            f"Received: an array of shape {shape}."
        )
    return keras.tree.map_structure(lambda _: sample_weight, y)


def _matching(y: Any, sample_weight: Any) -> Any:
    try:
        keras.tree.assert_same_structure(y, sample_weight)
    except ValueError:
        raise ValueError(
            "`sample_weight` must have one array for each output in `y`, in the same structure, or None for it. "
            f"Received: sample_weight of type {type(sample_weight).__name__}, y of type {type(y).__name__}."
        ) from None
    return sample_weight


def _check_array(name: str, array: Any) -> None:
    if not (array_slicing.can_slice_array(array) or is_on_disk(array)):
        raise TypeError(
            f"`{name}` must be a NumPy array, a tensor, or a list or dict of them. "
            f"Received: {type(array).__name__}. Convert it with `np.asarray` first."
        )
    if not np.ndim(array) if not hasattr(array, "shape") else not len(array.shape):
        raise ValueError(f"`{name}` must hold one row an example. Received: the single number {array}.")


def hashable(array: Any, size: int | None = None) -> bytes:
    """The bytes of a tensor, with its type and its shape, in which `size` stands for the number of rows."""
    shape = array.shape if size is None else (size, *array.shape[1:])
    parts = tf.nest.flatten(array, expand_composites=True)
    return f"{array.dtype.name}{shape};".encode() + b"".join(tf.io.serialize_tensor(part).numpy() for part in parts)


def is_on_disk(array: Any) -> bool:
    """Whether an array is memory-mapped, or one of a file: what has a shape and gives rows when asked for them."""
    if isinstance(array, np.memmap):
        return True
    known = (np.ndarray, np.generic, tf.Variable)
    if isinstance(array, known) or tf.is_tensor(array) or hasattr(array, "iloc") or is_sparse(array):
        return False
    foreign = data_adapter_utils.is_jax_array(array) or data_adapter_utils.is_torch_tensor(array)
    return not foreign and all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__"))


def is_sparse(array: Any) -> bool:
    """Whether an array is sparse, in SciPy, TensorFlow or JAX."""
    utils = data_adapter_utils
    return any(kind(array) for kind in (utils.is_scipy_sparse, utils.is_tensorflow_sparse, utils.is_jax_sparse))


def is_other_float(dtype: Any) -> bool:
    """Whether an array's type is a float that Keras's adapters bring to floatx, as they do with nothing else."""
    return isinstance(dtype, np.dtype) and "float" in dtype.name and dtype.name != keras.config.floatx()


def _tensor(array: Any) -> Any:
    array = array_slicing.convert_to_sliceable(array, target_backend="tensorflow")
    return array if isinstance(array, tf.RaggedTensor) else tf.convert_to_tensor(array)


def _handed(parts: dict[str, Any]) -> Any:
    """The parts in the structure Keras hands to a step."""
    if "y" in parts:
        return tuple(parts.values())
    return (parts["x"],) if isinstance(parts["x"], tuple) else parts["x"]
