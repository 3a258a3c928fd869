"""The log of a run, in memory: its events and, as columns of numbers, its steps.

Append-only: one thread writes, any thread reads. A run of a million steps and five columns takes 20 MB.
"""

import json
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from babysit.core.controls import SCHEDULE, Controls, apply
from babysit.core.events import ROOT, Branch, EpochEnd, Event, Fit, Payload, Saved
from babysit.core.position import Position

STEPS_ROW = ("seq", "branch", "first", "count", "time", "names", "dtype", "columns")


@dataclass(frozen=True)
class Steps:
    """Steps that were taken, a row of the log.

    Attributes:
        seq: Number in the order of the log; 0 until it is there.
        branch: The branch they belong to.
        first: Number of the first of them, from 1 on.
        columns: Name -> its value at each step, shape (count,).
        time: Seconds since 1970-01-01 UTC when they were done.
        last: What the last step returned, for callbacks; not kept.
        examples: How many examples they took; not kept.
    """

    seq: int
    branch: str
    first: int
    columns: Mapping[str, np.ndarray]
    time: float = 0.0
    last: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0

    @property
    def count(self) -> int:
        """How many steps."""
        return len(next(iter(self.columns.values())))

    def to_row(self) -> tuple[Any, ...]:
        """The steps as a row of plain values, in the order of `STEPS_ROW`."""
        names, columns = list(self.columns), list(self.columns.values())
        described = json.dumps(names), json.dumps([column.dtype.str for column in columns])
        data = b"".join(column.tobytes() for column in columns)
        return self.seq, self.branch, self.first, self.count, self.time, *described, data

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> "Steps":
        """The steps that `to_row` gave."""
        seq, branch, first, count, moment, names, types, data = row
        columns, start = {}, 0
        for name, dtype in zip(json.loads(names), json.loads(types), strict=True):
            columns[name] = np.frombuffer(data, dtype, count, start)
            start += columns[name].nbytes
        return cls(seq, branch, first, columns, moment)


class BranchStart(NamedTuple):
    """Where a branch begins: on which other one, after how many steps, after which event of that one."""

    parent: str | None
    step: int
    last: float


class Segment(NamedTuple):
    """The steps `start + 1 … end` of a lineage, on one branch, with its events up to number `last`."""

    branch: str
    start: int
    end: float
    last: float

    def holds(self, event: Any) -> bool:
        """Whether an event, or its entry in the journal, counts on it."""
        return bool(event.branch == self.branch and event.step <= self.end and event.seq <= self.last)


Lineage = tuple[Segment, ...]


class RunLog:
    """Events, steps and branches of one run.

    Attributes:
        events: All of them, in their order.
        branches: Name -> where it begins, in the order in which they began.
        seq: Number of the newest row; 0 where there is none.
        begun: Whether there was a fit.
        on_append: Called with each row that is added, to keep it on disk.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.branches: dict[str, BranchStart] = {ROOT: BranchStart(None, 0, 0)}
        self.seq, self.begun = 0, False
        self.on_append: Callable[[Event | Steps], None] = lambda row: None
        self._tables = {ROOT: _Table(0)}

    # ------------------------------------------------------------------------------ writing

    def add(self, branch: str, step: int, payload: Payload, **about: Any) -> Event:
        """Appends an event with the next number; `author`, `why`, `command` and `time` as an `Event` has them."""
        event = Event(**{"author": "script", "time": time.time(), **about}, seq=self.seq + 1, branch=branch, step=step,
                      payload=payload)  # fmt: skip
        self.append(event)
        return event

    def add_steps(self, branch: str, steps: Steps) -> Steps:
        """Appends steps with the next number."""
        row = Steps(self.seq + 1, branch, steps.first, steps.columns, time.time(), steps.last, steps.examples)
        self.append(row)
        return row

    def append(self, row: Event | Steps) -> None:
        """Appends a row that has its number; what the disk could not hold is refused before anything changes."""
        self.on_append(row)
        if isinstance(row, Steps):
            self._tables[row.branch].append(row)
        else:
            if isinstance(row.payload, Branch):
                self._tables[row.branch] = _Table(row.step)
                self.branches[row.branch] = BranchStart(row.payload.parent, row.step, row.payload.last)
            self.events.append(row)
            self.begun = self.begun or isinstance(row.payload, Fit)
        self.seq = row.seq

    # ------------------------------------------------------------------------------ reading

    @property
    def branch_starts(self) -> set[tuple[str, int]]:
        """Branch and step of each place where a branch begins: on itself, and on the one that it left."""
        starts = [(name, start.parent, start.step) for name, start in list(self.branches.items())]
        return {(branch, step) for name, parent, step in starts for branch in (name, parent) if branch}

    @property
    def checkpoint_names(self) -> dict[str, str]:
        """Folder of a checkpoint -> the name that the user gave it last."""
        saved = [event.payload for event in self.events if isinstance(event.payload, Saved)]
        return {one.folder: one.name for one in saved}

    def tip(self, branch: str) -> int:
        """Steps from the very first to the last one of a branch."""
        table = self._tables[branch]
        return table.start + table.count

    def lineage(self, branch: str, step: float = math.inf) -> Lineage:
        """The way from step 0 to a step of a branch, its tip by default, one segment a branch."""
        segments: list[Segment] = []
        name: str | None = branch
        end, last = step, math.inf
        while name is not None:
            parent, start, left_at = self.branches[name]
            if start <= end or parent is None:
                segments.insert(0, Segment(name, start, end, last))
            name, end, last = parent, min(start, end), min(left_at, last)
        return tuple(segments)

    def events_after(self, seq: float) -> list[Event]:
        """The events after a number, on all branches."""
        return self.events[bisect_right(self.events, seq, key=lambda event: event.seq) :]

    def along(self, lineage: Lineage, after: float = 0) -> list[Event]:
        """The events that count on a lineage, from those after a number on."""
        parts = {part.branch: part for part in lineage}
        new = self.events_after(after)
        return [event for event in new if (part := parts.get(event.branch)) is not None and part.holds(event)]

    def controls_along(self, lineage: Lineage) -> Iterator[tuple[int, Controls]]:
        """The controls after each event of a lineage that changes them, with the steps done then."""
        controls = Controls()
        for event in self.along(lineage):
            if isinstance(event.payload, EpochEnd):  # of which there may be many
                continue
            changed, _ = apply(controls, Position(), event)
            if changed is not controls:
                controls = changed
                yield event.step, controls

    def epoch_ends(self, lineage: Lineage) -> list[Event]:
        """The ends of epochs on a lineage."""
        return [event for event in self.along(lineage) if isinstance(event.payload, EpochEnd)]

    def last_epoch_end(self, lineage: Lineage, after: int) -> Event | None:
        """The last end of an epoch on a lineage, after an event; None where there is none."""
        ends = (event for event in reversed(self.events_after(after)) if isinstance(event.payload, EpochEnd))
        return next((event for event in ends if any(part.holds(event) for part in lineage)), None)

    def names(self, lineage: Lineage) -> list[str]:
        """The columns that were measured at the last steps of a lineage."""
        tables = [self._tables[segment.branch] for segment in lineage]
        return next((list(table.columns) for table in reversed(tables) if table.count), [])

    def column(self, name: str, lineage: Lineage, after: int = 0) -> np.ndarray:
        """What was measured at each step of a lineage after one, NaN where it was not; shape (steps,)."""
        parts = [self._tables[part.branch].values(name, after, part.end) for part in lineage]
        return np.concatenate([part for part in parts if len(part)] or [np.empty(0, "f4")])

    def loss(self, branch: str, step: int) -> float:
        """The loss of a step of a branch; NaN where there is none."""
        for part in reversed(self.lineage(branch, step)):
            if part.start < step and len(values := self._tables[part.branch].values("loss", step - 1, step)):
                return float(values[-1])
        return math.nan

    def hyperparameter(self, name: str, lineage: Lineage) -> np.ndarray:
        """The value that acted in each step of a lineage, NaN where it had none; shape (steps,)."""
        steps = int(min(lineage[-1].end, self.tip(lineage[-1].branch)))
        found = np.full(steps, np.nan)
        for begun, controls in self.controls_along(lineage):
            value, ramp = controls.values.get(name, np.nan), controls.ramps.get(name)
            found[begun:] = np.nan if value == SCHEDULE else value
            if ramp is not None:
                moving = range(begun, min(steps, ramp.begun + ramp.steps))
                found[begun : begun + len(moving)] = [ramp.at(step) for step in moving]
        missing = np.isnan(found)
        if missing.any():  # as where a schedule is followed
            found[missing] = self.column(name, lineage)[:steps][missing]
        return found


class _Table:
    """The steps of one branch: columns of one length."""

    def __init__(self, start: int) -> None:
        self.start, self.count = start, 0
        self.columns: dict[str, _Array] = {}

    def append(self, steps: Steps) -> None:
        at = steps.first - 1 - self.start
        for name, values in steps.columns.items():
            if name not in self.columns:
                self.columns[name] = _Array(values.dtype)
            self.columns[name].write(at, values)
        self.count = at + steps.count

    def values(self, name: str, after: int, end: float) -> np.ndarray:
        begin = max(0, after - self.start)
        count = int(max(0, min(self.count, end - self.start) - begin))
        values = self.columns[name].view[begin : begin + count] if name in self.columns else np.empty(0, "f4")
        return np.concatenate([values, np.full(count - len(values), np.nan, "f4")]) if len(values) < count else values


class _Array:
    """An array that grows by doubling; what was read of it stays as it is."""

    def __init__(self, dtype: Any) -> None:
        self._values = np.zeros(16, dtype)
        self._count = 0

    @property
    def view(self) -> np.ndarray:
        """What is there, without a copy."""
        count = self._count
        return self._values[:count]

    def write(self, at: int, values: np.ndarray) -> None:
        """Adds some at a place, NaN before them where there is a gap; in a wider type where they need one."""
        gap, end = at > self._count, at + len(values)
        dtype = np.result_type(self._values.dtype, values.dtype, *(["f4"] if gap else []))
        if dtype != self._values.dtype or end > len(self._values):
            grown = np.zeros(max(end, 2 * len(self._values)), dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        if gap:
            self._values[self._count : at] = np.nan
        self._values[at:end] = values
        self._count = end
