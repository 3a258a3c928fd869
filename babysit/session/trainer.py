"""The training loop: synchronous, free of threads, and the only one.

A trainer takes a block of steps, applies a change at a boundary between blocks, and saves
and restores its state. It knows no queue and no clock: who drives it decides when to do what, and
`between` lets a driver be heard while a long validation goes on.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from babysit.core.hyperparameter import Hyperparameter
from babysit.core.steering import Helm
from babysit.engine import architecture, environment
from babysit.engine.block import BlockSizer
from babysit.engine.callbacks import plain
from babysit.engine.data.window import Piece
from babysit.engine.diagnostics import SHARE, Diagnostics, first_loss_remark
from babysit.engine.evaluation import Validation
from babysit.engine.model import TrainableModel
from babysit.engine.step_logs import StepLogs
from babysit.engine.stepwise import why_not_fused
from babysit.session.edits import Edits
from babysit.session.fits import Fits, Plan, going_on
from babysit.session.hand import Hand
from babysit.session.history import ROOT, Ended, History
from babysit.session.journal import Entry, Journal
from babysit.session.keeping import ONLY_SHARE, SNAPSHOT_SHARE, Keeper
from babysit.session.memory import Memory
from babysit.session.waiting import Waiting, Waitlist
from babysit.store.checkpoints import Shelf
from babysit.store.files import Checkpoint, State
from babysit.store.record import Record


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
        self._record, self.subject = record, TrainableModel(model)
        self.shelf = Shelf(record, directory / "checkpoints", environment=environment.describe())
        self.keeper = Keeper(self.shelf, self.history, self.state)
        self.vitals = Diagnostics(self.subject)
        self.first_loss = self.restless = ""
        self._measured: dict[str, Any] | None = None
        self._fits = Fits(record)
        self._memory = Memory(self.history, self.shelf, self.subject)
        self._edits = Edits(self.subject, self.keeper, self.enter)
        self._waiting = Waitlist(record, self.history, self.journal)
        self._helm = Helm(self.subject.bindings)
        self._hand = Hand(self._helm, self._waiting, self.subject, self.keeper, self._edits, self.enter)
        self._pace = BlockSizer()
        self._plan: Plan | None = None
        self._validation: Validation | None = None
        self.between: Callable[[], None] = lambda: None
        self.between_steps: Callable[[], None] = lambda: None
        self.step = self.epoch = self.epochs = self.seen = 0
        self._epoch_step = 0
        self._offset = 0  # Keras's number of an epoch is ours and this
        self._place, self._order = (0, 0), (True, 0)  # in the data, as long as there are none
        self.loss = math.nan
        self.healthy = True
        self._early = self._anew = False
        self._traced: Any = None  # what the train function of a model's own `fit` was made for
        self._proven = 0  # the largest batch size that a block went through with
        self._last: Mapping[str, Any] = {}  # what the last step returned
        self._logs: Mapping[str, Any] = {}  # what the last epoch came to

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
        if self._epoch_spent:
            self._end_late()
            return 0
        boundary, first = self.step, self._epoch_step
        count = self._room(limit)
        self._call("on_train_batch_begin", first)
        self.keeper.keep_snapshot(self._snapshot_share)
        moving = self._advance()
        watched = None
        if count == 1 and self.vitals.steps_before == 0:
            watched = self.vitals.begin(self._fit.data.piece(self.batch_size, 1), self._fit.data.signature[0])
        logs = self._run_or_return(count, boundary)
        if signs := self.vitals.end(watched):
            row = {"branch": self.history.branch, "step": self.step, "time": time.time(), "signs": signs}
            self._record.append("vitals", **row)
            self._measured = row
        self._take_down(logs, boundary, moving)
        if boundary == 0 and logs.loss is not None:
            spec = self._fit.data.spec
            self.first_loss = first_loss_remark(self.model, spec, float(logs.loss[0]), self.batch_size)
        self._last = logs.last
        last = first + count if self._fit.callbacks.every_step else self._epoch_step
        self._call("on_train_batch_end", last - 1, logs=logs.last)
        if self._epoch_spent or self.model.stop_training:
            self._end_epoch(logs.last)
        self._hand.make_due(self.step)
        self.keeper.keep_if_due()
        return self.step - boundary

    def _room(self, limit: int) -> int:
        """How many of the steps asked for may go in one block."""
        if self._helm.ramps or self.model.stop_training:  # told to stop in advance, `Model.fit` takes one step
            return 1
        # Hooks of batches come once an execution: of one step, unless the model is compiled for more.
        pace = self.model.steps_per_execution if self._fit.callbacks.every_step else self._stride
        ends: list[float] = [limit, pace]
        if not self._fit.callbacks.every_step:
            ends.append(self.vitals.steps_before or 1)
        if self._fit.steps_per_epoch:
            ends.append(self._fit.steps_per_epoch - self._epoch_step)
        ends += [step - self.step for step in self._waiting.steps]
        return max(1, int(min(ends)))

    @property
    def _snapshot_share(self) -> float:
        """The share of the time that a snapshot may cost."""
        if self._helm.ramps or self.batch_size > self._proven:  # for which memory may not suffice
            return math.inf
        return SNAPSHOT_SHARE if self.keeper.by_steps and self._fit.data.rewindable else ONLY_SHARE

    @property
    def _stride(self) -> int:
        """Steps of a block: to the end of a pass that is near, rather than a short block behind this one."""
        pace, left = self._pace.steps, self._fit.data.steps_left(self.batch_size)
        return left if left is not None and left <= 1.25 * pace else pace

    def _advance(self) -> tuple[str, ...]:
        """Moves ramps on for the coming step, that of a batch size only where all gradients have been applied."""
        return self._helm.advance(self.step, not self._helm.ramps or self.subject.steps_to_update == 0)

    def _run_or_return(self, count: int, boundary: int) -> StepLogs:
        piece = None
        try:
            piece = self._fit.data.piece(self.batch_size, count)
            return self._run_to_fault(piece, boundary)
        except tf.errors.ResourceExhaustedError as error:
            if not self._hand.may_spring_back or self.batch_size <= self._proven:
                self._return_to(boundary)
                raise
            self._return_to(boundary)
            self._hand.spring_back(self.step, error)
            self._helm.advance(boundary, True)
            return self._run_to_fault(self._fit.data.piece(self.batch_size, min(count, self._room(count))), boundary)
        except Exception:
            assert self.keeper.snapshot is not None
            if piece is not None or self.keeper.snapshot.step == boundary:  # data that fail have changed nothing
                self._return_to(boundary)
            raise

    def _run_to_fault(self, piece: Piece, boundary: int) -> StepLogs:
        """Takes a block of steps, none behind the first whose loss is not finite."""
        return self._run(piece)

    def _run(self, piece: Piece) -> StepLogs:
        size, source = self.batch_size, self._fit.data
        block = self.subject.block(piece.fixed, source.signature)
        began = time.perf_counter()
        logs = block.run(piece.data, piece.order, piece.cursor, piece.batch_size, piece.count, self.healthy)
        self._pace.record(logs.count, time.perf_counter() - began)
        before = source.place[1]
        source.advance(logs.count, size)
        self.seen += source.place[1] - before
        self.step += logs.count
        self._epoch_step += logs.count
        self._proven = max(self._proven, size)
        return logs

    def _take_down(self, logs: StepLogs, boundary: int, moving: tuple[str, ...]) -> None:
        columns = dict(logs.columns)
        if logs.loss is not None:  # a train_step of the user's own may tell none
            columns["loss"] = logs.loss
            self.loss = float(logs.loss[-1])
            self.healthy = math.isfinite(self.loss)
        columns |= {name: np.array([self._helm.values[name]]) for name in moving}
        self.history.append(self.epoch + 1, boundary + 1, logs.count, columns)
        self._helm.follow()

    @property
    def _epoch_spent(self) -> bool:
        return self._fit.is_spent(self._epoch_step)

    def _end_late(self) -> None:
        """Ends an epoch that was saved by a callback, or cut off, behind its last step."""
        if end := self.history.ended(*self.history.line()).get(self.epoch + 1):
            self._close(end)
            self._tell_of_an_epoch()
        else:
            self._end_epoch(self._last)

    def _end_epoch(self, last: Mapping[str, Any]) -> None:
        logs, seeds = self.subject.epoch_logs(last), self.subject.tensors.seeds
        self._watch_for_edits()
        try:
            if self._validation is not None and self._validation.is_due(self.epoch + self._offset + 1):
                logs |= {f"val_{name}": value for name, value in self._validation.run(self.between).items()}
            logs = self._call("on_epoch_end", self.epoch + self._offset, logs=logs)
        finally:  # an epoch that was trained is over, whatever its validation came to
            after = self._memory.after(self._fit.callbacks, seeds)
            if "seeds" in after:  # what validation and callbacks drew cannot be drawn again from before it
                self.keeper.snapshot = None
            told = plain(logs)
            self.history.append_epoch(self.epoch + 1, self.step, told, after)
            self._logs = logs
            self._begin_epoch()
        self.keeper.note_best(*self._fit.callbacks.monitored, told)
        self._tell_of_an_epoch()

    def _tell_of_an_epoch(self) -> None:
        if not self.finished and self._epoch_step == 0:
            self._call("on_epoch_begin", self.epoch + self._offset)
        self._edits.keep()  # before the next step

    def _close(self, end: Ended | None) -> None:
        """Does again what the end of an epoch did to the state; validation and callbacks can do no more than draw."""
        if end is not None and "seeds" in end.after:
            self.subject.tensors.seeds = end.after["seeds"]
        self._begin_epoch(quietly=True)

    def _begin_epoch(self, quietly: bool = False) -> None:
        self._early = bool(self.model.stop_training)
        self._fit.turn_over(self._epoch_step, quietly or self._early)
        self.epoch, self._epoch_step = self.epoch + 1, 0
        self.subject.tensors.reset_metrics()

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
    def measurements(self) -> dict[str, Any]:
        """What is measured of a step now and then, in plain data."""
        vitals = self.vitals
        about = {"on": vitals.on, "unable": vitals.unable, "every_s": vitals.every_s, "share": SHARE}
        return about | {"latest": self._measured}

    @property
    def progress(self) -> tuple[int, int | None]:
        """Examples of the present epoch done, and examples an epoch; None where that is not known."""
        return (0, 0) if self._plan is None else self._plan.progress(self._epoch_step, self.batch_size)

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
    def plan(self) -> Plan | None:
        """Of the present fit, or the last one; None before the first."""
        return self._plan

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

    def prepare(self, plan: Plan) -> dict[str, tuple[Any, Any]]:
        """Makes ready to train by a plan: builds the model, makes its hyperparameters live.

        The first plan begins the run; a later one goes on in it. Returns what changed, to be
        announced: name -> (old, new).

        Raises:
            ValueError: If `ranges` does not fit the hyperparameters.
            Exception: What Keras raises when the model cannot be built for such data.
        """
        self.notice()
        first, lost = not self.history.branches, self._is_lost
        before = {} if first or lost else self._helm.values
        self._anew = self.subject.compiled_anew
        if self._anew:
            self.subject.refresh()
            self._keep_architecture()
        self._make_ready(plan)
        anew = self._stand_in(plan)
        longer = self._plan is not None and plan.keeps_size and plan.data is self._plan.data
        batch_size = int(before["batch_size"]) if plan.completes or longer else plan.batch_size
        self._take_helm(plan, batch_size)
        if anew:
            self._epoch_step = 0
            self.model.reset_metrics()
        self.keeper.snapshot = None  # of other data, or of other values
        if not (plan.completes or (plan.keeps_size and batch_size == before.get("batch_size"))):
            waited = self._waiting.all
            self._waiting.clear()
            self.refuse_dropped(waited, "a fit with another batch size began before that")
        elif self._anew:
            self._waiting.put_off(self.step + self.subject.steps_to_update)
        self._fits.describe(plan, self._helm.scales)
        self._plan, self.healthy, self._early = plan, True, False
        self._make_validation(plan)
        every_step = plan.callbacks.every_step and self.model.steps_per_execution > 1
        self.vitals.unable = _UNABLE if every_step else ""
        values = self._helm.values
        if first:
            self.history.begin(values)
        elif lost:
            self._start_over()
        self.subject.update_trainable()
        changes = {name: (before.get(name), values[name]) for name in values if before.get(name) != values[name]}
        changes = {name: change for name, change in changes.items() if name in self._helm.scales}
        self._helm.since |= dict.fromkeys(changes, self.step)
        self.subject.bindings.bind()
        self.subject.trace(plan.data.signature, self._static_size(plan))
        return changes

    def _static_size(self, plan: Plan) -> int | None:
        data, size = plan.data, plan.batch_size
        if hasattr(data, "fixed"):
            return size if size and data.size and data.size % size == 0 else None
        return None

    @property
    def _structure(self) -> tuple[str, ...]:
        """The schedules that are overridden, and momentums with velocities, as the format on disk has them."""
        bindings = self.subject.bindings
        taken = (f"{name}, overridden" for name in bindings.schedules if name not in bindings.following)
        return (*taken, *bindings.slots)

    def _values_of(self, state: State) -> dict[str, Any]:
        schedules = [name for name in self.subject.bindings.schedules if f"{name}, overridden" not in state.structure]
        return dict(state.hyperparameters) | dict.fromkeys(schedules, "schedule")

    @property
    def _is_lost(self) -> bool:
        """Whether the run had begun, and no state of it is left to go on from."""
        return self._plan is None and bool(self.history.branches) and not self.shelf.candidates()

    def _start_over(self) -> None:
        tip, left = self.history.steps, self.history.branch
        self.leave(ROOT, 0, {}, {})  # from before anything that was done there
        self.enter("rewind", why=f"to the start, as no checkpoint is left, from step {tip:,} of {left}")

    def announce(self, changes: Mapping[str, Any]) -> Entry:
        """Writes into the journal that the fit begins."""
        entry = self.enter("fit", changes=changes, why=" ".join(filter(None, self.remarks)))
        self._memory.begun = 0 if self._fit.completes else self.journal.mark
        self._fits.add(self.journal.mark, self._fit)
        if self._anew and self.step > 0:  # other optimizer state, which is in the checkpoint that a fit begins with
            self.enter("edit", why="compiled anew")
        return entry

    def _make_ready(self, plan: Plan) -> None:
        if plan.own is None:
            self.subject.build(plan.data.spec, plan.data.signature, self._static_size(plan))
        else:
            self.subject.build(None)

    def _take_helm(self, plan: Plan, batch_size: int) -> None:
        steerable = plan.data.steerable and not self.subject.has_static_batch_size
        self._helm.take(self.subject.bindings, batch_size, plan.data.size, plan.ranges, steerable)

    def _make_validation(self, plan: Plan) -> None:
        self._validation = None
        if plan.validation is not None:
            about = plan.validation, plan.validation_steps, plan.validation_freq, plan.callbacks
            reset, structure = (lambda: self.subject.tensors.reset_metrics()), (lambda: self.subject.bindings.structure)
            self._validation = Validation(self.model, *about, reset, structure)

    def _recompile(self) -> None:
        """Goes on with the model as it was compiled anew while it rested."""
        plan, before = self._fit, self._helm.told
        self.subject.bindings.release()
        self.subject.refresh()
        self._keep_architecture()
        self._make_ready(plan)
        self._take_helm(plan, self.batch_size)
        self.subject.bindings.bind()
        self.subject.update_trainable()
        self.subject.trace(plan.data.signature, self._static_size(plan))
        self._make_validation(plan)
        now = self._helm.told
        changes = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
        self._helm.since |= dict.fromkeys(changes, self.step)
        self.keeper.snapshot = None
        self._waiting.put_off(self.step + self.subject.steps_to_update)  # which counts anew
        self.enter("edit", changes=changes, why="compiled anew")

    def _keep_architecture(self) -> None:
        self._record.set_meta({"architecture": architecture.describe(self.model)})

    def _stand_in(self, plan: Plan) -> bool:
        """Goes to where training stood in the data; returns whether an epoch begins anew, for they are others."""
        passes, cursor = self._plan.data.place if self._plan is not None else self._place
        same = self._fits.described(plan)
        if plan.completes and self._plan is None and self._order[1]:
            plan.declare(*self._order)
        if same and (cursor > 0 or self._epoch_step > 0):
            with contextlib.suppress(ValueError):  # a generator: it begins where it stands
                plan.data.restore(passes, cursor)
                return False
        plan.data.restore(max(passes, self.epoch), 0)
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
        if plan.completes:
            self._waiting.take_up()
        self._hand.make_due(self.step)
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
        self._logs, self._memory.fresh = {}, hooks.memory
        if plan.completes:
            self.recall()
        self._tell_of_an_epoch()

    def recall(self) -> None:
        """Gives the callbacks back what they remembered here: behind the last epoch of this fit that ended."""
        if self._plan is not None:
            self._memory.give_back(self._plan.callbacks, self.step, self._offset)

    @property
    def remarks(self) -> list[str]:
        """What cannot be steered, fused or rewound in this fit, and why; a sentence each."""
        plan = self._plan
        if plan is None:
            return []
        ours = [why_not_fused(self.model), self.subject.limitation] if plan.own is None else []
        found = [*ours, plan.data.remark, self.restless]
        return [sentence for sentence in found if sentence]

    def finish(self, action: str, **about: Any) -> Entry:
        """Ends the fit: `"finish"` or `"stop"`. The model and its optimizer are stock again."""
        own = self._fit.own is not None
        if not own and (author := self.subject.apply_moving_averages()):
            self.enter("edit", author=author, why="weights replaced by their moving average")
        self._watch_for_edits()
        try:
            if not own:
                self._call("on_train_end", logs=self._logs)
        finally:
            self.subject.bindings.release()
        if action == "finish" and self._early and (author := self._fit.callbacks.stopped_by):
            about |= {"author": author, "why": f"in epoch {self.epoch:,} of {self.epochs:,}"}
        return self.enter(action, **about)

    def fail(self, error: BaseException) -> Entry:
        """Ends the fit because of an error."""
        self.subject.bindings.release()
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
        return self._hand.set(self.step, changes, over, **about)

    def checked(self, changes: Mapping[str, Any], over: int = 1) -> dict[str, Any]:
        """Returns the changes as `set` would apply them, or raises as it would."""
        return self._helm.checked(changes, over)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """`function(model)`, its metrics and seeds put back afterwards; what else it changes is an edit."""
        within = self._edits.watched_for
        if not within:
            self.rest()
        try:
            with self.subject.without_side_effects():
                return function(self.model)
        finally:
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
        snapshot = self.keeper.snapshot
        self._hand.adopt(self.step, author)
        if may_edit and "batch" in hook:  # what it may have done cannot be done again
            self.keeper.snapshot, self.keeper.by_steps = snapshot, False
        if may_edit and hook in _EDITING:
            self._edits.note(author)

    def _watch_for_edits(self) -> None:
        self._edits.forget()
        if self._fit.callbacks.may_edit:
            self._edits.watch()

    def rest(self) -> None:
        """Remembers the state, so that `notice` finds what was changed by hand since."""
        self.keeper.keep_best()
        self._edits.watch()

    def notice(self) -> None:
        """Journals, and keeps in a checkpoint, what was changed by hand since `rest`."""
        if not self._edits.watched_for:
            return
        edited = self._edits.find("script")
        if self.subject.bindings.bound and self.subject.compiled_anew and self._plan is not None:
            self._recompile()
            edited = True
        elif self.subject.bindings.bound:
            self._hand.adopt(self.step, "script")
        if edited:
            self.keeper.keep("edit")
        self._edits.forget()

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
        checkpoint = self.keeper.save(name, self.model.save)
        self.enter("save", why=checkpoint.name, **about)
        return checkpoint

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints on disk, oldest first."""
        return self.shelf.all

    # ------------------------------------------------------------- what was done before

    @property
    def told(self) -> dict[str, Any]:
        """Hyperparameters and couplings: name -> value, as the journal tells it."""
        return self._helm.told | self._helm.settings

    @property
    def standing(self) -> tuple[Any, ...]:
        """What else than the state says how it stands: to be put back with it."""
        return self.healthy, self._early, self.model.stop_training, self.loss, dict(self._helm.since)

    @standing.setter
    def standing(self, standing: tuple[Any, ...]) -> None:
        self.healthy, self._early, self.model.stop_training, self.loss, self._helm.since = standing

    def retake(self, until: int, ended: Mapping[int, Ended]) -> Iterator[tuple[int, np.ndarray]]:
        """Takes steps again that were taken before, up to `until` done, and tells nobody.

        The end of the epoch in which it stops is left to `close_epoch`.

        Args:
            until: Steps done at the end.
            ended: Epoch -> its end, from the record.

        Yields:
            The number of a block's first step, and the losses of its steps, of shape (steps,).
        """
        while self.step < until:
            self.close_epoch(ended, self._epoch_spent)
            boundary = self.step
            ends = [until, *(end.step for end in ended.values() if end.step > boundary)]
            count = 1 if self._helm.ramps else min(self._pace.steps, min(ends) - boundary)
            if self._fit.steps_per_epoch:
                count = min(count, self._fit.steps_per_epoch - self._epoch_step)
            self._advance()
            logs = self._run(self._fit.data.piece(self.batch_size, count))
            self._helm.follow()
            self._last = logs.last
            losses = np.full(logs.count, np.nan) if logs.loss is None else logs.loss
            self.loss = float(losses[-1])
            self.healthy = logs.loss is None or math.isfinite(self.loss)
            yield boundary + 1, losses

    def close_epoch(self, ended: Mapping[int, Ended], spent: bool = False) -> None:
        """Does again what the end of an epoch did to the state, where the record says that one ended or it is spent."""
        end = ended.get(self.epoch + 1)
        if spent or (end is not None and end.step == self.step):
            self._close(end)

    def repeat(self, entry: Entry) -> None:
        """Makes the changes of an entry once more."""
        self._hand.repeat(self.step, entry)

    def forget_waiting(self) -> None:
        """Drops the changes that wait for their step."""
        self._waiting.restore([])

    @property
    def waiting(self) -> list[Waiting]:
        """The changes that wait for their step."""
        return self._waiting.all

    def refuse_dropped(self, waited: Iterable[Waiting], reason: str) -> None:
        """Answers those of the changes that waited which no longer do."""
        for change in self._waiting.dropped(waited):
            self.enter("refuse", **change.refusal(reason))

    def put_off(self, values: dict[str, Any]) -> int | None:
        """Takes the batch size out of values that are to be applied where it has to wait; returns it then."""
        return values.pop("batch_size", None) if self.subject.steps_to_update else None

    def keep_size(self, size: int) -> int:
        """Has a batch size that is kept act when gradients have been applied; returns the steps done then."""
        return self._hand.keep_size(self.step, size)

    def places_to_skip(self, batches: int, batch_size: int) -> list[int]:
        """Where batches are left out: pass, and the places of the first example left out and of the next one not.

        Raises:
            ValueError: If that is more than the epoch has left, or there are no data yet.
        """
        if self._plan is None:
            raise ValueError("`skip` needs the data. Call `fit(…, paused=True)` first.")
        return self._plan.places_to_skip(batches, batch_size)

    def apply(self, turn: Mapping[str, Any]) -> None:
        """Does what was done where a branch began: values that were kept, examples that were left out."""
        values = turn.get("values", {})
        self._helm.settings |= {name: value for name, value in values.items() if name in self._helm.settings}
        self._helm.write({name: value for name, value in values.items() if name in self._helm.scales}, self.step)
        if "skipped" in turn:
            passes, _, end = turn["skipped"]
            self._fit.data.restore(passes, end)

    def leave(self, origin: str, mark: int, turn: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Begins a new branch where it stands, which was reached on `origin`."""
        self.history.leave(self.step, origin, self._helm.values, mark, turn)
        self._waiting.branch_off()
        self._helm.since = self.history.changed_at(self._helm.values) | dict.fromkeys(changes, self.step)
        self.keeper.snapshot = None

    def trains_on_what_it_had(self, mark: int) -> bool:
        """Whether the data are those of the fit that was going on at a mark."""
        fit = going_on(self._fits.all, mark)
        return fit is not None and self.trains_as([fit])

    def trains_as(self, fits: Iterable[Sequence[Any]]) -> bool:
        """Whether the data are those of all these fits, as their record tells; their order can be taken on."""
        return self._plan is not None and self._plan.trains_as(fits)

    @contextlib.contextmanager
    def as_then(self) -> Iterator[None]:
        """Within, epochs may be those of other fits: the present fit's come back at the end."""
        plan = self._plan
        steps = plan.steps_per_epoch if plan else None
        try:
            yield
        finally:
            if plan is not None:
                plan.steps_per_epoch = steps

    def act_as(self, mark: int, fits: Sequence[Sequence[Any]] | None = None, begins: bool = False) -> None:
        """Has epochs of as many steps as the fit had that was going on at a mark.

        Args:
            mark: That.
            fits: As the record of the run tells; this one's if not given.
            begins: Whether the fit began there: then its order of examples acts too, from a new pass on if it is
                another than before.
        """
        fit = going_on(self._fits.all if fits is None else fits, mark)
        if fit is not None and self._fit.act_as(fit, begins):
            data = self._fit.data
            data.restore(max(data.place[0], self.epoch), 0)
            self._epoch_step = 0
            self.subject.tensors.reset_metrics()

    @property
    def comes_again(self) -> bool:
        """Whether steps that are taken again are the same, as far as is known."""
        return self._plan is None or (self._plan.data.rewindable and not self.restless)

    def check_rewindable(self) -> None:
        """Raises ValueError unless the data give the same examples once more."""
        if not self._fit.data.rewindable:
            raise ValueError(self._fit.data.remark)

    def build_as_recorded(self) -> None:
        """Makes the model and its dials ready as they were, before there is any data."""
        self.subject.build(self._fits.spec)

    def read_bounds(self) -> None:
        """Takes up bounds, and since when the values have been in effect, from the record."""
        self._helm.scales = {name: scale for name, scale in self._fits.scales.items() if name in self._helm.values}
        self._helm.since = self.history.changed_at(self._helm.values)

    # ------------------------------------------------------------------- its state

    def state(self) -> State:
        """A copy of everything that decides how training goes on."""
        plan = self._plan
        passes, cursor = plan.data.place if plan else self._place
        return State(
            tensors=self.subject.tensors.read(),
            hyperparameters=dict(self._helm.values),
            structure=self._structure,
            seed=self.seed,
            epoch=self.epoch,
            cursor=cursor,
            passes=passes,
            epoch_step=self._epoch_step,
            step=self.step,
            shuffle=plan.shuffle if plan else self._order[0],
            declared=plan.data.batch_size if plan else self._order[1],
            examples=(plan.data.size or 0) if plan else 0,
            trainable=self.subject.trainable,
            built_on=self.subject.tensors.built_for,
            steering=self._helm.plain() | {"waiting": self._waiting.plain()},
            mark=self.journal.mark,
        )

    def restore(self, state: State) -> None:
        """Returns to a state.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        self._check_fit(state)
        back = self._move_data((state.passes, state.cursor), (state.shuffle, state.declared))
        try:
            self.subject.restore(state.tensors, self._values_of(state), state.trainable, state.built_on)
        except ValueError:
            self._move_data(*back)
            raise
        self._helm.restore(state.hyperparameters, state.steering)
        self.step, self.epoch, self._epoch_step = state.step, state.epoch, state.epoch_step
        self.healthy, self._early, self.model.stop_training = True, False, False
        self.keeper.snapshot = None
        self._edits.forget()
        self._waiting.restore(state.steering.get("waiting", ()))

    def _move_data(self, place: tuple[int, int], order: tuple[Any, int]) -> tuple[tuple[int, int], tuple[Any, int]]:
        """Goes to a place in the data, in that order; returns where they stood."""
        if self._plan is None:
            before = self._place, self._order
            self._place, self._order = place, order
            return before
        return self._plan.move(place, order)

    def _check_fit(self, state: State) -> None:
        self.subject.check(state.hyperparameters, state.trainable)
        if self._plan is not None:
            self._plan.check_size(state.examples)

    def _return_to(self, boundary: int) -> None:
        """After a failed block: from the snapshot, the same steps again, up to the boundary; what is lost is told."""
        snapshot, data = self.keeper.snapshot, self._fit.data
        assert snapshot is not None
        by_steps = self.keeper.by_steps and data.rewindable
        if not data.rewindable:  # its examples go on
            snapshot = replace(snapshot, passes=data.place[0], cursor=data.place[1])
        self.restore(snapshot)
        if snapshot.step == boundary:
            lost = ""
        elif by_steps:
            lost = self._take_again(boundary)
        else:
            lost = "from which no step can be taken again"
        if lost:
            self.leave(self.history.branch, self.journal.mark, {}, {})
            self.enter("rewind", why=f"to step {self.step:,}, {lost}")
        self._helm.follow()

    def _take_again(self, boundary: int) -> str:
        """Takes the steps up to the boundary again; returns what prevents it, if anything."""
        ended = self.history.ended(*self.history.line())
        try:
            for _ in self.retake(boundary, ended):
                pass
            self.close_epoch(ended)
        except Exception:  # once more
            return "behind which a step failed twice"
        return ""


# Hooks behind which the weights may have been changed.
_EDITING = {"on_train_begin", "on_epoch_begin", "on_epoch_end", "on_test_end", "on_train_end"}

_UNABLE = "Callbacks follow executions of several steps, of which none is taken by itself."
