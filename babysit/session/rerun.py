"""Rerun: returns a trainer to a step of the past, by the same events and the same steps again."""

from collections.abc import Iterable, Sequence

import numpy as np

from babysit.core.events import Event
from babysit.core.runlog import Lineage, RunLog
from babysit.session.loop import Trainer, train
from babysit.store.checkpoint_store import Candidate


class Unreachable(ValueError):
    """A step of the past cannot be reached: what was done on the way can be neither read nor done again."""


def reach(trainer: Trainer, log: RunLog, candidates: Sequence[Candidate], lineage: Lineage, step: int) -> int | None:
    """Brings a trainer to a step of a lineage: from the nearest kept state, by the same events and steps.

    Args:
        trainer: Left wherever it fails; its caller returns it to where it was.
        log: What was recorded.
        candidates: States that can be returned to, oldest first.
        lineage: The way from step 0.
        step: Steps done at the end.

    Returns:
        The first step taken again whose loss is another than recorded; None if there is none.

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
        return rerun(trainer, log, lineage, events, step)
    raise Unreachable(reason)


def lies_on(candidate: Candidate, lineage: Lineage) -> bool:
    """Whether a state was taken on a lineage."""
    return any(
        candidate.branch == part.branch and candidate.step <= part.end and candidate.event <= part.last
        for part in lineage
    )


def rerun(trainer: Trainer, log: RunLog, lineage: Lineage, events: Iterable[Event], step: int) -> int | None:
    """Takes steps again under their events; returns the first one whose loss is another than recorded, or None."""
    differs, recorded = None, log.column("loss", lineage)
    for steps in train(trainer, step, events):
        then = recorded[steps.first - 1 : steps.first - 1 + steps.count]
        now = steps.columns.get("loss", np.full(steps.count, np.nan))[: len(then)]
        unequal = np.flatnonzero(~((now == then) | np.isnan(now) & np.isnan(then)))
        if differs is None and len(unequal):
            differs = steps.first + int(unequal[0])
    return differs


def _lost(log: RunLog, candidates: Sequence[Candidate], lineage: Lineage, step: int, opaque: Event) -> str:
    whole = log.lineage(lineage[-1].branch)
    edits = [event for event in log.along(whole) if event.payload.opaque]
    kept = {
        one.step
        for one in candidates
        if lies_on(one, whole) and not any(one.event < edit.seq and edit.step <= one.step for edit in edits)
    }
    nearest = [*sorted(one for one in kept if one < step)[-1:], *sorted(one for one in kept if one > step)[:1]]
    return (
        f"Step {step:,} comes after an edit by {opaque.author} at step {opaque.step:,}, which cannot be repeated and "
        f"of which no state is kept. Nearest that can be reached: {' and '.join(f'step {one:,}' for one in nearest)}."
    )
