"""The bar above the chart: what to show of a run, in one line of words, and a drawer with what is chosen seldom."""

import html
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.ui.ticks import clock
from babysit.ui.view import View
from babysit.ui.widgets import Send, Writing, button, classed, free_all, label, row, unlabelled, write

SMOOTHINGS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_CHOSEN, _HELD = "chosen", "held"
_RANGES = (("all", 0), *((f"last {n:,}", n) for n in (200, 1000, 10_000)), ("hold", _HELD), ("from … to", _CHOSEN))
_SHOWN = {"band": "lowest to highest", "gap": "gap to validation", "ghosts": "abandoned branches", "marks": "changes"}


class Bar:
    """What the one who looks has chosen; `view` makes it what a chart shows.

    Args:
        send: Hands a command over.
        wake: Wakes the pump, to draw what has been chosen.
    """

    def __init__(self, send: Send, wake: Callable[[], None]) -> None:
        self._send, self._wake = send, wake
        self._view, self._said = View(), ""
        self._wanted: list[str] = []  # pictures to be written
        self._build()
        for control in (self._smoothing, self._log, self._x, self._range, self._other, *self._ends):
            control.observe(self._on_choice, "value")
        for control in self._shown.values():
            control.observe(self._on_choice, "value")
        free_all(self.widget)

    def _build(self) -> None:
        usual = self._view
        self._smoothing = widgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in SMOOTHINGS], value=usual.smoothing, description="smoothing"
        )
        self._log = widgets.Dropdown(options=[("log", True), ("linear", False)], value=usual.log, description="y")
        self._x = widgets.Dropdown(options=["step", "epoch", "time"], value=usual.x, description="x")
        self._range = widgets.Dropdown(options=_RANGES, description="which steps")
        self._unit = usual.x  # of the two ends
        self._ends = [widgets.Text(description=words, continuous_update=False) for words in ("from", "to")]
        for end in self._ends:
            classed(end, "babysit-end").layout.display = "none"
        self._more = classed(widgets.ToggleButton(description="more"), "babysit-more", "babysit-word")
        self._shown = {name: _check(words, getattr(usual, name)) for name, words in _SHOWN.items()}
        self._names = {kind: _Names(kind, self._wake) for kind in ("metrics", "hyperparameters")}
        self._other = widgets.Text(
            placeholder="folder of another run", description="laid over", continuous_update=False
        )
        self._problem = classed(widgets.HTML(), "babysit-told")
        names = [names.widget for names in self._names.values()]
        drawer = [_line("show", self._shown.values()), *names, row(self._other, name="babysit-choice")]
        first = [self._smoothing, self._log, self._x, unlabelled(self._range), *self._ends, *self._exports()]
        line = classed(widgets.HBox([*first, self._more]), "babysit-bar")
        self.widget = classed(
            widgets.VBox([line, classed(widgets.VBox(drawer), "babysit-drawn"), self._problem]), "babysit-chooser"
        )

    def _exports(self) -> list[Any]:
        made = [button(kind.upper(), partial(self._on_picture, kind)) for kind in ("png", "svg")]
        made.append(button("CSV", lambda: self._send("export", kind="history")))
        for export, words in zip(made, ("the chart", "the chart", "what was measured"), strict=True):
            export.disabled, export.tooltip = False, f"write {words} into the run's folder"
        return [classed(widgets.HBox([classed(export, "babysit-word") for export in made]), "babysit-exports")]

    # ---------------------------------- called by the page, on any thread: only hand over

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        self._wake()

    def _on_picture(self, kind: str) -> None:
        self._wanted.append(kind)
        self._wake()

    # ------------------------------------------------------- called by the pump alone

    def pictures(self) -> list[str]:
        """The kinds of pictures that are to be written, once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def view(self, limits: tuple[float, float] | None, mark: int | None) -> View:
        """What to show now.

        Args:
            limits: Of the axis of the picture drawn last, to begin a choice with.
            mark: The mark to point out.
        """
        wanted, problem = self._range.value, ""
        chosen, held = wanted == _CHOSEN, wanted == _HELD
        for end in self._ends:
            write(end.layout, display=None if chosen else "none")
        self._begin_choice(limits if chosen else None)
        found = None
        if chosen and all(end.value.strip() for end in self._ends):
            found, problem = self._chosen()
        shown: dict[str, Any] = {name: check.value for name, check in self._shown.items()}
        shown |= {kind: names.chosen for kind, names in self._names.items()}
        self._view = View(
            smoothing=self._smoothing.value,
            log=self._log.value,
            x=self._x.value,
            last=self._view.last if held else None if chosen else wanted or None,
            chosen=self._view.chosen if held and self._view.x == self._x.value else found,
            follow=not held,
            **shown,
            mark=mark,
            other=os.path.expanduser(self._other.value.strip()) or None,
        )
        self._said = problem
        return self._view

    def _begin_choice(self, limits: tuple[float, float] | None) -> None:
        """Fills in the ends of what is to be seen; another unit empties them first."""
        if self._unit != self._x.value:
            self._unit, limits = self._x.value, None
        elif limits is None or any(end.value for end in self._ends):
            return
        for i, end in enumerate(self._ends):
            write(end, value="" if limits is None else _told(limits[i], self._unit))

    def _chosen(self) -> tuple[tuple[float, float] | None, str]:
        """Both ends, or what is wrong with them."""
        words = [end.value for end in self._ends]
        try:
            low, high = (_number(word) for word in words)
        except ValueError:
            low = high = 0.0
        if -math.inf < low < high < math.inf:
            return (low, high), ""
        return self._view.chosen, f"The two ends must be growing numbers. Received: {words[0]} and {words[1]}."

    def refresh(self, columns: Mapping[str, Sequence[str]], shown: Sequence[str], problem: str) -> None:
        """Offers the names there are, and says what could not be shown.

        Args:
            columns: Names by kind, as `Curves.columns` has them.
            shown: Those in the picture.
            problem: Why another run is not laid over; empty if it is.
        """
        for kind, names in self._names.items():
            names.refresh(columns[kind], shown)
        words = html.escape(problem or self._said)
        write(self._problem, value=words)
        write(self._problem.layout, display=None if words else "none")


class _Names:
    """Boxes to tick names in; as many as find room are, until one is touched."""

    def __init__(self, words: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._boxes: dict[str, Any] = {}
        self._touched = False
        self._writing = Writing()
        self.widget = _line(words, ())
        self._head = self.widget.children

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if not self._writing.here:
            self._touched = True
            self._wake()

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The names that are ticked; None for as many as find room."""
        return tuple(name for name, box in self._boxes.items() if box.value) if self._touched else None

    def refresh(self, names: Iterable[str], shown: Sequence[str]) -> None:
        """Offers these names, and ticks those that are shown."""
        if (names := list(names)) != list(self._boxes):
            self._boxes = {name: self._boxes.get(name) or self._box(name) for name in names}
            self.widget.children = (*self._head, *self._boxes.values())
        write(self.widget.layout, display=None if names else "none")
        if not self._touched:
            with self._writing.begun():
                for name, box in self._boxes.items():
                    write(box, value=name in shown)

    def _box(self, name: str) -> Any:
        box = _check(label(name), False)
        box.observe(self._on_choice, "value")
        free_all(box)
        return box


def _check(words: str, value: bool) -> Any:
    return widgets.Checkbox(value=value, description=words, indent=False)


def _line(words: str, controls: Iterable[Any]) -> Any:
    return row(classed(widgets.Label(words), "babysit-kind"), *controls, name="babysit-choice")


def _told(value: float, unit: str) -> str:
    if unit == "time":
        return clock(value)
    return f"{value:,.0f}" if unit == "step" else f"{value:.4g}"


def _number(words: str) -> float:
    """A number as a person writes it: `1,200`, `2.5`, or `1:30` for 90 seconds."""
    number = 0.0
    for part in words.replace(",", "").strip().split(":"):
        number = 60 * number + float(part)
    return number
