"""The timeline: the tree of a run to choose a place from, and what can be done there."""

import html
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.run_series import RunSeries
from babysit.ui.tree import TreeNode, losses_at, tree_nodes
from babysit.ui.widgets import (
    Send,
    WriteGuard,
    button,
    caption,
    classed,
    refusal_html,
    row,
    ungrouped,
    unlabelled,
    write,
)

_DELETE, _CONFIRM = "Delete", "Delete it for good"
_QUESTION_S = 8.0  # the question is withdrawn after so long


class TimelinePanel:
    """The branches and checkpoints of a run, and the way back to them.

    Args:
        send: Sends a command.
        wake: Wakes the pump, to show what has been chosen.
        series: The run's branches and losses.
    """

    def __init__(self, send: Send, wake: Callable[[], None], series: RunSeries) -> None:
        self._send, self._wake, self._series = send, wake, series
        self._checkpoints: dict[str, dict[str, Any]] = {}  # by folder
        self._shown: Any = None  # what the list was made from
        self._follows = True  # the present branch is selected, until the user has chosen
        self._question: tuple[str | None, float] = None, 0.0  # the checkpoint that may go, and since when
        self._new_choice = False
        self._commands: set[str] = set()  # sent from here and not answered yet
        self._sending = threading.Lock()  # the answer may come before `send` has returned
        self._refusal = ""
        self._guard = WriteGuard()
        self._build()
        self._list.observe(self._on_choice, "value")

    def _build(self) -> None:
        options = self._options()
        self._list = widgets.Select(options=options, rows=9, description="branches and checkpoints")
        self._losses, self._refused = caption(), caption()
        self._step = widgets.Text(placeholder="as chosen", description="step")
        self._skip = widgets.BoundedIntText(value=0, min=0, max=10_000_000, description="leave out batches")
        self._keep = widgets.Dropdown(
            options=[("as they were", "checkpoint"), ("as they are now", "keep")], description="hyperparameters"
        )
        self._back = button("Rewind there", self._on_rewind, tooltip="on a new branch; this one stays")
        self._name = widgets.Text(placeholder="name", description="name of the checkpoint")
        self._rename = button("Name", self._on_name)
        self._delete = button(_DELETE, self._on_delete)
        fields = classed(widgets.VBox([self._step, self._keep, self._skip]), "babysit-fields")
        naming = row(unlabelled(self._name), self._rename, self._delete)
        chosen = [self._losses, fields, row(self._back, self._refused), naming]
        tree = classed(unlabelled(self._list), "babysit-tree", "babysit-looks")
        self.widget = row(tree, classed(widgets.VBox(chosen), "babysit-chosen"), name="babysit-timeline")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if not self._guard.active:
            self._follows, self._question, self._new_choice = False, (None, 0.0), True
            self._wake()

    def _on_rewind(self) -> None:
        node, typed = self._list.value, ungrouped(self._step.value)
        about = {"hyperparameters": self._keep.value, "skip": self._skip.value}
        if typed.isdecimal():
            self._send_from_here("rewind", branch=node.branch, step=int(typed), **about)
        elif typed:
            self._refusal = f"“{typed}” is not a step: type a whole number, such as 1,200"
            self._wake()
        elif node.folder is not None:
            self._send_from_here("rewind", folder=node.folder, **about)
        else:
            self._send_from_here("rewind", branch=node.branch, **about)

    def _on_name(self) -> None:
        if self._list.value.folder is not None:
            self._send_from_here("rename", folder=self._list.value.folder, name=self._name.value.strip())

    def _on_delete(self) -> None:
        """Asks, and deletes at the second press once the question is visible."""
        folder = self._list.value.folder
        if folder is not None and self._delete.description == _CONFIRM and self._question[0] == folder:
            self._question = None, 0.0
            self._send_from_here("delete", folder=folder)
        else:
            self._question = folder, time.monotonic()
            self._wake()

    def _send_from_here(self, action: str, **about: Any) -> None:
        with self._sending:
            self._commands.add(self._send(action, **about))

    # ------------------------------------------------------- called by the pump alone

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Reads a row of the log: the answer to a command from here."""
        if table == "entries":
            with self._sending:
                if row["command"] in self._commands:
                    self._commands.discard(row["command"])
                    self._refusal = str(row["why"]) if row["action"] == "refuse" else ""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the tree, and the losses at the chosen place."""
        self._checkpoints = {row["folder"]: self._with_losses(row) for row in status["checkpoints"]}
        self._refresh_list()
        node = self._list.value
        if self._new_choice:
            self._new_choice, self._refusal = False, ""
            write(self._step, value="")
            write(self._skip, value=0)
            write(self._name, value="")
        write(self._losses, value=self._losses_of(node))
        write(self._back, disabled=status["state"] == "idle")
        write(self._refused, value=refusal_html(self._refusal))
        folder, since = self._question
        asks = folder is not None and folder == node.folder and time.monotonic() < since + _QUESTION_S
        write(self._delete, description=_CONFIRM if asks else _DELETE)
        for control in (self._rename, self._delete, self._name):
            write(control, disabled=node.folder is None)

    def _with_losses(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint with the losses there, read once, while those of every step are kept."""
        known = self._checkpoints.get(row["folder"], {}).get("losses")
        return {**row, "losses": known or losses_at(self._series, row["branch"], row["step"])}

    def _options(self) -> tuple[tuple[str, TreeNode], ...]:
        return tuple((node.words, node) for node in tree_nodes(self._series, self._checkpoints))

    def _refresh_list(self) -> None:
        state = self._series.branch, {folder: row["name"] for folder, row in self._checkpoints.items()}
        if state != self._shown:
            self._shown, options = state, self._options()
            present = TreeNode("", self._series.branch, None, None)
            chosen = _nearest(present if self._follows else self._list.value, [node for _, node in options])
            with self._guard.writing():
                write(self._list, options=options, value=chosen)

    def _losses_of(self, node: TreeNode) -> str:
        if node.step is None:
            where = f"tip, step {int(self._series.steps(node.branch)):,}"
            losses = losses_at(self._series, node.branch, None)
        else:
            where, losses = f"step {node.step:,}", str(self._checkpoints[node.folder or ""]["losses"])
        return f"<b>{html.escape(node.branch)} · {where}</b><br>{html.escape(losses)}"


def _nearest(chosen: TreeNode, nodes: list[TreeNode]) -> TreeNode:
    """The chosen node, however it is called now; its branch if it is gone; or the last one."""
    same = [node for node in nodes if node[1:] == chosen[1:]]
    return next(iter([*same, *(node for node in nodes if node.branch == chosen.branch), nodes[-1]]))
