"""Keeping: which states of a training are put on its shelf, and when."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from babysit.session.history import History
from babysit.store.checkpoints import BEST, HAND, Shelf
from babysit.store.files import Checkpoint, State

# A copy of the state in memory is made so seldom that it costs this share of the time; where steps cannot be taken
# again, this one.
SNAPSHOT_SHARE, ONLY_SHARE = 0.01, 0.05


class Keeper:
    """Puts the states of one training on its shelf.

    Args:
        shelf: The run's.
        history: The run's, for the branch and what was best.
        state: Returns a copy of the present state.

    Attributes:
        snapshot: A state in memory from which the present one follows; None if there is none.
        by_steps: Whether it follows by steps alone, so that they can be taken again.
    """

    def __init__(self, shelf: Shelf, history: History, state: Callable[[], State]) -> None:
        self.shelf, self._history, self._state = shelf, history, state
        self.snapshot: State | None = None
        self.by_steps = True
        self._snapshot_time = self._snapshot_cost = 0.0
        self._best: tuple[State, str] | None = None  # the best one so far and its branch, until it is saved
        self._bests: dict[str, float] = {}

    def save(self, name: str | None, write_model: Callable[..., Any]) -> Checkpoint:
        """Saves the present state under a new name, made from the step if none is given.

        Raises:
            ValueError: If the name is taken, or none.
            OSError: If the disk does not take it; nothing is left behind.
        """
        state = self._state()
        name = self.shelf.free_name(state.step) if name is None else self.shelf.checked_name(name)
        return self.shelf.keep(state, name, self._history.branch, HAND, write_model)

    def keep(self, anchor: str = "") -> None:
        """Has the present state saved beside the training, without a name; what for says the anchor."""
        state = self._taken()
        self.shelf.spent(self._snapshot_cost)
        if anchor:  # there for as long as the process lives, should the disk not take it
            self.shelf.remember(state, self._history.branch)
        self.shelf.keep_soon(state, self._history.branch, anchor)

    def keep_left(self, state: State, branch: str) -> None:
        """Has a state saved that is left, and that no steps lead to again."""
        self.shelf.remember(state, branch)
        self.shelf.keep_soon(state, branch, "tip")

    def keep_last(self) -> None:
        """Saves the present state, and what waits to be saved.

        Raises:
            OSError: If the disk does not take it.
        """
        self.keep_best()
        self.shelf.keep(self._state(), None, self._history.branch, "end")

    def keep_if_due(self) -> None:
        """Has the present state saved if what all that costs stays below its share."""
        if self.shelf.is_due():
            self.keep()
            self.keep_best()

    def note_best(self, name: str, sign: int, logs: Mapping[str, Any]) -> None:
        """Takes a copy of the state if what is monitored has never been better in this run.

        Args:
            name: Of what is monitored.
            sign: 1 if less of it is better, −1 if more.
            logs: Of the epoch that has just ended, the last one in history.
        """
        value = logs.get(name)
        if not isinstance(value, int | float):
            return
        if name not in self._bests:
            before = self._history.logged(name)[:-1]
            self._bests[name] = sign * min(
                [sign * one for one in before if isinstance(one, int | float)] or [float("inf")]
            )
        if sign * value < sign * self._bests[name]:
            self._bests[name] = value
            self._best = self._state(), self._history.branch

    def keep_best(self) -> None:
        """Has the best state so far saved, if it is another one by now."""
        if self._best is not None and BEST not in self.shelf.names:  # which a person may have taken
            self.shelf.keep_soon(*self._best, name=BEST)
        self._best = None

    def keep_snapshot(self, share: float) -> None:
        """Takes a snapshot if there is none, or if the last is so long ago that one costs this share of the time."""
        if self.snapshot is None or time.perf_counter() - self._snapshot_time > self._snapshot_cost / share:
            self.shelf.remember(self._taken(), self._history.branch)

    def _taken(self) -> State:
        """The present state, which is the snapshot from now on."""
        began = time.perf_counter()
        self.snapshot, self.by_steps = self._state(), True
        self._snapshot_time = time.perf_counter()
        self._snapshot_cost = self._snapshot_time - began
        return self.snapshot
