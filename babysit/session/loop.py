"""The loop over steps. Everything that trains goes through here.

Training for the first time, going back, going on after a crash and checking a run differ in where their events
come from: from the commands of a live session, which act between two blocks, or from the record.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from babysit.core.controls import Controls
from babysit.core.events import Event
from babysit.core.position import Position
from babysit.core.runlog import Steps
from babysit.core.state import State


class Trainer(Protocol):
    """What takes steps. It knows no log, no callback, no thread and no disk.

    Attributes:
        position: Steps and epochs done, and the place in the data.
        controls: What steers it.
        event: Number of the last event that was applied.
    """

    position: Position
    controls: Controls
    event: int

    @property
    def epoch_over(self) -> bool:
        """Whether the present epoch has all its steps."""

    def step(self, limit: int) -> Steps:
        """Takes up to `limit` steps, none past the end of the epoch or a change of a value, 1 at least."""

    def apply(self, event: Event) -> None:
        """Does what an event means."""

    def capture(self) -> State:
        """A copy of everything that decides how the training goes on."""

    def restore(self, state: State) -> None:
        """Returns to a state; ValueError, and nothing is changed, if it is that of another model."""


def train(trainer: Trainer, until: float, events: Iterable[Event] = ()) -> Iterator[Steps]:
    """Trains up to a step, or to the end of an epoch that no event ends; yields a block of steps at a time.

    Args:
        trainer: What takes the steps.
        until: Steps done at the end.
        events: Recorded ones, in their order: each acts again at its step, and no block goes past it. None in a live
            session, whose commands act between two blocks.
    """
    waiting = deque(events)
    while True:
        while waiting and waiting[0].step <= trainer.position.step:
            trainer.apply(waiting.popleft())
        limit = min(until, waiting[0].step if waiting else until) - trainer.position.step
        if limit <= 0 or trainer.epoch_over:
            return
        yield trainer.step(int(min(limit, 2**31)))
