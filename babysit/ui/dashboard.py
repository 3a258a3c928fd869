"""The dashboard: widgets that send commands, and the one thread that refreshes them.

It is given a run as three calls in plain data, `send`, `status` and `since`, and knows
nothing else of it. Two rules keep it honest and quick. A control's observer only hands a
command over, on whatever thread it is called, and writes no widget. One pump thread
writes all widgets, and a control's own value only when the value in effect has become
another one than the control shows.
"""

import html
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, Protocol

import ipywidgets as widgets

from babysit.journal import describe, entry_from_row
from babysit.ui.curves import Curves
from babysit.ui.dial import Dial, free, write

# A frame may cost this share of one core; frames come less often when they cost more.
FRAME_SHARE = 0.05
INTERVAL_S = 0.25
LINES = 6
# Dials in sight; the others are in a drawer.
FIRST = ("learning_rate", "batch_size", "momentum", "beta_1")
_STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()


class Run(Protocol):
    """What a dashboard needs of a run."""

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands a command over; returns its id."""

    def status(self) -> dict[str, Any]:
        """How the run stands."""

    def since(self, cursor: int) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """What was recorded behind a cursor, and the next cursor."""


class Dashboard:
    """The screen of one run; `widget` is what to display, as often as you like."""

    def __init__(self, run: Run) -> None:
        """Builds every widget, fills them, and starts the pump."""
        self._run = run
        self._curves = Curves()
        self._cursor = 0
        self._entries: list[Any] = []
        self._stale: set[str] = set()  # what is to be written anew
        self._checkpoints: list[dict[str, Any]] = []
        self._drawing_error = ""
        self._draw_later, self._next_frame = True, 0.0
        self._dials: dict[str, Dial] = {}
        self._bounds: list[tuple[str, float, float]] = []  # that the dials were built for
        self._build()
        self._pulse()
        for control in (self._toggle, self._step, self._stop, self._save, self._menu, self._back):
            free(control)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._pump = threading.Thread(target=self._refresh_often, name="babysit-pump", daemon=True)
        self._pump.start()

    def close(self) -> None:
        """Stops the pump and takes the widgets off the page; may be called twice."""
        self._closing.set()
        self._wake.set()
        self._pump.join()
        self.widget.close()

    # ------------------------------------------------------------------------- the widgets

    def _build(self) -> None:
        self._title = widgets.HTML()
        self._progress = widgets.FloatProgress(min=0, max=1)
        self._figures = widgets.HTML()
        self._toggle = self._button("Pause", self._on_toggle, "primary")
        self._step = self._button("Step", lambda: self._send("run", steps=1))
        self._stop = self._button("Stop", lambda: self._send("stop"))
        self._save = self._button("Save checkpoint", lambda: self._send("save", name=None))
        self._menu = widgets.Dropdown(options=[("no checkpoint yet", None)], tooltip="checkpoint to rewind to")
        self._back = self._button("Rewind", self._on_rewind)
        self._message = widgets.HTML()
        self._controls = widgets.VBox()
        self._chart = widgets.Image(format="png", value=self._curves.png())
        self._chart.layout.width = "100%"
        self._logbook = widgets.HTML()
        space = widgets.Box(layout={"flex": "1 1 auto"})
        transport = [self._toggle, self._step, self._stop, space, self._save, self._menu, self._back]
        body = [_classed(self._controls, "babysit-controls"), _classed(widgets.Box([self._chart]), "babysit-chart")]
        self.widget = widgets.VBox(
            [
                widgets.HTML(f"<style>{_STYLE}</style>", layout={"display": "none"}),
                _classed(widgets.HBox([self._title, self._progress, self._figures]), "babysit-head"),
                _classed(widgets.HBox(transport), "babysit-transport"),
                _classed(widgets.Box([self._message]), "babysit-message"),
                _classed(widgets.HBox(body), "babysit-body"),
                _classed(widgets.Box([self._logbook]), "babysit-logbook"),
            ]
        )
        self.widget.add_class("babysit")

    def _button(self, description: str, act: Callable[[], Any], style: str = "") -> widgets.Button:
        button = widgets.Button(description=description, button_style=style, disabled=True)
        button.on_click(lambda _: act())
        return button

    # ---------------------------------- called by the page, on any thread: only hand over

    def _send(self, action: str, **about: Any) -> str:
        command = self._run.send({"action": action, "author": "dashboard", **about})
        self._wake.set()
        return command

    def _on_toggle(self) -> None:
        self._send("pause" if self._run.status()["state"] == "running" else "resume")

    def _on_rewind(self) -> None:
        if self._menu.value is not None:
            self._send("rewind", folder=self._menu.value)

    def _turn(self, name: str, value: float) -> str:
        return self._send("set", changes={name: value}, why="")

    # ------------------------------------------------------- called by the pump alone

    def _refresh_often(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(INTERVAL_S)
            # A moment's grace, in which the command that woke us is obeyed.
            self._closing.wait(0.02 if self._wake.is_set() else 0)
            self._wake.clear()
            self._pulse()

    def _pulse(self) -> None:
        """Brings every widget up to date with the run."""
        try:
            self._catch_up()
            self._refresh_lists()
            status = self._run.status()  # behind the entries: what they tell is in it already
            self._refresh_dials(status)
            self._refresh_head(status)
            self._refresh_message(status)
            self._draw()
        except Exception:  # the numbers go on; what went wrong is shown and tried again
            self._drawing_error = traceback.format_exc()

    def _catch_up(self) -> None:
        """Takes in what was recorded since, piece by piece."""
        while True:
            rows, cursor = self._run.since(self._cursor)
            if cursor == self._cursor:
                return
            self._cursor = cursor
            self._take_in(rows)

    def _refresh_lists(self) -> None:
        """Writes the logbook and the menu if they have grown, and again if that went wrong."""
        for name, refresh in (("entries", self._refresh_logbook), ("checkpoints", self._refresh_menu)):
            if name in self._stale:
                refresh()
                self._stale.remove(name)

    def _take_in(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        for row in rows["entries"]:
            refusal = row["why"] if row["action"] == "refuse" else None
            for dial in self._dials.values():
                dial.answered(row["command"], refusal)
            self._entries.append(entry_from_row(row))
        del self._entries[:-LINES]
        self._checkpoints = [*self._checkpoints, *rows["checkpoints"]][-50:]
        self._stale |= {table for table in ("entries", "checkpoints") if rows[table]}
        self._curves.add(rows)
        self._draw_later = True

    def _refresh_dials(self, status: Mapping[str, Any]) -> None:
        found = status["hyperparameters"]
        if [(name, value["low"], value["high"]) for name, value in found.items()] != self._bounds:
            self._bounds = [(name, value["low"], value["high"]) for name, value in found.items()]
            self._dials = {name: Dial(name, value, self._turn) for name, value in found.items()}
            self._controls.children = self._arranged()
        for name, value in found.items():
            self._dials[name].refresh(value)

    def _arranged(self) -> list[Any]:
        """The dials everybody turns, and a drawer with the others, closed to begin with."""
        first = [dial.widget for name, dial in self._dials.items() if name.rpartition(".")[2] in FIRST]
        others = [dial.widget for name, dial in self._dials.items() if name.rpartition(".")[2] not in FIRST]
        if not others:
            return first
        title = f"{len(others)} more hyperparameter{'s' if len(others) > 1 else ''}"
        drawer = widgets.Accordion([widgets.VBox(others)], titles=[title], selected_index=None)
        return [*first, _classed(drawer, "babysit-drawer")]

    def _refresh_head(self, status: Mapping[str, Any]) -> None:
        state, alive = status["state"], status["state"] in ("running", "paused")
        pill = f'<span class="babysit-pill babysit-{state}">{state}</span>'
        name, branch = html.escape(status["name"]), html.escape(status["branch"])
        write(self._title, value=f"<b>{name}</b> <span>{branch}</span> {pill}")
        done, size = status["examples_done"], status["examples_an_epoch"]
        epochs = status["epoch"] + (done / size if size else 0)  # a stream does not tell its length
        write(self._progress, value=min(epochs / max(status["epochs"], 1), 1.0))
        write(self._figures, value=_figures(status))
        write(self._toggle, description="Pause" if state == "running" else "Resume", disabled=not alive)
        write(self._step, disabled=not alive)
        write(self._stop, disabled=not alive)
        write(self._save, disabled=state == "idle")
        write(self._back, disabled=not self._checkpoints)

    def _refresh_message(self, status: Mapping[str, Any]) -> None:
        if status["error"]:
            words = _folded(status["error"].strip().splitlines()[-1], status["error"])
        elif status["not_finite"]:
            words = (
                f"The loss at step {status['step']:,} is not a finite number, so the run rests there. "
                "Rewind to a checkpoint and lower the learning rate."
            )
        elif self._drawing_error:
            words = _folded("The chart could not be drawn.", self._drawing_error)
        else:
            words = html.escape(status["warning"] or self._last_refusal())
            words = words or f'<span class="babysit-remark">{html.escape(" ".join(status["remarks"]))}</span>'
        write(self._message, value=words)

    def _last_refusal(self) -> str:
        last = self._entries[-1] if self._entries else None
        return str(last.why) if last is not None and last.action == "refuse" else ""

    def _refresh_logbook(self) -> None:
        write(self._logbook, value=_logbook(self._entries))

    def _refresh_menu(self) -> None:
        newest = self._checkpoints[::-1]
        options = [
            (f"{row['name'] or 'automatic · step ' + format(row['step'], ',')}", row["folder"]) for row in newest
        ]
        write(self._menu, options=options, value=newest[0]["folder"])

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._draw_later or now < self._next_frame:
            return
        began = time.thread_time()
        self._chart.value = self._curves.png()
        self._draw_later, self._drawing_error = False, ""
        self._next_frame = now + (time.thread_time() - began) / FRAME_SHARE


def _classed(widget: Any, name: str) -> Any:
    widget.add_class(name)
    return widget


def _figures(status: Mapping[str, Any]) -> str:
    rate, left = status["examples_a_second"], status["seconds_left"]
    parts = [
        f"epoch {min(status['epoch'] + 1, max(status['epochs'], 1)):,} of {status['epochs']:,}",
        f"step {status['step']:,}",
        f"{_two_digits(rate):,} examples/s" if rate else "– examples/s",
        f"{_clock(left)} left" if left is not None else "–:–– left",
    ]
    return "".join(f"<span>{part}</span>" for part in parts)


def _two_digits(value: float) -> int:
    """Rounded to two digits, so that a figure read at a glance does not flicker."""
    return int(float(f"{value:.2g}"))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _logbook(entries: list[Any]) -> str:
    lines = []
    for entry in reversed(entries):
        hand = ' class="babysit-hand"' if entry.changes and entry.action == "set" else ""
        words = html.escape(describe(entry))
        cells = (
            f'<td>{entry.step:,}</td><td{hand} title="{words}">{words}</td><td>{html.escape(str(entry.author))}</td>'
        )
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _folded(summary: str, details: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(details)}</pre></details>"
