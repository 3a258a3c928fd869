import threading
import time

import numpy as np
import pytest

from babysit.core.events import Branch, Edit, Saved
from babysit.core.runlog import BranchStart, RunLog
from babysit.store import checkpoint_store
from babysit.store.checkpoint_file import read
from babysit.store.checkpoint_store import CheckpointStore, checkpoints_in
from tests.store.states import BRANCH, STATE, assert_equal, at

PATIENCE_S = 30


@pytest.fixture
def opened(tmp_path):
    """Opens the store of the test's run, as often as asked."""
    made = []

    def open_(memory_bytes=checkpoint_store.MEMORY_BYTES, disk_bytes=checkpoint_store.DISK_BYTES, **how):
        how = {"log": RunLog(), "flush": lambda: None, "environment": {}} | how
        made.append(CheckpointStore(tmp_path / "checkpoints", **how))
        made[-1]._memory_bytes, made[-1]._disk_bytes = memory_bytes, disk_bytes
        return made[-1]

    yield open_
    for one in made:
        one.close()


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is set; its list `written` says what was written, and by which thread."""
    event, real = threading.Event(), checkpoint_store.write
    event.written = []

    def write(directory, state, *how):
        assert event.wait(PATIENCE_S)
        event.written.append((state.position.step, threading.current_thread().name))
        return real(directory, state, *how)

    monkeypatch.setattr(checkpoint_store, "write", write)
    return event


def steps(store):
    return [checkpoint.step for checkpoint in store.all]


def named(store):
    return [(checkpoint.step, checkpoint.name) for checkpoint in store.all]


# ----------------------------------------------------------------------------------- saving


def test_what_is_saved_is_listed_and_comes_back(store):
    saved = store.save(at(3, event=17), BRANCH, "mine", "named")
    assert (saved.step, saved.name, saved.branch, saved.digest) == (3, "mine", BRANCH, at(3).digest())
    assert (store.all, [row["folder"] for row in store.rows]) == ([saved], [saved.path.name])
    assert store.found(saved.path.name) == saved
    assert_equal(saved.load(), at(3, event=17))


def test_the_model_s_file_lies_next_to_the_state_which_does_not_need_it(store):
    def half(path):
        path.write_text("half of")
        raise NotImplementedError("no get_config")

    whole = store.save(at(3), BRANCH, "whole", "named", lambda path: path.write_text("a model")).path
    assert (whole / "model.keras").read_text() == "a model"
    assert not list(store.save(at(4), BRANCH, "without", "named", half).path.glob("*model.keras"))
    (whole / "model.keras").unlink()
    assert_equal(store.all[0].load(), at(3))


def test_where_the_disk_does_not_take_the_model_s_file_nothing_is_left_and_it_is_said(store):
    def full(path):
        path.write_text("half of")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.save(at(3), BRANCH, "named", "named", full)
    assert store.all == [] and not list(store._folder.glob("0*"))
    assert store.save(at(3), BRANCH, "named", "named").name == "named"


def test_the_list_and_the_names_outlive_the_process(opened):
    first = opened(environment={"numpy": "2.1"})
    saved = [first.save(at(step, event=step + 1), BRANCH, f"n{step}", "named") for step in (3, 5)]
    again = opened()
    assert again.all == saved == checkpoints_in(saved[0].path.parent, RunLog())
    assert [one.name for one in again.all] == ["n3", "n5"]
    found = again.candidates()
    assert [(one.branch, one.step, one.event) for one in found] == [(BRANCH, 3, 4), (BRANCH, 5, 6)]
    assert_equal(found[1].load(), at(5, event=6))
    assert again.save(at(6), BRANCH).path.name > saved[-1].path.name
    assert read(saved[0].path)[1]["environment"] == {"numpy": "2.1"}


def test_the_log_is_written_first_and_where_it_cannot_be_no_checkpoint_is(opened, gate):
    flushed = []
    store = opened(flush=lambda: flushed.append(list(gate.written)))
    gate.set()
    store.save(at(1), BRANCH)
    assert flushed == [[]]

    with pytest.raises(OSError, match="the log"):
        opened(flush=lambda: "the log cannot be written").save(at(2), BRANCH)
    assert [step for step, _ in gate.written] == [1]


def test_free_and_checked_names_know_what_is_there(store):
    store.save(at(3), BRANCH, "step 3")
    assert store.free_name(3) == "step 3 (2)"
    with pytest.raises(ValueError, match="never overwritten"):
        store.checked_name("step 3")


@pytest.mark.parametrize("name", ["before decay", "v1.2-rc_3", "after (2), late", "学習", "a" * 80])
def test_a_plain_name_is_accepted(store, name):
    assert store.checked_name(name) == name


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "nul\0", "line\n", "a*", "<b>", "a" * 10_000, "\u202eevil", 3])
def test_any_other_name_is_refused_with_the_rule(store, name):
    with pytest.raises(ValueError, match="`name` must") as refusal:
        store.checked_name(name)
    assert len(str(refusal.value)) < 600


def test_a_closed_store_saves_nothing_more(store):
    store.close()
    with pytest.raises(ValueError, match="goes on in another Panda"):
        store.save(STATE, BRANCH)
    assert store.all == []


# --------------------------------------------------------------------------- another thread


def test_saving_soon_returns_at_once_and_settling_waits(store, gate):
    store.save_soon(at(1), BRANCH)
    assert gate.written == []
    gate.set()
    store.settle()
    assert gate.written == [(1, "babysit-checkpoints")]
    assert steps(store) == [1]
    assert [one.step for one in store.candidates()] == [1]


def test_a_kept_state_stays_in_memory_should_the_disk_not_take_it(store, monkeypatch):
    def full(*how):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(checkpoint_store, "write", full)
        store.save_soon(at(1), BRANCH, "edit")
        store.save_soon(at(2), BRANCH)
        store.settle()
        assert "No space left" in store.error
        with pytest.raises(OSError, match="No space left"):
            store.save(at(3), BRANCH)
    assert [one.step for one in store.candidates()] == [1]
    store.save_soon(at(4), BRANCH)
    store.settle()
    assert (store.error, steps(store)) == (None, [4])


def test_what_waits_is_written_before_it_is_closed_and_the_thread_ends(store, gate):
    store.save_soon(at(1), BRANCH)
    closing = threading.Thread(target=store.close)
    closing.start()
    gate.set()
    closing.join(PATIENCE_S)
    store._writer.join(PATIENCE_S)
    assert (steps(store), store._writer.is_alive()) == ([1], False)


def test_what_is_saved_now_comes_after_what_waited(store, gate):
    store.save_soon(at(1), BRANCH)
    gate.set()
    store.save(at(2), BRANCH)
    assert [step for step, _ in gate.written] == steps(store) == [1, 2]


def test_what_comes_faster_than_the_disk_takes_it_neither_piles_up_nor_keeps_a_reader_waiting(store, monkeypatch):
    real, over = checkpoint_store.write, threading.Event()

    def slow(*how):
        time.sleep(0.02)
        return real(*how)

    def go_on():
        step = 0
        while not over.is_set():
            store.save_soon(at(step := step + 1), BRANCH, "edit")

    monkeypatch.setattr(checkpoint_store, "write", slow)
    training = threading.Thread(target=go_on)
    training.start()
    try:
        for _ in range(3):
            assert store._waiting.qsize() <= checkpoint_store.MOST_WAITING
            reader = threading.Thread(target=lambda: store.all, daemon=True)
            reader.start()
            reader.join(20)
            assert not reader.is_alive()
    finally:
        over.set()
        training.join()


# ------------------------------------------------------------------------------------- cost


@pytest.fixture
def clock(monkeypatch, opened):
    """A store on a clock of its own, whose every write takes 50 ms of it; its list `saved` has the times."""

    class Clock:
        now, saved = 0.0, []

    def save_soon(store, state, branch):
        Clock.saved.append(Clock.now)
        Clock.now += 0.05
        store._count_cost(0.05, checkpoint_store.PERIOD_S)

    monkeypatch.setattr(checkpoint_store.time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(CheckpointStore, "save_soon", save_soon)
    Clock.store = opened()
    Clock.saved = []
    return Clock


def test_automatic_checkpoints_cost_no_more_than_their_share_the_copy_included(clock):
    def capture():
        clock.now += 0.02
        return STATE

    while clock.now < 60:
        clock.now += 0.001
        clock.store.save_if_due(capture, BRANCH)
    cost = 0.07 * len(clock.saved)
    assert 0.9 * checkpoint_store.SHARE < cost / clock.now <= checkpoint_store.SHARE + 0.07 / clock.now


def test_a_long_rest_does_not_pay_for_many(clock):
    clock.now = 3600.0
    for _ in range(1000):
        clock.now += 0.001
        clock.store.save_if_due(lambda: STATE, BRANCH)
    assert len(clock.saved) == 1


def test_never_two_within_a_second_and_none_while_one_is_written(store, gate):
    store._next_due = 0.0
    for _ in range(2):
        store.save_if_due(lambda: STATE, BRANCH)
    time.sleep(0.1)
    assert [one.step for one in store.candidates()] == [STATE.position.step]  # which does not wait for the disk
    gate.set()
    assert len(store.all) == len(store.candidates()) == 1
    assert store._next_due - time.perf_counter() > 0.09 / checkpoint_store.SHARE - 0.5
    store.save(at(6), BRANCH)
    assert store._next_due - time.perf_counter() > checkpoint_store.PERIOD_S - 0.1


# --------------------------------------------------------------------------- what is deleted


def begin_branch(log, step):
    """Has the log know of a second branch."""
    log.branches["branch 2"] = BranchStart(BRANCH, step, 0)


def test_on_disk_the_newest_the_start_named_ones_and_starts_of_branches_stay(opened, tmp_path):
    log = RunLog()
    store = opened(disk_bytes=0, log=log)
    store.save(at(0), BRANCH, kept="start")
    store.save(at(1), BRANCH, "mine", "named")
    store.save(at(2), BRANCH)
    begin_branch(log, 2)
    store.save(at(2), "branch 2", kept="branch")
    for step in range(3, 8):
        store.save(at(step), "branch 2")
    store.save(at(8), "branch 2", kept="edit")
    store.save(at(9), "branch 2")
    assert steps(store) == [0, 1, 2, 2, 9]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [row["folder"] for row in store.rows]


def test_a_checkpoint_is_deleted_unless_a_branch_starts_there(opened):
    log = RunLog()
    store = opened(log=log)
    saved = [store.save(at(step), BRANCH, name, "named" if name else "") for step, name in ((1, None), (2, "mine"))]
    start = store.save(at(0), BRANCH, kept="start")
    begin_branch(log, 1)
    for one in (saved[0], start):
        with pytest.raises(ValueError, match="`folder` must not be where a branch starts"):
            store.delete(one.path.name)
    assert store.delete(saved[1].path.name) == saved[1]
    assert store.all == opened().all == [saved[0], start]
    assert store.checked_name("mine") == "mine"
    with pytest.raises(ValueError, match="Choose one of the list"):
        store.delete(saved[1].path.name)


def test_of_a_branch_that_can_be_trained_again_all_that_has_no_name_is_discarded(opened):
    log = RunLog()
    store = opened(log=log)
    store.save(at(1), BRANCH)
    for name in ("branch 2", "branch 3", "branch 4"):
        log.add(name, 1, Branch(BRANCH))
        store.save_soon(at(1, event=log.seq), name, kept="branch")
        store.save_soon(at(9, event=log.seq), name, kept="tip")
    store.save(at(5), "branch 2", "mine", "named")
    log.add("branch 3", 4, Edit())
    store.discard(["branch 2", "branch 3"])
    assert [one.branch for one in store.all] == [BRANCH, "branch 3", "branch 3", "branch 4", "branch 4", "branch 2"]
    assert [one.name for one in store.candidates() if one.branch == "branch 2"] == ["mine"]


def test_a_renamed_one_has_its_name_and_is_kept_for_ever(opened):
    store = opened(disk_bytes=0)
    automatic = store.save(at(1), BRANCH, kept="fit")
    renamed = store.rename(automatic.path.name, "mine")
    assert (renamed.name, named(store)) == ("mine", [(1, "mine")])
    row = {"folder": "000001", "step": 1, "name": "mine", "branch": BRANCH, "kept": "named"}
    assert store.rows == [row]
    store.save(at(2), BRANCH, "other", "named")
    with pytest.raises(ValueError, match="never overwritten"):
        store.rename(automatic.path.name, "other")
    for step in (3, 4):
        store.save(at(step), BRANCH)
    assert named(store) == [(1, "mine"), (2, "other"), (4, None)]
    log = RunLog()
    for folder, name in ((automatic.path.name, "mine"), ("000009", "deleted since")):
        log.add(BRANCH, 4, Saved(folder, name))
    again = opened(log=log, disk_bytes=0)
    assert named(again) == named(store)
    assert again.save(at(5), BRANCH).path.name == "000010"  # a number with a name is not used for another one


# -------------------------------------------------------------------------------- candidates


def test_memory_holds_no_more_than_its_bytes_and_the_newest_always(opened):
    store = opened(memory_bytes=5 * STATE.size_bytes)
    for step in range(100):
        store.remember(at(step, event=step), BRANCH)
        there = [one.step for one in store.candidates()]
        assert there[-1] == step
        assert len(there) <= 5
    assert there[0] < 80
    large = at(200, tensors={**STATE.tensors, "model": [np.zeros(6 * STATE.size_bytes, "uint8")]})
    store.remember(large, BRANCH)
    assert [one.step for one in store.candidates()] == there


def test_candidates_are_in_the_order_in_which_they_were_captured_wherever_they_lie(store):
    store.save(at(9, event=5), BRANCH, kept="edit")
    store.save(at(7, event=2), BRANCH)
    store.remember(at(2, event=0), BRANCH)
    store.save_soon(at(8, event=2), BRANCH)
    there = store.candidates()
    assert [(one.event, one.step) for one in there] == [(0, 2), (2, 7), (2, 8), (5, 9)]
    for one in there:
        assert_equal(one.load(), at(one.step, event=one.event))
