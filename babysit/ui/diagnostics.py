"""Diagnostics: how a training is, beside the loss; a switch, a few figures, a table of layers."""

import html
import math
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.ticks import three_digits
from babysit.ui.widgets import Send, button, caption, classed, row, write

LAYERS = 200  # layers shown, which one message carries
# Update ÷ weight on a log scale: about 1e-3 is healthy (CS231n, Karpathy), what is far from it is flagged.
_SHOWN, _HEALTHY = (1e-6, 1.0), (1e-4, 1e-2)
_OFF = (
    "Off. When on, one step every few seconds is examined more closely. That takes at most {share:.0%} of the "
    "training's time, and changes no bit of its result."
)
_MEANINGS = {
    "gradient norm": "length of the gradient of the loss of one batch, before any clipping",
    "memory": "of this process, in main memory",
    "busy processors": "of this process, on average since the last measurement",
}


class DiagnosticsPanel:
    """The tab of the diagnostics.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send, self._on = send, False
        self._last: Mapping[str, Any] | None = None
        self._switch = button("Measure", self._on_switch)
        self._summary, self._figures, self._notes = caption(), caption(), caption()
        self._table = widgets.HTML()
        table = classed(widgets.Box([self._table]), "babysit-layers")
        parts = [row(self._switch, self._summary), self._figures, table, self._notes]
        self.widget = classed(widgets.VBox(parts), "babysit-diagnostics")

    def _on_switch(self) -> None:
        self._send("diagnostics", on=not self._on)

    # ------------------------------------------------------- called by the pump alone

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Does nothing: measurements are in the status."""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the last measurement, and how often there is one."""
        measuring = status.get("diagnostics")
        self._last = measuring and measuring["latest"]
        self._on = bool(measuring and measuring["on"])
        write(self._switch, disabled=measuring is None, description="Stop measuring" if self._on else "Measure")
        write(self._summary, value=html.escape(_summary(measuring, self._last)))
        if self._last is not None:
            signs = self._last["signs"]
            write(self._figures, value=_figures(signs))
            write(self._table, value=_table(signs["layers"]))
            write(self._notes, value=html.escape(_notes(signs)))


def _summary(measuring: Mapping[str, Any] | None, last: Mapping[str, Any] | None) -> str:
    at = f"Measured at step {last['step']:,}." if last else "Nothing is measured yet."
    if measuring is None:
        return at
    if measuring["unable"]:
        return str(measuring["unable"])
    if not measuring["on"]:
        return _OFF.format(**measuring) + (f" {at}" if last else "")
    return f"One step every {measuring['every_s']:,.0f} s, at most {measuring['share']:.0%} of the time. {at}"


def _figures(signs: Mapping[str, Any]) -> str:
    found = {
        "gradient norm": _number(signs["gradient_norm"], "–"),
        "memory": f"{three_digits(signs['memory_bytes'] / 1e9)} GB",
        "busy processors": f"{signs['cores']:.1f}",
    }
    return "".join(f'<span title="{_MEANINGS[name]}">{name} <b>{value}</b></span>' for name, value in found.items())


def _table(layers: list[Mapping[str, Any]]) -> str:
    heads = ("layer", "update ÷ weight: about 1e-3 is healthy", "gradient norm")
    head = "".join(f"<th>{words}</th>" for words in heads)
    rows = [(html.escape(one["name"]), _gauge(one["ratio"]), _number(one["gradient"])) for one in layers[:LAYERS]]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _gauge(ratio: float | None) -> str:
    """The ratio, its place on a log scale with the healthy range shaded, and whether it is low or high."""
    if ratio is None:
        return ""
    verdict = "low" if ratio < _HEALTHY[0] else "high" if ratio > _HEALTHY[1] else ""
    low, high = map(math.log10, _SHOWN)
    place = (math.log10(max(ratio, _SHOWN[0])) - low) / (high - low)
    dot = f'<i style="left:{100 * min(place, 1):.0f}%"></i>'
    return f'<span>{_power(ratio)}</span><span class="babysit-gauge" aria-hidden="true">{dot}</span><em>{verdict}</em>'


def _notes(signs: Mapping[str, Any]) -> str:
    notes = list(signs["left_out"])
    if len(signs["layers"]) > LAYERS:
        notes.append(f"The first {LAYERS} of {len(signs['layers']):,} layers are shown.")
    return " ".join(notes)


def _number(value: float | None, nothing: str = "") -> str:
    return nothing if value is None else three_digits(value)


def _power(value: float) -> str:
    """`1.2e-3`: always of the same width, so that a column does not jump."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}" if value else "0"
