"""What a source of data is, the examples it gives for the next steps, the batch of one step, and its plain spec."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from babysit.core.order import Shuffle
from babysit.core.position import FitSpec, Position
from babysit.engine.internals import convert_to_tf_tensor_spec

_NONE_SPEC = type(tf.type_spec_from_value(None))  # `tf.NoneTensorSpec` from TensorFlow 2.21 on


class Window(NamedTuple):
    """The examples of the next steps; a block is called with `data, order, offset, batch_size, count`.

    Attributes:
        data: Tensors of shape (n, …) in the structure a Keras adapter hands to a step: x, (x, y) or
            (x, y, sample_weight).
        order: Rows of `data` in the order to visit them, an integer tensor of shape (m,); None for
            the order in which they lie.
        offset: Place in that order of the first example of the first step.
        batch_size: Examples a step; the last step may have fewer.
        count: Steps, at least 1 and at most what was asked.
        examples: Examples of these steps together.
        static_size: The batch size that `Model.fit` would make known to the graph, or None.
    """

    data: Any
    order: Any
    offset: int
    batch_size: int
    count: int  # type: ignore[assignment]  # a tuple's own `count` is of no use here
    examples: int
    static_size: int | None


class Source(Protocol):
    """The data of a fit, which has no position of its own: each call says where in the data it is.

    Attributes:
        size: Examples a pass; None where that is not known, or not yet.
        batch_size: Examples a step as given, at most `size`.
        static_size: The one that `Model.fit` makes known to the graph where all batches have it, or None.
        fingerprint: sha256 that identifies the data, hexadecimal.
        signature: TensorFlow's specs of a window's `data` and `order`, of any length: to trace a block for.
        spec: The shape and type of a batch in plain data: dicts, lists and `{"shape", "dtype"}`.
        steerable: Whether the batch size can change.
        repeatable: Whether the data can be begun again.
        limitation: What cannot be had of it and why, in a sentence; empty if all can.
        shuffle: As the user gave it; False where it makes no difference.
    """

    size: int | None
    batch_size: int
    static_size: int | None
    fingerprint: str
    signature: tuple[Any, Any]
    spec: Any
    steerable: bool = True
    repeatable: bool = True
    limitation: str = ""
    shuffle: Shuffle

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps.

        Args:
            position: Where they begin.
            batch_size: Examples a step.
            steps: How many at most, 1 or more.
            fit: The fit they belong to, which determines the order.

        Raises:
            ValueError: If there is no such place, it cannot be returned to, or the batch size cannot change.
        """

    def is_over(self, position: Position) -> bool:
        """Whether the pass is over at a position."""

    def steps_left(self, position: Position, batch_size: int) -> int | None:
        """How many steps the pass still has at a batch size, or None where that cannot be known."""

    def epoch_began(self, position: Position) -> None:
        """Calls `on_epoch_begin` of a PyDataset, as `Model.fit` does before the first step of an epoch."""
        return

    def epoch_ended(self, position: Position, pass_over: bool) -> None:
        """Calls `on_epoch_end` of a PyDataset, as `Model.fit` does after the last step of an epoch."""
        return

    def close(self) -> None:
        """Ends what runs beside the training."""
        return


def described(spec: Any) -> Any:
    """TensorFlow's specs of a batch, of any size, in plain data: dicts, lists and `{"shape", "dtype"}`."""
    if isinstance(spec, dict):
        return {name: described(item) for name, item in spec.items()}
    if isinstance(spec, (tuple, list)):
        return [described(item) for item in spec]
    if is_nothing(spec):
        return None
    plain = {"shape": [None, *spec.shape.as_list()[1:]], "dtype": spec.dtype.name}
    if isinstance(spec, tf.SparseTensorSpec):
        plain["sparse"] = True
    if isinstance(spec, tf.RaggedTensorSpec):
        plain |= {"ragged": True, "ragged_rank": spec.ragged_rank, "row_splits_dtype": spec.row_splits_dtype.name}
    return plain


def symbolic(spec: Any) -> Any:
    """The Keras tensors, without data, that a `spec` describes: what a model is built from."""
    if isinstance(spec, list):
        return tuple(symbolic(item) for item in spec)
    if spec is None:
        return None
    if isinstance(spec.get("dtype"), str):
        return keras.KerasTensor(**spec | {"shape": tuple(spec["shape"])})
    return {name: symbolic(item) for name, item in spec.items()}


def signature_of(spec: Any) -> Any:
    """TensorFlow's specs, for any number of rows, of the tensors that a `spec` describes."""
    return map_arrays(convert_to_tf_tensor_spec, symbolic(spec))


def is_nothing(spec: Any) -> bool:
    """Whether a spec is that of None in a batch, which Keras's adapters may wrap as an empty optional."""
    return spec is None or isinstance(spec, (_NONE_SPEC, tf.OptionalSpec))


def fingerprint_of(spec: Any, size: int | None, examples: Any = None) -> str:
    """sha256 of what data look like, how many they are, and some examples of them, hexadecimal."""
    sha = hashlib.sha256(f"{spec};{size}".encode())
    for part in tf.nest.flatten(arrays_in(examples), expand_composites=True):
        sha.update(tf.io.serialize_tensor(part).numpy())
    return sha.hexdigest()


def map_arrays(function: Callable[[Any], Any], structure: Any) -> Any:
    """Applies a function to every array of a structure; what is None stays None."""
    return keras.tree.map_structure(lambda part: None if part is None else function(part), structure)


def arrays_in(structure: Any) -> list[Any]:
    """The arrays of a structure, without what is None."""
    return [part for part in keras.tree.flatten(structure) if part is not None]


# ------------------------------------------------------------------------------- the batch of one step


def batch_at(data: Any, order: Any, start: Any, batch_size: Any, static_size: int | None = None) -> Any:
    """The examples of a step: `order[start : start + batch_size]`, or as they lie without an `order`."""
    if order is None:
        return map_arrays(lambda part: _rows(part, start, batch_size, static_size), data)
    index = _rows(order, start, batch_size, static_size)
    return map_arrays(lambda part: tf.gather(part, index), data)


def _rows(part: Any, start: Any, batch_size: Any, static_size: int | None) -> Any:
    if isinstance(part, tf.SparseTensor | tf.RaggedTensor):
        return part  # of which a window has one batch
    if static_size is None:
        return part[start : start + batch_size]
    if isinstance(batch_size, int):  # in an XLA program, which would be compiled anew for each start of a slice
        return tf.gather(part, start + tf.range(static_size, dtype=start.dtype))
    shape = [-1 if size is None else size for size in part.shape[1:]]
    return tf.slice(part, [start] + [0] * len(shape), [static_size, *shape])


def length_of(data: Any, order: Any) -> int:
    """How many examples there are."""
    return int((arrays_in(data)[0] if order is None else order).shape[0])
