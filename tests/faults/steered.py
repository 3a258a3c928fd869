"""Trainings of the NumPy trainer, steered at random and killed at random moments, in a process without TensorFlow.

Run as `python -m tests.faults.steered FOLDER COUNT SEED`: leaves COUNT runs below FOLDER, each killed
somewhere in its life.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    from tests.faults import without_tensorflow

    without_tensorflow()

from babysit.core.runlog import RunLog
from babysit.session import commands
from babysit.session.rewind import rewind
from babysit.session.session import Session
from babysit.store import checkpoint_store
from babysit.store.checkpoint_store import CheckpointStore
from babysit.store.database import Database
from tests.session.numpy_trainer import NumpyTrainer, plan


def opened(folder, blocks):
    """The session of a run in a folder, and its database."""
    database, log = Database(folder / "run.sqlite", interval_s=0.02), RunLog()
    database.fill(log)
    log.on_append = database.append
    store = CheckpointStore(folder / "checkpoints", log, database.flush, {})
    return Session(NumpyTrainer(3, 1, np.random.default_rng(blocks)), log, store), database


def run(one, steps):
    """Takes so many steps."""
    until = one.position.step + steps
    while one.position.step < until:
        one.advance(until)


def steer(folder, seed):
    """Trains and steers for ever."""
    chance = random.Random(seed)
    checkpoint_store.PERIOD_S, checkpoint_store.SHARE = 0.0, 0.5
    folder.mkdir()
    one, _ = opened(folder, seed)
    one.fit(plan(epochs=10**6))
    one.begin()
    moves = [
        lambda: run(one, chance.randint(1, 30)),
        lambda: one.set({"learning_rate": chance.uniform(0.001, 0.05), "momentum": chance.choice([0.0, 0.9])}),
        lambda: one.set({"batch_size": chance.randint(1, 23)}, chance.choice([1, 5])),
        lambda: commands.save(one, {}),
        lambda: commands.note(one, {"why": "at random"}),
        lambda: rewind(one, {}, step=chance.randint(0, one.position.step), branch=one.branch),
        lambda: rewind(one, {}, folder=chance.choice(one.store.all).path.name, hyperparameters="keep"),
    ]
    while True:
        chance.choice(moves)()


def main(folder, count, seed):
    """Forks so many trainings, and kills each after a time drawn at random."""
    for number in range(seed, seed + count):
        child = os.fork()
        if child == 0:
            try:
                steer(folder / f"run-{number}", number)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        time.sleep(random.Random(-number).uniform(0, 0.6))
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    assert "tensorflow" not in sys.modules
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
