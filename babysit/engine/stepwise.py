"""One step at a time, through Keras's own train function, for what cannot be fused."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from babysit.engine.batch import batch_at, check_sparse, is_sparse, length_of
from babysit.engine.step_logs import LogLayout, StepLogs, StepResult


def why_not_fused(model: Any) -> str:
    """Why the model's steps cannot be run in one call, in a sentence; empty if they can."""
    if getattr(type(model), "make_train_function", None) is not keras.Model.make_train_function:
        return f"`{type(model).__name__}` overrides `make_train_function`, so it is trained one step at a time."
    if _is_foreign(model.train_function):
        return "The model has a `train_function` of its own, so it is trained one step at a time."
    if model._distribute_strategy is not None:
        name = type(model._distribute_strategy).__name__
        return f"The model is distributed by {name}, so it is trained one step at a time."
    return ""


def _is_foreign(function: Any) -> bool:
    """Whether a train function is none that Keras has made."""
    return function is not None and getattr(function, "__module__", "") != keras.Model.make_train_function.__module__


class Stepwise:
    """Steps through Keras's own train function, one call a step.

    Each has a train function made for it, as the one that the model has may be traced for another structure.
    """

    captures: tuple[Any, ...] = ()

    def __init__(
        self, model: Any, static_size: int | None = None, measured: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self._model, self._static_size, self._measured = model, static_size, measured or dict
        self._function: Any = None

    def trace(self, data: Any, order: Any) -> None:
        """Does nothing: Keras traces its function as it is called."""

    def run(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, stop_if_not_finite: bool = False
    ) -> StepLogs:
        """Runs `count` steps: see `Block`. The loss is what the step logs by that name."""
        check_sparse(data, order, count)
        parts: list[StepLogs] = []
        for i in range(count):
            batch = batch_at(data, order, cursor + i * batch_size, batch_size)
            measured = {name: tf.identity(value) for name, value in self._measured().items()}
            layout = LogLayout(StepResult(self._train(batch), measured=measured))
            parts.append(layout.read_one())
            if stop_if_not_finite and not layout.loss_is_finite:
                break
        return StepLogs.joined(parts)

    def _train(self, batch: Any) -> Any:
        model = self._model
        self._make_function()
        dataset = tf.data.Dataset.from_tensors(batch)
        if not is_sparse(batch):  # in slices, so that Keras knows a size only where it would
            dataset = dataset.unbatch().batch(length_of(batch, None), drop_remainder=self._static_size is not None)
        return model.train_function(iter(model.distribute_strategy.experimental_distribute_dataset(dataset)))

    def _make_function(self) -> None:
        model = self._model
        if self._function is None or model.train_function is not self._function:
            makes_own = type(model).make_train_function is not keras.Model.make_train_function
            # Keras cannot make one again that the user put there.
            model.make_train_function(force=makes_own or not _is_foreign(model.train_function))
            self._function = model.train_function
