"""The compiled block: K steps of a Keras model in one call into TensorFlow.

`Model.fit` returns to Python after every step; for a small model that costs several
times the step itself. Here the model's own `train_step` runs inside one
`tf.while_loop`, which picks its examples by index, so K, the batch size and the place
in the data are numbers that may change from one block to the next without a retrace.
A model compiled with `jit_compile=True` becomes one XLA program, loop included.

What cannot be fused (`why_not_fused` says why) is stepped through Keras's own function.
"""

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.framework.auto_control_deps_utils import get_read_only_resource_input_indices_graph
from tensorflow.python.ops.handle_data_util import get_resource_handle_data

# What these operations give depends on more than what a checkpoint holds.
_RESTLESS = re.compile(
    "Random|StatefulRandom|StatefulStandardNormal|StatefulTruncated|StatefulUniform|TruncatedNormal|Parameterized"
    "|Multinomial|Rng|PyFunc$|EagerPyFunc"
)

# These leave something changed.
_WRITING = re.compile("Assign|Resource.*(Apply|Scatter|Assign)|.*(Insert|Import|Enqueue)(V2|Many|ManyV2)?$|Iterator")

# Steps of one call into an XLA program, whose arrays have a fixed length: more are taken in several calls.
CAPACITY = 1024

# Kinds of arguments that a compiled block remembers; pieces of a stream may come in ever new lengths.
KINDS = 64

# A block lasts about this long: short enough for a hand, long enough for Python not to matter.
BLOCK_S = 0.02

# Steps of a turn of the loop, once steps have proven short over some time: within a turn, what only the metrics
# need is worked out beside the next step. Tracing so many costs about a second, which long steps do not give back.
UNROLLED = 4
SHORT_STEP_S, PROVEN_S = 0.001, 2.0

Step = Callable[[Any], Any]
Held = Callable[[], AbstractContextManager[None]]
Measured = Callable[[], Mapping[str, Any]]


class Logs(NamedTuple):
    """What a block of steps returned.

    Attributes:
        steps: Name -> its value at each step, shape (taken,), for what is a scalar: the logs,
            nested ones by their own names, and what was measured.
        last: What the last step returned, in its structure, as NumPy scalars and arrays.
        loss: The loss of each step, of its batch alone where that is known; None if there is none.
        taken: How many steps were run.
    """

    steps: dict[str, np.ndarray]
    last: dict[str, Any]
    loss: np.ndarray | None
    taken: int

    @property
    def sound(self) -> int:
        """How many steps there are up to the first whose loss is not finite, itself included."""
        faults = np.flatnonzero(~np.isfinite(() if self.loss is None else self.loss))
        return int(faults[0]) + 1 if len(faults) else self.taken


class BlockSizer:
    """How many steps make a block of about `BLOCK_S`, learnt from those that were run."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, elapsed_s: float) -> None:
        """Takes note of how long some steps took."""
        if steps < self.steps and elapsed_s < BLOCK_S:
            return  # the end of an epoch cut it short: that says nothing
        # Growth is bounded, for the first block includes the tracing and tells little.
        wanted = steps * BLOCK_S / max(elapsed_s, 1e-6)
        self.steps = max(1, min(int(wanted), 4 * steps))


def training_block(
    model: Any, held: Held, fixed: int | None = None, measured: Measured | None = None
) -> "Block | Stepwise":
    """A block of the model's `train_step`, with the loss of each batch beside its logs.

    Args:
        model: A built and compiled model.
        held: Opened while the block is traced: hyperparameters are read once in it.
        fixed: See `Block`.
        measured: Called in each step, before the update; returns name -> scalar.
    """
    if why_not_fused(model):
        return Stepwise(model, fixed, measured)
    return Block(model, _observed(model, measured), held, fixed)


def evaluation_block(model: Any, fixed: int | None = None) -> "Block":
    """A block of the model's `test_step`."""
    return Block(model, lambda data: _Seen(model.test_step(data)), nullcontext, fixed)


def trace_step(model: Any, batch: Any) -> None:
    """Traces `model.train_step` on such a batch, TensorFlow's specs, which builds what a first step would build."""
    step = tf.autograph.experimental.do_not_convert(lambda data: model.train_step(data))
    tf.function(step).get_concrete_function(batch)


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


# ------------------------------------------------------------------------------- one step


class _Seen(NamedTuple):
    """What is seen of a step while it is traced."""

    logs: Any
    loss: Any = None
    measured: Any = None


def _observed(model: Any, measured: Measured | None) -> Step:
    """`model.train_step`, with the loss of the batch alone if the step is Keras's own."""
    stock = type(model).train_step is keras.Model.train_step and "train_step" not in vars(model)

    def step(data: Any) -> _Seen:
        values = dict(measured()) if measured else {}
        with _caught(model) as losses:
            logs = model.train_step(data)
        return _Seen(logs, losses[0] if stock else None, values)

    return step


@contextmanager
def _caught(model: Any) -> Iterator[list[Any]]:
    """The losses that the model computes inside, before Keras averages them over the epoch."""
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


class _Layout:
    """Where in a row of numbers, and in the extras beside it, the logs of a step lie.

    Read off one step: scalars go into the row, one column each; everything else is an extra.
    """

    def __init__(self, seen: _Seen) -> None:
        self.columns: dict[str, Any] = {}
        self.extras: list[Any] = []
        self.form = self._place("logs", _checked(seen.logs))
        self.columns |= {name: tf.convert_to_tensor(value) for name, value in (seen.measured or {}).items()}
        self.has_loss = seen.loss is not None and _is_number(seen.loss)
        self.watched = seen.loss if seen.loss is not None else (seen.logs or {}).get("loss")
        tensors = [*self.columns.values(), *([seen.loss] if self.has_loss else [])]
        self.dtypes = [_column_type(tensor.dtype) for tensor in tensors]
        # Anything but float32 wants more room: a float64 holds every whole number up to 2**53.
        self.dtype = tf.float32 if set(self.dtypes) <= {np.dtype(np.float32)} else tf.float64
        self.row = tf.stack([tf.cast(t, self.dtype) for t in tensors]) if tensors else tf.zeros([0], self.dtype)

    def _place(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._place(key, item) for key, item in value.items()}
        if value is None:
            return None
        tensor = tf.convert_to_tensor(value)
        if _is_number(tensor):
            self.columns[name] = tensor
            return name
        self.extras.append(tensor)
        return len(self.extras) - 1

    @property
    def tells_loss(self) -> bool:
        """Whether the loss that is watched is in the row."""
        return self.has_loss or self.watched is self.columns.get("loss")

    @property
    def healthy(self) -> Any:
        """Whether the loss is finite, as a tensor; True if there is none to watch."""
        if self.watched is None or not (loss := tf.convert_to_tensor(self.watched)).dtype.is_floating:
            return tf.constant(True)
        return tf.reduce_all(tf.math.is_finite(loss)) if loss.shape.rank != 0 else tf.math.is_finite(loss)

    @property
    def carried(self) -> "_Carried":
        """What a loop must have room for to carry such logs."""
        specs = tuple(tf.TensorSpec(extra.shape, extra.dtype) for extra in self.extras)
        return _Carried(self.dtype, specs)

    def read(self, table: np.ndarray, extras: Any) -> Logs:
        """The logs in a table of shape (steps, columns) and the last step's extras."""
        values = [column.astype(dtype) for column, dtype in zip(table.T, self.dtypes, strict=True)]
        steps = dict(zip(self.columns, values, strict=False))
        last = _filled(self.form, steps, [np.asarray(extra) for extra in extras])
        loss = values[-1] if self.has_loss else steps.get("loss")
        return Logs(steps, last, loss, len(table))


class _Carried(NamedTuple):
    """The type of a row and the shapes and types of the extras, as a loop carries them."""

    dtype: Any = tf.float32
    extras: tuple[Any, ...] = ()


def _checked(logs: Any) -> Mapping[str, Any]:
    if logs is not None and not isinstance(logs, Mapping):
        raise TypeError(
            f"`train_step` must return a dict of logs. Received: {type(logs).__name__}. "
            'Return, for example, `{"loss": loss}`, or `{}`.'
        )
    return logs or {}


def _is_number(tensor: Any) -> bool:
    dtype = tensor.dtype
    return bool(tensor.shape.rank == 0 and (dtype.is_floating or dtype.is_integer or dtype.is_bool))


def _column_type(dtype: Any) -> np.dtype[Any]:
    if dtype == tf.float64:
        return np.dtype(np.float64)
    return np.dtype(np.float32) if dtype.is_floating else np.dtype(np.int64)


def _filled(form: Any, steps: Mapping[str, np.ndarray], extras: list[np.ndarray]) -> Any:
    if isinstance(form, Mapping):
        return {key: _filled(item, steps, extras) for key, item in form.items()}
    return form if form is None else steps[form][-1] if isinstance(form, str) else extras[form]


# ----------------------------------------------------------------------------- its batch


def first_batch(data: Any, order: Any, cursor: int, batch_size: int) -> Any:
    """The examples of the first step of a piece."""
    return _batch(data, order, cursor, batch_size, None)


def _batch(data: Any, order: Any, start: Any, batch_size: Any, fixed: int | None) -> Any:
    """The examples of a step: `order[start : start + batch_size]`, or these themselves without an `order`."""
    if order is None:
        return _mapped(lambda part: _rows(part, start, batch_size, fixed), data)
    index = _rows(order, start, batch_size, fixed)
    return _mapped(lambda part: tf.gather(part, index), data)


def _rows(part: Any, start: Any, batch_size: Any, fixed: int | None) -> Any:
    if isinstance(part, tf.SparseTensor):
        return part  # which cannot be cut: it is the batch
    if fixed is None or isinstance(part, tf.RaggedTensor):
        return part[start : start + batch_size]
    if isinstance(batch_size, int):  # in an XLA program, which would be compiled anew for each start of a slice
        return tf.gather(part, start + tf.range(fixed, dtype=start.dtype))
    shape = [-1 if size is None else size for size in part.shape[1:]]
    return tf.slice(part, [start] + [0] * len(shape), [fixed, *shape])


def _of_any_size(part: Any) -> Any:
    """The same, of a size that only the XLA compiler knows: told while it is traced, TensorFlow rounds otherwise."""
    return tf.compat.v1.placeholder_with_default(part, [None, *part.shape[1:]])


def _mapped(function: Callable[[Any], Any], data: Any) -> Any:
    return keras.tree.map_structure(lambda part: part if part is None else function(part), data)


def _length(data: Any, order: Any) -> int:
    part = next(part for part in keras.tree.flatten(data) if part is not None) if order is None else order
    return int(part.nrows()) if isinstance(part, tf.RaggedTensor) else int(part.shape[0])


def _is_sparse(data: Any) -> bool:
    return any(isinstance(part, tf.SparseTensor) for part in keras.tree.flatten(data))


def _check(data: Any, order: Any, count: int) -> None:
    if _is_sparse(data) and (order is not None or count > 1):
        raise ValueError(
            "`data` with a SparseTensor must be one batch. "
            f"Received: order={'None' if order is None else 'an order'}, count={count}. Use order=None, count=1."
        )


# ----------------------------------------------------------------------------- the blocks


class _Unforeseen(Exception):
    """The trace found what the graph must be built for; traced again, it is."""


class Block:
    """Runs steps over data that lies on the device, as many as asked for, in one call.

    Args:
        model: A built and compiled model.
        step: What to do with a batch.
        held: Opened while the block is traced.
        fixed: The one size that every batch has, or None for any size. `Model.fit` tells the
            graph when its batches are all alike, and TensorFlow then rounds differently: it
            makes a division by the size a multiplication by its reciprocal.
    """

    def __init__(self, model: Any, step: Step, held: Held, fixed: int | None = None) -> None:
        self._step, self._held, self._fixed = step, held, fixed
        self._eager, self._jit = bool(model.run_eagerly), bool(model.jit_compile) and not model.run_eagerly
        # On a CPU, XLA gives a whole loop the bits of its steps; on a GPU nobody has looked.
        self._whole = self._jit and not tf.config.list_physical_devices("GPU")
        self._unrolled, self._steps, self._elapsed_s = 1, 0, 0.0
        self._carried = _Carried()
        self._layout: _Layout
        self._graph: Any = None
        self._make()

    def __call__(self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool = False) -> Logs:
        """Runs `count` steps, the first on the examples `order[cursor : cursor + batch_size]`.

        Args:
            data: What a Keras adapter would hand a step, unbatched: tensors of shape (n, …). A
                SparseTensor in them is a batch already: `order` None and `count` 1 then.
            order: Integer tensor of shape (n,); None for the examples as they lie.
            cursor: How many examples are done.
            batch_size: Examples a step; the last of an epoch takes what is left.
            count: Steps to run; no more than there are examples left for.
            watch: Whether to stop behind the first step whose loss is not finite; unrolled, behind
                the turn of the loop with that step.
        """
        _check(data, order, count)
        if self._eager:
            return self._run_eagerly(data, order, cursor, batch_size, count, watch)
        pieces: list[Logs] = []
        for start, size, steps, rest in self._calls(_length(data, order), cursor, batch_size, count):
            pieces.append(self._call(data, order, start, size, steps, watch, rest))
            if pieces[-1].taken < steps + (rest > 0):
                break
        return _joined(pieces)

    def trace(self, data: Any, order: Any) -> None:
        """Traces the block for such data, running nothing: so that its first call is quick."""
        if not self._eager and not self._whole:
            arguments = self._arguments(data, order, 0, 1, 1, False, 0)
            self._retracing(lambda: self._function.trace(*arguments))

    @property
    def worth_unrolling(self) -> bool:
        """Whether its steps have proven short, for long enough."""
        short = self._elapsed_s < SHORT_STEP_S * self._steps
        return (
            self._unrolled == 1 and short and self._elapsed_s > PROVEN_S and not self._jit and self._layout.tells_loss
        )

    def unroll(self) -> None:
        """Takes several steps in a turn of the loop from now on: the same bits, sooner."""
        self._unrolled = UNROLLED
        self._make()

    @property
    def changes(self) -> list[Any]:
        """Handles of the variables that the steps, once traced, change."""
        return [] if self._graph is None else _changed(self._graph)

    @property
    def remark(self) -> str:
        """Why the steps, once traced, do not come out the same each time, in a sentence; empty if they do."""
        return "" if self._graph is None else _restlessness(self._graph)

    def _calls(self, size: int, cursor: int, batch_size: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """(cursor, batch size, steps, examples of one step more) of each call: one, unless sizes are in the program."""
        if not self._whole:
            yield cursor, batch_size, count, 0
            return
        full = min(count, (size - cursor) // batch_size)
        rest = size - cursor - full * batch_size if count > full else 0
        if rest and cursor == 0 < full < CAPACITY:  # a whole pass at once: the step is quick, a call more would not be
            yield cursor, batch_size, full, rest
            return
        for done in range(0, full, CAPACITY):
            yield cursor + done * batch_size, batch_size, min(CAPACITY, full - done), 0
        if rest:
            yield size - rest, rest, 1, 0

    def _call(self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool, rest: int) -> Logs:
        arguments = self._arguments(data, order, cursor, batch_size, count, watch, rest)
        began = time.perf_counter()
        done, table, extras = self._retracing(lambda: self._function(*arguments))
        logs = self._layout.read(table.numpy()[: int(done)], [extra.numpy() for extra in extras])
        if count >= UNROLLED:
            self._steps, self._elapsed_s = self._steps + logs.taken, self._elapsed_s + time.perf_counter() - began
        return logs

    def _retracing(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except _Unforeseen:
                self._make()

    def _make(self) -> None:
        run = tf.autograph.experimental.do_not_convert(self._run)
        function = tf.function(run, reduce_retracing=not self._whole, jit_compile=self._whole or None)
        self._function = _Quick(function)

    def _arguments(
        self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool, rest: int
    ) -> tuple[Any, ...]:
        dtype = tf.int64 if order is None else order.dtype
        # One XLA program for each size of batches, as all its shapes are fixed; none for each count.
        size = batch_size if self._whole else _scalar(batch_size, dtype)
        return data, order, _scalar(cursor, dtype), size, _scalar(count, dtype), _scalar(watch, tf.bool), rest

    def _run(self, data: Any, order: Any, cursor: Any, batch_size: Any, count: Any, watch: Any, rest: int = 0) -> Any:
        self._graph = tf.compat.v1.get_default_graph()
        step = tf.function(self._step, jit_compile=True) if self._jit and not self._whole else self._step
        careless = tf.logical_not(watch)

        def proceed(i: Any, healthy: Any, rows: Any, extras: Any) -> Any:
            return tf.logical_and(i < count, healthy)

        def proceed_by_turns(i: Any, healthy: Any, rows: Any, extras: Any) -> Any:
            return tf.logical_and(i + self._unrolled <= count, healthy)

        def proceed_to_rest(i: Any, healthy: Any, rows: Any, extras: Any) -> Any:
            return tf.logical_and(i <= count, healthy)

        def take_rest(i: Any, healthy: Any, rows: Any, extras: Any) -> Any:
            return take(i, healthy, rows, extras, rest)

        def take(i: Any, healthy: Any, rows: Any, extras: Any, size: Any = batch_size) -> Any:
            batch = _batch(data, order, cursor + i * batch_size, size, size if self._whole else self._fixed)
            if self._fixed is None and self._whole:
                batch = _mapped(_of_any_size, batch)
            with _set_apart():
                seen = step(batch)
            layout = _Layout(seen)
            self._foresee(layout)
            healthy = tf.logical_and(healthy, tf.logical_or(layout.healthy, careless))
            return i + 1, healthy, rows.write(tf.cast(i, tf.int32), layout.row), tuple(layout.extras)

        def take_turn(*state: Any) -> Any:
            for _ in range(self._unrolled):
                state = take(*state)
            return state

        room = CAPACITY if self._whole else tf.cast(count, tf.int32) + (rest > 0)
        rows = tf.TensorArray(self._carried.dtype, size=room, infer_shape=False)
        state = (tf.zeros_like(count), tf.constant(True), rows, tuple(map(_nothing, self._carried.extras)))
        shapes = (tf.TensorShape([]), tf.TensorShape([]), None, tuple(spec.shape for spec in self._carried.extras))
        with self._held():
            # One step after the other: the next begins only when this one's variables are written.
            if self._unrolled > 1:
                state = tf.while_loop(proceed_by_turns, take_turn, state, shapes, parallel_iterations=1)
            state = tf.while_loop(proceed, take, state, shapes, parallel_iterations=1)
            if rest:  # in a loop too, where XLA rounds as it does in the one before
                state = tf.while_loop(proceed_to_rest, take_rest, state, shapes, parallel_iterations=1)
        done, _, rows, extras = state
        return done, rows.gather(tf.range(room if self._whole else tf.cast(done, tf.int32))), extras

    def _foresee(self, layout: _Layout) -> None:
        """Notes what the step needs.

        Raises:
            _Unforeseen: If the graph being traced was not made for that.
        """
        self._layout = layout
        known = self._carried, self._whole
        self._carried = layout.carried
        # XLA shares a convolution out among threads differently inside a loop, and so rounds differently.
        self._whole = self._whole and not _convolves(tf.compat.v1.get_default_graph())
        if (self._carried, self._whole) != known:
            raise _Unforeseen

    def _run_eagerly(self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool) -> Logs:
        pieces: list[Logs] = []
        for i in range(count):
            layout = _Layout(self._step(_batch(data, order, cursor + i * batch_size, batch_size, None)))
            pieces.append(layout.read(layout.row.numpy()[None], layout.extras))
            if watch and not layout.healthy:
                break
        return _joined(pieces)


@contextmanager
def _set_apart() -> Iterator[None]:
    """Within, operations join the present graph as if in a function of their own, as Keras's step is.

    TensorFlow sorts the factors of a product by their names before it multiplies the small
    ones first. Where ours stood among the step's, or it shared the constants of a step taken
    in the same turn, names would be in another order, and it would round otherwise.
    """
    graph = tf.compat.v1.get_default_graph()
    name_scope = graph.name_scope

    def below(name: str | None) -> Any:
        leaves = not name or name.startswith("gradient_tape/")  # both begin at the root
        return name_scope(f"{prefix}{name or ''}" if leaves else name)

    mark = tf.compat.v1.AttrValue(s=graph.unique_name("train_step", mark_as_used=False).encode())
    # The name comes after those of the batch's operations, as in Keras's graph; what differs in its mark is not shared.
    with name_scope("train_step") as prefix, graph._attr_scope({"_step": mark}):
        graph.name_scope = below
        try:
            yield
        finally:
            del graph.name_scope


class _Quick:
    """A compiled function that looks at its arguments once for each kind of them.

    `tf.function` compares their types anew at every call, which takes it as long as several steps of a small model.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._known: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        parts = [part for part in keras.tree.flatten(arguments) if part is not None]
        if not all(isinstance(part, tf.__internal__.EagerTensor | int) for part in parts):
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

    def trace(self, *arguments: Any) -> None:
        """Traces the function for such arguments, and runs nothing."""
        self._function.get_concrete_function(*arguments)


class Stepwise:
    """Steps through Keras's own train function, one call a step, for what cannot be fused.

    Each has a train function made for it, as the one that the model has may be traced for another structure.
    """

    remark, worth_unrolling = "", False
    changes: tuple[Any, ...] = ()

    def __init__(self, model: Any, fixed: int | None = None, measured: Measured | None = None) -> None:
        self._model, self._fixed, self._measured = model, fixed, measured or dict
        self._function: Any = None

    def __call__(self, data: Any, order: Any, cursor: int, batch_size: int, count: int, watch: bool = False) -> Logs:
        """Runs `count` steps: see `Block`. The loss is what the step logs by that name."""
        _check(data, order, count)
        pieces: list[Logs] = []
        for i in range(count):
            batch = _batch(data, order, cursor + i * batch_size, batch_size, None)
            measured = {name: tf.identity(value) for name, value in self._measured().items()}
            layout = _Layout(_Seen(self._take(batch), measured=measured))
            pieces.append(layout.read(layout.row.numpy()[None], layout.extras))
            if watch and not layout.healthy:
                break
        return _joined(pieces)

    def unroll(self) -> None:
        """Does nothing: there is no loop."""

    def trace(self, data: Any, order: Any) -> None:
        """Does nothing: Keras traces its function as it is called."""

    def _take(self, batch: Any) -> Any:
        model = self._model
        self._make_function()
        dataset = tf.data.Dataset.from_tensors(batch)
        if not _is_sparse(batch):  # in slices, so that Keras is told of a size only where it would be
            dataset = dataset.unbatch().batch(_length(batch, None), drop_remainder=self._fixed is not None)
        return model.train_function(iter(model.distribute_strategy.experimental_distribute_dataset(dataset)))

    def _make_function(self) -> None:
        model = self._model
        if self._function is None or model.train_function is not self._function:
            makes_own = type(model).make_train_function is not keras.Model.make_train_function
            # One that was put there by hand nobody could make again.
            model.make_train_function(force=makes_own or not _is_foreign(model.train_function))
            self._function = model.train_function


@functools.lru_cache(maxsize=256)
def _scalar(value: int, dtype: Any) -> Any:
    """A number on the device; to make one takes as long as half a step of a small model."""
    return tf.constant(value, dtype)


def _joined(pieces: list[Logs]) -> Logs:
    first, last = pieces[0], pieces[-1]
    if first is last:
        return first
    steps = {name: np.concatenate([piece.steps[name] for piece in pieces]) for name in first.steps}
    losses = [piece.loss for piece in pieces if piece.loss is not None]
    loss = np.concatenate(losses) if losses else None
    return Logs(steps, last.last, loss, sum(piece.taken for piece in pieces))


def _nothing(spec: Any) -> Any:
    return tf.zeros([] if spec.shape.rank is None else [size or 0 for size in spec.shape], spec.dtype)


def _convolves(graph: Any) -> bool:
    return any("Conv" in operation for operation in _operations(graph))


def _operations(graph: Any) -> set[str]:
    """The kinds of operations in a graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def _changed(graph: Any) -> list[Any]:
    """Handles of the variables outside a graph that it does not only read."""
    read = {id(graph.inputs[i]) for i in get_read_only_resource_input_indices_graph(graph)}
    changed = [
        (outer, inner) for outer, inner in graph.captures if inner.dtype == tf.resource and id(inner) not in read
    ]
    return [outer for outer, inner in changed if get_resource_handle_data(inner).is_set]  # others are tables, iterators


def effects(graph: Any) -> list[str]:
    """The kinds of operations by which a graph changes something, or does not come out the same each time."""
    return sorted(one for one in _operations(graph) if _WRITING.match(one) or _RESTLESS.match(one))


def _restlessness(graph: Any) -> str:
    used = sorted(operation for operation in _operations(graph) if _RESTLESS.match(operation))
    if used:
        return f"Rewinding is not exact, because the model's step uses {', '.join(used)}."
    shared = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if shared is not None and any(shared.state.value.handle is captured for captured in graph.external_captures):
        return (
            "Rewinding is not exact, because the model's step draws from the seeds that all of Keras shares: "
            "give it `seed=keras.random.SeedGenerator(…)`, kept by the layer."
        )
    return ""
