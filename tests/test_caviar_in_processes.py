"""The caviar in a process of Ray's on this machine; `tests/faults` has several of them, clusters, and kills."""

import os

import keras
import pytest

import babysit
from babysit.store.lock import holder
from tests.patience import until
from tests.searched import SPACE, build

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def processors():
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        pytest.skip(f"Ray itself does not start here: {error}")
    yield
    ray.shutdown()


def test_a_run_is_the_panda_trained_alone_and_steered_at_that_step(tmp_path):
    search = babysit.Caviar(build, SPACE, trials=1, epochs=1500, directory=tmp_path / "search")
    assert search.status()["remarks"] == [] and search._place.at_once == 2
    until(lambda: search.rows() and search.rows()[0]["epoch"] > 2, 120)
    run = search["run 1"]
    assert str(os.getpid()) not in holder(run.directory)
    entry = run.set(learning_rate=0.01, why="from here")
    assert "@" in entry.author
    search.wait(120)
    assert search.rows()[0]["state"] == "finished"
    keras.utils.set_random_seed(0)
    model, arguments = build(search.rows()[0]["hyperparameters"])
    alone = babysit.Panda(model, tmp_path / "alone", seed=0).fit(**arguments, epochs=1500, paused=True)
    alone.run(entry.step)
    alone.set(learning_rate=0.01)
    alone.resume()
    alone.wait(60)
    assert alone.digest() == run.checkpoints[-1].digest
