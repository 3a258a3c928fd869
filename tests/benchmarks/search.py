"""Runs an hour of a search, beside Ray Tune with plain Keras on the same work and the same two processors.

Then a hundred small runs, and what their board takes of a core while a page shows it.
"""

import tempfile
import time
import warnings
from pathlib import Path

import babysit
from babysit import Scale
from babysit.ui.board import Board
from tests.benchmarks.ways import print_row, ratio, seconds

RUNS, EPOCHS, LOW, HIGH = 12, 20, 1e-3, 1e-1
MANY, FEW_EPOCHS, SHARE = 100, 3, 0.05
WIDTHS = [16, 14, 20]


def build(hyperparameters):
    import keras

    from babysit import demos

    (x, y), test = demos.digits()
    model = demos.dense_network(seed=0)
    model.compile(keras.optimizers.SGD(hyperparameters["learning_rate"], 0.9), "sparse_categorical_crossentropy")
    return model, {"x": x, "y": y, "validation_data": test, "batch_size": 32}


def main():
    try:
        import ray
        from ray import tune
    except ImportError:
        print("Ray Tune is not installed: pip install 'ray[tune]'")
        return
    warnings.simplefilter("ignore")
    print_row(f"A search of {RUNS} runs of {EPOCHS} epochs", ["runs an hour", "Ray Tune", "caviar ÷ Ray Tune"], WIDTHS)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        ours = seconds(lambda: search(Path(folder) / "search", RUNS, EPOCHS).wait())
        theirs = seconds(lambda: tuned(tune, folder))
        cells = f"{3600 * RUNS / ours:,.0f}", f"{3600 * RUNS / theirs:,.0f}", ratio(theirs / ours, 1.0)
        print_row("dense 64-128-10, batch norm", cells, WIDTHS)
        print_row(f"{MANY} runs of {FEW_EPOCHS} epochs", ["runs an hour", "", "board, of a core"], WIDTHS)
        took, share = watched(search(Path(folder) / "many", MANY, FEW_EPOCHS))
        print_row("the same", [f"{3600 * MANY / took:,.0f}", "", ratio(share, SHARE, at_most=True)], WIDTHS)
    ray.shutdown()


def search(folder, runs, epochs):
    space = {"learning_rate": Scale(LOW, HIGH, "log")}
    return babysit.Caviar(build, space, trials=runs, epochs=epochs, directory=folder)


def watched(found):
    """Seconds until all runs are over, and the share of a core that the board takes, its messages confirmed."""
    board, began = Board(found), time.perf_counter()
    clock = time.pthread_getcpuclockid(board._pump.ident)
    report = board._chart._on_report
    board._chart._page.observe(lambda _: report(None, {"drawn": True}, None), "frame")
    report(None, {"visible": True, "width": 640, "ratio": 1.0}, None)
    found.wait()
    took, cost = time.perf_counter() - began, time.clock_gettime(clock)
    board.close()
    assert [row["state"] for row in found.rows()] == ["finished"] * MANY
    return took, cost / took


def tuned(tune, folder):
    def train(hyperparameters):
        import keras

        class Report(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                tune.report(logs)

        model, arguments = build(hyperparameters)
        model.fit(**arguments, epochs=EPOCHS, verbose=0, callbacks=[Report()])

    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"learning_rate": tune.loguniform(LOW, HIGH)},
        tune_config=tune.TuneConfig(num_samples=RUNS),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    assert len(tuner.fit()) == RUNS
