"""Keras's callbacks, driven from our loop: every hook with its documented meaning.

Separation of concerns: a callback sees what `Model.fit` would show it; what it changed is
found by the owner of `after`, which is called after each callback that has the hook.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import keras

from babysit.engine.internals import pythonify_logs

# Those of Keras's callbacks that may change weights after `on_train_begin`, as any of a user's own may.
_EDITING = (keras.callbacks.EarlyStopping, keras.callbacks.SwapEMAWeights, keras.callbacks.LambdaCallback)

# What stock callbacks count and compare with from epoch to epoch; the rest of them is as it was made.
_REMEMBERING = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)
_REMEMBERED = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Callbacks:
    """The callbacks of one fit, called one by one.

    Args:
        callbacks: A callback, a list of them, a `keras.callbacks.CallbackList`, or None.
        model: The Keras model that is trained.

    Attributes:
        stopped_by: The class of the one that ended the training; empty if none has.
        every_step: Whether one wants to be called at every training step.
        every_test_step: Whether one wants to be called at every step of a validation.
        after: Called after each callback that has a hook, with the hook, the callback's class, and whether it may
            have changed weights.

    Raises:
        TypeError: If one of them is no callback.
    """

    def __init__(self, callbacks: Any = None, model: Any = None) -> None:
        self.stopped_by, self._model, self.every_step, self.every_test_step = "", model, False, False
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks.callbacks
        self._callbacks = [one for one in keras.tree.flatten(callbacks) if one is not None]
        for one in self._callbacks:
            if not isinstance(one, keras.callbacks.Callback):
                raise TypeError(
                    f"`callbacks` must hold Keras callbacks. Received: {type(one).__name__}. "
                    "Derive it from `keras.callbacks.Callback`."
                )
        self.after: Callable[[str, str, bool], None] = lambda hook, author, may_edit: None

    def attach(self, **params: Any) -> None:
        """Gives the callbacks the model and the fit's `params`, and the model a `History`."""
        model, self.stopped_by = self._model, ""
        history = next((one for one in self._callbacks if isinstance(one, keras.callbacks.History)), None)
        if history is None:
            history = keras.callbacks.History()
            self._callbacks.append(history)
        model.history, model.stop_training = history, False
        for one in self._callbacks:
            one.set_params(params)
            one.set_model(model)
        hooks = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]
        self._hearing = {hook: [one for one in self._callbacks if _is_own(one, hook)] for hook in hooks}
        self.every_step, self.every_test_step = self._wanted("train"), self._wanted("test")

    @property
    def stop_requested(self) -> bool:
        """Whether a callback wants the training to end."""
        return bool(self._model.stop_training)

    @property
    def initial_epoch(self) -> int:
        """The number of the first epoch that a callback, such as `BackupAndRestore`, has set; 0 if none has."""
        return int(self._model._initial_epoch or 0)

    @property
    def stride(self) -> float:
        """Steps of a block at most: hooks of batches come once an execution, one step unless compiled for more."""
        if self._model.stop_training:  # set in advance, `Model.fit` takes one step
            return 1
        return int(self._model.steps_per_execution) if self.every_step else math.inf

    @property
    def may_edit(self) -> bool:
        """Whether some callback may change weights."""
        return any(map(_may_edit, self._callbacks))

    @property
    def _remembering(self) -> list[Any]:
        return [one for one in self._callbacks if isinstance(one, _REMEMBERING)]

    @property
    def memory(self) -> list[tuple[str, dict[str, Any]]]:
        """What the stock callbacks with a patience remember, in plain data: the class of each one, and its numbers."""
        return [
            (type(one).__name__, {name: _plain(value) for name, value in vars(one).items() if name in _REMEMBERED})
            for one in self._remembering
        ]

    def remember(self, memory: Sequence[Sequence[Any]]) -> None:
        """Puts back what `memory` returned at another time, in the same order; not into a callback of another class.

        An `EarlyStopping` that is to restore its best weights begins anew, as nothing keeps those.
        """
        for one, (kind, kept) in zip(self._remembering, memory, strict=False):
            if kind == type(one).__name__ and getattr(one, "restore_best_weights", False):
                one.on_train_begin()
            elif kind == type(one).__name__:
                vars(one).update(kept)

    def plain(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Logs that JSON can hold: numbers, strings, and lists of them where they are arrays; all else is left out."""
        found: dict[str, Any] = {}
        for name, value in pythonify_logs(logs).items():
            with suppress(AttributeError, TypeError, ValueError):
                found[name] = _plain(value)
        return found

    def __call__(self, hook: str, *place: int, logs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Calls a hook of every callback, and `self.after` after each one that has it.

        Args:
            hook: Its name, such as `"on_epoch_end"`.
            *place: The number of the epoch or of the batch, where the hook has one.
            logs: What was measured.

        Returns:
            The logs in Python's own numbers, with what the callbacks have added to them; none of a batch that no
            callback wants to hear of.
        """
        if "batch" in hook and not self._hearing[hook]:
            return {}
        shared: dict[str, Any] = pythonify_logs(logs)
        for one in self._hearing[hook]:
            was_stopped = bool(one.model.stop_training)
            getattr(one, hook)(*place, shared)
            if one.model.stop_training and not was_stopped:
                self.stopped_by = type(one).__name__
            if type(one) is not keras.callbacks.History:
                self.after(hook, type(one).__name__, hook == "on_train_begin" or _may_edit(one))
        return shared

    def _wanted(self, what: str) -> bool:
        hearing = self._hearing[f"on_{what}_batch_begin"] + self._hearing[f"on_{what}_batch_end"]
        return not all(map(_content_with_blocks, hearing))


def _plain(value: Any) -> Any:
    """A value as JSON gives it back, arrays as lists; raises if it cannot hold it."""
    return json.loads(json.dumps(value, default=lambda one: one.tolist()))


def _may_edit(callback: Any) -> bool:
    return not type(callback).__module__.startswith("keras.") or isinstance(callback, _EDITING)


def _content_with_blocks(callback: Any) -> bool:
    """Whether a stock callback does the same when its batch hooks are called once a block, for the last step of it."""
    if type(callback) in (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore):
        return bool(callback.save_freq == "epoch")
    return type(callback) is keras.callbacks.TerminateOnNaN  # a block stops at the first loss that is not finite


def _is_own(callback: Any, hook: str) -> bool:
    """Whether a callback does anything in a hook, or in the older one through which Keras calls it."""
    names = hook, hook.replace("on_train_batch", "on_batch")
    found = [(getattr(callback, name), getattr(keras.callbacks.Callback, name)) for name in names]
    return any(getattr(own, "__func__", own) is not default for own, default in found)
