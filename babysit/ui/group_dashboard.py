"""One dashboard for several runs: shared sliders and buttons, a line for each, their curves in one chart."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from babysit.ui.buttons import Transport
from babysit.ui.chart import FRAME_SHARE, FRAME_WAIT_S
from babysit.ui.dashboard import STYLE, Dashboard, Run
from babysit.ui.header import Head
from babysit.ui.overlay import COLOURS, Overlay
from babysit.ui.sliders import Sliders
from babysit.ui.widgets import Panel, classed


class SharedDashboard(Dashboard):
    """The screen of several runs that are steered as one.

    Args:
        run: All of them, as `babysit.Together` is: rows say of which they are as `run`, `answers`
            tell what came of a command, and the status has that of each under `runs`.
        names: Of the runs.
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._names = names
        super().__init__(run)

    def _build(self) -> None:
        self._chart = Overlay(len(self._names))
        heads, sliders = _Heads(len(self._names)), Sliders(self._send)
        transport = Transport(self._send, lambda: self._run.status()["state"])
        self._listeners: list[Panel] = [sliders, transport]
        self._commanding = self._listeners.copy()
        self._panels: list[Any] = [*self._listeners, heads]
        self._message = widgets.HTML()
        self._image = widgets.Image(format="png", value=self._chart.png())
        self._image.layout.width = "100%"
        self._draw_later, self._next_frame = False, 0.0
        body = [sliders.widget, classed(widgets.Box([self._image]), "babysit-chart")]
        parts = [
            widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
            heads.widget,
            transport.widget,
            classed(widgets.Box([self._message]), "babysit-message"),
            classed(widgets.HBox(body), "babysit-body"),
            self._watch.widget,
        ]
        self.widget = classed(widgets.VBox(parts), "babysit")

    # ------------------------------------------------------- called by the pump alone

    def _take_in(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._chart.add({table: found for table, found in rows.items() if table != "answers"})
        self._draw_later = True
        first = {table: [row for row in rows[table] if row["run"] == 0] for table in ("branches", "checkpoints")}
        for table, found in (first | {"entries": rows["answers"]}).items():
            for row in found:
                for panel in self._listeners:
                    self._attempt(panel.take, table, row)
        for row in rows["answers"]:
            self._refusal = str(row["why"]) if row["action"] == "refuse" else ""

    def _draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._draw_later and (at_once or (now >= self._next_frame and self._watch.looked_at)):
            began = time.thread_time()
            self._image.value = self._chart.png()
            self._draw_later = False
            self._next_frame = now + min((time.thread_time() - began) / FRAME_SHARE, FRAME_WAIT_S)


class _Heads:
    """A line for each run, in the colour of its curves."""

    def __init__(self, runs: int) -> None:
        self._heads = [Head() for _ in range(runs)]
        for head in self._heads[1:]:  # the page has one title
            head.widget.children = [child for child in head.widget.children if child is not head.page]
        lines = []
        for head, colour in zip(self._heads, COLOURS * runs, strict=False):
            sign = f'<span class="babysit-sign" style="color: {colour}">━━━</span>'
            head.widget.children = [widgets.HTML(sign), *head.widget.children]
            lines.append(head.widget)
        self.widget = classed(widgets.VBox(lines), "babysit-heads")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows how each stands."""
        for head, one in zip(self._heads, status["runs"], strict=True):
            head.refresh(one)
