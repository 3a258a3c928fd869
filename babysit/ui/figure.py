"""The chart of one or several runs, drawn by matplotlib, for the screen and for files alike.

Each picture draws all curves anew, with no more points than pixels. It knows no widget.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from babysit.core.journal import Entry
from babysit.core.words import is_user, label, number
from babysit.ui import theme
from babysit.ui.run_series import RunSeries, words_of
from babysit.ui.series import HIGH, LOW, MEAN, SMOOTHED, STEP, reduced, with_smoothed

GHOSTS, MARKS = 12, 200  # the newest abandoned branches, and the newest changes that the page gets
_DOT = 8  # epochs have a dot each where they are so many pixels apart
_LEFT, _RIGHT, _BOTTOM, _TITLE = 70, 112, 40, 22  # pixels around the panels, and above each
_SHARES = {"loss": 4.0, "metric": 1.25, "hyperparameter": 0.7}
_LINE, _LETTER = 13, 7  # pixels of a line of words, and of a letter
_CELL, _NEAR = 4, sorted(range(-16, 17), key=abs)  # pixels of a cell, and how many cells above its end a name may be
_Box = tuple[int, int, int, int]  # left, low, right and high, in pixels from the lower left corner of a panel
_SHORT = {"learning_rate": "lr", "batch_size": "batch"}
_WORDS = {"rewind": "rewound", "edit": "edited", "nan": "not finite", "fail": "failed"}


@dataclass(frozen=True)
class View:
    """What a chart shows; `dataclasses.replace` makes another view.

    Attributes:
        smoothing: Weight of the past in the smoothed loss, from 0 to below 1.
        log: Whether the axis of the loss is logarithmic, if all of it is above 0.
        last: The number of last steps to show; None for all.
        zoom: The first and last step to show, whatever `last` says; None for no zoom.
        metric: The metric below the loss; empty for none.
        hyperparameter: The hyperparameter below it; empty for none.
    """

    smoothing: float = 0.97
    log: bool = True
    last: int | None = None
    zoom: tuple[float, float] | None = None
    metric: str = ""
    hyperparameter: str = ""


@dataclass(frozen=True)
class ChartRun:
    """A run in a chart.

    Attributes:
        series: What was measured.
        colour: Of its curves.
        name: Before the names of its curves; empty where it is the only run.
    """

    series: RunSeries
    colour: str = theme.TRAIN
    name: str = ""


@dataclass
class Curve:
    """One curve of a panel.

    Attributes:
        name: By which the page calls it; empty for one that it does not read.
        columns: Its values at growing steps.
        row: Which row of them is drawn.
        style: How its line is drawn.
        band: Whether the lowest and highest of each column are drawn as a band.
        word: Printed before its last value at the right edge; None for no last value.
    """

    name: str
    columns: np.ndarray
    row: int
    style: dict[str, Any]
    band: bool = False
    word: str | None = None


class ChartFigure:
    """A chart of the present state of runs; changes, abandoned branches and the band are those of the first.

    ```python
    chart = ChartFigure([ChartRun(series)])
    chart.draw(View(metric="accuracy"), width=740, height=460, ratio=2)
    frame, file = chart.frame(), chart.file("svg")
    ```

    Args:
        runs: The runs.
    """

    def __init__(self, runs: Sequence[ChartRun]) -> None:
        self.runs = list(runs)
        self._series = runs[0].series
        self._layout: Any = None  # what the axes were made for

    def draw(self, view: View, width: int, height: int, ratio: float = 1.0) -> None:
        """Draws all curves anew.

        Args:
            view: What to show.
            width: Width in pixels of the page.
            height: Height in pixels of the page.
            ratio: Image pixels per pixel of the page.
        """
        self._view, self.end = view, max(run.series.steps() for run in self.runs)
        self.limits = _limits(view, self.end)
        self._lay_out(width, height, ratio)
        self.curves: list[Curve] = []
        for axes, (name, kind) in zip(self.figure.axes, self._panels(), strict=True):
            self._draw_panel(axes, name, kind)
        if len(self.runs) > 1:
            key = "training solid, validation dotted"
            self.figure.axes[0].set_title(key, loc="right", y=1, fontsize=8, color=theme.FAINT)
        self.marks = [one for one in self._series.lineage_entries() if self.limits[0] <= one.step <= self.limits[1]]
        ghosts = self._draw_ghosts()
        self._name_ghosts(ghosts, self._draw_marks())

    # ------------------------------------------------------------------------- panels

    def _panels(self) -> list[tuple[str, str]]:
        panels = [("loss", "loss"), (self._view.metric, "metric"), (self._view.hyperparameter, "hyperparameter")]
        return [(name, kind) for name, kind in panels if name]

    def _lay_out(self, width: int, height: int, ratio: float) -> None:
        """Makes the axes, each below the one before, or empties them if they fit; the loss has the most room."""
        panels = self._panels()
        if self._layout != (layout := (width, height, ratio, panels)):
            self._layout, self._height, self._pixels = layout, height, width - _LEFT - _RIGHT
            self.figure: Any = Figure((width / 100, height / 100), dpi=100 * ratio, facecolor="none")
            FigureCanvasAgg(self.figure)
            room, bottom = height - _BOTTOM - _TITLE * len(panels), float(height)
            for name, kind in panels:
                high = max(room, 40) * _SHARES[kind] / sum(_SHARES[kind] for _, kind in panels)
                bottom -= _TITLE + high
                box = _LEFT / width, bottom / height, self._pixels / width, high / height
                style_axes(self.figure.add_axes(box, facecolor="none"), label(name))
            self.figure.axes[-1].tick_params(labelbottom=True)
            self.figure.axes[-1].set_xlabel("step", color=theme.FAINT, fontsize=9)
        for axes in self.figure.axes:
            for artist in (*axes.lines, *axes.collections, *axes.texts):
                artist.remove()

    def _draw_panel(self, axes: Any, name: str, kind: str) -> None:
        curves = [curve for curve in self._curves_of(name, kind) if curve.columns.shape[1]]
        axes.relim()
        axes.autoscale(True)
        axes.set_xlim(*self.limits)
        for curve in curves:
            draw_curve(axes, curve)
        scale_y(axes, curves, self._view.log if kind == "loss" else kind == "hyperparameter")
        axes.autoscale_view(scalex=False)
        self._write_last_values(axes, curves)
        self.curves += curves

    def _curves_of(self, name: str, kind: str) -> Iterator[Curve]:
        for run in self.runs:
            series, first, one = run.series.along(), run is self.runs[0], len(self.runs) == 1
            pre, word = f"{run.name} " if run.name else "", label(name)
            if kind == "hyperparameter":
                yield self._held(run, name, pre + word, theme.INK if len(self.runs) == 1 else run.colour)
                continue
            solid = {"color": run.colour, "linewidth": 1.8 if first else 1.4}
            train = self._visible(with_smoothed(series.measured(name), self._view.smoothing))
            ended, dots = self._visible(series.epochs(name)), self._visible(series.epochs(f"val_{name}"))
            if name == "loss" or not ended.shape[1]:
                shown = "train" if name == "loss" else word
                yield Curve(pre + shown, train, SMOOTHED, solid, band=one, word=shown)
            else:
                yield Curve("", train, MEAN, {**solid, "linewidth": 0.9, "alpha": 0.45})
                yield Curve(pre + word, ended, MEAN, solid, word="train")
            dashed = {"color": theme.VALID if one else run.colour, "linewidth": 1.5}
            dashed["linestyle"] = theme.DASHED if one else theme.DOTTED
            apart = np.diff(dots[STEP]).min(initial=np.inf) * self._pixels / (self.limits[1] - self.limits[0])
            dashed |= {"marker": "o", "markersize": 3} if apart >= _DOT else {}
            yield Curve(f"{pre}valid" if name == "loss" else f"{pre}valid {word}", dots, MEAN, dashed, word="valid")

    def _visible(self, columns: np.ndarray) -> np.ndarray:
        return reduced(columns, *self.limits, self._pixels)

    def _held(self, run: ChartRun, name: str, word: str, colour: str) -> Curve:
        """The values of a hyperparameter, of which each acts until the next; the last one up to the present step."""
        columns = run.series.along().hyperparameter(name)
        last = columns[:, -1:].copy()
        last[STEP] = run.series.steps()
        columns = self._visible(np.hstack([columns, last]))
        return Curve(word, columns, MEAN, {"color": colour, "linewidth": 1.5, "drawstyle": "steps-post"}, word="")

    def _write_last_values(self, axes: Any, curves: Sequence[Curve]) -> None:
        """Writes the last value of each curve right of the axes."""
        found = []
        for curve in (curve for curve in curves if curve.word is not None):
            if len(known := np.flatnonzero(np.isfinite(curve.columns[curve.row]))):
                last = curve.columns[curve.row, known[-1]]
                word = curve.word if len(self.runs) == 1 else ""
                text = number(last) if "drawstyle" in curve.style else f"{last:.3g}".replace("e+0", "e")
                found.append((last, f"{word} {text}".strip(), curve.style["color"]))
        write_at_right(axes, found)

    # ------------------------------------------------------------------------- what was done

    def _draw_ghosts(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Draws abandoned branches, each from where the present lineage left it; returns the name and line of each."""
        axes, series, drawn = self.figure.axes[0], self._series, []
        axes.autoscale(False)
        lineage = {part.branch: part.end for part in series.along().lineage}
        abandoned = [name for name in series.log.branches if name != series.branch]
        for name in abandoned[-GHOSTS - len(lineage) :]:
            columns = with_smoothed(series.along(name).measured("loss"), self._view.smoothing)
            left = lineage.get(name, series.log.branches[name].step)
            x, *_, y = self._visible(columns[:, columns[STEP] >= left])
            if len(x) > 1:
                axes.plot(x, y, color=theme.GHOST, linewidth=1.1, linestyle=theme.DOTTED)
                axes.plot(x[:1], y[:1], color=theme.USER, marker="v", markersize=4.5)
                drawn.append((name, x, y))
        return drawn

    def _name_ghosts(self, ghosts: Sequence[tuple[str, np.ndarray, np.ndarray]], words: Sequence[_Box]) -> None:
        """Writes the name of each abandoned branch beside its end, off all curves, lines and words; else nowhere."""
        if not ghosts:
            return
        axes, taken, high = self.figure.axes[0], self._taken(words), -(-_LINE // _CELL)
        for name, x, y in ghosts:
            cells = self._cells(x, y)
            inside = cells[(cells[:, 1] >= 0) & (cells[:, 1] < taken.shape[1])]
            long, ends = -(-_LETTER * len(name) // _CELL), inside[-1:].astype(int)
            spots = [(i, j - high // 2 + up) for end, j in ends for up in _NEAR for i in (end + 1, end - long - 1)]
            for left, low in spots:
                room = taken[left : left + long, low : low + high] if left >= 0 <= low else taken[:0]
                if room.shape == (long, high) and not room.any():
                    room[:] = True
                    place = np.array([left, low + high / 2]) * _CELL * self._layout[2] / axes.bbox.size
                    style = {"color": theme.GHOST, "fontsize": 8, "va": "center", "parse_math": False}
                    axes.text(*place, name, transform=axes.transAxes, **style)
                    break

    def _taken(self, words: Sequence[_Box]) -> np.ndarray:
        """Which cells of the loss panel are taken by curves, lines or words; the first index is that of the column."""
        axes = self.figure.axes[0]
        taken = np.zeros((axes.bbox.size / self._layout[2] / _CELL).astype(int), bool)
        for left, low, right, high in words:
            taken[left // _CELL : right // _CELL + 1, max(low // _CELL, 0) : high // _CELL + 1] = True
        for entry in (entry for entry in self.marks if is_user(entry.author)):
            at = int(self._cells(entry.step, 1)[0, 0])
            taken[at : at + 1] = True
        columns, rows = np.arange(taken.shape[0] + 1), np.arange(taken.shape[1]) + 0.5
        for line in axes.lines:
            if line.get_linestyle() != "None" and len(line.get_xdata()) > 1:
                x, y = self._cells(*line.get_data()).T
                at_edges = np.interp(columns, x, y, left=np.nan, right=np.nan)
                low, high = np.sort([at_edges[:-1], at_edges[1:]], axis=0)[..., None]
                taken |= (low - 1 < rows) & (rows < high + 1)
        return taken

    def _cells(self, x: Any, y: Any) -> np.ndarray:
        """Where points of the loss panel lie, in cells from its lower left corner."""
        axes = self.figure.axes[0]
        pixels = axes.transData.transform(np.column_stack([x, y])) - axes.bbox.p0
        return np.asarray(pixels / self._layout[2] / _CELL)

    def _draw_marks(self) -> list[_Box]:
        """Draws a line for each change by the user, a short one for each by others, and what the newest were."""
        steps = [entry.step for entry in self.marks if is_user(entry.author) and entry.action != "save"]
        for axes in self.figure.axes:
            upright = {"transform": axes.get_xaxis_transform()}
            axes.vlines(steps, 0, 1, colors=theme.USER, linewidth=1, alpha=0.8, **upright)
        axes = self.figure.axes[0]
        others = [entry.step for entry in self.marks if not is_user(entry.author)]
        upright = {"transform": axes.get_xaxis_transform()}
        axes.vlines(others, 0, 0.04, colors=theme.GHOST, linewidth=1, **upright)
        saved = [entry.step for entry in self.marks if entry.action == "save"]
        axes.plot(saved, [0] * len(saved), "D", color=theme.USER, markersize=4, clip_on=False, **upright)
        return self._write_labels(axes)

    def _write_labels(self, axes: Any) -> list[_Box]:
        """Writes beside each line what was done, from the newest on; where it has no room, nothing."""
        height, boxes, written = axes.get_position().height * self._height, [], set()
        rooms = [float(self._pixels)] * max(int(height / 2 / _LINE), 1)  # where the words of each row begin
        style: dict[str, Any] = {"transform": axes.transAxes, "parse_math": False, "fontsize": 8, "va": "top"}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        for entry in sorted((entry for entry in self.marks if is_user(entry.author)), key=lambda entry: -entry.step):
            at = (entry.step - self.limits[0]) / (self.limits[1] - self.limits[0]) * self._pixels
            colour = theme.ALARM if entry.action in ("nan", "fail") else theme.USER
            for line in _label_lines(entry):
                if (entry.step, line) in written:  # rewound there twice
                    continue
                written.add((entry.step, line))
                length = _LETTER * len(line) + 6
                left = at + length > self._pixels
                begin = at - length * left
                row = next((row for row, room in enumerate(rooms) if begin + length <= room), None)
                if row is not None and begin >= 0:
                    rooms[row] = begin
                    place = (at - 3 if left else at + 3) / self._pixels, 1 - (row * _LINE + 3) / height
                    axes.text(*place, line, color=colour, ha="right" if left else "left", **style)
                    top = int(height) - row * _LINE
                    boxes.append((int(begin), top - _LINE - 3, int(begin + length), top))
        return boxes

    # ------------------------------------------------------------------------- what it gives

    def file(self, kind: str) -> bytes:
        """The picture as `png` or `svg`, on white paper."""
        file = io.BytesIO()
        self.figure.savefig(file, format=kind, facecolor="white")
        return file.getvalue()

    def frame(self) -> dict[str, Any]:
        """The picture as the page shows it: a PNG without paper, where its panels are, and what is read off it.

        `table` has a row for each curve, of its value at each of `steps`: 32-bit floats, NaN where there is none;
        `steps` are 64-bit ones.
        """
        file = io.BytesIO()
        self.figure.canvas.print_png(file, pil_kwargs={"compress_level": 1})
        left, right = self.limits
        steps = np.unique(np.linspace(max(left, 0), min(right, self.end), self._pixels).round())
        read = [curve for curve in self.curves if curve.name]
        table = np.array([_values_at(curve, steps) for curve in read], "<f4")
        data = {"png": file.getvalue(), "steps": steps.astype("<f8").tobytes(), "table": table.tobytes()}
        about = {"size": self._layout[:2], "box": (_LEFT, _TITLE, self._pixels, self._height - _BOTTOM - _TITLE)}
        newest = self.marks[-MARKS:]
        marks = [_mark(*of) for of in zip(newest, self._series.losses(newest), strict=True)]
        curves = [(curve.name, curve.style["color"]) for curve in read]
        return data | about | {"limits": self.limits, "curves": curves, "marks": marks}


def _limits(view: View, end: int) -> tuple[float, float]:
    """The first and last step in sight."""
    if view.zoom is not None:
        return view.zoom
    return (end - view.last if view.last is not None and view.last < end else 0), max(end, 10)


def size_of(axes: Any) -> tuple[float, float]:
    """Width and height of axes, in pixels of the page."""
    width, height = axes.bbox.size / axes.figure.dpi * 100
    return float(width), float(height)


def style_axes(axes: Any, title: str) -> None:
    """Gives axes their title, grid and ticks; those of x are steps, without labels."""
    width, height = size_of(axes)
    axes.set_title(title, loc="left", y=1, fontsize=9, color=theme.INK, pad=5, parse_math=False)
    for axis in (axes.xaxis, axes.yaxis):  # titles and labels with a place of their own halve the time of a frame
        axis.set_label_coords(0.5, -23 / height)
    axes.grid(color=theme.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.AXIS)
    axes.tick_params(labelcolor=theme.FAINT, color=theme.AXIS, length=3, labelsize=9, labelbottom=False)
    axes.xaxis.set_major_locator(MaxNLocator(max(round(width) // 80, 2), integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def write_at_right(axes: Any, words: Sequence[tuple[float, str, str]]) -> None:
    """Writes words right of the axes, each at the height of a value and in a colour, without overlaps."""
    if not words:
        return
    (width, height), above = size_of(axes), np.inf
    places = axes.transAxes.inverted().transform(axes.transData.transform([(0, value) for value, _, _ in words]))[:, 1]
    found = zip(places.clip(0, 1).tolist(), words, strict=True)
    for i, (place, (_, text, colour)) in enumerate(sorted(found, reverse=True)):
        above = max(min(place, above - 15 / height), (len(words) - i - 1) * 15 / height)
        style = {"transform": axes.transAxes, "va": "center", "fontsize": 9, "color": colour, "parse_math": False}
        axes.text(1 + 6 / width, above, text, weight="bold" if " " in text else "normal", **style)


def draw_curve(axes: Any, curve: Curve) -> None:
    """Draws a curve over a band from the lowest to the highest of each column, without the rarest spikes."""
    columns = curve.columns
    if curve.band and np.isfinite(columns[LOW]).any():
        low, high = np.nanquantile(columns[LOW], 0.01), np.nanquantile(columns[HIGH], 0.99)
        band = columns[[LOW, HIGH]].clip(low, high)
        if np.any(band[1] > band[0]):
            axes.fill_between(columns[STEP], *band, color=curve.style["color"], alpha=0.22, linewidth=0)
        else:
            axes.plot(columns[STEP], band[0], color=curve.style["color"], alpha=0.3, linewidth=1)
    axes.plot(columns[STEP], columns[curve.row], **curve.style)


def scale_y(axes: Any, curves: Sequence[Curve], log: bool) -> None:
    """Chooses the scale of y, a logarithmic one only for what spans much, and its ticks."""
    values = np.concatenate([np.empty(0), *(curve.columns[curve.row] for curve in curves)])
    values = values[np.isfinite(values)]
    ticks = max(int(size_of(axes)[1] / 34), 3)
    if log and values.size and values.min() > 0 and values.max() > 4 * values.min():
        axes.set_yscale("log", nonpositive="mask")
        narrow = values.max() < 10 ** (ticks / 3) * values.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.minorticks_off()
    else:
        axes.set_yscale("linear")
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")


def _label_lines(entry: Entry) -> list[str]:
    changes = [
        f"{_SHORT.get(name, label(name))} {number(old)} → {number(new)}"
        for name, (old, new) in entry.changes.items()
        if old not in (None, new)
    ]
    words = [f"“{entry.why[:24]}”"] if entry.action == "note" else [_WORDS.get(entry.action, "")]
    return [*filter(None, words), *changes]


def _values_at(curve: Curve, steps: np.ndarray) -> np.ndarray:
    """The value of a curve at each of these steps, the last one known; NaN before the first."""
    at = np.searchsorted(curve.columns[STEP], steps, "right") - 1
    return np.where(at < 0, np.nan, curve.columns[curve.row, np.maximum(at, 0)])


def _mark(entry: Entry, losses: str) -> dict[str, Any]:
    """What the page says of an entry: what was done, why, by whom, and the losses before and after."""
    about = " · ".join(filter(None, [f"by {entry.author}", losses]))
    return {"seq": entry.seq, "step": entry.step, "words": words_of(entry), "about": about}
