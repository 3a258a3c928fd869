"""What goes wrong, and hands where nobody expects them: nothing is lost, nothing is told that is not so."""

import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos
from tests.patience import until

(X, Y), VALIDATION = demos.digits()
X, Y = X[:160], Y[:160]


def resting(tmp_path, model=None, name="run", **how):
    model = model or demos.dense_network(seed=3)
    return babysit.Panda(model, tmp_path / name, seed=7).fit(X, Y, **{"epochs": 50, "paused": True, **how})


def actions(panda):
    return [(entry.author, entry.action) for entry in panda.journal]


def endless():
    while True:
        for i in range(0, 160, 20):
            yield X[i : i + 20], Y[i : i + 20]


class Failing(keras.layers.Layer):
    """Fails at one step, or from it on, as long as it is told to."""

    at, armed, always = 9, True, False

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        self.count.assign_add(1.0)

        def check(count):
            cls = type(self)
            if cls.armed and (count == cls.at or (cls.always and count >= cls.at)):
                cls.armed = cls.always
                raise RuntimeError("the step failed")
            return count

        seen = tf.py_function(check, [self.count.value], tf.float32)
        seen.set_shape(())
        return inputs + 0 * seen


def failing(optimizer=None, always=False):
    Failing.armed, Failing.always = True, always
    keras.utils.set_random_seed(3)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), Failing(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
    model.compile(optimizer or keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
    return model


# ----------------------------------------------------------------------------- steps that fail


class Hearing(keras.callbacks.Callback):
    """Is called at each step."""

    def on_train_batch_begin(self, batch, logs=None):
        pass


HOW = {
    "nothing": dict,
    "a schedule": dict,
    "a ramp": dict,
    "a validation": lambda: {"validation_data": VALIDATION},
    "epochs of three steps": lambda: {"steps_per_epoch": 3},
    "hooks of batches": lambda: {"callbacks": [Hearing()]},
}


@pytest.mark.parametrize("seldom", [False, True])
@pytest.mark.parametrize("under", HOW)
def test_after_a_step_that_failed_the_state_is_that_of_a_boundary(tmp_path, monkeypatch, under, seldom):
    if seldom:  # as where a copy of the state takes long
        monkeypatch.setattr("babysit.session.session.SNAPSHOT_SHARE", 1e-9)
        monkeypatch.setattr("babysit.session.session.ONLY_SHARE", 1e-9)

    def begun(name):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5) if under == "a schedule" else 0.02
        how = HOW[under]()
        panda = resting(tmp_path, failing(keras.optimizers.SGD(rate, momentum=0.9)), name, **how)
        if under == "a ramp":
            panda.set(learning_rate=1e-4, over=30)
        return panda

    panda = begun("failing")
    panda.resume()
    with pytest.raises(Exception, match="the step failed"):
        panda.wait(60)
    boundary = panda.step
    assert boundary < 9
    Failing.armed = False
    twin = begun("twin")
    Failing.armed = False
    if boundary:
        twin.run(boundary)
    assert (panda.epoch, panda.digest()) == (twin.epoch, twin.digest())
    for one in (panda, twin):
        assert len(one.history["loss"]) == boundary


def test_where_the_steps_fail_again_what_was_lost_is_told(tmp_path):
    panda = resting(tmp_path, failing(always=True))
    panda.run(4)
    Failing.at = 2
    try:
        with pytest.raises(Exception, match="the step failed"):
            panda.run(10)
    finally:
        Failing.at = 9
    Failing.armed = False
    assert panda.state == "failed"
    assert panda.step == panda.history.steps == len(panda.history["loss"])
    panda.fit(X, Y, paused=True)
    panda.run(2)
    assert panda.history["step"].tolist() == list(range(1, panda.step + 1))


@pytest.mark.parametrize("leave", [sys.exit, lambda: (_ for _ in ()).throw(KeyboardInterrupt)])
def test_a_callback_that_leaves_the_program_leaves_nobody_waiting(tmp_path, leave):
    class Leaving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            leave()

    panda = resting(tmp_path, callbacks=[Leaving()], paused=False)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        panda.wait(60)
    assert panda.state == "failed"
    assert panda.epoch == 1
    with pytest.raises(SystemExit):
        panda.call(lambda model: sys.exit(2))
    panda.fit(X, Y).wait(60)


# --------------------------------------------------------------------------- data that are gone


def test_a_refused_rewind_has_changed_nothing(tmp_path):
    with pytest.warns(UserWarning, match="generator"):
        panda = babysit.Panda(demos.dense_network(seed=3), tmp_path / "run").fit(
            endless(), steps_per_epoch=8, epochs=20, paused=True
        )
    panda.run(2)
    panda.save("a")
    panda.run(3)
    digest = panda.digest()
    with pytest.raises(ValueError, match="generator"):
        panda.rewind("a")
    assert (panda.step, panda.digest(), list(panda.branches)) == (5, digest, ["branch 1"])
    panda.run(2)
    assert panda.history["step"].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_second_fit_takes_a_new_generator_and_other_data_begin_an_epoch(tmp_path):
    with pytest.warns(UserWarning):
        panda = babysit.Panda(demos.dense_network(seed=3), tmp_path / "run").fit(endless(), steps_per_epoch=5).wait(60)
        panda.fit(endless(), steps_per_epoch=5, epochs=2, paused=True)
    panda.run(7)
    panda.stop()
    panda.wait(60)
    panda.fit(X[::-1].copy(), Y[::-1].copy(), batch_size=20).wait(60)
    assert (panda.epoch, panda.step) == (3, 12 + 8)


def test_a_fit_that_is_completed_has_the_steps_an_epoch_that_it_had(tmp_path):
    panda = resting(tmp_path, steps_per_epoch=3, epochs=4)
    panda.run(4)
    panda.stop()
    panda.wait(60)
    loaded = babysit.Panda.load(panda.directory)
    with pytest.raises(ValueError, match="`steps_per_epoch` must stay 3"):
        loaded.fit(X, Y, epochs=4, steps_per_epoch=2)
    assert loaded.fit(X, Y, epochs=4).wait(60).step == 12
    whole = resting(tmp_path, name="whole", steps_per_epoch=3, epochs=4, paused=False).wait(60)
    assert loaded.digest() == whole.digest()


# ------------------------------------------------------------------------------ hands and layers


def test_frozen_thawed_and_frozen_again_equals_a_fresh_trace(tmp_path):
    def cycled(name, fresh):
        model = demos.dense_network(seed=3)
        model.layers[1].trainable = False
        panda = resting(tmp_path, model, name)
        for flag in (True, False):
            panda.run(3)
            model.layers[1].trainable = flag
            if fresh:
                panda.set(momentum=0.9)  # has the change noticed before the blocks are forgotten
                panda._trainer._blocks.clear()
        panda.run(3)
        return panda.digest()

    assert cycled("cached", False) == cycled("fresh", True)


def test_a_rewind_brings_back_which_layers_learned(tmp_path):
    panda = resting(tmp_path)
    panda.run(2)
    panda.save("all learn")
    panda.run(3)
    digest = panda.digest()
    panda.model.layers[1].trainable = False
    panda.run(2)
    panda.rewind("all learn")
    assert panda.model.layers[1].trainable
    panda.run(3)
    assert panda.digest() == digest


def test_from_before_a_thaw_a_checkpoint_is_still_good(tmp_path):
    model = demos.dense_network(seed=3)
    model.layers[1].trainable = False
    panda = resting(tmp_path, model)
    panda.run(2)
    saved = panda.save("frozen")
    panda.run(3)
    digest = panda.digest()
    model.layers[1].trainable = True
    panda.run(2)
    panda.rewind("frozen")
    assert panda.digest() == saved.digest
    panda.run(3)
    assert panda.digest() == digest


def test_a_rewind_behind_an_early_stop_goes_on(tmp_path):
    stop = keras.callbacks.EarlyStopping("loss", patience=0, baseline=0.0)
    panda = resting(tmp_path, callbacks=[stop])
    panda.run(2)
    panda.save("a")
    panda.resume()
    panda.wait(60)
    assert panda.state == "finished"
    panda.rewind("a")
    panda.run(2)
    assert (panda.step, panda.state) == (4, "paused")


def test_a_fit_within_call_does_not_end_the_run(tmp_path):
    panda = resting(tmp_path)
    panda.run(2)

    def train(model):
        model.fit(X, Y, verbose=0, callbacks=[keras.callbacks.EarlyStopping("loss", patience=0, baseline=0.0)])

    panda.call(train)
    assert actions(panda)[-1] == ("script", "edit")
    panda.run(3)
    assert (panda.step, panda.state) == (5, "paused")


def test_compiled_anew_while_it_rests_it_goes_on_with_that(tmp_path):
    panda, twin = resting(tmp_path, shuffle=False), demos.dense_network(seed=3)
    panda.run(5)
    loss = keras.losses.SparseCategoricalCrossentropy()
    panda.model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    panda.run(5)
    assert actions(panda)[-1] == ("script", "edit")
    assert "beta_1" in panda.hyperparameters
    assert "momentum" not in panda.hyperparameters
    twin.fit(X, Y, shuffle=False, verbose=0)
    twin.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    twin.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(panda.model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_what_a_hand_sets_behind_load_is_told(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    panda.stop()
    panda.wait(60)
    loaded = babysit.Panda.load(tmp_path / "run")
    loaded.model.optimizer.learning_rate = 0.3
    loaded.fit(X, Y, epochs=50, paused=True)
    loaded.run(2)
    assert loaded.hyperparameters["learning_rate"].value == pytest.approx(0.3)
    assert loaded.history["learning_rate"][-1] == pytest.approx(0.3)


# ------------------------------------------------------------------------------- true entries


class Drawing(keras.layers.Layer):
    """Draws in inference too, as a variational autoencoder does; its seeds lie in a list."""

    def __init__(self):
        super().__init__()
        self.generators = [keras.random.SeedGenerator(1)]

    def call(self, inputs):
        return inputs + 0.01 * keras.random.normal(keras.ops.shape(inputs), seed=self.generators[0])


def test_seeds_drawn_in_a_validation_or_a_call_are_no_edit(tmp_path):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), Drawing(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    stop = keras.callbacks.EarlyStopping(patience=9)
    panda = resting(tmp_path, model, validation_data=VALIDATION, callbacks=[stop])
    panda.run(12)
    panda.save("here")
    panda.run(2)
    digest = panda.digest()
    panda.rewind("here")
    panda.call(lambda model: model.predict(X[:5], verbose=0))
    panda.run(2)
    assert panda.digest() == digest
    assert "edit" not in [entry.action for entry in panda.journal]


def test_velocities_that_a_callback_makes_by_set_are_no_edit(tmp_path):
    class Setting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                panda.set(momentum=0.9)
                panda.set(learning_rate=0.001)

    panda = resting(tmp_path, demos.dense_network("sgd", seed=3), callbacks=[Setting()])
    panda.run(7)
    assert [action for _, action in actions(panda)] == ["fit", "set", "set"]


def test_an_edit_is_seen_though_the_callback_calls_the_panda_too(tmp_path):
    class Halving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([w * 0.5 for w in self.model.get_weights()])
            panda.call(lambda model: model.predict(X[:5], verbose=0))

    panda = resting(tmp_path, callbacks=[Halving()])
    panda.run(5)
    assert actions(panda)[-1] == ("Halving", "edit")


def test_told_to_stop_before_its_first_step_it_takes_one_as_model_fit_does(tmp_path):
    class Stopping(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    panda = resting(tmp_path, callbacks=[Stopping()], paused=False).wait(60)
    theirs = demos.dense_network(seed=3)
    theirs.fit(X, Y, epochs=50, callbacks=[Stopping()], verbose=0)
    assert panda.step == int(theirs.optimizer.iterations) == 6


# ------------------------------------------------------------------ ramps, couplings, waiting


def test_a_refused_ramp_is_not_half_applied_and_one_that_leads_nowhere_is_none(tmp_path):
    panda = resting(tmp_path, ranges={"learning_rate": (1e-3, 0.1)}, batch_size=2)
    before = len(panda.journal)
    with pytest.raises(ValueError, match="`learning_rate`"):
        panda.set(scaling="linear", batch_size=100, momentum=0.5, over=10)
    assert panda.status()["couplings"]["scaling"] == "off"
    panda.run(2)
    assert panda.history["momentum"].tolist() == [0.9, 0.9]
    assert len(panda.journal) == before
    panda.set(learning_rate=0.05, momentum=0.9, over=2)  # momentum is 0.9 already
    panda.run(3)
    assert panda.history["momentum"].tolist() == [0.9] * 5


def accumulating(rate=0.01):
    return demos.dense_network(keras.optimizers.SGD(rate, gradient_accumulation_steps=4), seed=3)


def test_a_waiting_change_is_saved_rewound_and_forgotten_with_the_fit(tmp_path):
    panda = resting(tmp_path, accumulating(), batch_size=8)
    panda.run(2)
    panda.set(batch_size=16)
    panda.save("waiting")
    panda.run(4)
    digest = panda.digest()
    panda.rewind("waiting")
    panda.run(4)
    assert panda.digest() == digest
    assert panda.history["batch_size"].tolist() == [8, 8, 8, 8, 16, 16]
    panda.run(1)
    panda.set(batch_size=32)
    panda.stop()
    panda.wait(60)
    panda.fit(X, Y, batch_size=8, paused=True)
    panda.run(4)
    assert set(panda.history["batch_size"][-4:].tolist()) == {8}


def test_a_waiting_change_outlives_a_kill_and_a_new_fit_and_a_rewind_that_keeps_values_waits_too(tmp_path):
    def begun(name):
        panda = resting(tmp_path, accumulating(), name, batch_size=8)
        panda.run(2)
        panda.set(scaling="linear")
        assert panda.set(batch_size=16).step == 4
        return panda

    whole = begun("whole")
    whole.run(4)
    digest = whole.digest()

    panda = begun("run")
    killed = babysit.Panda.load(_copied(panda, tmp_path / "killed"), accumulating()).fit(X, Y, epochs=50, paused=True)
    killed.run(4)
    panda.stop()
    panda.wait(60)
    panda.fit(X, Y, epochs=50, paused=True)
    panda.run(4)
    assert [killed.digest(), panda.digest()] == [digest] * 2
    panda._database.flush()
    again = babysit.Panda.load(_copied(panda, tmp_path / "acted"), accumulating()).fit(X, Y, epochs=50, paused=True)
    for one in (killed, panda, again):
        changes = [entry.changes for entry in one.journal if "batch_size" in entry.changes and entry.action == "set"]
        assert changes == [{"batch_size": (8, 16), "learning_rate": (np.float32(0.01), 2 * np.float32(0.01))}]

    panda.rewind(2, hyperparameters="keep")  # among what is kept is the learning rate as it was scaled
    panda.run(4)
    assert panda.history["batch_size"].tolist() == [8, 8, 8, 8, 16, 16]
    assert panda.history["learning_rate"].tolist() == [np.float32(0.01)] * 2 + [2 * np.float32(0.01)] * 4
    panda.stop()
    panda.wait(60)
    replay = babysit.replay(panda.directory, accumulating(), X, Y)
    assert replay.identical, str(replay)


def _copied(panda, folder):
    """What a kill would leave."""
    assert panda.checkpoints  # the start is on disk, and nothing is being written
    shutil.copytree(panda.directory, folder)
    return folder


def test_what_a_waiting_change_asks_for_is_refused_at_once(tmp_path):
    panda = resting(tmp_path, accumulating(), batch_size=2, ranges={"learning_rate": (1e-3, 0.1)})
    panda.set(scaling="linear")
    panda.run(1)
    with pytest.raises(ValueError, match="`learning_rate`"):
        panda.set(batch_size=160)
    panda.run(5)
    assert panda.hyperparameters["batch_size"].value == 2


def test_a_ramp_of_a_hyperparameter_that_is_gone_ends_with_it(tmp_path):
    panda = resting(tmp_path)
    panda.set(momentum=0.5, over=1000)
    panda.run(2)
    panda.stop()
    panda.wait(60)
    panda.model.compile("adam", "sparse_categorical_crossentropy")
    panda.fit(X, Y).wait(60)
    assert panda.state == "finished"


def test_keep_keeps_couplings_and_a_rewind_tells_of_them(tmp_path):
    panda = resting(tmp_path)
    panda.save("off")
    panda.set(scaling="linear")
    assert panda.rewind("off", hyperparameters="keep").changes == {"scaling": ("off", "linear")}
    assert panda.rewind("off").changes == {"scaling": ("linear", "off")}


def test_scaling_leaves_a_schedule_alone(tmp_path):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    panda = resting(tmp_path, demos.dense_network(keras.optimizers.SGD(rate), seed=3))
    panda.set(scaling="linear")
    assert panda.set(batch_size=64).changes == {"batch_size": (32, 64)}


# --------------------------------------------------------------------------------- two at once


def test_who_asked_for_steps_is_told_though_somebody_resumes(tmp_path):
    panda = resting(tmp_path, epochs=10**6)
    asking = threading.Thread(target=panda.run, args=(400,))
    asking.start()
    until(lambda: panda.step > 0)  # asked before somebody resumes
    panda.resume()
    asking.join(60)
    assert not asking.is_alive()
    assert panda.state == "running"
    panda.run(1)
    assert panda.state == "paused"
    panda.stop()


def test_a_refused_fit_on_other_data_does_not_make_the_next_begin_its_epoch_anew(tmp_path):
    panda = resting(tmp_path)
    panda.run(2)
    panda.stop()
    panda.wait(60)
    with pytest.raises(ValueError, match="`ranges`"):
        panda.fit(X[:80], Y[:80], ranges={"depth": (1, 2)})
    panda.fit(X, Y, paused=True)
    panda.run(3)  # 160 examples are five steps
    assert (panda.step, panda.epoch) == (5, 1)


# ------------------------------------------------------------------- what is kept by itself


def test_what_a_person_saved_opens_in_plain_keras(tmp_path):
    panda = resting(tmp_path)
    panda.run(4)
    panda.set(momentum=0.5)
    saved = panda.save("four")
    weights = panda.model.get_weights()
    panda.run(3)
    code = f"""
import sys, keras, numpy as np
model = keras.saving.load_model({str(saved.path / "model.keras")!r})
assert not any(name.startswith("babysit") for name in sys.modules)
np.savez({str(tmp_path / "weights.npz")!r}, *model.get_weights(), momentum=model.optimizer.momentum)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "weights.npz") as found:
        assert found["momentum"] == 0.5
        for i, weight in enumerate(weights):
            np.testing.assert_array_equal(found[f"arr_{i}"], weight)


def test_automatic_checkpoints_are_made_while_it_trains_and_the_start_stays(tmp_path):
    panda = resting(tmp_path, epochs=10**6)
    panda.resume()
    until(lambda: len(panda.checkpoints) >= 4)
    panda.stop()
    panda.wait()
    found = panda.checkpoints
    assert found[0].step == 0
    assert [saved.step for saved in found] == sorted(saved.step for saved in found)


def test_a_rate_that_the_variable_rounds_is_the_same_number_over_a_load(tmp_path):
    panda = resting(tmp_path)
    panda.set(learning_rate=0.00783146106207)
    panda.run(2)
    panda.stop()
    digest = panda.wait(60).digest()
    again = babysit.Panda.load(panda.directory).fit(X, Y, batch_size=16, epochs=4, paused=True)
    assert (again.hyperparameters["learning_rate"].value, again.digest()) == (0.00783146106207, digest)
