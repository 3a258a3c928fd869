"""A small search: linear regression, whose best rate is known to be neither very low nor very high."""

import keras
import numpy as np

from babysit import Scale

SPACE = {"learning_rate": Scale(1e-4, 0.3, "log"), "units": [1, 4]}
BATCH = 8


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 3)).astype("float32")
    return x, (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=96)).astype("float32")


def build(hyperparameters):
    layers = [keras.layers.Dense(hyperparameters["units"], activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers], name="line")
    model.compile(keras.optimizers.SGD(hyperparameters["learning_rate"]), "mse")
    x, y = data()
    return model, {"x": x, "y": y, "batch_size": BATCH, "validation_split": 0.25}
