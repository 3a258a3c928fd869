"""The checkpoints of a run: the states it can return to, in memory and on disk.

Separation of concerns: `checkpoint_file` knows how one state gets to disk and back, `retention` which ones to delete,
the store when they are written, on which thread and at what cost.
"""

import contextlib
import itertools
import queue
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from babysit.core.runlog import RunLog
from babysit.core.state import State
from babysit.store.checkpoint_file import clear_away, manifests, numbered, read, remove, write
from babysit.store.retention import Retention, RetentionItem, to_delete

SHARE = 0.035  # of the training's time that automatic checkpoints may cost: CheckFreq (FAST '21)
PERIOD_S = 1.0  # between two automatic ones at least, however cheap they are
MOST_WAITING = 8  # states that wait to be written at most
MEMORY_BYTES = 64 * 2**20  # that the states in memory may take together
# What the checkpoints on disk may take before more are deleted than their age asks for. Named ones, starts of branches
# and the last one on each branch are never deleted.
DISK_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        step: Steps done on its branch.
        name: Its name, or None for an automatic one.
        path: Its folder.
        branch: The branch it was saved on.
        digest: sha256 of the state, hexadecimal.
        event: Number of the last event that the state contains.
        kept: Why it is kept as long as there is room, in a word.
    """

    step: int
    name: str | None
    path: Path
    branch: str
    digest: str
    event: int = field(default=0, repr=False)
    kept: str = field(default="", repr=False)

    @property
    def number(self) -> int:
        """Its place in the order in which the states of the run were captured."""
        return int(self.path.name)

    def load(self) -> State:
        """The state.

        Raises:
            ValueError: If it is damaged.
        """
        return read(self.path)[0]


class Snapshot(NamedTuple):
    """A state in memory, perhaps on its way to disk; what is known of it is that of a `Checkpoint`."""

    step: int
    event: int
    branch: str
    number: int
    size_bytes: int
    state: State
    kept: str = ""
    name: str | None = None

    def load(self) -> State:
        """The state."""
        return self.state


Candidate = Checkpoint | Snapshot  # a state that the run can return to


class CheckpointStore:
    """The checkpoints of a run, for its owner. Any thread may call it.

    Args:
        folder: Where the checkpoints lie.
        log: Of the run: it knows where branches begin and which names the user gave.
        flush: Writes the log to disk, before each checkpoint. None is written where it returns an error.
        environment: What exactness depends on; every manifest holds it.

    Attributes:
        error: A sentence about the last write, if it failed.
    """

    def __init__(
        self, folder: Path, log: RunLog, flush: Callable[[], str | None], environment: Mapping[str, str]
    ) -> None:
        self.error: str | None = None
        self._folder, self._log, self._flush = folder, log, flush
        self._environment = dict(environment)
        self._memory_bytes, self._disk_bytes = MEMORY_BYTES, DISK_BYTES
        self._in_memory: list[Snapshot] = []
        self._unwritten: list[Snapshot] = []
        self._next_due = time.perf_counter() + PERIOD_S
        clear_away(folder)
        self._saved = {one.path.name: one for one in checkpoints_in(folder, log)}
        used = [*(one.name for one in numbered(folder)), *log.checkpoint_names]
        self._numbers = itertools.count(max(map(int, used), default=0) + 1)
        self._closed = False
        self._waiting: queue.Queue[Snapshot | threading.Event] = queue.Queue(MOST_WAITING)
        self._writer = threading.Thread(target=self._write_waiting, name="babysit-checkpoints", daemon=True)
        self._writer.start()

    # ------------------------------------------------------------------------------ saving

    def save(
        self, state: State, branch: str, name: str | None = None, kept: str = "", write_model: Any = None
    ) -> Checkpoint:
        """Saves a state; it is safe on disk when this returns, after all that waited before it.

        Args:
            state: What to save.
            branch: The branch it was captured on.
            name: A name, or None.
            kept: Why it is kept as long as there is room, in a word. What has a name is kept for ever.
            write_model: Writes `model.keras` to the path it is given, once the state is safe. If it raises anything
                but an OSError, as for a layer that Keras cannot save, the checkpoint goes without.

        Raises:
            OSError: If the disk does not take it; nothing is left then.
        """
        self.settle()
        saved = self._write(self._snapshot(state, branch, kept, name))
        if write_model is not None:
            unfinished = saved.path / ".model.keras"
            try:
                write_model(unfinished)
                unfinished.rename(saved.path / "model.keras")
            except OSError:
                self._remove(saved.path.name)
                raise
            except Exception:  # whatever a layer without a configuration raises
                unfinished.unlink(missing_ok=True)
        return saved

    def save_soon(self, state: State, branch: str, kept: str = "") -> None:
        """Lets another thread save a state, which stays in memory too if it is kept.

        If states come faster than the disk takes them, the caller waits.
        """
        snapshot = self._snapshot(state, branch, kept)
        if kept:
            self._remember(snapshot)
        self._unwritten.append(snapshot)
        self._waiting.put(snapshot)

    def save_if_due(self, capture: Callable[[], State], branch: str) -> None:
        """Captures the state and lets another thread save it, if that does not take too much of the training's time."""
        if self._waiting.unfinished_tasks or time.perf_counter() < self._next_due:
            return
        began = time.perf_counter()
        state = capture()
        self._count_cost(time.perf_counter() - began)
        self.save_soon(state, branch)

    def remember(self, state: State, branch: str) -> bool:
        """Keeps a state in memory, if it is not too large; older ones are forgotten as bytes and age ask for."""
        return self._remember(self._snapshot(state, branch))

    def settle(self) -> None:
        """Returns when all that waits now is written."""
        if self._closed or self._writer is threading.current_thread():  # whose garbage collection may close this
            return
        written = threading.Event()
        self._waiting.put(written)
        while self._writer.is_alive() and not written.wait(0.1):
            pass

    def close(self) -> None:
        """Writes what waits; later saves raise, as the run is over here or goes on elsewhere."""
        self.settle()
        self._closed = True
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(threading.Event())  # wakes the writer, which ends
        self._in_memory.clear()

    def _snapshot(self, state: State, branch: str, *about: Any) -> Snapshot:
        if self._closed:
            raise ValueError(f"The run at {self._folder.parent} is closed here: it goes on in another Panda.")
        known = state.position.step, state.event, branch, next(self._numbers), state.size_bytes
        return Snapshot(*known, state, *about)

    def _remember(self, snapshot: Snapshot) -> bool:
        if snapshot.size_bytes > self._memory_bytes:
            return False
        items = [RetentionItem(one.branch, one.number, one.size_bytes) for one in self._in_memory]
        newest = RetentionItem(snapshot.branch, snapshot.number, snapshot.size_bytes, Retention.FOR_EVER)
        gone = to_delete([*items, newest], self._memory_bytes)
        self._in_memory = [*(one for one in self._in_memory if one.number not in gone), snapshot]
        return True

    def _count_cost(self, seconds: float, period_s: float = 0.0) -> None:
        now = time.perf_counter()
        self._next_due = max(max(self._next_due, now) + seconds / SHARE, now + period_s)

    def _write_waiting(self) -> None:
        while not self._closed or self._waiting.unfinished_tasks:
            one = self._waiting.get()
            if isinstance(one, threading.Event):
                one.set()
            else:
                with contextlib.suppress(Exception):  # `error` says it: a failed save does not harm the training
                    self._write(one)
                self._unwritten.remove(one)
            del one  # which may be large
            self._waiting.task_done()

    def _write(self, snapshot: Snapshot) -> Checkpoint:
        began = time.perf_counter()
        try:
            if (error := self._flush()) is not None:
                raise OSError(error)
            about: dict[str, Any] = {"name": snapshot.name, "branch": snapshot.branch, "kept": snapshot.kept}
            about |= {"environment": self._environment, "time": time.time()}
            manifest = write(self._folder, snapshot.state, about, snapshot.number)
        except Exception as error:
            self.error = (
                f"The last checkpoint could not be written ({error}). The training goes on; the next one is tried "
                "when it is due."
            )
            raise
        finally:
            self._count_cost(time.perf_counter() - began, PERIOD_S)
        self.error, saved = None, _checkpoint(self._folder / f"{snapshot.number:06d}", manifest)
        self._saved[saved.path.name] = saved
        self._thin()
        return saved

    # ----------------------------------------------------------------------------- reading

    @property
    def all(self) -> list[Checkpoint]:
        """The complete ones on disk, oldest first."""
        self.settle()
        return self._listed()

    def _listed(self) -> list[Checkpoint]:
        return sorted((one for one in list(self._saved.values()) if one.path.exists()), key=lambda one: one.number)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those on disk, as far as is known without looking at it, in plain data, oldest first."""
        return [
            {"folder": one.path.name, "step": one.step, "name": one.name, "branch": one.branch, "kept": one.kept}
            for one in list(self._saved.values())
        ]

    def candidates(self) -> list[Candidate]:
        """The states that the run can return to, oldest first by event and step, those in memory after equal ones."""
        return in_order([*self._unwritten, *self._listed(), *self._in_memory])

    def found(self, folder: str) -> Checkpoint:
        """The checkpoint in a folder of that name.

        Raises:
            ValueError: If there is none.
        """
        self.settle()
        if folder not in self._saved:
            raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")
        return self._saved[folder]

    def checked_name(self, name: object) -> str:
        """Returns the name if a new checkpoint may have it.

        Raises:
            ValueError: If it is no text of at most 80 letters, digits, spaces and `-_.,()`, or is taken.
        """
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w \-.,()]{0,79}", name):
            raise ValueError(
                "`name` must begin with a letter or digit and hold at most 80 letters, digits, spaces and -_.,() "
                f"only. Received: name={str(name)[:100]!r}. Choose a plainer one."
            )
        if name in self._names:
            raise ValueError(
                f"`name` must be new: a checkpoint {name!r} exists and is never overwritten. Choose another."
            )
        return name

    def free_name(self, step: int) -> str:
        """A new name with the step in it."""
        names = (f"step {step:,}" + (f" ({i})" if i > 1 else "") for i in itertools.count(1))
        return next(name for name in names if name not in self._names)

    @property
    def _names(self) -> set[str | None]:
        return {one.name for one in self.all}

    # ---------------------------------------------------------------- renaming and deleting

    def rename(self, folder: str, name: str) -> Checkpoint:
        """Gives a checkpoint a new name; a named one is kept for ever.

        Raises:
            ValueError: If there is no such checkpoint, or the name is taken or none.
        """
        self._saved[folder] = replace(self.found(folder), name=self.checked_name(name), kept="named")
        return self._saved[folder]

    def delete(self, folder: str) -> Checkpoint:
        """Deletes a checkpoint; returns what it was.

        Raises:
            ValueError: If there is none, or a branch starts from it.
        """
        one = self.found(folder)
        if (one.branch, one.step) in self._log.branch_starts:
            raise ValueError(
                f"`folder` must not be where a branch starts: step {one.step:,} could not be returned to. "
                f"Received: {folder!r}. Choose another one."
            )
        self._remove(folder)
        return one

    def discard(self, branches: Collection[str]) -> None:
        """Deletes the unnamed checkpoints of branches, whose steps are taken again from where the branches begin.

        Those of a branch stay where steps cannot be taken again, as after an edit.
        """
        opaque = {event.branch for event in self._log.events if event.payload.opaque}
        gone = set(branches) - opaque
        for one in self.all:
            if one.branch in gone and not one.name:
                self._remove(one.path.name)
        self._in_memory = [one for one in self._in_memory if one.branch not in gone]

    def _thin(self) -> None:
        """Deletes what its age and the room on disk ask for."""
        saved, starts = self._listed(), self._log.branch_starts
        last = {one.branch: one.number for one in in_order(saved)}
        needed = {*(one.number for one in saved[-1:]), *last.values()}  # the tips of branches are reached from them

        def retention(one: Checkpoint) -> Retention:
            if one.name or one.number in needed or (one.branch, one.step) in starts:
                return Retention.FOR_EVER
            return Retention.WITH_ROOM if one.kept else Retention.BY_AGE

        items = [RetentionItem(one.branch, one.number, _size_bytes(one.path), retention(one)) for one in saved]
        gone = to_delete(items, self._disk_bytes)
        for one in saved:
            if one.number in gone:
                self._remove(one.path.name)

    def _remove(self, folder: str) -> None:
        if (one := self._saved.pop(folder, None)) is not None:
            remove(one.path)


def in_order(found: Iterable[Candidate]) -> list[Candidate]:
    """States that a run can return to, oldest first by event and step."""
    return sorted(found, key=lambda one: (one.event, one.step))


def checkpoints_in(folder: Path, log: RunLog) -> list[Checkpoint]:
    """The complete checkpoints of a run that another process may own, oldest first; nothing is written."""
    names, found = log.checkpoint_names, [_checkpoint(path, manifest) for path, manifest in manifests(folder)]
    return [replace(one, name=names[one.path.name], kept="named") if one.path.name in names else one for one in found]


def _checkpoint(path: Path, about: Mapping[str, Any]) -> Checkpoint:
    known = about["name"], path, about["branch"], about["digest"], about["event"], about["kept"]
    return Checkpoint(about["position"]["step"], *known)


def _size_bytes(folder: Path) -> int:
    with contextlib.suppress(OSError):  # it may just be removed
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
