"""Rerun: returns a trainer to a step of the past, by the same events and the same steps again."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from babysit.core.events import Event
from babysit.core.runlog import Lineage, RunLog, Steps
from babysit.session.loop import Recorded, Trainer, train
from babysit.store.checkpoint_store import Candidate


class Rerun(NamedTuple):
    """What came of taking steps again.

    Attributes:
        start: Steps done in the state from which they were taken.
        differs: The first of them whose loss is another than recorded; None if there is none.
    """

    start: int
    differs: int | None


class Unreachable(ValueError):
    """A step of the past cannot be reached: what was done on the way can be neither read nor done again."""


def reach(trainer: Trainer, log: RunLog, candidates: Sequence[Candidate], lineage: Lineage, step: int) -> Rerun:
    """Brings a trainer to a step of a lineage: from the nearest kept state, by the same events and steps.

    Args:
        trainer: Left wherever it fails; its caller returns it to where it was.
        log: What was recorded.
        candidates: States that can be returned to, oldest first.
        lineage: The way from step 0.
        step: Steps done at the end.

    Raises:
        Unreachable: If there is no way; it names the nearest steps that can be reached.
        ValueError: If the present data are not those that the steps were taken on.
    """
    reason = f"There is no checkpoint from which step {step:,} can be reached."
    for candidate in reversed(candidates):
        if candidate.step > step or not lies_on(candidate, lineage):
            continue
        events = [event for event in log.along(lineage, after=candidate.event) if event.step <= step]
        if opaque := next((event for event in events if event.payload.opaque), None):
            raise Unreachable(_lost(log, candidates, lineage, step, opaque))
        try:
            trainer.restore(candidate.load())
        except ValueError as error:
            reason = str(error)
            continue
        return compare(train(trainer, Recorded(events), step), log, lineage, candidate.step)
    raise Unreachable(reason)


def lies_on(candidate: Candidate, lineage: Lineage) -> bool:
    """Whether a state was taken on a lineage."""
    return any(
        candidate.branch == part.branch and candidate.step <= part.end and candidate.event <= part.last
        for part in lineage
    )


def compare(taken: Iterable[Steps], log: RunLog, lineage: Lineage, start: int) -> Rerun:
    """Compares the losses of steps that are taken again with those recorded along a lineage."""
    differs = None
    recorded = log.column("loss", lineage)
    for steps in taken:
        then = recorded[steps.first - 1 : steps.first - 1 + steps.count]
        now = steps.losses[: len(then)]
        unequal = np.flatnonzero(~((now == then) | np.isnan(now) & np.isnan(then)))
        if differs is None and len(unequal):
            differs = steps.first + int(unequal[0])
    return Rerun(start, differs)


def _lost(log: RunLog, candidates: Sequence[Candidate], lineage: Lineage, step: int, opaque: Event) -> str:
    whole = log.lineage(lineage[-1].branch)
    edits = [event for event in log.along(whole) if event.payload.opaque]
    ends: dict[int, float] = {}  # from a kept state's step to the last one before what was edited after it
    for one in candidates:
        if lies_on(one, whole):
            ends[one.step] = min(
                [event.step - 1 for event in edits if event.seq > one.event] or [log.tip(whole[-1].branch)]
            )
    below = max((min(end, step) for start, end in ends.items() if start <= min(end, step)), default=None)
    above = min((start for start, end in ends.items() if step < start <= end), default=None)
    nearest = " and ".join(f"step {place:,}" for place in (below, above) if place is not None)
    return (
        f"Step {step:,} comes after what was edited by {opaque.author} at step {opaque.step:,}: that cannot be done "
        "again, and its state is no longer kept."
    ) + (f" The nearest that can be returned to: {nearest}." if nearest else "")
