"""A picture that the user's own function draws of a model, again and again while it trains."""

import html
import io
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import ipywidgets as widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from babysit.ui.widgets import write

SHARE = 0.05  # sampling and drawing may cost this share of one core; dearer pictures come less often
INTERVAL_S = 0.1
_DPI = 144


class Run(Protocol):
    """What a picture needs of a run."""

    def call(self, function: Callable[[Any], Any]) -> Any:
        """Calls `function(model)` on the training thread; returns its result."""

    def status(self) -> dict[str, Any]:
        """The status of the run."""


class Picture:
    """Samples a model and draws the result whenever the run has moved; `widget` is what to display.

    It does not keep the run in memory: after that the last picture stays on the page.

    Args:
        run: The run that trains the model.
        sample: Called with the model on the training thread, between two steps.
        draw: Called with an empty matplotlib `Figure` and what `sample` returned, on a thread of
            its own.
        size: Width and height in inches, as in matplotlib.
    """

    def __init__(
        self, run: Run, sample: Callable[[Any], Any], draw: Callable[[Figure, Any], Any], size: tuple[float, float]
    ) -> None:
        self._run, self._sample, self._draw = weakref.ref(run), sample, draw
        self._figure = Figure(size, dpi=_DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        self._seen: Any = None  # step, branch and values when it was sampled last
        self._closing = threading.Event()
        self._image = widgets.Image(format="png", value=self._encoded())
        self._image.layout.width, self._image.layout.max_width = f"{size[0] * 96:.0f}px", "100%"
        self._message = widgets.HTML()
        self.widget = widgets.VBox([self._image, self._message])
        self._thread = threading.Thread(target=self._refresh_often, name="babysit-picture", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops drawing; the last picture stays on the page. May be called twice."""
        self._closing.set()

    def _refresh_often(self) -> None:
        cost_s = next_s = 0.0
        while not self._closing.wait(INTERVAL_S) and (run := self._run()) is not None:
            now_s = time.monotonic()
            if now_s >= next_s and self._has_moved(run):
                before_s, cost_s = cost_s, self._refresh(run)
                # A single slow picture, as the first one, which loads fonts, does not change the interval.
                next_s = now_s + min(before_s, cost_s) / SHARE
            del run  # else it would be kept while this thread waits

    def _has_moved(self, run: Run) -> bool:
        status = run.status()
        values = {name: about["value"] for name, about in status["hyperparameters"].items()}
        seen, self._seen = self._seen, (status["step"], status["branch"], values)
        return bool(seen != self._seen)

    def _refresh(self, run: Run) -> float:
        """Draws the present state, or shows the error; returns the seconds of a core that this took."""
        began, sampling = time.thread_time(), [0.0]
        try:
            data = run.call(lambda model: self._timed(model, sampling))
            self._draw(self._emptied(), data)
            self._image.value = self._encoded()
            write(self._message, value="")
        except Exception as error:
            words = html.escape(f"The picture could not be drawn. {type(error).__name__}: {error}")
            details = html.escape(traceback.format_exc())
            write(self._message, value=f"<details><summary>{words}</summary><pre>{details}</pre></details>")
        return time.thread_time() - began + sampling[0]

    def _timed(self, model: Any, seconds: list[float]) -> Any:
        """The sample; `seconds[0]` is set to the time that it took the training thread."""
        began = time.thread_time()
        try:
            return self._sample(model)
        finally:
            seconds[0] = time.thread_time() - began

    def _emptied(self) -> Figure:
        """The empty figure, with fixed margins, so that the axes do not jump."""
        self._figure.clear()
        width, height = self._figure.get_size_inches()
        self._figure.subplots_adjust(0.65 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.35 / height)
        return self._figure

    def _encoded(self) -> bytes:
        file = io.BytesIO()
        self._canvas.print_png(file, pil_kwargs={"compress_level": 1})
        return file.getvalue()
