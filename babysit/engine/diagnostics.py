"""Diagnostics: update ÷ weight and gradient norm, measured now and then beside a training, changing nothing.

Once in a while one step is taken by itself. Its weights before and after are compared, and a *probe*, a graph of its
own, computes its gradient; the graph that trains is the same with and without.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from babysit.engine.block import operations
from babysit.engine.catalog import named_layers
from babysit.engine.data.window import batch_at
from babysit.engine.internals import get_read_only_resource_input_indices_graph
from babysit.engine.model import TrainableModel

# Measured no more often than this, and so seldom that it costs this share of the time.
INTERVAL_S = 3.0
SHARE = 0.03


class Diagnostics:
    """Measures the steps of one training, and decides when.

    Args:
        model: The model that is trained.

    Attributes:
        on: Whether steps are measured.
        unable: Why they cannot be, in a sentence; empty if they can.
        every_s: Seconds from one measurement to the next.
        latest: The last measurement, in plain data, with the step that was measured.
    """

    def __init__(self, model: TrainableModel) -> None:
        self._model = model
        self.on, self.unable, self.every_s = False, "", INTERVAL_S
        self.latest: dict[str, Any] | None = None
        self._next_s = 0.0
        self._probe: Any = None
        self._probed: Any = None  # what the probe was made for

    def switch(self, on: bool) -> None:
        """Begins to measure, with one of the next steps, or ends it.

        Raises:
            TypeError: If `on` is neither True nor False.
        """
        if not isinstance(on, bool):
            raise TypeError(f"`on` must be True or False. Received: on={on!r}.")
        self.on, self._next_s = on, 0.0

    @property
    def steps_before(self) -> float:
        """Steps to run before the one to be measured, which moves the weights; infinity while none is due."""
        if not self.on or time.perf_counter() < self._next_s:
            return math.inf
        return self._model.steps_before_update

    def begin(self, window: Any, signature: Any) -> Any:
        """Measures before the next step, the first of a window; pass what it returns to `end`."""
        return self._attempt(self._measure_before, window, signature)

    def end(self, before: Any, step: int) -> None:
        """Measures after the step; `latest` is then what was measured."""
        if before is not None:
            self._attempt(self._measure_after, before, step)

    @property
    def status(self) -> dict[str, Any]:
        """Whether and how often steps are measured, and the last measurement, in plain data."""
        about = {"on": self.on, "unable": self.unable, "every_s": self.every_s, "share": SHARE}
        return about | {"latest": self.latest}

    def _attempt(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Calls; what goes wrong ends the measuring, and never the training."""
        try:
            return act(*arguments)
        except Exception as error:
            self.on = False
            why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self.unable = f"Measuring has ended, because it failed: {why}"
            return None

    def _measure_before(self, window: Any, signature: Any) -> tuple[list[Any], Any, float]:
        key = self._model.structure, signature
        if self._probed != key:
            self._probed, self._probe = key, _probe(self._model, signature)
        began = time.perf_counter()
        squares = self._probe(batch_at(window.data, window.order, window.offset, window.batch_size)).numpy()
        return self._weights(), squares, time.perf_counter() - began

    def _measure_after(self, before: tuple[list[Any], Any, float], step: int) -> None:
        began, (old, squares, cost_s), model = time.perf_counter(), before, self._model.model
        weights = _sums_of_squares(old).numpy()
        changes = _sums_of_squares([new - was for new, was in zip(self._weights(), old, strict=True)]).numpy()
        position = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        layers = []
        for name, layer in [(model.name, model), *named_layers(model)]:
            if rows := [position[id(each)] for each in layer._trainable_variables if id(each) in position]:
                weight = weights[rows].sum()
                ratio = _root(changes[rows].sum() / weight) if weight > 0 else None
                layers.append({"name": name, "ratio": ratio, "gradient": _root(squares[rows].sum())})
        self.latest = {"step": step, "signs": {"gradient_norm": _root(squares.sum()), "layers": layers}}
        self.unable, now = "", time.perf_counter()
        self.every_s = max(INTERVAL_S, (cost_s + now - began) / SHARE)
        self._next_s = now + self.every_s

    def _weights(self) -> list[Any]:
        weights = [tf.convert_to_tensor(one.value) for one in self._model.model.trainable_variables]
        return [tf.cast(weight, tf.float32) for weight in weights]


def _sums_of_squares(tensors: list[Any]) -> Any:
    """The sum of squares of each float32 tensor, of shape (tensors,)."""
    return tf.stack([tf.reduce_sum(tf.square(tensor)) for tensor in tensors] or [tf.zeros([])])


def _root(square: float) -> float | None:
    """The square root to four digits, for that is what the record keeps; None if it is not finite."""
    return float(f"{math.sqrt(square):.4g}") if math.isfinite(square) else None


def _probe(trained: TrainableModel, signature: Any) -> Any:
    """A compiled function that computes the gradient of a batch, as Keras's own `train_step` does, and no more.

    Args:
        trained: A built and compiled model.
        signature: TensorFlow's specs of the data of a batch.

    Returns:
        Batch -> for each trainable variable the sum of its gradient's squares.

    Raises:
        ValueError: If the step is not Keras's own, or its graph could write a variable or calls Python.
    """
    model = trained.model
    if trained.is_custom or "train_step" in vars(model):
        raise ValueError("the model's `train_step` is its own, and only the gradient of Keras's is known.")

    def squares(data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = model.trainable_variables
        weights = [tf.convert_to_tensor(variable.value) for variable in variables]
        others = [*model.non_trainable_variables, *model.metrics_variables]
        state = [*zip(variables, weights, strict=True), *((variable, variable.value) for variable in others)]
        # In a stateless scope what a layer assigns stays in the scope.
        reading_once = trained.bindings.live_values.reading_once()
        with reading_once, tf.GradientTape() as tape, keras.StatelessScope(state, collect_losses=True):
            tape.watch(weights)
            predicted = model(x, training=True) if model._call_has_training_arg else model(x)
            loss = model._compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, training=True)
            scale = tf.cast(model.optimizer.scale_loss(tf.ones([])), loss.dtype)  # against underflow in float16
            loss = loss * scale
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        scale = tf.cast(scale, tf.float32)
        return _sums_of_squares([tf.cast(tf.convert_to_tensor(one), tf.float32) / scale for one in gradients])

    traced = tf.function(squares, autograph=False).get_concrete_function(signature)
    read_only = {id(traced.graph.inputs[i]) for i in get_read_only_resource_input_indices_graph(traced.graph)}
    captured = [inner for _, inner in traced.graph.captures if inner.dtype == tf.resource]
    if any("PyFunc" in one for one in operations(traced.graph)) or any(id(one) not in read_only for one in captured):
        raise ValueError("the step calls Python, or writes what Keras does not know.")
    return traced
