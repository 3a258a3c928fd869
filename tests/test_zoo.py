"""Every member of the zoo, and every form of data, under what must always hold of a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import babysit
from tests.zoo import (
    ZOO,
    compiled,
    dense,
    dial,
    put,
    rows,
    state,
    table,
    variables,
)


def assert_equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert [(a.shape, a.dtype) for a in ours] == [(b.shape, b.dtype) for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_history(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(np.array(ours[name], float), np.array(theirs[name], float))


# ------------------------------------------------------------------- each member of the zoo


@dataclass
class Trained:
    """A member trained to the end twice: by a panda, and by `Model.fit`."""

    name: str
    make: Callable[[], keras.Model]
    arguments: dict[str, Any]
    panda: babysit.Panda
    reference: keras.Model
    ours: list[np.ndarray]
    theirs: list[np.ndarray]
    history: dict[str, list[Any]]

    @property
    def steps_an_epoch(self) -> int:
        examples = len(keras.tree.flatten(self.arguments["x"])[0])
        return math.ceil(examples / self.arguments["batch_size"])

    def at_step(self, steps: int) -> babysit.Panda:
        """The panda, at rest after so many steps."""
        self.panda.rewind(0)
        self.panda.run(steps)
        return self.panda

    def finished_by_keras(self, done: int, change: tuple[str, float] | None = None, **how: Any) -> list[np.ndarray]:
        """What `Model.fit` makes of the panda's present state, on what its epoch has left of the examples."""
        left = rows(self.arguments, slice(done, None)) | {"epochs": 1, "shuffle": False, "verbose": 0} | how
        model = self.reference
        if change is not None and not change[0].endswith("learning_rate"):  # baked into the graph: compile anew
            model = put(self.make(), *change)
            model.fit(**left)
        for variable, value in zip(variables(model), state(self.panda.model), strict=True):
            variable.assign(value)
        if change is not None:
            put(model, *change)
        model.fit(**left)
        return state(model)


# One for each way in which a change reaches the step; the others only train.
CHANGED = [
    "several inputs and outputs",
    "gan with two optimizers",
    "gradient accumulation",
    "averaged weights written back every 5 steps",
    "adamw under a cosine with warmup",
]
CUT = ["gan with two optimizers", "gradient accumulation"]  # into other batches and blocks
every_member = pytest.mark.parametrize("trained", ZOO, indirect=True)
changed_member = pytest.mark.parametrize("trained", CHANGED, indirect=True)
cut_member = pytest.mark.parametrize("trained", CUT, indirect=True)


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    make, arguments = ZOO[request.param]()
    reference = make()
    history = reference.fit(**arguments, shuffle=False, verbose=0).history
    theirs = state(reference)
    panda = babysit.Panda(make(), tmp_path_factory.mktemp("zoo") / "run", seed=7)
    panda.fit(**arguments, shuffle=False).wait(120)
    yield Trained(request.param, make, arguments, panda, reference, state(panda.model), theirs, history)
    panda.stop()


@every_member
def test_untouched_it_is_model_fit(trained):
    assert_equal(trained.ours, trained.theirs)
    assert_same_history(trained.panda.history.history, trained.history)


@changed_member
def test_a_change_equals_a_restart_with_that_value(trained):
    name, value = dial(trained.name)
    panda = trained.at_step(trained.steps_an_epoch + 3)  # in the last epoch, whose end may average the weights
    theirs = trained.finished_by_keras(3 * trained.arguments["batch_size"], (name, value))
    entry = panda.set(**{name: value})
    assert (entry.step, entry.changes[name][1]) == (panda.step, value)
    panda.resume()
    panda.wait(120)
    assert_equal(state(panda.model), theirs)


@cut_member
def test_another_batch_size_equals_a_restart_with_it(trained):
    # 4 steps are a whole accumulation. 24 divides the rest of no member: where a size divides the
    # data, `Model.fit` fixes it in the graph, which then rounds differently (see `steps.Block`).
    panda = trained.at_step(trained.steps_an_epoch + 4)
    theirs = trained.finished_by_keras(4 * trained.arguments["batch_size"], batch_size=24)
    panda.set(batch_size=24)
    panda.resume()
    panda.wait(120)
    assert_equal(state(panda.model), theirs)


@cut_member
def test_a_step_a_block_or_many_and_a_return_to_a_checkpoint_give_the_same_bits(trained):
    name, value = dial(trained.name)
    panda = trained.at_step(3)
    saved = panda.save()
    digests = []
    for blocks in ([6], [1] * 6, [2, 1, 3]):  # through the end of an epoch
        panda.rewind(saved)
        assert panda.digest() == saved.digest
        panda.set(**{name: value}, batch_size=24)
        for steps in blocks:
            panda.run(steps)
        digests.append(panda.digest())
    assert digests == digests[:1] * 3


@every_member
def test_what_was_tried_leaves_the_state_as_it_was(trained):
    name, value = dial(trained.name)
    panda = trained.at_step(3)
    digest, present = panda.digest(), panda.hyperparameters[name].value
    fan = panda.fan(steps=2, **{name: [present, value]})
    assert panda.digest() == digest
    if name.endswith("learning_rate"):
        panda.lr_range_test(1e-4, 1e-3, steps=20, name=name)
        assert panda.digest() == digest
    panda.run(2)
    np.testing.assert_array_equal(panda.history[fan.by][-2:], fan.trials[0].losses)  # with the present value
    fan.none()
    assert panda.digest() == digest


def test_a_train_step_without_logs_trains_though_fit_cannot(tmp_path):
    make, arguments = ZOO["train_step with a loss and no tracker"]()
    ours, theirs = make(), make()
    ours.odd = "none"  # `Model.fit` cannot: its graph must return something
    panda = babysit.Panda(ours, tmp_path / "run").fit(**arguments, shuffle=False).wait(120)
    theirs.fit(**arguments, shuffle=False, verbose=0)
    assert_equal(state(ours), state(theirs))
    assert panda.history.history == {}


# ----------------------------------------------------------------------- each form of data

X, Y = table()["x"], table()["y"]
WEIGHT = np.random.default_rng(2).uniform(size=120)
VALIDATION = (X[:40] + 1, Y[:40])


class Batches(keras.utils.PyDataset):
    """The data in batches of 16, or of another size."""

    def __init__(self, *arrays: np.ndarray, size: int = 16) -> None:
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)


def dataset(*arrays: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays)


def endless(*arrays: np.ndarray, size: int = 16):
    while True:
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)


LEFT_AND_RIGHT = [X[:, :4], X[:, 4:]]

# What `fit` is given, made anew for each of the two who are to be given it.
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    # Validated once: `Model.fit` draws ahead of a generator, so what a second validation gets is left to chance.
    "arrays shared out among so many steps, and a validation on a generator": lambda: {
        "x": X,
        "y": Y,
        "steps_per_epoch": 3,
        "validation_data": endless(*VALIDATION),
        "validation_steps": 3,
        "validation_freq": 2,
    },
    "a validation on arrays with weights after some epochs": lambda: {
        "x": X,
        "y": Y,
        "epochs": 3,
        "validation_data": (*VALIDATION, WEIGHT[:40]),
        "validation_freq": [1, 3],
    },
    "a generator with weights, and a validation on a PyDataset": lambda: {
        "x": endless(X, Y, WEIGHT),
        "steps_per_epoch": 5,
        "validation_data": Batches(*VALIDATION, size=12),
    },
    "endless tf.data, for which sizes of batches count for nothing": lambda: {
        "x": dataset(X, Y).repeat().batch(16),
        "steps_per_epoch": 5,
        "batch_size": 7,
        "validation_data": dataset(*VALIDATION).repeat().batch(8),
        "validation_steps": 2,
        "validation_batch_size": 3,
    },
    "a part of several inputs": lambda: {"x": LEFT_AND_RIGHT, "y": Y, "validation_split": 0.25},
}


def regression() -> keras.Model:
    """A network with dropout and momentum, so that order and size of batches leave their mark."""
    keras.utils.set_random_seed(13)
    model = dense(layers.Dense(8, "relu"), layers.Dropout(0.2))
    return compiled(model, keras.optimizers.SGD(0.02, momentum=0.9), metrics=["mae"])


def two_inputs() -> keras.Model:
    keras.utils.set_random_seed(13)
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    outputs = layers.Dense(1)(layers.Concatenate()([layers.Dense(4, "tanh")(left), right]))
    return compiled(keras.Model([left, right], outputs), "sgd")


@pytest.mark.parametrize("form", GIVEN)
def test_given_data_in_any_form_it_is_model_fit(tmp_path, form):
    make = two_inputs if form == "a part of several inputs" else regression
    ours, theirs = make(), make()
    panda = babysit.Panda(ours, tmp_path / "run", seed=7)
    panda.fit(**{"epochs": 2, "shuffle": False} | GIVEN[form]()).wait(120)
    fit = theirs.fit(**{"epochs": 2, "shuffle": False} | GIVEN[form](), verbose=0)
    assert_equal(state(ours), state(theirs))
    assert_same_history(panda.history.history, fit.history)


def test_class_weights_of_a_generator_are_refused_as_by_keras(tmp_path):
    make, arguments = ZOO["class weights"]()
    how = {
        "x": endless(arguments["x"], arguments["y"]),
        "steps_per_epoch": 8,
        "class_weight": arguments["class_weight"],
    }
    with pytest.raises(ValueError, match="class_weight"):
        babysit.Panda(make(), tmp_path / "run").fit(**how)


# ------------------------------------------------------------------------ several optimizers


@pytest.mark.parametrize("trained", ["gan with two optimizers"], indirect=True)
def test_a_gan_goes_on_from_disk_as_if_it_had_never_stopped(trained):
    panda = trained.at_step(3)
    panda.set(**{"discriminator.learning_rate": 0.01})
    panda.run(2)
    saved = panda.save("here")
    panda.run(3)
    digest = panda.digest()
    panda.stop()
    panda.wait(60)

    loaded = babysit.Panda.load(panda.directory, model=trained.make())
    loaded.rewind("here")
    assert loaded.digest() == saved.digest
    loaded.fit(**trained.arguments, shuffle=False, paused=True)
    loaded.run(3)
    assert loaded.digest() == digest
    assert loaded.hyperparameters["discriminator.learning_rate"].value == 0.01


@pytest.mark.parametrize("beside", ["y", "sample_weight"])
def test_what_is_given_with_batches_is_refused_as_model_fit_does(tmp_path, beside):
    with pytest.raises(ValueError, match="should not be passed"):
        babysit.Panda(regression(), tmp_path / "run").fit(dataset(X, Y).batch(16), **{beside: Y})
