"""The caviar in processes of Ray's: each run is the panda trained alone, and survives the loss of its process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import babysit
from babysit.store.lock import holder
from tests.patience import until
from tests.searched import SPACE, build

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    os.environ.get("BABYSIT_FAULTS") != "all", reason="takes a minute and a machine of its own: `make faults`"
)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Of two nodes, with one processor each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def begin(tmp_path):
    """Begins a search, which is stopped at the end."""
    begun = []

    def begin(build, **how):
        begun.append(babysit.Caviar(build, SPACE, directory=tmp_path / "search", **how))
        return begun[-1]

    yield begin
    for search in begun:
        search.stop()
        search.wait(60)


def alone(row, folder, epochs):
    keras.utils.set_random_seed(0)
    model, arguments = build(row["hyperparameters"])
    return babysit.Panda(model, folder, seed=0).fit(**arguments, epochs=epochs)


def test_runs_of_a_cluster_are_pandas_trained_alone_steered_cloned_and_taken_up_when_their_process_is_killed(
    begin, tmp_path
):
    epochs = 4000
    search = begin(build, trials=3, epochs=epochs)
    assert search.status()["remarks"] == [] and search._place.at_once == 2
    until(lambda: sum(row["epoch"] > 5 for row in search.rows()) == 2, 120)
    pids = {name: process(search[name]) for name in ("run 1", "run 2")}
    assert len(set(pids.values())) == 2 and os.getpid() not in pids.values()
    entry = search["run 2"].set(learning_rate=0.01, why="from here")
    assert entry.changes["learning_rate"][1] == 0.01 and "@" in entry.author
    os.kill(pids["run 1"], signal.SIGKILL)
    search["run 2"].stop()
    until(lambda: search._all["run 1"].lost == 1, 60)
    search.wait(200)
    assert [row["state"] for row in search.rows()] == ["finished", "stopped", "finished"]
    panda = alone(search.rows()[0], tmp_path / "alone", epochs).wait(120)
    assert panda.digest() == search["run 1"].checkpoints[-1].digest
    name = search.clone("run 1", at=20, learning_rate=0.05)
    search.wait(100)
    assert search.rows()[-1]["state"] == "finished" and search[name].branches["branch 2"] == ("branch 1", 20)


KERNEL = """
import sys, babysit
from tests.searched import SPACE, build
search = babysit.Caviar(build, SPACE, directory=sys.argv[1], trials=3, epochs=4000, address=sys.argv[2])
search.wait()
"""


def test_runs_of_a_cluster_go_on_when_the_kernel_is_killed_and_are_taken_up(cluster, tmp_path):
    folder = tmp_path / "search"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL, folder, cluster.address], cwd=ROOT, env=environment)

    def begun():
        with contextlib.suppress(ValueError):
            return len(babysit.Caviar.load(folder).runs) == 2

    until(begun, 120, 0.5)
    looked_at = babysit.Caviar.load(folder)
    until(lambda: all(run.epoch > 5 for run in looked_at.runs.values()), 60)
    pids = {name: process(run) for name, run in looked_at.runs.items()}
    kernel.kill()
    kernel.wait()
    epochs = {name: run.epoch for name, run in looked_at.runs.items()}
    until(lambda: all(run.epoch > epochs[name] + 5 for name, run in looked_at.runs.items()), 30)
    for run in looked_at.runs.values():
        run.pause()  # so that none of them ends before it is taken up
    search = babysit.Caviar.load(folder, build, address=cluster.address)
    until(lambda: len(search._training) == 2, 60)
    assert {name: process(search[name]) for name in pids} == pids
    search["run 1"].resume()
    search["run 2"].stop()
    search.wait(200)
    assert [row["state"] for row in search.rows()] == ["finished", "stopped", "finished"]
    panda = alone(search.rows()[0], tmp_path / "alone", 4000).wait(120)
    assert panda.digest() == search["run 1"].checkpoints[-1].digest
    assert not ray.util.list_named_actors(all_namespaces=True)  # none of them is left


def process(run):
    """That which trains a run."""
    return int(re.search(r"process (\d+)", holder(run.directory))[1])


def test_a_run_whose_process_is_lost_again_and_again_fails_and_so_does_what_raises(begin):
    def deadly(hyperparameters):
        if hyperparameters["units"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no such layer")

    search = begin(deadly, trials=3, epochs=2).wait(120)
    errors = {row["hyperparameters"]["units"]: row["error"] for row in search.rows()}
    assert {row["state"] for row in search.rows()} == {"failed"}
    assert errors == {4: "its process was lost 3 times", 1: "ValueError: no such layer"}


def test_resources_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be there for one run"):
        babysit.Caviar(build, SPACE, directory=tmp_path / "search", resources={"CPU": 1, "GPU": 1})
    assert not (tmp_path / "search" / "search.json").exists()


def test_one_run_may_live_in_a_process_of_its_own(tmp_path):
    run = babysit.remote(build, {"learning_rate": 0.01, "units": 4}, 20_000, tmp_path / "run", address="auto")
    until(lambda: run.epoch > 0)
    assert run.set(learning_rate=0.02).changes["learning_rate"][1] == 0.02
    run.stop()
    until(lambda: run.state == "stopped")

    def bad(hyperparameters):
        raise ValueError("no data")

    with pytest.raises(RuntimeError, match="ValueError: no data"):
        babysit.remote(bad, {}, directory=tmp_path / "other")
