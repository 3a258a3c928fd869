"""What the page tells: whether anybody looks at a dashboard, how large the chart may be, and what was clicked."""

import asyncio
import html
import json
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import ipywidgets as widgets

from babysit.ui.widgets import classed, free_all, unlabelled

_IN_THE_PAGE = html.escape(resources.files("babysit.ui").joinpath("page.js").read_text(), quote=True)
# Times that the pump has come by, and the kernel had time to listen, without a word from a page that had spoken.
SILENT = 32
PAGE_S = 5.0  # so long a page, since it was heard last, decides how large the chart is
USUAL = (740, 1.6)  # the chart's width and the fineness of the screen, until a page tells


class Watch:
    """Hears the page, whose script tells every three seconds that it is visible.

    A page that forbids scripts, or has told nothing yet, counts as looked at.

    Args:
        wake: Wakes the pump.

    Attributes:
        size: Width of the chart in pixels of the page, and image pixels a pixel.
        told: Whether a page has told of itself.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._loop = _running_loop()
        self._silence = 0
        self._asked = False  # whether the kernel has not answered yet
        self.size, self.told = USUAL, False
        self._page: Any = None
        self._page_until = 0.0
        self._choices: list[dict[str, Any]] = []
        self._look, self._choice = _box("look", self._on_look), _box("choice", self._on_choice)
        script = widgets.HTML(f'<img alt="" src="data:," onerror="{_IN_THE_PAGE}">')
        self.widget = widgets.Box([self._look, self._choice, script], layout={"display": "none"})
        free_all(self.widget)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _on_look(self, change: Mapping[str, Any]) -> None:
        if not isinstance(told := _read(change["new"]), dict):
            return
        was, returns = self.size, not self.looked_at
        width, ratio, page = told.get("width"), told.get("ratio"), told.get("page")
        if isinstance(width, int) and isinstance(ratio, int | float) and width >= 200 and self._may_tell(page):
            self.size = width, min(max(float(ratio), 1.0), 3.0)
        self._silence, self.told = 0, True
        if returns or was != self.size:
            self._wake()

    def _may_tell(self, page: Any) -> bool:
        """Whether a page may say how large the chart is: where several show it, one that goes on doing so."""
        now = time.monotonic()
        if page != self._page and now < self._page_until:
            return False
        self._page, self._page_until = page, now + PAGE_S
        return True

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if isinstance(choice := _read(change["new"]), dict):
            self._choices.append(choice)
            self._wake()

    # ------------------------------------------------------- called by the pump alone

    @property
    def looked_at(self) -> bool:
        """Whether somebody may be looking."""
        return not self.told or self._silence < SILENT

    @property
    def shown(self) -> bool:
        """Whether a page may be showing it: none does where a kernel could hear none, as in a script."""
        return self._loop is not None and self.looked_at

    def come_by(self) -> None:
        """Counts how long no page has been heard, while the kernel had time to listen."""
        if self._loop is not None and not self._asked:
            self._asked = True
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # it is closed: nobody is heard any more
                self._loop = None
                self._silence = 0

    def _answer(self) -> None:
        self._asked = False
        self._silence += 1

    def choices(self) -> list[dict[str, Any]]:
        """What was clicked since the last call: `mark`, or `place` as shares of the chart's width and height."""
        found, self._choices = self._choices, []
        return found


def _box(name: str, listen: Callable[[Any], None]) -> Any:
    box = widgets.Text(continuous_update=False, description=f"what the page tells: {name}")
    box.observe(listen, "value")
    return classed(unlabelled(box), f"babysit-page-{name}")


def _read(words: str) -> Any:
    try:
        return json.loads(words)
    except ValueError:
        return None


def _running_loop() -> Any:
    """The event loop on which the kernel hears the page; none where there is none, as in a script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
