"""A dial: the slider of one hyperparameter, honest about what is asked for and what is in effect.

Its observers, which the page calls on any thread, only hand a command over. Its widgets
are written by the dashboard's pump alone, and its own value only when the value in effect
has become another one than it shows.
"""

import html
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.core.scale import Scale
from babysit.session.journal import number
from babysit.ui.widgets import Writing, button, classed, free_all, label, slug, ungrouped, unlabelled, write

# Twenty stops a decade, near enough to evenly spaced, each a number one would write down.
_FINE = (1, 1.1, 1.25, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9)


class Dial:
    """A slider for one hyperparameter, with a note of what it was asked for or what is in effect.

    Args:
        name: The hyperparameter's.
        status: Its value and bounds, as `Run.status` tells them.
        send: Called with the name and a new value; returns the command's id.
    """

    def __init__(self, name: str, status: Mapping[str, Any], send: Callable[[str, Any], str]) -> None:
        self.name, self._send = name, send
        self._scale = Scale(status["low"], status["high"], status["kind"], status["whole"], status.get("zero", False))
        self._in_effect = status["value"]
        self._shown, self._moving = status["value"], False  # whether it was another one than the time before
        self._start: Any = None  # the value with which the run began, once it is known
        self._asked: tuple[str, Any] | None = None  # command and value, until it is answered
        self._refusal = ""
        self._writing = Writing()
        self._asking = threading.Lock()  # the answer may come before `send` has returned
        self._build(status["value"])
        self.refresh(status)
        free_all(self.widget)

    def _build(self, value: float) -> None:
        words = label(self.name)
        self._slider = widgets.SelectionSlider(
            options=self._options(value), value=value, description=words, continuous_update=False, readout=False
        )
        self._slider.observe(self._moved, "value")
        self._exact = widgets.Text(value=_exactly(value), description=f"{words}, exactly", continuous_update=False)
        self._exact.observe(self._typed, "value")
        self._note = classed(widgets.HTML(), "babysit-note")
        self._reset = classed(button("reset", self._back_to_start, tooltip=f"{words} as at the start"), "babysit-reset")
        foot = classed(widgets.HBox([self._note, self._reset]), "babysit-foot")
        exact = classed(unlabelled(self._exact), "babysit-exact")
        self.widget = classed(
            widgets.Box([classed(self._slider, f"babysit-{slug(self.name)}"), exact, foot]), "babysit-dial"
        )

    # ---------------------------------- called by the page, on any thread: only hand over

    def _moved(self, change: Mapping[str, Any]) -> None:
        if not self._writing.here:
            self._ask(change["new"])

    def _typed(self, change: Mapping[str, Any]) -> None:
        if self._writing.here:
            return
        try:
            self._ask(_read(change["new"], self._scale.whole))
        except ValueError:
            self._refusal = f"“{change['new']}” is not a number"

    def _back_to_start(self) -> None:
        if self._start is not None:
            self._ask(self._start)

    def _ask(self, value: Any) -> None:
        with self._asking:
            self._refusal = ""
            if value != self._in_effect or self._asked is not None:
                self._asked = self._send(self.name, value), value

    # ------------------------------------------------------- called by the pump alone

    def answered(self, command: str | None, refusal: str | None) -> None:
        """Takes note of what came of a command."""
        with self._asking:
            if self._asked is not None and command == self._asked[0]:
                self._asked = None
                self._in_effect = math.nan  # not known before the next refresh: whatever is asked for is sent
                self._refusal = refusal or ""

    def settled(self) -> None:
        """Forgets what was refused, once training goes on otherwise."""
        with self._asking:
            self._refusal = ""

    def refresh(self, status: Mapping[str, Any], start: Any = None) -> None:
        """Shows what is in effect, once nothing else is asked for; and a way back to the value of the start."""
        with self._asking:
            asked, self._in_effect, self._start = self._asked, status["value"], start
            if asked is None:
                self._show(status["value"], status["follows_schedule"])
        write(self._note, value=self._words(status, asked))
        now = "schedule" if status["follows_schedule"] else status["value"]
        away = start is not None and now != start
        write(self._reset, disabled=not away, tooltip=f"{label(self.name)} back to {number(start)}, as at the start")
        write(self._reset.layout, visibility="visible" if away else "hidden")

    def _words(self, status: Mapping[str, Any], asked: tuple[str, Any] | None) -> str:
        if self._refusal:
            return f'<span class="babysit-refusal" role="alert">{html.escape(self._refusal)}</span>'
        if asked is not None:
            return f"asked for {html.escape(number(asked[1]))}"
        if status["follows_schedule"]:
            return "follows its schedule"
        return f"in effect since step {_steps(status['since'])}"

    def _show(self, value: float, scheduled: bool) -> None:
        moves = value != self._shown
        with self._writing.begun():
            exact = _exactly(value)
            write(self._exact, value=exact, tooltip=f"{label(self.name)}, exactly {exact}")
            if moves and (scheduled or self._moving):  # stops that came and went would take it out of a hand
                write(self._slider, value=self._nearest(value))
            elif self._slider.value != value:
                write(self._slider, options=self._options(value), value=value)
        self._shown, self._moving = value, moves

    def _nearest(self, value: float) -> Any:
        """The slider's stop that lies nearest to a value."""
        low, high, position = self._scale.low, self._scale.high, self._scale.position
        place = position(min(max(value, low), high))
        near = [stop for _, stop in self._slider.options if stop == 0 or low <= stop <= high]
        return min(near, key=lambda stop: abs(position(stop) - place))

    def _options(self, value: float) -> list[tuple[str, float]]:
        """The slider's stops, and the value in effect wherever it lies."""
        scale = self._scale
        if scale.whole:
            stops = {2**power for power in range(64) if scale.low <= 2**power <= scale.high}
        elif scale.kind == "linear":
            stops = {float(f"{stop:.4g}") for stop in scale.grid(51).tolist()}
        else:
            stops = set(scale.round_values(*([_FINE] if scale.kind == "log" else [])))
        return [(number(stop), stop) for stop in sorted(stops | {value})]


def _steps(since: int | list[int]) -> str:
    """A step, or those of several runs."""
    return " and ".join(f"{step:,}" for step in (since if isinstance(since, list) else [since]))


def _read(words: str, whole: bool) -> float:
    """A number as a person writes it: in one that is to be whole a comma may separate thousands, else it is decimal."""
    return float((ungrouped(words) if whole else words).replace(",", "."))


def _exactly(value: float) -> str:
    return f"{value:.15g}"
