"""A model's architecture and how it was compiled, as plain data; and safely back again.

A run's folder may come from a stranger. What it holds builds a model only through
Keras's own deserialisation in safe mode, of Keras's own classes, without code, files or
addresses hidden in it.
"""

from typing import Any

import keras

# Stock classes that run code or read files named in their configuration; of a vocabulary, it may hold none.
_REFUSED = {"__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_REFUSED |= {"TextVectorization", "StringLookup", "IntegerLookup"}


def describe(model: Any) -> dict[str, Any] | None:
    """The model and its compile configuration as plain data; None if that cannot be, or not all of it."""
    if isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer):
        return None  # what `compile` wraps follows from the dtype policy of the day, which is not recorded
    try:
        plain: dict[str, Any] = keras.saving.serialize_keras_object(model)
        _check(plain)
    except Exception:  # Keras raises whatever a layer without a configuration raises
        return None
    return plain


def build(plain: Any) -> Any:
    """The compiled model that `describe` described, with weights of its own.

    Args:
        plain: What `describe` gave.

    Raises:
        ValueError: If it needs the user's own code, or anything that is not plainly Keras's.
    """
    try:
        _check(plain)
        model = keras.saving.deserialize_keras_object(plain, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ValueError("it has parts of your own, or a layer with a vocabulary")
    except Exception as error:  # Keras raises whatever a configuration that is none leads to
        raise ValueError(f"The model cannot be built from the record: {error}. Pass `model=`, compiled.") from error
    return model


def _check(plain: Any) -> None:
    """Makes sure that plain data name nothing but classes and functions of Keras's that run no code and read no file.

    Raises:
        ValueError: If they do not.
    """
    for item in plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list | tuple) else ():
        _check(item)
    if isinstance(plain, str) and plain in keras.saving.get_custom_objects():
        raise ValueError(f"a part of it is your own: {plain}")
    if not isinstance(plain, dict) or "config" not in plain or not isinstance(plain.get("class_name"), str):
        return
    module, name = str(plain.get("module", "keras")), plain["class_name"]
    is_function = module == "builtins" and name == "function"
    is_own = module.split(".")[0] not in {"keras", "builtins"} or plain.get("registered_name") not in (None, name)
    if is_function or is_own or name in _REFUSED:
        raise ValueError(f"a part of it is not plainly Keras's own, runs code or reads files: {module}.{name}")
