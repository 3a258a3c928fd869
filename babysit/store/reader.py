"""A run's record, read only: for those who look at a run that is not theirs.

Nothing is created or changed in the run's folder, not even a file beside it.
"""

import json
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from babysit.store.record import _JSON as JSON
from babysit.store.record import SCHEMA, TABLES


class Reader:
    """The record in a file, for reading alone, from any thread; a context, which closes it.

    Each question is answered at once, so that whoever writes the file need not wait.

    Args:
        path: The file.

    Raises:
        ValueError: If a newer version of babysit has written it.
        sqlite3.Error: If it is no such file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._copy: _Copy | None = None
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        try:
            schema = self.meta("schema")
        except BaseException:
            self.close()
            raise
        if schema is None or schema > SCHEMA:
            self.close()
            raise ValueError(f"it has schema {schema}, and this version of babysit reads up to {SCHEMA}")

    @property
    def version(self) -> int | None:
        """A number that is another one whenever somebody has written; looking it up reads no table."""
        with self._lock:
            try:
                return int(self._database.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.OperationalError as error:
                if not _cut_off(error):
                    raise
                return None

    def rows(self, table: str, where: str = "", values: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a table, oldest first, as dicts with `seq`; those that satisfy `where`."""
        if table not in self._tables():
            return []  # an older version of babysit did not know it
        names, found = self._ask(f"SELECT * FROM {table} {'WHERE ' + where if where else ''} ORDER BY seq", values)
        return [{name: _plain(name, value) for name, value in zip(names, row, strict=True)} for row in found]

    def since(self, cursor: int, most: int = 1000) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """Rows behind a sequence number, by table, and the number up to which they go; as the record itself has it."""
        newest = " UNION ALL ".join(f"SELECT max(seq) AS seq FROM {table}" for table in self._tables())
        [(last,)] = self._ask(f"SELECT coalesce(max(seq), 0) FROM ({newest})")[1]
        end = min(last, cursor + most)
        return {table: self.rows(table, "seq > ? AND seq <= ?", (cursor, end)) for table in TABLES}, end

    def _tables(self) -> list[str]:
        present = {name for (name,) in self._ask("SELECT name FROM sqlite_master WHERE type = 'table'")[1]}
        return [table for table in TABLES if table in present]

    def meta(self, key: str) -> Any:
        """What was kept under a key, or None."""
        found = self._ask("SELECT value FROM meta WHERE key = ?", (key,))[1]
        return json.loads(found[0][0]) if found else None

    def faults(self) -> Iterator[str]:
        """What SQLite finds wrong with the file, a sentence each."""
        for (told,) in self._ask("PRAGMA integrity_check")[1]:
            if told != "ok":
                yield str(told)

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()
        self._forget_copy()

    def _ask(self, question: str, values: Iterable[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of the columns, and all rows."""
        with self._lock:
            try:
                answer = _answer(self._database, question, tuple(values))
            except sqlite3.OperationalError as error:
                if not _cut_off(error):
                    raise
                self._copy = self._copy or _Copy(self.path)
                return _answer(self._copy.database, question, tuple(values))
            self._forget_copy()
            return answer

    def _forget_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Copy:
    """A copy of a record whose writer was killed while it wrote: there SQLite may take back what is half written."""

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, self._folder.name)
        self.database = sqlite3.connect(Path(self._folder.name) / path.name, check_same_thread=False)

    def close(self) -> None:
        self.database.close()
        self._folder.cleanup()


def _answer(
    database: sqlite3.Connection, question: str, values: tuple[Any, ...]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = database.execute(question, values)
    return [column[0] for column in cursor.description], cursor.fetchall()


def _cut_off(error: sqlite3.OperationalError) -> bool:
    """Whether the file waits for somebody who may write to take back what a killed process has half written."""
    return error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK


def _plain(name: str, value: Any) -> Any:
    return json.loads(value) if name in JSON and value is not None else value
