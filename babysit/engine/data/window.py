"""The examples of the next steps, as a compiled block gets them, and what batches look like in plain data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf


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


def described(spec: Any) -> Any:
    """TensorFlow's specs of a batch in plain data: dicts, lists and `{"shape", "dtype"}`."""
    if isinstance(spec, dict):
        return {name: described(item) for name, item in spec.items()}
    if isinstance(spec, (tuple, list)):
        return [described(item) for item in spec]
    if spec is None:
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
    """The same TensorFlow specs, for any number of rows; None where a batch has None."""

    def free(spec: Any) -> Any:
        if spec.shape.rank is None or isinstance(spec, tf.SparseTensorSpec):
            return spec
        shape = [None, *spec.shape[1:]]
        if isinstance(spec, tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
        return tf.TensorSpec(shape, spec.dtype)

    return tf.nest.map_structure(lambda each: None if is_nothing(each) else free(each), spec)


def is_nothing(spec: Any) -> bool:
    """Whether a spec is that of None in a batch, which Keras's adapters may wrap as an empty optional."""
    return spec is None or isinstance(spec, (tf.NoneTensorSpec, tf.OptionalSpec))


def map_arrays(function: Callable[[Any], Any], *structures: Any) -> Any:
    """Applies a function to every array of a structure; what is None stays None."""
    return keras.tree.map_structure(lambda *parts: None if parts[0] is None else function(*parts), *structures)


def arrays_in(structure: Any) -> list[Any]:
    """The arrays of a structure, without what is None."""
    return [part for part in keras.tree.flatten(structure) if part is not None]
