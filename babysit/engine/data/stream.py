"""Data that come batch after batch, as one source of batches of any size.

Several batches are fetched at a time. While nothing is changed, steps get the user's own batches
as they come; at another batch size, or in the middle of one of those batches, they get slices of
several laid end to end: no example is lost, none comes twice, and the order stays.
"""

import math
from itertools import takewhile
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
    "The batch size cannot be changed, and steps run one at a time, because examples that are sparse or ragged, or "
    "whose shape TensorFlow does not know, cannot be put into other batches. If all have the same shape, name it with "
    "`tf.ensure_shape` in the dataset's `map`."
)


class Stream(Source):
    """Examples that come in batches, in the structure Keras hands to a step.

    A batch without examples is left out. Sparse or ragged examples, and those of a shape that TensorFlow does not
    know, stay in the batches in which they come, one a window.

    Args:
        adapter: Where the batches come from, pass after pass.

    Raises:
        ValueError: If there is no batch, or what comes is not batches of examples.
    """

    def __init__(self, adapter: BatchAdapter) -> None:
        self._adapter = adapter
        specs = _checked(adapter.dataset.element_spec)
        self.spec = described(adapter.dataset.element_spec)
        self.signature = signature_of(self.spec), None
        self.fingerprint = fingerprint_of(self.spec, adapter.batches, adapter.examples)
        self.static_size, self.shuffle = specs[0].shape[0], adapter.shuffle
        self.steerable = all(isinstance(one, tf.TensorSpec) and one.shape[1:].is_fully_defined() for one in specs)
        self.repeatable = adapter.repeatable
        self.limitation = " ".join(filter(None, ["" if self.steerable else UNSTEERABLE, adapter.limitation]))
        is_known = self.static_size is not None and adapter.batches is not None
        self.size = adapter.batches * self.static_size if is_known else None
        self._pass: tuple[Any, ...] | None = None  # empty until the first window says which one has begun
        self._iterator: Any = None  # over the batches after those in the buffer; None once there are none
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
        if not self._fetch(1):
            raise ValueError("`x` must hold at least one batch. Received: a stream without any.")
        self._pass = ()
        return self._stop

    # ------------------------------------------------------------------- the pass

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited; the start of a pass is not looked at."""
        if position.example == 0:
            return False
        self._go_to(position, self._fit)
        return position.example == self._stop and not self._fetch(self._asked)

    def steps_left(self, position: Position, batch_size: int) -> int | None:
        """How many steps the pass still has, or None where that cannot be known; of uneven batches an estimate."""
        if position.example == 0 and batch_size == self.batch_size and self._adapter.batches is not None:
            return self._adapter.batches
        return None if self.size is None else math.ceil((self.size - position.example) / batch_size)

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
        if at == self._stop and not self._fetch(steps):
            raise ValueError(f"The data have no more batches after example {at} of pass {position.data_pass}.")
        if batch_size == fit.batch_size and at == self._start:
            size = self._sizes[0]
            count = sum(1 for _ in takewhile(lambda other: other == size, self._sizes[:steps]))
            return self._window(self._batches[:count], at, size, count, self.static_size)
        if not self.steerable:
            raise ValueError(f"`batch_size` must stay {fit.batch_size}. Received: {batch_size}. {self.limitation}")
        if self._stop - at < batch_size:
            wanted = at + min(batch_size * steps, max(batch_size, self._most * self.batch_size))
            while (lacking := wanted - self._stop) > 0 and self._fetch(lacking // self.batch_size + 1):
                pass
        left = self._stop - at
        count = math.ceil(left / batch_size) if self._iterator is None else left // batch_size
        return self._window(self._batches, at, batch_size, min(steps, count), None)

    def _window(self, batches: list[Any], at: int, batch_size: int, count: int, static_size: int | None) -> Window:
        with tf.device("CPU:0"):  # where the batches are; a block moves them to the device in one go
            parts = iter([tf.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*batches, strict=True)])
        flat = [None if spec is None else next(parts) for spec in tf.nest.flatten(self.signature[0])]
        data = tf.nest.pack_sequence_as(self.signature[0], flat)
        examples = min(count * batch_size, self._stop - at)
        return Window(data, None, at - self._start, batch_size, count, examples, static_size)

    # -------------------------------------------------------------------- the buffer
    # `_batches` of `_sizes`, of which the first begins at example `_start` of the pass, and the last ends at `_stop`.

    def _go_to(self, position: Position, fit: FitSpec) -> None:
        """Has the buffer begin with the batch that a position is in, or end there."""
        wanted, at = (position.data_pass, fit.shuffle, fit.batch_size), position.example
        if self._pass == ():
            self._pass = wanted
        if self._pass != wanted or at < self._start:
            self._check_can_begin(position)
            self._open(position.data_pass, fit)
            self._pass = wanted
        self._drop(at)
        while self._stop < at and self._fetch(math.ceil((at - self._stop) / self.batch_size)):
            self._drop(at)
        if self._stop < at:
            raise ValueError(
                f"The run stood after {at:,} examples of pass {position.data_pass:,}, and the stream gave only "
                f"{self._stop:,}. Give the data that the run began with."
            )

    def _drop(self, at: int) -> None:
        """Drops the batches that end at an example or before it."""
        while self._sizes and self._start + self._sizes[0] <= at:
            self._start += self._sizes.pop(0)
            del self._batches[0]

    def _check_can_begin(self, position: Position) -> None:
        if self.repeatable or self._pass is None or (self._iterator is None and position.data_pass > self._pass[0]):
            return
        raise ValueError(
            "The run cannot be rewound: what a generator has yielded is gone. Received: the place after example "
            f"{position.example:,} of pass {position.data_pass:,}, while it is after example {self._start:,} of "
            f"pass {self._pass[0]:,}. Give a `tf.data.Dataset` or a `keras.utils.PyDataset` instead."
        )

    def _open(self, data_pass: int, fit: Any) -> None:
        self._end()
        self._batches: list[list[Any]] = []
        self._sizes: list[int] = []
        self._start = self._stop = self._fetched = 0
        self._iterator = self._adapter.begin(data_pass, fit)

    def _end(self) -> None:
        """Ends the iterator, at its end or before."""
        if self._iterator is not None:
            self._adapter.end(self._iterator)
            self._iterator = None

    def _fetch(self, count: int) -> bool:
        """Fetches up to `count` batches, at least one; False if there are no more."""
        if self._iterator is None:
            return False
        limit, before = self._adapter.batches, self._fetched
        most = min(count, self._most) if limit is None else min(count, self._most, limit - before)
        while self._fetched < before + most and (batch := self._next_batch()) is not None:
            if size := int(batch[0].shape[0]):
                self._batches.append(batch)
                self._sizes.append(size)
                self._stop += size
                self._fetched += 1
        if self._fetched == limit or self._fetched < before + most:
            self.size = self._stop
            self._end()
        return self._fetched > before

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


def _checked(spec: Any) -> list[Any]:
    """The specs of the tensors of a batch, checked to hold one row an example."""
    specs = [spec for spec in tf.nest.flatten(spec) if not is_nothing(spec)]
    tensors = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)
    if not specs or not all(isinstance(each, tensors) and each.shape.rank for each in specs):
        raise ValueError(
            f"`x` must give batches of tensors, with one row per example. Received: {spec}. Call `.batch(size)` on it."
        )
    return specs
