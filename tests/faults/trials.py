"""Saves that are killed or refused, in a process without TensorFlow, which may be forked at will.

Run as `python -m tests.faults.trials kill|limit|tmpfs FOLDER COUNT`: makes about COUNT trials and prints how many
there were and what was wrong after any of them.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults import without_tensorflow

without_tensorflow()

from babysit.core.runlog import RunLog  # noqa: E402  (after the stand-in)
from babysit.store.checkpoint_store import CheckpointStore  # noqa: E402
from tests.store.states import BRANCH, at  # noqa: E402

FULL = "File too large", "No space left on device"
OLD, NEW, NEXT = at(5), at(6), at(7)


def opened(folder):
    """The store of the checkpoints in a folder, as a new process opens it."""
    return CheckpointStore(folder, RunLog(), lambda: None, {})


def write_model(path):
    path.write_bytes(b"the model's own file")


def save(store, state):
    store.save(state, BRANCH, f"step {state.position.step}", "named", write_model)


def kill_at(call):
    """SIGKILL at the start or the end of the nth call that Python makes into C, every system call among them."""
    seen = 0

    def count(frame, event, argument):
        nonlocal seen
        if event in ("c_call", "c_return"):
            seen += 1
            if seen == call:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def limit_at(size):
    """No file may grow beyond so many bytes: writes are cut short, then refused."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def outcome(store, spoil, how_much):
    """Saves in a child process that something happens to; whether it was killed, refused or saved."""
    child = os.fork()
    if child == 0:
        try:
            spoil(how_much)
            save(store, NEW)
            os._exit(0)
        except OSError as error:
            os._exit(1 if any(words in str(error) for words in FULL) else 2)
        finally:
            os._exit(3)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return ["saved", "refused", "another error", "something else"][os.WEXITSTATUS(status)]


def complaints(folder, happened, before):
    """What is wrong after a trial; nothing if all is as it must be."""
    if happened == "refused" and sorted(folder.rglob("*")) != before:
        yield f"refused, and {sorted(folder.rglob('*'))} are there"
    if happened in ("another error", "something else"):
        yield happened
    store = opened(folder)
    found = [store.found(row["folder"]).load().position.step for row in store.rows]
    if found not in ([5], [5, 6]) or (happened == "saved" and found != [5, 6]):
        yield f"{happened}, and the list holds steps {found}"
    save(store, NEXT)
    if opened(folder).all[-1].load().digest() != NEXT.digest():
        yield "saving again did not work"
    if len(list(folder.iterdir())) != len(store.all):
        yield f"{sorted(folder.iterdir())} are there"


def trials(folder, spoil, amounts):
    """Spoils a save by each amount until it is not spoiled any more; how many times, and what was wrong."""
    wrong, count = [], 0
    for amount in amounts:
        shutil.rmtree(folder, ignore_errors=True)
        store = opened(folder)
        save(store, OLD)
        before = sorted(folder.rglob("*"))
        happened = outcome(store, spoil, amount)
        wrong += [f"{amount}: {words}" for words in complaints(folder, happened, before)]
        count += 1
        if happened == "saved":
            break
    return count, wrong


def full_disk(folder, sizes):
    """A disk of every size, from none to one that takes it all."""
    wrong, count = [], 0
    folder.mkdir()
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        try:
            happened = "saved"
            try:
                save(opened(folder), OLD)
            except OSError:
                happened = "refused"
            store = opened(folder)
            found = [store.found(row["folder"]).load().digest() for row in store.rows]
            if found != [OLD.digest()] * (happened == "saved") or list(folder.glob(".*")):
                wrong.append(f"{size}: {happened}, and {sorted(folder.rglob('*'))} are there")
        finally:
            subprocess.run(["umount", folder], check=True)
        count += 1
    return count, wrong


def calls(folder):
    """How many calls into C a whole save makes."""
    store = opened(folder)
    save(store, OLD)  # the first one makes calls of its own
    seen = [0]
    sys.setprofile(lambda frame, event, argument: seen.__setitem__(0, seen[0] + event.startswith("c_")))
    save(store, NEW)
    sys.setprofile(None)
    return seen[0]


def main(kind, folder, count):
    """Prints what came of the trials of one kind."""
    if kind == "kill":
        last = calls(folder)
        done = trials(folder, kill_at, range(1, last + 50, max(1, last // count)))
    elif kind == "limit":
        done = trials(folder, limit_at, range(0, 8000, max(1, 4000 // count)))
    else:
        done = full_disk(folder, range(4096, 65536, max(1, 16 // count) * 4096))
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
