import numpy as np
import pytest

from babysit.ui.series import (
    COUNT,
    HIGH,
    KEEP,
    KEEP_WIDE,
    LOW,
    MEAN,
    SMOOTHED,
    STEP,
    DecimatedSeries,
    reduced,
    with_smoothed,
)


def smoothed(losses, weight=0.97):
    """Kingma & Ba 2015, section 3, word for word."""
    average, result = 0.0, []
    for t, loss in enumerate(losses, start=1):
        average = weight * average + (1 - weight) * loss
        result.append(average / (1 - weight**t))
    return np.array(result)


def series_of(losses, pieces=1):
    series, steps = DecimatedSeries(), np.arange(1, len(losses) + 1)
    for at, piece in zip(np.array_split(steps, pieces), np.array_split(losses, pieces), strict=True):
        series.append(at, piece)
    return series


@pytest.mark.parametrize("pieces", [1, 3, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.97, 0.9999])
def test_a_short_series_holds_every_step_and_its_corrected_average(pieces, smoothing):
    losses = np.random.default_rng(0).exponential(size=300)
    columns = with_smoothed(series_of(losses, pieces).columns(), smoothing)
    assert columns[STEP].tolist() == list(range(1, 301))
    for row in (LOW, HIGH, MEAN):
        np.testing.assert_array_equal(columns[row], losses)
    np.testing.assert_allclose(columns[SMOOTHED], smoothed(losses, smoothing), rtol=1e-9)


def test_a_long_series_stays_bounded_hides_no_spike_and_forgets_no_value():
    losses = np.random.default_rng(1).exponential(size=100_003)
    losses[20_000], losses[70_001] = 99.0, -5.0
    series = series_of(losses, pieces=613)
    columns = series.columns()
    assert columns.shape[1] < 2 * (3 * KEEP + 5 * KEEP_WIDE)
    assert (columns[STEP, -1], columns[COUNT].sum()) == (100_003, 100_003)
    np.testing.assert_allclose(np.average(columns[MEAN], weights=columns[COUNT]), losses.mean(), rtol=1e-9)
    assert (columns[LOW].min(), columns[HIGH].max()) == (-5.0, 99.0)
    spike = columns[HIGH].argmax()
    assert columns[STEP, spike - 1] < 20_001 <= columns[STEP, spike]
    ours, exact = with_smoothed(columns, 0.97)[SMOOTHED], smoothed(losses)[columns[STEP].astype(int) - 1]
    np.testing.assert_allclose(ours[-KEEP:], exact[-KEEP:], rtol=1e-2)
    assert np.abs(ours - exact)[2000:].max() < 0.4  # of wide columns only the mean is known; the losses' spread is 1


def test_the_newest_steps_are_kept_one_by_one_however_long_the_run():
    losses = np.random.default_rng(2).exponential(size=50_000)
    newest = series_of(losses, pieces=50).columns()[:, -1000:]
    np.testing.assert_array_equal(newest[STEP], np.arange(49_001, 50_001))
    np.testing.assert_array_equal(newest[LOW], losses[49_000:])


def test_a_loss_that_is_not_finite_leaves_averages_alone():
    columns = series_of(np.array([np.nan, 1.0, np.nan, np.inf, 1.0])).columns()
    np.testing.assert_allclose(with_smoothed(columns, 0.97)[SMOOTHED], [np.nan, 1, 1, 1, 1])


def test_no_more_columns_than_pixels_with_the_extremes_of_each():
    losses = np.random.default_rng(6).exponential(size=2048)
    columns = series_of(losses).columns()
    columns[STEP] -= 1
    thin = reduced(columns, 0, 2048, 128)
    assert thin[STEP].tolist() == list(range(15, 2048, 16))
    np.testing.assert_array_equal(thin[LOW], losses.reshape(128, 16).min(axis=1))
    np.testing.assert_array_equal(thin[HIGH], losses.reshape(128, 16).max(axis=1))


def test_a_range_reaches_one_point_beyond_each_edge():
    columns = series_of(np.arange(100.0)).columns()
    assert reduced(columns, 40.5, 50.5, 1000)[STEP].tolist() == list(range(40, 52))
