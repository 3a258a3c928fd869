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


@dataclass
class Progress:
    """How far what is tried has come.

    Attributes:
        words: What is done now.
        before: The share of all that was done before it.
        part: The share of all that it is.
        done: The share of it that is done.
        cancelled: Whether somebody wants it to end.
    """

    words: str = "getting ready"
    before: float = 0.0
    part: float = 0.0
    done: float = 0.0
    cancelled: bool = False

    def begin(self, words: str, number: int = 1, of: int = 1) -> None:
        """Begins a part of all, from 1 on.

        Raises:
            Cancelled: If somebody wants it to end.
        """
        self.check()
        self.words, self.before, self.part, self.done = words, (number - 1) / of, 1 / of, 0.0

    def check(self) -> None:
        """Raises `Cancelled` if somebody wants it to end."""
        if self.cancelled:
            raise Cancelled("This was cancelled; the run is where it was.")

    @property
    def share(self) -> float:
        """The share of all that is done."""
        return self.before + self.part * self.done


class Start:
    """The state of a run before something is tried: the tip of its branch, which it returns to exactly.

    Args:
        run: The run, which rests then.
        by: What is compared, as each step measures it; the loss if not given, or what is measured first.
        progress: Is told how far a trial has come.
        author: Who tries, for the journal.

    Attributes:
        by: The column.
        branch: The branch that it was on.
        step: Steps done on it.
        left: The branches that were left since, that one first.

    Raises:
        ValueError: If no fit is going on, or nothing of that name is measured.
    """

    def __init__(self, run: Run, by: str | None, progress: Progress, author: str) -> None:
        if run.state not in ("running", "paused"):
            raise ValueError(
                f"Nothing can be tried while no fit is going on. Received: a run that is {run.state}. "
                "Call `fit(..., paused=True)` first."
            )
        columns = run.log.names(run.log.lineage(run.history.branch)) or ["loss"]
        by = ("loss" if "loss" in columns else columns[0]) if by is None else by
        if run.history.steps and by not in columns:
            raise ValueError(f"`by` must be what each step measures: {', '.join(columns)}. Received: {by!r}.")
        self._run, self.by, self._progress, self._was_running = run, by, progress, run.state == "running"
        self._author = author
        self._ask("pause")
        self.branch, self.step, self.left = run.history.branch, run.history.steps, list[str]()

    def _ask(self, action: str, **about: Any) -> Any:
        return self._run._ask(action, author=self._author, **about)

    def _back(self, write: Sequence[str], **place: Any) -> dict[str, Any]:
        """The command that goes to a place, on a new branch, and writes what it is told to."""
        self.left.append(self._run.history.branch)
        return {"action": "rewind", "write": write, **place}

    def go_on(self, branch: str | None, tried: Sequence[str], author: str) -> None:
        """Goes on from the tip of a branch, or from the start, and running if the run was.

        Args:
            branch: One of `tried`, or None.
            tried: The branches of the trials. What was saved of the others is deleted.
            author: Who wants it.
        """
        self._author = author
        self._ask("pause")  # as somebody may have let it run
        self._ask(**self._back(("tip", "branch"), branch=branch or self.branch))
        self.discard([one for one in tried if one != branch])
        self.resume()

    def discard(self, branches: Sequence[str]) -> None:
        """Has the checkpoints of branches deleted; their steps can be taken again from where they begin."""
        self._ask("discard", branches=[one for one in branches if one != self.branch])

    def resume(self) -> None:
        """Lets the run go on if it was running."""
        if self._was_running:
            self._ask("resume")

    @contextmanager
    def returning(self) -> Iterator[None]:
        """Returns to the start in the end; after an error the run goes on if it was running."""
        try:
            yield
        except BaseException:
            self.go_on(None, self.left, self._author)
            raise
        self._ask(**self._back((), branch=self.branch))

    def losses(
        self,
        steps: int,
        sets: Sequence[Mapping[str, Any]] = (),
        ends: Callable[[np.ndarray], bool] | None = None,
        **place: Any,
    ) -> np.ndarray:
        """Takes steps on a branch of their own, fewer where the fit ends or a loss is not finite; returns the losses.

        Args:
            steps: How many.
            sets: What is set first: `changes`, `why` and `over`, as a command has them.
            ends: Asked after each block, with the losses up to there, whether this is to end.
            **place: Where they begin, as the command `rewind` has it; the start by default.
        """
        run, progress = self._run, self._progress
        began = place.get("step", self.step)

        def taken() -> np.ndarray:
            return run.log.column(self.by, run.log.lineage(run.history.branch), began)[:steps]

        def watch() -> Sequence[dict[str, Any]]:
            losses = taken()
            progress.done = len(losses) / steps
            return [{"action": "pause", "author": "babysit"}] if ends is not None and ends(losses) else ()

        # What the run is on is written, and a place that took steps to get to; nothing else of trials.
        write = [] if self.left else ["tip", "branch"] if "step" in place else ["tip"]
        first = [self._back(write, **{"branch": self.branch, **place}), *({"action": "set", **one} for one in sets)]
        run.watchers.append(watch)
        try:
            self._ask("run", steps=steps, first=[{"action": "pause"}, *first])
        finally:
            run.watchers.remove(watch)
        progress.check()  # which has ended it
        return taken()

    def trial(
        self, value: Any, steps: int, sets: Sequence[Mapping[str, Any]] = (), before: Sequence[Trial] = (), **place: Any
    ) -> Trial:
        """Takes the steps of a trial, fewer where it is hopeless beside an earlier one.

        Args:
            value: What is tried.
            steps: How many.
            sets: What is set first, as of `losses`.
            before: The trials before, from the same place.
            **place: Where it begins, as of `losses`.
        """
        ended, part = "", max(steps // 5, 1)

        def hopeless(losses: np.ndarray) -> bool:
            nonlocal ended
            taken = len(losses)
            rivals = [one.losses[taken - part : taken].mean() for one in before if part <= taken <= one.steps]
            if rivals and losses[-part:].mean() > HOPELESS * min(rivals):
                ended = "hopeless"
            return bool(ended)

        losses = self.losses(steps, sets, hopeless if before else None, **place)
        if not np.isfinite(losses).all():
            ended = "not finite"
        elif not ended and len(losses) < steps:
            ended = "the fit was over"
        last = losses[-max(steps // 10, 1) :]
        loss = float(last.mean()) if np.isfinite(last).all() and len(last) else float("inf")
        return Trial(value, self._run.history.branch, len(losses), loss, ended, losses)
