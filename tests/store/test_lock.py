import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from babysit.store.lock import Lock

HOLDING = """
import sys, types
from pathlib import Path
package = types.ModuleType("babysit")  # the package's own `__init__` imports TensorFlow
package.__path__ = [sys.argv[1]]
sys.modules["babysit"] = package
from babysit.store.lock import Lock
try:
    lock = Lock(Path(sys.argv[2]))
except ValueError as error:
    sys.exit(str(error))
print("held", flush=True)
sys.stdin.readline()
"""


def another_process(folder):
    import babysit

    command = [sys.executable, "-c", HOLDING, babysit.__path__[0], str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


@pytest.fixture
def holder(tmp_path):
    process = another_process(tmp_path)
    assert process.stdout.readline() == "held\n", process.communicate()[1]
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(ValueError, match="`directory` must be written by one process") as refusal:
        Lock(tmp_path)
    assert f"process {holder.pid} on {platform.node()} since {time.strftime('%Y-')}" in str(refusal.value)


def test_the_process_that_holds_it_is_not_disturbed_by_who_asks(tmp_path):
    lock = Lock(tmp_path)
    for _ in range(2):
        second = another_process(tmp_path)
        assert f"process {os.getpid()} on" in second.communicate(timeout=60)[1]
        assert second.returncode == 1
    lock.release()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_is_no_obstacle(tmp_path, holder, how):
    holder.send_signal(how)
    holder.wait(60)
    assert (tmp_path / ".writer").exists()
    Lock(tmp_path).release()


def test_what_is_released_can_be_taken_again_and_twice_is_harmless(tmp_path):
    for _ in range(3):
        lock = Lock(tmp_path)
        with pytest.raises(ValueError, match="one process at a time"):
            Lock(tmp_path)
        lock.release()
        lock.release()
    assert not (tmp_path / ".writer").exists()


def test_releasing_twice_does_not_take_it_from_the_next_one(tmp_path):
    first = Lock(tmp_path)
    first.release()
    second = Lock(tmp_path)
    first.release()
    assert f"process {os.getpid()} on" in (tmp_path / ".writer").read_text()
    with pytest.raises(ValueError):
        Lock(tmp_path)
    second.release()


def test_another_thread_may_release_it(tmp_path):
    lock = Lock(tmp_path)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join(60)
    Lock(tmp_path).release()


@pytest.mark.parametrize("told", [b"", b"\xff"])
def test_who_cannot_be_told_holds_it_none_the_less(tmp_path, holder, told):
    (tmp_path / ".writer").write_bytes(told)
    with pytest.raises(ValueError, match="held by another process"):
        Lock(tmp_path)
