"""The arguments of `fit`, as Keras has them, checked in the caller's thread and made into a plan."""

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import keras
import tensorflow as tf

from babysit.core.hyperparameter import any_whole, checked
from babysit.core.position import FitSpec
from babysit.core.scale import Scale
from babysit.engine.callbacks import Callbacks
from babysit.engine.data.adapters import is_stream
from babysit.engine.data.source import checked_shuffle, source, split
from babysit.engine.data.window import arrays_in
from babysit.engine.evaluation import Validation
from babysit.engine.model import TrainableModel
from babysit.session.plan import FitPlan

_COUNTS = ("batch_size", "epochs", "steps_per_epoch", "validation_steps", "validation_batch_size")


def plan_of(
    model: TrainableModel,
    given: Mapping[str, Any],
    seed: int,
    recorded: FitSpec | None = None,
    ranges: Mapping[str, Any] | None = None,
    present_size: int | None = None,
) -> FitPlan:
    """The plan that the arguments of `Panda.fit` make.

    Args:
        model: The one to train.
        given: Those arguments, by name.
        seed: Of the order of examples.
        recorded: What the fit was given that is to be completed; None for a new one.
        ranges: Hyperparameter -> (low, high).
        present_size: The batch size now, for where none is asked for.

    Raises:
        TypeError: If something is of the wrong kind.
        ValueError: If an argument does not fit.
    """
    _check_model(model.model)
    if ranges is not None and not isinstance(ranges, Mapping):
        raise TypeError(f"`ranges` must map names to (low, high). Received: ranges={ranges!r}.")
    counts = {name: None if given[name] is None else int(checked(name, given[name], any_whole())) for name in _COUNTS}
    for name, limit in (("epochs", keras.config.max_epochs()), ("steps_per_epoch", keras.config.max_steps_per_epoch())):
        if limit and limit < (counts[name] or math.inf):
            warnings.warn(f"Keras limits `{name}` to {limit}.", stacklevel=3)
            counts[name] = limit
    arrays, validation_data = _split(given)
    how: dict[str, Any] = {"shuffle": checked_shuffle(given["shuffle"]), "steps_per_epoch": counts["steps_per_epoch"]}
    how["batch_size"] = counts["batch_size"] or present_size
    if recorded is not None:
        how = _recorded(recorded, counts["steps_per_epoch"])
    data = source(*arrays, class_weight=given["class_weight"], seed=seed, **how)
    if recorded is not None and data.fingerprint != recorded.data:
        raise ValueError("`x` and `y` must be the data that the run was trained on. Received: others.")
    if (steps_per_epoch := how["steps_per_epoch"]) is not None:  # Keras completes the last execution of an epoch
        steps_per_epoch += -steps_per_epoch % model.model.steps_per_execution
    callbacks = Callbacks(given["callbacks"], model.model)
    validation, every, steps = None, _checked_freq(given["validation_freq"]), counts["validation_steps"]
    if validation_data is not None:
        batch_size = counts["validation_batch_size"] or counts["batch_size"]
        validation = Validation(model, _validation(validation_data, batch_size, steps), steps, every, callbacks)
    return FitPlan(
        source=data,
        epochs=counts["epochs"] or 1,
        callbacks=callbacks,
        validation=validation,
        initial_epoch=int(checked("initial_epoch", given["initial_epoch"], any_whole(0))),
        steps_per_epoch=steps_per_epoch,
        ranges=ranges,
        verbose=given["verbose"],
        completes=recorded is not None,
        keeps_batch_size=counts["batch_size"] is None,
        facts=_facts(data, is_stream(given["x"])),
        remarks=(data.limitation,) if data.limitation else (),
    )


def _facts(data: Any, is_stream: bool) -> dict[str, Any]:
    """What a program that trains the same again, and a run that is loaded, must know of the data."""
    is_dense = all(isinstance(spec, tf.TensorSpec) for spec in arrays_in(data.signature[0]))
    return {"spec": data.spec, "is_stream": is_stream, "is_dense": is_dense, "static_size": data.static_size}


def _check_model(model: Any) -> None:
    own = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in ("fit", "make_train_function"))
    for is_refused, rule in (
        (own, "train by Keras's own `fit` and `make_train_function`: use `train_step` or a callback instead"),
        (model._distribute_strategy is not None, "train on one device: make it outside of the strategy's scope"),
        (not isinstance(model.steps_per_execution, int), "be compiled with a number as `steps_per_execution`"),
    ):
        if is_refused:
            raise ValueError(f"`model` must {rule}. Received: `{model.name}`, a `{type(model).__name__}`.")


def _split(given: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """(x, y and weights to train on, what to validate on)."""
    arrays, fraction = (given["x"], given["y"], given["sample_weight"]), given["validation_split"]
    if given["x"] is None:
        raise ValueError("`x` must hold the examples to train on. Received: x=None.")
    if fraction == 0 or given["validation_data"] is not None:
        return arrays, given["validation_data"]
    checked("validation_split", fraction, Scale(0, 1))
    return split(arrays, fraction)


def _recorded(recorded: FitSpec, asked: int | None) -> dict[str, Any]:
    """How the fit that is to be completed goes through its data."""
    if asked not in (None, recorded.steps_per_epoch):
        rule = f"stay {recorded.steps_per_epoch:,}" if recorded.steps_per_epoch else "be left out"
        raise ValueError(
            f"`steps_per_epoch` must {rule} where an interrupted fit is completed. Received: steps_per_epoch={asked}. "
            "Call `fit` again when that is done, or has been stopped."
        )
    return {name: getattr(recorded, name) for name in ("batch_size", "shuffle", "steps_per_epoch")}


def _checked_freq(validation_freq: Any) -> int | list[int]:
    if isinstance(validation_freq, Collection) and not isinstance(validation_freq, str):
        return [int(checked("validation_freq", epoch, any_whole())) for epoch in validation_freq]
    return int(checked("validation_freq", validation_freq, any_whole(), "Or a list of epochs."))


def _validation(data: Any, batch_size: int | None, steps: int | None) -> Any:
    """The source that validation data make, in their own order."""
    if not isinstance(data, tuple | list) and not is_stream(data):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or what gives batches of them. "
            f"Received: {type(data).__name__}."
        )
    parts = keras.utils.unpack_x_y_sample_weight(data)
    try:
        return source(*parts, batch_size=batch_size, shuffle=False, steps_per_epoch=steps)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`validation_data` cannot be used. {error}") from error
