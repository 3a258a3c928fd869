"""A model whose class overrides `fit` trains by that, and is steered between its steps."""

import keras
import numpy as np
import pytest

import babysit
from babysit import demos

(X, Y), VALIDATION = demos.digits()
X, Y = X[:160], Y[:160]


class Brightened(keras.Sequential):
    """Does something to its data before it trains as any model does."""

    def fit(self, x, y, factor=2.0, **how):
        return super().fit(x * factor, y, **how)


def make():
    keras.utils.set_random_seed(3)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = Brightened(layers)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def begun(tmp_path, model, **how):
    panda = babysit.Panda(model, tmp_path / "run")
    with pytest.warns(UserWarning, match="`Brightened` overrides `fit`"):
        return panda.fit(X, Y, **{"epochs": 3, "shuffle": False, **how})


def test_it_trains_as_its_own_fit_does(tmp_path):
    ours, theirs = make(), make()
    seen = []
    hear = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    panda = begun(tmp_path, ours, validation_data=VALIDATION, callbacks=[hear]).wait(60)
    fit = theirs.fit(X, Y, epochs=3, shuffle=False, validation_data=VALIDATION, verbose=0)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert panda.history.history == fit.history
    assert (panda.state, panda.step, panda.epoch, seen) == ("finished", 15, 3, [0, 1, 2])
    assert [entry.action for entry in panda.journal] == ["fit", "finish"]
    assert "overrides `fit`" in panda.journal[0].why


@pytest.mark.parametrize("begins_with", [0.9, 0.0])
def test_what_is_set_acts_though_the_model_was_traced_before_or_the_step_becomes_another(tmp_path, begins_with):
    ours, theirs = make(), make()
    theirs.optimizer.build(theirs.trainable_variables)  # with velocities, which Keras makes at no later time
    for model in (ours, theirs):
        model.optimizer.momentum = begins_with
        model.fit(X[:32], Y[:32], verbose=0)
    panda = begun(tmp_path, ours, epochs=1, paused=True)
    panda.run(2)
    panda.set(momentum=0.5)
    panda.resume()
    panda.wait(60)

    def turn(batch, logs=None):
        theirs.optimizer.momentum = 0.5
        theirs.make_train_function(force=True)

    theirs.make_train_function(force=True)
    turning = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: turn(batch) if batch == 1 else None)
    theirs.fit(X, Y, shuffle=False, verbose=0, callbacks=[turning])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_between_its_steps_it_rests_is_steered_saved_and_stopped(tmp_path):
    model = make()
    panda = begun(tmp_path, model, epochs=1000, paused=True)
    panda.run(4)
    assert (panda.state, panda.step) == ("paused", 4)
    kept = model.get_weights()[0]
    panda.set(learning_rate=0.0)
    panda.set(momentum=0.0)
    saved = panda.save("here")
    panda.run(3)
    np.testing.assert_array_equal(model.get_weights()[0], kept)
    assert (saved.step, panda.step) == (4, 7)
    assert panda.history["learning_rate"].tolist() == [0.05] * 4 + [0.0] * 3
    with pytest.raises(ValueError, match="fit of the model's own"):
        panda.rewind("here")
    assert "batch_size" not in panda.hyperparameters
    panda.resume()
    panda.stop()
    panda.wait(60)
    assert panda.state == "stopped"
    assert panda.model.optimizer.momentum == 0.0
