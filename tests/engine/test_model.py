"""The trainable model: static batch sizes, state that Keras does not know, another compilation, restored states."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from babysit.core.controls import Controls
from babysit.core.position import Position
from babysit.core.state import State
from babysit.engine.model import TrainableModel
from tests.zoo import ZOO

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 4))).astype("float32")


class Training:
    """A model that is trained in the order of its data, as a trainer would."""

    def __init__(self, model, x=X, y=Y, batch_size=32):
        self.model = model
        self.data, self.order = (tf.constant(x), tf.constant(y)), tf.range(len(x), dtype=tf.int32)
        self.spec = [{"shape": [None, *part.shape[1:]], "dtype": part.dtype.name} for part in (x, y)]
        specs = tuple(tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in (x, y))
        self.signature = specs, tf.TensorSpec([None], tf.int32)
        self.batch_size, self.cursor, self.losses = batch_size, 0, []
        self.trained = TrainableModel(model)
        self.prepare()

    def prepare(self):
        self.trained.build(self.spec, self.static_size)
        self.trained.bind(self.signature, self.static_size)

    @property
    def static_size(self):
        return None if len(self.order) % self.batch_size else self.batch_size

    def run(self, steps, static=True):
        """So many steps, from the beginning again where an epoch is over; returns their losses."""
        losses = []
        while steps:
            count = min(steps, -(-(len(self.order) - self.cursor) // self.batch_size))
            block = self.trained.block(self.static_size if static else None, self.signature)
            logs = block.run(self.data, self.order, self.cursor, self.batch_size, count)
            losses += logs.loss.tolist()
            self.cursor += count * self.batch_size
            steps -= count
            if self.cursor >= len(self.order):
                self.cursor = 0
                self.trained.tensors.reset_metrics()
        return losses

    def state(self):
        """All that `restore` needs."""
        trained, tensors = self.trained, self.trained.tensors
        structure = {"trainable": trained.trainable, "built_for": tensors.built_for, "slots": trained.bindings.slots}
        return State(Position(example=self.cursor), Controls(trained.bindings.settings), tensors.read(), **structure)

    def restore(self, state):
        self.trained.restore(state)
        self.cursor = state.position.example


def assert_same(ours, theirs):
    found = [model.variables + model.optimizer.variables for model in (ours, theirs)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


# -------------------------------------------------------------------- static batch sizes


def unexplained(true, predicted):
    mean = tf.reshape(tf.reduce_mean(predicted, axis=1), (predicted.shape[0], 1))  # needs the static size
    error = tf.reduce_sum(tf.square(predicted - true), 1)
    return error / (1.0 + tf.reduce_sum(tf.square(predicted - mean), 1))


class StaticStep(keras.Model):
    """A `train_step` with a label array of the static size, as those of many GANs."""

    def train_step(self, data):
        x, y = data
        ones = tf.ones((x.shape[0], 1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y) * ones)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class StaticCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs) + tf.zeros((inputs.shape[0], 4))


def static(kind):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(4)(keras.layers.Dense(8, "tanh")(inputs))
    model = StaticCall() if kind == "call" else (StaticStep if kind == "step" else keras.Model)(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), unexplained if kind == "call" else "mse")
    return model


@pytest.mark.parametrize("kind", ["step", "call"])
def test_what_uses_the_static_batch_size_trains_as_in_model_fit_and_at_other_sizes(kind):
    ours, theirs = static(kind), static(kind)
    training = Training(ours)
    training.run(5)
    theirs.fit(X, Y, batch_size=32, epochs=1, shuffle=False, verbose=0)
    assert_same(ours, theirs)

    # Another size, declared to nobody: a graph of that very size. Of the ragged last batch likewise.
    training.batch_size = 20
    training.run(8, static=False)
    fit_one_size(theirs, 20)
    assert_same(ours, theirs)
    if kind == "step":
        return
    training.batch_size = 100
    training.run(2)
    fit_one_size(theirs, 100, slice(0, 100))
    fit_one_size(theirs, 60, slice(100, 160))
    assert_same(ours, theirs)


def fit_one_size(model, batch_size, part=slice(None)):
    """`Model.fit` with a train function of its own, as one that has seen another size is traced for any."""
    model.make_train_function(force=True)
    model.fit(X[part], Y[part], batch_size=batch_size, shuffle=False, verbose=0)


def test_an_error_of_the_step_itself_is_raised_as_it_is():
    def failing(true, predicted):
        raise KeyError("not of the size")

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile("sgd", failing)
    with pytest.raises(KeyError, match="not of the size"):
        Training(model, batch_size=50).run(1)


# -------------------------------------------------------------------- state beside Keras's


def recurrent():
    keras.utils.set_random_seed(1)
    layers = [keras.Input(batch_shape=(16, 5, 2)), keras.layers.LSTM(6, stateful=True), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def annealed(variable):
    def loss(true, predicted):
        penalty = keras.ops.mean(keras.ops.abs(predicted), -1)
        return keras.ops.mean(keras.ops.square(true - predicted), -1) + variable * penalty

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile("sgd", loss)
    return model


class Counting(keras.Model):
    """Counts its steps in a variable that it does not hold."""

    def __init__(self):
        super().__init__()
        self.dense, count = keras.layers.Dense(4), tf.Variable(0.0)
        self.count = lambda: count

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data[0]) - data[1])) * (1 + self.count())
        self.count().assign_add(0.1)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class Noisy(keras.layers.Layer):
    """Draws from the seeds that all of Keras shares."""

    def call(self, inputs):
        return inputs + keras.random.normal((4,))


def counting():
    keras.utils.set_random_seed(1)
    model = Counting()
    model.compile("sgd")
    return model


def noisy():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), Noisy()])
    model.compile("sgd", "mse")
    return model


SEQUENCE = RNG.normal(size=(96, 5, 2)).astype("float32")
BESIDE = {
    "states of a stateful LSTM": (
        recurrent,
        {"x": SEQUENCE, "y": SEQUENCE[:, -1, :1], "batch_size": 16},
        [(16, 6)] * 2,
    ),
    "a variable in a closure": (lambda: annealed(tf.Variable(0.5)), {}, [()]),
    "one of Keras's in a closure": (lambda: annealed(keras.Variable(0.5, trainable=False)), {}, [()]),
    "a variable that a step writes": (counting, {}, [()]),
    "the seeds that all share": (noisy, {}, [(2,)]),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, {}) for name in BESIDE),
        ("a variable that a step writes", {"jit_compile": True}),
        ("the seeds that all share", {"run_eagerly": True}),
    ],
)
def test_what_a_step_captures_outside_keras_belongs_to_the_state_from_the_start(name, how):
    make, data, shapes = BESIDE[name]
    model = make()
    if how:
        model.compile(model.optimizer, model.loss, **how)
    training = Training(model, **data)
    start = training.state()
    assert [array.shape for array in training.trained.tensors.read()["raw"]] == shapes
    first = training.run(4)
    middle = training.state()
    second = training.run(4)
    for state, losses in ((middle, second), (start, first)):
        training.restore(state)
        assert training.run(4) == losses
    training.restore(middle)
    raw = training.trained.tensors.groups()["raw"][0]
    raw.assign(raw.numpy() + 1)
    after = training.run(4)
    assert after != second  # it does something, and comes back
    training.restore(middle)
    assert training.run(4) == second


def test_a_state_is_restored_before_there_are_data():
    training = Training(recurrent(), SEQUENCE, SEQUENCE[:, -1, :1], 16)
    training.run(4)
    state = training.state()
    loaded = TrainableModel(recurrent())
    loaded.build(training.spec)
    loaded.restore(state)
    for _ in range(2):  # what the first trace will find, and has found
        for a, b in zip(loaded.tensors.read()["raw"], state.tensors["raw"], strict=True):
            np.testing.assert_array_equal(a, b)
        loaded.bind(training.signature, training.static_size)


def test_a_change_from_outside_of_a_captured_variable_is_found():
    weight = tf.Variable(0.5)
    training = Training(annealed(weight))
    before = training.trained.tensors.snapshot()
    assert not training.trained.tensors.differ_from(before)
    weight.assign(0.75)
    assert training.trained.tensors.differ_from(before)
    assert training.state().tensors["raw"][0] == np.float32(0.75)


@pytest.mark.parametrize("name", ["augmentation inside the model", "gradient accumulation"])
def test_live_floats_and_what_keras_knows_are_not_outside(name):
    make, arguments = ZOO[name]()
    training = Training(make(), arguments["x"], arguments.get("y", arguments["x"]), arguments["batch_size"])
    assert set(training.trained.tensors.groups()) == {"model", "optimizer", "metrics"}


# -------------------------------------------------------------------- compiled anew


def thawing():
    keras.utils.set_random_seed(1)
    layers = [keras.Input((6,)), keras.layers.Dense(8, "tanh", trainable=False), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def compile_thawed(model):
    model.layers[0].trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mae")


def test_compiled_anew_with_a_thawed_layer_it_goes_on_as_model_fit_does():
    ours, theirs = thawing(), thawing()
    training = Training(ours)
    training.run(5)
    assert not training.trained.compiled_anew
    before = ours.optimizer
    compile_thawed(ours)
    assert training.trained.compiled_anew
    training.prepare()
    assert not training.trained.compiled_anew
    assert type(before.momentum) is float  # stock again
    assert list(training.trained.bindings.values) == ["learning_rate", "beta_1", "beta_2", "epsilon"]
    assert training.trained.bindings.values["learning_rate"] == 0.01
    training.run(5)
    training.trained.bindings.set({"learning_rate": 0.2, "beta_1": 0.5})
    training.run(5)
    training.trained.release()

    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    compile_thawed(theirs)
    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    theirs.optimizer.learning_rate.assign(0.2)
    theirs.optimizer.beta_1 = 0.5
    theirs.compile(theirs.optimizer, "mae")
    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    assert_same(ours, theirs)


def test_another_optimizer_without_compiling_acts_from_the_next_step_on():
    ours, theirs = thawing(), thawing()
    training = Training(ours)
    training.run(5)
    ours.optimizer = keras.optimizers.Adam(0.003)
    assert training.trained.compiled_anew
    training.prepare()
    training.run(5)

    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    theirs.compile(keras.optimizers.Adam(0.003), "mse")
    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    assert_same(ours, theirs)


def test_another_schedule_acts_from_the_next_step_on():
    schedules = keras.optimizers.schedules
    ours, theirs = (static("mse") for _ in range(2))
    for model in (ours, theirs):
        model.compile(keras.optimizers.Adam(schedules.CosineDecay(0.05, 20)), "mse")
    training = Training(ours)
    training.run(5)
    ours.optimizer.learning_rate = replaced = schedules.ExponentialDecay(0.01, 3, 0.5)
    assert training.trained.compiled_anew
    training.prepare()
    assert ours.optimizer._learning_rate is replaced
    training.run(5)

    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    theirs.optimizer.learning_rate = replaced
    theirs.compile(theirs.optimizer, "mse")
    theirs.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    assert_same(ours, theirs)


# -------------------------------------------------------------------- restored


def test_a_state_is_restored_with_velocities_that_came_or_had_not_come_yet():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    training = Training(model)
    states, losses = [training.state()], []
    for momentum in (0.0, 0.9, 0.0):  # none, then velocities, then velocities at rest
        training.trained.bindings.set({"momentum": momentum})
        losses.append(training.run(3))
        states.append(training.state())
    for i in (2, 0, 1, 2, 0):
        training.restore(states[i])
        training.trained.bindings.set({"momentum": (0.0, 0.9, 0.0)[i]})
        assert training.run(3) == losses[i]
        assert bool(training.trained.bindings.slots) == (i > 0)


def test_a_state_of_another_model_changes_nothing():
    training, other = Training(thawing()), Training(static("call"))
    training.run(3)
    before = training.state()
    with pytest.raises(ValueError, match="another model"):
        training.restore(other.state())
    after = training.state()
    assert (before.controls, before.trainable, before.slots) == (after.controls, after.trainable, after.slots)
    assert before.digest() == after.digest()
