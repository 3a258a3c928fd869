"""The present state of a run in plain data."""

import math
import time
from collections import deque
from typing import Any

from babysit.session.session import Session

WINDOW_S = 3.0  # over which the speed is measured


def describe(session: Session, rate: "Rate") -> dict[str, Any]:
    """The position, the hyperparameters and the checkpoints of a run."""
    position, controls = session.position, session.controls
    plan, loss = session.plan, session.loss
    batch_size = controls.at(position.step).get("batch_size", 0)
    done, size = progress(session, batch_size)
    speed = rate.examples_a_second
    return {
        "step": position.step,
        "epoch": position.epoch,
        "epochs": session.epochs,
        "examples_done": done,
        "examples_an_epoch": size,
        "branch": session.branch,
        "loss": loss if math.isfinite(loss) else None,
        "hyperparameters": {
            name: {
                "value": found.value,
                **vars(found.scale),
                "since": controls.since.get(name, 0),
                "follows_schedule": name in session.trainer.followed,
            }
            for name, found in controls.hyperparameters(position.step, session.trainer.followed).items()
        },
        "couplings": {"scaling": controls.scaling},
        "checkpoints": session.store.rows,
        "remarks": list(plan.remarks) if plan else [],
        "examples_a_second": speed,
        "seconds_left": ((session.epochs - position.epoch) * size - done) / speed if speed and size else None,
    }


def progress(session: Session, batch_size: int) -> tuple[int, int | None]:
    """Examples of the present epoch done, and examples an epoch; None where that is not known."""
    fit, position = session.controls.fit, session.position
    if fit is None or session.plan is None:
        return 0, 0
    if fit.steps_per_epoch:
        return position.epoch_step * batch_size, fit.steps_per_epoch * batch_size
    return position.example, session.plan.source.size


class Rate:
    """How fast examples went by in the last seconds."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what went by: a rest would count as slow."""
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, examples: int) -> None:
        """Notes how many examples were seen by now."""
        now, seen = time.perf_counter(), self._seen
        seen.append((now, examples))
        while len(seen) > 2 and now - seen[0][0] > WINDOW_S:
            seen.popleft()

    @property
    def examples_a_second(self) -> float | None:
        """Over the last seconds; None where there are too few."""
        seen = self._seen  # the training thread goes on writing it
        if len(seen) < 2:
            return None
        (start, first), (end, last) = seen[0], seen[-1]
        return (last - first) / (end - start)
