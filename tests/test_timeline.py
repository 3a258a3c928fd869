"""Back to any step, on any branch, and on from where a run was cut off."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import babysit
from babysit import demos
from babysit.__main__ import main
from tests.walk import Sampler
from tests.zoo import ZOO, compiled, dense, dial, state, table

X, Y = table(97)["x"], table(97)["y"]


def network(*more):
    keras.utils.set_random_seed(5)
    hidden = [layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dropout(0.2), *more]
    return compiled(dense(*hidden), keras.optimizers.SGD(0.02, momentum=0.9), metrics=["mae"])


def resting(model=None, directory=None, **how):
    how = {"batch_size": 16, "epochs": 9, "paused": True, **how}
    return babysit.Panda(model or network(), directory, seed=7).fit(X, Y, **how)


def digests(panda, script):
    """Takes steps one by one, each behind what is done before it; returns the digest at every step."""
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


def test_every_step_can_be_returned_to_in_any_order():
    panda = resting()
    found = digests(panda, SCRIPT)
    for step in np.random.default_rng(0).permutation(len(found)):
        panda.rewind("branch 1")
        panda.rewind(int(step))
        assert (panda.step, panda.state, panda.digest()) == (step, "paused", found[step])


def test_the_same_deeds_again_give_the_same_digests_and_the_old_branch_stays():
    panda = resting()
    found = digests(panda, SCRIPT)
    losses = panda.history["loss"]
    panda.rewind(3)
    again = {step: acts for step, acts in SCRIPT.items() if step > 3 and step != 11} | {11: SCRIPT[11][:1]}
    for step in range(3, 22):
        for act in again.get(step, ()):
            act(panda)
        assert panda.digest() == found[step]
        panda.run(1)
    np.testing.assert_array_equal(panda.history["loss"], losses[:22])
    assert panda.branches["branch 2"] == ("branch 1", 3)
    panda.rewind("branch 1")
    assert panda.step == len(losses)


# Whose states differ in kind; the whole zoo is trained and returned to a checkpoint in test_zoo.py.
KINDS = [
    "adamw under a cosine with warmup",
    "averaged weights written back every 5 steps",
    "compiled by xla",
    "gan with two optimizers",
    "gradient accumulation",
    "mixed_float16",
    "run eagerly",
    "train_step from scratch",
]


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


def test_a_validation_that_draws_random_numbers_is_done_again():
    panda = resting(network(Noisy()), validation_data=(X[:40], Y[:40]))
    panda.run(9)  # behind the first epoch, of seven steps
    nine = panda.digest()
    panda.run(9)
    panda.rewind(3)
    panda.run(6)
    assert panda.digest() == nine
    panda.rewind(0)
    panda.run(9)
    panda.rewind(9)
    assert panda.digest() == nine


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


def test_an_edit_by_hand_is_reached_from_the_checkpoint_that_holds_it():
    panda = resting()
    panda.run(4)
    panda.model.set_weights([weight * 0.5 for weight in panda.model.get_weights()])
    panda.run(3)
    seven = panda.digest()
    panda.run(9)
    panda.rewind(7)
    assert panda.digest() == seven
    panda.rewind(4)
    panda.run(3)
    assert panda.digest() == seven


def test_a_long_run_of_edits_keeps_to_its_room_and_what_is_gone_is_told(tmp_path, capsys):
    class Halving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])

    panda = babysit.Panda(network(), tmp_path / "run", seed=7)
    panda.fit(X[:32], Y[:32], batch_size=16, epochs=40, callbacks=[Halving()], paused=True)
    room = panda._store._disk_bytes = 20 * _bytes(panda)
    digests = [panda.digest()]
    for step in range(1, 60):
        panda.run(1)
        digests.append(panda.digest())
        if step == 5:
            panda.save("five")
        if step == 31:
            panda.rewind(30)
            panda.run(1)
    panda.stop()
    panda.wait()
    assert _bytes(panda) <= room
    kept = _steps_on_branch_2(panda)
    assert {0, 5, 30, 59} < kept
    assert main(["verify", str(panda.directory)]) == 0, capsys.readouterr().out

    panda._store._in_memory.clear()
    lost = [step for step in range(60) if step // 2 * 2 not in kept and step not in kept][::3]
    assert lost
    for step in lost:
        with pytest.raises(ValueError, match=f"Step {step} comes after what was edited by Halving") as refused:
            panda.rewind(step)
        kept = _steps_on_branch_2(panda)  # fewer, with each new branch
        nearest = [int(found) for found in re.findall(r"step (\d+)", str(refused.value).split("returned to:")[1])]
        assert min(abs(one - step) for one in nearest) <= min(abs(one - step) for one in kept)
        for one in nearest:
            panda.rewind(one)
            assert panda.digest() == digests[one]
            panda.rewind("branch 2")
    replay = babysit.replay(panda.directory, network(), X[:32], Y[:32])
    assert replay.identical and replay.steps < 60
    assert "of branch 2 were not taken again" in " ".join(replay.remarks)


def _steps_on_branch_2(panda):
    places = [(saved.branch, saved.step) for saved in panda.checkpoints]
    return {step for branch, step in places if branch == "branch 2" or (branch == "branch 1" and step <= 30)}


def _bytes(panda):
    return sum(path.stat().st_size for saved in panda.checkpoints for path in saved.path.iterdir())


def test_an_epoch_that_a_callback_cut_short_is_cut_short_again():
    class Short(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.stop_training = True

    panda = resting(callbacks=[Short()])
    panda.resume()
    panda.wait()
    assert (panda.step, panda.epoch) == (3, 1)
    panda.fit(X, Y, batch_size=16, epochs=2, paused=True)
    panda.run(3)
    digest = panda.digest()
    panda.run(3)
    panda.rewind(6)
    assert (panda.epoch, panda.digest()) == (1, digest)
    panda.rewind(3)
    panda.run(3)
    assert panda.digest() == digest


@pytest.mark.filterwarnings("ignore:The data ran out")
@pytest.mark.parametrize(
    "how", [{"steps_per_epoch": 4}, {"shuffle": False}, {"shuffle": "batch"}, {"initial_epoch": 2}]
)
def test_whatever_an_epoch_is(how):
    panda = resting(**how)
    found = digests(panda, {3: [setting(batch_size=10)], 17: []})
    for step in (16, 9, 4, 3, 0):
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]


def test_a_stream_is_gone_through_again():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    panda = babysit.Panda(network(), seed=7).fit(dataset, epochs=9, paused=True)
    found = digests(panda, {3: [setting(batch_size=10)], 17: []})
    for step in (16, 9, 0):
        panda.rewind("branch 1")
        panda.rewind(step)
        assert panda.digest() == found[step]


def test_behind_the_end_it_goes_on_from_the_middle():
    panda = resting(epochs=2)
    panda.resume()
    panda.wait()
    end = panda.digest()
    panda.rewind(5)
    assert (panda.state, panda.epoch) == ("paused", 0)
    panda.resume()
    panda.wait()
    assert (panda.state, panda.digest()) == ("finished", end)


def test_of_an_earlier_fit_on_other_data_the_steps_need_those():
    panda = resting(epochs=1)
    panda.run(3)
    three = panda.digest()
    panda.stop()
    panda.wait()
    panda.fit(X[:64], Y[:64], batch_size=16, epochs=2, paused=True)
    panda.run(2)
    before = panda.digest(), dict(panda.branches)
    with pytest.raises(ValueError, match="data of then"):
        panda.rewind(2)
    assert (panda.digest(), dict(panda.branches)) == before
    panda.stop()
    panda.wait()
    panda.fit(X, Y, batch_size=16, epochs=2, paused=True)
    panda.rewind(2)
    panda.run(1)
    assert panda.digest() == three


def test_through_a_fit_on_other_data_no_way_leads(tmp_path):
    panda = resting(epochs=1)
    panda.run(3)
    panda.stop()
    panda.wait()
    panda.fit(X[:64], Y[:64], batch_size=16, epochs=2, paused=True)
    panda.run(2)
    panda.stop()
    panda.wait()
    panda.fit(X, Y, batch_size=16, epochs=2, paused=True)
    panda.run(2)
    panda._store._in_memory.clear()
    for saved in panda.checkpoints:
        if saved.step in (3, 5):
            shutil.rmtree(saved.path)
    digest = panda.digest()
    with pytest.raises(ValueError, match="data of then"):
        panda.rewind(4)
    assert panda.digest() == digest


def accumulating():
    return compiled(dense(), keras.optimizers.SGD(0.02, momentum=0.9, gradient_accumulation_steps=4))


def test_a_change_that_waited_is_made_once(tmp_path):
    panda = resting(accumulating())
    panda.run(5)
    panda.set(batch_size=24)  # acts behind step 8
    panda.save("waiting")
    panda.run(5)
    ten = panda.digest()
    panda.run(5)
    fifteen = panda.digest()
    panda._store._in_memory.clear()
    panda.rewind(10)
    assert panda.digest() == ten
    panda.run(5)
    assert panda.digest() == fifteen
    assert [entry.changes for entry in panda.journal if entry.action == "set"] == [{"batch_size": (16, 24)}]
    panda.rewind("waiting")  # the instant at which it was saved
    panda.run(5)
    assert panda.digest() == ten


def answers(panda, command):
    return [(entry.action, entry.why) for entry in panda.journal if entry.command == command]


# ------------------------------------------------------------------- keeping, skipping, refusing


def test_kept_values_are_those_of_the_hands_and_come_again():
    panda = resting()
    panda.run(3)
    panda.set(learning_rate=0.2, batch_size=20, momentum=0.1)
    panda.run(3)
    panda.rewind(2, hyperparameters="keep")
    assert {name: panda.hyperparameters[name].value for name in ("learning_rate", "batch_size", "momentum")} == {
        "learning_rate": 0.2,
        "batch_size": 20,
        "momentum": 0.1,
    }
    panda.run(2)
    four = panda.digest()
    panda.run(3)
    panda.rewind(4)
    assert panda.digest() == four


def test_skipped_batches_are_left_out_by_their_place_and_the_rest_is_model_fits():
    def plain():
        keras.utils.set_random_seed(5)
        return compiled(dense(), keras.optimizers.SGD(0.05, momentum=0.9))

    panda = resting(plain(), epochs=1)
    panda.run(4)
    entry = panda.rewind(2, skip=2)
    assert "32 examples left out" in entry.why
    panda.resume()
    panda.wait()
    assert panda.step == 5

    order = Sampler(len(X), seed=7).order
    reference = plain()
    left = np.concatenate([order[:32], order[64:]])
    reference.fit(X[left], Y[left], batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(state(panda.model), state(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_skipped_batches_are_of_the_size_that_is_kept():
    panda = resting()
    panda.run(2)
    panda.set(batch_size=10)
    assert "20 examples left out" in panda.rewind(1, hyperparameters="keep", skip=2).why
    panda.run(1)
    panda.set(batch_size=20)
    assert "32 examples left out" in panda.rewind(0, skip=2).why


def test_a_checkpoint_is_known_by_its_place_whatever_it_is_called_now(tmp_path):
    panda = resting()
    panda.run(2)
    saved = panda.save("two")
    panda.send({"action": "rename", "folder": saved.path.name, "name": "second"})
    panda.run(2)
    assert "“second”" in panda.rewind(saved).why
    assert (panda.step, panda.digest()) == (2, saved.digest)
    other = babysit.Panda(network(), tmp_path / "other", seed=7).fit(X, Y, batch_size=16, paused=True)
    with pytest.raises(ValueError, match="of this run"):
        panda.rewind(other.checkpoints[0])


def test_a_command_to_rewind_to_no_step_is_refused_in_words():
    panda = resting()
    panda.run(2)
    for step in (1.5, "2", True, [2], -1, 3):
        command = panda.send({"action": "rewind", "step": step})
        panda.digest()
        [(action, why)] = answers(panda, command)
        assert action == "refuse" and "whole number from 0 to 2" in why and repr(step) in why
    assert panda.step == 2


def test_what_cannot_be_reached_is_refused_and_nothing_has_changed():
    panda = resting()
    panda.run(9)
    before = panda.digest(), panda.step, dict(panda.branches), len(panda.journal)
    for to, how in (
        (10, {}),
        (-1, {}),
        (3, {"skip": 5}),
        (3, {"skip": -1}),
        (3, {"hyperparameters": "mine"}),
        ("x", {}),
    ):
        with pytest.raises(ValueError):
            panda.rewind(to, **how)
    for to in (True, 2.0, None):
        with pytest.raises(TypeError):
            panda.rewind(to)
    assert (panda.digest(), panda.step, dict(panda.branches), len(panda.journal)) == before
    panda.run(1)
    assert panda.step == 10


def test_a_damaged_checkpoint_is_gone_around():
    panda = resting()
    panda.run(3)
    panda.save("three")
    panda.run(3)
    six = panda.digest()
    panda.run(2)
    panda._store._in_memory.clear()
    tensors = next(saved for saved in panda.checkpoints if saved.name == "three").path / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")
    panda.rewind(6)
    assert panda.digest() == six


# -------------------------------------------------------------------------------- cut off


KILLED = """
    import os
    import babysit
    from babysit import demos
    (x, y), _ = demos.digits()
    panda = babysit.Panda(demos.dense_network(seed=1), {folder!r}, seed=2)
    panda.fit(x, y, epochs=3, paused=True)
    panda.run(10)
    panda.checkpoints  # the start is on disk
    panda.set(learning_rate=0.1)
    panda.run(60)
    panda.set(momentum=0.5, batch_size=48)
    panda.run(5)
    {last}
    panda.set(learning_rate=0.02)
    os._exit(1)  # as when the power goes
"""


@pytest.mark.parametrize("last", ["", "panda.rewind(20, hyperparameters='keep', skip=1); panda.run(7)"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, last):
    code = textwrap.dedent(KILLED.format(folder=str(tmp_path / "run"), last=last))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (x, y), _ = demos.digits()
    panda = babysit.Panda.load(tmp_path / "run").fit(x, y, epochs=3, paused=True)
    assert (panda.step, panda.history.branch) == ((27, "branch 2") if last else (75, "branch 1"))
    assert panda.hyperparameters["learning_rate"].value == 0.02
    panda.resume()
    panda.wait()

    whole = babysit.Panda(demos.dense_network(seed=1), tmp_path / "whole", seed=2).fit(x, y, epochs=3, paused=True)
    whole.run(10)
    whole.set(learning_rate=0.1)
    whole.run(60)
    whole.set(momentum=0.5, batch_size=48)
    whole.run(5)
    if last:
        whole.rewind(20, hyperparameters="keep", skip=1)
        whole.run(7)
    whole.set(learning_rate=0.02)
    whole.resume()
    whole.wait()
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
    panda.run(6)
    fresh = resting(batch_size=20)
    fresh.run(6)
    assert panda.digest() == fresh.digest()
    assert panda.history.to_pandas().equals(fresh.history.to_pandas())
    panda.rewind(4)
    fresh.rewind(4)
    assert panda.digest() == fresh.digest()
    with pytest.raises(ValueError, match="no checkpoint"):
        panda.rewind("branch 1")
    panda.stop()
    panda.wait()
    replay = babysit.replay(tmp_path / "run", network(), X, Y)
    assert replay.identical and replay.compared and replay.steps == 6
    assert [remark for remark in replay.remarks if "The 3 steps of branch 1 were not taken again" in remark]


def test_a_run_cut_off_within_a_validation_ends_its_epoch_when_it_goes_on(tmp_path):
    code = textwrap.dedent(f"""
        import os, keras, babysit
        from babysit import demos
        (x, y), validation = demos.digits()
        class Out(keras.callbacks.Callback):
            def on_test_begin(self, logs=None):
                babysit.attach()._database.flush()
                os._exit(1)
        panda = babysit.Panda(demos.dense_network(seed=1), {str(tmp_path / "run")!r}, seed=2)
        panda.fit(x, y, epochs=2, validation_data=validation, callbacks=[Out()], paused=True)
        panda.checkpoints
        panda.resume()
        panda.wait()
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (x, y), validation = demos.digits()
    panda = babysit.Panda.load(tmp_path / "run").fit(x, y, epochs=2, validation_data=validation).wait()
    whole = babysit.Panda(demos.dense_network(seed=1), tmp_path / "whole", seed=2)
    whole.fit(x, y, epochs=2, validation_data=validation).wait()
    assert panda.digest() == whole.digest()
    assert panda.history.history == whole.history.history
    assert len(panda.history.epochs["val_loss"]) == 2


def test_what_was_cut_off_is_taken_again_from_a_new_generator(tmp_path):
    code = textwrap.dedent(f"""
        import os, babysit
        from tests.test_timeline import network, yielding
        panda = babysit.Panda(network(), {str(tmp_path / "run")!r})
        panda.fit(yielding(), steps_per_epoch=5, epochs=4, paused=True)
        panda.run(4)
        panda.save("four")
        panda.run(3)
        panda.set(momentum=0.5)
        os._exit(1)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1, done.stderr
    panda = babysit.Panda.load(tmp_path / "run", model=network())
    with pytest.warns(UserWarning, match="generator"):
        panda.fit(yielding(), steps_per_epoch=5, epochs=4, paused=True)
    assert (panda.step, panda.history.branch) == (7, "branch 1")  # a new one, that yields the same


def yielding():
    while True:
        yield X[:16], Y[:16]


def test_batches_shuffled_within_are_those_of_their_own_fit():
    panda = resting(shuffle="batch")
    panda.run(3)
    three = panda.digest()
    panda.run(1)
    panda.stop()
    panda.wait()
    panda.fit(X, Y, batch_size=20, epochs=9, shuffle="batch", paused=True)
    panda.run(4)
    only_the_start(panda)
    panda.rewind(3)
    assert panda.digest() == three


@pytest.mark.parametrize("when", ["before the first fit", "at rest", "between two fits"])
def test_a_run_is_loaded_with_the_model_as_it_was_compiled_last(tmp_path, when):
    panda = babysit.Panda(network(), tmp_path / "run", seed=7)
    if when != "before the first fit":
        panda.fit(X, Y, batch_size=16, epochs=9, paused=True)
        panda.run(2)
    if when == "between two fits":
        panda.stop()
        panda.wait()
    panda.model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mae", metrics=["mae"])
    if when != "at rest":
        panda.fit(X, Y, batch_size=16, epochs=9, paused=True)
    panda.run(2)
    panda.stop()
    panda.wait()
    assert babysit.Panda.load(panda.directory).model.loss == "mae"


# --------------------------------------------------------------- where steps do not come again


class Restless(layers.Layer):
    """Draws what nobody could draw again."""

    def call(self, inputs):
        return inputs + 0.01 * tf.random.normal(tf.shape(inputs))


def shuffled_anew():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(97).batch(16)


INEXACT = {
    "data shuffled anew": lambda: babysit.Panda(network()).fit(shuffled_anew(), epochs=9, paused=True),
    "a step that draws": lambda: resting(network(Restless())),
}


@pytest.mark.filterwarnings("ignore:Rewinding is not exact")
@pytest.mark.parametrize("begun", INEXACT.values(), ids=INEXACT.keys())
def test_the_tip_of_what_is_left_is_kept_where_its_steps_would_not_come_again(begun):
    panda = begun()
    panda.run(5)
    panda.save("a")
    panda.run(14)
    tip = panda.digest()
    panda.rewind("a")
    panda.run(3)
    assert panda.rewind("branch 1").step == 19
    assert panda.digest() == tip


@pytest.mark.filterwarnings("ignore:Rewinding is not exact")
def test_who_rewinds_to_where_nothing_is_kept_is_warned_that_it_is_another_state():
    panda = INEXACT["data shuffled anew"]()
    panda.run(9)
    with pytest.warns(UserWarning, match=r"differ from step \d+ on"):
        panda.rewind(7)
