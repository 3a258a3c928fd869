"""The loop over steps. Everything that trains goes through here.

Training for the first time, going back, going on after a crash and checking a run differ in where their events
come from: from the commands of a live session, which act between two blocks, or from the record.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from babysit.core.controls import Controls
from babysit.core.events import Event
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import Steps
from babysit.core.scale import Scale
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


class LiveTrainer(Trainer, Protocol):
    """What a session asks of a trainer beyond the loop.

    Attributes:
        followed: Learning rate -> number that its schedule gives now.
        schedules: Learning rates that were compiled with a schedule.
        steps_to_update: Steps until accumulated gradients have been applied; 0 where none are.
        accumulates: Whether gradients are accumulated over several steps.
        repeatable: Whether the data give the same examples at the same position again.
        pass_over: Whether the present pass over the data is over.
        interrupted: Whether a step was begun and not ended, so that variables may have changed.
        seeds: How far each random generator was drawn on.
        compiled_anew: Whether the model was compiled, or given another optimizer, since it was looked at.
    """

    followed: Mapping[str, float]
    interrupted: bool

    @property
    def schedules(self) -> tuple[str, ...]: ...  # noqa: D102  (see the attributes)
    @property
    def steps_to_update(self) -> int: ...  # noqa: D102
    @property
    def accumulates(self) -> bool: ...  # noqa: D102
    @property
    def repeatable(self) -> bool: ...  # noqa: D102
    @property
    def pass_over(self) -> bool: ...  # noqa: D102
    @property
    def seeds(self) -> list[list[int]]: ...  # noqa: D102
    @property
    def compiled_anew(self) -> bool: ...  # noqa: D102

    def prepare(
        self, source: Any, ranges: Any, batch_size: int, fit: FitSpec, begins: Position
    ) -> tuple[dict[str, Any], dict[str, Scale]]:
        """Takes the data of a fit and makes the hyperparameters live; returns their values and bounds."""

    def steps_left(self, batch_size: int) -> int | None:
        """Steps that the present pass has left at a batch size, where that is known."""

    def short_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory did not suffice."""

    def epoch_began(self) -> None:
        """Has the user's data hear that an epoch begins."""

    def epoch_ended(self, pass_over: bool) -> None:
        """Has the user's data hear that an epoch is over."""

    def epoch_logs(self, last: Mapping[str, Any] | None) -> dict[str, Any]:
        """What Keras reports of an epoch whose last step returned `last`; None where that is lost."""

    def observe(self) -> Any:
        """A snapshot of what only steps should change, for `difference`."""

    def difference(self, before: Any) -> str:
        """What was changed since `observe` gave this, in words; empty if nothing was."""

    def adopt(self) -> dict[str, tuple[Any, Any]]:
        """Keeps the hyperparameters that others set on the model itself; returns name -> (old, new)."""

    def guarded(self) -> AbstractContextManager[None]:
        """Within, the model may be looked at: its metrics, seeds and flags are put back at the end."""

    def weights_in(self, state: State) -> list[np.ndarray]:
        """The model's weights in a state, as `get_weights` orders them."""

    def finish(self) -> str:
        """Puts moving averages, where there are any, in place of the weights; returns which optimizer did."""

    def release(self) -> None:
        """Leaves a stock model: plain numbers where live ones were."""


class Script(Protocol):
    """Where events come from."""

    def due(self, trainer: Trainer) -> Iterable[Event]:
        """The events that act at the trainer's step, in their order."""

    def horizon(self, position: Position) -> float:
        """The step past which no block goes."""


def train(trainer: Trainer, script: Script, until: float) -> Iterator[Steps]:
    """Trains up to a step, or to the end of an epoch that no event ends; yields a block of steps at a time."""
    while True:
        for event in script.due(trainer):
            trainer.apply(event)
        limit = min(until, script.horizon(trainer.position)) - trainer.position.step
        if limit <= 0 or trainer.epoch_over:
            return
        yield trainer.step(int(min(limit, 2**31)))


class Live:
    """The script of a live session: its commands act between two blocks."""

    def due(self, trainer: Trainer) -> Iterable[Event]:
        """None: events of a live session are applied as they are emitted."""
        return ()

    def horizon(self, position: Position) -> float:
        """As far as one likes: a session says with each block where it ends."""
        return math.inf


class Recorded:
    """The script of steps that are taken again: recorded events, each where it acted.

    Args:
        events: In their order; those that the trainer's state does not contain.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = list(events)[::-1]

    def due(self, trainer: Trainer) -> Iterator[Event]:
        """The next events, as long as they act at the trainer's step."""
        while self._events and self._events[-1].step <= trainer.position.step:
            yield self._events.pop()

    def horizon(self, position: Position) -> float:
        """The step of the next event."""
        return self._events[-1].step if self._events else math.inf
