"""The chart on the page: its picture, the toolbar above, another run to compare with, and the same in words."""

import html
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from babysit.ui import theme
from babysit.ui.chart_toolbar import ChartToolbar
from babysit.ui.chart_view import ChartView
from babysit.ui.compared_run import ComparedRun, OpenRun
from babysit.ui.figure import ChartFigure, ChartRun
from babysit.ui.run_series import RunSeries
from babysit.ui.summary import summary
from babysit.ui.widgets import Send, classed, write

FRAME_SHARE = 0.05  # frames may cost this share of one core; dearer ones come less often
FRAME_WAIT_S = 5.0  # but at least so often: the first one loads fonts
SUMMARY_INTERVAL_S = 5.0
FILE_SIZE = 900, 540, 2.0


class Chart:
    """The curves of one run, or of several that are steered as one, as the user has chosen to see them.

    Args:
        send: Sends a command.
        wake: Wakes the pump.
        view: Carries the picture to the page.
        names: Of several runs; none for one run alone.
        open_run: Opens the log of another run, to lay it over.
    """

    def __init__(
        self,
        send: Send,
        wake: Callable[[], None],
        view: ChartView,
        names: Sequence[str] = (),
        open_run: OpenRun | None = None,
    ) -> None:
        self._send, self._page = send, view
        colours = theme.RUNS * len(names)
        runs = [ChartRun(RunSeries(), colours[i], colours[i], name) for i, name in enumerate(names)]
        self._runs = runs or [ChartRun(RunSeries())]
        self.series = self._runs[0].series
        self._figure = ChartFigure(self._runs)
        self._several = bool(names)
        self._compared = ComparedRun(open_run)
        self._toolbar = ChartToolbar(None if names else send, wake)
        self._drawn: Any = None  # what the last frame was drawn from: the view and size, and the series' versions
        self._next_frame = self._next_summary = 0.0
        self._summary = classed(widgets.HTML(), "babysit-alt-text")
        parts = [self._toolbar.widget, view.widget, self._summary, self._toolbar.below]
        self.widget = classed(widgets.VBox(parts), "babysit-chart")

    # ------------------------------------------------------- called by the pump alone

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Adds new rows of the log; `run` in each is the number of its run, where there are several."""
        for i, run in enumerate(self._runs):
            run.series.add({name: [row for row in rows if row.get("run", 0) == i] for name, rows in tables.items()})

    def refresh(self, at_once: bool = False) -> None:
        """Shows the present state; draws at once, or when a frame is due and the chart is in sight."""
        view = self._view()
        for kind in self._toolbar.exports():
            file = ChartFigure(self._figure.runs)
            file.draw(view, *FILE_SIZE)
            self._send("export", kind=f"chart.{kind}", content=file.file(kind))
        now, page = time.monotonic(), self._page
        wanted = view, page.width, page.ratio, len(self.series.lineage_entries())
        state = wanted, [run.series.version for run in self._figure.runs]
        stale = state != self._drawn and page.is_ready and now >= self._next_frame
        if at_once or stale or (page.is_visible and (self._drawn is None or wanted != self._drawn[0])):
            began = time.thread_time()
            height = min(max(round(0.6 * page.width), 380), 540)
            self._figure.draw(view, page.width, height, page.ratio)
            page.show(self._figure.frame())
            self._drawn = state
            self._next_frame = now + min((time.thread_time() - began) / FRAME_SHARE, FRAME_WAIT_S)
        if at_once or (page.is_visible and now >= self._next_summary):
            write(self._summary, value=f"<p>{html.escape(summary(self.series))}</p>")
            self._next_summary = now + SUMMARY_INTERVAL_S

    def _view(self) -> Any:
        """What to show: as chosen in the toolbar and on the page, with the other run, if there is one."""
        self._compared.show(self._toolbar.other)
        self._toolbar.complain(self._compared.problem)
        title = "training solid, validation dotted" if self._several else ""
        self._figure.runs = self._runs
        if name := self._compared.name:
            other = ChartRun(self._compared.series, theme.OTHER, theme.OTHER, "other")
            self._figure.runs, title = [*self._runs, other], f"other: {name}"
        return replace(self._toolbar.view(self.series), zoom=self._page.zoom, title=title)
