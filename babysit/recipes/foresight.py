"""What is being tried on a run, what came of it, and what is watched for; for `Panda`'s methods and for a screen."""

import itertools
import math
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from babysit.core.history import History
from babysit.core.hyperparameter import any_whole, checked
from babysit.core.words import label, number
from babysit.recipes.cause import cause
from babysit.recipes.fan import Fan, fan
from babysit.recipes.lr_range_test import NOTHING, RangeTest, lr_range_test
from babysit.recipes.start import Cancelled, Progress
from babysit.recipes.watch import BACK, HALVE, RULES, THENS, Alert, Watch, commands
from babysit.session.run import Run

_RECIPES: dict[str, Callable[..., Any]] = {"fan": fan, "range test": lr_range_test, "cause": cause}
_MEANWHILE = ("note", "diagnostics", "export")  # are obeyed while something is tried
_SHOWN_RATES, _SHOWN_ALERTS = 300, 20


class Foresight:
    """Tries things on a run, one at a time, and watches it.

    Args:
        run: The run.
        send: Sends a command to it.
    """

    def __init__(self, run: Run, send: Callable[[Mapping[str, Any]], str]) -> None:
        self._run, self._send = run, send
        self._lock = threading.Lock()
        self._doing: Progress | None = None
        self._result: Fan | RangeTest | None = None
        self._shown: dict[str, Any] = {}  # the result in plain data
        self._results, self._numbers = itertools.count(1), itertools.count(1)
        self._watches: dict[str, Watch] = {}
        self._alerts: list[Alert] = []  # which nobody has answered
        self._actions: dict[str, Callable[..., Any]] = {
            "fan": self._fan,
            "lr_range_test": self._lr_range_test,
            "cause": self._cause,
            "keep": self._keep,
            "cancel": self._cancel,
            "watch": self._switch,
            "answer": self._answer,
        }

    # ------------------------------------------------------------------ from Python

    def attempt(self, kind: str, *arguments: Any) -> Any:
        """Tries something, and returns what came of it.

        Args:
            kind: `fan`, `range test` or `cause`.
            *arguments: Those of the recipe.

        Raises:
            ValueError: If something is being tried already.
            Cancelled: If somebody cancelled it; the run is where it was.
            Exception: What the recipe raises.
        """
        progress = self._enter()
        try:
            return self._attempt(progress, "script", kind, *arguments)
        finally:
            self._doing = None

    def _enter(self) -> Progress:
        with self._lock:
            if self._doing is not None:
                raise ValueError(f"Something is being tried already: {self._doing.words}. Wait, or cancel it.")
            self._doing = Progress()
            return self._doing

    def _attempt(self, progress: Progress, author: str, kind: str, *arguments: Any) -> Any:
        result = _RECIPES[kind](self._run, progress, author, *arguments)
        shown = _shown_fan(result) if isinstance(result, Fan) else _shown_test(result)
        self._result, self._shown = result, {"number": next(self._results), "kind": kind, **shown}
        return result

    def watch(
        self, rule: str | Callable[[History], Any], then: str, most: int, notify: Callable[[Alert], Any] | None
    ) -> Watch:
        """Begins to watch a run by a rule; see `Panda.watch`."""
        if not callable(rule) and rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, or a function. Received: rule={rule!r}.")
        if then not in THENS:
            raise ValueError(f"`then` must be one of {', '.join(map(repr, THENS))}. Received: then={then!r}.")
        if notify is not None and not callable(notify):
            raise TypeError(f"`notify` must be a function of an alert. Received: notify={notify!r}.")
        most = int(checked("most", most, any_whole(0)))

        def found(alert: Alert) -> None:
            self._found(alert, notify)

        made = Watch(self._run, rule, then, most, self._numbers, found, lambda: self._doing is not None)
        if (before := self._watches.get(made.rule)) is not None:
            before.end()
        self._watches[made.rule] = made
        return made

    def _found(self, alert: Alert, notify: Callable[[Alert], Any] | None) -> None:
        """Notes what a rule has found, on the training thread; tells the user's function on a thread of its own."""
        if alert.then in ("tell", "pause"):
            self._alerts = [*self._alerts, alert][-_SHOWN_ALERTS:]
        if notify is not None:
            threading.Thread(target=self._notify, args=(notify, alert), name="babysit-notify", daemon=True).start()

    def _notify(self, notify: Callable[[Alert], Any], alert: Alert) -> None:
        try:
            notify(alert)
        except Exception as error:
            self._refuse(f"`notify` raised {type(error).__name__}: {error}", {"author": alert.rule})

    # ------------------------------------------------------------------ from a screen

    def send(self, command: Mapping[str, Any]) -> str | None:
        """Obeys a command and returns its id, if it is one of foresight; refuses others while something is tried."""
        action = command.get("action")
        if action not in self._actions and (self._doing is None or action in _MEANWHILE):
            return None
        number, author = str(command.get("command") or uuid.uuid4().hex), str(command.get("author", "script"))
        about = {"command": number, "author": author}
        given = {key: value for key, value in command.items() if key not in ("action", "author", "command", "why")}
        try:
            if action not in self._actions:
                raise ValueError(f"`{action}` is not possible while something is tried: wait, or cancel it.")
            self._actions[action](about, **given)
        except (TypeError, ValueError) as error:
            self._refuse(str(error), about)
        return number

    def status(self) -> dict[str, Any]:
        """What is tried, the last result, the rules, and the alerts that nobody has answered, in plain data."""
        result, shown, doing = self._result, self._shown, self._doing
        if isinstance(result, Fan):
            shown = {**shown, "open": result.is_open}
        return {
            "doing": doing and {"words": doing.words, "done": doing.share},
            "result": shown or None,
            "rules": {rule: watch.then for rule, watch in list(self._watches.items()) if watch.is_on},
            "alerts": [
                {name: getattr(alert, name) for name in ("number", "rule", "step", "words")} for alert in self._alerts
            ],
        }

    def _refuse(self, reason: str, about: Mapping[str, Any]) -> None:
        self._send({"action": "refuse", "reason": reason, **about})

    def _fan(self, about: Mapping[str, Any], name: str, values: Any = None, steps: int = 200) -> None:
        self._begin(
            about, lambda progress: self._attempt(progress, about["author"], "fan", steps, None, {name: values})
        )

    def _lr_range_test(self, about: Mapping[str, Any], name: str = "learning_rate") -> None:
        self._begin(
            about, lambda progress: self._attempt(progress, about["author"], "range test", None, None, 100, name, None)
        )

    def _cause(self, about: Mapping[str, Any], step: int) -> None:
        self._begin(about, lambda progress: self._attempt(progress, about["author"], "cause", step, 20))

    def _keep(self, about: Mapping[str, Any], branch: str | None = None) -> None:
        result = self._result
        if not isinstance(result, Fan) or not result.is_open:
            raise ValueError("There is no trial to keep: the training has gone on since. Rewind to its branch.")
        trials = [trial.branch for trial in result.trials]
        if branch is not None and branch not in trials:
            raise ValueError(f"`branch` must be one of {', '.join(trials)}. Received: branch={branch!r}.")
        self._begin(about, lambda _: result.go_on(branch, about["author"]))

    def _begin(self, about: Mapping[str, Any], work: Callable[[Progress], Any]) -> None:
        """Does something that waits for the training on a thread of its own."""

        def do() -> None:
            try:
                work(progress)
            except Cancelled:
                pass
            except Exception as error:
                self._refuse(str(error), about)
            finally:
                self._doing = None

        progress = self._enter()
        threading.Thread(target=do, name="babysit-foresight", daemon=True).start()

    def _cancel(self, about: Mapping[str, Any]) -> None:
        if (doing := self._doing) is not None:
            doing.cancelled = True
            self._send({"action": "pause", **about})  # so that the trial need not go on to its end

    def _switch(self, about: Mapping[str, Any], rule: str, then: str | None) -> None:
        if then is not None:
            self.watch(rule, then, 3, None)
        elif (watch := self._watches.get(rule)) is not None:
            watch.end()

    def _answer(self, about: Mapping[str, Any], number: int, then: str) -> None:
        found = next((alert for alert in self._alerts if alert.number == number), None)
        if found is None or then not in (BACK, HALVE, "ignore"):
            raise ValueError(f"There is no such alert or answer. Received: number={number!r}, then={then!r}.")
        self._alerts = [alert for alert in self._alerts if alert is not found]
        if then != "ignore":
            for command in commands(self._run, found, then):
                self._send({**command, **about})


def _shown_fan(fan: Fan) -> dict[str, Any]:
    trials = [
        {
            "words": number(trial.value),
            "branch": trial.branch,
            "steps": trial.steps,
            "loss": trial.loss if math.isfinite(trial.loss) else None,
            "ended": trial.ended,
            "best": trial is fan.best,
        }
        for trial in fan.trials
    ]
    return {"title": fan.title, "step": fan.step, "by": fan.by, "trials": trials, "verdict": fan.verdict}


def _shown_test(test: RangeTest) -> dict[str, Any]:
    every = -(-len(test.rates) // _SHOWN_RATES)
    columns = {name: getattr(test, name)[::every].tolist() for name in ("rates", "losses", "smoothed")}
    about = {"title": f"range test of {label(test.name)}", "step": test.step, "by": test.by, "name": test.name}
    return about | columns | {"suggestions": test.suggestions, "verdict": "" if test.suggestions else NOTHING}
