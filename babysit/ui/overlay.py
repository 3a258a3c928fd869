"""The losses of several runs in one chart, to be compared step by step."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from babysit.ui import theme
from babysit.ui.frame import Frame
from babysit.ui.panel import DOTS, LABEL_PX, ChartPanel, Curve, spread
from babysit.ui.run_series import RunSeries
from babysit.ui.series import MEAN, SMOOTHED, STEP, reduced
from babysit.ui.ticks import round_up, three_digits

# Distinct in print too: Okabe & Ito 2008, dark enough for a thin line on white.
COLOURS = ("#0072b2", "#c25100", "#007f5f", "#a3437b", "#424242", "#8a6d00")
SMOOTHING = 0.97
_DOTTED = (0, (1, 1.5))


class Overlay:
    """A chart of several runs: the loss above, the first metric that all have below.

    Solid lines are smoothed training losses, dotted ones are measured on validation data.

    Args:
        runs: The number of runs.
    """

    def __init__(self, runs: int) -> None:
        self._runs = [RunSeries(SMOOTHING) for _ in range(runs)]
        self._lines: list[Any] = []
        self._frame = Frame((740, 460, 1.6, (), ()))

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Adds new rows of the logs; `run` in each is the number of its run."""
        for i, series in enumerate(self._runs):
            series.add({table: [row for row in rows if row["run"] == i] for table, rows in tables.items()})

    def png(self) -> bytes:
        """The chart as it is now, 740 by 460 pixels."""
        metrics = tuple(name for name in self._runs[0].metrics if all(name in one.metrics for one in self._runs))[:1]
        if metrics != self._frame.key[3]:
            self._frame, self._lines = Frame((740, 460, 1.6, metrics, ())), []
        for line in self._lines:
            line.remove()
        self._lines = []
        self._frame.clear()
        self._right = round_up(max(max(series.steps() for series in self._runs), 10))
        self._frame.set_x("step", (0, self._right))
        for panel in self._frame.panels:
            self._draw(panel)
        self._draw_changes()
        self._frame.write_headline("training solid, validation dotted", theme.FAINT)
        self._frame.keep_background()
        return self._frame.encoded()

    def _draw_changes(self) -> None:
        """Annotates the changes of the first run, and marks those of the others on their losses."""
        changes = [[entry for entry in one.lineage_entries() if entry.action == "set"] for one in self._runs]
        self._frame.annotations.draw(changes[0], [entry.step for entry in changes[0]])
        style: dict[str, Any] = {"color": theme.USER, "marker": "v", "markersize": 5, "linestyle": ""}
        for series, entries in zip(self._runs[1:], changes[1:], strict=True):
            columns = series.along("measured", "loss")
            if entries and columns.shape[1]:
                steps = [entry.step for entry in entries]
                losses = np.interp(steps, columns[STEP], columns[SMOOTHED])
                self._lines += self._frame.panels[0].axes.plot(steps, losses, **style)

    def _draw(self, panel: ChartPanel) -> None:
        """Draws the curves of all runs, and writes their last values."""
        curves = [self._curves(series, panel.name) for series in self._runs]
        panel.set_limits(*panel.wanted([c for pair in curves for c in pair if len(c.x)], panel.kind == "loss"))
        last: dict[str, float] = {}
        for (train, valid), colour in zip(curves, COLOURS * len(curves), strict=False):
            dots = {"marker": "o", "markersize": 3} if len(valid.x) <= DOTS else {}
            self._lines += panel.axes.plot(train.x, train.y, color=colour, linewidth=1.8)
            self._lines += panel.axes.plot(valid.x, valid.y, color=colour, linewidth=1.2, linestyle=_DOTTED, **dots)
            shown = train if len(train.x) else valid
            if len(known := shown.y[np.isfinite(shown.y)]):
                last[colour] = float(known[-1])
        style: dict[str, Any] = {"va": "center", "fontsize": 9, "weight": "bold", "transform": panel.axes.transAxes}
        heights = {colour: panel.height_of(value) for colour, value in last.items()}
        for colour, height in spread(heights, LABEL_PX / panel.height_px).items():
            self._lines.append(panel.axes.text(1.012, height, three_digits(last[colour]), color=colour, **style))

    def _curves(self, series: RunSeries, name: str) -> tuple[Curve, Curve]:
        """The smoothed training loss, or a metric of each epoch, and the same on validation data."""
        train = series.along("measured" if name == "loss" else "epochs", name)
        valid = series.along("epochs", f"val_{name}")
        if name != "loss" and valid.shape[1]:
            train = train[:, :0]  # one line per run is enough for a metric
        (x, y), (x_valid, y_valid) = (
            reduced(found[STEP], found, 0, self._right, self._frame.plot_px) for found in (train, valid)
        )
        return Curve("train", x, y[SMOOTHED if name == "loss" else MEAN]), Curve("valid", x_valid, y_valid[MEAN])
