"""The slider of one hyperparameter, honest about what is asked for and what is in effect.

Its observers, which the page calls on any thread, only send a command. Only the dashboard's
pump writes its widgets, and its own value only when the value in effect differs from it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.core.scale import Scale
from babysit.core.words import label, number
from babysit.ui.widgets import (
    PendingCommand,
    WriteGuard,
    button,
    classed,
    refusal_html,
    slug,
    ungrouped,
    unlabelled,
    write,
)

# Twenty stops a decade, nearly evenly spaced, each a number that a person would write.
_FINE = (1, 1.1, 1.25, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9)


class HyperparameterSlider:
    """A slider, a box for the exact value, and a note of what was asked for or what is in effect.

    Args:
        name: The name of the hyperparameter.
        status: Its value and bounds, as in `Run.status`.
        send: Called with the name and a new value; returns the command's id.
    """

    def __init__(self, name: str, status: Mapping[str, Any], send: Callable[[str, Any], str]) -> None:
        self.name, self._send = name, send
        self._scale = Scale(status["low"], status["high"], status["kind"], status["whole"], status.get("zero", False))
        self._in_effect = self._shown = status["value"]
        self._moving = False  # whether the value in effect changed at the last refresh
        self._start: Any = None  # the value with which the run began, once it is known
        self._pending = PendingCommand()
        self._guard = WriteGuard()
        self._build(status["value"])
        self.refresh(status)

    def _build(self, value: float) -> None:
        words = label(self.name)
        self._slider = widgets.SelectionSlider(
            options=self._options(value), value=value, description=words, continuous_update=False, readout=False
        )
        self._slider.observe(self._on_move, "value")
        self._exact = widgets.Text(value=_exactly(value), description=f"{words}, exactly", continuous_update=False)
        self._exact.observe(self._on_text, "value")
        self._note = classed(widgets.HTML(), "babysit-note")
        self._reset = classed(button("reset", self._on_reset, tooltip=f"{words} as at the start"), "babysit-reset")
        foot = classed(widgets.HBox([self._note, self._reset]), "babysit-foot")
        exact = classed(unlabelled(self._exact), "babysit-exact")
        slider = classed(self._slider, f"babysit-{slug(self.name)}")
        self.widget = classed(widgets.Box([slider, exact, foot]), "babysit-hyperparameter")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_move(self, change: Mapping[str, Any]) -> None:
        if not self._guard.active:
            self._ask_for(change["new"])

    def _on_text(self, change: Mapping[str, Any]) -> None:
        if self._guard.active:
            return
        try:
            self._ask_for(_parsed(change["new"], self._scale.whole))
        except ValueError:
            self._pending.refusal = refusal_html(f"“{change['new']}” is not a number")

    def _on_reset(self) -> None:
        if self._start is not None:
            self._ask_for(self._start)

    def _ask_for(self, value: Any) -> None:
        with self._pending.lock:
            self._pending.refusal = ""
            if value != self._in_effect or self._pending.value is not None:
                self._pending.send(lambda: self._send(self.name, value), value)

    # ------------------------------------------------------- called by the pump alone

    def answer(self, command: str | None, refusal: str | None, ends_refusal: bool) -> None:
        """Reads what an entry says of the pending command; `ends_refusal` hides an earlier refusal."""
        with self._pending.lock:
            if self._pending.answer(command, refusal):
                self._in_effect = math.nan  # unknown until the next refresh, so that any value is sent
            if ends_refusal:
                self._pending.refusal = ""

    def refresh(self, status: Mapping[str, Any], start: Any = None) -> None:
        """Shows the value in effect, unless another one is pending; `start` is the value to reset to."""
        with self._pending.lock:
            asked, self._in_effect, self._start = self._pending.value, status["value"], start
            if asked is None:
                self._show(status["value"], status["follows_schedule"])
        write(self._note, value=self._pending.refusal or _note(status, asked))
        now = "schedule" if status["follows_schedule"] else status["value"]
        away = start is not None and now != start
        write(self._reset, disabled=not away, tooltip=f"{label(self.name)} back to {number(start)}, as at the start")
        write(self._reset.layout, visibility="visible" if away else "hidden")

    def _show(self, value: float, scheduled: bool) -> None:
        moves = value != self._shown
        with self._guard.writing():
            exact = _exactly(value)
            write(self._exact, value=exact, tooltip=f"{label(self.name)}, exactly {exact}")
            if moves and (scheduled or self._moving):  # new stops would take the handle from a user who drags it
                write(self._slider, value=self._nearest(value))
            elif self._slider.value != value:
                write(self._slider, options=self._options(value), value=value)
        self._shown, self._moving = value, moves

    def _nearest(self, value: float) -> Any:
        """The stop nearest to a value."""
        low, high, position = self._scale.low, self._scale.high, self._scale.position
        place = position(min(max(value, low), high))
        near = [stop for _, stop in self._slider.options if stop == 0 or low <= stop <= high]
        return min(near, key=lambda stop: abs(position(stop) - place))

    def _options(self, value: float) -> list[tuple[str, float]]:
        """The stops, and the value in effect wherever it lies."""
        scale = self._scale
        if scale.whole:
            stops = {2**power for power in range(64) if scale.low <= 2**power <= scale.high}
        elif scale.kind == "linear":
            stops = {float(f"{stop:.4g}") for stop in scale.grid(51).tolist()}
        else:
            stops = set(scale.round_values(*([_FINE] if scale.kind == "log" else [])))
        return [(number(stop), stop) for stop in sorted(stops | {value})]


def _note(status: Mapping[str, Any], asked: Any) -> str:
    if asked is not None:
        return f"asked for {number(asked)}"
    if status["follows_schedule"]:
        return "follows its schedule"
    since = status["since"] if isinstance(status["since"], list) else [status["since"]]  # of several runs
    return f"in effect since step {' and '.join(f'{step:,}' for step in since)}"


def _parsed(text: str, whole: bool) -> float:
    """A number as typed: a comma may separate thousands of a whole number, else it is a decimal comma."""
    return float((ungrouped(text) if whole else text).replace(",", "."))


def _exactly(value: float) -> str:
    return f"{value:.15g}"
