"""The journal: what was done to a run, by whom, at which step, and why."""

import numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from babysit.record import Record


@dataclass(frozen=True)
class Entry:
    """One thing done.

    Attributes:
        step: Steps done on the branch when it was applied: it acts from the next one on.
        time: Seconds since 1970-01-01 UTC.
        author: `dashboard`, `script`, `schedule`, or a callback's class name.
        action: `fit`, `set`, `pause`, `resume`, `save`, `rewind`, `edit`, `note`,
            `refuse`, `nan`, `finish`, `stop` or `fail`.
        changes: Hyperparameter -> (old value, new value); for one that follows a learning-rate
            schedule the value is `"schedule"`.
        over: Steps in which the change was made, evenly on the hyperparameter's scale.
        why: The reason given, a note's text, or what went wrong.
        branch: The branch it belongs to.
        command: The id that `send` returned for the command that asked for it, if one did.
    """

    step: int
    time: float
    author: str
    action: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    over: int = 1
    why: str = ""
    branch: str = ""
    command: str | None = None


def entry_from_row(row: Mapping[str, Any]) -> Entry:
    """The entry that a row of the record holds."""
    return Entry(**_tidy({name: row[name] for name in Entry.__dataclass_fields__}))


class Journal(Sequence[Entry]):
    """The entries of a run, oldest first, on all its branches."""

    def __init__(self, record: Record) -> None:
        """Reads from and appends to `record`."""
        self._record = record

    def append(self, **fields: Any) -> Entry:
        """Adds an entry; the time is now unless given."""
        entry = Entry(**{"time": time.time(), **_tidy(fields)})
        self._record.append("entries", **vars(entry))
        return entry

    def __len__(self) -> int:
        return len(self._entries())

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self._entries()[index]

    def __repr__(self) -> str:
        return "\n".join(f"{entry.step:>8,}  {describe(entry)}{_by(entry)}" for entry in self) or "nothing yet"

    def _entries(self) -> list[Entry]:
        return [entry_from_row(row) for row in self._record.rows("entries")]


def _by(entry: Entry) -> str:
    """Who did it, where it was not the script that reads it."""
    return "" if entry.author == "script" else f" (by {entry.author})"


def _tidy(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields in the types of an entry: a command may bring anything, and must not make the journal unreadable."""
    tidy = fields | {name: str(fields[name]) for name in ("author", "why") if name in fields}
    if not isinstance(fields.get("over", 1), int):
        tidy["over"] = 1
    changes = fields.get("changes", {})
    changes = changes.items() if isinstance(changes, Mapping) else ()
    pairs = {name: tuple(change) for name, change in changes if isinstance(change, tuple | list) and len(change) == 2}
    return tidy | {"changes": pairs}


def describe(entry: Entry) -> str:
    """An entry in a line of words: `learning rate 0.02 → 0.004 — let it settle`."""
    changes = ", ".join(
        f"{_words(name)} {number(old)} → {number(new)}" if old is not None else f"{_words(name)} {number(new)}"
        for name, (old, new) in entry.changes.items()
    )
    if entry.over > 1:
        changes += f" in {entry.over:,} steps"
    what = (
        changes if entry.action == "set" else " ".join(filter(None, (_DEEDS.get(entry.action, entry.action), changes)))
    )
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
    "fit": "training begins:",
    "pause": "paused",
    "resume": "resumed",
    "save": "checkpoint saved",
    "rewind": "rewound",
    "refuse": "refused",
    "nan": "loss is not finite",
    "finish": "finished",
    "stop": "stopped",
    "fail": "failed",
}
