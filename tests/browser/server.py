"""A real Jupyter server and the system's Chromium, with nothing of the user's own in them; knows no pytest."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

from ipykernel.kernelspec import write_kernel_spec

# The interpreter of the notebooks; `make test-matrix` names others.
KERNEL = os.environ.get("BABYSIT_KERNEL", sys.executable)
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
c.ServerApp.root_dir = {root!r}
c.ServerApp.allow_root = True
c.MappingKernelManager.buffer_offline_messages = False
"""
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


def chromium():
    """Where the system's Chromium lies, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def jupyterlab(home):
    """A JupyterLab in a folder: its `url`, and the `root` that it serves."""
    root = home / "root"
    root.mkdir()
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(NO_NEWS))
    argv = [KERNEL, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernel_spec(home / "data" / "kernels" / "python3", overrides={"argv": argv})  # found first
    (home / "server.py").write_text(CONFIG.format(root=str(root)))
    command = [sys.executable, "-m", "jupyterlab", f"--config={home / 'server.py'}"]
    with serving(command, home, root, "--ServerApp.port") as url:
        yield SimpleNamespace(url=url, root=root)


@contextlib.contextmanager
def serving(command, home, folder, port_option):
    """The address of a server that runs in a folder and keeps what is its own at home."""
    port = free_port()
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"{port_option}={port}"],
            cwd=folder,
            env=os.environ | own_folders(home) | {"TF_NUM_INTRAOP_THREADS": "1"},  # a kernel shall not need both cores
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_server(server, url, home / "server.log")
        yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Jupyter's threads sometimes wait for one another
            server.wait(timeout=30)
        server.kill()
        server.wait()


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
            return
        except urllib.error.HTTPError:  # it answers
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{log.read_text()[-3000:]}")
