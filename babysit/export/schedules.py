"""What leaves a run: its hyperparameters as schedules, and the logbook that a person reads.

`script` writes the run as a plain Keras program.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.core.words import CHANGES, describe_action, is_turn
from babysit.engine.catalog import optimizers_in
from babysit.session.history import History
from babysit.session.journal import Entry, Journal, about, together, utc

# The logbook compares the loss over so many steps before and after a change, at most up to another by hand.
AROUND = 200


@dataclass(frozen=True)
class Run:
    """What is known of a run, to be exported.

    Attributes:
        model: Built and compiled.
        optimizers: Prefix of the names -> the optimizer that a step applies.
        schedules: Learning rate -> Keras's schedule that it was compiled with.
        history: Of the line of training that is meant.
        journal: Of all its branches.
        kept: The states that it can return to, oldest first.
        seed: Of the order of examples.
        architecture: The compiled model in plain data, or None.
        fits: What each fit was given, in their order: see `fit_facts`.
        remarks: What cannot be repeated exactly and why, a sentence each.
    """

    model: Any
    optimizers: Mapping[str, Any]
    schedules: Mapping[str, Any]
    history: History
    journal: Journal
    kept: Sequence[Any]
    seed: int
    architecture: Any
    fits: Sequence[Mapping[str, Any]]
    remarks: Sequence[str] = ()


def fit_facts(data: Any, steps_per_epoch: int | None) -> dict[str, Any]:
    """What a program must know of the data of a fit, in plain data."""
    is_stream = hasattr(data, "fixed")
    return {
        "fingerprint": data.fingerprint(),
        "size": data.size,
        "declared": data.fixed if is_stream else data.batch_size,
        "shuffle": False if is_stream else data.shuffle,
        "is_stream": is_stream,
        "is_dense": all(isinstance(spec, tf.TensorSpec) for spec in tf.nest.flatten(data.signature[0])),
        "steps_per_epoch": steps_per_epoch,
    }


def schedules(run: Run) -> dict[str, Any]:
    """The hyperparameters of a run, step by step, for another program to follow.

    Returns:
        Name -> for a learning rate a `LearningRateSchedule`, with the value of each step when it is
        called with the steps done before; otherwise a list of (step, value): from that many steps
        done on the value acts.
    """
    found: dict[str, Any] = {}
    for name in run.history.hyperparameters:
        column = run.history[name]
        points = [(step, float(column[step])) for step in turns(column) if np.isfinite(column[step])]
        if name in run.schedules and points:
            followed_alone = _done_before(run, name) == 0 and followed(run, name).all()
            found[name] = run.schedules[name] if followed_alone else _piecewise(points)
        elif points:
            found[name] = [(step, int(value)) for step, value in points] if name == "batch_size" else points
    return found


def turns(column: np.ndarray) -> list[int]:
    """Steps done when a column takes another value, and 0."""
    changed = (column[1:] != column[:-1]) & ~(np.isnan(column[1:]) & np.isnan(column[:-1]))
    return [0, *(np.flatnonzero(changed) + 1).tolist()] if len(column) else []


def _piecewise(points: list[tuple[int, float]]) -> Any:
    steps, values = zip(*points, strict=True)
    boundaries = [step - 1 for step in steps[1:]]  # up to and including which Keras gives the value before
    if not boundaries:
        boundaries, values = [0], values * 2
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, list(values))


def followed(run: Run, name: str) -> np.ndarray:
    """At which steps a learning rate was what its schedule gives: booleans of shape (steps,)."""
    schedule, rates = run.schedules[name], run.history[name].astype(np.float32)
    if schedule is None or not len(rates):
        return np.zeros(len(rates), bool)

    @tf.function  # type: ignore[untyped-decorator]  # in a graph, as a training computes them
    def values(steps: Any) -> Any:
        return tf.map_fn(lambda step: tf.cast(schedule(step), tf.float32), steps, fn_output_signature=tf.float32)

    first = _done_before(run, name)
    return np.asarray(values(tf.range(first, first + len(rates))).numpy() == rates)


def _done_before(run: Run, name: str) -> int:
    """Steps that the optimizer had done when the run began."""
    optimizer = optimizers_in(run.optimizers)[name.rpartition(".")[0]]
    return int(optimizer._iterations) - run.history.steps


# -------------------------------------------------------------------------------- the logbook


def logbook(title: str, history: History, journal: Journal) -> str:
    """A run in Markdown: where it stands, and what was done to it and why, with the loss around each change."""
    parts = [f"# {_plain(title)}", _summary(history), _table(_HEAD, _rows(history, journal))]
    return "\n\n".join(filter(None, parts)) + "\n"


_HEAD = ("step", "branch", "what was done", "why", "by", f"loss, {AROUND} steps before", f"loss, {AROUND} steps after")


def _summary(history: History) -> str:
    epochs = history.epoch_rows()
    said = [f"{history.steps:,} steps and {len(epochs):,} epochs on {history.branch}."]
    if epochs:
        last = ", ".join(f"{name} {_number(value)}" for name, value in epochs[-1]["logs"].items())
        said.append(f"The last epoch came to {last}.")
    for name, (parent, step) in history.branches.items():
        if parent is not None:
            said.append(f"{name.capitalize()} left {parent} behind step {step:,}.")
    return _plain(" ".join(said))


def _rows(history: History, journal: Journal) -> Iterable[tuple[str, ...]]:
    known: dict[str, tuple[np.ndarray, list[int]]] = {}  # branch -> losses along it, and steps with a change by hand
    entries = list(journal)
    told = [replace(entry, why=why) for entry, why in zip(entries, _reasons(entries), strict=True)]
    for entry in together(told):
        if entry.branch not in known and entry.branch in history.branches:
            known[entry.branch] = _losses(history.along(entry.branch)), _turns(history, journal, entry.branch)
        around = _around(*known.get(entry.branch, (np.empty(0), [])), entry) if _changed(entry) else ("", "")
        yield (
            f"{entry.step:,}",
            entry.branch,
            f"{describe_action(entry)} ({utc(entry.time)})",
            entry.why,
            entry.author,
            *around,
        )


def _reasons(entries: Sequence[Entry]) -> list[str]:
    """Why each was done, with the reasons that notes gave later."""
    reasons = [[entry.why] if entry.why else [] for entry in entries]
    begins: list[tuple[str, int]] = []  # of a note about what was done, and which it was
    for i, entry in enumerate(entries):
        if entry.action in CHANGES:
            begins.append((about(describe_action(entry), entry.step), i))
        elif entry.action == "note" and entry.why.startswith("on "):
            found = next(((begin, k) for begin, k in reversed(begins) if entry.why.startswith(begin)), None)
            if found:
                reasons[found[1]].append(entry.why[len(found[0]) :])
    return ["; ".join(found) for found in reasons]


def _losses(history: History) -> np.ndarray:
    return history["loss"] if "loss" in history.columns else np.empty(0)


def _changed(entry: Entry) -> bool:
    """Whether it changed how training goes on, so that the loss around it is of interest."""
    return entry.action in CHANGES or (entry.action == "refuse" and bool(entry.changes))


def _turns(history: History, journal: Journal, branch: str) -> list[int]:
    """The steps along a branch at which somebody changed by hand how training goes on."""
    found = [named for part in history.line(branch) for named in journal.between(part.branch, -1, part.mark, part.end)]
    return [entry.step for _, entry in found if is_turn(entry.action, entry.author)]


def _around(losses: np.ndarray, turns: list[int], entry: Entry) -> tuple[str, str]:
    begin = max([0, entry.step - AROUND, *(step for step in turns if step < entry.step)])
    end = min([entry.step + AROUND, *(step for step in turns if step > entry.step)])
    return _mean(losses[begin : entry.step]), _mean(losses[entry.step : end])


def _mean(losses: np.ndarray) -> str:
    if not len(losses):
        return ""
    short = f" ({len(losses)} steps)" if len(losses) < AROUND else ""
    return f"{np.mean(losses):.4g}{short}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    ruler = tuple("---" for _ in head)
    return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in (head, ruler, *rows))


def _plain(text: str) -> str:
    """Text as Markdown shows it, whatever signs are in it, on one line."""
    text = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]|<>#~$" else sign for sign in text)
