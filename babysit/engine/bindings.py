"""Bindings: the hyperparameters of a model while it trains, by name, each one readable and settable.

A binding is one of three kinds. A *variable*: the learning rate, which Keras itself keeps in one. A *live float*:
momentum and its kin, which a traced step reads afresh. *Set and retrace*: everything else, whose new value is put
where Keras looks for it, and needs another trace. Released, the model holds plain numbers as if nothing had been live.
"""

import numbers
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from babysit.core.scale import Scale
from babysit.engine import catalog
from babysit.engine.catalog import HyperparameterSpec, plain
from babysit.engine.live import Live, LiveValues
from babysit.engine.optimizers import rebuild

# What Keras reads when it compares a momentum of 0 whose velocities exist.
_NOT_ZERO = 0.5
_SCHEDULE = "schedule"

Value = float | Literal["schedule"]


class HyperparameterBindings:
    """The hyperparameters of one compiled model, by name, in a stable order.

    Args:
        model: A compiled Keras model, built or not; changed only while bound.
        optimizers: Prefix of the names -> the optimizer that a step applies.

    Attributes:
        bound: Whether the live values are in the model.
    """

    def __init__(self, model: Any, optimizers: Mapping[str, Any]) -> None:
        self._model, self._optimizers = model, optimizers
        self._live_values = LiveValues()
        self._schedules: dict[str, list[Any]] = {}
        self._bindings: dict[str, Any] = {}
        self.bound = False
        self.read()

    # ---------------------------------------------------------------------- reading

    @property
    def values(self) -> dict[str, float]:
        """Name -> present value, a copy."""
        return {name: binding.value for name, binding in self._bindings.items()}

    @property
    def scales(self) -> dict[str, Scale]:
        """Name -> the scale on which it is chosen by default."""
        return {name: binding.spec.scale for name, binding in self._bindings.items()}

    @property
    def structure(self) -> tuple[str, ...]:
        """What a trace of a step fixes: values that are set and retraced, momentum's slots, schedules."""
        return tuple(part for binding in self._bindings.values() for part in binding.structure)

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names that have a schedule: `"schedule"` may be set for them."""
        return tuple(name for name, binding in self._bindings.items() if isinstance(binding, ScheduleBinding))

    @property
    def following(self) -> tuple[str, ...]:
        """The names that follow their schedule now."""
        return tuple(name for name in self.schedules if not self._bindings[name].overridden)

    @property
    def rates(self) -> dict[str, Any]:
        """Learning rate -> Keras's schedule that it follows unless it is overridden, or None."""
        rates = {name: binding for name, binding in self._bindings.items() if binding.spec.kind == "variable"}
        return {name: getattr(binding, "schedule", None) for name, binding in rates.items()}

    @property
    def graph_variables(self) -> list[Any]:
        """The variables of ours from which traced steps read."""
        return self._live_values.variables

    def scheduled_rates(self) -> dict[str, Any]:
        """Name -> scalar float32 tensor of each rate with a schedule; called in a step, before the update."""
        return {name: self._bindings[name].traced_rate() for name in self.schedules}

    def reading_once(self) -> AbstractContextManager[None]:
        """Within, a graph that is traced reads every live value once."""
        return self._live_values.reading_once()

    # ---------------------------------------------------------------------- in and out

    def read(self) -> None:
        """Reads what was set on the optimizers, the loss and the layers while they held plain numbers."""
        if self.bound:
            return
        found: list[Any] = []
        for prefix, optimizer in catalog.optimizers_in(self._optimizers).items():
            found += [self._bind_learning_rate(prefix, optimizer)] if _has_learning_rate(optimizer) else []
            found += [self._bind_float(spec, optimizer) for spec in catalog.optimizer_specs(prefix, optimizer)]
        specs = [*catalog.loss_specs(self._model), *catalog.layer_specs(self._model)]
        found += [RetraceBinding(spec) for spec in specs]
        self._bindings = {binding.spec.name: binding for binding in found}

    def bind(self) -> None:
        """Puts the live values in; an optimizer may be built later, inside the trace."""
        self.bound = True
        for binding in self._bindings.values():
            binding.bind()

    def release(self) -> None:
        """Puts plain numbers back. Momentum that ends at 0 keeps no velocities, as in a stock optimizer."""
        self.bound = False
        for binding in self._bindings.values():
            binding.release()

    # ---------------------------------------------------------------------- setting

    def set(self, values: Mapping[str, Value]) -> None:
        """Sets those hyperparameters that differ, from the next step on; `"schedule"` follows one again."""
        for name, value in values.items():
            binding = self._bindings[name]
            if value != (_SCHEDULE if name in self.following else binding.value):
                binding.write(value)

    def adopt_external_changes(self) -> dict[str, tuple[float, float]]:
        """Finds what others, such as callbacks, set on the model while bound, and keeps it: name -> (old, new)."""
        changes: dict[str, tuple[float, float]] = {}
        for prefix, optimizer in catalog.optimizers_in(self._optimizers).items():
            name = catalog.learning_rate_spec(prefix, optimizer).name
            if name in self._bindings and not self._bindings[name].is_in_place:
                old, self._bindings[name] = self._bindings[name].value, self._bind_learning_rate(prefix, optimizer)
                self._bindings[name].bind()
                changes[name] = old, self._bindings[name].value
        for name, binding in self._bindings.items():
            if (change := binding.adopt_external_change()) is not None:
                changes[name] = change
        return changes

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentums that have velocities."""
        return tuple(name for name, binding in self._bindings.items() if getattr(binding, "has_slots", False))

    def make_slots(self, names: Sequence[str]) -> None:
        """Gives these momentums velocities, and takes them from all others."""
        for name, binding in self._bindings.items():
            if isinstance(binding, RetraceBinding):
                binding.make_slots(name in names)

    def _bind_float(self, spec: HyperparameterSpec, optimizer: Any) -> Any:
        if spec.kind == "live":
            return LiveBinding(spec, optimizer, self._live_values)
        return RetraceBinding(spec, optimizer)

    def _bind_learning_rate(self, prefix: str, optimizer: Any) -> Any:
        spec, schedule = catalog.learning_rate_spec(prefix, optimizer), optimizer._learning_rate
        if isinstance(schedule, keras.Variable):
            return VariableBinding(spec, optimizer)
        known = self._bindings.get(spec.name)
        if isinstance(known, ScheduleBinding) and known.is_in_place:
            return known
        seen = self._schedules.setdefault(spec.name, [])
        seen.append(schedule)  # kept: a block may be compiled for it
        return ScheduleBinding(spec, optimizer, self._live_values, len(seen))


def _has_learning_rate(optimizer: Any) -> bool:
    return isinstance(optimizer._learning_rate, keras.Variable | keras.optimizers.schedules.LearningRateSchedule)


class VariableBinding:
    """A learning rate that Keras itself keeps in a variable."""

    structure: tuple[str, ...] = ()

    def __init__(self, spec: HyperparameterSpec, optimizer: Any) -> None:
        self.spec = spec
        self._optimizer, self._variable = optimizer, optimizer._learning_rate
        self.value = self._present

    @property
    def _present(self) -> float:
        return plain(self._variable.numpy())

    @property
    def is_in_place(self) -> bool:
        """Whether the optimizer still has this variable, and no schedule instead."""
        return self._optimizer._learning_rate is self._variable

    def bind(self) -> None:
        """Does nothing: the variable is live by itself."""

    release = bind

    def write(self, value: float) -> None:
        """Sets the learning rate, from the next step on."""
        self.value = float(value)
        self._variable.assign(value)

    def adopt_external_change(self) -> tuple[float, float] | None:
        """Keeps what others assigned to the variable; returns (old, new), or None."""
        old, present = self.value, self._present
        if np.float32(present) == np.float32(old) or present != present:
            return None
        self.value = present
        return old, present


class ScheduleBinding:
    """A learning rate that follows the user's schedule until it is overridden by a number, and again later."""

    def __init__(self, spec: HyperparameterSpec, optimizer: Any, live_values: LiveValues, number: int) -> None:
        self.spec, self.schedule = spec, optimizer._learning_rate
        self._optimizer, self._live_values, self._key = optimizer, live_values, f"{spec.name} schedule {number}"
        self._put = self.schedule
        self._number: float | None = None
        self._bound = False

    @property
    def overridden(self) -> bool:
        """Whether a number acts in place of the schedule."""
        return self._number is not None

    @property
    def value(self) -> float:
        """The present number."""
        if self._number is not None:
            return self._number
        return plain(np.float32(self.schedule(self._optimizer._iterations)))

    @property
    def structure(self) -> tuple[str, ...]:
        """What a trace fixes: which schedule acts, or that a number does."""
        return (f"{self._key}, overridden" if self.overridden else self._key,)

    @property
    def is_in_place(self) -> bool:
        """Whether the optimizer still has what was put there."""
        return self._optimizer._learning_rate is self._put

    def traced_rate(self) -> Any:
        """The rate in effect in the step that is being traced."""
        return tf.cast(self._put(self._optimizer._iterations), tf.float32)

    def bind(self) -> None:
        """Puts the schedule in, or a constant one of a live number."""
        self._bound = True
        self._show()

    def release(self) -> None:
        """Puts the schedule in, or a constant one of a plain number."""
        self._bound = False
        self._show()

    def write(self, value: Value) -> None:
        """Overrides the schedule by a number, or follows it again, from the next step on."""
        self._number = None if value == _SCHEDULE else float(value)
        self._show()

    def adopt_external_change(self) -> None:
        """Finds nothing: Keras lets nobody assign a number over a schedule."""

    def _show(self) -> None:
        shown = self.schedule
        if self._number is not None:
            self._live_values.write(self._key, self._number)
            number = self._live_values.live(self._key) if self._bound else self._number
            shown = keras.optimizers.schedules.PiecewiseConstantDecay([0], [number, number])
        self._put = self._optimizer._learning_rate = shown


class RetraceBinding:
    """A number of Keras's that a trace fixes: each value is another structure."""

    def __init__(self, spec: HyperparameterSpec, optimizer: Any = None) -> None:
        self.spec = spec
        self._put = self._found = spec.refs[0].get()
        self.value = plain(self._found)
        self._optimizer = optimizer
        is_momentum = optimizer is not None and spec.refs[0].attribute == "momentum"
        self._slots_name = catalog.slots_name(optimizer) if is_momentum else None

    @property
    def structure(self) -> tuple[str, ...]:
        """What a trace fixes: the value."""
        return (f"{self.spec.name}={self.value!r}",)

    def bind(self) -> None:
        """Puts the value in."""
        value = self._found if self.value == plain(self._found) else self.value
        self._spread(keras.ops.convert_to_tensor(value) if keras.ops.is_tensor(self._found) else value)

    def release(self) -> None:
        """Puts the plain number back; a momentum of 0 loses its velocities."""
        RetraceBinding.bind(self)
        self.make_slots(self.value != 0)

    def write(self, value: float) -> None:
        """Sets the value; the next step is traced with it."""
        self.value = float(value)
        self.bind()
        self.make_slots(self.value != 0 or self.has_slots)

    def adopt_external_change(self) -> tuple[float, float] | None:
        """Keeps what others set while bound; returns (old, new), or None."""
        found = next((one for ref in self.spec.refs if (one := ref.get()) is not self._put), self._put)
        if found is self._put:
            return None
        old = self.value
        self.write(plain(found) if isinstance(found, numbers.Real) or keras.ops.is_tensor(found) else old)
        return None if self.value == old else (old, self.value)

    @property
    def has_slots(self) -> bool:
        """Whether it is a momentum whose optimizer has velocities, or makes them when it is built."""
        if self._slots_name is None:
            return False
        slots = getattr(self._optimizer, self._slots_name, ())
        return any(slot is not None for slot in slots) if self._optimizer.built else self.value != 0

    def make_slots(self, wanted: bool) -> None:
        """Builds the optimizer again, with momentum's velocities or without them, unless it is so built."""
        if self._slots_name is None or not self._optimizer.built or wanted == self.has_slots:
            return
        shown = self._put
        self._spread(_NOT_ZERO if wanted else 0.0)  # by which Keras decides what to make
        rebuild(self._optimizer, self._optimizer._trainable_variables)
        self._spread(shown)

    def _spread(self, value: Any) -> None:
        self._put = value
        for ref in self.spec.refs:
            ref.put(value)


class LiveBinding(RetraceBinding):
    """A float of a stock optimizer, replaced by a live one while bound."""

    def __init__(self, spec: HyperparameterSpec, optimizer: Any, live_values: LiveValues) -> None:
        super().__init__(spec, optimizer)
        self._live_values = live_values
        live_values.write(spec.name, self.value)

    @property
    def structure(self) -> tuple[str, ...]:
        """What a trace fixes: whether momentum has velocities, whether anything is clipped."""
        clips = self.spec.refs[0].attribute in catalog.CLIPPING and self.value != 0
        return (self.spec.name,) if clips or self.has_slots else ()

    def bind(self) -> None:
        """Puts a live float in; a new one for each value, so that configs show the present value."""
        gate = _NOT_ZERO if self.value == 0 and self.has_slots else self.value
        self._spread(self._live_values.live(self.spec.name, gate))

    def write(self, value: float) -> None:
        """Sets the value, from the next step on; a momentum that leaves 0 gets its velocities."""
        self.value = float(value)
        self._live_values.write(self.spec.name, self.value)
        self.make_slots(self.value != 0 or self.has_slots)
        if isinstance(self._put, Live):
            self.bind()
        else:
            super().bind()

    def make_slots(self, wanted: bool) -> None:
        """Builds the optimizer again if need be; see `RetraceBinding`."""
        super().make_slots(wanted)
        if isinstance(self._put, Live):
            self.bind()
