"""The scales on which hyperparameters are chosen: linear, log, log of 1 − β.

Sliders, sampling and search use the same three, so that equal distances on any of
them mean equal amounts of change. NumPy only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["linear", "log", "log of 1−β"]

_TO_AXIS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda value: np.asarray(value, dtype=float),
    "log": np.log10,
    "log of 1−β": lambda value: -np.log10(1 - np.asarray(value)),
}
_FROM_AXIS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda axis: axis,
    "log": lambda axis: 10.0**axis,
    "log of 1−β": lambda axis: 1 - 10.0**-axis,
}


@dataclass(frozen=True)
class Scale:
    """A bounded axis, uniform in what matters about a hyperparameter.

    ```python
    Scale(50, 100, whole=True)         # 50, 51, … 100, evenly
    Scale(1e-4, 1.0, "log")            # every decade weighs the same
    Scale(0.9, 0.9999, "log of 1−β")   # every decade of the averaging window 1 / (1 − β)
    ```

    Args:
        low: The smallest value; above 0 on a log scale.
        high: The largest value; above `low`, below 1 on the scale of 1 − β.
        kind: `"linear"`, `"log"` or `"log of 1−β"`.
        whole: Whether only whole numbers are meant.
        zero: Whether 0 is meant too, below `low`, for a log scale: it has no place of its own there and is shown at
            `low`'s. Elsewhere let `low` be 0.

    Raises:
        ValueError: If the bounds do not fit the kind.
    """

    low: float
    high: float
    kind: Kind = "linear"
    whole: bool = False
    zero: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _TO_AXIS:
            raise ValueError(f"`kind` must be one of {list(_TO_AXIS)}. Received: kind={self.kind!r}.")
        floor = 0 if self.kind == "log" else -math.inf
        ceiling = 1 if self.kind == "log of 1−β" else math.inf
        if not floor < self.low < self.high < ceiling:
            raise ValueError(
                f"`low` and `high` must satisfy {floor} < low < high < {ceiling} on a "
                f"{self.kind} scale. Received: low={self.low}, high={self.high}."
            )

    def position(self, value: float) -> float:
        """Where `value` lies between `low` (0.0) and `high` (1.0)."""
        if self.zero and value == 0:
            return 0.0
        start, end = self._ends()
        return float((_TO_AXIS[self.kind](value) - start) / (end - start))

    def at(self, position: Any) -> Any:
        """The value, or array of values, at a position from 0.0 to 1.0."""
        start, end = self._ends()
        value = _FROM_AXIS[self.kind](start + np.asarray(position) * (end - start))
        value = np.clip(value, self.low, self.high)
        value = np.rint(value).astype(int) if self.whole else value
        return value if np.ndim(position) else value.item()

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` values drawn uniformly along the scale."""
        if not self.whole:
            return np.asarray(self.at(rng.random(n)))
        # A whole number covers the half on either side of it, and so do the two ends.
        halves = Scale(self.low - 0.5, self.high + 0.5, self.kind)
        return np.asarray(np.clip(np.rint(halves.sample(rng, n)), self.low, self.high), dtype=int)

    def grid(self, n: int) -> np.ndarray:
        """`n` values evenly spaced along the scale, both ends among them."""
        return np.asarray(self.at(np.linspace(0, 1, n)))

    def suggest(self, trial: Any, name: str) -> Any:
        """A value that a trial of Optuna's tries, asked for along the scale.

        On the scale of 1 − β it is 1 − β that the study knows, as `1 - name`, on a log scale.

        Args:
            trial: An `optuna.Trial`, or whatever has its `suggest_float` and `suggest_int`.
            name: What the study calls it.
        """
        if self.kind == "log of 1−β":
            return 1 - trial.suggest_float(f"1 - {name}", 1 - self.high, 1 - self.low, log=True)
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.kind == "log")

    def zoom(self, around: float, factor: float) -> "Scale":
        """The part of this scale around a value, `factor` times narrower.

        The new bounds never leave the old ones.

        Raises:
            ValueError: If `factor` is not above 1.
        """
        if not factor > 1:
            raise ValueError(f"`factor` must be above 1. Received: factor={factor}.")
        centre, half = self.position(around), 0.5 / factor
        low, high = self.at([max(0.0, centre - half), min(1.0, centre + half)]).tolist()
        if low == high and self.whole:  # no narrower than the neighbours of a whole number
            low, high = max(self.low, low - 1), min(self.high, high + 1)
        return Scale(low, high, self.kind, self.whole)

    def round_values(self, digits: Sequence[float] = (1, 2, 3, 5, 7)) -> list[float]:
        """Values within the bounds that are easy to read: these digits in every decade, and both ends.

        Where 0 is meant too, it comes first.

        On the scale of 1 − β they are 0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.93 …

        Raises:
            ValueError: On a linear scale, which has no decades.
        """
        if self.kind == "linear":
            raise ValueError("`round_values` needs a log scale. Received a linear one: use `grid`.")
        start, end = self._ends()
        decades = range(math.floor(start), math.ceil(end) + 1)
        if self.kind == "log":
            values = {float(f"{digit}e{decade}") for decade in decades for digit in digits}
        else:
            values = {round(1 - float(f"{digit}e{-decade}"), 12) for decade in decades for digit in digits}
        ends = {self.low, self.high} | ({0.0} if self.zero else set())
        return sorted({value for value in values if self.low <= value <= self.high} | ends)

    def _ends(self) -> tuple[float, float]:
        to_axis = _TO_AXIS[self.kind]
        return float(to_axis(self.low)), float(to_axis(self.high))
