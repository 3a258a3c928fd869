"""What users call: how a run goes, what is refused, and what happens when it goes wrong."""

import gc
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos, startup
from tests.patience import until

(X, Y), VALIDATION = demos.digits()
X, Y = X[:320], Y[:320]


@pytest.fixture
def model():
    """A model that is quickly compiled, as here nothing depends on what is in it."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers], name="digits-dense")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run that goes on from test to test, as compiling one takes the longest; of nearly endless epochs."""
    folder = tmp_path_factory.mktemp("shared")
    panda = babysit.Panda(demos.dense_network(seed=1), folder, seed=1).fit(X, Y, epochs=10_000, paused=True)
    yield panda
    panda.stop()
    panda.wait(60)


@pytest.fixture
def resting(shared):
    """That run, at rest before its first step, on a new branch."""
    shared.pause()
    shared.rewind(0)
    return shared


def actions(panda, since=0):
    return [entry.action for entry in panda.journal[since:]]


def refused(call, error, *words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


# --------------------------------------------------------------------------- runs of their own


def test_fit_returns_at_once_and_wait_when_it_is_done(model):
    panda = babysit.Panda(model)
    assert (panda.state, panda.step, panda.epoch) == ("idle", 0, 0)
    for call in (panda.wait, panda.run, panda.resume):
        refused(call, ValueError, "fit(...)")
    refused(lambda: panda.set(batch_size=3), ValueError, "`batch_size`")
    refused(lambda: panda.save("early"), ValueError, "fit(..., paused=True)")
    assert panda.fit(X, Y, epochs=500) is panda
    assert panda.state == "running"
    assert sys.getswitchinterval() == pytest.approx(0.0002)  # Python changes threads often from the first training on
    assert panda.pause() is None
    panda.pause()
    assert panda.state == "paused"
    panda.resume()
    panda.resume()
    panda.stop()
    panda.stop()
    assert panda.wait() is panda
    panda.pause()
    assert panda.state == "stopped"
    assert actions(panda) == ["fit", "pause", "resume", "stop"]


def test_a_finished_fit_goes_on_with_more_epochs_in_the_same_run_and_can_be_rewound(model, tmp_path):
    panda = babysit.Panda(model, tmp_path / "a", seed=3).fit(X, Y, epochs=2, paused=True)
    panda.run(1000)
    assert (panda.state, panda.epoch, panda.step) == ("finished", 2, 20)  # fewer where the run ends
    panda.fit(X, Y, epochs=1).wait()
    assert (panda.state, panda.epoch, panda.step) == ("finished", 3, 30)
    assert len(panda.history.epochs["loss"]) == 3
    end = panda.digest()
    panda.rewind(0)
    assert (panda.state, panda.step) == ("paused", 0)
    panda.stop()
    panda.fit(X, Y, epochs=3).wait()
    assert panda.digest() == end


def test_set_while_idle_finished_or_stopped_applies_at_once_and_the_model_is_stock_again(model, tmp_path):
    model.optimizer.momentum = 0.0
    panda = babysit.Panda(model)
    panda.set(learning_rate=0.5)
    assert float(model.optimizer.learning_rate) == 0.5
    panda.fit(X, Y, paused=True)
    panda.run(3)
    panda.set(momentum=0.8)
    panda.resume()
    panda.wait()
    entry = panda.set(momentum=0.25, batch_size=10)
    assert entry.step == panda.step == 10
    assert type(model.optimizer.momentum) is float and model.optimizer.momentum == 0.25
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.momentum == 0.25
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    model.optimizer.learning_rate, model.optimizer.momentum = 0.3, 0.2
    panda.fit(X, Y, epochs=1).wait()
    assert panda.step == 10 + 32
    found = panda.hyperparameters
    assert [found[name].value for name in ("learning_rate", "momentum")] == [0.3, 0.2]
    assert model.optimizer.momentum == 0.2


def test_a_model_made_for_one_batch_size_trains_and_has_no_dial_for_it(tmp_path):
    def fixed():
        keras.utils.set_random_seed(4)
        inputs = keras.Input(batch_shape=(32, 8, 8, 1))
        rows = keras.layers.Reshape((8, 8))(inputs)
        outputs = keras.layers.Dense(10, "softmax")(keras.layers.LSTM(4, stateful=True)(rows))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    ours, theirs = fixed(), fixed()
    panda = babysit.Panda(ours, tmp_path / "run").fit(X, Y, epochs=2, shuffle=False).wait()
    theirs.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(ours.get_weights()[0], theirs.get_weights()[0])
    assert "batch_size" not in panda.hyperparameters


class OwnStep(keras.Sequential):
    """A train_step of the user's own, whose logs have names of its own."""

    def train_step(self, data):
        return {"cost": super().train_step(data)["loss"]}


def test_a_train_step_of_ones_own_is_run_and_its_logs_are_kept_as_returned(tmp_path):
    def own():
        keras.utils.set_random_seed(4)
        model = OwnStep([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    ours, theirs = own(), own()
    panda = babysit.Panda(ours, tmp_path / "run").fit(X, Y, epochs=2, shuffle=False).wait()
    fit = theirs.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(ours.get_weights()[0], theirs.get_weights()[0])
    assert panda.history.history["cost"] == fit.history["cost"]
    assert "loss" not in panda.history.columns
    assert panda.dashboard() is not None


def test_a_panda_that_nobody_holds_leaves_no_thread(model, tmp_path):
    before = threading.active_count()
    babysit.Panda(model, tmp_path / "run").fit(X, Y).wait()
    until(lambda: gc.collect() >= 0 and threading.active_count() <= before)  # its threads are just ending


def test_history_holds_a_value_a_step_and_keras_values_an_epoch(model):
    epochs = np.array([1, 3])  # any collection of epochs
    panda = babysit.Panda(model).fit(X, Y, epochs=3, validation_data=VALIDATION, validation_freq=epochs).wait()
    history = panda.history
    assert history.columns[:2] == ["step", "epoch"]
    assert set(history.columns[2:]) == {"loss", "accuracy", "learning_rate", "batch_size", "momentum"}
    assert history["step"].tolist() == list(range(1, 31))
    assert history["epoch"].tolist() == [1] * 10 + [2] * 10 + [3] * 10
    assert set(history.epochs) == set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert ["val_loss" in end.logs for end in history.epoch_ends()] == [True, False, True]
    assert history["accuracy"][9] == history.history["accuracy"][0]  # running values within the epoch
    frame = history.to_pandas()
    assert frame.shape == (30, len(history.columns) - 1)


# --------------------------------------------------------------------------- from disk


def test_load_takes_up_the_run_where_it_was_saved(model, tmp_path):
    panda = babysit.Panda(model, tmp_path / "run", seed=5).fit(X, Y, epochs=3, paused=True)
    panda.run(14)
    panda.set(momentum=0.5, batch_size=20)
    panda.run(6)
    assert panda.save("ready").step == 20
    panda.resume()
    whole = panda.wait().digest(), panda.history.history
    panda.rewind("ready")
    panda.stop()
    panda.wait()
    digest = panda.digest()

    again = babysit.Panda.load(tmp_path / "run")
    assert (again.state, again.step, again.digest()) == ("idle", 20, digest)
    assert again.hyperparameters["batch_size"].value == 20
    assert again.status()["hyperparameters"]["momentum"]["since"] == 14
    assert again.save("taken up").step == 20
    np.testing.assert_array_equal(again.history["loss"], panda.history["loss"])
    for too_late in (lambda: panda.note("too late"), lambda: panda.fit(X[:64], Y[:64], batch_size=8)):
        with pytest.raises(ValueError, match="closed here"):
            too_late()
    refused(lambda: babysit.Panda.load(tmp_path / "nothing"), ValueError, "must hold a run")
    refused(lambda: again.fit(X[::-1], Y[::-1], epochs=2), ValueError, "data that the run was trained on")
    again.fit(X, Y, epochs=3).wait()
    assert (again.digest(), again.history.history) == whole


def test_a_model_compiled_otherwise_is_refused_before_anything_changes(tmp_path, model):
    babysit.Panda(model, tmp_path / "run").fit(X, Y).wait()
    refused(lambda: babysit.Panda.load(tmp_path / "run", demos.convolutional_network()), ValueError, "another model")
    given = demos.dense_network(seed=8)
    for metrics, optimizer in (
        (["accuracy"], keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True)),
        (["accuracy", "sparse_top_k_categorical_accuracy"], keras.optimizers.SGD(0.01, momentum=0.9)),
        (["accuracy"], keras.optimizers.RMSprop(0.01, momentum=0.5)),
    ):
        given.compile(optimizer, given.loss, metrics=metrics)
        before = [weights.copy() for weights in given.get_weights()]
        refused(lambda: babysit.Panda.load(tmp_path / "run", model=given), ValueError, "compiled as it was")
        for weights, old in zip(given.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weights, old)


def test_a_run_in_mixed_precision_is_loaded_with_its_model(tmp_path):
    def mixed():
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            return demos.dense_network("adam", seed=1)
        finally:
            keras.mixed_precision.set_global_policy("float32")

    panda = babysit.Panda(mixed(), tmp_path / "run", seed=1).fit(X, Y).wait()
    refused(lambda: babysit.Panda.load(tmp_path / "run"), ValueError, "Pass `model=`")
    assert babysit.Panda.load(tmp_path / "run", model=mixed()).digest() == panda.digest()


def test_a_script_that_ends_too_early_rests_saves_and_says_how_to_go_on_and_nothing_else(tmp_path):
    code = f"""
        import babysit
        from babysit import demos
        import atexit, time
        import keras, matplotlib.pyplot
        (x, y), _ = demos.digits()
        babysit.Panda(demos.dense_network(), {str(tmp_path / "run")!r}).fit(x, y, epochs=100_000)
        atexit.register(time.sleep, 0.3)  # it trains on for some passes, while Python's pools of threads are closed
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    ending = r"babysit: .* rests at step ([\d,]+) and is saved. To go on: babysit.Panda.load\((.*)\).fit\(...\)\n"
    said = re.fullmatch(ending, done.stderr)  # TensorFlow logs nothing
    assert said, done.stderr
    panda = babysit.Panda.load(tmp_path / "run")
    assert f"{panda.step:,}" == said[1]
    assert "fail" not in [entry.action for entry in panda.journal]


def test_a_warning_that_comes_with_the_import_of_tensorflow_is_passed_on(monkeypatch, capfd):
    def logged():
        os.write(2, b"I0000 cudart_stub.cc:31] Could not find cuda drivers\nW0000 gpu_device.cc:9] Mind this\n")

    config = SimpleNamespace(list_physical_devices=logged)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
    monkeypatch.setattr(startup, "_GPU", ())
    startup.import_tensorflow()
    assert capfd.readouterr().err == "W0000 gpu_device.cc:9] Mind this\n"


# ------------------------------------------------------------------------------ bad input


def test_a_model_that_cannot_be_trained_is_refused():
    refused(lambda: babysit.Panda("model"), TypeError, "`model`", "str")
    uncompiled = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    refused(lambda: babysit.Panda(uncompiled), ValueError, "`model` must be compiled", "model.compile(")


def test_a_directory_that_will_not_do_is_refused(tmp_path, model):
    (tmp_path / "file").touch()
    refused(lambda: babysit.Panda(model, tmp_path / "file" / "run"), OSError, "`directory`", "where you may write")
    babysit.Panda(model, tmp_path / "run")
    refused(lambda: babysit.Panda(model, tmp_path / "run"), ValueError, "`directory`", "Panda.load(")


class Brightened(keras.Sequential):
    def fit(self, x, y, **how):
        return super().fit(2 * x, y, **how)


class Own(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


def test_a_model_that_does_not_train_as_keras_does_on_one_device_is_refused_with_what_to_do():
    def compiled(kind=keras.Sequential, **how):
        model = kind([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **how)
        return model

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        distributed = compiled()
    refusals = {
        "Keras's own `fit` .*: use `train_step` or a callback instead. .* a `Brightened`": compiled(Brightened),
        "Keras's own `fit` and `make_train_function`.* a `Own`": compiled(Own),
        "on one device: make it outside": distributed,
        "a number as `steps_per_execution`": compiled(steps_per_execution="auto"),
    }
    for words, model in refusals.items():
        panda = babysit.Panda(model)
        with pytest.raises(ValueError, match=words):
            panda.fit(np.ones((8, 4)), np.ones(8))
        assert panda.state == "idle"


BAD_ARGUMENTS = [
    ({"x": X, "y": Y[:5]}, ValueError, ["320", "5", "same number"]),
    ({"x": None}, ValueError, ["`x`"]),
    ({"x": X[:0], "y": Y[:0]}, ValueError, ["`x`", "at least one"]),
    ({"x": "digits", "y": Y}, TypeError, ["`x`", "str"]),
    ({"batch_size": 0}, ValueError, ["`batch_size`", "from 1 on", "batch_size=0"]),
    ({"batch_size": 2.5}, ValueError, ["`batch_size`", "whole number"]),
    ({"batch_size": "32"}, TypeError, ["`batch_size`"]),
    ({"epochs": 0}, ValueError, ["`epochs`"]),
    ({"validation_split": 1.0}, ValueError, ["`validation_split`"]),
    ({"validation_data": (X, Y[:3])}, ValueError, ["same number"]),
    ({"callbacks": [print]}, TypeError, ["`callbacks`", "keras.callbacks.Callback"]),
    ({"shuffle": "often"}, ValueError, ["`shuffle`", "'often'"]),
    ({"shuffle": 2}, ValueError, ["`shuffle`", "shuffle=2"]),
    ({"shuffle": None}, ValueError, ["`shuffle`", "shuffle=None"]),
    ({"steps_per_epoch": 0}, ValueError, ["`steps_per_epoch`", "from 1 on"]),
    ({"initial_epoch": -1}, ValueError, ["`initial_epoch`", "from 0 on"]),
]
BAD_VALIDATION = [
    ({"validation_freq": 0}, ValueError, ["`validation_freq`"]),
    ({"validation_freq": 1.5}, ValueError, ["`validation_freq`"]),
    ({"validation_freq": "a"}, TypeError, ["`validation_freq`"]),
    ({"validation_freq": (1, 0)}, ValueError, ["`validation_freq`", "from 1 on"]),
    ({"validation_data": (X[:0], Y[:0])}, ValueError, ["`validation_data`", "at least one"]),
    ({"validation_data": (X, Y[:3])}, ValueError, ["`validation_data`", "same number"]),
    ({"validation_data": ("digits", Y)}, TypeError, ["`validation_data`", "str"]),
    ({"validation_steps": 0}, ValueError, ["`validation_steps`", "from 1 on", "validation_steps=0"]),
    ({"validation_data": (X, Y), "validation_steps": 1.5}, ValueError, ["`validation_steps`", "whole number"]),
    ({"validation_data": X}, ValueError, ["`validation_data`", "(x, y)"]),
    ({"validation_split": math.nan}, ValueError, ["`validation_split`"]),
    ({"ranges": 5}, TypeError, ["`ranges`"]),
    ({"ranges": {"batch_size": (1.5, 40)}}, ValueError, ["`ranges['batch_size']`", "whole number"]),
]


def test_bad_arguments_of_fit_change_nothing(model):
    panda = babysit.Panda(model)
    before = panda.digest()
    for arguments, error, words in BAD_ARGUMENTS:
        refused(lambda arguments=arguments: panda.fit(**{"x": X, "y": Y, **arguments}), error, *words)
        assert (panda.state, panda.digest(), actions(panda)) == ("idle", before, [])
    for arguments, error, words in BAD_VALIDATION:
        refused(lambda arguments=arguments: panda.fit(X, Y, **arguments), error, *words)
    assert (panda.state, actions(panda)) == ("idle", [])


def test_the_order_follows_from_keras_s_seed_unless_it_is_given(model, tmp_path):
    def seed(name, **how):
        keras.utils.set_random_seed(5)
        return babysit.Panda(model, tmp_path / name, **how)._trainer.seed, random.random()

    first = seed("first")
    random.random()
    assert seed("again") == first
    assert seed("other", seed=3)[0] == 3
    keras.utils.set_random_seed(5)
    assert random.random() == first[1]  # the panda has not drawn on it
    refused(lambda: babysit.Panda(model, seed=-1), ValueError, "`seed`")


def test_a_panda_at_rest_cannot_touch_a_model_that_another_one_trains(model):
    first = babysit.Panda(model).fit(X, Y).wait()
    second = babysit.Panda(model).fit(X, Y, epochs=9, paused=True)
    before = second.digest()
    for call in (lambda: first.set(learning_rate=0.7), lambda: first.rewind(0), first.run, first.resume):
        refused(call, ValueError, "babysit.attach()")
    assert second.digest() == before


# ------------------------------------------------------------------------ when it goes wrong


def test_a_loss_that_turns_nan_rests_at_that_very_step():
    x = np.ones((320, 4), "float32")
    x[4 * 32 + 3] = np.nan  # an example of the fifth batch
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    panda = babysit.Panda(model).fit(x, np.ones(320), epochs=50, shuffle=False)
    with pytest.raises(FloatingPointError, match="step 5 "):
        panda.wait()
    assert (panda.state, panda.step, actions(panda)[-1]) == ("paused", 5, "nan")
    assert np.isnan(panda.history["loss"]).tolist() == [False] * 4 + [True]
    panda.rewind(0)
    assert np.isfinite(panda.model.get_weights()[0]).all()
    panda.run(4)
    with pytest.raises(FloatingPointError, match="step 5 "):
        panda.run(1)
    assert panda.status()["not_finite"]
    panda.run(3)  # who goes on all the same may
    assert panda.step == 8
    panda.stop()
    panda.wait()


def test_nan_in_the_very_last_step_is_noticed_and_the_next_fit_watches_again():
    x = np.ones((96, 4), "float32")
    x[-1] = np.nan
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    panda = babysit.Panda(model).fit(x, np.ones(96), epochs=1, shuffle=False)
    with pytest.raises(FloatingPointError, match="step 3 "):
        panda.wait()
    assert (panda.state, actions(panda)) == ("paused", ["fit", "nan"])
    panda.resume()
    assert panda.wait().state == "finished"
    panda.fit(x, np.ones(96), epochs=1)
    with pytest.raises(FloatingPointError):
        panda.wait()
    panda.stop()
    assert panda.wait().state == "stopped"


class Breaks(keras.layers.Layer):
    """Raises at the example numbered 100."""

    def call(self, inputs):
        tf.debugging.assert_less(inputs, 100.0, "no hundred")
        return inputs / 100


def test_an_error_of_the_training_is_raised_by_wait_and_the_last_boundary_restored(tmp_path):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((1,)), Breaks(), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    good = np.arange(90.0)
    panda = babysit.Panda(model, tmp_path / "run", seed=1).fit(good, good, 10, shuffle=False).wait()
    before = panda.digest()
    with pytest.raises(Exception, match="no hundred"):  # right after another fit began
        panda.fit(np.full(30, 100.0), np.ones(30), 10, shuffle=False).wait()
    assert (panda.state, panda.step, panda.digest()) == ("failed", 9, before)
    assert "no hundred" in panda.status()["error"]
    assert actions(panda)[-1] == "fail"
    assert len(panda.history["loss"]) == panda.step
    panda.fit(good, good, 10, shuffle=False, paused=True)
    panda.rewind(0)
    panda.run(3)
    assert panda.step == 3


def test_a_validation_that_fails_ends_the_run_which_is_taken_up_there_or_goes_on(model, tmp_path):
    panda = babysit.Panda(model, tmp_path / "run").fit(X, Y, epochs=2, validation_data=(X[:, :4], Y))
    with pytest.raises(Exception, match=r"[Ss]hape|[Dd]imension|incompatible"):
        panda.wait()
    assert (panda.state, panda.step, panda.epoch) == ("failed", 10, 1)
    panda.fit(X, Y, epochs=1).wait()
    assert (panda.state, panda.epoch) == ("finished", 2)
    with pytest.raises(Exception, match=r"[Ss]hape|[Dd]imension|incompatible"):
        panda.fit(X, Y, validation_data=(X[:, :4], Y)).wait()
    assert babysit.Panda.load(tmp_path / "run").step == panda.step == 30


def test_what_a_train_step_needs_and_build_makes_is_made_once(tmp_path):
    class Averaging(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(10)

        def build(self, shape):
            self.dense.build(shape)
            self.sums = [tf.Variable(tf.zeros(weight.shape), trainable=False) for weight in self.trainable_weights]

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
            return {"loss": loss}

    def made():
        keras.utils.set_random_seed(2)
        model = Averaging()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    ours, theirs, x = made(), made(), X.reshape(len(X), -1)
    babysit.Panda(ours, tmp_path / "run").fit(x, Y, shuffle=False).wait()
    theirs.fit(x, Y, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_validation_without_an_end_is_left_to_stop(model):
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32).repeat()
    panda = babysit.Panda(model).fit(X, Y, epochs=3, validation_data=endless)
    until(lambda: panda.step == 10)
    panda.stop()
    assert panda.wait(60).state == "stopped"
    assert (panda.step, panda.epoch, list(panda.history.epochs)) == (10, 1, ["accuracy", "loss"])
    panda.fit(X, Y).wait(60)
    assert panda.step == 20


def test_what_validation_reports_follows_a_change_of_structure(tmp_path):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.CategoricalCrossentropy())  # without label smoothing, and so traced without
    data = X, keras.utils.to_categorical(Y, 10)
    panda = babysit.Panda(model).fit(*data, epochs=3, validation_data=data, paused=True)
    panda.run(10)
    panda.set(label_smoothing=0.3)
    panda.run(10)
    evaluated = panda.call(lambda model: model.evaluate(*data, batch_size=32, verbose=0))
    assert panda.history.epochs["val_loss"][1] == pytest.approx(evaluated, rel=1e-6)


def test_nobody_waits_for_ever_where_even_failing_fails(model, monkeypatch):
    panda = babysit.Panda(model).fit(X, Y, epochs=10**6)
    until(lambda: panda.step > 10)

    def lost(*_, **__):
        raise RuntimeError("the device is lost")

    with monkeypatch.context() as broken:
        broken.setattr("babysit.engine.model.TrainableModel.block", lost)
        broken.setattr("babysit.engine.tensors.TrainingTensors.read", lost)
        broken.setattr("babysit.engine.tensors.TrainingTensors.snapshot", lost)
        with pytest.raises(RuntimeError, match="the device is lost"):
            panda.wait(60)
        refused(panda.digest, RuntimeError, "the device is lost")
    assert panda.state == "failed"
    panda.fit(X, Y).wait(60)
    assert panda.state == "finished"


def test_data_that_call_the_panda_are_refused_with_what_to_do(model):
    refusals = []

    def batches():
        for i in itertools.count():
            if i == 20:
                try:
                    panda.note("harder now")
                except RuntimeError as error:
                    refusals.append(str(error))
                panda.send({"action": "note", "why": "harder now"})
            yield X[:32], Y[:32]

    panda = babysit.Panda(model)
    panda.fit(batches(), steps_per_epoch=10, epochs=10).wait(60)
    assert len(refusals) == 1 and "`send`" in refusals[0]
    assert "harder now" in [entry.why for entry in panda.journal]


def test_a_bad_command_during_validation_is_a_refusal_too(model):
    many = np.tile(X, (20, 1, 1, 1)), np.tile(Y, 20)  # long enough to be heard in between
    panda = babysit.Panda(model).fit(X, Y, epochs=40, validation_data=many, validation_batch_size=8)
    for _ in range(5):
        panda.send({})
        panda.set(learning_rate=0.005)
    panda.stop()
    assert panda.wait().state == "stopped"
    assert actions(panda).count("refuse") == 5


def test_averaged_weights_stopped_before_the_first_step_are_left_alone():
    model = demos.dense_network(keras.optimizers.SGD(0.05, use_ema=True), seed=1)
    before = model.get_weights()[0]
    panda = babysit.Panda(model).fit(X, Y, paused=True)
    panda.stop()
    panda.wait()
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_new_bounds_and_other_data_act_on_sliders_and_checkpoints_of_the_next_fit(model):
    ranges = {"learning_rate": (np.float32(2**-20), 50), "batch_size": (1, 10**6)}
    panda = babysit.Panda(model).fit(X, Y, epochs=9, paused=True, ranges=ranges)
    found = panda.hyperparameters
    assert (found["learning_rate"].low, found["batch_size"].high) == (2**-20, len(X))
    assert panda.set(learning_rate=50).changes["learning_rate"][1] == 50
    panda.set(learning_rate=0.01)
    panda.run(7)
    panda.save("of 320")
    panda.dashboard()
    panda.stop()
    refused(
        lambda: panda.fit(X, Y, ranges={"depth": (1, 2)}), ValueError, "`ranges` may name learning_rate, batch_size"
    )
    refused(lambda: panda.fit(X, Y, ranges={"momentum": (0.95, 0.99)}), ValueError, "`ranges['momentum']`")
    panda.fit(X[:100], Y[:100], paused=True, ranges={"learning_rate": (0.001, 0.1)})
    until(lambda: max(stops(panda.dashboard(), "batch size")) <= 100)
    rates = stops(panda.dashboard(), "learning rate")
    assert (min(rates), max(rates)) == (0.001, 0.1)
    before = panda.digest()
    refused(lambda: panda.rewind("of 320"), ValueError, "made with other data", "rewind")
    assert panda.digest() == before
    panda.run(1)


def stops(widget, label):
    """The values that the slider with this label offers, wherever it is below a widget."""
    if getattr(widget, "description", "") == label and hasattr(widget, "options"):
        return [value for _, value in widget.options]
    return [value for child in getattr(widget, "children", ()) for value in stops(child, label)]


class AtTheBeginning(keras.callbacks.Callback):
    """Does something with the panda when the training begins."""

    def __init__(self, act):
        super().__init__()
        self.act, self.raised = act, None

    def on_train_begin(self, logs=None):
        try:
            self.act()
        except Exception as error:
            self.raised = error


def test_a_callback_may_stop_the_training_when_it_begins_and_not_wait_for_it(model):
    panda = babysit.Panda(model)
    panda.fit(X, Y, epochs=10_000, callbacks=AtTheBeginning(lambda: panda.stop())).wait(30)
    assert panda.state == "stopped"
    assert panda.step < 1000
    callback = AtTheBeginning(lambda: panda.wait())
    assert panda.fit(X, Y, callbacks=callback).wait().state == "finished"
    refused(lambda: (_ for _ in ()).throw(callback.raised), RuntimeError, "`wait`", "within")


# ------------------------------------------------------------------------ one run, from test to test


def test_the_run_that_is_alive_is_found_and_no_second_one_begins(resting):
    since = len(resting.journal)
    assert babysit.attach() is resting
    assert babysit.attach(resting.directory) is resting
    refused(lambda: babysit.Panda(resting.model), ValueError, "`model`", "babysit.attach()")
    refused(lambda: babysit.Panda.load(resting.directory), ValueError, "babysit.attach()")
    refused(lambda: babysit.attach("elsewhere"), ValueError, "Panda.load")
    refused(lambda: resting.fit(X, Y), ValueError, "training already", "stop()")
    resting.resume()
    refused(lambda: resting.fit(X, Y), ValueError, "training already")
    assert actions(resting, since) == ["resume"]


def test_run_takes_exactly_so_many_steps(resting):
    resting.run()
    assert (resting.step, resting.state) == (1, "paused")
    resting.run(steps=23)
    assert (resting.step, resting.epoch) == (24, 2)
    resting.resume()
    resting.run(5)
    assert resting.state == "paused"


def test_set_acts_from_the_next_step_on_while_it_runs(resting):
    resting.resume()
    entry = resting.set(learning_rate=3e-3, momentum=0.5, batch_size=64, why="to see")
    resting.run(5)
    assert (entry.author, entry.action, entry.why) == ("script", "set", "to see")
    assert entry.changes == {"learning_rate": (0.01, 3e-3), "momentum": (0.9, 0.5), "batch_size": (32, 64)}
    for name, (old, new) in entry.changes.items():
        column = resting.history[name]
        assert (column[: entry.step] == old).all() and (column[entry.step :] == new).all()
        assert resting.hyperparameters[name].value == new
    assert entry in list(resting.journal)


def test_hyperparameters_are_plain_numbers_with_bounds_in_a_stable_order(resting):
    found = resting.hyperparameters
    assert list(found) == ["learning_rate", "batch_size", "momentum"]
    assert [found[name].value for name in found] == [0.01, 32, 0.9]
    assert (found["batch_size"].low, found["batch_size"].high) == (1, 320)
    for hyperparameter in found.values():
        assert hyperparameter.low <= hyperparameter.value <= hyperparameter.high


def test_every_thread_may_steer_and_read(resting):
    since = len(resting.journal)
    resting.resume()
    errors = []

    def steer(i):
        try:
            for k in range(5):
                resting.set(learning_rate=0.001 * (i + 1), why=f"{i}.{k}")
                resting.note(f"note {i}.{k}")
                assert len(resting.history["loss"]) <= resting.status()["step"]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=steer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert actions(resting, since).count("set") == actions(resting, since).count("note") == 20
    assert [entry.step for entry in resting.journal[since:]] == sorted(entry.step for entry in resting.journal[since:])


def test_saved_while_it_rests_the_model_carries_the_present_values(resting, tmp_path):
    resting.run(3)
    resting.set(momentum=0.3)
    resting.model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").optimizer.momentum == 0.3


def test_what_is_sent_is_answered_in_the_journal_and_the_status_is_plain_data(resting):
    command = resting.send({"action": "set", "changes": {"momentum": 0.7}, "author": "dashboard", "why": ""})
    wrong = resting.send({"action": "set", "changes": {"momentum": 7}, "author": "dashboard", "why": ""})
    unknown = resting.send({"action": "sing", "author": "dashboard"})
    resting.run(12)
    by_command = {entry.command: entry for entry in resting.journal}
    assert by_command[command].action == "set"
    assert by_command[wrong].action == "refuse" and "from 0 to 0.9999" in by_command[wrong].why
    assert by_command[unknown].action == "refuse"
    assert resting.hyperparameters["momentum"].value == 0.7
    json.dumps(resting.status())


def test_rewinding_while_it_runs_goes_on_running(resting):
    branch = resting.history.branch
    resting.run(7)
    saved = resting.save("a name")
    assert (saved.step, saved.name, saved.branch) == (7, "a name", branch)
    resting.resume()
    entry = resting.rewind("a name")
    assert (entry.step, entry.branch, resting.state) == (7, resting.history.branch, "running")
    resting.pause()
    assert resting.branches["branch 1"] == (None, 0)
    assert resting.branches[entry.branch] == (branch, 7)
    assert resting.history["step"].tolist() == list(range(1, resting.step + 1))


def test_rewinding_restores_the_hyperparameters_or_keeps_them(resting):
    resting.run(3)
    saved = resting.save()
    resting.set(learning_rate=0.5, batch_size=100)
    entry = resting.rewind(saved)
    assert entry.changes == {"learning_rate": (0.5, 0.01), "batch_size": (100, 32)}
    resting.set(learning_rate=0.5, batch_size=100)
    kept = resting.rewind(saved, hyperparameters="keep").changes
    assert kept == {"learning_rate": (0.01, 0.5), "batch_size": (32, 100)}
    assert resting.hyperparameters["batch_size"].value == 100
    assert resting.status()["hyperparameters"]["batch_size"]["since"] == 3


def test_the_present_line_of_history_leaves_out_what_was_abandoned(resting):
    resting.run(4)
    resting.save("four")
    resting.set(learning_rate=0.5)
    resting.run(6)
    abandoned = resting.history["loss"]
    resting.rewind("four")
    resting.run(6)
    assert len(resting.history["loss"]) == 10
    np.testing.assert_array_equal(resting.history["loss"][:4], abandoned[:4])
    assert (resting.history["loss"][5:] != abandoned[5:]).any()
    assert (resting.history["learning_rate"] == 0.01).all()


def test_names_are_made_from_the_step_and_never_taken_twice(resting):
    resting.run(2)
    assert [resting.save().name for _ in range(2)] == ["step 2", "step 2 (2)"]
    resting.save("mine")
    with pytest.raises(ValueError, match="`name` must be new"):
        resting.save("mine")
    assert [saved.name for saved in resting.checkpoints if saved.name][-3:] == ["step 2", "step 2 (2)", "mine"]


def test_a_damaged_checkpoint_is_refused_and_nothing_changes(resting):
    resting.run(2)
    saved = resting.save("damaged")
    tensors = saved.path / "state.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    resting.run(2)
    before, branches = resting.digest(), list(resting.branches)
    with pytest.raises(ValueError, match="cannot be used"):
        resting.rewind("damaged")
    assert (resting.digest(), resting.step, list(resting.branches)) == (before, 4, branches)


BAD_CHANGES = [
    ({"learning_rate": math.nan}, ValueError, ["`learning_rate`", "nan", "ranges"]),
    ({"learning_rate": math.inf}, ValueError, ["`learning_rate`"]),
    ({"learning_rate": -1}, ValueError, ["`learning_rate`", "1e-06 to 1"]),
    ({"learning_rate": "fast"}, TypeError, ["`learning_rate`", "'fast'"]),
    ({"learning_rate": True}, TypeError, ["`learning_rate`"]),
    ({"momentum": -0.1}, ValueError, ["`momentum`", "0 to 0.9999"]),
    ({"momentum": 1.0}, ValueError, ["`momentum`"]),
    ({"batch_size": 0}, ValueError, ["`batch_size`", "1 to 320"]),
    ({"batch_size": 321}, ValueError, ["`batch_size`"]),
    ({"batch_size": 31.5}, ValueError, ["`batch_size`", "whole number"]),
    ({"depth": 3}, ValueError, ["`depth`", "learning_rate, batch_size, momentum"]),
    ({"learning_rate": 0.1, "momentum": -1}, ValueError, ["`momentum`"]),
    ({}, ValueError, ["at least one"]),
]


def test_bad_changes_change_nothing(resting):
    resting.run(2)
    before, since = resting.digest(), len(resting.journal)
    for changes, error, words in BAD_CHANGES:
        refused(lambda changes=changes: resting.set(**changes), error, *words)
        assert (resting.digest(), actions(resting, since)) == (before, [])


def test_bad_calls_are_refused_and_nothing_is_lost(resting):
    before, since = len(resting.checkpoints), len(resting.journal)
    for name in ("../x", "", "x\0", "n" * 10_000, 7):
        refused(lambda name=name: resting.save(name), ValueError, "`name`", "Choose a plainer one")
    for place, error in (("nowhere", ValueError), (None, TypeError)):
        refused(lambda place=place: resting.rewind(place), error, "`to`", repr(place), "There are")
    refused(lambda: resting.rewind(77), ValueError, "`to`")
    refused(lambda: resting.rewind(0, hyperparameters="forget"), ValueError, '"checkpoint" or "keep"')
    refused(lambda: resting.run(0), ValueError, "`steps`")
    refused(lambda: resting.note("bad \ud800"), ValueError, "surrogates")
    refused(lambda: resting.wait(timeout=0.05), TimeoutError, "still paused")
    assert (resting.step, len(resting.checkpoints), actions(resting, since)) == (0, before, [])


BAD_COMMANDS = [
    {"action": "run", "steps": 0},
    {"action": "run", "steps": 0.5},
    {"action": "run", "steps": "abc"},
    {"action": "run"},
    {"action": "set", "changes": {"learning_rate": 0.5}, "colour": "red"},
    {"action": "set", "changes": 3},
    {"action": "rewind", "folder": "000001", "hyperparameters": "forget"},
    {"action": "rewind", "folder": "../x"},
    {"action": "save", "name": "../x"},
    {"action": "note", "why": "bad \ud800"},
    {},
]


def test_a_bad_command_is_a_refusal_and_nothing_more(resting):
    before, since = resting.digest(), len(resting.journal)
    for command in BAD_COMMANDS:
        sent = resting.send(command)
        assert resting.digest() == before
        assert (resting.journal[-1].action, resting.journal[-1].command) == ("refuse", sent)
        assert resting.state == "paused"
    assert len(resting.journal) == since + len(BAD_COMMANDS)


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(resting, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    resting.resume()
    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        refused(lambda: resting.save("full"), OSError, "No space left")
        assert resting.state == "running"
    assert resting.save("full").name == "full"


def test_what_it_shows_of_itself_is_a_sentence_and_a_widget(resting):
    shown = f"<Panda digits-dense: paused, step 0, epoch 0, {resting.directory}>"
    assert repr(resting) == shown
    data, _ = resting._repr_mimebundle_()
    assert data["text/plain"] == shown and "application/vnd.jupyter.widget-view+json" in data
    assert resting.dashboard() is resting.dashboard()


def test_a_run_lies_in_the_folder_runs_unless_it_is_given(model):
    panda = babysit.Panda(model)
    assert re.fullmatch(r"\S+runs.digits-dense-\d{4}-\d\d-\d\d-1", str(panda.directory))
    assert babysit.Panda(model).directory.name.endswith("-2")


def test_the_training_thread_touches_no_widget_and_the_widgets_no_tensorflow(resting, monkeypatch):
    import ipywidgets

    from babysit.engine.bindings import HyperparameterBindings
    from babysit.engine.block import Block
    from babysit.engine.trainer import KerasTrainer

    def note_threads(owner, name, threads):
        original = getattr(owner, name)

        def noted(*args, **kwargs):
            threads.add(threading.current_thread().name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    def child(widget, description):
        found = [widget] if getattr(widget, "description", None) == description else []
        return found + [w for c in getattr(widget, "children", ()) for w in child(c, description)]

    training, writing = set(), set()
    note_threads(Block, "run", training)
    note_threads(HyperparameterBindings, "set", training)
    for name in ("capture", "restore", "step", "apply"):
        note_threads(KerasTrainer, name, training)
    note_threads(ipywidgets.Widget, "send_state", writing)

    dashboard, since = resting.dashboard(), len(resting.journal)
    child(dashboard, "learning rate")[0].value = 0.05
    child(dashboard, "batch size")[0].value = 128
    resting.run(1)  # what was asked before is done before
    for button in ("Step", "Save checkpoint", "Rewind"):
        child(dashboard, button)[0].click()
    resting.run(1)
    assert actions(resting, since) == ["set", "set", "save", "rewind"]
    assert {entry.author for entry in resting.journal[since:]} == {"dashboard"}
    assert training == {"babysit-digits-dense"}
    assert writing and "babysit-digits-dense" not in writing


def test_two_who_run_steps_at_once_both_get_theirs(resting):
    done = []
    long = threading.Thread(target=lambda: done.append((resting.run(1000), resting.step)))
    long.start()
    until(lambda: resting.step >= 20)
    resting.run(5)
    long.join()
    assert done[0][1] >= 1000


def test_a_note_of_any_kind_leaves_the_journal_and_the_dashboard_readable(resting):
    resting.send({"action": "note", "why": 5, "author": 7})
    resting.note("after it")
    assert repr(resting.journal).splitlines()[-2:] == ["       0  note — 5 (by 7)", "       0  note — after it"]
    widgets = [resting.dashboard()]
    for widget in widgets:
        widgets += getattr(widget, "children", ())
    until(lambda: any("after it" in str(getattr(widget, "value", "")) for widget in widgets))
