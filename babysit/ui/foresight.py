"""Foresight: what can be tried before it is done, what came of it, and what is watched for."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets

from babysit.core.journal import Entry
from babysit.core.words import label, number
from babysit.ui.chart_view import ChartView
from babysit.ui.run_series import RunSeries
from babysit.ui.sliders import TRIAL_STEPS
from babysit.ui.trials_figure import colour, draw_range_test, draw_trials, rate_axis, suggestion_colour
from babysit.ui.widgets import (
    Send,
    button,
    caption,
    classed,
    close,
    on_change,
    reset_subshell_routing,
    row,
    typed_number,
    unlabelled,
    with_tooltip,
    write,
)

NARROWEST, WIDEST, SHARE = 360, 560, 0.75  # pixels of the page that a picture has, and its share of the chart's width
_NOTHING = (
    "Nothing has been tried yet. <b>Try</b> trains some steps with each value, from here and on the same examples, "
    "and takes the run back to where it was; then you choose which one it goes on from. <b>Range test</b> lets a "
    "learning rate grow until the loss explodes, and suggests rates."
)
_ASKED = "The run goes on from the one you keep."
_CLICK = "A click on the curve sets the rate there."
_HEAD = "<span></span><span>{by}, last tenth</span><span>steps</span><span></span>"
_SUGGESTED = {
    "steepest": "where the loss falls fastest",
    "valley": "the middle of the longest fall",
    "minimum ÷ 10": "a tenth of the rate with the lowest loss",
    "slide": "before the loss levels off",
}
RULES = {
    "spike": "A loss more than six standard deviations above the mean of the 128 steps before.",
    "plateau": "Ten epochs without a lower validation loss, or loss where nothing is validated.",
    "overfitting": "A validation loss 5 % above its lowest, while the loss has fallen further.",
    "not finite": "A loss that is NaN or infinite.",
    "stalled": "A loss that has not fallen in the last 2,000 steps.",
}
_WATCHED = (
    "While the run trains: <i>tell</i> and <i>pause</i> ask above the chart what to do; "
    "the others act at once, three times at most."
)
_THENS = ("off", "tell", "pause", "halve the learning rate", "rewind and skip")


def doing(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is being tried now: its `words`, and the share that is `done`; None for nothing."""
    found = status.get("foresight") if status["state"] != "interrupted" else None
    return found["doing"] if found else None


def asking(status: Mapping[str, Any]) -> tuple[str, str]:
    """What the line above the chart is about, and its words; both empty for nothing.

    It is about what is being tried (`doing`), the newest alert (its rule's name), or what is to be kept (`choice`).
    """
    foresight = status.get("foresight") or {}
    if busy := doing(status):
        return "doing", f"{_capital(busy['words'])} · {busy['done']:.0%}"
    if alerts := foresight.get("alerts"):
        last, more = alerts[-1], f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
        return last["rule"], f"{_capital(last['rule'])} at step {last['step']:,}{more}: {last['words']}"
    if (foresight.get("result") or {}).get("open"):
        return "choice", "The run rests. Choose below, under Foresight, which trial it goes on from, or none."
    return "", ""


class Foresight:
    """The tab of what is tried: what to try, and what came of it.

    Args:
        send: Sends a command.
        wake: Wakes the pump.
        series: The run's branches and losses.
        page: Knows how wide a picture may be.
        show: Brings the tab to the front; called once for each result.
    """

    def __init__(
        self, send: Send, wake: Callable[[], None], series: RunSeries, page: ChartView, show: Callable[[], None]
    ) -> None:
        self._send, self._wake, self._series, self._page, self._show = send, wake, series, page, show
        self._found: Mapping[str, Any] = {}  # the hyperparameters
        self._chosen = ""  # the one that the user chose
        self._result: tuple[int | None, bool] = None, False  # the number of the one shown, and whether it is open
        self._drawn: Any = None  # what was drawn last, and how
        self._answers: list[widgets.Button] = []
        self._name = unlabelled(widgets.Dropdown(description="hyperparameter to try"))
        on_change(self._name, self._on_choice)
        values = widgets.Text(placeholder="a third, the same, three times", description="values to try")
        self._values = classed(unlabelled(values), "babysit-values-to-try")
        steps = widgets.BoundedIntText(value=TRIAL_STEPS, min=1, max=10_000_000, description="steps")
        self._steps = classed(with_tooltip(steps, "steps of each trial"), "babysit-count")
        self._try = button("Try", self._on_try, tooltip="tries these values from here; then asks which to keep")
        about = "lets the learning rate grow until the loss explodes, and returns to here"
        self._test = button("Range test", lambda: send("lr_range_test", name=self._name.value), tooltip=about)
        self._cancel = button("Cancel", lambda: send("cancel"), tooltip="ends the trials; the run is where it was")
        self._progress = classed(widgets.FloatProgress(min=0, max=1), "babysit-progress")
        self._words = caption()
        self._busy = [self._cancel, with_tooltip(self._progress, "progress of the trials"), self._words]
        self._image = widgets.Image(format="png", layout={"display": "none"})
        self._rows = classed(widgets.VBox([caption(_NOTHING)]), "babysit-tried")
        head = row(self._name, self._values, self._steps, self._try, self._test, *self._busy)
        picture = classed(widgets.Box([self._image]), "babysit-tried-picture")
        result = row(picture, self._rows, name="babysit-result")
        self.widget = classed(widgets.VBox([head, result]), "babysit-foresight")

    # ---------------------------------- called by the page, on any thread: only send

    def _on_choice(self, name: str) -> None:
        self._chosen = name
        self._wake()

    def _on_try(self) -> None:
        about: dict[str, Any] = {"name": self._name.value, "steps": self._steps.value}
        if typed := self._values.value.strip():
            about["values"] = _typed_values(typed, self._found[self._name.value]["whole"])
        self._send("fan", **about)

    # ------------------------------------------------------- called by the pump alone

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what can be tried, what is being tried, and the last result."""
        self._found, busy = status["hyperparameters"], doing(status)
        options = tuple((label(name), name) for name in self._found)
        chosen = self._chosen if self._chosen in self._found else next(iter(self._found), None)
        write(self._name, options=options, value=chosen)
        ready = status["state"] in ("running", "paused") and not busy and chosen is not None
        write(self._try, disabled=not ready)
        is_rate = chosen is not None and chosen.rpartition(".")[2] == "learning_rate"
        write(self._test, disabled=not (ready and is_rate))
        write(self._cancel, disabled=not busy)
        for part in self._busy:
            write(part.layout, visibility="visible" if busy else "hidden")
        if busy:
            write(self._progress, value=busy["done"])
            write(self._words, value=html.escape(busy["words"]))
        if result := (status.get("foresight") or {}).get("result"):
            self._refresh_result(result)
        elif self._result[0] is None:
            self._result = 0, False  # the next one is news
        for answer in self._answers:
            write(answer, disabled=bool(busy) or not result)

    def _refresh_result(self, result: Mapping[str, Any]) -> None:
        (number, is_open), (known, was_open) = (result["number"], result.get("open", False)), self._result
        self._result, is_test = (number, is_open), result["kind"] == "range test"
        if self._result != (known, was_open):
            old, self._answers = self._rows.children, []
            title, verdict = html.escape(_capital(result["title"])), html.escape(result.get("verdict", ""))
            rows = self._suggestions(result) if is_test else self._trials(result)
            self._rows.children = [caption(f"<b>{title}</b><br>{verdict}"), *rows]
            reset_subshell_routing(self._rows)
            for widget in old:
                close(widget)
        if number != known and (known is not None or is_open):  # one that was there before is no news
            self._show()
        width = self._page.width
        look = number, min(width, WIDEST, max(round(SHARE * width), NARROWEST)), self._page.ratio
        if look != self._drawn:
            draw = draw_range_test if is_test else partial(draw_trials, self._series)
            write(self._image, value=draw(result, *look[1:]))
            write(self._image.layout, display=None, width=f"{look[1]}px")
            self._page.show_rates(rate_axis(result, look[1]) if is_test else {})
            self._drawn = look

    def _trials(self, result: Mapping[str, Any]) -> Sequence[Any]:
        found, keep = result["trials"], []
        if result["open"]:
            keep = [self._answer("Keep", f"goes on from {one['words']}", branch=one["branch"]) for one in found]
            keep.append(self._answer("Keep none", "goes on as if nothing had been tried", branch=None))
        cells = [_HEAD.format(by=html.escape(label(result["by"]))), *(_trial(i, one) for i, one in enumerate(found))]
        rows = [row(widgets.HTML(of), *keep[i : i + 1] if i >= 0 else ()) for i, of in enumerate(cells, -1)]
        return [*rows, row(caption(_ASKED), keep[-1])] if keep else rows

    def _suggestions(self, result: Mapping[str, Any]) -> Sequence[Any]:
        rows, name = [], result["name"]
        for i, (rule, rate) in enumerate(result["suggestions"].items()):
            rate = float(f"{rate:.3g}")
            tooltip, why = f"sets {label(name)} to {number(rate)}", f"range test: {rule}"
            answer = self._answer(f"{rule} {number(rate)}", tooltip, "set", changes={name: rate}, why=why)
            words = f"{_sign(suggestion_colour(i))}{_SUGGESTED.get(rule, '')}"
            rows.append(row(caption(words), answer))
        return [*rows, row(caption(_CLICK))] if self._page.is_shown else rows

    def _answer(self, words: str, tooltip: str, action: str = "keep", **about: Any) -> widgets.Button:
        self._answers.append(button(words, partial(self._send, action, **about), tooltip=tooltip))
        return self._answers[-1]


class Rules:
    """The tab of what is watched for.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._shown: Any = None  # the rules as they were shown last
        self._menus = {rule: widgets.Dropdown(options=_THENS, description=rule) for rule in RULES}
        for rule, menu in self._menus.items():
            on_change(menu, partial(self._on_then, rule))
        rows = [row(menu, caption(RULES[rule])) for rule, menu in self._menus.items()]
        self.widget = classed(widgets.VBox([caption(_WATCHED), *rows]), "babysit-rules")

    def _on_then(self, rule: str, then: str) -> None:
        self._send("watch", rule=rule, then=None if then == "off" else then)

    def add(self, entry: Entry) -> None:
        """Reads an entry: after a refusal the rules in effect are shown again; called by the pump alone."""
        if entry.action == "refuse":
            self._shown = None

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows the rules in effect, once they differ: the user's choice is not yet among them; by the pump alone."""
        rules = (status.get("foresight") or {}).get("rules", {})
        if rules != self._shown:
            self._shown = dict(rules)
            for rule, menu in self._menus.items():
                write(menu, value=then if (then := rules.get(rule)) in _THENS else "off")


class Alerts:
    """The line above the chart that says what is being tried, or asks what to do about the newest alert.

    Args:
        send: Sends a command.
    """

    def __init__(self, send: Send) -> None:
        self._alert: Mapping[str, Any] = {}

        def answer(words: str, then: str, tooltip: str = "") -> widgets.Button:
            return button(words, lambda: send("answer", number=self._alert["number"], then=then), tooltip=tooltip)

        self._cancel = button("Cancel", lambda: send("cancel"), tooltip="ends the trials; the run is where it was")
        self._cause = button("Show the cause", lambda: send("cause", step=self._alert["step"]))
        skip = "goes back 100 steps from there, and leaves out the next 200 batches"
        self._answers = [
            answer("Go back and leave out", "rewind and skip", skip),
            answer("Halve the learning rate", "halve the learning rate"),
            answer("Ignore", "ignore"),
        ]
        self._words = widgets.HTML()
        buttons = [self._cancel, *self._answers, self._cause]
        for one in buttons:
            one.disabled = False
        self.widget = row(self._words, row(*buttons), name="babysit-alerts")

    def refresh(self, status: Mapping[str, Any]) -> None:
        """Shows what is asked; called by the pump alone."""
        about, words = asking(status)
        alerts = (status.get("foresight") or {}).get("alerts")
        self._alert = alerts[-1] if alerts else {}
        words, is_alert = html.escape(words), about not in ("", "doing", "choice")
        write(self._words, value=f'<span role="{"alert" if is_alert else "status"}" title="{words}">{words}</span>')
        for one in (self.widget, self._cancel, self._cause, *self._answers):
            shown = {self.widget: bool(about), self._cancel: about == "doing", self._cause: about == "spike"}
            write(one.layout, display=None if shown.get(one, is_alert) else "none")


def _typed_values(text: str, whole: bool) -> list[Any]:
    """Numbers as typed, separated by spaces, semicolons or commas; what is no number stays as it is, to be refused."""
    parts = [part for part in re.split(r"[;,]?\s+|;", text) if part]
    return [_number_or_words(part, whole) for part in (parts if len(parts) > 1 else text.split(","))]


def _number_or_words(text: str, whole: bool) -> float | str:
    try:
        return typed_number(text, whole)
    except ValueError:
        return text


def _sign(of: str) -> str:
    return f'<i style="background: {of}"></i>'


def _trial(i: int, trial: Mapping[str, Any]) -> str:
    loss = "–" if trial["loss"] is None else f"{trial['loss']:.4g}"
    remark = " · ".join(filter(None, ["best" if trial["best"] else "", trial["ended"]]))
    cells = f"{_sign(colour(i))}{html.escape(trial['words'])}", loss, f"{trial['steps']:,}", html.escape(remark)
    return "".join(f"<span>{cell}</span>" for cell in cells)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
