"""A probe: the gradient of one batch, computed beside a training and changing nothing.

It has a graph of its own. One that could write a variable or calls Python is not run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.auto_control_deps_utils import get_read_only_resource_input_indices_graph

from babysit.engine.block import operations
from babysit.engine.stepwise import why_not_fused


class Probe:
    """Computes the gradient that a model's next step would, by Keras's own `train_step` up to that.

    Args:
        model: A built and compiled model.
        reading_once: Opened while it is traced: live hyperparameters are read once in it.
        signature: TensorFlow's specs of the data of a batch.

    Attributes:
        left_out: Why it cannot compute one, in a few words; empty if it can.
    """

    def __init__(self, model: Any, reading_once: Callable[[], AbstractContextManager[None]], signature: Any) -> None:
        self._model, self._reading_once = model, reading_once
        self.left_out = _why_not(model)
        if self.left_out:
            return
        try:
            function = tf.function(tf.autograph.experimental.do_not_convert(self._squares))
            self._traced = function.get_concrete_function(signature)
        except Exception as error:
            self.left_out = f"its step cannot be traced by itself ({type(error).__name__})"
            return
        self.left_out = _effects(self._traced.graph)

    def __call__(self, batch: Any) -> np.ndarray:
        """For each trainable variable the sum of its gradient's squares in a batch, float32."""
        squares: np.ndarray = self._traced(batch).numpy()
        return squares

    def _squares(self, data: Any) -> Any:
        model = self._model
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = model.trainable_variables
        weights = [tf.convert_to_tensor(variable.value) for variable in variables]
        others = [*model.non_trainable_variables, *model.metrics_variables]
        state = [*zip(variables, weights, strict=True), *((variable, variable.value) for variable in others)]
        # In a stateless scope what a layer assigns stays in the scope.
        with self._reading_once(), tf.GradientTape() as tape, keras.StatelessScope(state, collect_losses=True):
            tape.watch(weights)
            predicted = model(x, training=True) if model._call_has_training_arg else model(x)
            loss = model._compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, training=True)
            scale = tf.cast(model.optimizer.scale_loss(tf.ones([])), loss.dtype)  # against underflow in float16
            loss = loss * scale
        return sums_of_squares([_dense(part, scale) for part in tape.gradient(loss, weights)])


def sums_of_squares(tensors: list[Any]) -> Any:
    """The sum of squares of each tensor, float32 of shape (tensors,)."""
    return tf.stack([tf.reduce_sum(tf.square(tf.cast(tensor, tf.float32))) for tensor in tensors] or [tf.zeros([])])


def _dense(gradient: Any, scale: Any) -> Any:
    if gradient is None:  # the loss does not depend on it
        return tf.zeros([])
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32) / tf.cast(scale, tf.float32)


def _why_not(model: Any) -> str:
    if type(model).train_step is not keras.Model.train_step or "train_step" in vars(model):
        return "its `train_step` is its own"
    if model.run_eagerly:
        return "it runs eagerly"
    return "it is not trained in blocks" if why_not_fused(model) else ""


def _effects(graph: Any) -> str:
    """What a graph would change, in a few words."""
    if any("PyFunc" in operation for operation in operations(graph)):
        return "its step calls Python"
    read_only = {id(graph.inputs[i]) for i in get_read_only_resource_input_indices_graph(graph)}
    written = [inner for _, inner in graph.captures if inner.dtype == tf.resource and id(inner) not in read_only]
    return "its step writes what Keras does not know" if written else ""
