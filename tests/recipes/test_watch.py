"""Watch rules: each against a run that has what it looks for, and what is done then."""

import keras
import numpy as np
import pytest

import babysit
from babysit.core.events import ROOT, EpochEnd
from babysit.core.runlog import RunLog, Steps
from babysit.recipes import watch
from babysit.recipes.watch import Seen
from tests.patience import until
from tests.recipes import spiky
from tests.recipes.spiky import SPIKE


@pytest.fixture
def panda(tmp_path):
    panda = spiky.panda(tmp_path / "run")
    yield panda
    panda.stop()


def seen(losses=(), after=0, epochs=(), names=("val_loss",)):
    """What a rule sees of a run with these losses, or epochs."""
    log = RunLog()
    if len(losses):
        log.add_steps(ROOT, Steps(0, ROOT, 1, {"loss": np.asarray(losses, "f4")}))
    for i, values in enumerate(epochs, 1):
        log.add(ROOT, i, EpochEnd(i, dict(zip(names, np.atleast_1d(values).tolist(), strict=True)), True))
    lineage = log.lineage(ROOT)
    return Seen(log, lineage, after, len(losses) or len(epochs), log.epoch_ends(lineage), bool(len(epochs)))


# ------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("after", [0, 128, 199, 200, 299])
def test_a_spike_is_what_numpy_finds_more_than_six_standard_deviations_up(after):
    losses = np.random.default_rng(0).normal(1, 0.1, 400).astype("f4")
    losses[[50, 199, 200, 300]] = 3.0  # too early; a spike; one that the spike before it hides; a spike
    expected = [
        step
        for step in range(129, 401)
        if losses[step - 1] > losses[step - 129 : step - 1].mean() + 6 * losses[step - 129 : step - 1].std()
    ]
    found = watch.spike(seen(losses, after))
    assert found[0] == next(step for step in expected if step > after)
    assert "standard deviations" in found[1]
    assert watch.spike(seen(losses[:199])) is None and watch.spike(seen(losses[:128])) is None


def test_a_plateau_is_where_keras_reduces_the_rate():
    rng = np.random.default_rng(1)
    values = np.concatenate([np.linspace(1, 0.5, 12), 0.5 + 0.001 * rng.random(25), [0.4], 0.4 + rng.random(25)])
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    keras_rule = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=10)
    keras_rule.set_model(model)
    keras_rule.on_train_begin()
    for i, value in enumerate(values, 1):
        before = float(model.optimizer.learning_rate)
        keras_rule.on_epoch_end(i, {"val_loss": value})
        reduced = float(model.optimizer.learning_rate) < before
        assert (watch.plateau(seen(epochs=values[:i])) is not None) == reduced, i
    assert float(model.optimizer.learning_rate) < 0.3  # it was more than once


def test_overfitting_is_told_once_and_needs_a_falling_loss():
    held_out, loss = [1.0, 0.5, 0.51, 0.54, 0.6, 0.4], [1.0, 0.8, 0.7, 0.6, 0.5, 0.4]

    def found(loss):
        epochs = list(zip(held_out, loss, strict=True))
        told = [watch.overfitting(seen(epochs=epochs[:i], names=("val_loss", "loss"))) for i in range(1, 7)]
        return [one is not None for one in told]

    assert found(loss) == [False, False, False, True, False, False]  # 0.54 is 8 % above 0.5
    assert found(loss[:2] + [0.9] * 4) == [False] * 6  # it does not learn by heart, it unlearns
    assert watch.overfitting(seen(epochs=[1.0], names=("loss",))) is None


def test_stalled_is_where_no_falling_line_goes_through_the_losses():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, 2000)
    assert watch.stalled(seen(noise - np.linspace(0, 1, 2000))) is None
    assert watch.stalled(seen(noise + np.linspace(0, 1, 2000)))[0] == 2000
    assert watch.stalled(seen(np.full(2000, 0.7)))[0] == 2000
    assert watch.stalled(seen(np.full(1999, 0.7))) is None
    assert watch.stalled(seen(np.full(2000, np.nan))) is None


# ------------------------------------------------------------------------- what is done


def test_tell_is_a_note_and_a_question_and_changes_nothing(panda, tmp_path):
    told = []
    rule = panda.watch("spike", notify=told.append)
    panda.run(300)
    (alert,) = rule.alerts
    assert (alert.rule, alert.step, alert.then) == ("spike", SPIKE, "tell")
    until(lambda: told == [alert])
    (note,) = [entry for entry in panda.journal if entry.author == "spike"]
    assert (note.action, note.why) == ("note", alert.words)
    assert [one["step"] for one in panda.status()["foresight"]["alerts"]] == [SPIKE]
    alone = spiky.panda(tmp_path / "alone")
    alone.run(300)
    assert alone.digest() == panda.digest()
    alone.stop()


def test_pause_rests_right_after_the_spike(panda):
    panda.watch("spike", then="pause")
    panda.resume()
    until(lambda: panda.state == "paused")
    assert SPIKE <= panda.step < 600
    assert panda.journal[-1].author == "spike" and panda.journal[-1].action == "pause"


def test_halving_acts_as_often_as_it_may_and_then_it_rests(panda):
    rule = panda.watch("spike", then="halve the learning rate", most=1)
    panda.resume()
    until(lambda: panda.state == "paused")
    assert [alert.then for alert in rule.alerts] == ["halve the learning rate", "pause"]
    assert panda.hyperparameters["learning_rate"].value == 0.005
    assert "after 1 times halve the learning rate it rests" in rule.alerts[1].words
    (change,) = [entry for entry in panda.journal if entry.author == "spike" and entry.changes]
    assert change.changes == {"learning_rate": (0.01, 0.005)} and change.step >= SPIKE


def test_rewind_and_skip_leaves_the_batches_out_and_equals_the_same_by_hand(panda, tmp_path):
    panda.watch("spike", then="rewind and skip")
    panda.run(200)
    panda.run(30)
    (back,) = [entry for entry in panda.journal if entry.author == "spike"]
    assert (back.action, back.step) == ("rewind", SPIKE - 100)
    assert panda.history["loss"].max() < 50  # 149 batches of the epoch were left out, the one of the spike too
    by_hand = spiky.panda(tmp_path / "alone")
    by_hand.run(SPIKE)
    by_hand.rewind(SPIKE - 100, skip=200 - (SPIKE - 100) - 1)
    by_hand.run(panda.step - by_hand.step)
    np.testing.assert_array_equal(by_hand.history["loss"], panda.history["loss"])
    by_hand.stop()


def test_a_loss_that_is_not_finite_is_left_behind_and_the_training_goes_on(tmp_path):
    panda = spiky.panda(tmp_path / "run", far=np.inf)
    panda.watch("not finite", then="rewind and skip", most=1)
    panda.resume()
    until(lambda: panda.state == "paused")  # in the second epoch it may not go back any more
    rule = panda._foresight._watches["not finite"]
    assert [(alert.step, alert.then) for alert in rule.alerts][0] == (SPIKE, "rewind and skip")
    assert panda.step > SPIKE and panda.status()["not_finite"]
    with pytest.raises(FloatingPointError):
        panda.wait()
    panda.stop()


def test_a_function_is_a_rule_told_where_it_becomes_true(panda):
    def far_off(history):
        return f"loss {history['loss'].max():.0f}" if history["loss"].max() > 1000 else ""

    rule = panda.watch(far_off, then="pause")
    panda.run(149)
    assert not rule.alerts and panda.status()["foresight"]["rules"] == {"far_off": "pause"}
    panda.resume()
    until(lambda: panda.state == "paused")
    panda.run(5)
    assert len(rule.alerts) == 1 and rule.alerts[0].words.startswith("loss ")
    rule.end()
    assert panda.status()["foresight"]["rules"] == {}


def test_runs_that_stand_still_and_that_learn_by_heart_are_told_of_in_their_epoch(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8)), rng.normal(size=32)  # nothing to be learnt but the noise
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    panda = babysit.Panda(model, tmp_path / "run")
    by_heart, still = panda.watch("overfitting"), panda.watch("plateau", then="pause")
    panda.fit(x, y, validation_split=0.5, batch_size=4, epochs=200, paused=True)
    panda.resume()
    until(lambda: panda.state == "paused")
    held_out, loss = panda.history.epochs["val_loss"], panda.history.epochs["loss"]
    best = [int(held_out[:count].argmin()) for count in range(1, len(held_out) + 1)]
    first = next(i for i, at in enumerate(best) if held_out[i] > 1.05 * held_out[at] and loss[i] < loss[at])
    assert by_heart.alerts[0].step == 4 * (first + 1)
    assert [alert.step for alert in still.alerts] == [4 * (best[-1] + 1 + 10)]  # ten epochs after the best
    panda.stop()


def test_rules_rest_while_something_is_tried(panda):
    rule = panda.watch("spike", then="pause")
    panda.run(140)
    panda.fan(learning_rate=[0.01, 0.02], steps=20)
    assert not rule.alerts
    panda.run(60)
    assert [alert.step for alert in rule.alerts] == [SPIKE]


def test_what_a_rule_or_its_notify_raises_does_not_end_the_training(panda):
    def bad(history):
        raise KeyError("accuracy")

    def unreachable(alert):
        raise OSError("no network")

    panda.watch(bad)
    panda.watch("spike", notify=unreachable)
    panda.run(200)
    until(lambda: sum(entry.action == "refuse" for entry in panda.journal) == 2)
    assert panda.step == 200 and panda.status()["foresight"]["rules"] == {"spike": "tell"}
    assert {entry.author for entry in panda.journal if entry.action == "refuse"} == {"bad", "spike"}


def test_bad_arguments_are_refused(panda):
    for error, given in (
        (ValueError, {"rule": "boredom"}),
        (ValueError, {"rule": "spike", "then": "cry"}),
        (ValueError, {"rule": "spike", "most": -1}),
        (TypeError, {"rule": "spike", "notify": "mail"}),
    ):
        with pytest.raises(error, match="Received"):
            panda.watch(**given)
    assert panda.status()["foresight"]["rules"] == {}
