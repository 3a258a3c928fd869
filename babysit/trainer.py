"""The training loop: synchronous, free of threads, and the only one.

A trainer takes a block of steps, applies a change at a boundary between blocks, saves,
and rewinds. It knows no queue and no clock: who drives it decides when to do what, and
`between` lets a driver be heard while a long validation goes on.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.callbacks import Callbacks, plain
from babysit.checkpoints import Checkpoint, Shelf, State
from babysit.data import symbolic
from babysit.dials import Dials
from babysit.history import History
from babysit.hyperparameters import Hyperparameter
from babysit.journal import Entry, Journal
from babysit.own_fit import Watch, columns
from babysit.record import Record
from babysit.scales import Scale
from babysit.steering import Helm, Waiting
from babysit.steps import Block, Logs, Pace, Stepwise, training_block, unfusable
from babysit.validation import Validation
from babysit.variables import Variables, applied_in, attribute_optimizers

# A copy of the state in memory is made so seldom that it costs this share of the time.
SNAPSHOT_SHARE = 0.01


@dataclass
class Plan:
    """What a fit is to do: its data, how long it goes on, and who is told.

    A fit that completes an interrupted one has the hyperparameters as they were left.
    """

    data: Any
    epochs: int
    validation: Any = None
    validation_steps: int | None = None
    validation_freq: int | list[int] = 1
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    shuffle: Any = True
    callbacks: Callbacks = field(default_factory=Callbacks)
    ranges: Mapping[str, Any] | None = None
    verbose: Any = 0
    completes: bool = False
    own: Mapping[str, Any] | None = None  # what a model's own `fit` is given, where it has one


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
        self.step = self.epoch = self.seen = 0
        self.epochs = 0
        self.loss = math.nan
        self.healthy = True
        self.between: Callable[[], None] = lambda: None
        self.between_steps: Callable[[], None] = lambda: None
        self._record, self._shelf = record, Shelf(record, directory / "checkpoints")
        self._take_optimizers()
        self._helm = Helm(self._dials)
        self._plan: Plan | None = None
        self._place = (0, 0)
        self._epoch_step = 0
        self._offset = 0  # Keras's number of an epoch is ours and this
        self._early = False
        self._waiting: list[Waiting] = []
        self._pace = Pace()
        self._validation: Validation | None = None
        self._proven = 0  # the largest batch size that a block went through with
        self._last_growth: dict[str, tuple[Any, Any]] = {}
        self._snapshot: State | None = None
        self._snapshot_time = self._snapshot_cost = 0.0
        self._known: tuple[list[Any], tuple[bool, ...]] | None = None  # what nobody has edited yet
        self._frozen: tuple[bool, ...] = ()
        self._edited = False
        self._restless = ""  # why steps taken again may differ, once that is seen
        self._logs: Mapping[str, Any] = {}

    # ------------------------------------------------------------------ the loop

    def take(self, limit: int) -> int:
        """Takes up to `limit` steps, none past the end of the epoch; returns how many.

        The step that ends an epoch includes validation, the callbacks' hooks and the reset of
        the metrics. A step whose loss turns NaN or infinite is the last one taken: `healthy`
        is then false.

        Raises:
            Exception: Whatever the step raised; the state of the last boundary is restored. Or
                what a callback raised; the steps taken stay.
        """
        if self._fit.own is not None:
            return self._take_own(self._fit.own)
        if self._epoch_spent:  # saved by a callback, between the last step of an epoch and its end
            self._begin_epoch()
            self._tell_of_an_epoch()
            return 0
        boundary = self.step
        count = self._room(limit)
        self._keep_snapshot(bool(self._helm.ramps))
        moving = self._helm.advance(boundary, self._steps_to_update() == 0 if self._helm.ramps else True)
        first = self._epoch_step
        self._call("on_train_batch_begin", first)
        logs = self._run_or_return(count, boundary)
        self._take_down(logs, boundary, moving)
        last = first + count if self._fit.callbacks.every_step else self._epoch_step
        self._call("on_train_batch_end", last - 1, logs=logs.last)
        if self._epoch_spent or self.model.stop_training:
            self._end_epoch(logs.last)
        self._apply_waiting()
        return self.step - boundary

    def _take_own(self, given: Mapping[str, Any]) -> int:
        """Has the model's own `fit` train to its end, and sees its steps from a callback."""
        before = self.step
        watch = Watch(self._saw_step, self._saw_epoch)
        self.model.fit(**{**given, "callbacks": [*self._fit.callbacks.all, watch]})
        self._early = True
        return self.step - before

    def _saw_step(self, logs: Mapping[str, Any]) -> None:
        self.step, self._epoch_step, self.seen = self.step + 1, self._epoch_step + 1, self.seen + self.batch_size
        self._take_down(Logs(columns(logs), dict(logs), columns(logs).get("loss"), 1), self.step - 1, ())
        self._adopt("script")
        self.between_steps()

    def _saw_epoch(self, logs: Mapping[str, Any]) -> None:
        self.history.append_epoch(self.epoch + 1, self.step, plain(logs))
        self.epoch, self._epoch_step = self.epoch + 1, 0

    def _room(self, limit: int) -> int:
        """How many of the steps asked for may go in one block."""
        if self._helm.ramps or self.model.stop_training:  # told to stop in advance, `Model.fit` takes one step
            return 1
        # Hooks of batches come once an execution: of one step, unless the model is compiled for more.
        pace = self.model.steps_per_execution if self._fit.callbacks.every_step else self._pace.steps
        ends = [limit, pace]
        if self._fit.steps_per_epoch:
            ends.append(self._fit.steps_per_epoch - self._epoch_step)
        ends += [waiting.step - self.step for waiting in self._waiting]
        return max(1, min(ends))

    def _run_or_return(self, count: int, boundary: int) -> Logs:
        try:
            return self._run(count)
        except tf.errors.ResourceExhaustedError as error:
            if not self._last_growth or self.batch_size <= self._proven:
                self._return_to(boundary)
                raise
            self._return_to(boundary)
            self._spring_back(error)
            self._helm.advance(boundary, True)
            return self._run(min(count, self._room(count)))
        except Exception:
            self._return_to(boundary)
            raise

    def _run(self, count: int) -> Logs:
        size, source = self.batch_size, self._fit.data
        piece = source.piece(size, count)
        began = time.perf_counter()
        block = self._block_of(piece.fixed)
        logs = block(piece.data, piece.order, piece.cursor, piece.batch_size, piece.count, watch=self.healthy)
        self._pace.took(logs.taken, time.perf_counter() - began)
        before = source.place[1]
        source.advance(logs.taken, size)
        self.seen += source.place[1] - before
        self.step += logs.taken
        self._epoch_step += logs.taken
        self._proven = max(self._proven, size)
        self._trace_ahead(piece)
        return logs

    def _take_down(self, logs: Logs, boundary: int, moving: tuple[str, ...]) -> None:
        columns = dict(logs.steps)
        if logs.loss is not None:  # a train_step of the user's own may tell none
            columns["loss"] = logs.loss
            self.loss = float(logs.loss[-1])
            self.healthy = math.isfinite(self.loss)
        columns |= {name: np.array([self._helm.values[name]]) for name in moving}
        self.history.append(self.epoch + 1, boundary + 1, logs.taken, columns)
        self._helm.follow()

    def _block_of(self, fixed: int | None) -> Block | Stepwise:
        """The compiled block for the present structure."""
        key = self._block_key(fixed)
        if key not in self._blocks:
            measured = self._dials.measured if self._dials.schedules else None
            self._blocks[key] = training_block(self.model, self._dials.held, fixed, measured)
            self._blocks[key].trace(*self._fit.data.signature)  # for data of any length, so that once is enough
            self._restless = self._restless or self._blocks[key].remark
        return self._blocks[key]

    def _block_key(self, fixed: int | None) -> Any:
        return self._dials.graph, self._frozen, fixed

    def _trace_ahead(self, piece: Any) -> None:
        """Beside a block fixed in size traces the one for any size, so that a change need not wait for it."""
        if piece.fixed is None or self.model.jit_compile or "batch_size" not in self._helm.scales:
            return
        if self._block_key(None) not in self._blocks:
            self._block_of(None)

    @property
    def _epoch_spent(self) -> bool:
        plan = self._fit
        enough = plan.steps_per_epoch is not None and self._epoch_step >= plan.steps_per_epoch
        return bool(enough or plan.data.finished)

    def _end_epoch(self, last: Mapping[str, Any]) -> None:
        logs = self._epoch_logs(last)
        self._watch_for_edits()
        try:
            if self._validation is not None and self._validation.is_due(self.epoch + self._offset + 1):
                self._snapshot = None  # what a validation draws cannot be drawn again from before it
                logs |= {f"val_{name}": value for name, value in self._validation.run(self.between).items()}
            logs = self._call("on_epoch_end", self.epoch + self._offset, logs=logs)
        finally:  # an epoch that was trained is over, whatever its validation came to
            self.history.append_epoch(self.epoch + 1, self.step, plain(logs))
            self._logs = logs
            self._begin_epoch()
        self._tell_of_an_epoch()

    def _tell_of_an_epoch(self) -> None:
        if not self.finished and self._epoch_step == 0:
            self._call("on_epoch_begin", self.epoch + self._offset)
        self._keep_edits()

    def _epoch_logs(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What Keras reports of an epoch: the metrics' results, or the last step's logs where they differ in name."""
        stock = type(self.model).train_step is keras.Model.train_step
        return dict(last if stock else self.model._get_metrics_result_or_logs(dict(last)))

    def _begin_epoch(self) -> None:
        plan = self._fit
        self._early = bool(self.model.stop_training)
        if plan.data.finished or not plan.steps_per_epoch:
            if plan.steps_per_epoch and self._epoch_step < plan.steps_per_epoch and not self._early:
                warnings.warn(
                    f"The data ran out after {self._epoch_step} of {plan.steps_per_epoch} steps; the epoch ends there.",
                    stacklevel=2,
                )
            plan.data.next_pass()
        self.epoch, self._epoch_step = self.epoch + 1, 0
        self._variables.reset_metrics()

    @property
    def _fit(self) -> Plan:
        assert self._plan is not None, "prepare comes first"
        return self._plan

    # ------------------------------------------------- beginning, ending, where it is

    @property
    def finished(self) -> bool:
        """Whether all the epochs asked for are done, or a callback ended the training."""
        return self._early or self.epoch >= self.epochs

    @property
    def ended_early(self) -> bool:
        """Whether a callback ended the training before all its epochs were done."""
        return self._early

    @property
    def progress(self) -> tuple[int, int | None]:
        """Examples of the present epoch done, and examples an epoch; None where that is not known."""
        plan = self._plan
        if plan is None:
            return 0, 0
        if plan.steps_per_epoch:
            size = self.batch_size
            return self._epoch_step * size, plan.steps_per_epoch * size
        return plan.data.place[1], plan.data.size

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """Name -> value and bounds, in a stable order."""
        return self._helm.hyperparameters

    @property
    def settings(self) -> dict[str, Any]:
        """Couplings: name -> what it is set to."""
        return dict(self._helm.settings)

    @property
    def following(self) -> tuple[str, ...]:
        """Hyperparameters that follow a schedule of Keras's."""
        return tuple(self._helm.dials.following)

    @property
    def by_itself(self) -> bool:
        """Whether the model trains by a `fit` of its own."""
        return self._plan is not None and self._plan.own is not None

    @property
    def prepared(self) -> bool:
        """Whether there is data to train on."""
        return self._plan is not None

    @property
    def batch_size(self) -> int:
        """Examples a step; 0 before the first fit."""
        return int(self._helm.values.get("batch_size", 0))

    @property
    def in_effect_since(self) -> dict[str, int]:
        """Hyperparameter -> the step behind which its present value acts."""
        return dict(self._helm.since)

    def prepare(self, plan: Plan) -> Entry:
        """Makes ready to train by a plan: builds the model, makes its hyperparameters live.

        The first plan begins the run; a later one goes on in it.

        Raises:
            ValueError: If `ranges` does not fit the hyperparameters.
            Exception: What Keras raises when the model cannot be built for such data.
        """
        self.notice()
        first = not self.history.branches
        before = {} if first else self._helm.values
        if self._compiled_anew:
            self._take_optimizers()
        self._make_ready(plan)
        anew = self._stand_in(plan)
        batch_size = plan.data.batch_size if plan.data.size is None else min(plan.data.batch_size, plan.data.size)
        if plan.completes:
            batch_size = int(before["batch_size"])
        self._take_helm(plan, batch_size)
        if anew:
            self._epoch_step = 0
            self.model.reset_metrics()
        self._snapshot, self._waiting = None, []  # of other data, or of other values
        self._keep_meta(plan)
        self._plan, self.healthy, self._early = plan, True, False
        self._make_validation(plan)
        values = self._helm.values
        if first:
            self.history.begin(values)
        self._frozen = self._flags()
        changes = {name: (before.get(name), values[name]) for name in values if before.get(name) != values[name]}
        changes = {name: change for name, change in changes.items() if name in self._helm.scales}
        self._helm.since |= dict.fromkeys(changes, self.step)
        self._dials.bind()
        return self.enter("fit", changes=changes, why=" ".join(filter(None, self.remarks)))

    def _make_ready(self, plan: Plan) -> None:
        """Builds the model, finds its hyperparameters and the optimizers that its step applies."""
        self._build(plan.data.spec)
        self._dials.read()
        if plan.own is None:
            self._choose_optimizers(*plan.data.signature)

    def _take_helm(self, plan: Plan, batch_size: int) -> None:
        steerable = plan.data.steerable and not _has_one_size(self.model)
        self._helm.take(self._dials, batch_size, plan.data.size, plan.ranges, steerable)

    def _make_validation(self, plan: Plan) -> None:
        self._validation = None
        if plan.validation is not None:
            about = plan.validation, plan.validation_steps, plan.validation_freq, plan.callbacks
            self._validation = Validation(self.model, *about)

    def _recompile(self) -> None:
        """Goes on with the model as it was compiled anew while it rested."""
        plan, before = self._fit, self._helm.told
        self._dials.release()
        self._take_optimizers()
        self._make_ready(plan)
        self._take_helm(plan, self.batch_size)
        self._dials.bind()
        self._make_validation(plan)
        now = self._helm.told
        changes = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
        self._helm.since |= dict.fromkeys(changes, self.step)
        self._snapshot = None
        self.enter("edit", changes=changes, why="compiled anew")

    def _keep_meta(self, plan: Plan) -> None:
        self._record.set_meta(
            {
                "spec": plan.data.spec,
                "scales": {name: asdict(scale) for name, scale in self._helm.scales.items()},
                "fingerprint": plan.data.fingerprint(),
                "batch_size": plan.data.batch_size,
                "shuffle": plan.shuffle,
                "data": _identity(plan),
            }
        )

    def _take_optimizers(self) -> None:
        """Takes the optimizers and dials of the model as it is compiled now; every `compile` makes a loss tracker."""
        self._compiled, self._chosen = (self.model._loss_tracker, self.model.optimizer), False
        self._use({"": self.model.optimizer, **attribute_optimizers(self.model)} if _is_custom(self.model) else {})

    @property
    def _compiled_anew(self) -> bool:
        """Whether the model has been compiled, or given another optimizer, since we looked."""
        tracker, optimizer = self._compiled
        return self.model._loss_tracker is not tracker or self.model.optimizer is not optimizer

    def _use(self, optimizers: Mapping[str, Any]) -> None:
        """Makes these the optimizers that a step applies; one alone needs no name."""
        if len(optimizers) < 2:
            optimizers = dict(zip([""], [*optimizers.values(), self.model.optimizer], strict=False))
        self._optimizers = dict(optimizers)
        self._dials = Dials(self.model, self._optimizers)
        self._variables = Variables(self.model, list(self._optimizers.values()))
        self._blocks: dict[Any, Block | Stepwise] = {}

    def _choose_optimizers(self, data: Any, order: Any) -> None:
        """Where a model has several optimizers, finds those that its step applies: by tracing it on such data."""
        if len(self._optimizers) < 2 or self._chosen:
            return
        with applied_in(self._optimizers) as applied:
            training_block(self.model, self._dials.held).trace(data, order)
        self._chosen = True
        if applied:
            self._use({name: optimizer for name, optimizer in self._optimizers.items() if name in applied})

    def _stand_in(self, plan: Plan) -> bool:
        """Goes to where training stood in the data; returns whether an epoch begins anew, for they are others."""
        data = plan.data
        passes, cursor = self._plan.data.place if self._plan is not None else self._place
        same = self._record.meta("data") == _identity(plan)
        if same and (cursor > 0 or self._epoch_step > 0):
            try:
                data.restore(passes, cursor)
            except ValueError:  # a generator: it begins where it stands
                pass
            else:
                return False
        data.restore(max(passes, self.epoch), 0)
        return True

    def begin(self) -> None:
        """Tells the callbacks that the training begins; `prepare` comes first.

        Raises:
            Exception: What a callback raises.
        """
        plan, model, hooks = self._fit, self.model, self._fit.callbacks
        if plan.own is not None:  # its own `fit` tells them
            self.epochs, self._early = self.epoch + plan.epochs - plan.initial_epoch, False
            return
        steps = plan.steps_per_epoch or plan.data.steps_left(self.batch_size)
        hooks.attach(model, verbose=plan.verbose, epochs=plan.epochs, steps=steps)
        hooks.after = self._after_hook
        model.stop_training = False
        self._watch_for_edits()
        began = self.epoch
        self._call("on_train_begin")
        initial = model._initial_epoch or plan.initial_epoch
        if plan.completes:
            self._offset = int(self._record.meta("initial_epoch") or 0)
            self.epochs = plan.epochs - self._offset
        else:
            self._offset = initial - began
            self.epochs = began + max(plan.epochs - initial, 0)
            if began == 0:
                self._record.set_meta({"initial_epoch": initial})
        self._logs = {}
        self._tell_of_an_epoch()

    @property
    def remarks(self) -> list[str]:
        """What cannot be steered, fused or rewound in this fit, and why; a sentence each."""
        plan = self._plan
        if plan is None:
            return []
        found = [unfusable(self.model) if plan.own is None else "", plan.data.remark, self._restless]
        return [sentence for sentence in found if sentence]

    def finish(self, action: str, **about: Any) -> Entry:
        """Ends the fit: `"finish"` or `"stop"`. The model and its optimizer are stock again."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        own, self._waiting = self._fit.own is not None, []
        if not own and optimizer is not None and optimizer.use_ema and int(optimizer.iterations) > 0:
            optimizer.finalize_variable_values(self.model.trainable_weights)
            self.enter("edit", author=type(optimizer).__name__, why="weights replaced by their moving average")
        self._watch_for_edits()
        try:
            if not own:
                self._call("on_train_end", logs=self._logs)
        finally:
            self._dials.release()
        return self.enter(action, **about)

    def fail(self, error: BaseException) -> Entry:
        """Ends the fit because of an error."""
        self._waiting = []
        self._dials.release()
        return self.enter("fail", why=f"{type(error).__name__}: {error}")

    # ------------------------------------------------------- what a hand may do to it

    def set(self, changes: Mapping[str, Any], over: int = 1, **about: Any) -> Entry:
        """Changes hyperparameters, all of them from the next step on, or in so many steps.

        Args:
            changes: Name -> new value.
            over: Steps in which to move there, evenly on the hyperparameter's scale.
            **about: `author`, `why` and `command` of the entry.

        Raises:
            TypeError: If a value is not a number.
            ValueError: If a name is unknown or a value out of bounds; nothing was changed then.
        """
        values = self._helm.checked(changes, over)
        told = self._helm.planned(values)
        boundary = self.step + self._steps_to_update() if "batch_size" in values else self.step
        if boundary == self.step:
            return self._turn(values, over, **about)
        # Gradients of batches of one size are averaged: the next size waits until they are applied.
        fields = {"author": "script", "why": "", "command": None, "time": time.time(), **about}
        self._waiting.append(Waiting(boundary, values, over, fields))
        return Entry(step=boundary, action="set", changes=told, over=over, branch=self.history.branch, **fields)

    def _turn(self, values: Mapping[str, Any], over: int, **about: Any) -> Entry:
        watched = self._known is not None and self._edit_by(about.get("author", "script"))
        told = self._helm.turn(values, over, self.step)
        self._edited = self._edited or watched
        if self._known is not None:
            self.rest()  # velocities that came or were scaled are no edit
        self._last_growth = told if "batch_size" in told else self._last_growth
        self._snapshot = None
        return self.enter("set", changes=told, over=over, **about)

    def _apply_waiting(self) -> None:
        due = [waiting for waiting in self._waiting if waiting.step <= self.step]
        self._waiting = [waiting for waiting in self._waiting if waiting.step > self.step]
        for waiting in due:
            try:
                self._turn(waiting.values, waiting.over, **waiting.about)
            except ValueError as error:  # what it follows from has changed since
                self.enter("refuse", **{**waiting.about, "why": str(error)})

    def _steps_to_update(self) -> int:
        """Steps until gradients that are being accumulated have been applied; 0 where none are."""
        left = [
            -int(optimizer._iterations) % optimizer.gradient_accumulation_steps
            for optimizer in (getattr(one, "inner_optimizer", one) for one in self._optimizers.values())
            if optimizer.gradient_accumulation_steps and optimizer.built
        ]
        return max(left, default=0)

    def _spring_back(self, error: Exception) -> None:
        """Takes back a batch size, and what followed from it, for which memory does not suffice."""
        back = {name: old for name, (old, _) in self._last_growth.items() if name in self._helm.scales}
        changes = {name: (self._helm.values[name], old) for name, old in back.items()}
        self._helm.write(back, self.step)
        self._snapshot, self._last_growth = None, {}
        why = f"`batch_size` {changes['batch_size'][0]} needs more memory than there is: back to {self.batch_size}"
        self.enter("refuse", changes=changes, why=f"{why} ({str(error).splitlines()[0][:200]})")

    def checked(self, changes: Mapping[str, Any], over: int = 1) -> dict[str, Any]:
        """Returns the changes as `set` would apply them, or raises as it would."""
        return self._helm.checked(changes, over)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """`function(model)`, its metrics and seeds put back afterwards; what else it changes is an edit."""
        kept, model, within = self._variables.guarded(), self.model, self._known is not None
        flags = {name: getattr(model, name, None) for name in ("stop_training", "stop_evaluating", "history")}
        if not within:
            self.rest()
        try:
            return function(model)
        finally:
            for variable, value in kept:
                variable.assign(value)
            for flag, was in flags.items():
                setattr(model, flag, was)
            if not within:  # within a callback it is the callback's
                self.notice()

    def enter(self, action: str, **about: Any) -> Entry:
        """Writes an entry at the present step and on the present branch."""
        fields = {"step": self.step, "author": "script", "branch": self.history.branch}
        return self.journal.append(**{**fields, "action": action, **about})

    # ------------------------------------------------------- what others did to it

    def _call(self, hook: str, *place: int, logs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._fit.callbacks(hook, *place, logs=logs)

    def _after_hook(self, hook: str, author: str, may_edit: bool) -> None:
        """Finds out what a callback has changed by hand, and journals it under its name."""
        self._adopt(author)
        if may_edit and "batch" in hook:
            self._snapshot = None  # from before it, what it may have done cannot be done again
        if may_edit and self._known is not None and hook in _EDITING and self._edit_by(author):
            self._edited = True

    def _adopt(self, author: str) -> None:
        if changes := self._helm.adopt(self.step):
            self._snapshot = None
            self.enter("set", author=author, changes=changes)

    def _watch_for_edits(self) -> None:
        self._known = None
        if self._fit.callbacks.may_edit:
            self.rest()

    def _keep_edits(self) -> None:
        """What callbacks have edited is in a checkpoint before the next step."""
        if self._edited:
            self.save_automatically()
        self._edited, self._known = False, None

    def rest(self) -> None:
        """Remembers the state, so that `notice` finds what was changed by hand since."""
        self._known = self._variables.watched(), self._flags()

    def notice(self) -> None:
        """Journals, and keeps in a checkpoint, what was changed by hand since `rest`."""
        if self._known is None:
            return
        edited = self._edit_by("script")
        if self._dials.bound and self._compiled_anew and self._plan is not None:
            self._recompile()
            edited = True
        elif self._dials.bound:
            self._adopt("script")
        if edited:
            self.save_automatically()
        self._known = None

    def _edit_by(self, author: str) -> bool:
        """Whether anything was changed by hand since `rest`; then there is an entry of it."""
        assert self._known is not None
        arrays, flags = self._known
        said = ["variables changed by hand"] if self._variables.edited(arrays) else []
        if flags != self._flags():
            said.append(_frozen_words(self.model, flags, self._flags()))
            self._frozen = self._flags()
            if self._variables.extend():
                self._blocks.clear()
        if said:
            self._snapshot = None
            self.enter("edit", author=author, why="; ".join(said))
            self.rest()
        return bool(said)

    def _flags(self) -> tuple[bool, ...]:
        return tuple(layer.trainable for layer in self.model._flatten_layers())

    # ------------------------------------------------------------------ checkpoints

    def save(self, name: str | None = None, **about: Any) -> Checkpoint:
        """Saves the whole state under a new name, made from the step if none is given.

        Raises:
            ValueError: If the name is taken, or none, or nothing has begun yet.
            OSError: If the disk does not take it; nothing is left behind.
        """
        if not self.history.branches:
            raise ValueError(
                "`save` needs a run that has begun. Received: an idle one. Call `fit(…, paused=True)` first."
            )
        name = self._shelf.free_name(self.step) if name is None else self._shelf.checked_name(name)
        checkpoint = self._shelf.keep(self.state(), name, self.history.branch)
        self.enter("save", why=name, **about)
        return checkpoint

    def save_automatically(self) -> Checkpoint:
        """Saves the whole state, without a name or an entry."""
        return self._shelf.keep(self.state(), None, self.history.branch)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints on disk, oldest first."""
        return self._shelf.all

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
        checkpoint, state = self._shelf.found(folder)
        if hyperparameters not in ("checkpoint", "keep"):
            raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
        present, left = self._helm.told | self._helm.settings, self.step
        self.restore(state)
        restored = self._helm.told | self._helm.settings
        if hyperparameters == "keep":
            self._helm.settings = {name: present[name] for name in self._helm.settings}
            self._helm.write({name: present[name] for name in self._helm.scales if name in present}, self.step)
        # Kept values are a change against the checkpoint's, restored ones against the present.
        before, now = restored if hyperparameters == "keep" else present, self._helm.told | self._helm.settings
        changes = {name: (old, now[name]) for name, old in before.items() if name in now and old != now[name]}
        self.history.leave(self.step, checkpoint.branch, self._helm.values)
        self._helm.since = self.history.changed_at(self._helm.values) | dict.fromkeys(changes, self.step)
        name = f"“{checkpoint.name}”" if checkpoint.name else f"step {self.step:,}"
        kept = ", hyperparameters kept" if hyperparameters == "keep" else ""
        why = about.pop("why", "") or f"to {name}, from step {left:,}{kept}"
        return self.enter("rewind", changes=changes, why=why, **about)

    def resume_from_disk(self) -> None:
        """Takes up a run whose record exists: stands at its newest complete checkpoint.

        Raises:
            ValueError: If there is none that can be used, or the model is another one.
        """
        self._build(spec := self._record.meta("spec"))
        self._dials.read()
        if spec is not None:
            self._choose_optimizers(keras.tree.map_structure(_tensor_spec, symbolic(spec)), None)
        tip = self.history.branch, self.history.steps
        checkpoint, state = self._shelf.newest_sound()
        self.restore(state)
        scales = {name: Scale(**fields) for name, fields in self._record.meta("scales").items()}
        self._helm.scales = {name: scale for name, scale in scales.items() if name in self._helm.values}
        self._helm.since = self.history.changed_at(self._helm.values)
        if (checkpoint.branch, checkpoint.step) != tip:
            self.history.leave(self.step, checkpoint.branch, self._helm.values)
            why = f"to step {self.step:,}, the newest checkpoint on disk, from step {tip[1]:,} of {tip[0]}"
            self.enter("rewind", why=why)
        self.rest()

    # ------------------------------------------------------------------- its state

    def state(self) -> State:
        """A copy of everything that decides how training goes on."""
        plan = self._plan
        passes, cursor = plan.data.place if plan else self._place
        return State(
            tensors=self._variables.read(),
            hyperparameters=dict(self._helm.values),
            structure=self._dials.structure,
            seed=self.seed,
            epoch=self.epoch,
            cursor=cursor,
            passes=passes,
            epoch_step=self._epoch_step,
            step=self.step,
            shuffle=plan.shuffle if plan else True,
            examples=(plan.data.size or 0) if plan else 0,
            trainable=self._flags(),
            built_on=self._variables.built_on,
            steering=self._helm.plain() | {"waiting": [waiting.plain() for waiting in self._waiting]},
        )

    def restore(self, state: State) -> None:
        """Returns to a state.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        self._check_fit(state)
        back = self._move_data((state.passes, state.cursor), state.shuffle)
        values, before, structure = dict(state.hyperparameters), self._dials.values, self._dials.structure
        flags, built_on = self._flags(), self._variables.built_on
        self._dials.bind()
        try:
            self._take_structure(values, state.structure, state.trainable, state.built_on)
            self._variables.check(state.tensors)
        except ValueError:
            self._take_structure(before, structure, flags, built_on)
            self._move_data(*back)
            raise
        self._variables.write(state.tensors)
        self._helm.restore(values, state.steering)
        self.step, self.epoch, self._epoch_step = state.step, state.epoch, state.epoch_step
        self.healthy, self._early, self.model.stop_training = True, False, False
        self._snapshot = self._known = None
        self._waiting = [Waiting.again(plain) for plain in state.steering.get("waiting", ())]

    def _move_data(self, place: tuple[int, int], shuffle: Any) -> tuple[tuple[int, int], Any]:
        """Goes to a place in the data, in that order; returns where they stood."""
        if self._plan is None:
            before, self._place = (self._place, shuffle), place
            return before
        data = self._plan.data
        before = data.place, data.shuffle
        self._plan.shuffle = data.shuffle = shuffle
        try:
            data.restore(*place)
        except ValueError:
            self._plan.shuffle = data.shuffle = before[1]
            raise
        return before

    def _take_structure(self, values: Any, structure: Any, flags: tuple[bool, ...], built_on: Any) -> None:
        """Takes the structure of another time: which layers learn, what the optimizers know, which gates are open."""
        layers = self.model._flatten_layers()
        if flags and flags != self._flags():
            for layer, flag in zip(layers, flags, strict=True):  # the outer ones first: theirs are handed down
                layer.trainable = flag
            self._frozen = flags
        if self._variables.build_on(built_on):
            self._blocks.clear()
        self._dials.restore(values, structure)

    def _check_fit(self, state: State) -> None:
        if missing := set(self._dials.values) - set(state.hyperparameters):
            raise ValueError(
                f"The checkpoint is of another model or optimizer: it has no {', '.join(sorted(missing))}. "
                "Use the model that was trained, compiled as it was."
            )
        plan = self._plan
        if plan is not None and plan.data.size is not None and state.examples not in (0, plan.data.size):
            raise ValueError(
                f"The checkpoint was made on {state.examples:,} examples, and now there are {plan.data.size:,}. "
                "`fit` on those data again before you rewind to it."
            )

    def _build(self, spec: Any) -> None:
        if spec is not None:
            with self.model.distribute_strategy.scope():
                self.model._symbolic_build(data_batch=symbolic(spec))

    def _keep_snapshot(self, now: bool) -> None:
        """Keeps a copy of the state to return to: now and then, or always where steps cannot be taken again."""
        began = time.perf_counter()
        due = began - self._snapshot_time > self._snapshot_cost / SNAPSHOT_SHARE
        if now or due or self._snapshot is None or not self._fit.data.rewindable:
            self._snapshot = self.state()
            self._snapshot_time = time.perf_counter()
            self._snapshot_cost = self._snapshot_time - began

    def _return_to(self, boundary: int) -> None:
        """After a failed block: from the snapshot, the same steps again, up to the boundary."""
        assert self._snapshot is not None
        self.restore(self._snapshot)
        try:
            while self.step < boundary:
                self._run(boundary - self.step)
                if self._epoch_spent:
                    self._begin_epoch()
        except Exception:  # once more: what has been lost is told
            self.history.leave(self.step, self.history.branch, self._helm.values)
            self.enter("rewind", why=f"to step {self.step:,}, behind which a step failed twice")
        self._helm.follow()


# Hooks behind which the weights may have been changed.
_EDITING = {"on_train_begin", "on_epoch_begin", "on_epoch_end", "on_test_end", "on_train_end"}


def _tensor_spec(tensor: Any) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _has_one_size(model: Any) -> bool:
    """Whether the model was made for batches of one size, as a stateful recurrent one is."""
    return any(tensor.shape[0] is not None for tensor in keras.tree.flatten(getattr(model, "inputs", None) or ()))


def _identity(plan: Plan) -> list[Any]:
    """What must be the same for a fit to go on in the middle of an epoch."""
    return [plan.data.fingerprint(), plan.data.size, plan.shuffle, plan.steps_per_epoch]


def _is_custom(model: Any) -> bool:
    return type(model).train_step is not keras.Model.train_step


def _frozen_words(model: Any, before: tuple[bool, ...], now: tuple[bool, ...]) -> str:
    layers = [layer.name for layer in model._flatten_layers()]
    changed = [f"{name}.trainable = {new}" for name, old, new in zip(layers, before, now, strict=False) if old != new]
    return ", ".join(changed) or "layers changed by hand"
