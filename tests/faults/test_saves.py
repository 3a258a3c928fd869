"""Whatever happens while a checkpoint is saved: the list shows only complete ones, and saving again works."""

import contextlib
import errno
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from babysit.store import files as checkpoints
from babysit.store.checkpoints import Shelf
from babysit.store.files import clear_away, complete, load, save
from tests.faults import ALL, sample
from tests.test_checkpoints import STATE, assert_equal

OLD, NEW, NEXT = (replace(STATE, step=step, cursor=32 * step) for step in (5, 6, 7))
BRANCH = "branch 1"


@pytest.fixture
def shelf(record, tmp_path):
    record.append("branches", name=BRANCH, parent=None, step=0, mark=0, hyperparameters={}, turn={})
    made = Shelf(record, tmp_path / "checkpoints")
    made.keep(OLD, "old", BRANCH)
    yield made
    made.close()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_sound(shelf, newest, count=1):
    """The list holds so many, all of them complete, and the newest is the state that it was saved from."""
    listed = shelf.all
    assert len(listed) == count
    for checkpoint in listed:
        assert load(checkpoint.path)[0].digest() == checkpoint.digest
    checkpoint, state = shelf.newest_sound()
    assert checkpoint.digest == newest.digest()
    assert_equal(state, newest)


def assert_works_again(shelf, tmp_path, count=2):
    shelf.keep_soon(NEXT, BRANCH)
    shelf.settle()
    assert shelf.error is None
    assert_sound(shelf, NEXT, count)
    clear_away(tmp_path / "checkpoints")
    assert not [name for name in files(tmp_path / "checkpoints") if name.startswith(".")]


# -------------------------------------------------------------------- killed, or a full disk


def light(kind, folder, count, *before):
    """The trials of `tests.faults.light`, in a process of their own."""
    command = [*before, sys.executable, "-m", "tests.faults.light", kind, str(folder), str(0 if ALL else count)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_any_call_of_a_save_it_is_whole_or_not_there(tmp_path):
    count, wrong = light("kill", tmp_path / "trials", 60)
    assert wrong == []
    assert count >= (300 if ALL else 50)


def test_cut_short_at_any_size_a_save_leaves_nothing(tmp_path):
    count, wrong = light("limit", tmp_path / "trials", 25)
    assert wrong == []
    assert count >= (100 if ALL else 10)


def test_on_a_full_disk_of_any_size_a_save_is_whole_or_not_there(tmp_path):
    apart = ["unshare", "--mount"]
    mount = "mount -t tmpfs tmpfs ."
    if not shutil.which("unshare") or subprocess.run([*apart, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    count, wrong = light("tmpfs", tmp_path / "trials", 15, *apart)
    assert wrong == []
    assert count >= 10


# ------------------------------------------------------------------------- calls that fail

CALLS = [("mkdir", 2), ("write", 1), ("write", 2), *(("fsync", n) for n in (1, 2, 3, 4)), ("rename", 1)]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES]
FAULTS = [(call, nth, error, ever) for call, nth in CALLS for error in ERRORS for ever in (False, True)]


class Failing(io.FileIO):
    """A file whose writes fail, for as long as `fails` says."""

    fails = staticmethod(lambda: None)

    def write(self, content):
        self.fails()
        return super().write(content)


def opening(raw):
    """`open`, which writes new files through another raw one."""

    def instead(path, mode):
        return io.BufferedWriter(raw(path, "x")) if mode == "xb" else open(path, mode)  # noqa: SIM115  (the caller does)

    return instead


@contextlib.contextmanager
def failing(monkeypatch, call, nth, error, for_ever):
    """Lets the nth call fail, or every one from it on."""
    made, real = 0, getattr(os, call)

    def fail():
        nonlocal made
        made += 1
        if made == nth or (for_ever and made > nth):
            raise OSError(error, os.strerror(error))

    def instead(*args, **kwargs):
        fail()
        return real(*args, **kwargs)

    with monkeypatch.context() as disk:
        if call == "write":
            disk.setattr(Failing, "fails", staticmethod(fail))
            disk.setattr(checkpoints, "open", opening(Failing), raising=False)
        else:
            disk.setattr(os, call, instead)
        yield
    assert made >= nth


@pytest.mark.parametrize("call, nth, error, for_ever", sample(FAULTS, 24))
def test_a_call_that_fails_leaves_the_list_as_it_was_and_says_why(
    shelf, tmp_path, monkeypatch, call, nth, error, for_ever
):
    before = files(tmp_path / "checkpoints")
    with failing(monkeypatch, call, nth, error, for_ever):
        with pytest.raises(OSError) as refusal:
            shelf.keep(NEW, "new", BRANCH)
        assert refusal.value.errno == error
        assert os.strerror(error) in shelf.error
        assert_sound(shelf, OLD)
        assert files(tmp_path / "checkpoints") == before
        if for_ever:
            shelf.keep_soon(NEW, BRANCH)
            shelf.settle()
            assert os.strerror(error) in shelf.error
            assert_sound(shelf, OLD)
    assert_works_again(shelf, tmp_path)


def test_when_not_even_clearing_up_works_nothing_incomplete_is_listed(shelf, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        for call in ("rename", "unlink", "rmdir"):
            disk.setattr(os, call, fail)
        with pytest.raises(OSError):
            shelf.keep(NEW, "new", BRANCH)
        assert_sound(shelf, OLD)
    assert_works_again(shelf, tmp_path)


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(shelf, monkeypatch):
    """What an fsync failed for may be gone from memory, and a second one may tell that all is well."""
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fsync)
        with pytest.raises(OSError):
            shelf.keep(NEW, None, BRANCH)
    assert len(synced) == 1
    assert files(shelf.all[0].path.parent) == ["000001", "000001/manifest.json", "000001/state.safetensors"]


def test_writes_that_take_a_few_bytes_at_a_time_lose_none(shelf, monkeypatch):
    class Short(io.FileIO):
        def write(self, content):
            return super().write(bytes(content[:7]))

    with monkeypatch.context() as disk:
        disk.setattr(checkpoints, "open", opening(Short), raising=False)
        shelf.keep(NEW, None, BRANCH)
    assert_sound(shelf, NEW, 2)


def test_what_is_on_disk_is_flushed_before_it_has_its_name_and_its_folder_after(shelf, monkeypatch):
    done, real_sync, real_rename = [], os.fsync, os.rename

    def fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def rename(one, other):
        done.append("rename")
        real_rename(one, other)

    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux tells which file a descriptor is of")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    folder = shelf.keep(NEW, None, BRANCH, write_model=lambda path: path.write_bytes(b"its own")).path
    hidden = Path(done[0]).parent
    assert hidden.name.startswith(".")
    told = [str(hidden / name) for name in ("state.safetensors", "model.keras", "manifest.json")]
    assert done[:6] == [*told, str(hidden), "rename", str(folder.parent)]


# ---------------------------------------------------------------------- the folder, the clock


def test_a_folder_removed_is_made_again(shelf, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints")
    assert shelf.all == []
    assert_works_again(shelf, tmp_path, count=1)


def test_a_run_removed_says_so_and_goes_on_when_it_is_back(shelf, tmp_path):
    run = tmp_path / "checkpoints"
    shelf._folder = tmp_path / "gone" / "checkpoints"
    with pytest.raises(OSError, match="No such file"):
        shelf.keep(NEW, None, BRANCH)
    shelf.keep_soon(NEW, BRANCH)
    shelf.settle()
    assert "No such file" in shelf.error
    assert shelf.all == []
    shelf._folder = run
    assert_works_again(shelf, tmp_path)


def test_a_folder_removed_while_it_is_written_to_leaves_nothing(shelf, tmp_path, monkeypatch):
    def rename(one, other):
        shutil.rmtree(tmp_path / "checkpoints")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", rename)
        with pytest.raises(OSError):
            shelf.keep(NEW, None, BRANCH)
    assert shelf.all == []
    assert_works_again(shelf, tmp_path, count=1)


def test_a_file_where_the_folder_should_be_is_said_and_left_alone(record, tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    shelf = Shelf(record, tmp_path / "checkpoints")
    with pytest.raises(OSError):
        shelf.keep(NEW, None, BRANCH)
    assert (tmp_path / "checkpoints").read_text() == "mine"
    assert shelf.all == []


def test_a_clock_set_ten_years_back_changes_no_order(shelf, monkeypatch):
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: 1e9)
        shelf.keep(NEW, None, BRANCH)
    shelf.keep(NEXT, None, BRANCH)
    assert [checkpoint.step for checkpoint in shelf.all] == [5, 6, 7]
    assert_sound(shelf, NEXT, 3)


def test_a_record_locked_by_a_reader_loses_no_checkpoint(shelf, record, tmp_path):
    record.flush()
    record._database.execute("PRAGMA busy_timeout = 20")
    with contextlib.closing(sqlite3.connect(record.path)) as reader:
        reader.execute("BEGIN EXCLUSIVE")
        shelf.keep(NEW, "new", BRANCH)
        assert_sound(shelf, NEW, 2)
        assert "locked" in record.error
        reader.rollback()
    record.flush()
    assert record.error is None
    assert [row["name"] for row in record.rows("checkpoints")] == ["old", "new"]
    assert_sound(shelf, NEW, 2)


def test_saves_from_many_threads_at_once_are_all_kept(shelf):
    threads = [
        threading.Thread(target=shelf.keep, args=(replace(NEW, step=step), f"n{step}", BRANCH)) for step in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(checkpoint.name for checkpoint in shelf.all) == sorted(["old", *(f"n{step}" for step in range(8))])
    assert len({checkpoint.path for checkpoint in shelf.all}) == 9


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name", ["CON", "nul", "aux.txt", "COM1", "name.", "LPT9", "../x", "/etc/x", "a\0b", "a" * 10_000]
)
def test_a_name_never_becomes_a_path(shelf, tmp_path, name):
    """Most of these are refused before; whatever is not is a line in the manifest and no more."""
    before = set(tmp_path.parent.iterdir())
    kept = shelf.keep(NEW, name, BRANCH)
    assert kept.path.parent == tmp_path / "checkpoints"
    assert kept.path.name.isdecimal()
    assert set(tmp_path.parent.iterdir()) == before
    assert [checkpoint.name for checkpoint in shelf.all] == ["old", name]
    assert_sound(shelf, NEW, 2)


@pytest.mark.parametrize("leftover", [".000009-123", ".000009-123-removed", ".000009-1-2-removed"])
def test_what_a_killed_process_left_is_cleared_away_and_nothing_else(tmp_path, leftover):
    kept = save(tmp_path, OLD, {})
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "state.safetensors").write_bytes(b"half")
    mine = [".git", ".000-mine", ".0000009-x", "notes"]
    for name in mine:
        (tmp_path / name).mkdir()
    clear_away(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, kept.name}
    assert complete(tmp_path) == [kept]
