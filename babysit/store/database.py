"""The log of a run on disk: one SQLite file with one owner, appended to and never rewritten.

Events and steps share one sequence of numbers, so "what is new after number n" is one question. The journal mode is
the rollback journal: a write-ahead log fails on network file systems.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from babysit.core.events import ROW, Event, from_row, to_row
from babysit.core.runlog import Steps

RECORD, SCHEMA = "run.sqlite", 3
PATIENCE_S = 5.0  # for another program that locks the file
_STEPS = ("seq", "branch", "first", "count", "time", "names", "dtype", "columns")
_TABLES = {"events": ROW, "steps": _STEPS}
# One statement reads both tables, so that no row is written between the two: shorter rows end with NULL.
_ROWS = (
    f"SELECT {', '.join(ROW)} FROM events WHERE seq > :after UNION ALL "
    f"SELECT {', '.join(_STEPS)}, NULL FROM steps WHERE seq > :after ORDER BY seq LIMIT :most"
)


class Database:
    """The one owner and writer of a run's SQLite file.

    Any thread may append and read. Its own thread writes what has gathered, so the training never waits for a disk.

    Args:
        path: The file; made if it is not there.
        interval_s: Seconds between two writes.

    Attributes:
        error: A sentence while rows cannot be written. They wait in memory and are tried again.
        status_provider: Returns the function that describes the run, or None once the run was garbage-collected. The
            result is kept under `status` in `meta`.

    Raises:
        ValueError: If another version of babysit wrote the file.
        sqlite3.Error: If it cannot be opened.
    """

    def __init__(self, path: Path, interval_s: float = 0.5) -> None:
        self.path = path
        self.error: str | None = None
        self.status_provider: Callable[[], Callable[[], Any] | None] = lambda: None
        self._status: Any = None
        self._process = os.getpid()
        self._lock = threading.RLock()  # for the connection
        self._gathering = threading.Lock()  # for the rows that wait: held for no longer than an append
        self._waiting: list[tuple[Any, ...]] = []
        self._waiting_meta: dict[str, str] = {}
        self._connection = _opened(path.absolute().as_uri())
        try:
            self._create()
        except BaseException:
            self._connection.close()
            raise
        self._closing = threading.Event()
        self._writer = threading.Thread(
            target=self._write_often, args=(interval_s,), name="babysit-database", daemon=True
        )
        self._writer.start()

    def _create(self) -> None:
        if _tables_of(self._connection):
            _check_schema(self._connection, self.path)
            return
        tables = (f"CREATE TABLE {name} ({_declared(columns)})" for name, columns in _TABLES.items())
        meta = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)", f"INSERT INTO meta VALUES ('schema', '{SCHEMA}')"
        self._connection.executescript(";".join(("BEGIN", *tables, *meta, "COMMIT")))

    # ------------------------------------------------------------------------------ writing

    def append(self, row: Event | Steps) -> None:
        """Adds a row, in memory for now.

        Raises:
            TypeError: If a value is not plain.
            ValueError: If a text is none, or the database is closed.
        """
        encoded = _encoded(row)  # one row that cannot be written would keep all later ones off the disk
        with self._gathering:
            self._check_open()
            self._waiting.append(encoded)

    def flush(self) -> None:
        """Writes the rows that wait; they are on disk when it returns, or `error` is set."""
        with self._lock:
            with self._gathering:
                waiting = self._waiting[:]
            if not (waiting or self._waiting_meta):
                return
            try:
                self._write(waiting)
            except sqlite3.Error as error:
                self.error = f"The run's log cannot be written ({error}). It is kept in memory and tried again."
                return
            with self._gathering:
                del self._waiting[: len(waiting)]
            self._waiting_meta = {}
            self.error = None

    def flush_or_raise(self) -> None:
        """Writes the rows that wait.

        Raises:
            OSError: If they cannot be written.
        """
        self.flush()
        if self.error:
            raise OSError(self.error)

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        with self._connection:
            for table, columns in _TABLES.items():
                marks = ", ".join("?" * len(columns))
                there = [row for row in rows if len(row) == len(columns)]
                self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", there)
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._waiting_meta.items())

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Writes plain values under their keys, at once where the disk allows it."""
        with self._lock:
            self._check_open()
            self._waiting_meta |= {key: json.dumps(value) for key, value in values.items()}
            self.flush()

    def write_status(self) -> None:
        """Writes the status of the run, if it has changed, for those who watch from another process."""
        with contextlib.suppress(Exception):  # it may just be changing: the writer asks again
            if (describe := self.status_provider()) is not None and (status := describe()) != self._status:
                self.set_meta({"status": status})
                self._status = status

    def close(self) -> None:
        """Writes what waits and stops the writer; reading goes on to work."""
        if os.getpid() != self._process:  # a forked child must leave its parent's file alone
            return
        self.write_status()
        self._closing.set()
        if threading.current_thread() is not self._writer:  # whose garbage collection may close this
            self._writer.join()
        self.flush()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ValueError(f"The run at {self.path.parent} is closed here: it goes on in another Panda.")

    def _write_often(self, interval_s: float) -> None:
        while not self._closing.wait(interval_s):
            self.write_status()
            self.flush()

    # ------------------------------------------------------------------------------ reading

    def rows(self, after: int = 0) -> list[Event | Steps]:
        """The rows after a number, on disk or waiting, in their order."""
        with self._lock:
            found = self._connection.execute(_ROWS, {"after": after, "most": -1}).fetchall()
            with self._gathering:
                found += [row for row in self._waiting if row[0] > after]
        return [_decoded(row) for row in found]

    def meta(self, key: str) -> Any:
        """The value under a key, or None."""
        with self._lock:
            if key in self._waiting_meta:
                return json.loads(self._waiting_meta[key])
            return _meta(self._connection.execute, key)


class DatabaseReader:
    """The log of a run that may belong to another process: read from any thread, never written. A context closes it.

    Each question is answered at once, so the writer of the file need not wait.

    Args:
        path: The file.

    Raises:
        ValueError: If another version of babysit wrote the file.
        sqlite3.Error: If it is no such file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = _opened(f"{path.absolute().as_uri()}?mode=ro")
        try:
            self._ask(_check_schema, path)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int | None:
        """A number that changes when the file was written; None while a killed process's write waits to be undone."""
        with self._lock, contextlib.suppress(sqlite3.OperationalError):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        return None

    def rows(self, after: int = 0, most: int = 1000) -> list[Event | Steps]:
        """The rows after a number, in their order, of which at most so many."""
        return [_decoded(row) for row in self._ask(_fetched, _ROWS, {"after": after, "most": most})]

    def meta(self, key: str) -> Any:
        """The value under a key, or None."""
        return self._ask(lambda connection: _meta(connection.execute, key))

    def faults(self) -> Iterator[str]:
        """What SQLite finds wrong with the file, a sentence each."""
        yield from (text for (text,) in self._ask(_fetched, "PRAGMA integrity_check") if text != "ok")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> "DatabaseReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        with self._lock:
            try:
                return question(self._connection, *about)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                    raise
            # Its writer was killed while it wrote: SQLite may undo that in a copy.
            with tempfile.TemporaryDirectory() as folder:
                for file in self._path.parent.glob(f"{self._path.name}*"):
                    shutil.copy(file, folder)
                with contextlib.closing(sqlite3.connect(Path(folder) / self._path.name)) as copy:
                    return question(copy, *about)


# ---------------------------------------------------------------------------------- rows


def _encoded(row: Event | Steps) -> tuple[Any, ...]:
    if isinstance(row, Event):
        values = to_row(row)
    else:
        columns = row.columns.values()
        names, types = json.dumps(list(row.columns)), json.dumps([column.dtype.str for column in columns])
        data = b"".join(column.tobytes() for column in columns)
        values = (row.seq, row.branch, row.first, row.count, row.time, names, types, data)
    for value in values:  # a NumPy number would be written as bytes
        if isinstance(value, str):
            value.encode()  # a lone surrogate is no text
        elif not isinstance(value, bytes | int | float | None):
            raise TypeError(f"A row of the log holds plain values only. Received: {value!r} in {row!r:.200}.")
    return values


def _decoded(row: Iterable[Any]) -> Event | Steps:
    values = tuple(row)
    try:
        return _steps(*values[: len(_STEPS)]) if isinstance(values[7], bytes) else from_row(values)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"Row {values[0]} of the run's log cannot be read ({error!r}).") from error


def _steps(seq: int, branch: str, first: int, count: int, time: float, names: str, types: str, data: bytes) -> Steps:
    columns, start = {}, 0
    for name, dtype in zip(json.loads(names), map(np.dtype, json.loads(types)), strict=True):
        columns[name] = np.frombuffer(data, dtype, count, start)
        start += columns[name].nbytes
    return Steps(seq, branch, first, columns, time)


def _declared(columns: Iterable[str]) -> str:
    return ", ".join(f"{name} INTEGER PRIMARY KEY" if name == "seq" else name for name in columns)


def _opened(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, PATIENCE_S, check_same_thread=False, uri=True)


def _fetched(connection: sqlite3.Connection, question: str, values: Mapping[str, Any] | tuple[()] = ()) -> list[Any]:
    return connection.execute(question, values).fetchall()


def _meta(execute: Callable[..., sqlite3.Cursor], key: str) -> Any:
    found = execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return json.loads(found[0]) if found else None


def _tables_of(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    schema = _meta(connection.execute, "schema") if "meta" in _tables_of(connection) else None
    if schema != SCHEMA:
        raise ValueError(
            f"The run at {path.parent} was written by another version of babysit: its log has schema {schema}, and "
            f"this version reads {SCHEMA}. Begin a new run in another folder."
        )
