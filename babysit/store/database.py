"""The log of a run on disk: one SQLite file with one owner, appended to and never rewritten.

Events and steps share one sequence of numbers, so "what is new after number n" is one question. The journal mode is
the rollback journal: a write-ahead log fails on network file systems.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from babysit.core.events import ROW, Event, from_row, to_row
from babysit.core.runlog import STEPS_ROW, RunLog, Steps

RECORD, SCHEMA = "run.sqlite", 3
PATIENCE_S = 5.0  # for another program that locks the file
_INSERT = {
    Event: f"INSERT INTO events VALUES ({', '.join('?' * len(ROW))})",
    Steps: f"INSERT INTO steps VALUES ({', '.join('?' * len(STEPS_ROW))})",
}
_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_CREATE = f"""
    BEGIN;
    CREATE TABLE events (seq INTEGER PRIMARY KEY, {", ".join(ROW[1:])});
    CREATE TABLE steps (seq INTEGER PRIMARY KEY, {", ".join(STEPS_ROW[1:])});
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
    INSERT INTO meta VALUES ('schema', '{SCHEMA}');
    COMMIT;
"""
# One statement reads both tables, so that no row is written between the two: shorter rows end with NULL.
_ROWS = (
    f"SELECT {', '.join(ROW)} FROM events WHERE seq > :after UNION ALL "
    f"SELECT {', '.join(STEPS_ROW)}, NULL FROM steps WHERE seq > :after ORDER BY seq LIMIT :most"
)


class DatabaseReader:
    """The log of a run that may belong to another process: read from any thread, never written. A context closes it.

    Each question is answered at once, so the writer of the file need not wait. What a killed process has half written
    is undone by SQLite, as soon as anybody opens the file.

    Args:
        path: The file.

    Raises:
        ValueError: If another version of babysit wrote the file.
        sqlite3.Error: If it is no such file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()  # for the connection
        uri = f"{path.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(uri, PATIENCE_S, check_same_thread=False, uri=True)
        if (schema := self.meta("schema")) != SCHEMA:
            raise ValueError(
                f"The run at {path.parent} was written by another version of babysit: its log has schema "
                f"{schema}, and this version reads {SCHEMA}. Begin a new run in another folder."
            )

    @property
    def version(self) -> int:
        """A number that changes when the file was written."""
        return int(self._ask("PRAGMA data_version")[0][0])

    def rows(self, after: int = 0, most: int = 1000) -> list[Event | Steps]:
        """The rows after a number, in their order, of which at most so many."""
        return [_decoded(row) for row in self._ask(_ROWS, {"after": after, "most": most})]

    def fill(self, log: RunLog) -> None:
        """Appends to a log in memory the rows that it does not have yet."""
        while rows := self.rows(log.seq):
            for row in rows:
                log.append(row)

    def meta(self, key: str) -> Any:
        """The value under a key, or None."""
        found = self._ask("SELECT value FROM meta WHERE key = :key", {"key": key})
        return json.loads(found[0][0]) if found else None

    def faults(self) -> list[str]:
        """What SQLite finds wrong with the file, a sentence each."""
        return [text for (text,) in self._ask("PRAGMA integrity_check") if text != "ok"]

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> "DatabaseReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, question: str, values: Mapping[str, Any] | tuple[()] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(question, values).fetchall()


class Database(DatabaseReader):
    """The one owner and writer of a run's SQLite file.

    Any thread may append. Its own thread writes what has gathered, so the training never waits for a disk.

    Args:
        path: The file; made if it is not there.
        interval_s: Seconds between two writes.

    Attributes:
        error: A sentence while rows cannot be written. They wait in memory and are tried again.
        status_provider: Returns the function that describes the run, or None once the run was garbage-collected. The
            result is kept under `status` in `meta`, for those who watch from another process.

    Raises:
        ValueError: If another version of babysit wrote the file.
        sqlite3.Error: If it cannot be opened.
    """

    def __init__(self, path: Path, interval_s: float = 0.5) -> None:
        with contextlib.closing(sqlite3.connect(path, PATIENCE_S)) as made:
            if not made.execute("SELECT * FROM sqlite_master").fetchone():
                made.executescript(_CREATE)
        super().__init__(path)
        self.error: str | None = None
        self.status_provider: Callable[[], Callable[[], Any] | None] = lambda: None
        self._status: Any = None
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []  # statements and their values
        self._closing = threading.Event()
        self._writer = threading.Thread(
            target=self._write_often, args=(interval_s,), name="babysit-database", daemon=True
        )
        self._writer.start()

    def append(self, row: Event | Steps) -> None:
        """Adds a row, in memory for now.

        Raises:
            TypeError: If a value is not plain.
            ValueError: If a text is none, or the database is closed.
        """
        self._check_open()
        if isinstance(row, Event):
            values = to_row(row)
            # One row that cannot be written would keep all later ones off the disk.
            json.dumps(values, ensure_ascii=False).encode()
        else:
            values = row.to_row()
        self._waiting.append((_INSERT[type(row)], values))

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Writes plain values under their keys, at once where the disk allows it."""
        self._check_open()
        self._waiting += [(_SET_META, (key, json.dumps(value))) for key, value in values.items()]
        self.flush()

    def flush(self) -> str | None:
        """Writes the rows that wait, and the status if it has changed; returns `error` where the disk refuses."""
        with self._lock:
            with contextlib.suppress(Exception):  # it may just be changing: the writer asks again
                describe = None if self.error else self.status_provider()
                if describe is not None and (status := describe()) != self._status:
                    self._waiting.append((_SET_META, ("status", json.dumps(status))))
                    self._status = status
            waiting = self._waiting[:]
            try:
                with self._connection:
                    for statement, values in waiting:
                        self._connection.execute(statement, values)
            except sqlite3.Error as error:
                self.error = f"The run's log cannot be written ({error}). It is kept in memory and tried again."
            else:
                del self._waiting[: len(waiting)]
                self.error = None
            return self.error

    def close(self) -> None:
        """Writes what waits and stops the writer; reading goes on to work."""
        self._closing.set()
        if threading.current_thread() is not self._writer:  # whose garbage collection may close this
            self._writer.join()
        self.flush()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ValueError(f"The run at {self.path.parent} is closed here: it goes on in another Panda.")

    def _write_often(self, interval_s: float) -> None:
        while not self._closing.wait(interval_s):
            self.flush()


def _decoded(row: tuple[Any, ...]) -> Event | Steps:
    return Steps.from_row(row[: len(STEPS_ROW)]) if isinstance(row[7], bytes) else from_row(row)
