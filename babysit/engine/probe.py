"""A probe: the gradient of one batch, and what its ReLUs did, computed beside a training and changing nothing.

It has a graph of its own. One that could write a variable, or draws what cannot be drawn again, is not run.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.block import effects, why_not_fused
from babysit.engine.catalog import named_layers

_RELUS = ("Relu", "Relu6")


class Found(NamedTuple):
    """What a probe found in a batch.

    Attributes:
        squares: For each trainable variable of the model the sum of its gradient's squares, float32.
        silent: For each ReLU in the model, whether each of its units gave 0 for every example, bool of
            shape (units,). The units are the last axis: the channels of a convolution.
    """

    squares: np.ndarray
    silent: list[np.ndarray]


class Probe:
    """Looks at a model as its next step would see it: `train_step` of Keras's, up to the gradient.

    Args:
        model: A built and compiled model.
        held: Opened while it is traced: live hyperparameters are read once in it.
        signature: TensorFlow's specs of the data of a batch.

    Attributes:
        left_out: Why it cannot look, in a sentence; empty if it can.
        relus: Of each ReLU the layer that it is in.
    """

    def __init__(self, model: Any, held: Callable[[], AbstractContextManager[None]], signature: Any) -> None:
        self._model, self._held = model, held
        self.relus: list[str] = []
        self.left_out = _foreign(model)
        if self.left_out:
            return
        try:
            function = tf.function(tf.autograph.experimental.do_not_convert(self._look))
            self._look_at = function.get_concrete_function(signature)
        except Exception as error:
            self.left_out = f"its step cannot be traced by itself ({type(error).__name__})"
            return
        if used := effects(self._look_at.graph):
            self.left_out = f"its step uses {', '.join(used)}"

    def __call__(self, batch: Any) -> Found:
        """Looks at a batch, in the structure a Keras adapter hands to a step."""
        squares, silent = self._look_at(batch)
        return Found(squares.numpy(), [units.numpy() for units in silent])

    def _look(self, data: Any) -> Any:
        model = self._model
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = model.trainable_variables
        weights = [tf.convert_to_tensor(variable.value) for variable in variables]
        others = [*model.non_trainable_variables, *model.metrics_variables]
        state = [*zip(variables, weights, strict=True), *((variable, variable.value) for variable in others)]
        # In a stateless scope what a layer assigns stays in the scope.
        with self._held(), tf.GradientTape() as tape, keras.StatelessScope(state, collect_losses=True):
            tape.watch(weights)
            with _called(model) as calls:
                predicted = model(x, training=True) if model._call_has_training_arg else model(x)
            silent = self._silent(calls)
            loss = model._compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, training=True)
            scale = tf.cast(model.optimizer.scale_loss(tf.ones([])), loss.dtype)  # against underflow in float16
            loss = loss * scale
        gradients = tape.gradient(loss, weights)
        return sums_of_squares([_dense(part, scale) for part in gradients]), silent

    def _silent(self, calls: list[tuple[str, int, int]]) -> list[Any]:
        operations = tf.compat.v1.get_default_graph().get_operations()
        relus = {i: one.outputs[0] for i, one in enumerate(operations) if one.type in _RELUS}
        relus = {i: out for i, out in relus.items() if (out.shape.rank or 0) > 1}
        # The innermost call ends first.
        self.relus = [next((name for name, begin, end in calls if begin <= i < end), self._model.name) for i in relus]
        return [tf.reduce_all(out <= 0, axis=list(range(out.shape.rank - 1))) for out in relus.values()]


def sums_of_squares(tensors: list[Any]) -> Any:
    """The sum of squares of each tensor, float32 of shape (tensors,)."""
    return tf.stack([tf.reduce_sum(tf.square(tf.cast(tensor, tf.float32))) for tensor in tensors] or [tf.zeros([])])


@contextmanager
def _called(model: Any) -> Iterator[list[tuple[str, int, int]]]:
    """Gathers the calls of layers, as they end: name, and numbers of the first operation made in it and behind it."""
    calls: list[tuple[str, int, int]] = []
    main = tf.compat.v1.get_default_graph()

    def watched(name: str, call: Any) -> Any:
        @functools.wraps(call)
        def act(*args: Any, **kwargs: Any) -> Any:
            begin = main.version  # how many operations it has
            outputs = call(*args, **kwargs)
            calls.append((name, begin, main.version))
            return outputs

        return act

    layers = [(name, layer) for name, layer in named_layers(model) if "call" not in vars(layer)]
    for name, layer in layers:
        vars(layer)["call"] = watched(name, layer.call)  # past Keras, which takes note of what is set
    try:
        yield calls
    finally:
        for _, layer in layers:
            del vars(layer)["call"]


def _dense(gradient: Any, scale: Any) -> Any:
    if gradient is None:  # the loss does not depend on it
        return tf.zeros([])
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32) / tf.cast(scale, tf.float32)


def _foreign(model: Any) -> str:
    if type(model).train_step is not keras.Model.train_step or "train_step" in vars(model):
        return "its `train_step` is its own"
    if model.run_eagerly:
        return "it runs eagerly"
    return "it is not trained in blocks" if why_not_fused(model) else ""
