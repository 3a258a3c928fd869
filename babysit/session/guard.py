"""Keras called from other threads while a model is trained: what would break is done at a step boundary, or refused.

`Panda.fit` returns at once, so that the next cell may call `model.evaluate` while the training thread traces or
runs a step on the same model.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from babysit.engine.internals import GLOBAL_STATE_TRACKER

if TYPE_CHECKING:
    from babysit.session.worker import Worker

# Methods of a model that only look at it, and those that would train it.
_LOOKING = ("evaluate", "predict", "test_on_batch", "predict_on_batch", "save", "save_weights")
_TRAINING = ("fit", "train_on_batch")


class ModelGuard:
    """Stands between a model that is trained and its callers on other threads.

    Args:
        model: The Keras model.
        worker: What trains it.
    """

    def __init__(self, model: Any, worker: "Worker") -> None:
        self._model, self._worker = model, worker

    def follow(self, state: str) -> None:
        """Puts the guards in while a fit is going on, and takes them out."""
        for name in (*_LOOKING, *_TRAINING):
            if state in ("running", "paused"):
                vars(self._model).setdefault(name, self._guarded(name))
            else:
                vars(self._model).pop(name, None)

    def _guarded(self, name: str) -> Callable[..., Any]:
        method = getattr(type(self._model), name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._worker.within:
                return method(self._model, *args, **kwargs)
            if name in _TRAINING:
                raise RuntimeError(
                    f"`model.{name}` cannot be called while a panda trains the model. Steer the panda with `set`, or "
                    "`stop()` it first."
                )
            return self._worker.ask("call", function=lambda model: method(model, *args, **kwargs))

        return guarded


def keras_settings() -> dict[str, Any]:
    """Keras's settings of the caller's thread, such as the dtype policy: the training thread takes them over."""
    settings = vars(GLOBAL_STATE_TRACKER)
    return {name: value for name, value in settings.items() if name != "uninitialized_variables"}


def use_keras_settings(settings: Mapping[str, Any]) -> None:
    """Makes them the settings of this thread."""
    vars(GLOBAL_STATE_TRACKER).update(settings)
