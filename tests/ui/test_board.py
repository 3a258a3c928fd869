"""The board with a fake search: what it sends to the page and to the search, and what it draws."""

import gc
import io
import json
import threading
import weakref

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from babysit.ui import theme
from babysit.ui.board import HEIGHT, Board, draw_curves
from tests.patience import until


class FakeSearch:
    """Runs that are what they are told to be; a part of its text runs in the browser's notebook too."""

    def __init__(self, runs=3, epochs=10):
        self.commands, self.remarks, self.state, self.epochs = [], [], "running", epochs
        self.table, self.values, self.asked = {}, {}, 0
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
        row |= {"latest": None, "best": None, "examples_a_second": None, "error": "", "of": ""}
        self.table, self.values = {**self.table, name: row | about}, {**self.values, name: []}

    def change(self, name, **about):
        self.table = {**self.table, name: self.table[name] | about}

    def train(self, name, *values):
        self.values = {**self.values, name: [*self.values[name], *values]}
        now, finite = self.values[name], [value for value in self.values[name] if np.isfinite(value)]
        about = {"state": "running", "epoch": len(now), "step": 45 * len(now), "examples_a_second": 41_234.0}
        self.change(name, latest=now[-1], best=min(finite, default=None), **about)

    def rows(self):
        return [dict(row) for row in self.table.values()]

    def curves(self):
        return {name: (np.arange(1, len(one) + 1), np.array(one, float)) for name, one in self.values.items()}

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
        return facts | counts | {"remarks": list(self.remarks), "space": space}

    def send(self, command):
        self.commands.append(command)

    def __getitem__(self, name):
        return Shown(name)


class Shown:
    """A run that has a dashboard."""

    def __init__(self, name):
        self.name = name

    def dashboard(self):
        return widgets.HTML(f"the dashboard of {self.name}")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("babysit.ui.board.INTERVAL_S", 0.02)
    monkeypatch.setattr("babysit.ui.screen.UNSEEN_INTERVAL_S", 0.05)


@pytest.fixture
def blank(monkeypatch):
    """What curves and colours each picture was drawn from; it costs no time."""
    drawn = []
    monkeypatch.setattr("babysit.ui.board.draw_curves", lambda *about: drawn.append(about) or b"a picture")
    return drawn


@pytest.fixture
def search():
    return FakeSearch()


@pytest.fixture
def page(search, blank):
    with shown(search) as page:
        yield page


class Page:
    """A page that shows a board: what it has been sent, and what it has of the runs."""

    def __init__(self, search):
        self.search, self.board, self.messages, self.threads = weakref.proxy(search), Board(search), [], set()
        self.rows, self.status, self.order, self.pictures, self.confirms = {}, {}, [], 0, True
        self.board._page.send = self._receive
        self.report(visible=True, anew=True, width=640, ratio=1.0)
        until(lambda: self.pictures)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.board.close()
        self.board.close()

    def report(self, **message):
        self.board._on_message(None, message, [])

    def choose(self, *names):
        self.board._page.chosen = list(names)

    def _receive(self, message, buffers=None):
        json.dumps(message, allow_nan=False)
        self.messages.append(message)
        self.threads.add(threading.current_thread().name)
        self.rows |= {row["name"]: row for row in message.get("rows", [])}
        self.status |= message.get("status", {})
        self.order = message.get("order", self.order)
        self.pictures += bool(buffers)
        if self.confirms:
            self.report(seen=True)

    def settle(self):
        """Returns after some refreshes that sent nothing."""
        sent = -1
        while sent != len(self.messages):
            sent, asked = len(self.messages), self.search.asked
            until(lambda asked=asked: self.search.asked > asked + 4)


shown = Page


def test_a_page_is_sent_all_rows_the_status_and_a_picture(search, page, blank):
    assert page.order == list(search.table) == list(page.rows)
    assert page.rows["run 2"]["hyperparameters"] == search.table["run 2"]["hyperparameters"]
    assert page.status["space"]["activation"] == {"choices": ["relu", "tanh", "elu"]}
    assert (page.status["by"], page.status["trials"], page.status["best"]) == ("val_loss", 3, None)
    assert page.threads == {"babysit-pump"}


def test_of_an_unchanged_search_nothing_is_sent_and_of_a_changed_one_what_has_changed(search, page):
    page.settle()
    page.messages.clear()
    asked = search.asked
    until(lambda: search.asked > asked + 4)
    assert page.messages == []
    search.change("run 2", step=7)
    until(lambda: page.messages)
    page.settle()
    assert [message.keys() for message in page.messages] == [{"rows"}]
    assert [row["step"] for message in page.messages for row in message["rows"]] == [7]


def test_of_a_hundred_runs_no_more_is_sent_than_of_ten_where_one_has_changed(blank):
    sizes = []
    for runs in (10, 100):
        search = FakeSearch(runs)
        with shown(search) as page:
            page.settle()
            page.messages.clear()
            search.change("run 2", step=7)
            until(lambda page=page: page.messages)
            page.settle()
            sizes.append(sum(len(json.dumps(message)) for message in page.messages))
    assert sizes[0] == sizes[1]


def test_a_new_run_and_a_deleted_one_are_seen(search, page):
    search.add("run 4", of="run 1 at step 1,200")
    until(lambda: page.order[-1] == "run 4")
    assert page.rows["run 4"]["of"] == "run 1 at step 1,200"
    search.table = {}
    until(lambda: page.order == [])


def test_a_page_that_comes_later_is_sent_everything_and_one_out_of_sight_nothing(search, page):
    page.settle()
    page.report(visible=False)
    page.messages.clear()
    search.change("run 1", step=5)
    page.settle()
    assert page.messages == []
    page.rows, page.pictures = {}, 0
    page.report(visible=True, anew=True, width=640, ratio=1.0)
    until(lambda: page.pictures and set(page.rows) == set(search.table))
    assert page.rows["run 1"]["step"] == 5


def test_a_page_that_was_closed_is_sent_something_seldom(search, page, monkeypatch):
    page.settle()
    page.confirms = False
    for step in range(1, 4):
        search.change("run 1", step=step)
        page.settle()
    assert page.rows["run 1"]["step"] == 1
    monkeypatch.setattr("babysit.ui.board.UNHEARD_S", 0.05)
    until(lambda: page.rows["run 1"]["step"] == 3)


def test_values_that_are_not_finite_and_numpys_are_sent_as_words_and_numbers(search, page):
    search.train("run 1", np.float32(0.5), np.nan)
    search.change("run 2", hyperparameters={"units": np.int64(64), "rate": np.inf})
    until(lambda: page.rows["run 1"]["latest"] == "nan")
    until(lambda: page.rows["run 2"]["hyperparameters"] == {"units": 64, "rate": "inf"})
    until(lambda: page.status["best"] == "run 1")


def test_commands_go_to_the_search_at_once_and_a_refusal_is_shown(search, page):
    page.report(action="pause", runs=["run 1"])
    page.report(action="clone", runs=["run 2"], at=1200, changes={"learning_rate": 0.003})
    assert search.commands == [
        {"action": "pause", "runs": ["run 1"], "at": None, "changes": {}},
        {"action": "clone", "runs": ["run 2"], "at": 1200, "changes": {"learning_rate": 0.003}},
    ]
    search.remarks = ["run 1 waits."]
    until(lambda: page.status["remarks"] == ["run 1 waits."])

    def refuse(command):
        raise ValueError("no such run")

    search.send = refuse
    page.report(action="stop", runs=["run 9"])
    until(lambda: page.status["remarks"] == ["run 1 waits.", "no such run"])
    search.send = search.commands.append
    page.report(action="stop", runs=["run 1"])
    until(lambda: page.status["remarks"] == ["run 1 waits."])


def test_the_newest_remarks_are_sent(search, page):
    search.remarks = [f"remark {i}" for i in range(1000)]
    until(lambda: len(page.status["remarks"]) == 20 and page.status["remarks"][-1] == "remark 999")


def test_a_run_is_opened_below_one_at_a_time_and_closed(search, page):
    below = page.board._below
    page.report(open=["run 1"])
    until(lambda: len(below.children) == 2 and below.children[1].value == "the dashboard of run 1")
    first = below.children[1]
    page.report(open=["run 2"])
    until(lambda: len(below.children) == 2 and below.children[1].value == "the dashboard of run 2")
    assert below.children[0].children[0].description == "Close run 2"
    below.children[0].children[0].click()
    until(lambda: not below.children)
    page.report(open=["run 1"])
    until(lambda: below.children)
    search.table = {name: row for name, row in search.table.items() if name != "run 1"}
    until(lambda: not below.children)
    assert first.comm is not None  # it belongs to the run


def test_several_runs_are_opened_under_one_set_of_controls(search, page, monkeypatch):
    asked, closed = [], []
    monkeypatch.setattr(FakeSearch, "together", lambda self, *names: asked.append(names) or names, raising=False)

    class Dashboard(Shown):
        def __init__(self, names):
            self.widget = Shown(" and ".join(names)).dashboard()

        def close(self):
            closed.append(self)

    monkeypatch.setattr("babysit.ui.board.Dashboard", Dashboard)
    below = page.board._below
    page.report(open=["run 1", "run 3"])
    until(lambda: len(below.children) == 2 and below.children[1].value == "the dashboard of run 1 and run 3")
    assert asked == [("run 1", "run 3")]
    assert below.children[0].children[0].description == "Close run 1 and run 3"
    page.report(open=["run 2"])
    until(lambda: len(below.children) == 2 and below.children[1].value == "the dashboard of run 2")
    assert len(closed) == 1
    search.table |= {f"run {i}": search.table["run 1"] | {"name": f"run {i}"} for i in range(4, 10)}
    page.report(open=[f"run {i}" for i in range(1, 10)])
    until(lambda: "choose up to 6" in str(page.status["remarks"]))


def test_a_run_that_cannot_be_opened_says_why(search, page, monkeypatch):
    monkeypatch.setattr(FakeSearch, "__getitem__", lambda self, name: {}[name])
    page.report(open=["run 1"])
    until(lambda: any("run 1" in one for one in page.status["remarks"]))
    assert not page.board._below.children


def test_an_error_of_the_search_or_the_picture_is_shown_and_the_rest_goes_on(search, page, monkeypatch):
    monkeypatch.setattr(search, "curves", lambda: 1 / 0)
    search.train("run 1", 0.5)
    page.choose("run 1")
    until(lambda: "ZeroDivisionError" in str(page.status["remarks"]))
    search.change("run 1", step=77)
    until(lambda: page.rows["run 1"]["step"] == 77)
    with monkeypatch.context() as broken:
        broken.setattr(search, "status", lambda: 1 / 0)
        until(lambda: "ZeroDivisionError" in str(page.messages[-1]))
    until(lambda: page.status["state"] == "running")


def test_new_values_are_drawn_seldom_and_a_choice_at_once(search, blank, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.FRAME_INTERVAL_S", 1e9)
    with shown(search) as page:
        search.train("run 1", 0.5)
        search.train("run 2", 0.4)
        until(lambda: page.status["best"] == "run 2")
        page.settle()
        assert len(blank) == 1
        page.choose("run 3", "run 1")
        until(lambda: len(blank) > 1)
        curves, colours, chosen, *_ = blank[-1]
        assert list(colours) == ["run 3", "run 1", "run 2"] and chosen == ["run 3", "run 1"]
        assert list(colours.values()) == list(theme.RUNS[:3])
        page.settle()
        assert len(blank) == 2
        page.report(visible=True, width=900, ratio=2.0)
        until(lambda: len(blank) == 3)
        assert blank[-1][-2:] == (900, 2.0)


def test_only_a_new_value_is_drawn_anew(search, blank, monkeypatch):
    monkeypatch.setattr("babysit.ui.board.FRAME_INTERVAL_S", 0.0)
    with shown(search) as page:
        search.change("run 1", step=50, examples_a_second=1.0)
        until(lambda: page.rows["run 1"]["step"] == 50)
        page.settle()
        assert len(blank) == 1
        search.train("run 1", 0.5)
        until(lambda: len(blank) == 2)


def colours_of(png):
    pixels = np.array(Image.open(io.BytesIO(png)).convert("RGBA")).reshape(-1, 4)
    return {f"#{bytes(pixel[:3].tolist()).hex()}" for pixel in pixels[pixels[:, 3] == 255]}


def test_the_best_and_the_chosen_have_colours_and_the_others_are_grey():
    rng = np.random.default_rng(0)
    curves = {f"run {i}": (np.arange(1, 11), 1 / np.arange(1, 11) + rng.random(10)) for i in range(9)}
    colours = dict(zip(["run 3", "run 5"], theme.RUNS, strict=False))
    png = draw_curves(curves, colours, ["run 5", "run 7"], "run 3", "val_loss", False, 640, 2.0)
    assert Image.open(io.BytesIO(png)).size == (1280, 2 * HEIGHT)
    assert {theme.TRAIN, theme.VALID, theme.INK} <= colours_of(png)
    assert theme.OTHER not in colours_of(png)


@pytest.mark.parametrize(
    "values", [[], [[]], [[np.nan]], [[0.5]], [[-1.0, -2.0]], [[0.0] * 3], [[1e30, 0.1], [0.2, 0.1]], [[0.3], [np.inf]]]
)
def test_whatever_was_measured_can_be_drawn(values):
    curves = {f"run {i}": (np.arange(1, len(one) + 1), np.array(one)) for i, one in enumerate(values)}
    for highest in (False, True):
        colours = dict.fromkeys(list(curves)[:1], theme.TRAIN)
        assert draw_curves(curves, colours, list(curves), None, "val_loss", highest, 260, 1.0).startswith(b"\x89PNG")


def test_what_is_drawn_of_many_long_curves_is_bounded(monkeypatch):
    drawn = []
    monkeypatch.setattr("babysit.ui.board.LineCollection", lambda lines, **_: drawn.append(lines) or 1 / 0)
    for runs in (10, 1000):
        curves = {f"run {i}": (np.arange(5000), np.ones(5000)) for i in range(runs)}
        with pytest.raises(ZeroDivisionError):
            draw_curves(curves, {}, [], None, "val_loss", False, 640, 1.0)
        assert len(drawn[-1]) == runs and sum(map(len, drawn[-1])) <= 5_000
        assert max(map(len, drawn[-1])) <= 200 and drawn[-1][0][-1, 0] == 4999


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
    assert page.status["state"] == "gone" and "Caviar.load" in page.status["remarks"][0]
    page.board.close()
