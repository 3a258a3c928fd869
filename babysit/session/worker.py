"""The worker: the one thread that trains, and the queue of commands that it obeys at step boundaries.

The session knows how to train, the worker when. Commands may come from any thread.
"""

import contextlib
import itertools
import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from babysit.core.events import Event, Note, NotFinite, Paused, Refused, Resumed
from babysit.core.hyperparameter import any_whole, checked
from babysit.session import commands
from babysit.session.guard import ModelGuard, use_keras_settings
from babysit.session.plan import FitPlan
from babysit.session.rewind import rewind
from babysit.session.session import Session
from babysit.session.status import Rate, describe
from babysit.store.database import Database

# What code that runs within the training, such as a callback, may ask for: at once, or as soon as it has returned.
_AT_ONCE, _SOON = {"call", "digest", "note", "save", "set", "diagnostics"}, {"pause", "stop"}
_ABOUT = ("author", "why", "command")  # what of a command goes into its event
# Python switches threads this often from the first training on, so that a slider acts while a cell computes.
SWITCH_INTERVAL_S = 0.0002

_NOT_FINITE = "The loss is not a finite number. Rewind to a step before that, and lower the learning rate."


class Worker:
    """Drives a session on a thread of its own, which lives while there is something to do.

    Args:
        session: The run.
        model: The Keras model.
        database: The run's record.
        export: Writes what leaves a run, of a kind and with a content if it brings one; returns the file.

    Attributes:
        state: `idle`, `running`, `paused`, `finished`, `stopped` or `failed`.
        error: What the training raised, if it failed.
        not_finite: Whether it rests because the loss turned NaN or infinite.
        watchers: Called after each block; each gives commands, which are obeyed at once.
    """

    def __init__(self, session: Session, model: Any, database: Database, export: Callable[[str, bytes], Path]) -> None:
        self.session, self.state = session, "idle"
        self.error: BaseException | None = None
        self.not_finite = False
        self.watchers: list[Callable[[], Sequence[Mapping[str, Any]]]] = []
        self._model, self._database, self._guard = model, database, ModelGuard(model, self)
        self._until: float = 0  # the step at which it rests
        self._last_epoch: float = math.inf  # the epoch after which it rests
        self._taken = 0  # steps taken by this worker
        self._commands: deque[tuple[dict[str, Any], Future[Any] | None]] = deque()  # and who waits for their results
        self._obeying: dict[str, Any] | None = None  # the command in hand
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._rate = Rate()
        self._actions: dict[str, Callable[..., Any]] = {
            "fit": self._fit,
            "pause": self._pause,
            "resume": self._resume,
            "run": self._run,
            "finish_epoch": self._finish_epoch,
            "more_epochs": self._more_epochs,
            "stop": self._stop,
            "rewind": self._rewind,
            "set": lambda about, changes, over=1: session.set(changes, over, **about),
            "call": lambda about, function: session.call(function, model),
            "note": partial(commands.note, session),
            "save": partial(commands.save, session, write_model=model.save),
            "rename": partial(commands.rename, session),
            "delete": partial(commands.delete, session),
            "discard": lambda about, branches: session.store.discard(branches),
            "export": partial(commands.export, session, export),
            "keep_last": lambda about: session.keep_last(),
            "digest": lambda about: session.trainer.capture().digest(),
            "diagnostics": lambda about, on: session.trainer.diagnostics.switch(on),
            "refuse": _refuse,
        }
        session.between = self._obey_in_validation

    @property
    def alive(self) -> bool:
        """Whether a fit is going on, be it at rest."""
        return self.state in ("running", "paused")

    @property
    def within(self) -> bool:
        """Whether the caller is code that the training calls, such as a callback."""
        return self._thread is threading.current_thread()

    # ------------------------------------------------------------------------- from any thread

    def send(self, command: Mapping[str, Any]) -> str:
        """Puts a command in the queue, as a screen does, and returns its id; the journal says what came of it."""
        self.session.trainer.steered()
        return self._submit(dict(command), None)

    def submit(self, command: Mapping[str, Any]) -> "Future[Any]":
        """Puts a command in the queue and returns its future result; a refusal is in the journal too."""
        outcome: Future[Any] = Future()
        self._submit(dict(command), outcome)
        return outcome

    def ask(self, action: str, **about: Any) -> Any:
        """Has a command obeyed and returns its result, or raises what it raised."""
        command = {"action": action, "author": "script", **about}
        if self.within and action in _SOON:
            return self._submit(command, None)
        if self.within and action in _AT_ONCE:
            return self._obey(command)
        self._refuse_within(action)
        return self.submit(command).result()

    def run(self, steps: int, **about: Any) -> None:
        """Waits until so many steps more are taken, or it rests.

        Args:
            steps: How many.
            **about: What else the command `run` takes.

        Raises:
            Exception: What the training raised.
        """
        end = self.ask("run", steps=steps, **about)
        with self._changed:
            while self._taken < end and self.state == "running":  # as where somebody resumes meanwhile
                self._changed.wait(0.1)  # waking a caller after each block would cost several steps
        if self.state == "failed":
            raise self.error or RuntimeError("the training failed")

    def wait(self, timeout: float | None) -> bool:
        """Waits until no fit is going on, or it rests because of its loss; returns whether it came to that."""
        self._refuse_within("wait")
        with self._changed:
            return self._changed.wait_for(lambda: self.not_finite or not self.alive, timeout)

    def status(self) -> dict[str, Any]:
        """The state of the run, in plain data; computed in the caller's thread, at no cost to the training."""
        warning = self._database.error or self.session.store.error
        if self.state == "running" and not self.session.finite:
            warning = warning or _NOT_FINITE
        with self._changed:
            pending = self._obeying or (self._commands[0][0] if self._commands else None)
        return describe(self.session, self._rate) | {
            "name": self._model.name,
            "state": self.state,
            "pending": pending and {"action": str(pending.get("action")), "command": pending.get("command")},
            "not_finite": self.not_finite,
            "error": "".join(traceback.format_exception(self.error)) if self.error else None,
            "warning": warning,
            "diagnostics": self.session.trainer.diagnostics.status,
        }

    def _refuse_within(self, action: str) -> None:
        thread = threading.current_thread()
        if self.within or isinstance(thread, threading._DummyThread):  # one of TensorFlow's, for data
            raise RuntimeError(
                f"`{action}` would wait for the training, and was called from within it. Call it from another "
                "thread, or from a cell; or use `send`, which does not wait."
            )

    def _submit(self, command: dict[str, Any], outcome: "Future[Any] | None") -> str:
        with self._changed:
            number = command["command"] = str(command.get("command") or next(self._numbers))
            self._commands.append((command, outcome))
            self._changed.notify_all()
            if self._thread is None:
                name = f"babysit-{self._model.name}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()
        return number

    # ------------------------------------------------------------------------- on the training thread

    def _work(self) -> None:
        if sys.getswitchinterval() > SWITCH_INTERVAL_S:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        while (queued := self._next()) is not None or self.state == "running":
            try:
                if queued is not None:
                    self._answer(*queued)
                else:
                    self._advance()
            except BaseException as error:  # even failing failed
                self.error = self.error or error
                with self._changed:
                    self.state = "failed"
                    self._changed.notify_all()

    def _next(self) -> tuple[dict[str, Any], Future[Any] | None] | None:
        """The next command, without waiting while it runs; none, and the thread ends, when all is over."""
        with self._changed:
            self._obeying = None
            if self.state == "paused":
                self._changed.wait_for(lambda: self._commands)
            if self._commands:
                self._obeying = self._commands[0][0]
                return self._commands.popleft()
            if self.state != "running":
                self._thread = None
            return None

    def _obey_in_validation(self) -> None:
        """Between two blocks of a validation: obeys changes and notes that come before all else; `stop` ends it."""
        while self._commands and self._commands[0][0].get("action") in ("set", "note"):
            self._answer(*self._commands.popleft())
        if any(command.get("action") == "stop" for command, _ in list(self._commands)):
            raise _Stopped

    def _answer(self, command: dict[str, Any], outcome: "Future[Any] | None") -> None:
        try:
            if self._at_rest:
                self.session.find_external_changes("script")
            result = self._obey(command)
            if self._at_rest and not self.session.watched:
                self.session.watch()
        except BaseException as error:  # a callback may call `sys.exit`: those who wait must get an answer
            try:
                if outcome is None or command.get("author") != "script":  # which gets the error itself
                    with contextlib.suppress(ValueError):  # the log is closed, as the run goes on in another panda
                        self.session.emit(Refused(str(error)), **_texts(command) | {"why": ""})
            finally:
                if outcome is not None:  # last, so that whoever waits finds the refusal in the log
                    outcome.set_exception(error)
        else:
            if outcome is not None:
                outcome.set_result(result)

    @property
    def _at_rest(self) -> bool:
        """Whether the user may change the model itself now."""
        return self.state != "running" and self.session.plan is not None

    def _obey(self, command: Mapping[str, Any]) -> Any:
        action = command.get("action")
        if action not in self._actions:
            raise ValueError(f"`action` must be one of {', '.join(self._actions)}. Received: {action!r}.")
        given = {key: value for key, value in command.items() if key not in ("action", *_ABOUT)}
        return self._actions[action](_texts(command), **given)

    def _advance(self) -> None:
        """Takes a block, and does what it led to."""
        session, before, newest = self.session, self.session.position.step, self.session.log.seq
        try:
            if not session.finished:
                session.advance(self._until)
                self._rate.add(session.examples)
        except _Stopped:
            return
        except BaseException as error:
            self._fail(error)
            return
        taken = session.position.step - before
        turned = any(isinstance(one.payload, NotFinite) for one in session.log.events_after(newest))
        for watch in list(self.watchers):
            for command in watch():
                self._answer(dict(command), None)
        if turned and not session.early and not session.finite:  # none of them has gone back
            self.not_finite = True
            self._move_to("paused")
        elif session.finished:
            self._end("finished")
        elif session.position.step >= self._until or session.position.epoch >= self._last_epoch:
            self._move_to("paused")
        self._taken += taken  # last, as a caller of `run` then finds it at rest

    # ------------------------------------------------------------------------- the commands

    def _fit(self, about: Any, plan: FitPlan, paused: bool, settings: Mapping[str, Any] | None = None) -> None:
        if self.alive:
            raise ValueError(
                f"This panda is training already ({self.state} at step {self.session.position.step:,}). Steer it with "
                "`set`, or `stop()` it before you `fit` again."
            )
        self._until = self._last_epoch = math.inf
        self.error, self.not_finite = None, False
        use_keras_settings(settings or {})
        self.session.fit(plan)
        try:
            self.session.begin()
        except BaseException as error:  # a callback's
            self._fail(error)
            return
        self._move_to("paused" if paused else "running")

    def _pause(self, about: Mapping[str, str]) -> None:
        if self.state == "running":
            self.session.emit(Paused(), **about)
            self._move_to("paused")

    def _resume(self, about: Mapping[str, str]) -> None:
        self._check_alive()
        if self.state == "paused":
            self.session.emit(Resumed(), **about)
        self._go(math.inf)

    def _run(self, about: Any, steps: int, first: Sequence[Mapping[str, Any]] = ()) -> int:
        steps = int(checked("steps", steps, any_whole()))
        for command in first:  # without what lies between two commands, which lasts as long as many steps
            self._obey({**about, **command})
        self._check_alive()
        until = self.session.position.step + steps
        # An earlier `run` is not cut short.
        self._go(max(until, self._until) if self.state == "running" and self._until < math.inf else until)
        return self._taken + steps

    def _finish_epoch(self, about: Any) -> None:
        self._check_alive()
        self._go(math.inf, self.session.position.epoch + 1)

    def _more_epochs(self, about: Mapping[str, str], epochs: int) -> Event:
        epochs, session = int(checked("epochs", epochs, any_whole())), self.session
        if session.plan is None:
            raise ValueError("Only a fit that this process began can be made longer. Call `fit(..., epochs=...)`.")
        if self.alive:
            session.epochs += epochs
        else:
            again = replace(session.plan, epochs=epochs, initial_epoch=0, completes=False, keeps_batch_size=True)
            self._fit(about, again, False)
        return session.emit(Note(f"{epochs:,} more epochs, {session.epochs:,} in all"), **about)

    def _stop(self, about: Mapping[str, str]) -> None:
        if self.alive:
            self.not_finite = False
            self._end("stopped", **about)

    def _rewind(self, about: Mapping[str, str], **place: Any) -> Event:
        before = self.session.position.step
        event = rewind(self.session, about, **place)
        self._until += self.session.position.step - before  # a `run` takes as many steps all the same
        self.error, self.not_finite = None, False
        if self.state not in ("running", "paused") and self.session.plan is not None:
            self._move_to("paused")
        return event

    def _check_alive(self) -> None:
        if not self.alive:
            raise ValueError(f"No fit is going on: the run is {self.state}. Call `fit(...)` to go on.")

    def _go(self, until: float, last_epoch: float = math.inf) -> None:
        self.not_finite, self._until, self._last_epoch = False, until, last_epoch
        self._move_to("running")

    def _end(self, state: str, **about: Any) -> None:
        try:
            self.session.finish(state == "stopped", **about)
        except BaseException as error:  # a callback's, at the end of the training
            self._fail(error)
        else:
            self._rest_for_good(state)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.session.fail(error)
        self._rest_for_good("failed")

    def _rest_for_good(self, state: str) -> None:
        try:
            self.session.keep_last()
        except Exception as error:  # a full disk's, or a device's that gives nothing any more
            self.session.emit(Refused(f"the last state could not be saved: {error}"))
        self._move_to(state)

    def _move_to(self, state: str) -> None:
        if state != "running" and self.session.plan is not None:
            self.session.watch()  # before `wait` returns and the user may change the model
        self._guard.follow(state)
        self._rate.reset()
        with self._changed:
            self.state = state
            self._changed.notify_all()


def _texts(command: Mapping[str, Any]) -> dict[str, str]:
    """What of a command goes into its event, as text: a command may bring anything."""
    return {key: str(command[key]) for key in _ABOUT if command.get(key) is not None}


def _refuse(about: Any, reason: str) -> None:
    raise ValueError(reason)


class _Stopped(Exception):
    """A validation was ended by the command `stop`."""
