import contextlib
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from babysit.core.events import Event, Fit, Note
from babysit.core.position import FitSpec
from babysit.core.runlog import Steps
from babysit.core.scale import Scale
from babysit.store.database import SCHEMA, Database, DatabaseReader
from tests.patience import until

PATIENCE_S = 20


@pytest.fixture
def database(tmp_path):
    """A database whose own thread writes nothing while a test lasts."""
    made = Database(tmp_path / "run.sqlite", interval_s=3600)
    yield made
    made.close()


@pytest.fixture
def locked(database):
    """Another program that holds the file to itself, until `rollback`."""
    database._connection.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def note(seq, text="", **about):
    return Event(**{"seq": seq, "branch": "branch 1", "step": 0, "time": 0.5, "author": "script", **about},
                 payload=Note(text))  # fmt: skip


def steps(seq, first=1, count=2):
    return Steps(seq, "branch 1", first, {"loss": np.arange(count, dtype="f4")}, 1.5)


def numbers(rows):
    return [row.seq for row in rows]


def written(path):
    """The numbers of the rows that another process finds in the file."""
    with DatabaseReader(path) as reader:
        return numbers(reader.rows())


# ------------------------------------------------------------------------- append and read


@pytest.mark.parametrize("place", ["on disk", "in another process"])
def test_rows_come_back_as_they_went_in(database, place):
    scale = Scale(1e-3, 1.0, "log")
    fit = Fit({"µ": 0.1 + 0.2}, {"µ": scale}, {"µ": (None, 5e-324)}, FitSpec("d", None, 2), remarks=("a", "b"))
    events = [note(1, "ein Wört", why="weil", command="c1"), note(3), Event(4, "branch 2", 7, 1.5, "dashboard", fit)]
    columns = {"loss": np.array([0.1, np.nan, np.inf], "f4"), "n": np.array([2**60, 0, -1]), "x": np.array([0.1] * 3)}
    database.append(events[0])
    database.append(Steps(2, "branch 1", 8, columns, 2.5, {"loss": 1}, 96))
    for event in events[1:]:
        database.append(event)
    database.flush()
    reader = DatabaseReader(database.path) if place == "in another process" else database
    found = reader.rows()
    assert [found[0], *found[2:]] == events
    block = found[1]
    assert (block.seq, block.branch, block.first, block.count, block.time) == (2, "branch 1", 8, 3, 2.5)
    assert list(block.columns) == list(columns)
    for name, values in columns.items():
        assert (block.columns[name].dtype, block.columns[name].tobytes()) == (values.dtype, values.tobytes())
    assert numbers(reader.rows(after=2)) == [3, 4]


def test_the_log_survives_reopening_and_goes_on(tmp_path):
    first = Database(tmp_path / "run.sqlite")
    first.append(note(1))
    first.set_meta({"seed": 3})
    first.set_meta({"seed": 4, "architecture": {"shape": [None, 8]}})
    first.close()
    second = Database(tmp_path / "run.sqlite")
    second.append(note(2))
    second.flush()
    assert numbers(second.rows()) == [1, 2]
    assert (second.meta("seed"), second.meta("architecture"), second.meta("other")) == (4, {"shape": [None, 8]}, None)
    second.close()


def test_threads_that_append_at_once_lose_nothing_and_a_reader_at_the_same_time_gets_every_row_once(database):
    def append_many(start):
        for i in range(50):
            database.append(note(start + i))
            database.flush()

    threads = [threading.Thread(target=append_many, args=(start,)) for start in (1, 51)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with DatabaseReader(database.path) as reader:
        found, after = [], 0
        while page := reader.rows(after, most=7):
            assert len(page) <= 7
            found, after = found + numbers(page), page[-1].seq
    assert found == list(range(1, 101))


def test_a_reader_never_skips_a_row_that_is_written_while_it_reads(database):
    seen, after = [], 0
    over = threading.Event()

    def write():
        for seq in range(1, 101):
            database.append(note(seq) if seq % 2 else steps(seq, first=seq))
            database.flush()
            time.sleep(0.005)  # the file is locked for most of the time otherwise
        over.set()

    writer = threading.Thread(target=write)
    with DatabaseReader(database.path) as reader:
        writer.start()
        while not over.is_set() or len(seen) < 100:
            page = numbers(reader.rows(after, most=5))
            seen, after = seen + page, page[-1] if page else after
        writer.join()
    assert seen == list(range(1, 101))


def test_what_gathers_reaches_the_file_unasked(tmp_path):
    database = Database(tmp_path / "run.sqlite", interval_s=0.01)
    database.append(note(1))
    until(lambda: written(database.path) == [1])
    database.close()


def test_a_reader_learns_that_the_file_has_changed(database):
    with DatabaseReader(database.path) as reader:
        before = reader.version
        assert reader.version == before
        database.append(note(1))
        database.flush()
        assert reader.version != before
        assert reader.faults() == []


@pytest.mark.parametrize(
    "row",
    [note(1, step=np.int64(3)), note(1, author=object()), note(1, np.float32(3)), note(1, why="\ud800")],
    ids=["NumPy", "object", "NumPy in the payload", "surrogate"],
)
def test_what_cannot_be_written_is_refused_when_it_is_appended(database, row):
    """One bad row would keep all later ones off the disk."""
    with pytest.raises((TypeError, ValueError)):
        database.append(row)
    database.append(note(2))
    database.flush()
    assert (written(database.path), database.error) == ([2], None)


# ------------------------------------------------------------------------------------ status


def test_the_status_is_written_when_it_changes_and_at_the_end(tmp_path):
    status = {"step": 1}
    database = Database(tmp_path / "run.sqlite", interval_s=0.01)
    database.status_provider = lambda: lambda: dict(status)
    until(lambda: database.meta("status") == {"step": 1})
    changes = database._connection.total_changes
    database.flush()
    assert database._connection.total_changes == changes
    status["step"] = 2
    database.close()
    with DatabaseReader(database.path) as reader:
        assert reader.meta("status") == {"step": 2}


def test_a_status_that_cannot_be_had_stops_no_writing(database):
    database.status_provider = lambda: lambda: {}[0]
    database.flush()
    database.status_provider = lambda: None
    database.flush()
    assert (database.meta("status"), database.error) == (None, None)


# ----------------------------------------------------------------------------------- closing


def test_closing_writes_what_waits_stops_the_thread_and_twice_is_harmless(tmp_path):
    before, began = threading.active_count(), time.monotonic()
    database = Database(tmp_path / "run.sqlite", interval_s=3600)
    database.append(note(1))
    database.close()
    database.close()
    assert (threading.active_count(), time.monotonic() - began < PATIENCE_S) == (before, True)
    assert written(database.path) == numbers(database.rows()) == [1]
    for late in (lambda: database.append(note(2)), lambda: database.set_meta({"seed": 4})):
        with pytest.raises(ValueError, match="is closed here: it goes on in another Panda"):
            late()


def test_its_own_thread_may_close_it(tmp_path):
    """As garbage collection there does."""
    database = Database(tmp_path / "run.sqlite", interval_s=0.01)
    database.append(note(1))
    database.status_provider = lambda: database.close
    database._writer.join(PATIENCE_S)
    assert not database._writer.is_alive()
    assert written(database.path) == [1]


# ------------------------------------------------------------------------- a file that is none


@pytest.mark.parametrize("opened", [Database, DatabaseReader])
def test_another_schema_is_refused_in_a_sentence_and_left_alone(tmp_path, opened):
    path = tmp_path / "run.sqlite"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute(f"UPDATE meta SET value = '{SCHEMA + 1}'")
    before, threads = path.read_bytes(), threading.active_count()
    with pytest.raises(ValueError, match="another version of babysit.*Begin a new run"):
        opened(path)
    assert (path.read_bytes(), threading.active_count()) == (before, threads)


def test_what_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"a diary, kept by hand " * 100)
    for opened in (Database, DatabaseReader):
        with pytest.raises(sqlite3.DatabaseError):
            opened(path)
        with pytest.raises(sqlite3.OperationalError):
            opened(tmp_path / "nowhere" / "run.sqlite")
    assert path.read_bytes() == b"a diary, kept by hand " * 100


# ------------------------------------------------------------------------------- a bad disk


def test_a_failed_write_loses_nothing_and_says_so_until_one_succeeds(database, locked):
    database.append(note(1))
    assert database.flush() == database.error
    assert "cannot be written (database is locked)" in database.error
    database.append(steps(2))
    database.set_meta({"seed": 3})
    assert written(database.path) == []
    locked.rollback()
    database.flush()
    assert (database.error, written(database.path)) == (None, [1, 2])
    with DatabaseReader(database.path) as reader:
        assert reader.meta("seed") == 3


def test_its_own_thread_tries_again_until_the_disk_takes_it(tmp_path):
    database = Database(tmp_path / "run.sqlite", interval_s=0.01)
    database._connection.execute("PRAGMA busy_timeout = 20")
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        database.append(note(1))
        until(lambda: database.error is not None)
    until(lambda: database.error is None)
    assert written(database.path) == [1]
    database.close()


def test_closing_on_a_disk_that_balks_ends_and_says_so(database, locked):
    database.append(note(1))
    database.close()
    assert "locked" in database.error


def test_a_half_written_batch_is_taken_back_whole(database):
    database._connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON steps BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    for row in (note(1), steps(2), note(3)):
        database.append(row)
    database.flush()
    assert "full" in database.error
    assert written(database.path) == []
    database._connection.execute("DROP TRIGGER full")
    database.flush()
    assert (database.error, written(database.path)) == (None, [1, 2, 3])


def test_append_does_not_wait_for_a_slow_disk(database):
    held, release = threading.Event(), threading.Event()

    def slow(why):
        held.set()
        release.wait(PATIENCE_S)
        return why

    database._connection.create_function("slow", 1, slow)
    database._connection.execute("CREATE TEMP TRIGGER slowly AFTER INSERT ON events BEGIN SELECT slow(NEW.why); END")
    database.append(note(1))
    writer = threading.Thread(target=database.flush)
    writer.start()
    try:
        assert held.wait(PATIENCE_S)
        for seq in range(2, 100):
            database.append(note(seq))
        assert writer.is_alive()
    finally:
        release.set()
        writer.join()
    database.flush()
    assert numbers(database.rows()) == list(range(1, 100))


CUT_OFF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that changed pages go to the file before the end of the transaction
database.execute("BEGIN")
for seq in range(2, 2000):
    database.execute("INSERT INTO events SELECT ?, branch, step, time, kind, author, why, command, data FROM events "
                     "WHERE seq = 1", (seq,))
os._exit(0)
"""


@pytest.mark.parametrize("opened", [Database, DatabaseReader])
def test_a_write_that_was_cut_off_is_undone_by_whoever_opens_the_file(tmp_path, opened):
    database = Database(tmp_path / "run.sqlite")
    database.append(note(1))
    database.close()
    database._connection.close()
    subprocess.run([sys.executable, "-c", CUT_OFF, database.path], check=True)
    assert (tmp_path / "run.sqlite-journal").exists()
    again = opened(database.path)
    assert (numbers(again.rows()), again.faults()) == ([1], [])
    again.close()
