import io

import numpy as np
import pytest
from PIL import Image

from babysit.ui.image import png
from babysit.ui.ticks import (
    clock,
    clock_ticks,
    count,
    figure,
    linear_limits,
    linear_ticks,
    log_limits,
    log_ticks,
    round_up,
    settled,
    tick,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.2314, "0.231"), (12.34, "12.3"), (1234, "1,234"), (9.999, "10.0"), (1.2e-5, "1.2e-5"), (0, "0"), (3e7, "3e7")],
)
def test_a_figure_tells_three_digits(value, words):
    assert figure(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.2, "0.2"),
        (1500, "1,500"),
        (1e-5, "1e-5"),
        (2.5e-5, "2.5e-5"),
        (0.00055, "5.5e-4"),
        (0.001, "0.001"),
        (0, "0"),
        (1e8, "1e8"),
    ],
)
def test_a_tick_is_no_longer_than_it_must_be(value, words):
    assert tick(value) == words


def test_a_duration_is_read_as_on_a_clock():
    assert [clock(seconds) for seconds in (40, 3750, 190_000)] == ["0:40", "1:02:30", "2d 4:46"]
    assert clock_ticks(0, 4000, 7) == [0, 600, 1200, 1800, 2400, 3000, 3600]


def test_steps_are_counted_in_millions_when_they_are_many():
    assert [count(value) for value in (0, 1500, 2_500_000, 1e7)] == ["0", "1,500", "2.5M", "10M"]


def test_ticks_are_round_and_few():
    assert linear_ticks(0, 4200, 8) == [0, 1000, 2000, 3000, 4000]
    assert linear_ticks(0, 2, 8, whole=True) == [0, 1, 2]
    assert log_ticks(0.01, 3, 6) == [0.01, 0.03, 0.1, 0.3, 1, 3]
    assert log_ticks(0.21, 0.29, 6) == [0.22, 0.24, 0.26, 0.28]
    assert log_ticks(1e-8, 3, 6) == [1e-8, 1e-6, 1e-4, 1e-2, 1]


@pytest.mark.parametrize("limits", [linear_limits, log_limits])
def test_limits_hold_what_they_were_asked_for(limits):
    rng = np.random.default_rng(0)
    for low, high in np.sort(10 ** rng.uniform(-6, 6, (200, 2))):
        found = limits(low, high)
        assert found[0] <= low < high <= found[1]
        assert found[1] - found[0] < 3 * (high - low) or limits is log_limits
    assert limits(5.0, 5.0)[0] < 5.0 < limits(5.0, 5.0)[1]


def test_limits_move_in_jumps():
    assert len({round_up(value) for value in range(100, 1000)}) < 25
    assert all(value <= round_up(value) <= 1.21 * value for value in range(100, 1000))
    assert settled((0, 10), (0, 9), 1, 8.9, log=False) == (0, 10)
    assert settled((0, 10), (0, 12), 1, 11, log=False) == (0, 12)
    assert settled((0, 10), (0, 2), 0, 1.9, log=False) == (0, 2)


def test_a_picture_is_read_back_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 4), "uint8")
    pixels[..., 3] = 255
    np.testing.assert_array_equal(Image.open(io.BytesIO(png(pixels))).convert("RGBA"), pixels)
