"""Pandas steered as one: exactly what each would be alone, and told when one of them refuses."""

import re
import threading

import keras
import numpy as np
import pytest

import babysit
from babysit.session.viewer import Viewer
from babysit.ui.series import MEAN, STEP
from tests.patience import until

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def network(name, momentum=0.9, dropout=False):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
    layers[2:2] = [keras.layers.Dropout(0.2)] if dropout else []
    model = keras.Sequential(layers, name=name)
    model.compile(keras.optimizers.SGD(0.01, momentum=momentum), "mse", metrics=["mae"])
    return model


@pytest.fixture
def pandas():
    return [
        babysit.Panda(network("plain"), seed=0).fit(X, Y, 16, epochs=10_000, paused=True),
        babysit.Panda(network("dropout", dropout=True), seed=0).fit(X[:32], Y[:32], 16, epochs=10_000, paused=True),
    ]


@pytest.fixture
def both(pandas):
    both = babysit.Together(*pandas)
    yield both
    if both._dashboard is not None:
        both._dashboard.close()


def answers(pandas, command):
    """The action of the entry of each that answers a command, and why."""
    found = lambda panda: [(e.action, e.why) for e in panda.journal if e.command == command]  # noqa: E731
    return [until(lambda panda=panda: found(panda))[0] for panda in pandas]


def test_trained_at_the_same_time_and_steered_as_one_each_is_what_it_would_be_alone(pandas, both):
    both.send({"action": "resume"})
    until(lambda: all(panda.step > 20 for panda in pandas))
    command = both.send({"action": "set", "changes": {"learning_rate": 0.02, "batch_size": 8}, "author": "dashboard"})
    assert [action for action, _ in answers(pandas, command)] == ["set", "set"]
    entries = both.set(momentum=0.5, why="both")
    until(lambda: all(panda.step > entry.step + 20 for panda, entry in zip(pandas, entries, strict=True)))
    both.send({"action": "stop"})
    until(lambda: all(panda.state == "stopped" for panda in pandas))
    for panda, entry, model in zip(pandas, entries, [network("plain"), network("dropout", dropout=True)], strict=True):
        assert [e.action for e in panda.journal] == ["fit", "resume", "set", "set", "stop"]
        assert panda.journal[3] == entry
        n = 64 if panda is pandas[0] else 32
        replay = babysit.replay(panda.directory, model, X[:n], Y[:n])
        assert replay.identical and replay.compared > 0


def test_it_is_one_run_with_what_all_have_and_says_what_one_refuses(pandas, both):
    pandas[0].run(3)
    status = both.status()
    assert (status["name"], status["state"], status["step"]) == ("plain and dropout", "paused", 3)
    assert list(status["hyperparameters"]) == ["learning_rate", "batch_size", "momentum"]  # no rate of dropout
    assert status["hyperparameters"]["batch_size"]["high"] == 32  # the smaller data's
    assert [one["step"] for one in status["runs"]] == [3, 0]

    with pytest.raises(ValueError, match="`batch_size`"):
        both.set(batch_size=40)
    assert [panda.hyperparameters["batch_size"].value for panda in pandas] == [16, 16]
    command = both.send({"action": "set", "changes": {"batch_size": 40}, "author": "dashboard"})
    [(obeyed, _), (refused, why)] = answers(pandas, command)
    assert (obeyed, refused) == ("set", "refuse") and why.startswith("`batch_size` must")
    assert "batch size: 40 in plain, 16 in dropout." in both.status()["remarks"]

    with pytest.raises(ValueError, match="`action`.*one of the pandas"):
        both.send({"action": "delete", "folder": "000001"})
    with pytest.raises(TypeError, match="Sequential"):
        babysit.Together(pandas[0], pandas[1].model)
    for wrong in ([], pandas[:1], [pandas[0], pandas[0]]):
        with pytest.raises(ValueError, match="two or more"):
            babysit.Together(*wrong)


def test_its_chart_draws_each_run_s_losses_and_a_checkpoint_of_the_first_takes_all_back(pandas, both):
    for panda in pandas:
        panda.run(5)
    both.dashboard()
    chart = both._dashboard._chart
    until(lambda: chart._figure.end == 5)
    axes = chart._figure.figure.axes
    assert [one.get_title(loc="left") for one in axes] == ["loss", "mae", "learning rate"]
    losses = [curve.columns for curve in chart._figure.curves if curve.name in ("plain train", "dropout train")]
    for panda, columns in zip(pandas, losses, strict=True):
        np.testing.assert_array_equal(columns[STEP], panda.history["step"])
        np.testing.assert_array_equal(columns[MEAN], panda.history["loss"])

    digests = [panda.digest() for panda in pandas]
    with pytest.raises(ValueError, match="`folder`.*checkpoint of plain.*'nowhere'"):
        both.send({"action": "rewind", "folder": "nowhere"})
    assert [panda.digest() for panda in pandas] == digests
    assert [list(panda.branches) for panda in pandas] == [["branch 1"]] * 2
    pandas[0].save("here")
    for panda in pandas:
        panda.run(4)
    folder = next(row["folder"] for row in both.status()["checkpoints"] if row["name"] == "here")
    command = both.send({"action": "rewind", "folder": folder})
    assert [action for action, _ in answers(pandas, command)] == ["rewind", "rewind"]
    assert [panda.step for panda in pandas] == [5, 5]
    assert pandas[1].digest() == digests[1]


def test_a_slider_of_its_dashboard_steers_all_and_shows_what_is_in_effect(pandas, both):
    def parts(widget):
        return [widget, *(part for child in getattr(widget, "children", ()) for part in parts(child))]

    shown = parts(both.dashboard())
    slider = next(part for part in shown if getattr(part, "description", "") == "learning rate")
    pandas[0].run(3)
    slider.value = 0.1
    until(lambda: any("in effect since step 3" in str(getattr(part, "value", "")) for part in shown))
    until(lambda: [panda.hyperparameters["learning_rate"].value for panda in pandas] == [0.1, 0.1])
    exact = next(part for part in shown if getattr(part, "description", "") == "learning rate, exactly")
    exact.value = "7"
    until(lambda: any("dropout: `learning_rate` must" in str(getattr(part, "value", "")) for part in shown))
    until(lambda: exact.value == "0.1")
    assert not any("could not be drawn" in str(getattr(part, "value", "")) for part in shown)
    assert both.dashboard() is shown[0]


def test_a_run_that_rewinds_waits_or_has_refused_is_told_apart_from_the_others(pandas, both):
    both.dashboard()
    bars = both._dashboard.widget.children[1].children

    def pills():
        return [re.findall(r"babysit-pill babysit-(\S+?)\"", bar.children[1].value) for bar in bars]

    until(lambda: pills() == [["paused"], ["paused"]])
    both.send({"action": "set", "changes": {"batch_size": 40}, "author": "dashboard"})
    until(lambda: pills() == [["paused"], ["paused", "refused"]])
    assert "`batch_size` must" in bars[1].children[1].value
    both.set(batch_size=8)
    until(lambda: pills() == [["paused"], ["paused"]])

    here, there = threading.Event(), threading.Event()
    caller = threading.Thread(target=pandas[0].call, args=(lambda model: here.set() or there.wait(60),))
    caller.start()
    here.wait(60)
    pandas[0].send({"action": "rewind", "step": 0})
    until(lambda: pills() == [["waiting"], ["paused"]])
    there.set()
    caller.join()
    until(lambda: pills() == [["paused"], ["paused"]] and list(pandas[0].branches) == ["branch 1", "branch 2"])


def test_runs_of_other_processes_are_steered_as_one_while_one_of_them_takes_commands(pandas, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # which moves no run
    both = babysit.Together(*(Viewer(panda.directory) for panda in pandas), names=["one", "two"])
    assert [entry.changes["learning_rate"] for entry in both.set(learning_rate=0.02, why="far")] == [(0.01, 0.02)] * 2
    assert [panda.journal[-1].why for panda in pandas] == ["far", "far"]
    command = both.send({"action": "set", "changes": {"momentum": 0.5}})
    assert [action for action, _ in answers(pandas, command)] == ["set", "set"]
    assert both.logs.keys() == {"one", "two"} and both.status()["remote"]
    assert [one["name"] for one in both.status()["runs"]] == ["one", "two"]
    assert not any("trains this run" in remark for remark in both.status()["remarks"])
    with monkeypatch.context() as blind:  # as where the disk of the run is full
        blind.setattr(both.pandas[0], "_look", lambda: None)
        with pytest.raises(OSError, match="cannot be written"):
            both.pandas[0].set(learning_rate=0.03)
    pandas[0].stop()
    pandas[0].wait()
    pandas[0]._close()
    until(lambda: both.status()["runs"][0]["read_only"])
    assert not both.status()["read_only"]
    command = both.send({"action": "set", "changes": {"momentum": 0.6}})
    assert [action for action, _ in answers(pandas[1:], command)] == ["set"]
    pandas[1].stop()
    pandas[1].wait()
    pandas[1]._close()
    until(lambda: both.status()["read_only"])
    with pytest.raises(ValueError, match="only watched"):
        both.send({"action": "set", "changes": {"momentum": 0.6}})
