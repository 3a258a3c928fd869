"""The record of a run: one SQLite file, one owner, appended to and never rewritten.

Everything a run tells of itself is a row here: what was done (`entries`), what was
measured (`blocks`, one row for all the steps of a block, and `epochs`), the branches,
the index of checkpoints, and now and then the vital signs. All rows share one sequence of numbers, so that "what is new
since n" is a question with one answer. Rows wait in memory until the record's own thread
writes them, a batch at a time: the training never waits for a disk.
"""

import contextlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RECORD, SCHEMA = "run.sqlite", 2
# How long a write, and a read, waits while another program locks the file: rows to be written can wait in memory.
WRITE_MS, READ_MS = 100, 5000

TABLES: dict[str, tuple[str, ...]] = {
    "entries": ("command", "step", "time", "author", "action", "changes", "over", "why", "branch"),
    "blocks": ("branch", "epoch", "first", "steps", "time", "names", "dtype", "columns"),
    "epochs": ("branch", "epoch", "step", "logs", "after"),
    "branches": ("name", "parent", "step", "mark", "hyperparameters", "turn"),
    "checkpoints": ("step", "name", "folder", "branch", "digest", "time", "mark", "anchor"),
    "vitals": ("branch", "step", "time", "signs"),
}
# Columns that hold a mapping or a list: written as JSON.
_JSON = {"after", "changes", "names", "logs", "hyperparameters", "turn", "signs"}


class Record:
    """The one owner and writer of a run's SQLite file.

    Any thread may append and read; a read sees everything appended before it. Close it
    when the run is over; closing twice is harmless.

    Args:
        path: The file; made if it is not there.
        interval_s: Seconds between two writes of what has gathered.

    Raises:
        ValueError: If the file was written by a newer version of babysit.
        sqlite3.OperationalError: If the file cannot be opened.
    """

    def __init__(self, path: Path, interval_s: float = 0.5) -> None:
        self.path = path
        self.error: str | None = None
        self._lock = threading.RLock()  # for the database
        self._gathering = threading.Lock()  # for what waits: held for no longer than an append
        self._pending: list[tuple[str, tuple[Any, ...]]] = []
        self._unwritten: dict[str, str] = {}  # of `meta`, what could not be written yet
        # Gives what says how the run stands, or None once nobody does; the record keeps nobody alive.
        self.teller: Callable[[], Callable[[], Any] | None] = lambda: None
        self._status: Any = None
        self._laid_open = 0  # of the rows that could not be written, how many lie where reads find them
        self._database = sqlite3.connect(path, READ_MS / 1000, check_same_thread=False)
        try:
            self._create()
        except BaseException:
            self._database.close()
            raise
        self._sequence = itertools.count(self.last + 1)
        self._closing = threading.Event()
        self._writer = threading.Thread(
            target=self._write_often, args=(interval_s,), name="babysit-record", daemon=True
        )
        self._writer.start()

    def _create(self) -> None:
        # A rollback journal rather than a write-ahead log: that one fails on network file systems.
        known = self._database.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
        if known and (schema := self.meta("schema")) > SCHEMA:
            raise ValueError(
                f"The run at {self.path.parent} was written by a newer babysit: schema {schema}, this version reads "
                f"up to {SCHEMA}. Update babysit to open it."
            )
        with self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
            self._database.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (json.dumps(SCHEMA),))
            for table, columns in TABLES.items():
                declared = ", ".join(("seq INTEGER PRIMARY KEY", *columns))
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({declared})")
                self._add_columns(table, columns)
            self._database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (json.dumps(SCHEMA),))
            self._database.execute("CREATE INDEX IF NOT EXISTS blocks_of_a_branch ON blocks (branch, first)")
        self._database.execute("PRAGMA temp_store = MEMORY")
        for table, columns in TABLES.items():
            self._database.execute(
                f"CREATE TEMP TABLE {_waiting(table)} (seq INTEGER PRIMARY KEY, {', '.join(columns)})"
            )

    def _add_columns(self, table: str, columns: Iterable[str]) -> None:
        """Adds those that an older version of babysit did not know; empty in its rows."""
        present = [row[1] for row in self._database.execute(f"PRAGMA table_info({table})")]
        for column in columns:
            if column not in present:
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")

    @property
    def last(self) -> int:
        """The highest sequence number that a read finds; 0 when there is none."""
        with self._lock:
            places = [*TABLES, *(map(_waiting, TABLES) if self._laid_open else ())]
            newest = " UNION ALL ".join(f"SELECT max(seq) AS seq FROM {place}" for place in places)
            return int(self._database.execute(f"SELECT coalesce(max(seq), 0) FROM ({newest})").fetchone()[0])

    def append(self, table: str, **row: Any) -> int:
        """Adds a row, in memory for now; returns its sequence number."""
        values = tuple(json.dumps(row[name]) if name in _JSON else row[name] for name in TABLES[table])
        for value in values:  # a NumPy number would be written as bytes, anything else stop all writing
            if isinstance(value, str):
                value.encode()  # a lone surrogate is no text, and would stop it too
            if not isinstance(value, str | bytes | int | float | None):
                raise TypeError(f"A row holds plain values only. Received: {value!r} in {table}.")
        with self._gathering:
            self._check_open()
            seq = next(self._sequence)
            self._pending.append((table, (seq, *values)))
        return seq

    def flush(self) -> None:
        """Writes what has gathered; returns when it is on disk.

        If it cannot be written nothing is lost: the rows wait in memory and are tried again,
        and `error` says so until it has worked.
        """
        with self._lock:
            with self._gathering:
                pending = self._pending[:]
            if not (pending or self._unwritten):  # as for most of those who read
                return
            try:
                self._database.execute(f"PRAGMA busy_timeout = {WRITE_MS}")
                with self._database:
                    self._insert(pending)
                    self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._unwritten.items())
                    self._clear_waiting()
            except sqlite3.Error as error:
                self.error = f"The run's record cannot be written ({error}). It is kept in memory and tried again."
                with contextlib.suppress(sqlite3.Error):  # closed already
                    self._lay_open(pending)
                return
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute(f"PRAGMA busy_timeout = {READ_MS}")
            self._laid_open = 0
            with self._gathering:
                del self._pending[: len(pending)]
            self._unwritten = {}
            self.error = None

    def _insert(self, pending: list[tuple[str, tuple[Any, ...]]], place: Callable[[str], str] = str) -> None:
        for table in {table for table, _ in pending}:
            marks = ", ".join("?" * (1 + len(TABLES[table])))
            insert = f"INSERT INTO {place(table)} ({_columns(table)}) VALUES ({marks})"
            self._database.executemany(insert, [row for name, row in pending if name == table])

    def _lay_open(self, pending: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Lets reads find what could not be written: in tables of this connection alone."""
        with self._database:
            self._insert(pending[self._laid_open :], _waiting)
        self._laid_open = len(pending)

    def _clear_waiting(self) -> None:
        if self._laid_open:
            for table in TABLES:
                self._database.execute(f"DELETE FROM {_waiting(table)}")

    def rows(self, table: str, where: str = "", values: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a table, oldest first, as dicts with `seq`; those that satisfy `where`."""
        with self._lock:
            self.flush()
            return self._found(table, where, values)

    def _found(self, table: str, where: str, values: Iterable[Any]) -> list[dict[str, Any]]:
        columns, both = _columns(table), ""
        if self._laid_open:  # under the table's name, so that `where` means both too
            both = f"SELECT {columns} FROM main.{table} UNION ALL SELECT {columns} FROM {_waiting(table)}"
            both = f"WITH {table} AS ({both})"
        query = f"{both} SELECT {columns} FROM {table} {'WHERE ' + where if where else ''} ORDER BY seq"
        cursor = self._database.execute(query, tuple(values))
        found = [dict(zip(("seq", *TABLES[table]), row, strict=True)) for row in cursor]
        for row in found:
            row.update({name: json.loads(row[name] or "null") for name in _JSON & row.keys()})
        return found

    def since(self, cursor: int, most: int = 1000) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """Rows behind a sequence number, by table, and the number up to which they go.

        At most `most` sequence numbers are covered in one call, so that a reader who
        starts late reads a long run in pieces.
        """
        with self._lock:
            self.flush()  # once for all tables: each time is a wait for the disk
            end = min(self.last, cursor + most)
            return {table: self._found(table, "seq > ? AND seq <= ?", (cursor, end)) for table in TABLES}, end

    def meta(self, key: str) -> Any:
        """What was kept under a key, or None."""
        with self._lock:
            found = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            value = self._unwritten.get(key, found[0] if found else "null")
        return json.loads(value)

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Keeps values, such as the model's architecture, under their keys, at once; `flush` tells where it cannot."""
        with self._lock:
            self._check_open()
            self._unwritten |= {key: json.dumps(value) for key, value in values.items()}
            self.flush()

    def tell(self) -> None:
        """Keeps how the run stands, if it has changed, for those who watch from another process."""
        with contextlib.suppress(Exception):  # it may just be changing: the writer asks again
            if (ask := self.teller()) is not None and (status := ask()) != self._status:
                self.set_meta({"status": status})
                self._status = status

    def close(self) -> None:
        """Writes what is left and stops the writer; reading goes on to work."""
        self.tell()  # for the last time: whoever takes the run up now tells how it stands
        self._closing.set()
        if threading.current_thread() is not self._writer:  # which may be collecting the garbage that closes us
            self._writer.join()
        self.flush()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ValueError(f"The run at {self.path.parent} is closed here: it goes on in another Panda.")

    def _write_often(self, interval_s: float) -> None:
        while not self._closing.wait(interval_s):
            self.tell()
            self.flush()


def _waiting(table: str) -> str:
    return f"temp.waiting_{table}"


def _columns(table: str) -> str:
    """By name, for a file of an older version has them in another order."""
    return ", ".join(f'"{name}"' for name in ("seq", *TABLES[table]))
