"""The text of the program that a run is exported as; `script` fills its places in."""

from string import Template

PROGRAM = Template("""\
# A training run once more, in plain Keras: with every change of its hyperparameters, its batch sizes and
# the order of its examples. It says at the end whether it came to the same weights, bit for bit: it does
# where ENVIRONMENT is the same; elsewhere sums may be rounded otherwise.

import hashlib
import math
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

ENVIRONMENT = $environment
# The file beside this one with the weights and optimizer variables to begin with.
STATES = $states
# sha256 of the weights at the end.
WEIGHTS = $weights
# With the number of the pass it determines the order of the examples.
SEED = $seed
EXAMPLES = $examples
# State -> which layers are trained, and the model's variables that the optimizer knows, by position.
LAYOUTS = $layouts
# Pass over the data, first example of it, steps, examples a step, what changes before the first step, and why.
SEGMENTS = [
$segments]
inf, nan = math.inf, math.nan
# The compiled model as Keras writes it, or None where it has parts that Keras cannot write down.
MODEL = $model


def build_model():
    if MODEL is None:
        # Return the model here, built and compiled as it was.
        raise NotImplementedError("Fill in `build_model`.")
    return keras.saving.deserialize_keras_object(MODEL)


def load_data():
    # Return a tuple: (x, y) or (x, y, sample_weight), or (x,) where there is no y; arrays, as `fit` was given them:
    # without a part set aside for validation, and with class weights as weights of the examples. Where `fit` was given
    # batches, return their examples in the order in which they came: each pass is taken to be the same.
    raise NotImplementedError("Fill in `load_data`.")


def set_hyperparameters(model, optimizer, changes):
    layers = list(model._flatten_layers())
$assignments

def order_of(data_pass, size, shuffle):
    # The order of the examples in a pass over them, the first one being number 0.
    rng = np.random.Generator(np.random.PCG64([SEED, data_pass]))
    return rng.permutation(size) if shuffle else np.arange(size)


def prepared(array):
    # As `Model.fit` hands arrays on: floats in Keras's own type.
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def restore(model, state):
    trainable, built_for = LAYOUTS[state]
    for layer, flag in zip(model._flatten_layers(), trainable, strict=True):
        layer.trainable = flag
    model.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())  # one that is not built
    model.optimizer.build([model.variables[i] for i in built_for])
    model.optimizer.finalize_variable_values = lambda variables: None  # no moving averages after every segment
    arrays = np.load(Path(__file__).with_name(STATES))
    for i, variable in enumerate([*model.variables, *model.optimizer.variables]):
        # NumPy's files know no bfloat16: its bits lie in them, without a type.
        variable.assign(arrays[f"{state}.{i}"].view(tf.as_dtype(variable.dtype).as_numpy_dtype))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which makes constants of its variables


def train():
    data = keras.tree.map_structure(prepared, keras.tree.lists_to_tuples(load_data()))
    size = len(keras.tree.flatten(data)[0])
    if EXAMPLES not in (None, size):
        raise ValueError(f"`load_data` must give {EXAMPLES} examples. Received: {size}.")
    if len(data) == 1 and not isinstance(data[0], tuple):
        (data,) = data
    model = build_model()
    restore(model, "start")
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    rate, shuffle, static = optimizer._learning_rate, False, None
    follows = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    for data_pass, first, steps, batch_size, changes, _ in SEGMENTS:
        if "state" in changes:
            restore(model, changes["state"])  # weights that were put in place, or layers frozen or thawed
            optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        shuffle, static = changes.get("shuffle", shuffle), changes.get("static", static)
        if follows and "learning_rate" in changes:  # a number over a schedule is a schedule too
            number, constant = changes["learning_rate"], keras.optimizers.schedules.PiecewiseConstantDecay
            changes = changes | {"learning_rate": rate if number == "schedule" else constant([0], [number] * 2)}
        set_hyperparameters(model, optimizer, changes)
        # All else is a constant of the traced step, and acts only when that is traced anew.
        if changes.keys() - {"shuffle"} - (set() if follows else {"learning_rate"}):
            model.make_train_function(force=True)
        if steps:
            rows = order_of(data_pass, size, shuffle)[first : first + steps * batch_size]
            batches = tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(lambda array: array[rows], data))
            model.fit(batches.batch(batch_size, drop_remainder=static is not None), shuffle=False, verbose=0)
    return model


def digest(model):
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    same = digest(train()) == WEIGHTS
    print("The weights are the same, bit for bit." if same else "The weights differ from those of the run.")
    sys.exit(0 if same else 1)
""")
