"""The chart on the page: its picture, the toolbar above, the chosen annotation below, and a text alternative."""

import html
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.alt_text import alt_text
from babysit.ui.chart_toolbar import ChartToolbar
from babysit.ui.compared_run import OpenRun
from babysit.ui.entries import LogEntry
from babysit.ui.figure import ChartFigure
from babysit.ui.page_monitor import PageMonitor
from babysit.ui.widgets import Send, caption, classed, row, unlabelled, write

FRAME_SHARE = 0.05  # frames may cost this share of one core; dearer ones come less often
FRAME_WAIT_S = 2.0  # but at least so often: the few that draw everything anew cost much
ALT_TEXT_INTERVAL_S = 5.0
OFFERED = 100  # entries in the menu


class Chart:
    """The curves of a run, as the user has chosen to see them.

    Args:
        send: Sends a command.
        wake: Wakes the pump.
        page: Whether anybody looks, how large the chart may be, and what was clicked.
        open_run: Opens the log of another run, to lay it over.
    """

    def __init__(
        self, send: Send, wake: Callable[[], None], page: PageMonitor, open_run: OpenRun | None = None
    ) -> None:
        self._send, self._page = send, page
        self._figure = ChartFigure(open_run=open_run)
        self.series = self._figure.series
        self._toolbar = ChartToolbar(send, wake)
        self._size = (0, 0, 0.0)  # of the last picture
        self._drawn = self._offered = -1  # versions of the series
        self._next_frame = self._next_text = 0.0
        self._image = widgets.Image(format="png")
        self._menu = widgets.Dropdown(options=[("", 0)], description="details of a change")
        self._menu.observe(lambda _: wake(), "value")
        self._details, self._alt_text = caption(), classed(widgets.HTML(), "babysit-alt-text")
        details = row(unlabelled(self._menu), self._details, name="babysit-details")
        parts = [self._toolbar.widget, widgets.Box([self._image]), self._alt_text, details]
        self.widget = classed(widgets.VBox(parts), "babysit-chart")

    # ------------------------------------------------------- called by the pump alone

    @property
    def chosen(self) -> int | None:
        """The `seq` of the entry whose details are shown, or None."""
        return self._menu.value or None

    def refresh(self, at_once: bool = False) -> None:
        """Shows the present state; draws at once, or when a frame is due and somebody looks."""
        for click in self._page.clicks():
            self._on_click(click)
        if self._offered != self.series.fixed_version:
            self._offer(self.chosen)
            self._offered = self.series.fixed_version
        view = self._toolbar.view(self._figure.limits, self.chosen)
        new_view, self._figure.view = view != self._figure.view, view
        write(self._details, value=_details(self.series.entry(self.chosen)))
        for kind in self._toolbar.exports():
            self._send("export", kind=f"chart.{kind}", content=self._figure.export(kind))
        if at_once or self._page.is_visible:
            self._draw(at_once or new_view)
            self._describe(at_once)
        self._toolbar.refresh(self._figure)

    def _draw(self, at_once: bool) -> None:
        now, view = time.monotonic(), self._figure.view
        size = _size(*self._page.size, view.metrics, view.hyperparameters)
        stale = self._drawn != self.series.version or view.other is not None
        if not at_once and size == self._size and not (stale and now >= self._next_frame):
            return
        began = time.thread_time()
        if (picture := self._figure.draw(*size)) is not None:
            write(self._image, value=picture, width=str(size[0]), height=str(size[1]))
        self._drawn, self._size = self.series.version, size
        self._next_frame = now + min((time.thread_time() - began) / FRAME_SHARE, FRAME_WAIT_S)

    def _describe(self, at_once: bool) -> None:
        if (now := time.monotonic()) >= self._next_text or at_once:
            write(self._alt_text, value=f"<p>{html.escape(alt_text(self.series))}</p>")
            self._next_text = now + ALT_TEXT_INTERVAL_S

    # ------------------------------------------------------------------------- details of an entry

    def _on_click(self, click: Mapping[str, Any]) -> None:
        """Chooses the entry that was clicked, in the logbook or on the chart; none if it is chosen already."""
        seq = click.get("entry")
        if "place" in click:
            across, down = click["place"]
            seq = self._figure.entry_at(across * self._size[0], down * self._size[1])
        self._offer(seq if isinstance(seq, int) and seq != self.chosen else None)

    def _offer(self, chosen: int | None) -> None:
        """Brings the menu of entries up to date, the newest first, and chooses one of them."""
        entries = self.series.lineage_entries()[-OFFERED:]
        entry = self.series.entry(chosen)
        if entry is not None and entry not in entries:  # an old one, or one on an abandoned branch
            entries = [entry, *entries]
        options = [(f"{one.step:,} · {one.action_words}", one.seq) for one in reversed(entries)]
        nothing = "show details of a change" if options else "nothing changed yet"
        write(self._menu, options=((nothing, 0), *options), value=entry.seq if entry else 0, disabled=not options)


def _details(entry: LogEntry | None) -> str:
    """What was done, why and by whom, and the losses before and after."""
    if entry is None:
        return ""
    why = f" — {html.escape(entry.why)}" if entry.why else ""
    parts = [f'<span class="babysit-user">{html.escape(entry.action_words)}</span>{why}']
    parts.append(f"by {html.escape(entry.author)}")
    if entry.losses:
        parts.append(f"{entry.losses}, {entry.averaged_steps}")
    return " · ".join(parts)


def _size(
    width: int, ratio: float, metrics: tuple[str, ...] | None, hyperparameters: tuple[str, ...] | None
) -> tuple[int, int, float]:
    """Width and height of the chart in pixels of the page, and image pixels per pixel; higher for many panels."""
    height = min(max(round(0.6 * width), 380), 540)
    metric, steered = len(metrics or ()), len(hyperparameters or ())
    needed = 270 + 85 * metric + 50 * steered if metric + steered > 2 else 0
    return width, max(height, needed), ratio
