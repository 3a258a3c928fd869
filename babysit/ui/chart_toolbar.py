"""The toolbar of the chart: what to show, in one line, and a drawer with what is chosen seldom."""

import html
import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.core.words import label
from babysit.ui.figure import ChartFigure
from babysit.ui.ticks import clock
from babysit.ui.view import View
from babysit.ui.widgets import (
    Send,
    WriteGuard,
    caption,
    classed,
    export_button,
    reset_subshell_routing,
    row,
    unlabelled,
    write,
)

SMOOTHINGS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_CHOSEN = "chosen"
_RANGES = (("all", 0), *((f"last {n:,}", n) for n in (200, 1000, 10_000)), ("from … to", _CHOSEN))
_SHOWN = {
    "band": "lowest to highest",
    "ghosts": "abandoned branches",
    "annotations": "changes",
}


class ChartToolbar:
    """What the user has chosen to see; `view` makes it a `View`.

    Args:
        send: Sends a command.
        wake: Wakes the pump, to draw what has been chosen.
    """

    def __init__(self, send: Send, wake: Callable[[], None]) -> None:
        self._send, self._wake = send, wake
        self._view, self._problem_of_range = View(), ""
        self._exports: list[str] = []  # the kinds of pictures to write
        self._build()
        controls = (self._smoothing, self._log, self._x, self._range, self._other, *self._ends, *self._shown.values())
        for control in controls:
            control.observe(lambda _: wake(), "value")

    def _build(self) -> None:
        usual = self._view
        smoothings = [(f"{value:g}", value) for value in SMOOTHINGS]
        self._smoothing = widgets.SelectionSlider(options=smoothings, value=usual.smoothing, description="smoothing")
        self._log = widgets.Dropdown(options=[("log", True), ("linear", False)], value=usual.log, description="y")
        self._x = widgets.Dropdown(options=["step", "epoch", "time"], value=usual.x, description="x")
        self._range = widgets.Dropdown(options=_RANGES, description="which steps")
        self._unit = usual.x  # of the two ends
        self._ends = [widgets.Text(description=words, continuous_update=False) for words in ("from", "to")]
        for end in self._ends:
            classed(end, "babysit-end").layout.display = "none"
        more = classed(widgets.ToggleButton(description="more"), "babysit-more", "babysit-word")
        self._shown = {name: _checkbox(words, getattr(usual, name)) for name, words in _SHOWN.items()}
        self._names = {kind: _NameChoice(kind, self._wake) for kind in ("metrics", "hyperparameters")}
        self._other = widgets.Text(
            placeholder="folder of another run", description="compare with", continuous_update=False
        )
        self._problem = caption()
        exports = [export_button(kind.upper(), partial(self._on_export, kind), "the chart") for kind in ("png", "svg")]
        exports.append(export_button("CSV", lambda: self._send("export", kind="history"), "the measurements"))
        files = classed(widgets.HBox([classed(export, "babysit-word") for export in exports]), "babysit-exports")
        names = [names.widget for names in self._names.values()]
        drawer = [_line("show", self._shown.values()), *names, row(self._other, name="babysit-choice")]
        line = [self._smoothing, self._log, self._x, unlabelled(self._range), *self._ends, files, more]
        parts = [classed(widgets.HBox(line), "babysit-bar"), classed(widgets.VBox(drawer), "babysit-drawn")]
        self.widget = classed(widgets.VBox([*parts, self._problem]), "babysit-chooser")

    def _on_export(self, kind: str) -> None:
        self._exports.append(kind)
        self._wake()

    # ------------------------------------------------------- called by the pump alone

    def exports(self) -> list[str]:
        """The kinds of pictures to write, once."""
        exports, self._exports = self._exports, []
        return exports

    def view(self, limits: tuple[float, float] | None, entry: int | None) -> View:
        """What to show now.

        Args:
            limits: Limits of x in the last picture, to begin a choice with.
            entry: The entry whose annotation is highlighted.
        """
        wanted = self._range.value
        for end in self._ends:
            write(end.layout, display=None if wanted == _CHOSEN else "none")
        self._fill_ends(limits if wanted == _CHOSEN else None)
        chosen, self._problem_of_range = None, ""
        if wanted == _CHOSEN and all(end.value.strip() for end in self._ends):
            chosen = self._chosen_range()
        shown: dict[str, Any] = {name: box.value for name, box in self._shown.items()}
        self._view = View(
            smoothing=self._smoothing.value,
            log=self._log.value,
            x=self._x.value,
            last=None if wanted == _CHOSEN else wanted or None,
            chosen=chosen,
            **shown,
            metrics=self._names["metrics"].chosen,
            hyperparameters=self._names["hyperparameters"].chosen,
            entry=entry,
            other=os.path.expanduser(self._other.value.strip()) or None,
        )
        return self._view

    def _fill_ends(self, limits: tuple[float, float] | None) -> None:
        """Fills in the empty ends of the chosen range; another unit empties them first."""
        if self._unit != self._x.value:
            self._unit, limits = self._x.value, None
        elif limits is None or any(end.value for end in self._ends):
            return
        for i, end in enumerate(self._ends):
            write(end, value="" if limits is None else _end_words(limits[i], self._unit))

    def _chosen_range(self) -> tuple[float, float] | None:
        """Both ends, or the range before if they make none."""
        words = [end.value for end in self._ends]
        try:
            low, high = map(_parsed, words)
        except ValueError:
            low = high = math.nan
        if -math.inf < low < high < math.inf:
            return low, high
        self._problem_of_range = f"The two ends must be growing numbers. Received: {words[0]} and {words[1]}."
        return self._view.chosen

    def refresh(self, figure: ChartFigure) -> None:
        """Offers the names there are in a chart, and says what could not be shown."""
        self._names["metrics"].refresh(figure.series.metrics, figure.shown)
        self._names["hyperparameters"].refresh(figure.series.hyperparameters, figure.shown)
        words = html.escape(figure.problem or self._problem_of_range)
        write(self._problem, value=words)
        write(self._problem.layout, display=None if words else "none")


class _NameChoice:
    """Checkboxes for names; as many as have room are ticked, until the user ticks one."""

    def __init__(self, words: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._boxes: dict[str, Any] = {}
        self._touched = False
        self._guard = WriteGuard()
        self.widget = _line(words, ())

    def _on_choice(self, _: Any) -> None:
        if not self._guard.active:
            self._touched = True
            self._wake()

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The names that are ticked; None for as many as have room."""
        return tuple(name for name, box in self._boxes.items() if box.value) if self._touched else None

    def refresh(self, names: list[str], shown: Sequence[str]) -> None:
        """Offers these names, and ticks those that are shown."""
        if names != list(self._boxes):
            self._boxes = {name: self._boxes.get(name) or self._box(name) for name in names}
            self.widget.children = (self.widget.children[0], *self._boxes.values())
        write(self.widget.layout, display=None if names else "none")
        if not self._touched:
            with self._guard.writing():
                for name, box in self._boxes.items():
                    write(box, value=name in shown)

    def _box(self, name: str) -> Any:
        box = _checkbox(label(name), False)
        box.observe(self._on_choice, "value")
        reset_subshell_routing(box)
        return box


def _checkbox(words: str, value: bool) -> Any:
    return widgets.Checkbox(value=value, description=words, indent=False)


def _line(words: str, controls: Iterable[Any]) -> Any:
    return row(classed(widgets.Label(words), "babysit-kind"), *controls, name="babysit-choice")


def _end_words(value: float, unit: str) -> str:
    if unit == "time":
        return clock(value)
    return f"{value:,.0f}" if unit == "step" else f"{value:.4g}"


def _parsed(words: str) -> float:
    """A number as a person writes it: `1,200`, `2.5`, or `1:30` for 90 seconds."""
    number = 0.0
    for part in words.replace(",", "").strip().split(":"):
        number = 60 * number + float(part)
    return number
