"""The trainer: takes steps of one Keras model, and holds everything that decides how it goes on.

Synchronous; it knows no log, no callback, no thread and no disk.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from babysit.core.controls import Controls, apply
from babysit.core.events import EpochEnd, Event, Fit
from babysit.core.hyperparameter import scales_for
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import Steps
from babysit.core.scale import Scale
from babysit.core.state import State
from babysit.engine.block import BlockSizer
from babysit.engine.diagnostics import Diagnostics
from babysit.engine.model import TrainableModel


class KerasTrainer(TrainableModel):
    """Trains a Keras model in place.

    Args:
        model: Compiled.
        seed: Of the order of examples.

    Attributes:
        source: The data; None before the first fit.
        position: Steps and epochs done, and the place in the data.
        controls: What steers it.
        event: Number of the last event that was applied.
        followed: Learning rate -> number that its schedule gives now.
        interrupted: Whether a step was begun and not ended, so that variables may have changed.
        diagnostics: Measures a step now and then, if it is switched on.
    """

    def __init__(self, model: Any, seed: int) -> None:
        super().__init__(model)
        self.seed = seed
        self.source: Any = None
        scales = scales_for(self.bindings.values, self.bindings.scales, None, 1)
        self.position, self.controls, self.event = Position(), Controls(self.bindings.settings, scales), 0
        self.followed: Mapping[str, float] = self.bindings.followed
        self.interrupted = False
        self.diagnostics = Diagnostics(self)
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
                f"Step {at.step + 1:,} must be taken again on the data that it had: call `fit` with them and "
                "`paused=True` before you rewind there."
            )
        values, wait = self.controls.at(at.step), self.diagnostics.steps_before
        self.bindings.set(values)
        size = int(values["batch_size"])
        ends = [limit, self.controls.steady_for(at.step), self._stride(size), wait or 1]
        if fit.steps_per_epoch:
            ends.append(fit.steps_per_epoch - at.epoch_step)
        window = self.source.window(at, size, max(1, int(min(ends))), fit)
        block = self.block(window.static_size, self.source.signature)
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
        if not columns:
            columns["step"] = np.arange(at.step + 1, at.step + 1 + logs.count)  # nothing was logged
        for name, ramp in self.controls.ramps.items():
            if ramp.steps > 1 and ramp.begun <= at.step < ramp.begun + ramp.steps:  # all steps but the last are alone
                columns[name] = np.full(logs.count, ramp.at(at.step))
        self.followed = self.bindings.followed
        return Steps(0, "", at.step + 1, columns, last=logs.last, examples=examples)

    def steered(self) -> None:
        """Takes shorter blocks for a while, so that what is asked for next acts sooner."""
        self._sizer.steered()

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
            self.tensors.reset_metrics()
        if isinstance(payload, EpochEnd) and payload.seeds is not None:
            self.tensors.seeds = payload.seeds
        self._write_values()

    def _write_values(self) -> None:
        """Writes the values that act in the next step into the model, where they differ."""
        self.bindings.set(self.controls.at(self.position.step))
        self.followed = self.bindings.followed

    # ------------------------------------------------------------------------- state

    def capture(self) -> State:
        """A copy of everything that decides how the training goes on."""
        self._write_values()
        return State(
            position=self.position,
            controls=self.controls,
            tensors=self.tensors.read(),
            seed=self.seed,
            followed=dict(self.followed),
            trainable=self.trainable,
            built_for=self.tensors.built_for,
            slots=self.bindings.slots,
            event=self.event,
        )

    def restore(self, state: State) -> None:
        """Returns to a state.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        super().restore(state)
        if self.source is None:
            self.release()
        self.bindings.adopt_external_changes()
        self.position, self.controls, self.event = state.position, state.controls, state.event
        self._finite, self.interrupted = True, False
        self.model.stop_training = False
        self._write_values()

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
        static_size = source.window(begins, batch_size, 1, fit).static_size
        self.build(source.spec, static_size)
        numbers = self.bindings.values
        first = {name: value for name, value in numbers.items() if name == "learning_rate"}
        numbers = {**first, "batch_size": batch_size, **numbers}
        scales = scales_for(numbers, self.bindings.scales, ranges, source.size)
        if not source.steerable or self.own_batch_size is not None:
            scales.pop("batch_size", None)
        try:
            self.bind(source.signature, static_size)
        except BaseException:
            self.release()
            raise
        if self.source not in (None, source):
            self.source.close()
        self.source, self._finite, self.followed = source, True, self.bindings.followed
        return numbers | self.bindings.settings, scales

    # ------------------------------------------------------------------------- what a session asks

    @property
    def schedules(self) -> tuple[str, ...]:
        """Learning rates that were compiled with a schedule."""
        return self.bindings.schedules

    @property
    def repeatable(self) -> bool:
        """Whether the data give the same examples at the same position again."""
        return self.source is None or bool(self.source.repeatable)

    @property
    def seeds(self) -> list[list[int]]:
        """How far each random generator was drawn on."""
        return self.tensors.seeds

    def epoch_began(self) -> None:
        """Has the user's data hear that an epoch begins."""
        self.source.epoch_began(self.position)

    def epoch_ended(self, pass_over: bool) -> None:
        """Has the user's data hear that an epoch is over."""
        self.source.epoch_ended(self.position, pass_over)

    def short_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory did not suffice."""
        return isinstance(error, tf.errors.ResourceExhaustedError)

    def observe(self) -> Any:
        """What nobody but a step should change, to be compared later."""
        return self.tensors.snapshot(), self.trainable

    def difference(self, before: Any) -> str:
        """What was changed since `observe` gave this, in words; optimizers come to know layers trained from now on."""
        tensors, trainable = before
        said = ["variables changed"] if self.tensors.differ_from(tensors) else []
        if trainable != self.trainable:
            changes = zip(self.model._flatten_layers(), trainable, self.trainable, strict=False)
            said.append(", ".join(f"{layer.name}.trainable = {now}" for layer, old, now in changes if old != now))
            self.update_trainable()
        return "; ".join(said)

    def adopt(self) -> dict[str, tuple[Any, Any]]:
        """Keeps the hyperparameters that others set on the model itself; returns name -> (old, new)."""
        changes = self.bindings.adopt_external_changes()
        return {name: change for name, change in changes.items() if name in self.controls.values}
