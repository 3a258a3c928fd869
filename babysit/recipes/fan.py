"""The fan: several values of a hyperparameter tried from the same state, on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from babysit.core.hyperparameter import any_whole, checked
from babysit.core.words import label, number
from babysit.recipes.start import HOPELESS, Start
from babysit.session.run import Run

MOST = 8  # values of one fan
_PARTS = 5  # after each of which a hopeless trial ends


@dataclass(frozen=True)
class Trial:
    """A value that was tried, on a branch of its own.

    Attributes:
        value: The value.
        branch: The branch, which stays.
        steps: How many steps were taken.
        loss: The mean loss of their last tenth; infinite where it is not finite.
        ended: Why it ended early, in a word; empty if it did not.
        losses: The loss of each step.
    """

    value: Any
    branch: str
    steps: int
    loss: float
    ended: str
    losses: np.ndarray = field(repr=False)


class Fan:
    """What came of several values, each tried from the same state with the same examples and seeds.

    The run rests at that state. `keep` goes on from the end of a trial, `none` as if nothing had been tried.

    Attributes:
        name: The hyperparameter.
        trials: One for each value, in the order given.
    """

    def __init__(self, run: Run, start: Start, name: str, trials: Sequence[Trial]) -> None:
        self._run, self._start, self.name, self.trials = run, start, name, tuple(trials)

    @property
    def best(self) -> Trial:
        """The trial with the lowest loss at its end."""
        return min(self.trials, key=lambda trial: trial.loss)

    def keep(self, trial: Trial) -> None:
        """Goes on from the end of a trial, with its value, on a new branch; runs again if the run was running."""
        self._start.again(trial.branch)
        self._start.resume()

    def none(self) -> None:
        """Goes on from the state before the trials, as if nothing had been tried."""
        self._start.again()
        self._start.resume()

    def __repr__(self) -> str:
        lines = [f"{label(self.name)} from step {self._start.step:,}, mean loss of the last tenth:"]
        for trial in self.trials:
            remark = f" · {trial.ended} after {trial.steps:,} steps" if trial.ended else ""
            best = " · the best" if trial is self.best else ""
            lines.append(f"{number(trial.value):>10}  {trial.loss:<8.4g} {trial.branch}{best}{remark}")
        return "\n".join(lines)


def fan(run: Run, steps: int = 200, by: str = "loss", **values: Sequence[Any]) -> Fan:
    """Tries several values of a hyperparameter from the present state; see `Panda.fan`."""
    steps = int(checked("steps", steps, any_whole()))
    name, tried = _checked(run, values)
    start = Start(run, by)
    trials: list[Trial] = []
    try:
        for i, value in enumerate(tried, 1):
            start.again()
            run.set(why=f"trial {i} of {len(tried)}", **{name: value})
            trials.append(_try(run, start, value, steps, trials))
    except BaseException:
        start.again()
        start.resume()
        raise
    start.again()
    return Fan(run, start, name, trials)


def _checked(run: Run, values: dict[str, Sequence[Any]]) -> tuple[str, list[Any]]:
    if len(values) != 1:
        raise TypeError(f"`fan` tries one hyperparameter. Received: {', '.join(values) or 'none'}.")
    ((name, given),) = values.items()
    tried = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else []
    if not 2 <= len(tried) <= MOST:
        raise ValueError(f"`{name}` must be a list of 2 to {MOST} values. Received: {name}={given!r}.")
    if name not in run.hyperparameters:
        raise ValueError(f"`fan` tries a hyperparameter: {', '.join(run.hyperparameters)}. Received: {name!r}.")
    return name, [checked(name, value, run.hyperparameters[name].scale) for value in tried]


def _try(run: Run, start: Start, value: Any, steps: int, before: Sequence[Trial]) -> Trial:
    """Takes the steps with a value that has been set, fewer where it is hopeless beside an earlier trial."""
    branch, ended, losses = run.history.branch, "", np.empty(0)
    for losses in start.losses(steps, _PARTS):
        taken, part = len(losses), max(steps // _PARTS, 1)
        rivals = [trial.losses[taken - part : taken].mean() for trial in before if trial.steps >= taken]
        if not np.isfinite(losses).all():
            ended = "not finite"
        elif rivals and losses[-part:].mean() > HOPELESS * min(rivals):
            ended = "hopeless"
        if ended:
            break
    if not ended and len(losses) < steps:
        ended = "the fit was over"
    last = losses[-max(steps // 10, 1) :]
    loss = float(last.mean()) if np.isfinite(last).all() and len(last) else float("inf")
    return Trial(value, branch, len(losses), loss, ended, losses)
