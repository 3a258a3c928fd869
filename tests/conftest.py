"""What every test stands on: fixed seeds, a folder of its own, quiet TensorFlow."""

import ast
import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import pytest
from hypothesis import settings

# Derandomized as everything else here; no database, for every test has a folder of its own.
settings.register_profile("babysit", deadline=None, derandomize=True, database=None)
settings.load_profile("babysit")


parse = ast.parse


def parse_again(*args, **kwargs):
    """Parse; in CPython 3.11 that fails where two threads do so at once, as a report and a training may."""
    for _ in range(9):
        try:
            return parse(*args, **kwargs)
        except SystemError:
            pass
    return parse(*args, **kwargs)


ast.parse = parse_again

broken: list[str] = []


def pytest_internalerror(excrepr):
    broken.append(str(excrepr))


def pytest_unconfigure(config):
    """Say once more what broke the run itself: at the very end, which is what is seen of a long log."""
    if broken and not hasattr(config, "workerinput"):
        print("", *broken[0].splitlines()[-20:], sep="\n")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Give a worker whole files, and all of `browser/` to one of them: its server and its browser start once."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "tests/browser" if file.startswith("tests/browser/") else file

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def fixed_seeds():
    if keras := sys.modules.get("keras"):  # where a test imports no Keras, neither do we
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Stand in the test's own folder, where a run without a `directory` then goes."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def nothing_left_over(own_folder):
    """Collect what the test before left, and end this one's runs: their threads would slow all later tests.

    Only now does nothing hold that test's runs any more. What is left, imports above all, is there for good: frozen,
    it is not looked at the next time. Runs of a module's own fixture, which it ends itself, go on.
    """
    gc.collect()
    gc.freeze()
    before = all_runs()
    yield
    for panda in all_runs() - before:
        panda.stop()
        panda._worker.wait(60)
        if (thread := panda._worker._thread) is not None:
            thread.join(60)


def all_runs():
    runs = sys.modules.get("babysit.runs")
    return set(runs.pandas) if runs else set()
