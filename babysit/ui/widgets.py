"""What the parts of the dashboard are made of, and how their widgets are written.

An observer of a control, called by the page on any thread, only sends a command. Only the
pump writes widgets, with `write`, which sends what has changed and nothing else.
"""

import html
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import ipywidgets as widgets
from IPython.core.getipython import get_ipython


class Send(Protocol):
    """Sends a command to the run: `send("set", changes={…})`; returns its id."""

    def __call__(self, action: str, **about: Any) -> str:
        """Returns at once; the result of the command is an entry of the log with that id."""


class DashboardPart(Protocol):
    """A part of the dashboard that reads the run's log and shows its status."""

    widget: widgets.Widget

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Reads a new row of the log."""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Brings the widgets up to date."""


class WriteGuard:
    """Lets the observers of a control ignore changes that the program itself writes."""

    def __init__(self) -> None:
        self._thread: int | None = None

    @property
    def active(self) -> bool:
        """Whether this thread is writing the control."""
        return self._thread == threading.get_ident()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While inside, changes come from the program and not from the user."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None


class PendingCommand:
    """The last command that a control has sent, until it is answered.

    Attributes:
        value: What was asked for; None if nothing is pending.
        refusal: Why the last command was refused, in HTML; empty if it was not.
    """

    def __init__(self) -> None:
        self._id: str | None = None
        self.value: Any = None
        self.refusal = ""
        self.lock = threading.RLock()  # the answer may come before `send` has returned

    def send(self, send: Callable[[], str], value: Any) -> None:
        """Calls `send` and remembers the id that it returns."""
        with self.lock:
            self.refusal = ""
            self._id, self.value = send(), value

    def answer(self, command: str | None, refusal: str | None) -> bool:
        """Whether an entry answers the pending command, which then is no longer pending.

        Args:
            command: The command of the entry.
            refusal: Why it was refused; None if it was obeyed.
        """
        with self.lock:
            answered = self._id is not None and self._id == command
            if answered:
                self._id = self.value = None
                self.refusal = refusal_html(refusal or "")
            return answered


def refusal_html(words: str) -> str:
    """A refusal as the page shows it; empty for none."""
    return f'<span class="babysit-refusal" role="alert">{html.escape(words)}</span>' if words else ""


def button(description: str, act: Callable[[], Any], style: str = "", tooltip: str | None = None) -> widgets.Button:
    """A button, disabled until the pump enables it."""
    made = widgets.Button(description=description, button_style=style, disabled=True, tooltip=tooltip)
    made.on_click(lambda _: act())
    return made


def export_button(description: str, act: Callable[[], Any], content: str) -> widgets.Button:
    """A button that writes a file, always enabled."""
    made = button(description, act, tooltip=f"write {content} into the run's folder")
    made.disabled = False
    return made


def caption(text: str = "") -> widgets.HTML:
    """A line of quiet text."""
    return classed(widgets.HTML(text), "babysit-caption")


def unlabelled(control: Any) -> Any:
    """The control with its description hidden from the eye, but not from a screen reader."""
    return classed(control, "babysit-unlabelled")


def classed(widget: Any, *names: str) -> Any:
    """The widget, with classes of the style sheet."""
    for name in names:
        widget.add_class(name)
    return widget


def row(*children: Any, name: str = "babysit-row") -> widgets.HBox:
    """Widgets beside one another, in as many lines as they need."""
    return classed(widgets.HBox(children), name)


def space() -> widgets.Box:
    """A box that fills the rest of a line."""
    return widgets.Box(layout={"flex": "1 1 auto"})


def slug(name: str) -> str:
    """A name as a class of the style sheet: `dropout.rate` -> `dropout-rate`."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def ungrouped(words: str) -> str:
    """A number without the commas that separate its thousands: `1,024` -> `1024`; anything else unchanged."""
    words = words.strip()
    return words.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", words) else words


def write(widget: widgets.Widget, **values: Any) -> None:
    """Sets the values that differ, in one message; sends none if nothing differs."""
    if widget in _disabled:
        values.pop("disabled", None)
    changed = {name: value for name, value in values.items() if getattr(widget, name) != value}
    if "options" in changed:  # setting them selects the first one
        changed = values
    if changed:
        with widget.hold_sync():
            for name, value in changed.items():
                setattr(widget, name, value)
        reset_subshell_routing(widget)


_disabled: "weakref.WeakSet[widgets.Widget]" = weakref.WeakSet()


def disable_for_good(widget: Any) -> None:
    """Disables all controls below a widget, whatever `write` sets later; those of class `babysit-looks` stay."""
    if "babysit-looks" in getattr(widget, "_dom_classes", ()):
        return
    if widget.has_trait("disabled"):
        write(widget, disabled=True)
        _disabled.add(widget)
    for child in getattr(widget, "children", ()):
        disable_for_good(child)


def reset_subshell_routing(widget: widgets.Widget) -> None:
    """Lets the page choose the kernel thread that receives messages of a widget and of all below it.

    An ipykernel with subshells sends them to the thread that wrote to the widget last, which
    may be busy with a cell; if none has, to the one that the page names.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)
    for child in getattr(widget, "children", ()):
        reset_subshell_routing(child)


def late_controls_warning() -> str:
    """The warning that this kernel, without subshells, receives controls only between cells; else empty."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or getattr(kernel, "_supports_kernel_subshells", False):
        return ""
    version = kernel.implementation_version
    return f"With ipykernel {version}, sliders and buttons act when the running cell ends; from version 7 on, at once."


def close(widget: Any) -> None:
    """Closes a widget and everything in it, which ipywidgets would keep; may be called twice."""
    for part in (*getattr(widget, "children", ()), *(getattr(widget, name, None) for name in ("layout", "style"))):
        if part is not None:
            close(part)
    widget.close()
