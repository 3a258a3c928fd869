"""The runs of this process: where they lie, which are alive, and what becomes of them when it ends."""

import atexit
import contextlib
import datetime
import itertools
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from babysit.session.viewer import Viewer
from babysit.store.database import RECORD, Database
from babysit.store.lock import Lock

pandas: "weakref.WeakSet[Any]" = weakref.WeakSet()  # every Panda of this process


def attach(directory: str | Path | None = None) -> Any:
    """The run alive in this kernel; a list of them if there are several.

    Args:
        directory: The folder of the run meant. One that lives in another process is followed by a `Viewer`,
            which steers it through its folder; one that lives in none is only watched.

    Raises:
        ValueError: If there is none.
        sqlite3.Error: If its record cannot be read.
    """
    if directory is not None:
        here = [panda for panda in pandas_in(Path(directory)) if panda._close.alive]
        return here[0] if here else Viewer(checked_run(directory))
    alive = [panda for panda in pandas if panda._worker.alive]
    if not alive:
        raise ValueError(
            "No run is alive in this kernel. `babysit.attach(directory)` watches one of another process, "
            "`babysit.Panda.load(directory)` goes on with one from disk."
        )
    return alive[0] if len(alive) == 1 else sorted(alive, key=lambda panda: str(panda.directory))


def pandas_in(directory: Path) -> list[Any]:
    """The pandas of this process whose run lies in a folder."""
    return [panda for panda in list(pandas) if panda.directory.resolve() == directory.resolve()]


# ------------------------------------------------------------------------------- a run's folder


def checked_run(directory: str | Path) -> Path:
    """Returns the path of a folder that holds a run.

    Raises:
        ValueError: If it holds none.
    """
    if not (Path(directory) / RECORD).is_file():
        raise ValueError(
            f"`directory` must hold a run. Received: {directory}, which holds none. It is the folder that "
            "`panda.directory` names, and `babysit.Panda.load` takes."
        )
    return Path(directory)


def new_directory(name: str, directory: str | Path | None = None) -> Path:
    """Makes the folder of a new run, `runs/<model name>-<date>-<n>` unless one is given.

    Raises:
        ValueError: If it holds a run already.
        OSError: If it cannot be made.
    """
    if directory is None:
        stem = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{datetime.date.today().isoformat()}"
        paths = (Path("runs") / f"{stem}-{n}" for n in itertools.count(1))
        directory = next(path for path in paths if not path.exists())
    if (Path(directory) / RECORD).exists():
        raise ValueError(
            f"`directory` must be a new one: {directory} holds a run. `babysit.Panda.load({str(directory)!r})` goes on "
            "with it."
        )
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"`directory` cannot be made: {error}. Pass one where you may write.") from error
    return Path(directory)


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[tuple[contextlib.ExitStack, Database]]:
    """The record of a run, with the right to write it: what closes both, unless it is taken over, and the record.

    Raises:
        ValueError: If the run is written by another process, or alive in this one; one at rest lets go of it.
        OSError: If it cannot be written.
    """
    for panda in pandas_in(directory):
        if panda._worker.alive:
            raise ValueError(f"The run at {directory} is alive in this kernel: `babysit.attach()` gives it back.")
        panda._close()
    with contextlib.ExitStack() as stack:
        stack.callback(Lock(directory).release)
        database = Database(directory / RECORD)
        stack.callback(database.close)
        yield stack, database


# ------------------------------------------------------------------------------- a model


def check_model(model: Any) -> None:
    """Raises unless a model can be trained: a compiled `keras.Model` that no panda trains."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            "`model` must be compiled. Call `model.compile(optimizer=..., loss=...)` before `Panda(model)`. "
            f"Received: the uncompiled `{model.name}`."
        )
    refuse_second(model)


def refuse_second(model: Any, but: Any = None) -> None:
    """Raises if another panda than `but` trains a model."""
    for panda in list(pandas):
        if panda is not but and panda.model is model and panda._worker.alive:
            raise ValueError(
                f"`model` is being trained already, by {panda!r}. `panda = babysit.attach()` gives you that one; "
                "`stop()` it first if you want to begin anew."
            )


# ------------------------------------------------------------------------------- the end of the process


@atexit.register
def _rest_all() -> None:
    for panda in list(pandas):
        if panda._worker.alive:
            panda._leave()
        panda._close()


def _forget_runs() -> None:
    """Leaves the runs to the process that began them: a forked child has none of their threads."""
    for panda in list(pandas):
        panda._close.detach()
    pandas.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_runs)
