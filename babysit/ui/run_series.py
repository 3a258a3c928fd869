"""A run as the screens show it, read from its log: what was measured along a lineage, and what was done."""

import math
from collections import defaultdict, deque
from dataclasses import replace
from typing import Any

import numpy as np

from babysit.core.controls import Controls, apply
from babysit.core.events import EpochEnd
from babysit.core.journal import Entry, entry_of, is_entry
from babysit.core.position import Position
from babysit.core.runlog import RunLog
from babysit.core.words import CHANGES, describe, is_turn, joined
from babysit.ui.series import COUNT, STEP, DecimatedSeries

AROUND = 200  # losses are averaged over at most so many steps before and after an entry
ENTRIES = 5000
_PIECE = 100_000  # steps read at a time
_ON_CHART = ("set", "rewind", "edit", "note", "nan", "fail", "save")


class LineageSeries:
    """The curves of one lineage, in memory that does not grow with the run.

    Args:
        log: The run's.
        branch: The branch at whose tip the lineage ends.
    """

    def __init__(self, log: RunLog, branch: str) -> None:
        self._log, self.lineage = log, log.lineage(branch)
        self._controls, self._seq = Controls(), 0
        self._kept: defaultdict[tuple[str, str], DecimatedSeries] = defaultdict(DecimatedSeries)

    def measured(self, name: str) -> np.ndarray:
        """What was measured at each step, in columns of a `DecimatedSeries`."""
        series = self._kept["measured", name]
        values = self._log.column(name, self.lineage, series.count)
        for piece in np.split(values, range(_PIECE, len(values), _PIECE)):
            series.append(series.count + 1 + np.arange(len(piece)), piece)
        return series.columns()

    def epochs(self, name: str) -> np.ndarray:
        """What each epoch logged, at its last step."""
        self._read_events()
        return self._kept["epochs", name].columns()

    def hyperparameter(self, name: str) -> np.ndarray:
        """The values of a hyperparameter, each at the step after which it acts."""
        self._read_events()
        held, moved = self._kept["set", name].columns(), self.measured(name)
        moved[STEP] -= 1  # a schedule or a ramp, whose value acted in these steps
        acted = np.append(moved[COUNT], 0)[np.searchsorted(moved[STEP], held[STEP])] > 0
        columns = np.hstack([held[:, ~acted], moved[:, moved[COUNT] > 0]])
        return columns[:, np.argsort(columns[STEP], kind="stable")]

    @property
    def hyperparameters(self) -> list[str]:
        """The hyperparameters, in order of appearance."""
        self._read_events()
        return list(self._controls.values)

    @property
    def metrics(self) -> list[str]:
        """What is measured besides the loss, each step or each epoch."""
        self._read_events()
        ended = [
            name.removeprefix("val_") for (kind, name), kept in self._kept.items() if kind == "epochs" and kept.count
        ]
        names = (*ended, *self._log.names(self.lineage))
        return [name for name in dict.fromkeys(names) if name not in {"loss", "step", "epoch", *self.hyperparameters}]

    def _read_events(self) -> None:
        found: defaultdict[Any, list[tuple[int, float]]] = defaultdict(list)
        for event in self._log.along(self.lineage, self._seq):
            before, self._seq = self._controls.values, event.seq
            self._controls, _ = apply(self._controls, Position(), event)
            new = {("set", name): value for name, value in self._controls.values.items() if value != before.get(name)}
            if isinstance(event.payload, EpochEnd):
                new |= {("epochs", name): value for name, value in event.payload.logs.items()}
            for key, value in new.items():
                if isinstance(value, int | float):
                    found[key].append((event.step, value))
        for key, pairs in found.items():
            self._kept[key].append(*np.transpose(pairs))


class RunSeries:
    """The entries of one run and its curves, along the present lineage and along others.

    Args:
        log: The run's.

    Attributes:
        branch: The present branch.
        entries: The newest entries, oldest first: those of one change in one, and with the reasons given later.
    """

    def __init__(self, log: RunLog) -> None:
        self.log, self.branch = log, list(log.branches)[-1]
        self.entries: deque[Entry] = deque(maxlen=ENTRIES)
        self._seq = 0
        self._lineages: dict[str, LineageSeries] = {}

    def read(self) -> list[Entry]:
        """Reads the new events of the log; returns the entries among them."""
        if self.branch != (branch := list(self.log.branches)[-1]):
            self.branch, self._lineages = branch, {}  # those of other branches are made again when they are shown
        events = self.log.events_after(self._seq)
        self._seq = events[-1].seq if events else self._seq
        found = [entry_of(event) for event in events if is_entry(event)]
        for entry in found:
            self._add(entry)
        return found

    def _add(self, entry: Entry) -> None:
        if entry.about is not None:
            for i, one in enumerate(self.entries):
                if one.seq == entry.about:
                    self.entries[i] = replace(one, why="; ".join(filter(None, (one.why, entry.why))))
                    return
        if self.entries and (one := joined(self.entries[-1], entry)):
            self.entries[-1] = one
        else:
            self.entries.append(entry)

    def forget(self) -> None:
        """Lets go of the log, which may be large."""
        self.log, self._lineages = RunLog(), {}

    @property
    def version(self) -> tuple[int, int]:
        """Differs whenever there is more to show."""
        return self._seq, self.steps()

    def along(self, branch: str = "") -> LineageSeries:
        """The curves along a lineage, that of the present branch by default."""
        branch = branch or self.branch
        if branch not in self._lineages:
            self._lineages[branch] = LineageSeries(self.log, branch)
        return self._lineages[branch]

    def steps(self, branch: str = "") -> int:
        """Steps done on a lineage."""
        return self.log.tip(branch or self.branch)

    def mean_loss(self, branch: str, after: float, end: float) -> float:
        """The mean loss of the steps after `after` up to `end` of a lineage; NaN if there are none."""
        losses = self.log.column("loss", self.log.lineage(branch, end), max(int(after), 0))
        losses = losses[np.isfinite(losses)]
        return float(losses.mean()) if len(losses) else math.nan

    def epoch_logs(self, branch: str, step: float) -> dict[str, Any]:
        """The logs of the last epoch that ended on a lineage up to a step, with its number as `epoch`."""
        lineage = self.log.lineage(branch, step)
        for event in reversed(self.log.events):
            if isinstance(event.payload, EpochEnd) and any(part.holds(event) for part in lineage):
                return {**event.payload.logs, "epoch": event.payload.epoch}
        return {}

    def lineage_entries(self) -> list[Entry]:
        """The entries of the present lineage that the chart shows, by step."""
        shown = [entry for entry in self._on(self.branch) if on_chart(entry)]
        return sorted(shown, key=lambda entry: (entry.step, entry.seq))

    def _on(self, branch: str) -> list[Entry]:
        lineage = self.log.lineage(branch)
        return [entry for entry in self.entries if any(part.holds(entry) for part in lineage)]

    def losses(self, entries: list[Entry]) -> list[str]:
        """For each entry `loss 0.291 → 0.224`: the means of up to 200 steps before and after, up to other changes.

        Empty where nothing was changed or a loss is unknown.
        """
        branches = {entry.branch for entry in entries}
        turns = {name: [one.step for one in self._on(name) if is_turn(one.action, one.author)] for name in branches}
        return [self._losses(entry, turns[entry.branch]) for entry in entries]

    def _losses(self, entry: Entry, turns: list[int]) -> str:
        if entry.action not in CHANGES:
            return ""
        step = entry.step
        begin = max([step - AROUND, *(turn for turn in turns if turn < step)])
        end = min([step + AROUND, *(turn for turn in turns if turn > step)])
        before, after = self.mean_loss(entry.branch, begin, step), self.mean_loss(entry.branch, step, end)
        return f"loss {before:.3g} → {after:.3g}" if math.isfinite(before) and math.isfinite(after) else ""


def on_chart(entry: Entry) -> bool:
    """Whether the chart has an annotation for an entry."""
    if entry.action == "set":
        return any(old is not None for old, _ in entry.changes.values())
    return entry.action in _ON_CHART and not entry.file


def words_of(entry: Entry) -> str:
    """What was done, and why."""
    return f"written to {entry.file}" if entry.file else describe(entry)
