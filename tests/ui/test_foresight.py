"""What can be tried and is watched for, on a dashboard with a fake run: what it sends, and what it shows."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from babysit.ui.dashboard import Dashboard
from babysit.ui.foresight import RULES
from babysit.ui.run_series import RunSeries
from babysit.ui.trials_figure import HEIGHT, draw_range_test, draw_trials
from tests.patience import until
from tests.ui.test_dashboard import FakeRun, boxes, find, find_message, quick, words  # noqa: F401

QUIET = {"doing": None, "result": None, "rules": {}, "alerts": []}
CHOICES = {"description": "hyperparameter to try"}
RATES = np.geomspace(1e-6, 1, 60)
RANGE_TEST = {
    "number": 1,
    "kind": "range test",
    "title": "learning rate, range test from step 100",
    "step": 100,
    "by": "loss",
    "name": "learning_rate",
    "rates": RATES.tolist(),
    "losses": (2 - np.log10(RATES * 1e6) / 6).tolist(),
    "smoothed": (2 - np.log10(RATES * 1e6) / 6).tolist(),
    "suggestions": {"steepest": 0.02, "valley": 0.0123456, "minimum ÷ 10": 0.03, "slide": 0.02},
}


def fan(run, number=1, **about):
    """The result of a fan of three, whose branches are in the log."""
    run.train([1.0] * 100)
    trials = []
    for i, value in enumerate(("0.003", "<0.01>", "0.03"), 2):
        run.branch(f"branch {i}", "branch 1", 100)
        run.train(np.linspace(1, i, 50))
        trials.append({"words": value, "branch": run.line, "steps": 50, "loss": i / 2, "ended": "", "best": i == 2})
    trials[2] |= {"steps": 10, "loss": None, "ended": "not finite"}
    title = "learning rate, tried from step 100"
    found = {"number": number, "kind": "fan", "title": title, "step": 100, "by": "loss", "verdict": ""}
    return found | {"open": True, "trials": trials} | about


@pytest.fixture
def run():
    run = FakeRun()
    run.foresight = dict(QUIET)
    return run


@pytest.fixture
def dashboard(run):
    dashboard = Dashboard(run)
    yield dashboard
    dashboard.close()


def shown(dashboard, description):
    """Whether a button of the line above the chart is to be seen."""
    line = next(box for box in boxes(dashboard.widget) if "babysit-alerts" in box._dom_classes)
    return "none" not in (line.layout.display, find(line, description=description).layout.display)


def last(run):
    about = dict(run.commands[-1])
    assert about.pop("author") == "dashboard" and about.pop("command")
    return about


@pytest.mark.parametrize("several", [False, True])
def test_a_run_that_knows_nothing_of_it_shows_nothing_of_it(several, monkeypatch):
    run = FakeRun()
    if several:  # `Together` has the key
        monkeypatch.setattr(run, "status", lambda status=run.status: status() | {"foresight": None})
    dashboard = Dashboard(run)
    try:
        tabs = find(dashboard.widget, _model_name="TabModel")
        assert [tabs.get_title(i) for i in range(len(tabs.children))] == ["Logbook", "Timeline", "Diagnostics"]
        assert find(dashboard.widget, description="try").layout.display == "none"
        assert find(dashboard.widget, description="Cancel") is None
    finally:
        dashboard.close()


def test_the_button_beside_a_slider_tries_three_values_while_a_fit_goes_on(run, dashboard):
    button = next(box for box in boxes(dashboard.widget) if "babysit-momentum" in box.children[0]._dom_classes)
    button = find(button, description="try")
    assert button.layout.display is None and not button.disabled
    assert button.tooltip.startswith("tries a third of 1 − momentum, the same and three times as much from here, 200")
    button.click()
    assert last(run) == {"action": "fan", "name": "momentum"}
    run.state = "finished"
    until(lambda: button.disabled)


def test_values_are_tried_as_typed_and_chosen_by_the_run_where_none_are(run, dashboard):
    button, menu = find(dashboard.widget, description="Try"), find(dashboard.widget, **CHOICES)
    values, steps = (find(dashboard.widget, description=words) for words in ("values to try", "steps"))
    button.click()
    assert last(run) == {"action": "fan", "name": "learning_rate", "steps": 200}
    steps.value = 50
    for typed, numbers in [
        ("0.003, 0.01", [0.003, 0.01]),
        ("0,003; 0,01", [0.003, 0.01]),
        ("0.003,0.01", [0.003, 0.01]),
        ("1e-3 fast", [0.001, "fast"]),
    ]:
        values.value = typed
        button.click()
        assert last(run) == {"action": "fan", "name": "learning_rate", "steps": 50, "values": numbers}
    menu.value, values.value = "batch_size", "1,024, 64"
    button.click()
    assert last(run) == {"action": "fan", "name": "batch_size", "steps": 50, "values": [1024, 64]}


def test_a_range_test_is_of_a_learning_rate_and_nothing_is_tried_where_no_fit_goes_on(run, dashboard):
    run.values = {"momentum": 0.9, "learning_rate": 0.01}
    menu, test = find(dashboard.widget, **CHOICES), find(dashboard.widget, description="Range test")
    menu.value = "learning_rate"
    until(lambda: not test.disabled)
    test.click()
    assert last(run) == {"action": "lr_range_test", "name": "learning_rate"}
    menu.value = "momentum"
    until(lambda: test.disabled)
    assert not find(dashboard.widget, description="Try").disabled
    run.state = "stopped"
    until(lambda: find(dashboard.widget, description="Try").disabled)


def test_while_something_is_tried_the_rest_is_dimmed_and_it_can_be_cancelled(run, dashboard):
    buttons = [box for box in boxes(dashboard.widget) if find(box, description="Cancel")]
    above, below = (find(box, description="Cancel") for box in (buttons[1], buttons[-1]))
    assert above is not below and below.disabled and not shown(dashboard, "Cancel")
    run.not_finite = True  # of a trial
    run.foresight |= {"doing": {"words": "learning rate <0.03>, 2 of 3", "done": 0.454}}
    until(lambda: "Learning rate &lt;0.03&gt;, 2 of 3 · 45%" in find_message(dashboard))
    until(lambda: "babysit-trying" in dashboard.widget._dom_classes)
    until(lambda: not below.disabled and below.layout.visibility == "visible")
    assert find(dashboard.widget, description="Try").disabled
    assert "Rewind to a checkpoint" not in find_message(dashboard)
    for cancel in (above, below):
        cancel.click()
        assert last(run) == {"action": "cancel"}
    run.foresight = dict(QUIET)
    until(lambda: "babysit-trying" not in dashboard.widget._dom_classes and below.disabled)
    assert not shown(dashboard, "Cancel")
    assert len(run.commands) == 2


def test_nothing_is_being_tried_by_a_process_that_is_gone(run, dashboard):
    run.foresight |= {"doing": {"words": "learning rate 0.03, 2 of 3", "done": 0.45}}
    until(lambda: "babysit-trying" in dashboard.widget._dom_classes)
    run.state = "interrupted"
    until(lambda: "babysit-trying" not in dashboard.widget._dom_classes)


def test_a_trial_is_kept_or_none_and_after_that_nothing_can_be(run, dashboard):
    tabs = find(dashboard.widget, _model_name="TabModel")
    run.foresight |= {"result": fan(run)}
    until(lambda: tabs.get_title(tabs.selected_index) == "Foresight")
    assert "Choose below, under Foresight, which trial it goes on from, or none." in find_message(dashboard)
    assert not shown(dashboard, "Ignore")
    text = words(dashboard.widget)
    for part in ("Learning rate, tried from step 100", "&lt;0.01&gt;", ">best<", ">not finite<", ">–<"):
        assert part in text
    keep = [find(box, description="Keep") for box in boxes(dashboard.widget) if "babysit-row" in box._dom_classes]
    keep = [button for button in keep if button]
    assert [button.tooltip for button in keep] == [f"goes on from {value}" for value in ("0.003", "<0.01>", "0.03")]
    until(lambda: not keep[1].disabled)
    keep[1].click()
    assert last(run) == {"action": "keep", "branch": "branch 3"}
    find(dashboard.widget, description="Keep none").click()
    assert last(run) == {"action": "keep", "branch": None}
    tabs.selected_index = 0
    run.foresight |= {"result": run.foresight["result"] | {"open": False}}
    until(lambda: find(dashboard.widget, description="Keep") is None)
    assert find(dashboard.widget, description="Keep none") is None and "&lt;0.01&gt;" in words(dashboard.widget)
    assert tabs.selected_index == 0  # shown once
    assert len(run.commands) == 2


def test_a_result_from_before_is_no_news_unless_it_waits_for_an_answer(run):
    for is_open, tab in [(False, 0), (True, 2)]:
        run.foresight |= {"result": fan(run, open=is_open)}
        dashboard = Dashboard(run)
        assert find(dashboard.widget, _model_name="TabModel").selected_index == tab
        dashboard.close()


def test_a_cause_has_its_verdict(run, dashboard):
    run.foresight |= {"result": fan(run, kind="cause", verdict="It was the <batch>.")}
    until(lambda: "It was the &lt;batch&gt;." in words(dashboard.widget))


def test_a_suggestion_of_a_range_test_is_set_as_its_button_says(run, dashboard):
    tabs = find(dashboard.widget, _model_name="TabModel")
    run.foresight |= {"result": RANGE_TEST}
    until(lambda: tabs.get_title(tabs.selected_index) == "Foresight")
    button = until(lambda: find(dashboard.widget, description="valley 0.0123"))
    until(lambda: not button.disabled)
    button.click()
    about = {"action": "set", "changes": {"learning_rate": 0.0123}, "why": "range test: valley"}
    assert last(run) == about
    assert "the middle of the longest fall" in words(dashboard.widget)
    run.foresight |= {"doing": {"words": "learning rate 0.03, 2 of 3", "done": 0.45}}
    until(lambda: button.disabled)


def test_a_click_on_the_curve_sets_the_rate_there(run, dashboard):
    dashboard._page._on_report(None, {"visible": True}, [])
    run.foresight |= {"result": RANGE_TEST}
    axis = until(lambda: dashboard._page._page.rates)
    (first, end), (low, high) = axis["ends"], axis["limits"]
    assert axis["label"] == "learning rate" and 0 < first < 0.2 and 0.8 < end < 1
    assert low < RATES[0] < RATES[-1] < high < 2
    until(lambda: "A click on the curve" in words(dashboard.widget))
    dashboard._page._on_report(None, {"rate": 0.0345}, [])
    about = {"action": "set", "changes": {"learning_rate": 0.0345}, "why": "range test: chosen on the curve"}
    assert last(run) == about
    run.foresight |= {"result": fan(run, number=2)}
    until(lambda: dashboard._page._page.rates == {})


def test_a_range_test_that_suggests_nothing_says_so(run, dashboard):
    run.foresight |= {"result": RANGE_TEST | {"suggestions": {}, "verdict": "The loss did <not> fall."}}
    until(lambda: "The loss did &lt;not&gt; fall." in words(dashboard.widget))


def test_rules_are_chosen_and_those_in_effect_are_shown(run, dashboard):
    spike, plateau = (find(dashboard.widget, description=rule) for rule in ("spike", "plateau"))
    assert [find(dashboard.widget, description=rule).value for rule in RULES] == ["off"] * len(RULES)
    spike.value = "rewind and skip"
    assert last(run) == {"action": "watch", "rule": "spike", "then": "rewind and skip"}
    run.foresight |= {"rules": {"spike": "rewind and skip", "plateau": "tell", "my own": "tell"}}
    until(lambda: plateau.value == "tell")
    assert spike.value == "rewind and skip"
    plateau.value = "off"
    assert last(run) == {"action": "watch", "rule": "plateau", "then": None}
    run.enter("refuse", command=run.commands[-1]["command"], why="not <now>")
    until(lambda: plateau.value == "tell")
    until(lambda: "not &lt;now&gt;" in find_message(dashboard))
    assert len(run.commands) == 2


def test_the_newest_alert_is_shown_above_the_chart_and_answered(run, dashboard):
    spike = {"number": 3, "rule": "spike", "step": 1234, "words": "the loss <7.2> is 8.1 standard deviations above"}
    answers = {
        "Go back and leave out": {"action": "answer", "number": 3, "then": "rewind and skip"},
        "Halve the learning rate": {"action": "answer", "number": 3, "then": "halve the learning rate"},
        "Ignore": {"action": "answer", "number": 3, "then": "ignore"},
        "Show the cause": {"action": "cause", "step": 1234},
    }
    assert not any(shown(dashboard, button) for button in answers)
    run.foresight |= {"alerts": [spike]}
    until(
        lambda: (
            ">Spike at step 1,234: the loss &lt;7.2&gt; is 8.1 standard deviations above<" in find_message(dashboard)
        )
    )
    until(lambda: all(shown(dashboard, button) for button in answers))
    assert not shown(dashboard, "Cancel")
    for button, about in answers.items():
        find(dashboard.widget, description=button).click()
        assert last(run) == about
    plateau = {"number": 4, "rule": "plateau", "step": 2000, "words": "no lower loss"}
    run.foresight |= {"alerts": [spike, plateau]}
    until(lambda: "Plateau at step 2,000 (and 1 more): no lower loss" in find_message(dashboard))
    until(lambda: not shown(dashboard, "Show the cause"))
    run.foresight |= {"alerts": []}
    until(lambda: not shown(dashboard, "Ignore"))


def size(png):
    return imread(io.BytesIO(png)).shape[:2]


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_the_losses_of_the_trials_are_drawn(run, name):
    result = fan(run, by=name)
    assert size(draw_trials(RunSeries(run.log), result, 400, 2)) == (2 * HEIGHT, 800)
    result["trials"] *= 3  # as many as there may be, and more than there are colours
    draw_trials(RunSeries(run.log), result, 400, 1)


@pytest.mark.parametrize("losses", [[], [np.nan] * 5, [np.inf], [0.0] * 10, [1e30, 1e-30] * 5])
def test_trials_are_drawn_whatever_their_losses_are(run, losses):
    run.train([1.0] * 10)
    run.branch("branch 2", "branch 1", 10)
    run.train(losses)
    trial = {"words": "0.003 or $a very$ long value", "branch": "branch 2", "steps": len(losses)}
    draw_trials(RunSeries(run.log), {"step": 10, "by": "loss", "trials": [trial]}, 400, 1)


def test_the_loss_at_each_rate_is_drawn():
    assert size(draw_range_test(RANGE_TEST, 400, 1.5)) == (1.5 * HEIGHT, 600)
