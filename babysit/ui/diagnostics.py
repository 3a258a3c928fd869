"""Vital signs: what tells, beside the loss, how a training is; a switch, a few figures, a table of layers."""

import html
import math
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.ticks import figure
from babysit.ui.widgets import Send, button, classed, free_all, row, write

# Layers in sight, which one message carries.
LAYERS = 200
# Updates against weights, on a log scale: about 1e-3 is healthy (CS231n, Karpathy), what lies far from it is named.
_SHOWN, _HEALTHY = (1e-6, 1.0), (1e-4, 1e-2)
_OFF = (
    "Off. When on, one step every few seconds is looked at more closely. That takes at most {share:.0%} of the "
    "training's time, and changes no bit of its result."
)
_MEANINGS = {
    "gradient norm": "length of the gradient of the loss of one batch, before any clipping",
    "noise scale": "learning rate × (examples ÷ batch size − 1) ÷ (1 − momentum), to compare along a run: "
    "Smith & Le 2018",
    "memory": "of this process, in main memory",
    "processors busy": "with this process, on average since the last measurement",
}


class Vitals:
    """The tab of the vital signs.

    Args:
        send: Hands a command over.
    """

    def __init__(self, send: Send) -> None:
        self._send, self._on = send, False
        self._last: Mapping[str, Any] | None = None
        self._switch = button("Measure", self._on_switch)
        self._told, self._figures, self._notes = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._table = widgets.HTML()
        for words in (self._told, self._figures, self._notes):
            classed(words, "babysit-told")
        table = classed(widgets.Box([self._table]), "babysit-signs")
        parts = [row(self._switch, self._told), self._figures, table, self._notes]
        self.widget = classed(widgets.VBox(parts), "babysit-vitals")
        free_all(self.widget)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _on_switch(self) -> None:
        self._send("vitals", on=not self._on)

    # ------------------------------------------------------- called by the pump alone

    def take(self, table: str, row: Mapping[str, Any]) -> None:
        """Takes in a row of the record: of measurements, the last alone is kept."""
        if table == "vitals":
            self._last = row

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what was measured last, and how often it is."""
        vitals = status.get("vitals")
        self._on = bool(vitals and vitals["on"])
        write(self._switch, disabled=vitals is None, description="Stop measuring" if self._on else "Measure")
        write(self._told, value=html.escape(_told(vitals, self._last)))
        signs = self._last["signs"] if self._last else None
        write(self._figures, value=_figures(signs) if signs else "")
        write(self._table, value=_table(signs) if signs else "")
        write(self._notes, value=html.escape(_notes(signs)) if signs else "")


def _told(vitals: Mapping[str, Any] | None, last: Mapping[str, Any] | None) -> str:
    at = f"measured at step {last['step']:,} of {last['branch']}" if last else "nothing is measured yet"
    if vitals is None:
        return f"{at[0].upper()}{at[1:]}."
    if vitals["unable"]:
        return str(vitals["unable"])
    if not vitals["on"]:
        return _OFF.format(**vitals) + (f" Last {at}." if last else "")
    return f"One step every {vitals['every_s']:,.0f} s, at most {vitals['share']:.0%} of the time; {at}."


def _figures(signs: Mapping[str, Any]) -> str:
    found = {
        "gradient norm": _number(signs["gradient_norm"]),
        "noise scale": _number(signs["noise_scale"]),
        "memory": f"{figure(signs['memory_bytes'] / 1e9)} GB",
        "processors busy": f"{signs['cores']:.1f}",
    }
    return "".join(
        f'<span title="{html.escape(_MEANINGS[name])}">{name} <b>{value}</b></span>' for name, value in found.items()
    )


def _table(signs: Mapping[str, Any]) -> str:
    heads = ("layer", "update ÷ weight: about 1e-3 is healthy", "gradient norm", "dead ReLUs")
    head = "".join(f"<th>{words}</th>" for words in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, signs['layers'][:LAYERS]))}</tbody></table>"


def _row(layer: Mapping[str, Any]) -> str:
    cells = [html.escape(layer["name"]), _gauge(layer["ratio"]), _number(layer["gradient"], ""), _dead(layer)]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _gauge(ratio: float | None) -> str:
    """The ratio, where it lies on a log scale with the healthy stretch marked, and whether it is low or high."""
    if ratio is None:
        return ""
    verdict = "low" if ratio < _HEALTHY[0] else "high" if ratio > _HEALTHY[1] else ""
    low, high = map(math.log10, _SHOWN)
    place = (math.log10(max(ratio, _SHOWN[0])) - low) / (high - low)
    dot = f'<i style="left:{100 * min(place, 1):.0f}%"></i>'
    return f'<span>{_power(ratio)}</span><span class="babysit-gauge" aria-hidden="true">{dot}</span><em>{verdict}</em>'


def _dead(layer: Mapping[str, Any]) -> str:
    if not layer["units"]:
        return ""
    return f"{layer['dead'] / layer['units']:.0%} <small>{layer['dead']:,} of {layer['units']:,}</small>"


def _notes(signs: Mapping[str, Any]) -> str:
    said = list(signs["left_out"])
    if signs["examples"]:
        said.append(f"Dead: units that gave 0 for each of the last {signs['examples']:,} examples looked at.")
    if len(signs["layers"]) > LAYERS:
        said.append(f"The first {LAYERS} of {len(signs['layers']):,} layers are shown.")
    return " ".join(said)


def _number(value: float | None, nothing: str = "–") -> str:
    return nothing if value is None else figure(value)


def _power(value: float) -> str:
    """`1.2e-3`: always of the same width, so that a column does not jump."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"
