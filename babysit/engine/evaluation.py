"""Validation between epochs: what `Model.evaluate` would return, in blocks, so that commands act between them."""

import math
import time
from collections.abc import Callable
from typing import Any

from babysit.core.position import FitSpec, Position
from babysit.engine.block import BlockSizer
from babysit.engine.callbacks import Callbacks
from babysit.engine.model import TrainableModel


class Validation:
    """Validates a model after every so many epochs of a fit.

    Args:
        model: Prepared.
        source: The data, in their own order.
        steps: Steps of a validation; None for the data once.
        every: Epochs from one to the next, or the epochs after which to validate, from 1 on.
        callbacks: Those of the fit.
    """

    def __init__(
        self, model: TrainableModel, source: Any, steps: int | None, every: int | list[int], callbacks: Callbacks
    ) -> None:
        self._model, self._source, self._callbacks = model, source, callbacks
        self._limit, self._every = steps or math.inf, every
        self._sizer = BlockSizer()
        self._blocks: dict[Any, Any] = {}
        self._fit = FitSpec(source.fingerprint, source.size, source.batch_size, shuffle=False, steps_per_epoch=steps)
        self._position = Position()

    def is_due(self, epoch: int) -> bool:
        """Whether to validate after an epoch, counted from 1."""
        return epoch % self._every == 0 if isinstance(self._every, int) else epoch in self._every

    def run(self, between: Callable[[], None]) -> dict[str, Any]:
        """Validates; calls `between` after each block, and returns the logs."""
        model, source, call = self._model.model, self._source, self._callbacks
        if self._position.example:
            source.epoch_ended(self._position, True)
            self._position = self._position.epoch_ended(pass_over=True)
        source.epoch_began(self._position)
        model.stop_evaluating = False
        call("on_test_begin")
        self._model.tensors.reset_metrics()
        done, last = 0, {}
        while done < self._limit and not source.is_over(self._position) and not model.stop_evaluating:
            execution = int(model.steps_per_execution) if call.every_test_step else 0
            most = 1 if model.run_eagerly else execution or self._sizer.steps
            window = source.window(self._position, source.batch_size, int(min(most, self._limit - done)), self._fit)
            call("on_test_batch_begin", done)
            began = time.perf_counter()
            logs = self._block_of(window.static_size).run(*window[:5])
            self._sizer.record(logs.count, time.perf_counter() - began)
            self._position = self._position.advanced(logs.count, window.examples)
            call("on_test_batch_end", done + (execution or logs.count) - 1, logs=logs.last)
            done, last = done + logs.count, logs.last
            between()
        found = dict(model._get_metrics_result_or_logs(dict(last)))
        call("on_test_end", logs=found)
        return found

    def _block_of(self, static_size: int | None) -> Any:
        key = self._model.structure, static_size
        if key not in self._blocks:
            self._blocks[key] = self._model.evaluation_block(static_size)
            self._blocks[key].trace(*self._source.signature)
        return self._blocks[key]
