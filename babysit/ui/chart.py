"""The chart on the page: its picture, the bar above it, what is told beneath it, and the same for a screen reader."""

import html
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets

from babysit.ui.chart_toolbar import Bar
from babysit.ui.figure import Curves
from babysit.ui.page_monitor import Watch
from babysit.ui.ticks import figure
from babysit.ui.widgets import Send, classed, free_all, row, unlabelled, write

# A frame may cost this share of one core; frames come less often when they cost more.
FRAME_SHARE = 0.05
# But no longer than this after the last one: the first and others that draw everything anew cost much, and are rare.
FRAME_WAIT_S = 2.0
SPOKEN_INTERVAL_S = 5.0
MARKS = 100  # to choose from


class Chart:
    """The curves of a run, as the one who looks wants to see them.

    Args:
        send: Hands a command over.
        wake: Wakes the pump.
        watch: Whether anybody looks, how large it may be, and what was clicked.
    """

    def __init__(self, send: Send, wake: Callable[[], None], watch: Watch) -> None:
        self._send, self._watch = send, watch
        self._curves = Curves()
        self._bar = Bar(send, wake)
        self._size = (0, 0, 0.0)  # of the last picture
        self._stale, self._stale_marks = True, True
        self._next_frame = self._next_words = 0.0
        self._image = widgets.Image(format="png")
        self._marks = widgets.Dropdown(options=[("", 0)], description="a change, to be told of")
        self._marks.observe(lambda _: wake(), "value")
        self._told, self._spoken = classed(widgets.HTML(), "babysit-told"), classed(widgets.HTML(), "babysit-spoken")
        told = row(unlabelled(self._marks), self._told, name="babysit-mark")
        parts = [self._bar.widget, widgets.Box([self._image]), self._spoken, told]
        self.widget = classed(widgets.VBox(parts), "babysit-chart")
        free_all(told)

    # ------------------------------------------------------- called by the pump alone

    @property
    def mark(self) -> int | None:
        """The mark that is told of, or None."""
        return self._marks.value or None

    def take(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Takes in rows of the record, by table."""
        self._curves.add(rows)
        self._stale = True
        self._stale_marks = self._stale_marks or bool(rows["entries"] or rows["branches"])

    def refresh(self, at_once: bool = False) -> None:
        """Shows what there is now, as it was chosen; at once, or when it is time and somebody looks."""
        for choice in self._watch.choices():
            self._choose(choice)
        if self._stale_marks:
            self._offer(self.mark)
            self._stale_marks = False
        view = self._bar.view(self._curves.limits, self.mark)
        chosen, self._curves.view = view != self._curves.view, view
        write(self._told, value=self._about(self.mark))
        for kind in self._bar.pictures():
            self._send("export", kind=f"chart.{kind}", content=self._curves.export(kind))
        if at_once or self._watch.looked_at:
            self._draw(at_once or chosen)
            self._speak(at_once)
        self._bar.refresh(self._curves.columns, self._curves.shown, self._curves.problem)

    def _draw(self, at_once: bool) -> None:
        now, view = time.monotonic(), self._curves.view
        size = _size(*self._watch.size, view.metrics, view.hyperparameters)
        at_once = at_once or size != self._size
        if not at_once and (now < self._next_frame or not (self._stale or view.other)):
            return
        began = time.thread_time()
        if (picture := self._curves.draw(*size)) is not None:
            write(self._image, value=picture, width=str(size[0]), height=str(size[1]))
        self._stale, self._size = False, size
        self._next_frame = now + min((time.thread_time() - began) / FRAME_SHARE, FRAME_WAIT_S)

    def _speak(self, at_once: bool) -> None:
        if (now := time.monotonic()) >= self._next_words or at_once:
            write(self._spoken, value=f"<p>{html.escape(self._curves.summary())}</p>")
            self._next_words = now + SPOKEN_INTERVAL_S

    # ------------------------------------------------------------------------- marks

    def _choose(self, choice: Mapping[str, Any]) -> None:
        """Turns to the mark that was clicked, in the logbook or on the chart; to none if it is told of already."""
        mark = choice.get("mark")
        if "place" in choice:
            across, down = choice["place"]
            mark = self._curves.mark_at(across * self._size[0], down * self._size[1])
        self._offer(None if mark == self.mark else mark)

    def _offer(self, chosen: int | None) -> None:
        """Brings the menu of marks up to date, the newest first, and chooses one of them."""
        marks = self._curves.marks[-MARKS:]
        if chosen is not None and chosen not in marks:  # an old one, or one on a branch that was left
            marks = [chosen, *marks]
        told = [(mark, self._known(mark)) for mark in reversed(marks)]
        options = [(f"{about['step']:,} · {about['what']}", mark) for mark, about in told if about]
        known = chosen if any(mark == chosen for _, mark in options) else 0
        nothing = "nothing changed yet" if not options else "choose a change to be told of"
        write(self._marks, options=((nothing, 0), *options), value=known, disabled=not options)

    def _known(self, mark: Any) -> dict[str, Any]:
        try:
            return self._curves.told(mark)
        except KeyError:
            return {}

    def _about(self, mark: int | None) -> str:
        """What was done there, by whom and why, and what the loss did."""
        told = self._known(mark)
        if not told:
            return ""
        why = f" — {html.escape(told['why'])}" if told["why"] else ""
        parts = [f'<span class="babysit-hand">{html.escape(told["what"])}</span>{why}']
        parts.append(f"by {html.escape(told['author'])}")
        before, after = told["loss_before"], told["loss_after"]
        if before is not None and after is not None:
            steps = f"means of {told['steps_before']} steps before and {told['steps_after']} after"
            parts.append(f"loss {figure(before)} → {figure(after)}, {steps}")
        return " · ".join(parts)


def _size(
    width: int, ratio: float, metrics: tuple[str, ...] | None, hyperparameters: tuple[str, ...] | None
) -> tuple[int, int, float]:
    """Width and height of the chart in pixels of the page, and image pixels a pixel; higher where much was chosen."""
    height = min(max(round(0.6 * width), 380), 540)
    metric, steered = len(metrics or ()), len(hyperparameters or ())
    needed = 270 + 85 * metric + 50 * steered if metric + steered > 2 else 0
    return width, max(height, needed), ratio
