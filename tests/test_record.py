import contextlib
import sqlite3
import threading
import time

import numpy as np
import pytest

from babysit.store.record import SCHEMA, TABLES, Record
from tests.patience import until

PATIENCE_S = 20


@pytest.fixture
def unhurried(tmp_path):
    """A record whose own thread writes nothing while a test lasts."""
    record = Record(tmp_path / "unhurried.sqlite", interval_s=3600)
    yield record
    record.close()


def note(record, why="", step=0, changes=None):
    about = {"command": None, "time": 0.0, "author": "script", "action": "note", "branch": "branch 1", "over": 1}
    return record.append("entries", step=step, changes=changes or {}, why=why, **about)


def epoch(record, number):
    return record.append("epochs", branch="branch 1", epoch=number, step=number, logs={"loss": 0.5}, after={})


def whys(record):
    return [row["why"] for row in record.rows("entries")]


def read_to_the_end(record, most, cursor=0):
    """All pages behind a cursor; fails where one does not move on."""
    pages = []
    while True:
        tables, end = record.since(cursor, most)
        if end == cursor:
            return pages
        assert cursor < end <= cursor + most
        pages.append([row["seq"] for rows in tables.values() for row in rows])
        cursor = end


def written(path):
    """What another program finds in the file: the notes' texts."""
    reader = sqlite3.connect(path)
    try:
        return [why for (why,) in reader.execute("SELECT why FROM entries ORDER BY seq")]
    finally:
        reader.close()


# ------------------------------------------------------------------ append and read


def test_a_read_sees_everything_appended_before_it(unhurried):
    for i in range(5):
        note(unhurried, str(i))
        assert whys(unhurried) == [str(j) for j in range(i + 1)]


def test_a_read_sees_what_another_thread_appended(unhurried):
    thread = threading.Thread(target=note, args=(unhurried, "from afar"))
    thread.start()
    thread.join()
    assert whys(unhurried) == ["from afar"]


def test_rows_come_back_as_they_went_in(record):
    column = np.array([0.1, np.nan, np.inf]).tobytes()
    row = {"branch": "b", "epoch": 1, "first": 1, "steps": 3, "time": 1.5}
    row |= {"names": ["loss", "Genauigkeit µ"], "dtype": "float64", "columns": column}
    seq = record.append("blocks", **row)
    assert record.rows("blocks") == [{"seq": seq, **row}]


def test_mappings_and_lists_come_back_as_themselves(record):
    changes = {"learning_rate": [None, 3e-3], "momentum": [0.9, 0.99]}
    note(record, changes=changes)
    assert record.rows("entries")[0]["changes"] == changes


def test_floats_keep_every_bit(record):
    record.append("epochs", branch="b", epoch=1, step=1, logs={"loss": 0.1 + 0.2, "nan": np.nan}, after={})
    logs = record.rows("epochs")[0]["logs"]
    assert logs["loss"] == 0.1 + 0.2
    assert np.isnan(logs["nan"])


def test_a_condition_picks_rows(record):
    for step in range(10):
        note(record, str(step), step)
    found = record.rows("entries", "step >= ? AND step < ?", (3, 6))
    assert [row["step"] for row in found] == [3, 4, 5]


def test_all_tables_share_one_sequence(record):
    numbers = [note(record), epoch(record, 1), note(record), epoch(record, 2)]
    assert numbers == [1, 2, 3, 4]
    assert record.last in range(5)
    record.flush()
    assert record.last == 4


def test_threads_that_append_at_once_lose_and_double_nothing(record):
    numbers = []

    def append_many(author):
        numbers.extend(note(record, f"{author}-{i}") for i in range(200))

    threads = [threading.Thread(target=append_many, args=(author,)) for author in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 801))
    found = whys(record)
    assert len(found) == len(set(found)) == 800
    for author in range(4):
        own = [why for why in found if why.startswith(f"{author}-")]
        assert own == [f"{author}-{i}" for i in range(200)]


def test_what_gathers_reaches_the_file_unasked(tmp_path):
    record = Record(tmp_path / "run.sqlite", interval_s=0.01)
    note(record, "kept")
    until(lambda: written(record.path) == ["kept"])
    record.close()


def test_flush_returns_when_it_is_in_the_file(unhurried):
    note(unhurried, "kept")
    unhurried.flush()
    assert written(unhurried.path) == ["kept"]


# -------------------------------------------------------------------- what is new since


@pytest.mark.parametrize("most", [1, 2, 7, 24, 25, 26, 1000])
def test_since_reads_everything_in_pieces_once(record, most):
    numbers = [note(record) if i % 3 else epoch(record, i) for i in range(25)]
    pages = read_to_the_end(record, most)
    assert all(len(page) <= most for page in pages)
    assert [seq for page in pages for seq in sorted(page)] == numbers


def test_since_names_every_table(record):
    tables, end = record.since(0)
    assert tables == {table: [] for table in TABLES}
    assert end == 0


def test_since_goes_on_where_it_stopped(unhurried):
    note(unhurried, "old")
    _, cursor = unhurried.since(0)
    note(unhurried, "new")
    tables, later = unhurried.since(cursor)
    assert [row["why"] for row in tables["entries"]] == ["new"]
    assert later == cursor + 1
    assert unhurried.since(later)[1] == later


def test_a_reader_beside_a_writer_gets_every_row_once(record):
    seen, finished = [], threading.Event()

    def append_many():
        for _ in range(500):
            note(record)
        finished.set()

    thread = threading.Thread(target=append_many)
    thread.start()
    cursor, end = 0, time.monotonic() + PATIENCE_S
    while len(seen) < 500 and time.monotonic() < end:
        tables, cursor = record.since(cursor, most=64)
        seen += [row["seq"] for row in tables["entries"]]
    thread.join()
    assert finished.is_set()
    assert seen == list(range(1, 501))


# ----------------------------------------------------------------- closing and reopening


def test_the_record_survives_reopening_and_the_sequence_goes_on(tmp_path):
    first = Record(tmp_path / "run.sqlite")
    numbers = [note(first, "one"), epoch(first, 1)]
    first.close()
    second = Record(tmp_path / "run.sqlite")
    numbers.append(note(second, "two"))
    assert numbers == [1, 2, 3]
    assert whys(second) == ["one", "two"]
    second.close()


def test_closing_writes_what_is_left(tmp_path):
    record = Record(tmp_path / "run.sqlite", interval_s=3600)
    note(record, "last words")
    record.close()
    assert written(record.path) == ["last words"]


def test_closing_stops_the_writer_at_once(tmp_path):
    before = threading.active_count()
    record = Record(tmp_path / "run.sqlite", interval_s=3600)
    began = time.monotonic()
    record.close()
    assert time.monotonic() - began < PATIENCE_S
    assert threading.active_count() == before


def test_closing_twice_is_harmless(record):
    note(record)
    record.close()
    record.close()
    assert len(record.rows("entries")) == 1


def test_reading_goes_on_after_closing(record):
    note(record, "still there")
    record.close()
    assert whys(record) == ["still there"]
    assert record.since(0)[1] == 1


def test_appending_after_closing_is_an_error_of_the_caller(record):
    record.close()
    with pytest.raises(ValueError, match="closed"):
        note(record)


def test_what_is_kept_under_a_key_is_the_next_one_s_alone_once_the_record_is_closed(tmp_path):
    first = Record(tmp_path / "run.sqlite")
    first.teller = lambda: lambda: "the first one's"
    first.close()
    second = Record(tmp_path / "run.sqlite")
    assert second.meta("status") == "the first one's"
    second.set_meta({"seed": 3, "status": "the second one's"})
    with pytest.raises(ValueError, match="closed"):
        first.set_meta({"seed": 4})
    first.teller = lambda: lambda: "the first one's again"
    first.tell()
    first.close()
    assert (second.meta("seed"), second.meta("status")) == (3, "the second one's")
    second.close()


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "run.sqlite"
    record = Record(path)
    note(record, "from the future")
    record.set_meta({"schema": SCHEMA + 1})
    record.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}.*Update"):
        Record(path)
    assert path.read_bytes() == before


def test_a_refused_file_is_left_without_a_thread_or_a_lock_on_it(tmp_path):
    record = Record(tmp_path / "run.sqlite")
    record.set_meta({"schema": SCHEMA + 1})
    record.close()
    before = threading.active_count()
    with pytest.raises(ValueError):
        Record(tmp_path / "run.sqlite")
    assert threading.active_count() == before
    writer = sqlite3.connect(record.path, timeout=0)
    writer.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA),))
    writer.commit()
    writer.close()
    Record(record.path).close()


def test_a_file_that_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(sqlite3.OperationalError):
        Record(tmp_path / "nowhere" / "run.sqlite")


def test_a_file_that_is_no_record_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"a diary, kept by hand " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Record(path)
    assert path.read_bytes() == b"a diary, kept by hand " * 100


# ------------------------------------------------------------------------ what is kept


def test_meta_keeps_plain_values_under_their_keys_at_once(record):
    record.set_meta({"seed": 3, "spec": {"shape": [None, 8]}, "none": None})
    assert record.meta("seed") == 3
    assert record.meta("spec") == {"shape": [None, 8]}
    assert record.meta("none") is None
    assert record.meta("never kept") is None
    reader = sqlite3.connect(record.path)
    assert reader.execute("SELECT value FROM meta WHERE key = 'seed'").fetchone() == ("3",)
    reader.close()


def test_meta_takes_a_new_value_and_survives_reopening(tmp_path):
    record = Record(tmp_path / "run.sqlite")
    record.set_meta({"seed": 3})
    record.set_meta({"seed": 4})
    record.close()
    record = Record(tmp_path / "run.sqlite")
    assert record.meta("seed") == 4
    record.close()


# -------------------------------------------------------------------- a disk that balks


@pytest.fixture
def locked(record):
    """Another program holds the record's file to itself until `rollback`."""
    note(record, "before")
    record.flush()
    other = sqlite3.connect(record.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


def test_a_failed_write_loses_nothing_and_says_so_until_one_succeeds(record, locked):
    note(record, "meanwhile")
    record.flush()
    assert "cannot be written" in record.error
    assert "locked" in record.error
    note(record, "still")
    locked.rollback()
    assert whys(record) == ["before", "meanwhile", "still"]
    assert record.error is None
    assert written(record.path) == ["before", "meanwhile", "still"]


def test_what_cannot_be_written_yet_is_read_all_the_same(record, locked):
    locked.rollback()
    locked.execute("BEGIN IMMEDIATE")  # others may read
    for why in ("one", "two"):
        note(record, why)
        assert whys(record)[-1] == why
        newest = record.rows("entries", "seq = (SELECT max(seq) FROM entries)")
        assert [row["why"] for row in newest] == [why]
    record.set_meta({"seed": 3})
    assert (record.meta("seed"), written(record.path)) == (3, ["before"])
    assert "locked" in record.error
    locked.rollback()
    assert whys(record) == ["before", "one", "two"] == written(record.path)
    assert record.error is None


def test_who_follows_a_record_that_cannot_be_written_sees_each_row_once(record, locked):
    locked.rollback()
    locked.execute("BEGIN IMMEDIATE")  # others may read
    _, cursor = record.since(0)
    for i in range(5):
        note(record, str(i))
    seen = [row["why"] for row in record.since(cursor)[0]["entries"]]
    assert seen == list("01234")
    assert read_to_the_end(record, 2, cursor) == [[cursor + 1, cursor + 2], [cursor + 3, cursor + 4], [cursor + 5]]
    _, cursor = record.since(cursor)
    locked.rollback()
    note(record, "later")
    assert [row["why"] for row in record.since(cursor)[0]["entries"]] == ["later"]


def test_who_follows_a_record_has_it_written_once_however_much_is_appended_meanwhile(unhurried):
    def appending():
        note(unhurried)
        flush()

    flush, told = unhurried.flush, []
    unhurried._database.set_trace_callback(told.append)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(unhurried, "flush", appending)
        unhurried.since(0)
    assert told.count("COMMIT") == 1


def test_the_record_s_own_thread_tries_again_until_the_disk_takes_it(record, locked):
    note(record, "meanwhile")
    until(lambda: record.error is not None)
    locked.rollback()
    until(lambda: record.error is None)
    assert written(record.path) == ["before", "meanwhile"]


def test_closing_on_a_disk_that_balks_ends_and_says_so(record, locked):
    note(record, "meanwhile")
    record.close()
    assert "locked" in record.error
    locked.rollback()
    assert whys(record) == ["before", "meanwhile"]


def test_a_half_written_batch_is_taken_back_whole(record):
    record.flush()
    record._database.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON epochs BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    note(record, "one")
    epoch(record, 1)
    note(record, "two")
    record.flush()
    assert "full" in record.error
    assert written(record.path) == []
    record._database.execute("DROP TRIGGER full")
    record.flush()
    assert whys(record) == ["one", "two"]
    assert [row["seq"] for row in record.rows("epochs")] == [2]
    assert record.error is None


def test_append_does_not_wait_for_a_slow_disk(record):
    """A write of another thread is held up in the database; appends return meanwhile."""
    held, release = threading.Event(), threading.Event()

    def slow(why):
        held.set()
        release.wait(PATIENCE_S)
        return why

    record.flush()
    record._database.create_function("slow", 1, slow)
    record._database.execute("CREATE TEMP TRIGGER slowly AFTER INSERT ON entries BEGIN SELECT slow(NEW.why); END")
    note(record, "stuck")
    writer = threading.Thread(target=record.flush)
    writer.start()
    try:
        assert held.wait(PATIENCE_S)
        appended = threading.Event()

        def append_many():
            for i in range(1000):
                note(record, str(i))
            appended.set()

        threading.Thread(target=append_many, daemon=True).start()
        assert appended.wait(PATIENCE_S / 2)
        assert writer.is_alive()
    finally:
        release.set()
        writer.join()
    assert whys(record) == ["stuck", *map(str, range(1000))]


@pytest.mark.parametrize("step", [np.int64(3), np.float32(3), object()])
def test_what_cannot_be_written_is_refused_when_it_is_appended(record, step):
    """Else one bad row would keep all later ones off the disk."""
    with pytest.raises(TypeError):
        note(record, step=step)
    note(record, "later")
    record.flush()
    assert whys(record) == ["later"]


def test_what_is_kept_under_a_key_waits_like_the_rows_for_a_file_that_another_reads(tmp_path):
    record = Record(tmp_path / "run.sqlite")
    record._database.execute("PRAGMA busy_timeout = 50")
    record.set_meta({"best": ["loss", 2.0]})
    with contextlib.closing(sqlite3.connect(record.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        record.set_meta({"best": ["loss", 1.0]})
        assert record.meta("best") == ["loss", 1.0]
        assert "cannot be written" in record.error
    record.flush()
    assert record.error is None
    with contextlib.closing(sqlite3.connect(record.path)) as reader:
        assert reader.execute("SELECT value FROM meta WHERE key = 'best'").fetchone() == ('["loss", 1.0]',)
    record.close()
