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


def test_what_the_browser_tests_rely_on_and_that_the_kernel_is_the_interpreter_it_should_be(lab):
    cells = [new_code_cell(source.strip()) for source in CELLS]
    nbformat.write(new_notebook(cells=cells, metadata=PYTHON), lab.root / "tiny.ipynb")
    lab.open("tiny.ipynb")
    assert lab.evaluate("import sys; print(sys.executable)") == KERNEL
    lab.run_cell(1)
    lab.run_cell(1)
    assert lab.evaluate("print('count', count)\n'rate' in globals()") == "count 2\nFalse"
    notebook = lab.page.evaluate("window.jupyterapp.shell.currentWidget.context.model.toJSON()")
    assert [cell["outputs"] for cell in notebook["cells"]] == [[], []]  # what is evaluated adds none

    lab.run_cell(0)
    handle = lab.slider("rate")
    handle.focus()
    handle.press("ArrowRight")
    expect(lab.page.get_by_text("rate is 1.259e-03")).to_be_visible()
    assert float(lab.evaluate("rate.value")) == pytest.approx(10**-2.9)
    expect(lab.page.locator(".jp-Dialog")).to_have_count(0)
    expect(lab.page.locator(".Toastify__toast")).to_have_count(0)

    lab.save()
    lab.reload()
    expect(lab.slider("rate")).to_be_visible()
    lab.button("press").click()
    expect(lab.button("pressed")).to_be_visible()

    with pytest.raises(AssertionError, match="ZeroDivisionError: division by zero"):
        lab.evaluate("1 / 0")
    with pytest.raises(AssertionError, match="ZeroDivisionError: division by zero"):
        lab.run_code("1 / 0")
