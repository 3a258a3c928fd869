"""The figure of the chart: its panels, the background that stands still, and a frame drawn upon it."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from babysit.ui import theme
from babysit.ui.image import png
from babysit.ui.labels import Labels
from babysit.ui.panel import Panel

WIDE_PX = 520
_GHOST_NAME = 0.66
_TITLE_PX, _BOTTOM_PX, _TOP_PX = 22, 40, 2


class Frame:
    """The figure for pictures of one shape, with its panels and the background that stands still.

    Args:
        key: Width and height in pixels of the page, image pixels a pixel, and the names of
            the metrics and hyperparameters that have panels.
    """

    def __init__(self, key: tuple[int, int, float, tuple[str, ...], tuple[str, ...]]) -> None:
        width, height, ratio, metrics, hyperparameters = self.key = key
        self.still: Any = None  # what the background was drawn from
        self._wide = width >= WIDE_PX
        self.left_px = 66 if self._wide else 58
        self.plot_px = width - self.left_px - (116 if self._wide else 98)
        self._drawn: list[Any] = []
        self._background: Any = None
        self._slow: Any = None
        self._half: Any = None  # the background, and what seldom changes
        size = (width / 100, height / 100)
        self.figure = Figure(figsize=size, dpi=100 * ratio, facecolor=theme.PAPER)
        self._canvas = FigureCanvasAgg(self.figure)
        self.panels = [self._panel(*place) for place in _places(height, metrics, hyperparameters)]
        self.labels = Labels(self.figure, self.panels, (self.left_px, self.plot_px))

    def _panel(self, name: str, kind: str, top: float, size: float) -> Panel:
        width, height = self.key[:2]
        box = (self.left_px / width, 1 - (top + size) / height, self.plot_px / width, size / height)
        return Panel(self.figure, box, name, kind, size, 9 if self._wide else 8)

    def clear(self) -> None:
        """Takes away what the background had drawn for it."""
        for artist in self._drawn:
            artist.remove()
        self._drawn = []
        self.labels.clear()

    def draw_ghost(self, x: np.ndarray, y: np.ndarray, name: str) -> None:
        """Draws a branch that was abandoned, with its name where it ends."""
        axes, colour = self.panels[0].axes, theme.GHOST
        self._drawn += axes.plot(x, y, color=colour, linewidth=1.1, linestyle=(0, (1, 1.6)))
        self._drawn += axes.plot(x[:1], y[:1], color=theme.HAND, marker="v", markersize=4.5, linestyle="")
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        inside = np.flatnonzero(np.isfinite(y) & (x >= left) & (x <= right) & (y >= low) & (y <= high))
        if len(inside):
            at = self._label_place(x[inside], y[inside])
            before = (at[0] - left) / (right - left) > 0.85
            style = {"color": colour, "fontsize": 8, "textcoords": "offset points", "va": "bottom", "parse_math": False}
            place = {"xytext": (-4 if before else 4, 1), "ha": "right" if before else "left"}
            self._drawn.append(axes.annotate(name, at, xycoords=("data", "axes fraction"), **place, **style))

    def _label_place(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Where a curve is at two thirds of the height: below the labels of marks and, mostly, above the curves."""
        axes = self.panels[0].axes
        scaled = axes.transScale.transform(np.column_stack([x, y]))
        height = axes.transLimits.transform(scaled)[:, 1]
        crossing = np.flatnonzero(np.diff(height > _GHOST_NAME))
        if not len(crossing):
            nearest = np.abs(height - _GHOST_NAME).argmin()
            return float(x[nearest]), float(height[nearest])
        ends = slice(crossing[0], crossing[0] + 2)
        order = np.argsort(height[ends])
        return float(np.interp(_GHOST_NAME, height[ends][order], x[ends][order])), _GHOST_NAME

    def name_other(self, name: str) -> None:
        """Says in the loss's headline which run is laid over."""
        name = name if len(name) <= 40 else f"{name[:18]}…{name[-18:]}"
        style = {"color": theme.OTHER, "fontsize": 8, "ha": "right", "va": "bottom", "parse_math": False}
        axes = self.panels[0].axes
        self._drawn.append(
            axes.annotate(
                f"other: {name}", (1, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", **style
            )
        )

    def keep_background(self) -> None:
        """Draws what stands still, and keeps it."""
        settle_type(self.figure)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)

    def draw_moving(self, slow: Any) -> None:
        """Adds the curves: those that seldom change, which are kept, and then the others.

        Args:
            slow: What the former depend on; they are drawn anew when it has become another.
        """
        artists = [(panel, *panel.artists()) for panel in self.panels]
        slow = (slow, [panel.told() for panel in self.panels])
        if slow != self._slow:
            self._canvas.restore_region(self._background)
            for panel, seldom, _ in artists:
                _draw(panel, seldom)
            self._slow, self._half = slow, self._canvas.copy_from_bbox(self.figure.bbox)
        self._canvas.restore_region(self._half)
        for panel, _, often in artists:
            _draw(panel, often)

    def encoded(self) -> bytes:
        """The picture as a PNG."""
        return png(np.asarray(self._canvas.buffer_rgba()))


def settle_type(figure: Figure) -> None:
    """Sets all words of a figure in one type, whatever the user's own settings are, which stay as they are.

    `matplotlib.rc_context` would change them for every thread, and so the user's figures too.
    """
    for words in figure.findobj(Text):
        words.set(fontfamily="DejaVu Sans", usetex=False)


def _draw(panel: Panel, artists: list[Any]) -> None:
    for artist in artists:
        panel.axes.draw_artist(artist)


def _places(
    height: int, metrics: tuple[str, ...], hyperparameters: tuple[str, ...]
) -> list[tuple[str, str, float, float]]:
    """Name, kind, upper edge and height of each panel, in pixels; the loss is the largest."""
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
