"""Bindings: the hyperparameters of a model while it trains, by name, each one readable and settable.

A binding is one of three kinds. A *variable*: the learning rate, which Keras itself keeps in one; a number that
overrides a schedule is live. A *live float*: momentum and its kin, which a traced step reads afresh. *Set and retrace*:
everything else, whose new value is put where Keras looks for it, and needs another trace. Released, the model holds
plain numbers as if nothing had been live.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from babysit.core.scale import Scale
from babysit.engine import catalog
from babysit.engine.catalog import HyperparameterSpec, plain
from babysit.engine.live import LiveValues
from babysit.engine.optimizers import rebuild

# What Keras reads when it compares a momentum of 0 whose velocities exist.
_NOT_ZERO = 0.5
_SCHEDULE: Literal["schedule"] = "schedule"

Value = float | Literal["schedule"]


class HyperparameterBindings:
    """The hyperparameters of one compiled model, by name, in a stable order.

    Args:
        model: A compiled Keras model, built or not; changed only while bound.
        optimizers: Prefix of the names -> the optimizer that a step applies.

    Attributes:
        live_values: What traced steps read.
    """

    def __init__(self, model: Any, optimizers: Mapping[str, Any]) -> None:
        self._model, self._optimizers = model, catalog.optimizers_in(optimizers)
        self.live_values = LiveValues()
        self._bindings: dict[str, Any] = {}
        self.read()

    # ---------------------------------------------------------------------- reading

    @property
    def values(self) -> dict[str, float]:
        """Name -> present value, a copy."""
        return {name: binding.value for name, binding in self._bindings.items()}

    @property
    def settings(self) -> dict[str, Value]:
        """Name -> what was set last: a number, or `"schedule"`."""
        return {name: binding.setting for name, binding in self._bindings.items()}

    @property
    def scales(self) -> dict[str, Scale]:
        """Name -> the scale on which it is chosen by default."""
        return {name: binding.spec.scale for name, binding in self._bindings.items()}

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a trace of a step fixes: values that are set and retraced, momentum's slots, schedules."""
        return tuple(part for binding in self._bindings.values() for part in binding.structure)

    @property
    def rates(self) -> dict[str, Any]:
        """Learning rate -> Keras's schedule that it follows unless it is overridden, or None."""
        return {name: binding.schedule for name, binding in self._bindings.items() if isinstance(binding, RateBinding)}

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names that have a schedule: `"schedule"` may be set for them."""
        return tuple(name for name, schedule in self.rates.items() if schedule is not None)

    @property
    def followed(self) -> dict[str, float]:
        """Name -> present value of each rate that follows its schedule now."""
        return {name: binding.value for name, binding in self._bindings.items() if binding.setting == _SCHEDULE}

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentums that have velocities."""
        return tuple(
            name for name, binding in self._bindings.items() if isinstance(binding, LiveBinding) and binding.has_slots
        )

    def scheduled_rates(self) -> dict[str, Any]:
        """Name -> scalar float32 tensor of each rate with a schedule; called in a step, before the update."""
        return {name: self._bindings[name].traced_rate() for name in self.schedules}

    @property
    def rate_replaced(self) -> bool:
        """Whether an optimizer was given another schedule, or one in place of its learning rate."""
        return any(self._bindings[name].is_replaced for name in self.rates)

    # ---------------------------------------------------------------------- in and out

    def read(self) -> None:
        """Reads what was set on the optimizers, the loss and the layers while they held plain numbers."""
        if self.live_values.bound:
            return
        found: list[Any] = []
        for prefix, optimizer in self._optimizers.items():
            if isinstance(optimizer._learning_rate, keras.Variable | keras.optimizers.schedules.LearningRateSchedule):
                spec = catalog.learning_rate_spec(prefix, optimizer)
                rate = self._bindings.get(spec.name)  # with the number as it was set, of which Keras has a rounded one
                if rate is None or rate.is_replaced:
                    rate = RateBinding(spec, optimizer, self.live_values)
                rate.adopt_external_change()
                found.append(rate)
            for spec in catalog.optimizer_specs(prefix, optimizer):
                is_live = spec.kind == "live"
                found.append(LiveBinding(spec, optimizer, self.live_values) if is_live else RetraceBinding(spec))
        found += map(RetraceBinding, [*catalog.loss_specs(self._model), *catalog.layer_specs(self._model)])
        self._bindings = {binding.spec.name: binding for binding in found}

    def bind(self) -> None:
        """Puts the live values in; an optimizer may be built later, inside the trace."""
        self.live_values.bound = True
        for binding in self._bindings.values():
            binding.show()

    def release(self) -> None:
        """Puts plain numbers back. Momentum that ends at 0 keeps no velocities, as in a stock optimizer."""
        self.live_values.bound = False
        self.make_slots([name for name in self.slots if self._bindings[name].value])
        for binding in self._bindings.values():
            binding.show()

    # ---------------------------------------------------------------------- setting

    def set(self, values: Mapping[str, Value]) -> None:
        """Sets those hyperparameters of the model that differ, from the next step on.

        Args:
            values: Name -> number; `"schedule"` follows a schedule again.
        """
        for name, binding in self._bindings.items():
            if name in values and binding.setting != values[name]:
                binding.write(values[name])

    def adopt_external_changes(self) -> dict[str, tuple[Value, Value]]:
        """Finds what others, such as callbacks, set on the model while bound, and keeps it: name -> (old, new)."""
        before = self.settings
        for binding in self._bindings.values():
            binding.adopt_external_change()
        return {name: (before[name], now) for name, now in self.settings.items() if now != before[name]}

    def make_slots(self, names: Sequence[str]) -> None:
        """Gives these momentums velocities, and takes them from all others."""
        for name, binding in self._bindings.items():
            if isinstance(binding, LiveBinding):
                binding.make_slots(name in names)


class RateBinding:
    """A learning rate: Keras keeps it in a variable, or follows a schedule, until a number overrides it.

    Attributes:
        spec: Where it is held.
        schedule: The user's; None without one.
        setting: The number that was set, or `"schedule"`.
    """

    def __init__(self, spec: HyperparameterSpec, optimizer: Any, live_values: LiveValues) -> None:
        self.spec, self._optimizer, self._live_values = spec, optimizer, live_values
        self._put = optimizer._learning_rate
        self.schedule = None if isinstance(self._put, keras.Variable) else self._put
        self.setting: Value = plain(self._put.numpy()) if self.schedule is None else _SCHEDULE

    @property
    def value(self) -> float:
        """The present number."""
        if self.setting == _SCHEDULE and self.schedule is not None:
            return plain(np.float32(self.schedule(self._optimizer._iterations)))
        return float(self.setting)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a trace fixes: whether a schedule acts, or a number in place of it."""
        return () if self.schedule is None else (self.spec.name, self.setting == _SCHEDULE)

    @property
    def is_replaced(self) -> bool:
        """Whether the optimizer has another variable or schedule in its place now."""
        return self._optimizer._learning_rate is not self._put

    def traced_rate(self) -> Any:
        """The rate that a schedule, or a number in place of it, gives in the step that is being traced."""
        return tf.cast(self._put(self._optimizer._iterations), tf.float32)

    def write(self, value: Value) -> None:
        """Sets the learning rate, from the next step on; `"schedule"` follows the schedule again."""
        self.setting = _SCHEDULE if value == _SCHEDULE else float(value)
        if self.schedule is None:
            self._put.assign(self.setting)
        self.show()

    def show(self) -> None:
        """Puts the schedule in, or a constant one of a number, unless the user put in another."""
        if self.schedule is not None and not self.is_replaced:
            self._put = self.schedule
            if self.setting != _SCHEDULE:
                self._live_values.write(self.spec.name, float(self.setting))
                number = self._live_values.live(self.spec.name) if self._live_values.bound else self.setting
                self._put = keras.optimizers.schedules.PiecewiseConstantDecay([0], [number, number])
            self._optimizer._learning_rate = self._put

    def adopt_external_change(self) -> None:
        """Keeps what others assigned to the variable, unless it is NaN; over a schedule Keras lets nobody assign."""
        if self.schedule is None and np.float32(self.setting) != (present := self._put.numpy()) and present == present:
            self.setting = plain(present)


class RetraceBinding:
    """A number of Keras's that a trace fixes: each value is another structure.

    Attributes:
        spec: Where it is held.
        value: The present number.
    """

    def __init__(self, spec: HyperparameterSpec) -> None:
        self.spec = spec
        self._put = self._found = spec.refs[0].get()
        self.value = plain(self._found)

    @property
    def setting(self) -> float:
        """The number that was set."""
        return self.value

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a trace fixes: the value."""
        return (f"{self.spec.name}={self.value!r}",)

    def write(self, value: float) -> None:
        """Sets the value; the next step is traced with it."""
        self.value = float(value)
        self.show()

    def show(self) -> None:
        """Puts the plain number in, the very object that was there if it has that value."""
        self._spread(self._found if self.value == plain(self._found) else self.value)

    def adopt_external_change(self) -> None:
        """Keeps a number that others set while bound."""
        found = next((one for ref in self.spec.refs if (one := ref.get()) is not self._put), None)
        if isinstance(found, numbers.Real) or keras.ops.is_tensor(found):
            self.write(plain(found))

    def _spread(self, value: Any) -> None:
        self._put = value
        for ref in self.spec.refs:
            ref.put(value)


class LiveBinding(RetraceBinding):
    """A float of a stock optimizer, replaced by a live one while bound."""

    def __init__(self, spec: HyperparameterSpec, optimizer: Any, live_values: LiveValues) -> None:
        super().__init__(spec)
        self._optimizer, self._live_values = optimizer, live_values
        self._slots_name = catalog.slots_name(optimizer) if spec.refs[0].attribute == "momentum" else None
        live_values.write(spec.name, self.value)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a trace fixes: whether momentum has velocities."""
        return (self.spec.name,) if self.has_slots else ()

    def write(self, value: float) -> None:
        """Sets the value, from the next step on; a momentum that leaves 0 gets its velocities."""
        self.value = float(value)
        self._live_values.write(self.spec.name, self.value)
        self.make_slots(self.value != 0 or self.has_slots)
        self.show()

    def show(self) -> None:
        """Puts a live float in while bound; a new one for each value, so that configs show the present value."""
        if self._live_values.bound:
            gate = _NOT_ZERO if self.value == 0 and self.has_slots else self.value
            self._spread(self._live_values.live(self.spec.name, gate))
        else:
            super().show()

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
        self._spread(_NOT_ZERO if wanted else 0.0)  # by which Keras decides what to make
        rebuild(self._optimizer, self._optimizer._trainable_variables)
        self.show()
