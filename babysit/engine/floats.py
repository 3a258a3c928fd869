"""A float of Keras's made live: put in, written down plainly, taken out; and what it needs."""

import functools
import numbers
from typing import Any

import keras

from babysit.engine import catalog
from babysit.engine.catalog import HyperparameterSpec, plain
from babysit.engine.live import Live, LiveValues

# What Keras is told of momentum at 0 whose velocities are there.
_AT_REST = 0.5


class FloatBinding:
    """A Python float of Keras's, made live where it can be; otherwise each value is a step of its own."""

    def __init__(self, spec: HyperparameterSpec, live_values: LiveValues, slots: "MomentumSlots | None" = None) -> None:
        self.name, self.scale = spec.name, spec.scale
        self._place, self._live_values = spec, live_values
        attribute = spec.spots[0].attribute
        self._slots = slots if slots is not None and slots.name and attribute == "momentum" else None
        self._found = spec.spots[0].get()
        self._put: Any = None  # what the spots hold while bound
        self._live_values.write(self.name, plain(self._found))

    @property
    def value(self) -> float:
        """The present number."""
        return self._live_values.numbers[self.name]

    @property
    def structure(self) -> tuple[str, ...]:
        """What a compiled step depends on."""
        if self._slots is not None or self._place.gate in ("zero", "rate"):
            is_one = self._place.gate == "rate" and self.value >= 1
            gate = (f"{self.name}=1" if is_one else self.name,) if self._gate else ()
        else:
            gate = ()
        return (f"{self.name}={self.value!r}", *gate) if self._place.gate == "baked" else gate

    @property
    def _gate(self) -> float:
        """What Keras is told when it asks whether this is 0."""
        if self._slots is None:
            return self.value
        return (self.value or _AT_REST) if self._slots.are_open(self.value) else 0.0

    def bind(self) -> None:
        """Puts the live value in."""
        baked = self._place.gate == "baked"
        self._put = self.value if baked else self._live_values.live(self.name, self._gate)
        self._spread(self._put)
        for owner in () if baked else self._owners:
            serialize_plainly(owner, plain_numbers)
        for layer in self._owners:
            if type(layer) is keras.layers.GaussianDropout:
                vars(layer)["call"] = functools.partial(_gaussian_dropout, layer)

    def release(self) -> None:
        """Puts a plain one back."""
        self._put = None
        if self._slots is not None:
            self._slots.set_open(self.value != 0)
        for owner in self._owners:
            serialize_as_stock(owner)
            if type(owner) is keras.layers.GaussianDropout:
                vars(owner).pop("call", None)
        if keras.ops.is_tensor(self._found):
            self._spread(keras.ops.convert_to_tensor(self.value))
        else:
            self._spread(self._found if self._found == self.value else self.value)

    def write(self, value: float) -> None:
        """Sets it, from the next step on."""
        self._live_values.write(self.name, float(value))
        if self._slots is not None and value != 0:
            self._slots.set_open(True)
        if self._put is None:
            self.release()
        else:
            self.bind()

    def restore(self, value: float, structure: tuple[str, ...]) -> None:
        """Returns to a value and a structure of another time."""
        if self._slots is not None:
            self._slots.set_open(self.name in structure)
        self.write(value)

    def adopt_external_changes(self) -> tuple[float, float] | None:
        """Finds what somebody else set while bound; returns (old, new), or None."""
        if self._put is None:
            return None
        found = next((one for one in self._held if one is not self._put), self._put)
        if found is self._put:
            return None
        old = self.value
        self.write(plain(found) if isinstance(found, numbers.Real) or keras.ops.is_tensor(found) else old)
        return None if self.value == old else (old, self.value)

    @property
    def _held(self) -> list[Any]:
        return [spot.get() for spot in self._place.spots]

    @property
    def _owners(self) -> list[Any]:
        return [*(spot.owner for spot in self._place.spots if not isinstance(spot.owner, dict)), *self._place.shown]

    def _spread(self, value: Any) -> None:
        for spot in self._place.spots:
            spot.put(value)


def _gaussian_dropout(layer: Any, inputs: Any, training: bool = False) -> Any:
    """`GaussianDropout.call`, whose `math.sqrt` would make a plain number of the rate."""
    if not training or not layer.rate > 0:
        return inputs
    deviation = (layer.rate / (1.0 - layer.rate)).sqrt()
    return inputs * keras.random.normal(
        keras.ops.shape(inputs), mean=1.0, stddev=deviation, dtype=layer.compute_dtype, seed=layer.seed_generator
    )


def plain_numbers(config: dict[str, Any]) -> dict[str, Any]:
    """A config without live floats."""
    return {name: float(value) if isinstance(value, Live) else value for name, value in config.items()}


def serialize_plainly(owner: Any, change: Any) -> None:
    """Lets an object's `get_config` tell plain numbers, so that nothing made from it is live."""
    told = vars(owner).get("get_config")
    changes = told.args[1] if isinstance(told, functools.partial) else ()
    if change not in changes:
        vars(owner)["get_config"] = functools.partial(_told, owner, (*changes, change))


def _told(owner: Any, changes: tuple[Any, ...]) -> dict[str, Any]:
    return functools.reduce(lambda config, change: change(config), changes, type(owner).get_config(owner))


def serialize_as_stock(owner: Any) -> None:
    """Lets it tell what its class tells again."""
    vars(owner).pop("get_config", None)


class MomentumSlots:
    """The velocities that an optimizer has only where momentum is not 0.

    They are made when it first leaves 0, stay at rest while it is live, and are taken out
    when the run ends at 0, as a stock optimizer would have it.
    """

    def __init__(self, optimizer: Any) -> None:
        self.name = catalog.slots_name(optimizer)
        self._optimizer = optimizer
        self._closed: list[Any] = []

    @property
    def variables(self) -> list[Any]:
        """Those in use."""
        return [slot for slot in getattr(self._optimizer, self.name or "", ()) if slot is not None]

    def are_open(self, value: float) -> bool:
        """Whether they are there, or will be, with this value, once the optimizer is built."""
        return bool(self.variables) if self._optimizer.built else value != 0

    def set_open(self, is_open: bool) -> None:
        """Gives the optimizer its velocities, or takes them away."""
        # Before the optimizer is built there is nothing to do: it will make what it needs.
        if not self._optimizer.built or self.name is None or is_open == bool(self.variables):
            return
        if is_open:
            self._open(self.name)
            return
        self._closed = list(getattr(self._optimizer, self.name))
        for slot in self._closed:
            if slot is not None:
                self._optimizer._tracker.untrack(slot)
        setattr(self._optimizer, self.name, [])

    def _open(self, name: str) -> None:
        optimizer = self._optimizer
        if self._closed:  # compiled steps know these, so they are used again
            slots = self._closed
            for slot in self.variables_of(slots):
                optimizer._tracker.add_to_store("variables", slot)
                slot.assign(keras.ops.zeros_like(slot))
        else:
            slots = optimizer.add_optimizer_variables(optimizer._trainable_variables, "momentum")
        setattr(optimizer, name, slots)
        # Where a stock RMSprop, built with momentum, has them: saved files go by position.
        for later in self.variables_of(getattr(optimizer, "_average_gradients", [])):
            optimizer._tracker.untrack(later)
            optimizer._tracker.add_to_store("variables", later)

    @staticmethod
    def variables_of(slots: list[Any]) -> list[Any]:
        """Without the specs of variables that have none."""
        return [slot for slot in slots if slot is not None]
