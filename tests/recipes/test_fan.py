"""Trying several values: each equals a run steered that way from the start, and nothing of it is left behind."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import babysit
from babysit import demos
from babysit.store import checkpoint_store
from tests.patience import until
from tests.recipes import spiky

(X, Y), _ = demos.digits()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def panda(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "run", seed=3)
    panda.fit(X[:256], Y[:256], batch_size=32, epochs=20, paused=True)
    panda.run(5)
    yield panda
    panda.stop()


def test_each_trial_is_the_run_with_that_value_and_afterwards_the_state_is_what_it_was(panda, tmp_path):
    digest = panda.digest()
    fan = panda.fan(learning_rate=[0.001, 0.05, 0.2], steps=20)
    assert (panda.state, panda.step, panda.digest()) == ("paused", 5, digest)
    assert panda.hyperparameters["learning_rate"].value == 0.01
    alone = babysit.Panda(demos.dense_network(seed=1), tmp_path / "alone", seed=3)
    alone.fit(X[:256], Y[:256], batch_size=32, epochs=20, paused=True)
    for trial, rate in zip(fan.trials, [0.001, 0.05, 0.2], strict=True):
        assert (trial.value, trial.steps, trial.ended) == (rate, 20, "")
        alone.rewind(0)
        alone.run(5)
        alone.set(learning_rate=rate)
        alone.run(20)
        np.testing.assert_array_equal(trial.losses, alone.history["loss"][5:])
        np.testing.assert_array_equal(panda.history.along(trial.branch)["loss"], alone.history["loss"])
        assert trial.loss == alone.history["loss"][-2:].mean()
    alone.stop()
    assert fan.best.loss == min(trial.loss for trial in fan.trials)
    assert "learning rate from step 5" in repr(fan) and repr(fan).count("the best") == 1

    panda.set(momentum=0.5)
    fan.none()
    assert (panda.state, panda.digest()) == ("paused", digest)
    fan.keep(fan.trials[1])
    assert (panda.step, panda.hyperparameters["learning_rate"].value) == (25, 0.05)
    np.testing.assert_array_equal(panda.history["loss"][5:], fan.trials[1].losses)


def test_short_trials_leave_nothing_on_disk(panda):
    fan = panda.fan(learning_rate=[0.001, 0.05], steps=2)
    assert not saved(panda) & {trial.branch for trial in fan.trials}


def test_the_share_that_is_done_grows_within_a_trial(panda):
    shares = []

    def watch():
        shares.append(panda.status()["foresight"]["doing"]["done"])
        return ()

    panda.watchers.append(watch)
    panda.fan(learning_rate=[0.001, 0.05], steps=40)  # of which an epoch has eight
    panda.watchers.remove(watch)
    assert shares == sorted(shares) and len({share for share in shares if 0 < share < 0.5}) >= 3


@pytest.fixture
def no_memory(monkeypatch):
    """For states, so that they are all written to disk."""
    monkeypatch.setattr(checkpoint_store, "MEMORY_BYTES", 0)


def test_what_was_saved_of_trials_goes_with_the_answer_and_every_step_can_still_be_reached(no_memory, panda):
    fan = panda.fan(learning_rate=[0.001, 0.05, 0.2], steps=20)
    first, kept, last = (trial.branch for trial in fan.trials)
    tips = {}
    for branch in (first, kept, last):
        panda.rewind(branch)
        tips[branch] = panda.digest()
    assert {first, kept, last} <= saved(panda)
    fan.keep(fan.trials[1])
    assert saved(panda) & {first, kept, last} == {kept}
    panda.run(10)
    for branch, digest in tips.items():  # a step that is taken again and differs would warn
        panda.rewind(branch)
        assert panda.digest() == digest
    panda.rewind(3)
    fan.none()
    assert not saved(panda) & {first, kept, last} and panda.step == 5


def saved(panda):
    return {one.branch for one in panda.checkpoints}


def test_hopeless_trials_end_early_and_a_run_that_ran_goes_on(panda):
    panda.resume()
    fan = panda.fan(learning_rate=[0.05, 1.0, 0.01], steps=60)
    calm, wild, _ = fan.trials
    assert calm.ended == "" and wild.ended in ("hopeless", "not finite") and wild.steps < 60
    assert wild.ended in repr(fan) and panda.state == "paused"
    fan.keep(fan.best)
    panda.pause()
    assert panda.step >= fan._start.step + 60


def test_other_hyperparameters_and_the_end_of_the_fit(panda):
    fan = panda.fan(batch_size=[16, 128], steps=8)
    assert [len(trial.losses) for trial in fan.trials] == [8, 8] and panda.step == 5
    panda.run(20 * 8 - 5 - 4)
    fan = panda.fan(momentum=[0.0, 0.9], steps=10)
    assert [(trial.steps, trial.ended) for trial in fan.trials] == [(4, "the fit was over")] * 2
    assert (panda.state, panda.step) == ("paused", 156)


def test_bad_values_leave_the_state_as_it_was(panda):
    digest, branches = panda.digest(), panda.branches
    for error, values in (
        (TypeError, {}),
        (TypeError, {"learning_rate": [0.1, 0.2], "momentum": [0.1, 0.2]}),
        (ValueError, {"learning_rate": 0.1}),
        (ValueError, {"learning_rate": [0.1] * 9}),
        (ValueError, {"learning_rate": [0.1, -1.0]}),
        (ValueError, {"colour": [1, 2]}),
        (ValueError, {"learning_rate": [0.1, 0.2], "steps": 0}),
        (ValueError, {"learning_rate": [0.1, 0.2], "by": "nothing"}),
    ):
        with pytest.raises(error):
            panda.fan(**values)
        assert (panda.state, panda.digest(), panda.branches) == ("paused", digest, branches)
    panda.stop()
    panda.wait()
    with pytest.raises(ValueError, match="a run that is stopped"):
        panda.fan(learning_rate=[0.1, 0.2])


KILLED = """
import sys
from tests.recipes import spiky
panda = spiky.panda(sys.argv[1], epochs=10**6)
panda.run(20)
panda.fan(learning_rate=[0.001, 0.002], steps=10**7)
"""


def test_killed_in_the_middle_of_a_fan_it_goes_on_and_what_was_before_is_there(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run")], cwd=ROOT)
    try:
        until(lambda: (tmp_path / "run" / "run.sqlite").exists(), 120)
        until(lambda: trial_begun(tmp_path / "run"), 120)
    finally:
        process.kill()
        process.wait()
    panda = babysit.Panda.load(tmp_path / "run")
    panda.fit(*spiky.data(), batch_size=spiky.BATCH, epochs=10**6, shuffle=False, paused=True)
    steps = panda.step
    assert steps > 50 and panda.hyperparameters["learning_rate"].value == 0.001
    alone = spiky.panda(tmp_path / "alone", epochs=10**6)
    alone.run(20)
    before = alone.digest()
    alone.set(learning_rate=0.001)
    alone.run(steps - 20)
    assert panda.digest() == alone.digest()
    panda.rewind("branch 1")
    assert panda.digest() == before
    for one in (panda, alone):
        one.stop()


def trial_begun(folder):
    """Whether some steps of the first trial are on disk."""
    try:
        run = babysit.attach(folder)
    except (ValueError, sqlite3.Error):  # it has not begun
        return False
    return len(run.branches) == 2 and run.history.steps > 50


def test_a_run_in_which_things_were_tried_replays(tmp_path):
    panda = spiky.panda(tmp_path / "run")
    panda.watch("spike", then="rewind and skip")
    panda.run(20)
    panda.fan(learning_rate=[0.001, 0.02], steps=30).none()
    panda.lr_range_test(steps=20)
    panda.run(200)
    panda.stop()
    panda.wait()
    twin = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    twin.compile(keras.optimizers.SGD(0.01), "mse")
    replay = babysit.replay(panda.directory, twin, *spiky.data(), batch_size=spiky.BATCH, shuffle=False)
    assert replay.identical and replay.steps >= 300, str(replay)
