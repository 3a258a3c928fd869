"""Every kind of data: one contract, and the steps of `Model.fit` bit for bit."""

import gc
import random
import threading
import time
from contextlib import nullcontext

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import babysit
from babysit.engine.block import training_block
from babysit.engine.data import adapters as feeds
from babysit.engine.data import stream as streams
from babysit.engine.data.source import Arrays, HostArrays, Stream, source, symbolic

N = 50
NUMBERS = np.arange(N, dtype="float32").reshape(N, 1) * np.ones((1, 3), "float32")
LABELS = np.arange(N)


class Numbers(keras.utils.PyDataset):
    """The numbers in batches of eight."""

    def __len__(self):
        return -(-N // 8)

    def __getitem__(self, i):
        return NUMBERS[8 * i : 8 * i + 8], LABELS[8 * i : 8 * i + 8]


class Endless(Numbers):
    num_batches = None

    def __getitem__(self, i):
        return super().__getitem__(i % 6)


def dataset(remainder=True):
    return tf.data.Dataset.from_tensor_slices((NUMBERS, LABELS)).batch(8, drop_remainder=not remainder)


def uneven():
    def batches():
        for start, stop in [(0, 8), (8, 11), (11, 19), (19, 20), (20, 34), (34, 50)]:
            yield NUMBERS[start:stop], LABELS[start:stop]

    spec = (tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def generator():
    for i in range(len(Numbers())):
        yield Numbers()[i]


def ragged(values):
    return tf.RaggedTensor.from_row_lengths(tf.repeat(values, values % 5), values % 5)


def memory_mapped(tmp_path):
    x = np.memmap(tmp_path / "x", "float32", "w+", shape=NUMBERS.shape)
    x[:] = NUMBERS
    return source(x, LABELS, batch_size=8)


class OnDisk:
    """What h5py gives: a shape, a type, rows for a slice or for indices in rising order, and no array."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.asked = []

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            assert np.all(np.diff(rows) > 0)
        self.asked.append(len(self._array[rows]))
        return self._array[rows]


EVERY = {
    "arrays": lambda _: source(NUMBERS, LABELS, batch_size=8),
    "arrays in their order": lambda _: source(NUMBERS, LABELS, batch_size=8, shuffle=False),
    "arrays shuffled by batch": lambda _: source(NUMBERS, LABELS, batch_size=8, shuffle="batch"),
    "ragged arrays": lambda _: source(ragged(LABELS), LABELS, batch_size=8),
    "memory-mapped": memory_mapped,
    "on disk": lambda _: source(OnDisk(NUMBERS), LABELS, batch_size=8),
    "a dataset": lambda _: source(dataset()),
    "a dataset of one size": lambda _: source(dataset(remainder=False)),
    "a dataset of uneven batches": lambda _: source(uneven()),
    "a dataset of ragged batches": lambda _: source(
        tf.data.Dataset.from_tensor_slices((ragged(LABELS), LABELS)).batch(8)
    ),
    "a dataset of strings": lambda _: source(tf.data.Dataset.from_tensor_slices((LABELS.astype(str), LABELS)).batch(8)),
    "a PyDataset": lambda _: source(Numbers(), seed=3),
    "a PyDataset in its order": lambda _: source(Numbers(), shuffle=False),
    "a PyDataset with workers": lambda _: source(Numbers(workers=2), seed=3),
    "a generator": lambda _: source(generator()),
}
SPARSE = {
    "sparse arrays": lambda _: source(scipy.sparse.csr_matrix(NUMBERS), LABELS, batch_size=8),
    "sparse tensors": lambda _: source(tf.sparse.from_dense(NUMBERS), LABELS, batch_size=8, shuffle=False),
    "padded batches": lambda _: source(
        tf.data.Dataset.from_tensor_slices((ragged(LABELS), LABELS))
        .map(lambda x, y: (x, y))
        .ragged_batch(8)
        .map(lambda x, y: (x.to_tensor(), y))
    ),
}
every_kind = pytest.mark.parametrize("make", (EVERY | SPARSE).values(), ids=(EVERY | SPARSE).keys())
steerable_kind = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())


def steps_of(piece):
    """The labels of each step of a piece: examples are told apart by them."""
    labels = piece.data[1].numpy()
    order = np.arange(len(labels)) if piece.order is None else piece.order.numpy()
    starts = [piece.cursor + i * piece.batch_size for i in range(piece.count)]
    return [labels[order[start : start + piece.batch_size]].tolist() for start in starts]


def walk(data, plan=((1000, None),)):
    """The labels of each step of what is left of a pass; (steps, batch size) are taken in turn."""
    taken = []
    i = 0
    while not data.finished:
        steps, batch_size = plan[i % len(plan)]
        piece = data.piece(batch_size or data.batch_size, steps)
        assert 1 <= piece.count <= steps
        taken += steps_of(piece)
        data.advance(piece.count, piece.batch_size)
        i += 1
    return taken


# ---------------------------------------------------------------------------- the contract


@every_kind
def test_a_pass_visits_every_example_once_and_then_the_size_is_known(make, tmp_path):
    data = make(tmp_path)
    for number in range(1 if isinstance(data, Stream) and not data._feed.reopens else 3):
        assert data.place == (number, 0)
        seen = np.concatenate(walk(data))
        np.testing.assert_array_equal(np.sort(seen), np.arange(len(seen)))
        assert data.place == (number, len(seen)) == (number, data.size)
        assert data.steps_left(data.batch_size) == 0
        data.next_pass()


@every_kind
def test_the_spec_describes_what_a_step_is_handed(make, tmp_path):
    data = make(tmp_path)
    piece = data.piece(data.batch_size, 1)
    symbols = symbolic(data.spec)
    keras.tree.assert_same_structure(symbols, piece.data)
    specs = data.signature[0]
    for symbol, spec, part in zip(*map(keras.tree.flatten, (symbols, specs, piece.data)), strict=True):
        assert symbol.dtype == part.dtype.name
        assert symbol.sparse == isinstance(part, tf.SparseTensor)
        assert symbol.ragged == isinstance(part, tf.RaggedTensor)
        assert spec.is_compatible_with(part)
        for known, found in zip(symbol.shape[1:], part.shape[1:], strict=True):
            assert known in (None, found)
    order = data.signature[1]
    assert piece.order is None if order is None else order.is_compatible_with(piece.order)


@every_kind
def test_a_piece_does_not_move_and_steps_may_stop_short(make, tmp_path):
    data, whole = make(tmp_path), make(tmp_path)
    expected = walk(whole)
    taken = []
    while not data.finished:
        first, again = data.piece(data.batch_size, 3), data.piece(data.batch_size, 3)
        assert steps_of(first) == steps_of(again)
        taken += steps_of(again)[:1]
        data.advance(1, data.batch_size)
    assert taken == expected


@every_kind
def test_going_back_gives_the_same_again(make, tmp_path):
    data = make(tmp_path)
    if isinstance(data, Stream) and not data._feed.reopens:
        pytest.skip("a generator cannot go back")
    walk(data)
    data.next_pass()
    data.advance(2, data.piece(data.batch_size, 2).batch_size)
    place = data.place
    rest = walk(data)
    data.next_pass()
    third = walk(data)
    for _ in range(2):
        data.restore(*place)
        assert data.place == place
        assert walk(data) == rest
    data.next_pass()
    assert walk(data) == third
    data.restore(1, data.size)
    assert data.finished


@every_kind
def test_steps_left_are_the_steps_that_are_taken(make, tmp_path):
    data = make(tmp_path)
    if data.rewindable:
        walk(data)
        data.next_pass()
    if (left := data.steps_left(data.batch_size)) is not None:
        assert left == len(walk(data))


@every_kind
def test_what_is_off_is_said(make, tmp_path):
    data = make(tmp_path)
    assert bool(data.remark) == (not data.steerable or not data.rewindable)
    assert data.steerable == (make in EVERY.values())
    if not data.steerable:
        with pytest.raises(ValueError, match="`batch_size` must stay 8. Received: 5."):
            data.piece(5, 1)


@every_kind
def test_equal_data_have_equal_fingerprints(make, tmp_path):
    assert make(tmp_path).fingerprint() == make(tmp_path).fingerprint() != source(NUMBERS + 1).fingerprint()


plans = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([3, 7, 8, 8, 8, 13, 64])), min_size=1, max_size=6)


@steerable_kind
@settings(max_examples=3)
@given(plan=plans, bytes_=st.sampled_from([100, 500, 10**6]))
def test_whatever_the_batch_sizes_every_example_comes_once_and_in_order(make, plan, bytes_, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "FETCH_BYTES", bytes_)
        patch.setattr(HostArrays, "_bytes", bytes_)
        data, straight = make(tmp_path_factory.mktemp("data")), make(tmp_path_factory.mktemp("data"))
    expected = np.concatenate(walk(straight))
    np.testing.assert_array_equal(np.concatenate(walk(data, plan)), expected)


@settings(max_examples=4)
@given(plan=plans, after=st.integers(0, 8), on=plans)
@pytest.mark.parametrize("kind", ["arrays", "memory-mapped", "a dataset", "a PyDataset"])
def test_a_place_says_everything(kind, plan, after, on, tmp_path_factory):
    data, other = (EVERY[kind](tmp_path_factory.mktemp("data")) for _ in range(2))
    for steps, batch_size in plan[:after]:
        if not data.finished:
            piece = data.piece(batch_size, steps)
            data.advance(piece.count, batch_size)
    other.restore(*data.place)
    assert other.place == data.place
    assert walk(other, on) == walk(data, on)


# ------------------------------------------------------------------- the batches of a step


def test_unchanged_a_stream_s_batches_come_as_they_are():
    assert [len(step) for step in walk(source(uneven()))] == [8, 3, 8, 1, 14, 16]
    assert [len(step) for step in walk(source(uneven()), [(2, 8)])] == [8, 3, 8, 1, 14, 16]


def test_at_another_size_batches_are_cut_anew_and_the_last_is_smaller():
    assert [len(step) for step in walk(source(uneven()), [(3, 20)])] == [20, 20, 10]


def test_back_at_its_own_size_a_stream_is_sliced_until_it_meets_a_boundary():
    data = source(uneven())
    sizes = []
    for batch_size in (8, 1, 8, 2, 8, 8, 8, 8, 8, 8):
        if data.finished:
            break
        piece = data.piece(batch_size, 1)
        sizes.append(len(steps_of(piece)[0]))
        data.advance(1, batch_size)
    assert sizes == [8, 1, 8, 2, 1, 14, 16]  # 8 | 1, 8 and 2 end where a batch of the user's does


def test_the_size_is_declared_only_where_the_user_s_pipeline_declares_it():
    assert source(dataset(remainder=False)).piece(8, 2).fixed == 8
    assert source(dataset(remainder=False)).piece(4, 2).fixed is None
    assert source(dataset()).piece(8, 2).fixed is None
    even = source(NUMBERS[:48], LABELS[:48], batch_size=8)
    assert even.piece(8, 2).fixed == 8
    even.advance(1, 4)
    assert even.piece(8, 2).fixed is None
    assert source(NUMBERS, LABELS, batch_size=8).piece(8, 2).fixed is None
    assert source(NUMBERS[:5], LABELS[:5], batch_size=8).piece(8, 2).fixed is None


@pytest.mark.parametrize("endless", [lambda: dataset().repeat(), lambda: Endless(), lambda: Endless(workers=2)])
def test_an_endless_stream_has_no_size_and_never_finishes(endless):
    data = source(endless())
    for _ in range(30):
        data.advance(data.piece(8, 4).count, 8)
    assert data.size is data.steps_left(8) is None
    assert not data.finished
    place = data.place
    here = steps_of(data.piece(8, 1))
    data.restore(0, 0)
    assert steps_of(data.piece(8, 1)) == [list(range(8))]
    data.restore(*place)
    assert steps_of(data.piece(8, 1)) == here


def test_by_default_arrays_have_keras_s_batch_size():
    assert source(NUMBERS).batch_size == 32
    assert source(NUMBERS, steps_per_epoch=7).batch_size == 8
    assert source(NUMBERS, batch_size=3, steps_per_epoch=7).batch_size == 3


# -------------------------------------------------------------------------- Model.fit's bits


def network(inputs=3):
    keras.utils.set_random_seed(4)
    layers = [keras.Input((inputs,)), keras.layers.Rescaling(1 / N), keras.layers.Dense(16, "relu")]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.2), keras.layers.Dense(N)])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def train(model, data, epochs=3, steps=4):
    """Trains as a loop does that stands between a source and a block."""
    model._symbolic_build(data_batch=symbolic(data.spec))
    model.optimizer.build(model.trainable_variables)
    blocks = {}
    for _ in range(epochs):
        model.reset_metrics()
        while not data.finished:
            piece = data.piece(data.batch_size, steps)
            if piece.fixed not in blocks:
                blocks[piece.fixed] = training_block(model, nullcontext, piece.fixed)
                blocks[piece.fixed].trace(*data.signature)
            blocks[piece.fixed](piece.data, piece.order, piece.cursor, piece.batch_size, piece.count)
            data.advance(piece.count, piece.batch_size)
        data.next_pass()


def assert_same(ours, theirs):
    assert len(ours.variables) > 1
    for one, other in zip(
        ours.variables + ours.optimizer.variables, theirs.variables + theirs.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def shuffled(remainder):
    data = tf.data.Dataset.from_tensor_slices((NUMBERS, LABELS))
    return data.shuffle(20, seed=5).batch(8, drop_remainder=not remainder).prefetch(2)


class Reshuffling(Numbers):
    """Draws a new order of its own behind every epoch."""

    def __init__(self):
        super().__init__()
        self.rng, self.order, self.heard = np.random.default_rng(1), np.arange(N), []

    def on_epoch_begin(self):
        self.heard.append("begin")

    def on_epoch_end(self):
        self.heard.append("end")
        self.order = self.rng.permutation(N)

    def __getitem__(self, i):
        rows = self.order[8 * i : 8 * i + 8]
        return NUMBERS[rows], LABELS[rows]


WEIGHTS = {number: 1 + number % 3 for number in range(N)}
FITS = {
    "arrays": lambda: {"x": NUMBERS, "y": LABELS, "batch_size": 8},
    "arrays that divide": lambda: {"x": NUMBERS[:48], "y": LABELS[:48], "batch_size": 8},
    "fewer than a batch": lambda: {"x": NUMBERS[:5], "y": LABELS[:5]},
    "class weights": lambda: {"x": NUMBERS, "y": LABELS, "class_weight": WEIGHTS},
    "float64": lambda: {"x": NUMBERS.astype("float64") / 3, "y": LABELS.astype("float64"), "batch_size": 8},
    "whole numbers": lambda: {"x": NUMBERS.astype("int32"), "y": LABELS.astype("int16"), "batch_size": 8},
    "bytes": lambda: {"x": NUMBERS.astype("uint8"), "y": LABELS.astype("uint8"), "batch_size": 8},
    "booleans": lambda: {"x": NUMBERS > 7, "y": LABELS, "batch_size": 8},
    "a data frame of mixed types": lambda: {
        "x": pandas.DataFrame({"a": LABELS, "b": NUMBERS[:, 0], "c": LABELS > 3}).astype({"c": int}),
        "y": pandas.Series(LABELS),
        "batch_size": 8,
    },
    "ragged per-example weights": lambda: {"x": NUMBERS, "y": LABELS, "sample_weight": LABELS / 7, "batch_size": 8},
    "a dataset": lambda: {"x": shuffled(True)},
    "a dataset of one size": lambda: {"x": shuffled(False)},
    "a dataset with class weights": lambda: {"x": dataset(), "class_weight": WEIGHTS},
    # Of unknown length, `Model.fit` begins a step behind the last batch: it counts in `iterations` and in seeds.
    "uneven batches": lambda: {"x": uneven().apply(tf.data.experimental.assert_cardinality(6))},
    "a PyDataset": lambda: {"x": Numbers()},
    "a PyDataset with class weights": lambda: {"x": Numbers(), "class_weight": WEIGHTS},
    "a PyDataset with workers": lambda: {"x": Numbers(workers=2)},
    "a PyDataset that changes": lambda: {"x": Reshuffling()},
}


@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:.*ran out of data")
@pytest.mark.parametrize("how", FITS.values(), ids=FITS.keys())
def test_the_steps_are_model_fits_bit_for_bit(how):
    ours, theirs = network(), network()
    keras.utils.set_random_seed(8)
    train(ours, source(**how(), shuffle=False), epochs=2)
    keras.utils.set_random_seed(8)
    theirs.fit(**how(), shuffle=False, epochs=2, verbose=0)
    assert_same(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:.*ran out of data")
def test_a_generator_trains_as_model_fit_does():
    ours, theirs = network(), network()
    train(ours, source(generator()), epochs=1)
    theirs.fit(generator(), steps_per_epoch=7, verbose=0)
    assert_same(ours, theirs)


def test_strings_are_looked_up_as_in_model_fit():
    words = np.array([f"word {number}" for number in LABELS])

    def model():
        keras.utils.set_random_seed(4)
        lookup = keras.layers.StringLookup(vocabulary=words, output_mode="multi_hot")
        model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Dense(N)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    ours, theirs = model(), model()
    x = tf.constant(words[:, None])
    train(ours, source(x, LABELS, batch_size=8, shuffle=False))
    theirs.fit(x, LABELS, batch_size=8, shuffle=False, epochs=3, verbose=0)
    assert_same(ours, theirs)


def test_a_dict_of_inputs_from_a_dataset_is_model_fits():
    def model():
        keras.utils.set_random_seed(4)
        one, two = keras.Input((3,), name="one"), keras.Input((1,), name="two")
        outputs = keras.layers.Dense(N)(keras.layers.Concatenate()([one, two]))
        model = keras.Model({"one": one, "two": two}, outputs)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    parts = ({"two": NUMBERS[:, :1], "one": NUMBERS / N}, LABELS, LABELS / N)
    data = tf.data.Dataset.from_tensor_slices(parts).batch(8)
    ours, theirs = model(), model()
    train(ours, source(data))
    theirs.fit(data, epochs=3, verbose=0)
    assert_same(ours, theirs)


def test_a_pydataset_hears_of_its_epochs_as_from_model_fit():
    ours, theirs = Reshuffling(), Reshuffling()
    train(network(), source(ours))
    network().fit(theirs, epochs=3, verbose=0)
    assert ours.heard == theirs.heard


@pytest.mark.filterwarnings("ignore:Rewinding is not exact", "ignore:.*ran out")
def test_a_pydataset_hears_of_epochs_of_some_steps_as_from_model_fit(tmp_path):
    ours, theirs = Reshuffling(), Reshuffling()
    how = {"steps_per_epoch": 3, "epochs": 5, "shuffle": False}
    babysit.Panda(network(), tmp_path / "run").fit(ours, **how).wait(60)
    network().fit(theirs, **how, verbose=0)
    assert ours.heard == theirs.heard


@pytest.mark.parametrize("seed", range(8))
def test_the_batch_size_of_a_shuffled_pydataset_is_not_that_of_its_short_last_batch(seed):
    data = source(Numbers(), seed=seed)
    assert data.batch_size == 8
    assert sorted(number for batch in walk(data) for number in batch) == list(range(N))


def test_arrays_on_the_host_train_as_arrays_on_the_device(monkeypatch):
    monkeypatch.setattr("babysit.engine.data.source.DEVICE_SHARE", 0)
    x, y = NUMBERS.astype("float64") / 7, LABELS
    ours, theirs = network(), network()
    train(ours, source(x, y, batch_size=8, seed=2))
    monkeypatch.undo()
    device = source(x, y, batch_size=8, seed=2)
    train(theirs, device)
    assert type(device) is Arrays
    assert_same(ours, theirs)


# ---------------------------------------------------------------------------- memory and threads


def test_what_lies_on_disk_is_never_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(HostArrays, "_bytes", 10 * NUMBERS[0].nbytes)
    array = OnDisk(NUMBERS)
    data = source(array, batch_size=2)
    array.asked.clear()
    piece = data.piece(2, 100)
    while not data.finished:
        data.advance(1, 2)
        piece = piece if data.finished else data.piece(2, 100)
    assert sum(array.asked) == N
    assert max(array.asked) <= 10


def test_what_is_fetched_at_once_is_bounded(monkeypatch):
    batch_bytes = 8 * (NUMBERS[0].nbytes + LABELS[0].nbytes)
    monkeypatch.setattr(streams, "FETCH_BYTES", 2 * batch_bytes)
    data = source(dataset())
    while not data.finished:
        piece = data.piece(8, 100)
        assert len(piece.data[0]) <= 16
        data.advance(piece.count, 8)


def test_what_runs_the_users_python_is_not_made_ready_before_it_is_asked_for():
    made = []

    def batches():
        for i in range(60):
            made.append(i)
            yield Numbers()[i % 6]

    spec = (tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int64))
    data = source(tf.data.Dataset.from_generator(batches, output_signature=spec))
    walk(data)
    data.next_pass()
    made.clear()
    data.piece(8, 2)
    time.sleep(0.1)
    assert len(made) < 20  # TensorFlow itself makes a few


def test_iterators_and_threads_do_not_pile_up():
    data = source(Numbers(workers=2))
    passes = []
    for _ in range(10):
        walk(data)
        data.next_pass()
        gc.collect()
        passes.append(threading.active_count())
    assert max(passes[5:]) <= max(passes[:5])
    assert sum(isinstance(thing, type(data._iterator)) for thing in gc.get_objects()) < 5


@pytest.mark.parametrize("asked_for", [None, False, True])
def test_tensorflow_tunes_a_stream_only_where_that_was_asked_for(asked_for):
    """The end of an iterator that is tuned may hold up all of Python for a minute."""
    options = tf.data.Options()
    if asked_for is not None:
        options.autotune.enabled = asked_for
    given = dataset().map(lambda *batch: batch, num_parallel_calls=tf.data.AUTOTUNE).with_options(options)
    opened = feeds.feed(given, None, False, 0)._dataset
    assert opened.options().autotune.enabled is bool(asked_for)
    assert opened.element_spec == given.element_spec


def test_the_order_of_a_pydataset_follows_from_seed_and_pass_alone():
    random.seed(1)
    one = walk(source(Numbers(), seed=3))
    random.seed(2)
    assert walk(source(Numbers(), seed=3)) == one != walk(source(Numbers(), seed=4))
    assert sorted(map(tuple, one)) == sorted(map(tuple, walk(source(Numbers(), shuffle=False))))


# ------------------------------------------------------------------------------- what is refused


def test_a_generator_cannot_be_rewound():
    data = source(generator())
    data.advance(1, data.piece(8, 1).batch_size)
    data.restore(0, 8)
    assert steps_of(data.piece(8, 1)) == [list(range(8, 16))]
    assert not data.rewindable
    assert "generator" in data.remark
    with pytest.raises(ValueError, match="what a generator has yielded is gone.*example 0 of pass 1"):
        data.restore(0, 0)


def test_a_place_beyond_the_data_is_refused():
    for data in (source(dataset()), source(NUMBERS)):
        with pytest.raises(ValueError, match="no place behind 51 examples"):
            data.restore(0, N + 1)


@pytest.mark.parametrize("x", [dataset, Numbers, generator], ids=["dataset", "PyDataset", "generator"])
@pytest.mark.parametrize("done", [0, 12, 24, N])
def test_a_place_that_is_refused_leaves_the_stream_where_it_is(x, done):
    data, twin = source(x()), source(x())
    for one in (data, twin):
        while one.place[1] < done:
            size = 8 if done % 8 == 0 or one.place[1] < 8 else 4
            one.piece(size, 1)
            one.advance(1, size)
    with pytest.raises(ValueError, match="no place behind 51|what a generator has yielded is gone"):
        data.restore(0, N + 1)
    assert (data.place, data.size, data.steps_left(8)) == (twin.place, twin.size, twin.steps_left(8))
    assert walk(data) == walk(twin)


def test_a_pass_that_was_not_begun_is_still_to_begin_behind_a_refusal():
    numbers = Reshuffling()
    data = source(numbers)
    walk(data)
    data.next_pass()
    with pytest.raises(ValueError, match="no place behind 51"):
        data.restore(0, N + 1)
    assert numbers.heard == ["end", "begin", "end"]
    data.piece(8, 1)
    assert numbers.heard == ["end", "begin", "end", "begin"]


@pytest.mark.parametrize("x", [dataset(), Numbers(), generator()], ids=["dataset", "PyDataset", "generator"])
def test_targets_beside_a_stream_are_refused(x):
    with pytest.raises(ValueError, match="`y` must be left out"):
        source(x, LABELS)
    with pytest.raises(ValueError, match="`sample_weight` must be left out"):
        source(x, sample_weight=LABELS)


def test_a_generator_takes_no_class_weights():
    with pytest.raises(ValueError, match="class_weight"):
        source(generator(), class_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (tf.data.Dataset.from_tensor_slices((NUMBERS, LABELS)), r"`.batch\(size\)`"),
        (dataset().take(0), "at least one batch"),
        (tf.data.Dataset.from_tensors((NUMBERS, LABELS[:3])), "same number of examples"),
    ],
    ids=["not batched", "empty", "different lengths"],
)
def test_a_stream_without_batches_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        source(x)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: dataset().shuffle(5), "shuffled anew"),
        (lambda: dataset().map(lambda x, y: (x + tf.random.normal([]), y)), "RandomStandardNormal"),
        (lambda: uneven(), "PyFunc"),
        (lambda: Reshuffling(), "changes with each epoch"),
        (lambda: dataset().shuffle(5, reshuffle_each_iteration=False), ""),
        (lambda: dataset().map(lambda x, y: (x + 1, y), num_parallel_calls=2).cache(), ""),
        (lambda: dataset().map(lambda *row: row, num_parallel_calls=2, deterministic=False), "`deterministic=False`"),
    ],
    ids=["shuffle", "random", "from_generator", "PyDataset", "shuffled once", "mapped", "mapped in any order"],
)
def test_a_stream_that_cannot_come_again_says_why(make, word):
    data = source(make())
    assert data.rewindable == (not word)
    assert word in data.remark


def test_what_was_shuffled_once_comes_again():
    data = source(dataset().shuffle(5, reshuffle_each_iteration=False))
    once = walk(data)
    data.restore(0, 0)
    assert walk(data) == once
