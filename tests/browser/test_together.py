"""Several runs in one dashboard, in the real browser: each head has the colour of its curves, on any page."""

import io

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from tests.browser.lab import SCREENSHOTS
from tests.browser.test_harness import PYTHON
from tests.patience import until

CELL = """
import keras
import numpy as np

import babysit

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def network(n):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name=f"network_{n}")
    model.compile(keras.optimizers.SGD(0.002 * (n + 1)), "mse")
    return model


babysit.Together(*(babysit.Panda(network(n)).fit(x, x[:, :1], epochs=20).wait() for n in range(5)))
"""


def pixels(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int).reshape(-1, 3)


def drawn(sign):
    """The colour of a sign: of its pixels that which differs most from the page."""
    found = pixels(sign)
    return found[np.abs(found - found[0]).sum(axis=1).argmax()], found[0]


@pytest.mark.parametrize("theme", ["Dark"])
def test_the_signs_of_the_heads_have_the_colours_of_the_curves(lab, theme):
    nbformat.write(new_notebook(cells=[new_code_cell(CELL.strip())], metadata=PYTHON), lab.root / "together.ipynb")
    lab.open("together.ipynb")
    wanted = f"{{ theme: 'JupyterLab {theme}' }}"
    lab.page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {wanted})")
    lab.page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
    lab.run_all()
    chart, signs = lab.page.locator(".babysit-plot img"), lab.page.locator(".babysit-sign")
    until(lambda: signs.count() == 5)
    lab.page.locator(".babysit").screenshot(path=SCREENSHOTS / f"together-{theme.lower()}.png")
    for sign in signs.all():
        colour, page = drawn(sign)
        assert np.abs(colour - page).max() > 80
        until(lambda colour=colour: (np.abs(pixels(chart) - colour).max(axis=1) < 16).sum() > 20)
