"""How fast a panda trains beside `Model.fit`, a bare loop and livelossplot, and with its dashboard open."""

import statistics
import tempfile
from pathlib import Path

import tensorflow as tf

from babysit.ui.dashboard import Dashboard
from tests.benchmarks import ways
from tests.benchmarks.models import X, Y, convolutional, dense, dense_xla, slow
from tests.benchmarks.ways import compare, print_row, ratio

# (name, model, batch size, epochs a round, wanted × fit, wanted × bare)
MODELS = [
    ("dense 64-128-10, batch norm, momentum", dense, 32, 25, 7, 0.85),
    ("the same, jit_compile=True", dense_xla, 32, 25, 20, None),
    ("two convolutions, dropout", convolutional, 32, 8, 1.5, 0.9),
    ("a step of 50 ms or more", slow, 256, 1, 1.0, 0.97),
]
EXECUTIONS = (10, 56, 200)
COLUMNS = ["ms a step", "× fit", "× best fit", "× bare", "without metric", "× livelossplot", "open ÷ closed"]
WIDTHS = [10, 16, 18, 18, 16, 15, 18]


def main():
    print_row("Speed, least of each side by side", COLUMNS, WIDTHS)
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
    least = {rival: times[0] for rival, times in compare(rivals).items()}
    times = {rival: taken / least["panda"] for rival, taken in least.items()}
    cells = [
        f"{least['panda'] / (epochs * -(-len(X) // batch_size)) * 1000:.3f}",
        ratio(times["fit"], times_fit),
        f"{times['best fit']:.2f} (at {best})",
        ratio(times["bare"], times_bare) if times_bare else "–",
        ratio(times["without metric"]) if times_bare else "–",
        ratio(times["livelossplot"]) if plotted else "–",
        ratio(watched(panda, train), 0.95),
    ]
    print_row(name, cells, WIDTHS)
    panda.stop()
    panda.wait()


def best_fit(make, batch_size, epochs):
    """The fastest steps_per_execution, and training with it."""
    trains = {n: ways.with_executions(make(), batch_size, epochs, n) for n in EXECUTIONS}
    times = compare(trains, rounds=1)
    best = min(times, key=lambda n: times[n][0])
    return best, trains[best]


def watched(panda, train):
    """How fast it trains with the dashboard open, as a share of the speed with it closed."""
    taken = {"closed": [], "open": []}
    for _ in range(ways.ROUNDS):
        taken["closed"].append(ways.seconds(train))
        dashboard = Dashboard(panda)
        taken["open"].append(ways.seconds(train))
        dashboard.close()
    return statistics.median(taken["closed"]) / statistics.median(taken["open"])


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
    least = compare({"panda": train, "fit": lambda: model.fit(dataset, epochs=epochs, verbose=0)})
    times = least["fit"][0] / least["panda"][0]
    step = least["panda"][0] / (epochs * -(-len(X) // 32)) * 1000
    print_row(name, [f"{step:.3f}", "", f"{times:.2f} (at {steps})", "", "", "", ""], WIDTHS)
    panda.stop()
    panda.wait()
