"""The buttons of a run: pause, step, stop, save, undo, rewind."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from babysit.core.journal import Entry
from babysit.core.words import is_user, label
from babysit.ui.timeline import checkpoint_words
from babysit.ui.widgets import Send, button, classed, on_change, row, unlabelled, with_tooltip, write

_KEPT = 50
_NONE = ("no checkpoint yet", "")  # an option whose value is None may be shown as no option at all


class RunButtons:
    """The buttons of a run, each of which sends a command.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._changes: list[Entry] = []  # can be undone, on the present branch
        self._undoing: list[dict[str, Any]] = []  # the values that were asked for by *Undo*
        self._chosen: str | None = None  # the checkpoint that the user chose in the menu
        self._build(send)

    def _build(self, send: Send) -> None:
        steps, epochs = _count(100, "how many steps"), _count(10, "how many more epochs")
        self._toggle = button("Pause", self._on_toggle, "primary")
        self._undo = button("Undo last change", self._on_undo)
        self._menu = unlabelled(widgets.Dropdown(options=[_NONE], description="checkpoint to rewind to"))
        on_change(self._menu, self._on_choice)

        def made(description: str, action: str, **about: Any) -> widgets.Button:
            """A button that sends a command with these fields, some of them functions of the moment."""

            def act() -> None:
                send(action, **{name: value() if callable(value) else value for name, value in about.items()})

            return button(description, act)

        step = made("Step", "run", steps=1)
        several = made("Steps", "run", steps=lambda: steps.value)
        epoch, stop = made("Finish epoch", "finish_epoch"), made("Stop", "stop")
        more = made("More epochs", "more_epochs", epochs=lambda: epochs.value)
        save, over = made("Save checkpoint", "save", name=None), made("Start over", "rewind", step=0)
        back = made("Rewind", "rewind", folder=lambda: self._menu.value or None)
        self._of_living, self._of_begun = [self._toggle, step, several, epoch, stop], [more, save, over, back]
        first = row(self._toggle, step, _pair(several, steps), epoch, stop, _pair(more, epochs))
        self.widget = row(first, row(save, self._undo, over, _pair(back, self._menu)), name="babysit-run-buttons")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_toggle(self) -> None:
        self._send(self._toggle.description.lower())

    def _on_choice(self, folder: str) -> None:
        self._chosen = folder

    def _on_undo(self) -> None:
        if self._changes:
            change = self._changes.pop()
            back = {name: old for name, (old, _) in change.changes.items()}
            self._undoing.append(back)
            self._send("set", changes=back, why=f"undoes the change at step {change.step:,}")

    # ------------------------------------------------------- called by the pump alone

    def add(self, entry: Entry) -> None:
        """Reads an entry: a change that can be undone, or that undoes one."""
        if entry.action in ("rewind", "fit"):  # they set other values
            self._changes = []
        elif entry.action == "set" and is_user(entry.author):
            if (values := {name: new for name, (_, new) in entry.changes.items()}) in self._undoing:
                self._undoing.remove(values)
            else:
                self._changes = [*self._changes, entry][-_KEPT:]

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Enables the buttons that mean something now."""
        write(self._toggle, description="Pause" if status["state"] == "running" else "Resume")
        for control in self._of_living:
            write(control, disabled=status["state"] not in ("running", "paused"))
        for control in self._of_begun:
            write(control, disabled=status["state"] == "idle")
        last = self._changes[-1:]
        words = [f"{', '.join(map(label, one.changes))}, changed at step {one.step:,}" for one in last]
        write(self._undo, disabled=not last, tooltip=" ".join(words))
        self._refresh_menu(status["checkpoints"])

    def _refresh_menu(self, checkpoints: Sequence[Mapping[str, Any]]) -> None:
        """Lists the newest checkpoints; the user's choice stays, else the newest that has a name is selected."""
        newest = sorted(checkpoints, key=lambda row: int(row["folder"]), reverse=True)[:_KEPT]
        options = tuple((checkpoint_words(row), row["folder"]) for row in newest) or (_NONE,)
        named = [row["folder"] for row in newest if row["kept"] == "named"]
        keeps = self._chosen in [folder for _, folder in options]
        write(self._menu, options=options, value=self._chosen if keeps else [*named, options[0][1]][0])


def _count(value: int, description: str) -> Any:
    made = widgets.BoundedIntText(value=value, min=1, max=10_000_000, description=description)
    return classed(unlabelled(with_tooltip(made, description)), "babysit-count")


def _pair(control: Any, argument: Any) -> Any:
    """A button and its argument as one."""
    return classed(widgets.HBox([control, argument]), "babysit-pair")
