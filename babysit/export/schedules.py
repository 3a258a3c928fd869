"""The hyperparameters of a run as schedules, for another program to follow."""

from typing import Any

import keras
import numpy as np

from babysit.core.controls import SCHEDULE
from babysit.core.history import History
from babysit.engine.catalog import optimizers_in
from babysit.engine.model import TrainableModel
from babysit.session.session import Session


def schedules(session: Session, model: TrainableModel) -> dict[str, Any]:
    """The hyperparameters along the present branch, step by step.

    Returns:
        Name -> for a learning rate a `LearningRateSchedule`, with the value of each step when it is
        called with the steps done before; otherwise a list of (step, value): from that many steps
        done on the value acts.
    """
    history, rates = History(session.log, lambda: session.branch), model.bindings.rates
    found: dict[str, Any] = {}
    for name in history.hyperparameters:
        column = history[name]
        points = [(step, float(column[step])) for step in _turns(column) if np.isfinite(column[step])]
        if name in rates and points:
            found[name] = rates[name] if _follows_throughout(session, model, name) else _piecewise(points)
        elif points:
            found[name] = [(step, int(value)) for step, value in points] if name == "batch_size" else points
    return found


def _turns(column: np.ndarray) -> list[int]:
    """Steps done when a column takes another value, and 0."""
    changed = (column[1:] != column[:-1]) & ~(np.isnan(column[1:]) & np.isnan(column[:-1]))
    return [0, *(np.flatnonzero(changed) + 1).tolist()] if len(column) else []


def _follows_throughout(session: Session, model: TrainableModel, name: str) -> bool:
    """Whether a learning rate followed its schedule alone, and the optimizer had done no steps before the run."""
    log, optimizer = session.log, optimizers_in(model.optimizers)[name.rpartition(".")[0]]
    values = [controls.values.get(name) for _, controls in log.controls_along(log.lineage(session.branch))]
    return values == [SCHEDULE] * len(values) and int(optimizer._iterations) == log.tip(session.branch)


def _piecewise(points: list[tuple[int, float]]) -> Any:
    steps, values = zip(*points, strict=True)
    boundaries = [step - 1 for step in steps[1:]]  # up to and including which Keras gives the value before
    if not boundaries:
        boundaries, values = [0], values * 2
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, list(values))
