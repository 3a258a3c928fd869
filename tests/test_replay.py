"""A whole run once more: identical, or the first step that is not."""

import contextlib
import hashlib
import json
import shutil
import sqlite3

import keras
import pytest
import tensorflow as tf

import babysit
from tests.test_timeline import Noisy, X, Y, network, only_the_start


def resting(tmp_path, model=None, **how):
    how = {"batch_size": 16, "epochs": 9, "paused": True} | how
    return babysit.Panda(model or network(), tmp_path / "run", seed=7).fit(X, Y, **how)


def ended(panda):
    panda.stop()
    return panda.wait()


def altered(directory, change, which="min"):
    """Changes the first or last change in the log without anyone's knowledge."""
    with contextlib.closing(sqlite3.connect(directory / "run.sqlite")) as database, database:
        found = f"SELECT {which}(seq), data FROM events WHERE kind = 'set'"
        seq, data = database.execute(found).fetchone()
        data = json.loads(data)
        data["changes"] = change(data["changes"])
        database.execute("UPDATE events SET data = ? WHERE seq = ?", (json.dumps(data), seq))


def contents(directory):
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def steered(panda):
    panda.run(5)
    panda.set(learning_rate=0.05, momentum=0.5, why="faster")
    panda.run(9)
    panda.set(batch_size=24)
    panda.save("here")
    panda.run(4)
    panda.rewind(7, hyperparameters="keep", skip=1)
    panda.run(6)
    panda.rewind("here")
    panda.set(learning_rate=0.001, over=4)
    panda.run(7)
    return ended(panda)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    panda = steered(resting(tmp_path_factory.mktemp("steered")))
    panda._close()
    return panda.directory


def test_a_steered_run_with_branches_replays_and_nothing_is_written(run):
    before = contents(run)
    replay = babysit.replay(run, network(), X, Y)
    assert (replay.identical, replay.first_difference, replay.branch) == (True, None, None)
    assert replay.steps == 18 + 6 + 7
    assert replay.compared >= 5 and replay.remarks == []
    assert "Identical" in str(replay)
    assert contents(run) == before


def test_an_entry_that_was_altered_is_found_out_at_its_step_and_another_environment_is_named(
    run, tmp_path, monkeypatch
):
    copy = shutil.copytree(run, tmp_path / "run")
    altered(copy, lambda changes: changes | {"learning_rate": [0.02, 0.0500001]})
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "1")
    replay = babysit.replay(copy, network(), X, Y)
    assert (replay.identical, replay.branch) == (False, "branch 1")
    assert 5 <= replay.first_difference <= 7
    assert "Differs at step" in str(replay)
    assert replay.remarks == ["The run was trained elsewhere: TF_DETERMINISTIC_OPS not set then, 1 now."]


def test_other_weights_do_not_matter_but_another_model_and_other_data_do(run, tmp_path):
    with pytest.raises(ValueError, match="must be the data"):
        babysit.replay(run, network(), X[::-1], Y)
    with pytest.raises(ValueError, match="of another model"):
        babysit.replay(run, network(keras.layers.Dense(3)), X, Y)
    with pytest.raises(ValueError, match="must hold a run"):
        babysit.replay(tmp_path / "nowhere", network(), X, Y)


def test_callbacks_edits_and_drawing_validations_replay(tmp_path):
    panda = resting(
        tmp_path,
        network(Noisy()),
        epochs=6,
        validation_data=(X[:40], Y[:40]),
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=0, min_delta=10.0),
            keras.callbacks.EarlyStopping(monitor="loss", patience=4, min_delta=10.0, restore_best_weights=True),
        ],
    )
    panda.resume()
    panda.wait()
    assert {"set", "edit"} <= {entry.action for entry in panda.journal}
    replay = babysit.replay(panda.directory, network(Noisy()), X, Y)  # what was drawn is in the record
    assert replay.identical, str(replay)


def test_what_cannot_be_taken_again_differs_and_nothing_is_claimed(tmp_path):
    restless = keras.layers.Lambda(lambda x: x + 0.01 * tf.random.normal(tf.shape(x)))
    panda = resting(tmp_path, network(restless))
    panda.run(12)
    with pytest.warns(UserWarning, match=r"The steps taken again differ from step \d on"):
        panda.rewind(5)
    panda.run(5)
    ended(panda)
    replay = babysit.replay(panda.directory, network(restless), X, Y)
    assert (replay.identical, replay.branch) == (False, "branch 2")


@pytest.mark.filterwarnings("ignore:The data ran out")
def test_fits_that_differ_in_what_an_epoch_is_and_a_run_taken_up_from_disk_replay_and_those_on_other_data_do_not(
    tmp_path,
):
    panda, found = babysit.Panda(network(), tmp_path / "run", seed=7), {}
    for how in ({"steps_per_epoch": 4}, {"batch_size": 32, "shuffle": False}, {"batch_size": 24, "shuffle": "batch"}):
        panda.fit(X[:96], Y[:96], **{"batch_size": 16, "epochs": 5, "paused": True} | how)
        panda.set(scaling="linear")  # what the next fit brings is not coupled
        panda.run(5)  # into the second epoch
        found[panda.step] = panda.digest()
        panda.run(1)
        ended(panda)
        panda.model.optimizer.learning_rate = 0.01
    panda.fit(X[:96], Y[:96], batch_size=16, epochs=5, paused=True)
    only_the_start(panda)
    for step in sorted(found, reverse=True):
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]
    panda.run(3)
    digest = panda.digest()
    ended(panda)
    panda = babysit.Panda.load(panda.directory, network()).fit(X[:96], Y[:96], epochs=20, paused=True)
    assert panda.digest() == digest
    panda.set(momentum=0.3)
    panda.run(7)
    ended(panda)
    replay = babysit.replay(panda.directory, network(), X[:96], Y[:96])
    assert replay.identical, str(replay)
    panda.fit(X[:96], Y[:96] + 1, paused=True)
    ended(panda)
    with pytest.raises(ValueError, match="must be the data"):
        babysit.replay(panda.directory, network(), X[:96], Y[:96])


def test_a_branch_that_began_at_what_a_callback_saved_replays(tmp_path):
    class Saving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if not panda.checkpoints[1:]:
                panda.save("first")

    panda = resting(tmp_path, callbacks=[Saving()])
    panda.run(9)
    panda.rewind("first")  # to the middle of the epoch's end, which is then done again
    panda.run(3)
    panda.rewind(7)
    assert panda.epoch == 1
    panda.run(2)
    ended(panda)
    replay = babysit.replay(panda.directory, network(), X, Y)
    assert replay.identical, str(replay)


def test_a_model_compiled_anew_replays_and_where_its_optimizer_was_replaced_up_to_there(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    ended(panda)
    panda.model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse", metrics=["mae"])
    panda.fit(X, Y, batch_size=16, epochs=9, paused=True)
    panda.run(3)
    panda.model.optimizer = keras.optimizers.Adam(0.003)
    panda.run(3)
    panda.rewind(8)
    panda.run(1)
    ended(panda)
    replay = babysit.replay(panda.directory, network(), X, Y)
    assert replay.identical and replay.steps == 6, str(replay)
    anew = "were not taken again: the model was compiled anew before, with another optimizer than the one given here."
    assert replay.remarks == [f"Steps 7 to 9 of branch 1 {anew}", f"Steps 9 to 9 of branch 2 {anew}"]
