"""What carries the chart to the page, and brings back what the user does with it there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from babysit.ui.widgets import Send, classed, write

USUAL = 740, 1.6  # the chart's width, and image pixels per pixel of the page, until a page reports
BEAT_S = 5.0  # while a run goes on, the page hears from the kernel at least so often
UNHEARD_S = 10.0  # a frame that no page has confirmed is followed by another after so long


class _PageView(anywidget.AnyWidget):
    """The widget of `chart_view.js`.

    Attributes:
        frame: What `ChartFigure.frame` gives; with a `unit`, if its steps are not those of a run.
        title: Of the browser's tab.
        rates: What `rate_axis` gives of the picture of a range test, if that is shown; empty otherwise.
        beat: Grows every few seconds while the run goes on, else 0.
    """

    _esm = Path(__file__).with_name("chart_view.js")
    frame = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    rates = traitlets.Dict().tag(sync=True)
    beat = traitlets.Int().tag(sync=True)


class ChartView:
    """The picture on the page; a plain image until the page says that its script runs.

    Args:
        send: Sends a command.
        wake: Wakes the pump.

    Attributes:
        widget: What to display.
        width: Width that the chart may have, in pixels of the page.
        ratio: Image pixels per pixel of the page.
        zoom: The first and last step that the user wants to see, or None.
    """

    def __init__(self, send: Send, wake: Callable[[], None]) -> None:
        self._send, self._wake = send, wake
        self.width, self.ratio = USUAL
        self.zoom: tuple[float, float] | None = None
        self._visible: bool | None = None  # None until a page reports
        self._unconfirmed_s = 0.0  # since when a frame is on its way; 0 if none is
        self._page, self._image = _PageView(), widgets.Image(format="png")
        self._page.on_msg(self._on_report)
        self.widget = classed(widgets.Box([self._image, self._page]), "babysit-picture")

    # ---------------------------------- called by the page, on any thread

    def _on_report(self, _: Any, report: Mapping[str, Any], buffers: Any) -> None:
        self._unconfirmed_s = 0.0
        if "width" in report:
            self.width, self.ratio = max(int(report["width"]), 200), min(max(report["ratio"], 1.0), 3.0)
        if "zoom" in report:
            self.zoom = report["zoom"] and (report["zoom"][0], max(report["zoom"][1], report["zoom"][0] + 2))
        if "rewind" in report:
            self._send("rewind", step=int(report["rewind"]))
        if "rate" in report:
            changes = {self._page.rates["name"]: report["rate"]}
            self._send("set", changes=changes, why="range test: chosen on the curve")
        self._visible = report.get("visible", self._visible)
        if not report.get("drawn"):
            self._wake()

    # ------------------------------------------------------- called by the pump alone

    @property
    def is_visible(self) -> bool:
        """Whether the chart may be in sight."""
        return self._visible is not False

    @property
    def is_shown(self) -> bool:
        """Whether a page is known to show it."""
        return self._visible is True

    @property
    def is_ready(self) -> bool:
        """Whether a page may be sent the next frame: it has confirmed the last one, or not for long."""
        return self.is_visible and time.monotonic() > self._unconfirmed_s + UNHEARD_S * bool(self._unconfirmed_s)

    def show_state(self, title: str, running: bool) -> None:
        """Shows the title of the browser's tab, and lets the page know that the kernel of a running run is there."""
        write(self._page, title=title, beat=int(time.monotonic() / BEAT_S) + 1 if running else 0)

    def show_rates(self, axis: Mapping[str, Any]) -> None:
        """Lets the page read the rate off the picture of a range test, and set it by a click."""
        write(self._page, rates=dict(axis))

    def show(self, frame: Mapping[str, Any]) -> None:
        """Shows a frame of `ChartFigure.frame`."""
        heard = self._visible is not None
        if heard and self._page.frame != frame:  # one that is the same is not sent, and not confirmed
            self._unconfirmed_s = time.monotonic()
        write(self._page, frame=dict(frame))
        write(self._image, value=b"" if heard else frame["png"])
        write(self._image.layout, display="none" if heard else None)
