"""The compiled block: K steps of a Keras model in one call into TensorFlow.

`Model.fit` returns to Python after every step; for a small model that costs several
times the step itself. Here the model's own `train_step` runs inside one
`tf.while_loop`, which gathers its examples by index, so K, the batch size and the place
in the data are numbers that may change from one block to the next without a retrace.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def training_block(model: Any, held: Callable[[], AbstractContextManager[None]], fixed: int | None = None) -> "Block":
    """A block of the model's `train_step`, with the loss of each batch beside its logs.

    Args:
        model: A built and compiled model.
        held: Opened while the block is traced: hyperparameters are read once in it.
        fixed: See `Block`.
    """
    stock = type(model).train_step is keras.Model.train_step
    return Block(model, _with_batch_loss(model) if stock else model.train_step, held, fixed)


def evaluation_block(model: Any, fixed: int | None = None) -> "Block":
    """A block of the model's `test_step`."""
    return Block(model, model.test_step, nullcontext, fixed)


def fixed_size(examples: int, batch_size: int) -> int | None:
    """The batch size if all the batches of an epoch have it, as Keras's adapters then declare; else None."""
    return None if examples % batch_size else batch_size


def _with_batch_loss(model: Any) -> Callable[[Any], dict[str, Any]]:
    """`model.train_step`, whose logs gain `"batch_loss"`: the loss before it is averaged.

    Keras reports a running mean over the epoch; the loss itself passes through
    `_compute_loss` and is caught there, while the step is traced.
    """

    def step(data: Any) -> dict[str, Any]:
        caught: list[Any] = []
        compute_loss = model._compute_loss

        def catch(*args: Any, **kwargs: Any) -> Any:
            caught.append(compute_loss(*args, **kwargs))
            return caught[-1]

        model._compute_loss = catch
        try:
            logs = model.train_step(data)
        finally:
            del model._compute_loss
        return {**logs, "batch_loss": caught[0]}

    return step


class Block:
    """Runs steps over data that lives on the device, as many as asked for, in one call.

    Args:
        model: A built and compiled model.
        step: What to do with a batch; returns its logs.
        held: Opened while the block is traced.
        fixed: The one size that every batch has, or None for any size. `Model.fit` tells the
            graph when its batches are all alike, and TensorFlow then rounds differently: it
            makes a division by the size a multiplication by its reciprocal.
    """

    def __init__(
        self,
        model: Any,
        step: Callable[[Any], dict[str, Any]],
        held: Callable[[], AbstractContextManager[None]],
        fixed: int | None = None,
    ) -> None:
        self._names: list[str] = []
        # A step compiled on its own outlives the trace it was compiled in: it reads for itself.
        self._held, self._fixed = nullcontext if model.jit_compile else held, fixed
        if model.jit_compile and not model.run_eagerly:
            step = tf.function(step, jit_compile=True, reduce_retracing=True)
        self._step = step
        run = tf.autograph.experimental.do_not_convert(self._run)
        self._function = run if model.run_eagerly else tf.function(run, reduce_retracing=True)

    def __call__(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool = False
    ) -> dict[str, np.ndarray]:
        """Runs `count` steps, the first on the examples `order[cursor : cursor + batch_size]`.

        Args:
            data: What a Keras adapter would hand a step, unbatched: tensors of shape (n, …).
            order: Integer tensor of shape (n,).
            cursor: How many examples of `order` are done.
            batch_size: Examples a step; the last of an epoch takes what is left.
            count: Steps to run; no more than the epoch has left.
            watch: Whether to stop behind the first step whose loss is not finite.

        Returns:
            Name of each log -> its value at each step run, shape (steps,).
        """
        rows = self._function(*_arguments(data, order, cursor, batch_size, count, watch)).numpy()
        return dict(zip(self._names, rows.T, strict=True))

    def trace(self, data: Any, order: Any) -> None:
        """Traces the block for such data, running nothing: so that its first call is quick."""
        if isinstance(self._function, tf.types.experimental.PolymorphicFunction):
            self._function.get_concrete_function(*_arguments(data, order, 0, 1, 1, False))

    def _run(self, data: Any, order: Any, cursor: Any, batch_size: Any, count: Any, watch: Any) -> Any:
        size = tf.shape(order, out_type=order.dtype)[0]

        def proceed(i: Any, healthy: Any, rows: Any) -> Any:
            return tf.logical_and(i < count, healthy)

        def take(i: Any, healthy: Any, rows: Any) -> Any:
            start = cursor + i * batch_size
            if self._fixed is None:
                batch = order[start : tf.minimum(start + batch_size, size)]
            else:
                batch = tf.slice(order, [start], [self._fixed])
            logs = self._step(keras.tree.map_structure(lambda array: tf.gather(array, batch), data))
            self._names = list(logs)
            row = tf.stack([tf.cast(value, keras.config.floatx()) for value in logs.values()])
            loss = logs.get("batch_loss", logs.get("loss", 0.0))
            healthy = tf.logical_or(tf.math.is_finite(loss), tf.logical_not(watch))
            return i + 1, healthy, rows.write(tf.cast(i, tf.int32), row)

        rows = tf.TensorArray(keras.config.floatx(), size=tf.cast(count, tf.int32), infer_shape=False)
        start = (tf.zeros_like(count), tf.constant(True), rows)
        with self._held():
            # One step after the other: the next begins only when this one's variables are written.
            done, _, rows = tf.while_loop(proceed, take, start, parallel_iterations=1)
        return rows.gather(tf.range(tf.cast(done, tf.int32)))


def _arguments(data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool) -> tuple[Any, ...]:
    numbers = (tf.constant(number, order.dtype) for number in (cursor, batch_size, count))
    return data, order, *numbers, tf.constant(watch)
