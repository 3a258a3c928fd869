"""Steering: the values in effect, and how a change that was asked for becomes one of them.

A ramp moves a hyperparameter to a value in so many steps; couplings carry a change of one
hyperparameter over to others. Both are off unless a hand asks for them.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from babysit.core.hyperparameter import Hyperparameter, checked, scales_for
from babysit.core.scale import Scale

# What `set` takes beside hyperparameters: name -> the values it may have, the first one at the start.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "scaling": ("off", "linear", "square root"),
}


SCHEDULE = "schedule"


class Helm:
    """The hyperparameters of a run: their values and bounds, ramps under way, couplings.

    Args:
        dials: The live hyperparameters of the compiled model.
    """

    def __init__(self, dials: Any) -> None:
        self.dials = dials
        self.values: dict[str, float] = dials.values
        self.scales: dict[str, Scale] = scales_for(self.values, dials.scales, None, 1)
        self.since: dict[str, int] = dict.fromkeys(self.values, 0)
        self.ramps: dict[str, Ramp] = {}
        self.settings: dict[str, Any] = {name: choices[0] for name, choices in SETTINGS.items()}

    def take(self, dials: Any, batch_size: int, examples: int | None, ranges: Any, steerable: bool) -> None:
        """Takes the dials and the bounds that a fit brings.

        Raises:
            ValueError: If `ranges` does not fit the hyperparameters.
        """
        values = dials.values
        first = {name: value for name, value in values.items() if name == "learning_rate"}
        values = {**first, "batch_size": batch_size, **values}
        self.ramps = {name: way for name, way in self.ramps.items() if values.get(name) == self.values.get(name)}
        scales = scales_for(values, dials.scales, ranges, examples)
        if not steerable:
            scales.pop("batch_size", None)
        self.dials, self.values, self.scales = dials, values, scales

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """Name -> value and bounds, in a stable order."""
        return {name: Hyperparameter(self.values[name], scale) for name, scale in self.scales.items()}

    @property
    def told(self) -> dict[str, Any]:
        """Name -> value as the journal tells it: `"schedule"` for what follows one."""
        return self.values | dict.fromkeys(self.dials.following, SCHEDULE)

    def checked(self, changes: Mapping[str, Any], over: Any = 1) -> dict[str, Any]:
        """Returns the changes as `turn` would apply them, or raises as `Panda.set` says."""
        if not changes:
            raise ValueError("`set` needs at least one hyperparameter, such as `learning_rate=0.001`. Received none.")
        over = checked("over", over, Scale(1, 2**53, whole=True), "It is a number of steps.")
        return {name: self._checked(name, value, over) for name, value in changes.items()}

    def _checked(self, name: str, value: Any, over: int) -> Any:
        if name in SETTINGS and name not in self.scales:
            return checked_setting(name, value)
        if name not in self.scales:
            raise ValueError(
                f"`{name}` is not a hyperparameter that can be changed now. Received: {name}={value!r}. "
                f"Those that can: {', '.join(self.scales)}.{_hint(name, self.scales)}"
            )
        if isinstance(value, str) and value == SCHEDULE:
            if name not in self.dials.schedules or over > 1:
                rule = "was compiled with no schedule" if name not in self.dials.schedules else "follows it at once"
                raise ValueError(f"`{name}` {rule}. Received: {name}={value!r}, over={over}. Pass a number.")
            return value
        cure = "" if name == "batch_size" else f"Other bounds: `fit(..., ranges={{{name!r}: (low, high)}})`."
        return checked(name, value, self.scales[name], cure)

    def awaited(self, changes: Mapping[str, Any], over: int, alone: bool) -> dict[str, Any]:
        """Returns changes that have waited as `turn` would apply them now; alone, nothing follows from them."""
        values = self.checked(changes, over)
        if not alone or self.settings["scaling"] == SETTINGS["scaling"][0]:
            return values
        present = {name: self.values[name] for name in self.scales if name not in self.dials.following}
        return present | values  # what is named stays as it is

    def turn(self, changes: Mapping[str, Any], over: int, step: int) -> dict[str, tuple[Any, Any]]:
        """Applies changes from the next step on, or begins ramps to them; returns name -> (old, new)."""
        told = self.planned(changes)
        values = {name: value for name, (_, value) in told.items() if name in self.scales}
        moving = {name: value for name, value in values.items() if over > 1 and value != self.values[name]}
        ways = {name: ramp(step, over, self.values[name], value, self.scales[name]) for name, value in moving.items()}
        self.settings |= {name: value for name, (_, value) in told.items() if name not in self.scales}
        self.write({name: value for name, value in values.items() if name not in ways}, step)
        self.ramps |= ways
        self.since |= dict.fromkeys(ways, step)
        return told

    def planned(self, changes: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What changes come to with the couplings: name -> (old, new); applies nothing.

        Raises:
            ValueError: If a value that follows is out of bounds.
        """
        settings = {name: value for name, value in changes.items() if name not in self.scales}
        wanted = {name: value for name, value in changes.items() if name in self.scales}
        numbers = {name: value for name, value in wanted.items() if value != SCHEDULE}
        # What follows a schedule is taken from it by nothing but a hand.
        values = {name: value for name, value in self.values.items() if name not in self.dials.following}
        followed = coupled(numbers, self.values | values, settings.get("scaling", self.settings["scaling"]))
        followed = {name: value for name, value in followed.items() if name in wanted or name in values}
        followed = {
            name: value if name in wanted else self._checked(name, value, 1) for name, value in followed.items()
        }
        told = {name: (self.settings[name], value) for name, value in settings.items()}
        return told | {name: (self.told[name], value) for name, value in {**followed, **wanted}.items()}

    def write(self, values: Mapping[str, Any], step: int) -> None:
        """Puts values in effect from the next step on; ramps of theirs end."""
        for name, value in values.items():
            self.ramps.pop(name, None)
            self._put(name, value)
            self.since[name] = step

    def _put(self, name: str, value: Any) -> None:
        if name == "batch_size":
            self.values[name] = value
            return
        self.dials.set({name: value})
        self.values[name] = self.dials.values[name]

    def advance(self, step: int, any_size: bool) -> tuple[str, ...]:
        """Moves what is under way to its value for the coming step; returns the names of that.

        Args:
            step: Steps done.
            any_size: Whether the batch size may change here.
        """
        moving = tuple(self.ramps)
        for name in moving:
            if name == "batch_size" and not any_size:
                continue
            way = self.ramps[name]
            if (value := way.value(step)) != self.values[name]:
                self._put(name, value)
            if step + 1 - way.begun >= way.steps:
                del self.ramps[name]
        return moving

    def follow(self) -> None:
        """Reads the present values of what follows a schedule."""
        if self.dials.following:
            now = self.dials.values
            self.values.update({name: now[name] for name in self.dials.following})

    def adopt(self, step: int) -> dict[str, tuple[Any, Any]]:
        """Takes up what somebody else changed on the optimizer itself; returns name -> (old, new)."""
        changes = {name: change for name, change in self.dials.adopt_external_changes().items() if name in self.values}
        for name, (_, new) in changes.items():
            self.ramps.pop(name, None)
            self.values[name] = new
            self.since[name] = step
        return changes

    def plain(self) -> dict[str, Any]:
        """What else than values decides how they go on, in plain data: ramps and couplings."""
        return {"ramps": {name: asdict(way) for name, way in self.ramps.items()}, "settings": dict(self.settings)}

    def restore(self, values: Mapping[str, float], plain: Mapping[str, Any]) -> None:
        """Returns to the values, ramps and couplings of another time; the dials are restored apart."""
        self.values = dict(values)
        self.settings = {**self.settings, **plain.get("settings", {})}
        self.ramps = {
            name: Ramp(**{**way, "scale": Scale(**way["scale"])}) for name, way in plain.get("ramps", {}).items()
        }


@dataclass(frozen=True)
class Ramp:
    """The way of a hyperparameter from `start` to `end` in `steps` steps behind step `begun`, even on its scale."""

    begun: int
    steps: int
    start: float
    end: float
    scale: Scale

    def value(self, step: int) -> float:
        """The value in effect for the step taken when `step` steps are done."""
        done = step + 1 - self.begun
        if done >= self.steps:
            return self.end
        position, last = self.scale.position(self.start), self.scale.position(self.end)
        value = self.scale.at(position + (last - position) * done / self.steps)
        return int(value) if self.scale.whole else float(value)


def ramp(begun: int, steps: int, start: float, end: float, scale: Scale) -> Ramp:
    """The ramp between two values on a hyperparameter's own scale; a linear one where 0 is not on it."""
    low, high = min(start, end), max(start, end)
    kind = "linear" if scale.kind == "log" and low <= 0 else scale.kind
    return Ramp(begun, steps, start, end, Scale(low, high if high > low else low + 1, kind, scale.whole))


def coupled(changes: Mapping[str, float], values: Mapping[str, float], rule: str) -> dict[str, float]:
    """The changes, with those of the optimizer that a change of the batch size asks for.

    With the batch size κ times as large: `"linear"` multiplies the learning rate by κ (Goyal
    et al. 2017, section 2.1); `"square root"` by √κ, and for Adam and its kin brings each
    beta to 1 − κ (1 − β) and divides epsilon by √κ (Malladi et al. 2022, definition 5.1).
    What is named in `changes` itself stays as asked.

    Args:
        changes: Name -> new value.
        values: Name -> present value of every hyperparameter.
        rule: `"off"`, `"linear"` or `"square root"`.

    Raises:
        ValueError: If a beta would fall below 0: the batch is too large for the rule.
    """
    if rule == "off" or "batch_size" not in changes:
        return dict(changes)
    factor = changes["batch_size"] / values["batch_size"]
    found: dict[str, float] = {}
    for name, value in values.items():
        prefix, _, plain = name.rpartition(".")
        of_adam = f"{prefix}.beta_2".lstrip(".") in values
        if plain == "learning_rate":
            found[name] = value * (factor if rule == "linear" else math.sqrt(factor))
        elif rule == "square root" and of_adam and plain in ("beta_1", "beta_2"):
            found[name] = 1 - factor * (1 - value)
            if found[name] < 0:
                raise ValueError(
                    f"`batch_size` is too large a step for square-root scaling: {name} would be {found[name]:.4g}. "
                    f"Received: batch_size={changes['batch_size']}. Go there in smaller steps, or `set(scaling='off')`."
                )
        elif rule == "square root" and of_adam and plain == "epsilon":
            found[name] = value / math.sqrt(factor)
    return {**found, **changes}


def checked_setting(name: str, value: Any) -> Any:
    """Returns a setting's value if it may have it.

    Raises:
        ValueError: If it may not.
    """
    if type(value) is not type(SETTINGS[name][0]) or value not in SETTINGS[name]:
        allowed = ", ".join(repr(choice) for choice in SETTINGS[name])
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}.")
    return value


def _hint(name: str, known: Mapping[str, Scale]) -> str:
    instead = {"momentum": "beta_1", "beta_1": "momentum"}.get(name)
    if instead in known:
        return f" This optimizer has `{instead}` instead."
    return " Is it off? What is None when the model is compiled stays so." if name in _OPTIONAL else ""


_OPTIONAL = {"weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "ema_momentum"}
