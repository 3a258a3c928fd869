"""A notebook as an app without code, as `make app` serves it: the dashboard acts, and who leaves loses nothing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import babysit
from tests.browser.conftest import VIEWPORT
from tests.browser.lab import SCREENSHOTS, Lab
from tests.browser.server import serving
from tests.patience import until

ROOT = Path(__file__).parents[2]
CELL = """
import babysit
from babysit import demos
import keras, time

(x, y), _ = demos.digits()
slowly = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(0.05))
panda = babysit.Panda(demos.dense_network(seed=1), "run").fit(x, y, epochs=10**6, callbacks=[slowly])
panda
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The address of the app, and the folder of its notebook."""
    home = tmp_path_factory.mktemp("app")
    (home / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell(CELL.strip())]), home / "notebooks" / "01_panda.ipynb")
    asked = ["make", "--dry-run", "--old-file=.venv/.ready", "app", f"BIN={Path(sys.executable).parent}"]
    alone = {name: value for name, value in os.environ.items() if "MAKE" not in name}  # not as a part of `make test`
    command = shlex.split(subprocess.check_output(asked, cwd=ROOT, env=alone, text=True).replace("\\\n", " "))
    assert "--Voila.ip=127.0.0.1" in command and "--Voila.auto_token=True" in command
    command += ["--no-browser", "--Voila.token=of-the-test"]
    with serving(command, home, home, "--port") as url:
        yield f"{url}/", home / "notebooks"


def test_it_shows_the_dashboard_without_code_steers_and_rests_when_its_page_is_closed(app, browser):
    url, folder = app
    page = browser.new_context(viewport=VIEWPORT).new_page()  # one that closes alone
    assert page.goto(url).status != 200 or "babysit" not in page.content()  # without the token
    page.goto(f"{url}?token=of-the-test", wait_until="commit")
    dashboard = page.locator(".babysit").first
    dashboard.wait_for(timeout=120_000)
    assert "import babysit" not in page.locator("body").inner_text()
    watched = babysit.attach(folder / "run")
    until(lambda: watched.step > 50)

    shown = Lab(page, url, folder)
    handle = shown.slider("momentum")
    handle.focus()
    handle.press("ArrowRight")
    until(lambda: watched.journal[-1].author == "dashboard")
    entry = watched.journal[-1]
    assert entry.changes["momentum"][1] > entry.changes["momentum"][0]
    dashboard.get_by_text(f"in effect since step {entry.step:,}").wait_for()
    shown.button("Pause").click()
    until(lambda: watched.state == "paused")
    shown.button("Resume").click()
    until(lambda: watched.state == "running" and watched.step > entry.step + 50)
    dashboard.screenshot(path=SCREENSHOTS / "app.png")

    page.close(run_before_unload=True)
    until(lambda: "no process holds it" in " ".join([watched.status()["warning"] or "", *watched.status()["remarks"]]))
    assert watched.state == "paused"
    assert watched.checkpoints[-1].step == watched.history.steps  # saved where it rested
