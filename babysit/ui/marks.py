"""Marks: where something was done to a run, and how a chart tells of it."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from babysit.session.journal import Entry, about, deed, entry_from_row, is_turn, joined, number

AROUND = 200  # steps at most before and behind a mark, up to another change by hand, of which the mean loss is told
_SHORT = {"learning_rate": "lr", "batch_size": "batch", "beta_1": "beta 1", "beta_2": "beta 2"}
_SHOWN = ("set", "rewind", "edit", "note", "nan", "fail", "save")
_FILE = re.compile(r"(logbook|history|script|model|chart\.\w+) written to ")
_WORDS = {"rewind": "rewound", "edit": "edited", "nan": "not finite", "fail": "failed"}


@dataclass
class Mark:
    """One thing done.

    Attributes:
        seq: The number of its row in the record, by which it is asked for.
        step: Steps done when it was.
        time: Seconds since 1970.
        author: Who did it.
        action: What kind of thing.
        what: In words.
        why: The reason given.
        changes: Hyperparameter -> (old, new).
        branch: The branch it belongs to.
        over: Steps in which the change was made.
        before: The mean loss of the last 200 steps before it, or of those behind the last change
            by hand; NaN where there are none.
        steps_before: How many those are.
        after: The mean loss of the first 200 steps behind it, or of those up to the next change by hand.
        steps_after: How many those are, so far.
    """

    seq: int
    step: int
    time: float
    author: str
    action: str
    what: str
    why: str
    branch: str
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    over: int = 1
    before: float = math.nan
    steps_before: int = 0
    after: float = math.nan
    steps_after: int = 0

    @property
    def by_hand(self) -> bool:
        """Whether a person did it, rather than a schedule or a callback."""
        return self.author in ("dashboard", "script")

    @property
    def is_turn(self) -> bool:
        """Whether somebody changed by hand how training goes on."""
        return is_turn(self.action, self.author)

    def join(self, other: "Mark") -> bool:
        """Tells of what was done next too, where that is more of the same; whether it is."""
        one = joined(self._entry, other._entry)
        if one is not None:
            self.changes, self.over, self.what = dict(one.changes), one.over, deed(one)
        return one is not None

    @property
    def _entry(self) -> Entry:
        return Entry(self.step, self.time, self.author, self.action, self.changes, self.over, self.why, self.branch)

    def told(self) -> dict[str, Any]:
        """All of it in plain data; a mean loss that is not known is None."""
        return {
            "mark": self.seq,
            "step": self.step,
            "time": self.time,
            "branch": self.branch,
            "action": self.action,
            "author": self.author,
            "what": self.what,
            "why": self.why,
            "changes": {name: list(change) for name, change in self.changes.items()},
            "loss_before": None if math.isnan(self.before) else self.before,
            "steps_before": self.steps_before,
            "loss_after": None if math.isnan(self.after) else self.after,
            "steps_after": self.steps_after,
        }


def tells_of_a_file(row: Mapping[str, Any]) -> bool:
    """Whether an entry says where something was exported to, which is no event of the training."""
    return row["action"] == "note" and bool(_FILE.match(str(row["why"])))


def mark_of(row: Mapping[str, Any]) -> Mark | None:
    """The mark of a journal's entry; None for what leaves no mark on a chart."""
    if row["action"] not in _SHOWN:
        return None
    entry = entry_from_row(row)
    changes = {name: (old, new) for name, (old, new) in entry.changes.items() if old is not None}
    if (entry.action == "set" and not changes) or tells_of_a_file(row):
        return None
    return Mark(
        row["seq"],
        entry.step,
        entry.time,
        entry.author,
        entry.action,
        deed(entry),
        str(entry.why),
        entry.branch,
        changes,
        entry.over,
    )


def explained(note: Mark, marks: Iterable[Mark]) -> Mark | None:
    """The first of some marks that a note gives the reason of, which it now tells; None if it is a note like any."""
    if note.action != "note" or not note.why.startswith("on "):
        return None
    for mark in marks:
        if note.why.startswith(begin := about(mark.what, mark.step)):
            mark.why = "; ".join(filter(None, (mark.why, note.why[len(begin) :])))
            return mark
    return None


def clusters(marks: Iterable[Mark], places: Iterable[float], within: float) -> list[tuple[float, list[Mark]]]:
    """Marks that stand no further than `within` from the first of them, together; with the place of that one."""
    found: list[tuple[float, list[Mark]]] = []
    for mark, place in zip(marks, places, strict=True):
        if found and 0 <= place - found[-1][0] <= within:
            found[-1][1].append(mark)
        else:
            found.append((place, [mark]))
    return found


def label(marks: Iterable[Mark], most: int = 3) -> list[str]:
    """A few lines for marks that stand close: what changed from the first old value to the last new.

    What was undone among them is not told.

    Args:
        marks: By step.
        most: Lines.
    """
    changes: dict[str, tuple[Any, Any]] = {}
    deeds, notes = [], []
    for mark in marks:
        for name, (old, new) in mark.changes.items():
            changes[name] = changes.get(name, (old, new))[0], new
        deeds += [_WORDS[mark.action]] if mark.action in _WORDS else []
        notes += [f"“{_cut(mark.why, 24)}”"] if mark.action == "note" else []
    changed = [f"{short(name)} {number(old)} → {number(new)}" for name, (old, new) in changes.items() if old != new]
    lines = list(dict.fromkeys([*deeds, *changed, *notes]))
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"and {len(lines) - most + 1} more"] if most > 1 else [f"{lines[0]} …"]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def short(name: str) -> str:
    """A hyperparameter's name where room is scarce."""
    return _SHORT.get(name, name.replace("_", " ").replace(".", " "))
