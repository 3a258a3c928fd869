"""Each binding: untouched it changes no bit, set it gives the bits of a model compiled with the new value."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

from babysit.engine.bindings import HyperparameterBindings
from babysit.engine.block import training_block
from babysit.engine.live import Live

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = np.eye(3, dtype="float32")[RNG.integers(3, size=24)]
ORDER = np.arange(24)


def compiled(layers, optimizer=None, loss=None):
    """A small model; layers are made after the seed is set, so every call gives the same weights."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.Input((6,)), *layers(), keras.layers.Dense(3, activation="softmax")])
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss or "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


def dense(optimizer=None, loss=None):
    """One layer: what an optimizer does to each weight is traced anew."""
    return compiled(list, optimizer, loss)


def bound(model):
    bindings = HyperparameterBindings(model, {"": model.optimizer})
    bindings.bind()
    return bindings


class Blocks:
    """The compiled blocks of a model, one for each structure, as a trainer would keep them."""

    def __init__(self, model, bindings=None):
        self.model, self.bindings, self.made = model, bindings, {}
        self.data = (tf.constant(X), tf.constant(Y))

    def run(self, steps=2, cursor=0):
        structure = self.bindings.structure if self.bindings else ()
        if structure not in self.made:
            self.made[structure] = training_block(
                self.model, self.bindings.live_values.reading_once if self.bindings else nullcontext
            )
        return self.made[structure].run(self.data, tf.constant(ORDER), cursor, 8, steps).loss


def state(model):
    return [v.numpy().copy() for v in model.variables + model.optimizer.variables]


def assert_same(ours, theirs):
    for a, b in zip(state(ours), state(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def put(values, model):
    for variable, value in zip(model.variables + model.optimizer.variables, values, strict=True):
        variable.assign(value)


OPTIMIZERS = {
    "Adafactor": {"beta_2_decay": -0.7, "epsilon_1": 1e-20, "epsilon_2": 0.01, "clip_threshold": 1.3},
    "Adam": {
        "learning_rate": 0.01,
        "amsgrad": True,
        "clipnorm": 0.3,
        "weight_decay": 0.01,
        "use_ema": True,
        "ema_momentum": 0.9,
    },
    "Ftrl": {
        "learning_rate": 0.1,
        "l1_regularization_strength": 0.01,
        "l2_regularization_strength": 0.02,
        "l2_shrinkage_regularization_strength": 0.03,
        "beta": 0.1,
    },
    "Muon": {"learning_rate": 0.01, "adam_lr_ratio": 0.7, "global_clipnorm": 0.3},
    "RMSprop": {"learning_rate": 0.01, "clipvalue": 0.05, "momentum": 0.5, "centered": True},
    "ScheduleFreeAdamW": {"learning_rate": 0.01},
    "SGD": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
}
NEW = {
    "learning_rate": 0.037,
    "momentum": 0.77,
    "beta_1": 0.83,
    "beta_2": 0.97,
    "adam_beta_1": 0.83,
    "adam_beta_2": 0.97,
    "rho": 0.83,
    "epsilon": 3e-3,
    "epsilon_1": 3e-4,
    "epsilon_2": 0.7,
    "weight_decay": 0.37,
    "adam_weight_decay": 0.37,
    "clipnorm": 0.013,
    "clipvalue": 0.0037,
    "global_clipnorm": 0.013,
    "ema_momentum": 0.37,
    "beta": 0.7,
    "beta_2_decay": -0.37,
    "clip_threshold": 0.37,
    "learning_rate_power": -0.37,
    "l1_regularization_strength": 0.07,
    "l2_regularization_strength": 0.07,
    "l2_shrinkage_regularization_strength": 0.07,
    "adam_lr_ratio": 0.37,
    "muon_a": 3.1,
    "muon_b": -4.1,
    "muon_c": 2.3,
    "rms_rate": 0.37,
}


def optimizer_of(name, **changes):
    return getattr(keras.optimizers, name)(**{**OPTIMIZERS[name], **changes})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_float_of_an_optimizer_is_live(name):
    if not hasattr(keras.optimizers, name) or (name == "Muon" and keras.__version__.startswith("3.12.")):
        pytest.skip(f"Keras {keras.__version__} has no {name} that trains with TensorFlow")
    model = dense(optimizer_of(name))
    bindings = bound(model)
    ours, stock = Blocks(model, bindings), Blocks(dense(optimizer_of(name)))
    np.testing.assert_array_equal(ours.run(3), stock.run(3))
    assert_same(model, stock.model)
    start, values = state(model), bindings.values

    untouched = resumed(ours, start)
    for each in live(bindings):  # each of them does something
        bindings.set({each: NEW[each]})
        assert any((a != b).any() for a, b in zip(untouched, resumed(ours, start), strict=True)), each
        bindings.set({each: values[each]})
    assert len(ours.made) == 1

    for each in values:  # and all of them do what a model compiled with them does
        bindings.set({each: NEW[each]})
    changed = Blocks(dense(optimizer_of(name, **{each: NEW[each] for each in values})))
    resumed(ours, start)
    resumed(
        changed,
        [*start[: len(model.variables) + 1], np.float32(NEW["learning_rate"]), *start[len(model.variables) + 2 :]],
    )
    assert_same(model, changed.model)


def live(bindings):
    """The names of those that need no trace of their own for each value."""
    return [name for name in bindings.values if not any(part.startswith(f"{name}=") for part in bindings.structure)]


def resumed(blocks, start):
    put(start, blocks.model)
    if blocks.bindings:  # the learning rate is a variable too
        blocks.model.optimizer.learning_rate.assign(blocks.bindings.values["learning_rate"])
    blocks.run(3)
    return state(blocks.model)


# ---------------------------------------------------------------- layers, loss, regularisers

L = keras.layers


def all_kinds(p):
    penalised = {"kernel_regularizer": keras.regularizers.L1L2(p, p), "activity_regularizer": keras.regularizers.L2(p)}
    return compiled(lambda: [L.Dropout(p, seed=3), L.GaussianNoise(p, seed=3), L.Dense(5, **penalised)])


def test_what_layers_hold_is_set_and_traced_again():
    model, stock = all_kinds(0.3), all_kinds(0.3)
    bindings = bound(model)
    names = [name for name in bindings.values if "." in name]
    penalties = ["dense.kernel_l1", "dense.kernel_l2", "dense.activity_l2"]
    assert sorted(names) == sorted(["dropout.rate", "gaussian_noise.stddev", *penalties])
    assert all(bindings.values[name] == 0.3 for name in names)
    ours, theirs = Blocks(model, bindings), Blocks(stock)
    np.testing.assert_array_equal(ours.run(3), theirs.run(3))
    assert_same(model, stock)

    # 0 leaves out what draws, and its seed rests.
    for value in (0.6, 0.0):
        start = state(model)
        for name in names:
            bindings.set({name: value})
        changed = all_kinds(value)
        put([v for v in start if value or not is_seed(v)], changed)
        np.testing.assert_array_equal(ours.run(3), Blocks(changed).run(3))
        assert_same_but_seeds(model, changed, value == 0, start)


def test_a_rate_that_was_released_at_0_can_be_turned_on_again():
    model, stock = (compiled(lambda p=p: [L.Dropout(p, seed=3)]) for p in (0.3, 0.6))
    bindings = bound(model)
    for value in (0.0, 0.6):
        bindings.set({"dropout.rate": value})
        bindings.release()
        bindings = HyperparameterBindings(model, {"": model.optimizer})
        assert bindings.values["dropout.rate"] == value
        bindings.bind()
    np.testing.assert_array_equal(Blocks(model, bindings).run(3), Blocks(stock).run(3))
    assert_same(model, stock)


def test_dropout_within_attention_and_recurrent_layers_is_not_listed():
    inputs = keras.Input((2, 6))
    attended = L.MultiHeadAttention(2, 3, dropout=0.1)(inputs, inputs)
    model = keras.Model(inputs, L.LSTM(4, dropout=0.1, recurrent_dropout=0.1)(attended))
    model.compile("sgd", "mse")
    assert HyperparameterBindings(model, {}).values == {}


def is_seed(array):
    return array.shape == (2,) and array.dtype.kind in "iu"


def assert_same_but_seeds(model, changed, drawing, start):
    ours, theirs = state(model), state(changed)
    if drawing:
        resting = [(a, b) for a, b in zip(ours, start, strict=True) if is_seed(a)]
        assert resting and all((a == b).all() for a, b in resting)
        ours = [v for v in ours if not is_seed(v)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_label_smoothing_is_set_and_traced_again():
    smoothed = keras.losses.CategoricalCrossentropy
    model = dense(loss=smoothed(label_smoothing=0.1))
    bindings, stock = bound(model), Blocks(dense(loss=smoothed(label_smoothing=0.1)))
    ours = Blocks(model, bindings)
    np.testing.assert_array_equal(ours.run(3), stock.run(3))
    changed = Blocks(dense(loss=smoothed(label_smoothing=0.0)))
    put(state(model), changed.model)
    bindings.set({"label_smoothing": 0.0})
    np.testing.assert_array_equal(ours.run(3), changed.run(3))
    assert_same(model, changed.model)
    assert model.loss.get_config()["label_smoothing"] == 0
    bindings.release()
    assert model.loss.get_config() == smoothed(label_smoothing=0.0).get_config()


# ------------------------------------------------------------------------------ schedules

schedules = keras.optimizers.schedules


def scheduled(schedule=None):
    return dense(keras.optimizers.Adam(schedule or schedules.CosineDecay(0.05, 20), weight_decay=0.01))


def test_a_schedule_is_followed_taken_over_and_given_back():
    model, stock = scheduled(), Blocks(scheduled())
    bindings = bound(model)
    ours = Blocks(model, bindings)
    assert bindings.schedules == tuple(bindings.followed) == ("learning_rate",)
    assert bindings.values["learning_rate"] == 0.05
    ours.run(3)
    stock.run(3)
    assert_same(model, stock.model)
    assert bindings.values["learning_rate"] == pytest.approx(float(stock.model.optimizer.learning_rate))

    bindings.set({"learning_rate": 0.003})
    assert (bindings.followed, bindings.values["learning_rate"]) == ({}, 0.003)
    constant = Blocks(dense(keras.optimizers.Adam(0.003, weight_decay=0.01)))
    place = len(model.variables) + 1
    put([*state(model)[:place], np.float32(0.003), *state(model)[place:]], constant.model)
    np.testing.assert_array_equal(ours.run(3), constant.run(3))
    theirs = state(constant.model)
    for a, b in zip(state(model), theirs[:place] + theirs[place + 1 :], strict=True):
        np.testing.assert_array_equal(a, b)

    bindings.set({"learning_rate": "schedule"})
    put(state(model), stock.model)
    ours.run(3)
    stock.run(3)
    assert_same(model, stock.model)
    assert len(ours.made) == 2


def test_a_released_schedule_is_the_users_own_or_a_stock_constant():
    schedule = schedules.CosineDecay(0.05, 20)
    model = scheduled(schedule)
    variables = model.optimizer.variables
    bindings = bound(model)
    expected = model.optimizer.get_config()["learning_rate"]
    assert expected["class_name"] == "CosineDecay"
    bindings.release()
    assert model.optimizer._learning_rate is schedule
    assert model.optimizer.get_config()["learning_rate"] == expected

    bindings.bind()
    bindings.set({"learning_rate": 0.003})
    taken = bindings.structure
    for _ in range(2):
        assert model.optimizer.get_config()["learning_rate"]["class_name"] == "PiecewiseConstantDecay"
        twin = keras.optimizers.Adam.from_config(model.optimizer.get_config())
        for step in (0, 1, 1000):
            assert twin._learning_rate(step) == np.float32(0.003)
        bindings.release()
    assert model.optimizer.variables == variables
    bindings.read()
    bindings.bind()
    assert (bindings.structure, bindings.values["learning_rate"]) == (taken, 0.003)
    bindings.set({"learning_rate": "schedule"})
    bindings.release()
    assert model.optimizer._learning_rate is schedule


def test_a_step_measures_the_schedule_it_follows():
    model = scheduled()
    bindings = bound(model)

    @tf.function
    def step(x, y):
        return bindings.scheduled_rates()["learning_rate"], model.train_step((x, y))["loss"]

    told = [step(X, Y)[0].numpy() for _ in range(4)]
    schedule = schedules.CosineDecay(0.05, 20)
    assert told == [pytest.approx(float(schedule(i)), rel=1e-6) for i in range(4)]


def test_a_schedule_put_in_by_a_callback_is_distinguished_from_the_rate_that_was_there():
    model = dense(keras.optimizers.SGD(0.1))
    bindings = bound(model)
    assert not bindings.rate_replaced
    model.optimizer.learning_rate = schedules.ExponentialDecay(0.5, 1, 0.5)
    assert bindings.rate_replaced


# ------------------------------------------------------------- whose floats Keras knows not


class Halved(keras.optimizers.SGD):
    """An optimizer of a user's, which makes plain numbers of its floats."""

    def __init__(self, learning_rate=0.1, share=0.5, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.share = share

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * float(f"{self.share}"), variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "share": self.share}


def test_the_floats_of_a_custom_optimizer_are_set_and_traced_again():
    model = dense(Halved(momentum=0.9))
    bindings = bound(model)
    assert list(bindings.values) == ["learning_rate", "momentum", "share"]
    ours = Blocks(model, bindings)
    ours.run(2)
    for name, value in (("share", 0.25), ("momentum", 0.5)):
        bindings.set({name: value})
        assert type(getattr(model.optimizer, name)) is float
        theirs = Blocks(dense(Halved(momentum=bindings.values["momentum"], share=bindings.values["share"])))
        put(state(model), theirs.model)
        ours.run(2)
        theirs.run(2)
        assert_same(model, theirs.model)
    bindings.set({"momentum": 0.9})
    ours.run(2)
    assert len(ours.made) == 3  # the same value again, the same trace


# ------------------------------------------------------- names, order, several optimizers


def test_names_do_not_tell_how_many_layers_this_process_made_before():
    def layers():
        own = L.Dense(4, kernel_regularizer="l2", name="head")
        return [L.Dropout(0.1), L.Dense(4, bias_regularizer="l1"), L.Dropout(0.2), own, L.Dropout(0.0), L.Dropout(0.3)]

    for _ in range(2):
        values = HyperparameterBindings(compiled(layers), {}).values
        assert values == {
            "dropout.rate": 0.1,
            "dense.bias_l1": 0.01,
            "dropout_1.rate": 0.2,
            "head.kernel_l2": 0.01,
            "dropout_3.rate": 0.3,
        }


def test_several_optimizers_have_their_names_before_the_dials():
    model = compiled(lambda: [L.Dropout(0.1)], loss=keras.losses.CategoricalCrossentropy())
    ours = {"discriminator": keras.optimizers.SGD(0.1), "generator": keras.optimizers.Adam(0.2)}
    bindings = HyperparameterBindings(model, ours)
    assert list(bindings.values) == [
        *("discriminator.learning_rate", "discriminator.momentum"),
        *("generator.learning_rate", "generator.beta_1", "generator.beta_2", "generator.epsilon"),
        *("label_smoothing", "dropout.rate"),
    ]
    assert list(bindings.scales) == list(bindings.values)
    bindings.set({"generator.learning_rate": 0.5})
    assert (float(ours["generator"].learning_rate), float(ours["discriminator"].learning_rate)) == (
        0.5,
        np.float32(0.1),
    )


def test_of_several_losses_none_is_steered():
    inputs = keras.Input((6,))
    outputs = {name: L.Dense(3, activation="softmax", name=name)(inputs) for name in ("animal", "size")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"animal": keras.losses.CategoricalCrossentropy(label_smoothing=0.1), "size": "mse"})
    assert HyperparameterBindings(model, {}).values == {}


def test_a_loss_scale_optimizer_is_steered_inside():
    inner = keras.optimizers.SGD(0.1, momentum=0.5)
    model = dense(keras.mixed_precision.LossScaleOptimizer(inner))
    bindings = bound(model)
    bindings.set({"learning_rate": 0.25})
    bindings.set({"momentum": 0.75})
    assert (float(inner.learning_rate), inner.get_config()["momentum"]) == (0.25, 0.75)


def test_in_mixed_precision_it_is_live_too():
    def mixed(rate, smoothing, momentum):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            optimizer = keras.optimizers.SGD(0.1, momentum=momentum)
            loss = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
            return compiled(lambda: [L.Dense(5), L.Dropout(rate, seed=2)], optimizer, loss)
        finally:
            keras.config.set_dtype_policy("float32")

    model, stock = mixed(0.3, 0.1, 0.9), Blocks(mixed(0.3, 0.1, 0.9))
    bindings = bound(model)
    ours = Blocks(model, bindings)
    ours.run(3)
    stock.run(3)
    assert_same(model, stock.model)
    changed = Blocks(mixed(0.6, 0.2, 0.5))
    put(state(model), changed.model)
    for name, value in (("dropout.rate", 0.6), ("label_smoothing", 0.2), ("momentum", 0.5)):
        bindings.set({name: value})
    ours.run(3)
    changed.run(3)
    assert_same(model, changed.model)


# ------------------------------------------------ bound, released, written down, taken up


def everything(**changes):
    """A model with one name of each kind."""
    how = {"momentum": 0.9, "rate": 0.3, "smoothing": 0.1, "l1": 0.02, "l2": 0.03, **changes}
    layers = [
        lambda: L.Dense(5, kernel_regularizer=keras.regularizers.L1(how["l1"])),
        lambda: L.Dropout(how["rate"], name="drop"),
        lambda: L.Dense(4, bias_regularizer=keras.regularizers.L2(how["l2"]), name="last"),
    ]
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=how["smoothing"])
    optimizer = keras.optimizers.SGD(0.1, momentum=how["momentum"], clipnorm=1.0)
    return compiled(lambda: [make() for make in layers], optimizer, loss)


CHANGES = {
    "momentum": 0.5,
    "label_smoothing": 0.2,
    "drop.rate": 0.6,
    "last.bias_l2": 0.5,
}


def configs(model):
    layers = [{**layer.get_config(), "name": ""} for layer in model.layers[1:]]
    return {**model.optimizer.get_config(), "name": ""}, model.loss.get_config(), layers


def test_written_down_while_bound_it_shows_the_present_and_released_it_is_a_stock_model(tmp_path):
    model = everything()
    before = configs(model)
    bindings = bound(model)
    assert str(configs(model)) == str(before)
    for name, value in CHANGES.items():
        bindings.set({name: value})
    changed = everything(momentum=0.5, smoothing=0.2, rate=0.6, l2=0.5)
    assert str(configs(model)) == str(configs(changed))
    model.save(tmp_path / "bound.keras")
    clone = keras.models.clone_model(model)
    bindings.set({"drop.rate": 0.1})
    assert (type(clone.layers[1].rate), clone.layers[1].rate) == (float, 0.6)
    bindings.set({"drop.rate": 0.6})
    bindings.release()
    assert str(configs(model)) == str(configs(changed))
    assert not [name for name, value in vars(model.optimizer).items() if isinstance(value, Live)]
    assert "get_config" not in vars(model.optimizer) | vars(model.layers[1]) | vars(model.loss)
    loaded = keras.models.load_model(tmp_path / "bound.keras")
    assert str(configs(loaded)) == str(configs(changed))
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_untouched_and_released_the_very_same_objects_are_back():
    model = everything()
    model.optimizer.clipnorm = 1
    kernel = model.layers[0].kernel_regularizer
    bindings = bound(model)
    bindings.release()
    assert model.layers[0].kernel_regularizer is model.layers[0].kernel.regularizer is kernel
    assert type(model.optimizer.clipnorm) is int
    assert model.optimizer.get_config()["clipnorm"] == 1


def test_a_regularizer_shared_by_layers_is_a_dial_for_each():
    shared = keras.regularizers.L2(0.01)
    layers = [
        lambda: L.Dense(4, kernel_regularizer=shared, bias_regularizer=shared),
        lambda: L.Dense(4, kernel_regularizer=shared),
    ]
    model = compiled(lambda: [make() for make in layers])
    bindings = bound(model)
    bindings.set({"dense.bias_l2": 0.5})
    bindings.release()
    found = [
        layer.get_config()[f"{name}_regularizer"]["config"]["l2"]
        for layer, name in ((model.layers[0], "kernel"), (model.layers[0], "bias"), (model.layers[1], "kernel"))
    ]
    assert found == [0.01, 0.5, 0.01]
    assert shared.l2 == 0.01
    assert HyperparameterBindings(model, {}).values == {
        "dense.kernel_l2": 0.01,
        "dense.bias_l2": 0.5,
        "dense_1.kernel_l2": 0.01,
    }


def test_what_a_callback_changes_is_adopt_external_changes():
    model = everything()
    bindings = bound(model)
    assert bindings.adopt_external_changes() == {}
    model.optimizer.learning_rate = 0.05
    model.optimizer.momentum = 0.5
    model.layers[1].rate = 0
    model.loss.label_smoothing = 0.3
    assert bindings.adopt_external_changes() == {
        "learning_rate": (0.1, 0.05),
        "momentum": (0.9, 0.5),
        "label_smoothing": (0.1, 0.3),
        "drop.rate": (0.3, 0.0),
    }
    assert bindings.adopt_external_changes() == {}
    assert "drop.rate=0.0" in bindings.structure
    assert isinstance(model.optimizer.momentum, Live) and model.optimizer.momentum == 0.5
    assert model.loss._fn_kwargs["label_smoothing"] is model.loss.label_smoothing


def test_what_was_set_between_fits_is_read():
    model = everything()
    bindings = bound(model)
    bindings.release()
    model.optimizer.momentum, model.layers[1].rate = 0.3, 0.7
    model.optimizer.clipnorm = None
    bindings.read()
    assert (bindings.values["momentum"], bindings.values["drop.rate"]) == (0.3, 0.7)
    assert "clipnorm" not in bindings.values


def test_velocities_come_and_go_as_a_state_has_them():
    model = everything(momentum=0.0)
    bindings = bound(model)
    before = bindings.structure
    bindings.set({"momentum": 0.5})
    bindings.set({"momentum": 0.0})
    assert bindings.slots == ("momentum",)  # at rest, and there
    assert model.optimizer.momentums and model.optimizer.momentum != 0
    bindings.make_slots([])
    assert (bindings.slots, bindings.structure) == ((), before)
    assert not model.optimizer.momentums and model.optimizer.momentum == 0
    bindings.make_slots(["momentum"])
    assert model.optimizer.momentums


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_may_be_built_inside_the_trace(momentum):
    def unbuilt():
        keras.utils.set_random_seed(4)
        model = keras.Sequential([keras.Input((6,)), L.Dense(3, activation="softmax")])
        model.compile(keras.optimizers.SGD(0.1, momentum=momentum), "categorical_crossentropy")
        return model

    model, stock = unbuilt(), unbuilt()
    bindings = bound(model)
    step, reference = tf.function(model.train_step), tf.function(stock.train_step)
    before = bindings.structure
    for _ in range(2):
        step((X, Y))
        reference((X, Y))
    assert_same(model, stock)
    assert bindings.structure == before


# ---------------------------------------------------------------------------- velocities


def test_velocities_made_later_stand_where_a_stock_optimizer_has_them():
    centered = True
    model = dense(keras.optimizers.RMSprop(0.01, centered=centered))
    bindings = bound(model)
    bindings.set({"momentum": 0.5})
    stock = dense(keras.optimizers.RMSprop(0.01, momentum=0.5, centered=centered))

    def kinds(found):
        return [v.path.split("/")[-1].rsplit("_", 1)[-1] for v in found.optimizer.variables]

    assert kinds(model) == kinds(stock)
    bindings.set({"momentum": 0.0})
    assert kinds(model) == kinds(stock)  # at rest at 0 they stay while it is live
    bindings.release()
    assert kinds(model) == kinds(dense(keras.optimizers.RMSprop(0.01, centered=centered)))
    assert type(model.optimizer.momentum) is float
