"""A run with a spike made on purpose: linear regression whose data hold one example that is far off."""

import keras
import numpy as np

import babysit

BATCH, SPIKE = 4, 150  # the batch of step 150 holds it
ROWS = 200 * BATCH


def data(far=1e3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3)).astype("float32")
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=ROWS)).astype("float32")
    y[BATCH * (SPIKE - 1)] += far
    return x, y


def panda(folder, far=1e3, epochs=3, **given):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")
    model.compile(keras.optimizers.SGD(0.01), "mse")
    how = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "paused": True} | given
    return babysit.Panda(model, folder, seed=1).fit(*data(far), **how)
