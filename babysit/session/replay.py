"""Replay: a whole run trained once more from its record, and compared.

Every branch is trained again under its events, from each kept state to the next one. Each step's loss is compared with
the recorded one, and each kept state's digest with that of the state come upon.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from babysit.core.events import Edit
from babysit.core.runlog import RunLog
from babysit.session.loop import Trainer
from babysit.session.rerun import lies_on, rerun
from babysit.store.checkpoint_store import Candidate


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


def compare_run(
    log: RunLog, kept: Sequence[Candidate], trainer: Trainer, count: Callable[[int], object] = lambda steps: None
) -> Replay:
    """Trains all branches of a run again and compares.

    Args:
        log: What was recorded.
        kept: The run's checkpoints, oldest first.
        trainer: One of the same model, with the same data.
        count: Called with the number of steps between two checkpoints.

    Raises:
        ValueError: If there is no checkpoint, or the model or the data are others.
    """
    if not kept:
        raise ValueError("The run has no checkpoint from which it could be replayed.")
    run = _Run(log, trainer, count)
    for branch in log.branches:
        on_way = [one for one in kept if lies_on(one, log.lineage(branch))]
        for start, end in zip([None, *on_way], [*on_way, None], strict=True):
            if end is not None and end.branch != branch:
                continue  # on a branch before this one
            if (step := run.first_difference(branch, start, end)) is not None:
                return Replay(False, step, run.compared, run.steps, branch, run.remarks)
    return Replay(True, None, run.compared, run.steps, remarks=run.remarks)


class _Run:
    """A run that is trained again."""

    def __init__(self, log: RunLog, trainer: Trainer, count: Callable[[int], object]) -> None:
        self._log, self._trainer, self._count = log, trainer, count
        self.compared = self.steps = 0
        self.remarks: list[str] = []

    def first_difference(self, branch: str, start: Candidate | None, end: Candidate | None) -> int | None:
        """The first step of a branch that differs between two kept states, or its first one and its tip; or None."""
        log, trainer, lineage = self._log, self._trainer, self._log.lineage(branch)
        step, last = (log.tip(branch), math.inf) if end is None else (end.step, end.event)
        begun = max(log.branches[branch].step, start.step if start else 0)
        if start is None:
            self._leave_out(branch, begun, step, "no state before them is kept")
            return None
        try:
            trainer.restore(start.load())
        except ValueError:
            edits = [one for one in log.events if isinstance(one.payload, Edit) and one.payload.values]
            if not any(one.seq <= start.event for one in edits):
                raise
            reason = "the model was compiled anew before, with another optimizer than the one given here"
            self._leave_out(branch, begun, step, reason)
            return None
        events = [one for one in log.along(lineage, start.event) if one.step <= step and one.seq <= last]
        opaque = next((one for one in events if one.payload.opaque), None)
        until = step if opaque is None else opaque.step
        differs = rerun(trainer, log, lineage, events[: events.index(opaque)] if opaque else events, until)
        self.steps += max(0, until - begun)
        self._count(max(0, until - begun))
        if opaque is not None and differs is None:
            reason = f"they come after what was edited by {opaque.author}, and the state then is no longer kept"
            self._leave_out(branch, max(until, begun), step, reason)
        elif differs is None and end is not None:
            self.compared += 1
            differs = None if trainer.capture().digest() == end.load().digest() else step
        return differs

    def _leave_out(self, branch: str, begun: int, end: int, reason: str) -> None:
        if end > begun:
            self.remarks.append(f"Steps {begun + 1:,} to {end:,} of {branch} were not taken again: {reason}.")
