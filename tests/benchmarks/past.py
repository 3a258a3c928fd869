"""What a checkpoint costs the training, and how long the way back takes, by the size of the state."""

import statistics
import tempfile
import time
from pathlib import Path

from babysit.engine.block import BLOCK_S
from babysit.store.checkpoint_store import SHARE
from tests.benchmarks import ways
from tests.benchmarks.models import dense, slow
from tests.benchmarks.ways import print_row, ratio

MODELS = [("dense 64-128-10, batch norm, momentum", dense, 32, 400), ("three layers of 2048", slow, 256, 4)]
WIDTHS = [10, 14, 18, 24, 16, 16]
COLUMNS = ["state MB", "stall ms", "stall ÷ block", "with ÷ without", "to a step ms", "its steps ms"]
ROUNDS, TURNS = 5, 9


def main():
    print_row("Automatic checkpoints, and going back", COLUMNS, WIDTHS)
    with tempfile.TemporaryDirectory() as folder:
        for i, row in enumerate(MODELS):
            measure(*row, Path(folder) / str(i))


def measure(name, make, batch_size, epochs, folder):
    panda, train = ways.with_panda(make(), batch_size, epochs, folder)
    store = panda._store
    size = panda._trainer.capture().size_bytes
    stalls = [stall(panda) for _ in range(ROUNDS)]
    taken = {"with": [], "without": []}
    save_if_due = store.save_if_due
    for _ in range(TURNS):
        for way, save in (("with", save_if_due), ("without", lambda *about: None)):
            store.save_if_due = save
            taken[way].append(ways.seconds(train))
    store.save_if_due = save_if_due
    back, steps = way_back(panda)
    share = ways.times(taken["with"], taken["without"])
    cells = [
        f"{size / 1e6:.1f}",
        f"{statistics.median(stalls) * 1000:.1f}",
        f"{statistics.median(stalls) / BLOCK_S:.2f}",
        ratio(share, 1 + SHARE, at_most=True),
        f"{back * 1000:.0f}",
        f"{steps * 1000:.0f}",
    ]
    print_row(name, cells, WIDTHS)
    panda.stop()
    panda.wait()


def stall(panda):
    """How long the training thread waits for one: it copies the state, and another thread writes it."""
    panda._store.settle()
    began = time.perf_counter()
    panda._session.keep("fit")
    return time.perf_counter() - began


def way_back(panda):
    """Seconds to a step ten steps back, and those that its steps take."""
    steps, backs = ways.seconds(lambda: panda.run(10)), []
    for _ in range(ROUNDS):
        panda.run(10)
        backs.append(ways.seconds(lambda: panda.rewind(panda.step - 10)))
    return statistics.median(backs), steps
