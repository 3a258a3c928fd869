"""The cause of a spike: the same steps with and without their batches, and at half the rate, side by side."""

import numpy as np

from babysit.core.events import Branch
from babysit.core.hyperparameter import any_whole, checked
from babysit.recipes.examples import batches_left
from babysit.recipes.fan import Fan
from babysit.recipes.start import Progress, Start, Trial
from babysit.session.run import Run

BEFORE = 1  # steps before the one of the spike, which may have thrown the weights far away
AS_IT_WAS, WITHOUT, HALF = "as it was", "without the batches", "half the rate"
_LAST = "The batch is the last one of its epoch, and cannot be left out."
_PEAK = 0.5  # of the height of a spike: what stays below it has none


def cause(run: Run, progress: Progress, author: str, step: int, steps: int) -> Fan:
    """Takes the steps of a spike again in three ways, and returns to the very state; see `Panda.cause`."""
    steps = int(checked("steps", steps, any_whole(2)))
    step, taken = int(checked("step", step, any_whole())), run.history.steps
    if not BEFORE < step <= taken:
        raise ValueError(f"`step` must be one that was taken, from {BEFORE + 1} to {taken:,}. Received: step={step}.")
    start, first = Start(run, None, progress, author), step - 1 - BEFORE
    level = float(np.nanmedian(run.history[start.by][max(0, first - 32) : first + 1]))
    rates = {name: one.value / 2 for name, one in run.hyperparameters.items() if is_learning_rate(name)}
    left = batches_left(run.log, start.branch, first)
    skips = (step - 1, 1) if left == BEFORE else (first, BEFORE + 1)  # none is left out across an epoch's end
    ways = {AS_IT_WAS: (first, 0), WITHOUT: skips, HALF: (first, 0)}
    if left == BEFORE + 1:
        del ways[WITHOUT]
    trials: list[Trial] = []
    with start.returning():
        for i, (way, (at, skip)) in enumerate(ways.items(), 1):
            progress.begin(f"{way}, {i} of {len(ways)}, from step {first:,}", i, len(ways))
            branch = trials[0].branch if trials else start.branch  # the first one has kept the state
            sets = [{"changes": rates, "why": f"the cause of step {step:,}"}] if way == HALF else []
            trials.append(start.trial(way, steps, sets, branch=branch, step=at, skip=skip))
    title = f"Step {step:,} in {'three' if WITHOUT in ways else 'two'} ways, from step {first:,}"
    verdict = _verdict(step, level, trials)
    first_one = (event.payload for event in run.log.events if event.branch == trials[0].branch)
    differs = next(one.differs for one in first_one if isinstance(one, Branch))
    if differs is not None:
        verdict += (
            f" The steps taken again differ from step {differs:,} on: this is not quite the state that was there."
        )
    return Fan(run, start, title, trials, first, start.by, verdict)


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
        case [_, False]:
            return f"At half the rate there is no spike. {_LAST}"
        case [_, True]:
            return f"At half the rate there still is a spike. {_LAST}"
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
