"""One dashboard for several runs: shared sliders and buttons, a status bar for each, their losses in one chart."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from babysit.ui import theme
from babysit.ui.chart import Chart
from babysit.ui.dashboard import Dashboard, Run
from babysit.ui.header import StatusBar
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
        self._chart = Chart(self._send, self._wake.set, self._page, self._names)
        self._arrange(_StatusBars(len(self._names)), self._chart.widget)

    # ------------------------------------------------------- called by the pump alone

    def _add(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._chart.add({table: found for table, found in rows.items() if table != "answers"})
        self._read([row for row in rows["entries"] if row["run"] == 0 and row["action"] == "fit"] + rows["answers"])

    def _draw(self, at_once: bool = False) -> None:
        self._attempt(self._chart.refresh, at_once)


class _StatusBars:
    """A status bar for each run, with a sign in the colour of its curves."""

    def __init__(self, runs: int) -> None:
        self._bars = [StatusBar() for _ in range(runs)]
        for i, (bar, colour) in enumerate(zip(self._bars, theme.RUNS * runs, strict=False)):
            sign = widgets.HTML(f'<span class="babysit-sign" style="color: {colour}">━━━</span>')
            children = [child for child in bar.widget.children if i == 0 or child is not bar.page]  # one title a page
            bar.widget.children = [sign, *children]
        self.widget = classed(widgets.VBox([bar.widget for bar in self._bars]), "babysit-status-bars")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the status of each run."""
        for bar, one in zip(self._bars, status["runs"], strict=True):
            bar.refresh(one)
