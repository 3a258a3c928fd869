"""A training with its dashboard in the real browser, to be measured there."""

import contextlib
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import sync_playwright

import babysit
from tests.browser.lab import Lab
from tests.browser.server import ARGUMENTS, chromium, jupyterlab

CELL = """
import babysit
from babysit import demos

(x, y), validation = demos.digits()
panda = babysit.Panda(demos.dense_network(seed=0), "run", seed=0).fit(x, y, epochs=10**9, validation_data=validation)
panda
"""
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@contextlib.contextmanager
def watched():
    """The page of a notebook with a training in it, and the run as another process sees it."""
    if chromium() is None:
        raise SystemExit("This needs a Chromium on this machine.")
    with tempfile.TemporaryDirectory() as home, jupyterlab(Path(home)) as server, sync_playwright() as playwright:
        cells = [new_code_cell(CELL.strip())]
        nbformat.write(new_notebook(cells=cells, metadata=PYTHON), server.root / "run.ipynb")
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        lab = Lab(browser.new_page(viewport={"width": 1400, "height": 1000}), server.url, server.root)
        lab.open("run.ipynb")
        lab.run_all()
        lab.page.locator(".babysit").first.wait_for()
        yield lab, babysit.attach(server.root / "run")
        lab.page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        browser.close()


def user_changes(run):
    """The changes that came from the dashboard, oldest first."""
    return [entry for entry in run.journal if entry.author == "dashboard" and entry.action == "set"]
