"""Validation between epochs: what `Model.evaluate` would return, in blocks, so that commands act between them."""

import math
import time
from collections.abc import Callable
from typing import Any

from babysit.engine.block import Block, BlockSizer, evaluation_block
from babysit.engine.callbacks import Callbacks


class Validation:
    """Validates a model after every so many epochs of a fit.

    Args:
        model: A built and compiled model.
        source: The data, in their own order.
        steps: Steps of a validation; None for the data once.
        every: Epochs from one to the next, or the epochs after which to validate, from 1 on.
        callbacks: Those of the fit.
        reset_metrics: Does what `model.reset_metrics()` does.
        structure: Returns what a graph of the model depends on.
    """

    def __init__(
        self,
        model: Any,
        source: Any,
        steps: int | None,
        every: int | list[int],
        callbacks: Callbacks,
        reset_metrics: Callable[[], None],
        structure: Callable[[], Any],
    ) -> None:
        self._model, self._source, self._callbacks = model, source, callbacks
        self._reset_metrics, self._structure = reset_metrics, structure
        self._limit, self._every = steps or math.inf, every
        self._sizer = BlockSizer()
        self._blocks: dict[Any, Block] = {}

    def is_due(self, epoch: int) -> bool:
        """Whether to validate after an epoch, counted from 1."""
        return epoch % self._every == 0 if isinstance(self._every, int) else epoch in self._every

    def run(self, between: Callable[[], None]) -> dict[str, Any]:
        """Validates; calls `between` after each block, and returns the logs."""
        model, source, call = self._model, self._source, self._callbacks
        if source.place[1]:
            source.next_pass()
        model.stop_evaluating = False
        call("on_test_begin")
        self._reset_metrics()
        done, last = 0, {}
        while done < self._limit and not source.finished and not model.stop_evaluating:
            piece = source.piece(source.batch_size, int(min(self._most, self._limit - done)))
            call("on_test_batch_begin", done)
            began = time.perf_counter()
            logs = self._block_of(piece.fixed).run(*piece[:5])
            self._sizer.record(logs.count, time.perf_counter() - began)
            source.advance(logs.count, source.batch_size)
            end = done + (self._most if self._callbacks.every_test_step else logs.count)
            done, last = done + logs.count, logs.last
            call("on_test_batch_end", end - 1, logs=last)
            between()
        found = dict(model._get_metrics_result_or_logs(dict(last)))
        call("on_test_end", logs=found)
        return found

    @property
    def _most(self) -> int:
        return int(self._model.steps_per_execution if self._callbacks.every_test_step else self._sizer.steps)

    def _block_of(self, static_size: int | None) -> Block:
        key = self._structure(), static_size
        if key not in self._blocks:
            self._blocks[key] = evaluation_block(self._model, static_size)
            self._blocks[key].trace(*self._source.signature)
        return self._blocks[key]
