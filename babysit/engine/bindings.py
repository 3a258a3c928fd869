"""The bindings of a model: every hyperparameter that can be changed while it trains, by name.

Bound, a compiled step reads them afresh; released, the model holds plain numbers as if
nothing had been live. Who may change one, and when, is the trainer's business.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from babysit.core.scale import Scale
from babysit.engine import catalog
from babysit.engine.catalog import Substitute
from babysit.engine.floats import FloatBinding, MomentumSlots
from babysit.engine.live import LiveValues
from babysit.engine.rates import OVERRIDDEN, ScheduleBinding, VariableBinding


class HyperparameterBindings:
    """The live hyperparameters of one compiled model, by name, in a stable order.

    Args:
        model: A compiled Keras model, built or not; changed only while bound.
        optimizers: Prefix of the names -> the optimizer that a step applies.
    """

    def __init__(self, model: Any, optimizers: Mapping[str, Any]) -> None:
        self._model, self._optimizers = model, optimizers
        self._live_values = LiveValues()
        self._slots: dict[int, MomentumSlots] = {}
        self._schedules: dict[str, list[Any]] = {}
        self._bindings: dict[str, Any] = {}
        self._substitutes: list[Substitute] = []
        self._bound = False
        self.read()

    # ---------------------------------------------------------------------- what they are

    @property
    def values(self) -> dict[str, float]:
        """Name -> present value, a copy."""
        return {name: binding.value for name, binding in self._bindings.items()}

    @property
    def scales(self) -> dict[str, Scale]:
        """Name -> the scale on which it is chosen by default."""
        return {name: binding.scale for name, binding in self._bindings.items()}

    @property
    def structure(self) -> tuple[str, ...]:
        """What a compiled step depends on: another structure needs another trace.

        Open gates by name, the kinds of schedules, the values that could not be made live.
        """
        return tuple(part for binding in self._bindings.values() for part in binding.structure)

    @property
    def bound(self) -> bool:
        """Whether the live values are in."""
        return self._bound

    @property
    def graph(self) -> tuple[str, ...]:
        """The part of the structure that a trace fixes: whether a hand has a scheduled rate is read in the graph."""
        return tuple(part.removesuffix(OVERRIDDEN) for part in self.structure)

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names that have a schedule: `"schedule"` may be written to them."""
        return tuple(name for name, binding in self._bindings.items() if isinstance(binding, ScheduleBinding))

    @property
    def rates(self) -> dict[str, Any]:
        """Learning rate -> Keras's schedule that it follows unless a hand has overridden it, or None."""
        return {
            name: getattr(binding, "schedule", None)
            for name, binding in self._bindings.items()
            if not isinstance(binding, FloatBinding)
        }

    @property
    def following(self) -> tuple[str, ...]:
        """The names that follow their schedule now."""
        return tuple(name for name in self.schedules if not self._bindings[name].overridden)

    def scheduled_rates(self) -> dict[str, Any]:
        """Name -> scalar float32 tensor of what has a schedule, as the step being traced will use it.

        Called inside the step, before the update.
        """
        return {name: self._bindings[name].scheduled_rates() for name in self.schedules}

    # ------------------------------------------------------------------- bound and released

    def read(self) -> None:
        """Takes up what was set on the optimizers, the loss and the layers while they held plain numbers."""
        if self._bound:
            return
        in_layers, self._substitutes = catalog.layer_specs(self._model)
        specs = [*catalog.loss_specs(self._model), *in_layers]
        found: list[Any] = []
        for prefix, optimizer in catalog.optimizers_in(self._optimizers).items():
            found += [self._learning_rate(prefix, optimizer)] if _has_learning_rate(optimizer) else []
            slots = self._slots.setdefault(id(optimizer), MomentumSlots(optimizer))
            found += [FloatBinding(p, self._live_values, slots) for p in catalog.optimizer_specs(prefix, optimizer)]
        found += [FloatBinding(spec, self._live_values) for spec in specs]
        self._bindings = {binding.name: binding for binding in found}

    def bind(self) -> None:
        """Puts the live values in; an optimizer may be built later, inside the trace."""
        self._bound = True
        for substitute in self._substitutes:
            substitute.bind()
        for binding in self._bindings.values():
            binding.bind()

    def release(self) -> None:
        """Puts plain numbers back, as if nothing had been live; unneeded variables go.

        Momentum that ends at 0 keeps no velocities: stock Keras, told of momentum 0, skips
        the whole optimizer state of a file that has them.
        """
        self._bound = False
        for binding in self._bindings.values():
            binding.release()
        for substitute in self._substitutes:
            substitute.release()

    @contextlib.contextmanager
    def reading_once(self) -> Iterator[None]:
        """Inside, a graph that is traced reads every live value once."""
        with self._live_values.reading_once():
            yield

    # ---------------------------------------------------------------------------- turning

    def write(self, name: str, value: Any) -> None:
        """Sets one hyperparameter, from the next step on.

        Args:
            name: One of `values`.
            value: A number; or `"schedule"`, for one of `schedules`: it follows again.
        """
        self._bindings[name].write(value)

    def adopt_external_changes(self) -> dict[str, tuple[float, float]]:
        """Finds what somebody else, such as a callback, changed while bound, and keeps it.

        Returns:
            Name -> (old, new), for those that were changed.
        """
        found: dict[str, tuple[float, float]] = {}
        for prefix, optimizer in catalog.optimizers_in(self._optimizers).items():
            name = catalog.learning_rate_spec(prefix, optimizer).name
            if name in self._bindings and not self._bindings[name].stands:
                old, self._bindings[name] = self._bindings[name].value, self._learning_rate(prefix, optimizer)
                self._bindings[name].bind()
                found[name] = old, self._bindings[name].value
        for name, binding in self._bindings.items():
            if (change := binding.adopt_external_changes()) is not None:
                found[name] = change
        return found

    def restore(self, values: Mapping[str, float], structure: tuple[str, ...]) -> None:
        """Returns to values and structure of another time; what the variables hold is not restored."""
        for name, binding in self._bindings.items():
            if name in values:
                binding.restore(values[name], structure)

    def rescale_velocities(self, prefix_or_name: str, factor: float) -> None:
        """Multiplies the velocities that have absorbed the learning rate by `factor`.

        Momentum correction, Goyal et al. 2017, section 3, remark 2: `factor` is the new
        learning rate over the old. Nothing happens where velocities are of gradients alone,
        as Adam's are.

        Args:
            prefix_or_name: An optimizer's prefix, or the name of one of its hyperparameters.
            factor: What to multiply by.
        """
        prefix = prefix_or_name.rpartition(".")[0] if prefix_or_name in self._bindings else prefix_or_name
        optimizer = catalog.optimizers_in(self._optimizers)[prefix]
        if catalog.absorbs_learning_rate(optimizer):
            for velocity in self._slots[id(optimizer)].variables:
                velocity.assign(velocity * factor)

    def _learning_rate(self, prefix: str, optimizer: Any) -> Any:
        spec, schedule = catalog.learning_rate_spec(prefix, optimizer), optimizer._learning_rate
        if isinstance(schedule, keras.Variable):
            return VariableBinding(spec, optimizer)
        known = self._bindings.get(spec.name)
        if isinstance(known, ScheduleBinding) and known.stands:
            return known
        seen = self._schedules.setdefault(spec.name, [])
        seen.append(schedule)  # kept: a block may be compiled for it
        return ScheduleBinding(spec, optimizer, self._live_values, len(seen))


def _has_learning_rate(optimizer: Any) -> bool:
    return isinstance(optimizer._learning_rate, keras.Variable | keras.optimizers.schedules.LearningRateSchedule)
