"""The ways of training that are compared: each is warmed up, and returns a function that trains on."""

import contextlib
import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import babysit
from tests.benchmarks.models import X, Y

ROUNDS = 7
# In which a panda learns how long its steps take, and makes its blocks accordingly.
SETTLING_S = 4


def with_fit(model, batch_size, epochs, callbacks=()):
    """As a user calls it: with its progress bar, written to nowhere."""
    how = {"batch_size": batch_size, "callbacks": list(callbacks)}

    def train(epochs=epochs):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            model.fit(X, Y, epochs=epochs, **how)

    train(1)
    return train


def with_executions(model, batch_size, epochs, steps_per_execution):
    """`Model.fit` at its quickest: silent, many steps an execution."""
    model.steps_per_execution = steps_per_execution
    model.fit(X, Y, batch_size=batch_size, verbose=0)
    return lambda: model.fit(X, Y, batch_size=batch_size, epochs=epochs, verbose=0)


def with_bare_loop(model, batch_size, epochs, metric=True):
    """A loop over an epoch written by hand in TensorFlow and compiled whole, with nothing watching.

    Args:
        metric: Whether it computes the accuracy that the model is compiled with.
    """
    x, y, n = tf.constant(X), tf.constant(Y), len(X)
    loss, accuracy = keras.losses.SparseCategoricalCrossentropy(), keras.metrics.SparseCategoricalAccuracy()
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def epoch(order):
        for start in tf.range(0, n, batch_size):
            batch = order[start : start + batch_size]
            targets = tf.gather(y, batch)
            with tf.GradientTape() as tape:
                predictions = model(tf.gather(x, batch), training=True)
                value = loss(targets, predictions)
            gradients = tape.gradient(value, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
            if metric:
                accuracy.update_state(targets, predictions)

    def train():
        for _ in range(epochs):
            epoch(tf.constant(np.random.permutation(n).astype(np.int32)))

    epoch(tf.range(n))
    return train


def with_panda(model, batch_size, epochs, folder, data=(X, Y), **how):
    panda = babysit.Panda(model, folder).fit(*data, epochs=10**6, paused=True, **how | batch(data, batch_size))
    steps = -(-len(X) // batch_size)
    began = time.perf_counter()
    while time.perf_counter() - began < SETTLING_S:
        panda.run(8 * steps if epochs > 1 else steps)
    return panda, lambda: panda.run(epochs * steps)


def batch(data, batch_size):
    """A dataset comes in batches; arrays are told of them."""
    return {} if len(data) == 1 else {"batch_size": batch_size}


def with_livelossplot(model, batch_size, epochs):
    """None where it is not installed."""
    try:
        from livelossplot import PlotLossesKeras
    except ImportError:
        return None
    return with_fit(model, batch_size, epochs, callbacks=[PlotLossesKeras()])


def seconds(train):
    began = time.perf_counter()
    train()
    return time.perf_counter() - began


def compare(ways, rounds=ROUNDS):
    """Seconds of each way, round by round, taken in turns."""
    taken = {name: [] for name in ways}
    for _ in range(rounds):
        for name, train in ways.items():
            taken[name].append(seconds(train))
    return taken


def times(one, other):
    """How many times as long one way takes as another: in the median round, as no machine is always as fast."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def ratio(value, wanted=None, at_most=False):
    if wanted is None:
        return f"{value:.2f}"
    if at_most:
        return f"{value:.2f} ({'≤' if value <= wanted else 'above'} {wanted:g})"
    return f"{value:.2f} ({'≥' if value >= wanted else 'below'} {wanted:g})"


def print_row(first, cells, widths):
    print(f"{first:40}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)
