"""The training loop: synchronous, free of threads, and the only one.

A trainer takes a block of steps, applies a change at a boundary between blocks, saves,
and rewinds. It knows no queue and no clock: who drives it decides when to do what, and
`between` lets a driver be heard while a long validation goes on.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from babysit import checkpoints
from babysit.checkpoints import Checkpoint, State
from babysit.data import Arrays, symbolic
from babysit.history import History
from babysit.hyperparameters import Dials, Hyperparameter, checked, scales_for
from babysit.journal import Entry, Journal
from babysit.record import Record
from babysit.sampler import Sampler
from babysit.scales import Scale
from babysit.steps import Block, evaluation_block, fixed_size, training_block

# A block lasts about this long: short enough for a hand, long enough for Python not to matter.
BLOCK_S = 0.03
# A copy of the state in memory is made so seldom that it costs this share of the time.
SNAPSHOT_SHARE = 0.01


@dataclass
class Plan:
    """What a fit is to do: its data and how long it goes on.

    A fit that completes an interrupted one has the batch size of that one, and the
    hyperparameters as they were left.
    """

    data: Arrays
    validation: Arrays | None
    batch_size: int
    epochs: int
    shuffle: bool = True
    validation_batch_size: int = 32
    validation_freq: int | list[int] = 1
    ranges: Mapping[str, Any] | None = None
    completes: bool = False


class Trainer:
    """Trains one model, step by step, keeping the record of it.

    Args:
        model: A compiled Keras model; trained in place.
        record: Where history and journal go.
        directory: The run's folder; checkpoints go below it.
        seed: Of the order of examples.
    """

    def __init__(self, model: Any, record: Record, directory: Path, seed: int) -> None:
        self.model, self.seed = model, seed
        self.history, self.journal = History(record), Journal(record)
        self.step = 0
        self.epochs = 0
        self.loss = math.nan
        self.healthy = True
        self.between: Callable[[], None] = lambda: None
        self._record, self._folder = record, directory / "checkpoints"
        self._take_dials()
        self._values: dict[str, float] = self._dials.values
        self._scales: dict[str, Scale] = scales_for(self._values, None, 1)
        self._since: dict[str, int] = dict.fromkeys(self._values, 0)
        self._plan: Plan | None = None
        self._sampler = Sampler(0, seed)
        self._order: Any = None
        self._evaluation: Block | None = None
        self._pace = {"train": 1, "validate": 1}
        self._snapshot: State | None = None
        self._snapshot_time = self._snapshot_cost = 0.0

    # ------------------------------------------------------------------ the loop

    def take(self, limit: int) -> int:
        """Takes up to `limit` steps, none past the end of the epoch; returns how many.

        The step that ends an epoch includes validation and the reset of the metrics. A
        step whose loss turns NaN or infinite is the last one taken: `healthy` is then false.

        Raises:
            Exception: Whatever the step raised; the state of the last boundary is restored.
        """
        self._keep_snapshot()
        boundary = self.step
        try:
            logs = self._run(min(limit, self._pace["train"]))
        except Exception:
            self._return_to(boundary)
            raise
        losses = logs.pop("batch_loss", logs.get("loss"))
        self.history.append(self.epoch + 1, boundary + 1, logs if losses is None else {**logs, "loss": losses})
        if losses is not None:  # a train_step of the user's own may tell none by that name
            self.loss = float(losses[-1])
            self.healthy = math.isfinite(self.loss)
        if self._sampler.finished:
            self._end_epoch({name: float(values[-1]) for name, values in logs.items()})
        return self.step - boundary

    def _run(self, count: int) -> dict[str, np.ndarray]:
        batch_size, sampler = int(self._values["batch_size"]), self._sampler
        count = min(count, sampler.steps_left(batch_size))
        began = time.perf_counter()
        logs = self._block(self._fit.data.tensors, self._order, sampler.cursor, batch_size, count, watch=self.healthy)
        taken = len(next(iter(logs.values())))
        self._adapt("train", taken, time.perf_counter() - began)
        sampler.advance(taken, batch_size)
        self.step += taken
        self._trace_ahead()
        return logs

    @property
    def _block(self) -> Block:
        """The compiled block for the present structure: fixed in size while `Model.fit`'s would be."""
        plan, sampler = self._fit, self._sampler
        fixed = fixed_size(plan.data.size, plan.batch_size)
        if self._values["batch_size"] != fixed or sampler.cursor % fixed:
            fixed = None
        return self._block_of(fixed)

    def _trace_ahead(self) -> None:
        """Beside a block fixed in size traces the one for any size, so that a change need not wait for it."""
        if "batch_size" in self._scales and (self._dials.gates, None) not in self._blocks:
            self._block_of(None).trace(self._fit.data.tensors, self._order)

    def _block_of(self, fixed: int | None) -> Block:
        key = (self._dials.gates, fixed)
        if key not in self._blocks:
            self._blocks[key] = training_block(self.model, self._dials.held, fixed)
        return self._blocks[key]

    def _end_epoch(self, logs: dict[str, float]) -> None:
        try:
            if self._should_validate():
                logs |= {f"val_{name}": value for name, value in self._validate().items()}
        finally:  # an epoch that was trained is over, whatever its validation came to
            self.history.append_epoch(self.epoch + 1, self.step, logs)
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._sampler.next_epoch()
        self._order = tf.constant(self._sampler.order)
        self.model.reset_metrics()

    def _validate(self) -> dict[str, float]:
        """What `Model.evaluate` would return, in blocks, so that changes act between them."""
        validation, size = self._fit.validation, self._fit.validation_batch_size
        assert validation is not None and self._evaluation is not None
        sampler = Sampler(validation.size, seed=0, shuffle=False)
        order = tf.constant(sampler.order)
        self.model.reset_metrics()
        logs: dict[str, np.ndarray] = {}
        while not sampler.finished:
            began = time.perf_counter()
            count = min(self._pace["validate"], sampler.steps_left(size))
            logs = self._evaluation(validation.tensors, order, sampler.cursor, size, count)
            self._adapt("validate", count, time.perf_counter() - began)
            sampler.advance(count, size)
            self.between()
        return {name: float(values[-1]) for name, values in logs.items()}

    def _should_validate(self) -> bool:
        every = self._fit.validation_freq
        due = (self.epoch + 1) % every == 0 if isinstance(every, int) else self.epoch + 1 in every
        return self._fit.validation is not None and due

    def _adapt(self, what: str, count: int, elapsed_s: float) -> None:
        # Growth is bounded, for the first block includes the tracing and tells little.
        wanted = count * BLOCK_S / max(elapsed_s, 1e-6)
        self._pace[what] = max(1, min(int(wanted), 4 * count))

    @property
    def _fit(self) -> Plan:
        assert self._plan is not None, "prepare comes first"
        return self._plan

    # ------------------------------------------------- beginning, ending, where it is

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._sampler.epoch

    @property
    def finished(self) -> bool:
        """Whether all the epochs asked for are done."""
        return self.epoch >= self.epochs

    @property
    def progress(self) -> tuple[int, int]:
        """Examples of the present epoch done, and examples an epoch."""
        return self._sampler.cursor, self._sampler.size

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """Name -> value and bounds, in a stable order."""
        return {name: Hyperparameter(self._values[name], scale) for name, scale in self._scales.items()}

    @property
    def prepared(self) -> bool:
        """Whether there is data to train on."""
        return self._plan is not None

    @property
    def batch_size(self) -> int | None:
        """Examples a step, or None before the first fit."""
        return int(self._values["batch_size"]) if "batch_size" in self._values else None

    @property
    def in_effect_since(self) -> dict[str, int]:
        """Hyperparameter -> the step behind which its present value acts."""
        return dict(self._since)

    def prepare(self, plan: Plan) -> Entry:
        """Makes ready to train by a plan: builds the model, makes its hyperparameters live.

        The first plan begins the run; a later one goes on in it.

        Raises:
            ValueError: If `ranges` does not fit the hyperparameters.
            Exception: What Keras raises when the model cannot be built for such data.
        """
        first = not self.history.branches
        before = self._values
        if self.model._loss_tracker is not self._compiled:
            self._take_dials()
        self._dials.read()
        in_effect = min(plan.batch_size, plan.data.size)
        if plan.completes:
            plan.batch_size, plan.shuffle = self._record.meta("batch_size"), self._record.meta("shuffle")
            in_effect = int(before["batch_size"])
        values = self._ordered(self._dials.values, in_effect)
        scales = scales_for(values, plan.ranges, plan.data.size)
        self._build(plan.data.spec)
        if _has_one_size(self.model):
            scales.pop("batch_size", None)
        self._dials.bind()
        self._plan, self._values, self._scales = plan, values, scales
        self._snapshot = None  # it is of other data, or of other values
        self._record.set_meta(
            {
                "spec": plan.data.spec,
                "scales": {name: asdict(scale) for name, scale in scales.items()},
                "fingerprint": plan.data.fingerprint(),
                "batch_size": plan.batch_size,
                "shuffle": plan.shuffle,
            }
        )
        if plan.validation is not None:
            fixed = fixed_size(plan.validation.size, plan.validation_batch_size)
            self._evaluation = evaluation_block(self.model, fixed)
        self._place(plan)
        if first:
            self.history.begin(values)
            before = {}
        changes = {name: (before.get(name), values[name]) for name in scales if before.get(name) != values[name]}
        self._since |= dict.fromkeys(changes, self.step)
        return self.enter("fit", changes=changes)

    def _take_dials(self) -> None:
        """Takes the dials of the model as it is compiled now; every `compile` makes a loss tracker of its own."""
        self._compiled = self.model._loss_tracker
        self._dials = Dials(self.model.optimizer)
        self._blocks: dict[tuple[tuple[str, ...], int | None], Block] = {}

    def _place(self, plan: Plan) -> None:
        """Goes on in the order of examples where it stood; other data, or another order, begin an epoch anew."""
        epoch, cursor, before = self._sampler.epoch, self._sampler.cursor, self._sampler
        self._sampler = Sampler(plan.data.size, self.seed, plan.shuffle)
        same = before.size in (0, plan.data.size) and before.shuffle == plan.shuffle
        self.healthy = True
        if cursor == 0 or not same:
            cursor = 0
            self.model.reset_metrics()
        self._sampler.restore(epoch, cursor)
        self._order = tf.constant(self._sampler.order)

    def finish(self, action: str, **about: Any) -> Entry:
        """Ends the fit: `"finish"` or `"stop"`. The model and its optimizer are stock again."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if optimizer.use_ema and int(optimizer.iterations) > 0:
            optimizer.finalize_variable_values(self.model.trainable_weights)
            self.enter("edit", author=type(optimizer).__name__, why="weights replaced by their moving average")
        self._dials.release()
        return self.enter(action, **about)

    def fail(self, error: BaseException) -> Entry:
        """Ends the fit because of an error."""
        self._dials.release()
        return self.enter("fail", why=f"{type(error).__name__}: {error}")

    # ------------------------------------------------------- what a hand may do to it

    def set(self, changes: Mapping[str, Any], **about: Any) -> Entry:
        """Changes hyperparameters, all of them from the next step on.

        Args:
            changes: Name -> new value.
            **about: `author`, `why` and `command` of the entry.

        Raises:
            TypeError: If a value is not a number.
            ValueError: If a name is unknown or a value out of bounds; nothing was changed then.
        """
        values = self.checked(changes)
        entry_changes = {name: (self._values[name], value) for name, value in values.items()}
        self._write(values)
        return self.enter("set", changes=entry_changes, **about)

    def checked(self, changes: Mapping[str, Any]) -> dict[str, float]:
        """Returns the changes as `set` would apply them, or raises as it would."""
        if not changes:
            raise ValueError("`set` needs at least one hyperparameter, such as `learning_rate=0.001`. Received none.")
        for name in changes:
            if name not in self._scales:
                raise ValueError(
                    f"`{name}` is not a hyperparameter that can be changed now. Received: {name}={changes[name]!r}. "
                    f"Those that can: {', '.join(self._scales)}.{_hint(name, self._scales)}"
                )
        return {name: checked(name, value, self._scales[name], _cure(name)) for name, value in changes.items()}

    def enter(self, action: str, **about: Any) -> Entry:
        """Writes an entry at the present step and on the present branch."""
        fields = {"step": self.step, "author": "script", "branch": self.history.branch}
        return self.journal.append(**{**fields, "action": action, **about})

    def save(self, name: str | None = None, **about: Any) -> Checkpoint:
        """Saves the whole state under a new name, made from the step if none is given.

        Raises:
            ValueError: If the name is taken, or none.
            OSError: If the disk does not take it; nothing is left behind.
        """
        taken = [checkpoint.name for checkpoint in self.checkpoints if checkpoint.name]
        if name is None:
            candidates = itertools.chain([""], (f" ({i})" for i in itertools.count(2)))
            name = next(c for c in (f"step {self.step:,}{more}" for more in candidates) if c not in taken)
        checkpoint = self._keep(checkpoints.checked_name(name, taken))
        self.enter("save", why=name, **about)
        return checkpoint

    def save_automatically(self) -> Checkpoint:
        """Saves the whole state, without a name or an entry."""
        return self._keep(None)

    def _keep(self, name: str | None) -> Checkpoint:
        state, branch, now = self.state(), self.history.branch, time.time()
        folder = checkpoints.save(self._folder, state, {"name": name, "branch": branch, "time": now})
        digest = state.digest()
        self._record.append(
            "checkpoints", step=self.step, name=name, folder=folder.name, branch=branch, digest=digest, time=now
        )
        self._record.flush()
        return Checkpoint(self.step, name, folder, branch, digest)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints on disk, oldest first."""
        whole = {folder.name: folder for folder in checkpoints.complete(self._folder)}
        return [
            Checkpoint(row["step"], row["name"], whole[row["folder"]], row["branch"], row["digest"])
            for row in self._record.rows("checkpoints")
            if row["folder"] in whole
        ]

    def rewind(self, folder: str, hyperparameters: str = "checkpoint", **about: Any) -> Entry:
        """Returns to a checkpoint, on a new branch; keeps the present values if told `"keep"`.

        Args:
            folder: The name of the checkpoint's folder.
            hyperparameters: `"checkpoint"` or `"keep"`.
            **about: `author`, `why` and `command` of the entry.

        Raises:
            ValueError: If there is no such checkpoint, it is damaged, or it belongs to another
                model; nothing was changed then.
        """
        checkpoint = next((saved for saved in self.checkpoints if saved.path.name == folder), None)
        if checkpoint is None:
            raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")
        state, _ = checkpoints.load(checkpoint.path)
        if hyperparameters not in ("checkpoint", "keep"):
            raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
        before, left = dict(self._values), self.step
        self.restore(state)
        if hyperparameters == "keep":
            self._write({name: before[name] for name in self._scales})
        # Kept values are a change against the checkpoint's, restored ones against the present.
        before = dict(state.hyperparameters) if hyperparameters == "keep" else before
        changes = {name: (old, self._values[name]) for name, old in before.items() if old != self._values[name]}
        self.history.leave(self.step, checkpoint.branch, self._values)
        self._since = self.history.changed_at(self._values) | dict.fromkeys(changes, self.step)
        name = f"“{checkpoint.name}”" if checkpoint.name else f"step {self.step:,}"
        kept = ", hyperparameters kept" if hyperparameters == "keep" else ""
        why = about.pop("why", "") or f"to {name}, from step {left:,}{kept}"
        return self.enter("rewind", changes=changes, why=why, **about)

    def resume_from_disk(self) -> None:
        """Takes up a run whose record exists: stands at its newest complete checkpoint.

        Raises:
            ValueError: If there is none that can be used, or the model is another one.
        """
        self._build(self._record.meta("spec"))
        self._scales = {name: Scale(**fields) for name, fields in self._record.meta("scales").items()}
        tip = self.history.branch, self.history.steps
        checkpoint, state = self._newest_sound()
        self.restore(state)
        self._since = self.history.changed_at(self._values)
        if (checkpoint.branch, checkpoint.step) != tip:
            self.history.leave(self.step, checkpoint.branch, self._values)
            why = f"to step {self.step:,}, the newest checkpoint on disk, from step {tip[1]:,} of {tip[0]}"
            self.enter("rewind", why=why)

    def _newest_sound(self) -> tuple[Checkpoint, State]:
        reasons = []
        for checkpoint in reversed(self.checkpoints):
            try:
                return checkpoint, checkpoints.load(checkpoint.path)[0]
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError(f"The run has no checkpoint that can be used. {' '.join(reasons)}")

    # ------------------------------------------------------------------- its state

    def state(self) -> State:
        """A copy of everything that decides how training goes on."""
        return State(
            tensors={
                group: [v.value.numpy().copy() for v in variables] for group, variables in self._variables().items()
            },
            hyperparameters=dict(self._values),
            gates=self._dials.gates,
            seed=self.seed,
            epoch=self._sampler.epoch,
            cursor=self._sampler.cursor,
            step=self.step,
            shuffle=self._sampler.shuffle,
            examples=self._sampler.size,
        )

    def restore(self, state: State) -> None:
        """Returns to a state.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        self._check_fit(state)
        values, before, gates = dict(state.hyperparameters), self._dials.values, self._dials.gates
        self._dials.bind()
        self._dials.restore(values, state.gates)
        try:
            self._check_shapes(state)
        except ValueError:
            self._dials.restore(before, gates)
            raise
        for group, variables in self._variables().items():
            for variable, array in zip(variables, state.tensors[group], strict=True):
                variable.assign(array)
        self._values, self.step, self.healthy, self._snapshot = values, state.step, True, None
        self._sampler.restore(state.epoch, state.cursor)
        self._sampler.shuffle = state.shuffle
        if self._sampler.size:
            self._order = tf.constant(self._sampler.order)

    def _variables(self) -> dict[str, list[Any]]:
        model = self.model
        return {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}

    def _check_fit(self, state: State) -> None:
        if missing := set(self._dials.values) - set(state.hyperparameters):
            raise ValueError(
                f"The checkpoint is of another optimizer: it has no {', '.join(sorted(missing))}. "
                "Compile the model as it was trained."
            )
        if self._plan is not None and state.examples not in (0, self._sampler.size):
            raise ValueError(
                f"The checkpoint was made on {state.examples:,} examples, and now there are {self._sampler.size:,}. "
                "`fit` on those data again before you rewind to it."
            )

    def _check_shapes(self, state: State) -> None:
        for group, variables in self._variables().items():
            have = [tuple(variable.shape) for variable in variables]
            need = [array.shape for array in state.tensors[group]]
            if have != need:
                raise ValueError(
                    f"The checkpoint is of another model: its {group} variables have shapes {_short(need)}, those of "
                    f"`{self.model.name}` have {_short(have)}. Use the model that was trained, compiled as it was."
                )

    def _write(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name != "batch_size":
                self._dials.write(name, value)
            self._values[name] = value
            self._since[name] = self.step
        self._snapshot = None

    def _ordered(self, values: Mapping[str, float], batch_size: int) -> dict[str, float]:
        first = {name: value for name, value in values.items() if name == "learning_rate"}
        return {**first, "batch_size": batch_size, **values}

    def _build(self, spec: Any) -> None:
        self.model._symbolic_build(data_batch=symbolic(spec))

    def _keep_snapshot(self) -> None:
        now = time.perf_counter()
        if self._snapshot is None or now - self._snapshot_time > self._snapshot_cost / SNAPSHOT_SHARE:
            self._snapshot = self.state()
            self._snapshot_time = time.perf_counter()
            self._snapshot_cost = self._snapshot_time - now

    def _return_to(self, boundary: int) -> None:
        """After a failed block: from the snapshot, the same steps again, up to the boundary."""
        assert self._snapshot is not None
        self.restore(self._snapshot)
        while self.step < boundary:
            self._run(boundary - self.step)
            if self._sampler.finished:
                self._begin_epoch()


def _has_one_size(model: Any) -> bool:
    """Whether the model was made for batches of one size, as a stateful recurrent one is."""
    return any(tensor.shape[0] is not None for tensor in getattr(model, "inputs", None) or ())


def _cure(name: str) -> str:
    return "" if name == "batch_size" else f"Other bounds: `fit(..., ranges={{{name!r}: (low, high)}})`."


def _hint(name: str, known: Mapping[str, Scale]) -> str:
    instead = {"momentum": "beta_1", "beta_1": "momentum"}.get(name)
    return f" This optimizer has `{instead}` instead." if instead in known else ""


def _short(shapes: list[tuple[int, ...]]) -> str:
    return f"{', '.join(map(str, shapes[:4]))}{', …' if len(shapes) > 4 else ''} ({len(shapes)} in all)"
