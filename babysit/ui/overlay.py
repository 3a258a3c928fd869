"""The losses of several runs in one chart, to be compared step by step.

It is fed the rows of their records, each with the number of its run, and asked for a
picture; it knows no widget. What it keeps of each run is bounded, as in `ui.course`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from babysit.ui import theme
from babysit.ui.frame import settle_type
from babysit.ui.image import png
from babysit.ui.labels import Labels
from babysit.ui.panel import DOTS, LABEL_PX, Curve, Panel, spread
from babysit.ui.run_series import Course
from babysit.ui.series import MEAN, SMOOTHED, STEP, reduced
from babysit.ui.ticks import count, figure, linear_ticks, round_up

# Told apart in print too: Okabe & Ito 2008, dark enough for a thin line on white.
COLOURS = ("#0072b2", "#c25100", "#007f5f", "#a3437b", "#424242", "#8a6d00")
SMOOTHING = 0.97
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _RATIO = 740, 460, 66, 74, 1.6
_TOP, _BETWEEN, _BOTTOM = 22, 26, 40
_DOTTED = (0, (1, 1.5))


class Overlay:
    """A chart of several runs: the loss above, the first metric that all have below.

    Solid lines are smoothed training losses, dotted ones what is measured on validation data.

    Args:
        runs: How many.
    """

    def __init__(self, runs: int) -> None:
        self._courses = [Course(SMOOTHING) for _ in range(runs)]
        self._lines: list[Any] = []
        self._start(())

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Takes in new rows of the records; `run` in each says of which."""
        for i, course in enumerate(self._courses):
            course.add({table: [row for row in rows if row["run"] == i] for table, rows in tables.items()})

    def png(self) -> bytes:
        """The chart as it is now, 740 by 460 pixels."""
        metrics = self._metrics()
        if metrics != self._shown:
            self._start(metrics)
        for line in self._lines:
            line.remove()
        self._lines = []
        self._labels.clear()
        end = max(max(course.steps() for course in self._courses), 10)
        self._set_x(round_up(end))
        for panel in self._panels:
            self._draw(panel)
        self._draw_changes()
        settle_type(self._figure)
        self._canvas.draw()
        return png(np.asarray(self._canvas.buffer_rgba()))

    def _draw_changes(self) -> None:
        """Says what was changed where the first run took it on, and shows on the other losses where they did."""
        changes = [[mark for mark in one.present_marks() if mark.action == "set"] for one in self._courses]
        self._labels.draw(changes[0], [mark.step for mark in changes[0]])
        style: dict[str, Any] = {"color": theme.HAND, "marker": "v", "markersize": 5, "linestyle": ""}
        for course, marks in zip(self._courses[1:], changes[1:], strict=True):
            columns = course.along("measured", "loss")
            if marks and columns.shape[1]:
                steps = [mark.step for mark in marks]
                self._lines += self._panels[0].axes.plot(
                    steps, np.interp(steps, columns[STEP], columns[SMOOTHED]), **style
                )

    def _metrics(self) -> tuple[str, ...]:
        shared = [name for name in self._courses[0].metrics if all(name in one.metrics for one in self._courses)]
        return tuple(shared[:1])

    def _start(self, metrics: tuple[str, ...]) -> None:
        """Makes a figure with a panel for the loss and one for each metric."""
        self._shown = metrics
        names = ("loss", *metrics)
        room = _HEIGHT - _TOP - _BOTTOM - _BETWEEN * len(metrics)
        weights = [2.0, *(1.0 for _ in metrics)]
        self._plot = _WIDTH - _LEFT - _RIGHT
        self._panels, top = [], float(_TOP)
        self._figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100 * _RATIO, facecolor=theme.PAPER)
        self._canvas: Any = FigureCanvasAgg(self._figure)
        for name, weight in zip(names, weights, strict=True):
            height = room * weight / sum(weights)
            box = (_LEFT / _WIDTH, 1 - (top + height) / _HEIGHT, self._plot / _WIDTH, height / _HEIGHT)
            kind = "loss" if name == "loss" else "metric"
            self._panels.append(Panel(self._figure, box, name, kind, height))
            top += height + _BETWEEN
        words: dict[str, Any] = {"color": theme.FAINT, "fontsize": 8, "textcoords": "offset points"}
        where: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 5), "ha": "right"}
        self._panels[0].axes.annotate("training solid, validation dotted", (1, 1), **where, **words)
        last = self._panels[-1].axes
        last.tick_params(labelbottom=True)
        last.set_xlabel("step", color=theme.FAINT, fontsize=9, labelpad=3)
        self._labels = Labels(self._figure, self._panels, (_LEFT, self._plot))

    def _set_x(self, right: float) -> None:
        self._right = right
        ticks = linear_ticks(0, right, int(self._plot / 70), whole=True)
        for panel in self._panels:
            panel.axes.set_xlim(0, right)
            panel.axes.set_xticks(ticks, [count(tick) for tick in ticks])

    def _draw(self, panel: Panel) -> None:
        """Draws the curves of all runs, and writes where they end."""
        curves = [self._curves(course, panel.name) for course in self._courses]
        found = [curve for pair in curves for curve in pair if len(curve.x)]
        panel.set_limits(*panel.wanted(found, panel.kind == "loss"))
        ends: dict[str, float] = {}
        for (train, valid), colour in zip(curves, COLOURS * len(curves), strict=False):
            dots = {"marker": "o", "markersize": 3} if len(valid.x) <= DOTS else {}
            self._lines += panel.axes.plot(train.x, train.y, color=colour, linewidth=1.8)
            self._lines += panel.axes.plot(valid.x, valid.y, color=colour, linewidth=1.2, linestyle=_DOTTED, **dots)
            shown = train if len(train.x) else valid
            known = shown.y[np.isfinite(shown.y)]
            if len(known):
                ends[colour] = float(known[-1])
        self._write(panel, ends)

    def _curves(self, course: Course, name: str) -> tuple[Curve, Curve]:
        """What was measured in training, of the loss alone each step, and on validation data."""
        columns = [
            course.along("measured" if name == "loss" else "epochs", name),
            course.along("epochs", f"val_{name}"),
        ]
        if name != "loss" and columns[1].shape[1]:
            columns[0] = columns[0][:, :0]  # one line a run is enough below
        row = SMOOTHED if name == "loss" else MEAN
        thin = [reduced(found[STEP], found, 0, self._right, self._plot) for found in columns]
        return Curve("train", thin[0][0], thin[0][1][row]), Curve("valid", thin[1][0], thin[1][1][MEAN])

    def _write(self, panel: Panel, ends: Mapping[str, float]) -> None:
        """Writes the last values at the right edge, none upon another."""
        scaled = panel.axes.transScale.transform([(0, value) for value in ends.values()] or np.empty((0, 2)))
        places = {
            colour: float(panel.axes.transLimits.transform(point)[1])
            for colour, point in zip(ends, scaled, strict=True)
        }
        for colour, place in spread(places, LABEL_PX / panel.height_px).items():
            style: dict[str, Any] = {"va": "center", "fontsize": 9, "weight": "bold", "transform": panel.axes.transAxes}
            self._lines.append(panel.axes.text(1.012, place, figure(ends[colour]), color=colour, **style))
