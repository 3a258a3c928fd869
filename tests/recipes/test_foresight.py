"""Foresight as a screen asks for it: commands in plain data, and a status that says how far it has come."""

import json

import pytest

import babysit
from tests.patience import until
from tests.recipes import spiky


@pytest.fixture
def panda(tmp_path):
    panda = spiky.panda(tmp_path / "run", epochs=2000)
    panda.run(20)
    yield panda
    panda.stop()


def foresight(run):
    return run.status()["foresight"]


def result(run, number=1):
    until(lambda: foresight(run)["result"] and foresight(run)["result"]["number"] == number)
    until(lambda: foresight(run)["doing"] is None)
    return foresight(run)["result"]


def refusals(run):
    return [(entry.command, entry.why) for entry in run.journal if entry.action == "refuse"]


def test_a_fan_is_asked_for_shown_and_kept(panda):
    digest = panda.digest()
    panda.send({"action": "fan", "name": "learning_rate", "steps": 10, "author": "dashboard"})
    shown = result(panda)
    json.dumps(shown)
    assert (shown["kind"], shown["step"], shown["open"]) == ("fan", 20, True)
    assert [trial["words"] for trial in shown["trials"]] == ["0.003333", "0.01", "0.03"]
    assert sum(trial["best"] for trial in shown["trials"]) == 1 and panda.digest() == digest
    panda.send({"action": "keep", "branch": shown["trials"][2]["branch"]})
    until(lambda: panda.step == 30)
    until(lambda: foresight(panda)["doing"] is None)
    assert panda.hyperparameters["learning_rate"].value == 0.03 and not foresight(panda)["result"]["open"]
    panda.send({"action": "keep", "branch": None, "command": "late"})
    until(lambda: refusals(panda))
    assert refusals(panda)[0][0] == "late" and "no trial to keep" in refusals(panda)[0][1]


def test_what_a_trial_does_is_entered_by_who_asked_for_it(panda):
    before = len(panda.journal)
    panda.send({"action": "fan", "name": "learning_rate", "values": [0.001, 0.02], "steps": 5, "author": "dashboard"})
    shown = result(panda)
    panda.send({"action": "keep", "branch": shown["trials"][0]["branch"], "author": "ann@desk"})
    until(lambda: panda.journal[-1].author == "ann@desk")
    entries = [(entry.action, entry.author) for entry in panda.journal[before:]]
    trial = [("rewind", "dashboard"), ("set", "dashboard")]
    assert entries == [*trial, *trial, ("rewind", "dashboard"), ("rewind", "ann@desk")]
    until(lambda: foresight(panda)["doing"] is None)
    panda.cause(10)
    assert {entry.author for entry in panda.journal[before + len(entries) :]} == {"script"}


def test_none_of_them_goes_on_as_if_nothing_had_been_tried(panda):
    panda.resume()
    panda.send({"action": "fan", "name": "batch_size", "values": [2, 8], "steps": 5})
    shown = result(panda)
    assert [trial["words"] for trial in shown["trials"]] == ["2", "8"] and panda.state == "paused"
    panda.send({"action": "keep", "branch": None})
    until(lambda: panda.state == "running")
    assert panda.hyperparameters["batch_size"].value == 4


def test_while_something_is_tried_other_commands_are_refused_and_it_can_be_cancelled(panda):
    digest = panda.digest()
    panda.send({"action": "fan", "name": "learning_rate", "steps": 10**6})
    until(lambda: (foresight(panda)["doing"] or {}).get("done") == 0.0)
    until(lambda: panda.state == "running")
    panda.send({"action": "set", "changes": {"learning_rate": 0.5}, "command": "mine"})
    panda.send({"action": "lr_range_test", "command": "another"})
    until(lambda: len(refusals(panda)) == 2)
    assert {command for command, _ in refusals(panda)} == {"mine", "another"}
    with pytest.raises(ValueError, match="tried already"):
        panda.fan(learning_rate=[0.1, 0.2])
    panda.send({"action": "cancel"})
    until(lambda: foresight(panda)["doing"] is None)
    assert (panda.state, panda.digest(), foresight(panda)["result"]) == ("paused", digest, None)
    assert {one.branch for one in panda.checkpoints} == {"branch 1", panda.history.branch}  # none of the trial


def test_a_range_test_and_a_cause_are_asked_for(panda):
    panda.send({"action": "lr_range_test"})
    shown = result(panda)
    json.dumps(shown)
    assert shown["kind"] == "range test" and len(shown["rates"]) == len(shown["smoothed"]) > 10
    assert "valley" in shown["suggestions"] and "open" not in shown
    panda.send({"action": "cause", "step": 10})
    shown = result(panda, 2)
    assert shown["verdict"] and len(shown["trials"]) == 3 and shown["open"]


def test_rules_are_switched_and_alerts_answered(panda):
    panda.send({"action": "watch", "rule": "spike", "then": "pause"})
    assert foresight(panda)["rules"] == {"spike": "pause"}
    panda.resume()
    until(lambda: panda.state == "paused")
    (alert,) = foresight(panda)["alerts"]
    panda.send({"action": "answer", "number": alert["number"], "then": "halve the learning rate"})
    until(lambda: panda.hyperparameters["learning_rate"].value == 0.005)
    assert foresight(panda)["alerts"] == [] and panda.journal[-1].why == alert["words"]
    panda.send({"action": "answer", "number": alert["number"], "then": "ignore", "command": "again"})
    panda.send({"action": "watch", "rule": "spike", "then": None})
    panda.send({"action": "watch", "rule": "gloom", "then": "tell", "command": "unknown"})
    until(lambda: len(refusals(panda)) == 2)
    assert foresight(panda)["rules"] == {}


def test_another_process_may_ask_for_it(panda):
    viewer = babysit.session.viewer.Viewer(panda.directory)  # as `attach` gives in another process
    viewer.send({"action": "fan", "name": "learning_rate", "values": [0.001, 0.02], "steps": 5})
    shown = result(panda)
    until(lambda: (viewer.status()["foresight"]["result"] or {}).get("number") == 1)
    viewer.send({"action": "keep", "branch": shown["trials"][1]["branch"]})
    until(lambda: panda.hyperparameters["learning_rate"].value == 0.02)
    assert panda.step == 25
