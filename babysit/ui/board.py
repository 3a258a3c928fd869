"""The board of a search: a table of its runs, the curves of all of them, and which hyperparameters led to which result.

The script of the page, `board.js`, sorts, selects and draws what needs no answer from the kernel.
"""

import html
import math
import numbers
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.collections import LineCollection

from babysit.core.words import label
from babysit.ui import theme
from babysit.ui.chart import FRAME_SHARE
from babysit.ui.chart_view import UNHEARD_S
from babysit.ui.dashboard import Dashboard
from babysit.ui.figure import Curve, scale_y, write_at_right
from babysit.ui.screen import STYLE, Screen
from babysit.ui.trials_figure import new_axes, png
from babysit.ui.widgets import button, classed, reset_subshell_routing, row

INTERVAL_S = 0.5
FRAME_INTERVAL_S = 2.0  # new values are drawn no more often
POINTS, GREY_POINTS = 200, 5_000  # of a curve, and of all grey ones together
MOST_OPEN = len(theme.RUNS)  # runs of which one dashboard is shown
REMARKS = 20  # the newest that the page gets
HEIGHT = 300  # of the picture, in pixels of the page
_NO_SCRIPT = (
    "This page cannot load the package anywidget, which shows the table of runs: install it beside JupyterLab "
    "(`pip install anywidget`) and reload the page. Until then, use the search's methods and `to_pandas()`."
)
_GONE = "This search was removed from the kernel, as no variable refers to it. `babysit.Caviar.load` loads it again."
Row = Mapping[str, Any]
Values = tuple[np.ndarray, np.ndarray]


class Search(Protocol):
    """What a board needs of a search; all of it plain data, at once and from any thread."""

    def rows(self) -> Sequence[Row]:
        """A row for each run, in the order in which they were made."""

    def curves(self) -> Mapping[str, Values]:
        """Run -> epochs, and the values at them of what is compared."""

    def status(self) -> Mapping[str, Any]:
        """How the search stands."""

    def send(self, command: Mapping[str, Any]) -> Any:
        """Sends a command for some runs, or for all; a refusal is one of the status's remarks."""

    def __getitem__(self, name: str) -> Any:
        """A run, which has a `dashboard()`."""

    def together(self, *names: str) -> Any:
        """Several runs under one set of controls, as one."""


class _Page(anywidget.AnyWidget):
    """The widget of `board.js`.

    Attributes:
        chosen: The runs that the user has chosen, in that order. The page alone writes them.
    """

    _esm = Path(__file__).with_name("board.js")
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Board(Screen):
    """The screen of a search; `widget` is what to display, as often as you like.

    It keeps the search in memory while that goes on, and while a page shows it. The page is sent only
    what has changed, and only while it is in sight.

    Args:
        search: The search.
    """

    def __init__(self, search: Search) -> None:
        super().__init__(search, INTERVAL_S)
        self._visible = self._is_new = False  # whether a page shows it, and one that has nothing yet
        self._goes_on = True
        self._width, self._ratio = 640, 1.0
        self._rows: dict[str, Any] = {}  # those that the page has
        self._status: dict[str, Any] = {}
        self._drawn: Any = None, None  # what the picture shows: which values, and how the user wants to see them
        self._cost_s = self._next_frame = 0.0
        self._unconfirmed_s = 0.0  # since when a message is on its way; 0 if none is
        self._error = self._refusal = ""
        self._opened: tuple[str, ...] = ()  # the runs whose dashboard is shown
        self._to_open: tuple[str, ...] = ()  # and those whose is to be
        self._several: Dashboard | None = None  # of several runs, which belongs to nothing else
        self._page, self._below = _Page(), classed(widgets.VBox(), "babysit-opened")
        self._page.on_msg(self._on_message)
        self._page.observe(lambda _: self._wake.set(), "chosen")
        style = widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"})
        parts = [style, self._page, classed(widgets.HTML(html.escape(_NO_SCRIPT)), "babysit-no-script"), self._below]
        self.widget = classed(widgets.VBox(parts), "babysit", "babysit-board")
        self._start_pump()

    def close(self) -> None:
        """Stops the pump and takes the board off the page, but closes no run's dashboard; may be called twice."""
        self._stop_pump()
        self._below.children = []
        self._close_several()
        super().close()

    # ---------------------------------- called by the page, on any thread: only send

    def _on_message(self, _: Any, message: Mapping[str, Any], buffers: Any) -> None:
        self._unconfirmed_s = 0.0
        if "seen" in message:
            return
        if "visible" in message:
            self._visible = message["visible"]
            self._is_new |= bool(message.get("anew"))
            if message.get("width"):
                self._width, self._ratio = max(int(message["width"]), 260), min(max(message["ratio"], 1.0), 3.0)
        if "open" in message:
            self._to_open, self._refusal = tuple(message["open"]), ""
        if "action" in message and (search := self._reference()) is not None:
            self._refusal = ""
            try:
                search.send({"runs": [], "at": None, "changes": {}, **message})
            except Exception as error:
                self._refusal = str(error)
        self._wake.set()

    # ------------------------------------------------------- called by the pump alone

    def _is_visible(self) -> bool:
        return self._visible

    def _is_in_use(self) -> bool:
        return self._goes_on or self._visible

    def _refresh(self, search: Search) -> None:
        """Sends the page what has changed since it was sent something."""
        if (status := self._attempt(search.status)) is None:
            self._status = {}
            return self._tell({"status": {"remarks": [self._error]}})
        self._goes_on = status["state"] not in ("finished", "stopped")
        is_late = bool(self._unconfirmed_s) and time.monotonic() < self._unconfirmed_s + UNHEARD_S
        if not self._visible or is_late:  # a page that was closed says nothing
            return
        if self._is_new:
            self._is_new, self._rows, self._status, self._drawn = False, {}, {}, (None, None)
        rows = {row["name"]: plain(row) for row in self._attempt(search.rows) or ()}
        remarks = [*status["remarks"][-REMARKS:], *filter(None, [self._refusal, self._error])]
        status, self._error = plain({**status, "remarks": remarks, "best": best_of(rows, status["highest"])}), ""
        message: dict[str, Any] = {
            "status": {name: value for name, value in status.items() if self._status.get(name, ...) != value},
            "rows": [row for name, row in rows.items() if self._rows.get(name) != row],
        }
        message = {name: part for name, part in message.items() if part}
        if not self._status or list(rows) != list(self._rows):
            message["order"] = list(rows)
        self._rows, self._status = rows, status
        colours, picture = self._attempt(self._picture, search) or (None, None)
        self._tell(message if picture is None else {**message, "colours": colours}, picture)
        self._attempt(self._show_opened, search)

    def _tell(self, message: Mapping[str, Any], picture: bytes | None = None) -> None:
        if message:
            self._unconfirmed_s = time.monotonic()
            self._page.send(message, [picture] if picture else None)
            reset_subshell_routing(self._page)

    def _picture(self, search: Search) -> tuple[dict[str, str], bytes] | None:
        """The colours of runs in the picture, and the picture; None if it is not due, or shows this already."""
        now, best = time.monotonic(), self._status["best"]
        chosen = [name for name in self._page.chosen if name in self._rows]
        view = chosen, self._width, self._ratio
        values = [(name, row["epoch"], row["latest"]) for name, row in self._rows.items()], best
        if view == self._drawn[1] and (values == self._drawn[0] or now < self._next_frame):
            return None
        self._drawn, before_s, began = (values, view), self._cost_s, time.thread_time()
        # The chosen ones first, in the colours that they have where they are opened.
        named = [*chosen, *(name for name in (best,) if name and name not in chosen)]
        most = len(theme.RUNS) - 1
        colours = dict(zip([*named[:most], *named[most:][-1:]], theme.RUNS, strict=False))
        status = self._status["by"], self._status["highest"]
        picture = draw_curves(search.curves(), colours, chosen, best, *status, self._width, self._ratio)
        self._cost_s = time.thread_time() - began
        # A single slow picture, as the first one, which loads fonts, does not change the interval.
        self._next_frame = now + max(FRAME_INTERVAL_S, min(before_s, self._cost_s) / FRAME_SHARE)
        return colours, picture

    def _show_opened(self, search: Search) -> None:
        """Shows the dashboard of the runs that the user has opened, until it is closed or one of them is deleted."""
        names = self._to_open if all(name in self._rows for name in self._to_open) else ()
        if names == self._opened:
            return
        self._opened, self._below.children = names, []
        self._close_several()
        if not names:
            return
        try:
            if len(names) > MOST_OPEN:
                raise ValueError(f"so many at a time: choose up to {MOST_OPEN}")
            if len(names) > 1:
                self._several = Dashboard(search.together(*names))
            dashboard = self._several.widget if self._several else search[names[0]].dashboard()
        except Exception as error:
            self._refusal = f"{' and '.join(names)} cannot be opened: {error}"
            return
        close = button(f"Close {' and '.join(names)}", lambda: self._on_message(None, {"open": ()}, None))
        close.disabled = False
        self._below.children = [row(close), dashboard]
        reset_subshell_routing(self._below)

    def _close_several(self) -> None:
        if self._several is not None:
            self._several.close()
            self._several = None

    def _finish(self) -> None:
        self._tell({"status": {"state": "gone", "remarks": [_GONE]}})

    def _attempt(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function; an error is shown, and does not keep the rest of the board from being refreshed."""
        try:
            return act(*arguments)
        except Exception as error:
            self._error = f"A part of the board could not be shown. {type(error).__name__}: {error}"


# ------------------------------------------------------------------------- without widgets


def plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite as words."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else str(value)


def best_of(rows: Mapping[str, Row], highest: bool) -> str | None:
    """The name of the run with the best value; None if none has one."""
    found = {name: row["best"] for name, row in rows.items() if isinstance(row["best"], float | int)}
    return (max if highest else min)(found, key=found.__getitem__) if found else None


def draw_curves(
    curves: Mapping[str, Values],
    colours: Mapping[str, str],
    chosen: Iterable[str],
    best: str | None,
    by: str,
    highest: bool,
    width: int,
    ratio: float,
) -> bytes:
    """A PNG of the curves of all runs, thinned so that many cost no more than a few.

    Args:
        curves: Run -> epochs, and the values at them.
        colours: Run -> colour, of those with a name.
        chosen: Runs that stand out; those without a colour are dark, all others grey.
        best: The best run, whose line is the thickest.
        by: What is compared.
        highest: Whether the highest value is the best.
        width: Width in pixels of the page.
        ratio: Image pixels per pixel of the page.
    """
    points = max(min(POINTS, GREY_POINTS // max(len(curves), 1)), 2)
    thinned = {name: _thinned(*values, POINTS if name in colours else points) for name, values in curves.items()}
    lines = {name: line for name, line in thinned.items() if len(line)}
    named = {name: f"{name}  {lines[name][-1, 1]:.3g}" for name in colours if name in lines}
    axes = new_axes(label(by), width, ratio, 12 + int(7.5 * max(map(len, named.values()), default=1)), HEIGHT)
    axes.set_xlabel("epoch", color=theme.FAINT, fontsize=9)
    rest, dark = [name for name in lines if name not in colours], set(chosen)
    for colour, alpha, group in (
        (theme.GHOST, 0.55, [lines[name] for name in rest if name not in dark]),
        (theme.INK, 1.0, [lines[name] for name in rest if name in dark]),
    ):
        if group:
            axes.add_collection(LineCollection(group, colors=colour, alpha=alpha, linewidths=0.9))
            axes.plot(*np.array([line[-1] for line in group]).T, ".", color=colour, alpha=alpha, markersize=4)
    for name in reversed(named):
        axes.plot(*lines[name].T, color=colours[name], linewidth=2.4 if name == best else 1.7)
        axes.plot(*lines[name][-1], ".", color=colours[name], markersize=7)
    if lines:
        _limit(axes, np.concatenate(list(lines.values())), highest)
    write_at_right(axes, [(lines[name][-1, 1], words, colours[name]) for name, words in named.items()])
    return png(axes.figure)


def _thinned(epochs: np.ndarray, values: np.ndarray, points: int) -> np.ndarray:
    """Points of a curve, one a row: those with a finite value, no more than so many, the last one among them."""
    line: np.ndarray = np.column_stack([epochs, values]).astype(float)
    line = line[np.isfinite(line).all(axis=1)]
    return line if len(line) <= points else line[np.linspace(0, len(line) - 1, points).round().astype(int)]


def _limit(axes: Any, points: np.ndarray, highest: bool) -> None:
    """Chooses what of the plane is seen: all of it, but for losses far above nearly all others."""
    values = points[:, 1]
    top = values.max() if highest else min(values.max(), 5 * max(np.quantile(values, 0.9), 0)) or values.max()
    scale_y(axes, [Curve("", values[None, values <= top], 0, {})], log=not highest)
    axes.set_xlim(min(points[:, 0].min(), 1), max(points[:, 0].max(), 2))
    axes.autoscale_view(scalex=False)
    if top < values.max():
        low = values.min()
        axes.set_ylim(0.85 * low if axes.get_yscale() == "log" else low - 0.05 * (top - low), top)
