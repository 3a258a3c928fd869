"""A dial: the slider of one hyperparameter, honest about what is asked for and what is in effect.

Its observers, which the page calls on any thread, only hand a command over. Its widgets
are written by the dashboard's pump alone, and its own value only when the value in effect
has become another one than it shows.
"""

import html
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.journal import number
from babysit.scales import Scale

# Those whose stops are fine enough without a box for the exact value.
COARSE = ("batch_size", "momentum", "beta_1")
# Twenty stops a decade, near enough to evenly spaced, each a number one would write down.
_FINE = (1, 1.1, 1.25, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9)


class Dial:
    """A slider for one hyperparameter, with a note of what it was asked for or what is in effect.

    Args:
        name: The hyperparameter's.
        status: Its value and bounds, as `Run.status` tells them.
        send: Called with the name and a new value; returns the command's id.
    """

    def __init__(self, name: str, status: Mapping[str, Any], send: Callable[[str, float], str]) -> None:
        self.name, self._send = name, send
        self._scale = Scale(status["low"], status["high"], status["kind"], status["whole"], status.get("zero", False))
        self._in_effect = status["value"]
        self._asked: tuple[str, float] | None = None  # command and value, until it is answered
        self._refusal = ""
        self._writer: int | None = None  # the thread that is writing the controls
        self._asking = threading.Lock()  # the answer may come before `send` has returned
        label, exact = name.replace("_", " ").replace(".", " "), name not in COARSE
        self._slider = widgets.SelectionSlider(
            options=self._options(status["value"]),
            value=status["value"],
            description=label,
            continuous_update=False,
            readout=not exact,
        )
        self._slider.observe(self._moved, "value")
        self._slider.add_class(f"babysit-{re.sub('[^a-z0-9]+', '-', name.lower())}")
        self._exact = widgets.Text(
            value=_exactly(status["value"]), continuous_update=False, tooltip=f"{label}, exactly"
        )
        self._exact.add_class("babysit-exact")
        self._exact.observe(self._typed, "value")
        self._note = widgets.HTML()
        self._note.add_class("babysit-note")
        self.widget = widgets.Box([self._slider, self._exact, self._note] if exact else [self._slider, self._note])
        self.widget.add_class("babysit-dial")
        self.refresh(status)
        free(self._slider)
        free(self._exact)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _moved(self, change: Mapping[str, Any]) -> None:
        if self._writer != threading.get_ident():
            self._ask(change["new"])

    def _typed(self, change: Mapping[str, Any]) -> None:
        if self._writer == threading.get_ident():
            return
        try:
            self._ask(float(change["new"].replace(",", ".")))
        except ValueError:
            self._refusal = f"“{change['new']}” is not a number"

    def _ask(self, value: float) -> None:
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
                self._refusal = refusal or ""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what is in effect, once nothing else is asked for."""
        with self._asking:
            asked, self._in_effect = self._asked, status["value"]
            if asked is None:
                self._show(status["value"])
        if self._refusal:
            words = f'<span class="babysit-refusal">{html.escape(self._refusal)}</span>'
        elif asked is not None:
            words = f"asked for {number(asked[1])}"
        elif status["follows_schedule"]:
            words = "follows its schedule"
        else:
            words = f"in effect since step {status['since']:,}"
        write(self._note, value=words)

    def _show(self, value: float) -> None:
        self._writer = threading.get_ident()
        try:
            write(self._exact, value=_exactly(value))
            if self._slider.value != value:
                write(self._slider, options=self._options(value), value=value)
        finally:
            self._writer = None

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


def _exactly(value: float) -> str:
    return f"{value:.15g}"


def write(widget: widgets.Widget, **values: Any) -> None:
    """Sets what has changed and nothing else, in one message, and none for nothing."""
    changed = {name: value for name, value in values.items() if getattr(widget, name) != value}
    if changed:
        with widget.hold_sync():
            for name, value in changed.items():
                setattr(widget, name, value)
        free(widget)


def free(widget: widgets.Widget) -> None:
    """Lets the page say on which thread of the kernel it wants to be heard.

    An ipykernel with subshells hands a widget's messages to the thread that wrote to it
    last, which may be busy with a cell; where none has, to the one the page names.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)
