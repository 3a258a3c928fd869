"""The inner names of Keras and TensorFlow that the package uses: which of them a release lacks."""

import ast
import importlib
import re
from pathlib import Path

import keras
import pytest
import tensorflow as tf

PACKAGE = Path(__file__).parents[2] / "babysit"
INTERNALS = PACKAGE / "engine" / "internals.py"
NAMES = [
    (node.module, alias.name)
    for node in ast.walk(ast.parse(INTERNALS.read_text()))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]
# Private attributes of public objects.
ATTRIBUTES = {
    "model": "_call_has_training_arg _compute_loss _distribute_strategy _flatten_layers _get_metrics_result_or_logs "
    "_layers _loss_tracker _non_trainable_variables _symbolic_build _trainable_variables",
    "loss": "_fn_kwargs",
    "optimizer": "_iterations _learning_rate _tracker _trainable_variables _trainable_variables_indices",
    "dropout": "_seed_generators",
    "iterator": "_flat_output_shapes _flat_output_types _iterator_resource",
    "tensor": "_handle_data _numpy",
    "function": "_call_flat",
}


@pytest.mark.parametrize(("module", "name"), NAMES, ids=map(".".join, NAMES))
def test_the_inner_name_is_there(module, name):
    assert hasattr(importlib.import_module(module), name), f"{module} of this release has no {name}"


@pytest.fixture(scope="module")
def things():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", keras.losses.CategoricalCrossentropy())
    model.optimizer.build(model.trainable_variables)
    return {
        "model": model,
        "loss": model.loss,
        "optimizer": model.optimizer,
        "dropout": model.layers[0],
        "iterator": iter(tf.data.Dataset.range(1)),
        "tensor": tf.constant(0.0),
        "function": tf.function(lambda: 0).get_concrete_function(),
    }


@pytest.mark.parametrize(
    ("thing", "name"), [(thing, name) for thing in ATTRIBUTES for name in ATTRIBUTES[thing].split()]
)
def test_the_private_attribute_is_there(things, thing, name):
    assert hasattr(things[thing], name), f"the {thing} of this release has no {name}"


def test_the_generator_that_all_of_keras_shares_is_there():
    # Imported here, so that a missing name fails the test above.
    from babysit.engine.internals import GLOBAL_SEED_GENERATOR, get_global_attribute

    keras.random.uniform((1,))
    assert isinstance(get_global_attribute(GLOBAL_SEED_GENERATOR), keras.random.SeedGenerator)


def test_no_other_module_uses_inner_modules():
    inner = re.compile(r"\b(keras\.src|tensorflow\.python|tf\.__internal__)\b")
    assert [path for path in PACKAGE.rglob("*.py") if inner.search(path.read_text())] == [INTERNALS]
