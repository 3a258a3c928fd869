"""How much memory a panda takes: above `Model.fit`'s for one big array, and as the run grows long."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import babysit
from tests.benchmarks.models import X, Y, dense
from tests.benchmarks.ways import print_row

DATA_MB = 200


def main():
    """The most memory resident at once, each in a process of its own."""
    peak = {way: float(of_process(way)) for way in ("nothing", "fit", "panda")}
    above, allowed = peak["panda"] - peak["fit"], DATA_MB + 100
    verdict = f"{above:.0f} ({'≤' if above <= allowed else 'above'} {allowed})"
    print_row(
        f"Memory, {DATA_MB} MB of data", ["no training MB", "fit MB", "panda MB", "panda − fit"], [16, 10, 10, 20]
    )
    print_row("one epoch", [*(f"{value:.0f}" for value in peak.values()), verdict], [16, 10, 10, 20])


def of_process(way):
    return subprocess.check_output([sys.executable, "-m", "tests.benchmarks", "memory-of", way], text=True).split()[-1]


def measure(way):
    """Trains an epoch on a big array in one way and prints the peak, in MB: for a process of its own."""
    x = np.random.default_rng(0).standard_normal((DATA_MB * 250, 1000), dtype="float32")
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    if way == "fit":
        model.fit(x, x[:, :1], batch_size=512, verbose=0)
    elif way == "panda":
        with tempfile.TemporaryDirectory() as folder:
            babysit.Panda(model, Path(folder) / "run").fit(x, x[:, :1], batch_size=512).wait()
    print(of_status("VmHWM"))


def flat(minutes=1.0):
    """Trains the dense net for so long; prints the memory resident early on and at the end."""
    with tempfile.TemporaryDirectory() as folder:
        panda = babysit.Panda(dense(), Path(folder) / "run").fit(X, Y, epochs=10**9)
        early_s, end_s = min(60, minutes * 30), minutes * 60
        time.sleep(early_s)
        early = panda.step, resident_mb()
        time.sleep(end_s - early_s)
        print_row("Memory of a long run", ["s", "steps", "MB"], [8, 12, 8])
        for second, (step, size) in ((early_s, early), (end_s, (panda.step, resident_mb()))):
            print_row("dense", [f"{second:.0f}", f"{step:,}", f"{size:.0f}"], [8, 12, 8])
        panda.stop()
        panda.wait()


def resident_mb():
    return of_status("VmRSS")


def of_status(name, process="self"):
    """What Linux says of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024
