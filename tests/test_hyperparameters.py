import math

import numpy as np
import pytest

from babysit import Scale
from babysit.core.hyperparameter import Hyperparameter, checked, scales_for

RATE = Scale(1e-6, 1.0, "log", zero=True)
BETA = Scale(0.0, 0.9999, "log of 1−β")
EPSILON = Scale(1e-12, 1.0, "log")
DEFAULTS = {"learning_rate": RATE, "beta_2": BETA, "epsilon": EPSILON}


def scale_of(value, default, **how):
    return scales_for({"x": value}, {"x": default}, **how)["x"]


def test_a_default_that_holds_the_value_stays():
    values = {"learning_rate": 0.0, "beta_2": 0.999, "epsilon": 1e-7}
    assert scales_for(values, DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (3.0, RATE, Scale(1e-6, 3.0, "log", zero=True)),
        (1e-9, RATE, Scale(1e-9, 1.0, "log", zero=True)),
        (0.99999, BETA, Scale(0.0, 0.99999, "log of 1−β")),
        (1.0, BETA, Scale(0.0, 1.0)),
        (0.0, EPSILON, Scale(1e-12, 1.0, "log", zero=True)),
        (-0.5, RATE, Scale(-0.5, 1.0)),
    ],
)
def test_a_default_is_widened_to_hold_the_value(value, default, expected):
    scale = scale_of(value, default)
    assert scale == expected
    assert checked("x", value, scale) == value


def test_0_is_accepted_where_it_is_meant_and_only_there():
    assert checked("x", 0, RATE) == 0
    with pytest.raises(ValueError, match="from 1e-12 to 1.*Received: x=0"):
        checked("x", 0, EPSILON)
    with pytest.raises(ValueError, match="from 1e-06 to 1, or 0. Received: x=1e-07"):
        checked("x", 1e-7, RATE)


def test_ranges_bound_a_value_and_keep_the_kind():
    assert scale_of(0.01, RATE, ranges={"x": (1e-3, 0.1)}) == Scale(1e-3, 0.1, "log")
    assert scale_of(0.0, RATE, ranges={"x": (1e-3, 0.1)}) == Scale(1e-3, 0.1, "log", zero=True)
    with pytest.raises(ValueError, match="around the present value 0.01"):
        scale_of(0.01, RATE, ranges={"x": (0.1, 1)})
    with pytest.raises(ValueError, match="`ranges` may name x"):
        scale_of(0.01, RATE, ranges={"y": (0.1, 1)})


def test_a_batch_is_no_larger_than_the_data_where_their_size_is_known():
    values = {"batch_size": 32}
    assert scales_for(values, {}, None, 400)["batch_size"] == Scale(1, 400, "log", whole=True)
    assert scales_for(values, {}, None, None)["batch_size"].high == 2**20
    assert scales_for({"batch_size": 1}, {}, None, 1) == {}


def test_bounds_may_be_numpy_s_and_are_plain_numbers_then():
    found = scale_of(0.01, RATE, ranges={"x": (np.float32(0.25**8), np.float64(0.5))})
    assert found == Scale(0.25**8, 0.5, "log")
    assert (type(found.low), type(found.high)) == (float, float)
    found = scales_for({"batch_size": 32}, {}, {"batch_size": (np.int64(2), 64.0)}, 400)["batch_size"]
    assert (found.low, found.high, type(found.low), type(found.high)) == (2, 64, int, int)


@pytest.mark.parametrize("bounds", [(1.5, 40), (1, math.inf), (1, math.nan), ("1", 40), (1, 40, 60), 3, None])
def test_bounds_of_a_batch_size_are_two_whole_numbers(bounds):
    with pytest.raises(ValueError, match=r"`ranges\['batch_size'\]` must be \(low, high\)"):
        scales_for({"batch_size": 32}, {}, {"batch_size": bounds}, 400)


def test_a_range_of_batch_sizes_ends_at_the_size_of_the_data():
    found = scales_for({"batch_size": 32}, {}, {"batch_size": (1, 10**6)}, 100)["batch_size"]
    assert found == Scale(1, 100, "log", whole=True)


def test_it_shows_itself_in_a_few_words():
    assert repr(Hyperparameter(0.01, RATE)) == "0.01 (1e-06 to 1, log)"
    assert repr(Hyperparameter(32, Scale(1, 1437, "log", whole=True))) == "32 (1 to 1437, log)"
