"""The frame of a chart: its panels on one figure, a background that is kept, and the curves drawn on it."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from babysit.ui import theme
from babysit.ui.labels import Annotations
from babysit.ui.panel import ChartPanel, Curve
from babysit.ui.ticks import clock, clock_locator, short_count

_WIDE_PX = 520
_TITLE_PX, _BOTTOM_PX, _TOP_PX = 22, 40, 2
_UNITS = {"step": "step", "epoch": "epoch", "time": "training time"}


class Frame:
    """The figure for pictures of one shape.

    Args:
        key: Width and height in pixels of the page, image pixels per pixel, and the names of
            the metrics and hyperparameters that have panels.
    """

    def __init__(self, key: tuple[int, int, float, tuple[str, ...], tuple[str, ...]]) -> None:
        width, height, ratio, metrics, hyperparameters = self.key = key
        self.content: Any = None  # what the background was drawn from
        self._wide = width >= _WIDE_PX
        self.left_px = 66 if self._wide else 58
        self.plot_px = width - self.left_px - (116 if self._wide else 98)
        self._drawn: list[Any] = []
        self._background: Any = None
        size = (width / 100, height / 100)
        self.figure = Figure(figsize=size, dpi=100 * ratio, facecolor=theme.PAPER)
        self._canvas = FigureCanvasAgg(self.figure)
        self.panels = [self._panel(*place) for place in _layout(height, metrics, hyperparameters)]
        self.panels[-1].axes.tick_params(labelbottom=True)
        self.annotations = Annotations(self.figure, self.panels, self.left_px, self.plot_px)

    def _panel(self, name: str, kind: str, top: float, size: float) -> ChartPanel:
        width, height = self.key[:2]
        box = (self.left_px / width, 1 - (top + size) / height, self.plot_px / width, size / height)
        return ChartPanel(self.figure, box, name, kind, size, 9 if self._wide else 8)

    def clear(self) -> None:
        """Removes what was drawn on the background."""
        for artist in self._drawn:
            artist.remove()
        self._drawn = []
        self.annotations.clear()

    def set_x(self, unit: str, limits: tuple[float, float]) -> None:
        """Sets the axis of all panels: `step`, `epoch` or `time`."""
        most = max(int(self.plot_px / 70), 2)
        for panel in self.panels:
            axis = panel.axes.xaxis
            panel.axes.set_xlim(*limits)
            if unit == "time":
                axis.set_major_locator(clock_locator(*limits, most))
            else:
                axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda x, _: clock(x) if unit == "time" else short_count(x)))
        self.panels[-1].axes.set_xlabel(_UNITS[unit], color=theme.FAINT, fontsize=9, labelpad=3)

    def draw_ghost(self, x: np.ndarray, y: np.ndarray, name: str) -> None:
        """Draws a branch that was abandoned, with its name where it ends."""
        axes, colour = self.panels[0].axes, theme.GHOST
        self._drawn += axes.plot(x, y, color=colour, linewidth=1.1, linestyle=(0, (1, 1.6)))
        self._drawn += axes.plot(x[:1], y[:1], color=theme.USER, marker="v", markersize=4.5, linestyle="")
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        inside = np.flatnonzero(np.isfinite(y) & (x >= left) & (x <= right) & (y >= low) & (y <= high))
        if len(inside):
            at = float(x[inside[-1]]), float(y[inside[-1]])
            shift, align = (-4, "right") if (at[0] - left) / (right - left) > 0.85 else (4, "left")
            self._write(name, at, colour, "data", shift, 1, align)

    def write_headline(self, text: str, colour: str) -> None:
        """Writes a text right of the first panel's title."""
        self._write(text, (1, 1), colour, "axes fraction", 0, 5, "right")

    def _write(self, text: str, at: Any, colour: str, unit: Any, right: float, up: float, align: str) -> None:
        style = {"color": colour, "fontsize": 8, "ha": align, "va": "bottom", "parse_math": False}
        place = {"xycoords": unit, "xytext": (right, up), "textcoords": "offset points"}
        self._drawn.append(self.panels[0].axes.annotate(text, at, **place, **style))

    def keep_background(self) -> None:
        """Draws everything but the curves, and keeps it."""
        use_one_font(self.figure)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)

    def draw_curves(self, curves: Sequence[list[Curve]]) -> None:
        """Draws the curves of each panel on the background."""
        self._canvas.restore_region(self._background)
        for panel, found in zip(self.panels, curves, strict=True):
            for artist in panel.move(found):
                panel.axes.draw_artist(artist)

    def encoded(self) -> bytes:
        """The picture as a PNG."""
        return encoded(self._canvas)


def encoded(canvas: Any) -> bytes:
    """The picture on a canvas as a PNG with transparent white, so that the page shows through."""
    file = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.save(file, "png", compress_level=1, transparency=(255, 255, 255))
    return file.getvalue()


def use_one_font(figure: Figure) -> None:
    """Sets all words of a figure in one font.

    `matplotlib.rc_context` would change the settings of every thread, and so the user's own figures.
    """
    for axes in figure.axes:  # makes the ticks, whose labels exist only then
        axes.get_xticklabels(), axes.get_yticklabels()
    for words in figure.findobj(Text):
        words.set(fontfamily="DejaVu Sans", usetex=False)


def _layout(
    height: int, metrics: tuple[str, ...], hyperparameters: tuple[str, ...]
) -> list[tuple[str, str, float, float]]:
    """Name, kind, upper edge and height of each panel, in pixels; the loss has the largest."""
    panels = [("loss", "loss", 4.0), *((n, "metric", 1.25) for n in metrics)]
    panels += [(n, "hyperparameter", 0.55) for n in hyperparameters]
    room = height - _TOP_PX - _BOTTOM_PX - _TITLE_PX * len(panels)
    share = max(room, 40) / sum(weight for _, _, weight in panels)
    places, top = [], float(_TOP_PX)
    for name, kind, weight in panels:
        top += _TITLE_PX
        places.append((name, kind, top, weight * share))
        top += weight * share
    return places
