"""A second trainer, of NumPy: linear regression with momentum, accumulated gradients and noise from a generator."""

import contextlib
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from babysit.core.controls import Controls, apply
from babysit.core.events import EpochEnd, Fit
from babysit.core.position import Position
from babysit.core.runlog import RunLog, Steps
from babysit.core.scale import Scale
from babysit.core.state import State
from babysit.session.plan import FitPlan
from babysit.session.session import Session
from babysit.store.checkpoint_store import CheckpointStore

SCALES = {
    "learning_rate": Scale(1e-6, 1.0, "log", zero=True),
    "batch_size": Scale(1, 23, "log", whole=True),
    "momentum": Scale(0.0, 0.9999, "log of 1−β"),
}


@dataclass
class Source:
    """Twenty-three examples."""

    batch_size: int = 4
    shuffle: bool = True
    size: int = 23
    seed: int = 0
    fingerprint: str = "23 examples"
    repeatable: bool = True
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.x = rng.normal(size=(self.size, 3))
        self.y = self.x @ [1.0, -2.0, 0.5] + rng.normal(size=self.size)

    def order(self, seed, data_pass, shuffle):
        return np.random.default_rng([seed, data_pass]).permutation(self.size) if shuffle else np.arange(self.size)


class Callbacks:
    """Callbacks that do nothing, or call `hooks[name]`."""

    def __init__(self, **hooks):
        self.hooks, self.after = hooks, lambda hook, author, may_edit: None
        self.stride, self.every_step, self.stop_requested, self.stopped_by = math.inf, False, False, ""
        self.memory, self.initial_epoch, self.may_edit = [], 0, bool(hooks)

    def attach(self, **params):
        self.stop_requested = False

    def remember(self, memory):
        pass

    def plain(self, logs):
        return dict(logs)

    def __call__(self, hook, *place, logs=None):
        if hook in self.hooks:
            self.hooks[hook](*place)
            self.after(hook, "Callback", True)
        return dict(logs or {})


class NumpyTrainer:
    """Takes steps in blocks of a random length, which must never show."""

    def __init__(self, seed=0, accumulate=1, blocks=None):
        self.seed, self.accumulate, self._blocks = seed, accumulate, blocks or np.random.default_rng(0)
        self.position, self.controls, self.event = Position(), Controls(), 0
        self.followed, self.schedules, self.interrupted, self.compiled_anew = {}, (), False, False
        self.repeatable = True
        self.source = None
        self.diagnostics = SimpleNamespace(status={})
        self.weights, self.velocity, self.gradient = np.zeros(3), np.zeros(3), np.zeros(3)
        self.counts = np.zeros(2, np.int64)  # steps since the last update, numbers drawn
        self.total = np.zeros(2)  # the epoch's metric
        self.fail_at = None  # a step at which to raise, once

    def steered(self):
        pass

    # the protocol of the loop

    @property
    def epoch_over(self):
        return self.controls.fit is not None and self.position.epoch_over(self.controls.fit)

    @property
    def pass_over(self):
        return self.position.example >= self.source.size

    def step(self, limit):
        if self.controls.fit.data != self.source.fingerprint:
            raise ValueError("other data")
        values, first = self.controls.at(self.position.step), self.position.step + 1
        limit = min(limit, self.controls.steady_for(self.position.step), int(self._blocks.integers(1, 6)))
        losses, done, self.interrupted = [], 0, True
        while len(losses) < limit and not self.epoch_over:
            if self.fail_at == self.position.step + 1:
                self.fail_at = None
                raise RuntimeError("the step failed")
            examples = self._one(values)
            losses.append(self._loss)
            self.position, done = self.position.advanced(1, examples), done + examples
        self.interrupted = False
        return Steps(0, "", first, {"loss": np.array(losses)}, examples=done)

    def _one(self, values):
        fit, at = self.controls.fit, self.position
        order = self.source.order(self.seed, at.data_pass, fit.shuffle)
        rows = order[at.example : at.example + values["batch_size"]]
        noise = np.random.default_rng([self.seed, self.counts[1]]).normal(size=3)
        self.counts += 1
        error = self.source.x[rows] @ (self.weights + 0.01 * noise) - self.source.y[rows]
        self._loss = float(np.mean(error**2))
        self.total += [self._loss, 1]
        self.gradient = self.gradient + self.source.x[rows].T @ error / len(rows)
        if self.counts[0] == self.accumulate:
            self.velocity = (
                values["momentum"] * self.velocity - values["learning_rate"] * self.gradient / self.accumulate
            )
            self.weights, self.gradient = self.weights + self.velocity, np.zeros(3)
            self.counts[0] = 0
        return len(rows)

    def apply(self, event):
        self.controls, self.position = apply(self.controls, self.position, event)
        if isinstance(event.payload, EpochEnd) or (isinstance(event.payload, Fit) and event.payload.fresh):
            self.total = np.zeros(2)
        if isinstance(event.payload, EpochEnd) and event.payload.seeds is not None:
            self.counts[1] = event.payload.seeds[0][0]
        self.event = event.seq

    def capture(self):
        tensors = {
            "model": [self.weights.copy(), self.counts[1:].copy()],
            "optimizer": [self.velocity.copy(), self.gradient.copy(), self.counts[:1].copy()],
            "metrics": [self.total.copy()],
        }
        return State(self.position, self.controls, tensors, self.seed, event=self.event)

    def restore(self, state):
        self.position, self.controls, self.event = state.position, state.controls, state.event
        (weights, drawn), (velocity, gradient, since), (total,) = state.tensors.values()
        self.weights, self.velocity, self.gradient = weights.copy(), velocity.copy(), gradient.copy()
        self.counts, self.total = np.concatenate([since, drawn]), total.copy()
        self.interrupted = False

    # what a session asks beyond it

    steps_to_update = property(lambda self: -int(self.counts[0]) % self.accumulate)
    accumulates = property(lambda self: self.accumulate > 1)
    seeds = property(lambda self: [[int(self.counts[1])]])

    def prepare(self, source, ranges, batch_size, fit, begins):
        self.source = source
        known = self.controls.at(self.position.step) or {"learning_rate": 0.05, "momentum": 0.9}
        values = {"learning_rate": known["learning_rate"], "batch_size": batch_size, "momentum": known["momentum"]}
        return values, dict(SCALES)

    def steps_left(self, batch_size):
        return math.ceil((self.source.size - self.position.example) / batch_size)

    def short_of_memory(self, error):
        return isinstance(error, MemoryError)

    def epoch_logs(self, last):
        return {"loss": float(self.total[0] / self.total[1])} if self.total[1] else {}

    def epoch_began(self):
        pass

    def epoch_ended(self, pass_over):
        pass

    def observe(self):
        return self.weights.copy()

    def difference(self, before):
        return "" if np.array_equal(before, self.weights) else "variables changed"

    def adopt(self):
        return {}

    def guarded(self):
        return contextlib.nullcontext()

    def finish(self):
        return ""

    def release(self):
        pass


class MemoryStore:
    """Checkpoints in memory; `forget` drops some of them, as thinning does."""

    def __init__(self):
        self.kept = []
        self.names = []

    def save(self, state, branch, name=None, kept="", write_model=None):
        self.save_soon(state, branch, kept, name)
        return SimpleNamespace(
            step=state.position.step, name=name, branch=branch, path=SimpleNamespace(name=str(len(self.kept) - 1))
        )

    def save_soon(self, state, branch, kept="", name=None):
        one = SimpleNamespace(
            branch=branch, step=state.position.step, event=state.event, load=lambda: state, kept=kept, name=name
        )
        self.kept.append(one)

    def remember(self, state, branch):
        self.save_soon(state, branch)

    def save_if_due(self, capture, branch):
        if len(self.kept) % 3 == 0:
            self.save_soon(capture(), branch)

    def candidates(self):
        return sorted(self.kept, key=lambda one: (one.event, one.step))

    def found(self, folder):
        return self.kept[int(folder)]

    def free_name(self, step):
        return f"step {step}"

    def checked_name(self, name):
        return name

    def forget(self, rng):
        self.kept = [one for one in self.kept if one.kept or rng.random() < 0.5]


def plan(epochs=1000, callbacks=None, source=None, **how):
    return FitPlan(source or Source(), epochs, callbacks or Callbacks(), **how)


class Model:
    """Stands where a worker has a Keras model: what a guard finds there."""

    name = "numpy"
    fit = train_on_batch = evaluate = predict = test_on_batch = predict_on_batch = save_weights = lambda self: None

    def save(self, path):
        path.write_text("a model")


def driven(folder, trainer=None, **how):
    """A worker at rest before the first step of a fit, its checkpoints in a folder."""
    from babysit.session.worker import Worker  # which imports TensorFlow, as `tests.faults.steered` must not

    log = RunLog()
    session = Session(trainer or NumpyTrainer(3), log, CheckpointStore(folder, log, lambda: None, {}))
    worker = Worker(session, Model(), SimpleNamespace(error=None), lambda kind, content: folder / kind)
    worker.ask("fit", plan=plan(**how), paused=True)
    return worker
