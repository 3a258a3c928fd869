"""The journal: what was done to a run, by whom, at which step, and why."""

import csv
import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from babysit.core.words import CHANGES, describe, describe_action, joined
from babysit.store.record import Record


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
        newest = record.rows("entries", "seq = (SELECT max(seq) FROM entries)")
        self.mark: int = newest[0]["seq"] if newest else 0  # the sequence number of the newest entry

    def append(self, **fields: Any) -> Entry:
        """Adds an entry; the time is now unless given."""
        entry = Entry(**{"time": time.time(), **_tidy(fields)})
        self.mark = self._record.append("entries", **vars(entry))
        return entry

    def between(self, branch: str, after: int, mark: float, step: float) -> list[tuple[int, Entry]]:
        """The entries of a branch behind one mark and up to another, up to a step, each with its own mark."""
        where = "branch = ? AND seq > ? AND seq <= ? AND step <= ?"
        rows = self._record.rows("entries", where, (branch, after, mark, step))
        return [(row["seq"], entry_from_row(row)) for row in rows]

    def on_last_change(self, why: str) -> str:
        """A note's text that gives the reason of the last change; the reason alone where nothing was changed."""
        where = "seq = (SELECT max(seq) FROM entries WHERE action IN (?, ?, ?))"
        last = map(entry_from_row, self._record.rows("entries", where, CHANGES))
        return "".join(about(describe_action(entry), entry.step) for entry in last) + why

    def __len__(self) -> int:
        return len(self._entries())

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self._entries()[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries())  # read once

    def __reversed__(self) -> Iterator[Entry]:
        return reversed(self._entries())

    def __repr__(self) -> str:
        lines = (f"{entry.step:>8,}  {describe(entry)}{_by(entry)}" for entry in together(self))
        return "\n".join(lines) or "nothing yet"

    def to_csv(self, path: str | Path) -> None:
        """Writes a file with a row for each hyperparameter that was changed, and for each entry without such."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for entry in self:
                table.writerows(_table_rows(entry))

    def _entries(self) -> list[Entry]:
        return [entry_from_row(row) for row in self._record.rows("entries")]


def together(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries as a person reads them: those in one that are `joined`."""
    last = None
    for entry in entries:
        one = joined(last, entry) if last is not None else None
        if last is not None and one is None:
            yield last
        last = one or entry
    if last is not None:
        yield last


def about(what: str, step: int) -> str:
    """How a note begins that gives the reason of what was done, told in these words, at a step."""
    return f"on {what} at step {step:,}: "


_COLUMNS = ("step", "time", "branch", "author", "action", "hyperparameter", "old", "new", "over", "why")


def _table_rows(entry: Entry) -> list[tuple[Any, ...]]:
    who = entry.step, utc(entry.time), entry.branch, entry.author, entry.action
    changes = [(name, old, new) for name, (old, new) in entry.changes.items()] or [("", "", "")]
    return [(*who, *change, entry.over, entry.why) for change in changes]


def utc(time_s: float) -> str:
    """A time as `2031-05-04 12:30:00Z`."""
    return f"{datetime.datetime.fromtimestamp(time_s, datetime.UTC):%Y-%m-%d %H:%M:%SZ}"


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
