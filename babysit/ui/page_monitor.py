"""What the page reports: whether anybody looks at a dashboard, how large the chart may be, and clicks."""

import asyncio
import html
import json
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import ipywidgets as widgets

from babysit.ui.widgets import classed, unlabelled

_IN_THE_PAGE = html.escape(resources.files("babysit.ui").joinpath("page.js").read_text(), quote=True)
SILENT_TICKS = 32  # a page that reported before counts as gone after so many ticks without a report
PAGE_S = 5.0  # a page decides how large the chart is until so long after its last report
USUAL = (740, 1.6)  # the chart's width and the fineness of the screen until a page reports


class PageMonitor:
    """Receives the reports of the page, whose script sends one every three seconds while it is visible.

    A page that forbids scripts, or has not reported yet, counts as visible.

    Args:
        wake: Wakes the pump.

    Attributes:
        size: Width of the chart in pixels of the page, and image pixels per pixel.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._loop = _running_loop()
        self._silence = 0
        self._waits_for_kernel = False
        self.size, self._has_reported = USUAL, False
        self._page: Any = None
        self._page_until = 0.0
        self._clicks: list[dict[str, Any]] = []
        boxes = [_box("view", self._on_view), _box("click", self._on_click)]
        script = widgets.HTML(f'<img alt="" src="data:," onerror="{_IN_THE_PAGE}">')
        self.widget = widgets.Box([*boxes, script], layout={"display": "none"})

    # ---------------------------------- called by the page, on any thread

    def _on_view(self, change: Mapping[str, Any]) -> None:
        if not isinstance(report := _parsed(change["new"]), dict):
            return
        was, returns = self.size, not self.is_visible
        width, ratio, page = report.get("width"), report.get("ratio"), report.get("page")
        if isinstance(width, int) and isinstance(ratio, int | float) and width >= 200 and self._decides_size(page):
            self.size = width, min(max(float(ratio), 1.0), 3.0)
        self._silence, self._has_reported = 0, True
        if returns or was != self.size:
            self._wake()

    def _decides_size(self, page: Any) -> bool:
        """Whether a page decides how large the chart is: of several, the one that keeps reporting."""
        now = time.monotonic()
        if page != self._page and now < self._page_until:
            return False
        self._page, self._page_until = page, now + PAGE_S
        return True

    def _on_click(self, change: Mapping[str, Any]) -> None:
        if isinstance(click := _parsed(change["new"]), dict):
            self._clicks.append(click)
            self._wake()

    # ------------------------------------------------------- called by the pump alone

    @property
    def is_visible(self) -> bool:
        """Whether somebody may be looking."""
        return not self._has_reported or self._silence < SILENT_TICKS

    @property
    def is_shown(self) -> bool:
        """Whether a page may show it: none does where the kernel has no event loop, as in a script."""
        return self._loop is not None and self.is_visible

    def tick(self) -> None:
        """Counts ticks without a report, during which the kernel was free to receive one."""
        if self._loop is not None and not self._waits_for_kernel:
            self._waits_for_kernel = True
            try:
                self._loop.call_soon_threadsafe(self._kernel_is_free)
            except RuntimeError:  # the loop is closed: no page is heard any more
                self._loop = None
                self._silence = 0

    def _kernel_is_free(self) -> None:
        self._waits_for_kernel = False
        self._silence += 1

    def clicks(self) -> list[dict[str, Any]]:
        """The clicks since the last call: `entry`, or `place` as shares of the chart's width and height."""
        found, self._clicks = self._clicks, []
        return found


def _box(name: str, listen: Callable[[Any], None]) -> Any:
    box = widgets.Text(continuous_update=False, description=f"report of the page: {name}")
    box.observe(listen, "value")
    return classed(unlabelled(box), f"babysit-page-{name}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _running_loop() -> Any:
    """The event loop on which the kernel receives messages; None if there is none, as in a script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
