"""What the parts of the dashboard are made of, and how their widgets are written.

An observer of a control, called by the page on any thread, only sends a command. Only the
pump writes widgets, with `write`, which sends what has changed and nothing else.
"""

import html
import re
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Protocol

import anywidget
import ipywidgets as widgets
from IPython.core.getipython import get_ipython

from babysit.core.journal import Entry


class Send(Protocol):
    """Sends a command to the run: `send("set", changes={…})`; returns its id."""

    def __call__(self, action: str, **about: Any) -> str:
        """Returns at once; the result of the command is an entry of the log with that id."""


class PendingCommand:
    """The last command that a control has sent, until it is answered.

    Attributes:
        value: What was asked for; None if nothing is pending.
        refusal: Why the last command was refused; empty if it was not.
        lock: Held while a command is sent, as the answer may come before its id is known.
    """

    def __init__(self) -> None:
        self._id: str | None = None
        self.value: Any = None
        self.refusal = ""
        self.lock = threading.RLock()

    def send(self, send: Callable[[], str], value: Any = True) -> None:
        """Calls `send` and remembers the id that it returns; a run that is only watched refuses at once."""
        with self.lock:
            self.refusal = ""
            try:
                self._id, self.value = send(), value
            except ValueError as error:
                self.refusal = str(error)

    def answer(self, entry: Entry) -> None:
        """Reads an entry of the log; if it answers the last command, that is no longer pending."""
        with self.lock:
            if self._id is not None and self._id == entry.command:
                self.value = None
                self.refusal = entry.why if entry.action == "refuse" else self.refusal


# ------------------------------------------------------------------------- made


def button(description: str, act: Callable[[], Any], style: str = "", tooltip: str = "") -> widgets.Button:
    """A button, disabled until the pump enables it."""
    made = widgets.Button(description=description, button_style=style, disabled=True, tooltip=tooltip)
    made.on_click(lambda _: act())
    return made


def export_button(description: str, act: Callable[[], Any], content: str) -> widgets.Button:
    """A button that writes a file, always enabled."""
    made = button(description, act, tooltip=f"write {content} into the run's folder")
    made.disabled = False
    return made


def with_tooltip(widget: Any, words: str) -> Any:
    """The widget, with words that the page shows where the pointer rests on it."""
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"  # as in ipywidgets 7
    setattr(widget, name, words)
    return widget


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


def refusal_html(words: str) -> str:
    """A refusal as the page shows it; empty for none."""
    return f'<span class="babysit-refusal" role="alert">{html.escape(words)}</span>' if words else ""


def folded(summary: str, details: str) -> str:
    """A line that opens to show the details."""
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(details)}</pre></details>"


def slug(name: str) -> str:
    """A name as a class of the style sheet: `dropout.rate` -> `dropout-rate`."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def ungrouped(words: str) -> str:
    """A number without the commas that separate its thousands: `1,024` -> `1024`; anything else unchanged."""
    words = words.strip()
    return words.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", words) else words


def typed_number(words: str, whole: bool) -> float:
    """A number as typed: a comma may separate thousands of a whole number, else it is a decimal comma.

    Raises:
        ValueError: If it is no number.
    """
    return float((ungrouped(words) if whole else words).replace(",", "."))


# ------------------------------------------------------------------------- observed and written

_thread = threading.local()


def on_change(control: Any, act: Callable[[Any], Any]) -> None:
    """Calls `act` with the value of a control whenever the user has changed it, and not when `write` has."""

    def changed(change: Mapping[str, Any]) -> None:
        if not getattr(_thread, "writes", False):
            act(change["new"])

    control.observe(changed, "value")


def write(widget: widgets.Widget, **values: Any) -> None:
    """Sets the values that differ, in one message; sends none if nothing differs."""
    changed = {name: value for name, value in values.items() if getattr(widget, name) != value}
    if "options" in changed:  # setting them selects the first one
        changed = values
    if changed:
        _thread.writes = True
        try:
            with widget.hold_sync():
                for name, value in changed.items():
                    setattr(widget, name, value)
        finally:
            _thread.writes = False
        reset_subshell_routing(widget)


def write_titles(tabs: Any, *titles: str) -> None:
    """Sets the titles of the children of a `Tab` or an `Accordion`; sends nothing if none differs."""
    if [tabs.get_title(i) for i in range(len(titles))] != [*titles]:
        for i, title in enumerate(titles):  # ipywidgets 7 has no trait for all of them
            tabs.set_title(i, title)
        reset_subshell_routing(tabs)


def reset_subshell_routing(widget: widgets.Widget) -> None:
    """Lets the page choose the kernel thread that receives messages of a widget and of all below it.

    An ipykernel with subshells sends them to the thread that wrote to the widget last, which
    may be busy with a cell; if none has, to the one that the page names.
    """
    getattr(widget.comm, "__dict__", {}).pop("_reply_subshell_id", None)
    for child in getattr(widget, "children", ()):
        reset_subshell_routing(child)


def late_controls_warning() -> str:
    """The warning that this kernel, without subshells, receives controls only between cells; else empty."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or getattr(kernel, "_supports_kernel_subshells", False):
        return ""
    present = f"With ipykernel {version('ipykernel')}"
    return f"{present}, sliders and buttons act when the running cell ends; from version 7 on, at once."


def mimebundle(widget: Any, words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a cell displays of a widget, with words in place of it where no widget can be shown.

    As anywidget does it: ipywidgets 7 has no such method, and Colab must be told that there is an anywidget in it.
    """
    about: Any = anywidget.AnyWidget._repr_mimebundle_(widget)
    return about[0] | {"text/plain": words}, about[1]


def close(widget: Any) -> None:
    """Closes a widget and everything in it, which ipywidgets would keep; may be called twice."""
    for part in (*getattr(widget, "children", ()), *(getattr(widget, name, None) for name in ("layout", "style"))):
        if part is not None:
            close(part)
    widget.close()
