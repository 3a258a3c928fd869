"""Which examples a step saw."""

from typing import Any

import numpy as np

from babysit.core.controls import Controls, apply
from babysit.core.hyperparameter import any_whole, checked
from babysit.core.order import permutation
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import RunLog
from babysit.engine.data.arrays import Arrays
from babysit.engine.trainer import KerasTrainer


def examples(log: RunLog, branch: str, step: int, trainer: KerasTrainer) -> np.ndarray:
    """The rows of the batch that a step of a branch saw; see `Panda.examples`."""
    step, steps = int(checked("step", step, any_whole())), log.tip(branch)
    if step > steps:
        raise ValueError(f"`step` must be one that was taken, from 1 to {steps:,}. Received: {step}.")
    if not isinstance(trainer.source, Arrays):
        raise ValueError(
            "`examples` needs a fit with data in arrays, whose order follows from the seed. Received: "
            + ("none: call `fit(…, paused=True)` first." if trainer.source is None else "batches, in their own order.")
        )
    at, fit, batch_size = position_at(log, branch, step - 1)
    if fit.data != trainer.source.fingerprint:
        raise ValueError(f"Step {step:,} was taken on other data than the present ones. Received: step={step}.")
    order = permutation(trainer.source.size, trainer.seed, at.data_pass, fit.shuffle, fit.batch_size)
    return order[at.example : at.example + batch_size]


def position_at(log: RunLog, branch: str, step: int) -> tuple[Position, FitSpec, int]:
    """Where a branch stands when so many steps are done, the fit then, and the batch size of the next step."""
    lineage = log.lineage(branch, step)
    sizes = log.hyperparameter("batch_size", log.lineage(branch))
    controls, at = Controls(), Position()
    for event in log.along(lineage):
        at = _advanced(at, controls.fit, sizes[at.step : event.step])
        controls, at = apply(controls, at, event)
    assert controls.fit is not None
    at = _advanced(at, controls.fit, sizes[at.step : step])
    size: Any = controls.at(step)["batch_size"]
    return at, controls.fit, int(size)


def _advanced(at: Position, fit: FitSpec | None, batch_sizes: np.ndarray) -> Position:
    """The position after steps of one epoch, of which the last one may have been short of examples."""
    if fit is None or not len(batch_sizes):
        return at
    examples = int(batch_sizes.sum())
    return at.advanced(len(batch_sizes), examples if fit.size is None else min(examples, fit.size - at.example))


def batches_left(log: RunLog, branch: str, step: int) -> int | None:
    """How many batches of the epoch are left when so many steps of a branch are done; None where nobody knows."""
    at, fit, batch_size = position_at(log, branch, step)
    left = [] if fit.size is None else [-(-(fit.size - at.example) // batch_size)]
    left += [] if fit.steps_per_epoch is None else [fit.steps_per_epoch - at.epoch_step]
    return min(left, default=None)
