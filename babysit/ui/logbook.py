"""The logbook: what was done to a run, newest first, and a box for the reason."""

import html
from collections.abc import Mapping
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.core.journal import Entry
from babysit.core.words import describe_action
from babysit.ui.run_series import AROUND, RunSeries, on_chart, words_of
from babysit.ui.widgets import Send, button, caption, classed, export_button, row, unlabelled, write

LINES = 60  # lines shown, which one message carries
_EXPORTS = (
    ("Markdown", "logbook", "the logbook"),
    ("script", "script", "a plain Keras script"),
    ("model", "model", "the model"),
)


class Logbook:
    """The newest entries of the log, as a person reads them; `Panda.journal` and the export have all.

    Args:
        send: Sends a command.
        series: The run's entries.
    """

    def __init__(self, send: Send, series: RunSeries) -> None:
        self._send, self._series = send, series
        self._shown: Any = None  # what the table was made from
        self._sent = ""  # the reason, until the box is emptied
        self._why = widgets.Text(placeholder="why? (kept with the last change)", description="why, for the logbook")
        self._why.on_msg(self._on_message)
        add = button("Add note", self._on_note)
        add.disabled = False
        self._count, self._table = caption(), widgets.HTML()
        exports = [export_button(name, partial(send, "export", kind=kind), what) for name, kind, what in _EXPORTS]
        meaning = classed(caption(f"loss: mean of up to {AROUND} steps before → after"), "babysit-last")
        head = row(self._count, meaning)
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

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the newest entries that pass the filter."""
        if self._sent:
            self._sent = ""
            write(self._why, value="")
        # After 200 steps the losses around the newest entry are known.
        newest = list(self._series.entries)[: -LINES - 1 : -1]
        state = newest[:1], [min(self._series.steps(), last.step + AROUND) for last in newest[:1]]
        if state != self._shown:
            write(self._count, value=f"the newest {LINES} lines" if len(newest) == LINES else "")
            lines = "".join(map(_line, newest, self._series.losses(newest)))
            write(self._table, value=f"<table><tbody>{lines}</tbody></table>")
            self._shown = state


def _line(entry: Entry, losses: str) -> str:
    words = marked = html.escape(words_of(entry))
    if entry.action == "set":
        changed = html.escape(describe_action(entry))
        marked = f'<span class="babysit-user">{changed}</span>{words.removeprefix(changed)}'
    about = f' data-entry="{entry.seq}"' if on_chart(entry) else ""
    cells = f'<td>{entry.step:,}</td><td title="{words}">{marked}</td><td>{losses}</td>'
    return f"<tr{about}>{cells}<td>{html.escape(entry.author)}</td></tr>"
