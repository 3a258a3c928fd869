"""The hand on the helm: changes of hyperparameters between two steps, each with its entry in the journal."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from babysit.core.steering import Helm
from babysit.engine.model import TrainableModel
from babysit.session.edits import Edits
from babysit.session.journal import Entry
from babysit.session.keeping import Keeper
from babysit.session.waiting import Waiting, Waitlist


class Hand:
    """Changes hyperparameters: now, or where gradients are accumulated when they have been applied.

    Args:
        helm: Where the values are.
        waiting: The changes whose step has not come.
        subject: The model that is trained.
        keeper: Of its states: from one in memory no change follows by steps alone.
        edits: What is known of the model: what a change does to velocities is no edit.
        enter: Writes an entry into the journal.
    """

    def __init__(
        self,
        helm: Helm,
        waiting: Waitlist,
        subject: TrainableModel,
        keeper: Keeper,
        edits: Edits,
        enter: Callable[..., Entry],
    ) -> None:
        self._helm, self._waiting, self._subject = helm, waiting, subject
        self._keeper, self._edits, self._enter = keeper, edits, enter
        self._last_growth: dict[str, tuple[Any, Any]] = {}

    def set(self, step: int, changes: Mapping[str, Any], over: int, **about: Any) -> Entry:
        """Makes the changes that somebody asks for when so many steps are done; see `Trainer.set`."""
        values = self._helm.checked(changes, over)
        told = self._helm.planned(values)
        boundary = step + self._subject.steps_to_update if "batch_size" in values else step
        if boundary == step:
            return self._turn(step, values, over, **about)
        # Gradients of batches of one size are averaged: the next size waits until they are applied.
        fields = {"author": "script", "why": "", "command": None, "time": time.time(), **about}
        change = Waiting(boundary, values, over, fields)
        self._waiting.add(change)
        self._keeper.snapshot = None
        return self._waiting.entry(change, told)

    def keep_size(self, step: int, size: int) -> int:
        """Has a batch size that is kept wait; returns the steps done when it acts."""
        boundary = step + self._subject.steps_to_update
        about = {"author": "script", "why": "batch size kept", "command": None, "time": time.time()}
        self._waiting.add(Waiting(boundary, {"batch_size": size}, 1, about, alone=True))
        return boundary

    def make_due(self, step: int) -> None:
        """Makes the changes whose step has come."""
        due = self._waiting.due(step)
        for change in due:
            try:
                values = self._helm.awaited(change.values, change.over, change.alone)
                self._turn(step, values, change.over, **change.about)
            except ValueError as error:  # what it follows from has changed since
                self._enter("refuse", **{**change.about, "why": str(error)})
        if due:
            self._waiting.remove(due)
            self._keeper.snapshot = None

    def _turn(self, step: int, values: Mapping[str, Any], over: int, **about: Any) -> Entry:
        self._edits.note(about.get("author", "script"))
        told = self._helm.turn(values, over, step)
        self._edits.watch_on()  # velocities that came or were scaled are no edit
        self._last_growth = told if "batch_size" in told else self._last_growth
        self._keeper.snapshot = None
        return self._enter("set", changes=told, over=over, **about)

    def adopt(self, step: int, author: str) -> None:
        """Takes up what somebody has changed on the optimizer itself."""
        if changes := self._helm.adopt(step):
            self._keeper.snapshot = None
            self._enter("set", author=author, changes=changes)

    def repeat(self, step: int, entry: Entry) -> None:
        """Makes the changes of an entry once more, and tells nobody."""
        told, following = self._helm.told | self._helm.settings, self._helm.dials.following
        known = {name: new for name, (_, new) in entry.changes.items() if name in told}
        if known and entry.action == "fit":
            self._helm.write({name: new for name, new in known.items() if name not in following}, step)
        elif known:
            self._helm.turn(known, entry.over, step)
        self._keeper.snapshot = None

    @property
    def may_spring_back(self) -> bool:
        """Whether a batch size was chosen that can be taken back."""
        return bool(self._last_growth)

    def spring_back(self, step: int, error: Exception) -> None:
        """Takes back a batch size, and what followed from it, for which memory does not suffice."""
        back = {name: old for name, (old, _) in self._last_growth.items() if name in self._helm.scales}
        changes = {name: (self._helm.values[name], old) for name, old in back.items()}
        self._helm.write(back, step)
        self._keeper.snapshot, self._last_growth = None, {}
        old, new = changes["batch_size"]
        why = f"`batch_size` {old} needs more memory than there is: back to {int(new)}"
        self._enter("refuse", changes=changes, why=f"{why} ({str(error).splitlines()[0][:200]})")
