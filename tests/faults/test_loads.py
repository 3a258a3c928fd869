"""Whatever has become of a checkpoint on disk: it loads to its digest or is refused, and an older one serves."""

import json
import os
import shutil
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from babysit.store import files as checkpoints
from babysit.store.checkpoints import Shelf
from babysit.store.files import check_model, complete, described, load
from tests.faults import ALL, sample
from tests.test_checkpoints import STATE, assert_equal

OLD = replace(STATE, step=5)
NEW = replace(STATE, step=6, cursor=96, tensors={**STATE.tensors, "metrics": [np.ones((), "float32")]})
BRANCH = "branch 1"
FILES = ["manifest.json", "state.safetensors"]


def model_of(state):
    return lambda path: path.write_bytes(b"the model's own, of step %d" % state.step)


@pytest.fixture
def shelf(record, tmp_path):
    record.append("branches", name=BRANCH, parent=None, step=0, mark=0, hyperparameters={}, turn={})
    made = Shelf(record, tmp_path / "checkpoints")
    for state in (OLD, NEW):
        made.keep(state, f"step {state.step}", BRANCH, write_model=model_of(state))
    yield made
    made.close()


@pytest.fixture
def newest(shelf):
    return shelf.all[-1].path


def assert_refused(shelf, folder, why="cannot be used", listed=None):
    with pytest.raises(ValueError, match=why):
        load(folder)
    if listed is not None:
        assert [checkpoint.step for checkpoint in shelf.all] == listed
    assert_equal(shelf.newest_sound()[1], OLD)


def reseal(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["seal"]
    path.write_bytes(checkpoints._text({**manifest, "seal": checkpoints._seal(manifest)}))


def rewrite(folder, tensors, **changes):
    """Puts other tensors in, with sizes and hashes that agree."""
    path = folder / "state.safetensors"
    path.write_bytes(tensors)
    told = described_loosely(folder)
    told["sizes"][path.name], told["sha256"][path.name] = len(tensors), checkpoints._sha256(path)
    reseal(folder, sizes=told["sizes"], sha256=told["sha256"], **changes)


def described_loosely(folder):
    return json.loads((folder / "manifest.json").read_text())


# ------------------------------------------------------------------------------ flipped, cut


def places_in(path):
    """Every byte of a header, some of the rest."""
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0] if path.suffix == ".safetensors" else len(content)
    body = range(header, len(content)) if ALL else range(header, len(content), 5)
    return content, [*range(header), *body]


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_refused_and_the_one_before_serves(shelf, newest, file):
    path = newest / file
    content, places = places_in(path)
    for at in sample(places, 60):
        for bit in range(8) if ALL else [at % 8]:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            assert_refused(shelf, newest)
    path.write_bytes(content)
    assert_equal(shelf.newest_sound()[1], NEW)


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_or_grown_is_refused_and_not_listed(shelf, newest, file):
    path = newest / file
    content = path.read_bytes()
    for size in sample(range(len(content)), 40):
        path.write_bytes(content[:size])
        os.utime(path, ns=(size, size))  # the clock of a file system may not tell two writes apart
        assert_refused(shelf, newest, listed=[5])
    path.write_bytes(content + b"\0")
    assert_refused(shelf, newest, listed=[5])


# ------------------------------------------------------------- missing, doubled, swapped, links


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_and_not_listed(shelf, newest, file):
    (newest / file).unlink()
    assert_refused(shelf, newest, listed=[5])


@pytest.mark.parametrize("file", FILES)
def test_the_same_file_of_another_checkpoint_is_refused(shelf, newest, file):
    shutil.copy(shelf.all[0].path / file, newest / file)
    with pytest.raises(ValueError, match="cannot be used"):
        load(newest)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "link", "pipe", "folder"])
def test_a_damaged_model_file_is_told_and_the_state_beside_it_serves(shelf, newest, damage, tmp_path):
    path = newest / "model.keras"
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(content[:-1] + b"?")
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.rename(tmp_path / "elsewhere")
        {
            "missing": lambda: None,
            "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
        }[damage]()
    with pytest.raises(ValueError, match="model.keras"):
        check_model(newest)
    assert [checkpoint.step for checkpoint in shelf.all] == [5, 6]
    assert_equal(shelf.newest_sound()[1], NEW)


def test_folders_that_were_swapped_are_refused(shelf, tmp_path):
    one, other = (checkpoint.path for checkpoint in shelf.all)
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    for folder in (one, other):
        with pytest.raises(ValueError, match="copied or moved"):
            load(folder)
    with pytest.raises(ValueError, match="no checkpoint that can be used"):
        shelf.newest_sound()


def test_a_folder_that_was_doubled_is_not_listed_twice(shelf, newest, record):
    shutil.copytree(newest, newest.parent / "000009")
    assert [checkpoint.step for checkpoint in shelf.all] == [5, 6]
    assert [checkpoint.step for checkpoint in Shelf(record, newest.parent).all] == [5, 6]


def test_another_sound_checkpoint_in_its_place_is_refused(shelf, newest, tmp_path):
    shutil.rmtree(newest)
    checkpoints.save(newest.parent, replace(NEW, cursor=7), {}, number=int(newest.name))
    with pytest.raises(ValueError, match="not the one that the run saved"):
        shelf.found(newest.name)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused_and_hangs_nothing(shelf, newest, file, kind, tmp_path):
    path = newest / file
    path.rename(tmp_path / file)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / (file if kind == "link" else "nowhere"))
    assert_refused(shelf, newest, listed=[5])


def test_a_link_to_a_folder_is_no_checkpoint(shelf, newest, tmp_path):
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert_refused(shelf, newest, "no folder", listed=[5])


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "state\0", "x" * 10_000, "", "."])
def test_a_manifest_that_names_other_files_is_refused(shelf, newest, name):
    told = described(newest)
    reseal(newest, sizes={**told["sizes"], name: 5}, sha256={**told["sha256"], name: "0"})
    assert_refused(shelf, newest, "other files", listed=[5])


# ----------------------------------------------------------------------------- huge, or nonsense


def header_of(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "shape",
    [[10**12], [2**32, 2**32], [2**63], [2**62, 4], [2**62, 0], [10**30], [-4], [1.5], ["9"], None, 6, [[6]]],
    ids=str,
)
@pytest.mark.parametrize("reach", ["as declared", "as it is"])
def test_a_huge_shape_asks_for_no_memory(shelf, newest, shape, reach):
    header, body = header_of(newest / "state.safetensors")
    name = "model/00000"
    header[name]["shape"] = shape
    if reach == "as declared":
        try:
            header[name]["data_offsets"][1] = int(header[name]["data_offsets"][0] + 4 * np.prod(shape, dtype=object))
        except (TypeError, ValueError):
            return
    told = described(newest)["shapes"]
    rewrite(newest, packed(header, body), shapes={**told, name: shape})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cannot be used"):
            load(newest)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [0, 1, 7, 10**6, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused(shelf, newest, length):
    content = (newest / "state.safetensors").read_bytes()
    rewrite(newest, struct.pack("<Q", length) + content[8:])
    assert_refused(shelf, newest)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"7", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1}', b"1" * 10_000]
)
@pytest.mark.parametrize("file", ["manifest.json", "state.safetensors"])
def test_a_text_that_is_no_description_is_refused(shelf, newest, file, text):
    if file == "manifest.json":
        (newest / file).write_bytes(text)
        assert_refused(shelf, newest, listed=[5])
    else:
        rewrite(newest, struct.pack("<Q", len(text)) + text)
        assert_refused(shelf, newest)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F64"},
        {"dtype": "F13"},
        {"dtype": None},
        {"data_offsets": [0, 4]},
        {"data_offsets": [4, 0]},
        {"data_offsets": [-4, 20]},
        {"data_offsets": [0, 2**64]},
        {"data_offsets": []},
        {"data_offsets": "all"},
    ],
    ids=str,
)
def test_tensors_that_overlap_or_have_no_such_type_are_refused(shelf, newest, change):
    header, body = header_of(newest / "state.safetensors")
    header["model/00000"] |= change
    rewrite(newest, packed(header, body))
    assert_refused(shelf, newest)


def test_more_or_fewer_tensors_than_the_manifest_tells_are_refused(shelf, newest):
    tensors = safetensors.numpy.load_file(newest / "state.safetensors")
    rewrite(newest, safetensors.numpy.save({**tensors, "model/00009": np.zeros(3)}))
    assert_refused(shelf, newest, "other names or shapes")
    del tensors["model/00001"]
    rewrite(newest, safetensors.numpy.save(tensors))
    assert_refused(shelf, newest, "other names or shapes")


def test_sizes_and_hashes_are_checked_before_any_tensor_is_read(shelf, newest, monkeypatch):
    path = newest / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(safetensors.numpy, "load_file", lambda *args: pytest.fail("it was read all the same"))
    with pytest.raises(ValueError, match="has changed"):
        load(newest)


def test_a_disk_that_cannot_be_read_refuses_the_checkpoint_and_not_the_process(shelf, newest, monkeypatch):
    real = os.open

    def unreadable(path, *args, **kwargs):
        if str(path).startswith(str(newest)):
            raise OSError(5, "Input/output error")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", unreadable)
        assert_refused(shelf, newest, "Input/output error")
    assert_equal(shelf.newest_sound()[1], NEW)


def test_a_checkpoint_of_a_newer_version_says_so(shelf, newest):
    reseal(newest, format=checkpoints.FORMAT + 1)
    assert_refused(shelf, newest, "Update|update babysit")


def test_stray_entries_in_the_folder_are_not_listed(shelf, newest):
    for name in ("9" * 4000)[:200], "000008", "٣", "-1", "1e3":
        (newest.parent / name).mkdir()
    (newest.parent / "000007").write_text("mine")
    assert len(complete(newest.parent)) == 2
    assert [checkpoint.step for checkpoint in shelf.all] == [5, 6]
