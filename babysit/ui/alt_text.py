"""The chart in words, for those who do not see it."""

import math

import numpy as np

from babysit.core.words import label
from babysit.ui.run_series import RunSeries
from babysit.ui.series import MEAN, SMOOTHED, STEP
from babysit.ui.ticks import three_digits


def alt_text(series: RunSeries) -> str:
    """A few sentences: the losses and where they go, the metrics, and what was done last."""
    steps = int(series.steps())
    if not steps:
        return "Nothing is measured yet."
    return " ".join(
        filter(None, [_training(series, steps), _validation(series), *_metrics(series), _last_change(series)])
    )


def _training(series: RunSeries, steps: int) -> str:
    columns = series.along("measured", "loss")
    if not columns.shape[1] or math.isnan(now := float(columns[SMOOTHED, -1])):
        return f"At step {steps:,} no loss is known."
    back = max(steps // 10, 1)
    before = columns[:, columns[STEP] <= steps - back]
    sentence = f"At step {steps:,} the smoothed training loss is {three_digits(now)}"
    if not before.shape[1]:
        return f"{sentence}."
    then = float(before[SMOOTHED, -1])
    change = "about the same as" if abs(now - then) <= 0.01 * abs(then) else "down from" if now < then else "up from"
    return f"{sentence}, {change} {three_digits(then)} {back:,} steps before."


def _validation(series: RunSeries) -> str:
    columns = series.along("epochs", "val_loss")
    steps, values = columns[STEP], columns[MEAN]
    if not len(values):
        return ""
    sentence = f"The validation loss is {three_digits(values[-1])} at step {int(steps[-1]):,}"
    if np.isnan(values).all():
        return f"{sentence}."
    best = int(np.nanargmin(values))
    if best == len(values) - 1:
        return f"{sentence}, its lowest so far."
    return f"{sentence}; its lowest was {three_digits(values[best])} at step {int(steps[best]):,}."


def _metrics(series: RunSeries) -> list[str]:
    sentences = []
    for name in series.metrics[:4]:
        train, valid = series.last("epochs", name), series.last("epochs", f"val_{name}")
        train = series.last("measured", name) if math.isnan(train) else train
        parts = [f"{three_digits(train)} in training"] if not math.isnan(train) else []
        parts += [f"{three_digits(valid)} in validation"] if not math.isnan(valid) else []
        sentences += [f"{label(name).capitalize()} is {' and '.join(parts)}."] if parts else []
    return sentences


def _last_change(series: RunSeries) -> str:
    entries = series.lineage_entries()
    if not entries:
        return ""
    last = entries[-1]
    return f"The chart has {len(entries):,} annotations; the last at step {last.step:,} by {last.author}: {last.words}."
