"""A dial: the slider of one hyperparameter, honest about what is asked for and what is in effect.

Its observers, which the page calls on any thread, only hand a command over. Its widgets
are written by the dashboard's pump alone, and its own value only when the value in effect
is another one than it shows.
"""

import html
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.journal import number
from babysit.scales import Scale


class Dial:
    """A slider for one hyperparameter, with what it was asked for and what is in effect.

    Args:
        name: The hyperparameter's.
        status: Its value and bounds, as `Run.status` tells them.
        send: Called with a new value; returns the command's id.
    """

    def __init__(self, name: str, status: Mapping[str, Any], send: Callable[[str, float], str]) -> None:
        self.name, self._send = name, send
        self._scale = Scale(status["low"], status["high"], status["kind"], status["whole"])
        self._in_effect = status["value"]
        self._asked: str | None = None
        self._refusal = ""
        self._writing = False
        self._asking = threading.Lock()  # the answer may come before `send` has returned
        label = name.replace("_", " ")
        self._exact: widgets.Text | None = None
        if name == "learning_rate":
            self._slider = _log_slider(label, self._scale, status["value"])
            self._exact = widgets.Text(value=number(status["value"]), continuous_update=False)
            self._exact.add_class("babysit-exact")
            self._exact.tooltip = f"{label}, exactly"
            self._exact.observe(self._typed, "value")
        else:
            self._slider = _value_slider(label, self._options(status["value"]), status["value"])
        self._slider.observe(self._moved, "value")
        self._slider.add_class(f"babysit-{name.replace('_', '-')}")
        self._note = widgets.HTML()
        self._note.add_class("babysit-note")
        children = [self._slider, self._exact, self._note] if self._exact else [self._slider, self._note]
        self.widget = widgets.Box(children)
        self.widget.add_class("babysit-dial")
        self.refresh(status)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _moved(self, change: Mapping[str, Any]) -> None:
        if not self._writing:
            self._ask(float(f"{change['new']:.3g}") if self._exact else change["new"])

    def _typed(self, change: Mapping[str, Any]) -> None:
        if self._writing:
            return
        try:
            self._ask(float(change["new"].replace(",", ".")))
        except ValueError:
            self._refusal = f"“{change['new']}” is not a number"

    def _ask(self, value: float) -> None:
        with self._asking:
            self._refusal = ""
            if value != self._in_effect:
                self._asked = self._send(self.name, value)

    # ------------------------------------------------------- called by the pump alone

    def answered(self, command: str | None, refusal: str | None) -> None:
        """Takes note of what came of a command."""
        with self._asking:
            if self._asked is not None and command == self._asked:
                self._asked = None
                self._refusal = refusal or ""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what is in effect, once nothing else is asked for."""
        value = status["value"]
        if self._asked is None:
            self._in_effect = value
            self._show(value)
        waiting = f"asked for {number(self._slider.value)}" if self._asked else ""
        settled = f"in effect since step {status['since']:,}"
        words = (
            f'<span class="babysit-refusal">{html.escape(self._refusal)}</span>'
            if self._refusal
            else waiting or settled
        )
        write(self._note, value=words)

    def _show(self, value: float) -> None:
        self._writing = True
        try:
            if self._exact is not None:
                write(self._exact, value=number(value))
                write(self._slider, value=min(max(value, self._scale.low), self._scale.high))
            elif self._slider.value != value:
                with self._slider.hold_sync():
                    self._slider.options = self._options(value)
                    self._slider.value = value
        finally:
            self._writing = False

    def _options(self, value: float) -> list[tuple[str, float]]:
        scale = self._scale
        if scale.whole:
            values = {2**power for power in range(64) if scale.low <= 2**power <= scale.high}
        else:
            values = set(scale.round_values())
        return [(number(option), option) for option in sorted(values | {value})]


def _log_slider(label: str, scale: Scale, value: float) -> widgets.FloatLogSlider:
    return widgets.FloatLogSlider(
        value=min(max(value, scale.low), scale.high),
        min=math.log10(scale.low),
        max=math.log10(scale.high),
        step=0.05,
        description=label,
        # A slider that updates while it is dragged rounds its own value when it is shown.
        continuous_update=False,
        readout=False,
    )


def _value_slider(label: str, options: list[tuple[str, float]], value: float) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(options=options, value=value, description=label, continuous_update=False)


def write(widget: widgets.Widget, **values: Any) -> None:
    """Sets what has changed and nothing else, so that nothing is sent for nothing."""
    for name, value in values.items():
        if getattr(widget, name) != value:
            setattr(widget, name, value)
