"""Replay: a whole run trained once more from its record, and compared.

From the start checkpoint every branch is trained again under its events. Each step's loss is compared with the
recorded one, each checkpoint's digest with the state come upon.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from babysit.core.events import ROOT, Edit
from babysit.core.runlog import RunLog, Steps
from babysit.core.state import State
from babysit.session.loop import Recorded, Trainer, train
from babysit.session.rerun import compare
from babysit.store.checkpoint_store import Candidate

_COMPILED_ANEW = "the model was compiled anew before, with another optimizer than the one given here"
_EDIT, _CHECK, _DEPARTURE, _END = range(4)  # what happens at one place of a branch, in this order


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        identical: Whether everything compared was equal, byte for byte.
        first_difference: The first step at which it was not: whose loss, or the state after it, is
            another; None if it was.
        compared: How many checkpoints' digests were compared.
        steps: How many steps were taken again, on all branches.
        branch: Where it differed; None if it did not.
        remarks: In sentences, which steps could not be taken again, and why equality cannot be expected.
    """

    identical: bool
    first_difference: int | None
    compared: int
    steps: int = 0
    branch: str | None = None
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.identical:
            said = f"Identical: {self.steps:,} steps taken again, {self.compared} checkpoints compared."
        else:
            said = f"Differs at step {self.first_difference:,} of {self.branch}."
        return " ".join([said, *self.remarks])


class _Place(NamedTuple):
    """A place on a branch: steps done, number of the last event that has acted, and what happens there."""

    step: int
    event: float
    kind: int
    about: Any


def compare_run(
    log: RunLog,
    kept: Sequence[Candidate],
    make_trainer: Callable[[], Trainer],
    count: Callable[[int], Any] = lambda steps: None,
) -> Replay:
    """Trains all branches of a run again and compares.

    Args:
        log: What was recorded.
        kept: The run's checkpoints, oldest first.
        make_trainer: Makes a trainer of the same model, with the same data.
        count: Called with the number of steps of each block.

    Raises:
        ValueError: If there is no checkpoint of the start, or the data are others.
    """
    run = _Run(log, kept, make_trainer(), count)
    for branch in log.branches:
        if (step := run.first_difference(branch)) is not None:
            return Replay(False, step, run.compared, run.steps, branch, run.remarks)
    return Replay(True, None, run.compared, run.steps, remarks=run.remarks)


class _Run:
    """A run that is trained again, branch after branch."""

    def __init__(self, log: RunLog, kept: Sequence[Candidate], trainer: Trainer, count: Callable[[int], Any]) -> None:
        self._log, self._kept, self._trainer, self._count = log, kept, trainer, count
        self._starts: dict[str, State] = {}
        self.compared = self.steps = 0
        self.remarks: list[str] = []

    def first_difference(self, branch: str) -> int | None:
        """The first step of a branch that differs, or None."""
        if not self._begin(branch):
            return None
        reached = -1
        for place in sorted(self._places(branch), key=lambda place: place[:3]):
            if place.event < self._trainer.event or place.step < reached:
                continue  # within what is left out
            if (step := self._train_to(branch, place)) is not None:
                return step
            if place.kind == _EDIT:
                after = self._after(branch, place)
                if after is None:
                    return None
                reached = after.step
            elif place.kind == _CHECK:
                self.compared += 1
                if self._trainer.capture().digest() != place.about.load().digest():
                    return place.step
            elif place.kind == _DEPARTURE:
                self._starts[place.about] = self._trainer.capture()
        return None

    def _begin(self, branch: str) -> bool:
        """Restores the state in which a branch begins; False if that is lost."""
        state = self._starts.pop(branch, None)
        if state is None:
            first = next((one for one in self._kept if one.branch == branch), None)
            begun = self._log.branches[branch].step
            if first is None or first.step != begun:
                if branch == ROOT and len(self._log.branches) == 1:
                    raise ValueError("The run has no checkpoint of its start, from which it could be replayed.")
                left_out = self._log.tip(branch) - begun
                self.remarks.append(f"The {left_out:,} steps of {branch} were not taken again: its start is lost.")
                return False
            state = first.load()
        if branch == ROOT:
            self._trainer.restore(state)
        elif not self._restored(state):
            left_out = self._log.tip(branch) - self._log.branches[branch].step
            self.remarks.append(f"The {left_out:,} steps of {branch} were not taken again: {_COMPILED_ANEW}.")
            return False
        return True

    def _restored(self, state: State) -> bool:
        """Restores a state; False if it is that of a model that was compiled anew in the run."""
        try:
            self._trainer.restore(state)
        except ValueError:
            if not any(isinstance(event.payload, Edit) and event.payload.values for event in self._log.events):
                raise
            return False
        return True

    def _places(self, branch: str) -> Iterator[_Place]:
        for one in self._kept:
            if one.branch == branch:
                yield _Place(one.step, one.event, _CHECK, one)
        for name, (parent, step, last) in self._log.branches.items():
            if parent == branch:
                yield _Place(step, last, _DEPARTURE, name)
        for event in self._log.events:
            if event.branch == branch and event.payload.opaque:
                yield _Place(event.step, event.seq, _EDIT, event)
        yield _Place(self._log.tip(branch), math.inf, _END, None)

    def _train_to(self, branch: str, place: _Place) -> int | None:
        """Trains to a place; returns the first step whose loss differs, or None."""
        lineage, trainer = self._log.lineage(branch), self._trainer
        limit = place.event - 1 if place.kind == _EDIT else place.event
        events = [event for event in self._log.along(lineage, trainer.event) if event.seq <= limit]
        taken = self._counted(train(trainer, Recorded(events), place.step))
        return compare(taken, self._log, lineage, trainer.position.step).differs

    def _counted(self, taken: Iterator[Steps]) -> Iterator[Steps]:
        for steps in taken:
            self.steps += steps.count
            self._count(steps.count)
            yield steps

    def _after(self, branch: str, edit: _Place) -> Candidate | None:
        """Restores the first state after an edit, whose effect can only be read; None if there is none."""
        after = [one for one in self._kept if one.branch == branch and one.event >= edit.event]
        found = min(after, key=lambda one: (one.event, one.step), default=None)
        end = self._log.tip(branch) if found is None else found.step
        if end > edit.step:
            self.remarks.append(
                f"Steps {edit.step + 1:,} to {end:,} of {branch} were not taken again: they come after what was edited "
                f"by {edit.about.author}, and the state then is no longer kept."
            )
        if found is not None and not self._restored(found.load()):
            steps = f"Steps {found.step + 1:,} to {self._log.tip(branch):,} of {branch}"
            self.remarks.append(f"{steps} were not taken again: {_COMPILED_ANEW}.")
            return None
        return found
