import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.array_slicing import train_validation_split

from babysit.engine.data.source import source, split
from babysit.engine.data.window import symbolic

N = 7
X = np.arange(N * 3, dtype="float32").reshape(N, 3)
Y = np.arange(N)
W = np.linspace(0, 1, N, dtype="float32")

SOURCES = {
    "x alone": (X,),
    "x and y": (X, Y),
    "x, y and weights": (X, Y, W),
    "weights without targets": (X, None, W),
    "float64 comes to floatx": (X.astype("float64"), Y / 2),
    "float16 comes to floatx": (X.astype("float16"), Y),
    "whole numbers stay": (X.astype("uint8"), Y.astype("int32")),
    "booleans stay": (X > 3, Y > 3),
    "whole weights": (X, Y, np.arange(N)),
    "tensors": (tf.constant(X), tf.constant(Y)),
    "float64 tensors": (tf.constant(X, tf.float64), tf.constant(Y)),
    "a list of inputs": ([X, X[:, :2]], Y),
    "a list of inputs alone": ([X, X[:, :2]],),
    "a list of one input": ([X], Y),
    "a tuple of inputs": ((X, X[:, :2]), Y),
    "a dict of inputs": ({"one": X, "two": X[:, :2]}, Y),
    "a dict of inputs alone": ({"one": X, "two": X[:, :2]},),
    "a list of targets": (X, [Y, Y / 2]),
    "a dict of targets": (X, {"one": Y, "two": Y / 2}),
    "weights for each target": (X, {"one": Y, "two": Y / 2}, {"one": W, "two": 1 - W}),
    "one weight for all targets": (X, {"one": Y, "two": Y / 2}, W),
    "one weight for a list of targets": (X, [Y, Y / 2], W),
    "a data frame": (pandas.DataFrame(X, columns=list("abc")), Y),
    "a data frame of mixed types": (pandas.DataFrame({"a": X[:, 0].astype("float64"), "b": Y}), Y),
    "a series of targets": (X, pandas.Series(Y)),
    "a series of inputs": (pandas.Series(X[:, 0].astype("float64")), pandas.Series(Y)),
    "strings": (tf.constant([str(n) for n in Y]), Y),
    "strings as objects": (np.array([str(n) for n in Y], dtype=object), Y),
    "scalars as examples": (X[:, 0], Y),
    "images": (X.reshape(N, 1, 3, 1), Y.reshape(N, 1)),
    "not contiguous": (X[:, ::-1], Y[::-1]),
    "Fortran's order": (np.asfortranarray(X), Y),
}


def handed_by_keras(arguments, batch_size=N):
    """What a step of `Model.fit` receives as its first batch."""
    adapter = ArrayDataAdapter(*arguments, batch_size=batch_size)
    return next(iter(adapter.get_tf_dataset()))


def test_a_step_is_handed_what_keras_hands_it_and_the_spec_is_plain_data_of_that():
    for name, arguments in SOURCES.items():
        data, keras_s = source(*arguments), handed_by_keras(arguments)
        assert data.size == N, name
        keras.tree.assert_same_structure(data.tensors, keras_s)
        for one, other in zip(keras.tree.flatten(data.tensors), keras.tree.flatten(keras_s), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        assert plain(data.spec)
        symbols = symbolic(data.spec)
        keras.tree.assert_same_structure(symbols, data.tensors)
        for symbol, tensor in zip(keras.tree.flatten(symbols), keras.tree.flatten(data.tensors), strict=True):
            assert isinstance(symbol, keras.KerasTensor)
            assert (symbol.shape, symbol.dtype) == ((None, *tensor.shape[1:]), tensor.dtype.name), name


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int)


def test_an_input_called_shape_or_dtype_is_an_input():
    data = source({"shape": X, "dtype": X[:, :2]}, Y)
    keras.tree.assert_same_structure(symbolic(data.spec), data.tensors)


def test_a_change_of_the_user_s_array_does_not_reach_the_training():
    x = X.copy()
    data = source(x, Y)
    x[:] = -1
    np.testing.assert_array_equal(data.tensors[0].numpy(), X)


# ---------------------------------------------------------------------- the fingerprint


def test_equal_data_have_equal_fingerprints_and_every_difference_one_of_its_own():
    assert source(X, Y, W).fingerprint == source(X.copy(), Y.copy(), W.copy()).fingerprint
    assert source(X, Y).fingerprint == source(tf.constant(X), tf.constant(Y)).fingerprint
    assert len(source(X).fingerprint) == 64
    changed = X.copy()
    changed[3, 1] += 1
    parts = [
        (X,),
        (X, Y),
        (X, Y, W),
        (changed, Y),
        (X[::-1], Y),
        (X, Y[::-1]),
        (X, Y.astype("int32")),
        (X.reshape(N, 3, 1), Y),
        (X[:-1], Y[:-1]),
    ]
    assert len({source(*each).fingerprint for each in parts}) == len(parts)


def test_the_fingerprint_of_long_data_sees_both_ends_and_the_length():
    x = np.arange(10_000, dtype="float32")
    first, last = x.copy(), x.copy()
    first[0] = last[-1] = -1
    prints = {source(array).fingerprint for array in (x, first, last, x[:-1], x[1:])}
    assert len(prints) == 5


# ---------------------------------------------------------------------------- refusals


def test_lengths_that_differ_are_refused_as_by_keras():
    with pytest.raises(ValueError, match="same number(?s:.*)'x' sizes: 7(?s:.*)'y' sizes: 5"):
        source(X, Y[:5])


def test_no_examples_are_refused():
    for x in (X[:0], {}, []):
        with pytest.raises(ValueError, match="at least one example"):
            source(x)


def test_what_is_no_array_is_refused_with_a_cure():
    for x in ([[1, 2], [3, 4]], "digits", 3, np.float32(3), object(), iter([1])):
        with pytest.raises(TypeError, match="`x` must be.*np.asarray"):
            source(x)
    with pytest.raises(TypeError, match="`y` must be"):
        source(X, [1] * N)
    with pytest.raises(TypeError, match="`sample_weight` must be"):
        source(X, Y, "uniform")


# -------------------------------------------------------------------- validation_split


SPLITS = {
    "arrays": (X, Y, W),
    "no targets": (X, None, None),
    "a dict of inputs": ({"one": X, "two": X[:, :2]}, Y, None),
    "a list of inputs": ([X, X[:, :2]], Y, None),
    "tensors": (tf.constant(X), tf.constant(Y), None),
    "a data frame": (pandas.DataFrame(X), pandas.Series(Y, index=range(50, 50 + N)), None),
}


def test_split_cuts_where_keras_cuts():
    for arrays in SPLITS.values():
        expected = train_validation_split(arrays, 0.2)
        for ours, keras_s in zip(split(arrays, 0.2), expected, strict=True):
            keras.tree.assert_same_structure(ours, keras_s)
            for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(keras_s), strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_array_equal(one, other)


def test_a_split_that_leaves_nothing_on_one_side_or_of_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not sufficient to split"):
        split((X, Y), 0.99)
    with pytest.raises(ValueError, match="`validation_split` would read a memory-mapped array.*`validation_data`"):
        split((np.memmap(tmp_path / "x", "float64", "w+", shape=(9, 2)), Y), 0.5)


def test_split_copies_no_array():
    (train, _), (validation, _) = split((X, Y), 0.5)
    assert np.shares_memory(train, X)
    assert np.shares_memory(validation, X)
