"""What a hyperparameter is and may be: its value, its bounds, and what fits them."""

import math
import numbers
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from babysit.core.scale import Scale

_ENDLESS, _LARGEST_BATCH = 2**53, 2**20


@dataclass(frozen=True)
class Hyperparameter:
    """A number that can be changed while training runs: its value, and where it may lie."""

    value: float
    scale: Scale

    def __repr__(self) -> str:
        return f"{self.value} ({self.low:.10g} to {self.high:.10g}, {self.scale.kind})"

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
    inside = scale.low <= number <= scale.high or (scale.zero and number == 0)
    if not (math.isfinite(number) and whole and inside):
        kind = "a whole number" if scale.whole else "a number"
        bounds = f"from {scale.low:g} to {scale.high:g}" if scale.high < _ENDLESS else f"from {scale.low:g} on"
        bounds += ", or 0" if scale.zero else ""
        raise ValueError(f"`{name}` must be {kind} {bounds}. Received: {name}={value!r}. {cure}".rstrip())
    return int(number) if scale.whole else number


def any_whole(low: int = 1) -> Scale:
    """The scale of a count that has no upper bound."""
    return Scale(low, _ENDLESS, whole=True)


def scales_for(
    values: Mapping[str, float],
    defaults: Mapping[str, Scale],
    ranges: Mapping[str, Any] | None = None,
    examples: int | None = None,
) -> dict[str, Scale]:
    """The scale of each hyperparameter: its default, widened to hold its value, or as `ranges` says.

    Args:
        values: Name -> present value; `batch_size` may be among them.
        defaults: Name -> scale, `batch_size` left out.
        ranges: Name -> (low, high), or None.
        examples: How many examples the data has, the largest batch; None where nobody knows.

    Raises:
        ValueError: If `ranges` names what is not there, or does not hold the present value. A
            batch larger than the data is none: its range ends there.
    """
    ranges = dict(ranges or {})
    if unknown := set(ranges) - set(values):
        raise ValueError(
            f"`ranges` may name {', '.join(values)}. Received: {', '.join(sorted(unknown))}. Leave out the others."
        )
    if examples != 1:  # one example makes one batch: nothing to change
        defaults = {**defaults, "batch_size": Scale(1, examples or _LARGEST_BATCH, "log", whole=True)}
    return {
        name: _within(name, value, defaults[name], ranges[name]) if name in ranges else _around(value, defaults[name])
        for name, value in values.items()
        if name in defaults
    }


def _within(name: str, value: float, default: Scale, bounds: Any) -> Scale:
    finite = Scale(-sys.float_info.max, sys.float_info.max, whole=default.whole)
    try:
        low, high = (checked("bound", bound, finite) for bound in bounds)
        high = min(high, default.high) if default.whole else high
        scale = replace(default, low=low, high=high, zero=default.kind == "log" and value == 0)
        checked(name, value, scale)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`ranges[{name!r}]` must be (low, high) around the present value {value:g}. Received: {bounds!r}. {error}"
        ) from None
    return scale


def _around(value: float, default: Scale) -> Scale:
    """The default, widened where it does not reach the present value."""
    if value == 0 and default.kind == "log":
        return replace(default, zero=True)
    low, high = min(default.low, value), max(default.high, value)
    try:
        return replace(default, low=low, high=high)
    except ValueError:  # where the kind cannot reach, below 0 or to 1 and beyond, it is linear
        return Scale(low, high, whole=default.whole)
