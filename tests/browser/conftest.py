"""A browser and a JupyterLab for this folder, and a page of it for each module."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.lab import Lab
from tests.browser.server import ARGUMENTS, chromium, jupyterlab

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
VIEWPORT = {"width": 1400, "height": 1000}
EPOCHS = "epochs=800"  # of the first notebook
# It has to train for as long as the tests take, and to leave them a processor: it waits while it validates.
SLOWLY = (
    "type('Slowly', (keras.callbacks.Callback,), "
    "{'on_test_batch_end': lambda self, batch, logs=None: __import__('time').sleep(0.05)})()"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark this folder's tests; begin with them and with the zoo, so that what is short fills up the end."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
    items.sort(key=lambda item: (HERE not in item.path.parents, item.path.stem != "test_zoo"))


@pytest.fixture(scope="package")
def browser():
    """The system's Chromium, for this folder alone: Playwright's event loop would be in the way of other tests."""
    if (found := chromium()) is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("No Chromium on this machine: `make test` installs one where it may.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def lab_server(browser, tmp_path_factory):
    """A JupyterLab for the folder: its `url`, and its `root` with a copy of our notebooks."""
    with jupyterlab(tmp_path_factory.mktemp("jupyter")) as server:
        if NOTEBOOKS.is_dir():
            shutil.copytree(NOTEBOOKS, server.root / "notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
            first = server.root / "notebooks" / "01_panda.ipynb"
            assert EPOCHS in (source := first.read_text())
            first.write_text(source.replace(EPOCHS, f"epochs=5000, callbacks={SLOWLY}"))
        yield server


@pytest.fixture(scope="module")
def lab(lab_server, browser):
    """A page of that JupyterLab, for the tests of a module one after another; its kernels end with them."""
    page = browser.new_page(viewport=VIEWPORT)
    lab = Lab(page, lab_server.url, lab_server.root)
    yield lab
    lab.close()
    page.close()
