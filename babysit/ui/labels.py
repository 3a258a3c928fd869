"""Annotations of the chart: a line and a label for what was done, found again under the pointer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from babysit.core.words import label, number
from babysit.ui import theme
from babysit.ui.entries import LogEntry
from babysit.ui.panel import ChartPanel

REACH_PX = 6  # at this distance a pointer still hits an annotation
_LINE_PX, _TOP_PX = 13, 3
_SHORT = {"learning_rate": "lr", "batch_size": "batch"}
_WORDS = {"rewind": "rewound", "edit": "edited", "nan": "not finite", "fail": "failed"}


class Annotations:
    """Lines and labels of entries, over all panels of a figure.

    Args:
        figure: The figure to draw on.
        panels: Its panels; labels are written in the first.
        left_px: Left edge of the axes, in pixels of the page.
        plot_px: Their width.
    """

    def __init__(self, figure: Figure, panels: Sequence[ChartPanel], left_px: int, plot_px: int) -> None:
        self._figure, self._panels = figure, panels
        self._left, self._plot = left_px, plot_px
        self._artists: list[Any] = []
        self._lines: list[tuple[float, int]] = []  # x in pixels of the page, seq
        self._boxes: list[tuple[float, float, float, float, int]] = []
        self._font = FontProperties(family="DejaVu Sans", size=8)

    def clear(self) -> None:
        """Removes all of them."""
        for artist in self._artists:
            artist.remove()
        self._artists, self._lines, self._boxes = [], [], []

    def draw(self, entries: Sequence[LogEntry], places: Sequence[float], chosen: int | None = None) -> None:
        """Draws entries, ordered by step, at these values of x; the chosen one is highlighted."""
        left, right = self._panels[0].axes.get_xlim()
        pixels = [self._left + (x - left) / (right - left) * self._plot for x in places]
        self._lines = [(pixel, entry.seq) for pixel, entry in zip(pixels, entries, strict=True)]
        at = list(zip(places, entries, strict=True))
        line = {"colors": theme.USER, "linewidth": 1, "alpha": 0.8}
        highlight = {"colors": theme.USER, "linewidth": 7, "alpha": 0.25}
        for panel in self._panels:
            self._draw_lines(panel, {x for x, entry in at if entry.by_user and entry.action != "save"}, 1, line)
            self._draw_lines(panel, {x for x, entry in at if entry.seq == chosen}, 1, highlight)
        # A schedule may act every epoch: it gets short ticks and no label.
        tick = {"colors": theme.GHOST, "linewidth": 1}
        self._draw_lines(self._panels[0], {x for x, entry in at if not entry.by_user}, 0.04, tick)
        if saved := [x for x, entry in at if entry.action == "save"]:
            axes = self._panels[0].axes
            style = {"color": theme.USER, "marker": "D", "markersize": 4, "linestyle": "", "clip_on": False}
            self._artists += axes.plot(saved, [0] * len(saved), transform=axes.get_xaxis_transform(), **style)
        self._draw_labels([(pixel, entry) for pixel, entry in zip(pixels, entries, strict=True) if entry.by_user])

    def _draw_lines(self, panel: ChartPanel, places: set[float], height: float, style: dict[str, Any]) -> None:
        if places:
            transform = panel.axes.get_xaxis_transform()
            self._artists.append(panel.axes.vlines(sorted(places), 0, height, transform=transform, snap=True, **style))

    def _draw_labels(self, at: Iterable[tuple[float, LogEntry]]) -> None:
        """Writes one label for each cluster of entries, unless there is no room for it."""
        wide = self._plot > 360
        rows = max(int(self._panels[0].height_px * (0.5 if wide else 0.25) / _LINE_PX), 1)
        ends = [-math.inf] * rows  # where the last label of each row ends
        for pixel, entries in clusters(at, within=28):
            lines = label_lines(entries, 3 if wide else 1)[:rows]
            if not lines:
                continue
            length = max(map(self._length, lines)) + 6
            leftward = pixel + length > self._left + self._plot + 4
            start = pixel - length if leftward else pixel
            free = [i for i in range(rows + 1 - len(lines)) if max(ends[i : i + len(lines)]) <= start]
            if free and start > self._left:
                row = free[0]
                ends[row : row + len(lines)] = [max(start + length, pixel)] * len(lines)
                below = _TOP_PX + row * _LINE_PX
                self._write(lines, entries, (pixel, below), leftward)
                top = self._top_px() + below
                self._boxes.append((start, start + length, top, top + len(lines) * _LINE_PX, entries[-1].seq))

    def _write(self, lines: list[str], entries: list[LogEntry], at: tuple[float, float], leftward: bool) -> None:
        panel = self._panels[0]
        alarm = any(entry.action in ("nan", "fail") for entry in entries)
        self._artists.append(
            panel.axes.annotate(
                "\n".join(lines),
                ((at[0] - self._left) / self._plot, 1 - at[1] / panel.height_px),
                xycoords="axes fraction",
                xytext=(-3 if leftward else 3, 0),
                textcoords="offset points",
                ha="right" if leftward else "left",
                va="top",
                color=theme.ALARM if alarm else theme.USER,
                fontproperties=self._font,
                linespacing=1.15,
                annotation_clip=False,
                parse_math=False,  # a note may contain a dollar sign, and math text is not thread-safe
                bbox={"facecolor": theme.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            )
        )

    def _length(self, text: str) -> float:
        """The length of a text in pixels of the page."""
        canvas: Any = self._figure.canvas
        width = canvas.get_renderer().get_text_width_height_descent(text, self._font, False)[0]
        return float(width) / self._figure.dpi * 100

    def _top_px(self) -> float:
        return float((1 - self._panels[0].axes.get_position().y1) * self._figure.get_figheight() * 100)

    def at(self, x: float, y: float) -> int | None:
        """The `seq` of the entry whose label or line is at a place, the nearest and latest; None if there is none."""
        for left, right, top, bottom, seq in reversed(self._boxes):
            if left <= x <= right and top <= y <= bottom:
                return seq
        near = [(abs(place - x), -seq) for place, seq in self._lines if abs(place - x) <= REACH_PX]
        return -min(near)[1] if near and self._top_px() <= y <= self._figure.get_figheight() * 100 else None


def clusters(at: Iterable[tuple[float, LogEntry]], within: float) -> list[tuple[float, list[LogEntry]]]:
    """Groups of entries no further than `within` from the first of the group, each with the place of that one."""
    found: list[tuple[float, list[LogEntry]]] = []
    for place, entry in at:
        if found and 0 <= place - found[-1][0] <= within:
            found[-1][1].append(entry)
        else:
            found.append((place, [entry]))
    return found


def label_lines(entries: Iterable[LogEntry], most: int = 3) -> list[str]:
    """The lines of one label for several entries, ordered by step: changes from the first old to the last new value.

    Changes that were undone within the label are left out.
    """
    changes: dict[str, tuple[Any, Any]] = {}
    actions, notes = [], []
    for entry in entries:
        for name, (old, new) in entry.changes.items():
            if old is not None:
                changes[name] = changes.get(name, (old, new))[0], new
        actions += [_WORDS[entry.action]] if entry.action in _WORDS else []
        notes += [f"“{_cut(entry.why, 24)}”"] if entry.action == "note" else []
    changed = [
        f"{_SHORT.get(name, label(name))} {number(old)} → {number(new)}"
        for name, (old, new) in changes.items()
        if old != new
    ]
    lines = list(dict.fromkeys([*actions, *changed, *notes]))
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"and {len(lines) - most + 1} more"] if most > 1 else [f"{lines[0]} …"]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
