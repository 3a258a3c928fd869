"""The main job in the real browser: notebook 01, steered by keyboard and mouse as a person would."""

import ast
import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.lab import KERNEL, SCREENSHOTS, exactly
from tests.browser.server import KERNEL as INTERPRETER
from tests.patience import until

CUT_OFF = """(dashboard) => {
    const edge = dashboard.getBoundingClientRect().right + 1;
    const hidden = (word) => word.scrollWidth > word.clientWidth + 1 && getComputedStyle(word).overflow !== 'visible';
    const words = '.widget-label, .jupyter-button, .babysit-status-bar span, td, .babysit-caption';
    return [...dashboard.querySelectorAll(words)]
        .filter((word) => word.offsetParent && !word.closest('.babysit-unlabelled > .widget-label'))
        .filter((word) => hidden(word) || word.getBoundingClientRect().right > edge)
        .map((word) => word.innerText);
}"""
# Lines of controls that begin or end elsewhere than the others beside them.
RAGGED = """(dashboard) => {
    const ragged = (controls) => {
        const lines = [];
        for (const control of controls) {
            const { left, right, top, bottom } = control.getBoundingClientRect();
            const line = lines.find(({ middle }) => Math.abs(middle - (top + bottom) / 2) < 12);
            if (line) Object.assign(line, { left: Math.min(line.left, left), right: Math.max(line.right, right) });
            else lines.push({ middle: (top + bottom) / 2, left, right });
        }
        return lines.filter((line) => Math.abs(line.left - lines[0].left) + Math.abs(line.right - lines[0].right) > 8);
    };
    const toolbar = [...dashboard.querySelectorAll('.babysit-bar > :not(.babysit-exports)')];
    return [...ragged(dashboard.querySelectorAll('.babysit-run-buttons > * > *')), ...ragged(toolbar)];
}"""
BROKEN_LINKS = """(dashboard) => [dashboard, ...dashboard.querySelectorAll('.jupyter-widgets-disconnected')]
    .filter((widget) => getComputedStyle(widget, '::before').content.includes('\uf127')
        && getComputedStyle(widget, '::before').display !== 'none').length"""
UNNAMED = """(dashboard) => [...dashboard.querySelectorAll('button, input, select, [role=slider], [role=tab]')]
    .filter((control) => !(control.getAttribute('aria-label') || control.labels?.[0]?.innerText
        || control.textContent || control.title || '').trim() && !control.matches('select'))
    .map((control) => control.outerHTML)"""
SHARP = "(image) => Math.abs(image.naturalWidth - image.clientWidth * devicePixelRatio) < 2"
HEIGHTS = """(dashboard) => Object.fromEntries(
    [dashboard, ...dashboard.querySelectorAll(':scope > *, .babysit-body > *, .babysit-chart > *, .babysit-picture *')]
        .map((part, i) => [`${i} ${part.className}`, part.getBoundingClientRect().height]))"""
NOTE_HEIGHTS = f"""(dashboard) => {{
    const heights = {HEIGHTS};
    const [first, all] = [heights(dashboard), dashboard.getBoundingClientRect().height];
    window.moved = {{}};
    window.timer = setInterval(() => {{
        if (Math.abs(dashboard.getBoundingClientRect().height - all) < 1) return;
        for (const [part, height] of Object.entries(heights(dashboard))) {{
            if (Math.abs(height - first[part]) > 1) window.moved[part] = [first[part], height];
        }}
    }}, 50);
}}"""
NOTE_SILENCE = """(dashboard) => {
    window.reported = [];
    const note = () => window.reported.push(...[dashboard.querySelector('.babysit-silence').innerText].filter(Boolean));
    new MutationObserver(note).observe(dashboard.querySelector('.babysit-silence'), { childList: true });
}"""
NOTE_WORDS = """(line) => {
    window.said = [];
    const note = () => window.said.push(line.innerText);
    new MutationObserver(note).observe(line, { childList: true, characterData: true, subtree: true });
}"""
SHOW = """(visibility) => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => visibility });
    document.dispatchEvent(new Event('visibilitychange'));
}"""
ROOT = Path(__file__).parents[2]
COLOUR = "(element) => getComputedStyle(element).backgroundColor"


@pytest.fixture(scope="module")
def notebook(lab):
    """Notebook 01, run to its end, with the panda training in it."""
    lab.open("notebooks/01_panda.ipynb")
    lab.run_all()
    return Watched(lab)


@pytest.fixture
def panda(notebook):
    """That panda with the values of the notebook's last `set`, whatever the tests before did to it."""
    notebook.lab.page.set_viewport_size({"width": 1400, "height": 1000})
    notebook.lab.evaluate(
        "panda.set(learning_rate=0.001, batch_size=32, momentum=0.0)\nif panda.state == 'paused': panda.resume()"
    )
    notebook.tab("Logbook").click()
    notebook.lab.page.evaluate("document.activeElement.blur()")  # a box that has the focus keeps what is in it
    until(lambda: notebook.box("learning rate").input_value() == "0.001")
    until(lambda: notebook.box("momentum").input_value() == "0")
    return notebook


@pytest.fixture
def fresh(notebook):
    """A new panda in the same kernel: the notebook's cells, run once more."""
    notebook.lab.evaluate("panda.stop()")
    for cell in (3, 5, 8):
        notebook.lab.run_cell(cell)
    return notebook


class Watched:
    """What a person sees of the dashboard, and what the kernel says."""

    def __init__(self, lab, dashboard=None):
        self.lab = lab
        self.dashboard = dashboard or lab.page.locator(".babysit").first
        self.dashboard.wait_for()

    def ask(self, expression):
        """The value of an expression in the notebook's kernel."""
        return ast.literal_eval(self.lab.evaluate(f"print(repr({expression}))"))

    def value(self, name):
        return self.ask(f"panda.hyperparameters[{name!r}].value")

    def box(self, label):
        """The box of a hyperparameter's exact value."""
        return self.dashboard.get_by_label(f"{label}, exactly")

    def changes_of(self, name):
        """(step, old, new) of every change by the dashboard since the last one by the script."""
        changes = self.ask(
            f"[(e.author, e.step, *e.changes[{name!r}]) for e in panda.journal if {name!r} in e.changes]"
        )
        last = max((i for i, (author, *_) in enumerate(changes) if author != "dashboard"), default=-1)
        return [tuple(change) for _, *change in changes[last + 1 :]]

    def press(self, label, key, times=1):
        handle = self.lab.slider(label)
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def button(self, text):
        """Its button with exactly this text."""
        return self.dashboard.locator(".jupyter-button", has_text=exactly(text)).first

    def click(self, text):
        self.button(text).click()

    def wait_for_words(self, text):
        """Waits until they stand on it for anybody to read; closed menus hold them too."""
        self.dashboard.get_by_text(text, exact=False).filter(visible=True).first.wait_for()

    def tab(self, text):
        return self.dashboard.locator(".lm-TabBar-tab", has_text=exactly(text))

    def use_theme(self, name):
        theme = f"{{ theme: 'JupyterLab {name}' }}"
        self.lab.page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {theme})")
        self.lab.page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {name}'")

    def cut_off(self):
        """The words on it that have not the room they need."""
        return self.dashboard.evaluate(CUT_OFF)

    def speed_up(self, times, skip_s=0):
        """Sets the page's clock forward, and lets it, though not the timers, run so many times as fast as it does."""
        self.lab.page.evaluate(
            """([times, skip_s]) => {
                window.now ??= performance.now.bind(performance);
                const [page, real] = [performance.now() + skip_s * 1000, window.now()];
                performance.now = () => page + (window.now() - real) * times;
            }""",
            [times, skip_s],
        )

    def scroll_to(self):
        self.dashboard.evaluate("(dashboard) => dashboard.scrollIntoView({ block: 'start' })")

    def picture(self, name):
        """Takes a picture of the dashboard alone."""
        self.scroll_to()
        self.dashboard.screenshot(path=SCREENSHOTS / f"{name}.png")

    def paper(self):
        """The colour of the chart's upper left corner, as it is to be seen."""
        shown = self.dashboard.locator(".babysit-plot img").screenshot()
        return Image.open(io.BytesIO(shown)).convert("RGB").getpixel((2, 2))

    def purple(self):
        """How many columns of the chart, right of its axis, are purple from top to bottom, as annotations are."""
        shown = Image.open(io.BytesIO(self.dashboard.locator(".babysit-plot img").screenshot())).convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(shown).astype(int)[:, shown.width // 8 :], 2, 0)
        return ((np.minimum(red, blue) > green + 15).mean(axis=0) > 0.4).sum()


def test_the_kernel_is_the_interpreter_it_should_be(notebook):
    assert notebook.lab.evaluate("import sys; print(sys.executable)") == INTERPRETER


def test_a_slider_moved_by_keyboard_acts_on_the_very_next_step(panda):
    assert panda.ask("panda.state") == "running"
    for name, key in [("learning_rate", "ArrowRight"), ("batch_size", "ArrowRight"), ("momentum", "PageUp")]:
        move(panda, name, key)
        panda.lab.screenshot(f"slider-{name}")
    panda.dashboard.locator(".babysit-logbook tr").first.click()
    panda.dashboard.locator(".babysit-box", has_text="by dashboard").wait_for()
    [change] = panda.changes_of("momentum")
    panda.click("Rewind to just before this")
    panda.wait_for_words(f"to step {change[0] - 1:,}")
    until(lambda: panda.ask("panda.branches['branch 2']") == ("branch 1", change[0] - 1))

    drawer, rate = panda.dashboard.locator(".babysit-drawer"), panda.dashboard.locator(".babysit-dropout-rate")
    assert not rate.is_visible()
    drawer.get_by_text("1 more hyperparameter").click()
    rate.wait_for()
    before = panda.value("dropout.rate")
    panda.press("dropout rate", "ArrowRight")
    until(lambda: panda.value("dropout.rate") > before)
    assert panda.changes_of("dropout.rate")[0][1:] == (before, panda.value("dropout.rate"))
    drawer.get_by_text("1 more hyperparameter").click()


def test_the_chart_is_read_zoomed_and_asked_by_mouse_and_by_keyboard(fresh):
    panda = fresh  # with no annotation near what is asked
    plot, values = panda.dashboard.locator(".babysit-plot"), panda.dashboard.locator(".babysit-values")
    until(lambda: panda.ask("panda.step") > 200)
    panda.click("Pause")
    panda.button("Resume").wait_for()
    panda.scroll_to()
    limits = "panda._dashboard._page._page.frame['limits']"
    whole = until(lambda: panda.ask(limits)[1] == panda.ask("panda.step") and panda.ask(limits))
    place, mouse = plot.bounding_box(), panda.lab.page.mouse
    x, y = place["x"] + 0.3 * place["width"], place["y"] + 0.2 * place["height"]
    mouse.move(x, y)
    assert "train" in values.inner_text() and "valid accuracy" in values.inner_text()
    mouse.down()
    mouse.move(x + 50, y)
    mouse.move(x + 100, y)
    mouse.up()
    until(lambda: 0 < panda.ask(limits)[0] < panda.ask(limits)[1] < whole[1])
    panda.lab.screenshot("zoomed")
    mouse.click(x, y)
    box = panda.dashboard.locator(".babysit-box")
    box.get_by_role("button", name="Rewind to step").wait_for()
    mouse.dblclick(x, y)
    until(lambda: panda.ask(limits) == whole)
    assert not box.is_visible()

    mouse.move(place["x"] - 40, y)  # off the chart, and the crosshair is gone
    plot.focus()
    step = panda.ask("panda.step")
    plot.press("ArrowLeft")
    until(lambda: f"step {step:,}" in values.inner_text())
    plot.press("ArrowLeft")
    assert f"step {step:,}" not in values.inner_text()
    plot.press("+")
    until(lambda: panda.ask(limits)[0] > 0)
    plot.press("Home")
    until(lambda: panda.ask(limits) == whole)
    plot.press("PageUp")
    shown = int(values.locator("b").inner_text().removeprefix("step ").replace(",", ""))
    plot.press("Enter")
    panda.dashboard.get_by_role("button", name=f"Rewind to step {shown:,}").press("Enter")
    until(lambda: panda.ask("panda.step") == shown)
    plot.press("ArrowUp")  # to the change before
    plot.press("Enter")
    box.get_by_role("button", name="Rewind to just before this").wait_for()
    assert "from Python: a moderate rate" in box.inner_text()
    plot.press("Escape")
    assert not box.is_visible()


def move(panda, name, key):
    """Presses a key on a slider, and sees what it does: in the kernel, on the chart, in the logbook."""
    label, old = name.replace("_", " "), panda.value(name)
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
    until(lambda: step in panda.ask("[mark['step'] for mark in panda._dashboard._page._page.frame['marks']]"))
    until(lambda: panda.purple() > 0)
    line = panda.dashboard.locator(".babysit-logbook tr").first
    assert label in line.inner_text() and "→" in line.inner_text()


def test_the_learning_rate_is_the_one_compiled_until_an_exact_value_is_typed_and_a_bad_one_is_refused(panda):
    length, step = panda.ask("len(panda.journal)"), panda.ask("panda.step")
    panda.lab.evaluate("from IPython.display import display; display(panda)")
    until(lambda: panda.ask("panda.step") > step + 100)
    assert panda.value("learning_rate") == 0.001  # as the notebook's own `set` left it
    assert panda.ask("len(panda.journal)") == length

    box = panda.box("learning rate")
    box.fill("3.21e-3")
    box.press("Enter")
    until(lambda: panda.value("learning_rate") == 3.21e-3)
    until(lambda: box.input_value() == "0.00321")
    box.fill("7")
    box.press("Enter")
    panda.wait_for_words("must be a number from 1e-06 to 1")
    until(lambda: box.input_value() == "0.00321")
    assert panda.value("learning_rate") == 3.21e-3
    panda.lab.screenshot("refused")


def test_a_value_that_a_ramp_moves_is_typed_over_and_dragged_away(panda):
    ramp = "panda.set(learning_rate=1e-6, over=5_000)"
    box = panda.box("learning rate")

    def type_over(words):
        panda.lab.evaluate(ramp)
        shown = [box.input_value()]
        until(lambda: len(shown) > 2 or (box.input_value() not in shown and shown.append(box.input_value())))
        box.press("Control+a")
        panda.lab.page.wait_for_timeout(500)  # in which the kernel brings further values
        box.press_sequentially(words, delay=100)
        assert box.input_value() == words
        box.press("Enter")
        until(lambda: panda.value("learning_rate") == float(words))

    type_over("0.00124")
    type_over("0.00123")  # the box has the focus already
    panda.lab.evaluate(ramp)
    until(lambda: panda.value("learning_rate") < 0.0012 and float(box.input_value()) < 0.0012)
    track = panda.dashboard.locator(".babysit-learning-rate .noUi-target")
    panda.lab.slider("learning rate").hover()  # in sight, and where the ramp has it now
    mouse = panda.lab.page.mouse
    mouse.down()
    there = track.bounding_box()
    for part in range(1, 16):
        mouse.move(there["x"] + 0.9 * there["width"] * part / 15, there["y"] + there["height"] / 2)
        panda.lab.page.wait_for_timeout(100)
    mouse.up()
    until(lambda: panda.changes_of("learning_rate"))
    assert 0.1 < panda.value("learning_rate") < 0.6  # nine tenths of the way from 1e-6 to 1, on the log scale


def test_sliders_and_buttons_work_while_another_cell_runs(panda):
    length = panda.ask("len(panda.journal)")
    busy = """
import time
began = time.time()
while time.time() < began + 12:
    sum(range(10_000))
ended = time.time()"""
    panda.dashboard.evaluate(NOTE_SILENCE)
    panda.dashboard.evaluate(NOTE_HEIGHTS)
    panda.speed_up(3)  # so that the page would report 7 s in which nothing comes
    panda.lab.page.evaluate(f"(code) => {{ {KERNEL}.requestExecute({{ code }}); }}", busy)
    panda.lab.page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
    for _ in range(3):
        panda.press("momentum", "ArrowRight")
        panda.press("learning rate", "ArrowRight")
    panda.wait_for_words("→ 0.0014")  # the logbook too goes on
    panda.click("Pause")
    panda.button("Resume").wait_for()
    panda.click("Resume")
    panda.button("Pause").wait_for()
    times = panda.ask(f"[e.time for e in panda.journal[{length}:]]")
    began, ended = panda.ask("(began, ended)")
    assert ended - began >= 12
    if late := panda.ask(
        "__import__('babysit.ui.widgets', fromlist=['']).late_controls_warning()"
    ):  # see `make test-matrix`
        panda.wait_for_words(late)
        assert len(times) >= 4 and all(t > ended for t in times)
    else:
        assert len(times) >= 4 and all(began < t < ended for t in times)
    assert panda.value("learning_rate") == 0.0014
    assert panda.value("momentum") == 0.7
    panda.speed_up(1)
    assert panda.lab.page.evaluate("window.reported") == []
    panda.lab.page.evaluate("clearInterval(window.timer)")
    assert panda.lab.page.evaluate("window.moved") == {}


def test_hidden_and_reloaded_and_run_again_the_dashboard_is_alive(panda):
    panda.press("momentum", "ArrowRight")
    until(lambda: panda.changes_of("momentum"))
    chart = panda.dashboard.locator(".babysit-plot img")
    panda.dashboard.evaluate("(dashboard) => { dashboard.style.display = 'none'; }")  # as under another tab
    until(lambda: not panda.ask("panda._dashboard._page.is_visible"), timeout_s=60)
    panda.lab.page.wait_for_timeout(500)  # a frame may be on its way
    frame, step = chart.get_attribute("src"), panda.ask("panda.step")
    until(lambda: panda.ask("panda.step") > step + 60)
    assert chart.get_attribute("src") == frame
    panda.dashboard.evaluate("(dashboard) => { dashboard.style.display = ''; }")
    until(lambda: chart.get_attribute("src") != frame)

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
    shown = panda.dashboard.locator(".babysit-status-bar").inner_text()
    until(lambda: panda.dashboard.locator(".babysit-status-bar").inner_text() != shown)

    step = panda.ask("panda.step")
    with pytest.raises(AssertionError, match=r"babysit\.attach\(\)"):
        panda.lab.run_cell(5)
    assert panda.ask("panda is babysit.attach()") is True
    until(lambda: panda.ask("panda.step") > step + 20)
    panda.lab.run_code("panda")  # the error has taken the place of its dashboard
    panda.dashboard.wait_for()


def test_at_any_width_and_in_any_light_no_word_is_cut_off_and_nothing_jumps(panda):
    panda.wait_for_words("examples/s")
    for width, theme in [(900, "Light"), (1280, "Dark"), (1440, "Dark"), (1920, "Light")]:
        panda.lab.page.set_viewport_size({"width": width, "height": 1200})
        panda.use_theme(theme)
        panda.scroll_to()
        until(lambda: panda.cut_off() == [])
        until(lambda: panda.dashboard.evaluate(RAGGED) == [])
        until(lambda: 420 <= panda.dashboard.locator(".babysit-plot img").bounding_box()["width"] <= 1240)
        until(lambda: panda.dashboard.locator(".babysit-plot img").evaluate(SHARP))
        panda.picture(f"wide-{width}-{theme.lower()}")
        assert panda.paper() == {"Light": (255,) * 3, "Dark": (17,) * 3}[theme]
    heights = panda.dashboard.evaluate(HEIGHTS)
    panda.press("momentum", "ArrowRight", times=4)
    until(lambda: panda.value("momentum") == 0.8)
    panda.wait_for_words("in effect since step")
    assert panda.dashboard.evaluate(HEIGHTS) == pytest.approx(heights, abs=2)
    panda.lab.page.set_viewport_size({"width": 480, "height": 1800})  # a phone's, without the file browser
    panda.lab.page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    assert panda.dashboard.locator(".babysit-status-bar .babysit-progress").bounding_box()["height"] >= 6
    sliders, chart = (panda.dashboard.locator(name).bounding_box() for name in (".babysit-controls", ".babysit-chart"))
    assert sliders["y"] + sliders["height"] <= chart["y"]
    for tab in ("Timeline", "Foresight", "Rules", "Diagnostics", "Logbook"):
        panda.tab(tab).click()
        if tab == "Diagnostics":
            panda.click("Measure")
            panda.wait_for_words("about 1e-3 is healthy")
            panda.wait_for_words("batch_normalization_1")
        until(lambda: panda.cut_off() == [])
        until(lambda: panda.dashboard.evaluate(RAGGED) == [])
        panda.picture(f"narrow-{tab.lower().replace(' ', '-')}")
        if tab == "Timeline":
            assert panda.dashboard.locator(".babysit-tree select").bounding_box()["width"] > 250
    paper = panda.dashboard.locator(".jupyter-button", has_text=exactly("Step")).evaluate(COLOUR)
    panda.use_theme("Dark")
    until(lambda: panda.button("Step").evaluate(COLOUR) != paper)
    panda.picture("narrow-dark")


def test_everything_is_reached_and_worked_by_keyboard_and_has_a_name(fresh):
    panda = fresh
    until(lambda: panda.dashboard.evaluate(UNNAMED) == [])
    assert panda.dashboard.get_by_role("slider", name="learning rate", exact=True).count() == 1
    assert panda.dashboard.get_by_role("combobox", name="checkpoint to rewind to").count() == 1
    panda.dashboard.get_by_role("button", name="SVG").press("Enter")
    panda.wait_for_words("written to")
    assert panda.ask("(panda.directory / 'chart.svg').read_bytes()[:5]") == b"<?xml"
    until(lambda: panda.dashboard.locator(".babysit-alt-text").inner_text().startswith("At step"))
    panda.button("Pause").focus()
    keyboard = panda.lab.page.keyboard
    keyboard.press("Enter")
    panda.button("Resume").wait_for()
    step = panda.ask("panda.step")
    for key in ("Tab", "Tab", "Tab", "Control+a", "7", "Shift+Tab", "Enter"):  # to the number beside *Steps*, and back
        keyboard.press(key)
    panda.wait_for_words(f"step {step + 7:,}")
    until(lambda: panda.ask("(panda.step, panda.state)") == (step + 7, "paused"))
    panda.tab("Logbook").focus()
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    panda.dashboard.get_by_role("button", name="Rewind there").wait_for()
    tree = panda.dashboard.get_by_role("listbox", name="branches and checkpoints")
    tree.focus()
    tree.press("Home")
    tree.press("ArrowDown")
    panda.wait_for_words("branch 1 · step 0")
    panda.dashboard.get_by_label("step", exact=True).fill("5")
    panda.dashboard.get_by_role("button", name="Rewind there").press("Enter")
    panda.wait_for_words("left branch 1 at step 5")
    assert panda.ask("(panda.step, panda.state, panda.history.branch)") == (5, "paused", "branch 2")


def test_what_is_tried_beside_a_slider_is_kept_and_a_suggested_rate_is_set(fresh):
    panda = fresh
    panda.lab.page.set_viewport_size({"width": 1400, "height": 1000})
    until(lambda: panda.ask("panda.step") > 100)
    until(lambda: panda.dashboard.locator(".babysit-plot img").evaluate(SHARP))  # the page has told its width
    value = panda.value("learning_rate")
    row = panda.dashboard.locator(".babysit-hyperparameter").filter(
        has=panda.lab.page.locator(".babysit-learning-rate")
    )
    row.get_by_role("button", name="try").press("Enter")
    panda.button("Cancel").wait_for()
    assert panda.dashboard.locator(".babysit-controls").evaluate("(part) => getComputedStyle(part).opacity") == "0.5"
    keep = panda.dashboard.get_by_role("button", name="Keep", exact=True)
    keep.last.wait_for()  # in the tab that has come to the front
    until(lambda: panda.cut_off() == [])
    panda.picture("foresight")
    keep.last.click()
    until(lambda: panda.box("learning rate").input_value() == f"{3 * value:.15g}")
    until(lambda: panda.ask("panda.state") == "running")
    kept = panda.ask("[panda.branches[panda.branches[panda.history.branch][0]][0], panda.history.branch]")
    assert kept == ["branch 1", panda.ask("panda.journal[-1].branch")]
    until(lambda: keep.count() == 0)
    panda.lab.evaluate("panda.pause()\npanda.rewind(20)")  # where the loss has not fallen yet
    panda.click("Range test")
    suggested = panda.dashboard.get_by_role("button", name="valley")
    suggested.click()
    rate = float(suggested.inner_text().removeprefix("valley "))
    until(lambda: panda.value("learning_rate") == rate)
    assert "range test: valley" in panda.ask("[entry.why for entry in panda.journal]")
    until(lambda: float(panda.box("learning rate").input_value()) == rate)
    panda.picture("range-test")

    panda.lab.evaluate("def long_enough(history): return 'it has run for long'")
    panda.lab.evaluate("panda.watch(long_enough)\npanda.resume()")
    panda.wait_for_words("Long_enough at step")
    panda.button("Halve the learning rate").press("Enter")
    until(lambda: panda.value("learning_rate") == rate / 2)
    until(panda.button("Ignore").is_hidden)
    panda.tab("Rules").click()
    panda.dashboard.get_by_label("stalled").select_option("pause")
    until(lambda: panda.ask("panda.status()['foresight']['rules']") == {"long_enough": "tell", "stalled": "pause"})


def test_the_buttons_lead_to_the_end_of_an_epoch_and_to_the_start_and_undo_a_change(panda):
    epochs = panda.ask("panda.status()['epochs'] + 10")
    panda.click("Pause")
    panda.button("Resume").wait_for()
    until(lambda: panda.lab.page.title().startswith("❚❚"))
    epoch = panda.ask("panda.epoch")
    panda.click("Finish epoch")
    until(lambda: panda.ask("(panda.epoch, panda.state)") == (epoch + 1, "paused"))
    panda.click("More epochs")
    panda.wait_for_words(f"of {epochs:,}")
    steps = panda.dashboard.get_by_label("how many steps")
    steps.press("Control+a")
    steps.press_sequentially("0")
    steps.press("Enter")
    until(lambda: steps.input_value() == "1")  # brought within its bounds

    panda.press("learning rate", "PageUp")
    until(lambda: panda.value("learning_rate") > 0.001)
    why = panda.dashboard.get_by_label("why, for the logbook")
    why.fill("it creeps")
    why.press("Enter")
    panda.wait_for_words("it creeps")
    until(lambda: why.input_value() == "")
    panda.click("Undo last change")
    until(lambda: panda.value("learning_rate") == 0.001)
    panda.dashboard.get_by_role("button", name="reset", exact=True).first.click()
    until(lambda: panda.value("learning_rate") == 0.0005)

    width = panda.dashboard.locator(".babysit-controls").bounding_box()["width"]
    panda.dashboard.get_by_text("coupling: off").click()
    panda.dashboard.get_by_label("learning rate when batch size changes").wait_for()
    assert panda.dashboard.locator(".babysit-controls").bounding_box()["width"] == width
    panda.dashboard.get_by_label("learning rate when batch size changes").select_option("changes in proportion")
    panda.wait_for_words("coupling: learning rate follows batch size, linear")
    panda.press("batch size", "ArrowRight")
    until(lambda: (panda.value("batch_size"), panda.value("learning_rate")) == (64, 0.001))

    panda.button("Markdown").click()
    panda.wait_for_words("written to")
    assert "it creeps" in panda.ask("(panda.directory / 'logbook.md').read_text()")
    panda.click("Start over")
    until(lambda: panda.ask("(panda.step, panda.state)") == (0, "paused"))
    assert panda.ask("panda.branches[panda.history.branch]") == ("branch 1", 0)
    panda.picture("run-buttons")
    panda.lab.evaluate("panda.set(learning_rate=1.0, momentum=0.9999)")
    panda.lab.evaluate(
        "import numpy; panda.call(lambda model: model.layers[0].kernel.assign(model.layers[0].kernel * numpy.nan))"
    )
    panda.click("Resume")
    panda.lab.page.wait_for_function("document.title.startsWith('⚠ NaN')")
    panda.wait_for_words("not a finite number")


SEVERAL = """
import numpy as np

numbers = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def network(n):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name=f"network_{n}")
    network.compile(keras.optimizers.SGD(0.002 * (n + 1)), "mse")
    return network


both = babysit.Together(
    *(babysit.Panda(network(n)).fit(numbers, numbers[:, :1], epochs=20).wait() for n in range(3))
)
both
"""


def pixels(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int).reshape(-1, 3)


def test_several_runs_have_signs_in_the_colours_of_their_curves_on_a_dark_page_and_the_same_sliders(notebook):
    lab = notebook.lab
    lab.page.set_viewport_size({"width": 1400, "height": 1000})
    notebook.use_theme("Dark")
    lab.run_code(SEVERAL)
    dashboard = lab.page.locator(".babysit", has=lab.page.locator(".babysit-sign"))
    chart, signs = dashboard.locator(".babysit-plot img"), dashboard.locator(".babysit-sign")
    until(lambda: signs.count() == 3)
    dashboard.screenshot(path=SCREENSHOTS / "together-dark.png")
    for sign in signs.all():
        found = pixels(sign)
        page, colour = found[0], found[np.abs(found - found[0]).sum(axis=1).argmax()]
        assert np.abs(colour - page).max() > 80
        until(lambda colour=colour: (np.abs(pixels(chart) - colour).max(axis=1) < 16).sum() > 20)
    dashboard.get_by_label("learning rate, exactly").fill("0.5")
    dashboard.get_by_label("learning rate, exactly").press("Enter")
    rates = "[panda.hyperparameters['learning_rate'].value for panda in both.pandas]"
    until(lambda: notebook.ask(rates) == [0.5] * 3)


SPIKY = f"""
import sys

sys.path.insert(0, {str(ROOT)!r})
from tests.recipes import spiky

spiked = spiky.panda("runs/spiked", epochs=10**6)
spiked.watch("spike", then="pause")
spiked
"""


def test_a_spike_is_explained_and_left_out_and_trials_are_cancelled(notebook):
    lab = notebook.lab
    lab.run_code(SPIKY)
    panda = Watched(lab, lab.page.locator(".babysit").last)
    panda.click("Resume")
    panda.wait_for_words("Spike at step 150")
    place = panda.ask("(spiked.step, spiked.state, spiked.digest())")
    panda.dashboard.locator(".babysit-alerts").evaluate(NOTE_WORDS)
    panda.click("Show the cause")
    panda.wait_for_words("It is the batches")
    assert any("%" in words for words in lab.page.evaluate("window.said"))  # what is tried, and how far it has come
    panda.picture("cause")
    assert panda.ask("(spiked.step, spiked.state, spiked.digest())") == place
    panda.click("Go back and leave out")
    until(lambda: panda.ask("spiked.step") == 50)
    until(panda.button("Ignore").is_hidden)
    assert [panda.ask(f"spiked.journal[-1].{name}") for name in ("action", "author")] == ["rewind", "dashboard"]

    digest = panda.ask("spiked.digest()")
    steps = panda.dashboard.get_by_label("steps", exact=True)
    steps.fill("9999999")
    steps.press("Enter")
    panda.click("Try")
    panda.wait_for_words("learning rate 0.003333, 1 of 3")
    until(lambda: panda.ask("spiked.step") > 60)
    panda.picture("trying")
    panda.click("Cancel")
    until(panda.button("Cancel").is_hidden)
    assert panda.ask("(spiked.step, spiked.state, spiked.digest())") == (50, "paused", digest)

    panda.click("Range test")
    picture = panda.dashboard.locator(".babysit-tried-picture")
    panda.wait_for_words("A click on the curve")
    at, pointed = [0.0, 0.0], picture.get_by_text("set learning rate")

    def point():  # until the page has the picture and its axis, which come after the words
        picture.scroll_into_view_if_needed()
        place = picture.bounding_box()
        at[:] = place["x"] + 0.6 * place["width"], place["y"] + 100
        lab.page.mouse.move(at[0], at[1] + 5)
        lab.page.mouse.move(*at)
        return pointed.count()

    until(point)
    rate = float(pointed.inner_text().split()[-1])
    lab.screenshot("range-test-pointer")
    lab.page.mouse.click(*at)
    until(lambda: panda.ask("spiked.hyperparameters['learning_rate'].value") == rate)
    assert panda.ask("spiked.journal[-1].why") == "range test: chosen on the curve"
    panda.lab.evaluate("spiked.stop()")


def test_a_kernel_that_no_longer_answers_or_was_restarted_is_reported_by_the_page_alone(fresh):
    panda, page = fresh, fresh.lab.page
    silence = panda.dashboard.locator(".babysit-silence")
    kernel = panda.ask("__import__('os').getpid()")

    panda.scroll_to()
    until(lambda: panda.ask("panda.step") > 100)
    os.kill(kernel, signal.SIGSTOP)
    try:
        page.evaluate(SHOW, "hidden")
        panda.speed_up(9)
        page.wait_for_timeout(3000)  # in which the page looks three times
        panda.speed_up(1, skip_s=100)  # as if its timers had stood still
        page.evaluate(SHOW, "visible")
        page.wait_for_timeout(1500)
        assert silence.inner_text() == ""
        panda.speed_up(6)
        until(lambda: "No answer from the kernel for 20 s" in silence.inner_text())
        panda.lab.screenshot("silent")
    finally:
        os.kill(kernel, signal.SIGCONT)
    until(lambda: silence.inner_text() == "")
    panda.click("Pause")
    panda.button("Resume").wait_for()
    panda.speed_up(9)
    page.wait_for_timeout(3000)
    assert silence.inner_text() == ""
    page.evaluate(f"{KERNEL}.restart()")
    until(lambda: "The kernel was restarted" in silence.inner_text())
    assert panda.dashboard.evaluate(BROKEN_LINKS) == 0
    panda.lab.screenshot("restarted")
