"""The board of a search: a table of its runs, their curves, and which hyperparameters led to which result."""

import datetime
import html
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from babysit.core.words import label, number
from babysit.ui import theme
from babysit.ui.board_figure import NAMED, Axis, draw_curves, draw_parallel, parallel_axes
from babysit.ui.chart import FRAME_SHARE
from babysit.ui.chart_view import ChartView
from babysit.ui.dashboard import Dashboard
from babysit.ui.header import pill
from babysit.ui.screen import STYLE, Screen
from babysit.ui.widgets import (
    button,
    caption,
    classed,
    close,
    folded,
    refusal_html,
    reset_subshell_routing,
    row,
    typed_number,
    with_tooltip,
    write,
)

INTERVAL_S = 0.5
FRAME_INTERVAL_S = 2.0  # new values are drawn no more often
_BEGUN = ("running", "paused", "finished", "stopped", "pruned", "failed")
ACTIONS = {  # what can be done to runs in which states
    "Pause": ("running",),
    "Resume": ("paused",),
    "Stop": ("waiting", "running", "paused"),
    "Clone": _BEGUN,
    "Delete": _BEGUN[2:],
    "Open": _BEGUN,
}
_NO_SCRIPT = (
    "This page cannot load the package anywidget, which shows the table of runs: install it beside JupyterLab "
    "(`pip install anywidget`) and reload the page. Until then, use the search's methods and `to_pandas()`."
)
_GONE = "This search was removed from the kernel, as no variable refers to it. `babysit.Caviar.load` loads it again."


class _Table(anywidget.AnyWidget):
    """The widget of `board.js`.

    Attributes:
        columns: The titles of the columns.
        chosen: The runs that are chosen, in that order.
    """

    _esm = Path(__file__).with_name("board.js")
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Board(Screen):
    """The screen of a search; `widget` is what to display, as often as you like.

    It keeps the search in memory while that goes on, and while a page shows it.

    Args:
        search: What has `rows`, `status`, `send` and `together` as a `Caviar` has, and runs by name.
    """

    def __init__(self, search: Any) -> None:
        super().__init__(search, INTERVAL_S)
        wake = self._wake.set
        self._goes_on = True
        self._status: Mapping[str, Any] = {}
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._sent: dict[str, Any] = {}  # the rows that the page has
        self._is_new = False  # whether a page has come that has none
        self._chosen: list[str] = []
        self._colours: dict[str, str | None] = {}  # of the best run and the chosen ones, which may be too many for that
        self._axes, self._good = list[Axis](), np.empty(0)
        self._drawn: Any = None, None  # what the pictures show: which values, and how the user wants to see them
        self._cost_s = self._next_frame = 0.0
        self._asked, self._asked_runs = "", list[str]()  # the action that is asked about, and of which runs
        self._refusal = ""  # why the last action was refused
        self._opened: tuple[str, ...] = ()  # the runs whose dashboard is shown
        self._to_open: tuple[str, ...] = ()  # and those whose is to be
        self._dashboard: Dashboard | None = None  # of them
        self._title, self._figures, self._remarks, self._alarm = (widgets.HTML() for _ in range(4))
        self._progress = classed(widgets.FloatProgress(min=0, max=1), "babysit-progress")
        self._stop_half = button("Stop the worst half", partial(self._send, "stop worst half"))
        self._stop_all = button("Stop all", partial(self._send, "stop all"))
        self._buttons = {name: button(name, partial(self._act, name)) for name in ACTIONS}
        self._count, self._question = caption(), caption()
        late = {"continuous_update": False}  # else a click could overtake what was typed last
        self._at = widgets.Text(description="at step", placeholder="where it is", **late)
        self._changes = widgets.Text(description="with", placeholder="learning_rate=0.003", **late)
        self._yes, cancel = button("Yes", self._answer, "primary"), button("Cancel", partial(self._ask, ""))
        self._yes.disabled = cancel.disabled = False
        self._form = row(self._question, self._at, self._changes, self._yes, cancel)
        self._chart, self._brushes, self._table = ChartView(lambda *_, **__: "", wake), Brushes(wake), _Table()
        self._table.on_msg(self._on_new_page)
        self._table.observe(lambda _: wake(), "chosen")
        self._below = classed(widgets.VBox(), "babysit-opened")
        progress = with_tooltip(self._progress, "runs that are done")
        parts = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            row(self._title, progress, self._figures, self._stop_half, self._stop_all, name="babysit-status-bar"),
            row(self._remarks, self._alarm, name="babysit-message"),
            row(*self._buttons.values(), self._count),
            self._form,
            self._table,
            classed(widgets.HTML(html.escape(_NO_SCRIPT)), "babysit-no-script"),
            row(classed(self._chart.widget, "babysit-chart"), self._brushes.widget, name="babysit-pictures"),
            self._below,
        ]
        self.widget = classed(widgets.VBox(parts), "babysit", "babysit-board")
        self._start_pump()

    def close(self) -> None:
        """Stops the pump and takes the board off the page; may be called twice."""
        self._stop_pump()
        self._close_opened()
        super().close()

    # ---------------------------------- called by the page, on any thread: only send

    def _on_new_page(self, *_: Any) -> None:
        self._is_new = True
        self._wake.set()

    def _meant(self, name: str) -> list[str]:
        """The chosen runs to which an action can be done."""
        return [one for one in self._chosen if one in self._rows and self._rows[one]["state"] in ACTIONS.get(name, ())]

    def _act(self, name: str) -> None:
        if name in ("Clone", "Delete"):
            self._ask(name)
        elif name == "Open":
            self._open(*self._meant(name))
        else:
            self._send(name.lower(), runs=self._meant(name))

    def _ask(self, name: str) -> None:
        self._asked, self._asked_runs = name, self._meant(name)
        self._wake.set()

    def _answer(self) -> None:
        name = self._asked
        about: dict[str, Any] = {"runs": self._asked_about()}
        try:
            if name == "Clone":
                step = self._at.value.strip()
                about |= {
                    "at": typed_number(step, True) if step else None,
                    "changes": typed_changes(self._changes.value),
                }
        except ValueError as error:
            self._refusal = str(error)
            return self._wake.set()
        self._ask("")
        if name:
            self._send(name.lower(), **about)

    def _asked_about(self) -> list[str]:
        """The runs that are asked about, as far as the action can still be done to them."""
        return [name for name in self._asked_runs if name in self._meant(self._asked)]

    def _open(self, *names: str) -> None:
        self._to_open, self._refusal = names, ""
        self._wake.set()

    def _send(self, action: str, **about: Any) -> None:
        self._refusal = ""
        if (search := self._reference()) is not None:
            search.send({"action": action, **about})
        self._wake.set()

    # ------------------------------------------------------- called by the pump alone

    def _is_visible(self) -> bool:
        return self._chart.is_visible

    def _is_in_use(self) -> bool:
        return self._goes_on or self._chart.is_shown

    def _refresh(self, search: Any) -> None:
        """Shows what has changed; an error in one part does not keep the others from being refreshed."""
        error = ""
        shown = self._show_status, self._show_runs, self._show_actions, self._show_table
        for show in (*shown, self._show_pictures, self._show_opened):
            try:
                show(search)
            except Exception as raised:
                error = error or f"A part of the board could not be shown. {type(raised).__name__}: {raised}"
        write(self._alarm, value=refusal_html(self._refusal or error))

    def _show_status(self, search: Any) -> None:
        self._status = status = search.status()
        self._goes_on = status["state"] not in ("finished", "stopped")
        figures = [f"{status['done']:,} of {status['trials']:,} runs done"]
        if status["seconds_left"] is not None:
            figures.append(f"{datetime.timedelta(seconds=round(status['seconds_left']))} left")
        write(self._title, value=f"<b>{html.escape(status['title'])}</b> {pill(status['state'], status['state'])}")
        write(self._progress, value=status["done"] / max(status["trials"], 1))
        write(self._figures, value="".join(f"<span>{words}</span>" for words in figures))
        last, *older = [*reversed(status["remarks"])] or [""]
        words = folded(last, "\n".join(older)) if older else html.escape(last)
        write(self._remarks, value=f'<span class="babysit-remark">{words}</span>' if words else "")
        write(self._stop_all, disabled=status["state"] != "running")

    def _show_runs(self, search: Any) -> None:
        """Chooses the runs between the ends of the sliders, or those that were chosen in the table."""
        self._rows, was = {one["name"]: one for one in search.rows()}, list(self._table.chosen)
        self._axes, self._good = parallel_axes([*self._rows.values()], self._status)
        moved = self._brushes.refresh(self._axes)
        if not moved and was != self._chosen:  # the sliders no longer say what is chosen
            self._brushes.reset()
        chosen = [name for name in was if name in self._rows]
        if (within := self._brushes.within()) is not None or moved:
            chosen = [name for name, is_chosen in zip(self._rows, within or (), strict=False) if is_chosen]
        self._chosen = chosen
        if chosen != was:
            write(self._table, chosen=chosen)
        # The chosen ones first, in the colours that they have where they are opened.
        named = dict.fromkeys([*chosen[: NAMED - 1], *filter(None, [self._status["best"]]), *chosen])
        self._colours = {name: theme.RUNS[i] if i < NAMED else None for i, name in enumerate(named)}

    def _show_table(self, _: Any) -> None:
        names, by = dict.fromkeys(self._status["space"]), label(self._status["by"])
        for one in self._rows.values():
            names |= dict.fromkeys(one["hyperparameters"])
        write(self._table, columns=["run", "state", "step", *map(label, names), by, f"best {by}", "examples/s"])
        if not self._chart.is_ready:
            return
        sent = self._sent
        if self._is_new:
            self._is_new, sent = False, {}
        self._sent = rows = {name: self._cells(i, name, names) for i, name in enumerate(self._rows)}
        changed = [{"name": name, "cells": cells} for name, cells in rows.items() if sent.get(name) != cells]
        if changed or list(sent) != list(rows):
            self._table.send({"rows": changed, "order": list(rows)})
            reset_subshell_routing(self._table)

    def _cells(self, i: int, name: str, names: Iterable[str]) -> list[tuple[str, Any]]:
        """What the page shows of a run in each column, and what it sorts it by."""
        one = self._rows[name]
        words = f'<i style="background: {self._colours.get(name) or "none"}"></i>{html.escape(name)}'
        words += " <em>best</em>" * (name == self._status["best"])
        words += f"<small>clone of {html.escape(one['of'])}</small>" if one["of"] else ""
        error = one["error"].strip()
        state = f'<span class="babysit-pill babysit-{one["state"]}">{one["state"]}</span>'
        state += folded(error.splitlines()[-1], error) if error else ""
        values = [one["step"], *(one["hyperparameters"].get(of) for of in names)]
        cells = [("" if value is None else html.escape(number(value)), value) for value in values]
        cells += [("" if one[of] is None else f"{one[of]:#.4g}", one[of]) for of in ("latest", "best")]
        speed = one["examples_a_second"]
        return [(words, i), (state, one["state"]), *cells, (number(int(float(f"{speed:.2g}"))) if speed else "", speed)]

    def _show_actions(self, _: Any) -> None:
        for name, made in self._buttons.items():
            write(made, disabled=not self._meant(name), tooltip=", ".join(self._meant(name)))
        going = [one for one in self._rows.values() if one["state"] in ("running", "paused")]
        write(self._stop_half, disabled=sum(one["latest"] is not None for one in going) < 2)
        write(self._count, value=f"{len(self._chosen):,} of {len(self._rows):,} chosen")
        meant = self._asked_about()
        words = ", ".join(meant) if len(meant) < 4 else f"{len(meant)} runs"
        write(self._form.layout, display=None if meant else "none")
        if meant:
            write(self._question, value=f"{self._asked} {words}{' for good?' if self._asked == 'Delete' else ''}")
            write(self._yes, description=f"{self._asked} {words}")
        for box in (self._at, self._changes):
            write(box.layout, display=None if self._asked == "Clone" else "none")

    def _show_pictures(self, _: Any) -> None:
        chart, now = self._chart, time.monotonic()
        chart.show_state("", self._goes_on)
        size = chart.width, chart.ratio
        values = [(name, one["epoch"], one["latest"], one["best"]) for name, one in self._rows.items()]
        wanted = values, (self._chosen, size, chart.zoom)
        is_due = self._drawn[1] != wanted[1] or now >= self._next_frame
        if self._drawn == wanted or not (is_due and chart.is_ready):
            return
        before_s, began = self._cost_s, time.thread_time()
        chosen = {name: self._colours[name] for name in self._chosen}
        chart.show(draw_curves(self._rows, self._colours, self._status, *size, chart.zoom))
        self._brushes.show(draw_parallel(self._axes, self._good, [*self._rows], chosen, *size))
        self._drawn, self._cost_s = wanted, time.thread_time() - began
        # A single slow picture, as the first one, which loads fonts, does not change the interval.
        self._next_frame = now + max(FRAME_INTERVAL_S, min(before_s, self._cost_s) / FRAME_SHARE)

    def _show_opened(self, search: Any) -> None:
        """Shows the dashboard of the runs that the user has opened, until it is closed or one of them is deleted."""
        if not all(name in self._rows for name in self._to_open):
            self._to_open = ()
        if (names := self._to_open) == self._opened:
            return
        self._opened = names
        self._close_opened()
        if not names:
            return
        try:
            if len(names) > NAMED:
                raise ValueError(f"so many at a time: choose up to {NAMED}")
            self._dashboard = Dashboard(search.together(*names) if len(names) > 1 else search[names[0]])
        except Exception as error:
            self._refusal = f"{' and '.join(names)} cannot be opened: {error.args[0] if error.args else error}"
            self._opened = self._to_open = ()
            return
        close_button = button(f"Close {' and '.join(names)}", self._open)
        close_button.disabled = False
        self._below.children = [row(close_button), self._dashboard.widget]
        reset_subshell_routing(self._below)

    def _close_opened(self) -> None:
        self._below.children = []
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None

    def _finish(self) -> None:
        write(self._title, value=pill("gone", "stopped"))
        write(self._alarm, value=refusal_html(_GONE))
        for made in (self._stop_half, self._stop_all, *self._buttons.values()):
            write(made, disabled=True)
        self._close_opened()


class Brushes:
    """Parallel coordinates: a picture of them, and on each axis a slider, between whose ends runs are chosen.

    Args:
        wake: Wakes the pump, which alone calls the methods.

    Attributes:
        widget: What to display.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._axes: Sequence[Axis] = ()
        self._ends: list[tuple[int, int]] = []  # of each slider, as they were seen last
        self._image, self._sliders = widgets.Image(format="png"), classed(widgets.HBox(), "babysit-axes")
        words = classed(
            widgets.HTML("A line for each run, from its hyperparameters to its result."), "babysit-alt-text"
        )
        self.widget = classed(widgets.Box([self._image, self._sliders, words]), "babysit-parallel")

    def refresh(self, axes: Sequence[Axis]) -> bool:
        """Shows a slider on each axis; returns whether the user has moved one since the last time."""
        self._axes, old = axes, self._sliders.children
        if len(axes) != len(old):  # the last one, of the results, has come or gone
            self._sliders.children = [*old[: len(axes)], *map(self._slider, axes[len(old) :])]
            reset_subshell_routing(self._sliders)
            for slider in old[len(axes) :]:
                close(slider)
        for slider, axis in zip(self._sliders.children, axes, strict=True):
            write(slider, options=_options(axis), index=slider.index)
        before, now = self._ends, self._see()
        return any(one != other for one, other in zip(before, now, strict=False))

    def show(self, png: bytes) -> None:
        """Shows a picture of `draw_parallel`."""
        write(self._image, value=png)

    def within(self) -> list[bool] | None:
        """Whether each run lies between the ends of all sliders; None where all are at the ends of their axes."""
        found = []
        for (low, high), axis in zip(self._ends, self._axes, strict=True):
            if (low, high) != (0, len(axis.stops) - 1):
                found.append((axis.places >= axis.at[low] - 1e-9) & (axis.places <= axis.at[high] + 1e-9))
        return np.all(found, axis=0).tolist() if found else None

    def reset(self) -> None:
        """Moves the ends of all sliders to the ends of their axes."""
        for slider, axis in zip(self._sliders.children, self._axes, strict=True):
            write(slider, index=(0, len(axis.stops) - 1))
        self._see()

    def _see(self) -> list[tuple[int, int]]:
        self._ends = [slider.index for slider in self._sliders.children]
        return self._ends

    def _slider(self, axis: Axis) -> Any:
        ends = (0, len(axis.stops) - 1)
        about = {"options": _options(axis), "description": axis.title, "orientation": "vertical"}
        made = with_tooltip(widgets.SelectionRangeSlider(**about, index=ends), f"{axis.title}: chooses runs")
        made.observe(lambda _: self._wake(), "index")
        return made


def _options(axis: Axis) -> tuple[tuple[str, int], ...]:
    return tuple((words, i) for i, words in enumerate(axis.stops))


def typed_changes(text: str) -> dict[str, float]:
    """Changes as the user types them: `learning_rate=0.003, momentum=0.95`.

    Raises:
        ValueError: If one is not written so.
    """
    changes = {}
    for part in filter(None, (one.strip() for one in text.replace(";", ",").split(","))):
        name, _, value = map(str.strip, part.partition("="))
        try:
            changes[name.replace(" ", "_")] = float(value if name else "")
        except ValueError:
            raise ValueError(f"A change is written as learning_rate=0.003. Received: {part}") from None
    return changes
