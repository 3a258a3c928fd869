"""A screen that one thread refreshes: the common part of the dashboard of a run and the board of a search."""

import atexit
import threading
import time
import weakref
from importlib import resources
from typing import Any

from babysit.ui.widgets import close, reset_subshell_routing

UNSEEN_INTERVAL_S = 5.0  # while no page shows it
STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()


class Screen:
    """Widgets that show something, and the one thread that writes them, the pump.

    What is shown is kept in memory while the screen is in use. After that, if nothing else refers to
    it, the pump ends; what it wrote last stays.

    Args:
        shown: What is shown: a run or a search.
        interval_s: Seconds from one refresh to the next.

    Attributes:
        widget: What to display, as often as you like.
    """

    widget: Any

    def __init__(self, shown: Any, interval_s: float) -> None:
        self._reference, self._interval_s = weakref.ref(shown), interval_s
        self._kept: Any = shown
        self._next_refresh = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._pump = threading.Thread(target=self._refresh_often, name="babysit-pump", daemon=True)

    def close(self) -> None:
        """Stops the pump and takes the widgets off the page; may be called twice."""
        self._stop_pump()
        atexit.unregister(self._stop_pump)
        close(self.widget)

    def _start_pump(self) -> None:
        """Begins to refresh, once the widgets are there."""
        reset_subshell_routing(self.widget)
        self._pump.start()
        atexit.register(self._stop_pump)  # a thread that draws while the interpreter ends would abort the process

    def _stop_pump(self) -> None:
        self._closing.set()
        self._wake.set()
        self._pump.join()

    # ------------------------------------------------------- called by the pump alone

    def _refresh_often(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._interval_s)
            # The command that woke the pump is probably obeyed within this pause.
            woken = self._wake.is_set()
            self._closing.wait(0.02 if woken else 0)
            self._wake.clear()
            if (shown := self._reference()) is None:
                atexit.unregister(self._stop_pump)
                return self._finish()
            if woken or self._is_visible() or time.monotonic() >= self._next_refresh:
                self._next_refresh = time.monotonic() + UNSEEN_INTERVAL_S
                self._refresh(shown)
            self._kept = shown if self._is_in_use() else None
            del shown  # else it would be kept while this thread waits

    def _is_visible(self) -> bool:
        """Whether a page may show it."""
        raise NotImplementedError

    def _is_in_use(self) -> bool:
        """Whether what is shown has to be kept in memory."""
        raise NotImplementedError

    def _refresh(self, shown: Any) -> None:
        """Brings every widget up to date."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Shows that what was shown is gone."""
        raise NotImplementedError
