"""The exported program against its run: the same weights, bit for bit."""

import runpy

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos

(X, Y), _ = demos.digits()
X, Y = X[:240], Y[:240]
ONE_HOT = np.eye(10, dtype="float32")[Y]
WICKED = 'flat?"""\n\'\'\' \\ {0} {name} %s $x\n# import os; os.abort()\r"); raise SystemExit(3)\u2028\x0c'


def start(model, folder, seed=5, **how):
    how = {"x": X, "y": Y, "batch_size": 24, "epochs": 3, "paused": True, **how}
    return babysit.Panda(model, folder, seed=seed).fit(**how)


def finish(panda):
    panda.resume()
    return panda.wait()


def sgd_with_momentum(folder):
    panda = start(demos.convolutional_network(seed=1), folder)
    panda.run(3)
    panda.set(learning_rate=0.004, why=WICKED)
    panda.run(3)
    panda.set(batch_size=50, momentum=0.5, why=WICKED)
    panda.run(4)
    panda.set(momentum=0.2, **{"dropout.rate": 0.6})
    panda.run(3)
    panda.set(momentum=0.95, batch_size=24, **{"dropout.rate": 0.0})
    return finish(panda)


def sgd_without_momentum_nor_shuffling(folder):
    panda = start(demos.dense_network(keras.optimizers.SGD(0.05), seed=1), folder, shuffle=False)
    panda.run(4)
    panda.set(learning_rate=0.02, batch_size=7)
    return finish(panda)


def rmsprop_up_to_the_middle_of_an_epoch(folder):
    panda = start(demos.dense_network(keras.optimizers.RMSprop(0.001, centered=True), seed=1), folder, shuffle="batch")
    panda.run(7)
    panda.set(rho=0.8)
    panda.run(2)
    return panda


def a_schedule_taken_over_and_given_back(folder):
    rate = keras.optimizers.schedules.CosineDecay(0.05, 40)
    panda = start(demos.dense_network(keras.optimizers.SGD(rate, momentum=0.9), seed=1), folder)
    panda.run(5)
    panda.set(learning_rate=0.02)
    panda.run(5)
    panda.set(learning_rate=0.002, over=4)
    panda.run(6)
    panda.set(learning_rate="schedule")
    return finish(panda)


def any_step_with_batches_left_out(folder):
    panda = start(demos.convolutional_network(seed=1), folder)
    panda.run(4)
    panda.set(momentum=0.3)
    panda.run(9)
    panda.set(learning_rate=0.05, batch_size=32)
    panda.run(3)
    panda.rewind(6, hyperparameters="keep", skip=2)
    panda.run(3)
    panda.set(learning_rate=0.01)
    panda.run(2)
    panda.rewind(8)
    return finish(panda)


class Restless(keras.callbacks.Callback):
    """Puts other weights in place when the first epoch ends."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.set_weights([0.5 * weight for weight in self.model.get_weights()])


def weights_put_in_place(folder):
    panda = start(demos.dense_network(seed=1), folder, callbacks=[Restless()])
    panda.set(momentum=0.5)
    panda.run(13)
    panda.model.layers[-1].bias.assign(np.ones(10))
    panda.set(learning_rate=0.02, momentum=0.9, batch_size=50)
    return finish(panda)


def stopping_early():
    """Ends the training after the second epoch, with the weights of the first."""
    return keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9, restore_best_weights=True)


def the_best_weights_over_moving_averages(folder):
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    return finish(start(demos.dense_network(optimizer, seed=1), folder, callbacks=[stopping_early()]))


def the_best_weights_trained_on(folder):
    panda = the_best_weights_over_moving_averages(folder)
    return panda.fit(X, Y, batch_size=24, epochs=1).wait()


class AtTheEnd(Restless):
    """Puts other weights in place when the last epoch ends, before moving averages take their place."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch - 2)


def moving_averages_over_weights_put_in_place(folder):
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    return finish(start(demos.dense_network(optimizer, seed=1), folder, callbacks=[AtTheEnd()]))


def weights_put_in_place_after_the_end(folder):
    panda = finish(start(demos.dense_network(seed=1), folder, epochs=1))
    panda.model.layers[-1].bias.assign(np.ones(10))
    return panda


def layers_that_rest(folder):
    model = demos.dense_network(keras.optimizers.Adam(0.003), seed=1)
    model.layers[1].trainable = False
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    panda = start(model, folder)
    panda.run(5)
    model.layers[1].trainable = True
    panda.run(8)
    model.layers[-1].trainable = False
    return finish(panda)


def epochs_of_so_many_steps(folder):
    panda = finish(start(demos.dense_network(seed=1), folder, steps_per_epoch=5))
    return panda.fit(X, Y, batch_size=30, epochs=2, steps_per_epoch=4).wait()


class Enough(keras.callbacks.Callback):
    """Ends the training in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 3


def an_epoch_cut_short(folder):
    panda = finish(start(demos.dense_network(seed=1), folder, callbacks=[Enough()]))
    return panda.fit(X, Y, batch_size=40, epochs=1).wait()


def accumulated_gradients(folder):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=4)
    panda = start(demos.dense_network(optimizer, seed=1), folder)
    panda.run(6)
    panda.set(batch_size=10, learning_rate=0.02)
    return finish(panda)


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
    model.compile(keras.optimizers.SGD(0.05, momentum=0.5), "sparse_categorical_crossentropy")
    return model


def a_model_of_ones_own(folder):
    panda = start(own_model(), folder)
    panda.run(4)
    panda.set(momentum=0.9, **{"dropout.rate": 0.4})
    return finish(panda)


class Autoencoder(keras.Model):
    """A model without a `call`."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
        self.decoder = keras.Sequential([keras.layers.Dense(64), keras.layers.Reshape((8, 8, 1))])
        self.noise = keras.random.SeedGenerator(3)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            code = self.encoder(data)
            code += 0.1 * keras.random.normal(keras.ops.shape(code), seed=self.noise)
            loss = keras.ops.mean((self.decoder(code) - data) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def autoencoder():
    model = Autoencoder()
    model.compile(keras.optimizers.Adam(0.01))
    return model


def a_model_without_a_call(folder):
    panda = start(autoencoder(), folder, y=None)
    panda.run(4)
    panda.set(learning_rate=0.003, batch_size=50)
    return finish(panda)


class Paired(keras.Model):
    """A model whose step calls it with what its examples alone are not."""

    def __init__(self):
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

    def call(self, inputs):
        images, labels = inputs
        return self.dense(self.flat(images)) - keras.ops.one_hot(labels, 10)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self(data) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def paired():
    model = Paired()
    model.compile(keras.optimizers.SGD(0.05))
    return model


def a_step_that_calls_the_model_in_its_own_way(folder):
    return finish(start(paired(), folder))


WORDS = np.array([f"{'even' if y % 2 == 0 else 'odd'} {'small' if y < 5 else 'large'} it's {y}" for y in Y])


def adapted_model():
    keras.utils.set_random_seed(1)
    vectorization = keras.layers.TextVectorization(output_sequence_length=4)
    vectorization.adapt(WORDS)
    layers = [keras.layers.Embedding(20, 4), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((), dtype="string"), vectorization, *layers])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def words_that_were_adapted_to(folder):
    return finish(start(adapted_model(), folder, x=WORDS.astype(object)))


def scaled_model():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.003), 2.0**10, dynamic_growth_steps=5)
    return demos.dense_network(scaled, seed=1)


def scaled_losses(folder):
    panda = start(scaled_model(), folder, epochs=1)
    panda.run(4)
    panda.set(learning_rate=0.01, batch_size=30)
    return finish(panda)


def a_stream(folder):
    panda = start(
        demos.dense_network(seed=1),
        folder,
        x=tf.data.Dataset.from_tensor_slices((X, Y)).batch(24),
        y=None,
        batch_size=None,
    )
    panda.run(4)
    panda.set(batch_size=50)
    return finish(panda)


class Noisy(keras.layers.Layer):
    """Draws from its generator whenever it is called, in validation too."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, inputs):
        return inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)


def noisy_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), Noisy(), keras.layers.Dense(10, "softmax")]
    )
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    return model


def seeds_drawn_on_by_validation(folder):
    return finish(start(noisy_model(), folder, validation_data=(X[:50], Y[:50])))


def a_batch_size_that_rises_with_another_order(folder):
    panda = start(demos.dense_network(seed=1), folder, epochs=2)
    panda.set(batch_size=60, over=5)
    finish(panda)
    return panda.fit(X, Y, batch_size=24, epochs=1, shuffle="batch").wait()


def an_edit_after_the_checkpoint_that_was_returned_to(folder):
    panda = start(demos.dense_network(seed=1), folder)
    panda.run(4)
    panda.save("here")
    panda.model.layers[-1].bias.assign(np.ones(10))
    panda.run(3)
    panda.rewind("here")
    return finish(panda)


def weights_of_two_bytes(folder):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = demos.dense_network(seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    panda = start(model, folder)
    panda.run(4)
    panda.set(learning_rate=0.03)
    return finish(panda)


RUNS = [
    seeds_drawn_on_by_validation,
    a_batch_size_that_rises_with_another_order,
    weights_of_two_bytes,
    an_edit_after_the_checkpoint_that_was_returned_to,
    sgd_with_momentum,
    sgd_without_momentum_nor_shuffling,
    rmsprop_up_to_the_middle_of_an_epoch,
    a_schedule_taken_over_and_given_back,
    any_step_with_batches_left_out,
    weights_put_in_place,
    weights_put_in_place_after_the_end,
    the_best_weights_trained_on,
    moving_averages_over_weights_put_in_place,
    layers_that_rest,
    epochs_of_so_many_steps,
    an_epoch_cut_short,
    accumulated_gradients,
    penalties_and_smoothing,
    a_model_of_ones_own,
    a_model_without_a_call,
    a_step_that_calls_the_model_in_its_own_way,
    words_that_were_adapted_to,
    scaled_losses,
    a_stream,
]

# What a reader fills in.
LOADED = """    arrays = np.load(Path(__file__).with_name("data.npz"))
    return {data}
"""
# What is returned where it is not the images and their labels, and what builds a model that is the reader's own.
DATA = {
    penalties_and_smoothing: 'arrays["x"], arrays["one_hot"]',
    a_model_without_a_call: 'arrays["x"],',
    words_that_were_adapted_to: 'arrays["words"].astype(object), arrays["y"]',
}
MODELS = {
    seeds_drawn_on_by_validation: "noisy_model",
    scaled_losses: "scaled_model",
    words_that_were_adapted_to: "adapted_model",
    a_model_without_a_call: "autoencoder",
    a_step_that_calls_the_model_in_its_own_way: "paired",
}
OWN = """        from tests.export.test_script import {model}
        return {model}()
"""


def fill(path, data='arrays["x"], arrays["y"]', model="own_model"):
    """Fills in the places that the program leaves."""
    source = path.read_text()
    source = source.replace('    raise NotImplementedError("Fill in `load_data`.")\n', LOADED.format(data=data))
    own = OWN.format(model=model)
    path.write_text(source.replace('        raise NotImplementedError("Fill in `build_model`.")\n', own))


@pytest.mark.parametrize("run", RUNS)
def test_the_program_comes_to_the_weights_of_the_run(run, tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y, one_hot=ONE_HOT, words=WORDS)
    panda = run(tmp_path / "run")
    path = tmp_path / "again.py"
    panda.export_script(path)
    expected = [variable.numpy() for variable in panda.model.variables]
    panda.stop()
    fill(path, DATA.get(run, 'arrays["x"], arrays["y"]'), MODELS.get(run, "own_model"))
    found = runpy.run_path(str(path))["train"]().variables
    assert len(expected) == len(found)
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
