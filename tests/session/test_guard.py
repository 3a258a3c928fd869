"""A model that is trained, and its other callers: the next cell, the caller's settings, forked children."""

import os

import keras
import numpy as np
import pytest

import babysit
from babysit import demos, runs

(X, Y), _ = demos.digits()
X, Y = X[:320], Y[:320]


def test_the_next_cell_may_evaluate_predict_and_save_at_once(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=1), seed=1).fit(X, Y, epochs=3, shuffle=False)
    assert panda.model.predict(X[:2], verbose=0).shape == (2, 10)
    assert panda.model.evaluate(X, Y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}
    panda.model.save(tmp_path / "model.keras")
    panda.wait()

    twin = demos.dense_network(seed=1)
    history = twin.fit(X, Y, epochs=3, shuffle=False, verbose=0).history
    assert panda.history.history == history
    for ours, theirs in zip(panda.model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nobody_else_trains_it_and_it_is_stock_when_the_run_is_over():
    panda = babysit.Panda(demos.dense_network(seed=1), seed=1).fit(X, Y, epochs=3, paused=True)
    for train in (lambda: panda.model.fit(X, Y), lambda: panda.model.train_on_batch(X[:8], Y[:8])):
        with pytest.raises(RuntimeError, match=r"`stop\(\)` it first"):
            train()
    panda.stop()
    panda.wait()
    assert not {"fit", "evaluate", "predict", "save"} & vars(panda.model).keys()
    panda.model.fit(X, Y, verbose=0)


class Late(keras.Model):
    """Makes its layers in its first step."""

    def build(self, shape):
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(10, "softmax")

    def call(self, inputs):
        return self.dense(self.flat(inputs))


def test_keras_settings_of_the_callers_thread_hold_on_the_training_thread():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = Late()
        model.compile("sgd", "sparse_categorical_crossentropy")
        babysit.Panda(model, seed=1).fit(X, Y).wait()
        assert model.dense.compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_limits_of_epochs_and_steps_are_keras():
    keras.config.set_max_epochs(2)
    keras.config.set_max_steps_per_epoch(3)
    try:
        with pytest.warns(UserWarning, match="Keras limits"):
            panda = babysit.Panda(demos.dense_network(seed=1), seed=1).fit(X, Y, epochs=5).wait()
    finally:
        keras.config.set_max_epochs(None)
        keras.config.set_max_steps_per_epoch(None)
    assert (panda.epoch, panda.step) == (2, 6)


def test_what_runs_at_exit_belongs_to_the_process_that_began_the_run():
    panda = babysit.Panda(demos.dense_network(seed=1)).fit(X, Y, epochs=9, paused=True)
    panda.run(20)
    child = os.fork()
    if child == 0:
        runs._rest_all()  # as at exit
        os._exit(3)
    _, status = os.waitpid(child, 0)
    panda.run(5)
    assert (os.waitstatus_to_exitcode(status), panda.step) == (3, 25)
