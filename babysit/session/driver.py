"""The driver: the one thread that trains, and the queue of commands it obeys.

Separation of concerns: the trainer knows how to train, the driver when. Commands from any
thread wait in a queue and act at step boundaries; who asked is told what came of it.
"""

import contextlib
import math
import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from babysit.core.hyperparameter import any_whole, checked
from babysit.export.schedules import fit_facts
from babysit.session.fits import Plan
from babysit.session.journal import Entry
from babysit.session.timeline import Timeline
from babysit.session.trainer import Trainer
from babysit.store.record import Record

_FIELDS = {"author", "branch", "changes", "command", "content", "folder", "function", "hyperparameters", "name", "over"}
_FIELDS |= {"epochs", "kind", "on", "on_last_change", "paused", "plan", "skip", "step", "steps", "why", "written"}
# What is exported without TensorFlow, and so beside the training.
_BESIDE = ("logbook", "history", "chart.png", "chart.svg")
# What code that runs within the training, such as a callback, may ask for: at once, or as soon as it has returned.
_AT_ONCE, _SOON = {"call", "digest", "note", "save", "set", "vitals"}, {"pause", "stop"}


class _Order(NamedTuple):
    """A command in the queue, and who waits for its outcome: a future, or nobody."""

    command: dict[str, Any]
    outcome: "Future[Any] | None"


class Driver:
    """Drives a trainer on a thread of its own, which lives while there is something to do.

    Attributes:
        state: `idle`, `running`, `paused`, `finished`, `stopped` or `failed`.
        error: What the training raised, if it failed.
        not_finite: Whether it rests because the loss turned NaN or infinite.
        owner: Kept alive as long as the thread.
        export: Writes what leaves a run, of a kind and with a content if it brings one, and returns where it lies.
    """

    def __init__(self, trainer: Trainer, timeline: Timeline, record: Record, name: str) -> None:
        """Takes over a trainer and its past; no thread is started yet."""
        self.state = "idle"
        self.error: BaseException | None = None
        self.not_finite = False
        self.owner: Any = None
        self.export: Callable[[str, bytes], Any] | None = None
        self._trainer, self._timeline, self._record, self._name = trainer, timeline, record, name
        trainer.between = self._obey_between
        trainer.between_steps = self._obey_within
        # Of a fit of the model's own: whether it waits for us, was told to stop, and its loss was finite.
        self._within, self._healthy = False, True
        self._stopping: dict[str, Any] | None = None
        self._budget: float = 0  # steps it may take before it rests
        self._last_epoch = math.inf  # the one behind which it rests
        self._done = 0  # steps taken by this driver
        self._runs: list[tuple[int, Future[None]]] = []  # done when so many have been taken
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._held_back: list[_Order] = []
        self._commands = 0
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._rate = _Rate()
        record.teller = weakref.WeakMethod(self.status)

    @property
    def alive(self) -> bool:
        """Whether a fit is going on, be it at rest."""
        return self.state in ("running", "paused")

    # ------------------------------------------------------------------ from any thread

    def send(self, command: Mapping[str, Any]) -> str:
        """Puts a command in the queue and returns its id; what came of it is in the journal."""
        return self._hand_over(dict(command), None)

    def ask(self, action: str, **about: Any) -> Any:
        """Has a command obeyed and returns what came of it, or raises what it raised."""
        command = {"action": action, "author": "script", **about}
        if threading.current_thread() is self._worker:
            if action in _SOON:
                return self._hand_over(command, None)
            if action not in _AT_ONCE:
                self._refuse_within(action)
            return self._obey(command | {"command": None})
        self._refuse_within(action)
        outcome: Future[Any] = Future()
        self._hand_over(command, outcome)
        return outcome.result()

    def wait(self, timeout: float | None) -> bool:
        """Waits until no fit is going on, or it rests because of its loss; whether it came to that."""
        self._refuse_within("wait")
        with self._changed:
            return self._changed.wait_for(lambda: self.not_finite or not self.alive, timeout)

    def status(self) -> dict[str, Any]:
        """How the run stands, in plain data; made in the thread that asks, at no cost to the training."""
        trainer = self._trainer
        done, size = trainer.progress
        since = trainer.in_effect_since
        return {
            "name": self._name,
            "state": self.state,
            "step": trainer.step,
            "epoch": trainer.epoch,
            "epochs": trainer.epochs,
            "examples_done": done,
            "examples_an_epoch": size,
            "branch": trainer.history.branch,
            "loss": trainer.loss if math.isfinite(trainer.loss) else None,
            "not_finite": self.not_finite,
            "hyperparameters": {
                name: {
                    "value": found.value,
                    **vars(found.scale),
                    "since": since.get(name, 0),
                    "follows_schedule": name in trainer.following,
                }
                for name, found in trainer.hyperparameters.items()
            },
            "couplings": trainer.settings,
            "checkpoints": trainer.shelf.folders,
            "remarks": [*trainer.remarks, *filter(None, [trainer.first_loss])],
            "vitals": trainer.measurements,
            "examples_a_second": self._rate.examples_a_second,
            "seconds_left": self._rate.seconds_left(trainer),
            "error": "".join(traceback.format_exception(self.error)) if self.error else None,
            "warning": self._record.error or self._trainer.shelf.error or self._unsound,
        }

    def _refuse_within(self, action: str) -> None:
        thread = threading.current_thread()
        if thread is self._worker or isinstance(thread, threading._DummyThread):  # one of TensorFlow's, for data
            raise RuntimeError(
                f"`{action}` would wait for the training, and was called from within it. Call it from another "
                "thread, or from a cell; or hand a command over with `send`, which does not wait."
            )

    def _hand_over(self, command: dict[str, Any], outcome: "Future[Any] | None") -> str:
        with self._changed:
            self._commands += 1
            command["command"] = str(self._commands)
            if command.get("action") == "export" and command.get("kind") in _BESIDE and self.export is not None:
                threading.Thread(target=self._export_beside, args=(command, outcome), daemon=True).start()
            else:
                self._put(_Order(command, outcome))
        return str(command["command"])

    def _put(self, order: _Order) -> None:
        with self._changed:
            self._orders.put(order)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=f"babysit-{self._name}", daemon=True)
                self._worker.start()

    def _export_beside(self, command: dict[str, Any], outcome: "Future[Any] | None") -> None:
        """Writes a file on a thread of its own; the training thread then tells of it."""
        assert self.export is not None
        written: Any
        try:
            written = self.export(command["kind"], command.get("content", b""))
        except Exception as error:
            written = error
        self._put(_Order(command | {"written": written}, outcome))

    # -------------------------------------------------------------- on the training thread

    def _work(self) -> None:
        with _switching:
            try:
                while (order := self._next_order()) is not None or self.state == "running":
                    if order is not None:
                        self._answer(order)
                    else:
                        self._advance()
            except BaseException as error:  # what even failing failed with: nobody may wait for ever
                self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Ends the thread, with an answer to all who wait for it; the next command begins another."""
        with self._changed:
            self.error, self.state, self._worker = self.error or error, "failed", None
            waiting = [run for _, run in self._runs] + [order.outcome for order in self._held_back]
            while not self._orders.empty():
                waiting.append(self._orders.get().outcome)
            self._runs, self._held_back = [], []
            self._changed.notify_all()
        for outcome in waiting:
            if outcome is not None:
                outcome.set_exception(self.error)

    def _next_order(self) -> _Order | None:
        """The next order, without waiting while it runs; none, and the thread ends, when all is over."""
        if self._held_back:
            return self._held_back.pop(0)
        if self.state == "paused":
            return self._orders.get()
        with self._changed:
            try:
                return self._orders.get_nowait()
            except queue.Empty:
                if self.state != "running":
                    self._worker = None
                return None

    def _obey_between(self) -> None:
        """Between two blocks of a validation: changes and notes act, all else waits its turn; to stop ends it."""
        while not self._orders.empty():
            order = self._orders.get()
            if self._held_back or order.command.get("action") not in ("set", "note"):
                self._held_back.append(order)
            else:
                self._answer(order)
            if order.command.get("action") == "stop":
                raise _Stopped

    def _obey_within(self) -> None:
        """Between two steps of a fit of the model's own: obeys what waits, and rests there if it is to."""
        self._count(1)
        self._rate.add(self._trainer)
        was, self._healthy = self._healthy, self._trainer.healthy
        if was and not self._healthy:
            self._tell_of_the_loss()
        if self.not_finite or self._spent:
            self._move_to("paused")
        self._within = True
        while self._stopping is None and (self.state == "paused" or not self._orders.empty()):
            self._answer(self._orders.get())
        self._within = False

    def _answer(self, order: _Order) -> None:
        try:
            if self._at_rest:
                self._trainer.notice()
            result = self._obey(order.command)
            if self._at_rest:
                self._trainer.rest()
        except BaseException as error:  # a callback may well call `sys.exit`: nobody may wait for ever
            if order.outcome is not None:
                order.outcome.set_exception(error)
            else:
                with contextlib.suppress(ValueError):  # the record is closed, as the run goes on in another panda
                    self._refuse(order.command, error)
        else:
            if order.outcome is not None:
                order.outcome.set_result(result)

    @property
    def _at_rest(self) -> bool:
        """Whether hands may change the model itself, and did until now."""
        return self.state != "running" and self._trainer.prepared

    def _refuse(self, command: Mapping[str, Any], error: BaseException) -> None:
        author = str(command.get("author", "script"))
        self._trainer.enter("refuse", author=author, why=str(error), command=command["command"])

    def _obey(self, command: Mapping[str, Any]) -> Any:
        actions: dict[str, Callable[..., Any]] = {
            "fit": self._fit,
            "pause": self._pause,
            "resume": self._resume,
            "run": self._run,
            "finish_epoch": self._finish_epoch,
            "more_epochs": self._more_epochs,
            "stop": self._stop,
            "set": self._trainer.set,
            "call": lambda function, **about: self._trainer.call(function),
            "note": self._note,
            "save": self._trainer.save,
            "keep_last": lambda **about: self._trainer.keeper.keep_last(),
            "rewind": self._rewind,
            "rename": self._rename,
            "delete": self._delete,
            "export": self._export,
            "digest": lambda **about: self._trainer.state().digest(),
            "vitals": lambda on, **about: self._trainer.vitals.switch(on),
        }
        about = {key: value for key, value in command.items() if key != "action"}
        if unknown := about.keys() - _FIELDS:
            raise ValueError(
                f"A command may have {', '.join(sorted(_FIELDS))}. Received: {', '.join(sorted(unknown))}."
            )
        if command.get("action") not in actions:
            raise ValueError(f"`action` must be one of {', '.join(actions)}. Received: {command.get('action')!r}.")
        return actions[command["action"]](**about)

    def _advance(self) -> None:
        """Takes a block, and sees what it led to."""
        trainer, healthy = self._trainer, self._trainer.healthy
        try:
            if not trainer.finished:
                taken = trainer.take(int(min(self._budget, 2**31)))
                self._count(0 if trainer.by_itself else taken)  # which has counted its own
                self._rate.add(trainer)
        except _Stopped:
            return
        except BaseException as error:
            self._fail(error)
            return
        if healthy and not trainer.healthy and not trainer.by_itself:
            self._tell_of_the_loss()
        if self._stopping is not None:
            about, self._stopping = self._stopping, None
            self._end("stop", "stopped", **about)
        elif self.not_finite and not trainer.ended_early:
            self._move_to("paused")
        elif trainer.finished:
            self._end("finish", "finished")
        elif self._spent:
            self._move_to("paused")
        self._answer_runs()

    @property
    def _spent(self) -> bool:
        """Whether it has gone as far as it was asked to."""
        return self._budget <= 0 or self._trainer.epoch >= self._last_epoch

    def _count(self, steps: int) -> None:
        self._budget -= steps
        self._done += steps

    def _answer_runs(self) -> None:
        """Tells those who asked for steps that theirs are taken, also where somebody else lets it run on."""
        for run in [run for run in self._runs if run[0] <= self._done]:
            self._runs.remove(run)
            run[1].set_result(None)

    @property
    def _unsound(self) -> str:
        """That the loss is not finite, to who lets it run on."""
        if self.state != "running" or self._trainer.healthy:
            return ""
        return "The loss is not a finite number. Rewind to a step before that, and lower the learning rate."

    def _tell_of_the_loss(self) -> None:
        trainer = self._trainer
        trainer.enter("nan", why=f"the loss of step {trainer.step:,} is {trainer.loss}")
        self.not_finite = not trainer.ended_early

    def _fit(self, plan: Plan, paused: bool, **about: Any) -> None:
        trainer, begins = self._trainer, not self._trainer.checkpoints
        if self.alive:
            raise ValueError(
                f"This panda is training already ({self.state} at step {trainer.step:,}). Steer it with `set`, or "
                "`stop()` it before you `fit` again."
            )
        changes = trainer.prepare(plan)
        self._timeline.catch_up()
        trainer.announce(changes)
        if plan.own is None:
            given = self._record.meta("given") or []
            self._record.set_meta({"given": [*given, fit_facts(plan.data, plan.steps_per_epoch)]})
        self.error, self.not_finite, self._healthy = None, False, True
        self._budget = self._last_epoch = math.inf
        try:
            trainer.begin()
        except BaseException as error:  # a callback's
            self._fail(error)
            return
        trainer.keeper.keep("start" if begins else "fit")
        self._move_to("paused" if paused else "running")

    def _pause(self, **about: Any) -> None:
        if self.state == "running":
            self._trainer.enter("pause", **about)
            self._move_to("paused")

    def _resume(self, **about: Any) -> None:
        if not self.alive:
            raise ValueError(f"There is nothing to resume: the run is {self.state}. Call `fit(...)` to go on.")
        if self.state == "paused":
            self._trainer.enter("resume", **about)
        self._go(float("inf"))

    def _run(self, steps: int, **about: Any) -> "Future[None]":
        if not self.alive:
            raise ValueError(f"There are no steps to run: the run is {self.state}. Call `fit(...)` first.")
        steps = int(checked("steps", steps, any_whole()))
        # Who asked before is not cut short.
        longest = max([steps, *(end - self._done for end, _ in self._runs)])
        outcome: Future[None] = Future()
        self._runs.append((self._done + steps, outcome))
        self._go(longest)
        return outcome

    def _finish_epoch(self, **about: Any) -> None:
        if not self.alive:
            raise ValueError(f"There is no epoch to finish: the run is {self.state}. Call `fit(...)` first.")
        self._go(float("inf"), self._trainer.epoch + 1)

    def _more_epochs(self, epochs: int, **about: Any) -> Entry:
        epochs, trainer = int(checked("epochs", epochs, any_whole())), self._trainer
        if trainer.plan is None or trainer.by_itself:
            raise ValueError(
                "Only a fit of this session, other than a model's own, can be made longer. Call `fit(..., epochs=...)`."
            )
        if self.alive:
            trainer.epochs += epochs
        else:
            again = replace(trainer.plan, epochs=epochs, initial_epoch=0, completes=False, keeps_size=True)
            self._fit(again, False)
        return trainer.enter("note", why=f"{epochs:,} epochs more, up to {trainer.epochs:,}", **about)

    def _stop(self, **about: Any) -> None:
        if not self.alive:
            return
        self.not_finite = False
        if self._within:
            self._stopping, self._trainer.model.stop_training = about, True
        else:
            self._end("stop", "stopped", **about)

    def _note(self, why: str, on_last_change: bool = False, **about: Any) -> Entry:
        why = self._trainer.journal.on_last_change(why) if on_last_change else why
        return self._trainer.enter("note", why=why, **about)

    def _rename(self, folder: str, name: str, **about: Any) -> Entry:
        step = self._trainer.shelf.rename(folder, name).step
        return self._trainer.enter("note", why=f"the checkpoint of step {step:,} is named “{name}”", **about)

    def _delete(self, folder: str, **about: Any) -> Entry:
        gone = self._trainer.shelf.delete(folder)
        return self._trainer.enter("note", why=f"the checkpoint of step {gone.step:,} is deleted", **about)

    def _export(self, kind: str, content: bytes = b"", written: Any = None, **about: Any) -> Entry:
        if isinstance(written, Exception):
            raise written
        if self.export is None:
            raise ValueError("This run cannot be exported from here. Call `Panda.export_logbook` or `export_script`.")
        return self._trainer.enter("note", why=f"{kind} written to {written or self.export(kind, content)}", **about)

    def _rewind(self, **about: Any) -> Entry:
        if self._within:
            raise ValueError(
                "`rewind` cannot act within a fit of the model's own, which would go on with its data. `stop()` first."
            )
        entry = self._timeline.rewind(**about)
        self.error, self.not_finite = None, False
        self._rate.reset()
        if self.state != "running":
            self._move_to("paused" if self._trainer.prepared else self.state)
        return entry

    def _go(self, steps: float, last_epoch: float = math.inf) -> None:
        self.not_finite, self._budget, self._last_epoch = False, steps, last_epoch
        self._rate.reset()
        self._move_to("running")

    def _end(self, action: str, state: str, **about: Any) -> None:
        try:
            self._trainer.finish(action, **about)
        except BaseException as error:  # a callback's, when it was told of the end
            self._fail(error)
        else:
            self._save_last()
            self._move_to(state)

    def _fail(self, error: BaseException) -> None:
        self.error, self._stopping = error, None
        self._trainer.fail(error)
        self._save_last()
        self._move_to("failed")

    def _save_last(self) -> None:
        try:
            self._trainer.keeper.keep_last()
        except Exception as error:  # a full disk's, or a device's that gives nothing any more
            self._trainer.enter("refuse", why=f"the last state could not be saved: {error}")

    def _move_to(self, state: str) -> None:
        if state != "running" and self._trainer.prepared:
            self._trainer.rest()  # before anybody learns that the model is theirs to touch
        with self._changed:
            self.state = state
            self._changed.notify_all()
        if state == "running":
            return
        self._rate.reset()
        if not self.alive:
            self._record.tell()
        for _, run in self._runs:
            if state == "failed":
                run.set_exception(self.error)
            else:
                run.set_result(None)
        self._runs = []


class _Stopped(Exception):
    """A validation was left, as somebody asked to stop."""


class _Switching:
    """Has Python change threads more often while any run is alive.

    A block of steps and a command from a slider need Python's lock dozens of times. Beside a cell that computes
    each of them waits for the interpreter's switch interval, which is 5 ms as a rule.
    """

    def __init__(self, interval_s: float = 0.0002) -> None:
        self._interval_s = interval_s
        self._lock, self._runs, self._usual_s = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._runs == 0:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(self._interval_s, self._usual_s))
            self._runs += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                sys.setswitchinterval(self._usual_s)


_switching = _Switching()


class _Rate:
    """How fast examples went by in the last seconds."""

    def __init__(self, window_s: float = 3.0) -> None:
        self._window_s = window_s
        self.reset()

    def reset(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def add(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        self._seen.append((now, trainer.seen))
        while now - self._seen[0][0] > self._window_s:
            self._seen.pop(0)

    @property
    def examples_a_second(self) -> float | None:
        seen = self._seen[:]  # the training thread goes on writing it
        if len(seen) < 2 or seen[-1][0] - seen[0][0] < 0.2:
            return None
        (start, first), (end, last) = seen[0], seen[-1]
        return (last - first) / (end - start)

    def seconds_left(self, trainer: Trainer) -> float | None:
        done, size = trainer.progress
        rate = self.examples_a_second
        return ((trainer.epochs - trainer.epoch) * size - done) / rate if rate and size is not None else None
