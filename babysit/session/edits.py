"""Edits: what was changed on a model by hand, found by comparing it with what it was."""

from collections.abc import Callable
from typing import Any

from babysit.engine.model import TrainableModel
from babysit.session.journal import Entry
from babysit.session.keeping import Keeper


class Edits:
    """What is known of a model while others may change it, and what they have changed.

    Args:
        subject: The model that is trained.
        keeper: Of its states: an edit can be read from a checkpoint alone.
        enter: Writes an entry into the journal.
    """

    def __init__(self, subject: TrainableModel, keeper: Keeper, enter: Callable[..., Entry]) -> None:
        self._subject, self._keeper, self._enter = subject, keeper, enter
        self._known: tuple[list[Any], tuple[bool, ...]] | None = None  # what nobody has edited yet
        self._noted = False

    @property
    def watched_for(self) -> bool:
        """Whether there is anything to compare with."""
        return self._known is not None

    def watch(self) -> None:
        """Remembers the state, so that what is changed by hand from now on is found."""
        self._known = self._subject.tensors.snapshot(), self._subject.trainable

    def watch_on(self) -> None:
        """Remembers the state anew, where it was watched: what we have just changed is no edit."""
        if self._known is not None:
            self.watch()

    def forget(self) -> None:
        """Ends the watch; what was noted is still to be kept."""
        self._known = None

    def note(self, author: str) -> None:
        """Finds what was changed by hand, if that is watched for; `keep` keeps it."""
        if self._known is not None and self.find(author):
            self._noted = True

    def keep(self) -> None:
        """Has what was noted in a checkpoint, and ends the watch."""
        if self._noted:
            self._keeper.keep("edit")
        self._noted, self._known = False, None

    def find(self, author: str) -> bool:
        """Whether anything was changed by hand since the watch began; then there is an entry of it."""
        assert self._known is not None
        arrays, flags = self._known
        by_hand = " by hand" if author == "script" else ""
        said = [f"variables changed{by_hand}"] if self._subject.tensors.differ_from(arrays) else []
        if flags != self._subject.trainable:
            said.append(self._subject.describe_trainable_changes(flags))
            self._subject.update_trainable()
        if said:
            self._keeper.snapshot = None
            self._enter("edit", author=author, why="; ".join(said))
            self.watch()
        return bool(said)
