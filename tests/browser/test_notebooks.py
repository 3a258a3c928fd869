"""Notebooks of the course in the real browser: all cells run, and a slider acts, their own or a dashboard's."""

import ast

import pytest
from playwright.sync_api import expect

from tests.patience import until

# One with a slider of its own, one with a dashboard of two runs; test_notebooks.py runs them all without a page.
STEMS = ("02_gradient_descent", "04_batch_normalisation")
BY_HAND = """
import babysit
alive = babysit.attach()
alive = alive if isinstance(alive, list) else [alive]
print([list(e.changes) for panda in alive for e in panda.journal if (e.author, e.action) == ("dashboard", "set")])
"""


@pytest.mark.parametrize("stem", STEMS)
def test_its_cells_run_and_its_sliders_act(lab, stem):
    lab.open(f"notebooks/{stem}.ipynb")
    lab.run_all()
    assert move_on_dashboard(lab) | move_of_its_own(lab), "a course without anything to do"
    expect(lab.page.get_by_text("could not be drawn")).to_have_count(0)
    lab.screenshot(f"notebook-{stem}")


def move_on_dashboard(lab):
    """Moves the first slider of the first dashboard: it stands in the journal. Whether there is one."""
    handles = lab.page.locator(".babysit .noUi-handle")
    if not handles.count():
        return False
    assert ast.literal_eval(lab.evaluate(BY_HAND)) == []  # merely shown, they have changed nothing
    handles.first.press("ArrowRight")
    until(lambda: ast.literal_eval(lab.evaluate(BY_HAND)))
    return True


def move_of_its_own(lab):
    """Moves the first slider that the notebook made itself: what stands below it is another. Whether there is one."""
    handles = lab.page.locator(".noUi-handle:not(.babysit *)")
    if not handles.count():
        return False
    outputs = lab.page.locator(".jp-OutputArea-child", has=handles.first)
    before = outputs.first.inner_text()
    handles.first.press("ArrowRight")
    expect(outputs.first).not_to_have_text(before, use_inner_text=True)
    return True
