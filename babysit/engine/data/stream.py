"""Data that come batch after batch, as one source of batches of any size.

The batches are fetched many at a time in one call into TensorFlow and laid end to end in a
buffer. While nothing is changed, steps get the user's own batches as they come; at another
batch size, or in the middle of one of those batches, they get slices instead: no example is
lost, none comes twice, and the order stays.
"""

import hashlib
import math
from bisect import bisect_left
from typing import Any

import tensorflow as tf

from babysit.core.position import FitSpec, Position
from babysit.engine.data.adapters import BatchAdapter
from babysit.engine.data.arrays import hashable
from babysit.engine.data.window import Source, Window, any_length, described, is_nothing

# What is fetched at once for the next steps needs about this much memory.
FETCH_BYTES = 64 * 2**20
# And at most so many batches are made ready for the fetch after.
PREFETCHED = 32

UNSTEERABLE = (
    "The batch size stays, because examples of different shapes, or sparse ones, cannot be put into other batches."
)


class Stream(Source):
    """Examples that come in batches, in the structure Keras hands to a step.

    A batch without examples is left out. Examples of different shapes never share a batch: where
    the shape changes, a batch ends early.

    Args:
        adapter: Where the batches come from, pass after pass.

    Raises:
        ValueError: If there is no batch, or what comes is not batches of examples.
    """

    def __init__(self, adapter: BatchAdapter) -> None:
        self._adapter, self._spec = adapter, adapter.dataset.element_spec
        self._specs = _checked_specs(self._spec)
        self.signature = any_length(self._spec), None
        self.spec = described(self.signature[0])
        self.shuffle, self.repeatable = adapter.shuffle, adapter.repeatable
        self.fingerprint = self._fingerprint()
        self.static_size: int | None = self._specs[0].shape[0]
        self._sparse = any(isinstance(spec, tf.SparseTensorSpec) for spec in self._specs)
        self._dense = all(type(spec) is tf.TensorSpec and spec.shape.rank is not None for spec in self._specs)
        self._alike = all(
            isinstance(spec, tf.RaggedTensorSpec) or spec.shape[1:].is_fully_defined() for spec in self._specs
        )
        self._fetch_many: Any = self._compiled() if self._dense else None
        self.size, self._pass_batches = adapter.size, adapter.batches
        if self.static_size is not None and adapter.batches is not None:
            self.size = adapter.batches * self.static_size
        self._fetch_limit = 1
        self._pass: tuple[Any, ...] | None = None
        self._iterator: Any = None
        self._clear()
        size = adapter.first_size()
        self._ordered = size is not None
        self.batch_size = self._first_size() if size is None else size
        self.steerable = not self._sparse and (self._alike or (not self._ordered and self._first_two_fit()))
        self.limitation = " ".join(filter(None, ["" if self.steerable else UNSTEERABLE, adapter.limitation]))
        self._fit = FitSpec(self.fingerprint, self.size, self.batch_size, self.shuffle)  # until the first window

    def _fingerprint(self) -> str:
        """sha256 of shapes, types and the number of batches, and of examples where arrays hold them."""
        sha = hashlib.sha256(f"{self.spec}{self._adapter.batches}".encode())
        for tensor in self._adapter.identity:
            sha.update(hashable(tensor))
        return sha.hexdigest()

    def _first_size(self) -> int:
        """The size of the first batch, which is not lost: the first pass begins with this iterator."""
        self._open(0, None)
        if self._ahead is None:
            raise ValueError("`x` must hold at least one batch. Received: a stream without any.")
        return _size_of(_components(self._ahead.get_value()))

    def _first_two_fit(self) -> bool:
        """Whether the first two batches have examples of one shape, where TensorFlow does not know it."""
        self._fetch(1, 0)
        return self._ahead is None or self._fits()

    # ------------------------------------------------------------------- the pass

    def is_over(self, position: Position) -> bool:
        """Whether every example of the pass has been visited; the start of a pass is not looked at."""
        if position.example == 0:
            return False
        self._go_to(position, self._fit)
        return position.example == self._bounds[-1] and self._ahead is None

    def steps_left(self, position: Position, batch_size: int) -> int | None:
        """How many steps the pass still has at a batch size, or None where that cannot be known."""
        here = self._pass is not None and self._pass[0] == position.data_pass and position.example in self._bounds
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
        self._adapter.epoch_began()

    def epoch_ended(self, position: Position, pass_over: bool) -> None:
        """Tells the user's data that an epoch is over."""
        if pass_over:
            self._end()
        self._adapter.epoch_ended()

    def close(self) -> None:
        """Ends what runs beside the training."""
        self._end()

    # ------------------------------------------------------------------- its windows

    def window(self, position: Position, batch_size: int, steps: int, fit: FitSpec) -> Window:
        """The examples of the next steps: see `Source`. At the fit's own batch size, batches as they come."""
        self._fit = fit
        self._go_to(position, fit)
        at = position.example
        if at == self._bounds[-1] and self._ahead is None:
            raise ValueError(f"The data have no more batches after example {at} of pass {position.data_pass}.")
        if batch_size == fit.batch_size and at in self._bounds:
            return self._as_they_come(at, steps)
        if not self.steerable:
            raise ValueError(f"`batch_size` must stay {fit.batch_size}. Received: {batch_size}. {self.limitation}")
        return self._sliced(at, batch_size, steps)

    def _as_they_come(self, at: int, steps: int) -> Window:
        if at == self._bounds[-1]:
            self._fetch(steps, at)
        first = bisect_left(self._bounds, at)
        size, count = self._bounds[first + 1] - at, 1
        for stop in self._bounds[first + 2 : first + 1 + steps]:
            if stop - at != (count + 1) * size:
                break
            count += 1
        return self._window(at, size, count, self.static_size)

    def _sliced(self, at: int, batch_size: int, steps: int) -> Window:
        if self._bounds[-1] - at < batch_size:
            wanted = at + min(batch_size * steps, max(batch_size, self._fetch_limit * self.batch_size))
            while (lacking := wanted - self._bounds[-1]) > 0 and self._fetch(lacking // self.batch_size + 1, at):
                pass
        rows = self._bounds[-1] - at
        ends = self._ahead is None or not self._fits()
        count = math.ceil(rows / batch_size) if ends else rows // batch_size
        return self._window(at, batch_size, min(steps, count), None)

    def _window(self, at: int, batch_size: int, count: int, static_size: int | None) -> Window:
        examples = min(count * batch_size, self._bounds[-1] - at)
        data = _packed(self._spec, self._data)
        return Window(data, None, at - self._bounds[0], batch_size, count, examples, static_size)

    # -------------------------------------------------------------------- the buffer
    # `_data` holds batches end to end, of examples of one shape; `_bounds` are the numbers of the examples of the pass
    # at which they begin and end. `_ahead` is the batch after them as an optional, None after the last.

    def _go_to(self, position: Position, fit: FitSpec) -> None:
        """Has the buffer begin at or before a position, and end at or after it."""
        wanted = (position.data_pass, *((fit.shuffle, fit.batch_size) if self._ordered else ()))
        if self._pass is None and self._iterator is not None:
            self._pass = wanted  # opened to look at its first batch
        if self._pass != wanted or position.example < self._bounds[0]:
            self._check_can_begin(position)
            self._open(position.data_pass, fit)
            self._pass = wanted
        while (missing := position.example - self._bounds[-1]) > 0:
            if not self._fetch(math.ceil(missing / self.batch_size), self._bounds[-1]):
                break
        if missing > 0 or not (self.steerable or position.example in self._bounds):
            raise ValueError(
                f"The stream has no place after {position.example} examples of pass {position.data_pass}; it gave "
                f"{self._bounds[-1]}. Give the data that the run began with."
            )

    def _check_can_begin(self, position: Position) -> None:
        if self.repeatable or self._pass is None or (self._ahead is None and position.data_pass > self._pass[0]):
            return
        raise ValueError(
            "The run cannot be rewound: what a generator has yielded is gone. Received: the place after example "
            f"{position.example:,} of pass {position.data_pass:,}, while it is after example {self._bounds[0]:,} of "
            f"pass {self._pass[0]:,}. Give a `tf.data.Dataset` or a `keras.utils.PyDataset` instead."
        )

    def _clear(self) -> None:
        self._data: list[Any] = []
        self._bounds, self._first_batch = [0], 0
        self._ahead: Any = None

    def _open(self, data_pass: int, fit: Any) -> None:
        self._end()
        self._clear()
        self._iterator = self._adapter.begin(data_pass, fit)
        self._look_ahead(self._iterator.get_next_as_optional())
        if self._ahead is not None:
            bytes_ = sum(map(_size_bytes, _components(self._ahead.get_value())))
            self._fetch_limit = max(1, FETCH_BYTES // max(1, bytes_))
            self._adapter.prefetched = min(PREFETCHED, self._fetch_limit)

    def _end(self) -> None:
        """Ends the iterator, at its end or before."""
        if self._iterator is not None:
            self._adapter.end(self._iterator)
            self._iterator = None

    def _look_ahead(self, optional: Any) -> None:
        limit, done = self._adapter.batches, self._first_batch + len(self._bounds) - 1
        while optional.has_value() and not _rows(_components(optional.get_value())[0]):
            optional = self._iterator.get_next_as_optional()
        self._ahead = optional if optional.has_value() and (limit is None or done < limit) else None

    def _fits(self) -> bool:
        """Whether the batch ahead has examples of the same shape as those in the buffer."""
        return self._alike or _shapes(self._data) == _shapes(_components(self._ahead.get_value()))

    def _fetch(self, count: int, at: int) -> bool:
        """Appends up to `count` batches, at least one, to the examples from `at` on; False if none can be."""
        if self._ahead is None or (at < self._bounds[-1] and not self._fits()):
            return False
        count = min(count, self._fetch_limit)
        if self._adapter.batches is not None:
            count = min(count, self._adapter.batches - self._first_batch - len(self._bounds) + 1)
        fetch = self._fetch_together if self._dense else self._fetch_one_by_one
        data, sizes, ahead = fetch(self._iterator, self._ahead, count)
        self._forget(at)
        if self._bounds[-1] > at:
            data = [tf.concat([old, new], 0) for old, new in zip(self._data, data, strict=True)]
        self._data = data
        for size in filter(None, sizes):
            self._bounds.append(self._bounds[-1] + size)
        self._look_ahead(ahead)
        if self._ahead is None:
            self.size, self._pass_batches = self._bounds[-1], self._first_batch + len(self._bounds) - 1
            self._end()
        return True

    def _forget(self, at: int) -> None:
        """Drops the batches before an example; what is left of its own stays."""
        whole = bisect_left(self._bounds, at)
        first = whole if self._bounds[whole] == at else whole - 1
        offset = self._bounds[first] - self._bounds[0]
        self._data = [part[offset:] for part in self._data] if at < self._bounds[-1] else []
        self._bounds, self._first_batch = self._bounds[first:], self._first_batch + first

    def _fetch_together(self, iterator: Any, ahead: Any, count: int) -> tuple[list[Any], list[int], Any]:
        data, sizes, ahead = self._fetch_many(iterator, ahead, tf.constant(count))
        return data, sizes.numpy().tolist(), ahead

    def _fetch_one_by_one(self, iterator: Any, ahead: Any, count: int) -> tuple[list[Any], list[int], Any]:
        batches: list[Any] = []
        while ahead.has_value() and len(batches) < (1 if self._sparse else count):
            batch = _components(ahead.get_value())
            if batches and not self._alike and _shapes(batch) != _shapes(batches[0]):
                break
            batches.append(batch)
            ahead = iterator.get_next_as_optional()
        data = [tf.concat(parts, 0) for parts in zip(*batches, strict=True)] if len(batches) > 1 else batches[0]
        return data, [_rows(batch[0]) for batch in batches], ahead

    def _compiled(self) -> Any:
        """A function of (iterator, batch ahead, count) -> (data, sizes, batch ahead), batches ahead as optionals."""

        def fetch(iterator: Any, ahead: Any, count: Any) -> tuple[list[Any], Any, Any]:
            def proceed(i: Any, more: Any, *_: Any) -> Any:
                return tf.logical_and(more, i < count)

            def append(i: Any, more: Any, ahead: Any, arrays: list[Any], sizes: Any) -> tuple[Any, ...]:
                batch = _components(ahead.get_value())
                arrays = [array.write(i, part) for array, part in zip(arrays, batch, strict=True)]
                sizes = sizes.write(i, tf.shape(batch[0])[0])
                following = iterator.get_next_as_optional()
                more = following.has_value()
                if not self._alike:
                    more = tf.cond(more, lambda: _are_alike(batch, following), lambda: tf.constant(False))
                return i + 1, more, following, arrays, sizes

            arrays = [
                tf.TensorArray(spec.dtype, 1, dynamic_size=True, infer_shape=False, element_shape=spec.shape)
                for spec in self._specs
            ]
            sizes = tf.TensorArray(tf.int32, 1, dynamic_size=True)
            start = (tf.constant(0), tf.constant(True), ahead, arrays, sizes)
            _, _, ahead, arrays, sizes = tf.while_loop(proceed, append, start, parallel_iterations=1)
            return [array.concat() for array in arrays], sizes.stack(), ahead

        def on_host(*arguments: Any) -> Any:
            with tf.device("CPU:0"):  # where the batches are; a block moves them to the device in one go
                return fetch(*arguments)

        signature = [tf.data.IteratorSpec(self._spec), tf.OptionalSpec(self._spec), tf.TensorSpec([], tf.int32)]
        return tf.function(tf.autograph.experimental.do_not_convert(on_host), input_signature=signature)


def _checked_specs(spec: Any) -> list[Any]:
    """The specs of the tensors of a batch, checked to hold one row an example."""
    specs = [spec for spec in tf.nest.flatten(spec) if not is_nothing(spec)]
    for each in specs:
        if not isinstance(each, (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)):
            raise ValueError(f"`x` must give batches of tensors. Received: {each}.")
        if each.shape.rank == 0:
            raise ValueError(f"`x` must give batches of examples. Received: {each}. Call `.batch(size)` on it first.")
    if not specs:
        raise ValueError(f"`x` must give batches of tensors. Received: {spec}.")
    return specs


def _components(batch: Any) -> list[Any]:
    return [part for part in tf.nest.flatten(batch) if not (part is None or isinstance(part, tf.experimental.Optional))]


def _are_alike(batch: list[Any], following: Any) -> Any:
    """Whether the batch in an optional has examples of the same shapes."""
    parts = zip(batch, _components(following.get_value()), strict=True)
    return tf.reduce_all([tf.reduce_all(tf.shape(a)[1:] == tf.shape(b)[1:]) for a, b in parts])


def _shapes(batch: list[Any]) -> list[Any]:
    return [part.shape[1:].as_list() for part in batch if isinstance(part, tf.Tensor)]


def _packed(spec: Any, components: list[Any]) -> Any:
    parts = iter(components)
    flat = [None if is_nothing(each) else next(parts) for each in tf.nest.flatten(spec)]
    return tf.nest.pack_sequence_as(spec, flat)


def _size_of(batch: list[Any]) -> int:
    """The number of examples of a batch."""
    sizes = {_rows(part) for part in batch}
    if len(sizes) > 1:
        raise ValueError(
            f"All tensors of a batch must hold the same number of examples. Received: {sorted(sizes)}. "
            "Cut them to one length."
        )
    return sizes.pop()


def _rows(part: Any) -> int:
    if isinstance(part, tf.SparseTensor):
        return int(part.dense_shape[0])
    return int(part.nrows() if isinstance(part, tf.RaggedTensor) else part.shape[0])


def _size_bytes(part: Any) -> int:
    values = part.flat_values if isinstance(part, tf.RaggedTensor) else getattr(part, "values", part)
    return int(tf.size(values)) * (values.dtype.size or 64)  # a string counts as 64 bytes
