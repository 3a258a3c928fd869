"""The shelf: every state that a run can return to, in memory and on disk, and which of them are let go.

Separation of concerns: `checkpoints` knows how one state gets to disk and back, the shelf
when, on which thread, at what cost, and how many are kept.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from babysit.store.files import (
    Checkpoint,
    State,
    checked_name,
    clear_away,
    complete,
    described,
    load,
    next_number,
    remove,
    save,
)

BEST = "best"  # the name of the state that did best in what is monitored
HAND = "hand"  # the anchor of what a person named
FOR_EVER = (HAND, "start")  # anchors that are never let go
SHARE = 0.035  # of the training's time that automatic checkpoints may cost: CheckFreq (FAST '21)
PERIOD_S = 1.0  # between two automatic ones at least, however cheap they are
WAITING = 3  # states that wait to be written at most, anchors aside
ANCHORS = 8  # anchors and named ones that do
MOST_ANCHORS = 200  # that are not for ever: a callback may edit weights every epoch, and listing them takes time
SPACING = 0.25  # an automatic one is kept while the gap without it would be this part of its age


class Kept(NamedTuple):
    """A state that the run can return to, in memory or on disk.

    Attributes:
        branch: The branch it was taken on.
        step: Steps done.
        mark: Sequence number of the journal's last entry then.
        anchor: Why it is kept as long as there is room (`start`, `fit`, `edit` …); empty if it is not.
        load: Returns it; raises ValueError if it is damaged.
    """

    branch: str
    step: int
    mark: int
    anchor: str
    load: Callable[[], State]


class Place(NamedTuple):
    """What decides whether a state is let go: its branch, its place in the order of all, its size."""

    branch: str
    number: int
    size_bytes: int
    loose: int  # 0 if it is never let go, 1 if it is for its age or for room, 2 only for room: an anchor


class _Row(NamedTuple):
    """A checkpoint on disk, and what else the shelf knows of it."""

    checkpoint: Checkpoint
    mark: int
    anchor: str
    size_bytes: int

    @property
    def number(self) -> int:
        return int(self.checkpoint.path.name)


@dataclass(frozen=True, eq=False)
class _Order:
    """A state to be written, or remembered."""

    state: State
    branch: str
    anchor: str
    number: int
    name: str | None = None
    write_model: Callable[[Path], Any] | None = None

    @property
    def kept(self) -> Kept:
        return Kept(self.branch, self.state.step, self.state.mark, self.anchor, lambda: self.state)

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for arrays in self.state.tensors.values() for array in arrays)


class Shelf:
    """The states of a run: those on disk, which the record's rows tell of, and those in memory.

    Any thread may call it. States handed over are copies that nobody changes.

    Args:
        record: The run's.
        folder: Where the checkpoints lie.
        memory_bytes: What the states in memory may take together.
        disk_bytes: What all checkpoints on disk may take before automatic ones are thinned out
            more than their age asks, and then anchors. For ever stay the start, named ones, what
            branches start from, and the last one on each.
        environment: What exactness depends on; goes into every manifest.

    Attributes:
        error: A sentence about the last write, if it failed.
        owner: Gives what is kept alive while a write is under way; a weak reference will do.
    """

    def __init__(
        self,
        record: Any,
        folder: Path,
        memory_bytes: int = 64 * 2**20,
        disk_bytes: int = 2 * 2**30,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.error: str | None = None
        self.owner: Callable[[], Any] = lambda: None
        self._record, self._folder, self._environment = record, folder, dict(environment or {})
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._ring: list[_Order] = []
        self._waiting: list[_Order] = []
        self._writing: _Order | None = None
        self._changed = threading.Condition(threading.RLock())  # for all of these
        self._saving = threading.Lock()  # one write at a time
        self._writer: threading.Thread | None = None
        self._closed = False
        self._next_due = time.perf_counter() + PERIOD_S
        clear_away(folder)
        rows = [row for row in record.rows("checkpoints") if row["folder"].isdecimal()]
        self._rows = self._read(rows)
        used = max((int(row["folder"]) for row in rows), default=0)
        self._numbers = itertools.count(max(used + 1, next_number(folder)))

    # ------------------------------------------------------------------------ saving

    def keep(
        self,
        state: State,
        name: str | None,
        branch: str,
        anchor: str = "",
        write_model: Callable[[Path], Any] | None = None,
    ) -> Checkpoint:
        """Saves a state; it is safe on disk when this returns, with all that waited before it.

        Args:
            state: What to save.
            name: A name, kept for ever, or None. A name given again moves on to the new checkpoint.
            branch: The branch it was taken on.
            anchor: Why it is kept as long as there is room, in a word, if it is.
            write_model: Writes `model.keras` to the path it is given. If it raises, the checkpoint
                goes without, and the manifest says why.

        Raises:
            OSError: If the disk does not take it; nothing is left behind.
        """
        self.settle()
        return self._write(_Order(state, branch, anchor, self._number(), name, write_model))

    def keep_soon(self, state: State, branch: str, anchor: str = "", name: str | None = None) -> None:
        """Has a state saved by another thread, and returns at once.

        If more wait than a few, the oldest of them that has no name and is no anchor is not written;
        where it is anchors that come faster than the disk takes them, the caller waits for it.
        """
        with self._changed:
            self._changed.wait_for(lambda: sum(map(_must_be_written, self._waiting)) < ANCHORS)
            self._waiting.append(_Order(state, branch, anchor, self._number(), name))
            loose = [order for order in self._waiting if not _must_be_written(order)]
            if len(self._waiting) > WAITING and loose:
                self._waiting.remove(loose[0])
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._work, args=(self.owner(),), name="babysit-shelf", daemon=True
                )
                self._writer.start()

    def settle(self) -> None:
        """Returns when what waits to be written now has been."""
        if threading.current_thread() is self._writer:  # which may be collecting the garbage that closes us
            return
        with self._changed:
            orders = {self._writing, *self._waiting} - {None}
            self._changed.wait_for(lambda: orders.isdisjoint({self._writing, *self._waiting}))

    def is_due(self) -> bool:
        """Whether an automatic checkpoint may be made now, by what those before it have cost."""
        with self._changed:
            return self._writer is None and time.perf_counter() >= self._next_due

    def spent(self, seconds: float) -> None:
        """Takes down what copying a state has cost; writing is measured here."""
        with self._changed:
            self._next_due = max(self._next_due, time.perf_counter()) + seconds / SHARE

    def remember(self, state: State, branch: str) -> None:
        """Keeps a state in memory; older ones are let go as their bytes and their age ask."""
        order = _Order(state, branch, "", self._number())
        with self._changed:
            if order.size_bytes <= self._memory_bytes:
                self._ring.append(order)
                places = [Place(item.branch, item.number, item.size_bytes, item is not order) for item in self._ring]
                gone = {place.number for place in surplus(places, self._memory_bytes)}
                self._ring = [item for item in self._ring if item.number not in gone]

    def close(self) -> None:
        """Writes what waits, and keeps nothing more: the run is over here, or goes on elsewhere."""
        self.settle()
        self._closed = True
        self._ring.clear()

    def _number(self) -> int:
        with self._changed:
            return next(self._numbers)

    def _work(self, owner: Any) -> None:
        """Writes what waits; holds the owner, whose end would wait for this while it holds up the record."""
        while (order := self._next_order()) is not None:
            with contextlib.suppress(Exception):  # told in `error`: a save that fails does not harm the training
                self._write(order)

    def _next_order(self) -> _Order | None:
        with self._changed:
            self._writing = self._waiting.pop(0) if self._waiting else None
            if self._writing is None:
                self._writer = None
            self._changed.notify_all()
            return self._writing

    def _write(self, order: _Order) -> Checkpoint:
        began = time.perf_counter()
        try:
            with self._saving:
                row = self._saved(order)
        except Exception as error:
            self.error = (
                f"The last checkpoint could not be written ({error}). The training goes on; the next one is tried "
                "when its time has come."
            )
            raise
        finally:
            self.spent(time.perf_counter() - began)
            with self._changed:
                self._next_due = max(self._next_due, time.perf_counter() + PERIOD_S)
        self.error = None
        return row.checkpoint

    def _saved(self, order: _Order) -> _Row:
        if self._closed:
            raise ValueError(f"The run at {self._folder.parent} is closed here: it goes on in another Panda.")
        self._record.flush()  # what led to a state is on disk before the state is
        about = {"name": order.name, "branch": order.branch, "anchor": order.anchor, "time": time.time()}
        folder = save(
            self._folder, order.state, about | {"environment": self._environment}, order.number, order.write_model
        )
        row = self._enter(folder, _read_back(folder))
        self._record.flush()
        with contextlib.suppress(Exception):  # a record that cannot be read just now: the next write thins out
            self._thin()
        return row

    def _enter(self, folder: Path, manifest: Mapping[str, Any]) -> _Row:
        """Takes a checkpoint that lies on disk into the record."""
        state, about = manifest["state"], {key: manifest[key] for key in ("name", "branch", "digest", "time", "anchor")}
        fields = {"step": state["step"], "mark": state["mark"], "folder": folder.name} | about
        row = _row(self._folder, fields)
        with self._changed:  # first, so that who reads of it in the record finds it among the `folders`
            self._rows.append(row)
        self._record.append("checkpoints", **fields)
        return row

    # ----------------------------------------------------------------------- reading

    @property
    def all(self) -> list[Checkpoint]:
        """The complete ones on disk, oldest first."""
        self.settle()
        return [row.checkpoint for row in self._listed()]

    def candidates(self) -> list[Kept]:
        """The states that the run can return to, in memory and on disk, oldest first."""
        with self._changed:
            orders = [*self._ring, *self._waiting, *([self._writing] if self._writing else [])]
            there = [(order.number, order.kept) for order in orders] + [
                (row.number, _kept(row)) for row in self._listed()
            ]
        # By when they were taken: the best one is written later than what came after it.
        return [
            kept for _, kept in sorted(there, key=lambda numbered: (numbered[1].mark, numbered[1].step, numbered[0]))
        ]

    def found(self, folder: str) -> tuple[Checkpoint, State]:
        """The checkpoint in a folder of that name, and its state.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        checkpoint = self._row_of(folder).checkpoint
        return checkpoint, _loaded(checkpoint)

    def newest_sound(self) -> tuple[Checkpoint, State]:
        """The newest one that can be used, and its state.

        Raises:
            ValueError: If there is none; it says why.
        """
        reasons = []
        for checkpoint in reversed(self.all):
            try:
                return checkpoint, _loaded(checkpoint)
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError(f"The run has no checkpoint that can be used. {' '.join(reasons)}")

    def checked_name(self, name: object) -> str:
        """Returns a name that a new checkpoint may have; see `checkpoints.checked_name`."""
        return checked_name(name, self.names)

    def free_name(self, step: int) -> str:
        """A new name that tells the step."""
        candidates = itertools.chain([""], (f" ({i})" for i in itertools.count(2)))
        return next(name for more in candidates if (name := f"step {step:,}{more}") not in self.names)

    @property
    def names(self) -> list[str]:
        """The names that are taken: all but `BEST`, unless a person gave that."""
        self.settle()
        rows = [row for row in self._listed() if row.checkpoint.name]
        return [row.checkpoint.name for row in rows if row.checkpoint.name != BEST or row.anchor == HAND]  # type: ignore[misc]

    def _row_of(self, folder: str) -> _Row:
        self.settle()
        for row in self._listed():
            if row.checkpoint.path.name == folder:
                return row
        raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")

    def _listed(self) -> list[_Row]:
        """Those complete on disk; a name that was given twice is the newer one's."""
        whole = set(complete(self._folder))
        with self._changed:
            rows = sorted((row for row in self._rows if row.checkpoint.path in whole), key=lambda row: row.number)
        holder = {row.checkpoint.name: row.number for row in rows}
        return [row if holder[row.checkpoint.name] == row.number else _unnamed(row) for row in rows]

    def _read(self, told: Sequence[Mapping[str, Any]]) -> list[_Row]:
        """The checkpoints of earlier times: what the record tells of, and what was complete before it could."""
        whole = {folder.name: folder for folder in complete(self._folder)}
        self._rows = [
            _row(self._folder, row) for row in {row["folder"]: row for row in told}.values() if row["folder"] in whole
        ]
        for name in whole.keys() - {row["folder"] for row in told}:
            with contextlib.suppress(LookupError, TypeError, ValueError):
                if self._leads_to(manifest := described(whole[name])):
                    self._enter(whole[name], manifest)
                elif not manifest["name"]:  # a person's own stays on disk, and `verify` tells of it
                    remove(whole[name])
        return self._rows

    def _leads_to(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the record holds the journal and the steps that led to a checkpoint."""
        branch, step = manifest["branch"], manifest["state"]["step"]
        begun = [row["step"] for row in self._record.rows("branches", "name = ?", (branch,))]
        taken = begun and (
            step <= begun[0] or self._record.rows("blocks", "branch = ? AND first + steps > ?", (branch, step))
        )
        return bool(taken) and manifest["state"]["mark"] <= self._record.last

    @property
    def folders(self) -> list[str]:
        """The folders of those on disk, as far as is known without looking there."""
        with self._changed:
            return [row.checkpoint.path.name for row in self._rows]

    def rename(self, folder: str, name: str) -> Checkpoint:
        """Gives the checkpoint in a folder of that name a new name of its own: a named one is kept for good.

        Raises:
            ValueError: If there is no such checkpoint, or the name is taken or none.
        """
        row = self._row_of(folder)
        checkpoint = replace(row.checkpoint, name=self.checked_name(name))
        self._tell(row._replace(checkpoint=checkpoint))
        with self._changed:
            self._rows = [
                old._replace(checkpoint=checkpoint) if old.number == row.number else old for old in self._rows
            ]
        return checkpoint

    # ------------------------------------------------------------------- letting go

    def delete(self, folder: str) -> Checkpoint:
        """Deletes the checkpoint in a folder of that name; returns what it was.

        Raises:
            ValueError: If there is none, it is the start, or a branch starts from it.
        """
        row = self._row_of(folder)
        if row.anchor == "start" or _spot(row) in self._forks():
            raise ValueError(
                f"`folder` must not be where a branch starts: step {row.checkpoint.step:,} could not be returned to. "
                f"Received: {folder!r}. Choose another one."
            )
        self._let_go({row.number})
        self._tell(row._replace(checkpoint=replace(row.checkpoint, name=None), anchor=""))
        return row.checkpoint

    def _tell(self, row: _Row) -> None:
        """Enters a checkpoint into the record once more: its last row is the one that counts."""
        saved = row.checkpoint
        fields: dict[str, Any] = {
            "step": saved.step,
            "name": saved.name,
            "folder": saved.path.name,
            "branch": saved.branch,
        }
        fields |= {"digest": saved.digest, "time": time.time(), "mark": row.mark, "anchor": row.anchor}
        self._record.append("checkpoints", **fields)

    def _thin(self) -> None:
        """Lets go what its age and the room on disk ask for."""
        rows, forks = self._listed(), self._forks()
        ends = {row.checkpoint.branch: row.number for row in sorted(rows, key=lambda row: (row.mark, row.number))}
        last = {rows[-1].number, *ends.values()}  # from which a branch's tip is reached

        def loose(row: _Row) -> int:
            if row.checkpoint.name or row.anchor in FOR_EVER or row.number in last or _spot(row) in forks:
                return 0
            return 2 if row.anchor else 1

        places = [Place(row.checkpoint.branch, row.number, row.size_bytes, loose(row)) for row in rows]
        gone = {place.number for place in surplus(places, self._disk_bytes)}
        anchors = [row for row in rows if row.number in gone and row.anchor]
        for row in anchors:
            self._tell(row._replace(anchor=""))  # so that nobody misses it
        if anchors:
            self._record.flush()
        self._let_go(gone)

    def _forks(self) -> set[tuple[str, int]]:
        """Where branches start: their own first state, and the same one on the branch that they left."""
        rows = self._record.rows("branches")
        return {(name, row["step"]) for row in rows for name in (row["name"], row["parent"])}

    def _let_go(self, numbers: Collection[int]) -> None:
        with self._changed:
            gone = [row for row in self._rows if row.number in numbers]
            self._rows = [row for row in self._rows if row.number not in numbers]
        for row in gone:
            remove(row.checkpoint.path)


def _must_be_written(order: _Order) -> bool:
    return bool(order.anchor or order.name)


def on_disk(record: Any, folder: Path) -> list[Kept]:
    """The complete checkpoints that a run's record tells of, oldest first; nothing is written."""
    whole = {path.name for path in complete(folder)}
    told = {row["folder"]: row for row in record.rows("checkpoints")}  # the last word on each
    rows = [_row(folder, row) for row in told.values() if row["folder"] in whole]
    return [_kept(row) for row in sorted(rows, key=lambda row: row.number)]


def environments(record: Any, folder: Path) -> list[dict[str, str]]:
    """What exactness depended on while a run was trained: as its checkpoints tell, each once."""
    found: list[dict[str, str]] = []
    whole = {path.name for path in complete(folder)}
    for name in [row["folder"] for row in record.rows("checkpoints") if row["folder"] in whole]:
        with contextlib.suppress(ValueError):  # damaged: who needs it is told
            environment = described(folder / name).get("environment") or {}
            found += [environment] if environment and environment not in found else []
    return found


def surplus(places: Sequence[Place], room_bytes: int) -> list[Place]:
    """Those to let go: recent ones stay dense, old ones become sparse, evenly for their age; anchors go last.

    Args:
        places: All there are, the newest among them.
        room_bytes: What they may take together; undercut as far as the loose ones allow.
    """
    kept, gone = list(places), []
    while (least := _least(kept, room_bytes)) is not None:
        kept.remove(least)
        gone.append(least)
    return gone


def _least(kept: Sequence[Place], room_bytes: int) -> Place | None:
    """The next one to let go, if any."""
    full = sum(place.size_bytes for place in kept) > room_bytes
    worth = _worth(kept)
    automatic, anchors = ([place for place in kept if place.loose == kind] for kind in (1, 2))
    if automatic:
        least = min(automatic, key=lambda place: (worth[place.number], place))
        if full or worth[least.number] < SPACING:
            return least
    if anchors and (full or len(anchors) > MOST_ANCHORS):
        return min(anchors, key=lambda place: (worth[place.number], place))
    return None


def _worth(kept: Sequence[Place]) -> dict[int, float]:
    """Of each by its number: the gap that its loss would leave on its branch, as a part of its age."""
    now = max((place.number for place in kept), default=0)
    worth: dict[int, float] = {}
    for branch in {place.branch for place in kept}:
        numbers = [0, *sorted(place.number for place in kept if place.branch == branch), now + 1]
        for before, number, after in zip(numbers, numbers[1:], numbers[2:], strict=False):
            worth[number] = (after - before) / max(now - number, 1)
    return worth


def _read_back(folder: Path) -> dict[str, Any]:
    try:
        return described(folder)
    except ValueError as error:
        remove(folder)
        raise OSError(f"What was written cannot be read back. {error}") from error


def _row(folder: Path, fields: Mapping[str, Any]) -> _Row:
    path = folder / fields["folder"]
    checkpoint = Checkpoint(fields["step"], fields["name"], path, fields["branch"], fields["digest"])
    size_bytes = sum(file.lstat().st_size for file in path.iterdir())
    return _Row(checkpoint, fields["mark"] or 0, fields["anchor"] or "", size_bytes)


def _kept(row: _Row) -> Kept:
    saved = row.checkpoint
    return Kept(saved.branch, saved.step, row.mark, row.anchor, lambda: _loaded(saved))


def _loaded(saved: Checkpoint) -> State:
    state, manifest = load(saved.path)
    if manifest["digest"] != saved.digest:
        raise ValueError(f"The checkpoint {saved.path} is not the one that the run saved there. Choose another one.")
    return state


def _unnamed(row: _Row) -> _Row:
    return row._replace(checkpoint=replace(row.checkpoint, name=None))


def _spot(row: _Row) -> tuple[str, int]:
    return row.checkpoint.branch, row.checkpoint.step
