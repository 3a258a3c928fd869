"""The harness itself, shown on a notebook of two cells: what the other browser tests rely on."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

from tests.browser.server import KERNEL

CELLS = [
    """
import threading
import ipywidgets

rate = ipywidgets.FloatLogSlider(
    value=1e-3, min=-5, max=0, step=0.1, description="rate", continuous_update=False
)
echo = ipywidgets.Label("-")
press = ipywidgets.Button(description="press")
press.on_click(lambda button: setattr(button, "description", "pressed"))
moved = threading.Event()


def follow():
    while moved.wait():
        moved.clear()
        echo.value = f"rate is {rate.value:.3e}"


rate.observe(lambda change: moved.set(), "value")
threading.Thread(target=follow, daemon=True).start()
ipywidgets.VBox([rate, echo, press])
""",
    "count = globals().get('count', 0) + 1",
]

# Without it JupyterLab asks for a kernel.
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def tiny(lab):
    cells = [new_code_cell(source.strip()) for source in CELLS]
    nbformat.write(new_notebook(cells=cells, metadata=PYTHON), lab.root / "tiny.ipynb")
    lab.open("tiny.ipynb")
    return lab


def test_a_key_moves_the_slider_and_a_thread_the_label(tiny):
    tiny.run_all()
    handle = tiny.slider("rate")
    handle.focus()
    handle.press("ArrowRight")
    expect(tiny.page.get_by_text("rate is 1.259e-03")).to_be_visible()
    assert float(tiny.evaluate("rate.value")) == pytest.approx(10**-2.9)


def test_widgets_outlive_a_reload_of_the_page(tiny):
    tiny.run_all()
    tiny.save()
    tiny.reload()
    expect(tiny.slider("rate")).to_be_visible()
    tiny.button("press").click()
    expect(tiny.button("pressed")).to_be_visible()
    assert tiny.screenshot("harness").stat().st_size > 10_000


def test_the_page_opens_without_pop_ups(tiny):
    tiny.run_all()
    news = "@jupyterlab/apputils-extension:announcements"
    assert not tiny.page.evaluate("(news) => window.jupyterapp.hasPlugin(news)", news)
    expect(tiny.page.locator(".jp-Dialog")).to_have_count(0)
    expect(tiny.page.locator(".Toastify__toast")).to_have_count(0)


def test_one_cell_runs_alone(tiny):
    tiny.run_cell(1)
    tiny.run_cell(1)
    assert tiny.evaluate("print('count', count)\n'rate' in globals()") == "count 2\nFalse"


def test_evaluate_adds_no_cell_and_no_output(tiny):
    tiny.evaluate("print('unseen')")
    notebook = tiny.page.evaluate("window.jupyterapp.shell.currentWidget.context.model.toJSON()")
    assert [cell["outputs"] for cell in notebook["cells"]] == [[], []]


def test_errors_reach_the_test(tiny):
    with pytest.raises(AssertionError, match="ZeroDivisionError: division by zero"):
        tiny.evaluate("1 / 0")
    tiny.page.evaluate(
        "window.jupyterapp.shell.currentWidget.context.model.cells.get(1).sharedModel.setSource('1 / 0')"
    )
    with pytest.raises(AssertionError, match="ZeroDivisionError: division by zero"):
        tiny.run_cell(1)


def test_the_kernel_is_the_interpreter_it_should_be(tiny):
    assert tiny.evaluate("import sys; print(sys.executable)") == KERNEL
