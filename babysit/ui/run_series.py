"""A run as series: everything the screens show of its log, in memory that does not grow with the run."""

import bisect
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from babysit.core.events import ROOT
from babysit.core.rows import decoded
from babysit.ui.entries import AROUND, LogEntry, entry_of
from babysit.ui.series import COUNT, HIGH, KEEP, MEAN, ROWS, STEP, DecimatedSeries, mean

SHARED = 16 * KEEP  # columns that all branches but the newest have together
ENTRIES = 5000
_REST_S, _REST_BLOCKS = 1.0, 10  # a block that arrives so much later than usual came after a rest
_RESTS = ("pause", "nan", "stop", "finish", "fail")


@dataclass
class Branch:
    """What was measured on one branch.

    Attributes:
        parent: The branch it left, or None.
        start: Steps done where it left.
        last_seq: The last of its parent's entries that belong to its past.
        measured: Column -> its values, one per step.
        epochs: Log of an epoch -> its values, each at the last step of its epoch.
        hyperparameters: Name -> its values, each at the step after which it acts.
        seconds: Training time after each block, without rests.
        tip: The last step, and the training time after it.
    """

    parent: str | None
    start: int
    last_seq: float = math.inf
    measured: dict[str, DecimatedSeries] = field(default_factory=dict)
    epochs: dict[str, DecimatedSeries] = field(default_factory=dict)
    hyperparameters: dict[str, DecimatedSeries] = field(default_factory=dict)
    seconds: DecimatedSeries = field(default_factory=DecimatedSeries)
    tip: tuple[int, float] = (-1, 0.0)

    @property
    def series(self) -> list[DecimatedSeries]:
        """All series of the branch."""
        kinds = (self.measured, self.epochs, self.hyperparameters)
        return [one for kind in kinds for one in kind.values()] + [self.seconds]


class RunSeries:
    """The series and entries of one run, by branch, and along the present lineage.

    Args:
        smoothing: Weight of the past in smoothed curves, from 0 to below 1.

    Attributes:
        branch: The present branch.
        entries: The newest entries, oldest first.
        version: Counts all changes.
        fixed_version: Counts changes of branches and of what an annotation of the chart shows.
        entries_version: Counts changes of entries and of the mean losses around them.
    """

    def __init__(self, smoothing: float) -> None:
        self.branches = {ROOT: Branch(None, 0)}
        self.branch = ROOT
        self.entries: deque[LogEntry] = deque(maxlen=ENTRIES)
        self.version = self.fixed_version = self.entries_version = 0
        self._smoothing = smoothing
        self._first_epoch = 0
        self._pending: list[LogEntry] = []  # entries that wait for the losses after them
        self._turns: deque[int] = deque(maxlen=2)  # the last steps of the present lineage with a change by the user
        self._clock: float | None = None  # end of the last block or rest, in seconds since 1970
        self._resting, self._step_s = False, 0.0
        self._validated = False  # whether an epoch, whose end takes time, has ended since the last block

    # ---------------------------------------------------------------------- reading rows

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Adds new rows of the log, by table."""
        rows = [(row["seq"], table, row) for table, found in tables.items() for row in found if table in self._add]
        blocks: list[Mapping[str, Any]] = []
        # The start of a branch has the number of its entry, which needs the branch.
        for _, table, row in sorted(rows, key=lambda item: (item[0], item[1] != "branches")):
            if table == "blocks" and (not blocks or _continues(row, blocks[-1])):
                blocks.append(row)
                continue
            self._add_blocks(blocks)
            blocks = [row] if table == "blocks" else []
            self._add[table](self, row)
        self._add_blocks(blocks)
        self.version += bool(rows)

    def _add_blocks(self, rows: list[Mapping[str, Any]]) -> None:
        """Adds consecutive blocks as one."""
        branch = self._known(rows[0]["branch"]) if rows else self.branches[self.branch]
        # A run that was killed takes its last steps again: they are known.
        rows = [row for row in rows if row["first"] > branch.tip[0]]
        if not rows:
            return
        self._first_epoch = self._first_epoch or rows[0]["epoch"]
        self._add_seconds(branch, rows)
        steps = np.concatenate([np.arange(row["first"], row["first"] + row["steps"]) for row in rows])
        table = np.hstack([decoded(row) for row in rows])
        steered = self.hyperparameters
        for name, values in zip(rows[0]["names"], table, strict=True):
            self._measured(branch, rows[0]["branch"], name).append(steps, values)
            if name in steered:  # a schedule or a ramp, whose value acted in these steps
                branch.hyperparameters.setdefault(name, DecimatedSeries()).append(steps - 1, values)
        self._complete_entries()

    def _add_seconds(self, branch: Branch, rows: list[Mapping[str, Any]]) -> None:
        steps, seconds = [], []
        passed = self.seconds_at(rows[0]["branch"], rows[0]["first"] - 1)
        for row in rows:
            took = self._duration(row)
            self._step_s, self._clock = took / row["steps"], row["time"]
            passed += took
            steps.append(row["first"] + row["steps"] - 1)
            seconds.append(passed)
        branch.seconds.append(np.array(steps), np.array(seconds))
        branch.tip = steps[-1], passed

    def _duration(self, row: Mapping[str, Any]) -> float:
        """Duration of a block. After a rest it is unknown, so the previous speed is assumed."""
        usual: float = self._step_s * row["steps"]
        if self._clock is None or self._resting:
            return usual
        took: float = max(row["time"] - self._clock, 0.0)
        late = usual > 0 and not self._validated and took > _REST_S + _REST_BLOCKS * usual
        self._validated = False
        return usual if late else took

    def _measured(self, branch: Branch, name: str, column: str) -> DecimatedSeries:
        if column not in branch.measured:
            branch.measured[column] = DecimatedSeries(
                self._smoothing, self._average_at(branch.parent, column, branch.start)
            )
        return branch.measured[column]

    def _average_at(self, name: str | None, column: str, step: int) -> tuple[float, float]:
        while name is not None and self.branches[name].start >= step:
            name = self.branches[name].parent
        series = self.branches[name].measured.get(column) if name is not None else None
        return series.average_at(step) if series is not None else (math.nan, 0)

    def _add_branch(self, row: Mapping[str, Any]) -> None:
        if row["parent"] is not None:
            self.branches[row["name"]] = Branch(row["parent"], row["step"], row["last"])
            self._pending = []
        self.branch = row["name"]
        self._turns.clear()
        for entry in self.lineage_entries():
            self._note_turn(entry)
        branch = self._known(row["name"])
        for name, value in (row["hyperparameters"] or {}).items():
            _set(branch, name, row["step"], value)
        self._thin_old_branches()
        self.fixed_version += 1

    def _thin_old_branches(self) -> None:
        """Thins series that will not grow any more; those of the present lineage least."""
        lineage = {name for name, (start, end) in self.lineage().items() if end > start}
        groups: tuple[list[Branch], list[Branch]] = [], []
        for name, branch in self.branches.items():
            if name != self.branch:
                groups[name not in lineage].append(branch)
        for group, room in zip(groups, (3 * SHARED // 4, SHARED // 4), strict=True):
            for branch in group:
                for series in branch.series:
                    series.thin(max(room // len(group), 16))

    def _add_epoch(self, row: Mapping[str, Any]) -> None:
        branch = self._known(row["branch"])
        values = {name: value for name, value in row["logs"].items() if _is_number(value)}
        self._validated = True
        for name, value in {**values, "epoch": row["epoch"]}.items():
            branch.epochs.setdefault(name, DecimatedSeries()).append(np.array([row["step"]]), np.array([value]))

    def _add_entry(self, row: Mapping[str, Any]) -> None:
        branch = self._known(row["branch"])
        if row["action"] in ("fit", "resume", "rewind"):
            self._clock = row["time"]
        self._resting = row["action"] in _RESTS or (self._resting and row["action"] not in ("fit", "resume"))
        if row["action"] != "refuse":
            for name, (_, new) in row["changes"].items():
                _set(branch, name, row["step"], new)
        self.entries_version += 1
        entry = entry_of(row)
        explained = self.entry(row.get("about"))
        if explained is not None:
            explained.why = "; ".join(filter(None, (explained.why, entry.why)))
        elif self.entries and self.entries[-1].join(entry):
            self.fixed_version += 1
        else:
            self._append(entry)

    def _append(self, entry: LogEntry) -> None:
        self._note_turn(entry)
        begin = max([entry.step - AROUND, *(step for step in self._turns if step < entry.step)])
        entry.before, entry.steps_before = self.mean_loss(entry.branch, begin, entry.step)
        self.entries.append(entry)
        if entry.on_chart:
            self._pending.append(entry)
            self.fixed_version += 1

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

    _add: ClassVar[dict[str, Any]] = {
        "blocks": _add_blocks,
        "branches": _add_branch,
        "epochs": _add_epoch,
        "entries": _add_entry,
    }

    def smooth(self, smoothing: float) -> None:
        """Smooths the curves with another weight."""
        self._smoothing = smoothing
        for branch in self.branches.values():
            for column, series in branch.measured.items():
                series.smooth(smoothing, self._average_at(branch.parent, column, branch.start))
        self.version += 1
        self.fixed_version += 1

    # ---------------------------------------------------------------------- along a lineage

    def lineage(self, name: str | None = None) -> dict[str, tuple[int, float]]:
        """Branch -> (steps after which, step up to which) it counts, from step 0 to the tip of a branch."""
        lineage: dict[str, tuple[int, float]] = {}
        part: str | None = name or self.branch
        end = math.inf
        while part is not None:
            branch = self.branches[part]
            lineage[part] = branch.start, end
            part, end = branch.parent, min(branch.start, end)
        return dict(reversed(lineage.items()))

    def along(self, kind: str, column: str, after: float = -math.inf, name: str | None = None) -> np.ndarray:
        """The columns of a series along a lineage, of the steps after `after`; of shape (6, columns).

        Args:
            kind: `measured`, `epochs` or `hyperparameters`.
            column: Its name.
            after: Steps.
            name: The branch to end at, the present one by default.
        """
        found = [np.empty((ROWS, 0))]
        for part, (start, end) in self.lineage(name).items():
            series = getattr(self.branches[part], kind).get(column)
            if series is not None and end > after:
                # A value that acts from the start of a branch is kept at the step where it left.
                found.append(series.columns(max(after, start - (kind == "hyperparameters")), end))
        return np.hstack(found)

    def steps(self, name: str | None = None) -> float:
        """Steps done on a lineage."""
        branch = self.branches[name or self.branch]
        return max(branch.start, branch.seconds.end)

    def seconds_at(self, name: str, step: float) -> float:
        """Training time up to a step of a branch."""
        tip = self.branches[name].tip
        if tip[0] == step:  # the usual case, without a search
            return tip[1]
        return float(self.axis("time", name)(np.array([step]))[0])

    def axis(self, unit: str, name: str | None = None) -> Any:
        """A function from steps of a lineage to positions on the axis: `step`, `epoch` or `time` in seconds."""
        if unit == "step":
            return lambda steps: np.asarray(steps, "float64")
        if unit == "epoch":
            return self._epoch_axis(name)
        parts = [self.branches[part].seconds.columns(start, end) for part, (start, end) in self.lineage(name).items()]
        known = np.hstack([np.empty((ROWS, 0)), *parts])
        steps, seconds = np.append(0, known[STEP]), np.append(0, known[HIGH])
        return lambda wanted: np.interp(wanted, steps, seconds)

    def _epoch_axis(self, name: str | None) -> Any:
        known = self.along("epochs", "epoch", name=name)
        first = max(self._first_epoch - 1, 0)
        steps, epochs = np.append(0, known[STEP]), np.append(first, known[HIGH])
        # An epoch that has not ended is assumed as long as the last one; the first one slightly longer than so far.
        ended = len(steps) > 1
        length = (steps[-1] - steps[-2]) / (epochs[-1] - epochs[-2] or 1) if ended else 1.25 * self.steps(name)
        return lambda wanted: np.where(
            np.asarray(wanted) <= steps[-1],
            np.interp(wanted, steps, epochs),
            epochs[-1] + np.minimum((np.asarray(wanted) - steps[-1]) / max(length, 1), 1),
        )

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
        ends: dict[str, tuple[float, float]] = {}
        part: str | None = self.branch
        end = last = math.inf
        while part is not None:
            branch = self.branches[part]
            ends[part] = end, last
            part, end, last = branch.parent, min(branch.start, end), min(branch.last_seq, last)
        shown = [e for e in self.entries if e.on_chart and e.branch in ends]
        shown = [e for e in shown if e.step <= ends[e.branch][0] and e.seq <= ends[e.branch][1]]
        return sorted(shown, key=lambda entry: (entry.step, entry.seq))

    # ---------------------------------------------------------------------- names

    @property
    def hyperparameters(self) -> list[str]:
        """The hyperparameters of the present lineage, in order of appearance."""
        return list(dict.fromkeys(name for part in self.lineage() for name in self.branches[part].hyperparameters))

    @property
    def metrics(self) -> list[str]:
        """What is measured besides the loss, each step or each epoch."""
        measured: dict[str, None] = {}
        for part in self.lineage():
            measured |= dict.fromkeys([*self.branches[part].epochs, *self.branches[part].measured])
        plain = [name.removeprefix("val_") for name in measured]
        steered = {"loss", "epoch", *self.hyperparameters}
        return [name for name in dict.fromkeys(plain) if name not in steered]


def _continues(row: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    same = all(row[name] == last[name] for name in ("branch", "names", "dtype"))
    return same and row["first"] == last["first"] + last["steps"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _set(branch: Branch, name: str, step: int, value: Any) -> None:
    """Adds the value of a hyperparameter from a step on; words, as of a schedule or a coupling, are left out."""
    if _is_number(value):
        branch.hyperparameters.setdefault(name, DecimatedSeries()).append(np.array([step]), np.array([value]))
