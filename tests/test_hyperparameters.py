import copy
import json
import operator
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from babysit.hyperparameters import Dials, Live

OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow"]


@pytest.fixture
def variable():
    return tf.Variable(0.9, dtype=tf.float64)


@pytest.fixture
def live(variable):
    return Live(0.9, variable.read_value)


def as_float32(value):
    return tf.convert_to_tensor(value).numpy()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", [0.37, 2, np.float64(1.5)])
def test_each_operator_rounds_as_a_float_does_and_follows_the_variable(live, variable, name, other):
    apply = getattr(operator, name)
    forward, reflected = apply(live, other), apply(other, live)
    for present in (0.9, 0.5, 0.123456789):
        variable.assign(present)
        assert as_float32(forward) == np.float32(apply(present, other))
        assert as_float32(reflected) == np.float32(apply(other, present))


@pytest.mark.parametrize("name", ["neg", "pos", "abs"])
def test_each_sign_follows_the_variable(live, variable, name):
    result = getattr(operator, name)(live)
    variable.assign(-0.25)
    assert as_float32(result) == np.float32(getattr(operator, name)(-0.25))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_it_meets_a_tensor_as_a_float_would(live, variable, dtype):
    x = tf.constant([1.5, 2.0], dtype)
    combined = [
        lambda number: x * number,
        lambda number: number * x,
        lambda number: keras.ops.multiply(number, x),
        lambda number: keras.ops.cast(number, dtype) + x,
        lambda number: x / (1 - number),
        lambda number: (1 - number) / x,
        lambda number: x - number,
        lambda number: number**x,
        lambda number: keras.ops.power(keras.ops.cast(number, dtype), x),
    ]
    for combine in combined:
        traced = tf.function(lambda combine=combine: combine(live), autograph=False)
        for present in (0.9, 0.25):
            variable.assign(present)
            ours, theirs = traced(), tf.function(lambda p=present, c=combine: c(p), autograph=False)()
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_traced_function_reads_it_afresh(live, variable):
    traced = tf.function(lambda x: x * (1 - live))
    x = tf.constant(2.0)
    for present in (0.9, 0.1, 0.77):
        variable.assign(present)
        assert traced(x).numpy() == (x * (1 - present)).numpy()
    assert traced.experimental_get_tracing_count() == 1


def test_compared_it_answers_as_the_structure_was_made(variable):
    off, on = Live(0.0, variable.read_value), Live(0.0, variable.read_value, gate=0.9)
    assert not off and off == 0 and (off != 0) is False and not off > 0
    assert on and on != 0 and on > 0


def test_written_down_or_copied_it_is_the_plain_number_it_was_made_with(live):
    assert json.dumps(live) == "0.9"
    assert f"{live}" == repr(live) == "0.9"
    for twin in (copy.copy(live), copy.deepcopy(live), pickle.loads(pickle.dumps(live))):
        assert type(twin) is float and twin == 0.9


def built(optimizer):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer.build(model.trainable_variables)
    return optimizer


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (keras.optimizers.SGD, ["learning_rate", "momentum"]),
        (keras.optimizers.RMSprop, ["learning_rate", "momentum"]),
        (keras.optimizers.Adam, ["learning_rate", "beta_1"]),
        (keras.optimizers.AdamW, ["learning_rate", "beta_1"]),
    ],
)
def test_dials_find_what_the_optimizer_has(optimizer, names):
    dials = Dials(built(optimizer(learning_rate=0.003)))
    assert list(dials.values) == names
    assert dials.values["learning_rate"] == 0.003  # and not 0.003000000026077032


def test_a_loss_scale_optimizer_is_steered_inside():
    inner = keras.optimizers.SGD(0.1, momentum=0.5)
    dials = Dials(built(keras.mixed_precision.LossScaleOptimizer(inner)))
    dials.write("learning_rate", 0.25)
    dials.write("momentum", 0.75)
    assert float(inner.learning_rate) == 0.25
    assert inner.momentum == 0.75


@pytest.mark.parametrize("centered", [False, True])
def test_velocities_made_later_stand_where_a_stock_optimizer_has_them(centered):
    optimizer = built(keras.optimizers.RMSprop(0.01, centered=centered))
    dials = Dials(optimizer)
    dials.bind()
    dials.write("momentum", 0.5)
    stock = built(keras.optimizers.RMSprop(0.01, momentum=0.5, centered=centered))

    def kinds(found):
        return [variable.path.split("/")[-1].rsplit("_", 1)[-1] for variable in found.variables]

    assert kinds(optimizer) == kinds(stock)
    dials.write("momentum", 0.0)
    assert kinds(optimizer) == kinds(stock)  # at rest at 0 they stay while it is live
    dials.release()
    assert kinds(optimizer) == kinds(built(keras.optimizers.RMSprop(0.01, centered=centered)))
    assert type(optimizer.momentum) is float
