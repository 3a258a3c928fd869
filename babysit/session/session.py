"""A session: one run, driven synchronously. No threads; every test of behaviour can begin here.

Whatever changes the training is first an event in the log and then applied: `emit` is the one way in.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from babysit.core.controls import Controls, planned
from babysit.core.events import (
    ROOT,
    Branch,
    Changes,
    Edit,
    EpochEnd,
    Event,
    Failed,
    Finished,
    Fit,
    Note,
    NotFinite,
    Payload,
    Saved,
    Set,
    Stopped,
)  # fmt: skip
from babysit.core.hyperparameter import checked
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import RunLog, Steps
from babysit.core.scale import Scale
from babysit.core.state import State
from babysit.session.loop import Live, LiveTrainer, train
from babysit.session.plan import FitPlan
from babysit.session.rerun import Unreachable, lies_on, reach

BEST = "best"  # name of the state that did best in what is monitored
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
        between: Called between two blocks of a validation.
        on_compiled: Called where a fit begins and where the model was compiled anew.
    """

    def __init__(self, trainer: LiveTrainer, log: RunLog, store: Any) -> None:
        self.trainer, self.log, self.store = trainer, log, store
        self.branch = list(log.branches)[-1]
        self.plan: FitPlan | None = None
        self.epochs, self.early, self.examples = 0, False, 0
        self.between: Callable[[], None] = lambda: None
        self._first_epoch = 0  # Keras's number of the run's epoch 0
        self.on_compiled: Callable[[], None] = lambda: None
        self._begun = 0  # number of the event with which the fit began
        self._memory: Any = []  # what its callbacks remembered then
        self._finite_until = 0  # the step up to which the loss needs no look: that of a fit or a rewind
        self._observed: Any = None
        self._best: State | None = None
        self._snapshot_time = self._snapshot_cost = 0.0

    # ------------------------------------------------------------------------- what it is

    @property
    def position(self) -> Position:
        """Where the training stands."""
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
    def begun(self) -> bool:
        """Whether the run has had a fit."""
        return self.log.begun

    @property
    def loss(self) -> float:
        """Of the last step; NaN before the first."""
        return self.log.loss(self.branch, self.position.step)

    @property
    def loss_is_finite(self) -> bool:
        """Whether it may go on without being asked."""
        return self._was_finite(self.position.step)

    def _was_finite(self, step: int) -> bool:
        return (
            step <= self._finite_until
            or math.isfinite(self.log.loss(self.branch, step))
            or not self.log.has_loss(self.branch)
        )

    # ------------------------------------------------------------------------- the one way in

    def emit(self, payload: Payload, **about: Any) -> Event:
        """Appends an event to the log, at the present step, and applies it; a checkpoint follows one that is opaque.

        Args:
            payload: What was done.
            **about: `author`, `why` and `command`.
        """
        event = self.log.add(self.branch, self.position.step, payload, **about)
        self.trainer.apply(event)
        if payload.opaque:
            self._keep("edit")
        return event

    # ------------------------------------------------------------------------- a fit

    def fit(self, plan: FitPlan, **about: Any) -> Event:
        """Enters a fit into the log; `begin` comes next.

        Raises:
            ValueError: If its ranges or its data do not fit; nothing was changed then.
        """
        self.find_external_changes("script")
        first, previous = not self.begun, self.plan
        compiled_anew = self.trainer.compiled_anew and not first
        keeps = plan.completes or (plan.keeps_batch_size and previous is not None)
        batch_size = int(self.controls.at(self.position.step)["batch_size"]) if keeps else plan.batch_size
        spec, begins = self._spec(plan), self._begins(plan)
        values, scales = self.trainer.prepare(plan.source, plan.ranges, batch_size, spec, begins)
        changes = self._changes_to(values)
        self.plan, self.early = plan, False
        self.on_compiled()
        if plan.completes:
            self.recover()
        event = self.emit(self._fit_payload(plan, values, scales, {} if plan.completes else changes), **about)
        if plan.completes and changes:  # set on the model since it was loaded
            self.set({name: new for name, (_, new) in changes.items() if name in scales})
        if compiled_anew and self.position.step:
            self.emit(Edit(values, scales, {}, what="compiled anew"))
        self._begun, self._finite_until = 0 if plan.completes else event.seq, self.position.step
        return event

    def _spec(self, plan: FitPlan) -> FitSpec:
        spec, old = plan.spec(self.position), self.controls.fit
        if plan.completes and old is not None:
            return replace(spec, batch_size=old.batch_size, shuffle=old.shuffle, first_epoch=old.first_epoch)
        return spec

    def _begins(self, plan: FitPlan) -> Position:
        """The position in which a fit begins: in an epoch anew, where its examples or their order are others."""
        old, at = self.controls.fit, self.position
        can_go_on = plan.source.repeatable or at.example == 0
        return at if old is None or (old.same_examples(self._spec(plan)) and can_go_on) else at.data_changed()

    def _fit_payload(
        self, plan: FitPlan, values: Mapping[str, Any], scales: Mapping[str, Scale], changes: Changes
    ) -> Fit:
        spec, fresh = self._spec(plan), not plan.completes and self._begins(plan) != self.position
        return Fit(values, scales, changes, spec, fresh, plan.facts, plan.remarks)

    def _changes_to(self, values: Mapping[str, Any]) -> Changes:
        """Those of a model's values that differ from the controls', all of them at first: name -> (old, new)."""
        if not self.begun:
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
        callbacks.after = self._after_hook
        steps = plan.steps_per_epoch or self.trainer.steps_left(int(self.controls.values["batch_size"]))
        callbacks.attach(verbose=plan.verbose, epochs=plan.epochs, steps=steps)
        self.watch()
        callbacks("on_train_begin")
        assert self.controls.fit is not None
        if plan.completes:
            self._first_epoch = self.controls.fit.first_epoch
            self.epochs = plan.epochs - self._first_epoch
        else:
            initial = callbacks.initial_epoch or plan.initial_epoch
            self._first_epoch = initial - began
            self.epochs = began + max(plan.epochs - initial, 0)
        self._memory = callbacks.memory
        if plan.completes:
            self._remind_callbacks()
        self._begin_epoch()
        self._keep("fit" if self.position.step else "start")

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
        try:
            callbacks("on_train_end", logs=self._last_logs)
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
    def _last_logs(self) -> Mapping[str, Any]:
        ends = self.log.epoch_ends(self.log.lineage(self.branch))
        return ends[-1].payload.logs if ends and ends[-1].seq > self._begun else {}  # type: ignore[attr-defined]

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
            for steps in train(self.trainer, Live(), end):
                if self._record(steps) or not callbacks.every_step:  # those hear of a whole execution
                    break
        except Exception as error:
            self._return_to_boundary(error)
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
        finite = self._was_finite(steps.first - 1)
        self.log.add_steps(self.branch, steps)
        self.examples += steps.examples
        if turned := finite and not self.loss_is_finite:
            self.emit(NotFinite(str(self.loss)))
        return turned

    def _end_epoch(self, last: Mapping[str, Any] | None) -> None:
        assert self.plan is not None and self.controls.fit is not None
        callbacks, validation, seeds = self.plan.callbacks, self.plan.validation, self.trainer.seeds
        number, spec = self.position.epoch + self._first_epoch, self.controls.fit
        logs = self.trainer.epoch_logs(last)
        self.watch()
        try:
            if validation is not None and validation.is_due(number + 1):
                logs |= {f"val_{name}": value for name, value in validation.run(self.between).items()}
            logs = callbacks("on_epoch_end", number, logs=logs)
        finally:  # an epoch that was trained is over, whatever its validation came to
            self.early = callbacks.stop_requested
            next_pass = not spec.steps_per_epoch or self.trainer.pass_over
            if spec.steps_per_epoch and self.position.epoch_step < spec.steps_per_epoch and not self.early:
                warnings.warn(
                    f"The data ran out after {self.position.epoch_step} of {spec.steps_per_epoch} steps; the epoch "
                    "ends there.",
                    stacklevel=2,
                )
            drawn = self.trainer.seeds
            end = EpochEnd(
                self.position.epoch + 1, callbacks.plain(logs), next_pass, drawn if drawn != seeds else None,
                callbacks.memory, self.early,
            )  # fmt: skip
            self.trainer.epoch_ended(next_pass)
            self.emit(end, author="babysit")
        self._note_best(end.logs)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        """Calls the hooks of the next epoch as soon as it is due: a state at rest holds what they do."""
        assert self.plan is not None
        if not self.finished and self.position.epoch_step == 0:
            self.trainer.epoch_began()
            self.plan.callbacks("on_epoch_begin", self.position.epoch + self._first_epoch)
        self._observed = None

    # ------------------------------------------------------------------------- a step that fails

    def _return_to_boundary(self, error: Exception) -> None:
        """Returns to the state before the block that failed; goes on only where a smaller batch will do."""
        if not self.trainer.interrupted:  # fetching the data failed: nothing has changed
            raise error
        back = self._batch_size_before()
        lineage = self.log.lineage(self.branch)
        try:
            reach(self.trainer, self.log, self.store.candidates(), lineage, self.log.tip(self.branch))
        except Exception as again:
            self._branch_off(f"a step failed, and those before it cannot be taken again ({again})")
        if not (back and self.trainer.short_of_memory(error)):
            raise error
        was, now = back["batch_size"]
        why = f"`batch_size` {was} needs more memory than there is: back to {now}"
        self.emit(Set(back, refusal=f"{why} ({str(error).splitlines()[0][:200]})"), author="babysit")

    def _batch_size_before(self) -> dict[str, tuple[Any, Any]]:
        """The last change of the batch size, taken back, if no step was taken with it yet."""
        events = self.log.along(self.log.lineage(self.branch))
        changed = [
            event for event in events if isinstance(event.payload, Set) and "batch_size" in event.payload.changes
        ]
        if not changed or not isinstance(last := changed[-1].payload, Set) or last.refusal:
            return {}
        step, begun = self.position.step, changed[-1].step if last.acts_at is None else last.acts_at
        if last.over == 1 and step > begun:
            return {}
        now, before = self.controls.at(step), self.controls.at(step - 1)
        if last.over > 1 and now["batch_size"] == before["batch_size"] and step > begun:
            return {}
        old = {name: pair[0] for name, pair in last.changes.items()} if step <= begun else before
        return {name: (now[name], old[name]) for name in last.changes if name in now and old[name] is not None}

    def _branch_off(self, reason: str) -> None:
        """Goes on from the newest state that can be used, on a new branch."""
        lineage, tip = self.log.lineage(self.branch), self.log.tip(self.branch)
        usable = [one for one in self.store.candidates() if lies_on(one, lineage)] or self.store.candidates()
        reasons: dict[str, None] = {}
        for candidate in reversed(usable):
            try:
                self.trainer.restore(state := candidate.load())
            except ValueError as error:
                reasons[str(error)] = None
                continue
            self._leave(Branch(candidate.branch, state.event, tip, reason=reason))
            return
        raise Unreachable(" ".join(["The run has no checkpoint that can be used.", *reasons]))

    # ------------------------------------------------------------------------- the time machine

    def load(self) -> None:
        """Restores the newest checkpoint of the present branch that can be used; a fit takes the steps after it.

        Where no checkpoint is left, the run begins anew on a branch of its own.

        Raises:
            ValueError: If there is none.
        """
        lineage = self.log.lineage(self.branch)
        if not self.store.candidates():
            tip = self.log.tip(self.branch)
            self._leave(Branch(ROOT, 0, tip, reason="no checkpoint is left"))
            return
        for candidate in reversed(self.store.candidates()):
            if lies_on(candidate, lineage):
                try:
                    self.trainer.restore(candidate.load())
                except ValueError:
                    continue
                return
        self._branch_off("no checkpoint of the branch can be used")

    def recover(self) -> None:
        """Takes the steps again that a run had done after the state from which it was loaded."""
        tip, lineage = self.log.tip(self.branch), self.log.lineage(self.branch)
        before = self.trainer.capture()
        if before.position.step == tip and not self._lacks(before):
            return
        try:
            rerun = reach(self.trainer, self.log, self.store.candidates(), lineage, tip)
        except Exception as error:
            self.trainer.restore(before)
            self._branch_off(str(error))
            return
        if rerun.differs is not None:
            text = f"the steps taken again after step {rerun.start:,} differ from step {rerun.differs:,} on"
            self.emit(Note(text), author="babysit")

    def _lacks(self, state: State) -> bool:
        """Whether events on the branch act on what a state is, and it does not contain them."""
        acting = (Fit, Set, EpochEnd, Branch, Edit)
        return any(
            isinstance(event.payload, acting) for event in self.log.along(self.log.lineage(self.branch), state.event)
        )

    def rewind(
        self,
        folder: str | None = None,
        step: int | None = None,
        branch: str | None = None,
        hyperparameters: str = "checkpoint",
        skip: int = 0,
        **about: Any,
    ) -> Event:
        """Returns to a checkpoint or a step, on a new branch; see `Panda.rewind`.

        Args:
            folder: Name of a checkpoint's folder, to return to the instant at which it was saved.
            step: Or the number of steps done, on `branch`; the branch's tip if it is None.
            branch: The present one if it is None.
            hyperparameters: `"checkpoint"` for the values of then, `"keep"` for the present ones.
            skip: Batches to leave out then.
            **about: `author`, `why` and `command` of the event.

        Raises:
            ValueError: If there is no such place, or it cannot be reached; nothing was changed then.
        """
        if hyperparameters not in ("checkpoint", "keep"):
            raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
        skip = int(checked("skip", skip, Scale(0, 2**53, whole=True), "It is a number of batches."))
        place = None if folder is not None else self._place(step, branch)
        before, left, step = self.trainer.capture(), self.branch, self.position.step
        present = self._values()
        try:
            name, parent, differs = self._go_to(folder or "") if place is None else self._go_along(*place)
            self._check_data(before.position)
            then = self._values()
            changed = {key: (then[key], new) for key, new in present.items() if key in then and then[key] != new}
            keep = changed if hyperparameters == "keep" else {}
            restored = {} if keep else {key: (new, old) for key, (old, new) in changed.items()}
            later = {key: keep.pop(key) for key in ["batch_size"] if key in keep and self.trainer.steps_to_update}
            examples = self._examples_in(skip, keep.get("batch_size", (0, then.get("batch_size")))[1])
        except Exception:
            self.trainer.restore(before)
            raise
        self.store.save_soon(before, left, kept="tip")
        event = self._leave(Branch(parent, self.trainer.event, step, name, keep, examples, restored, differs), **about)
        if later:
            self.emit(Set(later, acts_at=self.position.step + self.trainer.steps_to_update), author=event.author)
        self._remind_callbacks()
        self._keep("branch")
        return event

    def _place(self, step: int | None, branch: str | None) -> tuple[str, int]:
        """A branch and a step of it."""
        if not self.begun:
            raise ValueError("There is no past to rewind to: call `fit(…)` first.")
        branch = self.branch if branch is None else branch
        if branch not in self.log.branches:
            raise ValueError(f"`branch` must be one of {', '.join(self.log.branches)}. Received: {branch!r}.")
        tip = self.log.tip(branch)
        step = tip if step is None else step
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= tip:
            raise ValueError(
                f"`to` must be a step, a whole number from 0 to {tip:,}, the last one of {branch}. Received: {step!r}."
            )
        return branch, step

    def _go_to(self, folder: str) -> tuple[str, str, int | None]:
        checkpoint, state = self.store.found(folder)
        self.trainer.restore(state)
        return checkpoint.name or "", checkpoint.branch, None

    def _go_along(self, branch: str, step: int) -> tuple[str, str, int | None]:
        lineage = self.log.lineage(branch, step)
        rerun = reach(self.trainer, self.log, self.store.candidates(), lineage, step)
        return "", lineage[-1].branch, rerun.differs

    def _leave(self, payload: Branch, **about: Any) -> Event:
        """Begins a new branch where the training stands."""
        self._finite_until = self.position.step
        self.branch, self.early = f"branch {len(self.log.branches) + 1}", False
        self._observed = None
        return self.emit(payload, **about)

    def _values(self) -> dict[str, Any]:
        return self.controls.at(self.position.step) | {"scaling": self.controls.scaling}

    def _examples_in(self, batches: int, batch_size: int) -> int:
        """Examples in batches that are to be left out."""
        if not batches:
            return 0
        if self.plan is None:
            raise ValueError("`skip` needs the data. Call `fit(…, paused=True)` first.")
        left = self.trainer.steps_left(batch_size)
        if left is not None and batches >= left:
            raise ValueError(
                f"`skip` must leave a batch of the epoch. Received: skip={batches}, with {left} left of them there."
            )
        return batches * batch_size

    def _check_data(self, before: Position) -> None:
        """Raises unless the data at hand can go on from here."""
        fit, at = self.controls.fit, self.position
        if not self.trainer.repeatable and (at.data_pass, at.example) != (before.data_pass, before.example):
            assert self.plan is not None
            raise ValueError(self.plan.source.limitation)
        if self.plan is not None and fit is not None and fit.data != self.plan.source.fingerprint:
            now, then = self.plan.source.size, fit.size
            raise ValueError(
                f"The checkpoint was made on other data: {then or 'an unknown number of'} examples, and now there are "
                f"{now or 'others'}. `fit` on those data again, `paused=True`, before you rewind to it."
            )

    def _remind_callbacks(self) -> None:
        """Has the callbacks remember what they did after the last epoch of this fit that had ended here."""
        if self.plan is None or not self.plan.callbacks.memory:
            return
        ends = self.log.epoch_ends(self.log.lineage(self.branch))
        ends = [event for event in ends if event.seq > self._begun]
        memory = ends[-1].payload.callbacks if ends else self._memory  # type: ignore[attr-defined]
        self.plan.callbacks.remember(memory, self._weights_after)

    def _weights_after(self, number: int) -> Any:
        """The weights at the end of an epoch, by Keras's number of it, where a state is kept; or None."""
        lineage = self.log.lineage(self.branch)
        for event in self.log.epoch_ends(lineage):
            if event.payload.epoch != number - self._first_epoch + 1:  # type: ignore[attr-defined]
                continue
            for one in self.store.candidates():
                if one.step == event.step and lies_on(one, lineage):
                    with contextlib.suppress(ValueError):  # damaged
                        return self.trainer.weights_in(one.load())
        return None

    # ------------------------------------------------------------------------- what a user may do to it

    def set(self, changes: Mapping[str, Any], over: int = 1, **about: Any) -> Event:
        """Changes hyperparameters, all from the next step on, or in so many steps; see `Panda.set`."""
        wanted, watched = self.planned(changes, over), self._observed is not None
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
        within = self._observed is not None  # within a callback, whose edit it then is
        if not within:
            self.watch()
        try:
            with self.trainer.guarded():
                return function(model)
        finally:
            if not within:
                self.find_external_changes("script")

    def save(self, name: str | None, write_model: Callable[..., Any] | None = None, **about: Any) -> Any:
        """Saves the state under a new name, made from the step if none is given; returns the checkpoint.

        Raises:
            ValueError: If the name is taken, or none, or nothing has begun yet.
            OSError: If the disk does not take it; nothing is left behind.
        """
        if not self.begun:
            raise ValueError(
                "`save` needs a run that has begun. Received: an idle one. Call `fit(…, paused=True)` first."
            )
        step = self.position.step
        name = self.store.free_name(step) if name is None else self.store.checked_name(name)
        checkpoint = self.store.save(self.trainer.capture(), self.branch, name, "named", write_model)
        self.emit(Saved(checkpoint.path.name, checkpoint.name), **about)
        return checkpoint

    def rename(self, folder: str, name: str, **about: Any) -> Event:
        """Gives a checkpoint another name, or its first one."""
        return self.emit(Saved(folder, name, self.store.rename(folder, name).step), **about)

    def last_change(self) -> int | None:
        """Number of the last event that changed how the training goes on, if there is any."""
        changing = (Set, Edit, Branch)
        return next((event.seq for event in reversed(self.log.events) if isinstance(event.payload, changing)), None)

    # ------------------------------------------------------------------------- what others do to the model

    def watch(self) -> None:
        """Remembers the model as it is, so that what others change from now on is found."""
        self._observed = self.trainer.observe()

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
        if self.trainer.compiled_anew and self.plan is not None and self.begun:
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

    def _keep(self, reason: str) -> None:
        """Saves the state in the background, unnamed; `reason` is why it is kept."""
        self.store.save_soon(self.trainer.capture(), self.branch, kept=reason)

    def keep_last(self) -> None:
        """Saves the state, and what waits to be saved.

        Raises:
            OSError: If the disk does not take it.
        """
        self.keep_best()
        self.store.save(self.trainer.capture(), self.branch, kept="end")

    def _keep_snapshot(self) -> None:
        """Keeps a copy of the state in memory if that costs less than its share of the time."""
        share = SNAPSHOT_SHARE if self.trainer.repeatable else ONLY_SHARE
        began = time.perf_counter()
        if began - self._snapshot_time > self._snapshot_cost / share:
            self.store.remember(self.trainer.capture(), self.branch)
            self._snapshot_time = time.perf_counter()
            self._snapshot_cost = self._snapshot_time - began

    def _note_best(self, logs: Mapping[str, Any]) -> None:
        """Takes a copy of the state if what is monitored has never been better in this run."""
        assert self.plan is not None
        name, sign = self.plan.callbacks.monitored
        told = [event.payload.logs.get(name) for event in self.log.events if isinstance(event.payload, EpochEnd)]
        values = [sign * value for value in told if isinstance(value, int | float)]
        if isinstance(logs.get(name), int | float) and values and values[-1] < min(values[:-1], default=math.inf):
            self._best = self.trainer.capture()

    def keep_best(self) -> None:
        """Saves the best state so far in the background, if it is another one by now."""
        if self._best is not None and BEST not in self.store.names:  # which a user may have taken
            self.store.save_soon(self._best, self.branch, name=BEST)
        self._best = None
