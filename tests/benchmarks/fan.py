"""What a fan costs: the steps of its trials a second beside those of plain training."""

import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks import ways
from tests.benchmarks.models import convolutional, dense
from tests.benchmarks.ways import print_row, ratio, seconds

# (name, model, steps of a trial)
MODELS = [
    ("dense, 1,000 steps a trial", dense, 1000),
    ("dense, 200 steps a trial", dense, 200),
    ("two convolutions, 200 steps a trial", convolutional, 200),
]
RATES, ROUNDS = [0.003, 0.01, 0.03], 21
COLUMNS, WIDTHS = ["plain, steps/s", "fan, steps/s", "fan ÷ plain"], [16, 14, 16]


def main():
    print_row("A fan of three values", COLUMNS, WIDTHS)
    with tempfile.TemporaryDirectory() as folder:
        for i, row in enumerate(MODELS):
            measure(*row, Path(folder) / str(i))


def measure(name, make, steps, folder):
    panda, _ = ways.with_panda(make(), 32, 25, folder)
    plain, fanned = [], []
    for _ in range(ROUNDS):
        plain.append(len(RATES) * steps / seconds(lambda: panda.run(len(RATES) * steps)))
        began = time.perf_counter()
        fan = panda.fan(learning_rate=RATES, steps=steps)
        fanned.append(sum(trial.steps for trial in fan.trials) / (time.perf_counter() - began))
    share = statistics.median(fan / one for fan, one in zip(fanned, plain, strict=True))
    cells = f"{statistics.median(plain):,.0f}", f"{statistics.median(fanned):,.0f}", ratio(share, 0.8)
    print_row(name, cells, WIDTHS)
    panda.stop()
    panda.wait()
