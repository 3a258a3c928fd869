import numpy as np
import pytest
from matplotlib.ticker import LogLocator

from babysit.ui.ticks import (
    clock,
    clock_locator,
    kept_limits,
    linear_limits,
    log_limits,
    round_up,
    short_count,
    short_number,
    three_digits,
    value_locator,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.2314, "0.231"), (12.34, "12.3"), (1234, "1,234"), (9.999, "10.0"), (1.2e-5, "1.2e-5"), (0, "0"), (3e7, "3e7")],
)
def test_a_number_has_three_digits(value, words):
    assert three_digits(value) == words


def test_a_round_number_has_no_superfluous_digits():
    words = {0.2: "0.2", 1500: "1,500", 1e-5: "1e-5", 2.5e-5: "2.5e-5", 5.5e-4: "5.5e-4", 0.001: "0.001", 0: "0"}
    words |= {1e8: "1e8", -100: "-100", 2e-10: "2e-10"}
    assert {value: short_number(value) for value in words} == words


def test_a_duration_is_read_as_on_a_clock():
    assert [clock(seconds) for seconds in (40, 3750, 190_000)] == ["0:40", "1:02:30", "2d 4:46"]
    assert list(clock_locator(0, 4000, 7).locs) == [0, 600, 1200, 1800, 2400, 3000, 3600]


def test_steps_are_counted_in_millions_when_they_are_many():
    assert [short_count(value) for value in (0, 1500, 2_500_000, 1e7)] == ["0", "1,500", "2.5M", "10M"]


@pytest.mark.parametrize(("low", "high"), [(0.01, 3), (0.21, 0.29), (1e-8, 3), (0.3, 1.4), (1e-30, 1e30), (2, 9)])
@pytest.mark.parametrize("most", [2, 6, 10])
def test_ticks_of_a_logarithmic_axis_are_neither_too_few_nor_too_many(low, high, most):
    locator = value_locator(True, low, high, most)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    assert (2 if most > 2 else 1) <= len(ticks) <= most + 1
    assert isinstance(locator, LogLocator) == (high / low > 4)


@pytest.mark.parametrize("limits", [linear_limits, log_limits])
def test_limits_contain_both_values(limits):
    rng = np.random.default_rng(0)
    for low, high in np.sort(10 ** rng.uniform(-6, 6, (200, 2))):
        found = limits(low, high)
        assert found[0] <= low < high <= found[1]
        assert found[1] - found[0] < 3 * (high - low) or limits is log_limits
    assert limits(5.0, 5.0)[0] < 5.0 < limits(5.0, 5.0)[1]


def test_limits_move_in_steps():
    assert len({round_up(value) for value in range(100, 1000)}) < 25
    assert all(value <= round_up(value) <= 1.21 * value for value in range(100, 1000))
    assert kept_limits((0, 10), (0, 9), 1, 8.9, log=False) == (0, 10)
    assert kept_limits((0, 10), (0, 12), 1, 11, log=False) == (0, 12)
    assert kept_limits((0, 10), (0, 2), 0, 1.9, log=False) == (0, 2)
