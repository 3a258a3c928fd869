"""Diagnostics: how a training is doing, beside the loss, measured now and then, changing nothing.

Once in a while one step is taken by itself. Its weights before and after are compared, and a
`probe` with a graph of its own computes its gradient; the graph that trains is the same with and without.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import psutil
import tensorflow as tf

from babysit.engine.batch import batch_at
from babysit.engine.catalog import named_layers
from babysit.engine.model import TrainableModel
from babysit.engine.probe import Probe, sums_of_squares

# Measured no more often than this, and so seldom that it costs this share of the time.
INTERVAL_S = 3.0
SHARE = 0.03


@dataclass
class _Before:
    """What was measured before the step."""

    weights: list[Any]
    owners: list[str]
    squares: Any  # of the gradients, None where there is no probe
    signs: dict[str, Any]
    is_first: bool  # of its probe, whose tracing counts for nothing
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
        self._probe: tuple[Any, Probe] | None = None
        self._compare = tf.function(_compared, autograph=False, reduce_retracing=True)
        self._clock = _clock()

    def switch(self, on: bool) -> None:
        """Begins to measure, with one of the next steps, or ends it.

        Raises:
            TypeError: If `on` is neither True nor False.
        """
        if not isinstance(on, bool):
            raise TypeError(f"`on` must be True or False. Received: on={on!r}.")
        self.on, self._next_s, self._clock = on, 0.0, _clock()

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
        if before is not None and (signs := self._attempt(self._measure_after, before)) is not None:
            self.latest = {"step": step, "signs": signs}

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
        model, known, began = self._model.model, self._probe, time.perf_counter()
        key = self._model.structure, signature
        if self._probe is None or self._probe[0] != key:
            self._probe = key, Probe(model, self._model.bindings.reading_once, signature)
        probe = self._probe[1]
        weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        squares = None
        if not probe.left_out:
            squares = probe(batch_at(window.data, window.order, window.offset, window.batch_size))
        signs = {
            "memory_bytes": psutil.Process().memory_info().rss,
            "cores": self._busy_processors(),
            "left_out": [f"Gradients are left out: {probe.left_out}."] if probe.left_out else [],
        }
        return _Before(weights, _owners(model), squares, signs, self._probe is not known, time.perf_counter() - began)

    def _busy_processors(self) -> float:
        """How many the process kept busy since the last measurement."""
        before, self._clock = self._clock, _clock()
        return (self._clock[1] - before[1]) / max(self._clock[0] - before[0], 1e-9)

    def _measure_after(self, before: _Before) -> dict[str, Any]:
        began = time.perf_counter()
        after = [tf.convert_to_tensor(variable.value) for variable in self._model.model.trainable_variables]
        changes, weights = self._compare(before.weights, after).numpy()
        squares = before.squares
        norm = None if squares is None else math.sqrt(squares.sum())
        signs = before.signs | {"gradient_norm": norm}
        signs = {name: _rounded(sign) if isinstance(sign, float) else sign for name, sign in signs.items()}
        signs["layers"] = self._layers(before.owners, changes, weights, squares)
        self.unable = ""
        now = time.perf_counter()
        cost_s = 0.0 if before.is_first else before.cost_s + now - began
        self.every_s = max(INTERVAL_S, cost_s / SHARE)
        self._next_s = now + self.every_s
        return signs

    def _layers(self, owners: list[str], changes: Any, weights: Any, squares: Any) -> list[dict[str, Any]]:
        """Update ÷ weight and gradient norm of each layer with trainable variables, in the order of the model."""
        found = []
        model = self._model.model
        for name in dict.fromkeys([model.name, *(name for name, _ in named_layers(model)), *owners]):
            if rows := [i for i, owner in enumerate(owners) if owner == name]:
                ratio = _ratio(changes[rows].sum(), weights[rows].sum())
                norm = None if squares is None else _rounded(math.sqrt(squares[rows].sum()))
                found.append({"name": name, "ratio": ratio, "gradient": norm})
        return found


def _compared(before: list[Any], after: list[Any]) -> Any:
    """For each pair the squares of what changed, and of what was there before: float32 of shape (2, pairs)."""
    moved = [tf.cast(new, tf.float32) - tf.cast(old, tf.float32) for old, new in zip(before, after, strict=True)]
    return tf.stack([sums_of_squares(moved), sums_of_squares(before)])


def _owners(model: Any) -> list[str]:
    """The layer that each trainable variable belongs to."""
    owner: dict[int, str] = {}
    for name, layer in [(model.name, model), *named_layers(model)]:
        owner |= {id(variable): name for variable in layer._trainable_variables}
    return [owner.get(id(variable), model.name) for variable in model.trainable_variables]


def _ratio(change: float, weight: float) -> float | None:
    """‖change‖ / ‖weight‖ from their squares."""
    return _rounded(math.sqrt(change / weight)) if weight > 0 else None


def _rounded(value: float) -> float | None:
    """To four digits, for that is what the record keeps; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


# ------------------------------------------------------------------------------ the first loss

_CROSS_ENTROPIES = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
_THEIR_FUNCTIONS = (keras.losses.sparse_categorical_crossentropy, keras.losses.categorical_crossentropy)


def first_loss_remark(model: Any, spec: Any, loss: float, batch_size: int) -> str:
    """Says in a sentence that the first loss is far above that of a network that knows nothing yet; or nothing.

    Such a network gives C classes about the same probability: its cross-entropy is ln C (Karpathy
    2019, A recipe for training neural networks, "verify loss @ init"). Logits of variance v add about
    v / 2; customary beginnings have v below 2.

    Args:
        model: A compiled model.
        spec: Of a batch, in plain data.
        loss: Of the batch of the first step.
        batch_size: Its examples.
    """
    shape: Any = getattr(model, "output_shape", None)
    is_known = isinstance(shape, tuple) and len(shape) > 1 and isinstance(shape[-1], int) and shape[-1] > 1
    weighted = isinstance(spec, list) and len(spec) > 2 and spec[2] is not None
    if not is_known or weighted or not _is_plain_cross_entropy(model) or not math.isfinite(loss):
        return ""
    classes, expected = int(shape[-1]), math.log(shape[-1])
    if loss <= expected + 2 + 4 / math.sqrt(batch_size):
        return ""
    return (
        f"The loss of the first step was {loss:.3g}; a network that knows nothing yet should begin near ln {classes:,} "
        f"= {expected:.3g}. Inputs that are not scaled, a last layer that begins too large, or a wrong `from_logits` "
        "do that."
    )


def _is_plain_cross_entropy(model: Any) -> bool:
    """Whether the loss is the mean of a softmax's cross-entropy, without weights and penalties."""
    loss = keras.losses.get(model.loss) if isinstance(model.loss, str) else model.loss
    is_one = type(loss) in _CROSS_ENTROPIES or any(loss is one for one in _THEIR_FUNCTIONS)
    is_mean = getattr(loss, "reduction", "mean") in ("sum_over_batch_size", "mean") and getattr(loss, "axis", -1) == -1
    stock = type(model).train_step is keras.Model.train_step and type(model).compute_loss is keras.Model.compute_loss
    return is_one and is_mean and stock and not model.losses and model._compile_loss._user_loss_weights is None
