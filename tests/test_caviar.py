"""The caviar: many runs, each equal to the panda trained alone, and what can be done with them. In this kernel."""

import itertools
import json
import os

import keras
import numpy as np
import optuna
import pytest

import babysit
from babysit import Scale, caviar
from babysit.places import Job, begun
from babysit.store.database import Database
from tests import searched
from tests.patience import until
from tests.searched import SPACE, build


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """So that runs train here, one at a time."""
    monkeypatch.setattr(caviar, "_EVERY_S", 0.05)
    monkeypatch.setattr(caviar, "find_spec", lambda name: None)


@pytest.fixture
def search(tmp_path):
    """Begins a search, which is stopped at the end."""
    begun = []

    def begin(build=build, space=SPACE, **how):
        with pytest.warns(UserWarning, match="Ray is not installed"):
            one = babysit.Caviar(build, space, directory=tmp_path / "search", **{"trials": 4, "epochs": 3} | how)
        begun.append(one)
        return one

    yield begin
    for one in begun:
        one.stop()
        one.wait(60)


def alone(hyperparameters, folder, epochs=3, **how):
    """The panda of a run, trained by itself."""
    keras.utils.set_random_seed(0)
    model, arguments = build(hyperparameters)
    return babysit.Panda(model, folder, seed=0).fit(**arguments, epochs=epochs, **how)


def digest(run):
    """Of the state in which a run ended."""
    return run.checkpoints[-1].digest


def test_each_run_is_the_panda_trained_alone_and_the_best_is_the_lowest(search, tmp_path):
    found = search().wait(120)
    table = found.to_pandas()
    assert list(table.index) == ["run 1", "run 2", "run 3", "run 4"] and set(table["state"]) == {"finished"}
    for row in found.rows()[:2]:
        panda = alone(row["hyperparameters"], tmp_path / row["name"]).wait(60)
        assert panda.digest() == digest(found[row["name"]])
        np.testing.assert_array_equal(row["values"], panda.history.epochs["val_loss"])
        assert row["best"] == panda.history.epochs["val_loss"].min()
    assert found.best.directory.name.replace("-", " ") == table["best"].idxmin()
    json.dumps([found.rows(), found.status()])
    assert (found.status()["done"], found.status()["state"]) == (4, "finished")
    drawn = [trial.params["learning_rate"] for trial in optuna.load_study(
        study_name="search", storage=found._study._storage).trials]  # fmt: skip
    assert drawn == list(table["learning_rate"])


def test_a_clone_is_the_run_gone_on_with_from_that_step(search, tmp_path):
    found = search(trials=1).wait(60)
    name = found.clone("run 1", at=10, learning_rate=0.2)
    found.wait(60)
    row = found.rows()[-1]
    assert (row["name"], row["of"], row["state"]) == (name, "run 1 at step 10", "finished")
    by_hand = alone(found.rows()[0]["hyperparameters"], tmp_path / "alone", paused=True)
    by_hand.run(10)
    by_hand.set(learning_rate=0.2)
    by_hand.resume()
    by_hand.wait(60)
    assert digest(found[name]) == by_hand.digest()
    np.testing.assert_array_equal(found[name].history["loss"], by_hand.history["loss"])
    assert found["run 1"].branches == {"branch 1": (None, 0)}  # which is as it was
    for at, changes in ((10**6, {}), (5, {"colour": 1}), (5, {"learning_rate": -1.0})):
        with pytest.raises(ValueError, match="Received"):
            found.clone("run 1", at=at, **changes)


def test_a_run_that_raises_fails_and_the_others_go_on(search):
    def sometimes(hyperparameters):
        if hyperparameters["units"] == 4:
            raise MemoryError("too large")
        return build(hyperparameters)

    rows = search(sometimes, trials=6).wait(120).rows()
    assert {row["state"] for row in rows if row["hyperparameters"]["units"] == 4} == {"failed"}
    assert {row["state"] for row in rows if row["hyperparameters"]["units"] == 1} == {"finished"}
    assert "MemoryError: too large" in {row["error"] for row in rows}


def test_a_pruner_ends_runs(search):
    class Impatient(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1 and trial.last_step >= 1

    found = search(trials=2, epochs=2000, pruner=Impatient())
    until(lambda: found.rows() and found.rows()[0]["epoch"] > 2)
    found["run 1"].send({"action": "stop"})
    found.wait(60)
    assert [row["state"] for row in found.rows()] == ["stopped", "pruned"]
    assert found.rows()[1]["epoch"] < 2000
    assert [entry.author for entry in found["run 2"].journal if entry.action == "stop"] == ["pruner"]


def test_a_run_that_is_behind_is_ended_by_the_median_of_those_before(search, monkeypatch):
    rates = iter([0.1, 1e-6])
    monkeypatch.setattr(caviar, "_suggested", lambda trial, name, values: next(rates))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    space, of_one = {"learning_rate": [1e-6, 0.1]}, lambda found: build({**found, "units": 1})
    found = search(of_one, space, trials=2, epochs=10_000, pruner=pruner)
    until(lambda: found.rows() and found.rows()[0]["epoch"] > 300)
    found["run 1"].send({"action": "stop"})
    found.wait(60)
    assert [row["state"] for row in found.rows()] == ["stopped", "pruned"]


def test_a_run_is_steered_while_it_trains_and_a_search_is_stopped_and_taken_up(search, tmp_path):
    found = search(trials=3, epochs=3000)
    until(lambda: found.rows() and found.rows()[0]["epoch"])
    entry = found["run 1"].set(learning_rate=0.01, why="higher")
    assert found["run 1"].hyperparameters["learning_rate"].value == 0.01
    found.send({"action": "pause", "runs": ["run 1"]})
    until(lambda: found.rows()[0]["state"] == "paused")
    found.send({"action": "resume", "runs": ["run 1"]})
    until(lambda: found.rows()[0]["state"] == "running")
    with pytest.raises(ValueError, match="held by"):
        babysit.Caviar.load(tmp_path / "search", build)
    looked_at = babysit.Caviar.load(tmp_path / "search")
    assert "To go on" in looked_at.status()["remarks"][0] and looked_at.rows()[0]["epoch"] > 0
    found.stop()
    found.wait(60)
    assert [row["state"] for row in found.rows()] == ["stopped"] and entry.why == "higher"
    with pytest.warns(UserWarning, match="Ray"):
        again = babysit.Caviar.load(tmp_path / "search", build)
    until(lambda: len(again.rows()) == 2)
    again.stop()
    again.wait(60)
    rates = [row["hyperparameters"]["learning_rate"] for row in again.rows()]
    assert rates[0] != rates[1]


def test_a_run_that_cannot_be_reached_yet_is_stopped_as_soon_as_it_can(search, monkeypatch):
    found = search(trials=2, epochs=10**5)
    until(lambda: found._training)
    tries = []

    def not_yet(folder):
        tries.append(folder)
        raise ValueError("it has not begun")

    with monkeypatch.context() as starting:
        starting.setattr(caviar, "attach", not_yet)
        found._seen.clear()
        found.stop()
        until(lambda: len(tries) > 3)
    found.wait(60)
    assert [row["state"] for row in found.rows()] == ["stopped"]


@pytest.mark.parametrize("made", [lambda file: file.touch(), lambda file: Database(file).close()])
def test_a_run_whose_process_was_killed_before_it_began_begins_anew(tmp_path, made):
    (tmp_path / "run").mkdir()
    made(tmp_path / "run" / "run.sqlite")
    panda = begun(build, Job(str(tmp_path / "run"), {"learning_rate": 0.01, "units": 1}, 2, 0)).wait(60)
    assert (panda.epoch, panda.state) == (2, "finished")


def test_the_worst_half_is_stopped_and_a_run_is_deleted(search, tmp_path, monkeypatch):
    found = search(trials=2).wait(60)
    with pytest.raises(KeyError, match="no run"):
        found["run 9"]
    for run, latest in zip(found._all.values(), (1.0, 2.0), strict=True):
        run.state, run.values = "running", [latest]
    assert found._worst_half() == ["run 2"]
    found.send({"action": "delete", "runs": ["run 1"]})
    assert "stop it before" in found.status()["remarks"][-1]
    found.send({"action": "clone", "runs": ["run 9", "run 1", "run 2"], "at": 10**9})  # each is tried
    assert ["from 0 to" in one for one in found.status()["remarks"]] == [False, True, True]
    found._all["run 1"].state = "finished"
    found.send({"action": "delete", "runs": ["run 1"]})
    assert list(found.runs) == ["run 2"] and not (tmp_path / "search" / "run-1").exists()
    found.send({"action": "dance"})
    assert "no such action" in found.status()["remarks"][-1]


def test_on_a_full_disk_a_search_waits_and_loses_nothing(search, monkeypatch):
    full, replace, writes = [False], os.replace, itertools.count(1)

    def written(*paths):  # the first search's, then before a run begins
        if "search.json" in str(paths[1]) and (next(writes) in (1, 4) or full[0]):
            raise OSError(28, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", written)
    with pytest.raises(OSError, match="No space left"):
        search(trials=2)
    found = search(trials=2, epochs=300)
    until(lambda: found.rows() and found.rows()[0]["epoch"])
    full[0] = True
    until(lambda: "The search waits: [Errno 28]" in str(found.status()["remarks"]))
    until(lambda: found.rows()[0]["state"] == "finished")
    assert sum("waits" in one for one in found.status()["remarks"]) == 1
    full[0] = False
    found.wait(60)
    assert [row["state"] for row in found.rows()] == ["finished", "finished"]
    assert [trial.value for trial in found._study.trials] == [row["best"] for row in found.rows()]


def test_bad_arguments_are_refused_and_nothing_is_begun(search, tmp_path):
    for error, given in (
        (TypeError, {"build": "model"}),
        (TypeError, {"space": {}}),
        (TypeError, {"space": {"learning_rate": (0.1)}}),
        (ValueError, {"trials": 0}),
        (ValueError, {"epochs": 1.5}),
        (ValueError, {"seed": -1}),
    ):
        how = {"build": build, "space": {"learning_rate": Scale(0.1, 1)}} | given
        with pytest.raises(error, match="Received"):
            babysit.Caviar(directory=tmp_path / "search", **how)
    assert not (tmp_path / "search").exists()
    search(trials=1).wait(60)
    with pytest.raises(ValueError, match="holds a search"):
        babysit.Caviar(searched.build, SPACE, directory=tmp_path / "search")
    with pytest.raises(ValueError, match="must hold a search"):
        babysit.Caviar.load(tmp_path)
