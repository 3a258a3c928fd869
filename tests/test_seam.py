"""The commands that a screen sends beyond those of the panda itself: what they do, and what they refuse."""

import csv

import keras
import numpy as np
import pytest

import babysit
from babysit import demos
from tests.patience import until

(X, Y), _ = demos.digits()
X, Y = X[:320], Y[:320]


@pytest.fixture
def panda():
    """Before its first step; ten steps an epoch, three epochs."""
    return babysit.Panda(demos.dense_network(seed=1), seed=1).fit(X, Y, epochs=3, paused=True)


def obeyed(panda, action, **about):
    """The entry of a command sent as a dashboard sends it."""
    command = panda.send({"action": action, "author": "dashboard", **about})
    return until(lambda: [entry for entry in panda.journal if entry.command == command])[0]


def rest(panda, state="paused"):
    until(lambda: panda.state == state)


def finish_epoch(panda):
    panda.send({"action": "finish_epoch", "author": "dashboard"})
    panda.note("obeyed")
    rest(panda)


def test_a_reason_goes_with_the_change_that_was_sent_before_it(panda):
    assert obeyed(panda, "note", why="calm", on_last_change=True).why == "calm"
    panda.run(7)
    for momentum, why in [(0.95, "let it settle"), (0.5, "and now not")]:
        old = panda.hyperparameters["momentum"].value
        panda.send({"action": "set", "changes": {"momentum": momentum}, "author": "dashboard"})
        note = obeyed(panda, "note", why=why, on_last_change=True)
        assert note.why == f"on momentum {old} → {momentum} at step 7: {why}"
    panda.set(learning_rate=0.05, why="by hand")
    assert obeyed(panda, "note", why="again").why == "again"
    note = obeyed(panda, "note", why="again", on_last_change=True)
    assert note.why == "on learning rate 0.01 → 0.05 at step 7: again"


def test_to_the_end_of_an_epoch_and_then_of_the_next(panda):
    panda.run(3)
    finish_epoch(panda)
    assert (panda.step, panda.epoch) == (10, 1)
    finish_epoch(panda)
    assert (panda.step, panda.epoch) == (20, 2)
    panda.resume()
    assert panda.wait().step == 30  # what it was asked before no longer holds it


def test_more_epochs_while_it_goes_on_and_after_it_has_finished(panda, tmp_path):
    entry = obeyed(panda, "more_epochs", epochs=2)
    assert (entry.action, entry.why) == ("note", "2 epochs more, up to 5")
    panda.resume()
    assert panda.wait().epoch == 5
    obeyed(panda, "more_epochs", epochs=1)
    assert panda.wait().step == 60
    assert len(panda.history.epochs["loss"]) == 6

    straight = babysit.Panda(demos.dense_network(seed=1), tmp_path / "straight", seed=1).fit(X, Y, epochs=6).wait()
    assert straight.digest() == panda.digest()
    panda.export_script("again.py")  # the fit that was added is known to it


def test_more_epochs_leave_what_a_hand_has_set_as_it_is(panda):
    panda.set(batch_size=64, learning_rate=0.02)
    panda.resume()
    panda.wait()
    obeyed(panda, "more_epochs", epochs=1)
    panda.wait()
    assert panda.history["batch_size"].tolist()[-1] == 64 and panda.history["learning_rate"][-1] == 0.02
    assert [dict(entry.changes) for entry in panda.journal if entry.action == "fit"][1:] == [{}]
    twin = demos.dense_network(seed=1)
    assert babysit.replay(panda.directory, twin, X, Y, epochs=3).identical


@pytest.mark.parametrize("epochs", [0, 1.5, "many", None])
def test_a_number_of_epochs_that_is_none_is_refused(panda, epochs):
    entry = obeyed(panda, "more_epochs", epochs=epochs)
    assert entry.action == "refuse" and "`epochs`" in entry.why
    assert panda.status()["epochs"] == 3


def test_a_checkpoint_is_named_for_good_and_then_deleted(panda):
    panda.run(5)
    saved = panda.save("first")
    entry = obeyed(panda, "rename", folder=saved.path.name, name="better")
    assert (entry.action, entry.why) == ("note", "the checkpoint of step 5 is named “better”")
    assert "better" in [checkpoint.name for checkpoint in panda.checkpoints]
    assert obeyed(panda, "rename", folder=saved.path.name, name="better").action == "refuse"
    digest = panda.digest()
    panda.run(2)
    panda.rewind("better")
    assert panda.digest() == digest
    assert obeyed(panda, "delete", folder=saved.path.name).action == "refuse"  # a branch starts there

    panda.run(1)
    other = panda.save("other")
    listed = {row["folder"]: row for row in panda.status()["checkpoints"]}[other.path.name]
    assert (listed["step"], listed["name"], listed["branch"]) == (6, "other", "branch 2")
    assert obeyed(panda, "delete", folder=other.path.name).why == "the checkpoint of step 6 is deleted"
    assert not other.path.exists()
    assert other.path.name not in [row["folder"] for row in panda.status()["checkpoints"]]


def test_names_given_later_and_what_was_deleted_outlive_the_session(panda, capsys):
    from babysit.__main__ import verify

    panda.run(5)
    named, gone = panda.save("a"), panda.save("b")
    panda.run(1)
    obeyed(panda, "rename", folder=named.path.name, name="good")
    obeyed(panda, "delete", folder=gone.path.name)
    panda.stop()
    panda.wait()
    assert verify(panda.directory) == 0, capsys.readouterr().out
    again = babysit.Panda.load(panda.directory)
    assert [checkpoint.name for checkpoint in again.checkpoints if checkpoint.name] == ["good"]


def test_what_is_exported_lies_in_the_folder_of_the_run(panda):
    panda.run(12)
    panda.set(learning_rate=0.02, why="flat")
    for kind, file in (
        ("logbook", "logbook.md"),
        ("history", "history.csv"),
        ("script", "train.py"),
        ("model", "model.keras"),
    ):
        assert obeyed(panda, "export", kind=kind).why == f"{kind} written to {panda.directory / file}"
    about = {"kind": "chart.svg", "content": b"<svg/>"}
    assert obeyed(panda, "export", **about).why == f"chart.svg written to {panda.directory / 'chart.svg'}"
    assert (panda.directory / "chart.svg").read_bytes() == b"<svg/>"
    with open(panda.directory / "history.csv", newline="") as table:
        losses = [float(row["loss"]) for row in csv.DictReader(table)]
    np.testing.assert_allclose(losses, panda.history["loss"])
    assert "flat" in (panda.directory / "logbook.md").read_text()
    model = keras.models.load_model(panda.directory / "model.keras")
    for ours, theirs in zip(panda.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert obeyed(panda, "export", kind="film").action == "refuse"
    assert panda.state == "paused"


def test_before_anything_was_trained_they_are_refused_in_words(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "idle")
    for action, about in (("finish_epoch", {}), ("more_epochs", {"epochs": 1}), ("export", {"kind": "script"})):
        entry = obeyed(panda, action, **about)
        assert entry.action == "refuse" and "fit" in entry.why
