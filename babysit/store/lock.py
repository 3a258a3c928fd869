"""The lock of a run: one process writes it, and another one is told which."""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_LOCK, _HOLDER = ".lock", ".writer.json"


class Lock:
    """The right to write a run, from now until `release`, or until the process ends, however it does.

    Args:
        directory: The run's folder.

    Raises:
        ValueError: If another process holds it, or another object of this one; it tells which, and since when.
        OSError: If the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._holder = directory / _HOLDER
        # The kernel's own lock, which no dead process holds; released by whichever thread collects a panda.
        self._lock = FileLock(directory / _LOCK, thread_local=False)
        try:
            self._lock.acquire(timeout=0.1, poll_interval=0.02)  # longer than `holder` looks
        except Timeout:
            raise ValueError(
                f"`directory` must be written by one process at a time: {directory} is held by {_told(self._holder)}. "
                "`stop()` it there, or end that process; its record and its checkpoints can be read meanwhile."
            ) from None
        with contextlib.suppress(OSError):  # who cannot be told is none the less the holder
            _write(self._holder, {"pid": os.getpid(), "host": platform.node(), "since": time.time()})

    def release(self) -> None:
        """Gives it back; twice is harmless."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._holder.unlink(missing_ok=True)
            self._lock.release()


def holder(directory: Path) -> str | None:
    """Which process has the right to write a run, in words; None if none has. It only looks."""
    import fcntl  # which Windows has not

    try:
        with open(directory / _LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _told(directory / _HOLDER)
    return None


def _write(path: Path, plain: Any) -> None:
    temporary = path.with_name(f"{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(plain))
    os.replace(temporary, path)  # a reader sees all of it


def _told(path: Path) -> str:
    """Who holds a run, in words."""
    try:
        holder = json.loads(path.read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f"process {int(holder['pid'])} on {str(holder['host'])[:100]} since {since}"
    except (OSError, LookupError, TypeError, ValueError, OverflowError):
        return "another process"
