"""Replay: a whole run once more, without hands, compared with what was recorded.

From the start checkpoint every branch is trained again under its journal. Each step's
loss is compared with history's, each checkpoint's digest with the state come upon.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from babysit.core.rows import ROOT
from babysit.engine.data.adapters import is_stream
from babysit.engine.environment import describe, differences
from babysit.panda import Panda, pandas_in
from babysit.session.history import Ended, History
from babysit.session.journal import Entry, Journal
from babysit.session.timeline import REPEATED
from babysit.session.trainer import Trainer
from babysit.store.checkpoints import Kept, environments, on_disk
from babysit.store.files import State
from babysit.store.record import RECORD, Record

# What happens at one place of a branch, in this order.
_ENTRY, _CHECK, _DEPARTURE = range(3)


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        identical: Whether everything compared was equal, byte for byte.
        first_difference: The first step at which it was not: of which the loss, or the state behind it, is
            another; None if it was.
        compared: How many checkpoints' digests were compared.
        steps: How many steps were taken again, on all branches.
        branch: Where it differed; None if it did not.
        remarks: In sentences, which steps could not be taken again; and why equality cannot be expected: another
            environment, or what in the model or the data cannot be rewound. Where there is such a reason, a
            difference says nothing of the run.
    """

    identical: bool
    first_difference: int | None
    compared: int
    steps: int = 0
    branch: str | None = None
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.identical:
            said = f"Identical: {self.steps:,} steps taken again, {self.compared} checkpoints compared."
        else:
            said = f"Differs at step {self.first_difference:,} of {self.branch}."
        return " ".join([said, *self.remarks])


def replay(
    directory: str | Path, model: Any, x: Any = None, y: Any = None, *, progress: bool = False, **arguments: Any
) -> Replay:
    """Runs a whole record again, all its branches, and compares.

    Args:
        directory: The run's folder; nothing is written there.
        model: A model of the same architecture, compiled as it was; its variables are overwritten.
        x: The data of `fit`, and likewise `y` and all other arguments that were given there.
        y: See there.
        progress: Whether to show a progress bar.
        **arguments: Those of `Panda.fit` that make the data what they are: weights, `validation_split`. The order of
            examples, the sizes of batches and epochs are the recorded ones, whatever is said here; nothing is
            validated and callbacks are not called, for what they did is in the journal.

    Raises:
        ValueError: If there is no run, or the data or the model are others.
    """
    directory = Path(directory)
    if not (directory / RECORD).is_file():
        raise ValueError(f"`directory` must hold a run. Received: {directory}, which holds none.")
    for panda in pandas_in(directory):
        panda._record.flush()
    with tempfile.TemporaryDirectory(prefix="babysit-") as own, _copied(directory, Path(own)) as record:
        meta = {name: record.meta(name) for name in ("seed", "shuffle", "batch_size", "fingerprint", "data")}
        arguments |= {"callbacks": None, "verbose": 0, "paused": True, "shuffle": meta["shuffle"]}
        arguments["steps_per_epoch"] = meta["data"][3] if meta["data"] else None
        if not is_stream(x):
            arguments["batch_size"] = meta["batch_size"]
        panda = Panda(model, Path(own) / "again", seed=meta["seed"]).fit(x, y, **arguments)
        try:
            if panda._record.meta("fingerprint") != meta["fingerprint"]:
                raise ValueError("`x` and `y` must be the data that the run was trained on. Received: others.")
            if not panda._trainer.trains_as(record.meta("fits") or []):
                raise ValueError(
                    "`x` and `y`, with their weights, must be the data of every fit of the run, as one replay goes "
                    "through them all. Received: others. A run that went on with other data cannot be replayed."
                )
            # Its own thread waits for commands meanwhile, and does nothing.
            folder = directory / "checkpoints"
            found = _Again(record, on_disk(record, folder), panda._trainer).compare(progress)
            # What makes it inexact is known of a model only when it has been trained.
            return replace(
                found, remarks=[*found.remarks, *_elsewhere(environments(record, folder)), *panda._trainer.remarks]
            )
        finally:
            panda.stop()
            panda.wait()
            panda._close()


class _Again:
    """A run taken again, branch after branch."""

    def __init__(self, record: Record, kept: list[Kept], trainer: Trainer) -> None:
        self._history, self._journal, self._kept, self._trainer = History(record), Journal(record), kept, trainer
        self._fits = record.meta("fits") or []
        self._branches = {row["name"]: row for row in record.rows("branches")}
        self._compared = self._steps = 0
        self._starts: dict[str, str] = {}  # branch -> the folder of the state in which it left its parent
        self._left_out: list[str] = []  # in sentences, what cannot be taken again

    def compare(self, progress: bool) -> Replay:
        steps = {name: self._history.tip(name) - row["step"] for name, row in self._branches.items()}
        for name in self._lost():
            self._left_out.append(f"The {steps.pop(name):,} steps of {name} were not taken again: its start is lost.")
        with tqdm(total=sum(steps.values()), unit="step", disable=not progress) as bar:
            for name in steps:
                if (step := self._differs_on(name, bar)) is not None:
                    return Replay(False, step, self._compared, self._steps, name, self._left_out)
        return Replay(True, None, self._compared, self._steps, remarks=self._left_out)

    def _lost(self) -> list[str]:
        """The branches before the first that has a start: the run then began anew, for no state of them was left."""
        names = list(self._branches)
        starts = [i for i, name in enumerate(names) if self._first(name, 0) is not None]
        return names[: starts[0]] if starts else []

    def _differs_on(self, branch: str, bar: Any) -> int | None:
        """The first step of a branch that differs, or None."""
        trainer, tip = self._trainer, self._history.tip(branch)
        mark, reached = self._begin(branch), 0
        trainer.act_as(max(mark, self._branches[branch]["seq"]), self._fits)
        ended = self._history.ended(*self._history.line(branch))
        for step, place, kind, what in sorted(self._events(branch, mark), key=lambda event: event[:3]):
            if step < reached or place < mark:  # within what is left out
                continue
            if (found := self._take(branch, step, ended, bar)) is not None:
                return found
            if kind == _ENTRY and what.action == "edit":
                kept = self._read(what, place, branch)
                if kept is None:
                    return None
                mark, reached = kept.mark, kept.step
            elif kind == _ENTRY:
                if what.action == "fit":
                    trainer.act_as(place, self._fits, begins=True)
                trainer.repeat(what)
            elif kind == _CHECK:
                state = what.load()
                if state.epoch > trainer.epoch:
                    trainer.close_epoch(ended)
                self._compared += 1
                if trainer.state().digest() != state.digest():
                    return step
            else:
                if not self._began_within_an_end(what, step):
                    trainer.close_epoch(ended)
                self._starts[what] = trainer.shelf.keep(trainer.state(), None, branch, "branch").path.name
        return self._take(branch, tip, ended, bar)

    def _begin(self, branch: str) -> int:
        """Stands at the start of a branch; returns the mark up to which the journal has acted."""
        trainer = self._trainer
        if branch == ROOT:
            state = self._start()
            trainer.restore(state)
            return state.mark
        if branch not in self._starts:  # it began within what was left out: its own first state is kept
            first = self._first(branch, int(self._branches[branch]["step"]))
            if first is None:
                raise ValueError(
                    f"The run has no checkpoint of the start of {branch}, from which it could be replayed."
                )
            trainer.restore(first.load())
            return first.mark
        trainer.restore(trainer.shelf.found(self._starts.pop(branch))[1])
        trainer.apply(self._history.turn(branch))
        return int(self._branches[branch]["mark"])

    def _began_within_an_end(self, branch: str, step: int) -> bool:
        """Whether a branch began at what a callback saved before an epoch's end was over: its first state tells."""
        first = self._first(branch, step)
        return first is not None and first.load().epoch == self._trainer.epoch

    def _first(self, branch: str, step: int) -> Kept | None:
        return next((kept for kept in self._kept if (kept.branch, kept.step) == (branch, step)), None)

    def _start(self) -> State:
        if (first := self._first(ROOT, 0)) is None:
            raise ValueError("The run has no checkpoint of its start, from which it could be replayed.")
        return first.load()

    def _events(self, branch: str, mark: int) -> Iterator[tuple[int, int, int, Any]]:
        """Step, mark, kind and what it is, of all that happens on a branch."""
        for seq, entry in self._journal.between(branch, mark, float("inf"), float("inf")):
            if entry.action in (*REPEATED, "edit"):
                yield entry.step, seq, _ENTRY, entry
        for kept in self._kept:
            if kept.branch == branch and kept.mark >= mark:
                yield kept.step, kept.mark, _CHECK, kept
        for name, row in self._branches.items():
            if row["parent"] == branch:
                yield row["step"], row["mark"], _DEPARTURE, name

    def _read(self, edit: Entry, mark: int, branch: str) -> Kept | None:
        """Goes to the first state behind an edit, which can only be read; returns it, None if there is none."""
        behind = [kept for kept in self._kept if kept.branch == branch and kept.mark >= mark]
        found = min(behind, key=lambda kept: (kept.step, kept.mark), default=None)
        end = self._history.tip(branch) if found is None else found.step
        if end > edit.step:
            self._left_out.append(
                f"Steps {edit.step + 1:,} to {end:,} of {branch} were not taken again: they lie behind what was edited "
                f"by {edit.author}, and the state then is no longer kept."
            )
        if found is not None:
            self._trainer.restore(found.load())
        return found

    def _take(self, branch: str, until: int, ended: dict[int, Ended], bar: Any) -> int | None:
        """Takes the steps up to there again; returns the first whose loss differs, or None."""
        for first, losses in self._trainer.retake(until, ended):
            then = self._history.losses(branch, first, len(losses))
            bar.update(len(losses))
            self._steps += len(losses)
            unequal = np.flatnonzero(~((losses == then) | np.isnan(losses) & np.isnan(then)))
            if len(unequal):
                return first + int(unequal[0])
        return None


def _elsewhere(then: list[dict[str, str]]) -> list[str]:
    found = dict.fromkeys(phrase for one in then for phrase in differences(one, describe()))
    return [f"The run was trained elsewhere: {', '.join(found)}."] if found else []


@contextmanager
def _copied(directory: Path, folder: Path) -> Iterator[Record]:
    """The record of a run, copied: it may be written meanwhile."""
    path = f"{(directory / RECORD).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as source, closing(sqlite3.connect(folder / RECORD)) as copy:
        source.backup(copy)
    record = Record(folder / RECORD)
    try:
        yield record
    finally:
        record.close()
