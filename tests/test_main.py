"""The command line: what it tells of a run on disk, what it finds wrong with one, and that it leaves it alone."""

import contextlib
import hashlib
import json
import runpy
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

import babysit
from babysit import demos
from babysit.__main__ import main

(X, Y), _ = demos.digits()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    panda = babysit.Panda(demos.dense_network(seed=1), folder, seed=5)
    panda.fit(X[:96], Y[:96], epochs=2, paused=True)
    panda.run(2)
    panda.save("before the leap")
    panda.set(learning_rate=0.1, why="flat \x1b[31m for a while")
    panda.run(2)
    panda.rewind("before the leap")
    panda.resume()
    panda.wait()
    panda._close()
    return folder


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def folders(run):
    return sorted((run / "checkpoints").iterdir())


def contents(folder):
    return {
        str(path.relative_to(folder)): path.is_dir() or hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def test_show_prints_the_state_of_the_run_and_what_was_done(run, capsys):
    assert main(["show", str(run)]) == 0
    told = capsys.readouterr().out
    for words in ("digits-dense: finished, step 6", "6 steps, 2 epochs on branch 2", "“before the leap” (step 2)"):
        assert words in told
    assert "branch 2 (from branch 1, step 2)" in told
    assert "learning rate 0.01 → 0.1 — flat \\x1b[31m for a while" in told
    assert "\x1b" not in told


def test_a_whole_run_has_no_faults(run, capsys):
    assert main(["verify", str(run)]) == 0
    assert "all is well" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "verify"])
def test_nothing_is_written(run, command):
    before = contents(run)
    run.chmod(0o555)
    assert main([command, str(run)]) == 0
    run.chmod(0o755)
    assert contents(run) == before


def test_a_flipped_bit_in_a_checkpoint_is_reported(run, capsys):
    path = folders(run)[0] / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(run)]) == 1
    (fault,) = capsys.readouterr().out.splitlines()
    assert fault.startswith(f"checkpoints/{folders(run)[0].name}: ")


def test_a_named_checkpoint_that_is_gone_is_reported(run, capsys):
    with sqlite3.connect(run / "run.sqlite") as database:
        (data,) = database.execute("SELECT data FROM events WHERE kind = 'save'").fetchone()
    folder = json.loads(data)["folder"]
    shutil.rmtree(run / "checkpoints" / folder)
    assert main(["verify", str(run)]) == 1
    (fault,) = capsys.readouterr().out.splitlines()
    assert folder in fault and "before the leap" in fault


def test_every_fault_has_a_line(run, capsys):
    for folder in folders(run)[:2]:
        (folder / "state.safetensors").write_bytes(b"")
    with sqlite3.connect(run / "run.sqlite") as database:
        database.execute("UPDATE events SET data = '{' WHERE kind = 'set'")
    assert main(["verify", str(run)]) == 1
    told = capsys.readouterr().out.splitlines()
    damaged = [f"checkpoints/{folder.name}" for folder in folders(run)[:2]]
    assert [line.split(":")[0] for line in told] == ["run.sqlite", *damaged]


def test_a_record_that_is_none_is_reported(run, capsys):
    (run / "run.sqlite").write_bytes(b"no database" * 1000)
    assert main(["verify", str(run)]) == 1
    assert main(["show", str(run)]) == 2
    assert "run.sqlite" in capsys.readouterr().out


def test_a_record_of_a_newer_version_is_refused(run, capsys):
    with sqlite3.connect(run / "run.sqlite") as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (json.dumps(999),))
    assert main(["show", str(run)]) == 2
    assert "999" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_folder_without_a_run_is_refused(tmp_path, capsys, command):
    assert main([command, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_it_is_called_as_a_module(run, monkeypatch, capsys):
    path = folders(run)[0] / "manifest.json"
    path.write_text(path.read_text().replace('"step": 0', '"step": 1'))
    monkeypatch.setattr(sys, "argv", ["babysit", "verify", str(run)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("babysit", run_name="__main__")
    assert ended.value.code == 1
    assert folders(run)[0].name in capsys.readouterr().out


# ------------------------------------------------------------------------------- replay

GIVING = """
from babysit import demos
(x, y), _ = demos.digits()
def data():
    return x[:96], y[:96]
def arguments():
    return {"x": x[:96], "y": y[:96], "epochs": 2}
def others():
    return x[96:192], y[96:192]
def model():
    return demos.dense_network()
"""


@pytest.fixture
def giving(tmp_path, monkeypatch):
    (tmp_path / "giving.py").write_text(GIVING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "giving", raising=False)


def test_replay_says_whether_the_run_is_the_same(run, giving, capsys):
    assert main(["replay", str(run), "--data", "giving:arguments", "--model", "giving:model"]) == 0
    assert "Identical: " in capsys.readouterr().out


def test_replay_says_where_it_differs(run, giving, capsys):
    with contextlib.closing(sqlite3.connect(run / "run.sqlite")) as database, database:
        (data,) = database.execute("SELECT data FROM events WHERE kind = 'set'").fetchone()
        data = json.dumps(json.loads(data) | {"changes": {"learning_rate": [0.01, 0.2]}})
        database.execute("UPDATE events SET data = ? WHERE kind = 'set'", (data,))
    assert main(["replay", str(run), "--data", "giving:data"]) == 1
    assert "Differs at step 4 of branch 1" in capsys.readouterr().out


def test_replay_says_what_it_lacks(run, giving, capsys):
    for data in (["--data", "giving:others"], ["--data", "giving"], ["--data", "nowhere:data"]):
        assert main(["replay", str(run), *data]) == 2
        assert "`replay` cannot be done" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(run)])
    assert "required: --data" in capsys.readouterr().err
