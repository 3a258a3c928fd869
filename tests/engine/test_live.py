"""A live float: rounds as a float does, follows its number in a graph, and bakes nothing in."""

import copy
import json
import math
import operator
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from babysit.engine.live import LiveValues

OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]


@pytest.fixture
def readings():
    readings = LiveValues()
    readings.write("x", 0.9)
    return readings


@pytest.fixture
def live(readings):
    return readings.live("x")


to_tensor = tf.convert_to_tensor


def traced(make):
    """The value of `make` in a graph, at each call."""
    function = tf.function(lambda: tf.convert_to_tensor(make()), autograph=False)
    return lambda: function().numpy()


def test_each_operator_rounds_as_a_float_does_and_follows_the_number(live, readings):
    def both(apply, other):
        return tf.function(lambda: (to_tensor(apply(live, other)), to_tensor(apply(other, live))), autograph=False)

    for name in OPERATORS:
        for other in (0.37, 2, np.float64(1.5)):
            apply = getattr(operator, name)
            function = both(apply, other)
            for present in (0.9, 0.5, 0.123456789):
                readings.write("x", present)
                expected = np.float32(apply(present, other)), np.float32(apply(other, present))
                assert tuple(part.numpy() for part in function()) == expected, name
    for name in ("neg", "pos", "abs"):
        result = traced(lambda name=name: getattr(operator, name)(live))
        for present in (0.9, -0.25):
            readings.write("x", present)
            assert result() == np.float32(getattr(operator, name)(present))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_it_meets_a_tensor_as_a_float_would(live, readings, dtype):
    x = tf.Variable([1.5, 2.0], dtype=dtype)
    combined = [
        lambda number: x * number,
        lambda number: number * x,
        lambda number: keras.ops.multiply(number, x),
        lambda number: keras.ops.cast(number, dtype) + x,
        lambda number: (1 - number) / x,
        lambda number: x - number,
        lambda number: number**x,
        lambda number: keras.ops.power(keras.ops.cast(number, dtype), x),
    ]
    functions = [tf.function(lambda combine=combine: combine(live), autograph=False) for combine in combined]
    for present in (0.9, 0.1234567):
        readings.write("x", present)
        for combine, function in zip(combined, functions, strict=True):
            ours, theirs = function(), tf.function(lambda p=present, c=combine: c(p), autograph=False)()
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_compared_with_a_tensor_it_follows_the_number(live, readings):
    x, applied = tf.constant([0.5, 0.25]), [getattr(operator, name) for name in COMPARISONS]
    result = tf.function(lambda: [(apply(live, x), apply(x, live)) for apply in applied], autograph=False)
    for present in (0.9, 0.25):
        readings.write("x", present)
        expected = [(apply(present, x.numpy()), apply(x.numpy(), present)) for apply in applied]
        np.testing.assert_array_equal(result(), expected)


def test_a_traced_function_reads_it_afresh(live, readings):
    function = tf.function(lambda x: x * (1 - live))
    x = tf.constant(2.0)
    for present in (0.9, 0.1, 0.77):
        readings.write("x", present)
        assert function(x).numpy() == (x * (1 - present)).numpy()
    assert function.experimental_get_tracing_count() == 1


def test_held_a_trace_reads_each_expression_once(live, readings):
    def use():
        with readings.reading_once():
            return sum(tf.constant(1.0) * (1 - live) * live for _ in range(5))

    reads = [op for op in tf.function(use).get_concrete_function().graph.get_operations() if "ReadVariable" in op.type]
    assert len(reads) == 2


def test_what_has_no_number_at_present_may_have_one_later(readings):
    readings.write("x", 0.0)
    live = readings.live("x")
    inverse, root = traced(lambda: 1 / live), traced(lambda: (live - 1) ** 0.5)
    assert np.isnan(inverse()) and np.isnan(root())
    readings.write("x", 4.0)
    assert (inverse(), root()) == (0.25, np.float32(math.sqrt(3)))


def test_compared_with_a_number_it_answers_as_the_structure_was_made(readings):
    readings.write("x", 0.0)
    off, on = readings.live("x"), readings.live("x", gate=0.9)
    assert not off and off == 0 and (off != 0) is False and not off > 0
    assert on and on != 0 and on > 0 and 0.0 < on < 1.0
    assert 2 * on > 1  # and so does what is made from it


def test_numpy_does_not_make_a_number_of_it_silently(live):
    with pytest.raises(TypeError):
        np.sqrt(live)
    with pytest.raises(TypeError):
        np.ones(3) * live


def test_written_down_or_copied_it_is_the_plain_number_it_was_made_with(live):
    assert json.dumps(live) == "0.9"
    assert f"{live}" == repr(live) == "0.9"
    for twin in (copy.copy(live), copy.deepcopy(live), pickle.loads(pickle.dumps(live))):
        assert type(twin) is float and twin == 0.9
