"""Watch rules: what is looked for while a run trains, and what is done when it is found."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from babysit.core.events import EpochEnd, Event
from babysit.core.history import History
from babysit.core.runlog import Lineage, RunLog
from babysit.recipes.cause import is_learning_rate
from babysit.recipes.examples import batches_left
from babysit.session.run import Run

HALVE, BACK = "halve the learning rate", "rewind and skip"
THENS = ("tell", "pause", HALVE, BACK)
_BACK_STEPS, _SKIP = 100, 200  # PaLM, section 5.1: about 100 steps, and 200 to 500 batches
_WINDOW, _SIGMAS = 128, 6.0  # of a spike
_PATIENCE, _MIN_DELTA = 10, 1e-4  # of a plateau
_OVERFIT = 1.05  # times the lowest validation loss
_STALLED_STEPS, _STALLED_EVERY, _FALLS = 2000, 100, 0.51
_OWN_SHARE = 0.05  # of the time, that a function of the user's may take


@dataclass(frozen=True)
class Alert:
    """What a rule has found.

    Attributes:
        number: Counts the alerts of the run, from 1 on.
        rule: The rule.
        step: The step at which it was found.
        words: What was found, in a sentence.
        then: What was done.
    """

    number: int
    rule: str
    step: int
    words: str
    then: str

    def __str__(self) -> str:
        return f"{self.rule} at step {self.step:,}: {self.words} ({self.then})"


@dataclass
class Seen:
    """What a rule looks at.

    Attributes:
        log: The run's.
        lineage: The way to where it stands.
        after: The steps after this one are new.
        step: Steps done.
        ends: The ends of the epochs on the lineage.
        new_end: Whether the last of them is new.
    """

    log: RunLog
    lineage: Lineage
    after: int
    step: int
    ends: Sequence[Event]
    new_end: bool

    def losses(self, after: int) -> np.ndarray:
        """The losses of the steps after one."""
        return self.log.column("loss", self.lineage, after).astype(float)

    def epochs(self, name: str) -> np.ndarray:
        """What each epoch came to under a name; NaN where it has none, shape (epochs,)."""
        logs = [end.payload.logs for end in self.ends if isinstance(end.payload, EpochEnd)]
        return np.array([one.get(name, math.nan) for one in logs], float)


def spike(seen: Seen) -> tuple[int, str] | None:
    """A loss more than six standard deviations above the mean of the 128 steps before."""
    after = max(seen.after - _WINDOW, 0)
    losses = seen.losses(after)
    if len(losses) <= _WINDOW:
        return None
    before = np.lib.stride_tricks.sliding_window_view(losses, _WINDOW)[:-1]
    mean, deviation, new = before.mean(1), before.std(1), losses[_WINDOW:]
    found = np.flatnonzero(new > mean + _SIGMAS * deviation)
    if not len(found):
        return None
    at = found[0]
    times = (new[at] - mean[at]) / max(deviation[at], 1e-12)
    above = f"{times:,.1f} standard deviations above the mean {mean[at]:.4g} of the {_WINDOW} steps before"
    return after + _WINDOW + int(at) + 1, f"the loss {new[at]:.4g} is {above}"


def not_finite(seen: Seen) -> tuple[int, str] | None:
    """A loss that is NaN or infinite."""
    found = np.flatnonzero(~np.isfinite(seen.losses(seen.after)))
    return (seen.after + int(found[0]) + 1, "the loss is not a finite number") if len(found) else None


def plateau(seen: Seen) -> tuple[int, str] | None:
    """Ten epochs without a lower validation loss, or loss where nothing is validated."""
    if not seen.new_end:
        return None
    name = "val_loss" if np.isfinite(seen.epochs("val_loss")).any() else "loss"
    best, wait = math.inf, 0
    for value in seen.epochs(name):
        if value < best - _MIN_DELTA:
            best, wait = value, 0
        else:
            wait = 1 if wait >= _PATIENCE else wait + 1
    return (seen.step, f"{name} is no lower than {best:.4g} since {_PATIENCE} epochs") if wait >= _PATIENCE else None


def overfitting(seen: Seen) -> tuple[int, str] | None:
    """A validation loss 5 % above its lowest, while the loss is below what it was then."""
    if not seen.new_end:
        return None
    held_out, loss = seen.epochs("val_loss"), seen.epochs("loss")

    def overfits(count: int) -> bool:
        part = held_out[:count]
        if not np.isfinite(part).any():
            return False
        best = int(np.nanargmin(part))
        return bool(part[-1] > _OVERFIT * part[best] and loss[count - 1] < loss[best])

    if not overfits(len(held_out)) or overfits(len(held_out) - 1):
        return None
    best = int(np.nanargmin(held_out))
    return seen.step, f"val_loss {held_out[-1]:.4g} is above {held_out[best]:.4g} of epoch {best + 1}, and loss fell on"


def stalled(seen: Seen) -> tuple[int, str] | None:
    """2,000 steps through whose losses no falling line goes, with a probability of 0.51."""
    if seen.step // _STALLED_EVERY == seen.after // _STALLED_EVERY:
        return None
    end = seen.step - seen.step % _STALLED_EVERY
    losses = seen.losses(max(end - _STALLED_STEPS, 0))[: min(end, _STALLED_STEPS)]
    if len(losses) < _STALLED_STEPS or not np.isfinite(losses).all():
        return None
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    slope = float(steps @ losses / (steps @ steps))
    rest = losses - losses.mean() - slope * steps
    error = math.sqrt(float(rest @ rest) / (len(losses) - 2) / float(steps @ steps))
    falls = 0.5 * math.erfc(slope / (error * math.sqrt(2))) if error else float(slope < 0)
    return (end, f"the loss has not fallen in the last {_STALLED_STEPS:,} steps") if falls < _FALLS else None


RULES: dict[str, Callable[[Seen], tuple[int, str] | None]] = {
    "spike": spike,
    "plateau": plateau,
    "overfitting": overfitting,
    "not finite": not_finite,
    "stalled": stalled,
}
_QUIET = {"spike": _WINDOW, "stalled": _STALLED_STEPS}  # steps for which a rule says nothing more


class Watch:
    """A rule that a run is watched by; `end` ends it. It rests while something is tried.

    Attributes:
        rule: Its name.
        then: What is done.
        alerts: What it has found.
    """

    def __init__(
        self,
        run: Run,
        rule: str | Callable[[History], Any],
        then: str,
        most: int,
        numbers: Iterator[int],
        tell: Callable[[Alert], None],
        rests: Callable[[], bool],
    ) -> None:
        self.rule = rule if isinstance(rule, str) else getattr(rule, "__name__", "rule")
        self.then, self.alerts = then, list[Alert]()
        self._run, self._most, self._numbers, self._tell, self._rests = run, most, numbers, tell, rests
        self._find = RULES[rule] if isinstance(rule, str) else _Own(rule, run.history)
        self._branch, self._after, self._seq = run.history.branch, run.history.steps, run.log.seq
        self._ends = run.history.epoch_end_events()
        self._quiet_until = 0
        run.watchers.append(self)

    @property
    def is_on(self) -> bool:
        """Whether it watches."""
        return self in self._run.watchers

    def end(self) -> None:
        """Ends the watch; what was found stays in the journal."""
        if self.is_on:
            self._run.watchers.remove(self)

    def __call__(self) -> list[dict[str, Any]]:
        """Looks at the steps since the last call, on the training thread; returns commands of what is to be done."""
        if self._rests():
            return []
        try:
            found = self._find(self._new())
        except Exception as error:
            self.end()
            reason = f"The rule raised {type(error).__name__}: {error}. It has ended; the training goes on."
            return [{"action": "refuse", "reason": reason, "author": self.rule}]
        if found is None or found[0] <= self._quiet_until:
            return []
        step, words = found
        self._quiet_until = step + _QUIET.get(self.rule, 0)
        done = sum(alert.then in (HALVE, BACK) for alert in self.alerts)
        then = self.then
        if then in (HALVE, BACK) and done >= self._most:
            then, words = "pause", f"{words}; after {done} times {self.then} it rests"
        alert = Alert(next(self._numbers), self.rule, step, words, then)
        self.alerts.append(alert)
        self._tell(alert)
        return [{**command, "author": self.rule} for command in commands(self._run, alert, then)]

    def _new(self) -> Seen:
        log, branch = self._run.log, self._run.history.branch
        lineage, step = log.lineage(branch), log.tip(branch)
        new = [one for one in log.events_after(self._seq) if isinstance(one.payload, EpochEnd) and one.branch == branch]
        if branch == self._branch:
            self._ends += new
        else:
            self._branch, self._after, self._quiet_until = branch, log.branches[branch].step, 0
            self._ends = log.epoch_ends(lineage)
        seen = Seen(log, lineage, self._after, step, self._ends, bool(new))
        self._after, self._seq = step, log.seq
        return seen


class _Own:
    """A function of the user's as a rule: found where it becomes true; asked so seldom that it takes a twentieth."""

    def __init__(self, function: Callable[[History], Any], history: History) -> None:
        self._function, self._history, self._was, self._next = function, history, False, 0.0

    def __call__(self, seen: Seen) -> tuple[int, str] | None:
        began = time.perf_counter()
        if began < self._next or not seen.step:
            return None
        answer = self._function(self._history)
        now = time.perf_counter()
        self._next = now + (now - began) / _OWN_SHARE
        was, self._was = self._was, bool(answer)
        return (seen.step, answer if isinstance(answer, str) else "it is true now") if answer and not was else None


def commands(run: Run, alert: Alert, then: str) -> list[dict[str, Any]]:
    """What is to be done, as commands that a run takes."""
    why = alert.words
    if then in ("tell", "pause"):
        return [{"action": "note" if then == "tell" else "pause", "why": why}]
    log, branch = run.log, run.history.branch
    back = max(min(alert.step, log.tip(branch)) - _BACK_STEPS, 0)
    rates = {name: one.value / 2 for name, one in run.hyperparameters.items() if is_learning_rate(name)}
    halved = {"action": "set", "changes": rates, "why": why}
    if then == HALVE:  # weights that are not finite are no place to go on from
        return [*([{"action": "rewind", "step": back, "why": why}] if alert.rule == "not finite" else []), halved]
    left = batches_left(log, branch, back)
    skip = _SKIP if left is None else max(min(_SKIP, left - 1), 0)
    return [{"action": "rewind", "step": back, "skip": skip, "why": why}]
