"""Diagnostics: how a training is, beside the loss; a switch, a few figures, a table of layers."""

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.widgets import Send, button, caption, classed, row, write

LAYERS = 200  # of the layers only the first are shown, as one message carries them
_HEALTHY = (1e-4, 1e-2)  # update ÷ weight: about 1e-3 is (CS231n, Karpathy), what is far from it is flagged
_OFF = (
    "Off. When on, one step every few seconds is examined more closely. That takes at most {share:.0%} of the "
    "training's time and does not change its result."
)
_ON = "One step every {every_s:,.0f} s, at most {share:.0%} of the time."
_HEAD = "<tr><th>layer</th><th>update ÷ weight: about 1e-3 is healthy</th><th>gradient norm</th></tr>"


class DiagnosticsPanel:
    """The tab of the diagnostics.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._switch = button("Measure", lambda: send("diagnostics", on=self._switch.description == "Measure"))
        self._summary, self._figures, self._table = caption(), caption(), widgets.HTML()
        table = classed(widgets.Box([self._table]), "babysit-layers")
        parts = [row(self._switch, self._summary), self._figures, table]
        self.widget = classed(widgets.VBox(parts), "babysit-diagnostics")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the last measurement, and how often there is one; called by the pump alone."""
        measuring = status.get("diagnostics")
        on = bool(measuring and measuring["on"])
        write(self._switch, disabled=measuring is None, description="Stop measuring" if on else "Measure")
        if measuring is None:
            return
        last = measuring["latest"]
        words = measuring["unable"] or (_ON if on else _OFF).format(**measuring)
        measured = f"Measured at step {last['step']:,}." if last else "Nothing has been measured yet."
        write(self._summary, value=html.escape(f"{words} {measured}"))
        if last:
            write(self._figures, value=_figures(last["signs"]))
            write(self._table, value=_table(last["signs"]["layers"]))


def _figures(signs: Mapping[str, Any]) -> str:
    return f"<span>gradient norm, before any clipping <b>{_number(signs['gradient_norm'])}</b></span>"


def _table(layers: list[Mapping[str, Any]]) -> str:
    rows = [(html.escape(one["name"]), _ratio(one["ratio"]), _number(one["gradient"])) for one in layers[:LAYERS]]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    return f"<table><thead>{_HEAD}</thead><tbody>{body}</tbody></table>"


def _ratio(ratio: float | None) -> str:
    """The ratio, and whether it is low or high."""
    if ratio is None:
        return ""
    verdict = "low" if ratio < _HEALTHY[0] else "high" if ratio > _HEALTHY[1] else ""
    return f"<span>{ratio:.1e}</span><em>{verdict}</em>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
