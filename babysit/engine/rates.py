"""The learning rate as a binding: a variable of Keras's, or a schedule that a hand may take over."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.catalog import HyperparameterSpec, plain
from babysit.engine.floats import plain_numbers, serialize_as_stock, serialize_plainly
from babysit.engine.live import LiveValues

# What the structure of a scheduled rate ends in while a hand has it.
OVERRIDDEN = ", overridden"


class VariableBinding:
    """A learning rate that Keras itself keeps in a variable."""

    structure: tuple[str, ...] = ()

    def __init__(self, spec: HyperparameterSpec, optimizer: Any) -> None:
        self.name, self.scale = spec.name, spec.scale
        self._optimizer, self._variable = optimizer, optimizer._learning_rate
        self.value = self._present

    @property
    def _present(self) -> float:
        # The shortest decimal of the float32, so that 0.01 stays 0.01 to a reader.
        return plain(self._variable.numpy())

    @property
    def stands(self) -> bool:
        """Whether the optimizer still has it, and no schedule instead."""
        return self._optimizer._learning_rate is self._variable

    def bind(self) -> None:
        """Puts the live value in."""

    def release(self) -> None:
        """Puts a plain one back."""

    def write(self, value: float) -> None:
        """Sets it, from the next step on."""
        self.value = value
        self._variable.assign(value)

    def restore(self, value: float, structure: tuple[str, ...]) -> None:
        """Returns to a value and a structure of another time."""
        self.write(value)

    def adopt_external_changes(self) -> tuple[float, float] | None:
        """Finds what somebody else set while bound; returns (old, new), or None."""
        old, present = self.value, self._present
        if np.float32(present) == np.float32(old) or present != present:
            return None
        self.value = present
        return old, present


class ScheduleBinding:
    """A learning rate that follows a schedule until a hand takes it, and again when it is given back."""

    def __init__(self, spec: HyperparameterSpec, optimizer: Any, live_values: LiveValues, number: int) -> None:
        self.name, self.scale = spec.name, spec.scale
        self._optimizer, self._live_values, self._kind = optimizer, live_values, f"{spec.name} scheduled {number}"
        self._schedule = self._shown = optimizer._learning_rate
        self._switch = f"{self._kind}{OVERRIDDEN}"
        self._steered = _Steered(self, live_values)
        self._take(None)

    @property
    def schedule(self) -> Any:
        """The user's own, as it was compiled."""
        return self._schedule

    @property
    def overridden(self) -> bool:
        """Whether a hand has it."""
        return bool(self._live_values.numbers[self._switch])

    @property
    def value(self) -> float:
        """The present number."""
        if self.overridden:
            return self._live_values.numbers[self._kind]
        return plain(np.float32(self._schedule(self._optimizer._iterations)))

    @property
    def structure(self) -> tuple[str, ...]:
        """What a compiled step depends on."""
        return (self._switch,) if self.overridden else (self._kind,)

    @property
    def stands(self) -> bool:
        """Whether the optimizer still has what was put there."""
        return self._optimizer._learning_rate is self._shown

    def scheduled_rates(self) -> Any:
        """What is in effect, in the step being traced."""
        return tf.cast(self._steered(self._optimizer._iterations), tf.float32)

    def decide(self, scheduled: Any) -> Any:
        """What a step uses: the hand's value or the schedule's."""
        numbers, kind, switch = self._live_values.numbers, self._kind, self._switch
        overridden = self._live_values.tensor(switch, lambda: numbers[switch], tf.bool)
        value = self._live_values.tensor(kind, lambda: numbers[kind], scheduled.dtype)
        return tf.where(overridden, value, scheduled)

    def bind(self) -> None:
        """Puts the live value in."""
        self._show(self._steered)
        serialize_plainly(self._optimizer, self._in_config)

    def release(self) -> None:
        """Puts a plain one back."""
        serialize_as_stock(self._optimizer)
        self._show(self._plain)

    def write(self, value: Any) -> None:
        """Sets it, from the next step on."""
        self._take(None if value == "schedule" else float(value))
        if self._shown is not self._steered:
            self.release()

    def restore(self, value: float, structure: tuple[str, ...]) -> None:
        """Returns to a value and a structure of another time."""
        self.write(value if self._switch in structure else "schedule")

    def adopt_external_changes(self) -> None:
        """Finds what somebody else set while bound; returns (old, new), or None."""
        return None  # Keras lets nobody set a number over a schedule

    def _take(self, value: float | None) -> None:
        self._live_values.write(self._kind, 0.0 if value is None else value)
        self._live_values.write(self._switch, float(value is not None))

    def _show(self, schedule: Any) -> None:
        self._shown = self._optimizer._learning_rate = schedule

    @property
    def _plain(self) -> Any:
        """A stock schedule that does what is in effect now."""
        if not self.overridden:
            return self._schedule
        return keras.optimizers.schedules.PiecewiseConstantDecay([0], [self.value, self.value])

    def _in_config(self, config: dict[str, Any]) -> dict[str, Any]:
        return plain_numbers(config) | {"learning_rate": keras.optimizers.schedules.serialize(self._plain)}


class _Steered(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras is untyped
    """The schedule of a user, with a switch in the graph that lets a hand's value pass instead."""

    def __init__(self, binding: ScheduleBinding, live_values: LiveValues) -> None:
        self._binding, self._schedule = binding, binding._schedule

    def __call__(self, step: Any) -> Any:
        return self._binding.decide(tf.convert_to_tensor(self._schedule(step)))

    def __getattr__(self, name: str) -> Any:
        if name in ("_binding", "_schedule"):  # half made, as by a copy
            raise AttributeError(name)
        return getattr(self._schedule, name)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = self._binding._plain
        return type(plain).from_config, (plain.get_config(),)

    def get_config(self) -> dict[str, Any]:
        """Nothing: the optimizer's config tells the schedule it stands for."""
        return {}
