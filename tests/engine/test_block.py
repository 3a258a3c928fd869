"""The compiled block: whatever a `train_step` returns, and whatever it is made of, it trains as `Model.fit` does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils.python_utils import pythonify_logs

import babysit
from babysit import demos
from babysit.engine import block as steps
from babysit.engine.block import Block, Stepwise, training_block
from babysit.engine.tensors import Variables
from tests.zoo import ZOO

(X, Y), _ = demos.digits()
X, Y = X[:96], Y[:96]
HOW = {"graph": {}, "eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}


def built(make=demos.dense_network, **how):
    """A model as the trainer prepares one, and its twin for `Model.fit`."""
    models = make(seed=3), make(seed=3)
    for model in models:
        if model._distribute_strategy:
            continue  # Keras builds it in its own scope
        if how:
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), model.loss, metrics=["accuracy"], **how)
        symbolic = keras.KerasTensor((None, 8, 8, 1)), keras.KerasTensor((None,), "int64")
        model._symbolic_build(data_batch=symbolic)
    return models


def run(model, batch_size=32, examples=96, blocks=None, held=None, measured=None, order=True, watch=False):
    """An epoch in order, in blocks of so many steps; the logs of each."""
    block = training_block(model, held or steps.nullcontext, None if examples % batch_size else batch_size, measured)
    data = tf.constant(X[:examples]), tf.constant(Y[:examples])
    indices = tf.range(examples, dtype=tf.int64) if order else None
    logs, cursor = [], 0
    for count in blocks or [-(-examples // batch_size)]:
        logs.append(block(data, indices, cursor, batch_size, count, watch))
        cursor += count * batch_size
    return logs


def assert_same(model, twin):
    for ours, theirs in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


# ------------------------------------------------------------------- as Model.fit trains


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("examples", "blocks"), [(96, [3]), (80, [3]), (80, [1, 2]), (80, [1, 1, 1])])
def test_an_epoch_in_any_blocks_is_model_fits(how, examples, blocks):
    model, twin = built(**HOW[how])
    logs = run(model, examples=examples, blocks=blocks)[-1]
    fit = twin.fit(X[:examples], Y[:examples], batch_size=32, shuffle=False, verbose=0)
    assert_same(model, twin)
    assert {name: [value] for name, value in pythonify_logs(logs.last).items()} == fit.history


@pytest.mark.parametrize("make", [demos.dense_network, demos.convolutional_network])
@pytest.mark.parametrize("examples", [96, 92])
def test_unrolled_it_is_model_fits_too(make, examples):
    model, twin = built(make)
    block = training_block(model, steps.nullcontext, None if examples % 8 else 8)
    data, order = (tf.constant(X[:examples]), tf.constant(Y[:examples])), tf.range(examples)
    block(data, order, 0, 8, 1)
    block.unroll()
    for start, count in [(1, 9), (10, 2)]:  # two turns of the loop and a step; two steps, less than a turn
        logs = block(data, order, 8 * start, 8, count)
        assert logs.taken == count
    twin.fit(X[:examples], Y[:examples], batch_size=8, shuffle=False, verbose=0)
    assert_same(model, twin)


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


@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize("batch_size", [16, 20])
def test_products_are_grouped_as_in_model_fit(batch_size, unrolled):
    x = X.reshape(96, 64).astype("float32")
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        models.append(Variational())
        models[-1].compile(keras.optimizers.SGD(0.01))
        models[-1].optimizer.build(models[-1].trainable_variables)
    model, twin = models
    block = training_block(model, steps.nullcontext, None if 96 % batch_size else batch_size)
    if unrolled:
        block.unroll()
    count = -(-96 // batch_size)
    for _ in range(20):
        block(tf.constant(x), tf.range(96), 0, batch_size, count)
    twin.fit(x, epochs=20, batch_size=batch_size, shuffle=False, verbose=0)
    assert_same(model, twin)


@pytest.mark.parametrize("batch_size", [48, 40])
def test_a_network_with_convolutions_is_model_fits_under_xla(batch_size):
    model, twin = built(demos.convolutional_network, jit_compile=True)
    run(model, batch_size=batch_size)
    twin.fit(X, Y, batch_size=batch_size, shuffle=False, verbose=0)
    assert_same(model, twin)


def test_under_xla_a_new_count_compiles_nothing_and_a_long_block_is_several_calls(monkeypatch):
    monkeypatch.setattr(steps, "CAPACITY", 4)
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


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("batch_size", [32, 40])
def test_it_stops_behind_the_step_whose_loss_is_not_finite(how, batch_size):
    model, _ = built(**HOW[how])
    block = training_block(model, steps.nullcontext, None if 96 % batch_size else batch_size)
    spoilt = X.copy()
    spoilt[40] = np.nan
    data, order = (tf.constant(spoilt), tf.constant(Y)), tf.range(96)
    assert block(data, order, 0, batch_size, 3, watch=True).taken == 2
    assert block(data, order, 0, batch_size, 3, watch=False).taken == 3


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


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("returned", RETURNED)
def test_the_last_logs_are_those_of_model_fit(returned, how):
    if (returned, how) == ("text", "xla"):
        return  # which XLA cannot compile, for Keras either
    model, twin = custom(RETURNED[returned], **HOW[how])
    logs = run(model, watch=True)[0]
    fit = twin.fit(X, Y, shuffle=False, verbose=0).history
    assert logs.taken == 3
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
    assert logs == ({}, {}, None, 3)
    twin.fit(X, Y, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_a_number_is_kept_of_every_step_and_in_its_precision():
    model, _ = custom(lambda loss: {**RETURNED["numbers"](loss), "fine": tf.cast(loss, tf.float64) + 1e-9, "v": [loss]})
    logs = run(model)[0]
    loss = logs.steps["loss"]
    assert {name: values.dtype.name for name, values in logs.steps.items()} == {
        "half": "float32", "two": "int64", "yes": "int64", "loss": "float32", "fine": "float64",
    }  # fmt: skip
    np.testing.assert_array_equal(logs.steps["fine"], loss.astype(np.float64) + 1e-9)
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
    assert logs.steps["done"].tolist() == [0, 1, 2]
    assert "done" not in logs.last


@pytest.mark.parametrize("how", HOW)
def test_the_loss_of_each_batch_is_no_column_of_the_logs(how):
    model, _ = built(**HOW[how])
    logs = run(model)[0]
    assert set(logs.steps) == {"loss", "accuracy"}
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
    assert float(logs.steps["batch_loss"][-1]) == history["batch_loss"][0]


# ---------------------------------------------------------------- what comes out the same again


class Noisy(keras.layers.Layer):
    """Adds what it is told to."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.seeds = noise, keras.random.SeedGenerator(3)

    def call(self, inputs):
        return inputs + self.noise(self)


NOISES = {
    "seeded": (lambda layer: keras.random.normal((10,), seed=layer.seeds), ""),
    "a number for a seed": (lambda layer: keras.random.normal((10,), seed=3), ""),
    "stateless": (lambda layer: tf.random.stateless_normal((10,), (1, 2)), ""),
    "the seeds that all share": (lambda layer: keras.random.normal((10,)), "the seeds that all of Keras shares"),
    "tf.random": (lambda layer: tf.random.normal((10,)), "uses RandomStandardNormal"),
    "tf.random.uniform": (lambda layer: tf.random.uniform((10,)), "uses RandomUniform"),
    "a function in Python": (
        lambda layer: tf.ensure_shape(tf.numpy_function(np.random.rand, (10,), tf.float64), (10,)),
        "uses PyFunc",
    ),
}


@pytest.mark.parametrize("how", ["graph", "xla"])
@pytest.mark.parametrize("noise", NOISES)
def test_a_block_says_why_its_steps_do_not_come_out_the_same_again(noise, how):
    if (noise, how) == ("a function in Python", "xla"):
        return  # which XLA cannot compile
    add, reason = NOISES[noise]
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dropout(0.1), keras.layers.Dense(10)]
    )
    model.add(Noisy(lambda layer: tf.cast(add(layer), tf.float32)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **HOW[how])
    model.optimizer.build(model.trainable_variables)
    keras.random.normal((1,))  # so that the shared seeds are there
    block = training_block(model, steps.nullcontext)
    assert block.remark == ""
    block((tf.constant(X), tf.constant(Y)), tf.range(96), 0, 32, 2)
    assert bool(block.remark) == bool(reason)
    assert reason in block.remark


class Accumulating(keras.Model):
    """Gathers gradients by hand over three steps, in TensorFlow's own variables, which it has as attributes or not."""

    def __init__(self, has_them):
        super().__init__()
        self.dense, self.table = keras.layers.Dense(1), tf.Variable([0.5, 1.5])
        self.dense.build((None, 4))
        count, sums = tf.Variable(0), [tf.Variable(tf.zeros(each.shape)) for each in self.dense.variables]
        self.gathered = lambda: (count, sums)
        if has_them:
            self.count, self.sums = count, {"of gradients": sums}

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        count, sums = self.gathered()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data[0]) - data[1])) * self.table[0]
        count.assign_add(1)
        ready = tf.cast(count % 3 == 0, tf.float32)
        gradients = tape.gradient(loss, self.trainable_variables)
        for variable, total, gradient in zip(self.trainable_variables, sums, gradients, strict=True):
            total.assign_add(gradient)
            variable.assign_sub(0.1 * ready * total)
            total.assign((1 - ready) * total)
        return {"loss": loss}


def accumulating(has_them=True):
    keras.utils.set_random_seed(5)
    model = Accumulating(has_them)
    model.compile("sgd")
    return model


def test_variables_that_keras_does_not_know_are_rewound_replayed_and_loaded(tmp_path):
    data = X[:80, 0, :4, 0], Y[:80, None].astype("float32")
    panda = babysit.Panda(accumulating(), tmp_path / "run").fit(*data, batch_size=8, epochs=2, paused=True)
    panda.run(4)  # one step behind an update
    saved, ends = panda.save("here"), []
    for _ in range(2):
        panda.run(3)
        ends.append(panda.digest())
        panda.rewind("here")
        assert panda.digest() == saved.digest
        assert int(panda.model.count) == 4
    assert ends[0] == ends[1]
    panda.rewind(0)
    assert int(panda.model.count) == 0
    assert panda.status()["remarks"] == []
    panda.resume()
    panda.wait(60)
    assert babysit.replay(panda.directory, accumulating(), *data).identical
    loaded = babysit.Panda.load(panda.directory, model=accumulating())
    loaded.rewind("here")
    assert loaded.digest() == saved.digest
    assert int(loaded.model.count) == 4


def test_a_checkpoint_without_them_can_still_be_rewound_to():
    variables = Variables(accumulating(), [])
    tensors = variables.read()
    assert [array.shape for array in tensors.pop("raw")] == [(2,), (), (4, 1), (1,)]
    variables.check(tensors)
    variables.write(tensors)
    with pytest.raises(ValueError, match="another model"):
        variables.check(tensors | {"raw": [np.zeros(3)]})


@pytest.mark.parametrize("has_them", [True, False])
def test_it_is_said_where_a_step_changes_variables_that_the_model_does_not_hold(tmp_path, has_them):
    data = X[:80, 0, :4, 0], Y[:80, None].astype("float32")
    panda = babysit.Panda(accumulating(has_them), tmp_path / "run").fit(*data).wait(60)
    assert ["variables that the model does not hold" in remark for remark in panda.status()["remarks"]] == (
        [] if has_them else [True]
    )


@pytest.mark.parametrize("name", ["augmentation inside the model", "gan with two optimizers", "gradient accumulation"])
def test_of_variables_that_it_holds_nothing_is_said(tmp_path, name):
    make, arguments = ZOO[name]()
    panda = babysit.Panda(make(), tmp_path / "run").fit(**arguments, paused=True)
    panda.run(1)
    assert panda.status()["remarks"] == []
    assert set(panda._trainer.subject.tensors.groups()) == {"model", "optimizer", "metrics"}


# -------------------------------------------------------------------- whatever is given


def test_ragged_and_sparse_examples_are_gathered_or_taken_whole():
    ragged = tf.RaggedTensor.from_row_lengths(tf.range(10.0), [1, 2, 3, 4])
    seen = []
    block = Block(keras.Model(), lambda data: steps._Seen({"sum": tf.reduce_sum(data)}), steps.nullcontext)
    for order, count in ((tf.constant([3, 0, 1, 2]), 2), (None, 2)):
        seen.append(block(ragged, order, 0, 2, count).steps["sum"].tolist())
    assert seen == [[30.0, 15.0], [3.0, 42.0]]

    sparse = tf.sparse.from_dense([[1.0, 0.0], [0.0, 5.0]])
    block = Block(keras.Model(), lambda data: steps._Seen({"sum": tf.reduce_sum(data.values)}), steps.nullcontext)
    assert block(sparse, None, 0, 2, 1).steps["sum"].tolist() == [6.0]
    with pytest.raises(ValueError, match=r"SparseTensor must be one batch.*Use order=None, count=1"):
        block(sparse, None, 0, 1, 2)


# -------------------------------------------------------------------- what cannot be fused


class Own(keras.Sequential):
    """A model that makes its train function itself."""

    calls = 0

    def make_train_function(self, force=False):
        function = super().make_train_function(force)
        type(self).calls += 1
        return function


def own(seed):
    model = demos.dense_network(seed=seed)
    model = Own([keras.Input((8, 8, 1)), *model.layers])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def mirrored(seed):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return demos.dense_network(seed=seed)


@pytest.mark.parametrize(("make", "reason"), [(own, "overrides `make_train_function`"), (mirrored, "MirroredStrategy")])
@pytest.mark.parametrize("examples", [96, 80])
def test_what_cannot_be_fused_is_stepped_through_keras_and_says_why(make, reason, examples):
    model, twin = built(make)
    assert reason in steps.why_not_fused(model)
    assert isinstance(training_block(model, steps.nullcontext), Stepwise)
    logs = run(model, examples=examples)[0]
    fit = twin.fit(X[:examples], Y[:examples], shuffle=False, verbose=0)
    assert_same(model, twin)
    assert logs.steps["accuracy"].shape == (3,)
    assert pythonify_logs(logs.last) == {name: values[0] for name, values in fit.history.items()}


def test_each_structure_has_a_train_function_of_its_own():
    """Frozen, thawed and gone back to: a block trains by the model as it is now."""
    model, _ = built(own)
    data, order = (tf.constant(X), tf.constant(Y)), tf.range(96)
    thawed, frozen = Stepwise(model), Stepwise(model)
    dense, *_, last = [layer for layer in model.layers if layer.trainable_variables]

    def moved(block):
        before = [dense.kernel.numpy(), last.kernel.numpy()]
        block(data, order, 0, 32, 1)
        return [bool((old != new.numpy()).any()) for old, new in zip(before, (dense.kernel, last.kernel), strict=True)]

    assert moved(thawed) == [True, True]
    dense.trainable = False
    assert moved(frozen) == [False, True]
    dense.trainable = True
    assert moved(thawed) == [True, True]


def test_a_train_function_of_the_users_own_is_kept():
    model, _ = built()
    calls = []
    model.train_function = lambda iterator: calls.append(next(iterator)) or {"loss": 1.0}
    assert "of its own" in steps.why_not_fused(model)
    run(model)
    run(model)
    assert len(calls) == 6


def test_a_stock_model_can_be_fused_before_and_after_model_fit():
    model, _ = built()
    assert steps.why_not_fused(model) == ""
    model.fit(X, Y, verbose=0)
    assert steps.why_not_fused(model) == ""
