"""The journal: the events of a run as a person reads them."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from babysit.core import events
from babysit.core.events import Event
from babysit.core.runlog import RunLog
from babysit.core.words import by, describe, describe_action, together, utc


@dataclass(frozen=True)
class Entry:
    """One thing done.

    Attributes:
        step: Steps done on the branch when it was applied: it acts from the next one on.
        time: Seconds since 1970-01-01 UTC.
        author: `dashboard`, `script`, `schedule`, `babysit`, a callback's class name, a rule's name (see
            `Panda.watch`), or `user@host` where another process asked for it.
        action: `fit`, `set`, `pause`, `resume`, `save`, `rewind`, `edit`, `note`,
            `refuse`, `nan`, `finish`, `stop` or `fail`.
        changes: Hyperparameter -> (old value, new value); for one that follows a learning-rate
            schedule the value is `"schedule"`.
        over: Steps in which the change was made, evenly on the hyperparameter's scale.
        why: The reason given, a note's text, or what went wrong.
        branch: The branch it belongs to.
        command: The id that `send` returned for the command that asked for it, if one did.
        seq: Its number in the order of the log.
        about: The number of the entry whose reason this note gives.
        file: The file that was written.
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
    seq: int = 0
    about: int | None = None
    file: str | None = None


def entry_of(event: Event) -> Entry:
    """The entry of the journal for an event."""
    payload: Any = event.payload
    step, action, changes, why = event.step, payload.kind, getattr(payload, "changes", {}), ""
    match payload:
        case events.Fit():
            why = " ".join(payload.remarks)
        case events.Set():
            step, why = event.step if payload.acts_at is None else payload.acts_at, payload.refusal
            action = "refuse" if payload.refusal else action
        case events.Edit():
            why = payload.what
        case events.Branch():
            changes, why = payload.keep or payload.restored, _return(event, payload)
        case events.Saved() if payload.renamed is not None:
            action, why = "note", f"the checkpoint of step {payload.renamed:,} is named “{payload.name}”"
        case events.Saved():
            why = payload.name
        case events.Note():
            why = payload.text
        case events.Refused():
            why = payload.reason
        case events.NotFinite():
            why = f"the loss of step {event.step:,} is {payload.loss}"
        case events.Failed():
            why = payload.error
        case events.Finished() if payload.epoch < payload.epochs:
            why = f"in epoch {payload.epoch:,} of {payload.epochs:,}"
    more = {name: getattr(payload, name) for name in ("over", "about", "file") if hasattr(payload, name)}
    return Entry(
        step, event.time, event.author, action, changes, why=event.why or why, branch=event.branch,
        command=event.command, seq=event.seq, **more,
    )  # fmt: skip


def _return(event: Event, branch: events.Branch) -> str:
    place = f"“{branch.name}”" if branch.name else f"step {event.step:,}"
    said = [f"to {place}, from step {branch.origin:,}"]
    said += ["hyperparameters kept"] if branch.keep else []
    said += [f"{branch.skip:,} examples skipped"] if branch.skip else []
    said += [f"the steps taken again differ from step {branch.differs:,} on"] if branch.differs else []
    return ", ".join(said) + (f": {branch.reason}" if branch.reason else "")


def is_entry(event: Event) -> bool:
    """Whether the journal shows an event: not the ends of epochs, which are many."""
    return not isinstance(event.payload, events.EpochEnd)


def line_of(entry: Entry) -> str:
    """An entry in a line: the step, what was done and why, and who did it."""
    return f"{entry.step:>8,}  {describe(entry)}{by(entry)}"


class Journal(tuple[Entry, ...]):
    """The entries of a run up to now, oldest first, on all its branches.

    Args:
        log: The run's.
    """

    def __new__(cls, log: RunLog) -> "Journal":
        """Reads the log; what is entered later is in another journal."""
        entries = {event.seq: entry_of(event) for event in list(log.events) if is_entry(event)}
        return super().__new__(cls, (_read_with(entries.get(one.about or 0), one) for one in entries.values()))

    def __repr__(self) -> str:
        return "\n".join(map(line_of, together(self))) or "nothing yet"

    def to_csv(self, path: str | Path) -> None:
        """Writes a file with a row for each hyperparameter that was changed, and for each entry without such."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for entry in self:
                who = entry.step, utc(entry.time), entry.branch, entry.author, entry.action
                changes = [(name, *values) for name, values in entry.changes.items()] or [("", "", "")]
                table.writerows((*who, *change, entry.over, entry.why) for change in changes)


def _read_with(change: Entry | None, note: Entry) -> Entry:
    """A note with the change whose reason it gives, if it does."""
    if change is None:
        return note
    return replace(note, why=f"on {describe_action(change)} at step {change.step:,}: {note.why}")


_COLUMNS = ("step", "time", "branch", "author", "action", "hyperparameter", "old", "new", "over", "why")
