"""The dashboard with a fake run: what it sends, and what it shows of a status and a log."""

import gc
import html
import re
import threading
import weakref
from importlib.metadata import version
from types import SimpleNamespace

import ipywidgets as widgets
import numpy as np
import pytest

from babysit.core.events import Branch, EpochEnd, Finished, Fit, Note, Refused, Resumed, Set
from babysit.core.journal import Entry
from babysit.core.runlog import RunLog, Steps
from babysit.ui.chart_toolbar import ChartToolbar
from babysit.ui.dashboard import Dashboard
from babysit.ui.figure import ChartFigure, View
from babysit.ui.run_series import RunSeries
from babysit.ui.sliders import HyperparameterSlider
from tests.patience import until


class FakeRun:
    """Obeys a command when `apply` is called, and remembers on which thread it was sent."""

    def __init__(self):
        self.commands, self.threads, self.log = [], [], RunLog()
        self.state, self.step, self.values = "running", 100, {"learning_rate": 0.01, "batch_size": 32, "momentum": 0.9}
        self.since_step = dict.fromkeys(self.values, 0)
        self.couplings = {"scaling": "off"}
        self.error = self.not_finite = self.pending = None
        self.checkpoints, self.line = {}, "branch 1"
        self.foresight = None  # as a run that knows nothing of it
        self.diagnostics = {"on": False, "unable": "", "every_s": 3.0, "share": 0.03, "latest": None}

    def send(self, command):
        self.threads.append(threading.current_thread())
        self.commands.append(command)

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
            "checkpoints": list(self.checkpoints.values()),
            "couplings": dict(self.couplings),
            "diagnostics": self.diagnostics,
            "pending": self.pending,
            **({"foresight": self.foresight} if self.foresight else {}),
        }

    @property
    def logs(self):
        return {"digits": self.log}

    def enter(self, action, command=None, why="", author="dashboard", about=None, file=None, **changes):
        kinds = {"set": Set(changes), "fit": Fit(changes=changes), "note": Note(about=about, file=file)}
        kinds |= {"refuse": Refused(), "resume": Resumed(), "finish": Finished()}
        return self.log.add(self.line, self.step, kinds[action], author=author, why=why, command=command, time=0.0).seq

    def branch(self, name, parent, step):
        self.line = name
        self.log.add(name, step, Branch(parent, self.log.seq), time=0.0)

    def checkpoint(self, step, folder, name=None, kept=""):
        row = {"folder": folder, "step": step, "name": name, "branch": self.line, "kept": "named" if name else kept}
        self.checkpoints = self.checkpoints | {folder: row}

    def train(self, losses):
        self.log.add_steps(self.line, Steps(0, self.line, self.log.tip(self.line) + 1, {"loss": np.array(losses)}))

    def apply(self, command):
        now = self.values | self.couplings
        changes = {name: (now[name], value) for name, value in command["changes"].items()}
        self.values |= {name: value for name, value in command["changes"].items() if name in self.values}
        self.couplings |= {name: value for name, value in command["changes"].items() if name in self.couplings}
        self.since_step |= dict.fromkeys(changes, self.step)
        self.enter("set", command["command"], **changes)


class Blank(ChartFigure):
    """A chart that costs no time: what is drawn is seen in `test_figure`."""

    def draw(self, view, *size):
        self.limits = view.zoom

    def frame(self):
        return {"png": b"a picture", "limits": self.limits}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("babysit.ui.dashboard.INTERVAL_S", 0.02)
    monkeypatch.setattr("babysit.ui.chart.ChartFigure", Blank)


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr("babysit.ui.chart.ChartFigure", ChartFigure)
    monkeypatch.setattr("babysit.ui.chart.FRAME_SHARE", 1.0)


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


def test_its_thread_ends_before_the_interpreter_does(run, monkeypatch):
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    dashboard = Dashboard(run)
    [act] = at_exit
    act()
    assert not dashboard._pump.is_alive()
    dashboard.close()


@pytest.mark.parametrize(("state", "shown"), [("paused", False), ("finished", True)])
def test_a_run_that_goes_on_or_that_a_page_shows_is_kept_in_memory(state, shown, monkeypatch):
    monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 0.05)
    run = FakeRun()
    run.state, held = state, weakref.ref(run)
    dashboard = Dashboard(run)
    reports(dashboard, visible=shown)
    asked = []
    monkeypatch.setattr(FakeRun, "status", lambda self, status=FakeRun.status: asked.append(1) or status(self))
    del run
    until(lambda: len(asked) > 5)
    gc.collect()
    assert held() is not None and dashboard._pump.is_alive()
    dashboard.close()


def test_a_run_that_has_ended_and_that_no_page_shows_is_released_and_the_pump_ends(monkeypatch):
    at_exit = []
    monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 0.05)
    monkeypatch.setattr("atexit.unregister", at_exit.append)
    run = FakeRun()
    dashboard, held = Dashboard(run), weakref.ref(run)
    reports(dashboard, visible=True, width=600, ratio=2)
    run.train([1.0] * 5)
    run.enter("finish", why="at last")
    run.state = "finished"
    del run
    until(lambda: "at last" in words(dashboard.widget))
    assert dashboard._pump.is_alive()
    reports(dashboard, visible=False)
    until(lambda: gc.collect() >= 0 and held() is None and not dashboard._pump.is_alive())
    assert at_exit == [dashboard._stop_pump]
    assert "At step 5" in words(dashboard.widget)
    assert "loads it from its folder" in find_message(dashboard)
    assert "babysit-watching" in dashboard.widget._dom_classes
    dashboard.close()


def test_replaced_sliders_and_a_closed_dashboard_are_removed_from_ipywidgets(run, monkeypatch):
    known = getattr(widgets.widget, "_instances", None)
    known = widgets.Widget.widgets if known is None else known  # ipywidgets 7
    before, status = set(known), run.status
    dashboard = Dashboard(run)
    count, old = len(known), find(dashboard.widget, description="batch size")
    bounds = {"low": 1, "high": 500, "kind": "log", "whole": True}
    extra = {"value": 0.5, "since": 0, "follows_schedule": False, "low": 0.0, "high": 1.0, "kind": "linear"}

    def narrowed(**more):
        found = status()
        found["hyperparameters"]["batch_size"] |= bounds
        return found | {"hyperparameters": found["hyperparameters"] | more}

    run.status = narrowed
    until(lambda: find(dashboard.widget, description="batch size") is not old)
    until(lambda: len(known) == count and old.comm is None)
    run.status = lambda: narrowed(**{"dropout.rate": extra | {"whole": False}})  # in a drawer
    until(lambda: find(dashboard.widget, description="dropout rate") is not None)
    run.status = narrowed
    until(lambda: find(dashboard.widget, description="dropout rate") is None and len(known) == count)
    dashboard.close()
    assert set(known) == before


def test_merely_shown_it_changes_and_sends_nothing(run, dashboard):
    run.values["learning_rate"] = 3e-4
    slider = find(dashboard.widget, description="learning rate")
    until(lambda: slider.value == 3e-4)
    assert find(dashboard.widget, description="batch size").value == 32
    assert find(dashboard.widget, description="momentum").value == 0.9
    assert run.commands == []


def test_a_slider_sends_a_command_and_then_shows_what_is_in_effect(run, dashboard):
    name, value = "batch_size", 256
    slider = find(dashboard.widget, description="batch size")
    slider.value = value
    assert [(c["action"], c["changes"], c["author"]) for c in run.commands] == [("set", {name: value}, "dashboard")]
    assert run.threads == [threading.current_thread()]
    until(lambda: "asked for" in words(dashboard.widget))
    run.step = 4200
    run.apply(run.commands[0])
    until(lambda: "in effect since step 4,200" in words(dashboard.widget))
    assert slider.value == value
    assert len(run.commands) == 1


def test_a_slider_moved_back_before_the_first_move_is_shown_sends_both():
    sent = []
    status = {"value": 0.9, "low": 0.0, "high": 0.9999, "kind": "log of 1−β", "whole": False}
    status |= {"since": 0, "follows_schedule": False}
    send = lambda action, changes, why: sent.append(changes["momentum"]) or str(len(sent))  # noqa: E731
    slider = HyperparameterSlider("momentum", status, send)
    control = find(slider.widget, description="momentum")
    control.value = 0.5
    slider.add(Entry(0, 0.0, "dashboard", "set", {"momentum": (0.9, 0.5)}, command="1"))  # obeyed, and not yet shown
    control.value = 0.9
    assert sent == [0.5, 0.9]


def test_a_slider_keeps_its_stops_and_shows_the_one_nearest_to_the_value_in_effect():
    sent = []
    status = {"value": 0.01, "low": 1e-6, "high": 1.0, "kind": "log", "whole": False}
    status |= {"since": 0, "follows_schedule": False}
    send = lambda action, changes, why: sent.append(changes["learning_rate"]) or "1"  # noqa: E731
    part = HyperparameterSlider("learning_rate", status, send)
    slider, exact = (find(part.widget, description=f"learning rate{words}") for words in ("", ", exactly"))
    stops = slider.options
    for value, nearest in [(0.0077, 0.008), (0.0000123, 0.0000125), (3e-9, 1e-6), (0.0, 1e-6), (7.0, 1.0)]:
        part.refresh(status | {"value": value})
        assert (slider.value, slider.options, float(exact.value)) == (nearest, stops, value)
    assert sent == []
    slider.value = 0.1
    assert sent == [0.1]


def test_what_a_callback_changes_at_each_step_is_one_line_of_the_logbook(run, dashboard):
    table = next(box for box in boxes(dashboard.widget) if "babysit-lines" in box._dom_classes).children[0]
    run.enter("set", momentum=(0.9, 0.8))
    for step in range(100, 200):
        run.step = step
        run.enter("set", author="WarmUp", learning_rate=(step, step + 1))
    until(lambda: "learning rate 100 → 200 in 100 steps" in html.unescape(table.value))
    assert table.value.count("<tr") == 2


def test_a_kernel_without_subshells_is_reported(run, monkeypatch):
    old = SimpleNamespace(kernel=SimpleNamespace(implementation_version="9.18.1"))  # IPython's
    monkeypatch.setattr("babysit.ui.widgets.get_ipython", lambda: old)
    dashboard = Dashboard(run)
    late = f"With ipykernel {version('ipykernel')}, sliders and buttons act when the running cell ends"
    assert late in words(dashboard.widget)
    dashboard.close()
    old.kernel._supports_kernel_subshells = True
    dashboard = Dashboard(run)
    assert "ipykernel" not in words(dashboard.widget)
    dashboard.close()


def test_a_refused_value_springs_back_and_says_why(run, dashboard):
    slider = find(dashboard.widget, description="momentum")
    slider.value = 0.5
    run.enter("refuse", command=run.commands[-1]["command"], why="not <now>")
    until(lambda: slider.value == 0.9)
    until(lambda: words(dashboard.widget).count("not &lt;now&gt;") >= 2)
    assert len(run.commands) == 1


def test_the_stops_of_the_learning_rate_are_tidy_and_an_exact_value_is_exact(run, dashboard):
    slider = find(dashboard.widget, description="learning rate")
    assert {0.001, 0.00125, 0.003, 0.01} < {value for _, value in slider.options}
    slider.value = 0.00125
    run.apply(run.commands[-1])
    box = find(dashboard.widget, description="learning rate, exactly")
    until(lambda: box.value == "0.00125")
    box.value = "3.14159265e-3"
    assert run.commands[-1]["changes"] == {"learning_rate": 3.14159265e-3}
    run.apply(run.commands[-1])
    until(lambda: slider.value == 0.003 and box.value == "0.00314159265")
    box.value = "fast"
    until(lambda: "“fast” is not a number" in words(dashboard.widget))
    box.value = "0,5"
    assert run.commands[-1]["changes"] == {"learning_rate": 0.5}
    assert len(run.commands) == 3
    run.apply(run.commands[-1])
    until(lambda: box.value == "0.5")
    box.value = "1/50"
    until(lambda: "“1/50” is not a number" in words(dashboard.widget))
    run.apply({"changes": {"momentum": 0.95}, "command": None})
    until(lambda: "momentum 0.9 → 0.95" in words(dashboard.widget))
    assert "not a number" in words(dashboard.widget)  # another slider was moved
    run.apply({"changes": {"learning_rate": 0.25}, "command": None})
    until(lambda: "not a number" not in words(dashboard.widget))


def test_a_change_from_elsewhere_moves_the_slider_and_is_shown_exactly(run, dashboard):
    run.apply({"changes": {"momentum": 0.9371, "batch_size": 100}, "command": None})
    for name, exactly, stop in [("momentum", "0.9371", 0.93), ("batch size", "100", 128)]:
        until(
            lambda name=name, exactly=exactly: find(dashboard.widget, description=f"{name}, exactly").value == exactly
        )
        until(lambda name=name, stop=stop: find(dashboard.widget, description=name).value == stop)
    assert run.commands == []


def test_the_batch_size_offers_powers_of_two_and_the_ends_of_what_the_data_allow(run, dashboard):
    slider = find(dashboard.widget, description="batch size")
    assert [value for _, value in slider.options] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1437]


def test_a_comma_in_a_batch_size_separates_thousands_where_it_may(run, dashboard):
    for typed, value in [("1,000", 1000), (" 1,024 ", 1024), ("2,5", 2.5)]:
        find(dashboard.widget, description="batch size, exactly").value = typed
        assert run.commands[-1]["changes"] == {"batch_size": value}


BUTTONS = {
    "running": {
        "Pause": {"action": "pause"},
        "Stop": {"action": "stop"},
        "Save checkpoint": {"action": "save", "name": None},
        "Start over": {"action": "rewind", "step": 0},
        "Markdown": {"action": "export", "kind": "logbook"},
        "CSV": {"action": "export", "kind": "history"},
        "script": {"action": "export", "kind": "script"},
        "model": {"action": "export", "kind": "model"},
    },
    "paused": {
        "Resume": {"action": "resume"},
        "Step": {"action": "run", "steps": 1},
        "Steps": {"action": "run", "steps": 100},
        "Finish epoch": {"action": "finish_epoch"},
        "More epochs": {"action": "more_epochs", "epochs": 10},
    },
}


def test_each_button_sends_its_command(run, dashboard):
    for run.state, buttons in BUTTONS.items():
        for label, action in buttons.items():
            button = until(lambda label=label: find(dashboard.widget, description=label))
            until(lambda button=button: not button.disabled)
            button.click()
            assert run.commands[-1].items() >= (action | {"author": "dashboard"}).items()


def test_rewind_goes_to_the_checkpoint_chosen_in_the_menu(run, dashboard):
    button = find(dashboard.widget, description="Rewind")
    run.checkpoint(0, "000000")
    run.checkpoint(70, "000070", "before the drop")
    run.checkpoint(90, "000090")
    menu = find(dashboard.widget, _model_name="DropdownModel")
    until(lambda: menu.value == "000070")
    words = ["step 90 · automatic", "step 70 · before the drop", "step 0 · automatic"]
    assert [label for label, _ in menu.options] == words
    menu.value = "000000"
    button.click()
    assert run.commands[-1].items() >= {"action": "rewind", "folder": "000000"}.items()


def layer(name, ratio=None, gradient=None):
    return {"name": name, "ratio": ratio, "gradient": gradient}


def test_diagnostics_are_switched_on_shown_and_described(run, dashboard):
    button = find(dashboard.widget, description="Measure")
    assert not button.disabled and "does not change its result" in words(dashboard.widget)
    button.click()
    assert run.commands[-1].items() >= {"action": "diagnostics", "on": True}.items()
    layers = [layer("<dense>", 0.00123, 0.5), layer("slow", 2e-5), layer("fast", 0.3), layer("still", 0.0)]
    signs = {"gradient_norm": 2.292, "layers": layers}
    run.diagnostics = run.diagnostics | {"on": True, "latest": {"step": 4200, "signs": signs}}
    until(lambda: "&lt;dense&gt;" in words(dashboard.widget))  # the table is written last
    assert button.description == "Stop measuring"
    text = words(dashboard.widget)
    for part in (
        "One step every 3 s, at most 3% of",
        "Measured at step 4,200.",
        "gradient norm, before any clipping <b>2.29</b>",
        "1.2e-03",
        "about 1e-3 is healthy",
    ):
        assert part in text
    assert [text.count(f"<em>{verdict}</em>") for verdict in ("", "low", "high")] == [1, 2, 1]
    button.click()
    assert run.commands[-1]["on"] is False
    run.diagnostics = run.diagnostics | {"unable": "It <cannot> be."}
    until(lambda: "It &lt;cannot&gt; be." in words(dashboard.widget))


def test_figures_are_words_a_person_reads(run, dashboard):
    text = words(dashboard.widget)
    for part in ("epoch 4 of 10", "step 100", "98,000 examples/s", "0:00:52 left", "&lt;digits&gt;", "running"):
        assert part in text
    progress = find(dashboard.widget, _model_name="FloatProgressModel")
    assert progress.value == pytest.approx((3 * 1437 + 64) / (10 * 1437))


def test_an_error_and_a_loss_that_is_not_finite_are_shown(run, dashboard):
    run.state, run.not_finite = "paused", True
    until(lambda: "not a finite number" in words(dashboard.widget))
    run.state, run.error = "failed", "Traceback …\nValueError: <shape>"
    until(lambda: "<summary>ValueError: &lt;shape&gt;</summary>" in words(dashboard.widget))


def test_the_numbers_go_on_when_the_drawing_fails(run, dashboard, monkeypatch):
    def broken(self, *size):
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr(Blank, "draw", broken)
        run.enter("note", why="hello")
        until(lambda: "could not be drawn" in words(dashboard.widget))
        run.step = 123
        until(lambda: "step 123" in words(dashboard.widget))
    run.enter("note", why="again")
    until(lambda: "could not be drawn" not in words(dashboard.widget))


def test_the_journal_is_shown_newest_first(run, dashboard):
    for i in range(70):
        run.enter("note", why=f"line {i} <b>")
    until(lambda: "line 69 &lt;b&gt;" in words(dashboard.widget))
    text = words(dashboard.widget)
    assert text.index("line 69") < text.index("line 10")
    assert "line 9 " not in text and "the newest 60 lines" in text


def test_a_reason_goes_with_the_last_change_and_the_box_is_emptied(run, dashboard):
    box, add = find(dashboard.widget, placeholder="why? (kept with the last change)"), "Add note"
    find(dashboard.widget, description=add).click()
    assert run.commands == []
    box.value = "let it settle"
    find(dashboard.widget, description=add).click()
    asked = {"action": "note", "author": "dashboard", "why": "let it settle", "on_last_change": True}
    assert run.commands[-1].items() >= asked.items()
    until(lambda: box.value == "")
    box.value = "and so it did"
    box._handle_custom_msg({"event": "submit"}, [])  # the Enter key
    assert run.commands[-1]["why"] == "and so it did" and len(run.commands) == 2


def test_a_line_has_the_mean_loss_of_200_steps_before_and_after(run, dashboard):
    losses = np.arange(700.0)
    run.train(losses[:500])
    run.step = 500
    run.apply({"changes": {"momentum": 0.95}, "command": None})
    run.train(losses[500:600])
    run.train(losses[600:])
    expected = f"<td>loss {np.mean(losses[300:500]):.0f} → {np.mean(losses[500:]):.0f}</td>"
    until(lambda: expected in words(dashboard.widget))


def test_the_last_change_is_undone_and_then_the_one_before(run, dashboard):
    undo = find(dashboard.widget, description="Undo last change")
    assert undo.disabled
    run.apply({"changes": {"momentum": 0.95, "learning_rate": 0.1}, "command": None})
    run.apply({"changes": {"batch_size": 64}, "command": None})
    until(lambda: not undo.disabled)
    for back in ({"batch_size": 32}, {"momentum": 0.9, "learning_rate": 0.01}):
        undo.click()
        assert run.commands[-1].items() >= {"action": "set", "changes": back}.items()
        run.apply(run.commands[-1])
        until(lambda back=back: undo.disabled == ("momentum" in back))
    assert len(run.commands) == 2


def test_reset_leads_back_to_the_value_of_the_start_or_to_the_schedule(run, dashboard):
    reset = find(dashboard.widget, tooltip="sets momentum back to 0.5, its value at the start")
    assert reset is None
    run.enter("fit", momentum=(None, 0.5), learning_rate=(None, 0.01))
    until(lambda: find(dashboard.widget, tooltip="sets momentum back to 0.5, its value at the start") is not None)
    reset = find(dashboard.widget, tooltip="sets momentum back to 0.5, its value at the start")
    until(lambda: not reset.disabled)
    assert find(dashboard.widget, tooltip="sets learning rate back to 0.01, its value at the start").disabled
    reset.click()
    assert run.commands[-1]["changes"] == {"momentum": 0.5}
    run.enter("set", learning_rate=("schedule", 0.02))
    until(
        lambda: (
            find(dashboard.widget, tooltip="sets learning rate back to schedule, its value at the start") is not None
        )
    )
    find(dashboard.widget, tooltip="sets learning rate back to schedule, its value at the start").click()
    assert run.commands[-1]["changes"] == {"learning_rate": "schedule"}


def test_couplings_are_switched_and_spring_back_when_refused(run, dashboard):
    scaling = find(dashboard.widget, description="learning rate when batch size changes")
    scaling.value = "linear"
    assert run.commands[-1]["changes"] == {"scaling": "linear"}
    run.apply(run.commands[-1])
    drawer = find(dashboard.widget, _model_name="AccordionModel")
    until(lambda: drawer.get_title(0) == "coupling: learning rate follows batch size, linear")
    scaling.value = "square root"
    run.enter("refuse", command=run.commands[-1]["command"], why="no such rule")
    until(lambda: scaling.value == "linear")
    until(lambda: "no such rule" in find_message(dashboard))
    assert len(run.commands) == 2


def test_derived_numbers_follow_the_values_in_effect(run, dashboard):
    assert "learning rate ÷ (1 − momentum)</span><span>0.1<" in words(dashboard.widget)
    run.apply({"changes": {"batch_size": 100}, "command": None})
    until(lambda: "learning rate ÷ batch size</span><span>0.0001<" in words(dashboard.widget))


def test_what_the_user_has_chosen_stays_chosen_when_the_lists_grow(run, dashboard):
    run.checkpoint(0, "000001")
    run.checkpoint(10, "000002")
    run.checkpoint(20, "000003")
    menu, tree = (
        find(dashboard.widget, description=f"{name}")
        for name in ("checkpoint to rewind to", "branches and checkpoints")
    )
    until(lambda: len(menu.options) == 3 and len(tree.options) == 4)
    run.step = 1234
    until(lambda: "step 1,234" in words(dashboard.widget))  # so that the lists are complete
    menu.value, tree.value = "000002", tree.options[2][1]
    run.checkpoint(30, "000004")
    until(lambda: len(menu.options) == 4 and len(tree.options) == 5)
    until(lambda: (menu.value, tree.value.folder) == ("000002", "000002"))
    assert run.commands == []


def test_a_place_of_the_timeline_is_chosen_read_named_deleted_and_rewound_to(run, dashboard):
    run.train(np.full(50, 2.0))
    run.checkpoint(50, "000001")
    run.train(np.full(50, 1.0))
    run.log.add("branch 1", 50, EpochEnd(1, {"loss": 2.0, "val_loss": 3.0}))
    run.branch("branch 2", "branch 1", 50)
    tree = find(dashboard.widget, description="branches and checkpoints")
    until(lambda: len(tree.options) == 3)
    assert [label.strip() for label, _ in tree.options] == [
        "branch 1",
        "• step 50 · automatic",
        "└ branch 2 (current), left branch 1 at step 50",
    ]
    until(lambda: tree.label.strip().startswith("└ branch 2"))  # nobody has chosen another one
    tree.value = tree.options[1][1]
    until(lambda: "branch 1 · step 50" in words(dashboard.widget))
    assert "loss 2 · after epoch 1: loss 2, val loss 3" in words(dashboard.widget)
    back, keep = (find(dashboard.widget, description=name) for name in ("Rewind there", "hyperparameters"))
    back.click()
    asked = {"action": "rewind", "folder": "000001", "hyperparameters": "checkpoint"}
    assert run.commands[-1].items() >= asked.items()
    keep.value = "keep"
    find(dashboard.widget, description="step").value = "1,234"
    back.click()
    asked = {"step": 1234, "branch": "branch 1", "hyperparameters": "keep"}
    assert run.commands[-1].items() >= asked.items() and "folder" not in run.commands[-1]
    find(dashboard.widget, description="step").value = "12.5"
    back.click()  # and the run says that this is no step
    assert run.commands.pop()["step"] == "12.5"

    find(dashboard.widget, description="name of the checkpoint").value = " good "
    find(dashboard.widget, description="Name").click()
    assert run.commands[-1].items() >= {"action": "rename", "folder": "000001", "name": "good"}.items()
    run.line = "branch 1"
    run.checkpoint(50, "000001", name="good")
    until(lambda: tree.label.strip() == "• step 50 · good")  # still the one chosen
    delete = find(dashboard.widget, description="Delete")
    delete.click()
    until(lambda: delete.description == "Delete it for good")
    tree.value = tree.options[0][1]
    until(lambda: delete.description == "Delete")  # another place: the question is taken back
    tree.value = tree.options[1][1]
    until(lambda: not delete.disabled)
    delete.click()
    delete.click()  # too fast to have read the question
    assert len(run.commands) == 3
    until(lambda: delete.description == "Delete it for good")
    delete.click()
    assert run.commands[-1].items() >= {"action": "delete", "folder": "000001"}.items()
    run.checkpoints = {}
    until(lambda: len(tree.options) == 2 and tree.label == "branch 1")
    assert len(run.commands) == 4
    until(lambda: delete.description == "Delete" and delete.disabled)


def boxes(widget):
    """Whatever holds other widgets, from the outermost on."""
    if children := getattr(widget, "children", ()):
        yield widget
        for child in children:
            yield from boxes(child)


def test_a_note_about_an_entry_is_shown_as_its_reason_and_any_other_as_a_note(run, dashboard):
    change = run.enter("set", momentum=(0.9, 0.95), why="flat")
    run.enter("set", author="WarmUp", learning_rate=(0.01, 0.02))
    run.enter("note", about=change, why="nor did <it>")
    table = next(box for box in boxes(dashboard.widget) if "babysit-lines" in box._dom_classes).children[0]
    until(lambda: "momentum 0.9 → 0.95</span> — flat; nor did &lt;it&gt;</td>" in table.value)
    assert table.value.count("<tr") == 2
    run.enter("note", about=10_000, why="on momentum 0.9 → 0.95 at step 100: of nothing known")
    until(lambda: table.value.count("<tr") == 3 and "note — on momentum" in table.value)


def test_a_file_that_was_written_is_reported_above_the_chart_until_something_else_is_done(run, dashboard):
    run.enter("note", why="whatever it says", file="/there/chart.png")
    until(lambda: "written to /there/chart.png" in find_message(dashboard))
    assert "whatever it says" not in words(dashboard.widget)
    run.enter("note", why="chart.png written to somewhere")
    until(lambda: "note — chart.png written to somewhere" in words(dashboard.widget))
    until(lambda: "written" not in find_message(dashboard))


def test_a_step_that_is_long_in_coming_after_a_change_is_said_to_be_compiled(run, dashboard):
    run.apply({"changes": {"momentum": 0.95}, "command": None})
    until(lambda: "being compiled again" in find_message(dashboard))
    run.step += 1
    until(lambda: "compiled" not in find_message(dashboard))


def find_message(dashboard):
    return words(next(box for box in boxes(dashboard.widget) if "babysit-message" in box._dom_classes))


def test_the_tab_shows_the_state(run, dashboard):
    for run.state, run.not_finite, title in [
        ("running", False, "▶ 30% · <digits>"),
        ("paused", True, "⚠ NaN 30% · <digits>"),
        ("failed", False, "⚠ FAILED · <digits>"),
    ]:
        until(lambda title=title: dashboard._page._page.title == title)


def test_a_command_that_takes_long_is_shown_in_place_of_the_state(run, dashboard):
    shown = lambda: re.findall(r"babysit-pill babysit-(\S+)\" role=\"status\".*?>(.*?)<", words(dashboard.widget))  # noqa: E731
    until(lambda: shown() == [("running", "running")])
    run.pending = {"action": "rewind", "command": "dashboard 1"}
    until(lambda: shown() == [("waiting", "rewinding")])
    run.pending = {"action": "set", "command": "dashboard 2"}
    until(lambda: shown() == [("waiting", "waiting")])
    run.pending = None
    until(lambda: shown() == [("running", "running")])


def test_while_it_runs_and_only_then_the_page_hears_again_and_again_that_the_kernel_is_there(run, monkeypatch):
    monkeypatch.setattr("babysit.ui.chart_view.BEAT_S", 0.05)
    dashboard = Dashboard(run)
    page, beats = dashboard._page._page, set()
    page.observe(lambda change: beats.add((change["new"], threading.current_thread())), "beat")
    until(lambda: len(beats) > 5)
    assert {thread.name for _, thread in beats} == {"babysit-pump"} and all(beat for beat, _ in beats)
    for run.state in ("paused", "finished"):
        until(lambda: page.beat == 0)
    dashboard.close()


def test_whatever_a_file_calls_the_state_of_its_run_is_shown_as_text(run, dashboard):
    run.state = '"><img src=x onerror=alert(1)>'
    until(lambda: "alert(1)" in words(dashboard.widget))
    assert "<img src=x" not in words(dashboard.widget)
    assert '"><img' not in words(dashboard.widget)


def test_only_the_pump_writes_and_it_writes_nothing_when_nothing_changed(run, dashboard):
    written = []
    for widget in (find(dashboard.widget, _model_name=name) for name in ("ImageModel", "SelectionSliderModel")):
        widget.observe(lambda change: written.append((change, threading.current_thread())))
    calls = []
    status = run.status
    run.status = lambda: calls.append(threading.current_thread()) or status()
    until(lambda: len(calls) > 4)
    assert written == []
    run.values["learning_rate"] = 0.5
    until(lambda: written)
    assert {thread.name for _, thread in written} == {thread.name for thread in calls} == {"babysit-pump"}


def reports(dashboard, **report):
    """The page's script sends a message."""
    dashboard._page._on_report(None, report, [])


def frame(dashboard):
    return dashboard._page._page.frame


def test_a_plain_image_serves_until_a_page_reports_and_what_it_confirmed_is_followed_by_the_next(
    run, drawn, monkeypatch
):
    monkeypatch.setattr("babysit.ui.chart_view.UNHEARD_S", 1e9)
    dashboard = Dashboard(run)
    try:
        image = find(dashboard.widget, _model_name="ImageModel")
        old = image.value
        run.train([1.0] * 20)
        until(lambda: image.value not in (b"", old))
        assert image.value == frame(dashboard)["png"]
        reports(dashboard, visible=True, width=600, ratio=2)
        until(lambda: frame(dashboard)["size"][0] == 600 and image.layout.display == "none")
        assert image.value == b""
        shown = frame(dashboard)
        run.train([0.5] * 20)
        run.step = 4321
        until(lambda: "step 4,321" in words(dashboard.widget))  # words go on
        assert frame(dashboard) is shown
        reports(dashboard, drawn=True)
        until(lambda: frame(dashboard) is not shown)
    finally:
        dashboard.close()


def test_where_no_page_is_visible_nothing_is_drawn_until_one_is(run, drawn, monkeypatch):
    monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 0.05)
    dashboard = Dashboard(run)
    try:
        reports(dashboard, visible=True, width=600, ratio=2)
        until(lambda: frame(dashboard)["size"][0] == 600)
        reports(dashboard, visible=False)
        shown, seen = frame(dashboard), []
        run.train([0.5] * 20)
        run.step = 4321
        until(lambda: "step 4,321" in words(dashboard.widget))  # words go on, seldom
        assert frame(dashboard) is shown
        monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 1e9)
        until(lambda: dashboard._next_refresh > 1e8)
        monkeypatch.setattr(run, "status", lambda status=run.status: seen.append(1) or status())
        reports(dashboard, visible=True)
        until(lambda: seen and frame(dashboard) is not shown)
    finally:
        dashboard.close()


def test_frames_wait_until_the_sliders_rest(run, drawn, dashboard, monkeypatch):
    reports(dashboard, visible=True, width=600, ratio=2)
    until(lambda: frame(dashboard)["size"][0] == 600)
    monkeypatch.setattr("babysit.ui.chart.REST_S", 1e9)
    shown = frame(dashboard)
    find(dashboard.widget, description="learning rate").value = 0.02
    run.apply(run.commands[-1])
    run.enter("set", command=run.commands[-1]["command"], learning_rate=(0.01, 0.02))
    run.since_step["learning_rate"] = 100
    run.train([0.5] * 20)
    run.step = 4321
    until(lambda: "in effect since step 100" in words(dashboard.widget) and "step 4,321" in words(dashboard.widget))
    assert frame(dashboard) is shown
    monkeypatch.setattr("babysit.ui.chart.REST_S", 0)
    until(lambda: frame(dashboard) is not shown)


def test_the_page_zooms_and_rewinds(run, drawn, dashboard):
    run.train([1.0] * 50)
    reports(dashboard, zoom=[10.4, 20.6])
    until(lambda: frame(dashboard)["limits"] == (10.4, 20.6))
    reports(dashboard, zoom=None)
    until(lambda: frame(dashboard)["limits"] == (0, 50))
    assert run.commands == []
    reports(dashboard, rewind=12)
    assert run.commands[-1].items() >= {"action": "rewind", "step": 12, "author": "dashboard"}.items()


def test_the_toolbar_makes_a_view_of_what_was_chosen(run):
    woken, bar, series = [], ChartToolbar(run.send, lambda: woken.append(1)), RunSeries(run.log)
    assert bar.view(series) == View()
    chosen = {"smoothing": 0.9, "y": False, "steps shown": 1000}
    for description, value in chosen.items():
        find(bar.widget, description=description).value = value
    assert len(woken) == 3
    assert bar.view(series) == View(smoothing=0.9, log=False, last=1000)
    run.log.add("branch 1", 0, Fit(values={"learning_rate": 0.1, "momentum": 0.9}))
    assert bar.view(series).hyperparameter == "learning_rate"  # the first one
    menu = find(bar.widget, description="hyperparameter")
    assert menu.options[1:] == (("momentum", "momentum"), ("no hyperparameter", ""))
    menu.value = ""
    assert bar.view(series).hyperparameter == ""


def test_what_is_chosen_is_drawn_described_and_written_to_a_file(run, drawn, dashboard):
    run.train([1.0] * 10)
    image = find(dashboard.widget, _model_name="ImageModel")
    reports(dashboard, visible=None)  # wakes the pump
    before = image.value
    find(dashboard.widget, description="y").value = False
    until(lambda: image.value != before)
    find(dashboard.widget, description="SVG").click()
    until(lambda: run.commands)
    assert (run.commands[0]["kind"], run.commands[0]["content"][:5]) == ("chart.svg", b"<?xml")


def test_what_could_not_be_written_is_written_the_next_time(run, dashboard, monkeypatch):
    real, failed = RunSeries.losses, []

    def losses(series, entries):
        if entries and not failed:
            failed.append(entries)
            raise RuntimeError("no words")
        return real(series, entries)

    monkeypatch.setattr(RunSeries, "losses", losses)
    run.checkpoint(7, "000001", name="good")
    run.enter("note", why="hello")
    until(lambda: "hello" in words(dashboard.widget))
    assert failed
    assert find(dashboard.widget, _model_name="DropdownModel").options == (("step 7 · good", "000001"),)
    until(lambda: "could not be drawn" not in words(dashboard.widget))
