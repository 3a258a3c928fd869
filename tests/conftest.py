"""What every test stands on: fixed seeds, a folder of its own, quiet TensorFlow."""

import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import pytest
from hypothesis import settings

# Derandomized as everything else here; no database, for every test has a folder of its own.
settings.register_profile("babysit", deadline=None, derandomize=True, database=None)
settings.load_profile("babysit")


broken: list[str] = []


def pytest_internalerror(excrepr):
    broken.append(str(excrepr))


def pytest_unconfigure(config):
    """Say once more what broke the run itself: at the very end, which is what is seen of a long log."""
    if broken and not hasattr(config, "workerinput"):
        print("", *broken[0].splitlines()[-20:], sep="\n")


@pytest.fixture(autouse=True)
def fixed_seeds():
    if keras := sys.modules.get("keras"):  # where a test imports no Keras, neither do we
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def nothing_left_over(no_run_left_alive):
    """Collect a test's garbage: iterators of `Model.fit`'s data that have grown old may take a minute to end."""
    yield
    gc.collect()
    gc.freeze()  # what is left, imports above all, is there for good: the next time need not look at it


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Stand in the test's own folder, where a run without a `directory` then goes."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_run_left_alive(own_folder):
    yield
    if babysit := sys.modules.get("babysit"):
        try:
            alive = babysit.attach()
        except ValueError:
            return  # none is
        for panda in alive if isinstance(alive, list) else [alive]:
            panda.stop()
            panda._worker.wait(60)
