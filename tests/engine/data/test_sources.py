"""Every kind of data: one contract, and the steps of `Model.fit` bit for bit."""

import gc
import random
import threading

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit.core.position import Position
from babysit.engine.data import host
from babysit.engine.data import stream as streams
from babysit.engine.data.adapters import batch_adapter
from babysit.engine.data.arrays import Arrays
from babysit.engine.data.host import HostArrays
from babysit.engine.data.source import source
from babysit.engine.data.window import symbolic
from tests.engine.data.passes import begin_pass, fit_of, steps, steps_of, train, walk
from tests.patience import until

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


def windows():
    """Batches of a shape that TensorFlow does not know."""
    return keras.utils.timeseries_dataset_from_array(NUMBERS, LABELS, sequence_length=3, batch_size=8)


def memory_mapped(tmp_path):
    x = np.memmap(tmp_path / "x", "float32", "w+", shape=NUMBERS.shape)
    x[:] = NUMBERS
    return source(x, LABELS, batch_size=8)


EVERY = {
    "arrays": lambda _: source(NUMBERS, LABELS, batch_size=8),
    "arrays in their order": lambda _: source(NUMBERS, LABELS, batch_size=8, shuffle=False),
    "arrays shuffled by batch": lambda _: source(NUMBERS, LABELS, batch_size=8, shuffle="batch"),
    "memory-mapped": memory_mapped,
    "a dataset": lambda _: source(dataset()),
    "a dataset of one size": lambda _: source(dataset(remainder=False)),
    "a dataset of uneven batches": lambda _: source(uneven()),
    "a dataset of strings": lambda _: source(tf.data.Dataset.from_tensor_slices((LABELS.astype(str), LABELS)).batch(8)),
    "a PyDataset": lambda _: source(Numbers(), seed=3),
    "a PyDataset in its order": lambda _: source(Numbers(), shuffle=False),
    "a PyDataset with workers": lambda _: source(Numbers(workers=2), seed=3),
    "a generator": lambda _: source(generator()),
}
STEADY = {
    "windows of unknown shape": lambda _: source(windows()),
    "sparse arrays": lambda _: source(scipy.sparse.csr_matrix(NUMBERS[:18]), LABELS[:18], batch_size=8),
    "sparse tensors": lambda _: source(tf.sparse.from_dense(NUMBERS[:18]), LABELS[:18], batch_size=8, shuffle=False),
    "ragged arrays": lambda _: source(ragged(LABELS[:18]), LABELS[:18], batch_size=8),
    "ragged batches": lambda _: source(tf.data.Dataset.from_tensor_slices((ragged(LABELS), LABELS)).batch(8)),
}
every_kind = pytest.mark.parametrize("make", (EVERY | STEADY).values(), ids=(EVERY | STEADY).keys())
CUT = ["arrays", "memory-mapped", "a dataset of uneven batches", "a PyDataset with workers", "a generator"]
cut_kind = pytest.mark.parametrize("make", [EVERY[kind] for kind in CUT], ids=CUT)


# ---------------------------------------------------------------------------- the contract


@every_kind
def test_a_pass_visits_every_example_once_as_described_and_can_be_gone_through_again(make, tmp_path):
    data, again = make(tmp_path), make(tmp_path)
    assert data.fingerprint == again.fingerprint != source(NUMBERS + 1).fingerprint
    assert_described(data, again.window(Position(), data.batch_size, 1, fit_of(data)))
    assert bool(data.limitation) or (data.steerable and data.repeatable)
    passes = []
    for number in range(3 if data.repeatable else 1):
        left = data.steps_left(begin_pass(number), data.batch_size)
        taken, end = walk(data, begin_pass(number))
        assert left in (None, len(taken)) or number  # of uneven batches it is an estimate, once the size is known
        np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.arange(end.example))
        assert end.example == data.size
        assert data.is_over(end)
        passes.append(taken)
    assert stopping_short(again) == passes[0]
    if data.repeatable:
        place = begin_pass(1).advanced(2, sum(map(len, passes[1][:2])))
        for _ in range(2):
            assert steps(data, place) == passes[1][2:]
        assert steps(data, begin_pass(2)) == passes[2]
        assert steps(make(tmp_path), place) == passes[1][2:]  # by skipping, where nothing was begun


def assert_described(data, window):
    """The spec describes what a step is handed."""
    symbols = symbolic(data.spec)
    keras.tree.assert_same_structure(symbols, window.data)
    for symbol, spec, part in zip(*map(keras.tree.flatten, (symbols, data.signature[0], window.data)), strict=True):
        assert symbol.dtype == part.dtype.name
        assert symbol.sparse == isinstance(part, tf.SparseTensor)
        assert symbol.ragged == isinstance(part, tf.RaggedTensor)
        assert spec.is_compatible_with(part)
        for known, found in zip(symbol.shape[1:], part.shape[1:], strict=True):
            assert known in (None, found)
    order = data.signature[1]
    assert window.order is None if order is None else order.is_compatible_with(window.order)


def stopping_short(data):
    """The steps of a pass, of which three are asked for at a time, twice, and one is taken."""
    taken, position, fit = [], Position(), fit_of(data)
    while not data.is_over(position):
        first, again = (data.window(position, data.batch_size, 3, fit) for _ in range(2))
        assert steps_of(first) == steps_of(again)
        taken += steps_of(again)[:1]
        position = position.advanced(1, len(taken[-1]))
    return taken


def test_what_cannot_be_cut_keeps_its_batches():
    data = source(windows())
    assert not data.steerable and "`tf.ensure_shape`" in data.limitation
    with pytest.raises(ValueError, match="`batch_size` must stay 8. Received: 5."):
        data.window(Position(), 5, 1, fit_of(data))
    named = source(windows().map(lambda x, y: (tf.ensure_shape(x, (None, 3, 3)), y)))
    assert named.limitation == ""
    assert [len(step) for step in steps(named, plan=[(3, 20)])] == [20, 20, 8]


plans = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([3, 7, 8, 8, 8, 13, 64])), min_size=1, max_size=6)


@cut_kind
@settings(max_examples=3)
@given(plan=plans, bytes_=st.sampled_from([100, 500, 10**6]))
def test_whatever_the_batch_sizes_every_example_comes_once_and_in_order(make, plan, bytes_, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "FETCH_BYTES", bytes_)
        patch.setattr(HostArrays, "_bytes", bytes_)
        data, straight = make(tmp_path_factory.mktemp("data")), make(tmp_path_factory.mktemp("data"))
        expected = np.concatenate(steps(straight))
        np.testing.assert_array_equal(np.concatenate(steps(data, plan=plan)), expected)


@settings(max_examples=4)
@given(plan=plans, after=st.integers(0, 8), on=plans)
@pytest.mark.parametrize("kind", ["arrays", "memory-mapped", "a dataset", "a PyDataset"])
def test_a_position_says_everything(kind, plan, after, on, tmp_path_factory):
    data, other = (EVERY[kind](tmp_path_factory.mktemp("data")) for _ in range(2))
    position = Position()
    for number, batch_size in plan[:after]:
        if not data.is_over(position):
            window = data.window(position, batch_size, number, fit_of(data))
            position = position.advanced(window.count, window.examples)
    assert steps(other, position, on) == steps(data, position, on)


# ------------------------------------------------------------------- the batches of a step


def test_unchanged_a_stream_s_batches_come_as_they_are():
    assert [len(step) for step in steps(source(uneven()))] == [8, 3, 8, 1, 14, 16]
    assert [len(step) for step in steps(source(uneven()), plan=[(2, 8)])] == [8, 3, 8, 1, 14, 16]


def test_at_another_size_batches_are_cut_anew_and_the_last_is_smaller():
    assert [len(step) for step in steps(source(uneven()), plan=[(3, 20)])] == [20, 20, 10]


def test_back_at_its_own_size_a_stream_is_sliced_until_it_meets_a_boundary():
    plan = [(1, batch_size) for batch_size in (8, 1, 8, 2, 8, 8, 8, 8, 8, 8)]
    # 8 | 1, 8 and 2 end where a batch of the user's does
    assert [len(step) for step in steps(source(uneven()), plan=plan)] == [8, 1, 8, 2, 1, 14, 16]


def test_a_batch_without_examples_is_left_out():
    data = dataset().map(lambda x, y: (x[: tf.cast(y[0] % 16, tf.int32)], y[: tf.cast(y[0] % 16, tf.int32)]))
    assert [len(step) for step in steps(source(data))] == [8, 8, 8]
    assert len(steps(source(dataset().filter(lambda x, y: y[0] < 40)))) == 5


def test_the_size_is_static_only_where_the_users_pipeline_makes_it_known():
    def static(data, batch_size, position=None):
        return data.window(position or Position(), batch_size, 2, fit_of(data)).static_size

    assert static(source(dataset(remainder=False)), 8) == 8
    assert static(source(dataset(remainder=False)), 4) is None
    assert static(source(dataset()), 8) is None
    even = source(NUMBERS[:48], LABELS[:48], batch_size=8)
    assert static(even, 8) == 8
    assert static(even, 4) is None
    assert static(even, 8, Position(1, example=4)) is None
    assert static(even, 8, Position(1, example=16)) == 8
    assert static(source(NUMBERS, LABELS, batch_size=8), 8) is None
    assert static(source(NUMBERS[:5], LABELS[:5], batch_size=8), 5) is None
    assert source(NUMBERS[:5], LABELS[:5], batch_size=8).batch_size == 5


@pytest.mark.parametrize("endless", [lambda: dataset().repeat(), lambda: Endless(workers=2)])
def test_an_endless_stream_has_no_size_and_never_ends(endless):
    data, position = source(endless()), Position()
    fit = fit_of(data)
    for _ in range(30):
        window = data.window(position, 8, 4, fit)
        position = position.advanced(window.count, window.examples)
    assert data.size is data.steps_left(position, 8) is None
    assert not data.is_over(position)
    here = steps_of(data.window(position, 8, 1, fit))
    assert steps_of(data.window(Position(), 8, 1, fit)) == [list(range(8))]
    assert steps_of(data.window(position, 8, 1, fit)) == here


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


@pytest.fixture(scope="module")
def two_networks():
    """Two of them, and what their variables hold at the beginning; theirs is compiled once, by `Model.fit`."""
    both = network(), network()
    for model in both:
        model.optimizer.build(model.trainable_variables)
    return *both, [[v.numpy() for v in model.variables + model.optimizer.variables] for model in both]


@pytest.fixture
def networks(two_networks):
    """Two equal networks that were never trained, as far as anybody can tell."""
    *both, values = two_networks
    for model, value in zip(both, values, strict=True):
        for variable, array in zip(model.variables + model.optimizer.variables, value, strict=True):
            variable.assign(array)
    keras.utils.set_random_seed(8)
    return both


def assert_same(ours, theirs):
    assert len(ours.variables) > 1
    for one, other in zip(
        ours.variables + ours.optimizer.variables, theirs.variables + theirs.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def shuffled(remainder):
    data = tf.data.Dataset.from_tensor_slices((NUMBERS, LABELS))
    return data.shuffle(20, seed=5, reshuffle_each_iteration=False).batch(8, drop_remainder=not remainder).prefetch(2)


class Hearing(Numbers):
    """Writes down what it hears of its epochs."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def on_epoch_begin(self):
        self.heard.append("begin")

    def on_epoch_end(self):
        self.heard.append("end")


class Reshuffling(Hearing):
    """Draws a new order of its own after every epoch."""

    def __init__(self):
        super().__init__()
        self.rng, self.order = np.random.default_rng(1), np.arange(N)

    def on_epoch_end(self):
        super().on_epoch_end()
        self.order = self.rng.permutation(N)

    def __getitem__(self, i):
        rows = self.order[8 * i : 8 * i + 8]
        return NUMBERS[rows], LABELS[rows]


WEIGHTS = {number: 1 + number % 3 for number in range(N)}
FITS = {
    "a data frame of mixed types": lambda: {
        "x": pandas.DataFrame({"a": LABELS, "b": NUMBERS[:, 0], "c": LABELS > 3}).astype({"c": int}),
        "y": pandas.Series(LABELS),
        "batch_size": 8,
    },
    "a dataset": lambda: {"x": shuffled(True)},
    # Of unknown length, `Model.fit` begins a step after the last batch: it counts in `iterations` and in seeds.
    "uneven batches": lambda: {"x": uneven().apply(tf.data.experimental.assert_cardinality(6))},
}


@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:.*ran out of data")
@pytest.mark.parametrize("how", FITS.values(), ids=FITS.keys())
def test_the_steps_are_model_fits_bit_for_bit(how, networks):
    ours, theirs = networks
    train(ours, source(**how(), shuffle=False), epochs=2)
    keras.utils.set_random_seed(8)
    theirs.fit(**how(), shuffle=False, epochs=2, verbose=0)
    assert_same(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_a_pydataset_that_changes_trains_and_hears_of_its_epochs_as_in_model_fit():
    ours, theirs, data = network(), network(), [Reshuffling(), Reshuffling()]
    train(ours, source(data[0], class_weight=WEIGHTS, shuffle=False), epochs=3)
    theirs.fit(data[1], class_weight=WEIGHTS, shuffle=False, epochs=3, verbose=0)
    assert_same(ours, theirs)
    assert data[0].heard == data[1].heard


@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:.*ran out of data")
def test_a_generator_trains_as_model_fit_does(networks):
    ours, theirs = networks
    train(ours, source(generator()), epochs=1)
    theirs.fit(generator(), steps_per_epoch=7, verbose=0)
    assert_same(ours, theirs)


def test_strings_are_looked_up_as_in_model_fit():
    words = np.array([f"word {number}" for number in LABELS])

    def model():
        keras.utils.set_random_seed(4)
        lookup = keras.layers.StringLookup(vocabulary=words, output_mode="multi_hot")
        model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Dense(N)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
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
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    parts = ({"two": NUMBERS[:, :1], "one": NUMBERS / N}, LABELS, LABELS / N)
    data = tf.data.Dataset.from_tensor_slices(parts).batch(8)
    ours, theirs = model(), model()
    train(ours, source(data))
    theirs.fit(data, epochs=3, verbose=0)
    assert_same(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*ran out")
@pytest.mark.parametrize("make", [Hearing, dataset], ids=["PyDataset", "dataset"])
def test_epochs_of_some_steps_are_model_fits(make, networks):
    (ours, theirs), data = networks, (make(), make())
    train(ours, source(data[0], shuffle=False), epochs=5, steps_per_epoch=3)
    theirs.fit(data[1], steps_per_epoch=3, epochs=5, shuffle=False, verbose=0)
    assert_same(ours, theirs)
    assert getattr(data[0], "heard", None) == getattr(data[1], "heard", None)


class Growing(Numbers):
    """Has one batch more, or less, after every epoch."""

    def __init__(self, by, count=3, workers=1):
        super().__init__(workers=workers)
        self.by, self.count = by, count

    def __len__(self):
        return max(1, self.count)

    def on_epoch_end(self):
        self.count += self.by


class Counted(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.counts = []

    def on_epoch_begin(self, epoch, logs=None):
        self.counts.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.counts[-1] += 1


@pytest.mark.filterwarnings("ignore:.*ran out")
@pytest.mark.parametrize(("by", "workers"), [(1, 1), (-1, 2)])
def test_a_pydataset_of_changing_length_trains_as_many_steps_as_with_model_fit(by, workers, networks):
    counted, (ours, theirs) = Counted(), networks
    taken = train(ours, source(Growing(by, workers=workers), shuffle=False), epochs=3)
    theirs.fit(Growing(by, workers=workers), shuffle=False, epochs=3, verbose=0, callbacks=[counted])
    assert taken == counted.counts == ([3, 3, 3] if by > 0 else [2, 1, 1])
    # At the end of data that run short, `Model.fit` counts an iteration too many; what its workers have made and it
    # did not need comes at the start of its next epoch.
    if by > 0 and workers == 1:
        assert_same(ours, theirs)


def test_a_dataset_of_unknown_length_names_the_cure():
    assert "assert_cardinality(n)" in source(uneven()).limitation
    assert source(uneven(), steps_per_epoch=3).limitation == ""
    assert source(uneven().apply(tf.data.experimental.assert_cardinality(6))).limitation == ""
    assert source(dataset().repeat()).limitation == ""


# ---------------------------------------------------------------------------- outputs without targets


def two_outputs(loss):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs if isinstance(loss, dict) else list(outputs.values()))
    model.compile(keras.optimizers.SGD(1e-4), loss)
    return model


Z = LABELS[:, None].astype("float32")
LACKING = {
    "a tuple": ([None, "mse"], (NUMBERS, (None, Z))),
    "a dict": ({"a": "mse", "b": None}, (NUMBERS, {"a": Z, "b": None})),
    "weights of one output": (["mse", "mae"], (NUMBERS, [Z, Z], [LABELS / 7, None])),
    "weights for all": (["mse", None], (NUMBERS, [Z, None], LABELS / 7)),
}


# Each where one of the two kinds of arrays is concerned.
ON_HOST = {"a tuple": True, "a dict": False, "weights of one output": True, "weights for all": False}


@pytest.mark.parametrize(("lacking", "on_host"), ON_HOST.items())
def test_outputs_without_targets_or_weights_train_as_in_model_fit(lacking, on_host, monkeypatch):
    loss, parts = LACKING[lacking]
    if on_host:
        monkeypatch.setattr("babysit.engine.data.source.ON_DEVICE", 0)
    ours, theirs = two_outputs(loss), two_outputs(loss)
    train(ours, source(*parts, batch_size=8, shuffle=False))
    x, y, *weights = parts
    theirs.fit(x, y, 8, 3, 0, shuffle=False, sample_weight=weights[0] if weights else None)
    assert_same(ours, theirs)


def in_batches(parts):
    for rows in (slice(start, start + 8) for start in range(0, 48, 8)):
        yield keras.tree.map_structure(lambda part, rows=rows: None if part is None else part[rows], parts)


@pytest.mark.filterwarnings("ignore:.*ran out")
def test_outputs_without_targets_train_from_a_generator():
    loss, parts = LACKING["a dict"]
    ours, theirs = two_outputs(loss), two_outputs(loss)
    train(ours, source(in_batches(parts)), epochs=1)
    theirs.fit(in_batches(parts), steps_per_epoch=6, verbose=0)
    assert_same(ours, theirs)


def test_weights_that_leave_an_output_out_say_what_is_lacking():
    with pytest.raises(ValueError, match="one `sample_weight` array per output in `y`"):
        source(NUMBERS, {"a": Z, "b": Z}, {"a": Z})


def test_the_batch_size_of_a_shuffled_pydataset_is_not_that_of_its_short_last_batch():
    assert [source(Numbers(), seed=seed).batch_size for seed in range(9)] == [8] * 9


def test_arrays_on_the_host_train_as_arrays_on_the_device(monkeypatch, networks):
    monkeypatch.setattr("babysit.engine.data.source.ON_DEVICE", 0)
    x, y = NUMBERS.astype("float64") / 7, LABELS
    ours, theirs = networks
    train(ours, source(x, y, batch_size=8, seed=2))
    monkeypatch.undo()
    device = source(x, y, batch_size=8, seed=2)
    train(theirs, device)
    assert type(device) is Arrays
    assert_same(ours, theirs)


# ---------------------------------------------------------------------------- memory and threads


def test_what_lies_on_disk_is_never_read_as_a_whole(monkeypatch, tmp_path):
    asked, read = [], host._read
    monkeypatch.setattr(host, "_read", lambda array, rows: asked.append(len(rows)) or read(array, rows))
    monkeypatch.setattr(HostArrays, "_bytes", 10 * (NUMBERS[0].nbytes + LABELS[0].nbytes))
    data = memory_mapped(tmp_path)
    asked.clear()
    for example in range(0, N, 2):
        data.window(Position(example // 2, example=example), 2, 100, fit_of(data))
    assert sum(asked) == 2 * N  # x and y
    assert max(asked) <= 10


def test_what_is_fetched_at_once_is_bounded(monkeypatch):
    batch_bytes = 8 * (NUMBERS[0].nbytes + LABELS[0].nbytes)
    monkeypatch.setattr(streams, "FETCH_BYTES", 2 * batch_bytes)
    data, position = source(dataset()), Position()
    while not data.is_over(position):
        window = data.window(position, 8, 100, fit_of(data))
        assert len(window.data[0]) <= 16
        position = position.advanced(window.count, window.examples)


def test_iterators_and_threads_do_not_pile_up():
    data = source(Numbers(workers=2))
    steps(data, begin_pass(0))
    alive = threading.active_count()
    for number in range(1, 8):
        steps(data, begin_pass(number))
    until(lambda: gc.collect() >= 0 and threading.active_count() <= alive)


@pytest.mark.parametrize("asked_for", [None, False, True])
def test_tensorflow_tunes_a_stream_only_where_that_was_asked_for(asked_for):
    """The end of an iterator that is tuned may hold up all of Python for a minute."""
    options = tf.data.Options()
    if asked_for is not None:
        options.autotune.enabled = asked_for
    given = dataset().map(lambda *batch: batch, num_parallel_calls=tf.data.AUTOTUNE).with_options(options)
    opened = batch_adapter(given, False, 0).dataset
    assert opened.options().autotune.enabled is bool(asked_for)
    assert opened.element_spec == given.element_spec


def test_the_order_of_a_pydataset_follows_from_seed_and_pass_alone():
    random.seed(1)
    one = steps(source(Numbers(), seed=3))
    random.seed(2)
    assert steps(source(Numbers(), seed=3)) == one != steps(source(Numbers(), seed=4))
    assert sorted(map(tuple, one)) == sorted(map(tuple, steps(source(Numbers(), shuffle=False))))


# ------------------------------------------------------------------------------- what is refused


def test_a_generator_cannot_be_rewound():
    data = source(generator())
    fit = fit_of(data)
    data.window(Position(), 8, 1, fit)
    assert steps_of(data.window(Position(1, example=8), 8, 1, fit)) == [list(range(8, 16))]
    assert not data.repeatable
    assert "generator" in data.limitation
    with pytest.raises(ValueError, match="what a generator has yielded is gone.*example 0 of pass 0"):
        data.window(Position(), 8, 1, fit)
    assert steps(data, Position(1, example=8))[0] == list(range(8, 16))


def test_a_place_beyond_the_data_is_refused_and_the_data_can_be_used_on():
    for data in (source(dataset()), source(Numbers()), source(NUMBERS)):
        with pytest.raises(ValueError, match="stood after 51 examples"):
            data.window(Position(7, example=N + 1), 8, 1, fit_of(data))
        assert data.window(Position(), data.batch_size, 1, fit_of(data)).count == 1


def test_targets_and_weights_given_with_a_stream_are_refused_as_by_keras():
    for x in (dataset(), Numbers(), generator()):
        with pytest.raises(ValueError, match="`y` should not be passed"):
            source(x, LABELS)
    with pytest.raises(ValueError, match="class_weight"):
        source(generator(), class_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (tf.data.Dataset.from_tensor_slices((NUMBERS, LABELS)), r"`.batch\(size\)`"),
        (dataset().take(0), "at least one batch"),
    ],
    ids=["not batched", "empty"],
)
def test_a_stream_without_batches_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        source(x)
