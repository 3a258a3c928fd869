"""What events mean for the controls, and what a change comes to before it is made."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from babysit.core.controls import SCHEDULE, Controls, apply, planned
from babysit.core.events import ROOT, Edit, Event, Set
from babysit.core.position import Position
from babysit.core.scale import Scale

LOG, BETA = Scale(1e-6, 1.0, "log", zero=True), Scale(0.0, 0.9999, "log of 1−β")
SGD = Controls(
    {"learning_rate": 0.1, "batch_size": 32, "momentum": 0.9},
    {"learning_rate": LOG, "batch_size": Scale(1, 1000, "log", whole=True), "momentum": BETA},
)
ADAM = Controls(
    {"learning_rate": 1e-3, "batch_size": 32, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    {
        "learning_rate": LOG,
        "batch_size": Scale(1, 1000, "log", whole=True),
        "beta_1": BETA,
        "beta_2": BETA,
        "epsilon": Scale(1e-12, 1.0, "log"),
    },
)


def changed(controls, step, over=1, acts_at=None, **values):
    changes = {name: (controls.at(step).get(name), value) for name, value in values.items()}
    event = Event(1, ROOT, step, 0.0, "script", Set(changes, over, acts_at))
    return apply(controls, Position(), event)[0]


def values_of(controls, name, steps):
    return [controls.at(step)[name] for step in steps]


# ------------------------------------------------------------------------------------ ramps


def test_a_ramp_is_even_on_its_own_scale():
    down = changed(SGD, 10, over=4, learning_rate=1e-5)
    np.testing.assert_allclose(
        values_of(down, "learning_rate", range(9, 16)), [0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5], rtol=1e-12
    )
    whole = changed(changed(SGD, 0, batch_size=8), 0, over=3, batch_size=64)
    assert values_of(whole, "batch_size", range(3)) == [16, 32, 64]
    beta = changed(SGD, 0, over=2, momentum=0.999)
    np.testing.assert_allclose(values_of(beta, "momentum", range(2)), [0.99, 0.999], rtol=1e-12)
    from_zero = changed(changed(SGD, 0, learning_rate=0.0), 0, over=2, learning_rate=0.01)
    assert values_of(from_zero, "learning_rate", range(2)) == [0.005, 0.01]


def test_a_change_may_act_later_than_it_is_made():
    later = changed(SGD, 5, acts_at=8, batch_size=64)
    assert values_of(later, "batch_size", range(5, 10)) == [32, 32, 32, 64, 64]
    assert later.since["batch_size"] == 8


def test_values_are_steady_up_to_the_next_change():
    assert SGD.steady_for(0) == math.inf
    ramp, later = changed(SGD, 10, over=3, momentum=0.5), changed(SGD, 10, acts_at=14, batch_size=64)
    assert [ramp.steady_for(step) for step in range(10, 14)] == [1, 1, math.inf, math.inf]
    assert [later.steady_for(step) for step in range(10, 15)] == [4, 3, 2, 1, math.inf]


def test_a_change_ends_the_ramp_of_what_it_changes_alone():
    ramps = changed(SGD, 0, over=10, learning_rate=1e-3, momentum=0.5)
    ended = changed(ramps, 4, learning_rate=0.05)
    assert values_of(ended, "learning_rate", range(4, 12)) == [0.05] * 8
    assert values_of(ended, "momentum", range(12)) == values_of(ramps, "momentum", range(12))


def test_a_value_that_is_there_already_has_no_ramp_and_one_that_is_gone_ends_with_its_ramp():
    assert changed(SGD, 0, over=2, learning_rate=0.05, momentum=0.9).ramps.keys() == {"learning_rate"}
    compiled = Edit({"learning_rate": 1e-3, "batch_size": 32, "beta_1": 0.9}, ADAM.scales)
    adam = apply(changed(SGD, 0, over=9, momentum=0.5), Position(), Event(1, ROOT, 2, 0.0, "script", compiled))[0]
    assert (dict(adam.ramps), adam.values) == ({}, {"learning_rate": 0.1, "batch_size": 32, "beta_1": 0.9})


def test_controls_come_back_from_plain_data():
    one = changed(changed(SGD, 3, over=5, learning_rate=1e-3), 4, scaling="linear")
    assert Controls.from_plain(asdict(one)) == one


# -------------------------------------------------------------------------------- couplings


def coupled(controls, scaling, **changes):
    made = planned(changed(controls, 0, scaling=scaling), changes, 0)
    return {name: new for name, (_, new) in made.items()}


def test_linear_scaling_follows_goyal_et_al():
    assert coupled(SGD, "linear", batch_size=128) == {"batch_size": 128, "learning_rate": 0.4}
    assert coupled(SGD, "linear", batch_size=128, learning_rate=0.2)["learning_rate"] == 0.2
    assert coupled(SGD, "linear", momentum=0.5) == {"momentum": 0.5}
    assert coupled(SGD, "off", batch_size=128) == {"batch_size": 128}


def test_square_root_scaling_follows_malladi_et_al():
    expected = {"learning_rate": 2e-3, "batch_size": 128, "beta_1": 0.6, "beta_2": 0.996, "epsilon": 5e-8}
    found = coupled(ADAM, "square root", batch_size=128)
    assert {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()} == found
    with pytest.raises(ValueError, match="too large a step"):
        coupled(ADAM, "square root", batch_size=32 * 11)


def test_a_coupling_leaves_a_schedule_alone():
    following = changed(SGD, 0, learning_rate=SCHEDULE)
    made = planned(changed(following, 0, scaling="linear"), {"batch_size": 64}, 0, followed={"learning_rate": 0.05})
    assert made == {"batch_size": (32, 64)}


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("over", [0, -1, 2.5, math.nan])
def test_a_ramp_over_no_number_of_steps_is_refused(over):
    with pytest.raises(ValueError, match="`over`"):
        planned(SGD, {"learning_rate": 1e-4}, 0, over)


def test_what_cannot_be_set_is_refused_in_words():
    with pytest.raises(ValueError, match="at least one hyperparameter"):
        planned(SGD, {}, 0)
    with pytest.raises(ValueError, match="`beta_1` is not a hyperparameter .* Those that can: learning_rate,"):
        planned(SGD, {"beta_1": 0.5}, 0)
    with pytest.raises(ValueError, match="`scaling` must be one of 'off', 'linear', 'square root'"):
        planned(SGD, {"scaling": "cubic"}, 0)
    with pytest.raises(ValueError, match="compiled with no schedule"):
        planned(SGD, {"learning_rate": SCHEDULE}, 0)
    with pytest.raises(ValueError, match="follows it at once"):
        planned(SGD, {"learning_rate": SCHEDULE}, 0, 5, schedules=("learning_rate",))
    with pytest.raises(TypeError, match="`momentum` must be a number"):
        planned(SGD, {"momentum": "fast"}, 0)


def test_a_coupled_value_out_of_bounds_refuses_the_whole_change():
    with pytest.raises(ValueError, match="`learning_rate`"):
        coupled(SGD, "linear", batch_size=640)
