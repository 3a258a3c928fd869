"""The checkpoints of a run: the states it can return to, in memory and on disk.

Separation of concerns: `checkpoint_file` knows how one state gets to disk and back, `retention` which ones to delete,
the store when they are written, on which thread and at what cost.
"""

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from babysit.core.runlog import RunLog
from babysit.core.state import State
from babysit.store.checkpoint_file import clear_away, is_complete, manifests, numbered, read, remove, write
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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state in memory, perhaps on its way to disk."""

    state: State
    branch: str
    number: int
    kept: str = ""
    name: str | None = None
    write_model: Callable[[Path], Any] | None = None

    @property
    def step(self) -> int:
        """Steps done on its branch."""
        return self.state.position.step

    @property
    def event(self) -> int:
        """Number of the last event that the state contains."""
        return self.state.event

    def load(self) -> State:
        """The state."""
        return self.state


Candidate = Checkpoint | Snapshot  # a state that the run can return to


class CheckpointStore:
    """The checkpoints of a run, for its owner. Any thread may call it.

    Args:
        folder: Where the checkpoints lie.
        log: Of the run: it knows where branches begin and which names the user gave.
        flush: Writes the log to disk, which happens before a checkpoint is written. Where it raises, none is.
        environment: What exactness depends on; every manifest holds it.

    Attributes:
        error: A sentence about the last write, if it failed.
        owner: Returns what must stay alive while a write is under way; a weak reference will do.
    """

    def __init__(self, folder: Path, log: RunLog, flush: Callable[[], None], environment: Mapping[str, str]) -> None:
        self.error: str | None = None
        self.owner: Callable[[], Any] = lambda: None
        self._folder, self._log, self._flush = folder, log, flush
        self._environment = dict(environment)
        self._memory_bytes, self._disk_bytes = MEMORY_BYTES, DISK_BYTES
        self._changed = threading.Condition(threading.RLock())  # for all that follows
        self._in_memory: list[Snapshot] = []
        self._waiting: list[Snapshot] = []  # the first of them is being written
        self._writer: threading.Thread | None = None
        self._closed = False
        self._next_due = time.perf_counter() + PERIOD_S
        clear_away(folder)
        self._saved = checkpoints_in(folder, log)
        used = [*(one.name for one in numbered(folder)), *log.checkpoint_names]
        self._numbers = itertools.count(max(map(int, used), default=0) + 1)

    # ------------------------------------------------------------------------------ saving

    def save(
        self,
        state: State,
        branch: str,
        name: str | None = None,
        kept: str = "",
        write_model: Callable[[Path], Any] | None = None,
    ) -> Checkpoint:
        """Saves a state; it is safe on disk when this returns, after all that waited before it.

        Args:
            state: What to save.
            branch: The branch it was captured on.
            name: A name, or None.
            kept: Why it is kept as long as there is room, in a word. What has a name is kept for ever.
            write_model: Writes `model.keras` to the path it is given. If it raises, the checkpoint goes without.

        Raises:
            OSError: If the disk does not take it; nothing is left then.
        """
        self.settle()
        return self._write(Snapshot(state, branch, next(self._numbers), kept, name, write_model))

    def save_soon(self, state: State, branch: str, kept: str = "") -> None:
        """Lets another thread save a state, which stays in memory too if it is kept.

        If states come faster than the disk takes them, the caller waits.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MOST_WAITING)
            snapshot = Snapshot(state, branch, next(self._numbers), kept)
            if kept:
                self._remember(snapshot)
            self._waiting.append(snapshot)
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_waiting, args=(self.owner(),), name="babysit-checkpoints", daemon=True
                )
                self._writer.start()

    def save_if_due(self, capture: Callable[[], State], branch: str) -> None:
        """Captures the state and lets another thread save it, if that does not take too much of the training's time."""
        with self._changed:
            if self._writer is not None or time.perf_counter() < self._next_due:
                return
        began = time.perf_counter()
        state = capture()
        self._count_cost(time.perf_counter() - began)
        self.save_soon(state, branch)

    def remember(self, state: State, branch: str) -> None:
        """Keeps a state in memory; older ones are forgotten as their bytes and their age ask for."""
        with self._changed:
            self._remember(Snapshot(state, branch, next(self._numbers)))

    def settle(self) -> None:
        """Returns when all that waits now is written."""
        writer = self._writer
        # Garbage collection on the writer's own thread may close the store; a forked child has no such thread.
        if writer is None or writer is threading.current_thread() or not writer.is_alive():
            return
        with self._changed:
            waiting = set(self._waiting)
            self._changed.wait_for(lambda: waiting.isdisjoint(self._waiting))

    def close(self) -> None:
        """Writes what waits; later saves raise, as the run is over here or goes on elsewhere."""
        self.settle()
        self._closed = True
        self._in_memory.clear()

    def _remember(self, snapshot: Snapshot) -> None:
        if snapshot.state.size_bytes > self._memory_bytes:
            return
        items = [RetentionItem(one.branch, one.number, one.state.size_bytes) for one in self._in_memory]
        newest = RetentionItem(snapshot.branch, snapshot.number, snapshot.state.size_bytes, Retention.FOR_EVER)
        gone = to_delete([*items, newest], self._memory_bytes)
        self._in_memory = [*(one for one in self._in_memory if one.number not in gone), snapshot]

    def _count_cost(self, seconds: float, period_s: float = 0.0) -> None:
        with self._changed:
            now = time.perf_counter()
            self._next_due = max(max(self._next_due, now) + seconds / SHARE, now + period_s)

    def _write_waiting(self, owner: Any) -> None:
        """Writes what waits. Holds the owner: its finalizer would wait for this thread."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._writer = None
                    return
            with contextlib.suppress(Exception):  # `error` says it: a failed save does not harm the training
                self._write(self._waiting[0])
            with self._changed:
                del self._waiting[0]
                self._changed.notify_all()

    def _write(self, snapshot: Snapshot) -> Checkpoint:
        began = time.perf_counter()
        try:
            if self._closed:
                raise ValueError(f"The run at {self._folder.parent} is closed here: it goes on in another Panda.")
            self._flush()
            about: dict[str, Any] = {"name": snapshot.name, "branch": snapshot.branch, "kept": snapshot.kept}
            about |= {"environment": self._environment, "time": time.time()}
            manifest = write(self._folder, snapshot.state, about, snapshot.number, snapshot.write_model)
        except Exception as error:
            self.error = (
                f"The last checkpoint could not be written ({error}). The training goes on; the next one is tried "
                "when it is due."
            )
            raise
        finally:
            self._count_cost(time.perf_counter() - began, PERIOD_S)
        self.error, saved = None, _checkpoint(self._folder / f"{snapshot.number:06d}", manifest)
        with self._changed:
            self._saved = sorted([*self._saved, saved], key=lambda one: one.number)
        self._thin()
        return saved

    # ----------------------------------------------------------------------------- reading

    @property
    def all(self) -> list[Checkpoint]:
        """The complete ones on disk, oldest first."""
        self.settle()
        return self._listed()

    def _listed(self) -> list[Checkpoint]:
        return [one for one in self._saved if is_complete(one.path)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those on disk, as far as is known without looking at it, in plain data, oldest first."""
        saved = [(one, "named" if one.name else one.kept) for one in self._saved]
        return [
            {"folder": one.path.name, "step": one.step, "name": one.name, "branch": one.branch, "kept": kept}
            for one, kept in saved
        ]

    @property
    def names(self) -> list[str]:
        """Those that are taken."""
        return [one.name for one in self.all if one.name]

    def candidates(self) -> list[Candidate]:
        """The states that the run can return to, oldest first by event and step, those in memory after equal ones."""
        with self._changed:
            in_memory = dict.fromkeys([*self._in_memory, *self._waiting])
            return in_order([*self._listed(), *in_memory])

    def found(self, folder: str) -> Checkpoint:
        """The checkpoint in a folder of that name.

        Raises:
            ValueError: If there is none.
        """
        for one in self.all:
            if one.path.name == folder:
                return one
        raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")

    def checked_name(self, name: object) -> str:
        """Returns the name if a new checkpoint may have it.

        Raises:
            TypeError: If it is not a string.
            ValueError: If it is empty, too long, holds what is no letter, digit, space or `-_.,()`, or is taken.
        """
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string. Received: name={name!r}.")
        if not re.fullmatch(r"\w[\w \-.,()]{0,79}", name):
            raise ValueError(
                "`name` must begin with a letter or digit and hold at most 80 letters, digits, spaces and -_.,() "
                f"only. Received: name={name[:100]!r}. Choose a plainer one."
            )
        if name in self.names:
            raise ValueError(
                f"`name` must be new: a checkpoint {name!r} exists and is never overwritten. Choose another."
            )
        return name

    def free_name(self, step: int) -> str:
        """A new name with the step in it."""
        taken = self.names
        names = (f"step {step:,}" + (f" ({i})" if i > 1 else "") for i in itertools.count(1))
        return next(name for name in names if name not in taken)

    # ---------------------------------------------------------------- renaming and deleting

    def rename(self, folder: str, name: str) -> Checkpoint:
        """Gives a checkpoint a new name; a named one is kept for ever.

        Raises:
            ValueError: If there is no such checkpoint, or the name is taken or none.
        """
        renamed = replace(self.found(folder), name=self.checked_name(name))
        with self._changed:
            self._saved = [renamed if one.number == renamed.number else one for one in self._saved]
        return renamed

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
        self._remove({one.number})
        return one

    def _thin(self) -> None:
        """Deletes what its age and the room on disk ask for."""
        saved, starts = self._listed(), self._log.branch_starts
        last = {one.branch: one.number for one in sorted(saved, key=lambda one: (one.event, one.number))}
        needed = {*(one.number for one in saved[-1:]), *last.values()}  # the tips of branches are reached from them

        def retention(one: Checkpoint) -> Retention:
            if one.name or one.number in needed or (one.branch, one.step) in starts:
                return Retention.FOR_EVER
            return Retention.WITH_ROOM if one.kept else Retention.BY_AGE

        items = [RetentionItem(one.branch, one.number, _size_bytes(one.path), retention(one)) for one in saved]
        self._remove(to_delete(items, self._disk_bytes))

    def _remove(self, numbers: Collection[int]) -> None:
        with self._changed:
            gone = [one for one in self._saved if one.number in numbers]
            self._saved = [one for one in self._saved if one.number not in numbers]
        for one in gone:
            remove(one.path)


def in_order(found: Iterable[Candidate]) -> list[Candidate]:
    """States that a run can return to, oldest first by event and step."""
    return sorted(found, key=lambda one: (one.event, one.step))


def checkpoints_in(folder: Path, log: RunLog) -> list[Checkpoint]:
    """The complete checkpoints of a run that another process may own, oldest first; nothing is written."""
    names, found = log.checkpoint_names, [_checkpoint(path, manifest) for path, manifest in manifests(folder)]
    return [replace(one, name=names.get(one.path.name, one.name)) for one in found]


def _checkpoint(path: Path, about: Mapping[str, Any]) -> Checkpoint:
    known = about["name"], path, about["branch"], about["digest"], about["event"], about["kept"]
    return Checkpoint(about["position"]["step"], *known)


def _size_bytes(folder: Path) -> int:
    with contextlib.suppress(OSError):  # it may just be removed
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
