"""The lock of a run: only one process may write it."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

_LOCK = ".lock"  # its text names who holds it, or held it last


class Lock:
    """The right to write a run, until `release` is called or the process ends in whatever way.

    Args:
        directory: The run's folder.

    Raises:
        ValueError: If another process holds it, or another object of this one; the message names it.
        OSError: If the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._file = open(directory / _LOCK, "a")  # noqa: SIM115  (it holds the lock)
        while not _locked(self._file, fcntl.LOCK_EX):
            if (held_by := holder(directory)) is not None:  # rather than who just looked
                self._file.close()
                raise ValueError(
                    f"`directory` must be written by one process at a time: {directory} is held by {held_by}. "
                    "`stop()` it there, or end that process; its log and its checkpoints can be read meanwhile."
                )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self._file.flush()

    def release(self) -> None:
        """Releases the lock; calling it twice is harmless."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may have the file too
            self._file.close()


def holder(directory: Path) -> str | None:
    """The process that holds the lock of a run, in words; None if there is none. Nothing is written."""
    try:
        with open(directory / _LOCK) as file:
            return None if _locked(file, fcntl.LOCK_SH) else file.read()
    except FileNotFoundError:
        return None


def _locked(file: IO[Any], how: int) -> bool:
    """Locks a file, or returns False at once where another one's lock forbids it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
