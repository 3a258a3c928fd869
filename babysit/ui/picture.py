"""A picture that the user's own function draws of a model, again and again while it trains."""

import io
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from babysit.ui.widgets import folded, write

SHARE = 0.05  # sampling and drawing may cost this share of one core; dearer pictures come less often
INTERVAL_S = 0.1
_DPI = 144


class Picture:
    """Samples a model and draws the result whenever the run has moved; `widget` is what to display.

    It does not keep the run in memory: after that the last picture stays on the page.

    Args:
        run: The run that trains the model: a `Panda`.
        sample: Called with the model on the training thread, between two steps.
        draw: Called with an empty matplotlib `Figure` and what `sample` returned, on a thread of
            its own.
        size: Width and height in inches, as in matplotlib.
    """

    def __init__(
        self, run: Any, sample: Callable[[Any], Any], draw: Callable[[Figure, Any], Any], size: tuple[float, float]
    ) -> None:
        self._run, self._sample, self._draw, self._size = weakref.ref(run), sample, draw, size
        self._closing = threading.Event()
        self._image = widgets.Image(format="png", value=self._encoded(self._empty()))
        self._image.layout.width, self._image.layout.max_width = f"{size[0] * 96:.0f}px", "100%"
        self._message = widgets.HTML()
        self.widget = widgets.VBox([self._image, self._message])
        self._thread = threading.Thread(target=self._refresh_often, name="babysit-picture", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops drawing; the last picture stays on the page. May be called twice."""
        self._closing.set()

    def _refresh_often(self) -> None:
        seen: Any = None
        cost_s = next_s = 0.0
        while not self._closing.wait(INTERVAL_S) and (run := self._run()) is not None:
            status, now_s = run.status(), time.monotonic()
            moved = status["step"], status["branch"], status["hyperparameters"]
            if now_s >= next_s and moved != seen:
                seen, before_s, cost_s = moved, cost_s, self._refresh(run)
                # A single slow picture, as the first one, which loads fonts, does not change the interval.
                next_s = now_s + min(before_s, cost_s) / SHARE
            del run  # else it would be kept while this thread waits

    def _refresh(self, run: Any) -> float:
        """Draws the present state, or shows the error; returns the seconds of a core that this took."""
        began, sampled_s, words = time.thread_time(), 0.0, ""
        try:
            data, sampled_s = run.call(self._timed)
            self._draw(figure := self._empty(), data)
            self._image.value = self._encoded(figure)
        except Exception as error:
            summary = f"The picture could not be drawn. {type(error).__name__}: {error}"
            words = folded(summary, traceback.format_exc())
        write(self._message, value=words)
        return time.thread_time() - began + sampled_s

    def _timed(self, model: Any) -> tuple[Any, float]:
        """The sample, and the seconds that it took the training thread."""
        began = time.thread_time()
        return self._sample(model), time.thread_time() - began

    def _empty(self) -> Figure:
        """An empty figure, with fixed margins, so that the axes do not jump."""
        figure, (width, height) = Figure(self._size, dpi=_DPI), self._size
        figure.subplots_adjust(0.65 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.35 / height)
        return figure

    def _encoded(self, figure: Figure) -> bytes:
        file = io.BytesIO()
        figure.savefig(file, format="png", pil_kwargs={"compress_level": 1})
        return file.getvalue()
