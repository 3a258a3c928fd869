"""The logbook: what was done to a run, newest first, a filter, and a place to say why."""

import html
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import ipywidgets as widgets
import numpy as np

from babysit.session.history import decoded
from babysit.session.journal import CHANGES, Entry, about, deed, describe, entry_from_row, is_turn, joined
from babysit.ui.marks import AROUND, mark_of
from babysit.ui.widgets import Send, button, classed, free_all, row, space, unlabelled, write

# Lines in sight, which one message carries, and entries that the filter looks through; the record has all.
LINES, ENTRIES = 60, 5000
_EXPORTS = (("Markdown", "logbook"), ("script", "script"), ("model", "model"))


class Line:
    """An entry, and the mean loss before it and after it.

    Args:
        entry: What was done.
        mark: The number of its row in the record, if it has a mark on the chart.
        before: Losses of the steps before it, at most `AROUND`.
    """

    def __init__(self, entry: Entry, mark: int | None, before: "deque[float]") -> None:
        self.entry, self.mark = entry, mark
        self._before, self._steps_before = float(np.mean(before)) if before else None, len(before)
        self._sum, self._steps = 0.0, 0

    @cached_property
    def words(self) -> str:
        """What was done, and why."""
        return describe(self.entry)

    def join(self, entry: Entry) -> bool:
        """Tells of what was done next too, where that is more of the same; whether it is."""
        one = joined(self.entry, entry)
        if one is not None:
            self.entry = one
            vars(self).pop("words", None)
        return one is not None

    def follow(self, losses: list[float]) -> bool:
        """Takes in the losses of the next steps; whether it wants more."""
        wanted = losses[: AROUND - self._steps]
        self._sum, self._steps = self._sum + sum(wanted), self._steps + len(wanted)
        return self._steps < AROUND

    @property
    def losses(self) -> str:
        """`loss 0.291 → 0.224`; empty where nothing was changed."""
        if self.entry.action not in CHANGES or self._before is None or not self._steps:
            return ""
        return f"loss {self._before:.3g} → {self._sum / self._steps:.3g}"

    @property
    def steps(self) -> str:
        """Over how many steps those are means."""
        return f"means of {self._steps_before} steps before and {self._steps} after"


class Logbook:
    """Every entry of the journal, as a person reads it.

    Args:
        send: Hands a command over.
        wake: Wakes the pump, to show what the filter asks for.

    Attributes:
        mark: Of the line that is pointed out, or None.
    """

    def __init__(self, send: Send, wake: Callable[[], None]) -> None:
        self._send = send
        self._lines: deque[Line] = deque(maxlen=ENTRIES)
        self._recent: deque[float] = deque(maxlen=AROUND)  # losses of the last steps, since the last change by hand
        self._earlier = self._recent  # those before that change
        self._open: list[Line] = []  # that wait for the losses after them
        self._stale = True
        self.mark: int | None = None
        self._pointed_out: int | None = None  # the one in sight
        self._said = ""  # why, until the box is emptied
        self._build()
        self._wake = wake
        self._filter.observe(self._on_filter, "value")

    def _build(self) -> None:
        self._why = widgets.Text(placeholder="why? (goes with the last change)", description="why, for the logbook")
        self._why.on_msg(self._on_message)
        self._add = button("Add note", self._on_note)
        self._filter = widgets.Text(placeholder="filter", description="show only lines with", continuous_update=True)
        self._told = classed(widgets.HTML(), "babysit-told")
        self._table = widgets.HTML()
        exports = [button(words, partial(self._on_export, kind)) for words, kind in _EXPORTS]
        for made, (words, _) in zip(exports, _EXPORTS, strict=True):
            made.disabled, made.tooltip = False, f"write {words} into the run's folder"
        self._add.disabled = False
        meaning = classed(widgets.HTML(f"loss: mean of up to {AROUND} steps before → after"), "babysit-told")
        head = row(classed(unlabelled(self._filter), "babysit-filter", "babysit-looks"), self._told, space(), meaning)
        note = row(classed(unlabelled(self._why), "babysit-why"), self._add)
        foot = row(note, space(), classed(widgets.HTML("export"), "babysit-told"), *exports)
        table = classed(widgets.Box([self._table]), "babysit-lines")
        self.widget = classed(widgets.VBox([head, table, foot]), "babysit-logbook")
        free_all(self.widget)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _on_filter(self, change: Mapping[str, Any]) -> None:
        self._stale = True
        self._wake()

    def _on_export(self, kind: str) -> None:
        self._send("export", kind=kind)

    def _on_message(self, _: Any, content: Any, buffers: Any) -> None:
        if content.get("event") == "submit":
            self._on_note()

    def _on_note(self) -> None:
        if (why := self._why.value.strip()) and why != self._said:
            self._said = why
            self._send("note", why=why, on_last_change=True)  # of which the page may not know yet

    # ------------------------------------------------------- called by the pump alone

    def take(self, table: str, row: Mapping[str, Any]) -> None:
        """Takes in a row of the record."""
        if table == "entries":
            entry = entry_from_row(row)
            if self._lines and self._lines[-1].join(entry):
                self._stale = True
                return
            line = Line(entry, self._mark_of(row), self._recent or self._earlier)
            self._lines.append(line)
            if is_turn(line.entry.action, line.entry.author) and self._recent:
                self._earlier, self._recent, self._open = self._recent, deque(maxlen=AROUND), []
            if row["action"] in CHANGES:
                self._open.append(line)
            self._stale = True
        elif table == "branches":  # what comes now follows on other steps
            self._open = []
        elif table == "blocks" and "loss" in row["names"]:
            self._follow(decoded(row)[row["names"].index("loss")].tolist())

    def _mark_of(self, row: Mapping[str, Any]) -> int | None:
        """The mark that tells of a row: of a note that gives a reason, that of what was done."""
        if row["action"] == "note" and str(row["why"]).startswith("on "):
            for line in reversed(self._lines):
                if line.entry.action in CHANGES and row["why"].startswith(about(deed(line.entry), line.entry.step)):
                    return line.mark
        return row["seq"] if mark_of(row) else None

    def _follow(self, losses: list[float]) -> None:
        self._recent.extend(losses)
        if self._open:
            self._open = [line for line in self._open if line.follow(losses)]
            self._stale = True

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the newest lines that the filter lets through."""
        if self._said:
            said, self._said = self._said, ""
            write(self._why, value="" if self._why.value.strip() == said else self._why.value)
        if not self._stale and self.mark == self._pointed_out:
            return
        wanted = self._filter.value.strip().lower()
        found = [line for line in self._lines if not wanted or wanted in _searched(line)]
        write(self._told, value=_told(len(found), len(self._lines), bool(wanted)))
        write(self._table, value=_table(found[-LINES:], self.mark))
        self._stale, self._pointed_out = False, self.mark


def _searched(line: Line) -> str:
    return f"{line.entry.step:,} {line.words} {line.entry.author} {line.entry.branch}".lower()


def _told(found: int, there: int, filtered: bool) -> str:
    lines = "line" if there == 1 else "lines"
    said = f"{found:,} of {there:,} {lines}" if filtered else f"{there:,} {lines}"
    return said + (f", the newest {LINES} shown" if found > LINES else "")


def _table(lines: list[Line], mark: int | None) -> str:
    return f"<table><tbody>{''.join(_line(line, mark) for line in reversed(lines))}</tbody></table>"


def _line(line: Line, mark: int | None) -> str:
    entry = line.entry
    changed = deed(entry) if entry.action == "set" else ""
    what = html.escape(line.words)
    if changed and line.words.startswith(changed):
        rest = html.escape(line.words[len(changed) :])
        what = f'<span class="babysit-hand">{html.escape(changed)}</span>{rest}'
    cells = f'<td>{entry.step:,}</td><td title="{html.escape(line.words)}">{what}</td>'
    marked = f' data-mark="{line.mark}"' if line.mark is not None else ""
    marked += ' class="babysit-pointed-out"' if marked and line.mark == mark else ""
    losses = f'<td title="{line.steps}">{line.losses}</td>' if line.losses else "<td></td>"
    return f"<tr{marked}>{cells}{losses}<td>{html.escape(str(entry.author))}</td></tr>"
