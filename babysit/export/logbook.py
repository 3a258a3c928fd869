"""The logbook of a run as a person reads it: Markdown, with the loss before and after each change."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from babysit.core.events import Note
from babysit.core.history import History
from babysit.core.journal import Entry, Journal, entry_of
from babysit.core.runlog import RunLog
from babysit.core.words import CHANGES, describe_action, is_turn, number, together, utc

AROUND = 200  # steps before and after a change over which the loss is averaged, at most up to another change

_HEAD = ("step", "branch", "what was done", "why", "by", f"loss, {AROUND} steps before", f"loss, {AROUND} steps after")


def logbook(title: str, log: RunLog, branch: str) -> str:
    """A run in Markdown: how far it came, and what was done to it and why, with the loss around each change.

    Args:
        title: The heading.
        log: What was done and measured.
        branch: The present one.
    """
    parts = [f"# {_plain(title)}", _plain(" ".join(_summary(log, branch))), _table(_HEAD, _rows(log))]
    return "\n\n".join(parts) + "\n"


def _summary(log: RunLog, branch: str) -> Iterable[str]:
    ends = History(log, lambda: branch).epoch_ends()
    yield f"{log.tip(branch):,} steps and {len(ends):,} epochs on {branch}."
    if ends:
        last = ", ".join(f"{name} {number(value)}" for name, value in ends[-1].logs.items())
        yield f"The last epoch ended with {last}."
    for name, (parent, step, _) in log.branches.items():
        if parent is not None:
            yield f"{name.capitalize()} left {parent} after step {step:,}."


def _rows(log: RunLog) -> Iterable[tuple[str, ...]]:
    reasons: dict[int, list[str]] = {}  # number of a change -> why, as notes said later
    for event in log.events:
        if isinstance(event.payload, Note) and event.payload.about is not None:
            reasons.setdefault(event.payload.about, []).append(event.why or event.payload.text)
    entries = [replace(one, why="; ".join(filter(None, [one.why, *reasons.get(one.seq, [])]))) for one in Journal(log)]
    known = {branch: (log.column("loss", log.lineage(branch)), _turns(log, branch)) for branch in log.branches}
    for entry in together(entries):
        what = f"{describe_action(entry)} ({utc(entry.time)})"
        yield f"{entry.step:,}", entry.branch, what, entry.why, entry.author, *_around(*known[entry.branch], entry)


def _turns(log: RunLog, branch: str) -> list[int]:
    """The steps along a branch at which the user changed how training goes on."""
    entries = map(entry_of, log.along(log.lineage(branch)))
    return [entry.step for entry in entries if is_turn(entry.action, entry.author)]


def _around(losses: np.ndarray, turns: list[int], entry: Entry) -> tuple[str, str]:
    """The mean loss before and after what changed how training goes on; nothing for all else."""
    if entry.action not in CHANGES and not (entry.action == "refuse" and entry.changes):
        return "", ""
    begin = max([0, entry.step - AROUND, *(step for step in turns if step < entry.step)])
    end = min([entry.step + AROUND, *(step for step in turns if step > entry.step)])
    return _mean(losses[begin : entry.step]), _mean(losses[entry.step : end])


def _mean(losses: np.ndarray) -> str:
    if not len(losses):
        return ""
    short = f" ({len(losses)} steps)" if len(losses) < AROUND else ""
    return f"{np.mean(losses):.4g}{short}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    ruler = tuple("---" for _ in head)
    return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in (head, ruler, *rows))


def _plain(text: str) -> str:
    """Text as Markdown shows it, whatever signs are in it, on one line."""
    text = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]|<>#~$" else sign for sign in text)
