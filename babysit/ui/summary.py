"""The chart in words, for those who do not see it."""

import numpy as np

from babysit.ui.run_series import RunSeries, words_of
from babysit.ui.series import MEAN, SMOOTHED, STEP, with_smoothed

SMOOTHING = 0.97


def summary(series: RunSeries) -> str:
    """A few sentences: the losses, and what was done last."""
    if not (steps := series.steps()):
        return "Nothing has been measured yet."
    loss = with_smoothed(series.along().measured("loss"), SMOOTHING)[SMOOTHED, -1]
    sentences = [f"At step {steps:,} the smoothed training loss is {loss:.3g}."]
    valid = series.along().epochs("val_loss")
    if np.isfinite(valid[MEAN]).any():
        best = int(np.nanargmin(valid[MEAN]))
        lowest = f"{valid[MEAN, best]:.3g} at step {int(valid[STEP, best]):,}"
        sentences.append(f"The validation loss is {valid[MEAN, -1]:.3g}; its lowest was {lowest}.")
    for last in series.lineage_entries()[-1:]:
        sentences.append(f"The last change was at step {last.step:,} by {last.author}: {words_of(last)}.")
    return " ".join(sentences)
