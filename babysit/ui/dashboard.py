"""The dashboard: widgets that send commands, and the one thread that refreshes them.

It is given a run as three calls in plain data, `send`, `status` and `since`, and knows
nothing else of it. Two rules keep it honest and quick. An observer of a control only sends
a command, on whatever thread it is called, and writes no widget. One pump thread writes
all widgets, and a control's own value only when the value in effect differs from it.
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

from babysit.ui.buttons import RunButtons
from babysit.ui.chart import Chart
from babysit.ui.compared_run import OpenRun
from babysit.ui.diagnostics import DiagnosticsPanel
from babysit.ui.header import StatusBar
from babysit.ui.logbook import Logbook
from babysit.ui.page_monitor import PageMonitor
from babysit.ui.sliders import Sliders
from babysit.ui.timeline import TimelinePanel
from babysit.ui.widgets import (
    DashboardPart,
    classed,
    close,
    disable_for_good,
    late_controls_warning,
    reset_subshell_routing,
    write,
)

INTERVAL_S = 0.25
UNSEEN_INTERVAL_S = 5.0  # while no page shows it
CATCH_UP_S = 1.0  # new rows of a running run are read for at most so long before everything else has its turn
STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()
_GONE = (
    "This run has ended and no variable refers to its panda any more, so it was removed from this kernel. "
    "`babysit.Panda.load` loads it from its folder."
)


class Run(Protocol):
    """What a dashboard needs of a run."""

    def send(self, command: Mapping[str, Any]) -> str:
        """Sends a command; returns its id."""

    def status(self) -> dict[str, Any]:
        """The status of the run."""

    def since(self, cursor: int) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """What was logged after a cursor, by table, and the next cursor."""


class Dashboard:
    """The screen of one run; `widget` is what to display, as often as you like.

    It keeps the run in memory while that goes on, and while a page shows it. After that, if nothing
    else refers to the run, the pump ends; what it wrote last stays.

    Args:
        run: The run.
        open_run: Opens the log of another run in a directory, to lay it over the chart.
    """

    _chart: Any  # the figure, which is large

    def __init__(self, run: Run, open_run: OpenRun | None = None) -> None:
        """Builds every widget, fills them, and starts the pump."""
        self._reference = weakref.ref(run)
        self._kept: Run | None = run
        self._goes_on = self._keep = True  # whether the run goes on; whether it did at this refresh or the one before
        self._cursor = 0
        self._refusal = self._written = ""  # the last entry, if it is a refusal or reports a file
        self._error, self._late = "", late_controls_warning()
        self._next_refresh = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._page = PageMonitor(self._wake.set)
        self._open_run = open_run
        self._build()
        reset_subshell_routing(self.widget)
        self._refresh()
        self._pump = threading.Thread(target=self._refresh_often, name="babysit-pump", daemon=True)
        self._pump.start()
        atexit.register(self._stop_pump)  # a thread that draws while the interpreter ends would abort the process

    def close(self) -> None:
        """Stops the pump and takes the widgets off the page; may be called twice."""
        self._stop_pump()
        atexit.unregister(self._stop_pump)
        close(self.widget)

    @property
    def _run(self) -> Run:
        if (run := self._reference()) is None:
            raise ReferenceError("The run was removed from this kernel.")
        return run

    def _stop_pump(self) -> None:
        self._closing.set()
        self._wake.set()
        self._pump.join()

    def _build(self) -> None:
        self._chart = Chart(self._send, self._wake.set, self._page, self._open_run)
        self._logbook = Logbook(self._send, self._wake.set, self._chart.series)
        timeline = TimelinePanel(self._send, self._wake.set, self._chart.series)
        diagnostics, sliders = DiagnosticsPanel(self._send), Sliders(self._send)
        tabs = {"Logbook": self._logbook.widget, "Timeline": timeline.widget, "Diagnostics": diagnostics.widget}
        below = classed(widgets.Tab([*tabs.values()], titles=[*tabs]), "babysit-below")
        self._arrange(StatusBar(), sliders, self._chart.widget, [timeline, diagnostics], below)
        self._controls.append(self._logbook.widget)

    def _arrange(self, status_bar: Any, sliders: Sliders, chart: Any, parts: list[Any], *below: Any) -> None:
        """Makes the widget: the status bar, buttons, a message, sliders beside the chart, and what is below."""
        buttons = RunButtons(self._send, lambda: self._run.status()["state"])
        self._parts: list[DashboardPart] = [sliders, buttons, *parts]
        self._controls = [part.widget for part in self._parts]  # disabled where the run is only watched
        self._status_bar = status_bar
        self._message = widgets.HTML()
        rows = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            status_bar.widget,
            buttons.widget,
            classed(widgets.Box([self._message]), "babysit-message"),
            classed(widgets.HBox([sliders.widget, chart]), "babysit-body"),
            *below,
            self._page.widget,
        ]
        self.widget = classed(widgets.VBox(rows), "babysit")

    # ---------------------------------- called by the page, on any thread: only send

    def _send(self, action: str, **about: Any) -> str:
        command = self._run.send({"action": action, "author": "dashboard", **about})
        self._wake.set()
        return command

    # ------------------------------------------------------- called by the pump alone

    def _refresh_often(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(INTERVAL_S)
            # The command that woke the pump is probably obeyed within this pause.
            woken = self._wake.is_set()
            self._closing.wait(0.02 if woken else 0)
            self._wake.clear()
            self._page.tick()
            if (run := self._reference()) is None:
                return self._finish()
            if woken or self._page.is_visible or time.monotonic() >= self._next_refresh:
                self._refresh()
            self._kept = run if self._keep or self._page.is_shown else None
            del run  # else it would be kept while this thread waits

    def _finish(self) -> None:
        """Shows the end of a run that was removed, says so, and disables the controls."""
        self._attempt(self._draw, True)
        self._attempt(write, self._message, value=f'<span class="babysit-remark">{_GONE}</span>')
        self._attempt(disable_for_good, self.widget)
        self._chart = None
        atexit.unregister(self._stop_pump)

    def _refresh(self) -> None:
        """Brings every widget up to date with the run."""
        self._error, self._next_refresh = "", time.monotonic() + UNSEEN_INTERVAL_S
        self._attempt(self._catch_up)
        status = self._attempt(self._run.status)  # after the entries, so that it includes them
        if status is not None:
            goes_on = status["state"] in ("running", "paused") or bool(status.get("read_only"))
            self._goes_on, self._keep = goes_on, self._goes_on or goes_on  # once more, for its last rows
            for part in (*self._parts, self._status_bar):
                self._attempt(part.refresh, status)
            self._attempt(self._draw)
            for widget in self._controls if status.get("read_only") else ():
                self._attempt(disable_for_good, widget)
            self._attempt(self._refresh_message, status)

    def _attempt(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls a function; an error is shown, and does not keep the rest of the dashboard from being refreshed."""
        try:
            return act(*arguments, **named)
        except Exception:
            self._error = traceback.format_exc()

    def _catch_up(self) -> None:
        """Reads new rows, some at a time; while the run trains, for at most `CATCH_UP_S`."""
        end = time.monotonic() + CATCH_UP_S
        while not self._closing.is_set():
            rows, cursor = self._run.since(self._cursor)
            caught_up, self._cursor = cursor == self._cursor, cursor
            if any(rows.values()):
                self._add(rows)
            if caught_up or (time.monotonic() > end and self._run.status()["state"] == "running"):
                return

    def _add(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._attempt(self._chart.series.add, rows)
        ordered = [(row["seq"], table, row) for table, found in rows.items() for row in found]
        for _, table, row in sorted(ordered, key=lambda item: item[0]):
            self._add_to_parts(table, row)
        if rows["entries"]:
            last = rows["entries"][-1]
            self._refusal = str(last["why"]) if last["action"] == "refuse" else ""
            self._written = f"written to {last['file']}" if last.get("file") else ""

    def _add_to_parts(self, table: str, row: Mapping[str, Any]) -> None:
        for part in self._parts:
            self._attempt(part.add, table, row)

    def _draw(self, at_once: bool = False) -> None:
        self._attempt(self._chart.refresh, at_once)
        self._logbook.refresh(self._chart.chosen)

    def _refresh_message(self, status: Mapping[str, Any]) -> None:
        if status["error"]:
            words = _folded(status["error"].strip().splitlines()[-1], status["error"])
        elif status["not_finite"]:
            words = (
                f"The loss at step {status['step']:,} is not a finite number, so the run is paused. "
                "Rewind to a checkpoint, or in the timeline to any step before it, and lower the learning rate."
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
