"""What goes wrong, and hands where nobody expects them: nothing is lost, nothing is told that is not so."""

import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos
from tests.zoo import classifier

(X, Y), VALIDATION = demos.digits()
X, Y = X[:160], Y[:160]


def resting(tmp_path, model=None, name="run", **how):
    model = model or classifier()
    return babysit.Panda(model, tmp_path / name, seed=7).fit(X, Y, **{"epochs": 50, "paused": True, **how})


def actions(panda):
    return [(entry.author, entry.action) for entry in panda.journal]


def endless():
    while True:
        for i in range(0, 160, 20):
            yield X[i : i + 20], Y[i : i + 20]


class Failing(keras.layers.Layer):
    """Fails at one step, once."""

    at, armed = 9, True

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        self.count.assign_add(1.0)

        def check(count):
            cls = type(self)
            if cls.armed and count == cls.at:
                cls.armed = False
                raise RuntimeError("the step failed")
            return count

        seen = tf.py_function(check, [self.count.value], tf.float32)
        seen.set_shape(())
        return inputs + 0 * seen


def failing(optimizer):
    Failing.armed = True
    keras.utils.set_random_seed(3)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), Failing(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


# ----------------------------------------------------------------------------- steps that fail


class Hearing(keras.callbacks.Callback):
    """Is called at each step."""

    def on_train_batch_begin(self, batch, logs=None):
        pass


HOW = {
    "a schedule and a validation": lambda: {"validation_data": VALIDATION},
    "a ramp, epochs of three steps and hooks of batches": lambda: {"steps_per_epoch": 3, "callbacks": [Hearing()]},
}


@pytest.mark.parametrize("under, seldom", [*zip(HOW, (False, True), strict=True)])
def test_after_a_step_that_failed_the_state_is_that_of_a_boundary(tmp_path, monkeypatch, under, seldom):
    if seldom:  # as where a copy of the state takes long
        monkeypatch.setattr("babysit.session.session.SNAPSHOT_SHARE", 1e-9)
        monkeypatch.setattr("babysit.session.session.ONLY_SHARE", 1e-9)

    def begun(name):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5) if "schedule" in under else 0.02
        how = HOW[under]()
        panda = resting(tmp_path, failing(keras.optimizers.SGD(rate, momentum=0.9)), name, **how)
        if "ramp" in under:
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


# --------------------------------------------------------------------------- data that are gone


def test_a_refused_rewind_has_changed_nothing(tmp_path):
    with pytest.warns(UserWarning, match="generator"):
        panda = babysit.Panda(classifier(), tmp_path / "run").fit(endless(), steps_per_epoch=8, epochs=20, paused=True)
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
        panda = babysit.Panda(classifier(), tmp_path / "run").fit(endless(), steps_per_epoch=5).wait(60)
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
        model = classifier(hidden=8)
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


def test_from_before_a_thaw_a_checkpoint_is_still_good(tmp_path):
    model = classifier(hidden=8)
    model.layers[1].trainable = False
    panda = resting(tmp_path, model)
    panda.run(2)
    saved = panda.save("frozen")
    panda.run(3)
    digest = panda.digest()
    model.layers[1].trainable = True
    panda.run(2)
    panda.rewind("frozen")
    assert panda.digest() == saved.digest and not model.layers[1].trainable
    panda.run(3)
    assert panda.digest() == digest


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
    panda, twin = resting(tmp_path, shuffle=False), classifier()
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

    panda = resting(tmp_path, classifier("sgd"), callbacks=[Setting()])
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
    theirs = classifier()
    theirs.fit(X, Y, epochs=50, callbacks=[Stopping()], verbose=0)
    assert panda.step == int(theirs.optimizer.iterations) == 6


# ------------------------------------------------------------------ ramps, couplings, waiting


def accumulating(rate=0.01):
    return classifier(keras.optimizers.SGD(rate, gradient_accumulation_steps=4))


def test_a_waiting_change_outlives_a_kill_and_a_rewind_that_keeps_values_waits_too(tmp_path):
    panda = resting(tmp_path, accumulating(), batch_size=8)
    panda.run(2)
    panda.set(scaling="linear")
    assert panda.set(batch_size=16).step == 4
    killed = babysit.Panda.load(_copied(panda, tmp_path / "killed"), accumulating()).fit(X, Y, epochs=50, paused=True)
    for one in (panda, killed):
        one.run(4)
    assert killed.digest() == panda.digest()
    changes = [entry.changes for entry in killed.journal if "batch_size" in entry.changes and entry.action == "set"]
    assert changes == [{"batch_size": (8, 16), "learning_rate": (np.float32(0.01), 2 * np.float32(0.01))}]

    panda.rewind(2, hyperparameters="keep")  # the learning rate, as it was scaled, waits too
    panda.run(4)
    assert panda.history["batch_size"].tolist() == [8, 8, 8, 8, 16, 16]
    assert panda.history["learning_rate"].tolist() == [np.float32(0.01)] * 4 + [2 * np.float32(0.01)] * 2


def _copied(panda, folder):
    """What a kill would leave."""
    assert panda.checkpoints  # the start is on disk, and nothing is being written
    shutil.copytree(panda.directory, folder)
    return folder


# --------------------------------------------------------------------------------- two at once


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


def test_a_rate_that_the_variable_rounds_is_the_same_number_over_a_load_and_plain_keras_opens_what_was_saved(tmp_path):
    panda = resting(tmp_path)
    panda.set(learning_rate=0.00783146106207, momentum=0.5)
    panda.run(2)
    path, weights = panda.save("two").path / "model.keras", panda.model.get_weights()
    panda.run(1)
    panda.stop()
    digest = panda.wait(60).digest()
    again = babysit.Panda.load(panda.directory)
    again.model.optimizer.learning_rate = 0.3  # gives way to the recorded one
    again.fit(X, Y, batch_size=16, epochs=4, paused=True)
    assert (again.hyperparameters["learning_rate"].value, again.digest()) == (0.00783146106207, digest)

    with zipfile.ZipFile(path) as saved:
        assert b"babysit" not in saved.read("config.json")  # so that nothing of it is needed
    model = keras.saving.load_model(path)
    assert model.optimizer.momentum == 0.5
    for theirs, weight in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(theirs, weight)
