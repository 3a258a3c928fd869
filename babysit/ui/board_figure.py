"""The pictures of a search: the curves of all runs, and the lines from their hyperparameters to their results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patheffects import withStroke

from babysit.core.scale import Scale
from babysit.core.words import label, number
from babysit.ui import theme
from babysit.ui.figure import Curve, scale_y, write_at_right
from babysit.ui.trials_figure import new_axes, new_figure, png

POINTS, GREY_POINTS = 200, 5_000  # of a curve, and of all grey ones together
HEIGHT, TOP, BOTTOM = 300, 40, 40  # of a picture, and what is above and below the parallel axes, in pixels of the page
STOPS, TICKS = 41, 5  # at which a slider may stand on an axis without choices, and those in the picture, at most
NAMED = len(theme.RUNS)  # runs with a colour of their own
_GOOD = LinearSegmentedColormap.from_list("good", [theme.VALID, theme.TRAIN])
Colours = Mapping[str, str | None]


@dataclass(frozen=True)
class Axis:
    """One of the parallel axes.

    Attributes:
        title: What is on it.
        stops: Different values in words, about evenly spaced from its lower end to its upper one.
        at: Their places, from 0.0 to 1.0.
        places: Those of the runs; NaN where one has no value.
    """

    title: str
    stops: tuple[str, ...]
    at: np.ndarray
    places: np.ndarray


def parallel_axes(rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> tuple[list[Axis], np.ndarray]:
    """The axes of a search, and how good each run is, from 0.0 to 1.0, or NaN.

    There is an axis for each hyperparameter of the search, and one for the results once they differ.
    """
    values = {name: [row["hyperparameters"].get(name) for row in rows] for name in status["space"]}
    axes = [_axis(label(name), values[name], about) for name, about in status["space"].items()]
    best = [row["best"] for row in rows]
    low, high = (pick((one for one in best if one is not None), default=0.0) for pick in (min, max))
    if low == high:
        return axes, np.full(len(rows), np.nan)
    kind: Any = "log" if 0 < low < high / 4 and not status["highest"] else "linear"
    last = _axis(f"best {label(status['by'])}", best, asdict(Scale(low, high, kind)))
    return [*axes, last], last.places if status["highest"] else 1 - last.places


def _axis(title: str, values: Sequence[Any], about: Mapping[str, Any]) -> Axis:
    if choices := about.get("choices"):
        places = [choices.index(value) / (len(choices) - 1) if value in choices else np.nan for value in values]
        return Axis(title, tuple(map(number, choices)), np.linspace(0, 1, len(choices)), np.array(places))
    scale = Scale(**about)
    places = [np.nan if value is None else min(max(scale.position(value), 0), 1) for value in values]
    stops, words = _stops(scale)
    return Axis(title, words, np.array([scale.position(stop) for stop in stops]), np.array(places))


def _stops(scale: Scale) -> tuple[list[float], tuple[str, ...]]:
    """Values on a scale, and the shortest words that tell each from the others."""
    if scale.whole:
        grids: Any = (scale.grid(n).tolist() for n in range(STOPS, 1, -1))
        stops = next(grid for grid in grids if len(set(grid)) == len(grid))
        return stops, tuple(map(number, stops))
    stops = scale.grid(STOPS).tolist()
    for digits in range(2, 17):
        if scale.kind == "log of 1−β":
            words = [f"{1 - float(f'{1 - stop:.{digits}g}'):.12g}" for stop in stops]
        else:
            words = [f"{stop:.{digits + 1}g}" for stop in stops]
        if len(set(words)) == len(words):
            break
    return stops, tuple(words)


def draw_parallel(
    axes: Sequence[Axis], good: np.ndarray, names: Sequence[str], colours: Colours, width: int, ratio: float
) -> bytes:
    """A PNG with a line for each run through its places on all axes, from blue for the best to orange for the worst.

    Args:
        axes: The axes; each has an equal part of the width, and is in the middle of it.
        good: How good each run is, or NaN.
        names: Of the runs.
        colours: Run -> colour, of those that stand out; where there are any, the others are faint.
        width: Width in pixels of the page.
        ratio: Image pixels per pixel of the page.
    """
    figure = new_figure(width, HEIGHT, ratio)
    plane = figure.add_axes((0, BOTTOM / HEIGHT, 1, 1 - (TOP + BOTTOM) / HEIGHT), xlim=(0, len(axes)), ylim=(0, 1))
    plane.axis("off")
    x, places = np.arange(len(axes)) + 0.5, np.array([axis.places for axis in axes]).T
    for name, one, how_good in sorted(zip(names, places, good, strict=True), key=lambda one: one[0] in colours):
        own = colours.get(name)
        alpha = 1.0 if name in colours else 0.15 if colours else 0.7
        colour = own or (theme.GHOST if np.isnan(how_good) else _GOOD(how_good))
        line, dot = (2.2, 5) if own else (1.2, 3)
        plane.plot(x, one, ".-", color=colour, alpha=alpha, linewidth=line, markersize=dot, clip_on=False)
    style = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 7.5, "color": theme.FAINT}
    style |= {"path_effects": [withStroke(linewidth=2, foreground="white")], "parse_math": False}
    for i, axis in enumerate(axes):
        for stop in np.unique(np.linspace(0, len(axis.stops) - 1, TICKS).round().astype(int)):
            plane.annotate(axis.stops[stop], (i + 0.5, axis.at[stop]), (-7, 0), **style)
    return png(figure)


def draw_curves(
    rows: Mapping[str, Mapping[str, Any]],
    colours: Colours,
    status: Mapping[str, Any],
    width: int,
    ratio: float,
    zoom: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The curves of all runs as a frame of `ChartView`, thinned so that many cost no more than a few.

    Args:
        rows: Run -> what is known of it: its `values`, one an epoch.
        colours: Run -> colour, of those that have their name at their end, or None for dark; others are grey.
        status: What is compared, `by`, whether the `highest` is the best, and which run that is, the `best`.
        width: Width in pixels of the page.
        ratio: Image pixels per pixel of the page.
        zoom: The first and last epoch to be seen; None for all.
    """
    points = max(min(POINTS, GREY_POINTS // max(len(rows), 1)), 2)
    thinned = {name: _thinned(row["values"], POINTS if name in colours else points) for name, row in rows.items()}
    lines = {name: line for name, line in thinned.items() if len(line)}
    named = {name: colour for name, colour in colours.items() if colour and name in lines}
    words = [(lines[name][-1, 1], f"{name}  {lines[name][-1, 1]:.3g}", colour) for name, colour in named.items()]
    right = 12 + int(7.5 * max((len(text) for _, text, _ in words), default=1))
    axes = new_axes(label(status["by"]), width, ratio, right, HEIGHT)
    axes.set_xlabel("epoch", color=theme.FAINT, fontsize=9)
    for colour, alpha, group in (
        (theme.GHOST, 0.55, [line for name, line in lines.items() if name not in colours]),
        (theme.INK, 0.8, [line for name, line in lines.items() if name in colours and name not in named]),
    ):
        axes.add_collection(LineCollection(group, colors=colour, alpha=alpha, linewidths=0.9))
        axes.plot(*np.reshape([line[-1] for line in group], (-1, 2)).T, ".", color=colour, alpha=alpha, markersize=4)
    for name, colour in reversed(named.items()):
        axes.plot(*lines[name].T, color=colour, linewidth=2.4 if name == status["best"] else 1.7)
        axes.plot(*lines[name][-1], ".", color=colour, markersize=7)
    if lines:
        _limit(axes, np.concatenate(list(lines.values())), status["highest"])
    axes.set_xlim(zoom)
    write_at_right(axes, words)
    epochs = np.arange(1, max((line[-1, 0] for line in lines.values()), default=0) + 1)
    table = [np.interp(epochs, lines[name][:, 0], lines[name][:, 1], np.nan, np.nan) for name in named]
    left, low, wide, high = np.array(axes.bbox.bounds) / ratio
    frame = {"png": png(axes.figure), "size": (width, HEIGHT), "box": (left, HEIGHT - low - high, wide, high)}
    frame |= {"steps": epochs.astype("<f8").tobytes(), "table": np.array(table, "<f4").tobytes(), "unit": "epoch"}
    return frame | {"limits": axes.get_xlim(), "curves": [*named.items()], "marks": []}


def _thinned(values: Sequence[float], points: int) -> np.ndarray:
    """Points of a curve, one a row: those with a finite value, no more than so many, the last one among them."""
    line: np.ndarray = np.column_stack([1 + np.arange(len(values)), values]).astype(float)
    line = line[np.isfinite(line).all(axis=1)]
    return line if len(line) <= points else line[np.linspace(0, len(line) - 1, points).round().astype(int)]


def _limit(axes: Any, points: np.ndarray, highest: bool) -> None:
    """Chooses what of the plane is seen: all of it, but for losses far above nearly all others."""
    values = points[:, 1]
    top = values.max() if highest else min(values.max(), 5 * max(np.quantile(values, 0.9), 0)) or values.max()
    scale_y(axes, [Curve("", values[None, values <= top], 0, {})], log=not highest)
    axes.set_xlim(min(points[:, 0].min(), 1), max(points[:, 0].max(), 2))
    axes.autoscale_view(scalex=False)
    if top < values.max():
        low = values.min()
        axes.set_ylim(0.85 * low if axes.get_yscale() == "log" else low - 0.05 * (top - low), top)
