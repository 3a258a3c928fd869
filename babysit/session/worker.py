"""The worker: the one thread that trains, and the queue of commands that it obeys at step boundaries.

The session knows how to train, the worker when. Commands may come from any thread.
"""

import contextlib
import math
import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from babysit.core.events import Event, Note, NotFinite, Paused, Refused, Resumed
from babysit.core.hyperparameter import any_whole, checked
from babysit.session import commands
from babysit.session.plan import FitPlan
from babysit.session.rewind import rewind
from babysit.session.session import Session
from babysit.session.status import Rate, describe
from babysit.session.switching import switching

_FIELDS = {"author", "branch", "changes", "command", "content", "folder", "function", "hyperparameters", "name", "over"}
_FIELDS |= {"epochs", "kind", "on", "on_last_change", "paused", "plan", "settings", "skip", "step", "steps", "why"}
# What code that runs within the training, such as a callback, may ask for: at once, or as soon as it has returned.
_AT_ONCE, _SOON = {"call", "digest", "note", "save", "set", "diagnostics"}, {"pause", "stop"}

_NOT_FINITE = "The loss is not a finite number. Rewind to a step before that, and lower the learning rate."


class _Queued(NamedTuple):
    """A command in the queue, and the future of its result, if a caller waits for it."""

    command: dict[str, Any]
    outcome: "Future[Any] | None"


class Worker:
    """Drives a session on a thread of its own, which lives while there is something to do.

    Args:
        session: The run.
        name: Of the model.

    Attributes:
        state: `idle`, `running`, `paused`, `finished`, `stopped` or `failed`.
        error: What the training raised, if it failed.
        not_finite: Whether it rests because the loss turned NaN or infinite.
        owner: Kept alive as long as the thread.
        export: Writes what leaves a run, of a kind and with a content if it brings one; returns the file.
        model: Passed to the functions of `call`.
        warning: Returns a sentence about the disk, or nothing.
        on_rest: Called when no fit is going on any more.
        on_move: Called with each state that is moved to.
        use_settings: Makes the settings of a caller's thread those of this one.
    """

    def __init__(self, session: Session, name: str, model: Any) -> None:
        self.session, self.model = session, model
        self.state = "idle"
        self.error: BaseException | None = None
        self.not_finite = False
        self.owner: Any = None
        self.export: Callable[[str, bytes], Any] = lambda kind, content: None
        self.warning: Callable[[], str | None] = lambda: None
        self.on_rest: Callable[[], None] = lambda: None
        self.on_move: Callable[[str], None] = lambda state: None
        self.use_settings: Callable[[Any], None] = lambda settings: None
        self.diagnostics: Any = None
        self._name = name
        self._until: float = 0  # the step at which it rests
        self._last_epoch: float = math.inf  # the epoch after which it rests
        self._taken = 0  # steps taken by this worker
        self._commands: queue.SimpleQueue[_Queued] = queue.SimpleQueue()
        self._held_back: list[_Queued] = []
        self._count = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._rate = Rate()
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
        """Puts a command in the queue and returns its id; the journal says what came of it."""
        return self._submit(dict(command), None)

    def ask(self, action: str, **about: Any) -> Any:
        """Has a command obeyed and returns its result, or raises what it raised."""
        command = {"action": action, "author": "script", **about}
        if self.within:
            if action in _SOON:
                return self._submit(command, None)
            if action not in _AT_ONCE:
                self._refuse_within(action)
            return self._obey(command | {"command": None})
        self._refuse_within(action)
        outcome: Future[Any] = Future()
        self._submit(command, outcome)
        return outcome.result()

    def run(self, steps: int) -> None:
        """Waits until so many steps more are taken, or it rests.

        Raises:
            Exception: What the training raised.
        """
        end = self.ask("run", steps=steps)
        with self._changed:
            self._changed.wait_for(lambda: self._taken >= end or self.state != "running")
        if self.state == "failed":
            raise self.error or RuntimeError("the training failed")

    def wait(self, timeout: float | None) -> bool:
        """Waits until no fit is going on, or it rests because of its loss; returns whether it came to that."""
        self._refuse_within("wait")
        with self._changed:
            return self._changed.wait_for(lambda: self.not_finite or not self.alive, timeout)

    def status(self) -> dict[str, Any]:
        """The state of the run, in plain data; computed in the caller's thread, at no cost to the training."""
        error = "".join(traceback.format_exception(self.error)) if self.error else None
        about = {"name": self._name, "state": self.state, "not_finite": self.not_finite, "error": error}
        warning = self.warning()
        if self.state == "running" and not self.session.finite:
            warning = warning or _NOT_FINITE
        return describe(self.session, self._rate) | about | {"warning": warning, "diagnostics": self.diagnostics.status}

    def _refuse_within(self, action: str) -> None:
        thread = threading.current_thread()
        if self.within or isinstance(thread, threading._DummyThread):  # one of TensorFlow's, for data
            raise RuntimeError(
                f"`{action}` would wait for the training, and was called from within it. Call it from another "
                "thread, or from a cell; or use `send`, which does not wait."
            )

    def _submit(self, command: dict[str, Any], outcome: "Future[Any] | None") -> str:
        with self._changed:
            self._count += 1
            command["command"] = str(self._count)
            self._commands.put(_Queued(command, outcome))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"babysit-{self._name}", daemon=True)
                self._thread.start()
        return str(command["command"])

    # ------------------------------------------------------------------------- on the training thread

    def _work(self) -> None:
        with switching:
            try:
                while (queued := self._next()) is not None or self.state == "running":
                    if queued is not None:
                        self._answer(queued)
                    else:
                        self._advance()
            except BaseException as error:  # even failing failed: those who wait must get an answer
                self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Ends the thread, with an answer to all who wait for it; the next command begins another."""
        with self._changed:
            self.error, self.state, self._thread = self.error or error, "failed", None
            waiting, self._held_back = [queued.outcome for queued in self._held_back], []
            while not self._commands.empty():
                waiting.append(self._commands.get().outcome)
            self._changed.notify_all()
        for outcome in waiting:
            if outcome is not None:
                outcome.set_exception(self.error)

    def _next(self) -> _Queued | None:
        """The next command, without waiting while it runs; none, and the thread ends, when all is over."""
        if self._held_back:
            return self._held_back.pop(0)
        if self.state == "paused":
            return self._commands.get()
        with self._changed:
            try:
                return self._commands.get_nowait()
            except queue.Empty:
                if self.state != "running":
                    self._thread = None
                return None

    def _obey_in_validation(self) -> None:
        """Between two blocks of a validation: obeys changes and notes, holds back all else; `stop` ends it."""
        while not self._commands.empty():
            queued = self._commands.get()
            if self._held_back or queued.command.get("action") not in ("set", "note"):
                self._held_back.append(queued)
            else:
                self._answer(queued)
            if queued.command.get("action") == "stop":
                raise _Stopped

    def _answer(self, queued: _Queued) -> None:
        session = self.session
        try:
            if self._at_rest:
                session.find_external_changes("script")
            result = self._obey(queued.command)
            if self._at_rest:
                self.session.watch()
        except BaseException as error:  # a callback may call `sys.exit`: those who wait must get an answer
            if queued.outcome is not None:
                queued.outcome.set_exception(error)
            else:
                with contextlib.suppress(ValueError):  # the log is closed, as the run goes on in another panda
                    commands.emit(session, Refused(str(error)), queued.command | {"why": ""})
        else:
            if queued.outcome is not None:
                queued.outcome.set_result(result)

    @property
    def _at_rest(self) -> bool:
        """Whether the user may change the model itself now."""
        return self.state != "running" and self.session.plan is not None

    def _obey(self, command: Mapping[str, Any]) -> Any:
        actions: dict[str, Callable[..., Any]] = {
            "fit": self._fit,
            "pause": self._pause,
            "resume": self._resume,
            "run": self._run,
            "finish_epoch": self._finish_epoch,
            "more_epochs": self._more_epochs,
            "stop": self._stop,
            "rewind": self._rewind,
            "diagnostics": lambda on, **about: self.diagnostics.switch(on),
            **commands.of_session(self.session, self.model, self.export),
        }
        about = {key: value for key, value in command.items() if key != "action"}
        if unknown := about.keys() - _FIELDS:
            raise ValueError(
                f"A command may have {', '.join(sorted(_FIELDS))}. Received: {', '.join(sorted(unknown))}."
            )
        if command.get("action") not in actions:
            raise ValueError(f"`action` must be one of {', '.join(actions)}. Received: {command.get('action')!r}.")
        return actions[command["action"]](**{**about, **commands.of_event(about)})

    def _advance(self) -> None:
        """Takes a block, and does what it led to."""
        session, before, newest = self.session, self.session.position.step, self.session.log.seq
        try:
            if not session.finished:
                session.advance(self._until)
                self._taken += session.position.step - before
                self._rate.add(session)
        except _Stopped:
            return
        except BaseException as error:
            self._fail(error)
            return
        if any(isinstance(event.payload, NotFinite) for event in session.log.events_after(newest)):
            self.not_finite = not session.early
        if self.not_finite and not session.early:
            self._move_to("paused")
        elif session.finished:
            self._end("finished")
        elif session.position.step >= self._until or session.position.epoch >= self._last_epoch:
            self._move_to("paused")
        with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------------------- the commands

    def _fit(self, plan: FitPlan, paused: bool, settings: Any = None, **about: Any) -> None:
        if self.alive:
            raise ValueError(
                f"This panda is training already ({self.state} at step {self.session.position.step:,}). Steer it with "
                "`set`, or `stop()` it before you `fit` again."
            )
        self._until = self._last_epoch = math.inf
        self.error, self.not_finite = None, False
        if settings is not None:
            self.use_settings(settings)
        self.session.fit(plan)
        try:
            self.session.begin()
        except BaseException as error:  # a callback's
            self._fail(error)
            return
        self._move_to("paused" if paused else "running")

    def _pause(self, **about: Any) -> None:
        if self.state == "running":
            commands.emit(self.session, Paused(), about)
            self._move_to("paused")

    def _resume(self, **about: Any) -> None:
        if not self.alive:
            raise ValueError(f"There is nothing to resume: the run is {self.state}. Call `fit(...)` to go on.")
        if self.state == "paused":
            commands.emit(self.session, Resumed(), about)
        self._go(math.inf)

    def _run(self, steps: int, **about: Any) -> int:
        if not self.alive:
            raise ValueError(f"There are no steps to run: the run is {self.state}. Call `fit(...)` first.")
        steps = int(checked("steps", steps, any_whole()))
        until = self.session.position.step + steps
        # An earlier `run` is not cut short.
        self._go(max(until, self._until) if self.state == "running" and self._until < math.inf else until)
        return self._taken + steps

    def _finish_epoch(self, **about: Any) -> None:
        if not self.alive:
            raise ValueError(f"There is no epoch to finish: the run is {self.state}. Call `fit(...)` first.")
        self._go(math.inf, self.session.position.epoch + 1)

    def _more_epochs(self, epochs: int, **about: Any) -> Event:
        epochs, session = int(checked("epochs", epochs, any_whole())), self.session
        if session.plan is None:
            raise ValueError("Only a fit of this process can be made longer. Call `fit(..., epochs=...)`.")
        if self.alive:
            session.epochs += epochs
        else:
            again = replace(session.plan, epochs=epochs, initial_epoch=0, completes=False, keeps_batch_size=True)
            self._fit(again, False)
        return commands.emit(session, Note(f"{epochs:,} epochs more, up to {session.epochs:,}"), about)

    def _stop(self, **about: Any) -> None:
        if self.alive:
            self.not_finite = False
            self._end("stopped", **about)

    def _rewind(self, **about: Any) -> Event:
        event = rewind(self.session, **about)
        self.error, self.not_finite = None, False
        self._rate.reset()
        if self.state != "running":
            self._move_to("paused" if self.session.plan is not None else self.state)
        return event

    def _go(self, until: float, last_epoch: float = math.inf) -> None:
        self.not_finite, self._until, self._last_epoch = False, until, last_epoch
        self._rate.reset()
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
        self.on_move(state)
        with self._changed:
            self.state = state
            self._changed.notify_all()
        if state == "running":
            return
        self._rate.reset()
        if not self.alive:
            self.on_rest()


class _Stopped(Exception):
    """A validation was ended by the command `stop`."""
