"""The dashboard: widgets that send commands, and the one thread that refreshes them.

It is given a run as three calls in plain data, `send`, `status` and `since`, and knows
nothing else of it. Two rules keep it honest and quick. A control's observer only hands a
command over, on whatever thread it is called, and writes no widget. One pump thread
writes all widgets, and a control's own value only when the value in effect has become
another one than the control shows.
"""

import atexit
import html
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, Protocol

import ipywidgets as widgets

from babysit.ui.buttons import Transport
from babysit.ui.chart import Chart
from babysit.ui.diagnostics import Vitals
from babysit.ui.header import Head
from babysit.ui.logbook import Logbook
from babysit.ui.marks import tells_of_a_file
from babysit.ui.page_monitor import Watch
from babysit.ui.sliders import Sliders
from babysit.ui.timeline import Places
from babysit.ui.widgets import Panel, classed, close, late_words, lock, write

INTERVAL_S = 0.25
# Where no page shows it.
UNSEEN_INTERVAL_S = 5.0
# So long it takes in what a run has recorded that goes on, and may record as fast; then the rest has its turn.
CATCH_UP_S = 1.0
STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()
_GONE = (
    "This run has ended and nobody held its panda any more, so it is gone from this kernel. "
    "`babysit.Panda.load` takes it up from its folder."
)


class Run(Protocol):
    """What a dashboard needs of a run."""

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands a command over; returns its id."""

    def status(self) -> dict[str, Any]:
        """How the run stands."""

    def since(self, cursor: int) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """What was recorded behind a cursor, and the next cursor."""


class Dashboard:
    """The screen of one run; `widget` is what to display, as often as you like.

    It holds the run as long as that goes on, and as long as a page shows it. One that has ended, and
    that nobody else holds, is let go then: the pump ends, and what it wrote last stays.
    """

    _chart: Any  # what is drawn, which is large

    def __init__(self, run: Run) -> None:
        """Builds every widget, fills them, and starts the pump."""
        self._reference = weakref.ref(run)
        self._held: Run | None = run
        self._alive = self._needed = True  # whether the run goes on; whether it did at the pulse before, too
        self._cursor = 0
        self._refusal = self._written = ""  # the last entry, if it is a refusal or tells of a file
        self._error, self._late = "", late_words()
        self._next_pulse = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._watch = Watch(self._wake.set)
        self._build()
        self._pulse()
        self._pump = threading.Thread(target=self._refresh_often, name="babysit-pump", daemon=True)
        self._pump.start()
        atexit.register(self._stop_pump)  # one that still draws when the interpreter ends would abort the process

    def close(self) -> None:
        """Stops the pump and takes the widgets off the page; may be called twice."""
        self._stop_pump()
        atexit.unregister(self._stop_pump)
        close(self.widget)

    @property
    def _run(self) -> Run:
        if (run := self._reference()) is None:
            raise ReferenceError("The run is gone: nobody held it any more.")
        return run

    def _stop_pump(self) -> None:
        self._closing.set()
        self._wake.set()
        self._pump.join()

    def _build(self) -> None:
        head, sliders = Head(), Sliders(self._send)
        transport = Transport(self._send, lambda: self._run.status()["state"])
        logbook, places = Logbook(self._send, self._wake.set), Places(self._send, self._wake.set)
        vitals = Vitals(self._send)
        self._listeners: list[Panel] = [sliders, transport, logbook, places, vitals]
        self._commanding = self._listeners.copy()  # which a run that is only watched switches off
        self._panels: list[Any] = [*self._listeners, head]
        self._message = widgets.HTML()
        self._logbook, self._chart = logbook, Chart(self._send, self._wake.set, self._watch)
        tabs = {"Logbook": logbook.widget, "Time line": places.widget, "Vital signs": vitals.widget}
        below = widgets.Tab([*tabs.values()], titles=[*tabs])
        parts = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            head.widget,
            transport.widget,
            classed(widgets.Box([self._message]), "babysit-message"),
            classed(widgets.HBox([sliders.widget, self._chart.widget]), "babysit-body"),
            classed(below, "babysit-below"),
            self._watch.widget,
        ]
        self.widget = classed(widgets.VBox(parts), "babysit")

    # ---------------------------------- called by the page, on any thread: only hand over

    def _send(self, action: str, **about: Any) -> str:
        command = self._run.send({"action": action, "author": "dashboard", **about})
        self._wake.set()
        return command

    # ------------------------------------------------------- called by the pump alone

    def _refresh_often(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(INTERVAL_S)
            # A moment's grace, in which the command that woke us is obeyed.
            woken = self._wake.is_set()
            self._closing.wait(0.02 if woken else 0)
            self._wake.clear()
            self._watch.come_by()
            if (run := self._reference()) is None:
                return self._take_leave()
            if woken or self._watch.looked_at or time.monotonic() >= self._next_pulse:
                self._pulse()
            self._held = run if self._needed or self._watch.shown else None
            del run  # else it would be held while this thread waits

    def _take_leave(self) -> None:
        """Shows the end, says that the run is gone, and switches off what can no longer be done."""
        self._attempt(self._draw, True)
        self._attempt(write, self._message, value=f'<span class="babysit-remark">{_GONE}</span>')
        self._attempt(lock, self.widget)
        self._chart = None
        atexit.unregister(self._stop_pump)

    def _pulse(self) -> None:
        """Brings every widget up to date with the run."""
        self._error, self._next_pulse = "", time.monotonic() + UNSEEN_INTERVAL_S
        self._attempt(self._catch_up)
        status = self._attempt(self._run.status)  # behind the entries: what they tell is in it already
        if status is not None:
            alive = status["state"] in ("running", "paused") or bool(status.get("read_only"))
            self._alive, self._needed = alive, self._alive or alive  # once more, for what it recorded last
            for panel in self._panels:
                self._attempt(panel.refresh, status)
            for panel in self._commanding if status.get("read_only") else ():
                self._attempt(lock, panel.widget)
            self._attempt(self._draw)
            self._attempt(self._refresh_message, status)

    def _attempt(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls; what goes wrong is shown and tried again at the next pulse, and everything else goes on."""
        try:
            return act(*arguments, **named)
        except Exception:
            self._error = traceback.format_exc()

    def _catch_up(self) -> None:
        """Takes in what was recorded since, piece by piece; of a run that trains, no longer than `CATCH_UP_S`."""
        end = time.monotonic() + CATCH_UP_S
        while not self._closing.is_set():
            rows, cursor = self._run.since(self._cursor)
            caught_up, self._cursor = cursor == self._cursor, cursor
            if any(rows.values()):
                self._take_in(rows)
            if caught_up or (time.monotonic() > end and self._run.status()["state"] == "running"):
                return

    def _take_in(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        everything = sorted((row["seq"], table, row) for table, found in rows.items() for row in found)
        for _, table, row in everything:
            for panel in self._listeners:
                self._attempt(panel.take, table, row)
        if rows["entries"]:
            last = rows["entries"][-1]
            self._refusal = str(last["why"]) if last["action"] == "refuse" else ""
            self._written = str(last["why"]) if tells_of_a_file(last) else ""
        self._chart.take(rows)

    def _draw(self, at_once: bool = False) -> None:
        self._chart.refresh(at_once)
        self._logbook.mark = self._chart.mark

    def _refresh_message(self, status: Mapping[str, Any]) -> None:
        if status["error"]:
            words = _folded(status["error"].strip().splitlines()[-1], status["error"])
        elif status["not_finite"]:
            words = (
                f"The loss at step {status['step']:,} is not a finite number, so the run rests there. "
                "Rewind to a checkpoint, or in the time line to any step before it, and lower the learning rate."
            )
        elif self._error:
            words = _folded("A part of the dashboard could not be drawn.", self._error)
        else:
            words = html.escape(status["warning"] or self._refusal)
            remarks = self._written or " ".join(filter(None, [*status["remarks"], self._late]))
            words = words or f'<span class="babysit-remark">{html.escape(remarks)}</span>'
        write(self._message, value=words)


def _folded(summary: str, details: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(details)}</pre></details>"
