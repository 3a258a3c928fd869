"""Diagnostics: update ÷ weight and gradient norm, measured now and then beside a training, changing nothing.

Once in a while one step is taken by itself. Its weights before and after are compared, and a *probe*, a graph of its
own, computes its gradient; the graph that trains is the same with and without.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.framework.auto_control_deps_utils import get_read_only_resource_input_indices_graph

from babysit.engine.batch import batch_at
from babysit.engine.block import operations
from babysit.engine.catalog import named_layers
from babysit.engine.model import TrainableModel

# Measured no more often than this, and so seldom that it costs this share of the time.
INTERVAL_S = 3.0
SHARE = 0.03


class _Before(NamedTuple):
    """What was measured before the step: its weights, and the squares of its gradients where there is a probe."""

    weights: list[Any]
    squares: Any
    cost_s: float


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
        self._compare = tf.function(_compared, autograph=False, reduce_retracing=True)

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
        if not self.on or time.perf_counter() < self._next_s or not self._model.traced:
            return math.inf
        return self._model.steps_before_update

    def begin(self, window: Any, signature: Any) -> _Before | None:
        """Measures before the next step, the first of a window; pass what it returns to `end`."""
        before: _Before | None = self._attempt(self._measure_before, window, signature)
        return before

    def end(self, before: _Before | None, step: int) -> None:
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

    def _measure_before(self, window: Any, signature: Any) -> _Before:
        model, began = self._model.model, time.perf_counter()
        key = self._model.structure, signature
        if is_first := self._probed != key:
            self._probed, self._probe = key, _probe(model, self._model.bindings.live_values.reading_once, signature)
        weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        squares = None
        if not isinstance(self._probe, str):
            squares = self._probe(batch_at(window.data, window.order, window.offset, window.batch_size)).numpy()
        return _Before(weights, squares, 0.0 if is_first else time.perf_counter() - began)  # tracing is not counted

    def _measure_after(self, before: _Before, step: int) -> None:
        began, model, squares = time.perf_counter(), self._model.model, before.squares
        after = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        changes, weights = self._compare(before.weights, after).numpy()
        position = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        layers = []
        for name, layer in [(model.name, model), *named_layers(model)]:
            if rows := [position[id(each)] for each in layer._trainable_variables if id(each) in position]:
                weight = weights[rows].sum()
                ratio = _root(changes[rows].sum() / weight) if weight > 0 else None
                gradient = None if squares is None else _root(squares[rows].sum())
                layers.append({"name": name, "ratio": ratio, "gradient": gradient})
        signs = {
            "gradient_norm": None if squares is None else _root(squares.sum()),
            "left_out": [f"Gradients are left out: {self._probe}."] if isinstance(self._probe, str) else [],
            "layers": layers,
        }
        self.latest, self.unable, now = {"step": step, "signs": signs}, "", time.perf_counter()
        self.every_s = max(INTERVAL_S, (before.cost_s + now - began) / SHARE if before.cost_s else 0.0)
        self._next_s = now + self.every_s


def _compared(before: list[Any], after: list[Any]) -> Any:
    """For each pair the squares of what changed, and of what was there before: float32 of shape (2, pairs)."""
    moved = [tf.cast(new, tf.float32) - tf.cast(old, tf.float32) for old, new in zip(before, after, strict=True)]
    return tf.stack([_sums_of_squares(moved), _sums_of_squares(before)])


def _sums_of_squares(tensors: list[Any]) -> Any:
    """The sum of squares of each tensor, float32 of shape (tensors,)."""
    return tf.stack([tf.reduce_sum(tf.square(tf.cast(tensor, tf.float32))) for tensor in tensors] or [tf.zeros([])])


def _root(square: float) -> float | None:
    """The square root to four digits, for that is what the record keeps; None if it is not finite."""
    return float(f"{math.sqrt(square):.4g}") if math.isfinite(square) else None


# ------------------------------------------------------------------------------------ the probe


def _probe(model: Any, reading_once: Callable[[], AbstractContextManager[None]], signature: Any) -> Any:
    """A compiled function that computes the gradient of a batch, as Keras's own `train_step` does, and no more.

    Args:
        model: A built and compiled model.
        reading_once: Opened while it is traced: live hyperparameters are read once in it.
        signature: TensorFlow's specs of the data of a batch.

    Returns:
        Batch -> for each trainable variable the sum of its gradient's squares; or why there is none, in a few words.
        A graph that could write a variable or calls Python is none.
    """
    if type(model).train_step is not keras.Model.train_step or "train_step" in vars(model):
        return "its `train_step` is its own"
    if model.run_eagerly:
        return "it runs eagerly"

    def squares(data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = model.trainable_variables
        weights = [tf.convert_to_tensor(variable.value) for variable in variables]
        others = [*model.non_trainable_variables, *model.metrics_variables]
        state = [*zip(variables, weights, strict=True), *((variable, variable.value) for variable in others)]
        # In a stateless scope what a layer assigns stays in the scope.
        with reading_once(), tf.GradientTape() as tape, keras.StatelessScope(state, collect_losses=True):
            tape.watch(weights)
            predicted = model(x, training=True) if model._call_has_training_arg else model(x)
            loss = model._compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, training=True)
            scale = tf.cast(model.optimizer.scale_loss(tf.ones([])), loss.dtype)  # against underflow in float16
            loss = loss * scale
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        scale = tf.cast(scale, tf.float32)
        return _sums_of_squares([tf.cast(tf.convert_to_tensor(one), tf.float32) / scale for one in gradients])

    try:
        traced = tf.function(squares, autograph=False).get_concrete_function(signature)
    except Exception as error:
        return f"its step cannot be traced by itself ({type(error).__name__})"
    if any("PyFunc" in operation for operation in operations(traced.graph)):
        return "its step calls Python"
    read_only = {id(traced.graph.inputs[i]) for i in get_read_only_resource_input_indices_graph(traced.graph)}
    captured = [inner for _, inner in traced.graph.captures if inner.dtype == tf.resource]
    return traced if all(id(one) in read_only for one in captured) else "its step writes what Keras does not know"
