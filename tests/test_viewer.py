"""A run of another process: it is followed and steered, or only watched, and its end is told."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import babysit
from babysit.__main__ import main
from babysit.store import lock
from tests.patience import until

TRAINING = """
import sys, time
import babysit, keras
from babysit import demos
(x, y), _ = demos.digits()
slowly = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(0.01))
def begin(folder, **how):
    panda = babysit.Panda(demos.dense_network(seed=1), folder, seed=1, **how)
    panda.fit(x[:96], y[:96], epochs=10**6, callbacks=[slowly], paused=True).run(7)
    return panda
panda = begin(sys.argv[1], remote=False)
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("viewer") / "run"


@pytest.fixture(scope="module")
def child(folder):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", TRAINING, str(folder)], text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def tell(child, line):
    child.stdin.write(line + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def words(widget):
    own = [widget.value] if isinstance(getattr(widget, "value", None), str) else []
    return " ".join(own + [words(child) for child in getattr(widget, "children", ())])


def find(widget, description):
    below = [find(child, description) for child in getattr(widget, "children", ())]
    return widget if getattr(widget, "description", None) == description else next(filter(None, below), None)


def files(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_it_follows_a_run_of_another_process_and_shows_its_end(folder, child):
    viewer = babysit.attach(folder)
    until(lambda: (viewer.state, viewer.step) == ("paused", 7))
    tell(child, "panda._store.settle(); panda._database.flush()")  # after which it has no more to write
    before = files(folder)
    assert viewer.history["step"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert viewer.hyperparameters["batch_size"].value == 32 and viewer.branches == {"branch 1": (None, 0)}
    assert viewer.checkpoints[0].step == 0
    assert f"process {child.pid} on" in viewer.status()["remarks"][0]
    for refused in (
        viewer.pause,
        lambda: viewer.set(learning_rate=1.0),
        lambda: viewer.rewind(3),
        lambda: viewer.model,
        lambda: viewer.send({"action": "pause", "author": "dashboard"}),
    ):
        with pytest.raises(ValueError, match=rf"process {child.pid} on .* holds it, with `remote=False`|is done where"):
            refused()

    shown = viewer.dashboard()
    until(lambda: "babysit-watching" in shown._dom_classes)
    rate = find(shown, "learning rate")
    rate.value = 0.5
    until(lambda: rate.value == 0.01 and words(shown).count(f"process {child.pid} on") == 2)  # it springs back
    assert files(folder) == before  # nothing is written, not even a time

    tell(child, "panda.set(learning_rate=0.02, why='watched'); panda.save('good'); panda.rewind(3); panda.resume()")
    until(lambda: (viewer.state, viewer.status()["branch"]) == ("running", "branch 2") and viewer.step > 20)
    until(lambda: "watched" in words(shown) and "good" in words(shown))
    assert viewer.journal[-1].action in ("rewind", "resume") and "good" in [saved.name for saved in viewer.checkpoints]
    assert viewer.hyperparameters["learning_rate"].value == 0.01  # as at step 3

    tell(child, "panda.stop()")
    viewer._dashboard.close()


def test_it_is_steered_from_another_process(tmp_path, child, capsys):
    folder = tmp_path / "open"
    tell(child, f"panda = begin({str(folder)!r})")
    viewer = babysit.attach(folder)
    who = viewer.note("from afar").author
    assert "@" in who and not viewer.status()["read_only"]

    entry = viewer.set(learning_rate=np.float32(0.5), momentum=0.25, why="flat")
    assert (entry.step, entry.author, entry.why) == (7, who, "flat")
    assert entry.changes == {"learning_rate": (0.01, 0.5), "momentum": (0.9, 0.25)}
    viewer.run(3)
    assert (viewer.state, viewer.step) == ("paused", 10)
    saved = viewer.save("here")
    assert (saved.step, saved.name) == (10, "here") and saved in viewer.checkpoints
    viewer.resume()
    until(lambda: viewer.step > 30)
    viewer.pause()
    assert viewer.state == "paused"
    back = viewer.rewind("here", hyperparameters="keep")
    assert (back.action, back.author, back.step, viewer.step) == ("rewind", who, 10, 10)
    assert viewer.rewind(8).step == 8 and viewer.hyperparameters["momentum"].value == 0.25

    with pytest.raises(ValueError, match="`momentum` must be"):
        viewer.set(momentum=7)
    assert (viewer.journal[-1].action, viewer.journal[-1].author) == ("refuse", who)  # which the trainer's screen shows
    with pytest.raises(ValueError, match=rf"done where the run is trained, by process {child.pid} on"):
        viewer.call(len)
    with pytest.raises(ValueError, match="plain numbers"):
        viewer.set(momentum=print)

    shown = viewer.dashboard()
    until(lambda: ">remote<" in words(shown))
    rate = find(shown, "learning rate")
    rate.value = 0.1
    until(lambda: viewer.hyperparameters["learning_rate"].value == 0.1)
    assert (viewer.journal[-1].changes, viewer.journal[-1].author) == ({"learning_rate": (0.5, 0.1)}, who)
    until(lambda: "in effect since step 8" in words(shown))
    assert "babysit-watching" not in shown._dom_classes

    run = str(folder)
    assert main(["set", run, "learning_rate=1e-3", "batch_size=16", "--why", "from a shell"]) == 0
    assert f"learning rate 0.1 → 0.001, batch size 32 → 16 — from a shell (by {who})" in capsys.readouterr().out
    assert main(["run", run, "2"]) == main(["save", run, "by shell"]) == main(["note", run, "so far"]) == 0
    assert main(["rewind", run, "8", "--keep"]) == main(["resume", run]) == main(["pause", run]) == 0
    assert main(["set", run, "learning_rate=-1"]) == main(["set", run, "learning_rate"]) == 2
    assert "must be" in capsys.readouterr().err
    assert main(["stop", run]) == 0
    until(lambda: viewer.state == "stopped")
    assert main(["watch", run]) == 0
    assert "stopped" in capsys.readouterr().out
    assert main(["show", run, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["journal"][0]["action"], list(shown["branches"])[0]) == ("stopped", "fit", "branch 1")
    viewer._dashboard.close()


def test_its_end_is_told(tmp_path, child):
    folder = tmp_path / "open"
    tell(child, f"panda = begin({str(folder)!r}); panda.resume()")
    viewer = babysit.attach(folder)
    shown = viewer.dashboard()
    until(lambda: viewer.state == "running")
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    until(lambda: viewer.state == "interrupted")
    until(lambda: "interrupted" in words(shown) and "Panda.load" in words(shown))
    with pytest.raises(ValueError, match="no process holds it: `babysit.Panda.load"):
        viewer.resume()
    seen = viewer.history["loss"]
    again = babysit.Panda.load(folder)
    np.testing.assert_array_equal(again.history["loss"], seen)
    until(lambda: f"process {os.getpid()} on" in " ".join(viewer.status()["remarks"]))
    assert viewer.state == "idle" and babysit.attach(folder) is again
    viewer._dashboard.close()


def test_whether_a_run_is_held_is_seen_without_taking_it(tmp_path):
    assert lock.holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    held = lock.Lock(tmp_path)
    assert f"process {os.getpid()} on" in lock.holder(tmp_path)
    held.release()
    assert lock.holder(tmp_path) is None
