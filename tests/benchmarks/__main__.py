"""The speed of a panda, as ratios measured side by side in one run: `make bench`.

`fit` is `Model.fit` as a user calls it; `bare` is a loop written by hand in TensorFlow,
compiled whole, with no metric and nothing watching. Each is warmed up first; then they
take turns, and the medians are compared.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import babysit
from babysit import demos
from babysit.ui.dashboard import Dashboard

ROUNDS = 5
(X, Y), _ = demos.digits(validation=1)


def dense():
    return demos.dense_network(keras.optimizers.SGD(0.01, momentum=0.9), seed=0)


def dense_xla():
    model = dense()
    model.compile(model.optimizer, model.loss, metrics=["accuracy"], jit_compile=True)
    return model


def convolutional():
    return demos.convolutional_network(keras.optimizers.SGD(0.01, momentum=0.9), seed=0)


def slow():
    """A step of 50 ms or more on two cores, at batch size 256."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        *[keras.layers.Dense(2048, "relu") for _ in range(3)],
        keras.layers.Dense(10, "softmax"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers], name="slow")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def with_fit(model, batch_size, epochs):
    model.fit(X, Y, batch_size=batch_size, epochs=1, verbose=0)
    return lambda: model.fit(X, Y, batch_size=batch_size, epochs=epochs, verbose=0)


def with_bare_loop(model, batch_size, epochs):
    x, y, n = tf.constant(X), tf.constant(Y), len(X)
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def epoch(order):
        for start in tf.range(0, n, batch_size):
            batch = order[start : start + batch_size]
            with tf.GradientTape() as tape:
                value = loss(tf.gather(y, batch), model(tf.gather(x, batch), training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)

    def train():
        for _ in range(epochs):
            epoch(tf.constant(np.random.permutation(n).astype(np.int32)))

    epoch(tf.range(n))
    return train


def with_panda(model, batch_size, epochs, folder):
    panda = babysit.Panda(model, folder).fit(X, Y, batch_size=batch_size, epochs=10**6, paused=True)
    steps = -(-len(X) // batch_size)
    panda.run(8 * steps if epochs > 1 else steps)
    return panda, lambda: panda.run(epochs * steps)


def seconds(train):
    began = time.perf_counter()
    train()
    return time.perf_counter() - began


def compare(ways):
    """Median seconds of each way, taken in turns."""
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, train in ways.items():
            taken[name].append(seconds(train))
    return {name: statistics.median(times) for name, times in taken.items()}


def ratio(value, wanted):
    return f"{value:5.2f} ({'≥' if value >= wanted else 'below'} {wanted:g})"


def main():
    table = [
        ("dense 64-128-10, batch norm, SGD momentum", dense, 32, 25, 7, 0.85),
        ("the same, jit_compile=True", dense_xla, 32, 25, 20, None),
        ("two convolutions, dropout", convolutional, 32, 8, 1.5, 0.9),
        ("a step of 50 ms or more", slow, 256, 1, 1.0, 0.97),
    ]
    print(f"{'model':44}{'ms a step':>10}{'× fit':>18}{'× bare':>18}{'open ÷ closed':>18}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, make, batch_size, epochs, times_fit, times_bare) in enumerate(table):
            panda, train = with_panda(make(), batch_size, epochs, Path(folder) / str(i))
            ways = {"fit": with_fit(make(), batch_size, epochs), "panda": train}
            if times_bare:
                ways["bare"] = with_bare_loop(make(), batch_size, epochs)
            taken = compare(ways)
            bare = ratio(taken["bare"] / taken["panda"], times_bare) if times_bare else "–"
            step = taken["panda"] / (epochs * -(-len(X) // batch_size)) * 1000
            row = f"{name:44}{step:10.2f}{ratio(taken['fit'] / taken['panda'], times_fit):>18}{bare:>18}"
            print(f"{row}{ratio(watched(panda, train), 0.95):>18}", flush=True)
            panda.stop()
            panda.wait()


def watched(panda, train):
    """How fast it trains with the dashboard open, as a share of the speed with it closed."""
    taken = {"closed": [], "open": []}
    for _ in range(ROUNDS):
        taken["closed"].append(seconds(train))
        dashboard = Dashboard(panda)
        taken["open"].append(seconds(train))
        dashboard.close()
    return statistics.median(taken["closed"]) / statistics.median(taken["open"])


if __name__ == "__main__":
    main()
