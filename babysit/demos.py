"""Small models and bundled data for the notebooks and the tests: nothing is downloaded."""

import keras
import numpy as np


def digits(validation: int = 360, seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Handwritten digits: 1,797 grey images of 8 × 8 pixels, from scikit-learn.

    Args:
        validation: How many of them to set aside.
        seed: Of the shuffle before they are set aside.

    Returns:
        (x, y), (x_validation, y_validation): images of shape (n, 8, 8, 1), float32 from
        0 to 1, and labels of shape (n,), whole numbers from 0 to 9.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("The digits come with scikit-learn: `pip install scikit-learn`.") from None
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images[order] / 16).astype("float32").reshape(-1, 8, 8, 1)
    y = labels[order].astype("int64")
    return (x[validation:], y[validation:]), (x[:validation], y[:validation])


def dense_network(optimizer: "keras.Optimizer | str | None" = None, seed: int | None = None) -> keras.Model:
    """64-128-10 with batch normalisation, compiled; by default with SGD of momentum 0.9."""
    _set_seed(seed)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(128, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    return _compiled("digits-dense", layers, optimizer)


def convolutional_network(optimizer: "keras.Optimizer | str | None" = None, seed: int | None = None) -> keras.Model:
    """Two convolutions with batch normalisation and dropout, compiled; by default with SGD of momentum 0.9."""
    _set_seed(seed)
    layers = [*_convolution(16), keras.layers.MaxPooling2D(), *_convolution(32), keras.layers.Flatten()]
    layers += [keras.layers.Dropout(0.3), keras.layers.Dense(10, activation="softmax")]
    return _compiled("digits-cnn", layers, optimizer)


def _convolution(filters: int) -> list[keras.Layer]:
    convolution = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
    return [convolution, keras.layers.BatchNormalization(), keras.layers.ReLU()]


def _set_seed(seed: int | None) -> None:
    # Before a layer is made: it draws its seeds as it is made, not when it is built.
    if seed is not None:
        keras.utils.set_random_seed(seed)


def _compiled(name: str, layers: list[keras.Layer], optimizer: "keras.Optimizer | str | None") -> keras.Model:
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers], name=name)
    optimizer = optimizer or keras.optimizers.SGD(learning_rate=0.01, momentum=0.9)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
