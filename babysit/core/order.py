"""The order in which the examples of a pass are visited; it follows from (seed, pass) alone, so nothing is saved."""

from typing import Literal

import numpy as np

Shuffle = bool | Literal["batch"]


def permutation(size: int, seed: int, data_pass: int, shuffle: Shuffle = True, batch_size: int = 32) -> np.ndarray:
    """The order of one pass over the examples: an int32 (or int64) permutation of shape (size,).

    Args:
        size: Number of examples.
        seed: Any whole number from 0 on.
        data_pass: Number of the pass, from 0 on.
        shuffle: Whether each pass has an order of its own; `"batch"` shuffles only within
            consecutive stretches of `batch_size` examples, as Keras does.
        batch_size: The length of those stretches.
    """
    dtype = np.int32 if size < 2**31 else np.int64
    rng = np.random.Generator(np.random.PCG64([seed, data_pass]))
    if shuffle and shuffle != "batch":
        return rng.permutation(size).astype(dtype)
    order = np.arange(size, dtype=dtype)
    if not shuffle:
        return order
    whole = size - size % batch_size
    batches = rng.permuted(order[:whole].reshape(-1, batch_size), axis=1)
    return np.concatenate([batches.ravel(), rng.permutation(order[whole:])])
