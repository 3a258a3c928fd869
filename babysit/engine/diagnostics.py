"""Vital signs: what tells, beside the loss, how a training is: measured now and then, changing nothing.

Once in a while one step is taken by itself. Its weights before and after are compared, and a
`probe` with a graph of its own looks at its batch; the graph that trains is the same with and without.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from babysit.engine.block import first_batch
from babysit.engine.catalog import named_layers, optimizers_in
from babysit.engine.model import TrainableModel
from babysit.engine.probe import Found, Probe, sums_of_squares
from babysit.engine.sanity import first_loss
from babysit.session.history import History
from babysit.store.record import Record

# Measured no more often than this, and so seldom that it takes this share of the time.
INTERVAL_S = 3.0
SHARE = 0.03
# A ReLU's unit is dead if it was silent in so many batches looked at last, and all of them.
LOOKS = 10


@dataclass
class _Watched:
    """What was seen before the step that is measured."""

    weights: list[Any]
    owners: list[str]
    found: Found | None
    signs: dict[str, Any]
    fresh: bool  # whether it is the first look of its probe
    cost_s: float


class Diagnostics:
    """The vital signs of one training, and when they are measured.

    Args:
        subject: The model that is trained.
        record: Where they go, a row a measurement in the table `vitals`.
        history: The run's, for the branch.

    Attributes:
        on: Whether they are measured.
        unable: Why they cannot be, in a sentence; empty if they can.
        remark: What is odd about the loss of the first step, in a sentence; empty if nothing is.
    """

    def __init__(self, subject: TrainableModel, record: Record, history: History) -> None:
        self._subject, self._record, self._history = subject, record, history
        self.on, self.unable, self.remark = False, "", ""
        self._latest: dict[str, Any] | None = None
        self._every_s, self._next_s = INTERVAL_S, 0.0
        self._probe: tuple[Any, Probe] | None = None
        self._looks: deque[tuple[int, list[np.ndarray]]] = deque(maxlen=LOOKS)
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

    def prepare(self, own_fit: bool, every_step: bool) -> None:
        """Takes note of what a fit has that cannot be measured."""
        self.unable = ""
        if own_fit:
            self.unable = "The model trains by a `fit` of its own, which cannot be looked into."
        elif every_step and self._subject.model.steps_per_execution > 1:
            self.unable = "Callbacks follow executions of several steps, of which none is taken by itself."

    @property
    def told(self) -> dict[str, Any]:
        """How it stands, in plain data, from any thread."""
        about = {"on": self.on, "unable": self.unable, "every_s": self._every_s, "share": SHARE}
        return about | {"latest": self._latest}

    @property
    def wait(self) -> float:
        """Steps to take before the one to be measured, which moves the weights; infinity while none is due."""
        if not self.on or time.perf_counter() < self._next_s or not self._subject.traced:
            return math.inf
        return self._subject.steps_before_update

    def begin(self, count: int, data: Any, batch_size: int) -> _Watched | None:
        """Looks at the next step, if it is due and taken by itself; `end` wants what it returns."""
        if count > 1 or self.wait > 0:
            return None
        piece = data.piece(batch_size, 1)  # what goes wrong there is the training's own
        found: _Watched | None = self._attempt(self._look, data, piece, batch_size)
        return found

    def end(self, watched: _Watched | None, step: int) -> None:
        """Looks at what the step, number `step`, has done."""
        if watched is not None:
            self._attempt(self._conclude, watched, step)

    def judge(self, losses: np.ndarray | None, data: Any, batch_size: int) -> None:
        """Judges the loss of a run's first step, whether they are on or off."""
        self.remark = ""
        if losses is not None:
            with contextlib.suppress(Exception):  # of a model unlike any other nothing is said
                self.remark = first_loss(self._subject.model, data.spec, float(losses[0]), batch_size)

    def _attempt(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Calls; what goes wrong ends the measuring, and never the training."""
        try:
            return act(*arguments)
        except Exception as error:
            self.on = False
            why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self.unable = f"Measuring has ended, because it failed: {why}"
            return None

    def _look(self, data: Any, piece: Any, batch_size: int) -> _Watched:
        model, known, began = self._subject.model, self._probe, time.perf_counter()
        probe = self._probe_of(data.signature[0])
        weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        found = None
        if not probe.left_out:
            batch = first_batch(piece.data, piece.order, piece.cursor, piece.batch_size)
            found = probe(batch)
            self._looks.append((int(tf.nest.flatten(batch)[0].shape[0]), found.silent))
        noise, why = noise_scale(self._subject.optimizers, self._subject.bindings.values, data.size, batch_size)
        memory, cores = psutil.Process().memory_info().rss, self._cores()
        signs = {"noise_scale": noise, "memory_bytes": memory, "cores": cores, "left_out": _left_out(probe, why)}
        return _Watched(weights, _owners(model), found, signs, self._probe is not known, time.perf_counter() - began)

    def _probe_of(self, signature: Any) -> Probe:
        key = self._subject.structure, signature
        if self._probe is None or self._probe[0] != key:
            self._probe = key, Probe(self._subject.model, self._subject.bindings.reading_once, signature)
            self._looks.clear()
        return self._probe[1]

    def _cores(self) -> float:
        """Processors that the process kept busy since the last measurement."""
        before, self._clock = self._clock, _clock()
        return (self._clock[1] - before[1]) / max(self._clock[0] - before[0], 1e-9)

    def _conclude(self, watched: _Watched, step: int) -> None:
        began, model = time.perf_counter(), self._subject.model
        after = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        changes, weights = self._compare(watched.weights, after).numpy()
        signs = dict(watched.signs)
        gradients = None if watched.found is None else watched.found.squares
        signs["gradient_norm"] = None if gradients is None else _rounded(math.sqrt(gradients.sum()))
        signs["layers"] = self._layers(watched.owners, changes, weights, gradients)
        signs["examples"] = sum(examples for examples, _ in self._looks)
        signs = {name: _rounded(sign) if isinstance(sign, float) else sign for name, sign in signs.items()}
        row = {"branch": self._history.branch, "step": step, "time": time.time(), "signs": signs}
        self._record.append("vitals", **row)
        self._latest, self.unable = row, ""
        now = time.perf_counter()
        cost = 0.0 if watched.fresh else watched.cost_s + now - began  # tracing comes once, and tells nothing
        self._every_s = max(INTERVAL_S, cost / SHARE)
        self._next_s = now + self._every_s

    def _layers(self, owners: list[str], changes: Any, weights: Any, gradients: Any) -> list[dict[str, Any]]:
        """What each layer tells that learns or has a ReLU, in the order of the model."""
        dead = self._dead()
        found = []
        model = self._subject.model
        for name in dict.fromkeys([model.name, *(name for name, _ in named_layers(model)), *owners]):
            rows = [i for i, owner in enumerate(owners) if owner == name]
            if rows or name in dead:
                silent, units = dead.get(name, (None, None))
                ratio = _ratio(changes[rows].sum(), weights[rows].sum()) if rows else None
                norm = _rounded(math.sqrt(gradients[rows].sum())) if rows and gradients is not None else None
                found.append({"name": name, "ratio": ratio, "gradient": norm, "dead": silent, "units": units})
        return found

    def _dead(self) -> dict[str, tuple[int, int]]:
        """Layer -> how many units of its ReLUs are dead, and how many it has."""
        if self._probe is None or not self._looks:
            return {}
        found: dict[str, tuple[int, int]] = {}
        for i, name in enumerate(self._probe[1].relus):
            dead = np.logical_and.reduce([silent[i] for _, silent in self._looks])
            before, units = found.get(name, (0, 0))
            found[name] = before + int(dead.sum()), units + dead.size
        return found


def noise_scale(
    optimizers: Mapping[str, Any], values: Mapping[str, float], examples: int | None, batch_size: int
) -> tuple[float | None, str]:
    """The noise of SGD, scaled by the learning rate: g = ε (N / B − 1) / (1 − m).

    Smith & Le 2018 (A Bayesian perspective on generalization and stochastic gradient descent,
    section 4), with momentum m as in Smith et al. 2018 (Don't decay the learning rate, increase the
    batch size, section 3.2). N examples, B of them an update, learning rate ε.

    Returns:
        The scale, or None and why there is none, in a few words.
    """
    inner = list(optimizers_in(optimizers).values())
    if len(inner) != 1 or not isinstance(inner[0], keras.optimizers.SGD):
        return None, "it is defined for SGD alone"
    momentum = values.get("momentum", 0.0)
    if not examples or momentum >= 1:
        return None, "the number of examples is not known" if not examples else "the momentum is 1"
    size = batch_size * (inner[0].gradient_accumulation_steps or 1)
    return values["learning_rate"] * max(examples / size - 1, 0.0) / (1 - momentum), ""


# ----------------------------------------------------------------------------------------- small


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


def _left_out(probe: Probe, no_noise: str) -> list[str]:
    said = [f"Gradients and ReLUs are left out: {probe.left_out}."] if probe.left_out else []
    if not probe.left_out and not probe.relus:
        said.append("There is no ReLU in the model.")
    return said + ([f"The noise scale is left out: {no_noise}."] if no_noise else [])


def _ratio(change: float, weight: float) -> float | None:
    """‖change‖ / ‖weight‖ from their squares."""
    return _rounded(math.sqrt(change / weight)) if weight > 0 else None


def _rounded(value: float) -> float | None:
    """To four digits, for that is what the record keeps; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
