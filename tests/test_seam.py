"""The commands that a screen sends beyond those of the panda itself: what they do, and what they refuse."""

import csv

import keras
import numpy as np
import pytest

import babysit
from babysit import demos
from babysit.__main__ import verify
from tests.patience import until

(X, Y), _ = demos.digits()
X, Y = X[:320], Y[:320]


def obeyed(panda, action, **about):
    """The entry of a command sent as a dashboard sends it."""
    command = panda.send({"action": action, "author": "dashboard", **about})
    return until(lambda: [entry for entry in panda.journal if entry.command == command])[0]


def test_what_is_exported_lies_in_the_folder_of_the_run_and_names_given_later_outlive_the_session(capsys):
    panda = babysit.Panda(demos.dense_network(seed=1), seed=1).fit(X, Y, epochs=3, paused=True)
    panda.run(5)
    named, gone = panda.save("a"), panda.save("b")
    obeyed(panda, "rename", folder=named.path.name, name="good")
    obeyed(panda, "delete", folder=gone.path.name)
    panda.run(7)
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
    panda.resume()
    panda.wait()
    obeyed(panda, "more_epochs", epochs=1)
    panda.wait()
    panda.export_script("again.py")  # the fit that was added is known to it
    assert verify(panda.directory) == 0, capsys.readouterr().out
    again = babysit.Panda.load(panda.directory)
    assert [checkpoint.name for checkpoint in again.checkpoints if checkpoint.name] == ["good"]


def test_before_anything_was_trained_they_are_refused_in_words(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), tmp_path / "idle")
    for action, about in (("finish_epoch", {}), ("more_epochs", {"epochs": 1}), ("export", {"kind": "script"})):
        entry = obeyed(panda, action, **about)
        assert entry.action == "refuse" and "fit" in entry.why
