"""The exported program against its run: the same weights, bit for bit, as it says itself."""

import runpy

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos

(X, Y), _ = demos.digits()
X, Y = X[:120], Y[:120]
ONE_HOT = np.eye(10, dtype="float32")[Y]
WICKED = 'flat?"""\n\'\'\' \\ {0} {name} %s $x\n# import os; os.abort()\r"); raise SystemExit(3)\u2028\x0c'


def network(optimizer="sgd"):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Flatten(), keras.layers.Dropout(0.25), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def start(model, folder, **how):
    how = {"x": X, "y": Y, "batch_size": 12, "epochs": 3, "paused": True, **how}
    return babysit.Panda(model, folder, seed=5).fit(**how)


def finish(panda):
    panda.resume()
    return panda.wait()


def what_was_steered_and_rewound_with_batches_left_out(folder):
    panda = start(network(keras.optimizers.SGD(0.01, momentum=0.9)), folder)
    panda.run(3)
    panda.set(learning_rate=0.004, why=WICKED)
    panda.run(6)
    panda.set(batch_size=50, momentum=0.5, why=WICKED)
    panda.run(2)
    panda.rewind(3, hyperparameters="keep", skip=1)
    panda.set(momentum=0.2, **{"dropout.rate": 0.6})
    panda.run(3)
    panda.set(momentum=0.95, batch_size=12, **{"dropout.rate": 0.0})
    return finish(panda)


def a_schedule_taken_over_and_given_back_in_epochs_of_so_many_steps(folder):
    rate = keras.optimizers.schedules.CosineDecay(0.05, 40)
    panda = start(network(keras.optimizers.SGD(rate, momentum=0.9)), folder, epochs=4, steps_per_epoch=5)
    panda.run(5)
    panda.set(learning_rate=0.02)
    panda.run(5)
    panda.set(learning_rate=0.002, over=4)
    panda.run(6)
    panda.set(learning_rate="schedule")
    return finish(panda)


def weights_of_two_bytes_up_to_the_middle_of_an_epoch(folder):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = demos.dense_network(keras.optimizers.RMSprop(0.001, centered=True), seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    panda = start(model, folder, shuffle=False)
    panda.run(7)
    panda.set(rho=0.8)
    panda.run(6)
    return panda


class Restless(keras.callbacks.Callback):
    """Puts other weights in place when the first epoch ends."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.set_weights([0.5 * weight for weight in self.model.get_weights()])


def weights_put_in_place_while_gradients_accumulate(folder):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=4)
    panda = start(network(optimizer), folder, callbacks=[Restless()])
    panda.run(13)
    panda.model.layers[-1].bias.assign(np.ones(10))
    panda.set(learning_rate=0.02, batch_size=10)
    finish(panda)
    panda.model.layers[-1].bias.assign(np.zeros(10))
    return panda


def the_best_weights_over_moving_averages_trained_on(folder):
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    early = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9, restore_best_weights=True)
    panda = finish(start(network(optimizer), folder, callbacks=[early]))
    return panda.fit(X, Y, batch_size=24, epochs=1).wait()


def penalties_and_smoothing(folder):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1), name=WICKED.replace("/", ""))
    flat = keras.layers.Flatten()(inputs)
    hidden = keras.layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(0.01))(flat)
    hidden = keras.layers.Dropout(0.2, name="drop-out.1")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(10, "softmax")(hidden), name="wicked-network")
    model.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    panda = start(model, folder, y=ONE_HOT)
    panda.run(4)
    panda.set(**{"label_smoothing": 0.3, "dense.kernel_l2": 0.1, "drop-out.1.rate": 0.5})
    return finish(panda)


def layers_that_rest(folder):
    model = demos.dense_network(seed=1)
    model.layers[1].trainable = False
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    panda = start(model, folder)
    panda.run(5)
    model.layers[1].trainable = True
    panda.run(8)
    model.layers[-1].trainable = False
    finish(panda)
    model.layers[-1].trainable = True
    return panda.fit(X, Y, batch_size=24, epochs=1).wait()


def a_stream(folder):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(12)
    panda = start(demos.dense_network(seed=1), folder, x=batches, y=None, batch_size=None)
    panda.run(4)
    panda.set(batch_size=50)
    return finish(panda)


class Own(keras.Model):
    """A model of somebody's own."""

    def __init__(self):
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(10, "softmax")
        self.dropout = keras.layers.Dropout(0.2, seed=3)

    def call(self, inputs, training=False):
        return self.dense(self.dropout(self.flat(inputs), training=training))


def own_model():
    model = Own()
    model(X[:1])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.003), 2.0**10, dynamic_growth_steps=5)
    model.compile(scaled, "sparse_categorical_crossentropy")
    return model


def a_model_of_ones_own_with_scaled_losses(folder):
    panda = start(own_model(), folder)
    panda.run(4)
    panda.set(learning_rate=0.01, **{"dropout.rate": 0.4})
    return finish(panda)


RUNS = [
    what_was_steered_and_rewound_with_batches_left_out,
    a_schedule_taken_over_and_given_back_in_epochs_of_so_many_steps,
    weights_of_two_bytes_up_to_the_middle_of_an_epoch,
    weights_put_in_place_while_gradients_accumulate,
    the_best_weights_over_moving_averages_trained_on,
    penalties_and_smoothing,
    layers_that_rest,
    a_stream,
    a_model_of_ones_own_with_scaled_losses,
]

# What a reader fills in.
LOADED = """    arrays = np.load(Path(__file__).with_name("data.npz"))
    return arrays["x"], arrays["y"]
"""
OWN = """        from tests.export.test_script import own_model
        return own_model()
"""


def exported(panda, path, y=Y):
    """Exports the run and fills in the places that the program leaves; returns its text."""
    np.savez(path.with_name("data.npz"), x=X, y=y)
    panda.export_script(path)
    panda.stop()
    source = path.read_text().replace('    raise NotImplementedError("Fill in `load_data`.")\n', LOADED)
    path.write_text(source.replace('        raise NotImplementedError("Fill in `build_model`.")\n', OWN))
    return path.read_text()


def status_of(path):
    """The exit status of the program, run as by hand."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("run", RUNS)
def test_the_program_comes_to_the_weights_of_the_run(run, tmp_path, capsys):
    panda, path = run(tmp_path / "run"), tmp_path / "again.py"
    exported(panda, path, ONE_HOT if run is penalties_and_smoothing else Y)
    assert status_of(path) == 0
    assert "The weights are the same, bit for bit." in capsys.readouterr().out


def test_it_says_so_where_it_comes_to_others(tmp_path, capsys):
    panda, path = start(demos.dense_network(seed=1), tmp_path / "run"), tmp_path / "again.py"
    panda.run(2)
    path.write_text(exported(panda, path).replace("'learning_rate': 0.01,", "'learning_rate': 0.011,"))
    assert status_of(path) == 1
    assert "The weights differ" in capsys.readouterr().out
