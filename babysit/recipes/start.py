"""Where a run is before something is tried, and the way back to there."""

import math
from collections.abc import Iterator

import numpy as np

from babysit.session.run import Run

HOPELESS = 4.0  # times the best loss: a trial above it ends early


class Start:
    """The state of a run before something is tried: the tip of its branch, which `again` returns to exactly.

    Args:
        run: The run, which rests then.
        by: The column of the history that is compared.

    Attributes:
        branch: The branch that it was on.
        step: Steps done on it.
        was_running: Whether it was running.

    Raises:
        ValueError: If no fit is going on, or there is no such column.
    """

    def __init__(self, run: Run, by: str = "loss") -> None:
        if run.state not in ("running", "paused"):
            raise ValueError(
                f"Nothing can be tried while no fit is going on. Received: a run that is {run.state}. "
                "Call `fit(..., paused=True)` first."
            )
        if run.history.steps and by not in run.history.columns:
            raise ValueError(
                f"`by` must be a column of the history: {', '.join(run.history.columns)}. Received: {by!r}."
            )
        self._run, self._by, self.was_running = run, by, run.state == "running"
        run.pause()
        self.branch, self.step = run.history.branch, run.history.steps

    def again(self, branch: str | None = None) -> None:
        """Returns to the state of the start, or goes on from the tip of another branch, at rest."""
        self._run.pause()  # it may still take steps, where somebody has interrupted the caller
        self._run.rewind(branch or self.branch)

    def resume(self) -> None:
        """Lets the run go on if it was running."""
        if self.was_running:
            self._run.resume()

    def losses(self, steps: int, parts: int) -> Iterator[np.ndarray]:
        """The losses from the start on, after each part of so many steps; ends where one is not finite."""
        taken = 0
        for part in range(1, parts + 1):
            more = steps * part // parts - taken
            if more:
                finite = self._take(more)
                losses = self._run.history[self._by][self.step :]
                taken = len(losses)
                yield losses
                if not finite or not math.isfinite(losses[-1]) or self._run.state != "paused":
                    return

    def _take(self, steps: int) -> bool:
        """Takes steps; returns whether their losses were finite."""
        try:
            self._run.run(steps)
        except FloatingPointError:
            return False
        return True
