"""The board with a fake search: what it shows of it, what it asks of it, and what it draws."""

import gc
import io
import json
import threading
import weakref
from dataclasses import asdict

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from babysit.core.scale import Scale
from babysit.ui import theme
from babysit.ui.board import Board, typed_changes
from babysit.ui.board_figure import HEIGHT, draw_curves, draw_parallel, parallel_axes
from tests.patience import until


class FakeSearch:
    """Runs that are what they are told to be; a part of its text runs in the browser's notebook too."""

    def __init__(self, runs=3, epochs=10):
        self.commands, self.remarks, self.state, self.epochs = [], [], "running", epochs
        self.table, self.asked = {}, 0
        rng = np.random.default_rng(0)
        for i in range(runs):
            found = {
                "learning_rate": float(10 ** rng.uniform(-4, 0)),
                "units": int(rng.integers(16, 129)),
                "momentum": float(1 - 10 ** rng.uniform(-3, -0.3)),
                "activation": ["relu", "tanh", "elu"][int(rng.integers(3))],
            }
            self.add(f"run {i + 1}", hyperparameters=found)

    def add(self, name, **about):
        row = {"name": name, "state": "waiting", "step": 0, "epoch": 0, "epochs": self.epochs, "hyperparameters": {}}
        row |= {"values": [], "latest": None, "best": None, "examples_a_second": None, "error": "", "of": ""}
        self.table = {**self.table, name: row | about}

    def change(self, name, **about):
        self.table = {**self.table, name: self.table[name] | about}

    def train(self, name, *values):
        now = [*self.table[name]["values"], *values]
        finite = [value for value in now if np.isfinite(value)]
        about = {"state": "running", "epoch": len(now), "step": 45 * len(now), "examples_a_second": 41_234.0}
        self.change(name, values=now, latest=finite[-1], best=min(finite, default=None), **about)

    def rows(self):
        return [dict(row) for row in self.table.values()]

    def status(self):
        self.asked += 1
        done = sum(row["state"] in ("finished", "stopped", "pruned", "failed") for row in self.table.values())
        space = {
            "learning_rate": {"low": 1e-4, "high": 1.0, "kind": "log", "whole": False, "zero": False},
            "units": {"low": 16, "high": 128, "kind": "linear", "whole": True, "zero": False},
            "momentum": {"low": 0.5, "high": 0.999, "kind": "log of 1−β", "whole": False, "zero": False},
            "activation": {"choices": ["relu", "tanh", "elu"]},
        }
        facts = {"title": "search in runs/search", "by": "val_loss", "highest": False, "state": self.state}
        counts = {"done": done, "trials": len(self.table), "seconds_left": 130.0}
        known = {name: row["best"] for name, row in self.table.items() if row["best"] is not None}
        best = min(known, key=known.get, default=None)
        return facts | counts | {"remarks": list(self.remarks), "space": space, "best": best}

    def send(self, command):
        self.commands.append(command)

    def __getitem__(self, name):
        return name

    def together(self, *names):
        return " and ".join(names)


class Dashboard:
    """Stands in for the dashboard of one run, or of several."""

    def __init__(self, shown):
        self.widget = widgets.HTML(f"the dashboard of {shown}")

    def close(self):
        self.widget.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("babysit.ui.board.INTERVAL_S", 0.02)
    monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 0.05)
    monkeypatch.setattr("babysit.ui.board.Dashboard", Dashboard)


@pytest.fixture
def blank(monkeypatch):
    """What rows and colours each picture was drawn from; it costs no time."""
    drawn = []
    monkeypatch.setattr(
        "babysit.ui.board.draw_curves", lambda *about: drawn.append(about) or {"png": bytes(len(drawn))}
    )
    monkeypatch.setattr("babysit.ui.board.draw_parallel", lambda *about: b"lines")
    return drawn


@pytest.fixture
def search():
    return FakeSearch()


@pytest.fixture
def page(search, blank):
    with Page(search) as page:
        yield page


class Page:
    """A page that shows a board: what it has been sent, and what it has of the runs."""

    def __init__(self, search):
        self.search, self.board, self.messages, self.threads = weakref.proxy(search), Board(search), [], set()
        self.rows, self.order, self.pictures, self.confirms = {}, [], 0, True
        self.board._table.send = self._receive
        self.board._chart._page.observe(self._draw, "frame")
        self.board._on_new_page()
        self.report(visible=True, width=640, ratio=1.0)
        until(lambda: self.pictures)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.board.close()
        self.board.close()

    def report(self, **about):
        self.board._chart._on_report(None, about, [])

    def choose(self, *names):
        self.board._table.chosen = list(names)

    def button(self, name):
        return self.board._buttons[name]

    def click(self, name):
        until(lambda: not self.button(name).disabled)
        self.button(name).click()

    def _receive(self, message):
        json.dumps(message, allow_nan=False)
        self.messages.append(message)
        self.threads.add(threading.current_thread().name)
        self.rows |= {row["name"]: [words for words, _ in row["cells"]] for row in message["rows"]}
        self.order = message["order"]

    def _draw(self, _):
        self.pictures += 1
        if self.confirms:
            self.report(drawn=True)

    def settle(self):
        """Returns after some refreshes that sent nothing."""
        sent = -1
        while sent != len(self.messages):
            sent, asked = len(self.messages), self.search.asked
            until(lambda asked=asked: self.search.asked > asked + 4)


def test_a_page_is_sent_all_rows_and_the_status(search, page):
    assert page.order == list(search.table) == list(page.rows)
    names = ["learning rate", "units", "momentum", "activation"]
    assert page.board._table.columns == ["run", "state", "step", *names, "val loss", "best val loss", "examples/s"]
    assert page.rows["run 2"][6] == search.table["run 2"]["hyperparameters"]["activation"]
    assert page.board._progress.value == 0
    search.change("run 1", state="failed")
    until(lambda: "1 of 3 runs done" in page.board._figures.value and page.board._progress.value == 1 / 3)
    assert "0:02:10 left" in page.board._figures.value
    assert page.threads == {"babysit-pump"}


def test_what_is_shown_of_a_run(search, page):
    search.train("run 1", 0.5, 0.25)
    search.train("run 2", 0.1234567)
    search.add("run 4", of="run 1 at step 1,200", state="failed", error="Traceback\nValueError: a < b")
    until(lambda: len(page.rows) == 4 and "best" in page.rows["run 2"][0])
    assert page.rows["run 1"][2] == "90" and page.rows["run 1"][-3:] == ["0.2500", "0.2500", "41,000"]
    assert page.rows["run 2"][-2] == "0.1235"
    assert "clone of run 1 at step 1,200" in page.rows["run 4"][0]
    assert "<summary>ValueError: a &lt; b</summary>" in page.rows["run 4"][1]
    assert page.rows["run 4"][-3:] == ["", "", ""] and page.messages[-1]["rows"][-1]["cells"][-1][1] is None


def test_a_search_without_runs_and_one_of_all_kinds_of_choices_are_shown(blank):
    search = FakeSearch(0)
    with Page(search) as page:
        assert page.order == [] and page.board._stop_half.disabled and not page.board._alarm.value
        search.add("run 1", hyperparameters={"activation": "<b>", "layers": [64, 32], "bias": True})
        until(lambda: page.rows)
        assert page.rows["run 1"][3:9] == ["", "", "", "&lt;b&gt;", "[64, 32]", "True"]
        assert not page.board._alarm.value
    rows, status = [], search.status()
    axes, good = parallel_axes(rows, status)
    assert draw_parallel(axes, good, [], {}, 640, 1.0).startswith(b"\x89PNG")


def test_of_an_unchanged_search_nothing_is_sent_and_of_a_changed_one_what_has_changed(search, page):
    page.settle()
    page.messages.clear()
    asked = search.asked
    until(lambda: search.asked > asked + 4)
    assert page.messages == []
    search.change("run 2", step=7)
    until(lambda: page.messages)
    page.settle()
    assert [row["name"] for message in page.messages for row in message["rows"]] == ["run 2"]
    assert page.rows["run 2"][2] == "7"


def test_of_a_hundred_runs_only_the_one_that_has_changed_is_sent(blank):
    search = FakeSearch(100)
    with Page(search) as page:
        page.settle()
        page.messages.clear()
        search.change("run 2", step=7)
        until(lambda: page.messages)
        page.settle()
        assert [row["name"] for message in page.messages for row in message["rows"]] == ["run 2"]


def test_a_new_run_and_a_deleted_one_are_seen(search, page):
    search.add("run 4")
    until(lambda: page.order[-1] == "run 4")
    page.choose("run 4", "run 1")
    search.table = {"run 1": search.table["run 1"]}
    until(lambda: page.order == ["run 1"] and page.board._table.chosen == ["run 1"])


def test_a_page_that_comes_later_is_sent_everything_and_one_out_of_sight_nothing(search, page):
    page.settle()
    page.report(visible=False)
    page.messages.clear()
    search.change("run 1", step=5)
    page.settle()
    assert page.messages == []
    page.rows = {}
    page.board._on_new_page()
    page.report(visible=True)
    until(lambda: set(page.rows) == set(search.table))
    assert page.rows["run 1"][2] == "5"


def test_a_page_that_was_closed_is_sent_something_seldom(search, blank, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.FRAME_INTERVAL_S", 0.0)
    with Page(search) as page:
        page.settle()
        page.confirms = False
        search.train("run 1", 0.5)
        until(lambda: page.pictures == 2 and page.rows["run 1"][2] == "45")
        for step in range(1, 4):
            search.change("run 1", step=step)
            page.settle()
        assert page.rows["run 1"][2] == "45"
        monkeypatch.setattr("babysit.ui.chart_view.UNHEARD_S", 0.05)
        until(lambda: page.rows["run 1"][2] == "3")


def test_the_actions_are_those_that_the_chosen_runs_allow_and_go_to_the_search(search, page):
    search.change("run 1", state="running")
    search.change("run 2", state="paused")
    page.choose("run 1", "run 2")
    until(lambda: [name for name, made in page.board._buttons.items() if made.disabled] == ["Delete"])
    page.click("Pause")
    page.click("Stop")
    assert search.commands == [
        {"action": "pause", "runs": ["run 1"]},
        {"action": "stop", "runs": ["run 1", "run 2"]},
    ]
    page.board._stop_all.click()
    assert search.commands[-1] == {"action": "stop all"} and page.board._stop_half.disabled
    search.train("run 1", 0.5)
    search.train("run 3", 0.5)
    until(lambda: not page.board._stop_half.disabled)
    page.board._stop_half.click()
    assert search.commands[-1] == {"action": "stop worst half"}
    search.remarks = ["one", "two <3>"]
    until(lambda: "<summary>two &lt;3&gt;</summary>" in page.board._remarks.value)


def test_a_run_is_cloned_as_typed_and_deleted_once_it_is_asked_about(search, page):
    search.change("run 1", state="stopped")
    page.choose("run 1")
    form = page.board._form.layout
    page.click("Clone")
    until(lambda: form.display is None)
    page.board._at.value, page.board._changes.value = "1,200", "learning rate"
    page.board._yes.click()
    until(lambda: "A change is written as learning_rate=0.003. Received: learning rate" in page.board._alarm.value)
    page.board._changes.value = "learning rate=0.003; momentum = 0.95"
    page.board._yes.click()
    changes = {"learning_rate": 0.003, "momentum": 0.95}
    assert search.commands == [{"action": "clone", "runs": ["run 1"], "at": 1200.0, "changes": changes}]
    until(lambda: form.display == "none" and not page.board._alarm.value)
    page.click("Delete")
    until(lambda: page.board._yes.description == "Delete run 1" and page.board._at.layout.display == "none")
    page.choose("run 2")
    until(lambda: form.display == "none")
    search.change("run 2", state="finished")  # which nobody was asked about
    page.choose("run 2", "run 1")
    until(lambda: form.display is None)
    page.board._yes.click()
    page.board._yes.click()
    assert search.commands[1:] == [{"action": "delete", "runs": ["run 1"]}]


def test_changes_are_typed_in_words():
    assert typed_changes("") == {}
    assert typed_changes("learning rate=1e-3, momentum=0.9") == {"learning_rate": 1e-3, "momentum": 0.9}
    for words in ("rate", "rate=", "=1", "rate=fast"):
        with pytest.raises(ValueError, match="is written as"):
            typed_changes(words)


def test_runs_are_opened_below_under_one_dashboard_and_closed(search, page):
    below = page.board._below

    def shows(*names):
        until(lambda: [one.value for one in below.children[1:]] == [f"the dashboard of {' and '.join(names)}"])
        assert below.children[0].children[0].description == f"Close {' and '.join(names)}"
        return below.children[1]

    for name in search.table:
        search.change(name, state="running")
    page.choose("run 1")
    until(lambda: page.button("Open").tooltip == "run 1")
    page.click("Open")
    first = shows("run 1")
    page.choose("run 1", "run 3")
    until(lambda: page.button("Open").tooltip == "run 1, run 3")
    page.click("Open")
    shows("run 1", "run 3")
    assert first.comm is None
    below.children[0].children[0].click()
    until(lambda: not below.children)
    page.click("Open")
    shows("run 1", "run 3")
    search.table = {name: row for name, row in search.table.items() if name != "run 3"}
    until(lambda: not below.children)
    search.table |= {f"run {i}": search.table["run 1"] | {"name": f"run {i}"} for i in range(4, 10)}
    page.choose(*(f"run {i}" for i in range(4, 10)), "run 1")
    until(lambda: page.button("Open").tooltip.endswith("run 9, run 1"))
    page.click("Open")
    until(lambda: "choose up to 6" in page.board._alarm.value)


def test_a_run_that_cannot_be_opened_says_why(search, page, monkeypatch):
    monkeypatch.setattr(FakeSearch, "__getitem__", lambda self, name: {}[name])
    search.change("run 1", state="running")
    page.choose("run 1")
    page.click("Open")
    until(lambda: "run 1 cannot be opened: run 1" in page.board._alarm.value)
    assert not page.board._below.children
    monkeypatch.undo()
    monkeypatch.setattr("babysit.ui.board.Dashboard", Dashboard)
    page.click("Open")
    until(lambda: page.board._below.children and not page.board._alarm.value)


def test_an_error_of_the_search_or_the_picture_is_shown_and_the_rest_goes_on(search, page, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("babysit.ui.board.draw_parallel", lambda *about: 1 / 0)
        search.train("run 1", 0.5)
        page.choose("run 1")
        until(lambda: "ZeroDivisionError" in page.board._alarm.value)
        search.change("run 1", step=77)
        until(lambda: page.rows["run 1"][2] == "77")
        page.settle()
        assert "ZeroDivisionError" in page.board._alarm.value
    with monkeypatch.context() as broken:
        broken.setattr(search, "status", lambda: 1 / 0)
        until(lambda: "ZeroDivisionError" in page.board._alarm.value)
    until(lambda: not page.board._alarm.value)


def test_new_values_are_drawn_seldom_and_a_choice_at_once(search, blank, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.FRAME_INTERVAL_S", 1e9)
    with Page(search) as page:
        search.train("run 1", 0.5)
        search.train("run 2", 0.4)
        until(lambda: "best" in page.rows["run 2"][0])
        page.settle()
        assert len(blank) == 1
        page.choose("run 3", "run 1")
        until(lambda: len(blank) > 1)
        rows, colours, *_ = blank[-1]
        assert list(rows) == list(search.table)
        assert colours == dict(zip(["run 3", "run 1", "run 2"], theme.RUNS, strict=False))
        assert theme.RUNS[0] in page.rows["run 3"][0]
        page.settle()
        assert len(blank) == 2
        page.report(visible=True, width=900, ratio=2.0)
        until(lambda: len(blank) == 3)
        assert blank[-1][3:] == (900, 2.0, None)


def test_a_picture_that_is_the_same_as_the_last_one_keeps_nothing_waiting(search, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.draw_curves", lambda *about: {"png": b"the same"})
    with Page(search) as page:
        page.choose("run 1")
        until(lambda: theme.TRAIN in page.rows["run 1"][0])
        page.settle()
        search.change("run 2", step=7)
        until(lambda: page.rows["run 2"][2] == "7", 5)


def test_only_a_new_value_is_drawn_anew(search, blank, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.FRAME_INTERVAL_S", 0.0)
    with Page(search) as page:
        search.change("run 1", step=50, examples_a_second=1.0)
        until(lambda: page.rows["run 1"][2] == "50")
        page.settle()
        assert len(blank) == 1
        search.train("run 1", 0.5)
        until(lambda: len(blank) == 2)


def test_runs_are_chosen_by_the_sliders_on_the_axes_until_others_are_chosen(search, page):
    sliders, units = page.board._brushes._sliders, {}
    for i, (name, value) in enumerate(zip(search.table, (16, 72, 128), strict=True)):
        units[name] = value
        search.change(name, hyperparameters={"units": value, "activation": "tanh" if i else "relu"})
    search.change("run 2", best=0.5)
    search.change("run 3", best=0.25)
    until(lambda: [slider.description for slider in sliders.children][1::3] == ["units", "best val loss"])
    slider, kinds = sliders.children[1], sliders.children[3]
    assert [words for words, _ in slider.options][::10] == ["16", "44", "72", "100", "128"]
    assert [words for words, _ in kinds.options] == ["relu", "tanh", "elu"]
    slider.index = (0, 20)
    until(lambda: page.board._table.chosen == ["run 1", "run 2"])
    kinds.index = (1, 2)
    until(lambda: page.board._table.chosen == ["run 2"])
    slider.index = (0, 40)
    until(lambda: page.board._table.chosen == ["run 2", "run 3"])
    sliders.children[4].index = (0, 39)  # run 1 has no result
    until(lambda: page.board._table.chosen == ["run 3"])
    search.add("run 4", hyperparameters={"units": 128, "activation": "elu"}, best=0.3)
    until(lambda: page.board._table.chosen == ["run 3", "run 4"])
    search.table = {name: row for name, row in search.table.items() if name != "run 3"}
    until(lambda: page.board._table.chosen == ["run 4"])
    search.change("run 4", best=None)  # so that there are no results to be compared
    until(lambda: len(sliders.children) == 4)
    assert sliders.children[1] is slider and kinds.index == (1, 2)
    until(lambda: page.board._table.chosen == ["run 2", "run 4"])
    search.change("run 4", best=0.3)
    page.choose("run 1")
    until(lambda: [slider.index for slider in sliders.children] == [(0, 40), (0, 40), (0, 40), (0, 2), (0, 40)])
    assert page.board._table.chosen == ["run 1"]


def colours_of(png):
    pixels = np.array(Image.open(io.BytesIO(png)).convert("RGBA")).reshape(-1, 4)
    return {f"#{bytes(pixel[:3].tolist()).hex()}" for pixel in pixels[pixels[:, 3] == 255]}


BY = {"by": "val_loss", "highest": False, "best": "run 3"}


def test_the_best_and_the_chosen_have_colours_and_the_others_are_grey():
    rng = np.random.default_rng(0)
    rows = {f"run {i}": {"values": 1 / np.arange(1, 11) + rng.random(10)} for i in range(9)}
    colours = {"run 3": theme.TRAIN, "run 5": theme.VALID, "run 7": None}
    frame = draw_curves(rows, colours, BY, 640, 2.0)
    assert Image.open(io.BytesIO(frame["png"])).size == (1280, 2 * HEIGHT)
    assert {theme.TRAIN, theme.VALID} <= colours_of(frame["png"])
    assert theme.OTHER not in colours_of(frame["png"])
    assert frame["curves"] == [("run 3", theme.TRAIN), ("run 5", theme.VALID)]
    table = np.frombuffer(frame["table"], "<f4").reshape(2, 10)
    np.testing.assert_allclose(table, [rows["run 3"]["values"], rows["run 5"]["values"]], rtol=1e-6)
    np.testing.assert_array_equal(np.frombuffer(frame["steps"]), np.arange(1, 11))
    assert draw_curves(rows, colours, BY, 640, 2.0, (2, 5))["limits"] == (2, 5)


@pytest.mark.parametrize(
    "values", [[], [[]], [[np.nan]], [[0.5]], [[-1.0, -2.0]], [[0.0] * 3], [[1e30, 0.1], [0.2, 0.1]], [[0.3], [np.inf]]]
)
def test_whatever_was_measured_can_be_drawn(values):
    rows = {f"run {i}": {"values": one} for i, one in enumerate(values)}
    for highest in (False, True):
        colours = dict.fromkeys(list(rows)[:1], theme.TRAIN)
        frame = draw_curves(rows, colours, {**BY, "highest": highest}, 260, 1.0)
        assert frame["png"].startswith(b"\x89PNG")


def test_what_is_drawn_of_many_long_curves_is_bounded(monkeypatch):
    drawn = []
    monkeypatch.setattr("babysit.ui.board_figure.LineCollection", lambda lines, **_: drawn.append(lines) or 1 / 0)
    for runs in (10, 1000):
        rows = {f"run {i}": {"values": np.ones(5000)} for i in range(runs)}
        with pytest.raises(ZeroDivisionError):
            draw_curves(rows, {}, BY, 640, 1.0)
        assert len(drawn[-1]) == runs and sum(map(len, drawn[-1])) <= 5_000
        assert max(map(len, drawn[-1])) <= 200 and drawn[-1][0][-1, 0] == 5000


def test_the_places_of_runs_on_the_axes_are_those_on_their_scales():
    search = FakeSearch(2)
    found = {"learning_rate": 0.01, "units": 128, "momentum": 0.9, "activation": "elu"}
    search.add("run 3", hyperparameters=found, best=0.25)
    search.add("run 4", hyperparameters={**found, "units": 999, "activation": "gelu"}, best=0.5)
    axes, good = parallel_axes(search.rows(), search.status())
    places = [axis.places[2] for axis in axes]
    np.testing.assert_allclose(places, [0.5, 1, np.log(0.5 / 0.1) / np.log(0.5 / 0.001), 1, 0], atol=1e-12)
    assert axes[1].places[3] == 1 and np.isnan(axes[3].places[3])
    np.testing.assert_array_equal(good, [np.nan, np.nan, 1, 0])
    assert axes[0].stops[::10] == ("0.0001", "0.001", "0.01", "0.1", "1") and axes[2].stops[-1] == "0.999"
    for scale in (Scale(1, 8, whole=True), Scale(8, 128, "log", whole=True), Scale(2.301, 2.304), Scale(0.9, 0.9001)):
        (axis,), _ = parallel_axes([], {"space": {"one": asdict(scale)}})
        assert len(set(axis.stops)) == len(axis.stops) > 3
        found = [scale.position(float(words)) for words in axis.stops]
        np.testing.assert_allclose(axis.at, found, atol=0.01)
        np.testing.assert_allclose(np.diff(axis.at), 1 / (len(axis.at) - 1), atol=0.04)
    names = [row["name"] for row in search.rows()]
    for colours in ({}, {"run 3": theme.TRAIN, "run 4": None}):
        png = draw_parallel(axes, good, names, colours, 640, 1.0)
        assert Image.open(io.BytesIO(png)).size == (640, HEIGHT)


def test_a_search_that_is_over_and_that_no_page_shows_is_released(blank):
    search = FakeSearch()
    page, held = Page(search), weakref.ref(search)
    del search
    page.settle()
    gc.collect()
    assert held() is not None
    held().state = "finished"
    page.report(visible=False)
    until(lambda: gc.collect() >= 0 and held() is None and not page.board._pump.is_alive())
    assert "gone" in page.board._title.value and "Caviar.load" in page.board._alarm.value
    page.board.close()
