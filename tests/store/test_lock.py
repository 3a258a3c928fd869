import fcntl
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from babysit.store import lock
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


def test_another_process_learns_who_holds_it(tmp_path, holder):
    assert f"process {holder.pid} on" in lock.holder(tmp_path)
    with pytest.raises(ValueError, match="`directory` must be written by one process") as refusal:
        Lock(tmp_path)
    assert f"process {holder.pid} on {platform.node()} since {time.strftime('%Y-')}" in str(refusal.value)


def test_the_process_that_holds_it_is_not_disturbed_by_who_asks(tmp_path):
    held = Lock(tmp_path)
    second = another_process(tmp_path)
    assert f"process {os.getpid()} on" in second.communicate(timeout=60)[1]
    assert second.returncode == 1
    with pytest.raises(ValueError):
        Lock(tmp_path)
    held.release()


def test_a_dead_process_is_no_obstacle(tmp_path, holder):
    holder.kill()
    holder.wait(60)
    assert lock.holder(tmp_path) is None
    Lock(tmp_path).release()


def test_what_is_released_can_be_taken_again_and_twice_is_harmless(tmp_path):
    assert lock.holder(tmp_path) is None
    for _ in range(3):
        one = Lock(tmp_path)
        assert f"process {os.getpid()} on" in lock.holder(tmp_path)
        with pytest.raises(ValueError, match="one process at a time"):
            Lock(tmp_path)
        one.release()
        one.release()


def test_who_just_looks_is_no_obstacle(tmp_path):
    Lock(tmp_path).release()
    with open(tmp_path / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        Lock(tmp_path).release()


def test_releasing_twice_does_not_take_it_from_the_next_one(tmp_path):
    first = Lock(tmp_path)
    first.release()
    second = Lock(tmp_path)
    first.release()
    with pytest.raises(ValueError):
        Lock(tmp_path)
    second.release()


def test_another_thread_may_release_it(tmp_path):
    held = Lock(tmp_path)
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join(60)
    Lock(tmp_path).release()
