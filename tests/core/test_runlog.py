"""The log and the history that is read from it: branches, columns, epochs."""

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit.core.controls import SCHEDULE
from babysit.core.events import ROOT, Branch, EpochEnd, Fit, Set, from_row, to_row
from babysit.core.history import History
from babysit.core.runlog import RunLog, Steps

START = {"learning_rate": 0.1, "batch_size": 32}


def begun(values=START):
    log = RunLog()
    log.rows = []
    log.on_append = log.rows.append
    log.add(ROOT, 0, Fit(values, changes={name: (None, value) for name, value in values.items()}))
    return log


def history_of(log):
    return History(log, lambda: present(log))


def present(log):
    return list(log.branches)[-1]


def take(log, columns):
    branch = present(log)
    return log.add_steps(branch, Steps(0, branch, log.tip(branch) + 1, columns))


def change(log, step, **changes):
    log.add(present(log), step, Set(changes))


def end_epoch(log, epoch, logs):
    log.add(present(log), log.tip(present(log)), EpochEnd(epoch, logs))


def leave(log, step, origin=ROOT, last=None, **keep):
    name = f"branch {len(log.branches) + 1}"
    log.add(name, step, Branch(origin, log.seq if last is None else last, keep=keep))
    return name


def reread(log):
    """The log as another process reads it."""
    again = RunLog()
    for row in log.rows:
        again.append(row if isinstance(row, Steps) else from_row(to_row(row)))
    return again


class PlainModel:
    """What a lineage is, in lists alone."""

    def __init__(self):
        self.lines = {ROOT: []}  # branch -> its rows from step 1 on
        self.branches = {ROOT: (None, 0)}
        self.branch, self.values = ROOT, dict(START)

    @property
    def line(self):
        return self.lines[self.branch]

    def take(self, losses):
        epoch = 1 + sum(row["end"] is not None for row in self.line)
        for loss in losses:
            self.line.append({"epoch": epoch, "loss": loss, "end": None, **self.values})

    def end_epoch(self, number):
        self.line[-1]["end"] = number

    def rewind(self, origin, step, values):
        name = f"branch {len(self.branches) + 1}"
        self.lines[name] = [dict(row) for row in self.lines[origin][:step]]
        self.branches[name] = (origin, step)
        self.branch, self.values = name, dict(values)


TAKE = st.tuples(st.just("take"), st.integers(1, 5))
SET = st.tuples(st.just("set"), st.sampled_from([*START]), st.integers(1, 9))
REWIND = st.tuples(st.just("rewind"), st.integers(0, 99), st.integers(0, 99), st.integers(1, 9))
END = st.tuples(st.just("end epoch"))


@settings(max_examples=100)
@given(actions=st.lists(st.one_of(TAKE, SET, END, REWIND), min_size=5, max_size=25))
def test_a_tree_of_branches_is_what_plain_lists_are(actions):
    log, plain = begun(), PlainModel()
    for number, (action, *details) in enumerate(actions):
        do(log, plain, number, action, *details)
    for one in (log, reread(log)):
        assert_same(history_of(one), plain)


def do(log, plain, number, action, *details):
    """One action, on the log and on the model of it; every loss is one of a kind."""
    step = len(plain.line)
    if action == "take":
        losses = number + np.arange(details[0], dtype="float32") / 8
        take(log, {"loss": losses, "accuracy": -losses})
        plain.take(losses.tolist())
    elif action == "set":
        name, value = details
        change(log, step, **{name: (plain.values[name], value)})
        plain.values[name] = value
    elif action == "end epoch" and step > plain.branches[plain.branch][1] and plain.line[-1]["end"] is None:
        end_epoch(log, number, {"loss": number / 8, "val_loss": number / 4})
        plain.end_epoch(number)
    elif action == "rewind":
        origin = list(plain.branches)[details[0] % len(plain.branches)]
        step = details[1] % (len(plain.lines[origin]) + 1)
        values = {"learning_rate": details[2], "batch_size": details[2] * 2}
        leave(log, step, origin, **{name: (None, value) for name, value in values.items()})
        plain.rewind(origin, step, values)


def assert_same(history, plain):
    assert (history.branch, history.branches, history.steps) == (plain.branch, plain.branches, len(plain.line))
    np.testing.assert_array_equal(history["step"], np.arange(1, len(plain.line) + 1))
    for name in ("epoch", "loss", *START):
        np.testing.assert_array_equal(history[name], [row[name] for row in plain.line])
    assert "accuracy" in history or not plain.line
    ends = [row["end"] for row in plain.line if row["end"] is not None]
    expected = {"loss": [n / 8 for n in ends], "val_loss": [n / 4 for n in ends]} if ends else {}
    assert history.history == expected


# ------------------------------------------------------------------- the history's columns


@pytest.fixture
def log():
    """Two epochs of three steps, in blocks of two and one."""
    log = begun()
    for epoch in (1, 2):
        first = 3 * epoch - 2
        take(log, columns([first, first + 1]))
        take(log, columns([first + 2]))
        end_epoch(log, epoch, {"loss": 1 / epoch, "accuracy": 0.5, "val_loss": 2.0})
    return log


@pytest.fixture
def history(log):
    return history_of(log)


def columns(steps):
    steps = np.array(steps, "float32")
    return {"loss": 1 / steps, "accuracy": steps / 10}


def test_it_is_a_mapping_of_step_epoch_loss_metrics_and_hyperparameters(history):
    assert history.columns == ["step", "epoch", "loss", "accuracy", "learning_rate", "batch_size"]
    assert list(history) == history.columns
    assert len(history) == 6
    assert "loss" in history
    assert {name: len(column) for name, column in history.items()} == dict.fromkeys(history, 6)
    assert "6 steps" in repr(history)


def test_a_column_has_one_value_a_step(history):
    np.testing.assert_array_equal(history["step"], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(history["epoch"], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 3, 4, 5, 6])["loss"])


def test_a_column_keeps_the_bits_and_the_type_that_were_measured():
    log, losses = begun(), np.random.default_rng(0).random(100)
    take(log, {"loss": losses})
    for one in (log, reread(log)):
        assert history_of(one)["loss"].dtype == losses.dtype
        np.testing.assert_array_equal(history_of(one)["loss"], losses)


def test_a_column_is_the_readers_own_copy(history):
    for name in history:
        history[name][:] = -1
        assert (history[name] > 0).all()


@pytest.mark.parametrize("name", ["los", ""])
def test_an_unknown_column_is_a_key_error_that_names_the_known_ones(history, name):
    assert name not in history
    with pytest.raises(KeyError, match="accuracy"):
        history[name]


def test_what_is_measured_once_an_epoch_is_no_column(history):
    with pytest.raises(KeyError, match="once an epoch is in `history.epochs`"):
        history["val_loss"]


def test_a_nan_that_was_measured_is_kept(log, history):
    take(log, {"loss": np.array([np.nan], "float32"), "accuracy": np.array([0.5], "float32")})
    assert np.isnan(history["loss"][-1])
    assert np.isnan(log.loss(ROOT, 7)) and "loss" in log.names(log.lineage(ROOT))


def test_a_metric_that_is_measured_later_is_nan_before(log, history):
    take(log, columns([7]) | {"recall": np.array([0.25], "float32")})
    np.testing.assert_array_equal(history["recall"], [np.nan] * 6 + [0.25])


def test_before_the_first_step_every_column_is_empty():
    history = history_of(begun())
    assert (history.steps, history.epochs) == (0, {})
    assert all(history[name].shape == (0,) for name in history.columns)
    assert history.to_pandas().shape == (0, 4)


def test_the_history_of_no_run_can_be_looked_at():
    history = history_of(RunLog())
    assert history.columns == ["step", "epoch", "loss"]
    assert history["loss"].shape == (0,)
    assert repr(history)


def test_a_hyperparameter_changes_after_the_step_of_its_event(log, history):
    change(log, 2, learning_rate=(0.1, 0.5))
    change(log, 4, learning_rate=(0.5, 0.2))
    np.testing.assert_array_equal(history["learning_rate"], [0.1, 0.1, 0.5, 0.5, 0.2, 0.2])
    np.testing.assert_array_equal(history["batch_size"], [32] * 6)


def test_of_two_changes_at_one_step_the_later_one_counts(log, history):
    change(log, 3, learning_rate=(0.1, 0.5))
    change(log, 3, learning_rate=(0.5, 0.3))
    np.testing.assert_array_equal(history["learning_rate"], [0.1, 0.1, 0.1, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("meanwhile", ["steps", "a rewind"])
def test_a_scheduled_column_is_of_one_moment_though_the_run_goes_on_as_it_is_read(monkeypatch, meanwhile):
    log, column = begun({"learning_rate": SCHEDULE}), RunLog.column

    def more(steps=3):
        first = log.tip(present(log)) + 1
        rates = np.arange(first, first + steps, dtype="float32")
        take(log, {"loss": rates, "learning_rate": rates})

    def read(*about):  # another thread is quick
        if meanwhile == "steps" or present(log) != ROOT:
            more()
        else:
            leave(log, 2, learning_rate=(SCHEDULE, 0.5))
        return column(*about)

    more()
    monkeypatch.setattr(RunLog, "column", read)
    history = history_of(log)
    np.testing.assert_array_equal((found := history["learning_rate"]), np.arange(1, len(found) + 1))
    frame = history.to_pandas()
    np.testing.assert_array_equal(frame["learning_rate"][:2], frame["loss"][:2])
    assert len(found) and len(frame)


def test_a_rewind_leaves_the_metrics_columns_where_they_are(log, history):
    before = history.columns
    leave(log, 4)
    assert history.columns == before
    np.testing.assert_array_equal(history["accuracy"], columns([1, 2, 3, 4])["accuracy"])


def test_a_rewind_into_a_block_keeps_its_steps_up_to_there(log, history):
    leave(log, 1)
    np.testing.assert_array_equal(history["step"], [1])
    assert history.history == {}


def test_a_rewind_to_before_the_branch_began_follows_its_parent_up_to_there(log, history):
    leave(log, 4)
    take(log, columns([50]))
    leave(log, 2, "branch 2")
    take(log, columns([30]))
    np.testing.assert_array_equal(history["step"], [1, 2, 3])
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 30])["loss"])


def test_what_was_abandoned_stays_on_its_branch(log, history):
    leave(log, 2)
    take(log, columns([30]))
    assert history.branches == {ROOT: (None, 0), "branch 2": (ROOT, 2)}
    np.testing.assert_array_equal(history["loss"], columns([1, 2, 30])["loss"])
    np.testing.assert_array_equal(history.along(ROOT)["loss"], columns([1, 2, 3, 4, 5, 6])["loss"])
    with pytest.raises(KeyError, match="`branch 3` is no branch"):
        history.along("branch 3")


def test_a_change_at_the_step_returned_to_counts_only_if_the_state_contains_it(log, history):
    change(log, 4, learning_rate=(0.1, 0.9))
    saved = log.seq
    change(log, 4, learning_rate=(0.9, 0.7))
    for last, rate in ((saved - 1, 0.1), (saved, 0.9), (saved + 1, 0.7)):
        leave(log, 4, last=last)
        take(log, columns([5, 6]))
        np.testing.assert_array_equal(history["learning_rate"], [0.1] * 4 + [rate] * 2)


def test_epochs_are_what_model_fit_reports(history):
    assert history.history == {"loss": [1.0, 0.5], "accuracy": [0.5, 0.5], "val_loss": [2.0, 2.0]}
    assert list(history.epochs) == ["loss", "accuracy", "val_loss"]
    np.testing.assert_array_equal(history.epochs["loss"], [1.0, 0.5])


def test_to_pandas_is_the_columns_indexed_by_step(history):
    frame = history.to_pandas()
    steps = pandas.Index([1, 2, 3, 4, 5, 6], name="step")
    expected = pandas.DataFrame({name: history[name] for name in history.columns[1:]}, index=steps)
    pandas.testing.assert_frame_equal(frame, expected)
    assert frame.loc[4, "epoch"] == 2


def test_another_optimizer_brings_other_hyperparameters_and_nan_fills_where_there_are_none(log, history):
    log.add(ROOT, 6, Fit({"learning_rate": 0.1, "beta_1": 0.9}, changes={"beta_1": (None, 0.9)}))
    take(log, columns([7, 8]))
    assert history.columns[-3:] == ["learning_rate", "batch_size", "beta_1"]
    np.testing.assert_array_equal(history["beta_1"], [np.nan] * 6 + [0.9] * 2)
    np.testing.assert_array_equal(history["batch_size"], [32] * 6 + [np.nan] * 2)
    leave(log, 7, learning_rate=(0.1, 0.2), beta_1=(0.9, 0.8))
    take(log, columns([8]))
    np.testing.assert_array_equal(history["beta_1"], [np.nan] * 6 + [0.9, 0.8])
    assert list(history.to_pandas().columns) == history.columns[1:]


def test_a_coupling_is_no_column(log, history):
    change(log, 6, scaling=("off", "linear"))
    assert history.columns[-2:] == ["learning_rate", "batch_size"]
