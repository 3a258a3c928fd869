"""Data that come batch after batch, as one source of batches of any size.

Several batches are fetched at a time and laid end to end in a buffer. While nothing is changed,
steps get the user's own batches as they come; at another batch size, or in the middle of one of
those batches, they get slices instead: no example is lost, none comes twice, and the order stays.
"""

import math
from bisect import bisect_left, bisect_right
from typing import Any

import tensorflow as tf

from babysit.core.position import FitSpec, Position
from babysit.engine.data.adapters import BatchAdapter
from babysit.engine.data.window import Source, Window, described, fingerprint_of, is_nothing, signature_of

# What is fetched at once for the next steps needs about this much memory.
FETCH_BYTES = 64 * 2**20
# And at most so many batches are made ready for the fetch after.
PREFETCHED = 32

UNSTEERABLE = (
    "The batch size stays, and each step is a call of its own, because sparse or ragged examples, or those of a shape "
    "that TensorFlow does not know, cannot be put into other batches. Where all have one shape, name it with "
    "`tf.ensure_shape` in the dataset's `map`."
)


class Stream(Source):
    """Examples that come in batches, in the structure Keras hands to a step.

    A batch without examples is left out. Sparse or ragged examples, and those of a shape that TensorFlow
    does not know, stay in the batches in which they come, one a window.

    Args:
        adapter: Where the batches come from, pass after pass.

    Raises:
        ValueError: If there is no batch, or what comes is not batches of examples.
    """

    def __init__(self, adapter: BatchAdapter) -> None:
        self._adapter = adapter
        specs = _checked_specs(adapter.dataset.element_spec)
        self.spec = described(adapter.dataset.element_spec)
        self.signature = signature_of(self.spec), None
        self.fingerprint = fingerprint_of(self.spec, adapter.batches, adapter.examples)
        self.static_size, self.shuffle = specs[0].shape[0], adapter.shuffle
        self.steerable = all(isinstance(spec, tf.TensorSpec) and spec.shape[1:].is_fully_defined() for spec in specs)
        self.repeatable = adapter.repeatable
        self.limitation = " ".join(filter(None, ["" if self.steerable else UNSTEERABLE, adapter.limitation]))
        self.size, self._pass_batches = adapter.size, adapter.batches
        if self.static_size is not None and adapter.batches is not None:
            self.size = adapter.batches * self.static_size
        self._pass: tuple[Any, ...] | None = None  # empty until the first window says which one has begun
        self._iterator: Any = None
        self._most = self._asked = 1  # batches to fetch at once, and steps that were asked for last
        self.batch_size = adapter.batch_size or self._first_size()
        if self.steerable:
            example_bytes = sum(math.prod(spec.shape[1:]) * (spec.dtype.size or 64) for spec in specs)
            self._most = max(1, FETCH_BYTES // max(1, self.batch_size * example_bytes))
        adapter.prefetched = min(PREFETCHED, self._most)
        self._fit = FitSpec(self.fingerprint, self.size, self.batch_size, self.shuffle)  # until the first window

    def _first_size(self) -> int:
        """The size of the first batch, which is not lost: the first pass begins with it."""
        self._open(0, None)
        if not self._fetch(0, 1):
            raise ValueError("`x` must hold at least one batch. Received: a stream without any.")
        self._pass = ()
        return self._bounds[-1]

    # ------------------------------------------------------------------- the pass

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited; the start of a pass is not looked at."""
        if position.example == 0:
            return False
        self._go_to(position, self._fit)
        return position.example == self._bounds[-1] and not self._fetch(position.example, self._asked)

    def steps_left(self, position: Position, batch_size: int) -> int | None:
        """How many steps the pass still has at a batch size, or None where that cannot be known."""
        here = self._pass is not None and self._pass[:1] == (position.data_pass,) and position.example in self._bounds
        if here and self.is_over(position):
            return 0
        batches, first = self._pass_batches, position.example == 0
        if batch_size == self.batch_size and batches is not None and (here or first):
            done = 0 if first else self._first_batch + self._bounds.index(position.example)
            return max(1, batches - done)  # the pass before may have been shorter
        if self.size is None:
            return None
        return max(1 if here or first else 0, math.ceil((self.size - position.example) / batch_size))

    def epoch_began(self, position: Position) -> None:
        """Tells the user's data that an epoch begins."""
        self._adapter.hears.on_epoch_begin()

    def epoch_ended(self, position: Position, pass_over: bool) -> None:
        """Tells the user's data that an epoch is over."""
        self._adapter.hears.on_epoch_end()

    def close(self) -> None:
        """Ends what runs beside the training."""
        self._end()
        self._pass = None

    # ------------------------------------------------------------------- its windows

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`. At the fit's own batch size, batches as they come."""
        self._fit, self._asked, at = fit, steps, position.example
        self._go_to(position, fit)
        if at == self._bounds[-1] and not self._fetch(at, steps):
            raise ValueError(f"The data have no more batches after example {at} of pass {position.data_pass}.")
        if batch_size == fit.batch_size and at in self._bounds:
            return self._as_they_come(at, steps)
        if not self.steerable:
            raise ValueError(f"`batch_size` must stay {fit.batch_size}. Received: {batch_size}. {self.limitation}")
        return self._sliced(at, batch_size, steps)

    def _as_they_come(self, at: int, steps: int) -> Window:
        first = bisect_left(self._bounds, at)
        size, count = self._bounds[first + 1] - at, 1
        for stop in self._bounds[first + 2 : first + 1 + steps]:
            if stop - at != (count + 1) * size:
                break
            count += 1
        return self._window(at, size, count, self.static_size)

    def _sliced(self, at: int, batch_size: int, steps: int) -> Window:
        if self._bounds[-1] - at < batch_size:
            wanted = at + min(batch_size * steps, max(batch_size, self._most * self.batch_size))
            while (lacking := wanted - self._bounds[-1]) > 0 and self._fetch(at, lacking // self.batch_size + 1):
                pass
        rows = self._bounds[-1] - at
        count = math.ceil(rows / batch_size) if self._iterator is None else rows // batch_size
        return self._window(at, batch_size, min(steps, count), None)

    def _window(self, at: int, batch_size: int, count: int, static_size: int | None) -> Window:
        examples, parts = min(count * batch_size, self._bounds[-1] - at), iter(self._data)
        flat = [None if spec is None else next(parts) for spec in tf.nest.flatten(self.signature[0])]
        data = tf.nest.pack_sequence_as(self.signature[0], flat)
        return Window(data, None, at - self._bounds[0], batch_size, count, examples, static_size)

    # -------------------------------------------------------------------- the buffer
    # `_data` holds batches end to end; `_bounds` are the numbers of the examples of the pass at which they begin and
    # end. `_iterator` gives those after them, and is None once there are none.

    def _go_to(self, position: Position, fit: FitSpec) -> None:
        """Has the buffer begin at or before a position, and end at or after it."""
        wanted = position.data_pass, fit.shuffle, fit.batch_size
        if self._pass == ():
            self._pass = wanted
        if self._pass != wanted or position.example < self._bounds[0]:
            self._check_can_begin(position)
            self._open(position.data_pass, fit)
            self._pass = wanted
        while (missing := position.example - self._bounds[-1]) > 0:
            if not self._fetch(self._bounds[-1], math.ceil(missing / self.batch_size)):
                break
        if missing > 0 or not (self.steerable or position.example in self._bounds):
            raise ValueError(
                f"The stream has no place after {position.example} examples of pass {position.data_pass}; it gave "
                f"{self._bounds[-1]}. Give the data that the run began with."
            )

    def _check_can_begin(self, position: Position) -> None:
        if self.repeatable or self._pass is None or (self._iterator is None and position.data_pass > self._pass[0]):
            return
        raise ValueError(
            "The run cannot be rewound: what a generator has yielded is gone. Received: the place after example "
            f"{position.example:,} of pass {position.data_pass:,}, while it is after example {self._bounds[0]:,} of "
            f"pass {self._pass[0]:,}. Give a `tf.data.Dataset` or a `keras.utils.PyDataset` instead."
        )

    def _open(self, data_pass: int, fit: Any) -> None:
        self._end()
        self._data: list[Any] = []
        self._bounds, self._first_batch = [0], 0
        self._iterator = self._adapter.begin(data_pass, fit)

    def _end(self) -> None:
        """Ends the iterator, at its end or before."""
        if self._iterator is not None:
            self._adapter.end(self._iterator)
            self._iterator = None

    def _fetch(self, at: int, count: int) -> bool:
        """Appends up to `count` batches, at least one, to the examples from `at` on; False if there are no more."""
        if self._iterator is None:
            return False
        done, limit = self._first_batch + len(self._bounds) - 1, self._adapter.batches
        count = min(count, self._most) if limit is None else min(count, self._most, limit - done)
        batches: list[Any] = []
        while len(batches) < count and (batch := self._next_batch()) is not None:
            if _rows(batch[0]):
                batches.append(batch)
        if batches:
            self._append(batches, at)
        if len(batches) < count or done + count == limit:
            self.size, self._pass_batches = self._bounds[-1], done + len(batches)
            self._end()
        return bool(batches)

    def _append(self, batches: list[Any], at: int) -> None:
        """Appends batches to those that hold the examples from `at` on; the ones before are dropped."""
        first = bisect_right(self._bounds, at) - 1
        bounds = self._bounds[first:]
        for batch in batches:
            bounds.append(bounds[-1] + _rows(batch[0]))
        if at < self._bounds[-1]:
            batches.insert(0, [part[bounds[0] - self._bounds[0] :] for part in self._data])
        with tf.device("CPU:0"):  # where the batches are; a block moves them to the device in one go
            data = [tf.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*batches, strict=True)]
        if len(sizes := {_rows(part) for part in data}) > 1:
            raise ValueError(
                f"All tensors of a batch must hold the same number of examples. Received: {sorted(sizes)}. "
                "Cut them to one length."
            )
        self._data, self._bounds, self._first_batch = data, bounds, self._first_batch + first

    def _next_batch(self) -> list[Any] | None:
        """The tensors of the next batch, or None after the last."""
        it = self._iterator
        try:
            if self.steerable:  # dense: `next` takes three times as long
                types, shapes = it._flat_output_types, it._flat_output_shapes
                batch = tf.raw_ops.IteratorGetNext(
                    iterator=it._iterator_resource, output_types=types, output_shapes=shapes
                )
                return [part for part in batch if part.dtype != tf.variant]  # as which None comes
            batch = tf.nest.flatten(next(it))
        except (StopIteration, tf.errors.OutOfRangeError):
            return None
        return [part for part in batch if not (part is None or isinstance(part, tf.experimental.Optional))]


def _checked_specs(spec: Any) -> list[Any]:
    """The specs of the tensors of a batch, checked to hold one row an example."""
    specs = [spec for spec in tf.nest.flatten(spec) if not is_nothing(spec)]
    for each in specs:
        if not isinstance(each, (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)):
            raise ValueError(f"`x` must give batches of tensors. Received: {each}.")
        if not each.shape.rank:
            raise ValueError(f"`x` must give batches of examples. Received: {each}. Call `.batch(size)` on it first.")
    if not specs:
        raise ValueError(f"`x` must give batches of tensors. Received: {spec}.")
    return specs


def _rows(part: Any) -> int:
    if isinstance(part, tf.SparseTensor):
        return int(part.dense_shape[0])
    return int(part.nrows() if isinstance(part, tf.RaggedTensor) else part.shape[0])
