"""The history: what was measured, step by step, as columns of numbers."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from babysit.core.events import EpochEnd
from babysit.core.runlog import Lineage, RunLog


class History(Mapping[str, np.ndarray]):
    """Columns of numbers, one value a step on one branch; `history["step"]` counts from 1.

    Args:
        log: The run's.
        branch: Returns the name of the branch.
    """

    def __init__(self, log: RunLog, branch: Callable[[], str]) -> None:
        self._log, self._branch = log, branch

    @property
    def branch(self) -> str:
        """The name of the branch."""
        return self._branch()

    @property
    def branches(self) -> dict[str, tuple[str | None, int]]:
        """Name -> (parent, step at which it left); the first has no parent."""
        return {name: (parent, step) for name, (parent, step, _) in list(self._log.branches.items())}

    def along(self, branch: str) -> "History":
        """The history along another branch, from step 0 to its tip.

        Raises:
            KeyError: If there is no such branch.
        """
        if branch not in self.branches:
            raise KeyError(f"`{branch}` is no branch. The branches are {', '.join(self.branches)}.")
        return History(self._log, lambda: branch)

    @property
    def _lineage(self) -> Lineage:
        return self._log.lineage(self.branch)

    @property
    def steps(self) -> int:
        """Steps on the branch, from the very first."""
        return self._log.tip(self.branch)

    @property
    def hyperparameters(self) -> list[str]:
        """Those of the branch, in the order in which they came."""
        return list(dict.fromkeys(name for _, one in self._log.controls_along(self._lineage) for name in one.values))

    @property
    def columns(self) -> list[str]:
        """`step`, `epoch`, `loss`, the metrics, every live hyperparameter."""
        steered = self.hyperparameters
        measured = self._log.names(self._lineage) or ["loss"]
        return ["step", "epoch", *(name for name in measured if name not in ("step", *steered)), *steered]

    def __getitem__(self, name: str) -> np.ndarray:
        lineage = self._lineage
        if name in self.hyperparameters:
            return self._log.hyperparameter(name, lineage)
        if name == "step":
            return np.arange(1, self.steps + 1)
        if name == "epoch":
            ends = [event.step for event in self._log.epoch_ends(lineage)]
            return 1 + np.searchsorted(ends, np.arange(1, self.steps + 1), "left")
        if name not in self.columns:
            raise KeyError(
                f"`{name}` is no column: those are {', '.join(self.columns)}. What is measured once an epoch is in "
                "`history.epochs`."
            )
        return self._log.column(name, lineage)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return f"<History of {self.steps:,} steps: {', '.join(self.columns)}>"

    @property
    def epochs(self) -> dict[str, np.ndarray]:
        """Name -> one value an epoch, as `Model.fit` reports them; what is no number is an object in it."""
        return {
            name: np.array(values, None if np.isscalar(values[0]) else object) for name, values in self.history.items()
        }

    @property
    def history(self) -> dict[str, list[float]]:
        """The same as the dict of lists that `keras.callbacks.History` holds."""
        found: dict[str, list[float]] = {}
        for end in self.epoch_ends():
            for name, value in end.logs.items():
                found.setdefault(name, []).append(value)
        return found

    def epoch_ends(self) -> list[EpochEnd]:
        """What each epoch of the branch came to."""
        return [event.payload for event in self.epoch_end_events()]

    def epoch_end_events(self) -> list[Any]:
        """The events that ended the epochs of the branch."""
        return self._log.epoch_ends(self._lineage)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row a step, indexed by step."""
        try:
            import pandas
        except ImportError:
            raise ImportError("`to_pandas` needs pandas: `pip install pandas`.") from None
        return pandas.DataFrame(self._table()).set_index("step")

    def to_csv(self, path: str | Path) -> None:
        """Writes all columns to a file, one row a step; every number comes back from it as it was."""
        table = self._table()
        values = np.column_stack([*table.values()])
        np.savetxt(path, values, "%.17g", ",", header=",".join(table), comments="", encoding="utf-8")

    def _table(self) -> dict[str, np.ndarray]:
        """All columns, of the same steps: where a run goes on, those read last are longer."""
        still = self.along(self.branch)  # which a rewind does not turn to another branch
        columns = {name: still[name] for name in still.columns}
        steps = min(map(len, columns.values()))
        return {name: values[:steps] for name, values in columns.items()}
