"""The course of a run: what a chart needs of its record, in room that does not grow with it."""

import bisect
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from babysit.session.history import ROOT, decoded
from babysit.ui.marks import AROUND, Mark, explained, mark_of
from babysit.ui.series import COUNT, HIGH, KEEP, MEAN, ROWS, STEP, Trace, mean

# Columns that branches other than the newest share among them, and marks that are kept.
SHARED, MARKS = 16 * KEEP, 2000
_REST_S, _REST_PACES = 1.0, 10  # a block that comes so much later than its steps take came after a rest
_RESTS = ("pause", "nan", "stop", "finish", "fail")


@dataclass
class Branch:
    """What was measured on one branch.

    Attributes:
        parent: The branch it left, or None.
        start: Steps done where it left.
        mark: The last of its parent's entries that count for it.
        measured: Column -> its values, a step each.
        epochs: Log of an epoch -> its values, at the step with which it ended.
        hyperparameters: Name -> its values, at the steps behind which they act.
        seconds: Training time behind each block, rests left out.
        tip: The last step, and the training time behind it.
    """

    parent: str | None
    start: int
    mark: float = math.inf
    measured: dict[str, Trace] = field(default_factory=dict)
    epochs: dict[str, Trace] = field(default_factory=dict)
    hyperparameters: dict[str, Trace] = field(default_factory=dict)
    seconds: Trace = field(default_factory=Trace)
    tip: tuple[int, float] = (-1, 0.0)

    @property
    def traces(self) -> list[Trace]:
        """All of them."""
        kinds = (self.measured, self.epochs, self.hyperparameters)
        return [trace for kind in kinds for trace in kind.values()] + [self.seconds]


class Course:
    """What is known of one run, by branch, and along the line that is trained.

    Args:
        smoothing: Weight of the past in smoothed curves, from 0 to below 1.
    """

    def __init__(self, smoothing: float) -> None:
        self.branches = {ROOT: Branch(None, 0)}
        self.branch = ROOT
        self.marks: dict[int, Mark] = {}
        self.version = 0  # of all there is
        self.fixed_version = 0  # of marks and branches
        self.slow_version = 0  # and of all but what a step adds
        self._smoothing = smoothing
        self._first_epoch = 0
        self._last: Mark | None = None  # of the last entry
        self._pending: list[Mark] = []  # whose steps behind them are not complete
        self._turns: deque[int] = deque(maxlen=2)  # the last steps on the present line with a change by hand
        self._clock: float | None = None  # when the last block or rest ended, in seconds since 1970
        self._resting, self._pace = False, 0.0  # seconds a step
        self._validated = False  # whether an epoch has ended since the last block, which may take its time

    # ---------------------------------------------------------------------- taking in

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Takes in new rows of the record, by table."""
        rows = [(row["seq"], table, row) for table, found in tables.items() for row in found if table in self._take]
        blocks: list[Mapping[str, Any]] = []
        for _, table, row in sorted(rows, key=lambda item: item[0]):
            if table == "blocks" and (not blocks or _continues(row, blocks[-1])):
                blocks.append(row)
                continue
            self._take_blocks(blocks)
            blocks = [row] if table == "blocks" else []
            self._take[table](self, row)
        self._take_blocks(blocks)
        self.version += bool(rows)
        self.slow_version += any(table in ("epochs", "entries", "branches") for _, table, _ in rows)

    def _take_blocks(self, rows: list[Mapping[str, Any]]) -> None:
        """Takes in blocks that follow one another, as if they were one."""
        branch = self._known(rows[0]["branch"]) if rows else self.branches[self.branch]
        # Steps that are taken again, of a run that was cut off, are known.
        rows = [row for row in rows if row["first"] > branch.tip[0]]
        if not rows:
            return
        self._first_epoch = self._first_epoch or rows[0]["epoch"]
        self._pass_time(branch, rows)
        steps = np.concatenate([np.arange(row["first"], row["first"] + row["steps"]) for row in rows])
        table = np.hstack([decoded(row) for row in rows])
        steered = self.hyperparameters
        for name, values in zip(rows[0]["names"], table, strict=True):
            self._measured(branch, rows[0]["branch"], name).append(steps, values)
            if name in steered:  # it follows a schedule or a ramp, and acted in these steps
                branch.hyperparameters.setdefault(name, Trace()).append(steps - 1, values)
        self._complete_marks()

    def _pass_time(self, branch: Branch, rows: list[Mapping[str, Any]]) -> None:
        steps, seconds = [], []
        passed = self.seconds_at(rows[0]["branch"], rows[0]["first"] - 1)
        for row in rows:
            took = self._taken(row)
            self._pace, self._clock = took / row["steps"], row["time"]
            passed += took
            steps.append(row["first"] + row["steps"] - 1)
            seconds.append(passed)
        branch.seconds.append(np.array(steps), np.array(seconds))
        branch.tip = steps[-1], passed

    def _taken(self, row: Mapping[str, Any]) -> float:
        """Seconds that a block took; those of a rest before it are not told, so that one like the last is assumed."""
        usual: float = self._pace * row["steps"]
        if self._clock is None or self._resting:
            return usual
        took: float = max(row["time"] - self._clock, 0.0)
        late = usual > 0 and not self._validated and took > _REST_S + _REST_PACES * usual
        self._validated = False
        return usual if late else took

    def _measured(self, branch: Branch, name: str, column: str) -> Trace:
        if column not in branch.measured:
            branch.measured[column] = Trace(self._smoothing, self._average_at(branch.parent, column, branch.start))
        return branch.measured[column]

    def _average_at(self, name: str | None, column: str, step: int) -> tuple[float, float]:
        while name is not None and self.branches[name].start >= step:
            name = self.branches[name].parent
        trace = self.branches[name].measured.get(column) if name is not None else None
        return trace.average_at(step) if trace is not None else (math.nan, 0)

    def _take_branch(self, row: Mapping[str, Any]) -> None:
        if row["parent"] is not None:
            mark = math.inf if row["mark"] is None else row["mark"]
            self.branches[row["name"]] = Branch(row["parent"], row["step"], mark)
            self._pending = []
        self.branch = row["name"]
        self._turns.clear()
        for one in self.present_marks():
            self._turn(one)
        branch = self._known(row["name"])
        for name, value in (row["hyperparameters"] or {}).items():
            _set(branch, name, row["step"], value)
        self._share_out()
        self.fixed_version += 1

    def _share_out(self) -> None:
        """Thins what will not be added to any more where it is too much, the longest first; the present line least."""
        line = {name for name, (start, end) in self.line().items() if end > start}
        groups: tuple[list[Branch], list[Branch]] = [], []
        for name, branch in self.branches.items():
            if name != self.branch:
                groups[name not in line].append(branch)
        for group, room in zip(groups, (3 * SHARED // 4, SHARED // 4), strict=True):
            most = _most([max(trace.width for trace in branch.traces) for branch in group], room)
            for branch in group:
                for trace in branch.traces:
                    trace.thin(most)

    def _take_epoch(self, row: Mapping[str, Any]) -> None:
        branch = self._known(row["branch"])
        values = {name: value for name, value in row["logs"].items() if _is_number(value)}
        self._validated = True
        for name, value in {**values, "epoch": row["epoch"]}.items():
            branch.epochs.setdefault(name, Trace()).append(np.array([row["step"]]), np.array([value]))

    def _take_entry(self, row: Mapping[str, Any]) -> None:
        branch = self._known(row["branch"])
        if row["action"] in ("fit", "resume", "rewind"):
            self._clock = row["time"]
        self._resting = row["action"] in _RESTS or (self._resting and row["action"] not in ("fit", "resume"))
        if row["action"] != "refuse":
            for name, (_, new) in row["changes"].items():
                _set(branch, name, row["step"], new)
        mark = mark_of(row)
        last, self._last = self._last, mark
        if mark is not None and last is not None and last.join(mark):
            self._last = last
            self.fixed_version += 1
        elif mark is not None and explained(mark, reversed(self.marks.values())) is None:
            self._add_mark(mark)

    def _add_mark(self, mark: Mark) -> None:
        self._turn(mark)
        begin = max([mark.step - AROUND, *(step for step in self._turns if step < mark.step)])
        mark.before, mark.steps_before = self.mean_loss(mark.branch, begin, mark.step)
        self.marks[mark.seq] = mark
        self._pending.append(mark)
        if len(self.marks) > MARKS:
            del self.marks[next(iter(self.marks))]
        self.fixed_version += 1

    def _turn(self, mark: Mark) -> None:
        """Ends at a change by hand what is told of the marks before it."""
        if mark.is_turn:
            self._pending = [one for one in self._pending if one.step == mark.step]
            if mark.step not in self._turns:
                self._turns.append(mark.step)

    def _complete_marks(self) -> None:
        """Notes the loss behind a mark while each of those steps is still kept."""
        for mark in self._pending:
            mark.after, mark.steps_after = self.mean_loss(mark.branch, mark.step, mark.step + AROUND)
        self._pending = [m for m in self._pending if m.steps_after < AROUND and m.branch == self.branch]

    def _known(self, name: str) -> Branch:
        return self.branches.setdefault(name, Branch(None, 0))

    _take: ClassVar[dict[str, Any]] = {
        "blocks": _take_blocks,
        "branches": _take_branch,
        "epochs": _take_epoch,
        "entries": _take_entry,
    }

    def smooth(self, smoothing: float) -> None:
        """Smooths the curves with another strength."""
        self._smoothing = smoothing
        for branch in self.branches.values():
            for column, trace in branch.measured.items():
                trace.smooth(smoothing, self._average_at(branch.parent, column, branch.start))
        self.version += 1
        self.slow_version += 1
        self.fixed_version += 1

    # ---------------------------------------------------------------------- along a line

    def line(self, name: str | None = None) -> dict[str, tuple[int, float]]:
        """Branch -> the steps behind which and up to which it counts, from step 0 to the tip of a branch."""
        line: dict[str, tuple[int, float]] = {}
        part: str | None = name or self.branch
        end = math.inf
        while part is not None:
            branch = self.branches[part]
            line[part] = branch.start, end
            part, end = branch.parent, min(branch.start, end)
        return dict(reversed(line.items()))

    def along(self, kind: str, column: str, after: float = -math.inf, name: str | None = None) -> np.ndarray:
        """The columns of a trace along a line, of the steps behind `after`; of shape (6, columns).

        Args:
            kind: `measured`, `epochs` or `hyperparameters`.
            column: Its name.
            after: Steps.
            name: The branch to end at, the present one by default.
        """
        found = [np.empty((ROWS, 0))]
        for part, (start, end) in self.line(name).items():
            trace = getattr(self.branches[part], kind).get(column)
            if trace is not None and end > after:
                # What acts from the start of a branch on is kept at the step it left.
                found.append(trace.columns(max(after, start - (kind == "hyperparameters")), end))
        return np.hstack(found)

    def steps(self, name: str | None = None) -> float:
        """Steps done on a line; 0 where there are none."""
        branch = self.branches[name or self.branch]
        return max(branch.start, branch.seconds.end)

    def seconds_at(self, name: str, step: float) -> float:
        """Training time up to a step of a branch."""
        tip = self.branches[name].tip
        if tip[0] == step:  # as mostly, and then nothing need be looked up
            return tip[1]
        return float(self.axis("time", name)(np.array([step]))[0])

    def axis(self, unit: str, name: str | None = None) -> Any:
        """A function from steps along a line to where they lie on the axis: `step`, `epoch` or `time` in seconds."""
        if unit == "step":
            return lambda steps: np.asarray(steps, "float64")
        if unit == "epoch":
            return self._epoch_axis(name)
        parts = [self.branches[part].seconds.columns(start, end) for part, (start, end) in self.line(name).items()]
        known = np.hstack([np.empty((ROWS, 0)), *parts])
        steps, seconds = np.append(0, known[STEP]), np.append(0, known[HIGH])
        return lambda wanted: np.interp(wanted, steps, seconds)

    def _epoch_axis(self, name: str | None) -> Any:
        known = self.along("epochs", "epoch", name=name)
        first = max(self._first_epoch - 1, 0)
        steps, epochs = np.append(0, known[STEP]), np.append(first, known[HIGH])
        # An epoch that has not ended yet counts as long as the last one, the first one as long as it is so far.
        ended = len(steps) > 1
        length = (steps[-1] - steps[-2]) / (epochs[-1] - epochs[-2] or 1) if ended else 1.25 * self.steps(name)
        return lambda wanted: np.where(
            np.asarray(wanted) <= steps[-1],
            np.interp(wanted, steps, epochs),
            epochs[-1] + np.minimum((np.asarray(wanted) - steps[-1]) / max(length, 1), 1),
        )

    def mean_loss(self, name: str, after: float, end: float) -> tuple[float, int]:
        """The mean loss of the steps behind `after` up to `end` of a line, and how many they are."""
        if name not in self.branches:
            return math.nan, 0
        columns = self.along("measured", "loss", after, name)
        columns = columns[:, : bisect.bisect_right(columns[STEP], end)]
        return mean(columns), int(columns[COUNT].sum())

    def last(self, kind: str, column: str) -> float:
        """The last value along the present line, NaN where there is none."""
        columns = self.along(kind, column)
        return float(columns[MEAN, -1]) if columns.shape[1] else math.nan

    def present_marks(self) -> list[Mark]:
        """The marks that lie on the present line, by step."""
        ends: dict[str, tuple[float, float]] = {}
        part: str | None = self.branch
        end = last = math.inf
        while part is not None:
            branch = self.branches[part]
            ends[part] = end, last
            part, end, last = branch.parent, min(branch.start, end), min(branch.mark, last)
        found = [m for m in self.marks.values() if m.branch in ends and (m.step, m.seq) <= ends[m.branch]]
        found = [m for m in found if m.seq <= ends[m.branch][1]]
        return sorted(found, key=lambda mark: (mark.step, mark.seq))

    # ---------------------------------------------------------------------- names

    @property
    def hyperparameters(self) -> list[str]:
        """Those of the present line, in the order in which they came."""
        return list(dict.fromkeys(name for part in self.line() for name in self.branches[part].hyperparameters))

    @property
    def metrics(self) -> list[str]:
        """What is measured beside the loss, each step or each epoch."""
        measured: dict[str, None] = {}
        for part in self.line():
            measured |= dict.fromkeys([*self.branches[part].epochs, *self.branches[part].measured])
        plain = [name.removeprefix("val_") for name in measured]
        steered = {"loss", "epoch", *self.hyperparameters}
        return [name for name in dict.fromkeys(plain) if name not in steered]


def _most(widths: list[int], room: int) -> int:
    """How wide each may be at most, so that all of them find room; 16 at least."""
    for i, width in enumerate(sorted(widths)):
        if width * (len(widths) - i) > room:
            return max(room // (len(widths) - i), 16)
        room -= width
    return max(widths, default=16)


def _continues(row: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    same = all(row[name] == last[name] for name in ("branch", "names", "dtype"))
    return same and row["first"] == last["first"] + last["steps"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _set(branch: Branch, name: str, step: int, value: Any) -> None:
    """Notes the value of a hyperparameter from a step on; words, as of a schedule or a coupling, are none."""
    if _is_number(value):
        branch.hyperparameters.setdefault(name, Trace()).append(np.array([step]), np.array([value]))
