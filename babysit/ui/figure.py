"""The chart of a run: live curves on a matplotlib figure.

It is given the series of a run and asked for a picture; it knows no widget. It draws no more
points than there are pixels. Axes, grid, annotations and words are drawn once and kept; a
picture adds the curves to them, and limits move in steps, so that the background is seldom
drawn anew.

Only one thread may use it at a time.
"""

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np

from babysit.ui import theme
from babysit.ui.compared_run import ComparedRun, OpenRun
from babysit.ui.frame import Frame
from babysit.ui.panel import ChartPanel, Curve
from babysit.ui.run_series import RunSeries
from babysit.ui.series import HIGH, LOW, MEAN, SMOOTHED, STEP, reduced
from babysit.ui.ticks import round_up
from babysit.ui.view import View

MAIN = ("learning_rate", "batch_size", "momentum", "beta_1")
GHOSTS = 12


class ChartFigure:
    """A chart of one run.

    ```python
    chart = ChartFigure()
    chart.series.add(tables)                            # rows of the log, as `since` gives them
    chart.view = replace(chart.view, x="time")          # what to show
    png = chart.draw(width_px=740, height_px=460, ratio=2)
    ```

    Args:
        view: What to show.
        open_run: Opens the log of another run, to lay it over.
    """

    def __init__(self, view: View | None = None, open_run: OpenRun | None = None) -> None:
        self.view = view or View()
        self._smoothing = self.view.smoothing
        self.series = RunSeries(self._smoothing)
        self._compared = ComparedRun(self._smoothing, open_run)
        self._drawn: Any = None  # what the last picture was drawn from
        self._limits = (0.0, 1.0)  # of x
        self._frame: Frame | None = None

    # ------------------------------------------------------------------------- the last picture

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics and hyperparameters that have a panel in the last picture."""
        return (*self._frame.key[3], *self._frame.key[4]) if self._frame is not None else ()

    @property
    def limits(self) -> tuple[float, float] | None:
        """The limits of x in the last picture, in the unit of the axis."""
        return self._limits if self._drawn is not None else None

    @property
    def problem(self) -> str:
        """Why the other run is not shown; empty if it is."""
        return self._compared.problem

    def entry_at(self, x_pixel: float, y_pixel: float) -> int | None:
        """The `seq` of the entry annotated at a place of the last picture, or None.

        Args:
            x_pixel: From its left edge, in pixels of the page.
            y_pixel: From its upper edge.
        """
        return self._frame.annotations.at(x_pixel, y_pixel) if self._frame is not None else None

    # ------------------------------------------------------------------------- drawing

    def draw(self, width_px: int, height_px: int, ratio: float = 1.0) -> bytes | None:
        """The chart as a PNG; None if nothing has changed since the last one.

        Args:
            width_px: Width in pixels of the page.
            height_px: Height in pixels of the page.
            ratio: Image pixels per pixel of the page.
        """
        shape = (max(int(width_px), 200), max(int(height_px), 120), min(max(ratio, 0.5), 4.0))
        if self.view.smoothing != self._smoothing:
            self._smoothing = self.view.smoothing
            self.series.smooth(self._smoothing)
            self._compared.smooth(self._smoothing)
        self._compared.show(self.view.other)
        state = (shape, self.view, self.series.version, self._compared.version)
        if state == self._drawn:
            return None
        frame = self._frame_of(shape)
        self._draw_on(frame, same_view=self._drawn is not None and self._drawn[1] == self.view)
        self._drawn = state
        return frame.encoded()

    def export(self, kind: str = "svg", width_px: int = 900, height_px: int = 540) -> bytes:
        """The chart as a file: `svg`, `pdf` or `png`."""
        copy = ChartFigure(self.view)
        copy.series, copy._compared, copy._limits = self.series, self._compared, self._limits
        copy.draw(width_px, height_px, 2.0)
        file = io.BytesIO()
        assert copy._frame is not None
        copy._frame.figure.savefig(file, format=kind, facecolor=theme.PAPER)
        return file.getvalue()

    def _frame_of(self, shape: tuple[int, int, float]) -> Frame:
        """The frame for a picture of this shape; the last one if it fits."""
        key = (*shape, *self._panel_names(shape[1]))
        if self._frame is None or self._frame.key != key:
            self._frame = Frame(key)
        return self._frame

    def _panel_names(self, height_px: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        known, steered = self.series.metrics, self.series.hyperparameters
        metrics, hyperparameters = self.view.metrics, self.view.hyperparameters
        if metrics is None:
            metrics = tuple(known[: max((height_px - 220) // 160, 0)])
        if hyperparameters is None:
            main = [name for name in steered if name.rpartition(".")[2] in MAIN] or steered
            hyperparameters = tuple(main[: 3 if height_px >= 560 else int(height_px >= 300)])
        return tuple(n for n in metrics if n in known), tuple(n for n in hyperparameters if n in steered)

    def _draw_on(self, frame: Frame, same_view: bool) -> None:
        self._limits = self._wanted_x()
        curves = [self._curves_of(panel, frame.plot_px) for panel in frame.panels]
        scales = []
        for panel, found in zip(frame.panels, curves, strict=True):
            panel.limits = panel.limits if same_view else None
            scales.append(panel.wanted(found, self._is_log(panel, found)))
        content = (self._limits, scales, self.series.fixed_version, self.view, self._compared.name)
        if content != frame.content:
            frame.content = content
            self._draw_background(frame, scales)
        frame.draw_curves(curves)

    def _draw_background(self, frame: Frame, scales: list[Any]) -> None:
        frame.clear()
        for panel, (log, limits) in zip(frame.panels, scales, strict=True):
            panel.set_limits(log, limits)
        frame.set_x(self.view.x, self._limits)
        if self.view.ghosts:
            self._draw_ghosts(frame)
        if name := self._compared.name:
            frame.write_headline(f"other: {name if len(name) <= 40 else f'{name[:18]}…{name[-18:]}'}", theme.OTHER)
        entries = self.series.lineage_entries() if self.view.annotations else []
        places = self.series.axis(self.view.x)(np.array([entry.step for entry in entries])).tolist()
        inside = [i for i, x in enumerate(places) if self._limits[0] <= x <= self._limits[1]]
        frame.annotations.draw([entries[i] for i in inside], [places[i] for i in inside], self.view.entry)
        frame.keep_background()

    def _draw_ghosts(self, frame: Frame) -> None:
        """Draws abandoned branches, each from where the present lineage left it."""
        series, lineage = self.series, self.series.lineage()
        for name in list(series.branches)[-GHOSTS - len(lineage) :]:
            branch = series.branches[name]
            if "loss" not in branch.measured or name == series.branch:
                continue
            left = max(lineage[name]) - 1 if name in lineage else branch.start
            columns = branch.measured["loss"].columns(left)
            x, thin = reduced(series.axis(self.view.x, name)(columns[STEP]), columns, *self._limits, frame.plot_px)
            if len(x) > 1:
                frame.draw_ghost(x, thin[SMOOTHED], name)

    # ------------------------------------------------------------------------- axes

    def _wanted_x(self) -> tuple[float, float]:
        """Limits of x in the unit of the axis, which move in steps."""
        view, series = self.view, self.series
        if view.chosen is not None:
            return view.chosen
        axis, end = series.axis(view.x), series.steps()
        right = float(axis(end))
        if view.last is not None and end > view.last:
            span = view.last if view.x == "step" else round_up(max(right - float(axis(end - view.last)), 1e-9))
            jump = span / 10
            right = math.ceil(right / jump - 1e-9) * jump
            return right - span, right
        left = math.floor(float(axis(0)))
        least = {"step": 10, "epoch": 1, "time": 1}[view.x]
        return left, left + max(round_up(max(right - left, 1e-9)), least)

    def _is_log(self, panel: ChartPanel, curves: list[Curve]) -> bool:
        """The loss's axis is as chosen in the view; another one is logarithmic where it spans much."""
        if panel.kind == "loss":
            return self.view.log
        if panel.kind == "metric" and panel.name not in self._stepwise():
            return False
        values = np.concatenate([np.empty(0), *(curve.y[np.isfinite(curve.y)] for curve in curves)])
        return bool(values.size and values.min() > 0 and values.max() / values.min() > 4)

    # ------------------------------------------------------------------------- curves

    def _stepwise(self) -> list[str]:
        """Metrics with a value of their own each step, rather than a running one that an epoch ends."""
        lineage = [self.series.branches[part] for part in self.series.lineage()]
        ended = {name for branch in lineage for name in branch.epochs}
        return [name for name in self.series.metrics if name not in ended and any(name in b.measured for b in lineage)]

    def _curves_of(self, panel: ChartPanel, pixels: int) -> list[Curve]:
        name, series, other = panel.name, self.series, self._compared.series
        if panel.kind == "hyperparameter":
            return [self._steered(name)]
        if panel.kind == "loss" or name in self._stepwise():
            found = [self._smoothed(series, name, pixels)]
            others = [replace(self._smoothed(other, name, pixels), role="other", band=None, label="other")]
        else:
            running, columns = self._columns(series, "measured", name, pixels)
            found = [Curve("running", running, columns[MEAN]), self._by_epoch(series, name, "train", "train")]
            others = [self._by_epoch(other, name, "other", "other")]
        found.append(self._by_epoch(series, f"val_{name}", "valid", "valid"))
        others.append(self._by_epoch(other, f"val_{name}", "other valid", None))
        return [curve for curve in found + (others if self._compared.name else []) if len(curve.x)]

    def _columns(self, series: RunSeries, kind: str, name: str, pixels: int) -> tuple[np.ndarray, np.ndarray]:
        after = self._limits[0] - 1e4 if self.view.x == "step" else -math.inf  # nothing before that is in sight
        columns = series.along(kind, name, after)
        return reduced(series.axis(self.view.x)(columns[STEP]), columns, *self._limits, pixels)

    def _smoothed(self, series: RunSeries, name: str, pixels: int) -> Curve:
        x, columns = self._columns(series, "measured", name, pixels)
        band = columns[[LOW, HIGH]] if self.view.band else None
        return Curve("train", x, columns[SMOOTHED], band, label="train" if name == "loss" else "")

    def _by_epoch(self, series: RunSeries, name: str, role: str, label: str | None) -> Curve:
        x, columns = self._columns(series, "epochs", name, 1000)
        return Curve(role, x, columns[MEAN], label=label)

    def _steered(self, name: str) -> Curve:
        """The values of a hyperparameter, the last one extended to the present step."""
        axis = self.series.axis(self.view.x)
        columns = self.series.along("hyperparameters", name)
        x, values = reduced(axis(columns[STEP]), columns, *self._limits, 1000)
        if len(x):  # the values at the limits are those that act there: a value acts until the next one
            x = np.append(x, max(float(axis(self.series.steps())), x[-1])).clip(*self._limits)
            values = np.hstack([values, values[:, -1:]])
        return Curve("hyperparameter", x, values[MEAN], label="")
