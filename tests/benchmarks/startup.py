"""How long from `fit` to the end of the first step, beside `Model.fit`: a fresh model each, in turns."""

import statistics
import tempfile
import time
from pathlib import Path

import keras

import babysit
from tests.benchmarks.models import X, Y, convolutional, dense, dense_xla, slow
from tests.benchmarks.ways import print_row, ratio

MODELS = {"dense": dense, "dense, jit_compile=True": dense_xla, "convolutions": convolutional, "slow": slow}
ROUNDS = 3
WIDTHS = [10, 10, 18]


def main():
    print_row("Startup, to the first step's end", ["fit s", "panda s", "panda ÷ fit"], WIDTHS)
    for name, make in MODELS.items():
        rounds = [(of_fit(make()), of_panda(make())) for _ in range(ROUNDS)]
        fit, panda = map(statistics.median, zip(*rounds, strict=True))
        print_row(name, [f"{fit:.2f}", f"{panda:.2f}", ratio(panda / fit, 1.2, at_most=True)], WIDTHS)


def of_fit(model):
    began, ends = time.perf_counter(), []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    model.fit(X, Y, verbose=0, callbacks=[note])
    return ends[0] - began


def of_panda(model):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        panda = babysit.Panda(model, Path(folder) / "run").fit(X, Y, epochs=2, paused=True)
        panda.run(1)
        taken = time.perf_counter() - began
        panda.stop()
        panda.wait()
    return taken
