"""The dashboard against a run that is none: three calls in plain data, as `Run` says."""

import threading
import time

import pytest

import babysit.ui.dashboard
from babysit.ui.dashboard import Dashboard

TABLES = ("entries", "blocks", "epochs", "branches", "checkpoints")


class FakeRun:
    """Obeys a command when told to, and remembers on which thread it was handed over."""

    def __init__(self):
        self.commands, self.threads, self.rows = [], [], []
        self.state, self.step, self.values = "running", 100, {"learning_rate": 0.01, "batch_size": 32, "momentum": 0.9}
        self.since_step = dict.fromkeys(self.values, 0)
        self.error = self.not_finite = None

    def send(self, command):
        self.threads.append(threading.current_thread())
        self.commands.append({**command, "command": str(len(self.commands) + 1)})
        return self.commands[-1]["command"]

    def status(self):
        bounds = {
            "learning_rate": {"low": 1e-6, "high": 1.0, "kind": "log", "whole": False},
            "batch_size": {"low": 1, "high": 1437, "kind": "log", "whole": True},
            "momentum": {"low": 0.0, "high": 0.9999, "kind": "log of 1−β", "whole": False},
        }
        found = {
            n: {"value": v, "since": self.since_step[n], "follows_schedule": False, **bounds[n]}
            for n, v in self.values.items()
        }
        return {
            "name": "<digits>",
            "state": self.state,
            "step": self.step,
            "epoch": 3,
            "epochs": 10,
            "examples_done": 64,
            "examples_an_epoch": 1437,
            "branch": "branch 1",
            "loss": 0.5,
            "not_finite": bool(self.not_finite),
            "hyperparameters": found,
            "examples_a_second": 98_412.0,
            "seconds_left": 52.3,
            "error": self.error,
            "warning": None,
            "remarks": [],
            "couplings": {},
        }

    def since(self, cursor):
        new = [(table, {"seq": i + 1, **row}) for i, (table, row) in enumerate(self.rows) if i >= cursor]
        return {name: [row for table, row in new if table == name] for name in TABLES}, len(self.rows)

    def enter(self, action, command=None, why="", **changes):
        row = {"step": self.step, "time": 0.0, "author": "dashboard", "action": action, "changes": changes, "over": 1}
        self.rows.append(("entries", {**row, "why": why, "branch": "branch 1", "command": command}))

    def apply(self, command):
        changes = {name: (self.values[name], value) for name, value in command["changes"].items()}
        self.values |= command["changes"]
        self.since_step |= dict.fromkeys(changes, self.step)
        self.enter("set", command["command"], **changes)


@pytest.fixture
def run():
    return FakeRun()


@pytest.fixture
def dashboard(run):
    dashboard = Dashboard(run)
    yield dashboard
    dashboard.close()
    dashboard.close()


def find(widget, **traits):
    """The first widget below this one with such traits."""
    if all(getattr(widget, name, None) == value for name, value in traits.items()):
        return widget
    children = (find(child, **traits) for child in getattr(widget, "children", ()))
    return next((child for child in children if child is not None), None)


def words(widget):
    own = [getattr(widget, "value", "")] if isinstance(getattr(widget, "value", ""), str) else []
    return " ".join(own + [words(child) for child in getattr(widget, "children", ())])


def eventually(condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_merely_shown_it_changes_and_sends_nothing(run, dashboard):
    run.values["learning_rate"] = 3e-4
    slider = find(dashboard.widget, description="learning rate")
    eventually(lambda: slider.value == 3e-4)
    assert find(dashboard.widget, description="batch size").value == 32
    assert find(dashboard.widget, description="momentum").value == 0.9
    assert run.commands == []


@pytest.mark.parametrize(
    ("label", "name", "value"),
    [("learning rate", "learning_rate", 0.05), ("batch size", "batch_size", 256), ("momentum", "momentum", 0.5)],
)
def test_a_slider_hands_over_a_command_and_then_shows_what_is_in_effect(run, dashboard, label, name, value):
    slider = find(dashboard.widget, description=label)
    slider.value = value
    assert [(c["action"], c["changes"], c["author"]) for c in run.commands] == [("set", {name: value}, "dashboard")]
    assert run.threads == [threading.current_thread()]
    eventually(lambda: "asked for" in words(dashboard.widget))
    run.step = 4200
    run.apply(run.commands[0])
    eventually(lambda: "in effect since step 4,200" in words(dashboard.widget))
    assert slider.value == value
    assert len(run.commands) == 1


def test_a_refused_value_springs_back_and_says_why(run, dashboard):
    slider = find(dashboard.widget, description="momentum")
    slider.value = 0.5
    run.enter("refuse", command="1", why="not <now>")
    eventually(lambda: slider.value == 0.9)
    eventually(lambda: words(dashboard.widget).count("not &lt;now&gt;") >= 2)
    assert len(run.commands) == 1


def test_the_stops_of_the_learning_rate_are_tidy_and_an_exact_value_is_exact(run, dashboard):
    slider = find(dashboard.widget, description="learning rate")
    assert {0.001, 0.00125, 0.003, 0.01} < {value for _, value in slider.options}
    slider.value = 0.00125
    run.apply(run.commands[-1])
    box = find(dashboard.widget, tooltip="learning rate, exactly")
    eventually(lambda: box.value == "0.00125")
    box.value = "3.14159265e-3"
    assert run.commands[-1]["changes"] == {"learning_rate": 3.14159265e-3}
    run.apply(run.commands[-1])
    eventually(lambda: slider.value == 3.14159265e-3 and box.value == "0.00314159265")
    box.value = "fast"
    eventually(lambda: "“fast” is not a number" in words(dashboard.widget))
    box.value = "0,5"
    assert run.commands[-1]["changes"] == {"learning_rate": 0.5}
    assert len(run.commands) == 3


def test_a_change_from_elsewhere_moves_the_slider_even_between_its_stops(run, dashboard):
    run.apply({"changes": {"momentum": 0.9371, "batch_size": 100}, "command": None})
    eventually(lambda: find(dashboard.widget, description="momentum").value == 0.9371)
    eventually(lambda: find(dashboard.widget, description="batch size").value == 100)
    assert run.commands == []


def test_the_batch_size_offers_powers_of_two_within_the_data_and_the_value_in_effect(run, dashboard):
    run.apply({"changes": {"batch_size": 100}, "command": None})
    slider = find(dashboard.widget, description="batch size")
    eventually(lambda: slider.value == 100)
    assert [value for _, value in slider.options] == [1, 2, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1024]


@pytest.mark.parametrize(
    ("label", "state", "action"),
    [
        ("Pause", "running", {"action": "pause"}),
        ("Resume", "paused", {"action": "resume"}),
        ("Step", "paused", {"action": "run", "steps": 1}),
        ("Stop", "running", {"action": "stop"}),
        ("Save checkpoint", "running", {"action": "save", "name": None}),
    ],
)
def test_each_button_hands_over_its_command(run, dashboard, label, state, action):
    run.state = state
    eventually(lambda: find(dashboard.widget, description=label) is not None)
    button = find(dashboard.widget, description=label)
    eventually(lambda: not button.disabled)
    button.click()
    assert run.commands[-1].items() >= (action | {"author": "dashboard"}).items()


def test_rewind_goes_to_the_checkpoint_chosen_in_the_menu(run, dashboard):
    button = find(dashboard.widget, description="Rewind")
    assert button.disabled
    for step, name in ((0, None), (70, "before the drop")):
        row = {"step": step, "name": name, "folder": f"{step:06}", "branch": "branch 1", "digest": "", "time": 0}
        run.rows.append(("checkpoints", row))
    menu = find(dashboard.widget, _model_name="DropdownModel")
    eventually(lambda: menu.value == "000070")
    assert [label for label, _ in menu.options] == ["before the drop", "automatic · step 0"]
    menu.value = "000000"
    button.click()
    assert run.commands[-1].items() >= {"action": "rewind", "folder": "000000"}.items()


def test_figures_are_words_a_person_reads(run, dashboard):
    text = words(dashboard.widget)
    for part in ("epoch 4 of 10", "step 100", "98,000 examples/s", "0:52 left", "&lt;digits&gt;", "running"):
        assert part in text
    progress = find(dashboard.widget, _model_name="FloatProgressModel")
    assert progress.value == pytest.approx((3 * 1437 + 64) / (10 * 1437))


def test_an_error_and_a_loss_that_is_not_finite_are_told(run, dashboard):
    run.state, run.not_finite = "paused", True
    eventually(lambda: "not a finite number" in words(dashboard.widget))
    run.state, run.error = "failed", "Traceback …\nValueError: <shape>"
    eventually(lambda: "<summary>ValueError: &lt;shape&gt;</summary>" in words(dashboard.widget))


def test_the_numbers_go_on_when_the_drawing_fails(run, dashboard, monkeypatch):
    def broken(self):
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr("babysit.ui.curves.Curves.png", broken)
        run.enter("note", why="hello")
        eventually(lambda: "could not be drawn" in words(dashboard.widget))
        run.step = 123
        eventually(lambda: "step 123" in words(dashboard.widget))
    run.enter("note", why="again")
    eventually(lambda: "could not be drawn" not in words(dashboard.widget))


def test_the_last_lines_of_the_journal_are_shown_newest_first(run, dashboard):
    for i in range(9):
        run.enter("note", why=f"line {i} <b>")
    eventually(lambda: "line 8 &lt;b&gt;" in words(dashboard.widget))
    text = words(dashboard.widget)
    assert text.index("line 8") < text.index("line 4")
    assert "line 2" not in text


def test_only_the_pump_writes_and_it_writes_nothing_when_nothing_changed(run, dashboard):
    written = []
    for widget in (find(dashboard.widget, _model_name=name) for name in ("ImageModel", "SelectionSliderModel")):
        widget.observe(lambda change: written.append((change, threading.current_thread())))
    calls = []
    status = run.status
    run.status = lambda: calls.append(threading.current_thread()) or status()
    eventually(lambda: len(calls) > 4)
    assert written == []
    run.values["learning_rate"] = 0.5
    eventually(lambda: written)
    assert {thread.name for _, thread in written} == {thread.name for thread in calls} == {"babysit-pump"}


def test_whatever_stands_in_the_journal_is_shown(run, dashboard):
    run.enter("note", why=5)
    run.rows[-1][1]["author"] = 7
    eventually(lambda: "note — 5" in words(dashboard.widget) and "<td>7</td>" in words(dashboard.widget))
    run.enter("note", why="later")
    eventually(lambda: "later" in words(dashboard.widget))


def test_what_could_not_be_written_is_written_the_next_time(run, dashboard, monkeypatch):
    real, failed = babysit.ui.dashboard.describe, []

    def describe(entry):
        if not failed:
            failed.append(entry)
            raise RuntimeError("no words")
        return real(entry)

    monkeypatch.setattr("babysit.ui.dashboard.describe", describe)
    checkpoint = {"step": 7, "name": "good", "folder": "000001", "branch": "branch 1", "digest": "", "time": 0.0}
    run.rows.append(("checkpoints", checkpoint))
    run.enter("note", why="hello")
    eventually(lambda: "hello" in words(dashboard.widget))
    assert failed
    assert find(dashboard.widget, _model_name="DropdownModel").options == (("good", "000001"),)
    eventually(lambda: "could not be drawn" not in words(dashboard.widget))
