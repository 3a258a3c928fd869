"""A JupyterLab for the session and a page of it for each module."""

import os
import shutil
from pathlib import Path

import pytest

from tests.browser.lab import Lab
from tests.browser.server import ARGUMENTS, chromium, jupyterlab

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
EPOCHS = "epochs=800"  # of the first notebook, which has to train for as long as the tests take


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark this folder's tests, and run them last: Playwright leaves its event loop running."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    if (found := chromium()) is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("No Chromium on this machine: `make test` installs one where it may.")
    return {**browser_type_launch_args, "executable_path": found, "args": ARGUMENTS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args):
    return {**browser_context_args, "viewport": {"width": 1400, "height": 1000}}


@pytest.fixture(scope="session")
def lab_server(browser, tmp_path_factory):
    """A JupyterLab for the session: its `url`, and its `root` with a copy of our notebooks."""
    with jupyterlab(tmp_path_factory.mktemp("jupyter")) as server:
        if NOTEBOOKS.is_dir():
            shutil.copytree(NOTEBOOKS, server.root / "notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
            first = server.root / "notebooks" / "01_panda.ipynb"
            assert EPOCHS in (source := first.read_text())
            first.write_text(source.replace(EPOCHS, "epochs=5000"))
        yield server


@pytest.fixture(scope="module")
def lab(lab_server, browser, browser_context_args):
    """A page of that JupyterLab, for the tests of a module one after another; its kernels end with them."""
    context = browser.new_context(**browser_context_args)
    lab = Lab(context.new_page(), lab_server.url, lab_server.root)
    yield lab
    lab.close()
    context.close()
