"""The dashboard: widgets that send commands, and the one thread that refreshes them.

It is given a run that has `send`, `status` and `logs`, and knows nothing else of it. Two rules
keep it honest and quick. An observer of a control only sends a command, on whatever thread it
is called, and writes no widget. One pump thread writes all widgets, and a control's own value
only when the value in effect differs from it.
"""

import html
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import ipywidgets as widgets

from babysit.core.journal import Entry
from babysit.core.runlog import RunLog
from babysit.ui.buttons import RunButtons
from babysit.ui.chart import Chart
from babysit.ui.chart_view import ChartView
from babysit.ui.diagnostics import DiagnosticsPanel
from babysit.ui.foresight import Alerts, Foresight, Rules, asking
from babysit.ui.header import StatusBar, StatusBars, tab_title
from babysit.ui.logbook import Logbook
from babysit.ui.screen import STYLE, Screen
from babysit.ui.sliders import Sliders
from babysit.ui.timeline import TimelinePanel
from babysit.ui.widgets import (
    classed,
    folded,
    late_controls_warning,
    write,
    write_titles,
)

INTERVAL_S = 0.25
COMPILING_S = 0.5  # a step that is not there so long after a change is probably being compiled
_TRACED = ("set", "edit", "rewind")  # after these the step may have to be traced again
_COMPILING = "No step has been taken since the last change: the step is being compiled again, or validation is running."
_GONE = (
    "This run has ended and no variable refers to its panda any more, so it was removed from this kernel. "
    "`babysit.Panda.load` loads it from its folder."
)


class Run(Protocol):
    """What a dashboard needs of a run."""

    def send(self, command: Mapping[str, Any]) -> str:
        """Sends a command, with its id under `command`."""

    def status(self) -> dict[str, Any]:
        """The status of the run; of several as one, and under `runs` of each."""

    @property
    def logs(self) -> Mapping[str, RunLog]:
        """Name -> log: of one run, or of several that are steered as one, of which the first counts."""


class Dashboard(Screen):
    """The screen of one run, or of several steered as one; `widget` is what to display, as often as you like.

    It keeps the run in memory while that goes on, and while a page shows it.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        """Builds every widget, fills them, and starts the pump."""
        super().__init__(run, INTERVAL_S)
        self._goes_on = True
        self._last: Entry | None = None
        self._status: Mapping[str, Any] = {}
        self._sent: deque[str] = deque(maxlen=100)  # the ids of commands
        self._moved_s = 0.0  # when a slider was moved last
        self._error, self._late = "", late_controls_warning()
        self._page = ChartView(self._send, self._wake.set)
        self._build(run)
        self._refresh(run)
        self._start_pump()

    def _build(self, run: Run) -> None:
        send, wake, logs = self._send, self._wake.set, run.logs
        foresees = bool((self._attempt(run.status) or {}).get("foresight"))
        self._chart = Chart(logs, send, wake, self._page)
        sliders, buttons, series = Sliders(send), RunButtons(send), self._chart.series
        self._readers: list[Any] = [sliders, buttons]  # their `add` reads each entry of the log
        status_bar = StatusBar() if len(logs) == 1 else StatusBars([run.series for run in self._chart.runs])
        self._parts: list[Any] = [sliders, buttons, status_bar]  # their `refresh` shows the status
        self._message, above = widgets.HTML(), []
        if foresees:
            self._parts.append(alerts := Alerts(send))
            above = [alerts.widget]
        rows = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            status_bar.widget,
            buttons.widget,
            classed(widgets.Box([self._message, *above]), "babysit-message"),
            classed(widgets.HBox([sliders.widget, self._chart.widget]), "babysit-body"),
        ]
        if len(logs) == 1:
            tabs: dict[str, Any] = {"Logbook": Logbook(send, series), "Timeline": TimelinePanel(send, wake, series)}
            if foresees:
                rules = Rules(send)
                tabs |= {"Foresight": Foresight(send, wake, series, self._page, self._show_foresight), "Rules": rules}
                self._readers.append(rules)
            tabs["Diagnostics"] = DiagnosticsPanel(send)
            self._parts += tabs.values()
            self._tabs = classed(widgets.Tab([tab.widget for tab in tabs.values()]), "babysit-below")
            write_titles(self._tabs, *tabs)
            rows.append(self._tabs)
        self.widget = classed(widgets.VBox(rows), "babysit")

    # ---------------------------------- called by the page, on any thread: only send

    def _send(self, action: str, **about: Any) -> str:
        run: Any = self._reference()
        command = uuid.uuid4().hex  # as another process may have a dashboard of this run
        self._sent.append(command)  # the answer may come before `send` returns
        if action == "set":
            self._moved_s = time.monotonic()
        self._wake.set()
        run.send({"action": action, "author": "dashboard", "command": command, **about})
        return command

    # ------------------------------------------------------- called by the pump alone

    def _is_visible(self) -> bool:
        return self._page.is_visible

    def _is_in_use(self) -> bool:
        return self._goes_on or self._page.is_shown

    def _finish(self) -> None:
        """Shows the end of a run that was removed, says so, and dims the controls."""
        self._read()
        self._show(self._status, at_once=True)
        self._attempt(write, self._message, value=f'<span class="babysit-remark">{_GONE}</span>')
        self.widget.add_class("babysit-watching")
        for run in self._chart.runs:
            run.series.forget()

    def _refresh(self, run: Run) -> None:
        """Brings every widget up to date with the run."""
        self._error = ""
        self._read()
        status = self._attempt(run.status)  # after the entries, so that it includes them
        if status is not None:
            self._status = status
            self._goes_on = status["state"] in ("running", "paused") or bool(status.get("remote"))
            self._show(status)

    def _read(self) -> None:
        """Reads the new entries; of several runs, what the first one answers to a command and any refuses."""
        for i, run in enumerate(self._chart.runs):
            for entry in self._attempt(run.series.read) or ():
                refused = entry.action == "refuse"
                if run.name and (entry.command not in self._sent or not (i == 0 or refused)):
                    continue
                self._last = replace(entry, why=f"{run.name}: {entry.why}") if run.name and refused else entry
                for part in self._readers:
                    self._attempt(part.add, self._last)

    def _show(self, status: Mapping[str, Any], at_once: bool = False) -> None:
        foresight = status.get("foresight") or {}
        watchful = bool(foresight and (foresight["rules"] or foresight["alerts"]))
        classes = {"watching": status.get("read_only"), "trying": asking(status)[0] == "doing", "watchful": watchful}
        for name, on in classes.items():
            (self.widget.add_class if on else self.widget.remove_class)(f"babysit-{name}")
        for part in self._parts:
            self._attempt(part.refresh, status)
        self._attempt(self._chart.refresh, at_once, self._moved_s)
        self._attempt(lambda: self._page.show_state(tab_title(status), status["state"] == "running"))
        self._attempt(lambda: write(self._message, value=self._message_words(status)))

    def _show_foresight(self) -> None:
        write(self._tabs, selected_index=2)

    def _attempt(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls a function; an error is shown, and does not keep the rest of the dashboard from being refreshed."""
        try:
            return act(*arguments, **named)
        except Exception:
            self._error = traceback.format_exc()

    def _message_words(self, status: Mapping[str, Any]) -> str:
        if status["error"]:
            return folded(status["error"].strip().splitlines()[-1], status["error"])
        asked, _ = asking(status)
        if status["not_finite"] and asked not in ("doing", "not finite"):
            return (
                f"The loss at step {status['step']:,} is not a finite number, so the run is paused. "
                "Rewind to a checkpoint, or in the timeline to any step before it, and lower the learning rate."
            )
        if self._error:
            return folded("A part of the dashboard could not be drawn.", self._error)
        last = self._last
        refusal = last.why if last and last.action == "refuse" else ""
        if alarm := status["warning"] or refusal:
            return html.escape(str(alarm))
        if asked:
            return ""
        remarks = " ".join(filter(None, [*status["remarks"], self._late]))
        if last and last.file:
            remarks = f"written to {last.file}"
        elif last and status["state"] == "running" and last.action in _TRACED and last.step == status["step"]:
            remarks = _COMPILING if time.time() - last.time > COMPILING_S else remarks
        return f'<span class="babysit-remark">{html.escape(remarks)}</span>'
