"""How fast a panda trains beside `Model.fit`, a bare loop and livelossplot, and with its dashboard open."""

import math
import statistics
import tempfile
from pathlib import Path

import tensorflow as tf

from babysit.ui.dashboard import Dashboard
from tests.benchmarks import ways
from tests.benchmarks.models import X, Y, convolutional, dense, dense_xla, slow, slow_and_small
from tests.benchmarks.ways import compare, print_row, ratio, times

# (name, model, batch size, epochs a round, wanted × fit, wanted × bare)
MODELS = [
    ("dense 64-128-10, batch norm, momentum", dense, 32, 25, 7, 0.85),
    ("the same, jit_compile=True", dense_xla, 32, 25, 20, None),
    ("two convolutions, dropout", convolutional, 32, 8, 1.5, 0.9),
    ("a step of 50 ms or more, 68 MB of state", slow, 256, 3, 1.0, 0.97),
    ("a step of 50 ms or more, 1.4 MB of state", slow_and_small, 256, 3, 1.0, 0.97),
]
EXECUTIONS = (10, 56, 200)
WATCHED_S, WATCHED_ROUNDS = 0.5, 30
COLUMNS = ["ms a step", "× fit", "× best fit", "× bare", "without metric", "× livelossplot", "open ÷ closed"]
WIDTHS = [10, 18, 18, 18, 16, 15, 18]


def main():
    print_row("Speed, side by side", COLUMNS, WIDTHS)
    with tempfile.TemporaryDirectory() as folder:
        for i, row in enumerate(MODELS):
            measure(*row, Path(folder) / str(i))
        measure_stream(Path(folder) / "stream")
    print("best fit: the fastest steps_per_execution of " + ", ".join(map(str, EXECUTIONS)))
    if ways.with_livelossplot(dense(), 1024, 1) is None:
        print("livelossplot is not installed: pip install 'babysit[bench]'")


def measure(name, make, batch_size, epochs, times_fit, times_bare, folder):
    panda, train = ways.with_panda(make(), batch_size, epochs, folder)
    rivals = {"panda": train, "fit": ways.with_fit(make(), batch_size, epochs)}
    best, rivals["best fit"] = best_fit(make, batch_size, epochs)
    if times_bare:
        rivals["bare"] = ways.with_bare_loop(make(), batch_size, epochs)
        rivals["without metric"] = ways.with_bare_loop(make(), batch_size, epochs, metric=False)
    if plotted := ways.with_livelossplot(make(), batch_size, epochs):
        rivals["livelossplot"] = plotted
    taken = compare(rivals)
    slower = {rival: times(seconds, taken["panda"]) for rival, seconds in taken.items()}
    cells = [
        step_ms(taken["panda"], epochs, batch_size),
        ratio(slower["fit"], times_fit),
        f"{slower['best fit']:.2f} (at {best})",
        ratio(slower["bare"], times_bare) if times_bare else "–",
        ratio(slower["without metric"]) if times_bare else "–",
        ratio(slower["livelossplot"]) if plotted else "–",
        ratio(watched(panda, train), 0.95),
    ]
    print_row(name, cells, WIDTHS)
    panda.stop()
    panda.wait()


def best_fit(make, batch_size, epochs):
    """The fastest steps_per_execution, and training with it."""
    trains = {n: ways.with_executions(make(), batch_size, epochs, n) for n in EXECUTIONS}
    taken = compare(trains, rounds=1)
    best = min(taken, key=taken.get)
    return best, trains[best]


def step_ms(taken, epochs, batch_size):
    """The median round's."""
    return f"{statistics.median(taken) / (epochs * -(-len(X) // batch_size)) * 1000:.3f}"


def watched(panda, train):
    """How fast it trains with the dashboard in sight, as a share of the speed with it hidden.

    The mean of many short rounds: hidden, in sight twice, hidden, as no machine is as fast for long.
    """
    repeats, dashboard, shares = math.ceil(WATCHED_S / ways.seconds(train)), Dashboard(panda), []
    for _ in range(WATCHED_ROUNDS):
        took = {False: 0.0, None: 0.0}
        for visible in (False, None, None, False):  # None as where no page has a script, and an image serves
            dashboard._page._on_report(None, {"visible": visible}, [])
            took[visible] += ways.seconds(lambda: [train() for _ in range(repeats)])
        shares.append(took[False] / took[None])
    dashboard.close()
    return statistics.mean(shares)


def measure_stream(folder):
    """A `tf.data` stream against `Model.fit` on it with the same steps an execution."""
    name, epochs, steps = "a tf.data stream of the digits, dense", 8, 56
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32).prefetch(2)
    try:
        panda, train = ways.with_panda(dense(), 32, epochs, folder, data=(dataset,))
    except (TypeError, ValueError) as error:
        print(f"{name:40}– ({str(error).split('. ')[0]})")
        return
    model = dense()
    model.steps_per_execution = steps
    model.fit(dataset, verbose=0)
    taken = compare({"panda": train, "fit": lambda: model.fit(dataset, epochs=epochs, verbose=0)})
    slower = ratio(times(taken["fit"], taken["panda"]), 1.0)
    print_row(name, [step_ms(taken["panda"], epochs, 32), "", f"{slower} at {steps}", "", "", "", ""], WIDTHS)
    panda.stop()
    panda.wait()
