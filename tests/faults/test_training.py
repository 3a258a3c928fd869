"""Whatever happens to the process or the disk while a training runs: it can be taken up, and goes on."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import babysit
from babysit import demos
from babysit.store.checkpoint_file import manifests, read
from tests.faults import ALL
from tests.faults.steered import X, Y, network

ROOT = Path(__file__).parents[2]
RUNS, AT_ONCE = (200, 20) if ALL else (5, 5)


def python(*arguments, timeout=280):
    # TensorFlow's own words would fill the pipe, and hide ours.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def resting(tmp_path, name="run", **how):
    (x, y), _ = demos.digits()
    model = demos.dense_network(seed=3)
    return babysit.Panda(model, tmp_path / name, seed=7).fit(x[:160], y[:160], epochs=50, paused=True, **how)


# ------------------------------------------------------------------------------------- killed


def assert_taken_up(folder, goes_on):
    """The run loads at a checkpoint with its digest; goes on as if nothing had been; and all of it replays."""
    panda = babysit.Panda.load(folder)
    listed = panda.checkpoints
    for checkpoint in listed:
        assert read(checkpoint.path)[0].digest() == checkpoint.digest
    if listed:
        assert panda.digest() in [checkpoint.digest for checkpoint in listed]
    assert [entry.action for entry in panda.journal][:1] in ([], ["fit"])
    assert not list((folder / "checkpoints").glob(".*"))
    if goes_on:
        tip, branch = panda.history.steps, panda.history.branch
        panda.fit(X, Y, epochs=10**6, paused=True)
        assert (panda.step, panda.history.branch) == (tip, branch)
        panda.run(3)
        assert panda.history.steps == panda.step == len(panda.history["loss"]) == tip + 3
        panda.save("afterwards")
        assert panda.checkpoints[-1].digest == panda.digest()
        panda.stop()
        panda.wait(60)
        replay = babysit.replay(folder, network(), X, Y)
        assert replay.identical, str(replay)


@pytest.mark.parametrize("first", range(0, RUNS, AT_ONCE))
def test_a_steered_training_killed_at_any_moment_can_be_taken_up(tmp_path, first):
    done = python("-m", "tests.faults.steered", tmp_path, AT_ONCE, first)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert any("moves" in told for _, told in runs)
    for i, (name, told) in enumerate(runs):
        assert "by itself" not in told, done.stderr
        try:
            assert_taken_up(tmp_path / name, goes_on=i % 3 == 0)
        except ValueError as error:  # it had not even been made
            assert told == "nothing", (name, told)
            assert "must hold a run" in str(error) or "ended before it began" in str(error)


# ------------------------------------------------------------------------------- two processes

SECOND = """
    import sys, babysit
    try:
        babysit.Panda.load(sys.argv[1])
    except ValueError as error:
        print(error)
    from pathlib import Path
    from babysit.store.checkpoint_file import manifests, read
    print([read(folder)[0].position.step for folder, _ in manifests(Path(sys.argv[1]) / "checkpoints")])
"""


def test_a_second_process_is_told_who_writes_the_run_and_may_read(tmp_path):
    panda = resting(tmp_path)
    panda.run(4)
    panda.save("four")
    done = python("-c", textwrap.dedent(SECOND), panda.directory)
    refusal, read = done.stdout.splitlines()
    assert f"held by process {os.getpid()} on" in refusal
    assert read == "[0, 4]"
    panda.run(2)
    panda.save("six")
    assert panda.checkpoints[-1].digest == panda.digest()


def test_a_run_that_is_over_is_given_back_when_it_is_taken_up_here(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    panda.stop()
    panda.wait(60)
    again = babysit.Panda.load(panda.directory)
    assert again.checkpoints[0].step == 0
    with pytest.raises(ValueError, match="goes on in another Panda"):
        panda.save("late")
    assert [folder.name for folder, _ in manifests(again.directory / "checkpoints")] == [
        checkpoint.path.name for checkpoint in again.checkpoints
    ]


def test_a_load_that_is_refused_gives_the_run_back(tmp_path):
    panda = resting(tmp_path)
    panda.stop()
    panda.wait(60)
    with pytest.raises(ValueError):
        babysit.Panda.load(panda.directory, model=demos.convolutional_network())
    assert babysit.Panda.load(panda.directory).step == 0


# -------------------------------------------------------------------------------- a bad disk


def twin(tmp_path, steps):
    panda = resting(tmp_path, "twin")
    panda.run(steps)
    return panda.digest()


def test_a_disk_that_takes_no_checkpoint_harms_no_training(tmp_path, monkeypatch):
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
    assert panda.digest() == twin(tmp_path, 6)
    saved = panda.save("empty again")
    assert read(saved.path)[0].digest() == panda.digest()


def test_checkpoints_removed_while_it_trains_are_gone_from_the_list_and_that_is_all(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    shutil.rmtree(panda.directory / "checkpoints")
    assert panda.checkpoints == []
    panda.run(3)
    assert panda.digest() == twin(tmp_path, 6)
    saved = panda.save("again")
    assert [checkpoint.path for checkpoint in panda.checkpoints] == [saved.path]


def test_a_whole_run_removed_while_it_trains_stops_no_step(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    shutil.move(panda.directory, tmp_path / "aside")
    panda.run(3)
    assert panda.digest() == twin(tmp_path, 6)
    with pytest.raises(OSError):
        panda.save("nowhere")
    shutil.move(tmp_path / "aside", panda.directory)
    saved = panda.save("back")
    assert read(saved.path)[0].digest() == panda.digest()
    assert np.isfinite(panda.history["loss"]).all()
