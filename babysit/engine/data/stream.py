"""Data that come batch after batch, as one source of batches of any size.

The batches are fetched many at a time in one call into TensorFlow and laid end to end.
While nothing is changed, steps take the user's own batches as they come; at another
batch size, or in the middle of one of those batches, they take slices instead: no
example is lost, none comes twice, and the order stays.
"""

import hashlib
import math
from collections import deque
from functools import cached_property
from itertools import takewhile
from typing import Any

import tensorflow as tf

from babysit.engine.data.adapters import Feed
from babysit.engine.data.window import Piece, any_length, described, is_nothing

# What is fetched at once for the next steps takes about this much memory.
FETCH_BYTES = 64 * 2**20
# And at most so many batches are made ready for the fetch after.
AHEAD = 32


class Stream:
    """Examples that come in batches, in the structure Keras hands to a step.

    Args:
        feed: Where the batches come from, pass after pass.

    Raises:
        ValueError: If there is no batch, or what comes is not batches of examples.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.shuffle: bool | str = True  # the feed's business
        self._specs = _batched(feed.spec)
        self._dense = all(type(spec) is tf.TensorSpec and spec.shape.rank is not None for spec in self._specs)
        self._sparse = any(isinstance(spec, tf.SparseTensorSpec) for spec in self._specs)
        self.fixed: int | None = self._specs[0].shape[0]
        self._fetch_many = self._compiled()
        self._last: Piece | None = None
        self._passes, self._turned = 0, False
        self._pass_size: int | None = None
        self._pass_batches: int | None = feed.batches
        feed.begin(0)
        self._open()
        if self._ahead is None:
            raise ValueError("`x` must hold at least one batch. Received: a stream without any.")
        first = _components(self._ahead.get_value())
        self.batch_size = feed.batch_size or _size_of(first)
        self._fetch_limit = max(1, FETCH_BYTES // max(1, sum(map(_size_bytes, first))))
        feed.ahead = min(AHEAD, self._fetch_limit)
        self._fingerprint = _hash(feed.spec, first if feed.rewindable else [])

    # ------------------------------------------------------------------- what it is

    @property
    def size(self) -> int | None:
        """Examples a pass; None before they can be known."""
        if self._feed.batches is not None and self.fixed is not None:
            return self._feed.batches * self.fixed
        return self._pass_size

    @property
    def spec(self) -> Any:
        """The shape and type of a batch in plain data."""
        return described(self._feed.spec)

    @cached_property
    def signature(self) -> Any:
        """TensorFlow's specs of a piece's `data`, of any length, and no order: to trace a block for."""
        return any_length(self._feed.spec), None

    @property
    def steerable(self) -> bool:
        """Whether the batch size can be changed: whether any examples can share a batch."""
        return not self._sparse and all(
            isinstance(spec, tf.RaggedTensorSpec) or spec.shape[1:].is_fully_defined() for spec in self._specs
        )

    @property
    def rewindable(self) -> bool:
        """Whether going back to a place gives the same examples again."""
        return self._feed.rewindable

    @property
    def remark(self) -> str:
        """What cannot be had of this stream and why; empty if all can."""
        fixed = (
            "" if self.steerable else "The batch size stays, because examples of different shapes, or sparse ones, "
            "cannot be put into other batches."
        )  # fmt: skip
        return " ".join(filter(None, [fixed, self._feed.remark]))

    def declare(self, shuffle: bool | str, batch_size: int) -> None:
        """Takes down the order of another fit; it is the feed's business, and so are the sizes of batches."""
        self.shuffle = shuffle

    def fingerprint(self) -> str:
        """sha256 of shapes and types, and of the first batch where it is the same every time, hexadecimal."""
        return self._fingerprint

    # ------------------------------------------------------------------- where it is

    @property
    def place(self) -> tuple[int, int]:
        """Passes begun before this one, and examples of this one done."""
        return self._passes, self._cursor

    @property
    def finished(self) -> bool:
        """Whether every example of this pass has been visited."""
        self._begin()
        return not any(self._sizes) and self._ahead is None

    def steps_left(self, batch_size: int) -> int | None:
        """How many steps this pass still takes at a batch size, or None where that cannot be known."""
        if self.finished:
            return 0
        if self._takes_own(batch_size) and self._pass_batches is not None:
            return max(1, self._pass_batches - self._batches_done)
        return None if self.size is None else max(1, math.ceil((self.size - self._cursor) / batch_size))

    def next_pass(self) -> None:
        """Begins the next pass; nothing is fetched for it before it is asked for, as it may be one too many."""
        self._close()
        self._feed.end()
        self._passes, self._cursor, self._batches_done = self._passes + 1, 0, 0
        self._waits = True

    def turn(self) -> None:
        """Ends an epoch of some steps within a pass."""
        self._feed.turn(begins=False)
        self._turned = True

    def _begin(self) -> None:
        if self._waits:
            self._feed.begin(self._passes)
            self._open()
        elif self._turned:
            self._feed.turn(begins=True)
        self._turned = False

    def restore(self, passes: int, cursor: int) -> None:
        """Goes to a place in any pass.

        Raises:
            ValueError: If the stream cannot be begun again, or has no such place; it stands where it stood then.
        """
        if (passes, cursor) == self.place:
            return
        if not self._feed.reopens and cursor == self._cursor == 0:
            self._passes = passes  # it is the pass that the caller calls it
            return
        if not self._feed.reopens:
            raise ValueError(
                "The run cannot be rewound: what a generator has yielded is gone. Received: a place behind example "
                f"{cursor:,} of pass {passes + 1:,}, standing behind example {self._cursor:,} of pass "
                f"{self._passes + 1:,}. Give a `tf.data.Dataset` or a `keras.utils.PyDataset` instead."
            )
        before, waited, known = self.place, self._waits, (self._pass_size, self._pass_batches)
        try:
            self._go_to(passes, cursor)
        except Exception:
            self._go_to(*before)
            self._waits, (self._pass_size, self._pass_batches) = waited, known
            raise

    def _go_to(self, passes: int, cursor: int) -> None:
        self._close()
        self._passes = passes
        self._open()
        self._skip(cursor)

    # ------------------------------------------------------------------- what it gives

    def piece(self, batch_size: int, steps: int) -> Piece:
        """The examples of the next steps, without moving on.

        Args:
            batch_size: Examples a step. Where it is the stream's own, steps take the batches as they come.
            steps: How many at most, 1 or more.

        Raises:
            ValueError: If the batch size cannot be changed.
        """
        self._begin()
        if self._takes_own(batch_size):
            piece = self._as_they_come(steps)
        elif self.steerable:
            piece = self._sliced(batch_size, steps)
        else:
            raise ValueError(f"`batch_size` must stay {self.batch_size}. Received: {batch_size}. {self.remark}")
        self._last = piece
        return piece

    def advance(self, steps: int, batch_size: int) -> None:
        """Moves on by that many steps of the last piece."""
        if self._last is not None and self._last.batch_size == 0:  # empty batches are batches too
            for _ in range(steps):
                self._sizes.popleft()
        else:
            size = batch_size if self._last is None else self._last.batch_size
            self._drop(min(steps * size, sum(self._sizes)))

    def _takes_own(self, batch_size: int) -> bool:
        return batch_size == self.batch_size and not self._cut

    def _as_they_come(self, steps: int) -> Piece:
        if not self._sizes:
            self._fetch(steps)
        size = self._sizes[0]
        alike = sum(1 for _ in takewhile(lambda other: other == size, self._sizes))
        return self._piece(size, min(steps, alike), self.fixed)

    def _sliced(self, batch_size: int, steps: int) -> Piece:
        if sum(self._sizes) < batch_size:
            wanted = min(batch_size * steps, max(batch_size, self._fetch_limit * self.batch_size))
            while (rows := sum(self._sizes)) < wanted and self._ahead is not None:
                self._fetch(math.ceil((wanted - rows) / max(1, self.batch_size)))
        rows = sum(self._sizes)
        count = rows // batch_size if self._ahead is not None else math.ceil(rows / batch_size)
        return self._piece(batch_size, min(steps, count), None)

    def _piece(self, batch_size: int, count: int, fixed: int | None) -> Piece:
        return Piece(_packed(self._feed.spec, self._data), None, self._offset, batch_size, count, fixed)

    # -------------------------------------------------------------------- the buffer
    # `_data` holds the batches fetched, end to end; from `_offset` on lie those not yet visited, of `_sizes` examples
    # each; `_cut` says whether a part of the first is gone. `_ahead` is the batch behind them, None behind the last.

    def _open(self) -> None:
        self._waits = False
        self._iterator = self._feed.open(self._passes)
        self._clear()
        self._cursor = self._batches_done = 0
        self._look_ahead(self._iterator.get_next_as_optional())

    def _look_ahead(self, optional: Any) -> None:
        self._ahead: Any = optional if optional.has_value() else None

    def _close(self) -> None:
        self._clear()
        self._iterator = self._ahead = None
        self._feed.close()

    def _clear(self) -> None:
        self._data: list[Any] = []
        self._sizes: deque[int] = deque()
        self._offset, self._cut = 0, False
        self._last = None

    def _fetch(self, count: int) -> None:
        """Appends up to `count` batches, at least one, to those not yet visited."""
        count = min(count, self._fetch_limit)
        fetch = self._fetch_together if self._dense else self._fetch_one_by_one
        data, sizes, ahead = fetch(self._iterator, self._ahead, count)
        if self._sizes:
            data = [tf.concat([old[self._offset :], new], 0) for old, new in zip(self._data, data, strict=True)]
        self._data, self._offset = data, 0
        self._sizes.extend(sizes)
        self._look_ahead(ahead)
        if self._ahead is None:
            self._pass_size = self._cursor + sum(self._sizes)
            self._pass_batches = self._batches_done + len(self._sizes)
            self._feed.spent(self._iterator)
            self._iterator = None

    def _fetch_together(self, iterator: Any, ahead: Any, count: int) -> tuple[list[Any], list[int], Any]:
        data, sizes, ahead = self._fetch_many(iterator, ahead, tf.constant(count))
        return data, sizes.numpy().tolist(), ahead

    def _fetch_one_by_one(self, iterator: Any, ahead: Any, count: int) -> tuple[list[Any], list[int], Any]:
        batches: list[Any] = []
        while not batches or (self.steerable and len(batches) < count and ahead.has_value()):
            batches.append(_components(ahead.get_value()))
            ahead = iterator.get_next_as_optional()
        data = [tf.concat(parts, 0) for parts in zip(*batches, strict=True)] if len(batches) > 1 else batches[0]
        return data, [_rows(batch[0]) for batch in batches], ahead

    def _compiled(self) -> Any:
        """A function of (iterator, batch ahead, count) -> (data, sizes, batch ahead), batches ahead as optionals."""

        def fetch(iterator: Any, ahead: Any, count: Any) -> tuple[list[Any], Any, Any]:
            def proceed(i: Any, more: Any, *_: Any) -> Any:
                return tf.logical_and(more, i < count)

            def take(i: Any, more: Any, ahead: Any, arrays: list[Any], sizes: Any) -> tuple[Any, ...]:
                batch = _components(ahead.get_value())
                arrays = [array.write(i, part) for array, part in zip(arrays, batch, strict=True)]
                sizes = sizes.write(i, tf.shape(batch[0])[0])
                following = iterator.get_next_as_optional()
                more = following.has_value()
                if not self.steerable:
                    more = tf.cond(more, lambda: _are_alike(batch, following), lambda: tf.constant(False))
                return i + 1, more, following, arrays, sizes

            arrays = [
                tf.TensorArray(spec.dtype, 1, dynamic_size=True, infer_shape=False, element_shape=spec.shape)
                for spec in self._specs
            ]
            sizes = tf.TensorArray(tf.int32, 1, dynamic_size=True)
            start = (tf.constant(0), tf.constant(True), ahead, arrays, sizes)
            _, _, ahead, arrays, sizes = tf.while_loop(proceed, take, start, parallel_iterations=1)
            return [array.concat() for array in arrays], sizes.stack(), ahead

        def on_host(*arguments: Any) -> Any:
            with tf.device("CPU:0"):  # where the batches are; a block takes them to the device in one go
                return fetch(*arguments)

        if not self._dense:
            return None
        signature = [
            tf.data.IteratorSpec(self._feed.spec),
            tf.OptionalSpec(self._feed.spec),
            tf.TensorSpec([], tf.int32),
        ]
        return tf.function(tf.autograph.experimental.do_not_convert(on_host), input_signature=signature)

    def _drop(self, rows: int) -> None:
        self._cursor += rows
        self._offset += rows
        while rows and rows >= self._sizes[0]:
            rows -= self._sizes.popleft()
            self._batches_done, self._cut = self._batches_done + 1, False
        if rows:
            self._sizes[0] -= rows
            self._cut = True

    def _skip(self, examples: int) -> None:
        while self._cursor < examples and not self.finished:
            if not self._sizes:
                self._fetch(math.ceil((examples - self._cursor) / max(1, self.batch_size)))
            self._drop(min(examples - self._cursor, sum(self._sizes)))
        if self._cursor < examples or (self._cut and not self.steerable):
            raise ValueError(
                f"The stream has no place behind {examples} examples of pass {self._passes}; it gave {self._cursor}. "
                "Give the data that the run began with."
            )


def _batched(spec: Any) -> list[Any]:
    """The specs of the tensors of a batch, checked to hold one row an example."""
    specs = [spec for spec in tf.nest.flatten(spec) if not is_nothing(spec)]
    for each in specs:
        if not isinstance(each, (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)):
            raise ValueError(f"`x` must give batches of tensors. Received: {each}. Leave out what is None.")
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


def _hash(spec: Any, batch: list[Any]) -> str:
    sha = hashlib.sha256(repr(described(spec)).encode())
    for part in batch:
        for tensor in tf.nest.flatten(part, expand_composites=True):
            sha.update(tf.io.serialize_tensor(tensor).numpy())
    return sha.hexdigest()
