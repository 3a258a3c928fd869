"""The dials of a model: every hyperparameter that can be turned while it trains, by name.

Bound, a compiled step reads them afresh; released, the model holds plain numbers as if
nothing had been live. Who may turn a dial, and when, is the trainer's business.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from babysit.core.scale import Scale
from babysit.engine import catalog as anatomy
from babysit.engine.catalog import Substitute
from babysit.engine.floats import Number, Slots
from babysit.engine.live import Readings
from babysit.engine.rates import TAKEN, ScheduledRate, VariableRate


class Dials:
    """The live hyperparameters of one compiled model, by name, in a stable order.

    Args:
        model: A compiled Keras model, built or not; changed only while bound.
        optimizers: Prefix of the names -> the optimizer that a step applies.
    """

    def __init__(self, model: Any, optimizers: Mapping[str, Any]) -> None:
        self._model, self._optimizers = model, optimizers
        self._readings = Readings()
        self._slots: dict[int, Slots] = {}
        self._schedules: dict[str, list[Any]] = {}
        self._dials: dict[str, Any] = {}
        self._substitutes: list[Substitute] = []
        self._bound = False
        self.read()

    # ---------------------------------------------------------------------- what they are

    @property
    def values(self) -> dict[str, float]:
        """Name -> present value, a copy."""
        return {name: dial.value for name, dial in self._dials.items()}

    @property
    def scales(self) -> dict[str, Scale]:
        """Name -> the scale on which it is chosen by default."""
        return {name: dial.scale for name, dial in self._dials.items()}

    @property
    def structure(self) -> tuple[str, ...]:
        """What a compiled step depends on: another structure needs another trace.

        Open gates by name, the kinds of schedules, the values that could not be made live.
        """
        return tuple(part for dial in self._dials.values() for part in dial.structure)

    @property
    def bound(self) -> bool:
        """Whether the live values are in."""
        return self._bound

    @property
    def graph(self) -> tuple[str, ...]:
        """The part of the structure that a trace fixes: whether a hand has a scheduled rate is read in the graph."""
        return tuple(part.removesuffix(TAKEN) for part in self.structure)

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names that have a schedule: `"schedule"` may be written to them."""
        return tuple(name for name, dial in self._dials.items() if isinstance(dial, ScheduledRate))

    @property
    def rates(self) -> dict[str, Any]:
        """Learning rate -> Keras's schedule that it follows unless a hand has taken it, or None."""
        return {
            name: getattr(dial, "schedule", None) for name, dial in self._dials.items() if not isinstance(dial, Number)
        }

    @property
    def following(self) -> tuple[str, ...]:
        """The names that follow their schedule now."""
        return tuple(name for name in self.schedules if not self._dials[name].taken)

    def measured(self) -> dict[str, Any]:
        """Name -> scalar float32 tensor of what has a schedule, as the step being traced will use it.

        Called inside the step, before the update.
        """
        return {name: self._dials[name].measured() for name in self.schedules}

    # ------------------------------------------------------------------- bound and released

    def read(self) -> None:
        """Takes up what was set on the optimizers, the loss and the layers while they held plain numbers."""
        if self._bound:
            return
        found, self._substitutes = anatomy.layer_places(self._model)
        places = [*anatomy.loss_places(self._model), *found]
        dials: list[Any] = []
        for prefix, optimizer in anatomy.optimizers_in(self._optimizers).items():
            dials += [self._learning_rate(prefix, optimizer)] if _has_learning_rate(optimizer) else []
            slots = self._slots.setdefault(id(optimizer), Slots(optimizer))
            dials += [Number(p, self._readings, slots) for p in anatomy.optimizer_places(prefix, optimizer)]
        dials += [Number(place, self._readings) for place in places]
        self._dials = {dial.name: dial for dial in dials}

    def bind(self) -> None:
        """Puts the live values in; an optimizer may be built later, inside the trace."""
        self._bound = True
        for substitute in self._substitutes:
            substitute.bind()
        for dial in self._dials.values():
            dial.bind()

    def release(self) -> None:
        """Puts plain numbers back, as if nothing had been live; unneeded variables go.

        Momentum that ends at 0 keeps no velocities: stock Keras, told of momentum 0, skips
        the whole optimizer state of a file that has them.
        """
        self._bound = False
        for dial in self._dials.values():
            dial.release()
        for substitute in self._substitutes:
            substitute.release()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a graph that is traced reads every live value once."""
        with self._readings.held():
            yield

    # ---------------------------------------------------------------------------- turning

    def write(self, name: str, value: Any) -> None:
        """Sets one hyperparameter, from the next step on.

        Args:
            name: One of `values`.
            value: A number; or `"schedule"`, for one of `schedules`: it follows again.
        """
        self._dials[name].write(value)

    def taken_up(self) -> dict[str, tuple[float, float]]:
        """Finds what somebody else, such as a callback, changed while bound, and keeps it.

        Returns:
            Name -> (old, new), for those that were changed.
        """
        found: dict[str, tuple[float, float]] = {}
        for prefix, optimizer in anatomy.optimizers_in(self._optimizers).items():
            name = anatomy.learning_rate_place(prefix, optimizer).name
            if name in self._dials and not self._dials[name].stands:
                old, self._dials[name] = self._dials[name].value, self._learning_rate(prefix, optimizer)
                self._dials[name].bind()
                found[name] = old, self._dials[name].value
        for name, dial in self._dials.items():
            if (change := dial.taken_up()) is not None:
                found[name] = change
        return found

    def restore(self, values: Mapping[str, float], structure: tuple[str, ...]) -> None:
        """Returns to values and structure of another time; what the variables hold is not restored."""
        for name, dial in self._dials.items():
            if name in values:
                dial.restore(values[name], structure)

    def rescale_velocities(self, prefix_or_name: str, factor: float) -> None:
        """Multiplies the velocities that have absorbed the learning rate by `factor`.

        Momentum correction, Goyal et al. 2017, section 3, remark 2: `factor` is the new
        learning rate over the old. Nothing happens where velocities are of gradients alone,
        as Adam's are.

        Args:
            prefix_or_name: An optimizer's prefix, or the name of one of its hyperparameters.
            factor: What to multiply by.
        """
        prefix = prefix_or_name.rpartition(".")[0] if prefix_or_name in self._dials else prefix_or_name
        optimizer = anatomy.optimizers_in(self._optimizers)[prefix]
        if anatomy.absorbs_learning_rate(optimizer):
            for velocity in self._slots[id(optimizer)].variables:
                velocity.assign(velocity * factor)

    def _learning_rate(self, prefix: str, optimizer: Any) -> Any:
        place, schedule = anatomy.learning_rate_place(prefix, optimizer), optimizer._learning_rate
        if isinstance(schedule, keras.Variable):
            return VariableRate(place, optimizer)
        known = self._dials.get(place.name)
        if isinstance(known, ScheduledRate) and known.stands:
            return known
        seen = self._schedules.setdefault(place.name, [])
        seen.append(schedule)  # kept: a block may be compiled for it
        return ScheduledRate(place, optimizer, self._readings, len(seen))


def _has_learning_rate(optimizer: Any) -> bool:
    return isinstance(optimizer._learning_rate, keras.Variable | keras.optimizers.schedules.LearningRateSchedule)
