"""What must always hold of a training: compared with `Model.fit`, a restart, and NumPy by hand."""

import keras
import numpy as np
import pytest

import babysit
from babysit import demos
from tests.walk import Sampler
from tests.zoo import classifier

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
}
(X, Y), VALIDATION = demos.digits()
X, Y = X[:400], Y[:400]


def panda_on(model, tmp_path, seed=7):
    return babysit.Panda(model, tmp_path / "run", seed=seed)


def state(model):
    return [v.value.numpy().copy() for v in model.variables + model.optimizer.variables]


def assert_same(model, reference):
    ours, theirs = state(model), state(reference)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def copy_state(source, target):
    """Puts the weights and the optimizer's variables of one model into another, by position."""
    target.optimizer.build(target.trainable_variables)
    old = source.model.variables + source.model.optimizer.variables
    for a, b in zip(old, target.variables + target.optimizer.variables, strict=True):
        b.assign(a)


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    """A run of two epochs that is over, in which the tests go back; what `Model.fit` trained, and both at the end."""
    ours, theirs = (demos.convolutional_network(OPTIMIZERS["nesterov"](), seed=3) for _ in range(2))
    how = {"batch_size": 48, "epochs": 2, "validation_data": VALIDATION, "shuffle": False}
    panda = panda_on(ours, tmp_path_factory.mktemp("convolutional")).fit(X, Y, **how).wait()
    fit = theirs.fit(X, Y, verbose=0, **how)
    yield panda, theirs, (state(ours), state(theirs), fit.history)
    panda.stop()


# ------------------------------------------------------------------ untouched is untouched


def test_untouched_it_is_model_fit_bit_for_bit(convolutional):
    panda, _, (ours, theirs, history) = convolutional
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert panda.history.history == history
    for name, values in panda.history.epochs.items():
        np.testing.assert_array_equal(values, history[name])


def test_shuffled_it_is_model_fit_fed_with_the_same_order(tmp_path):
    ours, theirs = classifier(), classifier()
    panda_on(ours, tmp_path, seed=11).fit(X, Y, epochs=2).wait()

    sampler = Sampler(len(X), seed=11)
    for _ in range(2):
        order = sampler.order
        theirs.fit(X[order], Y[order], shuffle=False, verbose=0)
        sampler.next_epoch()

    assert_same(ours, theirs)


def test_weights_averaged_at_the_end_are_model_fits_and_journaled(tmp_path):
    def averaging():
        return classifier(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))

    ours, theirs = averaging(), averaging()
    panda = panda_on(ours, tmp_path).fit(X, Y, epochs=2, shuffle=False).wait()
    theirs.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    assert_same(ours, theirs)
    assert [entry.action for entry in panda.journal] == ["fit", "edit", "finish"]


def test_the_loss_of_a_step_is_that_of_its_batch(tmp_path):
    model, twin = classifier(), classifier()
    panda = panda_on(model, tmp_path).fit(X, Y, batch_size=100, shuffle=False).wait()
    alone = []
    for i in range(0, 400, 100):
        alone.append(twin.train_on_batch(X[i : i + 100], Y[i : i + 100])[0])
        twin.reset_metrics()  # as Keras 3.12 leaves to the caller
    np.testing.assert_array_equal(panda.history["loss"], alone)


# ------------------------------------------------------------------ a change equals a restart


def changed(optimizer, name, value):
    """The same optimizer, compiled with another value from the start."""
    config = OPTIMIZERS[optimizer]().get_config() | {name: value}
    return type(OPTIMIZERS[optimizer]()).from_config(config)


@pytest.mark.parametrize(("optimizer", "name", "value"), [("sgd", "momentum", 0.9), ("momentum", "momentum", 0.0)])
def test_a_change_equals_a_restart_with_that_value(tmp_path, optimizer, name, value):
    model = classifier(OPTIMIZERS[optimizer]())
    panda = panda_on(model, tmp_path).fit(X, Y, batch_size=50, epochs=2, shuffle=False, paused=True)
    panda.run(5)
    entry = panda.set(**{name: value})
    assert (entry.step, entry.changes[name][1]) == (5, value)
    assert panda.hyperparameters[name].value == value

    restarted = classifier(changed(optimizer, name, value))
    if value == 0:  # a stock optimizer without momentum has no velocities to copy into
        for a, b in zip(model.variables, restarted.variables, strict=True):
            b.assign(a)
    else:
        copy_state(panda, restarted)
    panda.run(3)
    restarted.fit(X[250:], Y[250:], batch_size=50, shuffle=False, verbose=0)

    for a, b in zip(model.variables, restarted.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    if value != 0:
        assert_same(model, restarted)


def test_a_changed_batch_size_acts_on_the_next_step_and_equals_a_restart(convolutional):
    panda, restarted, _ = convolutional
    panda.rewind(0)
    panda.run(4)
    copy_state(panda, restarted)
    assert panda.set(batch_size=100).step == 4
    panda.run(3)  # 192, 292, 392, 400: the last batch of the epoch has 8
    restarted.fit(X[192:], Y[192:], batch_size=100, shuffle=False, verbose=0)
    assert_same(panda.model, restarted)
    assert panda.epoch == 1
    assert panda.history["batch_size"].tolist() == [48] * 4 + [100] * 3


def test_sgd_with_momentum_equals_the_formula_in_numpy(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(64, 3)).astype("float32"), rng.normal(size=(64, 1)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    w = model.get_weights()[0].astype(np.float64)
    v = np.zeros_like(w)

    panda = panda_on(model, tmp_path).fit(x, y, batch_size=16, epochs=4, shuffle=False, paused=True)
    for step in range(12):
        if step == 5:
            panda.set(momentum=0.9, learning_rate=0.02)
            v = np.zeros_like(w)  # velocities begin when momentum first leaves 0
        if step == 9:
            panda.set(momentum=0.5)
        rate, momentum = (0.1, 0.0) if step < 5 else (0.02, 0.9) if step < 9 else (0.02, 0.5)
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        gradient = 2 / 16 * x[rows].T @ (x[rows] @ w - y[rows])
        v = momentum * v - rate * gradient
        w = w + v
        panda.run(1)
        np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-4, atol=1e-6)


class Traced(keras.layers.Layer):
    """Counts how often it is traced, in Python."""

    count = 0

    def call(self, inputs):
        Traced.count += 1
        return inputs


def test_nothing_is_traced_again_but_once_when_momentum_leaves_0(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), Traced(), keras.layers.Dense(10)])
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    how = {"epochs": 9, "paused": True, "validation_data": VALIDATION}
    panda = panda_on(model, tmp_path).fit(X, Y, **how)
    panda.run(13)  # through a validation
    first = Traced.count
    panda.stop()
    panda.wait().fit(X, Y, **how)
    panda.run(13)
    assert Traced.count == first
    panda.set(learning_rate=0.02, batch_size=64)
    panda.run(2)
    panda.set(batch_size=7)
    panda.run(40)
    assert Traced.count == first

    panda.set(momentum=0.9)
    panda.run(3)
    with_velocities = Traced.count
    assert with_velocities > first
    for momentum in (0.5, 0.0, 0.99):
        panda.set(momentum=momentum)
        panda.run(3)
    assert Traced.count == with_velocities


# ------------------------------------------------------------------- block size never shows


def test_one_step_a_block_or_many_gives_the_same_bits(convolutional):
    panda, *_ = convolutional

    def steered(blocks):
        panda.rewind(0)
        for steps in blocks(5):
            panda.run(steps)
        panda.set(batch_size=30, momentum=0.5)
        for steps in blocks(12):  # through the end of an epoch
            panda.run(steps)
        return panda.digest(), panda.history["loss"].tolist(), panda.history["accuracy"].tolist()

    alone = steered(lambda n: [1] * n)
    assert alone == steered(lambda n: [n]) == steered(lambda n: [3, n - 4, 1])


# ------------------------------------------------------------------------ rewinding is exact


def test_from_a_checkpoint_the_same_again_gives_the_same_digest(convolutional):
    panda, *_ = convolutional
    panda.rewind(0)

    def go_on():
        panda.run(4)
        panda.set(momentum=0.7, learning_rate=0.002, batch_size=60)
        panda.run(5)  # through the end of an epoch
        return panda.digest()

    panda.run(5)  # in the middle of one
    before, saved = panda.digest(), panda.save("here")
    assert saved.digest == before
    once = go_on()
    branches = len(panda.branches)
    panda.rewind("here")
    assert (panda.digest(), panda.step) == (before, 5)
    assert go_on() == once
    panda.rewind(0)
    assert panda.step == 0
    panda.run(5)
    assert panda.digest() == before
    assert go_on() == once
    assert len(panda.branches) == branches + 2


def test_fewer_examples_than_a_batch_train_as_model_fit_does(tmp_path):
    ours, theirs = classifier(), classifier()
    panda = panda_on(ours, tmp_path).fit(X[:3], Y[:3], epochs=4, shuffle=False).wait()
    fit = theirs.fit(X[:3], Y[:3], epochs=4, shuffle=False, verbose=0)
    assert_same(ours, theirs)
    assert panda.history.history == fit.history


def test_a_second_fit_on_other_data_is_model_fits_under_xla_too(tmp_path):
    def compiled():
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(10, "softmax")])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "sparse_categorical_crossentropy", jit_compile=True)
        return model

    ours, theirs, x = compiled(), compiled(), X[:, 4, :, 0]
    panda = panda_on(ours, tmp_path).fit(x[:96], Y[:96], epochs=2, shuffle=False).wait()
    panda.fit(x[:50], Y[:50], epochs=2, shuffle=False).wait()
    for n in (96, 50):
        theirs.fit(x[:n], Y[:n], epochs=2, shuffle=False, verbose=0)
    assert_same(ours, theirs)


def test_another_order_begins_an_epoch_anew_and_a_checkpoint_remembers_its_own(tmp_path):
    panda = panda_on(classifier(), tmp_path).fit(X[:100], Y[:100], 10, 9, paused=True)
    panda.run(5)
    panda.save("shuffled")
    panda.run(3)
    digest = panda.digest()
    panda.stop()
    panda.fit(X[:100], Y[:100], 10, 9, shuffle=False, paused=True)
    panda.run(10)
    assert panda.epoch == 1  # all hundred of them, in their own order
    panda.rewind("shuffled")
    panda.run(3)
    assert panda.digest() == digest
