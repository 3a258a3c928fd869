"""What a user may ask for beyond a number: ramps, schedules, couplings; and what they do to the model itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos
from tests.zoo import classifier

(X, Y), _ = demos.digits()
X, Y = X[:320], Y[:320]


def resting(tmp_path, model=None, name="run", **how):
    model = model or classifier(hidden=8)
    return babysit.Panda(model, tmp_path / name, seed=7).fit(X, Y, **{"epochs": 50, "paused": True, **how})


def actions(panda):
    return [(entry.step, entry.author, entry.action) for entry in panda.journal]


# ------------------------------------------------------------------------------------ ramps


def test_a_ramp_is_one_entry_and_equals_the_changes_made_one_by_one(tmp_path):
    ramped, stepped = resting(tmp_path, name="ramped"), resting(tmp_path, name="stepped")
    entry = ramped.set(learning_rate=1e-4, momentum=0.99, over=4)
    ramped.run(6)
    assert (entry.step, entry.over, entry.changes["learning_rate"]) == (0, 4, (0.01, 1e-4))
    np.testing.assert_allclose(ramped.history["learning_rate"], [*10 ** np.linspace(-2, -4, 5)[1:], 1e-4, 1e-4], 1e-12)
    assert [a for _, _, a in actions(ramped)] == ["fit", "set"]
    assert "in 4 steps" in repr(ramped.journal)
    for k in range(6):
        rate = ramped.history["learning_rate"][k]
        stepped.set(learning_rate=float(rate), momentum=float(ramped.history["momentum"][k]))
        stepped.run(1)
    assert ramped.digest() == stepped.digest()


# -------------------------------------------------------------------------------- schedules


def scheduled():
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    return classifier(keras.optimizers.SGD(rate, momentum=0.9))


def test_a_schedule_is_shown_taken_over_and_given_back(tmp_path):
    model, schedule = scheduled(), keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    panda = resting(tmp_path, model)
    panda.run(4)
    at = [float(schedule(step)) for step in range(20)]
    np.testing.assert_allclose(panda.hyperparameters["learning_rate"].value, at[4], rtol=1e-6)
    taken = panda.set(learning_rate=0.003, why="too fast")
    panda.run(3)
    given = panda.set(learning_rate="schedule")
    panda.run(2)
    assert taken.changes["learning_rate"] == ("schedule", 0.003)
    assert given.changes["learning_rate"] == (0.003, "schedule")
    rates = panda.history["learning_rate"]
    np.testing.assert_allclose(rates, [*at[:4], *[0.003] * 3, *at[7:9]], rtol=1e-6)
    assert "schedule → 0.003" in repr(panda.journal)
    panda.stop()
    panda.wait()
    assert isinstance(model.optimizer._learning_rate, keras.optimizers.schedules.ExponentialDecay)


def test_taken_over_it_trains_as_if_compiled_with_that_rate(tmp_path):
    model, plain = scheduled(), classifier(keras.optimizers.SGD(0.003, momentum=0.9))
    panda = resting(tmp_path, model, shuffle=False)
    panda.set(learning_rate=0.003)
    panda.run(10)
    plain.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


# ------------------------------------------------------------------- accumulated gradients


def test_a_batch_size_waits_until_accumulated_gradients_are_applied(tmp_path):
    model = classifier(keras.optimizers.SGD(0.01, gradient_accumulation_steps=4))
    panda = resting(tmp_path, model, batch_size=16, shuffle=False)
    panda.run(5)
    entry = panda.set(batch_size=32)
    assert (entry.step, panda.hyperparameters["batch_size"].value) == (8, 16)
    panda.run(5)
    assert panda.history["batch_size"].tolist() == [16] * 8 + [32] * 2
    assert entry in panda.journal
    panda.run(2)
    assert panda.set(batch_size=16).step == 12


# --------------------------------------------------------------------- hands on the model


def test_weights_changed_while_it_rests_are_an_edit_with_a_checkpoint(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    panda.model.set_weights([w * 0.5 for w in panda.model.get_weights()])
    digest = panda.digest()
    panda.run(1)
    assert actions(panda)[-1] == (3, "script", "edit")
    assert panda.checkpoints[-1].digest == digest
    panda.run(2)
    assert [a for _, _, a in actions(panda)].count("edit") == 1


def test_a_layer_frozen_and_thawed_while_it_rests_is_noticed(tmp_path):
    panda = resting(tmp_path)
    panda.run(2)
    dense = panda.model.layers[1]
    dense.trainable = False
    kept = dense.get_weights()[0]
    panda.run(3)
    np.testing.assert_array_equal(dense.get_weights()[0], kept)
    dense.trainable = True
    panda.run(3)
    assert not np.array_equal(dense.get_weights()[0], kept)
    whys = [entry.why for entry in panda.journal if entry.action == "edit"]
    assert whys == [f"{dense.name}.trainable = False", f"{dense.name}.trainable = True"]


def test_a_layer_frozen_from_the_start_can_be_thawed_without_losing_velocities(tmp_path):
    model = demos.dense_network(seed=3)
    model.layers[1].trainable = False
    panda = resting(tmp_path, model)
    panda.run(3)
    before = {v.name: v.numpy() for v in model.optimizer.variables}
    kept = model.layers[1].get_weights()[0]
    model.layers[1].trainable = True
    panda.set(momentum=0.8)
    after = {v.name: v.numpy() for v in model.optimizer.variables}
    assert len(after) == len(before) + 1
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    panda.run(2)
    assert not np.array_equal(model.layers[1].get_weights()[0], kept)


def dropping():
    keras.utils.set_random_seed(3)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def test_call_looks_at_the_model_and_leaves_no_trace(tmp_path):
    looked, alone = resting(tmp_path, dropping(), name="looked"), resting(tmp_path, dropping(), name="alone")
    for panda in (looked, alone):
        panda.run(4)
    found = looked.call(lambda model: model.evaluate(X, Y, verbose=0, return_dict=True))
    drawn = looked.call(lambda model: model(X[:3], training=True).shape)  # draws from the seeds
    assert set(found) == {"loss", "accuracy"}
    assert tuple(drawn) == (3, 10)
    assert looked.digest() == alone.digest()
    for panda in (looked, alone):
        panda.run(9)
    assert looked.digest() == alone.digest()
    assert [a for _, _, a in actions(looked)] == ["fit"]


def test_what_call_changes_is_an_edit_and_what_it_raises_is_raised(tmp_path):
    panda = resting(tmp_path)
    panda.resume()

    def halve(model):
        model.set_weights([w * 0.5 for w in model.get_weights()])

    panda.call(halve)
    assert "edit" in [a for _, _, a in actions(panda)]
    with pytest.raises(ZeroDivisionError):
        panda.call(lambda model: 1 / 0)
    with pytest.raises(TypeError, match="not callable"):
        panda.call("evaluate")
    assert panda.state == "running"
    panda.stop()


# ------------------------------------------------------------------------ memory runs out


class Hungry(keras.layers.Layer):
    """Takes more memory than there is for more than 100 examples."""

    def call(self, inputs):
        n = tf.cast(tf.shape(inputs)[0], tf.int64)
        wanted = tf.where(n > 100, tf.constant(2**44, tf.int64), tf.constant(1, tf.int64))
        return inputs + 0 * tf.reduce_max(tf.fill([wanted], inputs[0, 0]))


def test_a_batch_for_which_memory_does_not_suffice_springs_back(tmp_path):
    def hungry():
        keras.utils.set_random_seed(3)
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), Hungry(), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    panda = resting(tmp_path, hungry())
    panda.run(4)
    rate = panda.hyperparameters["learning_rate"].value
    panda.set(scaling="linear")
    panda.set(batch_size=200)
    panda.run(3)
    assert (panda.state, panda.step) == ("paused", 7)
    values = {name: panda.hyperparameters[name].value for name in ("batch_size", "learning_rate")}
    assert values == {"batch_size": 32, "learning_rate": rate}
    last = panda.journal[-1]
    assert (last.action, last.step, last.changes["batch_size"]) == ("refuse", 4, (200, 32))
    assert "memory" in last.why


def test_a_rewind_keeps_or_restores_who_has_the_learning_rate(tmp_path):
    panda = resting(tmp_path, scheduled())
    panda.run(2)
    panda.save("following")
    panda.set(learning_rate=0.003)
    panda.run(2)
    panda.save("taken")
    back = panda.rewind("following")
    assert back.changes == {"learning_rate": (0.003, "schedule")}
    panda.run(3)
    assert len(set(panda.history["learning_rate"].tolist())) == 5
    kept = panda.rewind("taken", hyperparameters="keep")
    assert kept.changes == {"learning_rate": (0.003, "schedule")}
    panda.run(2)
    assert len(set(panda.history["learning_rate"].tolist())) == 5  # two of the schedule's, 0.003 twice, two more
