"""The compiled block: whatever a `train_step` returns, and whatever it is made of, it trains as `Model.fit` does."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils.python_utils import pythonify_logs

from babysit import demos
from babysit.engine import block as blocks_module
from babysit.engine.block import Block, training_block
from babysit.engine.step_logs import StepLogs, StepResult

(X, Y), _ = demos.digits()
X, Y = X[:96], Y[:96]
HOW = {"graph": {}, "eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}


def built(make=demos.dense_network, **how):
    """A model as the trainer prepares one, and its twin for `Model.fit`."""
    models = make(seed=3), make(seed=3)
    for model in models:
        if how:
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), model.loss, metrics=["accuracy"], **how)
        symbolic = keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")
        model._symbolic_build(data_batch=symbolic)
    return models


def run(model, batch_size=32, examples=96, blocks=None, held=None, measured=None, order=True, watch=False):
    """An epoch in order, in blocks of so many steps; the logs of each."""
    block = training_block(model, held or nullcontext, None if examples % batch_size else batch_size, measured or dict)
    data = tf.constant(X[:examples]), tf.constant(Y[:examples])
    indices = tf.range(examples, dtype=tf.int64) if order else None
    logs, cursor = [], 0
    for count in blocks or [-(-examples // batch_size)]:
        logs.append(block.run(data, indices, cursor, batch_size, count, watch))
        cursor += count * batch_size
    return logs


def assert_same(model, twin):
    for ours, theirs in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


# ------------------------------------------------------------------- as Model.fit trains


@pytest.mark.parametrize(
    ("how", "examples", "blocks"),
    [
        *(("graph", examples, blocks) for examples, blocks in [(96, [3]), (80, [3]), (80, [1, 2]), (80, [1, 1, 1])]),
        ("eager", 80, [1, 2]),
        ("xla", 96, [3]),
        ("xla", 80, [1, 2]),
    ],
)
def test_an_epoch_in_any_blocks_is_model_fits(how, examples, blocks):
    model, twin = built(**HOW[how])
    logs = run(model, examples=examples, blocks=blocks)[-1]
    fit = twin.fit(X[:examples], Y[:examples], batch_size=32, shuffle=False, verbose=0)
    assert_same(model, twin)
    assert {name: [value] for name, value in pythonify_logs(logs.last).items()} == fit.history


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
    block = training_block(model, nullcontext, None if 96 % batch_size else batch_size)
    count = -(-96 // batch_size)
    for _ in range(20):
        block.run(tf.constant(x), tf.range(96), 0, batch_size, count)
    twin.fit(x, epochs=20, batch_size=batch_size, shuffle=False, verbose=0)
    assert_same(model, twin)


def test_a_network_with_convolutions_is_model_fits_under_xla():
    model, twin = built(demos.convolutional_network, jit_compile=True)
    run(model, batch_size=40)
    twin.fit(X, Y, batch_size=40, shuffle=False, verbose=0)
    assert_same(model, twin)


def test_under_xla_a_new_count_compiles_nothing_and_a_long_block_is_several_calls(monkeypatch):
    monkeypatch.setattr(blocks_module, "CAPACITY", 4)
    traces = []
    model, twin = built(jit_compile=True)
    model._compute_loss, compute_loss = lambda *a, **k: traces.append(1) or compute_loss(*a, **k), model._compute_loss
    logs = run(model, batch_size=8, blocks=[1, 2, 9])
    assert len(traces) == 1
    assert [len(piece.loss) for piece in logs] == [1, 2, 9]
    twin.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_same(model, twin)


@pytest.mark.parametrize("how", HOW)
def test_without_an_order_the_examples_are_taken_as_they_lie(how):
    (model, _), (twin, _) = built(**HOW[how]), built(**HOW[how])
    with_order, without = run(model, 40)[0], run(twin, 40, order=False)[0]
    assert_same(model, twin)
    np.testing.assert_array_equal(with_order.loss, without.loss)


@pytest.mark.parametrize(("how", "batch_size"), [("graph", 32), ("graph", 40), ("eager", 40), ("xla", 40)])
def test_it_stops_after_the_step_whose_loss_is_not_finite(how, batch_size):
    model, _ = built(**HOW[how])
    block = training_block(model, nullcontext, None if 96 % batch_size else batch_size)
    spoilt = X.copy()
    spoilt[40] = np.nan
    data, order = (tf.constant(spoilt), tf.constant(Y)), tf.range(96)
    assert block.run(data, order, 0, batch_size, 3, stop_if_not_finite=True).count == 2
    assert block.run(data, order, 0, batch_size, 3, stop_if_not_finite=False).count == 3


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


RETURNED = {
    "numbers": lambda loss: {"half": 0.5, "two": 2, "yes": True, "loss": loss},
    "vectors": lambda loss: {"loss": loss, "each": tf.stack([loss, 2 * loss])},
    "nested": lambda loss: {"f1": {"a": loss, "b": 2 * loss}, "loss": loss},
    "a None in it": lambda loss: {"loss": loss, "none": None},
    "float64": lambda loss: {"loss": tf.cast(loss, tf.float64) / 3},
    "float16": lambda loss: {"loss": tf.cast(loss, tf.float16)},
    "a loss in two parts": lambda loss: {"loss": tf.stack([loss, loss])},
    "integers": lambda loss: {"count": tf.constant(2**40, tf.int64), "loss": loss},
    "text": lambda loss: {"loss": loss, "said": tf.constant("so")},
}


def custom(logs, **how):
    def make(seed):
        keras.utils.set_random_seed(seed)
        model = Custom(logs)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **how)
        return model

    models = make(3), make(3)
    for model in models:
        model._symbolic_build(data_batch=(keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")))
    return models


@pytest.mark.parametrize(
    ("returned", "how"), [*((returned, "graph") for returned in RETURNED), ("nested", "eager"), ("nested", "xla")]
)
def test_the_last_logs_are_those_of_model_fit(returned, how):
    model, twin = custom(RETURNED[returned], **HOW[how])
    logs = run(model, watch=True)[0]
    fit = twin.fit(X, Y, shuffle=False, verbose=0).history
    assert logs.count == 3
    ours = pythonify_logs(model._get_metrics_result_or_logs(logs.last))
    assert set(ours) == set(fit)
    for name, (theirs,) in fit.items():
        np.testing.assert_array_equal(ours[name], theirs)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("nothing", [{}, None])
def test_a_step_without_logs_trains_and_says_how_many_were_taken(nothing, how):
    model, _ = custom(lambda loss: nothing, **HOW[how])
    twin, _ = custom(lambda loss: {"loss": loss}, **HOW[how])  # for Model.fit wants a log
    logs = run(model, watch=True)[0]
    assert logs == StepLogs({}, {}, None, 3)
    twin.fit(X, Y, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_a_number_is_kept_of_every_step_and_in_its_precision():
    model, _ = custom(lambda loss: {**RETURNED["numbers"](loss), "fine": tf.cast(loss, tf.float64) + 1e-9, "v": [loss]})
    logs = run(model)[0]
    loss = logs.columns["loss"]
    assert {name: values.dtype.name for name, values in logs.columns.items()} == {
        "half": "float32", "two": "int64", "yes": "int64", "loss": "float32", "fine": "float64",
    }  # fmt: skip
    np.testing.assert_array_equal(logs.columns["fine"], loss.astype(np.float64) + 1e-9)
    np.testing.assert_array_equal(logs.last["v"], loss[-1:])
    assert len(np.unique(loss)) == 3


def test_logs_that_are_no_dict_are_refused_by_name():
    model, _ = custom(lambda loss: loss)
    with pytest.raises(TypeError, match=r"`train_step` must return a dict of logs\. Received: .*Tensor"):
        run(model)


@pytest.mark.parametrize("how", HOW)
def test_what_is_measured_is_what_was_before_the_update(how):
    model, _ = built(**HOW[how])
    model.optimizer.learning_rate = 0.1
    logs = run(model, measured=lambda: {"done": tf.identity(model.optimizer.iterations.value)})[0]
    assert logs.columns["done"].tolist() == [0, 1, 2]
    assert "done" not in logs.last


def test_the_loss_of_each_batch_is_no_column_of_the_logs():
    model, _ = built()
    logs = run(model)[0]
    assert set(logs.columns) == {"loss", "accuracy"}
    assert logs.loss.shape == (3,)


def test_a_metric_named_as_the_loss_of_a_batch_keeps_its_name():
    def make(seed):
        model = demos.dense_network(seed=seed)
        metric = keras.metrics.SparseCategoricalAccuracy(name="batch_loss")
        model.compile("sgd", model.loss, metrics=[metric])
        return model

    (plain, _), (model, twin) = built(lambda seed: demos.dense_network("sgd", seed)), built(make)
    logs = run(model)[0]
    history = twin.fit(X, Y, shuffle=False, verbose=0).history
    np.testing.assert_array_equal(logs.loss, run(plain)[0].loss)
    assert float(logs.columns["batch_loss"][-1]) == history["batch_loss"][0]


# -------------------------------------------------------------------- whatever is given


def test_ragged_and_sparse_examples_are_gathered_or_taken_whole():
    ragged = tf.RaggedTensor.from_row_lengths(tf.range(10.0), [1, 2, 3, 4])
    seen = []
    block = Block(keras.Model(), lambda data: StepResult({"sum": tf.reduce_sum(data)}), nullcontext)
    for order, count in ((tf.constant([3, 0, 1, 2]), 2), (None, 2)):
        seen.append(block.run(ragged, order, 0, 2, count).columns["sum"].tolist())
    assert seen == [[30.0, 15.0], [3.0, 42.0]]

    sparse = tf.sparse.from_dense([[1.0, 0.0], [0.0, 5.0]])
    block = Block(keras.Model(), lambda data: StepResult({"sum": tf.reduce_sum(data.values)}), nullcontext)
    assert block.run(sparse, None, 0, 2, 1).columns["sum"].tolist() == [6.0]
