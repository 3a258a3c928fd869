"""The chart: live curves of loss and metrics, drawn on a matplotlib figure of its own.

It is fed the rows of the record and asked for a PNG; it knows no widget. What it holds
does not grow with the run: a trace keeps no more points than the chart has columns. What
stands still between two frames (axes, grid, words) is drawn once and kept; a frame adds
the curves to it, and limits move in jumps so that it seldom has to be drawn anew.
"""

import io
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from babysit.history import ROOT, decoded
from babysit.journal import number
from babysit.ui.trace import COLUMNS, Trace

TRAIN, VALID, HAND, GHOST, INK = "#1976d2", "#e65100", "#7b1fa2", "#9e9e9e", "#616161"
_SHORT = {"learning_rate": "lr", "batch_size": "batch", "beta_1": "beta 1"}


class Curves:
    """A chart of one run.

    Args:
        width: Of the figure, in inches at 100 pixels an inch.
        height: Likewise.
        sharpness: Image pixels a pixel of the page.
    """

    def __init__(self, width: float = 7.4, height: float = 4.6, sharpness: float = 1.6) -> None:
        self._traces: dict[str, Trace] = {ROOT: Trace(0)}
        self._parents: dict[str, tuple[str | None, int]] = {ROOT: (None, 0)}
        self._branch = ROOT
        self._epochs: list[dict[str, Any]] = []
        self._marks: list[tuple[str, int, dict[str, tuple[Any, Any]]]] = []
        with matplotlib.rc_context({"font.size": 9, "text.usetex": False, "axes.unicode_minus": False}):
            self._figure = Figure(figsize=(width, height), dpi=100 * sharpness)
            self._canvas = FigureCanvasAgg(self._figure)
            grid = {"height_ratios": [3, 1], "hspace": 0.1, "left": 0.1, "right": 0.845, "top": 0.985, "bottom": 0.095}
            self._loss, self._metric = self._figure.subplots(2, 1, sharex=True, gridspec_kw=grid)
        self._dress()
        self._moving = self._make_moving()
        self._still: list[Any] = []
        self._limits: tuple[Any, ...] = ()
        self._background: Any = None

    def add(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Takes in new rows of the record, by table."""
        everything = [(row["seq"], table, row) for table, found in rows.items() for row in found]
        for _, table, row in sorted(everything, key=lambda item: item[0]):
            self._take[table](self, row)

    def _take_block(self, row: Mapping[str, Any]) -> None:
        if "loss" in row["names"]:
            self._traces[row["branch"]].append(decoded(row)[row["names"].index("loss")])

    def _take_branch(self, row: Mapping[str, Any]) -> None:
        parent, step = row["parent"], row["step"]
        if parent is not None:
            self._traces[row["name"]] = Trace(step, average=self._average_at(parent, step))
            self._parents[row["name"]] = (parent, step)
        self._branch = row["name"]
        self._background = None

    def _average_at(self, branch: str | None, step: int) -> tuple[float, int]:
        while branch is not None and self._traces[branch].start >= step:
            branch = self._parents[branch][0]
        return self._traces[branch].average_at(step) if branch is not None else (0.0, 0)

    def _take_epoch(self, row: Mapping[str, Any]) -> None:
        self._epochs.append(dict(row))
        if len(self._epochs) > COLUMNS:
            del self._epochs[:-1:2]

    def _take_entry(self, row: Mapping[str, Any]) -> None:
        changes = {name: (old, new) for name, (old, new) in row["changes"].items() if old is not None}
        if changes or row["action"] == "rewind":
            self._marks.append((row["branch"], row["step"], changes))
            self._background = None

    _take = {
        "blocks": _take_block,
        "branches": _take_branch,
        "epochs": _take_epoch,
        "entries": _take_entry,
        "checkpoints": lambda self, row: None,
    }

    # ------------------------------------------------------------------ what there is to see

    def _line(self) -> dict[str, float]:
        """The present line of training: branch -> the step at which it was left, or infinity."""
        line: dict[str, float] = {}
        name: str | None = self._branch
        end = math.inf
        while name is not None:
            line[name] = end
            name, end = self._parents[name]
        return dict(reversed(line.items()))

    def _points(self) -> np.ndarray:
        return np.hstack([self._traces[branch].points(end) for branch, end in self._line().items()])

    def _epoch_values(self, name: str) -> tuple[list[int], list[float]]:
        line = self._line()
        rows = [row for row in self._epochs if row["step"] <= line.get(row["branch"], 0)]
        rows = [row for row in rows if isinstance(row["logs"].get(name), int | float)]
        return [row["step"] for row in rows], [row["logs"][name] for row in rows]

    def _metric_names(self) -> list[str]:
        logs = self._epochs[-1]["logs"] if self._epochs else {}
        names = [name for name, value in logs.items() if isinstance(value, int | float)]
        return [name for name in names if name != "loss" and not name.startswith("val_")]

    # ------------------------------------------------------------------------- drawing

    def png(self) -> bytes:
        """The chart as it is now."""
        points = self._points()
        limits = self._wanted_limits(points)
        if self._background is None or limits != self._limits:
            self._limits = limits
            self._draw_background()
        self._canvas.restore_region(self._background)
        self._move(points)
        for artist in self._moving.values():
            artist.axes.draw_artist(artist)
        return self._encoded()

    def _encoded(self) -> bytes:
        file = io.BytesIO()
        pixels = self._canvas.buffer_rgba()
        image = Image.frombuffer("RGBA", (pixels.shape[1], pixels.shape[0]), pixels, "raw", "RGBA", 0, 1)
        # Run lengths alone: the smallest and the quickest for flat colours.
        image.convert("RGB").save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return file.getvalue()

    def _dress(self) -> None:
        for axes in (self._loss, self._metric):
            axes.grid(color="#ececec", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color("#bdbdbd")
            axes.tick_params(colors=INK, which="both", length=3, color="#bdbdbd")
        self._loss.set_ylabel("loss", color=INK)
        self._metric.set_xlabel("step", color=INK)
        self._loss.tick_params(labelbottom=False)
        self._metric.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        self._metric.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        self._metric.yaxis.set_major_locator(MaxNLocator(3))
        self._figure.align_ylabels()

    def _wanted_limits(self, points: np.ndarray) -> tuple[Any, ...]:
        """Limits that hold everything and stay as they are while that is so."""
        right = _round_up(max(points[0, -1] if points.size else 0, 10))
        losses = np.concatenate([points[1], points[2], self._epoch_values("val_loss")[1]])
        losses = losses[np.isfinite(losses)]
        if not losses.size:
            return right, 0.0, 1.0, False, self._metric_limits()
        low, high = losses.min(), losses.max()
        if low > 0:
            # Eight decades tell more than all of them when a loss has run away.
            low = max(low, high / 1e8)
            return right, _round_log(low * 0.999, down=True), _round_log(high * 1.001), True, self._metric_limits()
        return right, *_round_both(low, high), False, self._metric_limits()

    def _metric_limits(self) -> tuple[float, float]:
        values = [
            v for name in self._metric_names()[:1] for key in (name, f"val_{name}") for v in self._epoch_values(key)[1]
        ]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return 0.0, 1.0
        return _round_both(min(values), max(values))

    def _draw_background(self) -> None:
        right, low, high, logarithmic, metric = self._limits
        self._loss.set_xlim(0, right)
        if logarithmic:
            self._loss.set_yscale("log")
            self._loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
            self._loss.yaxis.set_minor_formatter(NullFormatter())
        else:
            self._loss.set_yscale("linear")
        # Plain words, no mathematical text: matplotlib's is not made for several threads.
        self._loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        self._loss.set_ylim(low, high)
        margin = 0.06 * (metric[1] - metric[0])
        self._metric.set_ylim(metric[0] - margin, metric[1] + margin)
        self._metric.set_ylabel(next(iter(self._metric_names()), "metric"), color=INK)
        for artist in self._still:
            artist.remove()
        self._still = [*self._ghosts(), *self._mark_lines(), *self._mark_labels(right)]
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def _ghosts(self) -> list[Any]:
        """What was abandoned."""
        line, ghosts = self._line(), []
        for name, trace in list(self._traces.items())[-12:]:
            points = trace.points()
            points = points[:, points[0] > line.get(name, trace.start)]
            ghosts += self._loss.plot(points[0], points[3], color=GHOST, linewidth=1, linestyle=":")
        return ghosts

    def _present_marks(self) -> list[tuple[int, dict[str, tuple[Any, Any]]]]:
        line = self._line()
        return [(step, changes) for branch, step, changes in self._marks if step <= line.get(branch, -1)][-200:]

    def _mark_lines(self) -> list[Any]:
        steps = sorted({step for step, _ in self._present_marks()})
        style = {"colors": HAND, "linewidth": 0.9, "alpha": 0.85}
        return [
            axes.vlines(steps, 0, 1, transform=axes.get_xaxis_transform(), **style)
            for axes in (self._loss, self._metric)
        ]

    def _mark_labels(self, right: float) -> list[Any]:
        """A label for each change, one for several that stand close; left out where there is no room."""
        labels, ends = [], [-math.inf] * 8  # where the last label of each row ends
        for step, changes in _clusters(self._present_marks(), within=0.04 * right):
            words = [f"{_SHORT.get(name, name)} {number(old)} → {number(new)}" for name, (old, new) in changes.items()]
            words = words or ["rewound"]
            length = 0.0125 * right * max(map(len, words))
            rows = len(words)
            row = next((i for i in range(len(ends) + 1 - rows) if max(ends[i : i + rows]) <= step), None)
            if row is not None and step + length < right * 1.15:
                ends[row : row + rows] = [step + length] * rows
                place = {"xycoords": ("data", "axes fraction"), "xytext": (3, -2), "textcoords": "offset points"}
                paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
                style = {"va": "top", "color": HAND, "fontsize": 8, "annotation_clip": False, "bbox": paper}
                labels.append(self._loss.annotate("\n".join(words), (step, 1 - 0.045 * row), **place, **style))
        return labels

    def _make_moving(self) -> dict[str, Any]:
        """The artists that a frame adds to the background, by name, in the order of drawing."""
        loss, metric = self._loss, self._metric
        valid = {"color": VALID, "linewidth": 1.4, "linestyle": "--", "animated": True}
        train = {"color": TRAIN, "linewidth": 1.4, "animated": True}
        word = {"va": "center", "weight": "bold", "animated": True, "clip_on": False}
        return {
            "band": loss.plot([], [], color=TRAIN, alpha=0.2, linewidth=1, animated=True)[0],
            "loss": loss.plot([], [], color=TRAIN, linewidth=1.8, animated=True)[0],
            "val_loss": loss.plot([], [], **valid)[0],
            "metric": metric.plot([], [], **train)[0],
            "val_metric": metric.plot([], [], **valid)[0],
            **{
                f"{name} label": axes.text(1.012, 0, "", transform=axes.transAxes, color=colour, **word)
                for axes, name, colour in (
                    (loss, "loss", TRAIN),
                    (loss, "val_loss", VALID),
                    (metric, "metric", TRAIN),
                    (metric, "val_metric", VALID),
                )
            },
        }

    def _move(self, points: np.ndarray) -> None:
        """Brings those artists to where they belong now."""
        steps, low, high, smoothed = points
        # Up and down a column at a time, as an oscilloscope does: a band as soon as it is dense.
        self._moving["band"].set_data(np.repeat(steps, 2), np.stack([low, high], axis=1).ravel())
        self._moving["loss"].set_data(steps, smoothed)
        metric = next(iter(self._metric_names()), "")
        for artist, name in (("val_loss", "val_loss"), ("metric", metric), ("val_metric", f"val_{metric}")):
            self._moving[artist].set_data(*self._epoch_values(name))
        self._label(self._loss, "loss", "val_loss")
        self._label(self._metric, "metric", "val_metric")

    def _label(self, axes: Any, train: str, valid: str) -> None:
        """Writes the last value of each curve beside the chart, at its height, none upon another."""
        values = {name: self._moving[name].get_ydata() for name in (train, valid)}
        last = {name: float(found[-1]) if len(found) else math.nan for name, found in values.items()}
        place, gap = (axes.transData + axes.transAxes.inverted(), 13 / (axes.bbox.height / self._figure.dpi * 72))
        above = math.inf
        for name in sorted(last, key=lambda name: (math.isnan(last[name]), -last[name])):
            shown = math.isfinite(last[name])
            self._moving[f"{name} label"].set_text(
                f"{'valid' if name == valid else 'train'} {last[name]:#.3g}" if shown else ""
            )
            if shown:
                above = min(float(place.transform((0, last[name]))[1]), 1.0, above - gap)
                self._moving[f"{name} label"].set_y(above)


def _clusters(
    marks: list[tuple[int, dict[str, tuple[Any, Any]]]], within: float
) -> list[tuple[int, dict[str, tuple[Any, Any]]]]:
    """Marks, those no further apart than `within` made one: from the first old value to the last new.

    What was undone within one, by a rewind say, is not told.
    """
    clusters: list[tuple[int, dict[str, tuple[Any, Any]]]] = []
    for step, changes in marks:
        if clusters and changes and 0 <= step - clusters[-1][0] <= within:
            merged = clusters[-1][1]
            merged.update({name: (merged.get(name, change)[0], change[1]) for name, change in changes.items()})
        else:
            clusters.append((step, dict(changes)))
    return [(step, {n: (old, new) for n, (old, new) in found.items() if old != new}) for step, found in clusters]


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 a decade."""
    decade = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(step * decade for step in steps if step * decade >= value)


def _round_both(low: float, high: float) -> tuple[float, float]:
    """Limits around two values, whole multiples of a power of ten, and never the same."""
    step = 10.0 ** math.floor(math.log10(high - low)) if high > low else abs(high) / 10 or 1.0
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return (low, high) if high > low else (low - step, high + step)


def _round_log(value: float, down: bool = False) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7 a decade, upwards or downwards."""
    decade = 10.0 ** math.floor(math.log10(value))
    steps = [step * decade for step in (1, 1.5, 2, 3, 5, 7, 10)]
    return max(step for step in steps if step <= value) if down else min(step for step in steps if step >= value)
