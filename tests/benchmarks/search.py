"""Runs an hour of a search, beside Ray Tune with plain Keras on the same work and the same two processors."""

import tempfile
import warnings
from pathlib import Path

import babysit
from babysit import Scale
from tests.benchmarks.ways import print_row, ratio, seconds

RUNS, EPOCHS, LOW, HIGH = 12, 20, 1e-3, 1e-1
COLUMNS, WIDTHS = ["runs an hour", "Ray Tune", "caviar ÷ Ray Tune"], [16, 14, 20]


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
    print_row(f"A search of {RUNS} runs of {EPOCHS} epochs", COLUMNS, WIDTHS)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        ours = seconds(lambda: search(Path(folder) / "search"))
        theirs = seconds(lambda: tuned(tune, folder))
    ray.shutdown()
    cells = f"{3600 * RUNS / ours:,.0f}", f"{3600 * RUNS / theirs:,.0f}", ratio(theirs / ours, 1.0)
    print_row("dense 64-128-10, batch norm", cells, WIDTHS)


def search(folder):
    space = {"learning_rate": Scale(LOW, HIGH, "log")}
    found = babysit.Caviar(build, space, trials=RUNS, epochs=EPOCHS, directory=folder).wait()
    assert all(row["state"] == "finished" for row in found.rows())


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
