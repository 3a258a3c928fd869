"""The trainer: takes steps of one Keras model, and holds everything that decides how it goes on.

Synchronous; it knows no log, no callback, no thread and no disk.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from babysit.core.controls import SCHEDULE, Controls, apply
from babysit.core.events import EpochEnd, Event, Fit
from babysit.core.hyperparameter import scales_for
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import Steps
from babysit.core.scale import Scale
from babysit.core.state import State
from babysit.engine.block import BlockSizer
from babysit.engine.diagnostics import Diagnostics, first_loss_remark
from babysit.engine.model import TrainableModel


class KerasTrainer:
    """Trains a Keras model in place.

    Args:
        model: Compiled.
        seed: Of the order of examples.

    Attributes:
        model: The same, with its optimizers, hyperparameters and compiled blocks.
        source: The data; None before the first fit.
        position: Where the training stands.
        controls: What steers it.
        event: Number of the last event that was applied.
        followed: Learning rate -> number that its schedule gives now.
        interrupted: Whether a step was begun and not ended, so that variables may have changed.
        diagnostics: Measures a step now and then, if it is switched on.
        remark: That the loss of the first step is far above what it should be, in a sentence; or nothing.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = TrainableModel(model), seed
        self.source: Any = None
        numbers = self.model.bindings.values
        scales = scales_for(numbers, self.model.bindings.scales, None, 1)
        values = numbers | dict.fromkeys(self.model.bindings.following, SCHEDULE)
        self.position, self.controls, self.event = Position(), Controls(values, scales), 0
        self.followed: Mapping[str, float] = {}
        self._follow()
        self.interrupted = False
        self.diagnostics, self.remark = Diagnostics(self.model), ""
        self._raw: Sequence[np.ndarray] = []  # what a state has of tensors that are not known yet
        self._sizer = BlockSizer()
        self._finite = True

    # ------------------------------------------------------------------------- steps

    def step(self, limit: int) -> Steps:
        """Takes a block of up to `limit` steps, none past the end of the epoch or a change of a value.

        A step whose loss turns NaN or infinite is the last one of its block.

        Raises:
            ValueError: If the data are not those that the fit of this step had.
            Exception: Whatever the step raised; `interrupted` is then true.
        """
        fit, at = self.controls.fit, self.position
        assert fit is not None
        if self.source is None or fit.data != self.source.fingerprint:
            raise ValueError(
                f"Step {at.step + 1:,} has to be taken again on the data of then: call `fit` with those, "
                "`paused=True`, before you rewind there."
            )
        self._write_values()
        size = int(self.controls.at(at.step)["batch_size"])
        wait = self.diagnostics.steps_before
        ends = [limit, self.controls.steady_for(at.step), self._stride(size), wait or 1]
        if fit.steps_per_epoch:
            ends.append(fit.steps_per_epoch - at.epoch_step)
        window = self.source.window(at, size, max(1, int(min(ends))), fit)
        block = self.model.block(window.static_size, self.source.signature)
        measured = None if wait else self.diagnostics.begin(window, self.source.signature[0])
        began, self.interrupted = time.perf_counter(), True
        logs = block.run(window.data, window.order, window.offset, window.batch_size, window.count, self._finite)
        self.interrupted = False
        self.diagnostics.end(measured, at.step + 1)
        self._sizer.record(logs.count, time.perf_counter() - began)
        examples = window.examples if logs.count == window.count else logs.count * window.batch_size
        self.position = at.advanced(logs.count, examples)
        columns = dict(logs.columns)
        if logs.loss is not None:  # a train_step of the user's own may return none
            columns["loss"] = logs.loss
            self._finite = math.isfinite(logs.loss[-1])
            if at.step == 0:
                self.remark = first_loss_remark(self.model.model, self.source.spec, float(logs.loss[0]), size)
        if not columns:
            columns["step"] = np.arange(at.step + 1, at.step + 1 + logs.count)  # nothing was logged
        for name, ramp in self.controls.ramps.items():
            if ramp.steps > 1 and ramp.begun <= at.step < ramp.begun + ramp.steps:  # all steps but the last are alone
                columns[name] = np.full(logs.count, ramp.at(at.step))
        self._follow()
        return Steps(0, "", at.step + 1, columns, last=logs.last, examples=examples)

    def _stride(self, batch_size: int) -> int:
        """Steps of a block: to the end of a pass that is near, rather than a short block after this one."""
        pace, left = self._sizer.steps, self.source.steps_left(self.position, batch_size)
        return int(left) if left is not None and left <= 1.25 * pace else pace

    @property
    def epoch_over(self) -> bool:
        """Whether the present epoch has all its steps."""
        fit = self.controls.fit
        return fit is not None and (self.position.epoch_over(fit) or self.pass_over)

    @property
    def pass_over(self) -> bool:
        """Whether the present pass over the data is over."""
        return self.source is not None and bool(self.source.is_over(self.position))

    def steps_left(self, batch_size: int) -> int | None:
        """Steps that the present pass has left at a batch size, where that is known."""
        left: int | None = self.source.steps_left(self.position, batch_size)
        return left

    # ------------------------------------------------------------------------- events

    def apply(self, event: Event) -> None:
        """Does what an event means; an opaque one has done it to the tensors already."""
        self.controls, self.position = apply(self.controls, self.position, event)
        self.event, payload = event.seq, event.payload
        if isinstance(payload, EpochEnd) or (isinstance(payload, Fit) and payload.fresh):
            self.model.tensors.reset_metrics()
        if isinstance(payload, EpochEnd) and payload.seeds is not None:
            self.model.tensors.seeds = payload.seeds
        self._write_values()
        self._follow()

    def _write_values(self) -> None:
        """Writes the values that act in the next step into the model, where they differ."""
        values = self.controls.at(self.position.step)
        self.model.set({name: value for name, value in values.items() if name != "batch_size"})

    def _follow(self) -> None:
        """Reads the rates that schedules give now."""
        if following := self.model.bindings.following:
            values = self.model.bindings.values
            self.followed = {name: values[name] for name in following}
        else:
            self.followed = {}

    # ------------------------------------------------------------------------- state

    def capture(self) -> State:
        """A copy of everything that decides how the training goes on."""
        self._write_values()
        model = self.model
        return State(
            position=self.position,
            controls=self.controls,
            tensors=model.tensors.read() | ({"raw": self._raw} if self._raw else {}),
            seed=self.seed,
            followed=dict(self.followed),
            trainable=model.trainable,
            built_for=model.tensors.built_for,
            event=self.event,
        )

    def restore(self, state: State) -> None:
        """Returns to a state.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        model, values = self.model, state.controls.at(state.position.step)
        values.pop("batch_size", None)
        tensors = dict(state.tensors)
        if self.source is None:  # what a step captures is known when it has been traced
            self._raw = tensors.pop("raw", [])
        model.restore(tensors, values, state.trainable, state.built_for)
        if self.source is None:
            model.release()
        model.adopt_external_changes()
        self.position, self.controls, self.event = state.position, state.controls, state.event
        self._finite, self.interrupted = True, False
        model.model.stop_training = False
        self._write_values()
        self._follow()

    # ------------------------------------------------------------------------- a fit

    def prepare(
        self, source: Any, ranges: Any, batch_size: int, fit: FitSpec, begins: Position
    ) -> tuple[dict[str, Any], dict[str, Scale]]:
        """Takes the data of a fit, makes the hyperparameters live, and traces the first block.

        Returns:
            Name -> value, `"schedule"` where one is followed, and name -> bounds of those that can be set.

        Raises:
            ValueError: If `ranges` does not fit the hyperparameters.
            Exception: What Keras raises when the model cannot be built for such data.
        """
        model = self.model
        if model.compiled_anew:
            model.refresh()
        static_size = source.window(begins, batch_size, 1, fit).static_size
        model.build(source.spec, source.signature, static_size)
        numbers = model.bindings.values
        first = {name: value for name, value in numbers.items() if name == "learning_rate"}
        numbers = {**first, "batch_size": batch_size, **numbers}
        scales = scales_for(numbers, model.bindings.scales, ranges, source.size)
        if not source.steerable or model.has_static_batch_size:
            scales.pop("batch_size", None)
        try:
            model.prepare(source.spec, source.signature, static_size)
        except BaseException:
            model.release()
            raise
        if self.source not in (None, source):
            self.source.close()
        self.source, self._finite = source, True
        if self._raw:
            model.tensors.write({"raw": self._raw})
            self._raw = []
        self._follow()
        return numbers | dict.fromkeys(model.bindings.following, SCHEDULE), scales

    def build(self, spec: Any) -> None:
        """Builds the model for batches that are described in plain data, before there are any."""
        self.model.build(spec)

    def finish(self) -> str:
        """Puts moving averages, where there are any, in place of the weights; returns which optimizer did."""
        return self.model.apply_moving_averages()

    def release(self) -> None:
        """Leaves a stock model: plain numbers where live ones were."""
        self.model.release()

    # ------------------------------------------------------------------------- what a session asks

    @property
    def schedules(self) -> tuple[str, ...]:
        """Learning rates that were compiled with a schedule."""
        return tuple(self.model.bindings.schedules)

    @property
    def steps_to_update(self) -> int:
        """Steps until accumulated gradients have been applied; 0 where none are."""
        return self.model.steps_to_update

    @property
    def accumulates(self) -> bool:
        """Whether gradients are accumulated over several steps."""
        return self.model.steps_before_update > 0 or self.model.steps_to_update > 0

    @property
    def repeatable(self) -> bool:
        """Whether the data give the same examples at the same position again."""
        return self.source is None or bool(self.source.repeatable)

    @property
    def seeds(self) -> list[list[int]]:
        """How far each random generator was drawn on."""
        return self.model.tensors.seeds

    @property
    def compiled_anew(self) -> bool:
        """Whether the model was compiled, or given another optimizer, since it was looked at."""
        return self.model.compiled_anew

    def epoch_began(self) -> None:
        """Has the user's data hear that an epoch begins."""
        self.source.epoch_began(self.position)

    def epoch_ended(self, pass_over: bool) -> None:
        """Has the user's data hear that an epoch is over."""
        self.source.epoch_ended(self.position, pass_over)

    def short_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory did not suffice."""
        return isinstance(error, tf.errors.ResourceExhaustedError)

    def epoch_logs(self, last: Mapping[str, Any] | None) -> dict[str, Any]:
        """What Keras reports of an epoch whose last step returned `last`."""
        return self.model.epoch_logs(last)

    def observe(self) -> Any:
        """What nobody but a step should change, to be compared later."""
        return self.model.tensors.snapshot(), self.model.trainable

    def difference(self, before: Any) -> str:
        """What was changed since `observe` gave this, in words; optimizers come to know layers trained from now on."""
        tensors, trainable = before
        said = ["variables changed"] if self.model.tensors.differ_from(tensors) else []
        if trainable != self.model.trainable:
            said.append(self.model.describe_trainable_changes(trainable))
            self.model.update_trainable()
        return "; ".join(said)

    def adopt(self) -> dict[str, tuple[Any, Any]]:
        """Hyperparameters that somebody else set on the model: name -> (old, new)."""
        known = self.controls.values
        changes = self.model.adopt_external_changes()
        return {name: change for name, change in changes.items() if name in known}

    def guarded(self) -> AbstractContextManager[None]:
        """Within, the model may be looked at: its metrics, seeds and flags are put back at the end."""
        return self.model.without_side_effects()

    def weights_in(self, state: State) -> list[np.ndarray]:
        """The model's weights in a state, as `get_weights` orders them."""
        tensors = state.tensors["model"]
        return [tensors[i] for i in self.model.tensors.positions(self.model.model.weights)]
