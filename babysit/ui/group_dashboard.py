"""One dashboard for several runs: shared sliders and buttons, a status bar for each, their losses in one chart."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from babysit.ui.chart import FRAME_SHARE, FRAME_WAIT_S
from babysit.ui.dashboard import Dashboard, Run
from babysit.ui.header import StatusBar
from babysit.ui.overlay import COLOURS, Overlay
from babysit.ui.sliders import Sliders
from babysit.ui.widgets import classed


class GroupDashboard(Dashboard):
    """The screen of several runs that are steered as one.

    Args:
        run: The runs, as `babysit.Together`: each row has the number of its run as `run`, the table
            `answers` has an entry for each command, and `runs` of the status has the status of each.
        names: The names of the runs.
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._names = names
        super().__init__(run)

    def _build(self) -> None:
        self._chart = Overlay(len(self._names))
        self._image = widgets.Image(format="png", value=self._chart.png())
        self._image.layout.width = "100%"
        self._stale, self._next_frame = False, 0.0
        chart = classed(widgets.Box([self._image]), "babysit-chart")
        self._arrange(_StatusBars(len(self._names)), Sliders(self._send), chart, [])

    # ------------------------------------------------------- called by the pump alone

    def _add(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._chart.add({table: found for table, found in rows.items() if table != "answers"})
        self._stale = True
        for row in rows["branches"]:
            if row["run"] == 0:
                self._add_to_parts("branches", row)
        for row in rows["answers"]:
            self._add_to_parts("entries", row)
            self._refusal = str(row["why"]) if row["action"] == "refuse" else ""

    def _draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._stale and (at_once or (now >= self._next_frame and self._page.is_visible)):
            began = time.thread_time()
            self._image.value = self._chart.png()
            self._stale = False
            self._next_frame = now + min((time.thread_time() - began) / FRAME_SHARE, FRAME_WAIT_S)


class _StatusBars:
    """A status bar for each run, with a sign in the colour of its curves."""

    def __init__(self, runs: int) -> None:
        self._bars = [StatusBar() for _ in range(runs)]
        for i, (bar, colour) in enumerate(zip(self._bars, COLOURS * runs, strict=False)):
            sign = widgets.HTML(f'<span class="babysit-sign" style="color: {colour}">━━━</span>')
            children = [child for child in bar.widget.children if i == 0 or child is not bar.page]  # one title a page
            bar.widget.children = [sign, *children]
        self.widget = classed(widgets.VBox([bar.widget for bar in self._bars]), "babysit-status-bars")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the status of each run."""
        for bar, one in zip(self._bars, status["runs"], strict=True):
            bar.refresh(one)
