"""The sliders: one for each hyperparameter, honest about what is asked for and what is in effect."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.core.journal import Entry
from babysit.core.scale import Scale
from babysit.core.words import label, number
from babysit.ui.widgets import (
    PendingCommand,
    Send,
    button,
    classed,
    close,
    on_change,
    refusal_html,
    reset_subshell_routing,
    slug,
    typed_number,
    unlabelled,
    write,
    write_titles,
)

FIRST = ("learning_rate", "batch_size", "momentum", "beta_1")  # shown above the drawer
_SCALING = (("stays", "off"), ("changes in proportion", "linear"), ("changes with its square root", "square root"))
TRIAL_STEPS = 200  # of each value that is tried, unless the user says otherwise
# Twenty stops a decade, nearly evenly spaced, each a number that a person would write.
_FINE = (1, 1.1, 1.25, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9)


class HyperparameterSlider:
    """A slider with fixed stops, a box for the exact value, and a note of what was asked for or is in effect.

    Args:
        name: The name of the hyperparameter.
        status: Its value and bounds, as in `Run.status`.
        send: Sends a command.
    """

    def __init__(self, name: str, status: Mapping[str, Any], send: Send) -> None:
        self._name, self._send = name, send
        self._scale = Scale(status["low"], status["high"], status["kind"], status["whole"], status.get("zero", False))
        self._stops = _stops(self._scale)
        self._start: Any = None
        self._pending = PendingCommand()
        words, stops = label(name), [(number(stop), stop) for stop in self._stops]
        at = {"options": stops, "value": self._nearest(status["value"])}
        self._slider = widgets.SelectionSlider(**at, description=words, continuous_update=False, readout=False)
        self._exact = widgets.Text(description=f"{words}, exactly", continuous_update=False)
        on_change(self._slider, self._ask_for)
        on_change(self._exact, self._on_text)
        self._note = classed(widgets.HTML(), "babysit-note")
        self._try = classed(
            button("try", lambda: send("fan", name=name), tooltip=_trial(name, self._scale)), "babysit-try"
        )
        self._reset = classed(button("reset", lambda: self._ask_for(self._start)), "babysit-reset")
        foot = classed(widgets.HBox([self._note, self._reset, self._try]), "babysit-foot")
        exact = classed(unlabelled(self._exact), "babysit-exact")
        slider = classed(self._slider, f"babysit-{slug(name)}")
        self.widget = classed(widgets.Box([slider, exact, foot]), "babysit-hyperparameter")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_text(self, text: str) -> None:
        try:
            self._ask_for(typed_number(text, self._scale.whole))
        except ValueError:
            self._pending.refusal = f"“{text}” is not a number"

    def _ask_for(self, value: Any) -> None:
        self._pending.send(lambda: self._send("set", changes={self._name: value}, why=""), value)

    # ------------------------------------------------------- called by the pump alone

    def add(self, entry: Entry) -> None:
        """Reads an entry: the answer to the pending command, or another change, which ends an earlier refusal."""
        with self._pending.lock:
            self._pending.answer(entry)
            if entry.action != "refuse" and self._name in entry.changes:
                self._pending.refusal = ""

    def refresh(self, status: Mapping[str, Any], start: Any = None, can_try: bool | None = None) -> None:
        """Shows the value in effect, unless another one is pending.

        Args:
            status: The value and its bounds.
            start: The value to reset to.
            can_try: Whether values can be tried now; None where they never can.
        """
        value, now = status["value"], "schedule" if status["follows_schedule"] else status["value"]
        with self._pending.lock:
            asked, self._start = self._pending.value, start
            if asked is None:
                write(self._exact, value=f"{value:.15g}")
                write(self._slider, value=self._nearest(value))
        write(self._note, value=refusal_html(self._pending.refusal) or _note(status, asked))
        tooltip = f"sets {label(self._name)} back to {number(start)}, its value at the start"
        write(self._reset, disabled=start is None or now == start, tooltip=tooltip)
        write(self._try, disabled=not can_try)
        write(self._try.layout, display="none" if can_try is None else None)

    def _nearest(self, value: float) -> float:
        """The stop nearest to a value, wherever that lies."""
        low, high, position = self._scale.low, self._scale.high, self._scale.position
        if value in self._stops:
            return value
        return min(self._stops, key=lambda stop: abs(position(stop) - position(min(max(value, low), high))))


def _stops(scale: Scale) -> list[float]:
    if scale.whole:
        return sorted({scale.low, scale.high} | {2**n for n in range(64) if scale.low <= 2**n <= scale.high})
    if scale.kind == "linear":
        return [float(f"{stop:.4g}") for stop in scale.grid(51).tolist()]
    return scale.round_values(*([_FINE] if scale.kind == "log" else []))


def _trial(name: str, scale: Scale) -> str:
    of = f"1 − {label(name)}" if scale.kind == "log of 1−β" else label(name)
    values = f"a third of {of}, the same and three times as much"
    return f"tries {values} from here, {TRIAL_STEPS} steps each; then asks which to keep"


def _note(status: Mapping[str, Any], asked: Any) -> str:
    if asked is not None:
        return f"asked for {number(asked)}"
    if status["follows_schedule"]:
        return "follows its schedule"
    return f"in effect since step {status['since']:,}"


class Sliders:
    """Every live hyperparameter of a run, and the coupling of learning rate and batch size; most are in a drawer.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sliders: dict[str, HyperparameterSlider] = {}
        self._bounds: list[tuple[str, float, float]] = []  # the sliders were built for these
        self._starts: dict[str, Any] = {}  # the values with which the run began
        self._pending = PendingCommand()  # of the coupling
        self._scaling = widgets.Dropdown(
            options=_SCALING, value="off", description="learning rate when batch size changes"
        )
        on_change(self._scaling, self._on_scaling)
        self._first, self._others = (classed(widgets.VBox(), "babysit-sliders") for _ in range(2))
        self._derived = classed(widgets.HTML(), "babysit-derived")
        rest = widgets.VBox([self._others, self._scaling])
        self._drawer = classed(widgets.Accordion([rest], selected_index=None), "babysit-drawer")
        self.widget = classed(widgets.VBox([self._first, self._derived, self._drawer]), "babysit-controls")

    def _on_scaling(self, rule: str) -> None:
        self._pending.send(lambda: self._send("set", changes={"scaling": rule}, why=""), rule)

    # ------------------------------------------------------- called by the pump alone

    def add(self, entry: Entry) -> None:
        """Reads an entry: the values of the start, or the answer to a command."""
        self._pending.answer(entry)
        for slider in self._sliders.values():
            slider.add(entry)
        for name, (old, new) in entry.changes.items():
            if old is None and entry.action == "fit":
                self._starts.setdefault(name, new)
            elif old == "schedule":  # it gave the first values
                self._starts[name] = old

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the values in effect."""
        found, scaling = status["hyperparameters"], status["couplings"].get("scaling", "off")
        bounds = [(name, value["low"], value["high"]) for name, value in found.items()]
        if bounds != self._bounds:
            self._bounds = bounds
            self._rebuild(found)
        can_try = status["state"] in ("running", "paused") if status.get("foresight") else None
        for name, value in found.items():
            self._sliders[name].refresh(value, self._starts.get(name), can_try)
        write(self._derived, value=_derived({name: value["value"] for name, value in found.items()}))
        with self._pending.lock:
            if self._pending.value is None:
                write(self._scaling, value=scaling)
        others = len(self._others.children)
        more = f"{others} more hyperparameter{'s' if others > 1 else ''} · " if others else ""
        rule = "off" if scaling == "off" else f"learning rate follows batch size, {scaling}"
        write_titles(self._drawer, f"{more}coupling: {rule}")

    def _rebuild(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        replaced = self._sliders
        self._sliders = {name: HyperparameterSlider(name, about, self._send) for name, about in found.items()}
        shown = {name: slider.widget for name, slider in self._sliders.items()}
        first = [name for name in shown if name.rpartition(".")[2] in FIRST]
        self._first.children = [shown[name] for name in first]
        self._others.children = [shown[name] for name in shown if name not in first]
        reset_subshell_routing(self.widget)
        for slider in replaced.values():
            close(slider.widget)


def _derived(values: Mapping[str, float]) -> str:
    """Two numbers that describe the steps of a training: its effective learning rate, and that of an example."""
    rate, momentum, size = (values.get(name) for name in ("learning_rate", "momentum", "batch_size"))
    lines = {}
    if rate is not None and momentum is not None and momentum < 1:
        lines["learning rate ÷ (1 − momentum)"] = rate / (1 - momentum)
    if rate is not None and size:
        lines["learning rate ÷ batch size"] = rate / size
    return "".join(f"<div><span>{words}</span><span>{value:.3g}</span></div>" for words, value in lines.items())
