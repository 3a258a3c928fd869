import builtins
import copy
import importlib
import json
import marshal
import os

import keras
import numpy as np
import pytest
from keras.src.saving.serialization_lib import SafeModeScope

import babysit
from babysit import demos
from babysit.engine import architecture


def there_and_back(model):
    """The model that comes out of the record: what goes in is JSON."""
    return architecture.build(json.loads(json.dumps(architecture.describe(model))))


def small(*layers, **compiled):
    model = keras.Sequential([keras.Input((3,)), *(layers or [keras.layers.Dense(1)])])
    model.compile(**({"loss": "mse"} | compiled))
    return model


def refused(plain):
    """`build` says no, in the way its caller is told of."""
    with pytest.raises(ValueError, match="`model=`"):
        architecture.build(plain)
    return True


# ------------------------------------------------------------------------- round trip


def test_a_demo_that_comes_back_with_its_weights_is_and_trains_as_before():
    (x, y), _ = demos.digits()
    model = demos.dense_network(seed=0)
    again = there_and_back(model)
    assert (type(again), again.name, again.loss) == (type(model), model.name, model.loss)
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    ours, theirs = again.optimizer.get_config(), model.optimizer.get_config()
    assert {**ours, "name": ""} == {**theirs, "name": ""}
    assert again._compile_metrics._user_metrics == ["accuracy"]
    for new, old in zip(again.variables, model.variables, strict=True):
        new.assign(old)
    losses = [m.train_on_batch(x[:32], y[:32]) for m in (model, again)]
    np.testing.assert_array_equal(*losses)
    for new, old in zip(again.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(new, old)


def test_every_call_builds_a_model_of_its_own_and_changes_nothing_of_what_it_is_given():
    plain = json.loads(json.dumps(architecture.describe(small())))
    before = copy.deepcopy(plain)
    one, other = architecture.build(plain), architecture.build(plain)
    one.layers[-1].kernel.assign(np.ones((3, 1)))
    assert one is not other
    assert not np.array_equal(one.layers[-1].kernel, other.layers[-1].kernel)
    assert plain == before


COMPILED = {
    "a schedule": {"optimizer": keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 100))},
    "clipping": {"optimizer": keras.optimizers.AdamW(weight_decay=0.01, global_clipnorm=1.0)},
    "accumulation and averages": {
        "optimizer": keras.optimizers.SGD(0.1, 0.9, nesterov=True, gradient_accumulation_steps=4, use_ema=True)
    },
    "a loss with options": {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1)},
    "metrics": {"metrics": ["mae", keras.metrics.MeanSquaredError(name="squares")]},
    "weighted metrics": {"weighted_metrics": ["mae"]},
    "loss weights": {"loss_weights": [2.0]},
    "jit": {"jit_compile": True},
}


def test_how_it_was_compiled_comes_back():
    def plain(model):
        config = keras.saving.serialize_keras_object(model)["compile_config"]
        config["optimizer"]["config"].pop("name")  # counts the optimizers made so far
        return config

    for name, how in COMPILED.items():
        model = small(**how)
        again = there_and_back(model)
        assert (plain(again), again.jit_compile) == (plain(model), model.jit_compile), name


def test_layers_of_keras_come_back_with_their_options():
    def options(model):
        return [{**layer.get_config(), "name": ""} for layer in model.layers]

    layers = [
        keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 4.0]),
        keras.layers.Dense(1, dtype="mixed_float16"),
        keras.layers.Dense(1, "relu", kernel_initializer=keras.initializers.Constant(2.0), kernel_regularizer="l2"),
        keras.layers.Dropout(0.3, seed=7),
        keras.layers.BatchNormalization(momentum=0.5),
    ]
    model = small(*layers)
    assert options(there_and_back(model)) == options(model)


def test_a_functional_model_of_two_outputs_comes_back():
    x = keras.Input((3,))
    outputs = {"a": keras.layers.Dense(2)(x), "b": keras.ops.relu(keras.layers.Dense(1)(x))}
    model = keras.Model(x, outputs)
    model.compile(loss={"a": "mse", "b": "mae"})
    again = there_and_back(model)
    assert again.loss == {"a": "mse", "b": "mae"}
    assert {name: output.shape for name, output in again.output.items()} == {"a": (None, 2), "b": (None, 1)}


def test_a_model_with_a_vocabulary_is_not_described_and_asked_for():
    lookup = keras.layers.StringLookup(vocabulary=["step"])
    plain = architecture.describe(keras.Sequential([keras.Input((), dtype="string"), lookup]))
    assert plain is None
    with pytest.raises(ValueError, match="a layer with a vocabulary.*`model=`"):
        architecture.build(plain)


def test_a_run_whose_inputs_were_normalised_is_loaded_without_its_model(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (12, 4)).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    babysit.Panda(model, tmp_path / "run").fit(x, x[:, 0], epochs=2).wait(60)
    again = babysit.Panda.load(tmp_path / "run")
    np.testing.assert_array_equal(again.model(x), model(x))


# ------------------------------------------------------- what only the user can bring


@keras.saving.register_keras_serializable("tests")
class Registered(keras.layers.Dense):
    pass


class Unregistered(keras.layers.Dense):
    pass


class Subclassed(keras.Model):
    def call(self, x):
        return x


class NoConfiguration(keras.layers.Layer):
    def __init__(self, units, extra):
        super().__init__()

    def call(self, x):
        return x


@keras.saving.register_keras_serializable("tests")
def registered_loss(y, y_pred):
    return keras.ops.mean((y - y_pred) ** 2)


def own_loss(y, y_pred):
    return keras.ops.mean((y - y_pred) ** 2)


OWN_PARTS = {
    "a lambda": lambda: small(keras.layers.Lambda(lambda x: 2 * x)),
    "a registered layer": lambda: small(Registered(1)),
    "a layer": lambda: small(Unregistered(1)),
    "a layer without a configuration": lambda: small(NoConfiguration(1, extra=object())),
    "a model": lambda: Subclassed(),
    "a loss function": lambda: small(loss=own_loss),
    "a registered loss function": lambda: small(loss=registered_loss),
    "a metric function": lambda: small(metrics=[own_loss]),
    "an activation": lambda: small(keras.layers.Dense(1, activation=np.tanh)),
}


def test_a_part_of_the_user_s_own_is_not_described_and_asked_for():
    for name, make in OWN_PARTS.items():
        assert architecture.describe(make()) is None, name
    assert refused(None)


# -------------------------------------------------------------------- hostile records


REACHED = []  # by a hostile record, of what this process has registered


@keras.saving.register_keras_serializable("tests")
class Trap(keras.layers.Dense):
    def __init__(self, *args, **kwargs):
        REACHED.append("Trap")
        super().__init__(*args, **kwargs)


@keras.saving.register_keras_serializable("tests")
def trap(*args):
    REACHED.append("trap")
    return args[0]


def layer(**fields):
    """A record whose dense layer says something else in these fields."""
    return lambda plain: plain["config"]["layers"][1].update(fields)


def option(**options):
    return lambda plain: plain["config"]["layers"][1]["config"].update(options)


def compiled(**options):
    return lambda plain: plain["compile_config"].update(options)


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def unnamed(plain):
    """Without the field by which a registered class is told from Keras's own."""
    plain["config"]["layers"][1]["class_name"] = "tests>Trap"
    del plain["config"]["layers"][1]["registered_name"]


CODE = {"class_name": "__lambda__", "config": {"value": ["4wAAAA==", None, None]}}
HOSTILE = {
    "a foreign module": layer(module="os", class_name="system"),
    "a module that is not there": layer(module="planted.module", class_name="Dense"),
    "a module whose name begins like Keras's": layer(module="keras_planted", class_name="Dense"),
    "a module of Keras that is not there": layer(module="keras.src.planted", class_name="Dense"),
    "no module": layer(module=None),
    "a module that is no string": layer(module=["keras"]),
    "a lambda layer": layer(class_name="Lambda"),
    "a lambda layer by its path": layer(module="keras.src.layers.core.lambda_layer", class_name="Lambda"),
    "a saved model": layer(class_name="TFSMLayer", config={"filepath": "/planted"}),
    "code": option(activation=CODE),
    "code as a layer": lambda plain: plain["config"]["layers"].append(CODE),
    "a function of Python": option(activation=function("builtins", "eval")),
    "a function of another module": option(activation=function("os", "system")),
    "a function of Keras that is no activation": option(activation=function("keras.utils", "get_file")),
    "a registered layer": layer(registered_name="tests>Trap"),
    "a registered layer by its class": layer(class_name="tests>Trap", registered_name=None),
    "a registered layer without saying so": unnamed,
    "a registered function as activation": option(activation="tests>trap"),
    "a registered function as loss": compiled(loss="tests>trap"),
    "a registered function as metric": compiled(metrics=["tests>trap"]),
    "an optimizer of another module": compiled(
        optimizer={"module": "planted", "class_name": "SGD", "config": {}, "registered_name": None}
    ),
    "a vocabulary file": lambda plain: plain["config"]["layers"].append(
        {
            "module": "keras.layers",
            "class_name": "StringLookup",
            "registered_name": None,
            "config": {"name": "words", "vocabulary": "/etc/hostname"},
        }
    ),
    "a layer with unknown options": option(planted=True),
    "a class that is no string": layer(class_name=["Dense"]),
    "no configuration": layer(config=None),
    "text for layers": lambda plain: plain["config"].update(layers="layers"),
    "a number for a configuration": lambda plain: plain.update(config=3),
    "no layers": lambda plain: plain["config"].pop("layers"),
}


def test_an_edited_record_is_refused_and_nothing_of_it_is_imported_or_run(monkeypatch):
    text, found = json.dumps(architecture.describe(small())), watched(monkeypatch)
    for name, edit in HOSTILE.items():
        plain = json.loads(text)
        edit(plain)
        assert refused(plain), name
        assert found == REACHED == [], name


def test_code_is_refused_even_where_the_user_allowed_it_for_models_of_their_own(monkeypatch):
    plain = json.loads(json.dumps(architecture.describe(small())))
    option(activation=CODE)(plain)
    found = watched(monkeypatch)
    with SafeModeScope(False):  # as keras.config.enable_unsafe_deserialization leaves it
        assert refused(plain)
    assert found == []


def test_what_describes_no_model_is_refused():
    layer = keras.saving.serialize_keras_object(keras.layers.Dense(3))
    odd = {"class_name": "Sequential"}, {"class_name": "__bytes__", "config": {"value": "a"}}
    for plain in (None, "text", 3, [], {}, True, *odd, layer, [architecture.describe(small())]):
        assert refused(plain)


def watched(monkeypatch):
    """What is imported by name that is not Keras's, and what code is run: a list, empty so far."""
    found, import_module = [], importlib.import_module

    def watch(name, package=None):
        if name.split(".")[0] not in {"keras", "tensorflow"}:
            found.append(name)
        return import_module(name, package)

    for module, name in [(builtins, "eval"), (os, "system"), (keras.utils, "get_file"), (marshal, "loads")]:
        monkeypatch.setattr(module, name, lambda *args, name=name: found.append(name))
    monkeypatch.setattr(importlib, "import_module", watch)
    return found
