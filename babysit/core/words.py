"""Entries of the logbook in words: sentences for people, which no code reads."""

import datetime
import numbers
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

_Entry = Any  # `journal.Entry`, or what a screen has with its fields

CHANGES = ("set", "edit", "rewind")  # the actions that change how training goes on
_ACTIONS = {
    "fit": "training begins",
    "pause": "paused",
    "resume": "resumed",
    "save": "checkpoint saved",
    "edit": "edited",
    "rewind": "rewound",
    "refuse": "refused",
    "nan": "loss is not finite",
    "finish": "finished",
    "stop": "stopped",
    "fail": "failed",
}


def is_user(author: str) -> bool:
    """Whether somebody did it, here or in another process, rather than a schedule or a callback."""
    return author in ("dashboard", "script") or "@" in author


def is_turn(action: str, author: str) -> bool:
    """Whether the user changed how training goes on, rather than a schedule or a callback."""
    return action in CHANGES and is_user(author)


def joined(last: _Entry, entry: _Entry) -> _Entry:
    """Two changes as one entry, where a callback makes one at each step, as a ramp does; None for any others."""
    same = (last.author, last.branch, *last.changes) == (entry.author, entry.branch, *entry.changes)
    follows = entry.step == last.step + last.over and not (last.why or entry.why)
    if not same or not follows or {last.action, entry.action} != {"set"} or is_turn("set", entry.author):
        return None
    changes = {name: (old, entry.changes[name][1]) for name, (old, _) in last.changes.items()}
    return replace(last, changes=changes, over=last.over + entry.over)


def together(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Entries as a person reads them: those in one that are `joined`."""
    last = None
    for entry in entries:
        one = joined(last, entry) if last is not None else None
        if last is not None and one is None:
            yield last
        last = one or entry
    if last is not None:
        yield last


def by(entry: _Entry) -> str:
    """The author, where it was not the script that reads it."""
    return "" if entry.author == "script" else f" (by {entry.author})"


def utc(time_s: float) -> str:
    """A time as `2031-05-04 12:30:00Z`."""
    return f"{datetime.datetime.fromtimestamp(time_s, datetime.UTC):%Y-%m-%d %H:%M:%SZ}"


def describe(entry: _Entry) -> str:
    """An entry in a line of words: `learning rate 0.02 → 0.004 — let it settle`."""
    return " — ".join(filter(None, (describe_action(entry), entry.why)))


def describe_action(entry: _Entry) -> str:
    """What was done, without the reason; values that were set to what they were only where nothing else was."""
    differing = {name: pair for name, pair in entry.changes.items() if pair[0] != pair[1]}
    changes = ", ".join(
        f"{label(name)} {number(old)} → {number(new)}" if old is not None else f"{label(name)} {number(new)}"
        for name, (old, new) in (differing or entry.changes).items()
    )
    if entry.over > 1:
        changes += f" in {entry.over:,} steps"
    if entry.action == "set":
        return changes
    return (": " if entry.action == "fit" else " ").join(
        filter(None, (_ACTIONS.get(entry.action, entry.action), changes))
    )


def label(name: str) -> str:
    """A hyperparameter's name in words: `dropout.rate` -> `dropout rate`."""
    return name.replace("_", " ").replace(".", " ")


def number(value: Any) -> str:
    """A hyperparameter's value as a person writes it: `0.004`, `3e-05`, `128`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):  # `schedule`, or the name of a coupling
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    value = float(value)
    return f"{value:.4g}" if value < 0.9 or value > 1 else f"{value:.7g}"
