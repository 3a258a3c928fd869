"""A run as series: everything the screens show of its log, in memory that does not grow with the run."""

import bisect
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from babysit.core.events import ROOT
from babysit.core.rows import decoded
from babysit.ui.entries import AROUND, LogEntry, entry_of
from babysit.ui.series import COUNT, HIGH, KEEP, MEAN, ROWS, STEP, DecimatedSeries, mean

SHARED = 8 * KEEP  # columns that the other branches of the present lineage have together, and all abandoned ones
ENTRIES = 5000
_Series = defaultdict[str, DecimatedSeries]


class Segment(NamedTuple):
    """What counts of a branch on a lineage: the steps `start + 1 … end`, and entries up to number `last`."""

    start: int
    end: float
    last: float


@dataclass
class Branch:
    """What was measured on one branch.

    Attributes:
        parent: The branch it left, or None.
        start: Steps done where it left.
        last_seq: The last of its parent's entries that belong to its past.
        tip: Its last step.
        measured: Column -> its values, one per step.
        epochs: Log of an epoch -> its values, each at the last step of its epoch.
        hyperparameters: Name -> its values, each at the step after which it acts.
    """

    parent: str | None
    start: int
    last_seq: float = math.inf
    tip: int = 0
    measured: _Series = field(default_factory=lambda: defaultdict(DecimatedSeries))
    epochs: _Series = field(default_factory=lambda: defaultdict(DecimatedSeries))
    hyperparameters: _Series = field(default_factory=lambda: defaultdict(DecimatedSeries))


class RunSeries:
    """The series and entries of one run, by branch, and along the present lineage.

    Attributes:
        branch: The present branch.
        entries: The newest entries, oldest first.
        version: Counts all changes.
        entries_version: Counts changes of entries and of the mean losses around them.
    """

    def __init__(self) -> None:
        self.branches = {ROOT: Branch(None, 0)}
        self.branch = ROOT
        self.entries: deque[LogEntry] = deque(maxlen=ENTRIES)
        self.version = self.entries_version = 0
        self._pending: list[LogEntry] = []  # entries that wait for the losses after them
        self._turns: deque[int] = deque(maxlen=2)  # the last steps of the present lineage with a change by the user

    # ---------------------------------------------------------------------- reading rows

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Adds new rows of the log, by table."""
        rows = [(row["seq"], table, row) for table, found in tables.items() for row in found if table in self._add]
        # The start of a branch has the number of its entry, which needs the branch.
        for _, table, row in sorted(rows, key=lambda item: (item[0], item[1] != "branches")):
            self._add[table](self, row)
        self._complete_entries()
        self.version += bool(rows)

    def _add_block(self, row: Mapping[str, Any]) -> None:
        branch = self._known(row["branch"])
        if row["first"] <= branch.tip:  # a run that was killed takes its last steps again: they are known
            return
        steps = row["first"] + np.arange(row["steps"])
        steered = self.hyperparameters
        for name, values in zip(row["names"], decoded(row), strict=True):
            branch.measured[name].append(steps, values)
            if name in steered:  # a schedule or a ramp, whose value acted in these steps
                branch.hyperparameters[name].append(steps - 1, values)
        branch.tip = int(steps[-1])
        if self._pending and branch.tip >= self._pending[0].step + AROUND:
            self._complete_entries()  # while each of those steps is still kept

    def _add_branch(self, row: Mapping[str, Any]) -> None:
        name, step = row["name"], row["step"]
        if row["parent"] is not None:
            self.branches[name] = Branch(row["parent"], step, row["last"], step)
            self._complete_entries()
            self._pending = []
        self.branch = name
        self._turns.clear()
        for entry in self.lineage_entries():
            self._note_turn(entry)
        self._set(name, step, row["hyperparameters"] or {})
        self._thin_other_branches()

    def _thin_other_branches(self) -> None:
        """Thins series that will not grow any more; those of the present lineage least."""
        lineage = [name for name, part in self.lineage().items() if part.end > part.start]
        abandoned = [name for name in self.branches if name not in lineage]
        for names in (lineage, abandoned):
            for branch in (self.branches[name] for name in names if name != self.branch):
                for kind in (branch.measured, branch.epochs, branch.hyperparameters):
                    for series in kind.values():
                        series.thin(max(SHARED // len(names), 16))

    def _add_epoch(self, row: Mapping[str, Any]) -> None:
        for name, value in {**row["logs"], "epoch": row["epoch"]}.items():
            if _is_number(value):
                self._known(row["branch"]).epochs[name].append(row["step"], value)

    def _add_entry(self, row: Mapping[str, Any]) -> None:
        if row["action"] != "refuse":
            self._set(row["branch"], row["step"], {name: new for name, (_, new) in row["changes"].items()})
        self.entries_version += 1
        entry = entry_of(row)
        if (explained := self.entry(row.get("about"))) is not None:
            explained.why = "; ".join(filter(None, (explained.why, entry.why)))
        elif not (self.entries and self.entries[-1].join(entry)):
            self._append(entry)

    def _append(self, entry: LogEntry) -> None:
        self._complete_entries()
        self._note_turn(entry)
        begin = max([entry.step - AROUND, *(step for step in self._turns if step < entry.step)])
        entry.before, entry.steps_before = self.mean_loss(entry.branch, begin, entry.step)
        self.entries.append(entry)
        if entry.on_chart:
            self._pending.append(entry)

    def _note_turn(self, entry: LogEntry) -> None:
        """Ends the averages of earlier entries at a change by the user."""
        if entry.is_turn:
            self._pending = [one for one in self._pending if one.step == entry.step]
            if entry.step not in self._turns:
                self._turns.append(entry.step)

    def _complete_entries(self) -> None:
        """Averages the losses after an entry while each of those steps is still kept."""
        self.entries_version += bool(self._pending)
        for entry in self._pending:
            entry.after, entry.steps_after = self.mean_loss(entry.branch, entry.step, entry.step + AROUND)
        self._pending = [e for e in self._pending if e.steps_after < AROUND and e.branch == self.branch]

    def _known(self, name: str) -> Branch:
        return self.branches.setdefault(name, Branch(None, 0))

    def _set(self, branch: str, step: int, values: Mapping[str, Any]) -> None:
        """Adds the values of hyperparameters from a step on; words, as of a schedule or a coupling, are left out."""
        for name, value in values.items():
            if _is_number(value):
                self._known(branch).hyperparameters[name].append(step, value)

    _add: ClassVar[dict[str, Any]] = {
        "blocks": _add_block,
        "branches": _add_branch,
        "epochs": _add_epoch,
        "entries": _add_entry,
    }

    # ---------------------------------------------------------------------- along a lineage

    def lineage(self, name: str | None = None) -> dict[str, Segment]:
        """Branch -> what counts of it, from step 0 to the tip of a branch, the present one by default."""
        lineage: dict[str, Segment] = {}
        part: str | None = name or self.branch
        end = last = math.inf
        while part is not None:
            branch = self.branches[part]
            lineage[part] = Segment(branch.start, end, last)
            part, end, last = branch.parent, min(branch.start, end), min(branch.last_seq, last)
        return dict(reversed(lineage.items()))

    def along(self, kind: str, column: str, after: float = -math.inf, name: str | None = None) -> np.ndarray:
        """The columns of a series along a lineage, of the steps after `after`; of shape (5, columns).

        Args:
            kind: `measured`, `epochs` or `hyperparameters`.
            column: Its name.
            after: Steps.
            name: The branch to end at, the present one by default.
        """
        found = [np.empty((ROWS, 0))]
        for part, (start, end, _) in self.lineage(name).items():
            series = getattr(self.branches[part], kind).get(column)
            if series is not None and end > after:
                # A value that acts from the start of a branch is kept at the step where it left.
                found.append(series.columns(max(after, start - (kind == "hyperparameters")), end))
        return np.hstack(found)

    def steps(self, name: str | None = None) -> int:
        """Steps done on a lineage."""
        return self.branches[name or self.branch].tip

    def mean_loss(self, name: str, after: float, end: float) -> tuple[float, int]:
        """The mean loss of the steps after `after` up to `end` of a lineage, and their number."""
        if name not in self.branches:
            return math.nan, 0
        columns = self.along("measured", "loss", after, name)
        columns = columns[:, : bisect.bisect_right(columns[STEP], end)]
        return mean(columns), int(columns[COUNT].sum())

    def last(self, kind: str, column: str) -> float:
        """The last value along the present lineage, NaN if there is none."""
        columns = self.along(kind, column)
        return float(columns[MEAN, -1]) if columns.shape[1] else math.nan

    def epoch_logs(self, name: str, step: float) -> dict[str, float]:
        """The logs of the last epoch that ended on a lineage up to a step, with its number as `epoch`."""
        found: dict[str, tuple[float, float]] = {}
        for column in {column: None for part in self.lineage(name) for column in self.branches[part].epochs}:
            columns = self.along("epochs", column, name=name)
            if last := bisect.bisect_right(columns[STEP], step):
                found[column] = columns[STEP, last - 1], columns[HIGH if column == "epoch" else MEAN, last - 1]
        return {column: value for column, (at, value) in found.items() if at == found["epoch"][0]}

    def entry(self, seq: int | None) -> LogEntry | None:
        """The entry with a number, or the one that this was joined to; None if there is none."""
        if seq is None:
            return None
        return next((e for e in reversed(self.entries) if e.seq <= seq <= e.last_seq and e.action != "refuse"), None)

    def lineage_entries(self) -> list[LogEntry]:
        """The entries of the present lineage that the chart shows, by step."""
        nowhere, lineage = Segment(0, -1, -1), self.lineage()
        parts = [(entry, lineage.get(entry.branch, nowhere)) for entry in self.entries if entry.on_chart]
        shown = [entry for entry, part in parts if entry.step <= part.end and entry.seq <= part.last]
        return sorted(shown, key=lambda entry: (entry.step, entry.seq))

    # ---------------------------------------------------------------------- names

    @property
    def hyperparameters(self) -> list[str]:
        """The hyperparameters of the present lineage, in order of appearance."""
        return list(dict.fromkeys(name for part in self.lineage() for name in self.branches[part].hyperparameters))

    @property
    def metrics(self) -> list[str]:
        """What is measured besides the loss, each step or each epoch."""
        branches = [self.branches[part] for part in self.lineage()]
        names = [name.removeprefix("val_") for branch in branches for name in (*branch.epochs, *branch.measured)]
        return [name for name in dict.fromkeys(names) if name not in {"loss", "epoch", *self.hyperparameters}]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
