"""Diagnostics: right by hand, and measured or not the training has the same bits."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos
from babysit.engine import diagnostics
from babysit.engine.diagnostics import Diagnostics

(X, Y), VALIDATION = demos.digits()
X, Y = X[:240], Y[:240]


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch):
    monkeypatch.setattr(diagnostics, "INTERVAL_S", 0.0)
    monkeypatch.setattr(diagnostics, "SHARE", math.inf)


@pytest.fixture
def signs(monkeypatch):
    """All that is measured, oldest first, by the number of the step; only the last is kept otherwise."""
    found, end = {}, Diagnostics.end

    def keep(self, before, step):
        end(self, before, step)
        if self.latest:
            found[self.latest["step"]] = self.latest["signs"]

    monkeypatch.setattr(Diagnostics, "end", keep)
    return found


def by_layer(found, sign):
    return {layer["name"]: layer[sign] for layer in found["layers"]}


# ------------------------------------------------------------------------------------ right


def test_a_linear_model_has_the_signs_that_numpy_finds(signs):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(48, 3)).astype("float32"), rng.normal(size=(48, 1)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse")
    panda = babysit.Panda(model).fit(x, y, batch_size=16, epochs=2, shuffle=False, paused=True)
    panda.run(1)
    panda.diagnostics()
    before = model.get_weights()[0]
    panda.run(1)
    after = model.get_weights()[0]

    [(step, found)] = signs.items()
    gradient = 2 / 16 * x[16:32].T @ (x[16:32] @ before - y[16:32])
    assert step == 2
    assert found["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-3)
    ratio = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert by_layer(found, "ratio") == {"dense": pytest.approx(ratio, rel=1e-3)}


def penalised(optimizer=None):
    """Dropout, batch normalisation, penalties: all that a probe must see as the step does."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(0.01)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activity_regularizer=keras.regularizers.L2(0.01)),
    ]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    optimizer = optimizer or keras.optimizers.SGD(0.25, momentum=0.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_the_gradient_is_the_one_that_plain_sgd_applies():
    model = penalised()
    panda = babysit.Panda(model, seed=1).fit(X, Y, epochs=2, paused=True)
    panda.run(3)
    panda.diagnostics(True)
    for _ in range(2):
        panda.set(learning_rate=0.5)
        layers = [layer for layer in model.layers if layer.trainable_weights]
        before = [np.concatenate([w.numpy().ravel() for w in layer.trainable_weights]) for layer in layers]
        panda.run(1)
        after = [np.concatenate([w.numpy().ravel() for w in layer.trainable_weights]) for layer in layers]
        applied = [np.linalg.norm(a - b) / 0.5 for a, b in zip(after, before, strict=True)]
        found = panda.status()["diagnostics"]["latest"]["signs"]
        gradients = by_layer(found, "gradient")
        assert list(gradients) == ["dense", "batch_normalization", "dense_1"]
        np.testing.assert_allclose(list(gradients.values()), applied, rtol=2e-3)
        assert found["gradient_norm"] == pytest.approx(np.linalg.norm(applied), rel=2e-3)


# -------------------------------------------------------------------------------- same bits


def test_measured_at_every_step_it_is_model_fit_bit_for_bit(tmp_path, signs):
    ours, theirs = (penalised(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)) for _ in range(2))
    how = {"batch_size": 50, "epochs": 3, "validation_data": (X[:60], Y[:60]), "shuffle": False}
    panda = babysit.Panda(ours, tmp_path / "on", seed=7)
    panda.diagnostics()
    panda.fit(X, Y, **how).wait()
    fit = theirs.fit(X, Y, verbose=0, **how)
    for a, b in zip(
        ours.variables + ours.optimizer.variables, theirs.variables + theirs.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert panda.history.history == fit.history
    assert list(signs) == list(range(3, 16, 3))  # those that apply gradients
    assert "signs" not in panda.history.columns
    assert [entry.action for entry in panda.journal] == ["fit", "finish"]


class Counting(keras.layers.Layer):
    """Counts its calls where Keras sees it, and where nobody does."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = tf.Variable(0.0, trainable=False) if hidden else None

    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        self.seen.assign_add(1.0)
        if self.hidden is not None:
            self.hidden.assign_add(1.0)
        return inputs


@pytest.mark.parametrize("hidden", [False, True])
def test_a_look_leaves_no_trace_in_a_layer_that_writes(hidden):
    counting = Counting(hidden)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), counting, keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    panda = babysit.Panda(model).fit(X, Y, epochs=9, paused=True)
    panda.diagnostics()
    panda.run(12)
    told = panda.status()["diagnostics"]
    assert float(counting.seen) == 12
    if hidden:  # what cannot be kept from writing is not run
        assert float(counting.hidden) == 12
        assert "writes what Keras does not know" in told["unable"]
    else:
        assert told["latest"]["signs"]["gradient_norm"] > 0 and by_layer(told["latest"]["signs"], "ratio")["dense"] > 0


# --------------------------------------------------------------------------------- left out


class Own(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_a_train_step_of_its_own_is_not_measured_and_the_training_goes_on():
    inputs = keras.Input((8, 8, 1))
    model = Own(inputs, keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(inputs)))
    model.compile("adam", "sparse_categorical_crossentropy")
    panda = babysit.Panda(model).fit(X, Y, paused=True)
    panda.diagnostics()
    panda.run(2)
    told = panda.status()["diagnostics"]
    assert (told["on"], panda.step) == (False, 2)
    assert "`train_step` is its own" in told["unable"]


def test_a_look_that_fails_ends_the_measuring_and_not_the_training(monkeypatch):
    def broken(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(diagnostics, "batch_at", broken)
    panda = babysit.Panda(demos.dense_network(seed=1), seed=1)
    panda.diagnostics()
    panda.fit(X, Y, epochs=2).wait()
    told = panda.status()["diagnostics"]
    assert panda.state == "finished"
    assert not told["on"] and "no room" in told["unable"]
    with pytest.raises(TypeError, match=r"`on`.*Received: on='yes'"):
        panda.diagnostics("yes")


@pytest.mark.filterwarnings("ignore:The run cannot be rewound")
def test_an_error_of_the_data_stays_the_trainings_own():
    def failing():
        for _ in range(3):
            yield X[:20], Y[:20]
        raise OSError("the disk is gone")

    panda = babysit.Panda(penalised())
    panda.diagnostics()
    with pytest.raises(Exception, match="the disk is gone"):
        panda.fit(failing(), steps_per_epoch=9).wait()
    assert panda.state == "failed" and panda.status()["diagnostics"]["on"]


def test_it_is_measured_no_more_often_than_its_share_allows(monkeypatch, signs):
    monkeypatch.setattr(diagnostics, "SHARE", 1e-9)
    panda = babysit.Panda(demos.dense_network(seed=1), seed=1)
    panda.diagnostics()
    panda.fit(X, Y, epochs=5).wait()
    assert list(signs) == [1]
    assert panda.status()["diagnostics"]["every_s"] > 1e3
