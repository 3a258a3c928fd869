"""Where a run is before something is tried, the steps of a trial, and the way back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from babysit.session.run import Run

HOPELESS = 4.0  # times the best loss: a trial above it ends early


class Cancelled(RuntimeError):
    """What was tried was cancelled; the run is where it was."""


@dataclass(frozen=True)
class Trial:
    """What came of a value, or of another way to go on, on a branch of its own.

    Attributes:
        value: The value, or the way in words.
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


class Start:
    """The state of a run before something is tried: the tip of its branch, which `again` returns to exactly.

    Args:
        run: The run, which rests then.
        by: The column of the history that is compared; the loss if not given, or what is measured first.
        told: Called with what is being tried, in words, and the share that is done; may raise `Cancelled`.
        author: Who tries, for the journal.

    Attributes:
        by: The column.
        branch: The branch that it was on.
        step: Steps done on it.
        left: The branches that were left since, that one first.
        was_running: Whether it was running.

    Raises:
        ValueError: If no fit is going on, or there is no such column.
    """

    def __init__(self, run: Run, by: str | None, told: Callable[[str, float], None], author: str) -> None:
        if run.state not in ("running", "paused"):
            raise ValueError(
                f"Nothing can be tried while no fit is going on. Received: a run that is {run.state}. "
                "Call `fit(..., paused=True)` first."
            )
        columns = run.history.columns
        by = ("loss" if "loss" in columns else columns[2]) if by is None else by  # after `step` and `epoch`
        if run.history.steps and by not in columns:
            raise ValueError(f"`by` must be a column of the history: {', '.join(columns)}. Received: {by!r}.")
        self._run, self.by, self.told, self.was_running = run, by, told, run.state == "running"
        self._author = author
        self._ask("pause")
        self.branch, self.step, self.left = run.history.branch, run.history.steps, list[str]()

    def _ask(self, action: str, **about: Any) -> None:
        self._run._ask(action, author=self._author, **about)

    def set(self, changes: Mapping[str, Any], why: str, over: int = 1) -> None:
        """Changes hyperparameters, as `Run.set` does."""
        self._ask("set", changes=changes, why=why, over=over)

    def rewind(self, **place: Any) -> None:
        """Goes to a place, named as a command names it, at rest and on a new branch."""
        if self._run.state == "running":  # as where somebody has interrupted the caller
            self._ask("pause")
        self.left.append(self._run.history.branch)
        self._ask("rewind", **place)

    def again(self, branch: str | None = None) -> None:
        """Returns to the state of the start, or goes on from the tip of another branch, at rest."""
        self.rewind(branch=branch or self.branch)

    def go_on(self, branch: str | None, tried: Sequence[str], author: str) -> None:
        """Goes on from the tip of a branch, or from the start, and running if the run was.

        Args:
            branch: One of `tried`, or None.
            tried: The branches of the trials. What was saved of the others is deleted.
            author: Who wants it.
        """
        self._author = author
        self.again(branch)
        self.discard([one for one in tried if one != branch])
        self.resume()

    def discard(self, branches: Sequence[str]) -> None:
        """Has the checkpoints of branches deleted; their steps can be taken again from where they begin."""
        self._ask("discard", branches=[one for one in branches if one != self.branch])

    def resume(self) -> None:
        """Lets the run go on if it was running."""
        if self.was_running:
            self._ask("resume")

    @contextmanager
    def returning(self) -> Iterator[None]:
        """Returns to the start in the end; after an error the run goes on if it was running."""
        try:
            yield
        except BaseException:
            self.go_on(None, self.left, self._author)
            raise
        self.again()

    def losses(self, steps: int, ends: Callable[[np.ndarray], bool] | None = None) -> np.ndarray:
        """Takes steps from where the run rests, fewer where it ends or a loss is not finite; returns their losses.

        Args:
            steps: How many.
            ends: Asked after each block, with the losses up to there, whether this is to end.
        """
        run, after = self._run, self._run.history.steps
        lineage = run.log.lineage(run.history.branch)

        def watch() -> Sequence[dict[str, Any]]:
            over = ends is not None and ends(run.log.column(self.by, lineage, after))
            return [{"action": "pause", "author": "babysit"}] if over else ()

        run.watchers.append(watch)
        try:
            run.run(steps)
        except FloatingPointError:
            pass
        finally:
            run.watchers.remove(watch)
        self.told("", 0.0)  # where it was cancelled, this ends it
        return run.history[self.by][after : after + steps]

    def trial(self, value: Any, steps: int, before: Sequence[Trial] = ()) -> Trial:
        """Takes the steps of a trial, fewer where it is hopeless beside an earlier one.

        Args:
            value: What is tried; the run rests where the trial begins, and has it.
            steps: How many.
            before: The trials before, from the same place.
        """
        ended, branch, part = "", self._run.history.branch, max(steps // 5, 1)

        def hopeless(losses: np.ndarray) -> bool:
            nonlocal ended
            taken = len(losses)
            rivals = [one.losses[taken - part : taken].mean() for one in before if part <= taken <= one.steps]
            if rivals and losses[-part:].mean() > HOPELESS * min(rivals):
                ended = "hopeless"
            return bool(ended)

        losses = self.losses(steps, hopeless if before else None)
        if not np.isfinite(losses).all():
            ended = "not finite"
        elif not ended and len(losses) < steps:
            ended = "the fit was over"
        last = losses[-max(steps // 10, 1) :]
        loss = float(last.mean()) if np.isfinite(last).all() and len(last) else float("inf")
        return Trial(value, branch, len(losses), loss, ended, losses)
