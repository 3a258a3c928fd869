"""A model's architecture and how it was compiled, as plain data; and safely back again.

A run's folder may come from anybody. What stands in it builds a model only through
Keras's own deserialisation in safe mode, of Keras's own classes, without code, files or
addresses hidden in it.
"""

import math
from typing import Any

import keras
from keras.src.backend.common import global_state

# Stock classes that run code or read files named in their configuration.
_REFUSED = {"__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_FILES = {"idf_weights", "filepath"}


def describe(model: Any) -> Any:
    """The model and its compile configuration as plain data, or None if Keras cannot say it."""
    if isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer):
        return None  # what `compile` wraps follows from the dtype policy of the day, which is not told
    try:
        plain = keras.saving.serialize_keras_object(model)
        _check(plain)
    except Exception:  # Keras raises whatever a layer without a configuration raises
        return None
    return plain


def build(plain: Any, parameters: int | None = None) -> Any:
    """The compiled model that `describe` described, with weights of its own.

    Args:
        plain: What `describe` gave.
        parameters: How many numbers its variables hold, where that is known; checked before any
            memory is asked for them.

    Raises:
        ValueError: If it needs the user's own code, or anything that is not plainly Keras's, or
            does not have so many parameters.
    """
    if plain is None:
        raise ValueError(
            "The model cannot be built from the record: it has parts of your own. Pass `model=`, compiled."
        )
    _check(plain)
    if parameters is not None and (counted := count(plain)) not in (None, parameters):
        raise ValueError(
            f"The model cannot be built from the record: that one has {counted:,} parameters, and the newest "
            f"checkpoint {parameters:,}. Pass `model=`, compiled."
        )
    try:
        model = keras.saving.deserialize_keras_object(plain, safe_mode=True)
    except Exception as error:  # Keras raises whatever a configuration that is none leads to
        raise ValueError(f"The model cannot be built from the record: {error}. Pass `model=`, compiled.") from error
    if not isinstance(model, keras.Model):
        raise ValueError("The record describes no model. Pass `model=`, compiled.")
    return model


def count(plain: Any) -> int | None:
    """How many numbers the variables of a described model hold, without making them; None if that shows only later."""
    scope = keras.StatelessScope(initialize_variables=False)
    try:
        with scope:  # in which Keras notes shapes, and makes no variables
            model = keras.saving.deserialize_keras_object(_uncompiled(plain), safe_mode=True)
        built = isinstance(model, keras.Model) and model.built
        return sum(math.prod(variable.shape) for variable in model.variables) if built else None
    except Exception:  # a layer that needs its variables at once
        return None
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # else the next scope would make them


def _uncompiled(plain: Any) -> Any:
    """A description without optimizers and losses, which make variables at once."""
    if isinstance(plain, dict):
        return {key: _uncompiled(value) for key, value in plain.items() if key != "compile_config"}
    return [_uncompiled(item) for item in plain] if isinstance(plain, list | tuple) else plain


def _check(plain: Any) -> None:
    if isinstance(plain, list | tuple):
        for item in plain:
            _check(item)
    if isinstance(plain, str) and plain in keras.saving.get_custom_objects():
        raise ValueError(f"The model has a part of your own: {plain}. Pass `model=`, compiled.")
    if not isinstance(plain, dict):
        return
    module, name = plain.get("module", "keras"), plain.get("class_name")
    own = isinstance(name, str) and "config" in plain
    if own and (
        str(module).split(".")[0] not in {"keras", "builtins"} or plain.get("registered_name") not in (None, name)
    ):
        raise ValueError(f"The model has a part that is not Keras's own: {module}.{name}. Pass `model=`, compiled.")
    if own and module == "builtins" and plain["class_name"] == "function":
        raise ValueError(f"The model has a function of your own: {plain['config']!r}. Pass `model=`, compiled.")
    # A vocabulary that was adapted or read from a file is nowhere in what Keras writes.
    lost = "vocabulary" in plain and not isinstance(plain["vocabulary"], list | tuple)
    if str(name) in _REFUSED or lost or any(isinstance(plain.get(key), str) for key in _FILES):
        raise ValueError(f"The model has a part that runs code or reads files: {name}. Pass `model=`, compiled.")
    for item in plain.values():
        _check(item)
