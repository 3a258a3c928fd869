"""Words: how an entry of the journal is told in a line."""

import datetime
import numbers
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babysit.core.journal import Entry

CHANGES = ("set", "edit", "rewind")  # the actions that change how training goes on


def is_turn(action: str, author: str) -> bool:
    """Whether a user changed how training goes on."""
    return action in CHANGES and author in ("dashboard", "script")


def joined(last: "Entry", entry: "Entry") -> "Entry | None":
    """Two changes as one, where a callback makes one at each step, as a ramp does; None for any others."""
    same = (last.author, last.branch, *last.changes) == (entry.author, entry.branch, *entry.changes)
    follows = entry.step == last.step + last.over and not (last.why or entry.why)
    if not same or not follows or {last.action, entry.action} != {"set"} or is_turn("set", entry.author):
        return None
    changes = {name: (old, entry.changes[name][1]) for name, (old, _) in last.changes.items()}
    return replace(last, changes=changes, over=last.over + entry.over)


def together(entries: Iterable["Entry"]) -> Iterator["Entry"]:
    """Entries as a person reads them: those in one that are `joined`."""
    last = None
    for entry in entries:
        one = joined(last, entry) if last is not None else None
        if last is not None and one is None:
            yield last
        last = one or entry
    if last is not None:
        yield last


def deed(entry: "Entry") -> str:
    """What was done, without the reason."""
    return describe(replace(entry, why=""))


def about_change(note: "Entry", change: "Entry | None") -> "Entry":
    """A note that gives the reason of a change, with the change in its words."""
    return replace(note, why=f"on {deed(change)} at step {change.step:,}: {note.why}") if change else note


def utc(time_s: float) -> str:
    """A time as `2031-05-04 12:30:00Z`."""
    return f"{datetime.datetime.fromtimestamp(time_s, datetime.UTC):%Y-%m-%d %H:%M:%SZ}"


def by(entry: "Entry") -> str:
    """The author, where it was not the script that reads it."""
    return "" if entry.author == "script" else f" (by {entry.author})"


def describe(entry: "Entry") -> str:
    """An entry in a line of words: `learning rate 0.02 → 0.004 — let it settle`."""
    changes = ", ".join(
        f"{_words(name)} {number(old)} → {number(new)}" if old is not None else f"{_words(name)} {number(new)}"
        for name, (old, new) in entry.changes.items()
    )
    if entry.over > 1:
        changes += f" in {entry.over:,} steps"
    between = ": " if entry.action == "fit" else " "
    what = changes
    if entry.action != "set":
        what = between.join(filter(None, (_DEEDS.get(entry.action, entry.action), changes)))
    return " — ".join(filter(None, (what, str(entry.why))))


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def number(value: Any) -> str:
    """A hyperparameter's value as a person writes it: `0.004`, `3e-05`, `128`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, numbers.Real):
        return str(value)
    value = float(value)
    return f"{value:.4g}" if value < 0.9 or value > 1 else f"{value:.7g}"


_DEEDS = {
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
