"""The status bar: name, state and progress of a run, or of several; and the title of the browser's tab."""

import datetime
import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from babysit.core.words import is_user
from babysit.ui import theme
from babysit.ui.run_series import RunSeries
from babysit.ui.widgets import classed, slug, with_tooltip, write

_SIGNS = {"running": "▶", "paused": "❚❚", "finished": "✓ FINISHED", "stopped": "■", "failed": "⚠ FAILED"}
_SIGNS |= {"interrupted": "⚠ INTERRUPTED"}
_WATCHING, _REMOTE = "it cannot be steered from here", "another process trains it, and takes what you change here"
_DOING = {"rewind": "rewinding", "fit": "starting", "save": "saving", "pause": "pausing", "stop": "stopping"}
PENDING_S = 0.5  # a command that takes longer is shown


class StatusBar:
    """Name, state and progress of a run, in one line."""

    def __init__(self) -> None:
        self._title, self._figures = widgets.HTML(), widgets.HTML()
        progress = with_tooltip(widgets.FloatProgress(min=0, max=1), "progress of the run")
        self._progress = classed(progress, "babysit-progress")
        self.widget = classed(widgets.HBox([self._title, self._progress, self._figures]), "babysit-status-bar")
        self._pending, self._since_s = None, 0.0  # the command that is not yet obeyed

    def refresh(self, status: Mapping[str, Any], refusal: str = "") -> None:
        """Shows the status of a run, and why it has refused what was last asked of it."""
        name, branch, state = (html.escape(status[part]) for part in ("name", "branch", "state"))
        shown = pill(state, status["state"])
        if doing := self._doing(status):
            shown = pill(doing, "waiting", f"is {state}; the last command is not obeyed yet")
        elif refusal:
            shown += " " + pill("refused", "refused", refusal)
        if status.get("remote"):
            how, tooltip = ("watching", _WATCHING) if status["read_only"] else ("remote", _REMOTE)
            shown += f' <span class="babysit-pill" title="{tooltip}">{how}</span>'
        write(self._title, value=f"<b>{name}</b> <span>{branch}</span> {shown}")
        write(self._progress, value=_share(status))
        write(self._figures, value=_figures(status))

    def _doing(self, status: Mapping[str, Any]) -> str:
        """What the run is about to do, where that takes longer than a moment."""
        pending = status.get("pending") if status["state"] != "interrupted" else None
        if pending != self._pending:
            self._pending, self._since_s = pending, time.monotonic()
        late = pending and time.monotonic() - self._since_s > PENDING_S
        return _DOING.get(pending["action"], "waiting") if pending and late else ""


class StatusBars:
    """A status bar for each of several runs, with a sign in the colour of its curves, and what it alone refused.

    Args:
        runs: The entries of each.
    """

    def __init__(self, runs: Sequence[RunSeries]) -> None:
        self._runs, self._bars = runs, [StatusBar() for _ in runs]
        for bar, colour in zip(self._bars, theme.RUNS * len(runs), strict=False):
            sign = widgets.HTML(f'<span class="babysit-sign" style="color: {colour}">━━━</span>')
            bar.widget.children = [sign, *bar.widget.children]
        self.widget = classed(widgets.VBox([bar.widget for bar in self._bars]), "babysit-status-bars")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the status of each run."""
        for bar, one, run in zip(self._bars, status["runs"], self._runs, strict=True):
            last = next(
                (entry for entry in reversed(run.entries) if is_user(entry.author) or entry.action == "refuse"), None
            )
            bar.refresh(one, last.why if last and last.action == "refuse" else "")


def pill(words: str, kind: str, about: str = "") -> str:
    """A word in a coloured field, as the state of a run is shown."""
    title = f' title="{html.escape(about)}"' if about else ""
    return f'<span class="babysit-pill babysit-{slug(kind)}" role="status"{title}>{words}</span>'


def tab_title(status: Mapping[str, Any]) -> str:
    """The title of the browser's tab: the state first, as the end is often cut off."""
    state = status["state"]
    sign = "⚠ NaN" if status["not_finite"] else _SIGNS.get(state, state)
    share = f" {_share(status):.0%}" if state in ("running", "paused") else ""
    return f"{sign}{share} · {status['name']}"


def _share(status: Mapping[str, Any]) -> float:
    """How much of the run is done."""
    done, size = status["examples_done"], status["examples_an_epoch"]
    part = min(done / size, 1.0) if size else 0.0  # the length of a stream is unknown
    return float(min((status["epoch"] + part) / max(status["epochs"], 1), 1.0))


def _figures(status: Mapping[str, Any]) -> str:
    rate, left = status["examples_a_second"], status["seconds_left"]
    epoch = f"epoch {min(status['epoch'] + 1, max(status['epochs'], 1)):,} of {status['epochs']:,}"
    speed = f"{int(float(f'{rate:.2g}')):,} examples/s" if rate else ""  # two digits, so that it does not flicker
    time = f"{datetime.timedelta(seconds=round(left))} left" if left is not None else ""
    return "".join(f"<span>{part}</span>" for part in (epoch, f"step {status['step']:,}", speed, time) if part)
