import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit import Scale

LINEAR = Scale(0, 1)
LEARNING_RATE = Scale(1e-4, 1.0, "log")
BETA = Scale(0.9, 0.9999, "log of 1−β")
UNITS = Scale(50, 100, whole=True)
SCALES = [LINEAR, LEARNING_RATE, BETA, UNITS]
DRAWS = 100_000

every_scale = pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.kind)


def share(values, low, high):
    return np.mean((values >= low) & (values < high))


# ---------------------------------------------------- the course's section on scales


def test_uniform_draws_spend_nine_tenths_on_the_last_decade():
    values = Scale(1e-4, 1.0).sample(np.random.default_rng(0), DRAWS)
    assert share(values, 0.1, 1) == pytest.approx(0.9, abs=0.01)


def test_log_draws_spend_a_quarter_on_every_decade():
    values = LEARNING_RATE.sample(np.random.default_rng(0), DRAWS)
    for decade in range(-4, 0):
        assert share(values, 10.0**decade, 10.0 ** (decade + 1)) == pytest.approx(0.25, abs=0.01)


def test_log_draws_are_ten_to_a_uniform_exponent():
    exponents = -4 + 4 * np.random.default_rng(7).random(DRAWS)
    drawn = LEARNING_RATE.sample(np.random.default_rng(7), DRAWS)
    np.testing.assert_allclose(drawn, 10**exponents)


def test_beta_draws_spend_a_third_on_every_decade_of_one_minus_beta():
    gap = 1 - BETA.sample(np.random.default_rng(0), DRAWS)
    assert gap.min() >= 1e-4 * (1 - 1e-9)
    assert gap.max() <= 1e-1 * (1 + 1e-9)
    for decade in range(-4, -1):
        assert share(gap, 10.0**decade, 10.0 ** (decade + 1)) == pytest.approx(1 / 3, abs=0.01)


def test_beta_at_a_position_is_one_minus_ten_to_the_exponent():
    for position in (0, 0.25, 0.5, 1):
        assert BETA.at(position) == pytest.approx(1 - 10 ** (-1 - 3 * position))


def test_equal_distances_on_the_beta_scale_are_equal_factors_of_the_averaging_window():
    windows = 1 / (1 - BETA.grid(10))
    np.testing.assert_allclose(windows[1:] / windows[:-1], 10 ** (3 / 9))


def test_beta_scale_separates_0_999_from_0_9995_better_than_0_9_from_0_9005():
    late = BETA.position(0.9995) - BETA.position(0.999)
    early = BETA.position(0.9005) - BETA.position(0.9)
    assert late == pytest.approx(math.log10(2) / 3)
    assert late > 100 * early


def test_hidden_units_are_uniform_whole_numbers_with_both_ends():
    units = UNITS.sample(np.random.default_rng(0), DRAWS)
    assert units.dtype.kind == "i"
    assert set(units) == set(range(50, 101))
    counts = np.bincount(units - 50)
    expected = DRAWS / 51
    assert abs(counts - expected).max() < 5 * math.sqrt(expected)


# ------------------------------------------------------------- what every scale keeps


@every_scale
def test_position_of_the_ends_is_0_and_1(scale):
    assert scale.position(scale.low) == pytest.approx(0)
    assert scale.position(scale.high) == pytest.approx(1)


@every_scale
def test_ends_are_reached_exactly(scale):
    assert scale.at(0.0) == scale.low
    assert scale.at(1.0) == scale.high


@pytest.mark.parametrize("scale", [LINEAR, LEARNING_RATE, BETA], ids=lambda scale: scale.kind)
@settings(max_examples=25)
@given(position=st.floats(0, 1))
def test_position_undoes_at(scale, position):
    assert scale.position(scale.at(position)) == pytest.approx(position, abs=1e-9)


@settings(max_examples=25)
@given(
    low=st.floats(1e-9, 1e3),
    ratio=st.floats(1.01, 1e6),
    fraction=st.floats(0, 1),
    kind=st.sampled_from(["linear", "log"]),
)
def test_at_undoes_position(low, ratio, fraction, kind):
    value = low + fraction * (low * ratio - low)
    scale = Scale(low, low * ratio, kind)
    assert scale.at(scale.position(value)) == pytest.approx(value, rel=1e-6)


@settings(max_examples=25)
@given(gap=st.floats(1e-4, 0.1))
def test_at_undoes_position_of_a_beta(gap):
    assert 1 - BETA.at(BETA.position(1 - gap)) == pytest.approx(gap, rel=1e-6)


@settings(max_examples=25)
@given(value=st.integers(50, 100))
def test_a_whole_number_comes_back_as_itself(value):
    again = UNITS.at(UNITS.position(value))
    assert again == value
    assert isinstance(again, int)


@every_scale
@settings(max_examples=25)
@given(position=st.floats(-10, 10))
def test_no_position_leads_out_of_bounds(scale, position):
    assert scale.low <= scale.at(position) <= scale.high


@every_scale
def test_sample_stays_within_bounds_and_has_the_length_asked_for(scale):
    values = scale.sample(np.random.default_rng(0), 1000)
    assert values.shape == (1000,)
    assert values.min() >= scale.low
    assert values.max() <= scale.high


@every_scale
def test_sample_is_the_same_for_the_same_seed(scale):
    one, other = (scale.sample(np.random.default_rng(3), 50) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@every_scale
def test_grid_rises_evenly_from_end_to_end(scale):
    grid = scale.grid(11)
    assert (grid[0], grid[-1]) == (scale.low, scale.high)
    positions = [scale.position(value) for value in grid]
    np.testing.assert_allclose(positions, np.linspace(0, 1, 11), atol=1e-9)


def test_grids_are_numpys():
    np.testing.assert_allclose(Scale(2, 10).grid(5), np.linspace(2, 10, 5))
    np.testing.assert_allclose(LEARNING_RATE.grid(5), np.logspace(-4, 0, 5))
    np.testing.assert_allclose(1 - BETA.grid(4), np.logspace(-1, -4, 4))


@every_scale
def test_a_scalar_position_gives_a_plain_number(scale):
    assert type(scale.at(0.5)) is (int if scale.whole else float)


# -------------------------------------------------------------------- coarse to fine


def test_zoom_narrows_around_the_middle():
    zoomed = LEARNING_RATE.zoom(1e-2, factor=4)
    assert (zoomed.low, zoomed.high) == pytest.approx((10**-2.5, 10**-1.5))
    assert zoomed.kind == "log"


@pytest.mark.parametrize("scale", [LINEAR, LEARNING_RATE, BETA], ids=lambda scale: scale.kind)
@settings(max_examples=25)
@given(position=st.floats(0, 1), factor=st.floats(1.1, 50))
def test_zoom_holds_what_it_is_around_and_leaves_no_bound(scale, position, factor):
    around = scale.at(position)
    zoomed = scale.zoom(around, factor)
    slack = 1e-9 * (scale.high - scale.low)
    assert scale.low <= zoomed.low < zoomed.high <= scale.high
    assert zoomed.low - slack <= around <= zoomed.high + slack
    assert scale.position(zoomed.high) - scale.position(zoomed.low) <= 1 / factor + 1e-6


@pytest.mark.parametrize("factor", [1, 0.5, 0, -2, math.nan])
def test_zoom_refuses_a_factor_that_narrows_nothing(factor):
    with pytest.raises(ValueError, match="`factor`"):
        LINEAR.zoom(0.5, factor)


@pytest.mark.parametrize("around", [50, 64, 75, 100])
def test_zoom_far_into_whole_numbers_still_is_a_scale_around_the_value(around):
    zoomed = UNITS.zoom(around, factor=200)
    assert UNITS.low <= zoomed.low <= around <= zoomed.high <= UNITS.high


# --------------------------------------------------------------------------- optuna


@every_scale
def test_an_optuna_study_draws_evenly_along_the_scale(scale):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [scale.suggest(study.ask(), "value") for _ in range(400)]
    assert scale.low <= min(values) and max(values) <= scale.high
    assert type(values[0]) is (int if scale.whole else float)
    positions = np.sort([scale.position(value) for value in values])
    # Kolmogorov & Smirnov: further from even once in ten thousand times.
    assert np.abs(positions - (np.arange(400) + 0.5) / 400).max() < 2.3 / math.sqrt(400)


# --------------------------------------------------------------------- round values


def test_round_values_of_a_log_scale_are_easy_to_read():
    assert Scale(1e-3, 0.1, "log").round_values() == [
        *(0.001, 0.002, 0.003, 0.005, 0.007),
        *(0.01, 0.02, 0.03, 0.05, 0.07),
        0.1,
    ]


def test_round_values_of_a_beta_scale_are_easy_to_read():
    assert Scale(0, 0.99, "log of 1−β").round_values() == [
        *(0, 0.3, 0.5, 0.7, 0.8),
        *(0.9, 0.93, 0.95, 0.97, 0.98),
        0.99,
    ]


def test_round_values_include_ends_that_are_not_round():
    values = Scale(0.00123, 0.0456, "log").round_values()
    assert (values[0], values[-1]) == (0.00123, 0.0456)
    assert values == sorted(set(values))


def test_0_comes_first_where_it_is_meant_and_is_at_the_low_end():
    scale = Scale(1e-2, 0.1, "log", zero=True)
    assert scale.round_values() == [0, *Scale(1e-2, 0.1, "log").round_values()]
    assert scale.position(0) == scale.position(1e-2) == 0


def test_round_values_of_a_linear_scale_are_refused():
    with pytest.raises(ValueError, match="use `grid`"):
        LINEAR.round_values()


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "low, high, kind",
    [
        (1, 1, "linear"),
        (2, 1, "linear"),
        (math.nan, 1, "linear"),
        (0, math.nan, "linear"),
        (0, math.inf, "linear"),
        (-math.inf, 0, "linear"),
        (0, 1, "log"),
        (-1, 1, "log"),
        (1e-3, math.inf, "log"),
        (0.9, 1, "log of 1−β"),
        (0.9, 1.5, "log of 1−β"),
        (-math.inf, 0.5, "log of 1−β"),
    ],
)
def test_bounds_that_do_not_fit_the_kind_are_refused(low, high, kind):
    with pytest.raises(ValueError, match="`low` and `high`"):
        Scale(low, high, kind)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="`kind`.*'sqrt'"):
        Scale(0, 1, "sqrt")


def test_a_scale_cannot_be_changed_under_a_slider():
    with pytest.raises(AttributeError):
        LINEAR.low = -1
