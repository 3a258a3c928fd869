"""A float that a compiled graph reads afresh.

Keras keeps most hyperparameters as Python floats, which tracing bakes into the graph, so a
later change is silently ignored. A `Live` float is still a float to Keras, and in a graph
it is read from a variable that `LiveValues` keep.

Arithmetic of live floats with numbers is done in Python, as it would be with floats, and
only its result goes to the graph, in the type it is needed in: `1 - beta` has a variable
of its own. So the bits are those of a plain float, and a step costs one reading for each
expression in place of a constant.
"""

import contextlib
import math
import numbers
import operator
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.internals import ResourceVariable


class LiveValues:
    """The present numbers of live floats, by name, and the variables that graphs read them from.

    Attributes:
        numbers: Name -> number.
        bound: Whether live floats are in the model.
    """

    def __init__(self) -> None:
        self.bound = False
        self.numbers: dict[str, float] = {}
        self._variables: dict[tuple[Hashable, Any], tuple[Any, Callable[[], Any]]] = {}
        self._held: dict[tuple[Any, Hashable, Any], Any] | None = None

    def write(self, name: str, number: float) -> None:
        """Changes a number; what is compiled reads it from the next step on."""
        self.numbers[name] = number
        for (_, dtype), (variable, now) in self._variables.items():
            variable.assign(_rounded(now, dtype))

    @property
    def variables(self) -> list[Any]:
        """The variables that graphs read from."""
        return [variable for variable, _ in self._variables.values()]

    def live(self, name: str, gate: float | None = None) -> "Live":
        """A live float of the number called `name`; see `Live` for its gate."""
        return Live(self, name, lambda: self.numbers[name], gate)

    def tensor(self, key: Hashable, now: Callable[[], Any], dtype: Any) -> Any:
        """The scalar tensor of what `now` computes, in the present graph or in none.

        Args:
            key: What `now` computes: the same key, the same variable.
            now: Computes the number from the present ones.
            dtype: The tensor's type.
        """
        if tf.executing_eagerly():
            return tf.constant(_rounded(now, dtype))
        if (key, dtype) not in self._variables:
            # Not by `tf.Variable`: a `tf.function` that sees one made is traced a second time.
            with tf.init_scope():
                self._variables[key, dtype] = ResourceVariable(_rounded(now, dtype), trainable=False, dtype=dtype), now
        variable, _ = self._variables[key, dtype]
        held = {} if self._held is None else self._held
        place = (tf.compat.v1.get_default_graph(), key, dtype)
        if place not in held:
            held[place] = variable.read_value()
        return held[place]

    @contextlib.contextmanager
    def reading_once(self) -> Iterator[None]:
        """While it is open, a graph that is traced reads each number once, not at every use."""
        before, self._held = self._held, {}
        try:
            yield
        finally:
            self._held = before


def _rounded(now: Callable[[], Any], dtype: Any) -> np.ndarray:
    """The number as a graph's constant would hold it; where it has none, NaN."""
    with np.errstate(all="ignore"):
        return np.asarray(_number(now), dtype.as_numpy_dtype)


def _number(now: Callable[[], Any]) -> float:
    try:
        return float(now())
    except (ArithmeticError, TypeError):  # 1 / 0, or the root of a negative number
        return math.nan


class Live(float):
    """A float that Keras treats as a number and a graph reads from a variable.

    As a number (printed, serialized) it is the value it was made with. As a tensor, or in
    arithmetic that ends in one, it is the present number at that time. Compared with a
    number it answers as its `gate` would: Keras asks `momentum != 0` to decide which
    variables a step has, and that must not change with the value.
    """

    _live_values: LiveValues
    _key: Hashable
    _now: Callable[[], Any]
    _gate: float

    def __new__(
        cls, live_values: LiveValues, key: Hashable, now: Callable[[], Any], gate: float | None = None
    ) -> "Live":
        """Makes a live float of what `now` computes; equal keys compute the same."""
        self = super().__new__(cls, _number(now))
        self._live_values, self._key, self._now = live_values, key, now
        self._gate = float(self) if gate is None else gate
        return self

    # Keras looks at these to learn how to promote types: as it does a float.
    dtype = property(lambda self: float)
    shape = property(lambda self: ())
    # NumPy's numbers would otherwise answer `number + live` themselves, with a number.
    __array_ufunc__ = None

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return self._live_values.tensor(self._key, self._now, tf.as_dtype(dtype or tf.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, pickled or deep, is a plain number: it has no graph to live in.
        return float, (float(self),)

    def __hash__(self) -> int:
        return hash(float(self))


def _derived(name: str, apply: Callable[..., Any], *operands: Any) -> Live:
    """The live result of an operation on numbers, at least one of them live."""
    live_values = next(operand._live_values for operand in operands if isinstance(operand, Live))
    key = (name, *(operand._key if isinstance(operand, Live) else float(operand) for operand in operands))
    gate = _number(lambda: apply(*(operand._gate if isinstance(operand, Live) else operand for operand in operands)))
    return Live(live_values, key, lambda: apply(*map(_present, operands)), gate)


def _present(operand: Any) -> Any:
    return operand._now() if isinstance(operand, Live) else operand


def _overload(name: str) -> None:
    apply = getattr(operator, name)

    def forward(self: Live, other: Any) -> Any:
        if isinstance(other, numbers.Real):
            return _derived(name, apply, self, other)
        return apply(_like(self, other), other) if _is_floating(other) else NotImplemented

    def reflected(self: Live, other: Any) -> Any:
        if isinstance(other, numbers.Real):
            return _derived(name, apply, other, self)
        return apply(other, _like(self, other)) if _is_floating(other) else NotImplemented

    setattr(Live, f"__{name}__", forward)
    setattr(Live, f"__r{name}__", reflected)


def _is_floating(other: Any) -> bool:
    return isinstance(other, tf.Tensor | tf.Variable | keras.Variable) and tf.as_dtype(other.dtype).is_floating


def _like(live: Live, tensor: Any) -> Any:
    return live.__tf_tensor__(tensor.dtype)


def _overload_unary(name: str) -> None:
    apply = getattr(operator, name)
    setattr(Live, f"__{name}__", lambda self: _derived(name, apply, self))


def _overload_comparison(name: str) -> None:
    apply = getattr(operator, name)

    def compare(self: Live, other: Any) -> Any:
        return apply(_like(self, other), other) if _is_floating(other) else apply(self._gate, other)

    setattr(Live, f"__{name}__", compare)


# Every operator of a float: one left out would bake the old value in, silently.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _overload(_name)
for _name in ("neg", "abs"):
    _overload_unary(_name)
setattr(Live, "__pos__", lambda self: self)  # noqa: B010  mypy: a method of float
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _overload_comparison(_name)
setattr(Live, "__bool__", lambda self: bool(self._gate))  # noqa: B010  mypy: a method of float
