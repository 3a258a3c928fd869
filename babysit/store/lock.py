"""The lock of a run: only one process may write it."""

import contextlib
import os
import platform
import time
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK, _HOLDER = ".lock", ".writer"


class Lock:
    """The right to write a run, until `release` is called or the process ends in whatever way.

    Args:
        directory: The run's folder.

    Raises:
        ValueError: If another process holds it, or another object of this one; the message names it.
        OSError: If the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._holder = directory / _HOLDER
        # The kernel's own lock, which no dead process holds. Any thread may release it, as garbage collection does.
        self._lock = FileLock(directory / _LOCK, thread_local=False)
        try:
            self._lock.acquire(timeout=0.1, poll_interval=0.02)  # longer than `holder` holds it
        except Timeout:
            raise ValueError(
                f"`directory` must be written by one process at a time: {directory} is held by "
                f"{_words(directory)}. `stop()` it there, or end that process; its log and its checkpoints "
                "can be read meanwhile."
            ) from None
        with contextlib.suppress(OSError):  # the lock holds without it
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            self._holder.write_text(f"process {os.getpid()} on {platform.node()} since {since}")

    def release(self) -> None:
        """Releases the lock; calling it twice is harmless."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._holder.unlink(missing_ok=True)
            self._lock.release()


def holder(directory: Path) -> str | None:
    """The process that holds the lock of a run, in words; None if there is none. Nothing is written."""
    import fcntl  # not on Windows

    try:
        with open(directory / _LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _words(directory)
    return None


def _words(directory: Path) -> str:
    """The holder of a lock, in words."""
    try:
        return (directory / _HOLDER).read_text() or "another process"
    except (OSError, ValueError):
        return "another process"
