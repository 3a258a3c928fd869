"""A real JupyterLab and the system's Chromium, with nothing of the user's own in them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from ipykernel.kernelspec import write_kernel_spec

from tests.browser.lab import Lab

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
BROWSERS = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

CONFIG = """
from jupyterlab.galata import configure_jupyter_server

configure_jupyter_server(c)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = {port}
c.ServerApp.root_dir = {root!r}
c.ServerApp.allow_root = True
c.MappingKernelManager.buffer_offline_messages = False
"""
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark this folder's tests, and run them last: Playwright leaves its event loop running."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("No Chromium on this machine: `make test` installs one where it may.")
    return {**browser_type_launch_args, "executable_path": chromium, "args": ARGUMENTS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args):
    return {**browser_context_args, "viewport": {"width": 1400, "height": 1000}}


@pytest.fixture(scope="session")
def lab_server(browser, tmp_path_factory):
    """A JupyterLab for the session: its `url`, and its `root` with a copy of our notebooks."""
    home = tmp_path_factory.mktemp("jupyter")
    root = home / "root"
    root.mkdir()
    if NOTEBOOKS.is_dir():
        shutil.copytree(NOTEBOOKS, root / "notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(NO_NEWS))
    write_kernel_spec(home / "data" / "kernels" / "python3")  # found first: this interpreter
    port = free_port()
    (home / "server.py").write_text(CONFIG.format(port=port, root=str(root)))

    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", f"--config={home / 'server.py'}"],
            cwd=root,
            env=os.environ | own_folders(home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_server(server, url, home / "server.log")
        yield SimpleNamespace(url=url, root=root)
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def lab(lab_server, page):
    """A page of that JupyterLab; its kernels end with the test."""
    yield Lab(page, lab_server.url, lab_server.root)
    page.evaluate("window.jupyterapp?.serviceManager.sessions.shutdownAll()")


def own_folders(home):
    """Environment variables that keep Jupyter and IPython out of the user's folders."""
    folders = {
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_PATH": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "TMPDIR": "tmp",
    }
    (home / "tmp").mkdir()
    return {name: str(home / folder) for name, folder in folders.items()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_server(server, url, log, timeout_s=60):
    end = time.monotonic() + timeout_s
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/api/status", timeout=5).close()
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
