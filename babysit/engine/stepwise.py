"""One step at a time, for a model that runs eagerly."""

from collections.abc import Callable
from typing import Any

from babysit.engine.batch import batch_at
from babysit.engine.step_logs import LogLayout, StepLogs, StepResult

Step = Callable[[Any], StepResult]


class Stepwise:
    """Steps in Python, one call each, with the methods of a `Block`.

    Args:
        step: What to do with a batch.
    """

    def __init__(self, step: Step) -> None:
        self._step = step

    def trace(self, data: Any, order: Any) -> None:
        """Does nothing."""

    def run(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, stop_if_not_finite: bool = False
    ) -> StepLogs:
        """Runs `count` steps: see `Block`."""
        parts: list[StepLogs] = []
        for i in range(count):
            layout = LogLayout(self._step(batch_at(data, order, cursor + i * batch_size, batch_size)))
            parts.append(layout.read_one())
            if stop_if_not_finite and not layout.loss_is_finite:
                break
        return StepLogs.joined(parts)
