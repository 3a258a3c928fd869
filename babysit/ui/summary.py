"""The chart in words, for those who do not see it."""

import numpy as np

from babysit.core.words import label
from babysit.ui.run_series import RunSeries
from babysit.ui.series import MEAN, SMOOTHED, STEP, with_smoothed

SMOOTHING = 0.97


def summary(series: RunSeries) -> str:
    """A few sentences: the losses and where they go, the metrics, and what was done last."""
    if not (steps := series.steps()):
        return "Nothing is measured yet."
    columns = with_smoothed(series.along("measured", "loss"), SMOOTHING)
    before = columns[:, columns[STEP] <= steps - max(steps // 10, 1)]
    sentences = [f"At step {steps:,} no loss is known."]
    if columns.shape[1]:
        sentences = [f"At step {steps:,} the smoothed training loss is {columns[SMOOTHED, -1]:.3g}."]
    if before.shape[1]:
        sentences += [f"At step {int(before[STEP, -1]):,} it was {before[SMOOTHED, -1]:.3g}."]
    valid = series.along("epochs", "val_loss")
    if np.isfinite(valid[MEAN]).any():
        best = int(np.nanargmin(valid[MEAN]))
        sentences += [
            f"The validation loss is {valid[MEAN, -1]:.3g} at step {int(valid[STEP, -1]):,}; "
            f"its lowest was {valid[MEAN, best]:.3g} at step {int(valid[STEP, best]):,}."
        ]
    for name in series.metrics[:4]:
        train, valid_value = series.last("epochs", name), series.last("epochs", f"val_{name}")
        sentences += [f"{label(name).capitalize()} is {train:.3g}."] if np.isfinite(train) else []
        sentences += [f"In validation it is {valid_value:.3g}."] if np.isfinite(valid_value) else []
    if entries := series.lineage_entries():
        last = entries[-1]
        sentences.append(
            f"The chart has {len(entries):,} changes; the last at step {last.step:,} by {last.author}: {last.words}."
        )
    return " ".join(sentences)
