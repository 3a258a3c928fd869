"""The thread that trains, with a trainer of NumPy: what commands do, in which order, and what they refuse."""

import itertools
import sys
import threading
from types import SimpleNamespace

import pytest

from babysit.core.journal import Journal
from babysit.session.replay import compare_run
from tests.patience import until
from tests.session.numpy_trainer import Callbacks, NumpyTrainer, Source, driven, plan

FOLDERS = itertools.count(1)


@pytest.fixture
def started(tmp_path):
    """Begins runs, six steps an epoch, three epochs unless told otherwise; ends them all."""
    workers = []

    def start(trainer=None, **how):
        workers.append(driven(tmp_path / str(next(FOLDERS)), trainer, **{"epochs": 3} | how))
        return workers[-1]

    yield start
    for worker in workers:
        worker.ask("stop")


@pytest.fixture
def worker(started):
    return started()


def journal(worker):
    return Journal(worker.session.log)


def obeyed(worker, action, **about):
    """The entry of a command sent as a dashboard sends it."""
    command = worker.send({"action": action, "author": "dashboard", **about})
    return until(lambda: [entry for entry in journal(worker) if entry.command == command])[0]


def place(worker):
    position = worker.session.position
    return position.step, position.epoch


def finish(worker):
    worker.ask("resume")
    assert worker.wait(60)


def digest(worker):
    return worker.ask("digest")


# ------------------------------------------------------------------------------- what a screen sends


def test_a_reason_goes_with_the_change_that_was_sent_before_it(worker):
    assert obeyed(worker, "note", why="calm", on_last_change=True).why == "calm"
    worker.run(5)
    for old, momentum, why in [(0.9, 0.95, "let it settle"), (0.95, 0.5, "and now not")]:
        worker.send({"action": "set", "changes": {"momentum": momentum}, "author": "dashboard"})
        note = obeyed(worker, "note", why=why, on_last_change=True)
        assert note.why == f"on momentum {old} → {momentum} at step 5: {why}"
    worker.ask("set", changes={"learning_rate": 0.5}, why="by hand")
    assert obeyed(worker, "note", why="again").why == "again"
    assert obeyed(worker, "note", why="again", on_last_change=True).why.startswith("on learning rate 0.05 → 0.5")


def test_to_the_end_of_an_epoch_and_then_of_the_next(worker):
    worker.run(3)
    for expected in ((6, 1), (12, 2)):
        worker.ask("finish_epoch")
        until(lambda: worker.state == "paused")
        assert place(worker) == expected
    finish(worker)
    assert place(worker) == (18, 3)  # what it was asked before no longer holds it


def test_more_epochs_while_it_goes_on_and_after_it_has_finished_leave_what_was_set(started):
    worker, straight = started(), started(epochs=6)
    for one in (worker, straight):
        one.ask("set", changes={"batch_size": 8, "learning_rate": 0.02})
    entry = obeyed(worker, "more_epochs", epochs=2)
    assert (entry.action, entry.why) == ("note", "2 more epochs, 5 in all")
    finish(worker)
    assert worker.session.position.epoch == 5
    obeyed(worker, "more_epochs", epochs=1)
    assert worker.wait(60)
    finish(straight)
    assert place(worker) == place(straight) == (18, 6) and digest(worker) == digest(straight)
    assert [dict(entry.changes) for entry in journal(worker) if entry.action == "fit"][1:] == [{}]
    trainer = NumpyTrainer(3)
    trainer.prepare(Source(), None, 4, None, None)
    assert compare_run(worker.session.log, worker.session.store.all, trainer).identical


def test_what_is_no_number_of_epochs_no_action_and_no_step_is_refused_in_words(worker):
    worker.run(2)
    for epochs in (0, 1.5, "many", None):
        entry = obeyed(worker, "more_epochs", epochs=epochs)
        assert entry.action == "refuse" and "`epochs`" in entry.why
    for step in (1.5, "2", True, [2], -1, 3):
        entry = obeyed(worker, "rewind", step=step)
        assert entry.action == "refuse" and "whole number from 0 to 2" in entry.why and repr(step) in entry.why
    assert obeyed(worker, "film", why="fun").why.startswith("`action` must be one of")
    assert obeyed(worker, "save", name="a", length=3).action == "refuse" and worker.state == "paused"
    assert (place(worker), worker.status()["epochs"]) == ((2, 0), 3)


def test_a_checkpoint_is_named_for_good_and_then_deleted(worker):
    worker.run(5)
    saved = worker.ask("save", name="first")
    folder = saved.path.name
    entry = obeyed(worker, "rename", folder=folder, name="better")
    assert (entry.action, entry.why) == ("note", "the checkpoint of step 5 is named “better”")
    assert "better" in [checkpoint.name for checkpoint in worker.session.store.all]
    assert obeyed(worker, "rename", folder=folder, name="better").action == "refuse"
    before = digest(worker)
    worker.run(2)
    assert "“better”" in obeyed(worker, "rewind", folder=folder).why
    assert digest(worker) == before
    assert obeyed(worker, "delete", folder=folder).action == "refuse"  # a branch starts there

    worker.run(1)
    other = worker.ask("save", name="other")
    listed = {row["folder"]: row for row in worker.status()["checkpoints"]}[other.path.name]
    assert (listed["step"], listed["name"], listed["branch"]) == (6, "other", "branch 2")
    assert obeyed(worker, "delete", folder=other.path.name).why == "the checkpoint of step 6 is deleted"
    assert not other.path.exists()
    assert other.path.name not in [row["folder"] for row in worker.status()["checkpoints"]]


def test_checkpoints_are_made_while_it_trains_and_the_start_stays(started, monkeypatch):
    monkeypatch.setattr("babysit.store.checkpoint_store.PERIOD_S", 0.02)
    worker = started(epochs=10**6)
    worker.ask("resume")
    until(lambda: len(worker.session.store.all) >= 4)
    found = [saved.step for saved in worker.session.store.all]
    assert found[0] == 0 and found == sorted(found)


# ------------------------------------------------------------------------------------ two at once


def test_who_asked_for_steps_gets_an_answer_though_somebody_resumes(started):
    worker = started(epochs=10**6)
    asking = threading.Thread(target=worker.run, args=(400,))
    asking.start()
    until(lambda: worker.session.position.step > 0)  # asked before somebody resumes
    worker.ask("resume")
    asking.join(60)
    assert not asking.is_alive()
    assert worker.state == "running"
    worker.run(1)
    assert worker.state == "paused"


@pytest.mark.parametrize("leave", [sys.exit, lambda: (_ for _ in ()).throw(KeyboardInterrupt)])
def test_a_callback_that_leaves_the_program_leaves_nobody_waiting(started, leave):
    worker = started(callbacks=Callbacks(on_epoch_end=lambda *place: leave()))
    finish(worker)
    assert worker.state == "failed" and isinstance(worker.error, SystemExit | KeyboardInterrupt)
    assert worker.session.position.epoch == 1
    with pytest.raises(SystemExit):
        worker.ask("call", function=lambda model: sys.exit(2))
    worker.ask("fit", plan=plan(epochs=2), paused=False)
    assert worker.wait(60) and worker.state == "finished"


def test_where_even_failing_fails_nobody_is_left_waiting(worker, monkeypatch):
    worker.session.trainer.fail_at = 3
    monkeypatch.setattr(worker.session, "fail", lambda error: 1 / 0)
    with pytest.raises(RuntimeError, match="the step failed"):
        worker.run(5)
    assert worker.state == "failed" and len(digest(worker)) == 64


def test_where_the_steps_fail_again_what_was_lost_is_reported(worker, monkeypatch):
    worker.run(4)
    one = worker.session.trainer._one

    def failing(values):
        if worker.session.position.step >= 1:
            raise RuntimeError("the step failed")
        return one(values)

    worker.session.store._in_memory.clear()
    monkeypatch.setattr(worker.session.trainer, "_one", failing)
    monkeypatch.setattr("babysit.session.session.SNAPSHOT_SHARE", 1e-9)
    worker.session._snapshot_cost = 1.0
    with pytest.raises(RuntimeError, match="the step failed"):
        worker.run(10)
    assert (worker.state, place(worker), worker.session.branch) == ("failed", (0, 0), "branch 2")
    assert "cannot be taken again (the step failed)" in journal(worker)[-2].why
    monkeypatch.undo()
    worker.ask("fit", plan=plan(), paused=True)
    worker.run(2)
    assert place(worker) == (2, 0)


def test_a_rewind_after_the_end_and_after_an_early_stop_goes_on(started):
    heard = Callbacks(on_epoch_end=lambda epoch: setattr(heard, "stop_requested", epoch == 1))
    worker = started(callbacks=heard)
    worker.run(2)
    saved = worker.ask("save", name="a")
    finish(worker)
    end = digest(worker)
    assert (worker.state, place(worker)) == ("finished", (12, 2))
    for about in ({"step": 5}, {"folder": saved.path.name}):
        heard.stop_requested = False
        worker.ask("rewind", **about)
        assert worker.state == "paused"
        finish(worker)
        assert (worker.state, digest(worker)) == ("finished", end)


def test_within_a_validation_changes_act_all_else_waits_and_a_stop_ends_it(started):
    seen = []

    def validate(between):
        commands = [
            ("set", {"changes": {"momentum": 0.5}}),
            ("save", {"name": "b"}),
            ("set", {"changes": {"momentum": 0.1}}),
        ]
        for action, about in commands if not seen else [("stop", {})]:
            worker.send({"action": action, **about})
        between()
        seen.append(worker.session.controls.values["momentum"])
        return {"loss": 1.0}

    worker = started(validation=SimpleNamespace(is_due=lambda epoch: True, run=validate))
    finish(worker)
    assert (worker.state, place(worker), seen) == ("stopped", (12, 2), [0.5])
    assert [entry.step for entry in journal(worker) if entry.action == "set"] == [6, 6]
    assert [saved.step for saved in worker.session.store.all if saved.name == "b"] == [6]
