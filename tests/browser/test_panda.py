"""The main job in the real browser: notebook 01, steered by keyboard and mouse as a person would."""

import ast
import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.browser.lab import KERNEL, exactly

HAND = (123, 31, 162)  # the purple of what a hand did


@pytest.fixture
def panda(lab):
    """Notebook 01, run to its end, with the panda training in it."""
    lab.open("notebooks/01_panda.ipynb")
    lab.run_all()
    return Watched(lab)


class Watched:
    """What a person sees of the dashboard, and what the kernel says."""

    def __init__(self, lab):
        self.lab = lab
        self.dashboard = lab.page.locator(".babysit").first
        self.dashboard.wait_for()

    def ask(self, expression):
        """The value of an expression in the notebook's kernel."""
        return ast.literal_eval(self.lab.evaluate(f"print(repr({expression}))"))

    def value(self, name):
        return self.ask(f"panda.hyperparameters[{name!r}].value")

    def changes_of(self, name):
        """(step, old, new) of every change by the dashboard."""
        entries = "e.author == 'dashboard' and e.action == 'set'"
        return self.ask(
            f"[(e.step, *e.changes[{name!r}]) for e in panda.journal if {entries} and {name!r} in e.changes]"
        )

    def press(self, label, key, times=1):
        handle = self.lab.slider(label)
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def click(self, text):
        self.lab.button(text).click()

    def wait_for_words(self, text):
        self.dashboard.get_by_text(text, exact=False).first.wait_for()

    def purple(self):
        """How many pixels of the chart have the colour of a hand's mark."""
        shown = Image.open(io.BytesIO(self.dashboard.locator(".babysit-chart img").screenshot())).convert("RGB")
        return (np.abs(np.asarray(shown).astype(int) - HAND).sum(axis=2) < 150).sum()


def until(condition, timeout_s=15):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("label", "name", "key"),
    [
        ("learning rate", "learning_rate", "ArrowRight"),
        ("batch size", "batch_size", "ArrowRight"),
        ("momentum", "momentum", "PageUp"),
    ],
)
def test_a_slider_moved_by_keyboard_acts_on_the_very_next_step(panda, label, name, key):
    assert panda.ask("panda.state") == "running"
    old, marks = panda.value(name), panda.purple()
    assert panda.changes_of(name) == []  # merely shown, it has changed nothing

    panda.press(label, key)
    until(lambda: panda.changes_of(name))
    [(step, before, after)] = panda.changes_of(name)
    assert before == old and after > old
    assert panda.value(name) == after
    until(lambda: panda.ask("panda.step") > step)
    column = panda.ask(f"panda.history[{name!r}].tolist()")
    assert column[step - 1] == old and column[step] == after

    panda.wait_for_words(f"in effect since step {step:,}")
    until(lambda: panda.purple() > marks + 200)
    words = panda.dashboard.locator(".babysit-logbook").inner_text()
    assert label in words and "→" in words
    panda.lab.screenshot(f"slider-{name}")


def test_the_learning_rate_is_the_one_compiled_however_often_it_is_shown(panda):
    assert panda.value("learning_rate") == 0.001  # as the notebook's own `set` left it
    panda.lab.evaluate("from IPython.display import display; display(panda)")
    time_was = panda.ask("panda.step")
    until(lambda: panda.ask("panda.step") > time_was + 100)
    assert panda.value("learning_rate") == 0.001
    assert panda.ask("[e.action for e in panda.journal]") == ["fit", "set"]
    assert panda.dashboard.locator(".babysit-exact input").first.input_value() == "0.001"


def test_an_exact_value_is_typed_and_a_bad_one_refused(panda):
    box = panda.dashboard.locator(".babysit-exact input").first
    box.fill("3.21e-3")
    box.press("Enter")
    until(lambda: panda.value("learning_rate") == 3.21e-3)
    box.fill("7")
    box.press("Enter")
    panda.wait_for_words("must be a number from 1e-06 to 1")
    until(lambda: box.input_value() == "0.00321")
    assert panda.value("learning_rate") == 3.21e-3
    panda.lab.screenshot("refused")


def test_pause_step_once_resume_stop(panda):
    panda.click("Pause")
    panda.lab.button("Resume").wait_for()
    step = panda.ask("panda.step")
    panda.click("Step")
    panda.wait_for_words(f"step {step + 1:,}")
    assert panda.ask("(panda.step, panda.state)") == (step + 1, "paused")
    panda.lab.screenshot("paused")
    panda.click("Resume")
    until(lambda: panda.ask("panda.step") > step + 50)
    panda.click("Stop")
    until(lambda: panda.lab.button("Step").is_disabled())
    panda.wait_for_words("stopped")
    assert panda.ask("panda.state") == "stopped"


def test_save_go_on_and_rewind(panda):
    panda.click("Pause")
    panda.lab.button("Resume").wait_for()
    step, digest = panda.ask("(panda.step, panda.digest())")
    panda.click("Save checkpoint")
    menu = panda.dashboard.locator("select")
    until(lambda: " ".join(menu.locator("option").first.text_content().split()) == f"step {step:,}")
    panda.press("learning rate", "PageUp", times=3)
    panda.click("Resume")
    until(lambda: panda.ask("panda.step") > step + 200)
    panda.click("Pause")
    panda.lab.button("Resume").wait_for()
    assert panda.ask("panda.digest()") != digest
    panda.click("Rewind")
    panda.wait_for_words("branch 2")
    assert panda.ask("(panda.step, panda.digest(), panda.state)") == (step, digest, "paused")
    until(lambda: panda.dashboard.locator(".babysit-exact input").first.input_value() == "0.001")
    panda.click("Resume")
    until(lambda: panda.ask("panda.step") > step + 50)
    panda.lab.screenshot("rewound")


def test_sliders_and_buttons_work_while_another_cell_runs(panda):
    busy = "import time; began = time.time(); time.sleep(10); ended = time.time()"
    panda.lab.page.evaluate(f"(code) => {{ {KERNEL}.requestExecute({{ code }}); }}", busy)
    panda.lab.page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
    for _ in range(3):
        panda.press("momentum", "ArrowRight")
        panda.press("learning rate", "ArrowRight")
    panda.wait_for_words("→ 0.0014")  # the logbook too goes on
    panda.click("Pause")
    panda.lab.button("Resume").wait_for()
    panda.click("Resume")
    panda.lab.button("Pause").wait_for()
    times = panda.ask("[e.time for e in panda.journal if e.author == 'dashboard']")
    began, ended = panda.ask("(began, ended)")
    assert ended - began >= 10
    assert len(times) >= 4 and all(began < t < ended for t in times)
    assert panda.value("learning_rate") == 0.0014
    assert panda.value("momentum") == 0.7


def test_saved_and_reloaded_in_the_middle_the_dashboard_is_alive(panda):
    panda.press("momentum", "ArrowRight")
    until(lambda: panda.changes_of("momentum"))
    step = panda.ask("panda.step")
    panda.lab.save()
    panda.lab.reload()
    panda.dashboard.wait_for()
    panda.wait_for_words("running")
    assert panda.ask("panda.state") == "running"
    assert panda.ask("panda.step") > step
    old = panda.value("learning_rate")
    panda.press("learning rate", "ArrowRight")
    until(lambda: panda.value("learning_rate") > old)
    shown = panda.dashboard.locator(".babysit-head").inner_text()
    until(lambda: panda.dashboard.locator(".babysit-head").inner_text() != shown)
    panda.lab.screenshot("reloaded")


def test_run_again_the_cell_says_what_to_do_and_the_run_goes_on(panda):
    step = panda.ask("panda.step")
    with pytest.raises(AssertionError, match=r"babysit\.attach\(\)"):
        panda.lab.run_cell(5)
    assert panda.ask("panda is babysit.attach()") is True
    until(lambda: panda.ask("panda.step") > step + 20)


@pytest.mark.parametrize("width", [1000, 1400, 2000])
def test_no_word_is_cut_off_and_nothing_jumps(panda, width):
    panda.lab.page.set_viewport_size({"width": width, "height": 1000})
    panda.wait_for_words("examples/s")
    cut = panda.dashboard.evaluate(
        """(dashboard) => [...dashboard.querySelectorAll('.widget-label, .jupyter-button, .babysit-head span')]
            .filter((word) => word.scrollWidth > word.clientWidth + 1 && getComputedStyle(word).overflow !== 'visible'
                || word.getBoundingClientRect().right > dashboard.getBoundingClientRect().right + 1)
            .map((word) => word.innerText)"""
    )
    assert cut == []
    until(lambda: panda.dashboard.locator(".babysit-chart img").bounding_box()["width"] >= 420)  # it has been drawn
    height = panda.dashboard.bounding_box()["height"]
    panda.press("momentum", "ArrowRight", times=4)
    until(lambda: panda.value("momentum") == 0.8)
    assert panda.dashboard.bounding_box()["height"] == pytest.approx(height, abs=2)
    chart = panda.dashboard.locator(".babysit-chart img").bounding_box()
    assert 420 <= chart["width"] <= 920
    panda.lab.screenshot(f"wide-{width}")
    assert panda.lab.page.locator(".babysit .widget-label", has_text=exactly("learning rate")).is_visible()


def test_the_other_hyperparameters_are_in_a_drawer(panda):
    panda.click("Pause")
    panda.wait_for_words("paused")
    drawer = panda.dashboard.locator(".babysit-drawer")
    rate = panda.dashboard.locator(".babysit-dropout-rate")
    assert not rate.is_visible()
    drawer.get_by_text("1 more hyperparameter").click()
    rate.wait_for()
    before = panda.value("dropout.rate")
    panda.press("dropout rate", "ArrowRight")
    until(lambda: panda.value("dropout.rate") > before)
    assert panda.changes_of("dropout.rate")[0][1:] == (before, panda.value("dropout.rate"))
