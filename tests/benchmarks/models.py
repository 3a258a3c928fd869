"""The models that are measured, each made anew, and the digits that they train on."""

import keras

from babysit import demos

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
    """A step of 50 ms or more on two cores, at batch size 256; with momentum its state is 68 MB."""
    return _slow(lambda: [keras.layers.Flatten(), *[keras.layers.Dense(2048, "relu") for _ in range(3)]])


def slow_and_small():
    """A step as long, of a state of 1.4 MB."""

    def convolution():
        return keras.layers.Conv2D(96, 3, padding="same", activation="relu")

    return _slow(lambda: [*[convolution() for _ in range(3)], keras.layers.GlobalAveragePooling2D()])


def _slow(layers):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers(), keras.layers.Dense(10, "softmax")], name="slow")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
