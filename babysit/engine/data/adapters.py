"""Where batches come from, pass after pass, through Keras's own data adapters.

An adapter begins a pass, tells the user's `PyDataset` of epochs, and says whether a pass can be
begun again. Its batches are those that `Model.fit` would give to a step.
"""

import contextlib
import itertools
import threading
import types
from typing import Any, cast

import keras
import tensorflow as tf
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

from babysit.core.order import Shuffle, permutation
from babysit.core.position import FitSpec
from babysit.engine.data.window import arrays_in, map_arrays

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

    Attributes:
        dataset: A `tf.data.Dataset` of the batches.
        batches: Batches of a pass; None where that is not known or there is no end.
        shuffle: Whether the order of the batches is shuffled, as the user gave it.
        repeatable: Whether a pass can be begun again.
        size: Examples of a pass; None where that is not known.
        identity: Tensors by which the data are told from others, beside their shapes.
        prefetched: Batches that may be made ready at once, set once the size of one is known.
    """

    shuffle: Shuffle = False
    repeatable = True
    size: int | None = None
    identity: tuple[Any, ...] = ()
    prefetched = 0

    def __init__(self, adapter: Any, limitation: str = "") -> None:
        self._adapter, self.limitation = adapter, limitation
        self.dataset = without_autotune(adapter.get_tf_dataset())
        self.batches: int | None = adapter.num_batches

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        return iter(self.dataset)

    def end(self, iterator: Any) -> None:
        """Drops an iterator; ending its threads needs milliseconds, for which nothing waits."""
        threading.Thread(target=[iterator].clear, daemon=True).start()

    def first_size(self) -> int | None:
        """Examples of a batch, where the first batch of a pass may be another; None for that one's."""
        return None

    def epoch_began(self) -> None:
        """Tells the user's data that an epoch begins."""

    def epoch_ended(self) -> None:
        """Tells the user's data that an epoch is over."""


class DatasetAdapter(BatchAdapter):
    """A `tf.data.Dataset`; from its second pass on one iterator, begun anew while the steps before it run.

    It makes up to `prefetched` batches ready.
    """

    def __init__(self, adapter: Any, limitation: str = "") -> None:
        super().__init__(adapter, limitation)
        self._reused: ReusedIterator | None = None

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """An iterator at the start of a pass."""
        if not self.prefetched:
            return super().begin(data_pass, fit)
        if self._reused is None:
            self._reused = ReusedIterator(self.dataset.prefetch(self.prefetched))
        return self._reused.begun()

    def end(self, iterator: Any) -> None:
        """Begins the next pass in a thread."""
        if self._reused is None:
            super().end(iterator)
        else:
            self._reused.begin()


class ReusedIterator:
    """An iterator that is begun anew for every pass, in a thread as soon as one is over."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._iterator = dataset, iter(dataset)
        self._fresh, self._thread = True, threading.Thread()

    def begin(self) -> None:
        """Begins the next pass, in a thread."""
        self._thread = threading.Thread(target=self._begin, name="babysit-stream", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        with contextlib.suppress(Exception):  # `begun` raises it again
            self._make()

    def _make(self) -> None:
        tf.raw_ops.MakeIterator(dataset=self._dataset._variant_tensor, iterator=self._iterator._iterator_resource)
        self._fresh = True

    def begun(self) -> Any:
        """The iterator, at the start of a pass."""
        if self._thread.ident is not None:
            self._thread.join()
        if not self._fresh:
            self._make()
        self._fresh = False
        return self._iterator


class GeneratorAdapter(BatchAdapter):
    """A Python generator: what it has yielded is gone."""

    repeatable = False

    def __init__(self, adapter: Any) -> None:
        super().__init__(adapter, "The run cannot be rewound, because a generator yields each batch only once.")


class PyDatasetAdapter(BatchAdapter):
    """A `keras.utils.PyDataset`, its batches in an order that follows from (seed, pass).

    A pass has as many batches as the dataset had when the fit began, or fewer where it has fewer by then.
    """

    def __init__(self, dataset: Any, class_weight: Any, shuffle: Shuffle, seed: int) -> None:
        self._ordered, self._seed = _Ordered(dataset), seed
        self.shuffle = bool(shuffle) and dataset.num_batches is not None
        super().__init__(data_adapters.get_data_adapter(self._ordered, class_weight=class_weight))
        self.epoch_ended()  # `Model.fit` begins with it, so that a PyDataset counts on it

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        self._end_workers()
        count = cast(int | None, self._adapter.num_batches)
        if count is not None:  # before the workers start
            self._ordered.order = permutation(count, self._seed, data_pass, bool(fit.shuffle))
        return super().begin(data_pass, fit)

    def end(self, iterator: Any) -> None:
        """Drops an iterator; what its workers have made and nobody asked for is thrown away."""
        self._end_workers()
        super().end(iterator)

    def _end_workers(self) -> None:
        enqueuer = self._adapter.enqueuer
        if enqueuer is None:
            return
        enqueuer.stop()
        while not enqueuer.ready_queue.empty():
            enqueuer.ready_queue.get()
        if self.batches is None:
            enqueuer.indices = itertools.count()

    def first_size(self) -> int | None:
        """Examples of the batch of index 0: in another order, a smaller last one may come first."""
        return self._ordered.batch_size

    def epoch_began(self) -> None:
        """Calls `on_epoch_begin` of the user's dataset."""
        self._ordered.dataset.on_epoch_begin()

    def epoch_ended(self) -> None:
        """Calls `on_epoch_end` of the user's dataset."""
        self._ordered.dataset.on_epoch_end()


class _Ordered(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """A PyDataset in another order."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset = dataset
        self.order: Any = None
        self.batch_size: int | None = None

    def __getitem__(self, index: int) -> Any:
        if self.order is not None:
            return self.dataset[int(self.order[index])]
        batch = self.dataset[index]
        if self.batch_size is None:  # as Keras looks at the first ones to learn what they are
            self.batch_size = int(arrays_in(batch)[0].shape[0])
        return batch

    @property
    def num_batches(self) -> int | None:
        return cast(int | None, self.dataset.num_batches)


class SparseAdapter(BatchAdapter):
    """Sparse arrays, whose rows no step can gather: batches of them, in an order that follows from (seed, pass)."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, shuffle: Shuffle, seed: int) -> None:
        super().__init__(ArrayDataAdapter(*arrays, batch_size=batch_size))
        self._arrays, self._rows = arrays, map_arrays(array_slicing.convert_to_sliceable, arrays)
        self.size, self._seed, self.shuffle = int(arrays_in(arrays)[0].shape[0]), seed, shuffle
        self._batch_size = min(batch_size, self.size)
        self.identity = tuple(arrays_in(next(iter(self.dataset))))

    def begin(self, data_pass: int, fit: FitSpec) -> Any:
        """A new iterator over the batches of a pass."""
        assert self.size is not None
        order = permutation(self.size, self._seed, data_pass, fit.shuffle, fit.batch_size)
        rows = map_arrays(lambda part: part[order], self._rows) if fit.shuffle else self._arrays
        return iter(without_autotune(ArrayDataAdapter(*rows, batch_size=fit.batch_size).get_tf_dataset()))

    def first_size(self) -> int:
        """Examples of a batch."""
        return self._batch_size


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
    kinds = (tf.data.Dataset, keras.utils.PyDataset, types.GeneratorType)
    found = (data_adapters.is_tf_dataset, data_adapters.is_torch_dataloader, data_adapters.is_grain_dataset)
    return isinstance(x, kinds) or any(kind(x) for kind in found)


def batch_adapter(
    x: Any, class_weight: Any, shuffle: Shuffle, seed: int, steps_per_epoch: int | None = None
) -> BatchAdapter:
    """The adapter of a stream.

    Raises:
        ValueError: If Keras does not accept `class_weight` for it, or it gives no batches.
    """
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetAdapter(x, class_weight, shuffle, seed)
    adapter = data_adapters.get_data_adapter(x, class_weight=class_weight)
    if isinstance(x, types.GeneratorType):
        return GeneratorAdapter(adapter)
    if not isinstance(x, tf.data.Dataset):
        return BatchAdapter(adapter)
    drifts = steps_per_epoch is None and int(x.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    return DatasetAdapter(adapter, UNKNOWN_LENGTH if drifts else "")
