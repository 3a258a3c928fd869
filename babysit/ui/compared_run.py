"""Another run, read from its directory to be laid over, and never written."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from babysit.store.reader import Reader
from babysit.store.record import TABLES
from babysit.ui.run_series import Course

RECORD = "run.sqlite"
_PIECE = 1000  # rows of the record read at a time
_PATIENCE_S, _PAUSE_S = 0.1, 5.0


class Other:
    """Another run's course, read a little at each call, and again now and then if it still trains.

    Args:
        smoothing: Weight of the past in its smoothed curve.
    """

    def __init__(self, smoothing: float) -> None:
        self.course, self.problem, self.version = Course(smoothing), "", 0
        self._directory: str | None = None
        self._smoothing = smoothing
        self._cursor, self._next_s = 0, 0.0

    @property
    def name(self) -> str:
        """Its directory's; empty if none is shown."""
        return Path(self._directory).name if self._directory is not None and not self.problem else ""

    def show(self, directory: str | None) -> None:
        """Turns to the run in a directory, or to none, and reads what is new there."""
        if directory != self._directory:
            self.course = Course(self._smoothing)
            self._directory, self.problem, self._cursor, self._next_s = directory, "", 0, 0.0
            self.version += 1
        if directory is not None and time.monotonic() >= self._next_s:
            self._read(Path(directory) / RECORD)

    def smooth(self, smoothing: float) -> None:
        """Smooths its curves with another strength."""
        self._smoothing = smoothing
        self.course.smooth(smoothing)

    def _read(self, path: Path) -> None:
        until, before = time.monotonic() + _PATIENCE_S, (self._cursor, self.problem)
        try:
            with Reader(path) as record:
                last = _last(record)
                while self._cursor < last and time.monotonic() < until:
                    end = self._cursor + _PIECE
                    where = "seq > ? AND seq <= ?"
                    tables = {table: record.rows(table, where, (self._cursor, end)) for table in TABLES}
                    self.course.add(tables)
                    self._cursor = min(end, last)
            self.problem = ""
        except (OSError, ValueError, sqlite3.Error) as error:
            self.problem = f"`{path.parent}` holds no run that could be read: {error}."
            last = self._cursor
        self.version += before != (self._cursor, self.problem)
        if self._cursor >= last:
            self._next_s = time.monotonic() + _PAUSE_S


def _last(record: Reader) -> int:
    rows: list[dict[str, Any]] = []
    for table in TABLES:
        rows += record.rows(table, f"seq = (SELECT max(seq) FROM {table})")
    return max((row["seq"] for row in rows), default=0)
