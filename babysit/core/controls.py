"""Controls: everything of a training that can be set, as values that are functions of the step.

`apply` is the only place that says what an event does to a training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from babysit.core.events import Branch, Compiled, EpochEnd, Event, Fit, Set
from babysit.core.hyperparameter import Hyperparameter, any_whole, checked
from babysit.core.position import FitSpec, Position
from babysit.core.scale import Scale

SCALINGS = ("off", "linear", "square root")
SCHEDULE = "schedule"  # the value of a learning rate that follows a schedule of Keras's


@dataclass(frozen=True)
class Ramp:
    """A change that takes steps to arrive, or has yet to begin: even on its scale from `start` to `end`."""

    begun: int
    steps: int
    start: float
    end: float
    scale: Scale

    def at(self, step: int) -> float:
        """The value in effect for the step taken when `step` steps are done."""
        done = step + 1 - self.begun
        if done <= 0:
            return self.start
        if done >= self.steps:
            return self.end
        first, last = self.scale.position(self.start), self.scale.position(self.end)
        value = self.scale.at(first + (last - first) * done / self.steps)
        return int(value) if self.scale.whole else float(value)

    def steady_for(self, step: int) -> float:
        """Steps, from `step` done on, for which the value stays as it is then."""
        if step < self.begun:
            return self.begun - step
        return 1 if step + 1 - self.begun < self.steps else math.inf


@dataclass(frozen=True)
class Controls:
    """What steers a training.

    Attributes:
        values: Hyperparameter -> value, the last one of a ramp; in a stable order.
        scales: Those that can be set -> bounds.
        ramps: Hyperparameter -> how its value is reached, where that takes steps or has yet to begin.
        scaling: Coupling of the learning rate to the batch size.
        fit: What the present fit was given.
        since: Hyperparameter -> steps done when its value began to act.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    ramps: Mapping[str, Ramp] = field(default_factory=dict)
    scaling: str = SCALINGS[0]
    fit: FitSpec | None = None
    since: Mapping[str, int] = field(default_factory=dict)

    def at(self, step: int) -> dict[str, Any]:
        """Name -> value that acts in the step taken when `step` steps are done."""
        return {**self.values, **{name: ramp.at(step) for name, ramp in self.ramps.items()}}

    def steady_for(self, step: int) -> float:
        """Steps, from `step` done on, for which all values stay."""
        return min((ramp.steady_for(step) for ramp in self.ramps.values()), default=math.inf)

    def hyperparameters(self, step: int, followed: Mapping[str, float]) -> dict[str, Hyperparameter]:
        """Name -> value and bounds of what can be set.

        Args:
            step: Steps done.
            followed: Learning rate -> number that its schedule gives.
        """
        values = self.at(step) | dict(followed)
        return {name: Hyperparameter(values[name], scale) for name, scale in self.scales.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Controls":
        """The controls that `dataclasses.asdict` made plain."""
        ramps = {name: Ramp(**{**ramp, "scale": Scale(**ramp["scale"])}) for name, ramp in plain["ramps"].items()}
        scales = {name: Scale(**scale) for name, scale in plain["scales"].items()}
        fit = FitSpec(**plain["fit"]) if plain["fit"] else None
        return cls(**{**plain, "ramps": ramps, "scales": scales, "fit": fit})


# ------------------------------------------------------------------------------- what events mean


def apply(controls: Controls, position: Position, event: Event) -> tuple[Controls, Position]:
    """The controls and the position after an event."""
    match event.payload:
        case Fit() as fit:
            position = position.data_changed() if fit.fresh else position
            return replace(_compiled(controls, fit, event.step), fit=fit.spec), position
        case Compiled() as compiled:
            return (_compiled(controls, compiled, event.step) if compiled.values else controls), position
        case Set() as change:
            return _changed(controls, change.changes, event.step, change.over, change.acts_at), position
        case EpochEnd() as end:
            return controls, position.epoch_ended(end.next_pass)
        case Branch() as branch:
            position = replace(position, example=position.example + branch.skip)
            return _changed(controls, branch.keep, event.step, 1, branch.acts_at), position
    return controls, position


def _compiled(controls: Controls, found: Compiled, step: int) -> Controls:
    kept = [name for name in found.values if name in controls.values and name not in found.changes]
    since = {name: controls.since.get(name, 0) if name in kept else step for name in found.values}
    ramps = {name: ramp for name, ramp in controls.ramps.items() if name in kept}
    values = {name: controls.values[name] if name in kept else value for name, value in found.values.items()}
    return replace(controls, values=values, scales=dict(found.scales), ramps=ramps, since=since)


def _changed(
    controls: Controls, changes: Mapping[str, tuple[Any, Any]], step: int, over: int, acts_at: Any
) -> Controls:
    begun = step if acts_at is None else acts_at
    values, ramps, since = dict(controls.values), dict(controls.ramps), dict(controls.since)
    present, scaling = controls.at(step), controls.scaling
    for name, (_, value) in changes.items():
        if name == "scaling":
            scaling = value
        elif name in values:
            ramps.pop(name, None)
            if (over > 1 or begun > step) and SCHEDULE not in (value, values[name]) and value != present[name]:
                ramps[name] = _ramp(begun, over, present[name], value, controls.scales[name])
            values[name], since[name] = value, begun
    return replace(controls, values=values, ramps=ramps, since=since, scaling=scaling)


def _ramp(begun: int, steps: int, start: float, end: float, scale: Scale) -> Ramp:
    """The ramp on a hyperparameter's own scale; a linear one where 0 is not on it."""
    low, high = min(start, end), max(start, end)
    kind = "linear" if scale.kind == "log" and low <= 0 else scale.kind
    return Ramp(begun, steps, start, end, Scale(low, high if high > low else low + 1, kind, scale.whole))


# ------------------------------------------------------------------------------- what may be set


def planned(
    controls: Controls,
    changes: Mapping[str, Any],
    step: int,
    over: Any = 1,
    schedules: Mapping[str, Any] | tuple[str, ...] = (),
    followed: Mapping[str, float] | None = None,
) -> dict[str, tuple[Any, Any]]:
    """What changes come to with the couplings: name -> (old, new). Applies nothing.

    Args:
        controls: The present ones.
        changes: Name -> value asked for.
        step: Steps done.
        over: Steps in which to get there.
        schedules: Learning rates that were compiled with a schedule.
        followed: Learning rate -> number that its schedule gives now.

    Raises:
        TypeError: If a value is not a number.
        ValueError: If a name is unknown, or a value is out of bounds.
    """
    if not changes:
        raise ValueError("`set` needs at least one hyperparameter, such as `learning_rate=0.001`. Received none.")
    checked("over", over, any_whole(), "It is a number of steps.")
    wanted = {name: _checked(controls, name, value, over, schedules) for name, value in changes.items()}
    present = controls.at(step)
    numbers = {name: value for name, value in wanted.items() if name in controls.scales and value != SCHEDULE}
    known = present | dict(followed or {})
    led = _coupled(numbers, known, wanted.get("scaling", controls.scaling))
    # A coupling never overrides a learning rate that follows a schedule.
    led = {name: value for name, value in led.items() if name in controls.scales and present[name] != SCHEDULE}
    led = {name: _checked(controls, name, value, 1, ()) for name, value in led.items() if name not in wanted}
    old = present | {"scaling": controls.scaling}
    return {name: (old[name], value) for name, value in {**led, **wanted}.items()}


def _checked(controls: Controls, name: str, value: Any, over: int, schedules: Any) -> Any:
    if name == "scaling":
        if not isinstance(value, str) or value not in SCALINGS:
            allowed = ", ".join(map(repr, SCALINGS))
            raise ValueError(f"`scaling` must be one of {allowed}. Received: scaling={value!r}.")
        return value
    if name not in controls.scales:
        raise ValueError(
            f"`{name}` is not a hyperparameter that can be changed now. Received: {name}={value!r}. "
            f"Those that can: {', '.join(controls.scales)}. What is None when the model is compiled stays so."
        )
    if isinstance(value, str) and value == SCHEDULE:
        if name not in schedules or over > 1:
            rule = "was compiled with no schedule" if name not in schedules else "follows it at once"
            raise ValueError(f"`{name}` {rule}. Received: {name}={value!r}, over={over}. Pass a number.")
        return value
    cure = "" if name == "batch_size" else f"Other bounds: `fit(..., ranges={{{name!r}: (low, high)}})`."
    return checked(name, value, controls.scales[name], cure)


def _coupled(changes: Mapping[str, float], values: Mapping[str, Any], rule: str) -> dict[str, float]:
    """What a change of the batch size, κ times as large, asks of the optimizer: name -> value.

    `"linear"` multiplies the learning rate by κ (Goyal et al. 2017, section 2.1); `"square root"` by √κ, and for
    Adam and its kin brings each beta to 1 − κ (1 − β) and divides epsilon by √κ (Malladi et al. 2022, definition
    5.1).

    Raises:
        ValueError: If a beta would fall below 0: the batch is too large for the rule.
    """
    if rule == "off" or "batch_size" not in changes:
        return {}
    factor = changes["batch_size"] / values["batch_size"]
    found: dict[str, float] = {}
    for name, value in values.items():
        prefix, _, plain = name.rpartition(".")
        of_adam = f"{prefix}.beta_2".lstrip(".") in values
        if plain == "learning_rate":
            found[name] = value * (factor if rule == "linear" else math.sqrt(factor))
        elif rule == "square root" and of_adam and plain in ("beta_1", "beta_2"):
            found[name] = 1 - factor * (1 - value)
            if found[name] < 0 and name not in changes:
                raise ValueError(
                    f"`batch_size` is too large a step for square-root scaling: {name} would be {found[name]:.4g}. "
                    f"Received: batch_size={changes['batch_size']}. Go there in smaller steps, or `set(scaling='off')`."
                )
        elif rule == "square root" and of_adam and plain == "epsilon":
            found[name] = value / math.sqrt(factor)
    return found
