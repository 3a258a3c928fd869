"""What a chart shows, said in words for those who do not see it."""

import math

from babysit.ui.run_series import Course
from babysit.ui.series import SMOOTHED, STEP
from babysit.ui.ticks import figure


def summary(course: Course) -> str:
    """A few sentences: where the losses are and where they go, and what was done last."""
    steps = int(course.steps())
    if not steps:
        return "Nothing is measured yet."
    sentences = [_training(course, steps), _validation(course), *_metrics(course), _deeds(course), _branches(course)]
    return " ".join(sentence for sentence in sentences if sentence)


def _training(course: Course, steps: int) -> str:
    columns = course.along("measured", "loss")
    if not columns.shape[1] or math.isnan(now := float(columns[SMOOTHED, -1])):
        return f"At step {steps:,} no loss is known."
    back = max(steps // 10, 1)
    before = columns[:, columns[STEP] <= steps - back]
    said = f"At step {steps:,} the smoothed training loss is {figure(now)}"
    if not before.shape[1]:
        return f"{said}."
    then = float(before[SMOOTHED, -1])
    way = "about the same as" if abs(now - then) <= 0.01 * abs(then) else "down from" if now < then else "up from"
    return f"{said}, {way} {figure(then)} {back:,} steps before."


def _validation(course: Course) -> str:
    columns = course.along("epochs", "val_loss")
    if not columns.shape[1]:
        return ""
    values, last = columns[4], float(columns[4, -1])
    best = int(values.argmin()) if not all(map(math.isnan, values)) else len(values) - 1
    at = f"at step {int(columns[STEP, -1]):,}"
    lowest = (
        "its lowest so far"
        if best == len(values) - 1
        else f"its lowest was {figure(values[best])} at step {int(columns[STEP, best]):,}"
    )
    train = course.along("measured", "loss")
    train = train[:, train[STEP] <= columns[STEP, -1]]
    gap = f", {figure(last - float(train[SMOOTHED, -1]))} above the training loss" if train.shape[1] else ""
    return f"The validation loss is {figure(last)} {at}{gap}; {lowest}."


def _metrics(course: Course) -> list[str]:
    said = []
    for name in course.metrics[:4]:
        train, valid = course.last("epochs", name), course.last("epochs", f"val_{name}")
        train = course.last("measured", name) if math.isnan(train) else train
        parts = [f"{figure(train)} in training"] if not math.isnan(train) else []
        parts += [f"{figure(valid)} in validation"] if not math.isnan(valid) else []
        said += [f"{name.replace('_', ' ').capitalize()} is {' and '.join(parts)}."] if parts else []
    return said


def _deeds(course: Course) -> str:
    marks = course.present_marks()
    if not marks:
        return ""
    last = marks[-1]
    why = f" ({last.why})" if last.why else ""
    count = "One thing was done" if len(marks) == 1 else f"{len(marks):,} things were done"
    return f"{count}; the last at step {last.step:,} by {last.author}: {last.what}{why}."


def _branches(course: Course) -> str:
    left = len(course.branches) - 1
    return f"{left:,} branch{'es' if left > 1 else ''} {'were' if left > 1 else 'was'} abandoned." if left else ""
