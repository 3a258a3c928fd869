"""The checkpoints of a run: the states it can return to, in memory and on disk.

Separation of concerns: `checkpoint_file` knows how one state gets to disk and back, `retention` which ones to delete,
the store when they are written, on which thread and at what cost.
"""

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from babysit.core.state import State
from babysit.store.checkpoint_file import clear_away, is_complete, manifests, next_number, read, remove, write
from babysit.store.retention import Retention, RetentionItem, to_delete

SHARE = 0.035  # of the training's time that automatic checkpoints may cost: CheckFreq (FAST '21)
PERIOD_S = 1.0  # between two automatic ones at least, however cheap they are
MOST_WAITING = 8  # states that wait to be written at most
FOR_EVER = ("named", "start")  # reasons for which a checkpoint is never deleted


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        step: Steps done on its branch.
        name: Its name, or None for an automatic one.
        path: Its folder.
        branch: The branch it was saved on.
        digest: sha256 of the state, hexadecimal.
    """

    step: int
    name: str | None
    path: Path
    branch: str
    digest: str


class Candidate(NamedTuple):
    """A state that the run can return to, in memory or on disk.

    Attributes:
        branch: The branch it was captured on.
        step: Steps done.
        event: Number of the last event that it contains.
        load: Returns it; raises ValueError if it is damaged.
    """

    branch: str
    step: int
    event: int
    load: Callable[[], State]


@dataclass(frozen=True)
class _Saved:
    """A checkpoint on disk, with what its manifest says."""

    checkpoint: Checkpoint
    event: int
    kept: str
    sizes: Mapping[str, int]
    renamed: bool = False

    @property
    def named_by_user(self) -> bool:
        return self.renamed or self.kept == "named"

    @property
    def number(self) -> int:
        return int(self.checkpoint.path.name)

    @property
    def start(self) -> tuple[str, int]:
        return self.checkpoint.branch, self.checkpoint.step

    @property
    def candidate(self) -> Candidate:
        path = self.checkpoint.path
        return Candidate(*self.start, self.event, lambda: read(path)[0])

    def named(self, name: str | None) -> "_Saved":
        return replace(self, checkpoint=replace(self.checkpoint, name=name), renamed=True)


@dataclass(frozen=True, eq=False)
class _WriteJob:
    """A state to be written, or one that is remembered."""

    state: State
    branch: str
    number: int
    kept: str = ""
    name: str | None = None
    write_model: Callable[[Path], Any] | None = None

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.branch, self.state.position.step, self.state.event, lambda: self.state)


class CheckpointStore:
    """The checkpoints of a run, for its owner. Any thread may call it.

    Args:
        folder: Where the checkpoints lie.
        flush: Writes the log to disk, which happens before a checkpoint is written. Where it raises, none is.
        branch_starts: Returns (branch, step) where branches begin, on either side; these are never deleted.
        names: Folder -> name given later. A name given twice belongs to the newer checkpoint.
        environment: What exactness depends on; every manifest holds it.
        memory_bytes: What the states in memory may take together.
        disk_bytes: What the checkpoints on disk may take before more are deleted than their age asks for. The start,
            named ones, starts of branches and the last one on each branch are never deleted.

    Attributes:
        error: A sentence about the last write, if it failed.
        owner: Returns what must stay alive while a write is under way; a weak reference will do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush: Callable[[], None],
        branch_starts: Callable[[], Collection[tuple[str, int]]],
        names: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        memory_bytes: int = 64 * 2**20,
        disk_bytes: int = 2 * 2**30,
    ) -> None:
        self.error: str | None = None
        self.owner: Callable[[], Any] = lambda: None
        self._folder, self._flush, self._branch_starts = folder, flush, branch_starts
        self._environment = dict(environment or {})
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._changed = threading.Condition(threading.RLock())  # for all that follows
        self._in_memory: list[_WriteJob] = []
        self._waiting: list[_WriteJob] = []
        self._writing: _WriteJob | None = None
        self._writer: threading.Thread | None = None
        self._saving = threading.Lock()  # one write at a time
        self._closed = False
        self._next_due = time.perf_counter() + PERIOD_S
        clear_away(folder)
        self._saved = _saved_in(folder, names or {})
        self._numbers = itertools.count(max([next_number(folder), *(int(name) + 1 for name in names or {})]))

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
            kept: Why it is kept as long as there is room, in a word. "named" and "start" are kept for ever.
            write_model: Writes `model.keras` to the path it is given. If it raises, the checkpoint goes without.

        Raises:
            OSError: If the disk does not take it; nothing is left then.
        """
        self.settle()
        return self._write(_WriteJob(state, branch, self._number(), kept, name, write_model))

    def save_soon(self, state: State, branch: str, kept: str = "", name: str | None = None) -> None:
        """Lets another thread save a state, which stays in memory too if it is kept.

        If states come faster than the disk takes them, the caller waits.
        """
        job = _WriteJob(state, branch, self._number(), kept, name)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MOST_WAITING)
            if kept:
                self._remember(job)
            self._waiting.append(job)
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
            self._remember(_WriteJob(state, branch, self._number()))

    def settle(self) -> None:
        """Returns when all that waits now is written."""
        writer = self._writer
        # Garbage collection on the writer's own thread may close the store; a forked child has no such thread.
        if writer is None or writer is threading.current_thread() or not writer.is_alive():
            return
        with self._changed:
            jobs = {self._writing, *self._waiting} - {None}
            self._changed.wait_for(lambda: jobs.isdisjoint({self._writing, *self._waiting}))

    def close(self) -> None:
        """Writes what waits; later saves raise, as the run is over here or goes on elsewhere."""
        self.settle()
        self._closed = True
        self._in_memory.clear()

    def _number(self) -> int:
        with self._changed:
            return next(self._numbers)

    def _remember(self, job: _WriteJob) -> None:
        if job.state.size_bytes > self._memory_bytes:
            return
        self._in_memory.append(job)
        items = [
            RetentionItem(one.branch, one.number, one.state.size_bytes, *([Retention.FOR_EVER] if one is job else []))
            for one in self._in_memory
        ]
        gone = to_delete(items, self._memory_bytes)
        self._in_memory = [one for one in self._in_memory if one.number not in gone]

    def _count_cost(self, seconds: float, period_s: float = 0.0) -> None:
        with self._changed:
            now = time.perf_counter()
            self._next_due = max(max(self._next_due, now) + seconds / SHARE, now + period_s)

    def _write_waiting(self, owner: Any) -> None:
        """Writes what waits. Holds the owner: its finalizer would wait for this thread."""
        while (job := self._next_job()) is not None:
            with contextlib.suppress(Exception):  # `error` says it: a failed save does not harm the training
                self._write(job)

    def _next_job(self) -> _WriteJob | None:
        with self._changed:
            self._writing = self._waiting.pop(0) if self._waiting else None
            if self._writing is None:
                self._writer = None
            self._changed.notify_all()
            return self._writing

    def _write(self, job: _WriteJob) -> Checkpoint:
        began = time.perf_counter()
        try:
            with self._saving:
                saved = self._written(job)
        except Exception as error:
            self.error = (
                f"The last checkpoint could not be written ({error}). The training goes on; the next one is tried "
                "when it is due."
            )
            raise
        finally:
            self._count_cost(time.perf_counter() - began, PERIOD_S)
        self.error = None
        return saved.checkpoint

    def _written(self, job: _WriteJob) -> _Saved:
        if self._closed:
            raise ValueError(f"The run at {self._folder.parent} is closed here: it goes on in another Panda.")
        self._flush()
        about = {"name": job.name, "branch": job.branch, "kept": job.kept, "environment": self._environment}
        manifest = write(self._folder, job.state, about | {"time": time.time()}, job.number, job.write_model)
        saved = _saved_as(self._folder / f"{job.number:06d}", manifest)
        with self._changed:
            self._saved.append(saved)
        self._thin()
        return saved

    # ----------------------------------------------------------------------------- reading

    @property
    def all(self) -> list[Checkpoint]:
        """The complete ones on disk, oldest first."""
        self.settle()
        return [saved.checkpoint for saved in self._listed()]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those on disk, as far as is known without looking at it, in plain data, oldest first."""
        with self._changed:
            saved = _with_names_once(self._saved)
        found = [(one.checkpoint, "named" if one.named_by_user else one.kept) for one in saved]
        return [
            {"folder": one.path.name, "step": one.step, "name": one.name, "branch": one.branch, "kept": kept}
            for one, kept in found
        ]

    @property
    def names(self) -> list[str]:
        """The names that the user gave. Those that babysit gives, as `best`, may be given again."""
        self.settle()
        return [one.checkpoint.name for one in self._listed() if one.checkpoint.name and one.named_by_user]

    def candidates(self) -> list[Candidate]:
        """The states that the run can return to, oldest first by event and step, those in memory after equal ones."""
        with self._changed:
            jobs = [*self._in_memory, *self._waiting, *([self._writing] if self._writing else [])]
            there = [saved.candidate for saved in self._listed()]
            there += [job.candidate for job in {job.number: job for job in jobs}.values()]
        return sorted(there, key=lambda candidate: (candidate.event, candidate.step))

    def found(self, folder: str) -> tuple[Checkpoint, State]:
        """The checkpoint in a folder of that name, and its state.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        checkpoint = self._find(folder).checkpoint
        return checkpoint, read(checkpoint.path)[0]

    def newest_sound(self) -> tuple[Checkpoint, State]:
        """The newest one that can be used, and its state.

        Raises:
            ValueError: If there is none; it says why.
        """
        reasons = []
        for checkpoint in reversed(self.all):
            try:
                return checkpoint, read(checkpoint.path)[0]
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError(f"The run has no checkpoint that can be used. {' '.join(reasons)}")

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
        candidates = itertools.chain([""], (f" ({i})" for i in itertools.count(2)))
        return next(name for more in candidates if (name := f"step {step:,}{more}") not in taken)

    def _find(self, folder: str) -> _Saved:
        self.settle()
        for saved in self._listed():
            if saved.checkpoint.path.name == folder:
                return saved
        raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")

    def _listed(self) -> list[_Saved]:
        """Those complete on disk, oldest first; a name that was given twice is the newer one's."""
        with self._changed:
            known = sorted(self._saved, key=lambda saved: saved.number)
        return _with_names_once([saved for saved in known if is_complete(saved.checkpoint.path, saved.sizes)])

    # ---------------------------------------------------------------- renaming and deleting

    def rename(self, folder: str, name: str) -> Checkpoint:
        """Gives a checkpoint a new name; a named one is kept for ever.

        Raises:
            ValueError: If there is no such checkpoint, or the name is taken or none.
        """
        renamed = self._find(folder).named(self.checked_name(name))
        with self._changed:
            self._saved = [renamed if saved.number == renamed.number else saved for saved in self._saved]
        return renamed.checkpoint

    def delete(self, folder: str) -> Checkpoint:
        """Deletes a checkpoint; returns what it was.

        Raises:
            ValueError: If there is none, it is the start, or a branch starts from it.
        """
        saved = self._find(folder)
        if saved.kept == "start" or saved.start in self._branch_starts():
            raise ValueError(
                f"`folder` must not be where a branch starts: step {saved.checkpoint.step:,} could not be returned to. "
                f"Received: {folder!r}. Choose another one."
            )
        self._remove({saved.number})
        return saved.checkpoint

    def _thin(self) -> None:
        """Deletes what its age and the room on disk ask for."""
        listed, starts = self._listed(), self._branch_starts()
        last = {one.checkpoint.branch: one.number for one in sorted(listed, key=lambda one: (one.event, one.number))}
        needed = {*(one.number for one in listed[-1:]), *last.values()}  # the tips of branches are reached from them

        def retention(saved: _Saved) -> Retention:
            if saved.checkpoint.name or saved.kept in FOR_EVER or saved.number in needed or saved.start in starts:
                return Retention.FOR_EVER
            return Retention.WITH_ROOM if saved.kept else Retention.BY_AGE

        items = [
            RetentionItem(one.checkpoint.branch, one.number, _size_bytes(one.checkpoint.path), retention(one))
            for one in listed
        ]
        self._remove(to_delete(items, self._disk_bytes))

    def _remove(self, numbers: Collection[int]) -> None:
        with self._changed:
            gone = [saved for saved in self._saved if saved.number in numbers]
            self._saved = [saved for saved in self._saved if saved.number not in numbers]
        for saved in gone:
            remove(saved.checkpoint.path)


def _size_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.iterdir())


def checkpoints_in(folder: Path, names: Mapping[str, str] | None = None) -> list[Checkpoint]:
    """The complete checkpoints of a run that another process may own, oldest first; nothing is written."""
    return [saved.checkpoint for saved in _with_names_once(_saved_in(folder, names or {}))]


def candidates_in(folder: Path) -> list[Candidate]:
    """The states on disk of a run that another process may own, oldest first; nothing is written."""
    there = [saved.candidate for saved in _saved_in(folder, {})]
    return sorted(there, key=lambda candidate: (candidate.event, candidate.step))


def _saved_in(folder: Path, names: Mapping[str, str]) -> list[_Saved]:
    found = [_saved_as(path, manifest) for path, manifest in manifests(folder)]
    return [one.named(name) if (name := names.get(one.checkpoint.path.name)) else one for one in found]


def _saved_as(path: Path, manifest: Mapping[str, Any]) -> _Saved:
    about = manifest["position"]["step"], manifest["name"], path, manifest["branch"], manifest["digest"]
    return _Saved(Checkpoint(*about), manifest["event"], manifest["kept"], manifest["sizes"])


def _with_names_once(found: Sequence[_Saved]) -> list[_Saved]:
    """The checkpoints, a name that was given twice left with the newest that has it."""
    holders = {one.checkpoint.name: one for one in found}
    return [
        one if holders[one.checkpoint.name] is one else replace(one, checkpoint=replace(one.checkpoint, name=None))
        for one in found
    ]
