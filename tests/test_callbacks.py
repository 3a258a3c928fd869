"""Keras's callbacks, and a user's own, have the effect under a panda that they have under `Model.fit`."""

import functools
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import callbacks, layers

import babysit
from babysit.engine.callbacks import Callbacks
from tests.patience import until
from tests.zoo import compiled, dense, state, table

DATA = table(88)  # five batches of 16 and one of 8
X, Y = DATA["x"], DATA["y"]
VALIDATION = (X[:30] + 0.5, Y[:30])
STEPS = 6
HOW: dict[str, Any] = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0, "validation_data": VALIDATION}


def network(optimizer: Any = None, **how: Any) -> keras.Model:
    keras.utils.set_random_seed(19)
    optimizer = optimizer or keras.optimizers.SGD(0.02, momentum=0.9)
    return compiled(dense(layers.Dense(8, "tanh"), layers.Dropout(0.1)), optimizer, metrics=["mae"], **how)


def forgetful() -> keras.Model:
    """A model whose loss soon grows again: its learning rate is too large."""
    return network(keras.optimizers.SGD(0.35, momentum=0.9))


@functools.cache
def stock() -> tuple[keras.Model, list[np.ndarray]]:
    """A `network()` that `Model.fit` compiles once, and what its variables hold at the beginning."""
    model = network()
    model.optimizer.build(model.trainable_variables)
    return model, [variable.numpy() for variable in model.variables + model.optimizer.variables]


def reference() -> keras.Model:
    """The one of `stock`, as if it had never been trained."""
    model, values = stock()
    for variable, value in zip(model.variables + model.optimizer.variables, values, strict=True):
        variable.assign(value)
    return model


@functools.cache
def own() -> babysit.Panda:
    """A panda of a `network()`, which compiles it once."""
    return babysit.Panda(network(), "shared", seed=7)


def at_its_start() -> babysit.Panda:
    """The one of `own`, taken back to its first step; its journal goes on."""
    panda = own()
    if panda.state != "idle":
        panda.rewind(panda.checkpoints[0])  # as it was before a callback changed something at step 0
        panda.stop()
        panda.wait(60)
    return panda


@functools.cache
def after(steps: int) -> list[np.ndarray]:
    """State of `network()` when `Model.fit` has taken so many steps."""
    model = reference()
    # On all the data: on those of whole batches alone, `Model.fit` makes a graph for one size, which rounds otherwise.
    model.fit(X, Y, batch_size=16, epochs=9, shuffle=False, verbose=0, callbacks=[StopsAt(steps)])
    return state(model)


class Both:
    """A panda and `Model.fit`, each with a model and with callbacks of its own."""

    def __init__(self, folder: Path, make: Callable[[Path], list[Any]], model: Callable[[], Any] = network) -> None:
        self.folders = [folder / "ours", folder / "theirs"]
        for path in self.folders:
            path.mkdir()
        is_shared = model is network
        self.panda = at_its_start() if is_shared else babysit.Panda(model(), folder / "run", seed=7)
        self.ours, self.theirs = self.panda.model, reference() if is_shared else model()
        self.since = len(self.panda.journal)
        self.our_callbacks, self.their_callbacks = make(self.folders[0]), make(self.folders[1])

    def fit(self, **how: Any) -> "Both":
        """Trains both, to the same end."""
        how = HOW | how
        self.panda.fit(X, Y, callbacks=self.our_callbacks, **how).wait(60)
        self.fitted = self.theirs.fit(X, Y, callbacks=self.their_callbacks, **how)
        return self

    def assert_equal(self) -> None:
        """Weights, optimizers' variables and history are the same."""
        assert_equal(state(self.ours), state(self.theirs))
        assert self.panda.step == int(self.theirs.optimizer.iterations)
        ours, theirs = self.panda.history.history, self.fitted.history
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])

    @property
    def journal(self) -> list[babysit.Entry]:
        """What was done in this test."""
        return self.panda.journal[self.since :]

    def edits(self, action: str, author: str) -> list[babysit.Entry]:
        return [entry for entry in self.journal if (entry.action, entry.author) == (action, author)]


def assert_equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- which hooks, when, with what


class Recorder(callbacks.Callback):
    """Writes down every hook: its name, its number, its logs, and how many steps were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def record(self, hook: str, *arguments: Any, logs: dict[str, float] | None = None) -> None:
        self.calls.append((hook, *arguments, dict(logs or {}), int(self.model.optimizer.iterations)))


def _hook(name: str) -> Callable[..., None]:
    if "train_begin" in name or "train_end" in name or "test_begin" in name or "test_end" in name:
        return lambda self, logs=None: self.record(name, logs=logs)
    return lambda self, number, logs=None: self.record(name, number, logs=logs)


HOOKS = [f"on_{what}_{when}" for what in ("train", "epoch", "test") for when in ("begin", "end")]
BATCH_HOOKS = [f"on_{what}_batch_{when}" for what in ("train", "test") for when in ("begin", "end")]


def recorder(hooks: list[str]) -> Recorder:
    """A callback that overrides these hooks alone."""
    return type("Recorder", (Recorder,), {name: _hook(name) for name in hooks})()


def test_hooks_are_called_in_fits_order_with_fits_numbers_and_logs(tmp_path):
    both = Both(tmp_path, lambda folder: [recorder(HOOKS + BATCH_HOOKS)]).fit()
    both.assert_equal()
    assert both.our_callbacks[0].calls == both.their_callbacks[0].calls
    assert both.our_callbacks[0].params == both.their_callbacks[0].params == {"verbose": 0, "epochs": 3, "steps": STEPS}
    assert both.our_callbacks[0].model is both.ours
    assert [entry.action for entry in both.journal] == ["fit", "finish"]  # it changes nothing


def test_hooks_of_batches_come_once_an_execution_of_several_steps(tmp_path):
    hooks = HOOKS + BATCH_HOOKS
    both = Both(tmp_path, lambda folder: [recorder(hooks)], lambda: network(steps_per_execution=4)).fit()
    both.assert_equal()
    assert both.our_callbacks[0].calls == both.their_callbacks[0].calls


def test_hooks_number_batches_and_epochs_as_fit_does_from_a_later_epoch_and_in_part_of_the_data(tmp_path):
    both = Both(tmp_path, lambda folder: [recorder(HOOKS + BATCH_HOOKS)], lambda: network())
    both.fit(initial_epoch=1, steps_per_epoch=2, validation_steps=1, validation_freq=2)
    both.assert_equal()
    assert both.our_callbacks[0].calls == both.their_callbacks[0].calls
    assert both.our_callbacks[0].params == both.their_callbacks[0].params


def test_a_callback_list_is_taken_as_it_is(tmp_path):
    both = Both(tmp_path, lambda folder: [])
    lists = [callbacks.CallbackList([recorder(HOOKS)], add_history=True, model=m) for m in (both.ours, both.theirs)]
    both.our_callbacks, both.their_callbacks = lists
    both.fit().assert_equal()
    assert lists[0].callbacks[0].calls == lists[1].callbacks[0].calls


def test_a_lambda_callback_alone_is_called_as_in_fit_and_the_model_holds_the_history_that_fit_leaves(tmp_path):
    heard: dict[str, list[Any]] = {"ours": [], "theirs": []}

    def make(folder: Path) -> list[Any]:
        write = heard[folder.name].append
        numbered = ["on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"]
        hooks = {name: lambda n, logs, name=name: write((name, n, dict(logs or {}))) for name in numbered}
        ends = {
            name: lambda logs, name=name: write((name, dict(logs or {}))) for name in ("on_train_begin", "on_train_end")
        }
        return callbacks.LambdaCallback(**hooks, **ends)

    both = Both(tmp_path, make).fit()
    both.assert_equal()
    assert heard["ours"] == heard["theirs"]
    ours, theirs = both.ours.history, both.theirs.history
    assert isinstance(ours, callbacks.History)
    assert (ours.history, ours.epoch, ours.params) == (theirs.history, theirs.epoch, theirs.params)
    assert ours.model is both.ours


def test_after_its_end_a_run_that_is_rewound_begins_and_ends_again(tmp_path):
    heard: list[str] = []
    ends = {name: lambda logs, name=name: heard.append(name) for name in ("on_train_begin", "on_train_end")}
    panda = babysit.Panda(network(), tmp_path / "run", seed=1)
    panda.fit(X, Y, epochs=2, callbacks=callbacks.LambdaCallback(**ends)).wait(60)
    for _ in range(2):
        panda.rewind(3)
        panda.rewind(2)
        panda.resume()
        panda.wait(60)
    panda.rewind(1)
    panda.stop()
    panda.wait(60)
    assert panda.state == "stopped" and heard == ["on_train_begin", "on_train_end"] * 4


# --------------------------------------------------------------------------- stock callbacks


def test_early_stopping_stops_and_restores_the_best_weights(tmp_path):
    make = lambda folder: [callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)]  # noqa: E731
    both = Both(tmp_path, make, forgetful).fit(epochs=20)
    both.assert_equal()
    ours, theirs = both.our_callbacks[0], both.their_callbacks[0]
    assert 0 < ours.stopped_epoch == theirs.stopped_epoch < 19
    assert (ours.best_epoch, ours.best) == (theirs.best_epoch, theirs.best)
    assert [entry.step for entry in both.edits("edit", "EarlyStopping")] == [both.panda.step]
    assert both.panda.state == "finished"
    last = both.panda.journal[-1]
    assert (last.action, last.author) == ("finish", "EarlyStopping")
    assert last.why == f"in epoch {ours.stopped_epoch + 1} of 20"


class Rates(callbacks.Callback):
    """Writes down each learning rate that differs from the one before, and after how many steps it came."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, np.float32]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        rate = np.float32(self.model.optimizer.learning_rate.numpy())
        if not self.found or self.found[-1][1] != rate:
            self.found.append((int(self.model.optimizer.iterations), rate))

    on_epoch_end = on_epoch_begin


def test_a_scheduled_learning_rate_is_a_change_of_the_callbacks(tmp_path):
    def make(folder: Path) -> list[Any]:
        return [callbacks.LearningRateScheduler(lambda epoch, rate: 0.02 if epoch < 2 else rate * 0.5), Rates()]

    both = Both(tmp_path, make).fit(epochs=5)
    both.assert_equal()
    assert_journaled(both, "LearningRateScheduler")


def assert_journaled(both: Both, author: str) -> None:
    """Every change of the learning rate is an entry at its boundary, and acts from the next step on."""
    panda, rates = both.panda, both.their_callbacks[1].found
    assert both.our_callbacks[1].found == rates
    changes = [(entry.step, np.float32(entry.changes["learning_rate"][1])) for entry in both.edits("set", author)]
    assert changes == rates[1:] != []
    assert np.float32(panda.hyperparameters["learning_rate"].value) == rates[-1][1]
    steps = np.arange(panda.step)
    in_effect = np.array([rate for _, rate in rates])[np.searchsorted([at for at, _ in rates], steps, "right") - 1]
    np.testing.assert_array_equal(np.float32(panda.history["learning_rate"]), in_effect)


class Warmup(callbacks.Callback):
    """Raises the learning rate with each step, by hand."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        steps = int(self.model.optimizer.iterations)
        self.model.optimizer.learning_rate.assign(0.02 * min(1, (steps + 1) / 10))


def test_a_learning_rate_written_before_each_step_acts_on_that_step(tmp_path):
    both = Both(tmp_path, lambda folder: [Warmup()]).fit()
    both.assert_equal()
    rates = np.float32(0.02 * np.minimum(1, np.arange(1, 3 * STEPS + 1) / 10))
    np.testing.assert_array_equal(np.float32(both.panda.history["learning_rate"]), rates)


def spoilt(**how: Any) -> dict[str, Any]:
    """What `fit` is given: data whose third step has an infinite loss."""
    y = Y.copy()
    y[40] = np.inf
    return {"x": X, "y": y, "batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0} | how


def test_a_loss_that_is_not_finite_terminates_training_where_fit_ends(tmp_path):
    both = Both(tmp_path, lambda folder: [callbacks.TerminateOnNaN(), recorder(HOOKS)], lambda: network())
    both.panda.fit(**spoilt(callbacks=both.our_callbacks)).wait(60)
    both.fitted = both.theirs.fit(**spoilt(callbacks=both.their_callbacks))
    assert both.panda.step == 3
    both.assert_equal()
    ours, theirs = both.our_callbacks[1].calls, both.their_callbacks[1].calls
    np.testing.assert_equal(ours, theirs)  # in which NaN is NaN
    assert both.panda.state in ("finished", "stopped")


def test_a_loss_that_is_not_finite_raises_where_the_callback_says_so(tmp_path):
    panda = babysit.Panda(network(), tmp_path / "run", seed=7)
    with pytest.raises(RuntimeError, match="NaN or Inf loss"):
        panda.fit(**spoilt(callbacks=[callbacks.TerminateOnNaN(raise_error=True)])).wait(60)
    assert panda.state == "failed"


CHECKPOINTS: dict[str, dict[str, Any]] = {
    "{epoch}.keras": {},
    "best.weights.h5": {"save_weights_only": True, "save_best_only": True, "monitor": "mae", "mode": "min"},
    "{epoch}-{batch}.weights.h5": {"save_weights_only": True, "save_freq": 4},
}


def test_model_checkpoints_hold_what_fits_hold(tmp_path):
    def make(folder: Path) -> list[Any]:
        return [callbacks.ModelCheckpoint(folder / pattern, **how) for pattern, how in CHECKPOINTS.items()]

    both = Both(tmp_path, make).fit()
    both.assert_equal()
    ours, theirs = (sorted(folder.iterdir()) for folder in both.folders)
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert len(ours) > len(CHECKPOINTS)
    for mine, keras_s in zip(ours, theirs, strict=True):
        mine, keras_s = saved(mine), saved(keras_s)
        # Keras saves no seeds, and names optimizers as it makes them.
        assert_equal(*([v.numpy() for v in m.weights + m.optimizer.variables] for m in (mine, keras_s)))
        assert mine.optimizer.get_config() | {"name": ""} == keras_s.optimizer.get_config() | {"name": ""}


def saved(path: Path) -> keras.Model:
    if path.name.endswith(".keras"):
        return keras.saving.load_model(path)
    model = network()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return model


def test_a_csv_log_and_tensorboard_get_the_same_logs(tmp_path, monkeypatch):
    told: list[tuple[str, int, np.ndarray]] = []  # TensorFlow writes nothing where TensorBoard is not installed

    def tell(name: str, data: Any, step: Any = None, **more: Any) -> None:
        if "per_second" not in name:
            told.append((name.split("/", 2)[-1], int(step), np.asarray(data)))  # without the names of model and layer

    summary = importlib.import_module("tensorflow.summary")  # as Keras finds it
    monkeypatch.setattr(summary, "scalar", tell)
    monkeypatch.setattr(summary, "histogram", tell)

    def make(folder: Path) -> list[Any]:
        board = callbacks.TensorBoard(folder, histogram_freq=1, update_freq=2, write_steps_per_second=True)
        return [board, callbacks.CSVLogger(folder / "log.csv", separator=";")]

    both = Both(tmp_path, make, lambda: network()).fit()
    both.assert_equal()
    ours, theirs = told[: len(told) // 2], told[len(told) // 2 :]
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs] != []
    assert_equal([entry[2] for entry in ours], [entry[2] for entry in theirs])
    assert any((both.folders[0] / "train").iterdir())
    logs = [(folder / "log.csv").read_text() for folder in both.folders]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4


class Interrupts(callbacks.Callback):
    """Raises when so many epochs are done."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 == self.epochs:
            raise KeyError("interrupted")


def test_an_interrupted_run_is_restored_from_its_backup_at_the_right_epoch(tmp_path):
    def make(folder: Path) -> list[Any]:
        return [callbacks.BackupAndRestore(folder / "backup"), recorder(HOOKS), Interrupts(2)]

    fresh = lambda: network()  # noqa: E731  # an error leaves the model of a fit as it is
    both = Both(tmp_path, make, fresh)
    with pytest.raises(KeyError):
        both.panda.fit(X, Y, callbacks=both.our_callbacks, **HOW).wait(60)
    with pytest.raises(KeyError):
        both.theirs.fit(X, Y, callbacks=both.their_callbacks, **HOW)

    again = Both(tmp_path / "ours", lambda folder: [], fresh)
    again.our_callbacks, again.their_callbacks = (
        [callbacks.BackupAndRestore(folder / "backup"), recorder(HOOKS)] for folder in both.folders
    )
    again.fit()
    assert again.our_callbacks[1].calls == again.their_callbacks[1].calls
    assert [call[1] for call in again.our_callbacks[1].calls if call[0] == "on_epoch_begin"] == [2]
    assert_equal(state(again.ours), state(again.theirs))
    assert not (both.folders[0] / "backup").exists()


def test_averaged_weights_are_swapped_in_for_validation_as_in_fit(tmp_path):
    both = Both(
        tmp_path,
        lambda folder: [callbacks.SwapEMAWeights(swap_on_epoch=True)],
        lambda: network(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8)),
    )
    both.fit().assert_equal()


# ------------------------------------------------------------------- callbacks of one's own


class StopsAt(callbacks.Callback):
    """Stops training by `model.stop_training`, after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == self.steps:
            self.model.stop_training = True


def test_training_stops_where_a_callback_stops_it(tmp_path):
    both = Both(tmp_path, lambda folder: [StopsAt(8), recorder(HOOKS + BATCH_HOOKS)]).fit()
    both.assert_equal()
    assert both.our_callbacks[1].calls == both.their_callbacks[1].calls
    assert both.panda.state in ("finished", "stopped")


class Raises(callbacks.Callback):
    """Raises in a hook, the `nth` time it is called."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def _raise(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError("by a callback")


@pytest.mark.parametrize(
    ("hook", "nth"),
    [("on_train_begin", 1), ("on_train_batch_end", 4), ("on_test_batch_end", 2)],
)
def test_what_a_callback_raises_is_raised_by_wait_and_the_run_rests_at_a_boundary(tmp_path, hook, nth):
    class Failing(Raises):
        pass

    setattr(Failing, hook, lambda self, *arguments, **logs: self._raise())
    model = network()
    panda = babysit.Panda(model, tmp_path / "run", seed=7)
    with pytest.raises(ZeroDivisionError, match="by a callback"):
        panda.fit(X, Y, callbacks=[Failing(nth)], **HOW).wait(60)
    assert panda.state == "failed"
    assert panda.journal[-1].action == "fail"
    failed_at = panda.step
    assert failed_at == int(model.optimizer.iterations)
    if failed_at:
        assert_equal(state(model), after(failed_at))

    panda.fit(X, Y, **HOW | {"epochs": 1}).wait(60)
    assert panda.state == "finished"
    assert panda.step > failed_at
    assert_equal(state(model), after(panda.step))


class Rounds(callbacks.Callback):
    """Rounds the weights by hand at each epoch's end."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([np.round(weight, 2) for weight in self.model.get_weights()])


def test_weights_changed_by_the_user_are_an_edit_of_the_callbacks(tmp_path):
    both = Both(tmp_path, lambda folder: [Rounds()]).fit()
    both.assert_equal()
    assert [entry.step for entry in both.edits("edit", "Rounds")] == [STEPS, 2 * STEPS, 3 * STEPS]


class Predicts(callbacks.Callback):
    """Predicts and evaluates while training."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.found.append(self.model.predict(X[:8], verbose=0))
        self.found.append(np.array(self.model.evaluate(*VALIDATION, verbose=0)))


def test_a_callback_may_predict_and_evaluate(tmp_path):
    both = Both(tmp_path, lambda folder: [Predicts()]).fit()
    both.assert_equal()
    assert_equal(both.our_callbacks[0].found, both.their_callbacks[0].found)


# ------------------------------------------------------------ the panda, from inside a callback


class Inside(callbacks.Callback):
    """Calls a function in a hook, once: the end of an epoch, or of its third batch."""

    def __init__(self, hook: str, act: Callable[[], Any]) -> None:
        super().__init__()
        self.hook, self.act, self.result = hook, act, None
        self.pending = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            self._act("batch")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._act("epoch")

    def _act(self, hook: str) -> None:
        if self.pending and hook == self.hook:
            self.pending = False
            try:
                self.result = self.act()
            except Exception as error:
                self.result = error


BOUNDARY = {"batch": 3, "epoch": STEPS}


def inside(hook: str, act: Callable[[babysit.Panda], Any]) -> tuple[babysit.Panda, Inside]:
    """A panda whose callback acts on it, begun."""
    panda = at_its_start()
    callback = Inside(hook, lambda: act(panda))
    panda.fit(X, Y, callbacks=[callback], **HOW)
    return panda, callback


@pytest.mark.parametrize("hook", ["batch"])
def test_set_from_inside_acts_on_the_next_step(hook):
    panda, callback = inside(hook, lambda panda: panda.set(learning_rate=0.005, why="from inside"))
    panda.wait(60)
    entry, at = callback.result, BOUNDARY[hook]
    assert (entry.action, entry.step, entry.changes["learning_rate"][1]) == ("set", at, 0.005)
    assert entry in list(panda.journal)
    rates = [0.02] * at + [0.005] * (3 * STEPS - at)
    np.testing.assert_array_equal(panda.history["learning_rate"], rates)

    digest = panda.digest()
    panda.rewind(0)
    panda.run(at)
    panda.set(learning_rate=0.005)
    panda.resume()
    assert panda.wait(60).digest() == digest


@pytest.mark.parametrize("hook", ["epoch"])
def test_note_and_save_from_inside_are_done_at_once(hook):
    panda, callback = inside(hook, lambda panda: (panda.note("here"), panda.save("this one")))
    panda.wait(60)
    note, checkpoint = callback.result
    assert (note.action, note.step, note.why) == ("note", BOUNDARY[hook], "here")
    assert (checkpoint.step, checkpoint.name) == (BOUNDARY[hook], "this one")
    digest = panda.digest()
    panda.rewind("this one")
    panda.resume()
    assert panda.wait(60).digest() == digest


@pytest.mark.parametrize("hook", ["batch"])
def test_pause_from_inside_rests_at_the_next_boundary(hook):
    panda, callback = inside(hook, lambda panda: panda.pause())
    until(lambda: panda.state != "running")
    assert (panda.state, panda.step, callback.result) == ("paused", BOUNDARY[hook], None)
    panda.resume()
    panda.wait(60)
    assert panda.step == 3 * STEPS
    assert_equal(state(panda.model), after(3 * STEPS))


@pytest.mark.parametrize("hook", ["batch"])
def test_stop_from_inside_stops_at_the_next_boundary(hook):
    panda, callback = inside(hook, lambda panda: panda.stop())
    panda.wait(60)
    assert (panda.state, panda.step, callback.result) == ("stopped", BOUNDARY[hook], None)
    assert_equal(state(panda.model), after(BOUNDARY[hook]))


def test_what_would_wait_for_the_training_itself_is_refused_inside_it():
    calls = {"run": lambda p: p.run(1), "wait": lambda p: p.wait(1), "rewind": lambda p: p.rewind(0)}

    def refusals(panda):
        found = {}
        for name, call in calls.items():
            with pytest.raises(RuntimeError) as raised:
                call(panda)
            found[name] = str(raised.value)
        return found

    panda, callback = inside("epoch", refusals)
    panda.wait(60)
    assert all(name in callback.result[name] for name in calls)
    assert_equal(state(panda.model), after(3 * STEPS))


def said(widget):
    """All the words of a widget and of those in it."""
    inner = "".join(map(said, getattr(widget, "children", ())))
    return f"{getattr(widget, 'value', '')}{inner}"


def test_what_callbacks_log_is_kept_as_far_as_json_can_hold_it(tmp_path):
    def log(epoch, logs):
        logs["confusion"] = np.arange(4).reshape(2, 2)
        logs["list"] = [np.float32(0.5), (1, np.int64(2))]
        logs["word"], logs["nothing"] = "good", None
        logs["object"], logs["set"], logs["complex"] = object(), {1, 2}, np.array([1j])
        logs["some"] = list(range(epoch))

    panda = babysit.Panda(network(), tmp_path / "run", seed=7)
    panda.fit(X, Y, epochs=2, callbacks=[callbacks.LambdaCallback(on_epoch_end=log)]).wait(60)
    kept = panda.history.history
    assert kept["confusion"] == [[[0, 1], [2, 3]]] * 2
    assert kept["list"] == [[0.5, [1, 2]]] * 2
    assert (kept["word"], kept["nothing"], kept["some"]) == (["good"] * 2, [None] * 2, [[], [0]])
    assert not {"object", "set", "complex"} & kept.keys()
    assert panda.history.epochs["some"].tolist() == [[], [0]]
    panda.dashboard()
    assert "could not be drawn" not in said(panda.dashboard())


def test_a_patience_goes_on_where_it_was_after_an_exit_and_a_rewind(tmp_path):
    def fit(panda, **how):
        stop = callbacks.EarlyStopping("loss", patience=4)
        slow = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=3)
        return panda.fit(X, Y, batch_size=16, epochs=50, callbacks=[stop, slow], **how)

    panda = fit(babysit.Panda(forgetful(), tmp_path / "run", seed=7), paused=True)
    panda.run(STEPS)
    while panda.history.epochs["loss"][-1] == min(panda.history.epochs["loss"]):
        panda.run(STEPS)
    panda.run(STEPS + 1)
    middle = panda.step
    panda._leave()  # as when the interpreter exits
    shutil.copytree(panda.directory, tmp_path / "cut")
    panda.resume()
    end = panda.wait().digest()
    cut = fit(babysit.Panda.load(tmp_path / "cut", forgetful())).wait()
    assert (cut.epoch, cut.digest()) == (panda.epoch, end)
    np.testing.assert_array_equal(cut.history["learning_rate"], panda.history["learning_rate"])
    for step in (middle, STEPS - 1):
        panda.rewind("branch 1")
        panda.rewind(step)
        panda.resume()
        assert panda.wait().digest() == end


def test_a_patience_that_restores_best_weights_begins_anew():
    stop = callbacks.EarlyStopping("loss", patience=4, restore_best_weights=True)
    ours = Callbacks([stop], network())
    ours.attach(epochs=9)
    stop.best, stop.best_epoch, stop.wait, stop.best_weights = 0.5, 2, 3, ["of a future that was left"]
    ours.remember(ours.memory)
    assert (stop.best, stop.wait, stop.best_weights) == (None, 0, None)
