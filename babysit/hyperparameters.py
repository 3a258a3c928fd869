"""Hyperparameters that can be changed while a compiled model trains.

Separation of concerns: a `Hyperparameter` says what a value is and may be; `Dials` bind
the values into a model's optimizer, so that a compiled step reads them afresh. Who may
turn a dial, and when, is the trainer's business.

Keras keeps only the learning rate in a variable. Every other hyperparameter is a Python
float that tracing bakes into the graph, so a later change is silently ignored. Here such
a float is replaced by a `Live` one, which to Keras is still a float and in the graph is
read from a variable.
"""

import contextlib
import math
import numbers
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.scales import Scale


@dataclass(frozen=True)
class Hyperparameter:
    """A number that can be changed while training runs: its value, and where it may lie."""

    value: float
    scale: Scale

    @property
    def low(self) -> float:
        """The smallest value allowed."""
        return self.scale.low

    @property
    def high(self) -> float:
        """The largest value allowed."""
        return self.scale.high


def checked(name: str, value: Any, scale: Scale, cure: str = "") -> float:
    """Returns `value` as a plain number that `scale` allows.

    Args:
        name: The argument's, for the error.
        value: What was received.
        scale: Bounds, and whether it must be whole.
        cure: What to do about it, for the error.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite, not whole where it must be, or out of bounds.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")
    number = float(value)
    whole = not scale.whole or number.is_integer()
    if not (math.isfinite(number) and whole and scale.low <= number <= scale.high):
        kind = "a whole number" if scale.whole else "a number"
        bounds = f"from {scale.low:g} to {scale.high:g}" if scale.high < _ENDLESS else f"from {scale.low:g} on"
        raise ValueError(
            " ".join(filter(None, (f"`{name}` must be {kind} {bounds}. Received: {name}={value!r}.", cure)))
        )
    return int(number) if scale.whole else number


_ENDLESS = 2**53


def any_whole(low: int = 1) -> Scale:
    """The scale of a count that has no upper bound."""
    return Scale(low, _ENDLESS, whole=True)


class Live(float):
    """A float that Keras treats as a number and a graph reads from a variable.

    As a number (printed, serialized, compared with another) it is the value it was made
    with. As a tensor, or in arithmetic that ends in one, it is what `read` gives at that
    time: a float64 scalar, rounded only where it meets a tensor, as a Python float is.
    Compared with a number it answers as its `gate` would: Keras asks `momentum != 0` to
    decide which variables a step has, and that must not change with the value.
    """

    _read: Callable[[], Any]
    _gate: float

    def __new__(cls, value: float, read: Callable[[], Any], gate: float | None = None) -> "Live":
        """Makes a live float of a present value and the function that reads the coming ones."""
        self = super().__new__(cls, value)
        self._read, self._gate = read, value if gate is None else gate
        return self

    # Keras looks at these to learn how to promote types: as it does a float.
    dtype = property(lambda self: float)
    shape = property(lambda self: ())
    # NumPy's numbers would otherwise answer `number + live` themselves, with a number.
    __array_ufunc__ = None

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return tf.cast(self._read(), dtype or tf.float32, name=name)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, pickled or deep, is a plain number: it has no graph to live in.
        return float, (float(self),)

    def __hash__(self) -> int:
        return hash(float(self))


def _overload(name: str) -> None:
    apply = getattr(operator, name)

    def forward(self: Live, other: Any) -> Any:
        if isinstance(other, Live):
            return Live(apply(float(self), float(other)), lambda: apply(self._read(), other._read()))
        if isinstance(other, numbers.Real):
            return Live(apply(float(self), other), lambda: apply(self._read(), _constant(other)))
        return apply(_like(self, other), other) if _is_floating(other) else NotImplemented

    def reflected(self: Live, other: Any) -> Any:
        if isinstance(other, numbers.Real):
            return Live(apply(other, float(self)), lambda: apply(_constant(other), self._read()))
        return apply(other, _like(self, other)) if _is_floating(other) else NotImplemented

    setattr(Live, f"__{name}__", forward)
    setattr(Live, f"__r{name}__", reflected)


def _is_floating(other: Any) -> bool:
    return isinstance(other, tf.Tensor | tf.Variable | keras.Variable) and tf.as_dtype(other.dtype).is_floating


def _like(live: Live, tensor: Any) -> Any:
    return tf.cast(live._read(), tensor.dtype)


def _overload_unary(name: str) -> None:
    apply = getattr(operator, name)
    setattr(Live, f"__{name}__", lambda self: Live(apply(float(self)), lambda: apply(self._read())))


def _overload_comparison(name: str) -> None:
    apply = getattr(operator, name)
    setattr(Live, f"__{name}__", lambda self, other: apply(self._gate, other))


def _constant(number: Any) -> Any:
    return tf.constant(float(number), tf.float64)


# Every operator of a float: one left out would bake the old value in, silently.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _overload(_name)
for _name in ("neg", "abs"):
    _overload_unary(_name)
setattr(Live, "__pos__", lambda self: self)  # noqa: B010  mypy: a method of float
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _overload_comparison(_name)
setattr(Live, "__bool__", lambda self: bool(self._gate))  # noqa: B010  mypy: a method of float


class _LearningRate:
    """The learning rate, which Keras already keeps in a variable."""

    gate_open = True

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        # The shortest decimal of the float32, so that 0.01 stays 0.01 to a reader.
        self.value = float(str(np.float32(optimizer.learning_rate.numpy())))

    def read(self) -> None:
        present = np.float32(self._optimizer.learning_rate.numpy())
        if present != np.float32(self.value):
            self.value = float(str(present))

    def bind(self) -> None:
        pass

    def release(self) -> None:
        pass

    def write(self, value: float) -> None:
        self.value = value
        self._optimizer.learning_rate = value


class _Attribute:
    """A Python float of the optimizer, made live; with the variables it alone needs, if any.

    Momentum at 0 has no velocities. They are made when it first leaves 0, and taken out
    again when the run ends at 0, as a stock optimizer would have it.
    """

    def __init__(self, optimizer: Any, name: str) -> None:
        self._optimizer, self._name = optimizer, name
        self.value = float(getattr(optimizer, name))
        self._variable = tf.Variable(self.value, dtype=tf.float64, trainable=False)
        self._reading: Any = None
        self._bound = False
        self._slots_name = _SLOTS.get((_family(optimizer), name))
        self._slots: list[Any] = []

    @property
    def gate_open(self) -> bool:
        return self._slots_name is None or bool(getattr(self._optimizer, self._slots_name, ()))

    def read(self) -> None:
        if not self._bound and getattr(self._optimizer, self._name) != self.value:
            self.write(float(getattr(self._optimizer, self._name)))

    def bind(self) -> None:
        self._bound = True
        gate = (self.value or 1.0) if self.gate_open else 0.0
        setattr(self._optimizer, self._name, Live(self.value, self._read, gate))

    def release(self) -> None:
        self._bound = False
        self.set_gate(self.value != 0)
        setattr(self._optimizer, self._name, self.value)

    def write(self, value: float) -> None:
        self.value = value
        self._variable.assign(value)
        if value != 0:
            self.set_gate(True)
        if self._bound:
            self.bind()
        else:
            self.release()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Reads the variable once for a whole trace: it cannot change inside a block."""
        self._reading = self._variable.read_value()
        try:
            yield
        finally:
            self._reading = None

    def _read(self) -> Any:
        return self._variable.read_value() if self._reading is None else self._reading

    def set_gate(self, is_open: bool) -> None:
        """Gives the optimizer the variables that a value other than 0 needs, or takes them away."""
        # Before the optimizer is built there is nothing to do: it will make what it needs.
        if self._slots_name is None or is_open == self.gate_open or not self._optimizer.built:
            return
        if is_open:
            self._open(self._slots_name)
        else:
            self._slots = list(getattr(self._optimizer, self._slots_name))
            for slot in self._slots:
                self._optimizer._tracker.untrack(slot)
            setattr(self._optimizer, self._slots_name, [])

    def _open(self, slots_name: str) -> None:
        optimizer = self._optimizer
        if self._slots:  # closed before: compiled steps know these, so they are used again
            for slot in self._slots:
                optimizer._tracker.add_to_store("variables", slot)
                slot.assign(keras.ops.zeros_like(slot))
        else:
            self._slots = optimizer.add_optimizer_variables(optimizer._trainable_variables, "momentum")
        setattr(optimizer, slots_name, self._slots)
        # Where a stock RMSprop, built with momentum, has them: saved files go by position.
        for later in list(getattr(optimizer, "_average_gradients", [])):
            optimizer._tracker.untrack(later)
            optimizer._tracker.add_to_store("variables", later)


# (optimizer, hyperparameter) -> the attribute with the variables it needs when it is not 0.
_SLOTS = {("SGD", "momentum"): "momentums", ("RMSprop", "momentum"): "_momentums"}

_SCALES = {
    "learning_rate": Scale(1e-6, 1.0, "log"),
    "momentum": Scale(0.0, 0.9999, "log of 1−β"),
    "beta_1": Scale(0.0, 0.9999, "log of 1−β"),
}


def _family(optimizer: Any) -> str:
    stock = (keras.optimizers.SGD, keras.optimizers.RMSprop)
    return next((family.__name__ for family in stock if isinstance(optimizer, family)), "")


class Dials:
    """The live hyperparameters of one built optimizer, by name, in a stable order.

    A learning rate that follows a schedule is not among them: Keras moves it.
    """

    def __init__(self, optimizer: Any) -> None:
        """Finds them; changes nothing until `bind`."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._dials: dict[str, Any] = {}
        if isinstance(optimizer._learning_rate, keras.Variable):
            self._dials["learning_rate"] = _LearningRate(optimizer)
        for name in ("momentum", "beta_1"):
            value = getattr(optimizer, name, None)
            if isinstance(value, float) and value < 1:
                self._dials[name] = _Attribute(optimizer, name)

    @property
    def values(self) -> dict[str, float]:
        """Name -> value, a copy."""
        return {name: dial.value for name, dial in self._dials.items()}

    @property
    def gates(self) -> tuple[str, ...]:
        """Which hyperparameters hold optimizer variables of their own: the step's structure."""
        return tuple(name for name, dial in self._dials.items() if dial.gate_open)

    def read(self) -> None:
        """Takes up what was set on the optimizer itself while its values were plain numbers."""
        for dial in self._dials.values():
            dial.read()

    def bind(self) -> None:
        """Puts the live values in."""
        for dial in self._dials.values():
            dial.bind()

    def release(self) -> None:
        """Puts plain numbers back, as if nothing had been live; unneeded variables go.

        Momentum that ends at 0 keeps no velocities: stock Keras, told of momentum 0, skips
        the whole optimizer state of a file that has them.
        """
        for dial in self._dials.values():
            dial.release()

    def write(self, name: str, value: float) -> None:
        """Sets one hyperparameter, from the next step on."""
        self._dials[name].write(value)

    def restore(self, values: Mapping[str, float], gates: tuple[str, ...]) -> None:
        """Returns to values and structure of another time; what the variables hold is not restored."""
        for name, dial in self._dials.items():
            if isinstance(dial, _Attribute):
                dial.set_gate(name in gates)
            dial.write(values[name])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a trace reads every live value once, at its start."""
        with contextlib.ExitStack() as stack:
            for dial in self._attributes():
                stack.enter_context(dial.held())
            yield

    def _attributes(self) -> list[_Attribute]:
        return [dial for dial in self._dials.values() if isinstance(dial, _Attribute)]


def scales_for(values: Mapping[str, float], ranges: Mapping[str, Any] | None, examples: int) -> dict[str, Scale]:
    """The scale of each hyperparameter: its default, widened to hold its value, or as `ranges` says.

    Args:
        values: Name -> present value; `batch_size` among them.
        ranges: Name -> (low, high), or None.
        examples: How many examples the data has: the largest batch.

    Raises:
        ValueError: If `ranges` names what is not there, or does not hold the present value.
    """
    ranges = dict(ranges or {})
    if unknown := set(ranges) - set(values):
        raise ValueError(
            f"`ranges` may name {', '.join(values)}. Received: {', '.join(sorted(unknown))}. Leave out the others."
        )
    scales = {}
    for name, value in values.items():
        if name == "batch_size" and examples == 1:
            continue  # one example makes one batch: nothing to change
        default = Scale(1, examples, "log", whole=True) if name == "batch_size" else _SCALES[name]
        if name in ranges:
            try:
                low, high = ranges[name]
                scales[name] = Scale(low, high, default.kind, default.whole)
                checked(name, value, scales[name])
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"`ranges[{name!r}]` must be (low, high) around the present value {value:g}. "
                    f"Received: {ranges[name]!r}. {error}"
                ) from None
        else:
            low = min(default.low, value) if value > 0 else default.low
            scales[name] = Scale(low, max(default.high, value), default.kind, default.whole)
    return scales
