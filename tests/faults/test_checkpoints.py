"""Whatever happens to a checkpoint, while it is written or later: it loads to its digest, or an older one serves."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from babysit.core.runlog import RunLog
from babysit.store.checkpoint_file import manifests, read
from babysit.store.checkpoint_store import CheckpointStore
from tests.faults import ALL, sample
from tests.store.states import BRANCH, STATE, assert_equal, at

OLD, NEXT = at(5), at(7)
NEW = at(6, tensors={**STATE.tensors, "metrics": [np.ones((), "float32")]})
FILES = ["manifest.json", "state.safetensors"]


made = []  # the stores of a test


def opened(folder):
    made.append(CheckpointStore(folder, RunLog(), lambda: None, {}))
    return made[-1]


@pytest.fixture(autouse=True)
def closed():
    """Ends the stores' threads after each test."""
    yield
    while made:
        made.pop().close()


@pytest.fixture
def store(tmp_path):
    one = opened(tmp_path / "checkpoints")
    one.save(OLD, BRANCH, "old", "named")
    return one


@pytest.fixture
def newest(store):
    return store.save(NEW, BRANCH, "new", "named").path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_sound(store, newest, count=1):
    """The list holds so many, all of them complete, and the newest is the state that it was saved from."""
    for one in (store, opened(store._folder)):
        listed = one.all
        assert len(listed) == count
        for checkpoint in listed:
            assert read(checkpoint.path)[0].digest() == checkpoint.digest
        assert_equal(newest_sound(one), newest)


def newest_sound(store):
    """The newest state that can be loaded."""
    for checkpoint in reversed(store.all):
        with contextlib.suppress(ValueError):
            return checkpoint.load()


def assert_works_again(store, count=2):
    store.save_soon(NEXT, BRANCH)
    store.settle()
    assert store.error is None
    assert_sound(store, NEXT, count)  # which opens it, and so clears away what was left
    assert len(list(store._folder.iterdir())) == count


# ---------------------------------------------------------------------- killed, or a full disk


def trials(kind, folder, count, *before):
    """The trials of `tests.faults.trials`, in a process of their own."""
    command = [
        *before,
        sys.executable,
        "-m",
        "tests.faults.trials",
        kind,
        str(folder),
        str(count * 5 if ALL else count),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_any_call_of_a_save_it_is_whole_or_not_there(tmp_path):
    count, wrong = trials("kill", tmp_path / "trials", 60)
    assert wrong == []
    assert count >= (250 if ALL else 50)


def test_cut_short_at_any_size_a_save_leaves_nothing(tmp_path):
    count, wrong = trials("limit", tmp_path / "trials", 25)
    assert wrong == []
    assert count >= (50 if ALL else 10)


def test_on_a_full_disk_of_any_size_a_save_is_whole_or_not_there(tmp_path):
    apart = ["unshare", "--mount"]
    mount = "mount -t tmpfs tmpfs ."
    if not shutil.which("unshare") or subprocess.run([*apart, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    count, wrong = trials("tmpfs", tmp_path / "trials", 15, *apart)
    assert wrong == []
    assert count >= 10


# ---------------------------------------------------------------------------- calls that fail

CALLS = [("mkdir", 2), *(("fsync", n) for n in (1, 2, 3, 4)), ("rename", 1)]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EROFS]
FAULTS = [(call, nth, error, ever) for call, nth in CALLS for error in ERRORS for ever in (False, True)]


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
        disk.setattr(os, call, instead)
        yield
    assert made >= nth


@pytest.mark.parametrize("call, nth, error, for_ever", sample(FAULTS, 8))
def test_a_call_that_fails_leaves_the_list_as_it_was_and_says_why(
    store, tmp_path, monkeypatch, call, nth, error, for_ever
):
    before = files(tmp_path / "checkpoints")
    with failing(monkeypatch, call, nth, error, for_ever):
        with pytest.raises(OSError) as refusal:
            store.save(NEW, BRANCH, "new", "named")
        assert refusal.value.errno == error
        assert os.strerror(error) in store.error
        assert files(tmp_path / "checkpoints") == before
        if for_ever:
            store.save_soon(NEW, BRANCH)
            store.settle()
            assert os.strerror(error) in store.error
    assert_sound(store, OLD)
    assert_works_again(store)


def test_when_not_even_clearing_up_works_nothing_incomplete_is_listed(store, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        for call in ("rename", "unlink", "rmdir"):
            disk.setattr(os, call, fail)
        with pytest.raises(OSError):
            store.save(NEW, BRANCH)
        assert [checkpoint.step for checkpoint in store.all] == [5]
        assert len(manifests(store._folder)) == 1
    assert_works_again(store)


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(store, monkeypatch):
    """The data may be lost after the first one, and a second one may succeed all the same."""
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fsync)
        with pytest.raises(OSError):
            store.save(NEW, BRANCH)
    assert len(synced) == 1
    assert len(files(store._folder)) == 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux says which file a descriptor is of")
def test_all_is_flushed_to_disk_before_the_folder_has_its_name_and_its_parent_after(store, monkeypatch):
    done, real_sync, real_rename = [], os.fsync, os.rename

    def fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def rename(one, other):
        done.append("rename")
        real_rename(one, other)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    folder = store.save(NEW, BRANCH).path
    hidden = Path(done[0]).parent
    assert hidden.name.startswith(".")
    written = [str(hidden / name) for name in ("state.safetensors", "manifest.json")]
    assert done == [*written, str(hidden), "rename", str(folder.parent)]


# --------------------------------------------------------------------------- the folder, the clock


def test_a_folder_removed_is_made_again(store, tmp_path, monkeypatch):
    def rename(one, other):
        shutil.rmtree(tmp_path / "checkpoints")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", rename)
        with pytest.raises(OSError):
            store.save(NEW, BRANCH)
    assert store.all == []
    assert_works_again(store, count=1)


def test_a_file_where_the_folder_should_be_is_said_and_left_alone(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    store = opened(tmp_path / "checkpoints")
    with pytest.raises(OSError):
        store.save(NEW, BRANCH)
    assert (tmp_path / "checkpoints").read_text() == "mine"
    assert store.all == []


def test_a_clock_set_ten_years_back_changes_no_order(store, monkeypatch):
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: 1e9)
        store.save(NEW, BRANCH)
    store.save(NEXT, BRANCH)
    assert_sound(store, NEXT, 3)


def test_saves_from_many_threads_at_once_are_all_kept(store):
    threads = [threading.Thread(target=store.save, args=(at(step), BRANCH, f"n{step}", "named")) for step in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {checkpoint.name for checkpoint in store.all} == {"old", *(f"n{step}" for step in range(8))}
    assert len({checkpoint.path for checkpoint in store.all}) == 9


# ------------------------------------------------------------------------------ damaged later


def assert_refused(store, folder):
    """The checkpoint is refused and the one before serves, in this process and the next."""
    with pytest.raises(ValueError, match="cannot be used: .*Choose another one"):
        read(folder)
    for one in (store, opened(store._folder)):
        assert_equal(newest_sound(one), OLD)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_refused_and_the_one_before_serves(store, newest, file):
    path = newest / file
    content = path.read_bytes()
    for at_ in sample(range(len(content)), 30):
        path.write_bytes(content[:at_] + bytes([content[at_] ^ 1 << at_ % 8]) + content[at_ + 1 :])
        try:
            state, manifest = read(newest)
        except ValueError:
            assert_refused(store, newest)
        else:  # as white space, or 1E-05, which means the same
            assert_equal(state, NEW)
            assert (manifest["name"], manifest["branch"]) == ("new", BRANCH)
    path.write_bytes(content)
    assert_sound(store, NEW, 2)


def test_each_number_of_a_manifest_is_held_by_its_hash(newest):
    path = newest / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in manifest.items():
        path.write_text(json.dumps({**manifest, key: [value]}))
        with pytest.raises(ValueError, match="cannot be used"):
            read(newest)
    position = {**manifest["position"], "step": 7}
    path.write_text(json.dumps({**manifest, "position": position}))
    with pytest.raises(ValueError, match="its manifest has changed"):
        read(newest)


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_missing_or_another_one_is_refused_and_not_listed(store, newest, file):
    path = newest / file
    content = path.read_bytes()
    for size in sample(range(len(content)), 8):
        path.write_bytes(content[:size])
        assert_refused(store, newest)
        assert len(manifests(newest.parent)) == 1
    shutil.copy(newest.parent / "000001" / file, path)
    assert_refused(store, newest)
    path.unlink()
    assert_refused(store, newest)
    assert len(manifests(newest.parent)) == 1


@pytest.mark.parametrize(
    "manifest", [b"", b"\xff", b"[]", b"{}", b'{"format": 4}', b"[" * 100_000], ids=lambda text: str(text[:30])
)
def test_a_damaged_manifest_of_any_kind_is_a_refusal(store, newest, manifest):
    (newest / "manifest.json").write_bytes(manifest)
    assert_refused(store, newest)
    assert len(manifests(newest.parent)) == 1


def test_a_damaged_candidate_says_so_when_it_is_loaded(store, newest):
    candidate = store.candidates()[-1]
    with open(newest / "state.safetensors", "r+b") as file:
        file.write(b"?")
    with pytest.raises(ValueError, match="cannot be used"):
        candidate.load()
