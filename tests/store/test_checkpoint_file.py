import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from babysit.core.controls import Controls
from babysit.core.position import Position
from babysit.core.state import State
from babysit.store.checkpoint_file import clear_away, manifests, numbered, read, remove, write
from tests.store.states import STATE, assert_equal, at, with_model

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
]
ABOUT = {"branch": "branch 1", "name": None, "kept": "", "environment": {"numpy": "2.1"}}


def saved(directory, state, number=1, **about):
    """The folder of a state that was written."""
    write(directory, state, ABOUT | about, number)
    return directory / f"{number:06d}"


def complete(directory):
    """The folders of the complete checkpoints, oldest first."""
    return [folder for folder, _ in manifests(directory)]


# ------------------------------------------------------------------------------ round trip


def test_a_state_comes_back_whole(tmp_path):
    folder = saved(tmp_path / "checkpoints", STATE, name="before")
    state, manifest = read(folder)
    assert_equal(state, STATE)
    assert state.digest() == STATE.digest() == manifest["digest"]
    assert (manifest["name"], manifest["branch"], manifest["event"]) == ("before", "branch 1", 17)
    assert manifests(folder.parent) == [(folder, json.loads(json.dumps(manifest)))]
    state.tensors["model"][0][...] = -1  # a copy, not the file
    assert_equal(read(folder)[0], STATE)


def test_the_least_state_comes_back(tmp_path):
    least = State(Position(), Controls(), {"model": [], "optimizer": [], "metrics": []})
    assert_equal(read(saved(tmp_path, least))[0], least)


@settings(max_examples=15)
@given(
    model=st.lists(
        arrays.arrays(dtype=st.sampled_from(DTYPES), shape=arrays.array_shapes(min_dims=0, min_side=0)), max_size=4
    )
)
def test_any_tensors_come_back_as_they_were(tmp_path_factory, model):
    assert_equal(read(saved(tmp_path_factory.mktemp("any"), with_model(*model)))[0], with_model(*model))


def test_odd_numbers_types_and_layouts_come_back(tmp_path):
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
    many = [np.array(i, "int32") for i in range(120)]
    state = with_model(odd, np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3), np.ones(2, "complex64"), *many)
    assert_equal(read(saved(tmp_path, state))[0], state)
    array = np.arange(24, dtype="float32").reshape(4, 6)
    views = [array.T, np.asfortranarray(array), array[::2, ::-1]]
    found, _ = read(saved(tmp_path, with_model(*views), 2))
    for view, back in zip(views, found.tensors["model"], strict=True):
        np.testing.assert_array_equal(view, back)


def test_a_type_that_the_format_does_not_know_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="complex128"):
        saved(tmp_path, with_model(np.zeros(3, "complex128")))
    with pytest.raises(TypeError):
        saved(tmp_path, STATE, name=object())
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------- the folders


def test_checkpoints_are_listed_oldest_first_and_never_overwritten(tmp_path):
    for number in (999_999, 1_000_000, 3):
        saved(tmp_path, at(number), number)
    assert [folder.name for folder in complete(tmp_path)] == ["000003", "999999", "1000000"]
    with pytest.raises(OSError):
        saved(tmp_path, STATE, 3)
    assert read(tmp_path / "000003")[0].position.step == 3
    assert complete(tmp_path / "none") == []


def test_stray_files_are_not_listed_and_stop_no_save(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "000012").write_text("mine too")
    (tmp_path / "000007").mkdir()
    assert complete(tmp_path) == []
    assert [folder.name for folder in numbered(tmp_path)] == ["000007", "000012"]
    assert [saved(tmp_path, STATE, 13)] == complete(tmp_path)


def test_what_a_killed_process_left_is_cleared_away_and_nothing_else(tmp_path):
    folder = saved(tmp_path, STATE)
    (tmp_path / ".000009.unfinished").mkdir()
    (tmp_path / ".000009.unfinished" / "state.safetensors").write_bytes(b"half")
    mine = [".git", ".000-mine", ".0000009-x", "notes"]
    for name in mine:
        (tmp_path / name).mkdir()
    clear_away(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, folder.name}
    remove(folder)
    assert {path.name for path in tmp_path.iterdir()} == set(mine)


def test_what_says_nothing_of_the_order_is_no_part_of_the_digest(tmp_path):
    one, other = (saved(tmp_path, STATE, number, name=f"n{number}") for number in (1, 2))
    later = replace(STATE, event=99)
    assert read(one)[1]["digest"] == read(other)[1]["digest"] == later.digest()
