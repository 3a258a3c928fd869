"""The timeline: the branches and checkpoints of a run as one list, and what can be done at a place of it."""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets

from babysit.core.words import label
from babysit.ui.run_series import AROUND, RunSeries
from babysit.ui.widgets import Send, button, caption, classed, on_change, row, ungrouped, unlabelled, write

BRANCHES, CHECKPOINTS = 24, 60  # the newest of each are shown
_DELETE, _CONFIRM = "Delete", "Delete it for good"
_REASONS = {"": "automatic", "fit": "before fit", "branch": "start of the branch", "tip": "end of the branch"}


class Place(NamedTuple):
    """Where a line of the list leads: to a checkpoint, or to the tip of a branch."""

    branch: str
    step: int | None = None  # None for the tip
    folder: str | None = None


class TimelinePanel:
    """The branches and checkpoints of a run, and the way back to them.

    Args:
        send: Sends a command.
        wake: Wakes the pump, to show what has been chosen.
        series: The run's branches and losses.
    """

    def __init__(self, send: Send, wake: Callable[[], None], series: RunSeries) -> None:
        self._send, self._wake, self._series = send, wake, series
        self._chosen: Place | None = None  # by the user; until then the present branch is selected
        self._is_new = False  # whether it was chosen since the last refresh
        self._to_delete: str | None = None  # the checkpoint of which the question is asked
        self._list = widgets.Select(options=places(series, []), rows=9, description="branches and checkpoints")
        on_change(self._list, self._on_choice)
        self._losses = caption()
        self._shown: Any = None  # where the losses are those of
        self._step = widgets.Text(placeholder="the selected one", description="step")
        kept = [("as they were", "checkpoint"), ("as they are now", "keep")]
        self._keep = widgets.Dropdown(options=kept, description="hyperparameters")
        self._back = button("Rewind there", self._on_rewind, tooltip="begins a new branch there; this one is kept")
        self._name = widgets.Text(placeholder="name", description="name of the checkpoint")
        self._rename, self._delete = button("Name", self._on_name), button(_DELETE, self._on_delete)
        fields = classed(widgets.VBox([self._step, self._keep]), "babysit-fields")
        naming = row(unlabelled(self._name), self._rename, self._delete)
        chosen = widgets.VBox([self._losses, fields, self._back, naming])
        tree = classed(unlabelled(self._list), "babysit-tree")
        self.widget = row(tree, classed(chosen, "babysit-chosen"), name="babysit-timeline")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_choice(self, place: Place) -> None:
        self._chosen, self._is_new, self._to_delete = place, True, None
        self._wake()

    @property
    def _place(self) -> Place:
        """Where the buttons act: at the user's choice, even while the pump writes the list."""
        return self._chosen or self._list.value

    def _on_rewind(self) -> None:
        place, typed = self._place, ungrouped(self._step.value)
        if typed:  # what is no step is refused, above the chart
            to = {"branch": place.branch, "step": int(typed) if typed.isdecimal() else typed}
        else:
            to = {"branch": place.branch} if place.folder is None else {"folder": place.folder}
        self._send("rewind", hyperparameters=self._keep.value, **to)

    def _on_name(self) -> None:
        self._send("rename", folder=self._place.folder, name=self._name.value.strip())

    def _on_delete(self) -> None:
        """Asks first, and deletes at the second press, once the question can be read."""
        folder, asked = self._place.folder, self._to_delete
        confirmed = folder == asked and self._delete.description == _CONFIRM
        self._to_delete = None if confirmed else folder
        if confirmed:
            self._send("delete", folder=folder)
        self._wake()

    # ------------------------------------------------------- called by the pump alone

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the list, and the losses at the chosen place."""
        options = places(self._series, status["checkpoints"])
        known, chosen = [place for _, place in options], self._chosen
        wanted = [chosen, Place(chosen.branch)] if chosen else []  # it may have been deleted
        place = next(place for place in (*wanted, Place(self._series.branch)) if place in known)
        if chosen and place != chosen:
            self._chosen = place
        write(self._list, options=options, value=place)
        if self._is_new:
            self._is_new = False
            write(self._step, value="")
            write(self._name, value="")
        self._show_losses(place)
        write(self._back, disabled=status["state"] == "idle")
        write(self._delete, description=_CONFIRM if self._to_delete else _DELETE)
        for control in (self._rename, self._delete, self._name):
            write(control, disabled=place.folder is None)

    def _show_losses(self, place: Place) -> None:
        state = place, self._series.version if place.step is None else None
        if state != self._shown:
            self._shown = state
            tip = f"last step {self._series.steps(place.branch):,}"
            where = f"{place.branch} · {tip if place.step is None else f'step {place.step:,}'}"
            losses = losses_at(self._series, place.branch, place.step)
            write(self._losses, value=f"<b>{html.escape(where)}</b><br>{html.escape(losses)}")


# ------------------------------------------------------------------------- the list, without widgets


def places(series: RunSeries, checkpoints: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, Place], ...]:
    """The list from top to bottom: each branch with its checkpoints, and below it the branches that left it.

    Args:
        series: The run's branches.
        checkpoints: Rows of checkpoints, as in `Run.status`.
    """
    lineage, branches = {part.branch for part in series.along().lineage}, dict(series.log.branches)
    others = [name for name in branches if name not in lineage][-BRANCHES:]
    shown = [name for name in branches if name in lineage or name in others]
    newest = sorted(one["folder"] for one in checkpoints)[-CHECKPOINTS:]
    saved = [one for one in checkpoints if one["name"] or one["folder"] in newest]
    saved.sort(key=lambda one: (one["step"], one["folder"]))

    def below(name: str, depth: int) -> Iterator[tuple[str, Place]]:
        branch, pad = branches[name], "\u2003" * depth
        here = " (current)" if name == series.branch else ""
        left = f", left {branch.parent} at step {branch.step:,}" if branch.parent is not None else ""
        yield f"{pad}{'└ ' if depth else ''}{name}{here}{left}", Place(name)
        for one in saved:
            if one["branch"] == name:
                yield f"{pad}\u2003• {checkpoint_words(one)}", Place(name, one["step"], one["folder"])
        for child in shown:
            if branches[child].parent == name:
                yield from below(child, depth + 1)

    roots = [name for name in shown if branches[name].parent not in shown]
    return tuple(line for root in roots for line in below(root, 0))


def checkpoint_words(checkpoint: Mapping[str, Any]) -> str:
    """A checkpoint in a list: its step, and its name or why it is kept."""
    step, why = f"step {checkpoint['step']:,}", checkpoint.get("kept") or ""
    name = str(checkpoint["name"] or _REASONS.get(why, why))
    return name if name.startswith(step) else f"{step} · {name}"


def losses_at(series: RunSeries, branch: str, step: int | None) -> str:
    """The losses at a step of a branch, or at its tip, in a sentence."""
    end = series.steps(branch) if step is None else step
    loss = series.mean_loss(branch, end - AROUND, end)
    sentences = [f"loss {loss:.4g}"] if math.isfinite(loss) else []
    if logs := series.epoch_logs(branch, end):
        epoch = int(logs.pop("epoch"))
        names = sorted(logs, key=lambda name: (name.startswith("val_"), not name.endswith("loss")))
        shown = [f"{label(name)} {logs[name]:.4g}" for name in names if isinstance(logs[name], int | float)]
        sentences.append(f"after epoch {epoch:,}: " + ", ".join(shown))
    return " · ".join(sentences) or "no loss yet"
