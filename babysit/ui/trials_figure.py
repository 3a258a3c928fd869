"""The pictures of what was tried: the losses of the trials, and the loss at each learning rate."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from babysit.core.words import label
from babysit.ui import theme
from babysit.ui.figure import Curve, draw_curve, scale_y, size_of, style_axes, write_at_right
from babysit.ui.run_series import RunSeries
from babysit.ui.series import SMOOTHED, DecimatedSeries, reduced, with_smoothed

HEIGHT = 228  # of a picture, in pixels of the page
_LEFT, _BOTTOM, _TITLE, _LETTER, _MARGIN = 60, 40, 22, 7.5, 12
_RIGHT = 20  # of the picture of a range test
_SMOOTHED_SHARE = 20  # the loss of a trial is smoothed over this part of its steps


def colour(i: int) -> str:
    """The colour of the i-th trial; after the last colour they come again, dotted."""
    return theme.RUNS[i % len(theme.RUNS)]


def suggestion_colour(i: int) -> str:
    """The colour of the i-th suggestion of a range test, other than that of the loss."""
    return theme.RUNS[1:][i]


def draw_trials(series: RunSeries, result: Mapping[str, Any], width: int, ratio: float) -> bytes:
    """A PNG of the loss of each trial from the step at which they begin.

    Args:
        series: The run's branches.
        result: Of a fan or a cause, as in `Run.status`.
        width: Width in pixels of the page.
        ratio: Image pixels per pixel of the page.
    """
    trials, step, by = result["trials"], result["step"], result["by"]
    names = [textwrap.shorten(one["words"], int((width / 3 - _MARGIN) / _LETTER), placeholder=" …") for one in trials]
    axes = new_axes(label(by), width, ratio, _MARGIN + int(_LETTER * max(map(len, names))))
    steps = max(2, *(one["steps"] for one in trials))
    curves = []
    for i, trial in enumerate(trials):
        losses = series.log.column(by, series.log.lineage(trial["branch"]), step)[: trial["steps"]]
        taken = DecimatedSeries()
        taken.append(step + 1 + np.arange(len(losses)), losses)
        columns = with_smoothed(taken.columns(), 1 - 1 / max(steps / _SMOOTHED_SHARE, 1))
        columns = reduced(columns, step, step + steps, int(size_of(axes)[0]))
        style = {"color": colour(i), "linewidth": 1.6, "linestyle": theme.DOTTED if i >= len(theme.RUNS) else "-"}
        curves.append(Curve(names[i], columns, SMOOTHED, style))
        draw_curve(axes, curves[-1])
    axes.set_xlim(step, step + steps)
    axes.set_xlabel("step", color=theme.FAINT, fontsize=9)
    scale_y(axes, curves, log=True)
    axes.autoscale_view(scalex=False)
    write_at_right(axes, [last for curve in curves if (last := _last(curve))])
    return png(axes.figure)


def draw_range_test(result: Mapping[str, Any], width: int, ratio: float) -> bytes:
    """A PNG of the loss at each learning rate, with a dot for each suggestion; arguments as in `draw_trials`."""
    rates, losses, smoothed = (np.array(result[name], float) for name in ("rates", "losses", "smoothed"))
    axes = new_axes(label(result["by"]), width, ratio, _RIGHT)
    axes.plot(rates, losses, color=theme.TRAIN, linewidth=0.8, alpha=0.35)
    axes.plot(rates, smoothed, color=theme.TRAIN, linewidth=1.8)
    for i, rate in enumerate(result["suggestions"].values()):  # those at the same rate lie within one another
        at = np.interp(rate, rates, smoothed)
        axes.plot(rate, at, "o", color=suggestion_colour(i), markersize=10 - 1.8 * i, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(*rate_axis(result, width)["limits"])
    axes.xaxis.set_major_locator(LogLocator(numticks=max(int(size_of(axes)[0]) // 60, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel(label(result["name"]), color=theme.FAINT, fontsize=9, parse_math=False)
    scale_y(axes, [Curve("", smoothed[None], 0, {})], log=True)
    return png(axes.figure)


def rate_axis(result: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The axis of rates of that picture: what is on it, its ends as parts of the width, and the rates there."""
    rates = [*result["rates"], *result["suggestions"].values()]
    about = {"name": result["name"], "label": label(result["name"]), "ends": (_LEFT / width, 1 - _RIGHT / width)}
    return about | {"limits": (min(rates) / 1.2, max(rates) * 1.2)}


def new_figure(width: int, height: int, ratio: float) -> Any:
    """An empty picture without paper, of so many pixels of the page."""
    inches = width / 100 + 1e-9, height / 100 + 1e-9  # else older versions of matplotlib round a pixel away
    figure = Figure(inches, dpi=100 * ratio, facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def new_axes(title: str, width: int, ratio: float, right: int, height: int = HEIGHT) -> Any:
    """The axes of a picture of one panel, with so many pixels of the page right of them for words."""
    figure = new_figure(width, height, ratio)
    wide, high = width - _LEFT - right, height - _BOTTOM - _TITLE
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, wide / width, high / height), facecolor="none")
    style_axes(axes, title)
    axes.tick_params(labelbottom=True)
    return axes


def _last(curve: Curve) -> tuple[float, str, str] | None:
    """The last value of a curve, its name and its colour; None where it has none."""
    values = curve.columns[curve.row]
    known = values[np.isfinite(values)]
    return (float(known[-1]), curve.name, curve.style["color"]) if len(known) else None


def png(figure: Any) -> bytes:
    """The picture as the page shows it, without paper."""
    file = io.BytesIO()
    figure.canvas.print_png(file, pil_kwargs={"compress_level": 1})
    return file.getvalue()
