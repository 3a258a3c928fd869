"""The logbook: what was done to a run, newest first, a filter, and a box for the reason."""

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.ui.entries import AROUND, LogEntry
from babysit.ui.run_series import RunSeries
from babysit.ui.widgets import Send, button, caption, classed, export_button, row, space, unlabelled, write

LINES = 60  # lines shown, which one message carries
_EXPORTS = (("Markdown", "logbook"), ("script", "script"), ("model", "model"))


class Logbook:
    """Every entry of the log, as a person reads it.

    Args:
        send: Sends a command.
        wake: Wakes the pump, to show what the filter asks for.
        series: The run's entries.
    """

    def __init__(self, send: Send, wake: Callable[[], None], series: RunSeries) -> None:
        self._send, self._series = send, series
        self._shown: Any = None  # what the table was made from
        self._sent = ""  # the reason, until the box is emptied
        self._why = widgets.Text(placeholder="why? (goes with the last change)", description="why, for the logbook")
        self._why.on_msg(self._on_message)
        add = button("Add note", self._on_note)
        add.disabled = False
        self._filter = widgets.Text(placeholder="filter", description="show only lines with", continuous_update=True)
        self._filter.observe(lambda _: wake(), "value")
        self._count, self._table = caption(), widgets.HTML()
        exports = [export_button(name, partial(self._on_export, kind), name) for name, kind in _EXPORTS]
        meaning = caption(f"loss: mean of up to {AROUND} steps before → after")
        head = row(classed(unlabelled(self._filter), "babysit-filter", "babysit-looks"), self._count, space(), meaning)
        note = row(classed(unlabelled(self._why), "babysit-why"), add)
        foot = row(note, space(), caption("export"), *exports)
        table = classed(widgets.Box([self._table]), "babysit-lines")
        self.widget = classed(widgets.VBox([head, table, foot]), "babysit-logbook")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_export(self, kind: str) -> None:
        self._send("export", kind=kind)

    def _on_message(self, _: Any, content: Any, buffers: Any) -> None:
        if content.get("event") == "submit":
            self._on_note()

    def _on_note(self) -> None:
        if (why := self._why.value.strip()) and why != self._sent:
            self._sent = why
            self._send("note", why=why, on_last_change=True)  # which the page may not have received yet

    # ------------------------------------------------------- called by the pump alone

    def refresh(self, chosen: int | None) -> None:
        """Shows the newest entries that pass the filter; the chosen one is highlighted."""
        if self._sent:
            sent, self._sent = self._sent, ""
            write(self._why, value="" if self._why.value.strip() == sent else self._why.value)
        wanted, entries = self._filter.value.strip().lower(), self._series.entries
        state = self._series.entries_version, wanted, chosen
        if state != self._shown:
            found = [entry for entry in entries if not wanted or wanted in _searched(entry)]
            write(self._count, value=_count(len(found), len(entries), bool(wanted)))
            lines = "".join(_line(entry, chosen) for entry in reversed(found[-LINES:]))
            write(self._table, value=f"<table><tbody>{lines}</tbody></table>")
            self._shown = state


def _searched(entry: LogEntry) -> str:
    return f"{entry.step:,} {entry.words} {entry.author} {entry.branch}".lower()


def _count(found: int, there: int, filtered: bool) -> str:
    lines = f"{there:,} {'line' if there == 1 else 'lines'}"
    count = f"{found:,} of {lines}" if filtered else lines
    return count + (f", the newest {LINES} shown" if found > LINES else "")


def _line(entry: LogEntry, chosen: int | None) -> str:
    words = html.escape(entry.words)
    changed = html.escape(entry.action_words) if entry.action == "set" else ""
    marked = f'<span class="babysit-user">{changed}</span>{words.removeprefix(changed)}' if changed else words
    cells = f'<td>{entry.step:,}</td><td title="{words}">{marked}</td>'
    about = f' data-entry="{entry.seq}"' if entry.on_chart else ""
    about += ' class="babysit-chosen-line"' if about and entry.seq == chosen else ""
    losses = f'<td title="{entry.averaged_steps}">{entry.losses}</td>' if entry.losses else "<td></td>"
    return f"<tr{about}>{cells}{losses}<td>{html.escape(entry.author)}</td></tr>"
