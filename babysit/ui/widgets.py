"""Controls: what the parts of the dashboard are made of, and how they are written.

A control's observer, called by the page on any thread, only hands something over. All
writing is the pump's, by `write`, which sends what has changed and nothing else.
"""

import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import ipywidgets as widgets
from IPython.core.getipython import get_ipython


class Send(Protocol):
    """Hands a command over: `send("set", changes={…})`; returns its id."""

    def __call__(self, action: str, **about: Any) -> str:
        """Returns at once; what comes of the command is an entry of the journal with that id."""


class Panel(Protocol):
    """A part of the dashboard: takes in what is recorded, shows how the run stands."""

    widget: widgets.Widget

    def take(self, table: str, row: Mapping[str, Any]) -> None:
        """Takes in a new row of the record."""

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Brings its widgets up to date."""


class Writing:
    """Tells the observers of a part's controls whether the part itself is writing them."""

    def __init__(self) -> None:
        self._thread: int | None = None

    @property
    def here(self) -> bool:
        """Whether this thread is the one that writes just now."""
        return self._thread == threading.get_ident()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """While inside, changes come from the program and not from a hand."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None


def button(description: str, act: Callable[[], Any], style: str = "", tooltip: str | None = None) -> widgets.Button:
    """A button that can be pressed once the pump allows it."""
    made = widgets.Button(description=description, button_style=style, disabled=True, tooltip=tooltip)
    made.on_click(lambda _: act())
    return made


def unlabelled(control: Any) -> Any:
    """Hides a control's description from the eye, where what stands beside it says it; a screen reader has it."""
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
    """What is left over of a line."""
    return widgets.Box(layout={"flex": "1 1 auto"})


def slug(name: str) -> str:
    """A name as a class of the style sheet: `dropout.rate` -> `dropout-rate`."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def label(name: str) -> str:
    """A hyperparameter's name in words."""
    return name.replace("_", " ").replace(".", " ")


def ungrouped(words: str) -> str:
    """A number without the commas that separate its thousands: `1,024` -> `1024`; anything else as it is."""
    words = words.strip()
    return words.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", words) else words


def write(widget: widgets.Widget, **values: Any) -> None:
    """Sets what has changed and nothing else, in one message, and none for nothing."""
    if widget in _locked:
        values.pop("disabled", None)
    changed = {name: value for name, value in values.items() if getattr(widget, name) != value}
    if "options" in changed:  # which sets a selection back to the first
        changed = values
    if changed:
        with widget.hold_sync():
            for name, value in changed.items():
                setattr(widget, name, value)
        free(widget)


def lock(widget: Any) -> None:
    """Switches off what would send a command, in a widget and everything in it, whatever `write` says later."""
    if "babysit-looks" in getattr(widget, "_dom_classes", ()):
        return
    if widget.has_trait("disabled") and widget not in _locked:
        write(widget, disabled=True)
        _locked.add(widget)
    for child in getattr(widget, "children", ()):
        lock(child)


_locked: "weakref.WeakSet[widgets.Widget]" = weakref.WeakSet()


def free(widget: widgets.Widget) -> None:
    """Lets the page say on which thread of the kernel it wants to be heard.

    An ipykernel with subshells hands a widget's messages to the thread that wrote to it
    last, which may be busy with a cell; where none has, to the one the page names.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)


def late_words() -> str:
    """What to say where this kernel hears a hand only between two cells, as one without subshells does; else empty."""
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


def free_all(widget: widgets.Widget) -> None:
    """Frees a widget and everything in it."""
    free(widget)
    for child in getattr(widget, "children", ()):
        free_all(child)
