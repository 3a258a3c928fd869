"""What a source of batches hands to a compiled block, and what it looks like in plain data."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Piece(NamedTuple):
    """The examples of the next steps, as a compiled block takes them.

    Attributes:
        data: Tensors of shape (n, …) in the structure a Keras adapter hands to a step: x, (x, y) or
            (x, y, sample_weight).
        order: Rows of `data` in the order to visit them, an integer tensor of shape (m,); None for
            the order in which they lie.
        cursor: Place in that order of the first example of the first step.
        batch_size: Examples a step; the last step of a pass takes what is left.
        count: Steps, at least 1 and at most what was asked.
        fixed: The size that every batch is declared to have in the graph, or None.
    """

    data: Any
    order: Any
    cursor: int
    batch_size: int
    count: int  # type: ignore[assignment]  # a tuple's own `count` is of no use here
    fixed: int | None


def described(spec: Any) -> Any:
    """TensorFlow's specs of a batch in plain data: dicts, lists and `{"shape", "dtype"}`."""
    if isinstance(spec, dict):
        return {name: described(item) for name, item in spec.items()}
    if isinstance(spec, (tuple, list)):
        return [described(item) for item in spec]
    if is_nothing(spec):
        return None
    shape = [None] if spec.shape.rank is None else [None, *spec.shape.as_list()[1:]]
    plain = {"shape": shape, "dtype": spec.dtype.name}
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


def any_length(spec: Any) -> Any:
    """The same TensorFlow specs, for any number of rows."""

    def free(spec: Any) -> Any:
        if spec.shape.rank is None or isinstance(spec, tf.SparseTensorSpec):
            return spec
        shape = [None, *spec.shape[1:]]
        if isinstance(spec, tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
        return tf.TensorSpec(shape, spec.dtype)

    return tf.nest.map_structure(lambda each: each if is_nothing(each) else free(each), spec)


def is_nothing(spec: Any) -> bool:
    """Whether a spec stands for None in a batch, which Keras's adapters wrap as an empty optional."""
    return isinstance(spec, (tf.NoneTensorSpec, tf.OptionalSpec))
