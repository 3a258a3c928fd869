"""The cause of a spike: the same steps with and without their batches, and at half the rate, side by side."""

from collections.abc import Callable
from typing import Any

import numpy as np

from babysit.core.hyperparameter import any_whole, checked
from babysit.recipes.fan import Fan
from babysit.recipes.start import Start, Trial
from babysit.session.run import Run

BEFORE = 1  # steps before the one of the spike, which may have thrown the weights far away
AS_IT_WAS, WITHOUT, HALF = "as it was", "without the batches", "half the rate"
_PEAK = 0.5  # of the height of a spike: what stays below it has none


def cause(run: Run, told: Callable[[str, float], None], step: int, steps: int) -> Fan:
    """Takes the steps of a spike again in three ways, and returns to the very state; see `Panda.cause`."""
    steps = int(checked("steps", steps, any_whole(2)))
    step, taken = int(checked("step", step, any_whole())), run.history.steps
    if not BEFORE < step <= taken:
        raise ValueError(f"`step` must be one that was taken, from {BEFORE + 1} to {taken:,}. Received: step={step}.")
    start, first = Start(run, told=told), step - 1 - BEFORE
    level = float(np.nanmedian(run.history[start.by][max(0, first - 32) : first + 1]))
    rates: dict[str, Any] = {name: one.value / 2 for name, one in run.hyperparameters.items() if is_learning_rate(name)}
    ways = {AS_IT_WAS: 0, WITHOUT: BEFORE + 1, HALF: 0}
    trials: list[Trial] = []
    with start.returning():
        for i, (way, skip) in enumerate(ways.items()):
            told(f"{way}, {i + 1} of {len(ways)}", i / len(ways))
            start.again()
            run.rewind(first, skip=skip)
            if way == HALF:
                run.set(why=f"the cause of step {step:,}", **rates)
            trials.append(start.trial(way, steps))
    title = f"Step {step:,} in three ways, from step {first:,}"
    return Fan(run, start, title, trials, first, start.by, _verdict(step, level, trials))


def is_learning_rate(name: str) -> bool:
    """Whether a hyperparameter is a learning rate, of one optimizer or of several."""
    return name.rpartition(".")[2] == "learning_rate"


def _verdict(step: int, level: float, trials: list[Trial]) -> str:
    """Which of the ways has no spike: its highest loss is less than half as far above the level before."""
    heights = [_highest(trial) - level for trial in trials]
    spiked = [not height < _PEAK * heights[0] for height in heights]
    if heights[0] <= 0:
        return f"Taken again, step {step:,} shows no spike."
    match spiked:
        case [_, False, True]:
            return "It is the batches: without them there is no spike, at half the rate there still is."
        case [_, True, False]:
            return "It is the learning rate: at half of it there is no spike, and without the batches there still is."
        case [_, False, False]:
            return "It takes both: without the batches, or at half the rate, there is no spike."
    return "Neither: it comes without the batches and at half the rate too, so look further back."


def _highest(trial: Trial) -> float:
    losses = trial.losses
    return float(losses.max()) if len(losses) and np.isfinite(losses).all() else float("inf")
