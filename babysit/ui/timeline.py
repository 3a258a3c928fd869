"""The time line: the tree of a run to choose from, and what can be done at a place of it."""

import html
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.tree import Place, Tree
from babysit.ui.widgets import Send, Writing, button, classed, free_all, row, ungrouped, unlabelled, write

_NOWHERE = Place("nothing yet", "", None, None)
_DELETE, _SURELY = "Delete", "Delete it for good"
# Seconds, behind which a question that was not answered is taken back.
_QUESTION_S = 8.0


class Places:
    """Where a run has been, and the way back there.

    Args:
        send: Hands a command over.
        wake: Wakes the pump, to show what has been chosen.
    """

    def __init__(self, send: Send, wake: Callable[[], None]) -> None:
        self._send, self._wake = send, wake
        self._tree = Tree()
        self._stale = True
        self._follows = True  # the present branch, until a hand has chosen
        self._question: tuple[str | None, float] = None, 0.0  # which checkpoint may go, and since when
        self._chosen_anew = False  # what was said of another place is to go
        self._commands: set[str] = set()  # that were sent from here, not answered yet
        self._asking = threading.Lock()  # the answer may come before `send` has returned
        self._refusal = ""  # of the last of them
        self._writing = Writing()
        self._build()
        self._list.observe(self._on_choice, "value")

    def _build(self) -> None:
        self._list = widgets.Select(options=[("nothing yet", _NOWHERE)], rows=9, description="branches and checkpoints")
        self._told = classed(widgets.HTML(), "babysit-told")
        self._step = widgets.Text(placeholder="as chosen", description="step")
        self._skip = widgets.BoundedIntText(value=0, min=0, max=10_000_000, description="leave out batches")
        self._keep = widgets.Dropdown(
            options=[("of then", "checkpoint"), ("of now", "keep")], description="hyperparameters"
        )
        self._back = button("Rewind there", self._on_rewind, tooltip="on a new branch; this one stays")
        self._name = widgets.Text(placeholder="name", description="name of the checkpoint")
        self._rename = button("Name", self._on_name)
        self._delete = button(_DELETE, self._on_delete)
        fields = classed(widgets.VBox([self._step, self._keep, self._skip]), "babysit-fields")
        naming = row(unlabelled(self._name), self._rename, self._delete)
        self._refused = classed(widgets.HTML(), "babysit-told")
        back = row(self._back, self._refused)
        chosen = classed(widgets.VBox([self._told, fields, back, naming]), "babysit-chosen")
        self.widget = row(
            classed(unlabelled(self._list), "babysit-tree", "babysit-looks"), chosen, name="babysit-places"
        )
        free_all(self.widget)

    # ---------------------------------- called by the page, on any thread: only hand over

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if not self._writing.here:
            self._follows, self._question, self._chosen_anew = False, (None, 0.0), True
            self._wake()

    def _on_rewind(self) -> None:
        place, typed = self._list.value, ungrouped(self._step.value)
        about = {"hyperparameters": self._keep.value, "skip": self._skip.value}
        if typed.isdecimal():
            self._ask("rewind", branch=place.branch, step=int(typed), **about)
        elif typed:
            self._refusal = f"“{typed}” is not a step: type a whole number, such as 1,200"
            self._wake()
        elif place.folder is not None:
            self._ask("rewind", folder=place.folder, **about)
        else:
            self._ask("rewind", branch=place.branch, **about)

    def _on_name(self) -> None:
        if self._list.value.folder is not None:
            self._ask("rename", folder=self._list.value.folder, name=self._name.value.strip())

    def _on_delete(self) -> None:
        """Asks, and deletes at the second press, once the question is to be read."""
        folder = self._list.value.folder
        if folder is not None and self._delete.description == _SURELY and self._question[0] == folder:
            self._question = None, 0.0
            self._ask("delete", folder=folder)
        else:
            self._question = folder, time.monotonic()
            self._wake()

    def _ask(self, action: str, **about: Any) -> None:
        with self._asking:
            self._commands.add(self._send(action, **about))

    # ------------------------------------------------------- called by the pump alone

    def take(self, table: str, row: Mapping[str, Any]) -> None:
        """Takes in a row of the record."""
        self._stale = self._tree.take(table, row) or self._stale
        if table == "entries" and row["command"] is not None:
            self._hear(row)

    def _hear(self, entry: Mapping[str, Any]) -> None:
        """Notes what came of a command from here, to be read where it was given."""
        with self._asking:
            if entry["command"] in self._commands:
                self._commands.discard(entry["command"])
                self._refusal = str(entry["why"]) if entry["action"] == "refuse" else ""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the tree, and what was at the place chosen."""
        if self._tree.keep(set(status["checkpoints"])) or self._stale:
            self._refresh_list()
            self._stale = False
        place = self._list.value or _NOWHERE
        if self._chosen_anew:
            self._chosen_anew, self._refusal = False, ""
            write(self._step, value="")
            write(self._skip, value=0)
            write(self._name, value="")
        write(self._told, value=_told(place, self._tree))
        write(self._back, disabled=place is _NOWHERE)
        refusal = f'<span class="babysit-refusal" role="alert">{html.escape(self._refusal)}</span>'
        write(self._refused, value=refusal if self._refusal else "")
        folder, since = self._question
        asks = folder is not None and folder == place.folder and time.monotonic() < since + _QUESTION_S
        write(self._delete, description=_SURELY if asks else _DELETE)
        for control in (self._rename, self._delete, self._name):
            write(control, disabled=place.folder is None)

    def _refresh_list(self) -> None:
        options = tuple((place.words, place) for place in self._tree.lines()) or (("nothing yet", _NOWHERE),)
        if options == self._list.options:
            return
        places = [place for _, place in options]
        chosen = Place("", self._tree.present, None, None) if self._follows else self._list.value
        with self._writing.begun():
            write(self._list, options=options, value=_nearest(chosen, places))


def _nearest(chosen: Place | None, places: list[Place]) -> Place:
    """The place that was chosen, whatever it is called now; its branch if it is gone; or the newest."""
    if chosen is None or chosen is _NOWHERE:
        return places[-1]
    same = [place for place in places if place[1:] == chosen[1:]]
    return next(iter([*same, *(place for place in places if place.branch == chosen.branch), places[-1]]))


def _told(place: Place, tree: Tree) -> str:
    if place is _NOWHERE:
        return "Nothing has been trained yet."
    where = f"tip, step {tree.tip(place.branch):,}" if place.step is None else f"step {place.step:,}"
    return f"<b>{html.escape(place.branch)} · {where}</b><br>{html.escape(tree.losses_at(place))}"
