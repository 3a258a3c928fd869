"""Whatever happens to the process or the disk while a training runs: it can be taken up, and goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import babysit
from babysit import demos
from babysit.session.replay import compare_run
from babysit.session.rewind import load
from babysit.store.checkpoint_file import manifests, read
from babysit.store.checkpoint_store import in_order
from tests.faults import ALL
from tests.faults.steered import opened, run
from tests.session.numpy_trainer import NumpyTrainer, Source, plan

ROOT = Path(__file__).parents[2]
RUNS, AT_ONCE = (500, 100) if ALL else (8, 8)


# ------------------------------------------------------------------------------------- killed


def fresh():
    trainer = NumpyTrainer(3, 1, np.random.default_rng(77))
    trainer.prepare(Source(), None, 4, None, None)
    return trainer


def assert_taken_up(folder):
    """The run loads at a checkpoint with its digest, goes on as if nothing had been, and all of it replays."""
    one, database = opened(folder, 9)
    for checkpoint in one.store.all:
        assert read(checkpoint.path)[0].digest() == checkpoint.digest
    assert not list((folder / "checkpoints").glob(".*"))
    tip, branch = one.log.tip(one.branch), one.branch
    if one.store.all:
        load(one)
        one.fit(plan(completes=True))
        one.begin()
        assert (one.position.step, one.branch) == (tip, branch)
        run(one, 3)
        saved = one.store.save(one.trainer.capture(), one.branch, "afterwards")
        assert (one.log.tip(one.branch), saved.digest) == (tip + 3, one.trainer.capture().digest())
        replay = compare_run(one.log, in_order(one.store.all), fresh())
        assert replay.identical, str(replay)
    one.store.close()
    database.close()
    return tip


@pytest.mark.parametrize("first", range(0, RUNS, AT_ONCE))
def test_a_steered_training_killed_at_any_moment_can_be_taken_up(tmp_path, first):
    command = [sys.executable, "-m", "tests.faults.steered", str(tmp_path), str(AT_ONCE), str(first)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    tips = [assert_taken_up(folder) for folder in tmp_path.iterdir() if (folder / "run.sqlite").exists()]
    assert sum(tip > 10 for tip in tips) > AT_ONCE / 6


# ---------------------------------------------------------------------------- one that writes


@pytest.fixture(scope="module")
def over(tmp_path_factory):
    """A run that has stopped after three steps."""
    panda = resting(tmp_path_factory.mktemp("over"))
    panda.run(3)
    panda.stop()
    return panda.wait(60)


def resting(tmp_path, name="run", **how):
    (x, y), _ = demos.digits()
    model = demos.dense_network(seed=3)
    return babysit.Panda(model, tmp_path / name, seed=7).fit(x[:160], y[:160], epochs=50, paused=True, **how)


def test_a_run_that_is_over_is_given_back_when_it_is_taken_up_here_or_refused(over):
    with pytest.raises(ValueError):
        babysit.Panda.load(over.directory, model=demos.convolutional_network())
    again = babysit.Panda.load(over.directory)
    assert (again.step, again.checkpoints[0].step) == (3, 0)
    with pytest.raises(ValueError, match="goes on in another Panda"):
        over.save("late")
    assert [folder.name for folder, _ in manifests(again.directory / "checkpoints")] == [
        checkpoint.path.name for checkpoint in again.checkpoints
    ]


# -------------------------------------------------------------------------------- a bad disk


def test_whatever_becomes_of_the_disk_no_step_is_harmed(tmp_path, monkeypatch):
    panda = resting(tmp_path)
    panda.run(3)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            panda.save("full")
        panda.run(3)
        assert [checkpoint.step for checkpoint in panda.checkpoints] == [0]
    shutil.rmtree(panda.directory / "checkpoints")
    assert panda.checkpoints == []
    panda.run(3)
    saved = panda.save("again")
    assert [checkpoint.path for checkpoint in panda.checkpoints] == [saved.path]
    shutil.move(panda.directory, tmp_path / "aside")
    panda.run(3)
    with pytest.raises(OSError):
        panda.save("nowhere")
    shutil.move(tmp_path / "aside", panda.directory)
    assert read(panda.save("back").path)[0].digest() == panda.digest()
    twin = resting(tmp_path, "twin")
    twin.run(12)
    assert panda.digest() == twin.digest()
    assert np.isfinite(panda.history["loss"]).all()
