"""Entries of the run's log as the logbook and the chart show them, with the mean losses around each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from babysit.core.words import CHANGES, describe, describe_action, is_turn, joined

AROUND = 200  # losses are averaged over at most so many steps before and after an entry
_ON_CHART = ("set", "rewind", "edit", "note", "nan", "fail", "save")


@dataclass
class LogEntry:
    """One entry of the log, its fields as in `babysit.core.journal.Entry`.

    Attributes:
        last_seq: The number of the last row that was joined to it.
        why: The reason given; reasons that were added later follow it.
        before: The mean loss of the last 200 steps before it, or of those since the user's change before it.
        steps_before: The number of those steps.
        after: The mean loss of the first 200 steps after it, or of those up to the user's next change.
        steps_after: The number of those steps, so far.
    """

    seq: int
    last_seq: int
    step: int
    author: str
    action: str
    changes: Mapping[str, tuple[Any, Any]]
    over: int
    why: str
    branch: str
    file: str | None = None
    before: float = math.nan
    steps_before: int = 0
    after: float = math.nan
    steps_after: int = 0

    @property
    def words(self) -> str:
        """What was done, and why."""
        return f"written to {self.file}" if self.file else describe(self)

    @property
    def action_words(self) -> str:
        """What was done, without the reason."""
        return describe_action(self)

    @property
    def losses(self) -> str:
        """`loss 0.291 → 0.224`; empty where nothing was changed or a loss is unknown."""
        if self.action not in CHANGES or math.isnan(self.before) or math.isnan(self.after):
            return ""
        return f"loss {self.before:.3g} → {self.after:.3g}"

    @property
    def averaged_steps(self) -> str:
        """The numbers of steps that the two losses are means of."""
        return f"means of {self.steps_before} steps before and {self.steps_after} after"

    @property
    def by_user(self) -> bool:
        """Whether the user did it, rather than a schedule or a callback."""
        return self.author in ("dashboard", "script")

    @property
    def is_turn(self) -> bool:
        """Whether the user changed how training goes on."""
        return is_turn(self.action, self.author)

    @property
    def on_chart(self) -> bool:
        """Whether the chart has an annotation for it."""
        if self.action == "set":
            return any(old is not None for old, _ in self.changes.values())
        return self.action in _ON_CHART and not self.file

    def join(self, entry: "LogEntry") -> bool:
        """Adds the next entry to this one if it continues the same change by a callback; whether it does."""
        if (merged := joined(self, entry)) is None:
            return False
        self.changes, self.over, self.last_seq = merged.changes, merged.over, entry.seq
        return True


def entry_of(row: Mapping[str, Any]) -> LogEntry:
    """The entry of a row of the table `entries`."""
    fields = {name: row[name] for name in ("seq", "step", "action", "changes", "over", "branch")}
    texts: dict[str, Any] = {name: str(row[name]) for name in ("author", "why")}
    return LogEntry(**fields, **texts, last_seq=row["seq"], file=row.get("file"))
