from contextlib import closing
from pathlib import Path

import numpy as np
import pandas
import pytest
from babysit.session.history import History
from babysit.session.journal import Journal
from babysit.store.record import Record
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit.core.rows import ROOT

START = {"learning_rate": 0.1, "batch_size": 32}


class PlainModel:
    """What the line of training is, said with lists alone."""

    def __init__(self):
        self.lines = {ROOT: []}  # branch -> its rows from step 1 on
        self.branches = {ROOT: (None, 0)}
        self.branch, self.values = ROOT, dict(START)

    @property
    def line(self):
        return self.lines[self.branch]

    def take(self, epoch, losses):
        for loss in losses:
            self.line.append({"epoch": epoch, "loss": loss, "end": None, **self.values})

    def end_epoch(self, log):
        self.line[-1]["end"] = log

    def rewind(self, origin, step, values):
        name = f"branch {len(self.branches) + 1}"
        self.lines[name] = [dict(row) for row in self.lines[origin][:step]]
        self.branches[name] = (origin, step)
        self.branch, self.values = name, dict(values)


take = st.tuples(st.just("take"), st.integers(1, 5))
turn = st.tuples(st.just("set"), st.sampled_from([*START]), st.integers(1, 9))
rewind = st.tuples(st.just("rewind"), st.integers(0, 99), st.integers(0, 99), st.integers(1, 9))
end_epoch = st.tuples(st.just("end epoch"))


@settings(max_examples=300)
@given(actions=st.lists(st.one_of(take, turn, end_epoch, rewind), min_size=5, max_size=25))
def test_a_tree_of_branches_tells_the_same_as_plain_lists(actions):
    with closing(Record(Path(":memory:"), interval_s=3600)) as record:
        history, journal, plain = History(record), Journal(record), PlainModel()
        history.begin(START)
        for number, (action, *details) in enumerate(actions):
            do(history, journal, plain, number, action, *details)
        assert_same(history, plain)
        assert_same(History(record), plain)


def do(history, journal, plain, number, action, *details):
    """One action, on the history and on the model of it; every loss is one of a kind."""
    step = len(plain.line)
    if action == "take":
        losses = number + np.arange(details[0], dtype="float32") / 8
        history.append(number, step + 1, len(losses), {"loss": losses, "accuracy": -losses})
        plain.take(number, losses.tolist())
    elif action == "set":
        name, value = details
        about = {"author": "script", "action": "set", "branch": plain.branch}
        journal.append(step=step, changes={name: (plain.values[name], value)}, **about)
        plain.values[name] = value
    elif action == "end epoch" and step and plain.line[-1]["end"] is None and own(plain):
        history.append_epoch(number, step, {"loss": number / 8, "val_loss": number / 4})
        plain.end_epoch(number)
    elif action == "rewind":
        origin = list(plain.branches)[details[0] % len(plain.branches)]
        step = details[1] % (len(plain.lines[origin]) + 1)
        values = {"learning_rate": details[2], "batch_size": details[2] * 2}
        name = history.leave(step, origin, values)
        plain.rewind(origin, step, values)
        assert name == plain.branch


def own(plain):
    """Whether the present branch has taken a step of its own."""
    return len(plain.line) > plain.branches[plain.branch][1]


def assert_same(history, plain):
    assert history.branch == plain.branch
    assert history.branches == plain.branches
    assert history.steps == len(plain.line)
    np.testing.assert_array_equal(history["step"], np.arange(1, len(plain.line) + 1))
    for name in ("epoch", "loss", *START):
        np.testing.assert_array_equal(history[name], [row[name] for row in plain.line])
    if any(plain.lines.values()):
        assert "accuracy" in history or not plain.line
    ends = [row["end"] for row in plain.line if row["end"] is not None]
    expected = {"loss": [n / 8 for n in ends], "val_loss": [n / 4 for n in ends]} if ends else {}
    assert history.history == expected


# ------------------------------------------------------------------- as a user meets it


@pytest.fixture
def history(record):
    """Two epochs of three steps, in blocks of two and one."""
    history = History(record)
    history.begin(START)
    for epoch in (1, 2):
        first = 3 * epoch - 2
        history.append(epoch, first, 2, columns([first, first + 1]))
        history.append(epoch, first + 2, 1, columns([first + 2]))
        history.append_epoch(epoch, first + 2, {"loss": 1 / epoch, "accuracy": 0.5})
    return history


def columns(steps):
    steps = np.array(steps, "float32")
    return {"loss": 1 / steps, "accuracy": steps / 10}


def test_columns_are_step_epoch_loss_metrics_and_hyperparameters(history):
    assert history.columns == ["step", "epoch", "loss", "accuracy", "learning_rate", "batch_size"]


def test_it_is_a_mapping_of_its_columns(history):
    assert list(history) == history.columns
    assert len(history) == 6
    assert "loss" in history
    assert {name: len(column) for name, column in history.items()} == dict.fromkeys(history, 6)


def test_a_column_has_one_value_a_step(history):
    np.testing.assert_array_equal(history["step"], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(history["epoch"], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 3, 4, 5, 6])["loss"])


def test_a_column_keeps_the_bits_and_the_type_that_were_measured(record):
    history = History(record)
    history.begin(START)
    losses = np.random.default_rng(0).random(100)
    history.append(1, 1, len(losses), {"loss": losses})
    assert history["loss"].dtype == losses.dtype
    np.testing.assert_array_equal(history["loss"], losses)


def test_a_column_is_the_reader_s_own_copy(history):
    history["loss"][:] = -1
    assert (history["loss"] > 0).all()


@pytest.mark.parametrize("name", ["los", "val_loss", ""])
def test_an_unknown_column_is_a_key_error_that_names_the_known_ones(history, name):
    assert name not in history
    with pytest.raises(KeyError, match="accuracy"):
        history[name]


def test_a_nan_that_was_measured_is_told(history):
    history.append(3, 7, 1, {"loss": np.array([np.nan]), "accuracy": np.array([0.5])})
    assert np.isnan(history["loss"][-1])


def test_before_the_first_step_every_column_is_empty(record):
    history = History(record)
    history.begin(START)
    assert history.steps == 0
    assert history.epochs == {}
    for name in history.columns:
        assert history[name].shape == (0,)


def test_the_history_of_no_run_can_be_looked_at(record):
    history = History(record)
    assert history.columns == ["step", "epoch", "loss"]
    assert history["loss"].shape == (0,)
    assert history.branches == {}
    assert repr(history)


def test_a_hyperparameter_changes_behind_the_step_of_its_entry(history, record):
    journal = Journal(record)
    about = {"author": "script", "action": "set", "branch": ROOT}
    journal.append(step=2, changes={"learning_rate": (0.1, 0.5)}, **about)
    journal.append(step=4, changes={"learning_rate": (0.5, 0.2)}, **about)
    np.testing.assert_array_equal(history["learning_rate"], [0.1, 0.1, 0.5, 0.5, 0.2, 0.2])
    np.testing.assert_array_equal(history["batch_size"], [32] * 6)


@pytest.mark.parametrize("meanwhile", ["steps", "a rewind"])
def test_a_scheduled_column_is_of_one_moment_though_the_run_goes_on_as_it_is_read(record, meanwhile):
    history, read = History(record), record.rows
    history.begin({"learning_rate": 0.1})

    def take(steps=3):
        first = history.steps + 1
        rates = np.arange(first, first + steps, dtype="float32")
        history.append(1, first, steps, {"loss": rates, "learning_rate": rates})

    def rows(*about):  # another thread is quick
        record.rows = read
        if meanwhile == "steps" or history.branch != ROOT:
            take()
        else:
            history.leave(2, ROOT, {"learning_rate": 0.5})
        record.rows = rows
        return read(*about)

    take()
    record.rows = rows
    np.testing.assert_array_equal((found := history["learning_rate"]), np.arange(1, len(found) + 1))
    frame = history.to_pandas()
    np.testing.assert_array_equal(frame["learning_rate"], frame["loss"])
    assert len(found) and len(frame)


def test_of_two_changes_at_one_step_the_later_one_counts(history, record):
    journal = Journal(record)
    about = {"author": "script", "action": "set", "branch": ROOT}
    journal.append(step=3, changes={"learning_rate": (0.1, 0.5)}, **about)
    journal.append(step=3, changes={"learning_rate": (0.5, 0.3)}, **about)
    np.testing.assert_array_equal(history["learning_rate"], [0.1, 0.1, 0.1, 0.3, 0.3, 0.3])


def test_rewinding_leaves_the_metrics_columns_where_they_are(history):
    before = history.columns
    history.leave(4, ROOT, START)
    assert history.columns == before
    np.testing.assert_array_equal(history["accuracy"], columns([1, 2, 3, 4])["accuracy"])


def test_rewinding_into_a_block_keeps_its_steps_up_to_there(history):
    history.leave(1, ROOT, START)
    assert history.steps == 1
    np.testing.assert_array_equal(history["step"], [1])
    assert history.history == {}


def test_rewinding_to_before_the_branch_began_follows_its_parent_up_to_there(history):
    history.leave(4, ROOT, START)
    history.append(2, 5, 1, columns([50]))
    history.leave(2, "branch 2", START)
    history.append(1, 3, 1, columns([30]))
    np.testing.assert_array_equal(history["step"], [1, 2, 3])
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 30])["loss"])


def test_what_was_abandoned_stays_on_its_branch(history, record):
    history.leave(2, ROOT, START)
    history.append(1, 3, 1, columns([30]))
    rows = record.rows("blocks", "branch = ?", (ROOT,))
    assert sum(row["steps"] for row in rows) == 6
    assert history.branches == {ROOT: (None, 0), "branch 2": (ROOT, 2)}
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 30])["loss"])


def test_a_change_abandoned_by_rewinding_does_not_count(history, record):
    Journal(record).append(step=4, author="script", action="set", branch=ROOT, changes={"learning_rate": (0.1, 0.9)})
    history.leave(4, ROOT, START)
    history.append(2, 5, 2, columns([5, 6]))
    np.testing.assert_array_equal(history["learning_rate"], [0.1] * 6)


def test_epochs_are_what_model_fit_reports(history):
    assert history.history == {"loss": [1.0, 0.5], "accuracy": [0.5, 0.5]}
    assert list(history.epochs) == ["loss", "accuracy"]
    np.testing.assert_array_equal(history.epochs["loss"], [1.0, 0.5])


def test_to_pandas_is_the_columns_indexed_by_step(history):
    frame = history.to_pandas()
    steps = pandas.Index([1, 2, 3, 4, 5, 6], name="step")
    expected = pandas.DataFrame({name: history[name] for name in history.columns[1:]}, index=steps)
    pandas.testing.assert_frame_equal(frame, expected)
    assert frame.loc[4, "epoch"] == 2


def test_to_pandas_before_the_first_step_has_no_rows(record):
    history = History(record)
    history.begin(START)
    assert history.to_pandas().shape == (0, 4)


def test_a_reopened_history_stands_on_the_branch_begun_last(history, tmp_path, record):
    history.leave(3, ROOT, START)
    loss = history["loss"]
    record.close()
    again = Record(tmp_path / "run.sqlite")
    assert History(again).branch == "branch 2"
    np.testing.assert_array_equal(History(again)["loss"], loss)
    again.close()


def test_another_optimizer_brings_other_hyperparameters_and_nan_stands_where_there_are_none(history, record):
    Journal(record).append(step=6, action="fit", author="script", branch=ROOT, changes={"beta_1": (None, 0.9)})
    history.append(3, 7, 2, columns([7, 8]))
    assert history.columns[-3:] == ["learning_rate", "batch_size", "beta_1"]
    np.testing.assert_array_equal(history["beta_1"], [np.nan] * 6 + [0.9] * 2)
    history.leave(7, ROOT, {"learning_rate": 0.2, "beta_1": 0.8})
    history.append(3, 8, 1, columns([8]))
    np.testing.assert_array_equal(history["beta_1"], [np.nan] * 6 + [0.9, 0.8])
    np.testing.assert_array_equal(history["batch_size"], [32] * 7 + [np.nan])
    assert list(history.to_pandas().columns) == history.columns[1:]


def test_a_coupling_is_no_column(history, record):
    changes = {"scaling": ("off", "linear"), "momentum_correction": (False, True)}
    Journal(record).append(step=6, action="set", author="script", branch=ROOT, changes=changes)
    assert history.columns[-2:] == ["learning_rate", "batch_size"]


def test_epochs_may_hold_lists_of_different_lengths(history):
    history.append_epoch(3, 6, {"loss": 1.0, "sizes": [1, 2]})
    history.append_epoch(4, 6, {"loss": 1.0, "sizes": [1, 2, 3]})
    assert history.epochs["sizes"].tolist() == [[1, 2], [1, 2, 3]]
    assert history.epochs["loss"].tolist() == [1.0, 0.5, 1.0, 1.0]
