"""What holds of any sequence of steps and changes, tried on sequences drawn at random."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import babysit
from tests.walk import Sampler
from tests.zoo import compiled, dense, state, table

EXAMPLES = 97  # a prime: no batch size divides it, so a graph is never made for one size alone
X, Y = table(EXAMPLES)["x"], table(EXAMPLES)["y"]
MOMENTA = (0.5, 0.9, 0.99)

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-4, 0.05),
        "momentum": st.sampled_from(MOMENTA),
        "batch_size": st.integers(1, EXAMPLES),
    },
)
# What is changed, and how many steps are taken then.
SCRIPTS = st.lists(st.tuples(CHANGES, st.integers(1, 9)), min_size=1, max_size=6)
EPOCHS = 60  # more than the longest script can come to


def network(optimizer: Any = None) -> keras.Model:
    keras.utils.set_random_seed(17)
    optimizer = optimizer or keras.optimizers.SGD(0.02, momentum=0.9)
    return compiled(dense(layers.Dense(8, "tanh"), layers.Dropout(0.2)), optimizer, metrics=["mae"])


def resting(folder: Any, model: keras.Model, x: np.ndarray = X, y: np.ndarray = Y) -> babysit.Panda:
    """A panda at its start, to which each example takes it back: so its step is compiled once."""
    return babysit.Panda(model, folder / "run", seed=7).fit(x, y, batch_size=16, epochs=EPOCHS, paused=True)


@pytest.fixture(scope="module")
def panda(tmp_path_factory: Any) -> babysit.Panda:
    return resting(tmp_path_factory.mktemp("plain"), network())


def follow(panda: babysit.Panda, script: list[tuple[dict[str, Any], int]], longest_block: int | None = None) -> None:
    """Does what a script says, its steps in blocks of so many at most."""
    for changes, steps in script:
        if changes:
            panda.set(**changes)
        while steps > 0:
            block = min(steps, longest_block or steps)
            panda.run(block)
            steps -= block


class Seen(layers.Layer):
    """Counts how often each example, named by its number, went by in training."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(EXAMPLES,), initializer="zeros", trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            numbers = tf.cast(tf.reshape(inputs, [-1]), tf.int32)
            self.seen.assign_add(tf.math.bincount(numbers, minlength=EXAMPLES, dtype=tf.float32))
        return inputs / EXAMPLES


@pytest.fixture(scope="module")
def counting(tmp_path_factory: Any) -> babysit.Panda:
    numbers = np.arange(EXAMPLES, dtype="float32").reshape(-1, 1)
    model = keras.Sequential([keras.Input((1,)), Seen(), layers.Dense(1)])
    compiled(model, keras.optimizers.SGD(0.001, momentum=0.5))
    return resting(tmp_path_factory.mktemp("counting"), model, numbers, numbers / EXAMPLES)


@settings(max_examples=6)
@given(script=SCRIPTS)
def test_every_example_is_seen_once_an_epoch(counting, script):
    counting.rewind(counting.checkpoints[0])
    sampler = Sampler(EXAMPLES, seed=7)
    for changes, steps in script:
        if changes:
            counting.set(**changes)
        for _ in range(steps):
            counting.run(1)
            sampler.advance(1, int(counting.hyperparameters["batch_size"].value))
            if sampler.finished:
                sampler.next_epoch()
            expected = np.full(EXAMPLES, sampler.epoch)
            expected[sampler.order[: sampler.cursor]] += 1
            np.testing.assert_array_equal(counting.model.layers[0].seen.numpy(), expected)


@settings(max_examples=6)
@given(script=SCRIPTS, longest_block=st.integers(1, 4))
def test_the_digest_does_not_depend_on_how_steps_are_cut_into_blocks(panda, script, longest_block):
    panda.rewind(panda.checkpoints[0])
    follow(panda, script)
    digest, losses = panda.digest(), panda.history["loss"]
    panda.rewind(panda.checkpoints[0])
    follow(panda, script, longest_block)
    assert panda.digest() == digest
    np.testing.assert_array_equal(panda.history["loss"], losses)


class ByHand:
    """A plain training loop, its optimizer compiled anew for each momentum."""

    def __init__(self) -> None:
        self.model = network()
        self.optimizers = {momentum: keras.optimizers.SGD(0.02, momentum=momentum) for momentum in MOMENTA}
        for optimizer in self.optimizers.values():
            optimizer.build(self.model.trainable_variables)
        self.steps = {momentum: self.compiled_step(momentum) for momentum in MOMENTA}
        self.start = [self.held(momentum) for momentum in MOMENTA]

    def held(self, momentum: float) -> list[np.ndarray]:
        return [v.numpy().copy() for v in self.model.variables + self.optimizers[momentum].variables]

    def compiled_step(self, momentum: float) -> Any:
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = self.model.compute_loss(x, y, self.model(x, training=True))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizers[momentum].apply(gradients, self.model.trainable_variables)
            return loss

        shapes = [tf.TensorSpec([None, 6]), tf.TensorSpec([None, 1])]
        return tf.function(step, input_signature=shapes, autograph=False)

    def follow(self, script: list[tuple[dict[str, Any], int]]) -> tuple[list[np.ndarray], list[float]]:
        """Weights and optimizer's variables at the end, and the loss of each batch."""
        for momentum, start in zip(MOMENTA, self.start, strict=True):
            for v, value in zip(self.model.variables + self.optimizers[momentum].variables, start, strict=True):
                v.assign(value)
        sampler, losses = Sampler(EXAMPLES, seed=7), []
        momentum, batch_size = 0.9, 16
        for changes, steps in script:
            if (other := changes.get("momentum", momentum)) != momentum:
                old = self.optimizers[momentum].variables
                for mine, value in zip(self.optimizers[other].variables, old, strict=True):
                    mine.assign(value)
                momentum = other
            if "learning_rate" in changes:
                self.optimizers[momentum].learning_rate = changes["learning_rate"]
            batch_size = changes.get("batch_size", batch_size)
            for _ in range(steps):
                batch = sampler.order[sampler.cursor : sampler.cursor + batch_size]
                losses.append(float(self.steps[momentum](X[batch], Y[batch])))
                sampler.advance(1, batch_size)
                if sampler.finished:
                    sampler.next_epoch()
        return self.held(momentum), losses


@pytest.fixture(scope="module")
def plain_loop():
    return ByHand()


@settings(max_examples=10)
@given(script=SCRIPTS)
def test_weights_velocities_and_losses_are_a_plain_loops_bit_for_bit(panda, plain_loop, script):
    panda.rewind(panda.checkpoints[0])
    follow(panda, script)
    weights, losses = plain_loop.follow(script)
    for ours, theirs in zip(state(panda.model), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(panda.history["loss"], losses)
