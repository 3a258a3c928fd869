"""The logbook: what was done to a run, newest first, a filter, and a box for the reason."""

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.ui.entries import AROUND, LogEntry
from babysit.ui.run_series import RunSeries
from babysit.ui.widgets import Send, button, caption, classed, export_button, row, unlabelled, write

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
        self._filter = widgets.Text(placeholder="filter", description="show only lines with")
        self._filter.observe(lambda _: wake(), "value")
        self._count, self._table = caption(), widgets.HTML()
        exports = [export_button(name, partial(send, "export", kind=kind), name) for name, kind in _EXPORTS]
        meaning = classed(caption(f"loss: mean of up to {AROUND} steps before → after"), "babysit-last")
        head = row(classed(unlabelled(self._filter), "babysit-filter"), self._count, meaning)
        note = row(classed(unlabelled(self._why), "babysit-why"), add)
        foot = row(note, classed(caption("export"), "babysit-last"), *exports)
        table = classed(widgets.Box([self._table]), "babysit-lines")
        self.widget = classed(widgets.VBox([head, table, foot]), "babysit-logbook")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_message(self, _: Any, content: Any, buffers: Any) -> None:
        if content.get("event") == "submit":
            self._on_note()

    def _on_note(self) -> None:
        if (why := self._why.value.strip()) and why != self._sent:
            self._sent = why
            self._send("note", why=why, on_last_change=True)  # which the page may not have received yet

    # ------------------------------------------------------- called by the pump alone

    def refresh(self) -> None:
        """Shows the newest entries that pass the filter."""
        if self._sent:
            self._sent = ""
            write(self._why, value="")
        wanted, entries = self._filter.value.strip().lower(), self._series.entries
        state = self._series.entries_version, wanted
        if state != self._shown:
            found = [entry for entry in entries if wanted in _searched(entry)]
            of = f" of {len(entries):,}" if wanted else ""
            newest = f", the newest {LINES} shown" if len(found) > LINES else ""
            write(self._count, value=f"{len(found):,}{of} lines{newest}")
            lines = "".join(map(_line, reversed(found[-LINES:])))
            write(self._table, value=f"<table><tbody>{lines}</tbody></table>")
            self._shown = state


def _searched(entry: LogEntry) -> str:
    return f"{entry.step:,} {entry.words} {entry.author} {entry.branch}".lower()


def _line(entry: LogEntry) -> str:
    words = marked = html.escape(entry.words)
    if entry.action == "set":
        changed = html.escape(entry.action_words)
        marked = f'<span class="babysit-user">{changed}</span>{words.removeprefix(changed)}'
    about = f' data-entry="{entry.seq}"' if entry.on_chart else ""
    cells = f'<td>{entry.step:,}</td><td title="{words}">{marked}</td>'
    losses = f'<td title="{entry.averaged_steps}">{entry.losses}</td>'
    return f"<tr{about}>{cells}{losses}<td>{html.escape(entry.author)}</td></tr>"
