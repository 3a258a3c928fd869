"""The fan: several values of a hyperparameter tried from the same state, on the same examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from babysit.core.hyperparameter import Hyperparameter, any_whole, checked
from babysit.core.words import label, number
from babysit.recipes.start import Progress, Start, Trial
from babysit.session.run import Run

MOST = 8  # values of one fan


class Fan:
    """What came of several ways to go on, each tried from the same state with the same seeds.

    The run rests at the state that it was in. `keep` goes on from the end of a trial, `none` as if nothing had been
    tried.

    Attributes:
        title: What was tried, and from where.
        trials: One for each value or way, in their order.
        step: Steps done where the trials begin.
        by: The column of the history that is compared.
        verdict: What they say of the cause of a spike, in a sentence; empty for values.
    """

    def __init__(
        self, run: Run, start: Start, title: str, trials: Sequence[Trial], step: int, by: str, verdict: str = ""
    ) -> None:
        self._run, self._start, self.title, self.trials = run, start, title, tuple(trials)
        self.step, self.by, self.verdict = step, by, verdict
        self._branch, self._answered, self._tried = run.history.branch, False, tuple(start.left)

    @property
    def best(self) -> Trial:
        """The trial with the lowest loss at its end."""
        return min(self.trials, key=lambda trial: trial.loss)

    @property
    def is_open(self) -> bool:
        """Whether the run still rests where it was returned to, and nobody has called `keep` or `none`."""
        history = self._run.history
        return not self._answered and (history.branch, history.steps) == (self._branch, self._start.step)

    def keep(self, trial: Trial) -> None:
        """Goes on from the end of a trial, as it was set there, on a new branch; runs again if the run was running.

        The checkpoints of the others are deleted; their steps stay in the log, and can be rewound to.
        """
        self.go_on(trial.branch)

    def none(self) -> None:
        """Goes on from the state before the trials, as if nothing had been tried; their checkpoints are deleted."""
        self.go_on(None)

    def go_on(self, branch: str | None, author: str = "script") -> None:
        """Goes on from the end of the trial on a branch, or of none of them, for an author."""
        self._start.go_on(branch, self._tried, author)
        self._answered = True

    def __repr__(self) -> str:
        lines = [f"{self.title}, mean {label(self.by)} of the last tenth:"]
        wide = max(10, *(len(number(trial.value)) for trial in self.trials))
        for trial in self.trials:
            remark = f" · {trial.ended} after {trial.steps:,} steps" if trial.ended else ""
            best = " · the best" if trial is self.best else ""
            lines.append(f"{number(trial.value):>{wide}}  {trial.loss:<8.4g} {trial.branch}{best}{remark}")
        return "\n".join([*lines, self.verdict] if self.verdict else lines)


def fan(run: Run, progress: Progress, author: str, steps: int, by: str | None, values: dict[str, Any]) -> Fan:
    """Tries several values of a hyperparameter from the present state; see `Panda.fan`."""
    steps = int(checked("steps", steps, any_whole()))
    name, tried = _checked(run, values)
    start = Start(run, by, progress, author)
    trials: list[Trial] = []
    with start.returning():
        for i, value in enumerate(tried, 1):
            progress.begin(f"{label(name)} {number(value)}, {i} of {len(tried)}", i, len(tried))
            change = {"changes": {name: value}, "why": f"trial {i} of {len(tried)}"}
            trials.append(start.trial(value, steps, [change], trials))
    return Fan(run, start, f"{label(name)} from step {start.step:,}", trials, start.step, start.by)


def _checked(run: Run, values: dict[str, Any]) -> tuple[str, list[Any]]:
    """The hyperparameter, and its values as plain numbers; three around the present one where they are None."""
    if len(values) != 1:
        raise TypeError(f"`fan` tries one hyperparameter. Received: {', '.join(values) or 'none'}.")
    ((name, given),) = values.items()
    if name not in run.hyperparameters:
        raise ValueError(f"`fan` tries a hyperparameter: {', '.join(run.hyperparameters)}. Received: {name!r}.")
    if given is None:
        return name, around(run.hyperparameters[name])
    tried = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else []
    if not 2 <= len(tried) <= MOST:
        raise ValueError(f"`{name}` must be a list of 2 to {MOST} values. Received: {name}={given!r}.")
    return name, [checked(name, value, run.hyperparameters[name].scale) for value in tried]


def around(hyperparameter: Hyperparameter) -> list[Any]:
    """A third of a value, the value and three times as much, within its bounds; 1 − β likewise, a batch size by 2.

    On a linear scale, a tenth of the range below and above it.
    """
    value, scale = hyperparameter.value, hyperparameter.scale
    if scale.kind == "log":
        factor = 2 if scale.whole else 3
        tried = [(value or scale.low) / factor, value, (value or scale.low) * factor]
    elif scale.kind == "log of 1−β":
        tried = [1 - 3 * (1 - value), value, 1 - (1 - value) / 3]
    else:
        reach = (scale.high - scale.low) / 10
        tried = [value - reach, value, value + reach]
    inside = [value if one == value else min(max(one, scale.low), scale.high) for one in tried]
    plain = [round(one) if scale.whole else float(f"{one:.6g}") for one in inside]
    return list(dict.fromkeys(plain))
