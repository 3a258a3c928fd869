"""Examples in arrays, as one source of batches of any size.

They lie on the device and are gathered by index in the graph; the order of the next pass
is made on a thread of its own while this one is trained on.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils

from babysit.core.order import Sampler
from babysit.engine.data.window import Piece, any_length, described


class Arrays:
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

    steerable, rewindable, remark = True, True, ""

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        shuffle: bool | str = True,
        seed: int = 0,
    ) -> None:
        parts = packed(x, y, sample_weight)
        self.size, self.batch_size = common_length(parts), batch_size
        self._sampler = Sampler(self.size, seed, shuffle, batch_size)
        self._orders: dict[int, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="babysit-data")
        self._keep(_handed(keras.tree.map_structure(self._prepared, parts)))

    def _prepared(self, array: Any) -> Any:
        return _tensor(array)

    def _keep(self, data: Any) -> None:
        self.tensors = data

    @cached_property
    def signature(self) -> Any:
        """TensorFlow's specs of a piece's `data` and `order`, of any length: to trace a block for."""
        spec = keras.tree.map_structure(tf.type_spec_from_value, self._rows(np.arange(1)))
        order = tf.TensorSpec([None], tf.int32 if self.size < 2**31 else tf.int64)
        return any_length(spec), order

    @property
    def spec(self) -> Any:
        """The shape and type of a batch in plain data: dicts, lists and `{"shape", "dtype"}`."""
        return described(self.signature[0])

    def fingerprint(self) -> str:
        """sha256 of shapes, types and up to 256 examples spread over the data, hexadecimal."""
        sha = hashlib.sha256()
        rows = np.unique(np.linspace(0, self.size - 1, min(self.size, 256)).astype(int))
        for array in keras.tree.flatten(self._rows(rows)):
            sha.update(f"{array.dtype.name}{(self.size, *array.shape[1:])};".encode())
            for part in tf.nest.flatten(array, expand_composites=True):
                sha.update(tf.io.serialize_tensor(part).numpy())
        return sha.hexdigest()

    def _rows(self, rows: np.ndarray) -> Any:
        """Tensors of the examples at these rows."""
        return keras.tree.map_structure(lambda array: tf.gather(array, rows), self.tensors)

    @property
    def place(self) -> tuple[int, int]:
        """Passes begun before this one, and examples of this one done."""
        return self._sampler.epoch, self._sampler.cursor

    def restore(self, passes: int, cursor: int) -> None:
        """Goes to a place in any pass.

        Raises:
            ValueError: If there is no such place.
        """
        if not 0 <= cursor <= self.size:
            raise ValueError(
                f"The data have no place behind {cursor} examples; they are {self.size}. "
                "Give the data that the run began with."
            )
        self._sampler.restore(passes, cursor)

    @property
    def shuffle(self) -> bool | str:
        """Whether the order is shuffled anew each pass, or `"batch"`."""
        return self._sampler.shuffle  # type: ignore[no-any-return]

    def declare(self, shuffle: bool | str, batch_size: int) -> None:
        """Takes the order, and the size of the batches that are all alike, of another fit."""
        if (shuffle, batch_size) != (self._sampler.shuffle, self.batch_size):
            self._sampler.shuffle, self._sampler.batch_size = shuffle, batch_size
            self.batch_size, self._orders = batch_size, {}

    @property
    def finished(self) -> bool:
        """Whether every example of this pass has been visited."""
        return self._sampler.finished

    def steps_left(self, batch_size: int) -> int:
        """How many steps this pass still takes at a batch size."""
        return self._sampler.steps_left(batch_size)

    def next_pass(self) -> None:
        """Begins the next pass."""
        self._sampler.next_epoch()

    def turn(self) -> None:
        """Does nothing: nobody is told that an epoch of some steps is over."""

    def advance(self, steps: int, batch_size: int) -> None:
        """Moves on by that many steps of the last piece."""
        self._sampler.advance(steps, batch_size)

    def piece(self, batch_size: int, steps: int) -> Piece:
        """The examples of the next steps, without moving on.

        Args:
            batch_size: Examples a step.
            steps: How many at most, 1 or more.
        """
        count = min(steps, self.steps_left(batch_size))
        cursor = self._sampler.cursor
        return Piece(self.tensors, self._pass_order, cursor, batch_size, count, self._fixed(batch_size))

    @property
    def _pass_order(self) -> Any:
        """The order of this pass; that of the next one is made meanwhile."""
        passes, known = (self.place[0], self.place[0] + 1), self._orders
        if not known.keys() >= set(passes):
            self._orders = {n: known.get(n) or self._beside(self._order_of, n) for n in passes}
        return self._orders[passes[0]].result()

    def _order_of(self, number: int) -> Any:
        return tf.constant(self._sampler.order_of(number))

    def _beside(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        """Has something done beside the training."""
        try:
            return self._thread.submit(work, *given)
        except RuntimeError:  # the interpreter is ending and takes no more work; the training goes on until it rests
            done: Future[Any] = Future()
            done.set_result(work(*given))
            return done

    def _fixed(self, batch_size: int) -> int | None:
        # `Model.fit` declares the size of its batches where they are all alike.
        alike = batch_size == self.batch_size and self.size % batch_size == self._sampler.cursor % batch_size == 0
        return batch_size if alike else None


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
        for array in keras.tree.flatten(part):
            _check_array(name, array)
    return parts


def common_length(parts: dict[str, Any]) -> int:
    """The number of examples.

    Raises:
        ValueError: If the arrays differ in it, or there are none.
    """
    lengths = {name: {int(array.shape[0]) for array in keras.tree.flatten(part)} for name, part in parts.items()}
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
            "`sample_weight` must have one array for each output in `y`, in the same structure. "
            f"Received: sample_weight of type {type(sample_weight).__name__}, y of type {type(y).__name__}."
        ) from None
    return sample_weight


def _check_array(name: str, array: Any) -> None:
    if not (array_slicing.can_slice_array(array) and array is not None or is_on_disk(array)):
        raise TypeError(
            f"`{name}` must be a NumPy array, a tensor, or a list or dict of them. "
            f"Received: {type(array).__name__}. Convert it with `np.asarray` first."
        )
    if not np.ndim(array) if not hasattr(array, "shape") else not len(array.shape):
        raise ValueError(f"`{name}` must hold one row an example. Received: the single number {array}.")


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
