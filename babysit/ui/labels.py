"""The labels of marks on the chart: placed where there is room, and found again under a pointer."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from babysit.ui import theme
from babysit.ui.marks import Mark, clusters, label
from babysit.ui.panel import Panel

REACH_PX = 6  # how near a pointer must be to a mark
_LINE_PX, _TOP_PX = 13, 3


class Labels:
    """Lines and labels of marks, over all panels of a figure.

    Args:
        figure: To draw on.
        panels: The loss's first, for the labels.
        places: Left edge and width of the axes, in pixels of the page.
    """

    def __init__(self, figure: Figure, panels: Sequence[Panel], places: tuple[int, int]) -> None:
        self._figure, self._panels = figure, panels
        self._left, self._plot = places
        self._artists: list[Any] = []
        self._at: list[tuple[float, int]] = []  # x in pixels of the page, mark
        self._boxes: list[tuple[float, float, float, float, int]] = []
        self._font = FontProperties(family="DejaVu Sans", size=8)

    def clear(self) -> None:
        """Takes all of them away."""
        for artist in self._artists:
            artist.remove()
        self._artists, self._at, self._boxes = [], [], []

    def draw(self, marks: Sequence[Mark], places: Sequence[float], chosen: int | None = None) -> None:
        """Draws marks, by step, at these values of x; the one chosen stands out."""
        left, right = self._panels[0].axes.get_xlim()
        pixels = [self._left + (x - left) / (right - left) * self._plot for x in places]
        self._at = [(pixel, mark.seq) for pixel, mark in zip(pixels, marks, strict=True)]
        lines = [(x, mark) for x, mark in zip(places, marks, strict=True) if mark.action != "save"]
        saved = [x for x, mark in zip(places, marks, strict=True) if mark.action == "save"]
        for panel in self._panels:
            style = {"colors": theme.HAND, "linewidth": 1, "alpha": 0.8}
            self._draw_lines(panel, {x for x, mark in lines if mark.by_hand}, 1, style)
            wide = {"colors": theme.HAND, "linewidth": 7, "alpha": 0.25}
            self._draw_lines(panel, {x for x, mark in zip(places, marks, strict=True) if mark.seq == chosen}, 1, wide)
        # A schedule may act every epoch: small ticks, and no words.
        style = {"colors": theme.GHOST, "linewidth": 1}
        self._draw_lines(self._panels[0], {x for x, mark in lines if not mark.by_hand}, 0.04, style)
        if saved:
            axes = self._panels[0].axes
            style = {"color": theme.HAND, "marker": "D", "markersize": 4, "linestyle": "", "clip_on": False}
            self._artists += axes.plot(saved, [0] * len(saved), transform=axes.get_xaxis_transform(), **style)
        told = [(mark, pixel) for mark, pixel in zip(marks, pixels, strict=True) if mark.by_hand]
        self._draw_labels([mark for mark, _ in told], [pixel for _, pixel in told])

    def _draw_lines(self, panel: Panel, places: set[float], height: float, style: dict[str, Any]) -> None:
        if places:
            transform = panel.axes.get_xaxis_transform()
            self._artists.append(panel.axes.vlines(sorted(places), 0, height, transform=transform, snap=True, **style))

    def _draw_labels(self, marks: Sequence[Mark], pixels: Sequence[float]) -> None:
        """A label for each mark, one for several that stand close; left out where there is no room."""
        wide = self._plot > 360
        rows = max(int(self._panels[0].height_px * (0.5 if wide else 0.25) / _LINE_PX), 1)
        ends = [-math.inf] * rows  # where the last label of each row ends
        for pixel, found in clusters(marks, pixels, within=28):
            lines = label(found, 3 if wide else 1)[:rows]
            if not lines:
                continue
            length = max(self._length(line) for line in lines) + 6
            leftward = pixel + length > self._left + self._plot + 4
            start = pixel - length if leftward else pixel
            free = [i for i in range(rows + 1 - len(lines)) if max(ends[i : i + len(lines)]) <= start]
            if free and start > self._left:
                row = free[0]
                ends[row : row + len(lines)] = [max(start + length, pixel)] * len(lines)
                self._write(lines, found, (pixel, start, length, row), leftward)

    def _write(
        self, lines: list[str], marks: list[Mark], place: tuple[float, float, float, int], leftward: bool
    ) -> None:
        pixel, start, length, row = place
        panel = self._panels[0]
        x = (pixel - self._left) / self._plot
        y = 1 - (_TOP_PX + row * _LINE_PX) / panel.height_px
        alarm = any(mark.action in ("nan", "fail") for mark in marks)
        colour = theme.ALARM if alarm else theme.HAND
        paper = {"facecolor": theme.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        self._artists.append(
            panel.axes.annotate(
                "\n".join(lines),
                (x, y),
                xycoords="axes fraction",
                xytext=(-3 if leftward else 3, 0),
                textcoords="offset points",
                ha="right" if leftward else "left",
                va="top",
                color=colour,
                fontproperties=self._font,
                linespacing=1.15,
                annotation_clip=False,
                parse_math=False,  # a note may hold a dollar, and mathematical text is not made for threads
                bbox=paper,
            )
        )
        top = self._top_px(panel) + _TOP_PX + row * _LINE_PX
        self._boxes.append((start, start + length, top, top + len(lines) * _LINE_PX, marks[-1].seq))

    def _length(self, text: str) -> float:
        """How long a text is, in pixels of the page."""
        canvas: Any = self._figure.canvas
        width = canvas.get_renderer().get_text_width_height_descent(text, self._font, False)[0]
        return float(width) / self._figure.dpi * 100

    def _top_px(self, panel: Panel) -> float:
        box = panel.axes.get_position()
        return float((1 - box.y1) * self._figure.get_figheight() * 100)

    def at(self, x: float, y: float) -> int | None:
        """The mark whose label or line is there, the nearest and latest; None if none is."""
        for left, right, top, bottom, mark in reversed(self._boxes):
            if left <= x <= right and top <= y <= bottom:
                return mark
        within = self._top_px(self._panels[0]) <= y <= self._figure.get_figheight() * 100
        near = [(abs(place - x), -mark) for place, mark in self._at if abs(place - x) <= REACH_PX]
        return -min(near)[1] if near and within else None
