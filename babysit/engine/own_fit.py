"""A model whose class brings a `fit` of its own: it trains by that, and we watch it from a callback.

What it does between its steps nobody knows, so nothing of it is fused, and it cannot be
rewound; between two steps it can rest, be steered, saved and stopped.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np


def has_own_fit(model: Any) -> bool:
    """Whether the model's class overrides `fit`."""
    return type(model).fit is not keras.Model.fit


class Unseen:
    """The data of such a fit, which only the fit itself sees: a source that gives nothing."""

    size, spec, signature, shuffle = None, None, None, False
    steerable, rewindable, finished, place = False, False, False, (0, 0)

    def __init__(self, model: Any, batch_size: int | None) -> None:
        self.batch_size = batch_size or 32
        self.remark = (
            f"`{type(model).__name__}` overrides `fit`, so it is trained by that, one step at a time; the batch size "
            "stays, and it cannot be rewound."
        )

    def fingerprint(self) -> str:
        """The same for all data."""
        return ""

    def steps_left(self, batch_size: int) -> None:
        """Nobody knows."""

    def restore(self, passes: int, cursor: int) -> None:
        """Does nothing: its own `fit` begins with its own data."""

    def declare(self, shuffle: bool | str, batch_size: int) -> None:
        """Does nothing."""

    def next_pass(self) -> None:
        """Does nothing."""


class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Tells of each step and each epoch of a fit."""

    def __init__(self, stepped: Callable[[Any], None], ended: Callable[[Any], None]) -> None:
        super().__init__()
        self._stepped, self._ended = stepped, ended

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of a step."""
        self._stepped(logs or {})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells of an epoch."""
        self._ended(logs or {})


def columns(logs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The logs of one step, those that are numbers, as columns of one row."""
    return {name: np.array([value], "float32") for name, value in logs.items() if isinstance(value, int | float)}
