"""The history: what was measured, step by step, along the branch that is trained.

Nothing of it is held in memory: a block of steps is one row of the record, and the
columns of the hyperparameters follow from the entries that changed them.
"""

import copy
import csv
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babysit.core.rows import ROOT, decoded
from babysit.store.record import Record


@dataclass(frozen=True)
class Stretch:
    """The steps `start + 1 … end` of a line of training, taken on one branch.

    Attributes:
        branch: Its name.
        start: Steps done when it began.
        end: The last of its steps on the line; infinite where the line ends on it.
        mark: The last of the journal's entries on it that count on the line.
    """

    branch: str
    start: int
    end: float
    mark: float = float("inf")


class Ended(NamedTuple):
    """The end of an epoch: with which step it came, and what it left that steps alone do not.

    Attributes:
        step: Steps done.
        after: `seeds`, as validation and callbacks left them, if they drew from any; `callbacks`, what
            those remember.
    """

    step: int
    after: Mapping[str, Any]


class History(Mapping[str, np.ndarray]):
    """Columns of numbers, one value a step on the present branch; `history["step"]` counts from 1."""

    def __init__(self, record: Record) -> None:
        """Reads from and appends to `record`; stands on the branch begun last."""
        self._record = record
        names = list(self.branches)
        self.branch = names[-1] if names else ROOT

    @property
    def branches(self) -> dict[str, tuple[str | None, int]]:
        """Name -> (parent, step at which it left); the first has no parent."""
        return {row["name"]: (row["parent"], row["step"]) for row in self._record.rows("branches")}

    def begin(self, hyperparameters: Mapping[str, float]) -> None:
        """Begins the first branch, with the hyperparameters of its start."""
        self._begin(ROOT, None, 0, 0, hyperparameters, {})

    def leave(
        self,
        step: int,
        origin: str,
        hyperparameters: Mapping[str, float],
        mark: int = 2**62,
        turn: Mapping[str, Any] | None = None,
    ) -> str:
        """Begins a new branch where `origin` had done `step` steps; returns its name.

        Args:
            step: Steps done.
            origin: The branch that it leaves.
            hyperparameters: Those of its start.
            mark: The last of the journal's entries on `origin` that it has seen; all by default.
            turn: What was changed there, in plain data.
        """
        name = f"branch {len(self.branches) + 1}"
        self._begin(name, origin, step, mark, hyperparameters, turn or {})
        return name

    def _begin(self, name: str, parent: str | None, step: int, mark: int, values: Any, turn: Any) -> None:
        row = {"parent": parent, "step": step, "mark": mark, "hyperparameters": dict(values), "turn": dict(turn)}
        self._record.append("branches", name=name, **row)
        self.branch = name

    def turn(self, branch: str) -> dict[str, Any]:
        """What was changed where a branch began."""
        turn: dict[str, Any] = self._record.rows("branches", "name = ?", (branch,))[0]["turn"] or {}
        return turn

    def begun(self, branch: str) -> int:
        """The sequence number with which a branch began."""
        return int(self._record.rows("branches", "name = ?", (branch,))[0]["seq"])

    def append(self, epoch: int, first: int, steps: int, columns: Mapping[str, np.ndarray]) -> None:
        """Adds a block of steps, numbered from `first` on; `epoch` counts from 1."""
        table = np.stack(list(columns.values())) if columns else np.empty((0, steps), "float32")
        self._record.append(
            "blocks",
            branch=self.branch,
            epoch=epoch,
            first=first,
            steps=steps,
            time=time.time(),
            names=list(columns),
            dtype=str(table.dtype),
            columns=table.tobytes(),
        )

    def append_epoch(
        self, epoch: int, step: int, logs: Mapping[str, float], after: Mapping[str, Any] | None = None
    ) -> None:
        """Adds what an epoch came to, validation included: numbers, or lists of them; and what its end left."""
        row = {"epoch": epoch, "step": step, "logs": dict(logs), "after": dict(after or {})}
        self._record.append("epochs", branch=self.branch, **row)

    @property
    def columns(self) -> list[str]:
        """`step`, `epoch`, `loss`, the metrics, every live hyperparameter."""
        line = [stretch.branch for stretch in self.line()]  # a branch just begun has no block of its own
        newest = f"SELECT max(seq) FROM blocks WHERE branch IN ({', '.join('?' * len(line))})"
        blocks = self._record.rows("blocks", f"seq = ({newest})", line)
        steered = self.hyperparameters
        measured = blocks[0]["names"] if blocks else ["loss"]
        return ["step", "epoch", *(name for name in measured if name not in steered), *steered]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.hyperparameters:
            return self._hyperparameter(name)
        if name not in self.columns:
            if name in self.epochs:
                raise KeyError(f"`{name}` is measured once an epoch: `history.epochs[{name!r}]`.")
            raise KeyError(f"`{name}` is not measured. The columns are {', '.join(self.columns)}.")
        stretches = [_column(block, name, stretch) for stretch in self.line() for block in self._blocks(stretch)]
        return np.concatenate(stretches) if stretches else np.array([])

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return f"<History of {self.steps:,} steps: {', '.join(self.columns)}>"

    @property
    def hyperparameters(self) -> list[str]:
        """Those of the present line, in the order in which they came: another optimizer may have brought others."""
        names: dict[str, None] = {}
        for stretch in self.line():
            names |= dict.fromkeys(self._start_values(stretch))
            for row in self._changes(stretch):
                names |= {name: None for name, (_, new) in row["changes"].items() if _is_number(new)}
        return list(names)

    @property
    def steps(self) -> int:
        """Steps on the present branch, from the very first."""
        return self.tip(self.branch)

    def tip(self, branch: str) -> int:
        """Steps on a branch, from the very first."""
        newest = self._record.rows("blocks", "seq = (SELECT max(seq) FROM blocks WHERE branch = ?)", (branch,))
        if newest:
            return int(newest[0]["first"] + newest[0]["steps"] - 1)
        return next((int(row["step"]) for row in self._record.rows("branches", "name = ?", (branch,))), 0)

    @property
    def epochs(self) -> dict[str, np.ndarray]:
        """Name -> one value an epoch, as `Model.fit` reports them."""
        return {name: _array(values) for name, values in self.history.items()}

    @property
    def history(self) -> dict[str, list[float]]:
        """The same as the dict of lists that `keras.callbacks.History` holds."""
        found: dict[str, list[float]] = {}
        for row in self.epoch_rows():
            for name, value in row["logs"].items():
                found.setdefault(name, []).append(value)
        return found

    def epoch_rows(self, behind: int = 0) -> list[dict[str, Any]]:
        """What each epoch of the present line came to: `epoch`, from 1 on, its `logs`, and `seq`.

        Args:
            behind: The `seq` behind which to begin; epochs trained anew have a new one.
        """
        where = "branch = ? AND step > ? AND step <= ? AND seq > ?"
        places = [(stretch.branch, stretch.start, stretch.end, behind) for stretch in self.line()]
        return [row for place in places for row in self._record.rows("epochs", where, place)]

    def epoch_before(self, step: int, behind: int = 0) -> dict[str, Any] | None:
        """The last one of `epoch_rows` that ended up to a step, if any did."""
        newest = "SELECT max(seq) FROM epochs WHERE branch = ? AND step > ? AND step <= ? AND seq > ?"
        for stretch in reversed(self.line()):
            place = stretch.branch, stretch.start, min(stretch.end, step), behind
            if found := self._record.rows("epochs", f"seq = ({newest})", place):
                return found[0]
        return None

    def logged(self, name: str) -> list[Any]:
        """What every epoch of the run came to in `name`, on all branches, in the order in which they ended."""
        return [row["logs"].get(name) for row in self._record.rows("epochs")]

    def ended(self, *stretches: Stretch) -> dict[int, Ended]:
        """Epoch -> its end, of those that ended on a stretch."""
        places = [(stretch.branch, stretch.end) for stretch in stretches]
        rows = [row for place in places for row in self._record.rows("epochs", "branch = ? AND step <= ?", place)]
        return {row["epoch"]: Ended(row["step"], row["after"] or {}) for row in rows}

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row a step, indexed by step."""
        try:
            import pandas
        except ImportError:
            raise ImportError("`to_pandas` needs pandas: `pip install pandas`.") from None
        return pandas.DataFrame(self._table()).set_index("step")

    def to_csv(self, path: str | Path) -> None:
        """Writes all columns to a file, one row a step; every number comes back from it as it was."""
        columns = {name: values.tolist() for name, values in self._table().items()}
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))

    def _table(self) -> dict[str, np.ndarray]:
        """All columns of the present line, of the same steps: where a run goes on, those read last are longer."""
        line = copy.copy(self)  # which a rewind does not turn to another branch
        columns = {name: line[name] for name in line.columns}
        steps = min(map(len, columns.values()))
        return {name: values[:steps] for name, values in columns.items()}

    def along(self, branch: str) -> "History":
        """The history along another branch, from step 0 to its tip.

        Raises:
            KeyError: If there is no such branch.
        """
        if branch not in self.branches:
            raise KeyError(f"`{branch}` is no branch. The branches are {', '.join(self.branches)}.")
        other = History(self._record)
        other.branch = branch
        return other

    def line(self, branch: str | None = None) -> list[Stretch]:
        """The way from step 0 to the tip of a branch, the present one if none is named, one stretch a branch."""
        rows = {row["name"]: row for row in self._record.rows("branches")}
        stretches: list[Stretch] = []
        name: str | None = branch or self.branch
        end = mark = float("inf")
        while name is not None:
            row = rows.get(name, {"parent": None, "step": 0, "mark": 0})
            stretches.insert(0, Stretch(name, row["step"], end, mark))
            seen = row["mark"] if row["mark"] is not None else mark  # which an older babysit did not write
            name, end, mark = row["parent"], min(row["step"], end), min(seen, mark)
        return stretches

    def losses(self, branch: str, first: int, steps: int) -> np.ndarray:
        """The losses of so many steps of a branch, from step `first` on, NaN where none is known; shape (steps,)."""
        found = np.full(steps, np.nan)
        for block in self._blocks(Stretch(branch, first - 1, first + steps - 1)):
            if "loss" in block["names"]:
                values = decoded(block)[block["names"].index("loss")]
                at = block["first"] - first
                found[max(at, 0) : at + len(values)] = values[max(-at, 0) :][: steps - max(at, 0)]
        return found

    def changed_at(self, names: Iterable[str]) -> dict[str, int]:
        """Hyperparameter -> steps done on the present line when it was changed last; 0 if it never was."""
        found = dict.fromkeys(names, 0)
        for stretch in self.line():
            for row in self._changes(stretch):
                found.update({name: row["step"] for name in row["changes"] if name in found})
        return found

    def _changes(self, stretch: Stretch) -> list[dict[str, Any]]:
        where = "branch = ? AND step <= ?"
        return self._record.rows("entries", where, (stretch.branch, stretch.end))

    def _blocks(self, stretch: Stretch) -> list[dict[str, Any]]:
        where = "branch = ? AND first + steps - 1 > ? AND first <= ?"
        return self._record.rows("blocks", where, (stretch.branch, stretch.start, stretch.end))

    def _start_values(self, stretch: Stretch) -> dict[str, float]:
        rows = self._record.rows("branches", "name = ?", (stretch.branch,))
        return rows[0]["hyperparameters"] if rows else {}

    def _hyperparameter(self, name: str) -> np.ndarray:
        branch = self.branch
        steps = self.tip(branch)  # up to which all is read: a run may go on meanwhile, or be rewound
        column = np.full(steps, np.nan)
        for stretch in (replace(part, end=min(part.end, steps)) for part in self.line(branch)):
            column[stretch.start :] = self._start_values(stretch).get(name, np.nan)
            # Under a schedule or a ramp each step has a value of its own, which is measured.
            steered = [block for block in self._blocks(stretch) if name in block["names"]]
            for row in sorted([*self._changes(stretch), *steered], key=lambda row: row["seq"]):
                if "changes" not in row:
                    values = _column(row, name, stretch)
                    column[row["first"] - 1 :][: len(values)] = values
                    column[row["first"] - 1 + len(values) :] = values[-1]
                elif _is_number(value := row["changes"].get(name, (None, None))[1]):
                    column[row["step"] :] = value
        return column


def _is_number(value: Any) -> bool:
    """Whether it is a hyperparameter's value, rather than that of a coupling."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _array(values: list[Any]) -> np.ndarray:
    """One value an epoch: an array of objects where they are lists of different lengths."""
    try:
        return np.array(values)
    except ValueError:
        return np.fromiter(values, dtype=object)


def _column(block: Mapping[str, Any], name: str, stretch: Stretch) -> np.ndarray:
    steps = np.arange(block["first"], block["first"] + block["steps"])
    inside = steps <= stretch.end
    if name == "step":
        return steps[inside]
    if name == "epoch":
        return np.full(inside.sum(), block["epoch"])
    if name not in block["names"]:
        return np.full(inside.sum(), np.nan)
    column: np.ndarray = decoded(block)[block["names"].index(name)][inside]
    return column
