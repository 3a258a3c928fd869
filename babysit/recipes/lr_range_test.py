"""The learning-rate range test: the rate grows over some steps, and the loss shows which rates are useful."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from babysit.core.hyperparameter import any_whole, checked
from babysit.core.words import label, number
from babysit.recipes.start import HOPELESS, Progress, Start
from babysit.session.run import Run

_SMOOTHING = 0.9  # share of the mean before, in the exponential mean of the losses
NOTHING = "The loss did not fall enough to suggest a rate from: by less than twice what it scatters from step to step."
_CLEAR = 2.0  # times the scatter: the mean of losses that only scatter may fall by nearly one
_FEW = 10  # the mean of fewer losses says little
_ROUNDING = 1e-6  # of a loss, in 32 bits: a fall by less than this part of it is none
_REACH, _LEVEL = 15, 0.05  # of the slide: steps between the two slopes that it compares, and where they are alike


@dataclass(frozen=True)
class RangeTest:
    """The loss at each learning rate, and the rates that it suggests.

    Attributes:
        name: The hyperparameter.
        rates: The rate of each step.
        losses: The loss of each step.
        smoothed: Their exponential mean.
        branch: The branch of the test, which stays.
        step: Steps done before it.
        by: The column of the history.
        suggestions: Rule -> rate: `steepest`, `valley`, `minimum ÷ 10` and `slide`; empty where the smoothed losses
            fall by less than two standard deviations of the losses around them.
    """

    name: str
    rates: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    smoothed: np.ndarray = field(repr=False)
    branch: str
    step: int
    by: str
    suggestions: dict[str, float]

    def plot(self, axes: Any) -> None:
        """Draws loss against rate, with the suggestions, on axes of matplotlib."""
        axes.plot(self.rates, self.losses, color="0.75", linewidth=0.8)
        axes.plot(self.rates, self.smoothed)
        for name, rate in self.suggestions.items():
            axes.plot(rate, np.interp(rate, self.rates, self.smoothed), "o", label=f"{name}: {number(rate)}")
        axes.set(xscale="log", xlabel=label(self.name), ylabel=label(self.by))
        if self.suggestions:
            axes.legend(frameon=False)
        else:
            axes.set_title(NOTHING, fontsize="small")

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {number(rate)}" for name, rate in self.suggestions.items()) or NOTHING
        return f"<RangeTest of {len(self.rates):,} rates up to {number(self.rates[-1])}: {found}>"


def lr_range_test(
    run: Run,
    progress: Progress,
    author: str,
    low: float | None,
    high: float | None,
    steps: int,
    name: str,
    by: str | None,
) -> RangeTest:
    """Lets the learning rate grow over some steps and returns to the very state; see `Panda.lr_range_test`."""
    steps = int(checked("steps", steps, any_whole(20)))
    bounds = run.hyperparameters
    if name not in bounds:
        raise ValueError(f"`name` must be a hyperparameter: {', '.join(bounds)}. Received: {name!r}.")
    scale = bounds[name].scale
    low = checked("low", max(scale.low, 1e-7) if low is None else low, scale)
    high = checked("high", min(scale.high, 10.0) if high is None else high, scale)
    if not low < high:
        raise ValueError(f"`low` must be below `high`. Received: low={low!r}, high={high!r}.")
    start = Start(run, by, progress, author)
    progress.begin(f"range test of {label(name)}")
    ramp = [{"changes": {name: rate}, "why": "range test", "over": over} for rate, over in ((low, 1), (high, steps))]
    with start.returning():
        losses = start.losses(steps, ramp, lambda losses: len(_hopeless(losses)) > 0)
        branch, losses = run.history.branch, losses[: 1 + next(iter(_hopeless(losses)), steps)]
        rates = run.history[name][start.step :][: len(losses)]
    start.discard(start.left)
    start.resume()
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    if len(losses) < 3:
        raise ValueError(
            f"The loss is not finite from the first steps on. Begin at a smaller `low`. Received: {low!r}."
        )
    return RangeTest(name, rates, losses, smoothed(losses), branch, start.step, start.by, suggestions(rates, losses))


def suggestions(rates: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Rule -> rate; none where the loss falls by less than it scatters."""
    mean, few = smoothed(losses), len(losses) // 10  # the mean of few losses says little
    lowest = few + int(mean[few:].argmin())
    scatter = float((losses - mean)[few : lowest + 1].std())
    if mean[few] - mean[lowest] <= max(_CLEAR * scatter, _ROUNDING * abs(mean[few])):
        return {}
    return {rule: found(rates[few:], mean[few:]) for rule, found in SUGGESTIONS.items()}


def _hopeless(losses: np.ndarray) -> list[int]:
    """The places at which the smoothed losses are above four times the lowest before, the first few aside."""
    mean = smoothed(losses)[_FEW:]
    return (_FEW + np.flatnonzero(mean > HOPELESS * np.minimum.accumulate(mean))).tolist() if len(mean) else []


def smoothed(losses: np.ndarray) -> np.ndarray:
    """The exponential mean of losses, not drawn towards zero at the beginning (Kingma and Ba 2015, section 3)."""
    mean, means = 0.0, []
    for i, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**i))
    return np.array(means)


def steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate at which the loss falls most, over the logarithm of the rate, on the way to its lowest.

    The fall is that over a tenth of the rates, since a shorter one may be the scatter of a few losses.
    """
    down, reach = int(losses.argmin()) + 1, max(len(losses) // 10, 1)
    if down <= reach:
        return float(rates[down - 1])
    falls = losses[:down][reach:] - losses[:down][:-reach]
    return float(rates[int(falls.argmin()) + reach // 2])


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(rates[losses.argmin()] / 10)


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """The middle of the longest valley: of the longest sequence of steps in which each loss is below the one before."""
    lengths, before = np.ones(len(losses), int), np.full(len(losses), -1)
    for i in range(1, len(losses)):
        higher = np.flatnonzero(losses[:i] > losses[i])
        if len(higher):
            before[i] = higher[::-1][lengths[higher][::-1].argmax()]  # of several the nearest
            lengths[i] = lengths[before[i]] + 1
    first = last = int(lengths.argmax())
    while before[first] >= 0:
        first = int(before[first])
    return float(rates[(first + last) // 2])


def slide(rates: np.ndarray, losses: np.ndarray) -> float:
    """From the right, the first rate at which the slope is like that some steps on: where the loss begins to level."""
    slopes = np.gradient(losses)
    reach = min(_REACH, len(losses) - 1)
    for right in range(len(losses) - 1, reach - 1, -1):
        if abs(slopes[right] - slopes[right - reach]) <= _LEVEL:
            return float(rates[right - reach])
    return float(rates[0])


SUGGESTIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "steepest": steepest,
    "valley": valley,
    "minimum ÷ 10": minimum,
    "slide": slide,
}
