"""Back to any step, on any branch, and on from where a run was cut off."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import babysit
from tests.walk import Sampler
from tests.zoo import ZOO, compiled, dense, dial, state, table

X, Y = table(97)["x"], table(97)["y"]


def network(*more):
    keras.utils.set_random_seed(5)
    hidden = [layers.Dense(8, "tanh"), layers.Dropout(0.2), *more]
    return compiled(dense(*hidden), keras.optimizers.SGD(0.02, momentum=0.9), metrics=["mae"])


def resting(model=None, directory=None, **how):
    how = {"batch_size": 16, "epochs": 9, "paused": True, **how}
    return babysit.Panda(model or network(), directory, seed=7).fit(X, Y, **how)


def digests(panda, script):
    """Takes steps one by one, each after what is done before it; returns the digest at every step."""
    found = []
    for step in range(1 + max(script)):
        for act in script.get(step, ()):
            act(panda)
        found.append(panda.digest())
        panda.run(1)
    return found


def setting(**changes):
    return lambda panda: panda.set(**changes)


SCRIPT = {
    2: [setting(learning_rate=0.05), setting(momentum=0.5)],
    4: [setting(batch_size=24)],
    7: [setting(learning_rate=0.001, over=5)],
    9: [setting(scaling="linear")],
    11: [setting(batch_size=12, why="smaller"), lambda panda: panda.save("eleven")],
    14: [setting(momentum=0.0), setting(learning_rate=0.01)],
    19: [setting(momentum=0.8)],
    22: [],
}


def test_every_step_can_be_returned_to_in_any_order_and_the_same_deeds_again_give_the_same_digests():
    panda = resting(network(layers.BatchNormalization()))
    found = digests(panda, SCRIPT)
    losses = panda.history["loss"]
    for step in np.random.default_rng(0).permutation(len(found))[:8]:
        panda.rewind("branch 1")
        panda.rewind(int(step))
        assert (panda.step, panda.state, panda.digest()) == (step, "paused", found[step])
    panda.rewind("branch 1")
    panda.rewind(3)
    again = {step: acts for step, acts in SCRIPT.items() if step > 3 and step != 11} | {11: SCRIPT[11][:1]}
    for step in range(3, 22):
        for act in again.get(step, ()):
            act(panda)
        assert panda.digest() == found[step]
        panda.run(1)
    np.testing.assert_array_equal(panda.history["loss"], losses[:22])
    assert panda.branches["branch 2"] == ("branch 1", len(losses))
    panda.rewind("branch 1")
    assert panda.step == len(losses)


# Whose states differ in kind; the whole zoo is trained and returned to a checkpoint in test_zoo.py.
KINDS = ["averaged weights written back every 5 steps", "mixed_float16", "train_step from scratch"]


@pytest.mark.parametrize("name", KINDS)
def test_whatever_the_model_a_step_in_the_middle_is_reached_again_and_the_run_replays(name, tmp_path):
    make, arguments = ZOO[name]()
    panda = babysit.Panda(make(), tmp_path / "run", seed=3).fit(**arguments | {"epochs": 3, "verbose": 0}, paused=True)
    panda.run(3)
    which, value = dial(name)
    panda.set(**{which: value})
    panda.run(2)
    middle = panda.digest()
    panda.run(2)
    end = panda.digest()
    panda.rewind(5)
    assert panda.digest() == middle
    panda.run(2)
    assert panda.digest() == end
    panda.stop()
    panda.wait()
    replay = babysit.replay(tmp_path / "run", make(), **arguments | {"epochs": 3})
    assert (replay.identical, replay.first_difference) == (True, None), str(replay)
    assert replay.compared >= 2


# ------------------------------------------------------------------------ what is on the way


class Noisy(layers.Layer):
    """Draws random numbers also where it does not train: validation then changes what training draws."""

    def build(self, shape):
        self.seed = keras.random.SeedGenerator(3)

    def call(self, inputs):
        return inputs + 0.1 * keras.random.normal(tf.shape(inputs), seed=self.seed)


def test_an_earlier_fit_is_validated_as_it_was_and_not_as_the_present_one():
    panda = resting(network(Noisy()), validation_data=(X[:40], Y[:40]), validation_freq=2)
    found = {}
    for how in ({}, {"validation_data": (X[40:], Y[40:])}):
        for _ in range(2):
            panda.run(7 * 2 + 3)
            found[panda.step] = panda.digest()
        panda.stop()
        panda.wait()
        panda.fit(X, Y, batch_size=16, epochs=9, paused=True, **how)
    only_the_start(panda)
    for step in found:
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]


def only_the_start(panda):
    """Leaves the start as the only state to come back from: the rest has to be trained again."""
    panda._store._in_memory.clear()
    for saved in panda.checkpoints:  # which waits for what is to be written
        if saved.step:
            shutil.rmtree(saved.path)


def test_what_callbacks_changed_is_changed_again_without_them():
    calls = []

    class Lowering(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            calls.append(epoch)
            self.model.optimizer.learning_rate = 0.02 / (epoch + 2)

    panda = resting(callbacks=[Lowering()])
    panda.run(16)
    digest = panda.digest()
    panda.run(3)
    known = list(calls)
    panda.rewind(16)
    assert panda.digest() == digest
    assert calls == known
    assert panda.hyperparameters["learning_rate"].value == np.float32(0.02 / 3)


@pytest.mark.filterwarnings("ignore:The data ran out")
def test_batches_shuffled_within_and_epochs_of_a_number_of_steps_are_those_of_their_own_fit():
    panda = resting(shuffle="batch", steps_per_epoch=4)
    found = digests(panda, {3: [setting(batch_size=10)], 10: []})
    panda.stop()
    panda.wait()
    panda.fit(X, Y, batch_size=20, epochs=9, shuffle="batch", paused=True)
    panda.run(2)
    only_the_start(panda)
    for step in (9, 4, 3):
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]


def test_a_stream_is_gone_through_again():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    panda = babysit.Panda(network(), seed=7).fit(dataset, epochs=9, paused=True)
    found = digests(panda, {3: [setting(batch_size=10)], 12: []})
    for step in (11, 5, 0):
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]


def test_steps_of_an_earlier_fit_on_other_data_need_those():
    panda = resting(epochs=1)
    panda.run(3)
    three = panda.digest()
    panda.stop()
    panda.wait()
    panda.fit(X[:64], Y[:64], batch_size=16, epochs=2, paused=True)
    panda.run(2)
    before = panda.digest(), dict(panda.branches)
    with pytest.raises(ValueError, match="data that it had|made with other data"):  # if a state is kept there
        panda.rewind(2)
    assert (panda.digest(), dict(panda.branches)) == before
    panda.stop()
    panda.wait()
    panda.fit(X, Y, batch_size=16, epochs=2, paused=True)
    panda.rewind(2)
    panda.run(1)
    assert panda.digest() == three


# ------------------------------------------------------------------- keeping, skipping, refusing


def test_skipped_batches_are_left_out_by_their_place_and_the_rest_is_model_fits():
    def plain():
        keras.utils.set_random_seed(5)
        return compiled(dense(), keras.optimizers.SGD(0.05, momentum=0.9))

    panda = resting(plain(), epochs=1)
    panda.run(4)
    entry = panda.rewind(2, skip=2)
    assert "32 examples skipped" in entry.why
    panda.resume()
    panda.wait()
    assert panda.step == 5

    order = Sampler(len(X), seed=7).order
    reference = plain()
    left = np.concatenate([order[:32], order[64:]])
    reference.fit(X[left], Y[left], batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(state(panda.model), state(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_is_known_by_its_place_and_what_is_none_is_refused_and_nothing_has_changed(tmp_path):
    panda = resting()
    panda.run(2)
    saved = panda.save("two")
    panda.send({"action": "rename", "folder": saved.path.name, "name": "second"})
    panda.run(2)
    assert "“second”" in panda.rewind(saved).why
    assert (panda.step, panda.digest()) == (2, saved.digest)
    other = babysit.Panda(network(), tmp_path / "other", seed=7).fit(X, Y, batch_size=16, paused=True)
    before = panda.digest(), panda.step, dict(panda.branches), len(panda.journal)
    for to, how in ((other.checkpoints[0], {}), (10, {}), (-1, {}), (1, {"skip": 6}), (1, {"skip": -1}), ("x", {}),
                    (1, {"hyperparameters": "mine"}), (True, {}), (2.0, {}), (None, {})):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            panda.rewind(to, **how)
    assert (panda.digest(), panda.step, dict(panda.branches), len(panda.journal)) == before
    panda.run(1)
    assert panda.step == 3


# -------------------------------------------------------------------------------- cut off


def cut_off(panda, folder):
    """A copy of a run's folder as a kill would leave it now: what is in memory alone is lost."""
    panda._store.settle()
    panda._database.flush()
    return shutil.copytree(panda.directory, folder)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = resting(directory=tmp_path / "whole", epochs=4)
    whole.run(4)
    whole.set(learning_rate=0.1)
    whole.run(11)
    whole.set(momentum=0.5, batch_size=24)
    whole.run(5)
    whole.rewind(9, hyperparameters="keep", skip=1)
    whole.run(4)
    whole.set(learning_rate=0.02)
    folder = cut_off(whole, tmp_path / "run")
    for one in sorted((folder / "checkpoints").iterdir())[1:]:  # as where none was written since the start
        shutil.rmtree(one)
    panda = babysit.Panda.load(folder, network()).fit(X, Y, epochs=4, paused=True)
    assert (panda.step, panda.history.branch, panda.digest()) == (13, "branch 2", whole.digest())
    assert panda.hyperparameters["learning_rate"].value == 0.02
    for one in (panda, whole):
        one.resume()
        one.wait()
    assert panda.digest() == whole.digest()
    np.testing.assert_array_equal(panda.history["loss"], whole.history["loss"])
    np.testing.assert_array_equal(panda.history["learning_rate"], whole.history["learning_rate"])
    assert panda.history.history == whole.history.history


def test_a_run_of_which_no_checkpoint_is_left_begins_anew_on_a_branch_of_its_own(tmp_path):
    panda = resting(directory=tmp_path / "run")
    panda.run(3)
    panda.set(momentum=0.3)
    panda.rewind(2)
    panda.run(3)
    panda.stop()
    panda.wait()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    panda = babysit.Panda.load(tmp_path / "run", network()).fit(X, Y, batch_size=20, epochs=9, paused=True)
    assert panda.branches["branch 3"] == ("branch 1", 0)
    assert ("rewind", 0, "branch 3") in [(entry.action, entry.step, entry.branch) for entry in panda.journal]
    assert "from step 5" in panda.journal[-2].why
    panda.run(3)
    fresh = resting(batch_size=20)
    fresh.run(3)
    assert panda.digest() == fresh.digest()
    assert panda.history.to_pandas().equals(fresh.history.to_pandas())
    with pytest.raises(ValueError, match="no checkpoint"):
        panda.rewind("branch 1")


def test_a_run_cut_off_within_a_validation_ends_its_epoch_when_it_goes_on(tmp_path):
    class Out(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            if not (tmp_path / "run").exists():
                cut_off(whole, tmp_path / "run")

    how = {"batch_size": 16, "epochs": 2, "validation_data": (X[:40], Y[:40])}
    whole = babysit.Panda(network(), tmp_path / "whole", seed=7)
    whole.fit(X, Y, callbacks=[Out()], **how).wait()
    panda = babysit.Panda.load(tmp_path / "run", network()).fit(X, Y, **how).wait()
    assert panda.digest() == whole.digest()
    assert panda.history.history == whole.history.history
    assert len(panda.history.epochs["val_loss"]) == 2


def test_what_was_cut_off_is_taken_again_from_a_new_generator(tmp_path):
    def begun(panda):
        with pytest.warns(UserWarning, match="generator"):
            return panda.fit(yielding(), steps_per_epoch=5, epochs=4, paused=True)

    panda = begun(babysit.Panda(network(), tmp_path / "whole"))
    panda.run(4)
    panda.save("four")
    panda.run(3)
    panda.set(momentum=0.5)
    again = begun(babysit.Panda.load(cut_off(panda, tmp_path / "run"), model=network()))
    assert (again.step, again.history.branch, again.digest()) == (7, "branch 1", panda.digest())  # it yields the same


def yielding():
    while True:
        yield X[:16], Y[:16]


@pytest.mark.parametrize("when", ["at rest", "between two fits"])
def test_a_run_is_loaded_with_the_model_as_it_was_compiled_last(tmp_path, when):
    panda = babysit.Panda(network(), tmp_path / "run", seed=7).fit(X, Y, batch_size=16, epochs=9, paused=True)
    panda.run(2)
    if when == "between two fits":
        panda.stop()
        panda.wait()
    panda.model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mae", metrics=["mae"])
    if when == "between two fits":
        panda.fit(X, Y, batch_size=16, epochs=9, paused=True)
    panda.run(2)
    panda.stop()
    panda.wait()
    assert babysit.Panda.load(panda.directory).model.loss == "mae"


# --------------------------------------------------------------- where steps do not come again


@pytest.mark.filterwarnings("ignore:Rewinding is not exact")
def test_where_steps_do_not_come_again_the_tip_of_what_is_left_is_kept_and_who_goes_elsewhere_is_warned():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(97).batch(16)
    panda = babysit.Panda(network()).fit(data, epochs=9, paused=True)
    panda.run(5)
    panda.save("a")
    panda.run(14)
    tip = panda.digest()
    panda.rewind("a")
    panda.run(3)
    assert panda.rewind("branch 1").step == 19
    assert panda.digest() == tip
    with pytest.warns(UserWarning, match=r"differ from step \d+ on"):
        panda.rewind(17)
