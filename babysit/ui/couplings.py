"""Couplings: whether the learning rate follows the batch size."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.widgets import PendingCommand, Send, WriteGuard, classed, write

_SCALING = (("does not follow", "off"), ("in proportion", "linear"), ("by its square root", "square root"))


class Couplings:
    """A drawer with the rule by which the learning rate follows the batch size.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.pending = PendingCommand()
        self._guard = WriteGuard()
        self._scaling = widgets.Dropdown(options=_SCALING, value="off", description="learning rate at a new batch size")
        self._scaling.observe(self._on_choice, "value")
        self._note = classed(widgets.HTML(), "babysit-note")
        drawer = widgets.Accordion([widgets.VBox([self._scaling, self._note])], selected_index=None)
        self.widget = classed(drawer, "babysit-drawer", "babysit-couplings")

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if not self._guard.active:
            value = change["new"]
            self.pending.send(lambda: self._send("set", changes={"scaling": value}, why=""), value)

    def refresh(self, settings: Mapping[str, Any]) -> None:
        """Shows the rule in effect, unless another one is pending; called by the pump alone."""
        scaling = settings.get("scaling", "off")
        with self.pending.lock, self._guard.writing():
            if self.pending.value is None:
                write(self._scaling, value=scaling)
        rule = "off" if scaling == "off" else f"learning rate follows batch size, {scaling}"
        write(self.widget, titles=(f"couplings: {rule}",))
        write(self._note, value=self.pending.refusal)
