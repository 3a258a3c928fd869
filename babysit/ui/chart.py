"""The chart on the page: its picture, the toolbar above, and the same in words."""

import html
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from babysit.core.runlog import RunLog
from babysit.ui import theme
from babysit.ui.chart_toolbar import ChartToolbar
from babysit.ui.chart_view import ChartView
from babysit.ui.figure import ChartFigure, ChartRun
from babysit.ui.run_series import RunSeries
from babysit.ui.summary import summary
from babysit.ui.widgets import Send, classed, write

FRAME_SHARE = 0.02  # frames may cost this share of one core; dearer ones come less often
REST_S = 0.5  # after a slider was moved; drawing would delay the next move, which often follows at once
SUMMARY_INTERVAL_S = 5.0
FILE_SIZE = 900, 540, 2.0


class Chart:
    """The curves of one run, or of several that are steered as one, as the user has chosen to see them.

    Args:
        logs: Name -> log of each run.
        send: Sends a command.
        wake: Wakes the pump.
        view: Carries the picture to the page.
    """

    def __init__(self, logs: Mapping[str, RunLog], send: Send, wake: Callable[[], None], view: ChartView) -> None:
        self._send, self._page = send, view
        self.runs = [ChartRun(RunSeries(log)) for log in logs.values()]
        if len(logs) > 1:
            colours = theme.RUNS * len(logs)
            self.runs = [ChartRun(RunSeries(logs[name]), colours[i], name) for i, name in enumerate(logs)]
        self.series = self.runs[0].series
        self._figure = ChartFigure(self.runs)
        self._toolbar = ChartToolbar(send, wake, alone=len(logs) == 1)
        self._drawn: Any = None  # what the last frame was drawn from: the view and size, and the series' versions
        self._cost_s = self._next_frame = self._next_summary = 0.0
        self._summary = classed(widgets.HTML(), "babysit-alt-text")
        parts = [self._toolbar.widget, view.widget, self._summary]
        self.widget = classed(widgets.VBox(parts), "babysit-chart")

    # ------------------------------------------------------- called by the pump alone

    def refresh(self, at_once: bool = False, moved_s: float = 0.0) -> None:
        """Shows the present state; draws at once, or when a frame is due and the chart is in sight.

        Args:
            at_once: Whether to draw whatever the time.
            moved_s: The time at which the user moved a slider last.
        """
        page, view = self._page, replace(self._toolbar.view(self.series), zoom=self._page.zoom)
        for kind in self._toolbar.exports():
            file = ChartFigure(self.runs)
            file.draw(view, *FILE_SIZE)
            self._send("export", kind=f"chart.{kind}", content=file.file(kind))
        now = time.monotonic()
        wanted = view, page.width, page.ratio, len(self.series.lineage_entries())
        state = wanted, [run.series.version for run in self.runs]
        stale = state != self._drawn and page.is_ready and now >= self._next_frame
        asked = page.is_visible and (self._drawn is None or wanted != self._drawn[0])
        if at_once or ((stale or asked) and now >= moved_s + REST_S):
            before_s, began = self._cost_s, time.thread_time()
            self._figure.draw(view, page.width, min(max(round(0.6 * page.width), 380), 540), page.ratio)
            page.show(self._figure.frame())
            self._drawn, self._cost_s = state, time.thread_time() - began
            # A single slow frame, as the first one, which loads fonts, does not change the interval.
            self._next_frame = now + min(before_s, self._cost_s) / FRAME_SHARE
        if at_once or (page.is_visible and now >= self._next_summary):
            write(self._summary, value=f"<p>{html.escape(summary(self.series))}</p>")
            self._next_summary = now + SUMMARY_INTERVAL_S
