"""The dashboard: widgets that send commands, and the one thread that refreshes them.

It is given a run as three calls in plain data, `send`, `status` and `since`, and knows
nothing else of it. Two rules keep it honest and quick. An observer of a control only sends
a command, on whatever thread it is called, and writes no widget. One pump thread writes
all widgets, and a control's own value only when the value in effect differs from it.
"""

import atexit
import html
import math
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

import ipywidgets as widgets

from babysit.ui.buttons import RunButtons
from babysit.ui.chart import Chart
from babysit.ui.chart_view import ChartView
from babysit.ui.compared_run import OpenRun
from babysit.ui.diagnostics import DiagnosticsPanel
from babysit.ui.header import StatusBar
from babysit.ui.logbook import Logbook
from babysit.ui.sliders import Sliders
from babysit.ui.timeline import TimelinePanel
from babysit.ui.widgets import (
    classed,
    close,
    folded,
    late_controls_warning,
    reset_subshell_routing,
    write,
)

INTERVAL_S = 0.25
UNSEEN_INTERVAL_S = 5.0  # while no page shows it
CATCH_UP_S = 1.0  # new rows of a running run are read for at most so long before everything else has its turn
COMPILING_S = 0.5  # a step that is not there so long after a change is probably being compiled
STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()
_TRACED = ("set", "edit", "rewind")  # after these the step may have to be traced again
_COMPILING = "No step has been taken since the last change: the step is being compiled again, or validation goes on."
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
        self._goes_on = True
        self._cursor = 0
        self._last: Mapping[str, Any] = {}  # the last entry
        self._error, self._late = "", late_controls_warning()
        self._next_refresh = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._page = ChartView(self._send, self._wake.set)
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
        self._chart = Chart(self._send, self._wake.set, self._page, open_run=self._open_run)
        self._logbook = Logbook(self._send, self._wake.set, self._chart.series)
        timeline = TimelinePanel(self._send, self._wake.set, self._chart.series)
        diagnostics = DiagnosticsPanel(self._send)
        tabs = {"Logbook": self._logbook.widget, "Timeline": timeline.widget, "Diagnostics": diagnostics.widget}
        below = classed(widgets.Tab([*tabs.values()], titles=[*tabs]), "babysit-below")
        self._arrange(StatusBar(), self._chart.widget, below)
        self._readers.append(timeline)
        self._parts += [timeline, diagnostics]

    def _arrange(self, status_bar: Any, chart: Any, *below: Any) -> None:
        """Makes the widget: the status bar, buttons, a message, sliders beside the chart, and what is below."""
        sliders, buttons = Sliders(self._send), RunButtons(self._send)
        self._readers: list[Any] = [sliders, buttons]  # their `add` reads each entry of the log
        self._parts: list[Any] = [sliders, buttons, status_bar]  # their `refresh` shows the status
        self._message = widgets.HTML()
        rows = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            status_bar.widget,
            buttons.widget,
            classed(widgets.Box([self._message]), "babysit-message"),
            classed(widgets.HBox([sliders.widget, chart]), "babysit-body"),
            *below,
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
            if (run := self._reference()) is None:
                return self._finish()
            if woken or self._page.is_visible or time.monotonic() >= self._next_refresh:
                self._refresh()
            self._kept = run if self._goes_on or self._page.is_shown else None
            del run  # else it would be kept while this thread waits

    def _finish(self) -> None:
        """Shows the end of a run that was removed, says so, and dims the controls."""
        self._attempt(self._draw, True)
        self._attempt(write, self._message, value=f'<span class="babysit-remark">{_GONE}</span>')
        self.widget.add_class("babysit-watching")
        self._chart = None
        atexit.unregister(self._stop_pump)

    def _refresh(self) -> None:
        """Brings every widget up to date with the run."""
        self._error, self._next_refresh = "", time.monotonic() + UNSEEN_INTERVAL_S
        self._attempt(self._catch_up, time.monotonic() + CATCH_UP_S)
        status = self._attempt(self._run.status)  # after the entries, so that it includes them
        if status is None:
            return
        self._goes_on = status["state"] in ("running", "paused") or bool(status.get("read_only"))
        if not self._goes_on:
            self._attempt(self._catch_up, math.inf)
        for part in self._parts:
            self._attempt(part.refresh, status)
        self._attempt(self._draw)
        if status.get("read_only"):
            self.widget.add_class("babysit-watching")
        self._attempt(lambda: write(self._message, value=self._message_words(status)))

    def _attempt(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls a function; an error is shown, and does not keep the rest of the dashboard from being refreshed."""
        try:
            return act(*arguments, **named)
        except Exception:
            self._error = traceback.format_exc()

    def _catch_up(self, until: float) -> None:
        """Reads new rows, some at a time, until there are no more or it is too late."""
        while time.monotonic() < until and not self._closing.is_set():
            rows, cursor = self._run.since(self._cursor)
            caught_up, self._cursor = cursor == self._cursor, cursor
            if any(rows.values()):
                self._attempt(self._add, rows)
            if caught_up:
                return

    def _add(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._attempt(self._chart.add, rows)
        self._read(rows["entries"])

    def _read(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            self._last = entry
            for part in self._readers:
                self._attempt(part.add, entry)

    def _draw(self, at_once: bool = False) -> None:
        self._attempt(self._chart.refresh, at_once)
        self._logbook.refresh()

    def _message_words(self, status: Mapping[str, Any]) -> str:
        if status["error"]:
            return folded(status["error"].strip().splitlines()[-1], status["error"])
        if status["not_finite"]:
            return (
                f"The loss at step {status['step']:,} is not a finite number, so the run is paused. "
                "Rewind to a checkpoint, or in the timeline to any step before it, and lower the learning rate."
            )
        if self._error:
            return folded("A part of the dashboard could not be drawn.", self._error)
        refusal = self._last["why"] if self._last.get("action") == "refuse" else ""
        if alarm := status["warning"] or refusal:
            return html.escape(str(alarm))
        remarks = " ".join(filter(None, [*status["remarks"], self._late]))
        if self._last.get("file"):
            remarks = f"written to {self._last['file']}"
        elif self._waits_for_step(status):
            remarks = _COMPILING
        return f'<span class="babysit-remark">{html.escape(remarks)}</span>'

    def _waits_for_step(self, status: Mapping[str, Any]) -> bool:
        """Whether a step is long in coming after a change."""
        if status["state"] != "running" or self._last.get("action") not in _TRACED:
            return False
        return bool(self._last["step"] == status["step"] and time.time() - self._last["time"] > COMPILING_S)
