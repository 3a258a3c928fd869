"""The toolbar of the chart: what to show, in one line."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.core.words import label
from babysit.ui.figure import View
from babysit.ui.run_series import RunSeries
from babysit.ui.widgets import Send, classed, export_button, unlabelled, write

SMOOTHINGS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_RANGES = (("all", 0), *((f"last {n:,}", n) for n in (200, 1000, 10_000)))


class ChartToolbar:
    """What the user has chosen to see.

    Args:
        send: Sends a command.
        wake: Wakes the pump, to draw what has been chosen.
        alone: Whether it is of one run, which writes files.
    """

    def __init__(self, send: Send, wake: Callable[[], None], alone: bool = True) -> None:
        usual, self._wake = View(), wake
        self._exports: list[str] = []  # the kinds of pictures to write
        smoothings = [(f"{value:g}", value) for value in SMOOTHINGS]
        self._smoothing = widgets.SelectionSlider(options=smoothings, value=usual.smoothing, description="smoothing")
        self._log = widgets.Dropdown(options=[("log", True), ("linear", False)], value=usual.log, description="y")
        self._range = widgets.Dropdown(options=_RANGES, description="steps shown")
        self._metric = widgets.Dropdown(options=[("no metric", "")], description="metric")
        self._hyperparameter = widgets.Dropdown(options=[("no hyperparameter", "")], description="hyperparameter")
        menus = [self._metric, self._hyperparameter, self._range]
        for control in (self._smoothing, self._log, *menus):
            control.observe(lambda _: wake(), "value")
        files = [export_button(kind.upper(), partial(self._export, kind), "the chart") for kind in ("png", "svg")]
        files.append(export_button("CSV", lambda: send("export", kind="history"), "the measurements"))
        words = classed(widgets.HBox([classed(file, "babysit-word") for file in files]), "babysit-exports")
        line = [self._smoothing, self._log, *map(unlabelled, menus), *([words] if alone else [])]
        self.widget = classed(widgets.HBox(line), "babysit-bar")

    def _export(self, kind: str) -> None:
        self._exports.append(kind)
        self._wake()

    # ------------------------------------------------------- called by the pump alone

    def exports(self) -> list[str]:
        """The kinds of pictures to write, once."""
        exports, self._exports = self._exports, []
        return exports

    def view(self, series: RunSeries) -> View:
        """What to show now, of what there is."""
        _offer(self._metric, series.along().metrics)
        _offer(self._hyperparameter, series.along().hyperparameters)
        return View(
            smoothing=self._smoothing.value,
            log=self._log.value,
            last=self._range.value or None,
            metric=self._metric.value,
            hyperparameter=self._hyperparameter.value,
        )


def _offer(menu: Any, names: Sequence[str]) -> None:
    """Offers these names and nothing; the first of them is chosen as soon as there is one."""
    options = (*((label(name), name) for name in names), menu.options[-1])
    if options != menu.options:
        chosen = menu.value if len(menu.options) > 1 and menu.value in ("", *names) else options[0][1]
        write(menu, options=options, value=chosen)
