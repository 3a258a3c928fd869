"""The range test: the rates it went through, what it suggests on curves worked out by hand, and what it leaves."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import babysit
from babysit import demos
from babysit.recipes import lr_range_test as recipe

(X, Y), _ = demos.digits()
RATES = np.geomspace(1e-5, 10, 101)
# Flat, then a straight fall over the logarithm of the rate from 1e-3 to 1e-1, then a steep rise.
CURVE = np.interp(np.log10(RATES), [-5, -3, -1, 1], [2.0, 2.0, 0.5, 9.0])


def test_suggestions_on_a_curve_of_straight_lines():
    assert 1e-3 <= recipe.steepest(RATES, CURVE) <= 1e-1
    assert recipe.minimum(RATES, CURVE) == pytest.approx(1e-2, rel=0.2)
    assert recipe.valley(RATES, CURVE) == pytest.approx(1e-2, rel=0.2)  # the middle of the fall
    assert 1e-3 <= recipe.slide(RATES, CURVE - 1.0) <= 10
    steep = CURVE - np.exp(-((np.log10(RATES) + 2) ** 2) / 0.02)
    assert 1e-3 < recipe.steepest(RATES, steep) < 1e-2  # just left of the pit


def test_the_smoothed_loss_is_the_mean_by_hand():
    np.testing.assert_allclose(recipe.smoothed(np.array([4.0, 1.0])), [4.0, (0.9 * 0.1 * 4 + 0.1) / (1 - 0.81)])


def noisy(curve, scatter, seed=0):
    """A loss that scatters by so much around a curve, from step to step."""
    return curve + scatter * np.random.default_rng(seed).normal(size=len(curve))


def test_scatter_alone_suggests_nothing_and_the_steepest_place_is_in_the_fall_all_the_same():
    assert all(recipe.suggestions(RATES, noisy(np.full(101, 5.0), 1.0, seed)) == {} for seed in range(200))
    found = [recipe.suggestions(RATES, noisy(CURVE, 0.15, seed))["steepest"] for seed in range(200)]
    assert min(found) > 5e-4 and max(found) < 0.2


@pytest.mark.parametrize("scatter", [0.0, 0.1, 1.0])
def test_a_loss_that_falls_by_less_than_it_scatters_suggests_nothing(scatter):
    falls = np.interp(np.log10(RATES), [-5, -3, -1, 1], [5.0, 5.0, 5.0 - 3 * scatter - 0.01, 20.0])
    barely = np.interp(np.log10(RATES), [-5, -3, -1, 1], [5.0, 5.0, 5.0 - 0.3 * scatter, 20.0])
    rises = np.interp(np.log10(RATES), [-5, -3, 1], [5.0, 5.0, 20.0])
    assert len(recipe.suggestions(RATES, noisy(falls, scatter))) == 4
    for curve in (np.full(101, 5.0), barely, rises):
        assert recipe.suggestions(RATES, noisy(curve, scatter)) == {}


def test_it_says_so(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "run", seed=3)
    panda.fit(X[:256], Y[:256], batch_size=32, epochs=10**6, paused=True)
    found = panda.lr_range_test(low=1e-6, high=1e-5, steps=30)
    assert found.suggestions == {} and "did not fall enough to suggest a rate" in repr(found)
    axes = Figure().add_subplot()
    found.plot(axes)
    assert axes.get_legend() is None and "did not fall" in axes.get_title()
    assert found.branch not in {one.branch for one in panda.checkpoints}
    panda.stop()


def test_it_ends_at_four_times_the_lowest_loss_but_not_for_a_lucky_first_one():
    assert recipe._hopeless(np.array([0.01, *[1.0] * 40])) == []
    assert recipe._hopeless(np.array([*[1.0] * 40, 100.0, 100.0]))[0] == 40


@pytest.mark.parametrize("running", [False, True])
def test_it_goes_through_the_rates_and_returns_to_the_very_state(tmp_path, running):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "run", seed=3)
    panda.fit(X[:256], Y[:256], batch_size=32, epochs=10**6, paused=True)
    panda.run(5)
    before = panda.digest()
    if running:
        panda.resume()
    found = panda.lr_range_test(low=1e-4, high=1.0, steps=40)
    assert panda.state == ("running" if running else "paused")
    if not running:
        assert (panda.step, panda.digest()) == (5, before)
        assert panda.hyperparameters["learning_rate"].value == 0.01
        np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 1.0, 41)[1 : len(found.rates) + 1], rtol=1e-6)
    assert set(found.suggestions) == {"steepest", "valley", "minimum ÷ 10", "slide"}
    assert all(1e-5 <= rate <= 1.0 for rate in found.suggestions.values())
    np.testing.assert_array_equal(panda.history.along(found.branch)["loss"][-len(found.losses) :], found.losses)
    panda.stop()


def test_it_ends_where_the_loss_explodes(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "run", seed=3)
    panda.fit(X[:256], Y[:256], batch_size=32, epochs=10**6, paused=True, ranges={"learning_rate": (1e-6, 1e6)})
    digest = panda.digest()
    found = panda.lr_range_test(low=1e-4, high=1e5, steps=200)
    assert len(found.rates) < 200 and panda.digest() == digest and np.isfinite(found.losses).all()
    for wrong in ({"low": 1.0, "high": 0.1}, {"name": "colour"}, {"steps": 3}, {"high": 1e9}):
        with pytest.raises(ValueError):
            panda.lr_range_test(**wrong)
        assert (panda.state, panda.digest()) == ("paused", digest)
    panda.stop()
