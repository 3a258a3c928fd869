import contextlib
import gc
import json
import sqlite3
import threading
import time
import weakref
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from babysit.store import checkpoints as shelf
from babysit.store import files as checkpoints
from babysit.store.checkpoints import Place, Shelf, surplus
from babysit.store.record import Record
from tests.test_checkpoints import STATE, assert_equal

BRANCH = "branch 1"


def at(step, **about):
    return replace(STATE, step=step, **about)


def begin(record, name=BRANCH, parent=None, step=0):
    record.append("branches", name=name, parent=parent, step=step, mark=0, hyperparameters={}, turn={})


@pytest.fixture
def shelf_(record, tmp_path):
    begin(record)
    made = Shelf(record, tmp_path / "checkpoints")
    yield made
    made.close()


@pytest.fixture
def reopened(record, tmp_path):
    """The shelf as another process finds it, after what was done to the record in between."""
    opened = []

    def reopen(*statements):
        record.close()
        with contextlib.closing(sqlite3.connect(record.path)) as database, database:
            for statement in statements:
                database.execute(statement)
        opened.append(Record(record.path))
        return Shelf(opened[-1], tmp_path / "checkpoints")

    yield reopen
    for again in opened:
        again.close()


def steps(shelf_):
    return [checkpoint.step for checkpoint in shelf_.all]


# ------------------------------------------------------------------------------ saving


def test_what_is_kept_is_listed_and_comes_back(shelf_):
    kept = shelf_.keep(at(3, mark=17), "mine", BRANCH, "edit")
    assert (kept.step, kept.name, kept.branch, kept.digest) == (3, "mine", BRANCH, STATE.digest())
    assert shelf_.all == [kept]
    found, state = shelf_.found(kept.path.name)
    assert found == kept
    assert_equal(state, at(3, mark=17))
    assert shelf_.newest_sound()[0] == kept


def test_the_list_and_what_it_tells_outlive_the_process(shelf_, reopened):
    kept = [shelf_.keep(at(step, mark=step + 1), f"n{step}", BRANCH, "fit") for step in (3, 5)]
    again = reopened()
    assert again.all == kept
    assert [(one.step, one.mark, one.anchor) for one in again.candidates()] == [(3, 4, "fit"), (5, 6, "fit")]
    assert again.keep(at(6), None, BRANCH).path.name > kept[-1].path.name


def test_a_number_is_never_given_twice(shelf_, reopened):
    shelf_.keep(at(0), None, BRANCH, "start")
    last = shelf_.keep(at(1), "mine", BRANCH)
    shelf_.delete(last.path.name)
    again = reopened()
    assert again.keep(at(2), None, BRANCH).path.name > last.path.name
    assert steps(again) == [0, 2]


def test_a_checkpoint_complete_on_disk_is_listed_though_the_record_missed_it(shelf_, reopened):
    kept = shelf_.keep(at(0, mark=1), "mine", BRANCH, "start")
    again = reopened("DELETE FROM checkpoints")
    assert again.all == [kept]
    assert [(one.mark, one.anchor) for one in again.candidates()] == [(1, "start")]


@pytest.mark.parametrize("lost", ["steps", "journal", "branch"])
def test_one_whose_past_the_record_does_not_know_is_cleared_away_unless_a_person_named_it(shelf_, reopened, lost):
    state = at(4 if lost == "steps" else 0, mark=10**6 if lost == "journal" else 1)
    branch = "branch 9" if lost == "branch" else BRANCH
    kept = [shelf_.keep(state, name, branch) for name in (None, "mine")]
    assert reopened("DELETE FROM checkpoints").all == []
    assert [one.path.exists() for one in kept] == [False, True]


def test_a_name_given_again_moves_on_and_the_old_one_is_automatic(shelf_, reopened):
    for step in (1, 2):
        shelf_.keep(at(step), "best", BRANCH)
    expected = [(1, None), (2, "best")]
    assert [(kept.step, kept.name) for kept in shelf_.all] == expected
    assert [(kept.step, kept.name) for kept in reopened().all] == expected


def test_free_and_checked_names_know_what_waits(shelf_):
    shelf_.keep(at(3), "step 3", BRANCH)
    assert shelf_.free_name(3) == "step 3 (2)"
    with pytest.raises(ValueError, match="never overwritten"):
        shelf_.checked_name("step 3")


def test_the_manifest_tells_the_environment_and_the_mark(record, tmp_path):
    kept = Shelf(record, tmp_path / "c", environment={"numpy": "2.1"}).keep(at(1, mark=5), None, BRANCH, "edit")
    manifest = checkpoints.described(kept.path)
    assert (manifest["environment"], manifest["anchor"], manifest["state"]["mark"]) == ({"numpy": "2.1"}, "edit", 5)


def test_the_model_file_lies_beside_and_is_sealed_too(shelf_):
    def write_model(path):
        assert path.name == "model.keras"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("config.json", "{}")

    kept = shelf_.keep(STATE, "mine", BRANCH, write_model=write_model)
    assert zipfile.ZipFile(kept.path / "model.keras").namelist() == ["config.json"]
    content = bytearray((kept.path / "model.keras").read_bytes())
    content[40] ^= 1
    (kept.path / "model.keras").write_bytes(content)
    with pytest.raises(ValueError, match="model.keras has changed"):
        checkpoints.check_model(kept.path)
    assert_equal(shelf_.found(kept.path.name)[1], STATE)


def test_a_model_that_cannot_be_written_leaves_the_checkpoint_and_the_reason(shelf_):
    def write_model(path):
        path.write_bytes(b"half of")
        raise NotImplementedError("no get_config")

    kept = shelf_.keep(STATE, "mine", BRANCH, write_model=write_model)
    assert not (kept.path / "model.keras").exists()
    assert checkpoints.described(kept.path)["without_model"] == "NotImplementedError: no get_config"
    assert_equal(shelf_.found(kept.path.name)[1], STATE)


def test_a_closed_shelf_keeps_nothing_more(shelf_):
    shelf_.close()
    with pytest.raises(ValueError, match="goes on in another Panda"):
        shelf_.keep(STATE, None, BRANCH)
    assert shelf_.all == []


# -------------------------------------------------------------------- by another thread


@pytest.fixture
def gate(monkeypatch):
    """Holds every save back until it is opened; tells which states were saved."""
    opened, real = threading.Event(), shelf.save
    opened.saved = []

    def save(directory, state, *args):
        assert opened.wait(30)
        opened.saved.append((state.step, threading.current_thread().name))
        return real(directory, state, *args)

    monkeypatch.setattr(shelf, "save", save)
    return opened


def test_keeping_soon_returns_at_once_and_settling_waits(shelf_, gate):
    shelf_.keep_soon(at(1), BRANCH)
    assert gate.saved == []
    assert [kept.step for kept in shelf_.candidates()] == [1]
    gate.set()
    shelf_.settle()
    assert gate.saved == [(1, "babysit-shelf")]
    assert steps(shelf_) == [1]


def test_when_many_wait_the_oldest_that_is_no_anchor_is_dropped(shelf_, gate):
    shelf_.keep_soon(at(0), BRANCH)  # being written
    while not shelf_._writing:
        time.sleep(0.001)
    shelf_.keep_soon(at(1), BRANCH, "edit")
    for step in range(2, 9):
        shelf_.keep_soon(at(step), BRANCH)
    gate.set()
    assert steps(shelf_) == [0, 1, 7, 8]


def test_what_is_kept_now_comes_after_what_waited(shelf_, gate):
    shelf_.keep_soon(at(1), BRANCH)
    gate.set()
    shelf_.keep(at(2), None, BRANCH)
    assert [step for step, _ in gate.saved] == steps(shelf_) == [1, 2]


def test_the_thread_ends_when_nothing_waits(shelf_, gate):
    for step in range(2):
        shelf_.keep_soon(at(step), BRANCH)
        (writer,) = [thread for thread in threading.enumerate() if thread.name == "babysit-shelf"]
        gate.set()
        writer.join(30)
        assert not writer.is_alive()
        gate.clear()
    assert steps(shelf_) == [0, 1]


def test_its_owner_is_kept_alive_while_it_writes_and_no_longer(shelf_, gate):
    owner = threading.Event()  # any object that can be referred to weakly
    gone = threading.Event()
    weakref.finalize(owner, gone.set)
    shelf_.owner = weakref.ref(owner)
    shelf_.keep_soon(at(1), BRANCH)
    del owner
    gc.collect()
    assert not gone.is_set()
    gate.set()
    assert gone.wait(30)
    assert steps(shelf_) == [1]


def test_a_save_that_fails_there_is_told_until_one_has_worked(shelf_, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(shelf, "save", full)
        shelf_.keep_soon(at(1), BRANCH)
        shelf_.settle()
        assert "No space left" in shelf_.error
        with pytest.raises(OSError, match="No space left"):
            shelf_.keep(at(2), None, BRANCH)
    shelf_.keep_soon(at(3), BRANCH)
    shelf_.settle()
    assert shelf_.error is None
    assert steps(shelf_) == [3]


# -------------------------------------------------------------------------------- cost


def test_automatic_checkpoints_cost_no_more_than_their_share(shelf_, monkeypatch):
    """On a clock of its own: copying costs 20 ms, writing 50 ms, and every ms it is asked whether one is due."""
    clock = [0.0]
    monkeypatch.setattr(shelf.time, "perf_counter", lambda: clock[0])
    shelf_._next_due, cost = 0.0, 0.0
    for _ in range(60_000):
        clock[0] += 0.001
        if shelf_.is_due():
            shelf_.spent(0.02)
            shelf_.spent(0.05)
            cost += 0.07
    assert 0.9 * shelf.SHARE < cost / clock[0] <= shelf.SHARE + 0.07 / clock[0]


def test_a_long_rest_does_not_pay_for_many(shelf_, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(shelf.time, "perf_counter", lambda: clock[0])
    shelf_._next_due = 0.0
    clock[0] = 3600.0
    assert shelf_.is_due()
    shelf_.spent(0.07)
    clock[0] += 1.9
    assert not shelf_.is_due()
    clock[0] += 0.2
    assert shelf_.is_due()


def test_writing_is_measured_and_none_is_due_while_one_is_written(shelf_, gate):
    shelf_._next_due = 0.0
    assert shelf_.is_due()
    shelf_.keep_soon(at(1), BRANCH)
    assert not shelf_.is_due()
    time.sleep(0.1)
    gate.set()
    shelf_.settle()
    assert shelf_._next_due - time.perf_counter() > 0.09 / shelf.SHARE - 0.5


# --------------------------------------------------------------------------- letting go


def places(numbers, size_bytes=1, fixed=(), branch=BRANCH):
    return [Place(branch, n, size_bytes, n not in {*fixed, max(numbers)}) for n in numbers]


def left(all_, room_bytes=10**9):
    gone = surplus(all_, room_bytes)
    return [place.number for place in all_ if place not in gone]


def test_recent_ones_stay_dense_and_old_ones_become_sparse_for_their_age():
    kept = []
    for now in range(1, 2001):
        numbers = [*kept, now]
        kept = left(places(numbers, fixed=[1]))
    assert kept[0] == 1
    assert kept[-6:] == list(range(1995, 2001))
    assert 30 < len(kept) < 100
    for before, after in zip(kept, kept[1:], strict=False):
        assert after - before <= max(1, 0.5 * (2000 - before))


def test_within_the_room_only_what_age_asks_goes():
    assert left(places(range(1, 8)), 7) == list(range(1, 8))
    assert len(left(places(range(1, 8)), 4)) == 4


def test_what_is_fixed_stays_however_little_room_there_is():
    assert left(places(range(1, 30), fixed=[1, 5, 6]), 0) == [1, 5, 6, 29]


def test_each_branch_is_thinned_by_its_own_gaps():
    # Dense on one branch, and one alone on another as old as they: it is the last to go.
    crowd = [*places(range(50, 60)), Place("branch 2", 55, 1, True), Place("branch 3", 100, 1, False)]
    assert Place("branch 2", 55, 1, True) not in surplus(crowd, 3)


def test_anchors_go_last_and_only_for_want_of_room_or_where_they_are_many(monkeypatch):
    crowd = [place._replace(loose=2) if place.number % 2 else place for place in places(range(1, 31))]
    anchors = [number for number in range(1, 30, 2)]
    assert set(anchors) < set(left(crowd, 30))
    assert left(crowd, 16) == [*anchors, 30]
    assert len(left(crowd, 8)) == 8
    monkeypatch.setattr(shelf, "MOST_ANCHORS", 5)
    assert sum(number in anchors for number in left(crowd, 30)) == 5


def test_on_disk_the_newest_the_start_named_ones_and_forks_stay(record, tmp_path):
    begin(record)
    kept = Shelf(record, tmp_path / "checkpoints", disk_bytes=0)
    kept.keep(at(0), None, BRANCH, "start")
    kept.keep(at(1), "mine", BRANCH)
    kept.keep(at(2), None, BRANCH)
    begin(record, "branch 2", BRANCH, 2)
    kept.keep(at(2), None, "branch 2")
    for step in range(3, 8):
        kept.keep(at(step), None, "branch 2")
    kept.keep(at(8), None, "branch 2", "edit")
    kept.keep(at(9), None, "branch 2")
    assert steps(kept) == [0, 1, 2, 2, 9]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [c.path.name for c in kept.all]


def test_a_checkpoint_is_deleted_unless_a_branch_starts_there(shelf_, record):
    saved = [shelf_.keep(at(step), name, BRANCH) for step, name in ((1, None), (2, "mine"), (3, None))]
    start = shelf_.keep(at(0), None, BRANCH, "start")
    begin(record, "branch 2", BRANCH, 1)
    for kept in (saved[0], start):
        with pytest.raises(ValueError, match="where a branch starts"):
            shelf_.delete(kept.path.name)
    shelf_.delete(saved[1].path.name)
    assert shelf_.all == [saved[0], saved[2], start]
    assert shelf_.checked_name("mine") == "mine"
    with pytest.raises(ValueError, match="Choose one of the list"):
        shelf_.delete(saved[1].path.name)


def test_memory_holds_no_more_than_its_bytes_and_the_newest_always(record, tmp_path):
    size = sum(array.nbytes for group in STATE.tensors.values() for array in group)
    kept = Shelf(record, tmp_path / "checkpoints", memory_bytes=5 * size)
    for step in range(100):
        kept.remember(at(step), BRANCH)
        there = [one.step for one in kept.candidates()]
        assert there[-1] == step
        assert len(there) <= 5
    assert there[0] < 80
    large = at(200, tensors={**STATE.tensors, "model": [np.zeros(6 * size, "uint8")]})
    kept.remember(large, BRANCH)
    assert [one.step for one in kept.candidates()] == there


def test_candidates_are_in_the_order_in_which_they_were_taken_wherever_they_lie(shelf_, gate):
    gate.set()
    shelf_.keep(at(1), None, BRANCH)
    shelf_.remember(at(2), BRANCH)
    shelf_.keep(at(3), None, BRANCH, "edit")
    shelf_.remember(at(4), BRANCH)
    gate.clear()
    shelf_.keep_soon(at(5), BRANCH)
    there = shelf_.candidates()
    gate.set()
    assert [one.step for one in there] == [1, 2, 3, 4, 5]
    for one in there:
        assert_equal(one.load(), at(one.step))


def test_a_damaged_candidate_says_so_when_it_is_loaded(shelf_):
    kept = shelf_.keep(at(1), None, BRANCH)
    (one,) = shelf_.candidates()
    path = kept.path / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has changed"):
        one.load()


def test_a_run_written_before_marks_and_anchors_were_is_read(record, tmp_path, reopened):
    kept = Shelf(record, tmp_path / "checkpoints").keep(at(0), "mine", BRANCH)
    path = kept.path / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("seal", "sizes", "anchor"):
        del manifest[key]
    del manifest["state"]["mark"]
    manifest["format"] = 1
    path.write_bytes(checkpoints._text({**manifest, "seal": checkpoints._seal(manifest)}))
    drops = [f"ALTER TABLE checkpoints DROP COLUMN {column}" for column in ("mark", "anchor")]
    again = reopened("UPDATE meta SET value = '1' WHERE key = 'schema'", *drops)
    assert again.all == [kept]
    (one,) = again.candidates()
    assert (one.mark, one.anchor) == (0, "")
    assert_equal(one.load(), at(0))


def test_the_way_back_begins_at_what_was_taken_last_not_at_what_was_written_last(shelf_):
    shelf_.keep(at(9, mark=5), None, BRANCH, "edit")
    shelf_.keep(at(7, mark=2), "best", BRANCH)  # which is written when there is time
    assert [kept.step for kept in shelf_.candidates()] == [7, 9]


def test_what_comes_faster_than_the_disk_takes_it_neither_piles_up_nor_keeps_a_reader_waiting(shelf_, monkeypatch):
    real, over = shelf.save, threading.Event()

    def slow(*args, **how):
        time.sleep(0.02)
        return real(*args, **how)

    def go_on():
        step = 0
        while not over.is_set():
            shelf_.keep_soon(at(step := step + 1), BRANCH, "edit")

    monkeypatch.setattr(shelf, "save", slow)
    training = threading.Thread(target=go_on)
    training.start()
    try:
        for _ in range(5):
            assert len(shelf_._waiting) <= shelf.ANCHORS
            reader = threading.Thread(target=lambda: shelf_.all, daemon=True)
            reader.start()
            reader.join(20)
            assert not reader.is_alive()
    finally:
        over.set()
        training.join()
