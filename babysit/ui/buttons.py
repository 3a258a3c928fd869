"""The buttons of a run: pause, step, stop, save, undo, rewind."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets

from babysit.core.words import label
from babysit.ui.widgets import Send, button, classed, row, unlabelled, write

_USER = ("dashboard", "script")  # whose changes can be undone
_KEPT = 50


class _Change(NamedTuple):
    step: int
    changes: dict[str, Any]


class RunButtons:
    """The buttons of a run, each of which sends a command.

    Args:
        send: Sends a command.
        state: Returns the state of the run: `running`, `paused` …
    """

    def __init__(self, send: Send, state: Callable[[], str]) -> None:
        self._send, self._state = send, state
        self._changes: list[_Change] = []  # can be undone, on the present branch
        self._undone: dict[str | None, _Change] = {}  # by the command that was sent
        self._undoing = threading.Lock()  # the answer may come before `send` has returned
        self._offered: str | None = None  # selected in the menu by the program, not by the user
        self._build()

    def _build(self) -> None:
        self._toggle = button("Pause", self._on_toggle, "primary")
        self._step = button("Step", lambda: self._send("run", steps=1))
        self._steps = button("Steps", lambda: self._send("run", steps=self._count.value))
        self._count = _count(100, "how many steps")
        self._epoch = button("To epoch end", lambda: self._send("finish_epoch"))
        self._stop = button("Stop", lambda: self._send("stop"))
        self._more = button("More epochs", lambda: self._send("more_epochs", epochs=self._epochs.value))
        self._epochs = _count(10, "how many epochs more")
        self._save = button("Save checkpoint", lambda: self._send("save", name=None))
        self._undo = button("Undo last change", self._on_undo)
        self._over = button(
            "Start over", lambda: self._send("rewind", step=0), tooltip="back to step 0, on a new branch"
        )
        self._back = button("Rewind", self._on_rewind)
        self._menu = widgets.Dropdown(options=[("no checkpoint yet", None)], description="checkpoint to rewind to")
        first = [self._toggle, self._step, _pair(self._steps, self._count), self._epoch, self._stop]
        first.append(_pair(self._more, self._epochs))
        then = [self._save, self._undo, self._over]
        groups = row(*first), row(*then, _pair(self._back, unlabelled(self._menu)))
        self.widget = row(*groups, name="babysit-run-buttons")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_toggle(self) -> None:
        self._send("pause" if self._state() == "running" else "resume")

    def _on_rewind(self) -> None:
        if self._menu.value is not None:
            self._send("rewind", folder=self._menu.value)

    def _on_undo(self) -> None:
        with self._undoing:
            if self._changes:
                last = self._changes.pop()
                back = {name: old for name, (old, _) in last.changes.items()}
                why = f"undoes the change at step {last.step:,}"
                self._undone[self._send("set", changes=back, why=why)] = last

    # ------------------------------------------------------- called by the pump alone

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Reads a row of the log: a change that can be undone."""
        if table == "entries":
            self._add_entry(row)

    def _add_entry(self, row: Mapping[str, Any]) -> None:
        with self._undoing:
            undone = self._undone.pop(row["command"], None)
            if undone is not None and row["action"] == "refuse":
                self._changes.append(undone)
            elif undone is None and row["action"] == "set" and row["author"] in _USER and row["changes"]:
                self._changes = [*self._changes, _Change(row["step"], dict(row["changes"]))][-_KEPT:]
            elif row["action"] in ("rewind", "fit"):  # they set other values
                self._changes = []

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Enables the buttons that mean something now."""
        state, alive = status["state"], status["state"] in ("running", "paused")
        write(self._toggle, description="Pause" if state == "running" else "Resume", disabled=not alive)
        for control in (self._step, self._steps, self._epoch, self._stop):
            write(control, disabled=not alive)
        for control in (self._more, self._save):
            write(control, disabled=state == "idle")
        with self._undoing:  # the user may undo it meanwhile
            last = self._changes[-1] if self._changes else None
        write(self._undo, disabled=last is None, tooltip=_undo_words(last))
        write(self._over, disabled=state == "idle" or status["step"] == 0)
        self._refresh_menu(status["checkpoints"])

    def _refresh_menu(self, checkpoints: Sequence[Mapping[str, Any]]) -> None:
        newest = sorted(checkpoints, key=lambda row: int(row["folder"]), reverse=True)[:_KEPT]
        options = tuple((_checkpoint_words(row), row["folder"]) for row in newest) or (("no checkpoint yet", None),)
        write(self._back, disabled=not newest)
        if options != self._menu.options:
            # The user's choice stays; else the newest one that the user saved is selected, or the newest.
            saved = next((row["folder"] for row in newest if row.get("kept") == "named"), options[0][1])
            keeps = self._menu.value != self._offered and self._menu.value in [folder for _, folder in options]
            self._offered = self._offered if keeps else saved
            write(self._menu, options=options, value=self._menu.value if keeps else saved)


def _checkpoint_words(row: Mapping[str, Any]) -> str:
    step = f"step {row['step']:,}"
    if not row["name"]:
        return f"automatic · {step}"
    return str(row["name"]) if row["name"].startswith(step) else f"{row['name']} · {row['step']:,}"


def _undo_words(last: _Change | None) -> str:
    if last is None:
        return "nothing has been changed on this branch"
    return f"{', '.join(map(label, last.changes))}, changed at step {last.step:,}"


def _count(value: int, description: str) -> Any:
    made = widgets.BoundedIntText(value=value, min=1, max=10_000_000, description=description)
    made.tooltip = description
    return classed(unlabelled(made), "babysit-count")


def _pair(control: Any, argument: Any) -> Any:
    """A button and its argument as one."""
    return classed(widgets.HBox([control, argument]), "babysit-pair")
