"""Where batches come from, pass after pass, through Keras's own data adapters.

An adapter begins a pass, and says whether a pass can be begun again. Its batches are those that
`Model.fit` would give to a step.
"""

import threading
import types
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from babysit.core.order import Shuffle, permutation
from babysit.core.position import FitSpec
from babysit.engine.data.window import arrays_in, map_arrays
from babysit.engine.internals import ArrayDataAdapter, convert_to_sliceable, get_data_adapter

UNKNOWN_LENGTH = (
    "`Model.fit` counts one iteration too many an epoch of a dataset of unknown length, so its `optimizer.iterations` "
    "differ: call `.apply(tf.data.experimental.assert_cardinality(n))` on the dataset to have the same."
)


class BatchAdapter:
    """The passes over a stream that one of Keras's adapters understands.

    A dataset that is shuffled with `reshuffle_each_iteration=True` comes in another order each time it is begun.

    Args:
        adapter: Keras's adapter of the data.
        limitation: What cannot be had of it and why, in a sentence; empty if all can.
        repeatable: Whether a pass can be begun again.

    Attributes:
        dataset: A `tf.data.Dataset` of the batches.
        batches: Batches of a pass; None where that is not known or there is no end.
        shuffle: Whether the order of the batches is shuffled, as the user gave it.
        batch_size: Examples of a batch; None for those of the first one that comes.
        examples: Tensors that, with their shapes, identify the data.
        hears: The dataset whose `on_epoch_begin` and `on_epoch_end` are called.
        prefetched: Batches that may be made ready at once, set when the size of one is known.
    """

    shuffle: Shuffle = False
    batch_size: int | None = None
    examples: Any = None
    prefetched = 1

    def __init__(self, adapter: Any, limitation: str = "", repeatable: bool = True) -> None:
        self.hears, self.limitation, self.repeatable = adapter, limitation, repeatable
        self.dataset = without_autotune(adapter.get_tf_dataset())
        self.batches: int | None = adapter.num_batches

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        return iter(self.dataset)

    def end(self, iterator: Any) -> None:
        """Drops an iterator; ending its threads needs milliseconds, for which nothing waits."""
        in_background([iterator].clear)


class DatasetAdapter(BatchAdapter):
    """A `tf.data.Dataset`: each later pass is begun, and makes batches ready, while the steps before it run."""

    _next: Future[Any] | None = None

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        following, self._next = self._next, None
        return super().begin(data_pass, fit) if following is None else following.result()

    def end(self, iterator: Any) -> None:
        """Drops an iterator, and begins the next pass."""
        super().end(iterator)
        self._next = in_background(lambda: iter(self.dataset.prefetch(self.prefetched)))


class PyDatasetAdapter(BatchAdapter):
    """A `keras.utils.PyDataset`, its batches in an order that follows from (seed, pass).

    A pass has as many batches as the dataset had when the fit began, or fewer where it has fewer by then.
    """

    def __init__(self, dataset: Any, shuffle: Shuffle, seed: int, **others: Any) -> None:
        self._dataset, self._seed, self._others = dataset, seed, others
        self.shuffle = bool(shuffle) and dataset.num_batches is not None
        first = _Ordered(dataset)
        super().__init__(get_data_adapter(first, **others))
        self._adapter: Any = None
        self.hears, self.batch_size = dataset, first.batch_size
        dataset.on_epoch_end()  # `Model.fit` begins with it, so that a PyDataset counts on it

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass, with workers of its own."""
        count, order = self._dataset.num_batches, None
        if count is not None:
            order = permutation(count, self._seed, data_pass, bool(fit.shuffle))
        self._adapter = get_data_adapter(_Ordered(self._dataset, order), **self._others)
        self._adapter._output_signature = self.dataset.element_spec  # otherwise it looks at two batches again
        return iter(without_autotune(self._adapter.get_tf_dataset()))

    def end(self, iterator: Any) -> None:
        """Drops an iterator, and ends its workers."""
        if self._adapter.enqueuer is not None:
            in_background(self._adapter.enqueuer.stop)
        super().end(iterator)


class _Ordered(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """A PyDataset in another order."""

    batch_size: int | None = None

    def __init__(self, dataset: Any, order: np.ndarray | None = None) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset, self._order = dataset, order

    def __getitem__(self, index: int) -> Any:
        batch = self._dataset[index if self._order is None else int(self._order[index])]
        if self.batch_size is None:  # of the batch at 0; in another order, a smaller last one may come first
            self.batch_size = int(arrays_in(batch)[0].shape[0])
        return batch

    @property
    def num_batches(self) -> int | None:
        return cast(int | None, self._dataset.num_batches)


class ArraysAdapter(BatchAdapter):
    """Sparse or ragged arrays, whose rows no step can gather: batches, in an order that follows from (seed, pass)."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, shuffle: Shuffle, seed: int) -> None:
        super().__init__(ArrayDataAdapter(*arrays, batch_size=batch_size))
        self._rows, self._seed, self.shuffle = convert_to_sliceable(arrays), seed, shuffle
        self.examples = next(iter(self.dataset))
        self._size, self.batch_size = (int(arrays_in(one)[0].shape[0]) for one in (arrays, self.examples))

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        order = permutation(self._size, self._seed, data_pass, fit.shuffle, fit.batch_size)
        arrays = map_arrays(lambda part: part[order], self._rows)
        return iter(without_autotune(ArrayDataAdapter(*arrays, batch_size=fit.batch_size).get_tf_dataset()))


def in_background(work: Callable[..., Any], *given: Any) -> Future[Any]:
    """Begins some work on a thread of its own, which nothing waits for when the interpreter ends; gives its result."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*given))
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="babysit-data", daemon=True).start()
    except RuntimeError:  # the interpreter is ending and starts no thread; the training goes on until it rests
        run()
    return future


def without_autotune(dataset: Any) -> Any:
    """The same dataset, whose iterators end at once.

    One that TensorFlow tunes has a thread for that, and may wait for it at its end: up to a minute,
    in which no Python code runs at all. Untuned, `AUTOTUNE` means as many threads as there are cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = bool(dataset.options().autotune.enabled)  # only where it was asked for
    return dataset.with_options(options)


def is_stream(x: Any) -> bool:
    """Whether `x` comes batch after batch."""
    return isinstance(x, tf.data.Dataset | keras.utils.PyDataset | types.GeneratorType)


def batch_adapter(
    x: Any, shuffle: Shuffle, seed: int, steps_per_epoch: int | None = None, **others: Any
) -> BatchAdapter:
    """The adapter of a stream.

    Raises:
        ValueError: If Keras does not accept one of `others` (`y`, `sample_weight`, `class_weight`) for it, or it
            gives no batches.
    """
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetAdapter(x, shuffle, seed, **others)
    adapter = get_data_adapter(x, **others)
    if isinstance(x, types.GeneratorType):
        limitation = "The run cannot be rewound, because a generator yields each batch only once."
        return BatchAdapter(adapter, limitation, repeatable=False)
    drifts = steps_per_epoch is None and int(x.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    return DatasetAdapter(adapter, UNKNOWN_LENGTH if drifts else "")
