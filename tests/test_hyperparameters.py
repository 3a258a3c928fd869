import pytest

from babysit import Scale
from babysit.hyperparameters import checked, scales_for

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
