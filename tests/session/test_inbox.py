"""The inbox of a run: commands of other processes are taken once, in order, and only as plain data."""

import json
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from babysit.session import inbox
from tests.patience import until


class FakeWorker:
    """Remembers the commands, and answers each with what it is told to."""

    def __init__(self):
        self.commands, self.come = [], None

    def submit(self, command):
        self.commands.append(command)
        outcome = Future()
        if command["action"] == "refuse":
            outcome.set_exception(ValueError(command["reason"]))
        elif isinstance(self.come, Exception):
            outcome.set_exception(self.come)
        else:
            outcome.set_result(self.come)
        return outcome


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(inbox, "EVERY_S", 0.01)
    return FakeWorker()


@pytest.fixture
def opened(tmp_path, worker):
    made = inbox.Inbox(tmp_path, lambda: worker.submit, lambda: None)
    yield made
    made.close()


def put(folder, content):
    (folder / "inbox" / "0.part").write_bytes(content)
    (folder / "inbox" / "0.part").rename(folder / "inbox" / "0.json")


def test_commands_are_taken_once_and_in_order(tmp_path, worker, opened):
    for i in range(20):
        inbox.send(tmp_path, {"action": "set", "changes": {"momentum": i / 20}, "command": str(i)})
    until(lambda: len(worker.commands) >= 20)
    assert [command["changes"]["momentum"] for command in worker.commands] == [i / 20 for i in range(20)]
    assert all("@" in command["author"] for command in worker.commands)
    until(lambda: not list((tmp_path / "inbox").iterdir()))  # those who do not wait leave no answer
    assert len(worker.commands) == 20


def test_what_has_been_obeyed_is_answered_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(inbox, "EVERY_S", 0.01)
    outcome = Future()
    opened = inbox.Inbox(tmp_path, lambda: lambda command: outcome, lambda: None)
    file = inbox.send(tmp_path, {"action": "stop"}, waits=True)
    until(file.with_suffix(".taken").exists)
    threading.Timer(0.2, outcome.set_result, [None]).start()
    opened.close()
    assert file.with_suffix(".answer").exists()


@pytest.mark.parametrize(
    "come, raised",
    [
        (ValueError("no"), ValueError),
        (TypeError("no"), TypeError),
        (FileNotFoundError("no"), OSError),
        (KeyError("no"), RuntimeError),
        (None, None),
    ],
)
def test_who_waits_gets_an_answer_or_the_error(tmp_path, worker, opened, come, raised):
    worker.come = come
    if raised:
        with pytest.raises(raised, match="no"):
            inbox.ask(tmp_path, {"action": "pause"}, lambda: True)
    else:
        assert inbox.ask(tmp_path, {"action": "pause"}, lambda: True) == {}
    until(lambda: not list((tmp_path / "inbox").iterdir()))


@pytest.mark.parametrize(
    "command",
    [
        {"action": "call", "function": "print"},
        {"action": "fit"},
        {"action": ["set"]},
        {"action": "set", "changes": [1]},
        {"action": "rewind", "folder": 5},
        {"action": "save", "name": "a", "write_model": "x"},
        {"action": "export", "kind": "chart.png", "content": "no base 64"},
        {"action": "pause", "author": "dashboard"},
        {"action": "pause", "author": "a@<b>"},
        ["pause"],
    ],
)
def test_what_is_not_for_other_processes_is_refused(tmp_path, worker, opened, command):
    if isinstance(command, dict):
        command = {"author": "ada@node7"} | command
    put(tmp_path, json.dumps(command).encode())
    until(lambda: worker.commands)
    assert [one["action"] for one in worker.commands] == ["refuse"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b'{"why": "%s"}' % (b"a" * 5_000_000)])
def test_what_is_no_command_is_refused_and_the_next_one_is_obeyed(tmp_path, worker, opened, content):
    put(tmp_path, content)
    until(lambda: worker.commands)
    assert [one["action"] for one in worker.commands] == ["refuse"]
    assert inbox.ask(tmp_path, {"action": "pause"}, lambda: True) == {}


def test_what_an_earlier_process_left_is_not_obeyed_and_its_asker_hears_so(tmp_path, worker):
    (tmp_path / "inbox").mkdir()
    raised = []

    def ask():
        with pytest.raises(ValueError, match="`stop` was not answered: the process that trained the run has ended"):
            inbox.ask(tmp_path, {"action": "stop"}, lambda: True)
        raised.append(True)

    asker = threading.Thread(target=ask)
    asker.start()
    until(lambda: list((tmp_path / "inbox").glob("*.json")))
    opened = inbox.Inbox(tmp_path, lambda: worker.submit, lambda: None)
    asker.join(60)
    assert raised and worker.commands == []
    opened.close()
    with pytest.raises(ValueError, match="was not answered"):
        inbox.ask(tmp_path, {"action": "stop"}, lambda: False)  # nobody takes it any more
    assert list((tmp_path / "inbox").iterdir()) == []


def test_plain_data_leave_and_bytes_and_nothing_else(tmp_path, worker, opened):
    changes = {"learning_rate": np.float32(0.5), "batch_size": np.int64(16), "momentum": True}
    inbox.send(tmp_path, {"action": "set", "changes": changes})
    inbox.send(tmp_path, {"action": "export", "kind": "chart.png", "content": b"\x89PNG"})
    until(lambda: len(worker.commands) == 2)
    assert worker.commands[0]["changes"] == {"learning_rate": 0.5, "batch_size": 16, "momentum": True}
    assert worker.commands[1]["content"] == b"\x89PNG"
    with pytest.raises(ValueError, match="`set` from another process takes plain numbers, texts and truth values"):
        inbox.send(tmp_path, {"action": "set", "changes": {"momentum": print}})


def test_an_answer_that_the_disk_does_not_take_comes_later(tmp_path, worker, opened, monkeypatch):
    tries = []

    def flush():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("full")

    monkeypatch.setattr(opened, "_flush", flush)
    assert inbox.ask(tmp_path, {"action": "pause"}, lambda: True) == {}
    assert (len(tries), len(worker.commands)) == (3, 1)
