"""Waiting: changes that act at a later step, because gradients are being accumulated until then."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from babysit.session.history import History
from babysit.session.journal import Entry, Journal
from babysit.store.record import Record


@dataclass(frozen=True)
class Waiting:
    """A change that waits for a step: its values, in how many steps it is made, and what its entry says.

    One that is `alone` is carried over to nothing by couplings.
    """

    step: int
    values: Mapping[str, Any]
    over: int
    about: Mapping[str, Any]
    alone: bool = False

    def refusal(self, reason: str) -> dict[str, Any]:
        """What its entry says where it is dropped before it could act: the command that asked for it is answered."""
        names = ", ".join(f"`{name}`" for name in self.values)
        why = f"{names} waited for step {self.step:,}, and {reason}: set it again if it is still wanted"
        return {**self.about, "why": why}

    def plain(self) -> dict[str, Any]:
        """The same in plain data."""
        return {**vars(self), "values": dict(self.values), "about": dict(self.about)}

    @classmethod
    def again(cls, plain: Mapping[str, Any]) -> "Waiting":
        """From plain data."""
        return cls(**plain)


class Waitlist:
    """The changes that wait, on disk too until they act and the journal has them.

    Args:
        record: The run's, where they are while they wait.
        history: The run's, for the branch on which they wait.
        journal: The run's, where they are once they have acted.
    """

    def __init__(self, record: Record, history: History, journal: Journal) -> None:
        self._record, self._history, self._journal = record, history, journal
        self._changes: list[Waiting] = []

    def add(self, change: Waiting) -> None:
        """Has one more wait."""
        self._write([*self._changes, change])

    def entry(self, change: Waiting, told: Mapping[str, Any]) -> Entry:
        """The entry that one of them will have when it acts, if nothing comes between."""
        fields = {"step": change.step, "over": change.over, "branch": self._history.branch, **change.about}
        return Entry(action="set", changes=told, **fields)

    def due(self, step: int) -> list[Waiting]:
        """Those whose turn has come when so many steps are done."""
        return [change for change in self._changes if change.step <= step]

    def remove(self, changes: list[Waiting]) -> None:
        """Lets go of those that have acted, or been refused."""
        self._write([change for change in self._changes if change not in changes])

    def clear(self) -> None:
        """Lets go of all."""
        self._write([])

    def put_off(self, step: int) -> None:
        """Has all of them wait for another step."""
        self._write([replace(change, step=step) for change in self._changes])

    def branch_off(self) -> None:
        """Has all of them wait on the branch that has just begun."""
        self._write(self._changes)

    def take_up(self) -> None:
        """Has those wait that did when the run was cut off, and had not acted yet."""
        branch, changes = self._record.meta("waiting") or ("", [])
        if branch == self._history.branch:
            acted = {entry.time for _, entry in self._journal.between(branch, -1, math.inf, math.inf)}
            self.restore([one for one in changes if one["about"]["time"] not in acted])

    @property
    def all(self) -> list[Waiting]:
        """All of them."""
        return list(self._changes)

    def dropped(self, before: Iterable[Waiting]) -> list[Waiting]:
        """Those that waited before and no longer do."""
        present = {change.about["time"] for change in self._changes}
        return [change for change in before if change.about["time"] not in present]

    @property
    def steps(self) -> list[int]:
        """The step that each of them waits for."""
        return [change.step for change in self._changes]

    def plain(self) -> list[dict[str, Any]]:
        """All of them in plain data."""
        return [change.plain() for change in self._changes]

    def restore(self, plain: Any) -> None:
        """Takes those of a state; the record is left as it is."""
        self._changes = [Waiting.again(one) for one in plain]

    def _write(self, changes: list[Waiting]) -> None:
        if changes or self._changes:
            self._changes = changes
            self._record.set_meta({"waiting": [self._history.branch, self.plain()]})
