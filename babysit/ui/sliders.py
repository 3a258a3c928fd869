"""The sliders: a dial for each hyperparameter, those turned seldom in a drawer, and what follows from them."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.session.journal import number
from babysit.ui.couplings import Couplings
from babysit.ui.slider import Dial
from babysit.ui.widgets import Send, classed, close, write

# Dials in sight; the others are in a drawer.
FIRST = ("learning_rate", "batch_size", "momentum", "beta_1")
_GOES_ON = ("fit", "resume", "rewind")


class Sliders:
    """Every live hyperparameter of a run.

    Args:
        send: Hands a command over.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._dials: dict[str, Dial] = {}
        self._bounds: list[tuple[str, float, float]] = []  # that the dials were built for
        self._starts: dict[str, Any] = {}  # the values with which the run began
        self._derived = classed(widgets.HTML(), "babysit-derived")
        self._couplings = Couplings(send)
        self._drawer: Any = None  # with the dials that are turned seldom
        self.widget = classed(widgets.VBox(), "babysit-controls")

    def _turn(self, name: str, value: Any) -> str:
        return self._send("set", changes={name: value}, why="")

    # ------------------------------------------------------- called by the pump alone

    def take(self, table: str, row: Mapping[str, Any]) -> None:
        """Takes in a row of the record."""
        if table == "branches" and row["parent"] is None:
            self._starts = dict(row.get("hyperparameters") or {}) | self._starts
        elif table == "entries":
            refusal = row["why"] if row["action"] == "refuse" else None
            for name, dial in self._dials.items():
                dial.answered(row["command"], refusal)
                if refusal is None and (name in row["changes"] or row["action"] in _GOES_ON):
                    dial.settled()
            self._couplings.answered(row["command"], refusal)
            for name, (old, _) in row["changes"].items():
                if old == "schedule":  # which gave the first values
                    self._starts[name] = "schedule"

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what is in effect."""
        found = status["hyperparameters"]
        if [(name, value["low"], value["high"]) for name, value in found.items()] != self._bounds:
            self._bounds = [(name, value["low"], value["high"]) for name, value in found.items()]
            replaced = [*(dial.widget for dial in self._dials.values()), *filter(None, [self._drawer])]
            self._dials = {name: Dial(name, value, self._turn) for name, value in found.items()}
            self.widget.children = self._arranged()
            for widget in replaced:
                close(widget)
        for name, value in found.items():
            start = "schedule" if value["follows_schedule"] else self._starts.get(name)
            self._dials[name].refresh(value, start)
        write(self._derived, value=_derived({name: value["value"] for name, value in found.items()}))
        self._couplings.refresh(status["couplings"])

    def _arranged(self) -> list[Any]:
        """The dials everybody turns, what follows from them, and a drawer with the others, closed to begin with."""
        first = [dial.widget for name, dial in self._dials.items() if name.rpartition(".")[2] in FIRST]
        others = [dial.widget for name, dial in self._dials.items() if name.rpartition(".")[2] not in FIRST]
        self._drawer = None
        if others:
            title = f"{len(others)} more hyperparameter{'s' if len(others) > 1 else ''}"
            drawer = widgets.Accordion([widgets.VBox(others)], titles=[title], selected_index=None)
            self._drawer = classed(drawer, "babysit-drawer")
        drawers = [self._drawer, self._couplings.widget if self._dials else None]
        return [*first, self._derived, *filter(None, drawers)]


def _derived(values: Mapping[str, float]) -> str:
    """Two numbers that tell how a training steps: its effective rate, and the scale of its noise."""
    rate, momentum, size = (values.get(name) for name in ("learning_rate", "momentum", "batch_size"))
    lines = []
    if rate is not None and momentum is not None and momentum < 1:
        lines.append(("learning rate ÷ (1 − momentum)", rate / (1 - momentum)))
    if rate is not None and size:
        lines.append(("learning rate ÷ batch size", rate / size))
    return "".join(
        f"<div><span>{words}</span><span>{number(float(f'{value:.3g}'))}</span></div>" for words, value in lines
    )
