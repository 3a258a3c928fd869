"""The sliders: one for each hyperparameter, most of them in a drawer, and numbers derived from them."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.core.words import number
from babysit.ui.couplings import Couplings
from babysit.ui.slider import HyperparameterSlider
from babysit.ui.widgets import Send, classed, close, reset_subshell_routing, write

FIRST = ("learning_rate", "batch_size", "momentum", "beta_1")  # shown above the drawer
_ENDS_REFUSAL = ("fit", "resume", "rewind")


class Sliders:
    """Every live hyperparameter of a run.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sliders: dict[str, HyperparameterSlider] = {}
        self._bounds: list[tuple[str, float, float]] = []  # the sliders were built for these
        self._starts: dict[str, Any] = {}  # the values with which the run began
        self._derived = classed(widgets.HTML(), "babysit-derived")
        self._couplings = Couplings(send)
        self._drawer: Any = None
        self.widget = classed(widgets.VBox(), "babysit-controls")

    def _set(self, name: str, value: Any) -> str:
        return self._send("set", changes={name: value}, why="")

    # ------------------------------------------------------- called by the pump alone

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Reads a row of the log: the values of the start, or the answer to a command."""
        if table == "branches" and row["parent"] is None:
            self._starts = dict(row.get("hyperparameters") or {}) | self._starts
        elif table == "entries":
            refusal = str(row["why"]) if row["action"] == "refuse" else None
            for name, slider in self._sliders.items():
                settles = refusal is None and (name in row["changes"] or row["action"] in _ENDS_REFUSAL)
                slider.answer(row["command"], refusal, settles)
            self._couplings.pending.answer(row["command"], refusal)
            for name, (old, _) in row["changes"].items():
                if old == "schedule":  # it gave the first values
                    self._starts[name] = "schedule"

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the values in effect."""
        found = status["hyperparameters"]
        bounds = [(name, value["low"], value["high"]) for name, value in found.items()]
        if bounds != self._bounds:
            self._bounds = bounds
            replaced = [*(slider.widget for slider in self._sliders.values()), *filter(None, [self._drawer])]
            self._sliders = {name: HyperparameterSlider(name, value, self._set) for name, value in found.items()}
            self.widget.children = self._arranged()
            reset_subshell_routing(self.widget)
            for widget in replaced:
                close(widget)
        for name, value in found.items():
            self._sliders[name].refresh(value, "schedule" if value["follows_schedule"] else self._starts.get(name))
        write(self._derived, value=_derived({name: value["value"] for name, value in found.items()}))
        self._couplings.refresh(status["couplings"])

    def _arranged(self) -> list[Any]:
        """The main sliders, the derived numbers, and drawers, closed to begin with."""
        first = [slider.widget for name, slider in self._sliders.items() if name.rpartition(".")[2] in FIRST]
        others = [slider.widget for name, slider in self._sliders.items() if name.rpartition(".")[2] not in FIRST]
        self._drawer = None
        if others:
            title = f"{len(others)} more hyperparameter{'s' if len(others) > 1 else ''}"
            drawer = widgets.Accordion([widgets.VBox(others)], titles=[title], selected_index=None)
            self._drawer = classed(drawer, "babysit-drawer")
        return [*first, self._derived, *filter(None, [self._drawer, self._sliders and self._couplings.widget])]


def _derived(values: Mapping[str, float]) -> str:
    """Two numbers that describe the steps of a training: its effective learning rate, and that of an example."""
    rate, momentum, size = (values.get(name) for name in ("learning_rate", "momentum", "batch_size"))
    lines = []
    if rate is not None and momentum is not None and momentum < 1:
        lines.append(("learning rate ÷ (1 − momentum)", rate / (1 - momentum)))
    if rate is not None and size:
        lines.append(("learning rate ÷ batch size", rate / size))
    return "".join(
        f"<div><span>{words}</span><span>{number(float(f'{value:.3g}'))}</span></div>" for words, value in lines
    )
