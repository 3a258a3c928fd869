"""The compiled block: K steps of a Keras model in one call into TensorFlow.

`Model.fit` returns to Python after every step; for a small model that costs several
times the step itself. Here the model's own `train_step` runs inside one
`tf.while_loop`, which picks its examples by index, so K, the batch size and the place
in the data are numbers that may change from one block to the next without a retrace.
A model compiled with `jit_compile=True` becomes one XLA program, loop included.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from babysit.engine.data.window import batch_at, length_of, map_arrays
from babysit.engine.internals import EagerTensor
from babysit.engine.step_logs import LogLayout, StepLogs, StepResult

# Steps of one call into an XLA program, whose arrays have a fixed length: more are run in several calls.
CAPACITY = 1024

# Kinds of arguments that a compiled block remembers; windows of a stream may come in ever new lengths.
KINDS = 64

# A block lasts about this long: short enough for a user, long enough for Python not to matter.
BLOCK_S = 0.02
# After a change on a screen another one often follows: for so many seconds, blocks last half as long.
STEERED_S = 2.0

Step = Callable[[Any], StepResult]
ReadingOnce = Callable[[], AbstractContextManager[None]]
Measured = Callable[[], Mapping[str, Any]]


class BlockSizer:
    """How many steps make a block of about `BLOCK_S`, learnt from those that were run."""

    def __init__(self) -> None:
        self._steps, self._steered_s = 1, -math.inf

    @property
    def steps(self) -> int:
        """Steps of the next block."""
        steered = time.monotonic() < self._steered_s + STEERED_S
        return max(self._steps // 2, 1) if steered else self._steps

    def steered(self) -> None:
        """Halves the blocks for `STEERED_S`."""
        self._steered_s = time.monotonic()

    def record(self, steps: int, elapsed_s: float) -> None:
        """Learns from how long some steps lasted."""
        if steps < self.steps and elapsed_s < BLOCK_S:
            return  # the end of an epoch cut it short: that says nothing
        # Growth is bounded, for the first block includes the tracing.
        wanted = steps * BLOCK_S / max(elapsed_s, 1e-6)
        self._steps = max(1, min(int(wanted), 4 * steps))


def training_block(
    model: Any, reading_once: ReadingOnce, static_size: int | None = None, measured: Measured = dict
) -> "Block":
    """A block of the model's `train_step`, with the loss of each batch beside its logs.

    Args:
        model: A built and compiled model.
        reading_once: Opened while the block is traced: hyperparameters are read once in it.
        static_size: See `Block`.
        measured: Called in each step, before the update; returns name -> scalar.
    """
    return Block(model, _with_loss(model, measured), reading_once, static_size)


def evaluation_block(model: Any, static_size: int | None = None) -> "Block":
    """A block of the model's `test_step`."""
    return Block(model, lambda data: StepResult(model.test_step(data)), nullcontext, static_size)


def trace_step(model: Any, batch: Any) -> Any:
    """The graph of `model.train_step` on such a batch, TensorFlow's specs; it builds what a first step would build."""
    step = tf.autograph.experimental.do_not_convert(lambda data: model.train_step(data))
    return tf.function(step).get_concrete_function(batch).graph


def _with_loss(model: Any, measured: Measured) -> Step:
    """`model.train_step`, with the loss of the batch alone if the step is Keras's own."""
    stock = type(model).train_step is keras.Model.train_step and "train_step" not in vars(model)

    def step(data: Any) -> StepResult:
        values = dict(measured())
        with _losses_of(model) as losses:
            logs = model.train_step(data)
        return StepResult(logs, losses[0] if stock else None, values)

    return step


@contextmanager
def _losses_of(model: Any) -> Iterator[list[Any]]:
    """Gathers the losses that the model computes within, before Keras averages them over the epoch."""
    losses: list[Any] = []
    compute_loss = model._compute_loss

    def catch(*args: Any, **kwargs: Any) -> Any:
        losses.append(compute_loss(*args, **kwargs))
        return losses[-1]

    model._compute_loss = catch
    try:
        yield losses
    finally:
        del model._compute_loss


class _RetraceNeededError(Exception):
    """The trace found what the graph must be built for; traced again, it is."""


class Block:
    """Runs steps over data that lies on the device, as many as asked for, in one call.

    Args:
        model: A built and compiled model.
        step: What to do with a batch.
        reading_once: Opened while the block is traced.
        static_size: The one size that every batch has, or None for any size. `Model.fit` makes it
            part of the graph when its batches are all alike, and TensorFlow then rounds differently: it
            makes a division by the size a multiplication by its reciprocal. Where a step cannot be
            traced for any size, each size that comes gets a graph of its own.
    """

    def __init__(self, model: Any, step: Step, reading_once: ReadingOnce, static_size: int | None = None) -> None:
        self._model, self._step, self._reading_once, self._static_size = model, step, reading_once, static_size
        self._jit = bool(model.jit_compile)
        # On a CPU, XLA gives a whole loop the bits of its steps; on a GPU this is not tried yet.
        self._whole = self._jit and not tf.config.list_physical_devices("GPU")
        self._needs_size = False  # whether it cannot be traced for batches of any size
        self._dtype = tf.float32  # of a row
        self._layout: LogLayout
        self._make()

    @property
    def _has_size(self) -> bool:
        """Whether each size of batches has a graph of its own."""
        return self._whole or self._needs_size

    # ---------------------------------------------------------------------- traced and run

    def run(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, stop_if_not_finite: bool = False
    ) -> StepLogs:
        """Runs `count` steps, the first on the examples `order[cursor : cursor + batch_size]`; one if it runs eagerly.

        Args:
            data: What a Keras adapter would hand a step, unbatched: tensors of shape (n, …).
            order: Integer tensor of shape (n,); None for the examples as they lie.
            cursor: How many examples are done.
            batch_size: Examples a step; the last of an epoch has what is left.
            count: Steps to run; no more than there are examples left for.
            stop_if_not_finite: Whether to stop after the first step whose loss is not finite.
        """
        if self._model.run_eagerly:
            layout = LogLayout(self._step(batch_at(data, order, cursor, batch_size)))
            return layout.read(layout.row.numpy()[None])
        parts: list[StepLogs] = []
        length, done, stopped = length_of(data, order), 0, False
        while done < count and not stopped:
            start, size, steps, rest = self._next_call(length, cursor + done * batch_size, batch_size, count - done)
            try:
                parts.append(self._call(data, order, start, size, steps, stop_if_not_finite, rest))
            except _RetraceNeededError:
                self._make()
            else:
                done += parts[-1].count
                stopped = parts[-1].count < steps + (rest > 0)
        return StepLogs.joined(parts)

    def trace(self, data: Any, order: Any) -> Any:
        """Traces the block for such data, TensorFlow's specs, running nothing: its first call is quick then.

        Returns:
            The graph; None where each size of batches has one, or it runs eagerly.
        """
        arguments = self._arguments(data, order, 0, 1, 1, False, 0)
        while not (self._has_size or self._model.run_eagerly):
            try:
                return self._function.trace(*arguments)
            except _RetraceNeededError:
                self._make()
        return None

    def _next_call(self, length: int, cursor: int, batch_size: int, count: int) -> tuple[int, int, int, int]:
        """(cursor, batch size, steps, examples of one step more) of a call: all, unless the size is in the graph."""
        if not self._has_size:
            return cursor, batch_size, count, 0
        full = min(count, (length - cursor) // batch_size)
        if full == 0:
            return cursor, length - cursor, 1, 0
        # A whole pass at once: its last step is quick, a call more would not be.
        if count > full and cursor == 0 and full < CAPACITY:
            return cursor, batch_size, full, length - full * batch_size
        return cursor, batch_size, min(CAPACITY, full), 0

    def _call(self, data: Any, order: Any, cursor: int, batch_size: int, count: int, stop: bool, rest: int) -> StepLogs:
        arguments = self._arguments(data, order, cursor, batch_size, count, stop, rest)
        done, table = self._function(*arguments)
        return self._layout.read(table.numpy()[: int(done)])

    def _make(self) -> None:
        run = tf.autograph.experimental.do_not_convert(self._run)
        function = tf.function(run, reduce_retracing=not self._has_size, jit_compile=self._whole or None)
        self._function = _QuickFunction(function)

    def _arguments(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, stop: bool, rest: int
    ) -> tuple[Any, ...]:
        dtype = tf.int64 if order is None else order.dtype
        # One XLA program for each size of batches, as all its shapes are fixed; none for each count.
        size = batch_size if self._has_size else _scalar(batch_size, dtype)
        return data, order, _scalar(cursor, dtype), size, _scalar(count, dtype), _scalar(stop, tf.bool), rest

    # ---------------------------------------------------------------------- the graph

    def _run(self, data: Any, order: Any, cursor: Any, batch_size: Any, count: Any, stop: Any, rest: int = 0) -> Any:
        step = tf.function(self._step, jit_compile=True) if self._jit and not self._whole else self._step

        def loop(state: Any, end: Any, size: Any) -> Any:
            def proceed(i: Any, finite: Any, rows: Any) -> Any:
                return tf.logical_and(i < end, finite)

            def take(i: Any, finite: Any, rows: Any) -> Any:
                static_size = size if self._has_size else self._static_size
                batch = batch_at(data, order, cursor + i * batch_size, size, static_size)
                if self._static_size is None and not self._needs_size and self._whole:
                    batch = map_arrays(_of_any_size, batch)
                layout = LogLayout(self._traced(step, batch))
                self._note(layout)
                finite = tf.logical_and(finite, tf.logical_or(layout.loss_is_finite, tf.logical_not(stop)))
                return i + 1, finite, rows.write(tf.cast(i, tf.int32), layout.row)

            # One step after the other: the next begins only when this one's variables are written.
            return tf.while_loop(proceed, take, state, parallel_iterations=1)

        room = CAPACITY if self._whole else tf.cast(count, tf.int32) + (rest > 0)
        state = tf.zeros_like(count), tf.constant(True), tf.TensorArray(self._dtype, size=room, infer_shape=False)
        with self._reading_once():
            state = loop(state, count, batch_size)
            if rest:  # in a loop too, where XLA rounds as it does in the one before
                state = loop(state, count + 1, rest)
        done, _, rows = state
        return done, rows.gather(tf.range(room if self._whole else tf.cast(done, tf.int32)))

    def _traced(self, step: Step, batch: Any) -> StepResult:
        try:
            with _set_apart():
                return step(batch)
        except Exception as error:
            if self._static_size is not None or self._needs_size:
                raise
            self._needs_size = True
            raise _RetraceNeededError from error

    def _note(self, layout: LogLayout) -> None:
        """Notes what the step needs.

        Raises:
            _RetraceNeededError: If the graph being traced was not made for that.
        """
        self._layout = layout
        known = self._dtype, self._whole
        self._dtype = layout.row.dtype
        # XLA shares a convolution out among threads differently inside a loop, and so rounds differently.
        self._whole = self._whole and not any("Conv" in one for one in operations(tf.compat.v1.get_default_graph()))
        if (self._dtype, self._whole) != known:
            raise _RetraceNeededError


def _of_any_size(part: Any) -> Any:
    """The same, of a size that only the XLA compiler knows: where TensorFlow knows it, it rounds otherwise."""
    return tf.compat.v1.placeholder_with_default(part, [None, *part.shape[1:]])


def operations(graph: Any) -> set[str]:
    """The kinds of operations in a graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


@contextmanager
def _set_apart() -> Iterator[None]:
    """Within, operations join the present graph as if in a function of their own, as Keras's step is.

    TensorFlow sorts the factors of a product by their names before it multiplies the small
    ones first. Where ours were among the step's, names would be in another order, and it
    would round otherwise.
    """
    graph = tf.compat.v1.get_default_graph()
    name_scope = graph.name_scope

    def below(name: str | None) -> Any:
        leaves = not name or name.startswith("gradient_tape/")  # both begin at the root
        return name_scope(f"{prefix}{name or ''}" if leaves else name)

    # The name comes after those of the batch's operations, as in Keras's graph.
    with name_scope("train_step") as prefix:
        graph.name_scope = below
        try:
            yield
        finally:
            del graph.name_scope


class _QuickFunction:
    """A compiled function that looks at its arguments once for each kind of them.

    `tf.function` compares their types anew at every call, which for a small model lasts as long as several steps: a
    seventh of an epoch of the dense network under XLA.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._known: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        parts = [part for part in keras.tree.flatten(arguments) if part is not None]
        if not all(isinstance(part, EagerTensor | int) for part in parts):
            return self._function(*arguments)
        tensors = [part for part in parts if not isinstance(part, int)]
        kind = tuple(part if isinstance(part, int) else (part.dtype, *part.shape) for part in parts)
        if (concrete := self._known.get(kind)) is None:
            result = self._function(*arguments)
            if len(self._known) == KINDS:
                self._known.clear()
            self._known[kind] = self._function.get_concrete_function(*arguments)
            return result
        return concrete._call_flat(tensors, concrete.captured_inputs)

    def trace(self, *arguments: Any) -> Any:
        """Traces the function for such arguments, and runs nothing; returns the graph."""
        return self._function.get_concrete_function(*arguments).graph


@functools.lru_cache(maxsize=256)
def _scalar(value: int, dtype: Any) -> Any:
    """A number on the device; to make one lasts as long as half a step of a small model."""
    return tf.constant(value, dtype)
