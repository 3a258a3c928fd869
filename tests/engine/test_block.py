"""The compiled block: whatever a `train_step` returns, and whatever it is made of, it trains as `Model.fit` does."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils.python_utils import pythonify_logs

from babysit import demos
from babysit.engine import block as blocks_module
from babysit.engine.block import BLOCK_S, BlockSizer, training_block
from babysit.engine.step_logs import StepLogs

(X, Y), _ = demos.digits()
X, Y = X[:96], Y[:96]


def built(make=demos.dense_network, **how):
    """A model as the trainer prepares one, and its twin for `Model.fit`."""
    models = make(seed=3), make(seed=3)
    for model in models:
        if how:
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), model.loss, metrics=["accuracy"], **how)
        symbolic = keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")
        model._symbolic_build(data_batch=symbolic)
    return models


def block_of(model, examples, batch_size, measured=dict):
    return training_block(model, nullcontext, None if examples % batch_size else batch_size, measured)


def run(model, batch_size=32, examples=96, epochs=None, measured=dict, order=True, watch=False):
    """Epochs in order, each in blocks of so many steps; the logs of each block."""
    block = block_of(model, examples, batch_size, measured)
    data = tf.constant(X[:examples]), tf.constant(Y[:examples])
    indices = tf.range(examples, dtype=tf.int64) if order else None
    logs = []
    for blocks in epochs or [[-(-examples // batch_size)]]:
        cursor = 0
        model.reset_metrics()
        for count in blocks:
            logs.append(block.run(data, indices, cursor, batch_size, count, watch))
            cursor += count * batch_size
    return logs


def assert_same(model, twin):
    for ours, theirs in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


# ------------------------------------------------------------------- as Model.fit trains


@pytest.mark.parametrize(("xla", "examples"), [(False, 96), (False, 80), (True, 80)])
def test_an_epoch_in_any_blocks_is_model_fits(xla, examples):
    model, twin = built(small(), jit_compile=True) if xla else built()

    def measured():  # before the update
        return {"done": tf.identity(model.optimizer.iterations.value)}

    first = [1, 2] if xla else [3]  # the end of an epoch by itself; with the rest of it, in test_exactness.py
    logs = run(model, examples=examples, epochs=[first, [1, 2]], measured=measured)
    fit = twin.fit(X[:examples], Y[:examples], batch_size=32, epochs=2, shuffle=False, verbose=0)
    assert_same(model, twin)
    assert pythonify_logs(logs[-1].last) == {name: values[-1] for name, values in fit.history.items()}
    assert set(logs[0].columns) == {"loss", "accuracy", "done"} and logs[0].loss.shape == (first[0],)
    assert np.concatenate([part.columns["done"] for part in logs]).tolist() == list(range(6))


class Variational(keras.Model):
    """Its gradient has products of a small factor and three large ones, which TensorFlow regroups by their names."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(4)])
        self.decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(64, "sigmoid")])
        self.seeds = keras.random.SeedGenerator(0)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, spread = tf.split(self.encoder(x), 2, axis=1)
            noise = keras.random.normal(tf.shape(mean), seed=self.seeds)
            again = self.decoder(mean + tf.exp(0.5 * spread) * noise)
            divergence = -0.5 * (1 + spread - tf.square(mean) - tf.exp(spread))
            loss = 64 * tf.reduce_mean(keras.losses.binary_crossentropy(x, again)) + tf.reduce_mean(divergence)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("batch_size", [16, 20])
def test_products_are_grouped_as_in_model_fit(batch_size):
    x = X.reshape(96, 64).astype("float32")
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        models.append(Variational())
        models[-1].compile(keras.optimizers.SGD(0.01))
        models[-1].optimizer.build(models[-1].trainable_variables)
    model, twin = models
    block = block_of(model, 96, batch_size)
    for _ in range(8):
        block.run(tf.constant(x), tf.range(96), 0, batch_size, -(-96 // batch_size))
    twin.fit(x, epochs=8, batch_size=batch_size, shuffle=False, verbose=0)
    assert_same(model, twin)


def small(*layers):
    """A maker of a network that begins with these layers."""

    def make(seed):
        keras.utils.set_random_seed(seed)
        rest = [keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential([keras.Input((8, 8, 1)), *(layer() for layer in layers), *rest])
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    return make


def test_a_network_with_convolutions_is_model_fits_under_xla():
    """Step by step: in a loop, XLA rounds a convolution otherwise."""
    model, twin = built(small(lambda: keras.layers.Conv2D(4, 3, activation="relu")), jit_compile=True)
    run(model, batch_size=40, examples=80)
    twin.fit(X[:80], Y[:80], batch_size=40, shuffle=False, verbose=0)
    assert_same(model, twin)


def test_under_xla_a_new_count_compiles_nothing_a_long_block_is_several_calls_and_no_order_is_as_they_lie(monkeypatch):
    monkeypatch.setattr(blocks_module, "CAPACITY", 4)
    traces = []
    model, twin = built(small(), jit_compile=True)
    model._compute_loss, compute_loss = lambda *a, **k: traces.append(1) or compute_loss(*a, **k), model._compute_loss
    block, cursor = block_of(model, 96, 8), 0
    for count in (1, 2, 9):
        logs = block.run((tf.constant(X), tf.constant(Y)), None, cursor, 8, count)
        assert len(logs.loss) == count
        cursor += 8 * count
    twin.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_same(model, twin)
    data = tf.constant(spoilt(40)), tf.constant(Y)
    assert block.run(data, None, 0, 8, 12, stop_if_not_finite=True).count == 6
    assert len(traces) == 1


def test_without_an_order_the_examples_are_taken_as_they_lie():
    model, twin = built(small())
    with_order, without = run(model, 40)[0], run(twin, 40, order=False)[0]
    assert_same(model, twin)
    np.testing.assert_array_equal(with_order.loss, without.loss)


def spoilt(example):
    """The digits, one of which is no number."""
    x = X.copy()
    x[example] = np.nan
    return x


def test_it_stops_after_the_step_whose_loss_is_not_finite():
    model, _ = built(small())
    block = block_of(model, 96, 40)
    data, order = (tf.constant(spoilt(40)), tf.constant(Y)), tf.range(96)
    assert block.run(data, order, 0, 40, 3, stop_if_not_finite=True).count == 2
    assert block.run(data, order, 0, 40, 3, stop_if_not_finite=False).count == 3


# ------------------------------------------------------------------- whatever is returned


class Custom(keras.Model):
    """One layer, and a `train_step` that returns what it is told to."""

    def __init__(self, logs):
        super().__init__()
        self.layer, self.told = keras.layers.Dense(10), logs

    def call(self, inputs):
        return self.layer(keras.ops.reshape(inputs, (-1, 64)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.told(loss)


def numbers(loss):
    plain = {"half": 0.5, "two": 2, "yes": True, "count": tf.constant(2**40, tf.int64), "loss": loss}
    nested = {"f1": {"a": loss, "b": 2 * loss}}
    return plain | nested | {"fine": tf.cast(loss, tf.float64) + 1e-9, "low": tf.cast(loss, tf.float16)}


def no_numbers(loss):
    return {"loss": loss, "each": tf.stack([loss, 2 * loss]), "none": None, "said": tf.constant("so")}


def custom(logs):
    def make(seed):
        keras.utils.set_random_seed(seed)
        model = Custom(logs)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    models = make(3), make(3)
    for model in models:
        model._symbolic_build(data_batch=(keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")))
    return models


def test_numbers_are_kept_of_every_step_in_their_precision_and_the_last_are_those_of_model_fit():
    model, twin = custom(numbers)
    logs = run(model, watch=True)[0]
    fit = twin.fit(X, Y, shuffle=False, verbose=0).history
    assert_same(model, twin)
    assert {name: [value] for name, value in pythonify_logs(logs.last).items()} == fit
    assert {name: values.dtype.name for name, values in logs.columns.items()} == {
        "half": "float32", "two": "int64", "yes": "int64", "count": "int64", "loss": "float32", "a": "float32",
        "b": "float32", "fine": "float64", "low": "float32",
    }  # fmt: skip
    loss = logs.columns["loss"]
    np.testing.assert_array_equal(logs.columns["fine"], loss.astype(np.float64) + 1e-9)
    assert len(np.unique(loss)) == logs.count == 3


def test_of_logs_that_are_no_numbers_the_names_stay():
    logs = run(custom(no_numbers)[0])[0]
    assert logs.last == {"loss": logs.columns["loss"][-1], "each": None, "none": None, "said": None}
    assert list(logs.columns) == ["loss"]


@pytest.mark.parametrize("nothing", [{}, None])
def test_a_step_without_logs_trains_and_says_how_many_were_taken(nothing):
    model, _ = custom(lambda loss: nothing)
    twin, _ = custom(lambda loss: {"loss": loss})  # for Model.fit wants a log
    logs = run(model, watch=True)[0]
    assert logs == StepLogs({}, {}, None, 3)
    twin.fit(X, Y, shuffle=False, verbose=0)
    assert_same(model, twin)


def test_logs_that_are_no_dict_are_refused_by_name():
    model, _ = custom(lambda loss: loss)
    with pytest.raises(TypeError, match=r"`train_step` must return a dict of logs\. Received: .*Tensor"):
        run(model)


def test_a_metric_named_as_the_loss_of_a_batch_keeps_its_name():
    model, twin = built()
    for one in (model, twin):
        one.compile("sgd", one.loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="batch_loss")])
        one._symbolic_build(data_batch=(keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")))
    logs = run(model)[0]
    history = twin.fit(X, Y, shuffle=False, verbose=0).history
    assert float(logs.columns["batch_loss"][-1]) == history["batch_loss"][0]
    assert not np.array_equal(logs.loss, logs.columns["batch_loss"])


def test_a_block_lasts_about_its_time_and_half_as_long_after_a_change_on_a_screen(monkeypatch):
    sizer, step_s = BlockSizer(), BLOCK_S / 40
    for _ in range(5):
        sizer.record(sizer.steps, sizer.steps * step_s)
    assert sizer.steps == 40
    sizer.steered()
    for _ in range(3):
        assert sizer.steps == 20
        sizer.record(sizer.steps, sizer.steps * step_s)
    monkeypatch.setattr(blocks_module, "STEERED_S", 0)
    assert sizer.steps == 40
