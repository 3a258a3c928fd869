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
# The model's variables that the optimizer knows at last, by position.
BUILT_FOR = $built_for
# What was said of the run, and what this program cannot repeat.
REMARKS = $remarks
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
    # without a part set aside for validation, and with class weights as weights of the examples.
    raise NotImplementedError("Fill in `load_data`.")


def set_hyperparameters(model, optimizer, changes):
    layers = list(model._flatten_layers())
$assignments

def order_of(data_pass, size, shuffle):
    # The order of the examples in a pass over them, the first one being number 0.
    if not shuffle:
        return np.arange(size)
    rng = np.random.Generator(np.random.PCG64([SEED, data_pass]))
    if shuffle is True:
        return rng.permutation(size)
    whole = size - size % shuffle  # shuffled within batches of that size
    batches = rng.permuted(np.arange(whole).reshape(-1, shuffle), axis=1)
    return np.concatenate([batches.ravel(), rng.permutation(np.arange(whole, size))])


def prepared(array):
    # As `Model.fit` hands arrays on: floats in Keras's own type.
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def make_ready(model, data):
    if not model.built:  # as `Model.fit` builds it: by tracing its step
        step = tf.autograph.experimental.do_not_convert(lambda batch: model.train_step(batch))
        batches = tf.data.Dataset.from_tensor_slices(data).batch(1, drop_remainder=True)
        tf.function(step).get_concrete_function(batches.element_spec)
    model.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())  # one that is not built
    model.optimizer.build([model.variables[i] for i in BUILT_FOR])
    model.optimizer.finalize_variable_values = lambda variables: None  # no moving averages after every segment
    restore(model, "start")


def restore(model, state):
    arrays = np.load(Path(__file__).with_name(STATES))
    for i, variable in enumerate([*model.variables, *model.optimizer.variables]):
        # NumPy's files know no bfloat16: its bits lie in them, without a type.
        variable.assign(arrays[f"{state}.{i}"].view(tf.as_dtype(variable.dtype).as_numpy_dtype))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which makes constants of its variables


def set_trainable(model, flags):
    for layer, flag in zip(model._flatten_layers(), flags, strict=True):
        layer.trainable = flag


def set_seeds(model, seeds):
    generators = [generator for layer in model._flatten_layers() for generator in layer._seed_generators]
    for generator, seed in zip(generators, seeds, strict=False):
        generator.state.assign(seed)


def train():
    data = keras.tree.map_structure(prepared, keras.tree.lists_to_tuples(load_data()))
    size = len(keras.tree.flatten(data)[0])
    if EXAMPLES not in (None, size):
        raise ValueError(f"`load_data` must give {EXAMPLES} examples. Received: {size}.")
    if len(data) == 1 and not isinstance(data[0], tuple):
        (data,) = data
    model = build_model()
    make_ready(model, data)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    rate, shuffle, static = optimizer._learning_rate, False, None
    follows = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    for data_pass, first, steps, batch_size, changes, _ in SEGMENTS:
        if "trainable" in changes:
            set_trainable(model, changes["trainable"])
        if "state" in changes:
            restore(model, changes["state"])  # weights that the user or a callback put in place
        if "seeds" in changes:
            set_seeds(model, changes["seeds"])  # validation and callbacks drew on them
        shuffle, static = changes.get("shuffle", shuffle), changes.get("static", static)
        if follows and "learning_rate" in changes:  # a number over a schedule is a schedule too
            number, constant = changes["learning_rate"], keras.optimizers.schedules.PiecewiseConstantDecay
            changes = changes | {"learning_rate": rate if number == "schedule" else constant([0], [number] * 2)}
        set_hyperparameters(model, optimizer, changes)
        # All else is a constant of the traced step, and acts only when that is traced anew.
        if changes.keys() - {"shuffle", "seeds"} - (set() if follows else {"learning_rate"}):
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
    for sentence in REMARKS:
        print(sentence)
    same = digest(train()) == WEIGHTS
    print("The weights are the same, bit for bit." if same else "The weights differ from those of the run.")
    sys.exit(0 if same else 1)
""")
