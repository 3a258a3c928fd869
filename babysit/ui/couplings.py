"""Couplings: switches for what follows what, as `Panda.set` knows them."""

import html
import threading
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.widgets import Send, Writing, classed, free_all, write

_SCALING = (("does not follow", "off"), ("in proportion", "linear"), ("by its square root", "square root"))


class Couplings:
    """Whether the learning rate follows the batch size, and the velocities the learning rate.

    Args:
        send: Hands a command over.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._asked: dict[str, tuple[str, Any]] = {}  # setting -> command and value, until it is answered
        self._asking = threading.Lock()
        self._refusal = ""
        self._writing = Writing()
        scaling = widgets.Dropdown(options=_SCALING, value="off", description="when the batch size changes, it")
        correction = widgets.Checkbox(description="rescale velocities when the learning rate jumps", indent=False)
        self._controls = {"scaling": scaling, "momentum_correction": correction}
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._turned(name, change["new"]), "value")
        self._note = classed(widgets.HTML(), "babysit-note")
        box = widgets.VBox([*self._controls.values(), self._note])
        self.widget = classed(
            widgets.Accordion([box], titles=["couplings"], selected_index=None), "babysit-drawer", "babysit-couplings"
        )
        free_all(self.widget)

    def _turned(self, name: str, value: Any) -> None:
        if not self._writing.here:
            with self._asking:
                self._refusal = ""
                self._asked[name] = self._send("set", changes={name: value}, why=""), value

    # ------------------------------------------------------- called by the pump alone

    def answered(self, command: str | None, refusal: str | None) -> None:
        """Takes note of what came of a command."""
        with self._asking:
            for name, (asked, _) in list(self._asked.items()):
                if asked == command:
                    del self._asked[name]
                    self._refusal = refusal or ""

    def refresh(self, settings: Mapping[str, Any]) -> None:
        """Shows what is in effect, once nothing else is asked for."""
        with self._asking, self._writing.begun():
            for name, value in settings.items():
                if name in self._controls and name not in self._asked:
                    write(self._controls[name], value=value)
        write(self.widget, titles=(_title(settings),))
        refused = f'<span class="babysit-refusal" role="alert">{html.escape(self._refusal)}</span>'
        write(self._note, value=refused if self._refusal else "")


def _title(settings: Mapping[str, Any]) -> str:
    scaling, on = settings.get("scaling", "off"), []
    if scaling != "off":
        on.append(f"learning rate follows batch size, {scaling}")
    if settings.get("momentum_correction"):
        on.append("velocities rescaled")
    return f"couplings: {'; '.join(on) or 'off'}"
