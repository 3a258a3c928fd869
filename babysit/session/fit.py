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
from babysit.engine.evaluation import Validation
from babysit.engine.model import TrainableModel
from babysit.session.plan import FitPlan


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
    _check_steps_per_execution(model.model)
    shuffle = checked_shuffle(given["shuffle"])
    if ranges is not None and not isinstance(ranges, Mapping):
        raise TypeError(f"`ranges` must map names to (low, high). Received: ranges={ranges!r}.")
    x, y, sample_weight = given["x"], given["y"], given["sample_weight"]
    if x is None:
        raise ValueError("`x` must hold the examples to train on. Received: x=None.")
    counted = ("epochs", "steps_per_epoch", "validation_steps", "validation_batch_size", "batch_size")
    counts = _limited({name: _count(name, given[name]) for name in counted})
    validation_data, asked = given["validation_data"], counts["batch_size"]
    if given["validation_split"] != 0 and validation_data is None:
        checked("validation_split", given["validation_split"], Scale(0, 1))
        (x, y, sample_weight), validation_data = split((x, y, sample_weight), given["validation_split"])
    if recorded is not None:  # the order of examples is the recorded one
        counts["steps_per_epoch"] = _recorded_steps(recorded, counts["steps_per_epoch"])
        counts["batch_size"], shuffle = None if is_stream(x) else recorded.batch_size, recorded.shuffle
    elif counts["batch_size"] is None and not is_stream(x):
        counts["batch_size"] = present_size
    data = source(
        x,
        y,
        sample_weight,
        batch_size=counts["batch_size"],
        shuffle=shuffle,
        class_weight=given["class_weight"],
        seed=seed,
        steps_per_epoch=counts["steps_per_epoch"],
    )
    if recorded is not None and data.fingerprint != recorded.data:
        raise ValueError("`x` and `y` must be the data that the run was trained on. Received: others.")
    every = _checked_freq(given["validation_freq"])
    steps_per_epoch = counts["steps_per_epoch"]
    if steps_per_epoch is not None:  # Keras completes the last execution of an epoch
        execution = int(model.model.steps_per_execution)
        steps_per_epoch = math.ceil(steps_per_epoch / execution) * execution
    callbacks = Callbacks(given["callbacks"], model.model)
    validation = _validation(validation_data, counts["validation_batch_size"] or asked, counts["validation_steps"])
    if validation is not None:
        validation = Validation(model, validation, counts["validation_steps"], every, callbacks)
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
        keeps_batch_size=asked is None,
        facts=facts_of(data),
        remarks=(data.limitation,) if data.limitation else (),
    )


def facts_of(data: Any) -> dict[str, Any]:
    """What a program that trains the same again, and a run that is loaded, must know of the data."""
    specs = tf.nest.flatten(data.signature[0])
    return {
        "spec": data.spec,
        "is_stream": data.signature[1] is None,
        "is_dense": all(isinstance(spec, tf.TensorSpec) for spec in specs if spec is not None),
        "static_size": data.static_size,
    }


def _check_model(model: Any) -> None:
    for method in ("fit", "make_train_function"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            name = type(model).__name__
            raise ValueError(
                f"`model` must train by Keras's own `{method}`. Received: `{name}`, which overrides it. "
                f"Move what its `{method}` does into `train_step` or a callback."
            )
    if model._distribute_strategy is not None:
        raise ValueError(
            "`model` must train on one device. Received: one distributed by "
            f"{type(model._distribute_strategy).__name__}. Make it outside of the strategy's scope."
        )


def _limited(counts: dict[str, Any]) -> dict[str, Any]:
    """The counts, within the limits of `keras.config.set_max_epochs` and `set_max_steps_per_epoch`."""
    limits = {"epochs": keras.config.max_epochs(), "steps_per_epoch": keras.config.max_steps_per_epoch()}
    for name, limit in limits.items():
        if limit and (counts[name] is None or limit < counts[name]):
            warnings.warn(f"Keras limits `{name}` to {limit}.", stacklevel=4)
            counts[name] = limit
    return counts


def _check_steps_per_execution(model: Any) -> None:
    if not isinstance(model.steps_per_execution, int):
        raise ValueError(
            "`steps_per_execution` must be a whole number from 1 on. Received: "
            f"steps_per_execution={model.steps_per_execution!r}. Compile the model with a number."
        )


def _count(name: str, value: Any) -> int | None:
    return None if value is None else int(checked(name, value, any_whole()))


def _recorded_steps(recorded: FitSpec, asked: int | None) -> int | None:
    """The steps an epoch of the fit that is to be completed."""
    if asked not in (None, recorded.steps_per_epoch):
        rule = f"stay {recorded.steps_per_epoch:,}" if recorded.steps_per_epoch else "be left out"
        raise ValueError(
            f"`steps_per_epoch` must {rule} where an interrupted fit is completed. Received: steps_per_epoch={asked}. "
            "Call `fit` again when that is done, or has been stopped."
        )
    return recorded.steps_per_epoch


def _checked_freq(validation_freq: Any) -> int | list[int]:
    if isinstance(validation_freq, Collection) and not isinstance(validation_freq, str):
        return [int(checked("validation_freq", epoch, any_whole())) for epoch in validation_freq]
    return int(checked("validation_freq", validation_freq, any_whole(), "Or a list of epochs."))


def _validation(data: Any, batch_size: int | None, steps: int | None) -> Any:
    """The source that validation data make, in their own order; None without any."""
    if data is None:
        return None
    if not isinstance(data, tuple | list) and not is_stream(data):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or what gives batches of them. "
            f"Received: {type(data).__name__}."
        )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    try:
        return source(x, y, sample_weight, batch_size=batch_size, shuffle=False, steps_per_epoch=steps)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`validation_data` cannot be used. {error}") from error
