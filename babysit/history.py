"""The history: what was measured, step by step, along the branch that is trained.

Nothing of it is held in memory: a block of steps is one row of the record, and the
columns of the hyperparameters follow from the entries that changed them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from babysit.record import Record

ROOT = "branch 1"


@dataclass(frozen=True)
class Stretch:
    """The steps `start + 1 … end` of the present line of training, taken on one branch."""

    branch: str
    start: int
    end: float


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
        self._begin(ROOT, None, 0, hyperparameters)

    def leave(self, step: int, origin: str, hyperparameters: Mapping[str, float]) -> str:
        """Begins a new branch where `origin` had done `step` steps; returns its name."""
        name = f"branch {len(self.branches) + 1}"
        self._begin(name, origin, step, hyperparameters)
        return name

    def _begin(self, name: str, parent: str | None, step: int, hyperparameters: Mapping[str, float]) -> None:
        self._record.append("branches", name=name, parent=parent, step=step, hyperparameters=dict(hyperparameters))
        self.branch = name

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

    def append_epoch(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        """Adds what an epoch came to, validation included: numbers, or lists of them."""
        self._record.append("epochs", branch=self.branch, epoch=epoch, step=step, logs=dict(logs))

    @property
    def columns(self) -> list[str]:
        """`step`, `epoch`, `loss`, the metrics, every live hyperparameter."""
        line = [stretch.branch for stretch in self.line()]  # a branch just begun has no block of its own
        newest = f"SELECT max(seq) FROM blocks WHERE branch IN ({', '.join('?' * len(line))})"
        blocks = self._record.rows("blocks", f"seq = ({newest})", line)
        steered = self._hyperparameters()
        measured = blocks[0]["names"] if blocks else ["loss"]
        return ["step", "epoch", *(name for name in measured if name not in steered), *steered]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._hyperparameters():
            return self._hyperparameter(name)
        if name not in self.columns:
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
    def steps(self) -> int:
        """Steps on the present branch, from the very first."""
        ends = [block["first"] + block["steps"] - 1 for block in self._blocks(self.line()[-1])]
        return int(max(ends, default=self.line()[-1].start))

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

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row a step, indexed by step."""
        try:
            import pandas
        except ImportError:
            raise ImportError("`to_pandas` needs pandas: `pip install pandas`.") from None
        return pandas.DataFrame({name: self[name] for name in self.columns}).set_index("step")

    def line(self) -> list[Stretch]:
        """The way from step 0 to the tip of the present branch, one stretch a branch."""
        branches = self.branches
        stretches: list[Stretch] = []
        name: str | None = self.branch
        end = float("inf")
        while name is not None:
            parent, start = branches.get(name, (None, 0))
            stretches.insert(0, Stretch(name, start, end))
            name, end = parent, min(start, end)
        return stretches

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

    def _hyperparameters(self) -> list[str]:
        """Those of the present line, in the order in which they came: another optimizer may have brought others."""
        names: dict[str, None] = {}
        for stretch in self.line():
            names |= dict.fromkeys(self._start_values(stretch))
            for row in self._changes(stretch):
                names |= {name: None for name, (_, new) in row["changes"].items() if _is_number(new)}
        return list(names)

    def _start_values(self, stretch: Stretch) -> dict[str, float]:
        rows = self._record.rows("branches", "name = ?", (stretch.branch,))
        return rows[0]["hyperparameters"] if rows else {}

    def _hyperparameter(self, name: str) -> np.ndarray:
        column = np.empty(self.steps)
        for stretch in self.line():
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


def decoded(block: Mapping[str, Any]) -> np.ndarray:
    """A block's measurements: array of shape (columns, steps), in the order of its `names`."""
    return np.frombuffer(block["columns"], dtype=block["dtype"]).reshape(-1, block["steps"])


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
