"""A session: one run, driven synchronously. No threads; every test of behaviour can begin here.

Whatever changes the training is first an event in the log and then applied: `emit` is the one way in.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from babysit.core.controls import Controls, planned
from babysit.core.events import (
    Branch,
    Changes,
    Edit,
    EpochEnd,
    Event,
    Failed,
    Finished,
    Fit,
    NotFinite,
    Payload,
    Set,
    Stopped,
)  # fmt: skip
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import RunLog, Steps
from babysit.session.loop import train
from babysit.session.plan import FitPlan
from babysit.session.rewind import recover, return_to_boundary

if TYPE_CHECKING:
    from babysit.engine.trainer import KerasTrainer

# A copy of the state in memory is made so seldom that it costs this share of the time; where steps cannot be taken
# again, the second one.
SNAPSHOT_SHARE, ONLY_SHARE = 0.01, 0.05
# Hooks after which the weights may have been changed.
_EDITING = {"on_train_begin", "on_epoch_begin", "on_epoch_end", "on_test_end", "on_train_end"}


class Session:
    """One run: a trainer, its log, its checkpoints, and the branch on which it trains.

    Args:
        trainer: What takes steps.
        log: What was done and measured.
        store: The states that can be returned to.

    Attributes:
        branch: Name of the present branch.
        plan: Of the present fit, or the last one; None before the first.
        epochs: Epochs done when the fit ends.
        early: Whether a callback ended the fit before that.
        examples: Examples seen in this process.
        finite: Whether the loss is a finite number, as far as steps were taken since the last fit or rewind.
        between: Called between two blocks of a validation.
        on_compiled: Called where a fit begins and where the model was compiled anew.
    """

    def __init__(self, trainer: "KerasTrainer", log: RunLog, store: Any) -> None:
        self.trainer, self.log, self.store = trainer, log, store
        self.branch = list(log.branches)[-1]
        self.plan: FitPlan | None = None
        self.epochs, self.early, self.examples, self.finite = 0, False, 0, True
        self.between: Callable[[], None] = lambda: None
        self._first_epoch = 0  # Keras's number of the run's epoch 0
        self.on_compiled: Callable[[], None] = lambda: None
        self._over = False  # whether the callbacks have heard that the training ended
        self._begun = 0  # number of the event with which the fit began
        self._memory: Any = []  # what its callbacks remembered then
        self._observed: Any = None
        self._snapshot_time = self._snapshot_cost = 0.0

    # ------------------------------------------------------------------------- what it is

    @property
    def position(self) -> Position:
        """Steps and epochs done, and the place in the data."""
        return self.trainer.position

    @property
    def controls(self) -> Controls:
        """What steers it."""
        return self.trainer.controls

    @property
    def finished(self) -> bool:
        """Whether all the epochs asked for are done, or a callback ended the training."""
        return self.early or self.position.epoch >= self.epochs

    @property
    def loss(self) -> float:
        """Of the last step; NaN before the first."""
        return self.log.loss(self.branch, self.position.step)

    @property
    def values(self) -> dict[str, Any]:
        """Hyperparameter -> value that acts in the next step, and how the batch size is coupled."""
        return self.controls.at(self.position.step) | {"scaling": self.controls.scaling}

    # ------------------------------------------------------------------------- the one way in

    def emit(self, payload: Payload, branch: str | None = None, **about: Any) -> Event:
        """Appends an event to the log, at the present step, and applies it; a checkpoint follows one that is opaque.

        Args:
            payload: What was done.
            branch: A new branch that begins with it.
            **about: `author`, `why` and `command`.
        """
        event = self.log.add(branch or self.branch, self.position.step, payload, **about)
        self.branch = event.branch  # only now that the log has it, as other threads read both
        self.trainer.apply(event)
        if payload.opaque:
            self.keep("edit")
        return event

    # ------------------------------------------------------------------------- a fit

    def fit(self, plan: FitPlan, **about: Any) -> Event:
        """Enters a fit into the log; `begin` comes next.

        Raises:
            ValueError: If its ranges or its data do not fit; nothing was changed then.
        """
        self.find_external_changes("script")
        at, old = self.position, self.controls.fit
        compiled_anew = self.trainer.compiled_anew and self.log.begun
        keeps = plan.completes or (plan.keeps_batch_size and self.plan is not None)
        batch_size = int(self.controls.at(at.step)["batch_size"]) if keeps else plan.batch_size
        spec = self._spec(plan)
        goes_on = old is None or (old.same_examples(spec) and (plan.source.repeatable or at.example == 0))
        begins = at if goes_on else at.data_changed()
        values, scales = self.trainer.prepare(plan.source, plan.ranges, batch_size, spec, begins)
        changes = {} if plan.completes else self._changes_to(values)
        self.plan, self.early = plan, False
        self.on_compiled()
        if plan.completes:
            recover(self)
        fresh = begins != at and not plan.completes
        fit = Fit(values, scales, changes, self._spec(plan), fresh, plan.facts, plan.remarks)
        event = self.emit(fit, **about)
        if compiled_anew and self.position.step:
            self.emit(Edit(values, scales, {}, what="compiled anew"))
        self._begun, self.finite = 0 if plan.completes else event.seq, True
        return event

    def _spec(self, plan: FitPlan) -> FitSpec:
        spec, old = plan.spec(self.position), self.controls.fit
        if plan.completes and old is not None:
            return replace(spec, batch_size=old.batch_size, shuffle=old.shuffle, first_epoch=old.first_epoch)
        return spec

    def _changes_to(self, values: Mapping[str, Any]) -> Changes:
        """Those of a model's values that differ from the controls', all of them at first: name -> (old, new)."""
        if not self.log.begun:
            return {name: (None, value) for name, value in values.items()}
        step = self.position.step
        now, before = self.controls.at(step), self.controls.at(step - 1)
        differing = {name: value for name, value in values.items() if value not in (now.get(name), before.get(name))}
        return {name: (now.get(name), value) for name, value in differing.items()}

    def begin(self) -> None:
        """Calls the callbacks at the beginning of the training, and saves the state; `advance` trains.

        Raises:
            Exception: What a callback raises.
        """
        assert self.plan is not None
        plan, callbacks, began = self.plan, self.plan.callbacks, self.position.epoch
        self._over = False
        callbacks.after = self._after_hook
        steps = plan.steps_per_epoch or self.trainer.steps_left(int(self.controls.values["batch_size"]))
        callbacks.attach(verbose=plan.verbose, epochs=plan.epochs, steps=steps)
        self.watch()
        callbacks("on_train_begin")
        assert self.controls.fit is not None
        initial = callbacks.initial_epoch or plan.initial_epoch
        self._first_epoch = self.controls.fit.first_epoch if plan.completes else initial - began
        self.epochs = max(plan.epochs - self._first_epoch, began)
        self._memory = callbacks.memory
        if plan.completes:
            self.remind_callbacks()
        self._begin_epoch()
        self.keep("fit" if self.position.step else "start")

    def finish(self, stopped: bool, **about: Any) -> Event:
        """Ends the fit; the model and its optimizer are stock again.

        Raises:
            Exception: What a callback raises at the end of the training.
        """
        assert self.plan is not None
        callbacks = self.plan.callbacks
        if author := self.trainer.finish():
            self.emit(Edit(what="weights replaced by their moving average"), author=author)
        self.watch()
        self._over = True
        try:
            callbacks("on_train_end", logs=end.logs if (end := self._last_end) else {})
        finally:
            self.trainer.release()
        if stopped:
            return self.emit(Stopped(), **about)
        about |= {"author": callbacks.stopped_by} if self.early and callbacks.stopped_by else {}
        return self.emit(Finished(self.position.epoch, self.epochs), **about)

    def fail(self, error: BaseException) -> Event:
        """Ends the fit because of an error."""
        self.trainer.release()
        return self.emit(Failed(f"{type(error).__name__}: {error}"))

    @property
    def _last_end(self) -> EpochEnd | None:
        """What the last epoch of this fit came to that had ended here."""
        last = self.log.last_epoch_end(self.log.lineage(self.branch), self._begun)
        return last.payload if last else None  # type: ignore[return-value]

    # ------------------------------------------------------------------------- training

    def advance(self, until: float) -> None:
        """Takes one block of steps, none past `until`, and does what it led to: an epoch's end, a checkpoint.

        Raises:
            Exception: What a step, a callback or the validation raised; the state is that of the last boundary.
        """
        assert self.plan is not None
        callbacks, first = self.plan.callbacks, self.position.epoch_step
        self._keep_snapshot()
        if self.trainer.epoch_over:  # an end that a kill or a callback's own checkpoint left out
            self._end_epoch(None)
            return
        callbacks("on_train_batch_begin", first)
        steps, end = None, min(until, self.position.step + callbacks.stride)
        try:
            for steps in train(self.trainer, end):
                if self._record(steps) or not callbacks.every_step:  # those hear of a whole execution
                    break
        except Exception as error:
            return_to_boundary(self, error)
            return
        if steps is not None:
            # Keras numbers a whole execution, of however few batches.
            last = first + int(callbacks.stride) - 1 if callbacks.every_step else self.position.epoch_step - 1
            callbacks("on_train_batch_end", last, logs=steps.last)
        if self.trainer.epoch_over or callbacks.stop_requested:
            self._end_epoch(steps.last if steps else None)
        self.store.save_if_due(self.trainer.capture, self.branch)

    def _record(self, steps: Steps) -> bool:
        """Enters steps into the log; returns whether the loss turned NaN or infinite in them."""
        self.log.add_steps(self.branch, steps)
        self.examples += steps.examples
        was, loss = self.finite, steps.columns.get("loss")
        self.finite = loss is None or math.isfinite(loss[-1])
        if turned := was and not self.finite:
            self.emit(NotFinite(str(self.loss)))
        return turned

    def _end_epoch(self, last: Mapping[str, Any] | None) -> None:
        assert self.plan is not None and self.controls.fit is not None
        callbacks, validation = self.plan.callbacks, self.plan.validation
        may_draw = callbacks.may_edit or validation is not None  # random numbers, as nothing else does
        seeds = self.trainer.seeds if may_draw else None
        number, spec = self.position.epoch + self._first_epoch, self.controls.fit
        logs = self.trainer.epoch_logs(last)
        if callbacks.may_edit:
            self.watch()
        try:
            if validation is not None and validation.is_due(number + 1):
                logs |= {f"val_{name}": value for name, value in validation.run(self.between).items()}
            logs = callbacks("on_epoch_end", number, logs=logs)
        finally:  # an epoch that was trained is over, whatever its validation came to
            self.early = callbacks.stop_requested
            next_pass = not spec.steps_per_epoch or self.trainer.pass_over
            if spec.steps_per_epoch and self.position.epoch_step < spec.steps_per_epoch and not self.early:
                short = f"after {self.position.epoch_step} of {spec.steps_per_epoch} steps"
                warnings.warn(f"The data ran out {short}; the epoch ends there.", stacklevel=2)
            drawn = self.trainer.seeds if may_draw else None
            end = EpochEnd(
                self.position.epoch + 1, callbacks.plain(logs), next_pass, drawn if drawn != seeds else None,
                callbacks.memory, self.early,
            )  # fmt: skip
            self.trainer.epoch_ended(next_pass)
            self.emit(end, author="babysit")
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        """Calls the hooks of the next epoch as soon as it is due: a state at rest holds what they do."""
        assert self.plan is not None
        if not self.finished and self.position.epoch_step == 0:
            self.trainer.epoch_began()
            self.plan.callbacks("on_epoch_begin", self.position.epoch + self._first_epoch)
        self._observed = None

    # ------------------------------------------------------------------------- a new branch

    def leave(self, payload: Branch, **about: Any) -> Event:
        """Begins a new branch at the present step."""
        self.early, self.finite, self._observed = False, True, None
        return self.emit(payload, f"branch {len(self.log.branches) + 1}", **about)

    def remind_callbacks(self) -> None:
        """Has the callbacks remember what they did after the last epoch of this fit that had ended here.

        Where they have heard that the training ended, they hear first that it begins again.
        """
        if self.plan is not None:
            if self._over:
                self._over = False
                self.watch()
                self.plan.callbacks("on_train_begin")
            end = self._last_end
            self.plan.callbacks.remember(end.callbacks if end else self._memory)

    # ------------------------------------------------------------------------- what a user may do to it

    def set(self, changes: Mapping[str, Any], over: int = 1, **about: Any) -> Event:
        """Changes hyperparameters, all from the next step on, or in so many steps; see `Panda.set`."""
        wanted, watched = self.planned(changes, over), self.watched
        self.find_external_changes(about.get("author", "script"))  # before the change, which is none of them
        wait = self.trainer.steps_to_update if "batch_size" in wanted else 0
        # Gradients of batches of one size are averaged: the next size begins when they have been applied.
        event = self.emit(Set(wanted, over, self.position.step + wait if wait else None), **about)
        if watched:
            self.watch()
        return event

    def planned(self, changes: Mapping[str, Any], over: int = 1) -> dict[str, tuple[Any, Any]]:
        """The changes as `set` would make them, with what couplings add; raises as it would."""
        trainer = self.trainer
        if "batch_size" in changes and over != 1 and trainer.accumulates:
            raise ValueError(
                "`batch_size` can be changed only at once where gradients are accumulated. "
                f"Received: over={over}. Leave `over` out."
            )
        return planned(self.controls, changes, self.position.step, over, trainer.schedules, trainer.followed)

    def call(self, function: Callable[[Any], Any], model: Any) -> Any:
        """`function(model)`, its metrics and seeds put back afterwards; what else it changes is an edit."""
        within = self.watched  # within a callback, whose edit it then is
        if not within:
            self.watch()
        try:
            with self.trainer.guarded():
                return function(model)
        finally:
            if not within:
                self.find_external_changes("script")

    # ------------------------------------------------------------------------- what others do to the model

    def watch(self) -> None:
        """Remembers the model as it is, so that what others change from now on is found."""
        self._observed = self.trainer.observe()

    @property
    def watched(self) -> bool:
        """Whether the model is remembered as it was at `watch`."""
        return self._observed is not None

    def find_external_changes(self, author: str) -> None:
        """Emits what others changed on the model since `watch`, under their name."""
        if self._observed is None:
            return
        self._adopt(author)
        if what := self.trainer.difference(self._observed):
            self.emit(Edit(what=what), author=author)
        self._observed = None

    def _adopt(self, author: str) -> None:
        """Emits a new compilation, or hyperparameters that were set on the model itself."""
        if self.trainer.compiled_anew and self.plan is not None and self.log.begun:
            plan, size = self.plan, int(self.controls.values["batch_size"])
            values, scales = self.trainer.prepare(plan.source, plan.ranges, size, self._spec(plan), self.position)
            self.on_compiled()
            edit = Edit(values, scales, self._changes_to(values), what="compiled anew")
            self.emit(edit, author=author)
            self._observed = self.trainer.observe()
        elif changes := self.trainer.adopt():
            self.emit(Set(changes), author=author)

    def _after_hook(self, hook: str, author: str, may_edit: bool) -> None:
        """Finds what a callback changed in a hook."""
        self._adopt(author)
        if may_edit and hook in _EDITING and self._observed is not None:
            self.find_external_changes(author)
            self.watch()

    # ------------------------------------------------------------------------- which states are kept

    def keep(self, reason: str) -> None:
        """Saves the state in the background, unnamed; `reason` is why it is kept."""
        self.store.save_soon(self.trainer.capture(), self.branch, kept=reason)

    def keep_last(self) -> None:
        """Saves the state, and what waits to be saved.

        Raises:
            OSError: If the disk does not take it.
        """
        self.store.save(self.trainer.capture(), self.branch, kept="end")

    def _keep_snapshot(self) -> None:
        """Keeps a copy of the state in memory if that costs less than its share of the time."""
        share = SNAPSHOT_SHARE if self.trainer.repeatable else ONLY_SHARE
        began = time.perf_counter()
        if began - self._snapshot_time > self._snapshot_cost / share:
            self.store.remember(self.trainer.capture(), self.branch)
            self._snapshot_time = time.perf_counter()
            self._snapshot_cost = self._snapshot_time - began
