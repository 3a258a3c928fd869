"""Where batches come from, pass after pass, through Keras's own data adapters.

A feed knows how a pass begins and ends and what the user's data hears of it, whether it
can be begun again, and whether it gives the same batches then. It hands on what
`Model.fit` would hand to a step, and changes nothing.
"""

import contextlib
import itertools
import threading
import types
from collections.abc import Iterator
from typing import Any, cast

import keras
import tensorflow as tf
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

from babysit.core.order import Sampler

# What these operations give depends on more than their inputs.
_RESTLESS = (
    "Random",
    "Stateful",
    "Truncated",
    "Multinomial",
    "ParameterizedTruncated",
    "Assign",
    "PyFunc",
    "EagerPyFunc",
)


class Feed:
    """The passes over a stream that one of Keras's adapters takes.

    Args:
        adapter: Keras's adapter of the data.
        remark: Why it does not give the same batches again, or empty if it does.
        whole_epochs: Whether an epoch is a pass, rather than a number of steps.

    Attributes:
        spec: TensorFlow's specs of a batch, in the structure handed to a step.
        reopens: Whether it can be begun again at all.
        ahead: Batches that are made ready beside the training, from the next pass on.
        batch_size: Examples of a batch, where the first to come may be another; None for that one's.
    """

    reopens = True
    ahead = 0
    batch_size: int | None = None

    def __init__(self, adapter: Any, remark: str = "", whole_epochs: bool = False) -> None:
        self._adapter, self.remark, self._whole_epochs = adapter, remark, whole_epochs
        self._dataset = _prompt(adapter.get_tf_dataset())
        self._kept: _Kept | None = None
        self.spec = self._dataset.element_spec
        adapter.on_epoch_end()  # `Model.fit` begins with it, so that a PyDataset counts on it

    @property
    def rewindable(self) -> bool:
        """Whether it gives the same batches when it is begun again."""
        return not self.remark

    @property
    def batches(self) -> int | None:
        """Batches a pass, or None where that is not known or there is no end."""
        return cast(int | None, self._adapter.num_batches)

    def begin(self, number: int) -> None:
        """Tells the user's data that pass `number` begins."""
        self._adapter.on_epoch_begin()

    def open(self, number: int) -> Any:
        """A new iterator over the batches of pass `number`."""
        if not self.reuses:
            return iter(self._dataset)
        if self._kept is None or self._kept.ahead != self.ahead:
            self._kept = _Kept(self._dataset.prefetch(self.ahead), self.ahead)
        return self._kept.begun()

    def spent(self, iterator: Any) -> None:
        """Takes an iterator back at its end. To stop its threads takes milliseconds, for which nothing waits."""
        if self._kept is not None:
            self._kept.begin()
        else:
            threading.Thread(target=[iterator].clear, daemon=True).start()

    @property
    def reuses(self) -> bool:
        """Whether one iterator serves every pass, with batches made ready: only of what nobody sees being made."""
        return bool(self.ahead) and self.rewindable and isinstance(self._adapter, TFDatasetAdapter)

    def close(self) -> None:
        """Leaves the present iterator, at its end or before."""

    def turn(self, begins: bool) -> None:
        """Tells the user's data that an epoch of some steps begins, or is over, within a pass."""

    def end(self) -> None:
        """Tells the user's data that a pass is over."""
        if self._whole_epochs and not self.rewindable and self.batches is not None:
            # `Model.fit` makes an iterator here that it never uses; a shuffled dataset counts it.
            iter(self._dataset)
        self._adapter.on_epoch_end()


class _Kept:
    """An iterator that is begun anew for every pass, beside the training as soon as one is over."""

    def __init__(self, dataset: Any, ahead: int) -> None:
        self.ahead, self._dataset, self._iterator = ahead, dataset, iter(dataset)
        self._fresh, self._thread = True, threading.Thread()

    def begin(self) -> None:
        """Begins the next pass, in a thread."""
        self._thread = threading.Thread(target=self._begin, name="babysit-feed", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        with contextlib.suppress(Exception):  # which `begun` comes upon as well
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


class GeneratorFeed(Feed):
    """A Python generator: what it has yielded is gone."""

    reopens = False

    def __init__(self, adapter: Any) -> None:
        super().__init__(adapter, "The run cannot be rewound, because a generator yields each batch only once.")


class PyDatasetFeed(Feed):
    """A `keras.utils.PyDataset`, its batches in an order that follows from (seed, pass)."""

    def __init__(self, dataset: Any, class_weight: Any, shuffle: bool, seed: int) -> None:
        self._ordered, self._shuffle, self._seed = _Ordered(dataset), shuffle, seed
        hooks = any(
            getattr(type(dataset), hook) is not getattr(keras.utils.PyDataset, hook)
            for hook in ("on_epoch_begin", "on_epoch_end")
        )
        remark = "Rewinding is not exact, because the PyDataset changes with each epoch." if hooks else ""
        super().__init__(data_adapters.get_data_adapter(self._ordered, class_weight=class_weight), remark)
        self.batch_size = self._ordered.batch_size

    def begin(self, number: int) -> None:
        """Tells the user's data that pass `number` begins."""
        self._set_order(number)  # before the workers start
        super().begin(number)

    def turn(self, begins: bool) -> None:
        """Tells the user's data that an epoch of some steps begins, or is over, within a pass."""
        (self._ordered.on_epoch_begin if begins else self._ordered.on_epoch_end)()

    def open(self, number: int) -> Any:
        """A new iterator over the batches of pass `number`."""
        self._set_order(number)
        return super().open(number)

    def _set_order(self, number: int) -> None:
        if self.batches is not None:
            sampler = Sampler(self.batches, self._seed, self._shuffle)
            sampler.restore(number, 0)
            self._ordered.order = sampler.order

    def close(self) -> None:
        """Leaves the present iterator; what its workers have made and nobody asked for is thrown away."""
        enqueuer = self._adapter.enqueuer
        if enqueuer is None:
            return
        enqueuer.stop()
        while not enqueuer.ready_queue.empty():
            enqueuer.ready_queue.get()
        if self.batches is None:
            enqueuer.indices = itertools.count()


class _Ordered(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """A PyDataset in another order."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset = dataset
        self.order: Any = None
        self.batch_size: int | None = None  # of the first batch, shuffled or not: the last may hold fewer

    def __getitem__(self, index: int) -> Any:
        if self.order is not None:
            return self.dataset[int(self.order[index])]
        batch = self.dataset[index]
        if self.batch_size is None:  # as Keras looks at the first ones to learn what they are
            self.batch_size = int(keras.tree.flatten(batch)[0].shape[0])
        return batch

    @property
    def num_batches(self) -> int | None:
        return cast(int | None, self.dataset.num_batches)

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()


class SparseFeed(Feed):
    """Sparse arrays, whose rows no step can gather: batches of them, in an order that follows from (seed, pass)."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, shuffle: bool | str, seed: int) -> None:
        self._batch_size = batch_size
        super().__init__(ArrayDataAdapter(*arrays, batch_size=batch_size))
        self._rows = keras.tree.map_structure(_sliceable, arrays)
        self._sampler = Sampler(_size(arrays), seed, shuffle, batch_size)

    def open(self, number: int) -> Any:
        """A new iterator over the batches of pass `number`."""
        if not self._sampler.shuffle:
            return super().open(number)
        self._sampler.restore(number, 0)
        order = self._sampler.order
        rows = keras.tree.map_structure(lambda part: None if part is None else part[order], self._rows)
        return iter(_prompt(ArrayDataAdapter(*rows, batch_size=self._batch_size).get_tf_dataset()))


def _prompt(dataset: Any) -> Any:
    """The same dataset, whose iterators end at once.

    One that TensorFlow tunes has a thread for that, and may wait for it at its end: up to a minute,
    in which no Python code runs at all. Untuned, `AUTOTUNE` means as many threads as there are cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = bool(dataset.options().autotune.enabled)  # only where it was asked for
    return dataset.with_options(options)


def _sliceable(array: Any) -> Any:
    return None if array is None else array_slicing.convert_to_sliceable(array)


def _size(arrays: Any) -> int:
    return int(next(array for array in keras.tree.flatten(arrays) if array is not None).shape[0])


def is_stream(x: Any) -> bool:
    """Whether `x` comes batch after batch."""
    kinds = (tf.data.Dataset, keras.utils.PyDataset, types.GeneratorType)
    found = (data_adapters.is_tf_dataset, data_adapters.is_torch_dataloader, data_adapters.is_grain_dataset)
    return isinstance(x, kinds) or any(kind(x) for kind in found)


def feed(x: Any, class_weight: Any, shuffle: bool | str, seed: int, steps_per_epoch: int | None = None) -> Feed:
    """The feed of a stream.

    Raises:
        ValueError: If Keras does not take `class_weight` for it, or it gives no batches.
    """
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetFeed(x, class_weight, bool(shuffle), seed)
    adapter = data_adapters.get_data_adapter(x, class_weight=class_weight)
    if isinstance(x, types.GeneratorType):
        return GeneratorFeed(adapter)
    if isinstance(x, tf.data.Dataset):
        return Feed(adapter, _restlessness(x), steps_per_epoch is None)
    return Feed(adapter, f"Rewinding may not be exact, because a {type(x).__name__} may give other batches each time.")


def _restlessness(dataset: Any) -> str:
    """Why a dataset does not give the same batches each time it is gone through, or empty if it does."""
    for each in _lineage(dataset):
        if getattr(each, "_reshuffle_each_iteration", False) is not False:
            return (
                "Rewinding is not exact, because the dataset is shuffled anew each time it is gone through: "
                "`shuffle(…, reshuffle_each_iteration=False)` would not be."
            )
        if getattr(each, "_deterministic", "") == "false":
            return "Rewinding is not exact, because the dataset has a part with `deterministic=False`."
        if getattr(each, "_rerandomize", None):
            return "Rewinding is not exact, because the dataset has a part with `rerandomize_each_iteration=True`."
        if operations := _restless(each):
            return f"Rewinding is not exact, because the dataset uses {', '.join(operations)}."
    if dataset.options().deterministic is False:
        return "Rewinding is not exact, because the dataset's option `deterministic` is off."
    return ""


def _lineage(dataset: Any) -> Iterator[Any]:
    """The dataset and all that it was made of."""
    yield dataset
    for each in dataset._inputs():
        yield from _lineage(each)


def _restless(dataset: Any) -> list[str]:
    graphs = [function.function.graph.as_graph_def() for function in dataset._functions()]
    nodes = [node for graph in graphs for part in (graph, *graph.library.function) for node in _nodes(part)]
    return sorted({node.op for node in nodes if node.op.startswith(_RESTLESS)})


def _nodes(graph: Any) -> Any:
    return graph.node if hasattr(graph, "node") else graph.node_def
