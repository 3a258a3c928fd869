"""A model's architecture and how it was compiled, as plain data; and safely back again.

A run's folder may come from anybody. What stands in it builds a model only through
Keras's own deserialisation in safe mode, of Keras's own classes, without code, files or
addresses hidden in it.
"""

from collections.abc import Mapping
from typing import Any

import keras

# Stock classes that run code or read files named in their configuration.
_REFUSED = {"__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_FILES = {"idf_weights", "filepath"}

# Layers whose vocabulary is no variable; one that is adapted or read from a file is nowhere in what Keras writes.
_LOOKUPS = (keras.layers.TextVectorization, keras.layers.StringLookup, keras.layers.IntegerLookup)

# Characters of a vocabulary that a record keeps: that of some hundred thousand words.
MOST_CHARACTERS = 2**20

_CANNOT = "The model cannot be built from the record: {}. Pass `model=`, compiled."


def describe(model: Any) -> Any:
    """The model and its compile configuration as plain data.

    Returns:
        A dictionary; or, if that cannot be, why, in words, for a layer whose vocabulary cannot be
        recorded, and None for all else.
    """
    if isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer):
        return None  # what `compile` wraps follows from the dtype policy of the day, which is not recorded
    try:
        plain = keras.saving.serialize_keras_object(model)
        _write_vocabularies(plain, _vocabularies(model))
        _check(plain)
    except _LostVocabulary as lost:
        return lost.reason
    except Exception:  # Keras raises whatever a layer without a configuration raises
        return None
    return plain


def is_whole(plain: Any) -> bool:
    """Whether `describe` gave all that it takes to build the model."""
    return isinstance(plain, dict)


def build(plain: Any) -> Any:
    """The compiled model that `describe` described, with weights of its own.

    Args:
        plain: What `describe` gave.

    Raises:
        ValueError: If it needs the user's own code, or anything that is not plainly Keras's.
    """
    if plain is None or isinstance(plain, str):
        raise ValueError(_CANNOT.format(plain or "it has parts of your own"))
    _check(plain)
    try:
        model = keras.saving.deserialize_keras_object(plain, safe_mode=True)
    except Exception as error:  # Keras raises whatever a configuration that is none leads to
        raise ValueError(_CANNOT.format(error)) from error
    if not isinstance(model, keras.Model):
        raise ValueError("The record describes no model. Pass `model=`, compiled.")
    return model


class _LostVocabulary(ValueError):
    """The vocabulary of a layer is not in its configuration; `reason` says so, and of which."""

    def __init__(self, name: str) -> None:
        self.reason = f"`{name}` keeps its vocabulary beside its config"
        super().__init__(_CANNOT.format(self.reason))


def _vocabularies(model: Any) -> dict[tuple[str, str], list[Any]]:
    """Class and name of a layer -> the vocabularies of those that are called so, without tokens of Keras's own."""
    found: dict[tuple[str, str], list[Any]] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, _LOOKUPS):
            of_that_name = found.setdefault((type(layer).__name__, layer.name), [])
            words = [word if isinstance(word, str) else int(word) for word in layer.get_vocabulary(False)]
            if words not in of_that_name:
                of_that_name.append(words)
    return found


def _write_vocabularies(plain: Any, vocabularies: Mapping[tuple[str, str], list[Any]]) -> None:
    """Writes each layer's vocabulary, as it is now, into a description, unless it is long or might be another's."""
    if isinstance(plain, list | tuple):
        for item in plain:
            _write_vocabularies(item, vocabularies)
    if not isinstance(plain, dict):
        return
    config: Any = plain.get("config")
    key = (str(plain.get("class_name")), config.get("name", "")) if isinstance(config, dict) else ("", "")
    if key in vocabularies and config["output_mode"] != "tf_idf":  # whose weights of the words are kept elsewhere
        words, *others = vocabularies[key]
        is_long = sum(len(str(word)) for word in words) > MOST_CHARACTERS
        config["vocabulary"] = None if others or is_long or not words else words
    for item in plain.values():
        _write_vocabularies(item, vocabularies)


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
    config = plain.get("config")
    if isinstance(config, dict) and config.get("vocabulary", ()) is None:
        raise _LostVocabulary(str(name))
    lost = "vocabulary" in plain and not isinstance(plain["vocabulary"], list | tuple)
    if str(name) in _REFUSED or lost or any(isinstance(plain.get(key), str) for key in _FILES):
        raise ValueError(f"The model has a part that runs code or reads files: {name}. Pass `model=`, compiled.")
    for item in plain.values():
        _check(item)
