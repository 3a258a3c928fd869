"""The board of a fake search in the real browser, used by mouse and keyboard as a person would."""

import ast
import inspect

import nbformat
import pytest

import babysit
from tests.browser.test_panda import CUT_OFF, SHARP, UNNAMED
from tests.patience import until
from tests.ui import test_board

CODE = """
import sys, types

package = sys.modules["babysit"] = types.ModuleType("babysit")  # without its `__init__`, which imports TensorFlow
package.__path__ = {path!r}

import ipywidgets as widgets
import numpy as np
from babysit.ui import board as of_the_board

{fakes}
search = FakeSearch(30)
for i, name in enumerate(search.table):
    search.train(name, *(1 / np.arange(1, 6) + (i * 7 % 30) / 30))
    search.change(name, state="running" if i < 20 else "finished")
of_the_board.Dashboard = Dashboard
board = of_the_board.Board(search)
board.widget
"""


class Watched:
    """What a person sees of the board, and what the kernel says."""

    def __init__(self, lab):
        self.lab, self.page = lab, lab.page
        self.board = lab.page.locator(".babysit-board").first
        self.board.evaluate("one => one.scrollIntoView()")  # out of sight it is sent nothing
        self.board.locator("tbody tr").nth(29).wait_for()

    def ask(self, expression):
        return ast.literal_eval(self.lab.evaluate(f"print(repr({expression}))"))

    def runs(self):
        return [words.split()[1] for words in self.board.locator("tbody tr td:nth-child(2)").all_inner_texts()]

    def box(self, name):
        return self.board.get_by_label(f"choose {name}", exact=True)

    def button(self, name):
        return self.board.get_by_role("button", name=name, exact=True)

    def chosen(self):
        return self.ask("board._table.chosen")

    def last(self):
        return self.ask("search.commands[-1] if search.commands else None")


@pytest.fixture(scope="module")
def board(lab):
    fakes = inspect.getsource(test_board.FakeSearch) + "\n\n" + inspect.getsource(test_board.Dashboard)
    code = CODE.format(path=list(babysit.__path__), fakes=fakes)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=kernel)
    nbformat.write(notebook, lab.root / "board.ipynb")
    lab.open("board.ipynb")
    lab.run_all()
    return Watched(lab)


def test_a_search_is_sorted_steered_cloned_and_opened(board):
    first = board.ask("list(search.table)")
    until(lambda: board.runs() == [name.split()[1] for name in first])
    values = {name.split()[1]: i * 7 % 30 for i, name in enumerate(first)}
    head = board.board.locator("th", has_text="best val loss")
    board.button("best val loss").press("Enter")
    until(lambda: board.runs() == sorted(values, key=values.get))
    assert head.get_attribute("aria-sort") == "ascending"
    board.button("best val loss").click()
    until(lambda: board.runs() == sorted(values, key=values.get, reverse=True))
    assert head.get_attribute("aria-sort") == "descending"

    assert board.button("Pause").is_disabled()
    board.box("run 2").check()
    board.box("run 25").press("Space")
    until(lambda: board.chosen() == ["run 2", "run 25"])
    sign = board.board.locator("tr", has=board.page.get_by_label("choose run 25", exact=True)).locator("i")
    until(lambda: sign.evaluate("one => one.style.backgroundColor") == "rgb(194, 81, 0)")  # as its curve
    board.button("Pause").click()  # the finished one is not meant
    until(lambda: board.last() == {"action": "pause", "runs": ["run 2"]})
    board.lab.evaluate("search.change('run 2', state='paused')")
    until(lambda: board.button("Resume").is_enabled())
    board.button("Delete").click()
    board.button("Delete run 25").click()
    until(lambda: board.last() == {"action": "delete", "runs": ["run 25"]})
    board.box("run 25").uncheck()

    board.button("Clone").press("Enter")
    board.board.get_by_label("at step").fill("1,200")
    board.page.keyboard.press("Tab")
    board.page.keyboard.type("learning rate=0.003")
    board.page.keyboard.press("Tab")
    board.page.keyboard.press("Enter")
    changes = {"learning_rate": 0.003}
    until(lambda: board.last() == {"action": "clone", "runs": ["run 2"], "at": 1200, "changes": changes})
    board.lab.evaluate("search.add('run 31', of='run 2 at step 1,200')")
    board.board.get_by_text("clone of run 2 at step 1,200").wait_for()

    board.button("Open").click()
    board.board.get_by_text("the dashboard of run 2").wait_for()
    board.button("Close run 2").click()
    board.board.get_by_text("the dashboard of run 2").wait_for(state="detached")


def test_runs_are_chosen_by_the_sliders_on_the_axes_with_the_mouse_and_by_keyboard(board):
    axis = board.board.locator(".widget-vslider", has_text="units")
    ends, few = axis.get_by_role("slider", name="units"), "[r['name'] for r in search.rows() if {}]"
    axis.scroll_into_view_if_needed()
    low, high = (ends.nth(i).bounding_box() for i in (0, 1))
    assert abs(low["y"] - high["y"] - 220) < 2
    board.page.mouse.move(high["x"] + 6, high["y"] + 6)
    board.page.mouse.down()
    board.page.mouse.move(high["x"] + 6, high["y"] + 6 + 110, steps=4)
    board.page.mouse.up()
    below = board.ask(few.format("r['hyperparameters'].get('units', 1e9) <= 72"))
    until(lambda: board.chosen() == below)
    until(lambda: axis.locator(".widget-readout").inner_text() == "16-72")
    ends.nth(0).focus()
    for _ in range(10):
        board.page.keyboard.press("ArrowUp")
    between = board.ask(few.format("44 <= r['hyperparameters'].get('units', 1e9) <= 72"))
    until(lambda: board.chosen() == between)
    board.board.get_by_label("choose all runs").click()
    board.board.get_by_label("choose all runs").click()
    until(lambda: board.chosen() == [])
    until(lambda: axis.locator(".widget-readout").inner_text() == "16-128")


def test_the_curves_are_read_off_by_the_crosshair_and_zoomed(board):
    plot = board.board.locator(".babysit-plot")
    plot.scroll_into_view_if_needed()
    plot.focus()
    board.page.keyboard.press("ArrowRight")
    board.page.keyboard.press("ArrowRight")
    until(lambda: board.board.locator(".babysit-values").inner_text().split() == ["epoch", "2", "run", "1", "0.5"])
    board.page.keyboard.press("Enter")
    assert board.board.locator(".babysit-box").is_hidden()  # it is no run that can be rewound
    board.page.keyboard.press("+")
    until(lambda: board.ask("board._chart.zoom") is not None)
    board.page.keyboard.press("Home")
    until(lambda: board.ask("board._chart.zoom") is None)


def test_it_has_names_and_fits_wide_and_narrow_pages(board):
    until(lambda: board.board.evaluate(UNNAMED) == [])
    for width in (900, 1280, 1920):
        board.page.set_viewport_size({"width": width, "height": 1000})
        until(lambda: board.board.evaluate("one => one.scrollWidth <= one.clientWidth"))
        for image in (".babysit-plot img", ".babysit-parallel img"):
            until(lambda image=image: board.board.locator(image).evaluate(SHARP))
        rows = board.board.locator(".babysit-status-bar, .babysit-row, .babysit-axes")
        assert rows.evaluate_all(f"all => all.flatMap({CUT_OFF})") == []
    board.lab.screenshot("board")


def test_a_reloaded_page_shows_the_board_again_with_what_was_chosen(board):
    board.box("run 3").check()
    until(lambda: board.chosen() == ["run 3"])
    board.lab.save()
    board.lab.reload()
    board.board.evaluate("one => one.scrollIntoView()")
    board.box("run 3").wait_for()
    until(lambda: board.box("run 3").is_checked())
