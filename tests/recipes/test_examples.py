"""The rows of a step's batch, and what caused a spike."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit.recipes import cause as recipe
from babysit.session import rewind
from babysit.session.rerun import reach
from tests.recipes import spiky
from tests.recipes.spiky import SPIKE


@pytest.fixture
def panda(tmp_path):
    panda = spiky.panda(tmp_path / "run")
    yield panda
    panda.stop()


def test_training_on_the_rows_of_each_step_gives_its_loss(tmp_path):
    panda = spiky.panda(tmp_path / "run", shuffle=True, batch_size=96)  # a last batch of 32
    twin = keras.models.clone_model(panda.model)
    twin.compile(keras.optimizers.SGD(0.01), "mse")
    twin.set_weights(panda.model.get_weights())
    panda.run(11)
    panda.set(batch_size=50, over=3)
    panda.run(30)
    panda.rewind(20, skip=2)
    panda.run(25)
    x, y = spiky.data()
    sizes = []
    for step in range(1, panda.step + 1):
        rows = panda.examples(step)
        sizes.append(len(rows))
        twin.reset_metrics()
        loss = twin.train_on_batch(x[rows], y[rows])
        np.testing.assert_allclose(loss, panda.history["loss"][step - 1], rtol=1e-4)
    assert sizes[:9] == [96] * 8 + [32] and 50 in sizes
    panda.stop()


def test_the_rows_of_the_spike_hold_the_example_that_is_far_off(panda):
    panda.run(200)
    step = int(panda.history["loss"].argmax()) + 1
    assert step == SPIKE and spiky.BATCH * (SPIKE - 1) in panda.examples(step)
    with pytest.raises(ValueError, match="from 1 to 200"):
        panda.examples(201)


def test_batches_that_come_one_after_another_have_no_rows(tmp_path):
    x, y = spiky.data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    panda = babysit.Panda(model, tmp_path / "run").fit(dataset, epochs=2, paused=True)
    panda.run(3)
    with pytest.raises(ValueError, match="needs a fit with data in arrays"):
        panda.examples(2)
    panda.stop()


def test_the_cause_of_a_bad_batch_is_the_batch(panda):
    panda.run(SPIKE + 10)
    digest = panda.digest()
    cause = panda.cause(SPIKE)
    assert cause.verdict.startswith("It is the batches")
    assert [trial.value for trial in cause.trials] == ["as it was", "without the batches", "half the rate"]
    np.testing.assert_array_equal(cause.trials[0].losses[:12], panda.history["loss"][SPIKE - 2 :])
    assert (panda.state, panda.digest()) == ("paused", digest)
    assert "It is the batches" in repr(cause)
    cause.keep(cause.trials[1])
    assert panda.history["loss"].max() < 100


def test_where_the_steps_taken_again_differ_the_cause_says_so(panda, monkeypatch):
    panda.run(SPIKE + 10)
    monkeypatch.setattr(rewind, "reach", lambda *given: reach(*given) or SPIKE - 3)
    assert f"differ from step {SPIKE - 3:,} on" in panda.cause(SPIKE).verdict


def test_the_cause_of_a_rate_that_is_too_high_is_the_rate(tmp_path):
    panda = spiky.panda(tmp_path / "run", far=0.0)
    panda.run(40)
    panda.set(learning_rate=0.9)
    panda.run(10)
    cause = panda.cause(43)
    assert cause.verdict.startswith("It is the learning rate"), cause
    panda.stop()


def test_a_step_that_was_not_taken_has_no_cause(panda):
    panda.run(20)
    digest = panda.digest()
    for step in (0, 1, 21, "ten"):
        with pytest.raises((ValueError, TypeError), match="Received"):
            panda.cause(step)
        assert panda.digest() == digest and panda.state == "paused"


def test_the_last_batch_of_an_epoch_cannot_be_left_out_and_the_others_around_it_can(tmp_path, monkeypatch):
    monkeypatch.setattr(spiky, "SPIKE", 200)
    panda = spiky.panda(tmp_path / "run")
    panda.run(230)
    digest = panda.digest()
    for step, ways in [(199, 3), (200, 2), (201, 3), (202, 3)]:
        cause = panda.cause(step)
        assert len(cause.trials) == ways and f"in {'two' if ways == 2 else 'three'} ways" in cause.title
        assert (cause.step, panda.digest()) == (step - 2, digest)
        np.testing.assert_array_equal(cause.trials[0].losses, panda.history["loss"][step - 2 :][:20])
        if step == 200:
            assert cause.verdict == "At half the rate there still is a spike. " + recipe._LAST
    panda.stop()
