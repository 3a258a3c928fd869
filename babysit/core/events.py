"""Events: what was done to a run, at which step, as plain data.

One table says what kinds there are. What an event means for a training is in `controls.apply`; a person reads it
through `words`. No code reads `why` or the text of a note.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from babysit.core.position import FitSpec
from babysit.core.scale import Scale

ROOT = "branch 1"
Changes = Mapping[str, tuple[Any, Any]]
KINDS: "dict[str, type[Payload]]" = {}  # every payload that is on disk, by its kind


@dataclass(frozen=True)
class Payload:
    """What an event says beyond who made it, when and where.

    Attributes:
        kind: Name of the kind on disk and, as `action`, in the journal.
        opaque: Whether its effect on the tensors can only be read from a checkpoint.
    """

    kind: ClassVar[str]
    opaque: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            KINDS[cls.kind] = cls


@dataclass(frozen=True)
class Compiled(Payload):
    """Hyperparameters as a compiled model has them.

    Attributes:
        values: Every hyperparameter -> value, in a stable order.
        scales: Those that can be set -> bounds.
        changes: Those that differ from before -> (old, new).
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)


@dataclass(frozen=True)
class Fit(Compiled):
    """A fit begins.

    Attributes:
        spec: What it was given.
        fresh: Whether an epoch begins anew, as its examples or their order are others.
        facts: What a program that trains the same again must know of the data.
        remarks: What cannot be steered or rewound, a sentence each.
    """

    kind = "fit"
    spec: FitSpec = field(default_factory=lambda: FitSpec("", None, 1))
    fresh: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Set(Payload):
    """Hyperparameters change, all from the same step on.

    Attributes:
        changes: Name -> (old, new), with what couplings add.
        over: Steps in which the new values are reached.
        acts_at: Steps done when the change begins to act, where that is later than the event.
        refusal: Why the change takes an earlier one back; empty where it was asked for.
    """

    kind = "set"
    changes: Changes = field(default_factory=dict)
    over: int = 1
    acts_at: int | None = None
    refusal: str = ""


@dataclass(frozen=True)
class EpochEnd(Payload):
    """An epoch ends, after validation and the callbacks.

    Attributes:
        epoch: Its number, from 1 on.
        logs: What it came to.
        next_pass: Whether the pass over the data ends with it.
        seeds: How far each random generator was drawn on, where validation or callbacks did; None where not.
        callbacks: What stock callbacks remember: the class of each one, and its numbers.
        early: Whether a callback ended the training.
    """

    kind = "epoch end"
    epoch: int = 0
    logs: Mapping[str, Any] = field(default_factory=dict)
    next_pass: bool = True
    seeds: list[list[int]] | None = None
    callbacks: list[Any] = field(default_factory=list)
    early: bool = False


@dataclass(frozen=True)
class Branch(Payload):
    """A new branch leaves another one; the first event on it.

    Attributes:
        parent: The branch that it leaves.
        last: Number of the last event that the state in which it begins contains.
        origin: Steps done where the training stood before.
        name: Of the checkpoint that was returned to, if it has one.
        keep: Hyperparameters that keep their values -> (those of the state, kept ones).
        skip: Examples skipped.
        restored: Hyperparameters that took the values of the state -> (those before, restored ones).
        differs: The first step taken again whose loss is another than recorded.
        reason: Why the training could not stay where it was; empty where the user asked.
        acts_at: Steps done when the kept values begin to act, where that is later than the event.
    """

    kind = "rewind"
    parent: str = ROOT
    last: int = 0
    origin: int = 0
    name: str = ""
    keep: Changes = field(default_factory=dict)
    skip: int = 0
    restored: Changes = field(default_factory=dict)
    differs: int | None = None
    reason: str = ""
    acts_at: int | None = None


@dataclass(frozen=True)
class Edit(Compiled):
    """The model was changed by its user or a callback, or compiled anew.

    Attributes:
        what: Changed variables, layers that are trained now or not, a new compilation: in words.
    """

    kind = "edit"
    opaque = True
    what: str = ""


@dataclass(frozen=True)
class Saved(Payload):
    """A checkpoint was saved, or given another name.

    Attributes:
        folder: Name of its folder.
        name: Its name from now on.
        renamed: The steps done in it, where it was there already; None where not.
    """

    kind = "save"
    folder: str = ""
    name: str = ""
    renamed: int | None = None


@dataclass(frozen=True)
class Note(Payload):
    """A line for people.

    Attributes:
        text: What babysit notes; a user's words are the event's `why`.
        about: Number of the event whose reason this gives.
        file: A file that was written.
        deleted: Name of the folder of a checkpoint that was deleted.
    """

    kind = "note"
    text: str = ""
    about: int | None = None
    file: str | None = None
    deleted: str | None = None


@dataclass(frozen=True)
class Refused(Payload):
    """A command could not be obeyed."""

    kind = "refuse"
    reason: str = ""


@dataclass(frozen=True)
class NotFinite(Payload):
    """The loss turned NaN or infinite."""

    kind = "nan"
    loss: str = "nan"


@dataclass(frozen=True)
class Paused(Payload):
    """The training rests."""

    kind = "pause"


@dataclass(frozen=True)
class Resumed(Payload):
    """The training goes on."""

    kind = "resume"


@dataclass(frozen=True)
class Stopped(Payload):
    """The fit was ended by the user."""

    kind = "stop"


@dataclass(frozen=True)
class Finished(Payload):
    """The fit is done.

    Attributes:
        epoch: Epochs done.
        epochs: Epochs asked for: more where a callback ended the training.
    """

    kind = "finish"
    epoch: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Failed(Payload):
    """The fit was ended by an error."""

    kind = "fail"
    error: str = ""


@dataclass(frozen=True)
class Event:
    """Something done at a step; acts from the next step on.

    Attributes:
        seq: Its number in the order of the log, from 1 on.
        branch: The branch it belongs to.
        step: Steps done when it was made.
        time: Seconds since 1970-01-01 UTC.
        author: `script`, `dashboard`, `babysit`, a callback's class, or `user@host` of another process.
        payload: What was done.
        why: A reason in words, for people only.
        command: Id of the command that asked for it.
    """

    seq: int
    branch: str
    step: int
    time: float
    author: str
    payload: Payload
    why: str = ""
    command: str | None = None


ROW = ("seq", "branch", "step", "time", "kind", "author", "why", "command", "data")


def to_row(event: Event) -> tuple[Any, ...]:
    """The event as a row of plain values, in the order of `ROW`; the payload as JSON."""
    about = event.branch, event.step, event.time, event.payload.kind, event.author, event.why, event.command
    return (event.seq, *about, json.dumps(asdict(event.payload)))


def from_row(row: tuple[Any, ...]) -> Event:
    """The event that `to_row` gave."""
    seq, branch, step, time, kind, author, why, command, data = row
    payload = KINDS[kind](**{name: _read(name, value) for name, value in json.loads(data).items()})
    return Event(seq, branch, step, time, author, payload, why, command)


def _read(name: str, value: Any) -> Any:
    """A field of a payload, of which JSON knows only plain types."""
    if name in ("changes", "keep", "restored"):
        return {key: tuple(pair) for key, pair in value.items()}
    if name == "scales":
        return {key: Scale(**scale) for key, scale in value.items()}
    if name == "spec":
        return FitSpec(**value)
    return tuple(value) if name == "remarks" else value
