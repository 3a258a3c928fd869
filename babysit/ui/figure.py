"""The chart: live curves of a run, drawn on a matplotlib figure of its own.

It is fed the rows of the record and asked for a picture; it knows no widget. What it
holds does not grow with the run, and it draws no more points than there are pixels. What
stands still between two frames (axes, grid, marks, words) is drawn once and kept; a frame
adds the curves to it, and limits move in jumps so that it seldom has to be drawn anew.

It belongs to one thread at a time.
"""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from babysit.ui import alt_text as words
from babysit.ui import theme
from babysit.ui.compared_run import Other
from babysit.ui.frame import Frame
from babysit.ui.panel import Curve, Panel
from babysit.ui.run_series import Course
from babysit.ui.series import HIGH, LOW, MEAN, SMOOTHED, STEP, reduced
from babysit.ui.ticks import clock, clock_ticks, count, linear_ticks, round_up
from babysit.ui.view import View

MAIN = ("learning_rate", "batch_size", "momentum", "beta_1")
GHOSTS = 12


class Curves:
    """A chart of one run.

    ```python
    curves = Curves()
    curves.add(tables)                                   # rows of the record, as `since` gives them
    curves.view = replace(curves.view, x="time")         # what to show
    png = curves.draw(width_px=740, height_px=460, ratio=2)
    ```
    """

    def __init__(self, view: View | None = None) -> None:
        self.view = view or View()
        self._smoothing = self.view.smoothing
        self._course = Course(self._smoothing)
        self._other = Other(self._smoothing)
        self._drawn: Any = None  # what the last picture was drawn from
        self._limits: tuple[float, float] | None = None  # of x
        self._frame: Frame | None = None

    def add(self, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Takes in new rows of the record, by table."""
        self._course.add(tables)

    # ------------------------------------------------------------------------- asking

    @property
    def columns(self) -> dict[str, list[str]]:
        """What `View.metrics` and `View.hyperparameters` may name, in a stable order."""
        return {"metrics": self._course.metrics, "hyperparameters": self._course.hyperparameters}

    @property
    def marks(self) -> list[int]:
        """The marks on the present line, by step: what `told` may be asked for."""
        return [mark.seq for mark in self._course.present_marks()]

    def told(self, mark: int) -> dict[str, Any]:
        """What was done at a mark, by whom, why, and the mean loss of the steps around; plain data.

        Raises:
            KeyError: If there is no such mark.
        """
        return self._course.marks[mark].told()

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics and hyperparameters that have a panel in the picture drawn last."""
        return (*self._frame.key[3], *self._frame.key[4]) if self._frame is not None else ()

    @property
    def limits(self) -> tuple[float, float] | None:
        """From where to where the axis of the picture drawn last went, in its own unit."""
        return self._limits

    def mark_at(self, x_pixel: float, y_pixel: float) -> int | None:
        """The mark at a place of the picture drawn last, or None.

        Args:
            x_pixel: From its left edge, in pixels of the page.
            y_pixel: From its upper edge.
        """
        return self._frame.labels.at(x_pixel, y_pixel) if self._frame is not None else None

    def summary(self) -> str:
        """What there is to see, in words."""
        return words.summary(self._course)

    @property
    def problem(self) -> str:
        """Why the other run is not shown; empty if it is."""
        return self._other.problem

    # ------------------------------------------------------------------------- drawing

    def draw(self, width_px: int, height_px: int, ratio: float = 1.0) -> bytes | None:
        """The chart as a PNG; None where nothing has changed since the last one.

        Args:
            width_px: In pixels of the page.
            height_px: Likewise.
            ratio: Image pixels a pixel of the page.
        """
        shape = (max(int(width_px), 200), max(int(height_px), 120), min(max(ratio, 0.5), 4.0))
        self._smooth()
        self._other.show(self.view.other)
        state = (shape, self.view, self._course.version, self._other.version)
        if state == self._drawn:
            return None
        view_stands = self._drawn is not None and self._drawn[1] == self.view
        frame = self._framed(shape)
        self._show(frame, keep_limits=view_stands)
        self._drawn = state
        return frame.encoded()

    def export(self, kind: str = "svg", width_px: int = 900, height_px: int = 540) -> bytes:
        """The chart as a file: `svg`, `pdf` or `png`."""
        drawn = Curves(self.view)
        drawn._course, drawn._other, drawn._limits = self._course, self._other, self._limits
        drawn.draw(width_px, height_px, 2.0)
        file = io.BytesIO()
        assert drawn._frame is not None
        drawn._frame.figure.savefig(file, format=kind, facecolor=drawn._frame.figure.get_facecolor())
        return file.getvalue()

    def _smooth(self) -> None:
        if self.view.smoothing != self._smoothing:
            self._smoothing = self.view.smoothing
            self._course.smooth(self._smoothing)
            self._other.smooth(self._smoothing)

    def _framed(self, shape: tuple[int, int, float]) -> Frame:
        """The figure for a picture of this shape; the last one if it will do."""
        metrics, hyperparameters = self._chosen_names(shape[1])
        key = (*shape, metrics, hyperparameters)
        if self._frame is None or self._frame.key != key:
            self._frame = Frame(key)
        return self._frame

    def _chosen_names(self, height_px: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        known, steered = self._course.metrics, self._course.hyperparameters
        metrics, hyperparameters = self.view.metrics, self.view.hyperparameters
        if metrics is None:
            metrics = tuple(known[: max((height_px - 220) // 160, 0)])
        if hyperparameters is None:
            main = [name for name in steered if name.rpartition(".")[2] in MAIN] or steered
            hyperparameters = tuple(main[: 3 if height_px >= 560 else int(height_px >= 300)])
        return tuple(n for n in metrics if n in known), tuple(n for n in hyperparameters if n in steered)

    def _show(self, frame: Frame, keep_limits: bool) -> None:
        if not keep_limits:
            for panel in frame.panels:
                panel.limits = None
        self._limits = self._wanted_x(keep_limits)
        curves = [self._curves_of(panel, frame.plot_px) for panel in frame.panels]
        scales = [
            panel.wanted(found, self._is_log(panel, found)) for panel, found in zip(frame.panels, curves, strict=True)
        ]
        still = (self._limits, scales, self._course.fixed_version, self.view, self._other.name)
        if still != frame.still:
            frame.still = still
            self._draw_background(frame, curves, scales)
        for panel, found in zip(frame.panels, curves, strict=True):
            panel.move(found, self._gap(found) if panel.kind == "loss" and self.view.gap else None)
        frame.draw_moving((still, self._course.slow_version, self._other.version))

    # ------------------------------------------------------------------------- what to show

    def _wanted_x(self, stands: bool) -> tuple[float, float]:
        """Limits of the axis, in its own unit, that move in jumps."""
        view, course = self.view, self._course
        if view.chosen is not None:
            return view.chosen
        if not view.follow and self._limits is not None and (stands or self._same_unit()):
            return self._limits
        axis, end = course.axis(view.x), course.steps()
        right = float(axis(end))
        if view.last is not None and end > view.last:
            span = view.last if view.x == "step" else round_up(max(right - float(axis(end - view.last)), 1e-9))
            jump = span / 10
            right = math.ceil(right / jump - 1e-9) * jump
            return right - span, right
        left = math.floor(float(axis(0)))
        least = {"step": 10, "epoch": 1, "time": 1}[view.x]
        return left, left + max(round_up(max(right - left, 1e-9)), least)

    def _same_unit(self) -> bool:
        return self._drawn is not None and self._drawn[1].x == self.view.x

    def _is_log(self, panel: Panel, curves: list[Curve]) -> bool:
        """The loss's axis is as it was chosen; another one logarithmic where it spans much."""
        if panel.kind == "loss":
            return self.view.log
        if panel.kind == "metric" and panel.name not in self._stepwise():
            return False
        values = np.concatenate([np.empty(0), *(curve.y[np.isfinite(curve.y)] for curve in curves)])
        return bool(values.size and values.min() > 0 and values.max() / values.min() > 4)

    def _stepwise(self) -> list[str]:
        """Metrics that have a value of their own each step, rather than a running one that an epoch ends."""
        line = [self._course.branches[part] for part in self._course.line()]
        ended = {name for branch in line for name in branch.epochs}
        return [name for name in self._course.metrics if name not in ended and any(name in b.measured for b in line)]

    def _curves_of(self, panel: Panel, pixels: int) -> list[Curve]:
        if panel.kind == "hyperparameter":
            return [self._steered(panel.name)]
        found = []
        if panel.kind == "loss" or panel.name in self._stepwise():
            found.append(self._smoothed(self._course, panel.name, pixels))
            if self._other.name:
                other = self._smoothed(self._other.course, panel.name, pixels)
                found.append(replace(other, role="other", band=None, label="other"))
        else:
            found.append(self._running(panel.name, pixels))
            found.append(self._by_epoch(self._course, panel.name, "train", "train"))
            if self._other.name:
                found.append(self._by_epoch(self._other.course, panel.name, "other", "other"))
        found.append(self._by_epoch(self._course, f"val_{panel.name}", "valid", "valid"))
        if self._other.name:
            found.append(self._by_epoch(self._other.course, f"val_{panel.name}", "other valid", None))
        return [curve for curve in found if len(curve.x)]

    def _thinned(self, course: Course, kind: str, name: str, pixels: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._limits is not None
        columns = course.along(kind, name, self._behind(course))
        return reduced(course.axis(self.view.x)(columns[STEP]), columns, *self._limits, pixels)

    def _behind(self, course: Course) -> float:
        """A step before which nothing is in sight, so that it need not be looked at."""
        return self._limits[0] - 1e4 if self.view.x == "step" and self._limits is not None else -math.inf

    def _smoothed(self, course: Course, name: str, pixels: int) -> Curve:
        x, columns = self._thinned(course, "measured", name, pixels)
        band = columns[[LOW, HIGH]] if self.view.band else None
        return Curve("train", x, columns[SMOOTHED], band, label="train" if name == "loss" else "")

    def _running(self, name: str, pixels: int) -> Curve:
        x, columns = self._thinned(self._course, "measured", name, pixels)
        return Curve("running", x, columns[MEAN])

    def _by_epoch(self, course: Course, name: str, role: str, label: str | None) -> Curve:
        x, columns = self._thinned(course, "epochs", name, 1000)
        return Curve(role, x, columns[MEAN], label=label)

    def _steered(self, name: str) -> Curve:
        """The values of a hyperparameter, the last one drawn out to the present step."""
        assert self._limits is not None
        course, axis = self._course, self._course.axis(self.view.x)
        columns = course.along("hyperparameters", name)
        x, values = reduced(axis(columns[STEP]), columns, *self._limits, 1000)
        if not len(x):
            return Curve("hyperparameter", x, values[MEAN], label="")
        end = float(axis(course.steps()))
        # What acts at the edges is told there: a value stands until the next one.
        x = np.append(x, max(end, x[-1])).clip(*self._limits)
        return Curve("hyperparameter", x, np.append(values[MEAN], values[MEAN, -1]), label="")

    def _gap(self, curves: list[Curve]) -> Curve | None:
        """Validation loss above the smoothed training loss, where both are known."""
        found = {curve.role: curve for curve in curves}
        if "train" not in found or "valid" not in found:
            return None
        train, valid = found["train"], found["valid"]
        known = np.isfinite(train.y)
        if not known.any():
            return None
        below = np.interp(valid.x, train.x[known], train.y[known])
        return Curve("gap", valid.x, valid.y - below, np.stack([below, valid.y]), label="gap")

    # ------------------------------------------------------------------------- what stands still

    def _draw_background(self, frame: Frame, curves: list[list[Curve]], scales: list[Any]) -> None:
        assert self._limits is not None
        frame.clear()
        for panel, found, (log, limits) in zip(frame.panels, curves, scales, strict=True):
            panel.set_limits(log, limits, _few_values(found[0].y) if panel.kind == "hyperparameter" else ())
            panel.axes.set_xlim(*self._limits)
        self._draw_x_axis(frame)
        if self.view.ghosts:
            self._draw_ghosts(frame)
        if self._other.name:
            frame.name_other(self._other.name)
        axis = self._course.axis(self.view.x)
        marks = self._course.present_marks() if self.view.marks else []
        places = axis(np.array([mark.step for mark in marks]))
        inside = [i for i, x in enumerate(places) if self._limits[0] <= x <= self._limits[1]]
        frame.labels.draw([marks[i] for i in inside], [float(places[i]) for i in inside], self.view.mark)
        frame.keep_background()

    def _draw_x_axis(self, frame: Frame) -> None:
        assert self._limits is not None
        most = max(int(frame.plot_px / 70), 2)
        if self.view.x == "time":
            ticks = [(value, clock(value)) for value in clock_ticks(*self._limits, most)]
        else:
            found = linear_ticks(*self._limits, most, whole=True)
            ticks = [(value, count(value)) for value in found]
        for panel in frame.panels:
            panel.axes.set_xticks([value for value, _ in ticks], [text for _, text in ticks])
        frame.panels[-1].axes.tick_params(labelbottom=True)
        unit = {"step": "step", "epoch": "epoch", "time": "training time"}[self.view.x]
        frame.panels[-1].axes.set_xlabel(unit, color=theme.FAINT, fontsize=9, labelpad=3)

    def _draw_ghosts(self, frame: Frame) -> None:
        """Branches that were abandoned, from where the present line left them."""
        assert self._limits is not None
        course, line = self._course, self._course.line()
        for name in list(course.branches)[-GHOSTS - len(line) :]:
            branch = course.branches[name]
            start, end = line.get(name, (branch.start, branch.start))
            trace = branch.measured.get("loss")
            if trace is None or name == course.branch:
                continue
            columns = trace.columns(max(start, end) - 1 if name in line else start)
            x, thin = reduced(course.axis(self.view.x, name)(columns[STEP]), columns, *self._limits, frame.plot_px)
            if len(x) > 1:
                frame.draw_ghost(x, thin[SMOOTHED], name)


def _few_values(values: np.ndarray) -> list[float]:
    """The values that a hyperparameter took, to be its ticks, if they are few."""
    found = sorted(set(values[np.isfinite(values)].tolist()))
    return found if len(found) <= 4 else []
