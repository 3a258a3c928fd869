import errno
import json
import os
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from babysit.store import files as checkpoints
from babysit.store.files import State, checked_name, complete, load, save

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
]
STATE = State(
    tensors={
        "model": [np.arange(6, dtype="float32").reshape(2, 3), np.ones((), "float32")],
        "optimizer": [np.array(7, "int64"), np.full((2, 3), 0.1, "float32")],
        "metrics": [np.zeros((), "float32")],
    },
    hyperparameters={"learning_rate": 0.1, "batch_size": 32, "momentum": 0.9},
    structure=("momentum",),
    seed=3,
    epoch=1,
    cursor=64,
    passes=1,
    epoch_step=2,
    step=5,
)


def with_model(*arrays):
    return replace(STATE, tensors={**STATE.tensors, "model": list(arrays)})


def save_path(folder, state):
    return save(folder, state, {}) / "state.safetensors"


def assert_equal(one, other):
    assert replace(one, tensors={}) == replace(other, tensors={})
    assert one.tensors.keys() == other.tensors.keys()
    for group in one.tensors:
        for a, b in zip(one.tensors[group], other.tensors[group], strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()


# --------------------------------------------------------------------------- round trip


def test_a_state_comes_back_whole(tmp_path):
    folder = save(tmp_path / "checkpoints", STATE, {"name": "before", "branch": "branch 1"})
    state, manifest = load(folder)
    assert_equal(state, STATE)
    assert state.digest() == STATE.digest() == manifest["digest"]
    assert (manifest["name"], manifest["branch"]) == ("before", "branch 1")


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_shape_comes_back_as_itself(tmp_path, dtype, shape):
    state = with_model((np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype))
    assert_equal(load(save(tmp_path, state, {}))[0], state)


def test_the_short_float_of_accelerators_comes_back(tmp_path):
    state = with_model(np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3))
    assert_equal(load(save(tmp_path, state, {}))[0], state)


@pytest.mark.parametrize("dtype", ["complex128", "<U3", "datetime64[s]"])
def test_a_type_that_the_format_does_not_know_is_said_and_leaves_nothing(tmp_path, dtype):
    with pytest.raises(TypeError, match="cannot hold numbers of type"):
        save(tmp_path, with_model(np.zeros(3, dtype)), {})
    assert files(tmp_path) == []


def test_the_tensors_are_safetensors_as_its_own_reader_and_writer_have_them(tmp_path):
    arrays = [np.arange(3).astype(dtype) for dtype in (*DTYPES, "complex64")]
    path = save(tmp_path, with_model(*arrays), {}) / "state.safetensors"
    read = safetensors.numpy.load_file(path)
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(read[f"model/{i:05d}"], array)
        assert read[f"model/{i:05d}"].dtype == array.dtype
    assert path.stat().st_size == len(safetensors.numpy.save(read))


def test_bytes_in_the_other_order_are_turned(tmp_path):
    state = with_model(np.arange(3, dtype=">f4"))
    np.testing.assert_array_equal(safetensors.numpy.load_file(save_path(tmp_path, state))["model/00000"], [0, 1, 2])


@pytest.mark.parametrize("empty", ["model", "optimizer", "metrics"])
def test_a_group_without_tensors_comes_back_empty(tmp_path, empty):
    state = replace(STATE, tensors={**STATE.tensors, empty: []})
    assert_equal(load(save(tmp_path, state, {}))[0], state)


def test_a_state_without_any_tensor_comes_back(tmp_path):
    state = replace(STATE, tensors={"model": [], "optimizer": [], "metrics": []})
    assert_equal(load(save(tmp_path, state, {}))[0], state)


def test_not_a_number_infinity_and_minus_zero_keep_their_bits(tmp_path):
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
    assert_equal(load(save(tmp_path, with_model(odd), {}))[0], with_model(odd))


def test_arrays_that_lie_otherwise_in_memory_come_back_equal(tmp_path):
    array = np.arange(24, dtype="float32").reshape(4, 6)
    views = [array.T, np.asfortranarray(array), array[::2, ::-1]]
    state, _ = load(save(tmp_path, with_model(*views), {}))
    for view, found in zip(views, state.tensors["model"], strict=True):
        np.testing.assert_array_equal(view, found)


def test_more_tensors_than_a_digit_counts_keep_their_order(tmp_path):
    state = with_model(*(np.array(i, "int32") for i in range(120)))
    found, _ = load(save(tmp_path, state, {}))
    assert [int(array) for array in found.tensors["model"]] == list(range(120))


def test_hyperparameters_keep_every_bit_and_their_order(tmp_path):
    values = {"momentum": 0.1 + 0.2, "learning_rate": 5e-324, "batch_size": 2**40}
    found, _ = load(save(tmp_path, replace(STATE, hyperparameters=values), {}))
    assert list(found.hyperparameters.items()) == list(values.items())
    assert isinstance(found.hyperparameters["batch_size"], int)


@given(
    model=st.lists(
        arrays.arrays(dtype=st.sampled_from(DTYPES), shape=arrays.array_shapes(min_dims=0, min_side=0)),
        max_size=4,
    )
)
def test_any_tensors_come_back_as_they_were(tmp_path_factory, model):
    folder = save(tmp_path_factory.mktemp("any"), with_model(*model), {})
    assert_equal(load(folder)[0], with_model(*model))


def test_what_is_loaded_is_not_what_lies_on_disk(tmp_path):
    folder = save(tmp_path, STATE, {})
    state, _ = load(folder)
    for group in state.tensors.values():
        for array in group:
            array[...] = -1
    assert_equal(load(folder)[0], STATE)


# ------------------------------------------------------------------------------- digest

CHANGED = {
    "value": with_model(np.arange(1, 7, dtype="float32").reshape(2, 3), np.ones((), "float32")),
    "a single bit": with_model(np.nextafter(STATE.tensors["model"][0], np.float32(9)), np.ones((), "float32")),
    "sign of zero": with_model(-STATE.tensors["model"][0], np.ones((), "float32")),
    "shape": with_model(np.arange(6, dtype="float32").reshape(3, 2), np.ones((), "float32")),
    "a dimension of one": with_model(STATE.tensors["model"][0], np.ones(1, "float32")),
    "type": with_model(np.arange(6, dtype="float64").reshape(2, 3), np.ones((), "float32")),
    "type of the same bits": with_model(STATE.tensors["model"][0].view("int32"), np.ones((), "float32")),
    "order": with_model(*STATE.tensors["model"][::-1]),
    "one tensor fewer": with_model(*STATE.tensors["model"][:1]),
    "a tensor in another group": replace(
        STATE,
        tensors={
            "model": [*STATE.tensors["model"], STATE.tensors["optimizer"][0]],
            "optimizer": STATE.tensors["optimizer"][1:],
            "metrics": STATE.tensors["metrics"],
        },
    ),
    "hyperparameter": replace(STATE, hyperparameters={**STATE.hyperparameters, "momentum": 0.5}),
    "a hyperparameter more": replace(STATE, hyperparameters={**STATE.hyperparameters, "weight_decay": 0.0}),
    "a hyperparameter's name": replace(STATE, hyperparameters={"learning_rate": 0.1, "batch_size": 32, "beta_1": 0.9}),
    "hyperparameters swapped": replace(
        STATE, hyperparameters={"learning_rate": 0.9, "batch_size": 32, "momentum": 0.1}
    ),
    "seed": replace(STATE, seed=4),
    "epoch": replace(STATE, epoch=2),
    "cursor": replace(STATE, cursor=65),
}


def test_every_change_of_the_state_has_a_digest_of_its_own():
    digests = {what: state.digest() for what, state in CHANGED.items()}
    assert len({*digests.values(), STATE.digest()}) == 1 + len(CHANGED)


def test_the_digest_is_a_sha256_in_hexadecimal():
    assert len(bytes.fromhex(STATE.digest())) == 32


def test_the_digest_does_not_depend_on_the_step():
    assert replace(STATE, step=99).digest() == STATE.digest()


def test_the_digest_does_not_depend_on_how_mappings_are_ordered():
    other = replace(STATE, tensors=dict(reversed(STATE.tensors.items())))
    assert other.digest() == STATE.digest()


def test_the_digest_does_not_depend_on_the_names_of_layers():
    one, other = ({**STATE.hyperparameters, f"{layer}.rate": 0.5} for layer in ("dropout", "mine"))
    digests = [replace(STATE, hyperparameters=values).digest() for values in (one, other)]
    assert digests[0] == digests[1] != STATE.digest()


def test_where_an_epoch_has_steps_of_its_own_the_pass_counts_too():
    elsewhere = [replace(STATE, passes=0), replace(STATE, passes=0, epoch_step=3), STATE]
    assert len({state.digest() for state in elsewhere}) == 3


def test_the_digest_does_not_depend_on_how_arrays_lie_in_memory():
    array = STATE.tensors["model"][0]
    other = with_model(np.asfortranarray(array), STATE.tensors["model"][1])
    assert other.digest() == STATE.digest()


def test_the_digest_is_the_same_in_every_process_and_version():
    # Written down: checkpoints and exported scripts carry digests from run to run.
    plain = replace(STATE, tensors={"model": [np.zeros(2, "float32")], "optimizer": [], "metrics": []})
    assert plain.digest() == DIGEST


# ------------------------------------------------------------------------ whole or not


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_the_tensors_is_refused(tmp_path):
    path = save(tmp_path, STATE, {}) / "state.safetensors"
    for at in range(path.stat().st_size):
        flip(path, at)
        with pytest.raises(ValueError, match="cannot be used"):
            load(path.parent)
        flip(path, at)
    load(path.parent)


@pytest.mark.parametrize("bit", [0, 1, 4, 7])
def test_a_flipped_bit_anywhere_in_the_manifest_is_refused(tmp_path, bit):
    path = save(tmp_path, STATE, {"name": "before", "branch": "branch 1"}) / "manifest.json"
    accepted = []
    for at in range(path.stat().st_size):
        flip(path, at, bit)
        try:
            load(path.parent)
        except ValueError as error:
            assert "cannot be used" in str(error)
        else:
            accepted.append(path.read_bytes()[max(0, at - 20) : at + 20])
        flip(path, at, bit)
    assert accepted == []
    load(path.parent)


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("keep", [0, 1, 0.5])
def test_a_file_cut_short_is_refused(tmp_path, file, keep):
    path = save(tmp_path, STATE, {}) / file
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else -1])
    with pytest.raises(ValueError, match="cannot be used"):
        load(path.parent)


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
def test_a_missing_file_is_refused(tmp_path, file):
    folder = save(tmp_path, STATE, {})
    (folder / file).unlink()
    with pytest.raises(ValueError, match="cannot be used.*Choose another"):
        load(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be used"):
        load(tmp_path / "000001")


def test_tensors_of_another_checkpoint_are_refused(tmp_path):
    one, other = save(tmp_path, STATE, {}), save(tmp_path, CHANGED["value"], {})
    os.replace(other / "state.safetensors", one / "state.safetensors")
    with pytest.raises(ValueError, match="cannot be used"):
        load(one)


@pytest.mark.parametrize(
    "manifest",
    [None, [], "text", 3, {}, {"sha256": []}, {"sha256": None}],
    ids=json.dumps,
)
def test_a_manifest_written_by_hand_is_refused(tmp_path, manifest):
    folder = save(tmp_path, STATE, {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="cannot be used"):
        load(folder)


@pytest.mark.parametrize(
    "key, value",
    [
        ("shapes", []),
        ("shapes", None),
        ("shapes", {"model/00000": [7]}),
        ("shapes", {"model/00000": "2"}),
        ("state", {}),
        ("state", []),
        ("state", {**STATE.__dict__, "tensors": {}, "seed": -1}),
        ("state", {**STATE.__dict__, "tensors": {}, "cursor": 0.5}),
        ("state", {**STATE.__dict__, "tensors": {}, "hyperparameters": {"momentum": "much"}}),
        ("state", {**STATE.__dict__, "tensors": {}, "hyperparameters": []}),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(tmp_path, key, value):
    path = save(tmp_path, STATE, {}) / "manifest.json"
    manifest = json.loads(path.read_text())
    if isinstance(value, dict):
        value.pop("tensors", None)
    edited = {**manifest, key: value}
    del edited["seal"]
    path.write_bytes(checkpoints._text({**edited, "seal": checkpoints._seal(edited)}))
    with pytest.raises(ValueError, match="cannot be used"):
        load(path.parent)


# ----------------------------------------------------------------------- interruptions


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("call, nth", [("rename", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 4)])
def test_a_save_that_fails_leaves_nothing_and_the_next_one_works(tmp_path, monkeypatch, call, nth):
    folder, real, calls = tmp_path / "checkpoints", getattr(os, call), []
    first = save(folder, STATE, {})
    before = files(folder)

    def fails(*args):
        calls.append(args)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as disk:
        disk.setattr(os, call, fails)
        with pytest.raises(OSError, match="No space left"):
            save(folder, CHANGED["value"], {})
    assert files(folder) == before
    assert complete(folder) == [first]
    again = save(folder, CHANGED["value"], {})
    assert complete(folder) == [first, again]
    assert_equal(load(again)[0], CHANGED["value"])


def test_a_save_that_is_interrupted_by_hand_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, STATE, {})
    assert files(tmp_path) == []


def test_a_process_killed_while_it_saved_leaves_nothing_that_is_listed(tmp_path, monkeypatch):
    """As a kill leaves it: the clearing up after a failure does not run either."""

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    for call in ("rename", "fsync"):
        with monkeypatch.context() as process:
            process.setattr(os, call, killed)
            process.setattr(checkpoints.shutil, "rmtree", lambda *args, **kwargs: None)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, STATE, {})
        assert files(tmp_path) != []
        assert complete(tmp_path) == []
        save(tmp_path, STATE, {})  # with the same process number: numbers come round again
        (last,) = complete(tmp_path)
        assert_equal(load(last)[0], STATE)
        for file in last.iterdir():
            file.unlink()
        last.rmdir()


def test_what_the_manifest_cannot_say_is_refused_before_anything_is_left(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, STATE, {"name": object()})
    assert files(tmp_path) == []


# ----------------------------------------------------------------------------- the list


def test_checkpoints_are_listed_oldest_first_and_never_overwritten(tmp_path):
    folders = [save(tmp_path, replace(STATE, step=step), {}) for step in range(12)]
    assert complete(tmp_path) == folders
    assert len(set(folders)) == 12
    assert [load(folder)[0].step for folder in folders] == list(range(12))


def test_the_millionth_checkpoint_is_listed_last(tmp_path):
    save(tmp_path, STATE, {}, number=999_999)
    save(tmp_path, STATE, {})
    assert [folder.name for folder in complete(tmp_path)] == ["999999", "1000000"]


def test_a_number_once_used_is_not_used_for_another_while_it_lies_there(tmp_path):
    first, second = (save(tmp_path, STATE, {}) for _ in range(2))
    for file in first.iterdir():
        file.unlink()
    assert save(tmp_path, STATE, {}).name > second.name


def test_a_folder_that_is_not_there_lists_nothing(tmp_path):
    assert complete(tmp_path / "checkpoints") == []


def test_stray_files_are_not_listed_and_stop_no_save(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copytree(save(tmp_path / "other", STATE, {}), tmp_path / "000007-backup")
    (tmp_path / "12").write_text("mine too")
    folder = save(tmp_path, STATE, {})
    assert complete(tmp_path) == [folder]


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["best", "before decay", "0.5", "v1.2-rc_3", "after (2), late", "précis", "学習", "a" * 80]
)
def test_a_plain_name_is_taken_as_it_is(name):
    assert checked_name(name, ["other"]) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "../x", "..", ".", ".hidden", "/", "/etc/passwd", "a/b", "a\\b", "C:"),
        *("nul\0", "\0", "line\n", "line\nline", "tab\t", "~", "-rf", "a*", "a?", "<b>", "$HOME", "a'b"),
        *("a" * 81, "a" * 10_000, "\u202eevil"),
    ],
    ids=repr,
)
def test_any_other_name_is_refused_with_the_rule(name):
    with pytest.raises(ValueError, match="`name` must") as refusal:
        checked_name(name, [])
    assert len(str(refusal.value)) < 600


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="never overwritten"):
        checked_name("best", ["first", "best"])


@pytest.mark.parametrize("name", [None, 3, b"best", ["best"]], ids=repr)
def test_a_name_that_is_no_string_is_a_type_error(name):
    with pytest.raises(TypeError, match="`name` must be a string"):
        checked_name(name, [])


DIGEST = "ba73d3dfba36cc1e14170dd8eeb8470645c2a318ec58fb57d500027d8504df1d"
