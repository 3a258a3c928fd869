"""The status bar: name, state and progress of a run; and the title of the browser's tab."""

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.ticks import clock
from babysit.ui.widgets import classed, slug, write

# A `<script>` in an HTML widget is never run, but the error handler of an image is. Its data are escaped.
# It sets the tab's title, gives sliders their spoken names, and keeps the arrow keys of lists and sliders from
# JupyterLab, which would move between cells. A page that forbids scripts goes without.
_IN_THE_PAGE = (
    "document.title = this.dataset.title;"
    "for (const handle of document.querySelectorAll('.babysit .noUi-handle')) {"
    " const name = handle.closest('.jupyter-widgets')?.querySelector('.widget-label')?.textContent;"
    " if (name) handle.setAttribute('aria-label', name); }"
    "for (const list of document.querySelectorAll('.babysit :is(select, .noUi-handle)'))"
    " list.setAttribute('data-lm-suppress-shortcuts', 'true');"
)
SHORT_EPOCH_S = 4  # the bar of shorter epochs would only flicker
_SIGNS = {"running": "▶", "paused": "❚❚", "finished": "✓ FINISHED", "stopped": "■", "failed": "⚠ FAILED"}
_SIGNS |= {"interrupted": "⚠ INTERRUPTED"}


class StatusBar:
    """Name, state and progress of a run, in one line."""

    def __init__(self) -> None:
        self._title = widgets.HTML()
        self._progress = widgets.FloatProgress(min=0, max=1)
        self._progress.tooltip = "progress of the run"
        self._epoch = widgets.FloatProgress(min=0, max=1)
        self._epoch.tooltip = "progress of the epoch"
        self._figures = widgets.HTML()
        self.page = widgets.HTML(layout={"display": "none"})
        bars = classed(widgets.VBox([self._progress, classed(self._epoch, "babysit-epoch")]), "babysit-bars")
        self.widget = classed(widgets.HBox([self._title, bars, self._figures, self.page]), "babysit-status-bar")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the status of a run."""
        name, branch, state = (html.escape(status[part]) for part in ("name", "branch", "state"))
        pill = f'<span class="babysit-pill babysit-{slug(status["state"])}" role="status">{state}</span>'
        if status.get("read_only"):
            pill += ' <span class="babysit-pill" title="its controls are in the process that trains it">watching</span>'
        write(self._title, value=f"<b>{name}</b> <span>{branch}</span> {pill}")
        done, size = status["examples_done"], status["examples_an_epoch"]
        part = min(done / size, 1.0) if size else 0.0  # the length of a stream is unknown
        rate = status["examples_a_second"]
        run = min((status["epoch"] + part) / max(status["epochs"], 1), 1.0)
        write(self._progress, value=run)
        write(self._epoch, value=0.0 if size and rate and size / rate < SHORT_EPOCH_S else part)
        write(self._figures, value=_figures(status))
        title = html.escape(tab_title(status, run), quote=True)
        write(self.page, value=f'<img alt="" src="data:," data-title="{title}" onerror="{_IN_THE_PAGE}">')


def tab_title(status: Mapping[str, Any], run: float) -> str:
    """The title of the browser's tab: the state first, as the end is often cut off."""
    state = status["state"]
    sign = "⚠ NaN" if status["not_finite"] else _SIGNS.get(state, state)
    share = f" {run:.0%}" if state in ("running", "paused") else ""
    return f"{sign}{share} · {status['name']}"


def _figures(status: Mapping[str, Any]) -> str:
    rate, left = status["examples_a_second"], status["seconds_left"]
    parts = [
        f"epoch {min(status['epoch'] + 1, max(status['epochs'], 1)):,} of {status['epochs']:,}",
        f"step {status['step']:,}",
        f"{_two_digits(rate):,} examples/s" if rate else "",
        f"{clock(left)} left" if left is not None else "",
    ]
    room = ("", "", "0,000 examples/s", "0:00 left")  # kept while unknown, so that nothing jumps
    return "".join(
        f"<span>{part}</span>" if part else f'<span style="visibility: hidden">{kept}</span>'
        for part, kept in zip(parts, room, strict=True)
    )


def _two_digits(value: float) -> int:
    """The number rounded to two digits, so that it does not flicker."""
    return int(float(f"{value:.2g}"))
