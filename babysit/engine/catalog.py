"""Where a compiled model keeps its hyperparameters, and what each of them is called.

Knows Keras: which numbers a step reads, and which of them a live float may replace. It changes nothing but
regularizers that several variables share: each gets its own.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from babysit.core.scale import Scale

# How a new value acts: through a variable of Keras's, through a live float, or by another trace of the step.
Kind = Literal["variable", "live", "retrace"]


@dataclass(frozen=True)
class AttributeRef:
    """One attribute, or one item of a dict, that holds a number."""

    owner: Any
    attribute: str

    def get(self) -> Any:
        """Returns what it holds."""
        return self.owner[self.attribute] if isinstance(self.owner, dict) else getattr(self.owner, self.attribute)

    def put(self, value: Any) -> None:
        """Replaces what it holds."""
        if isinstance(self.owner, dict):
            self.owner[self.attribute] = value
        else:
            setattr(self.owner, self.attribute, value)


@dataclass(frozen=True)
class HyperparameterSpec:
    """A hyperparameter: its name, every attribute that holds it, its default scale, and how a new value acts.

    The name is unique in the model. The value is read from the first of `refs`.
    """

    name: str
    refs: tuple[AttributeRef, ...]
    scale: Scale
    kind: Kind


def is_stock(thing: Any) -> bool:
    """Whether it is Keras's own, so that what it does with its floats is known."""
    return type(thing).__module__.partition(".")[0] == "keras"


# ------------------------------------------------------------------------------- optimizers

_BETA = Scale(0.0, 0.9999, "log of 1−β")
_LEARNING_RATE = Scale(1e-6, 1.0, "log", zero=True)
_EPSILON = Scale(1e-12, 1.0, "log")
_DECAY = Scale(1e-6, 1.0, "log", zero=True)
_CLIP = Scale(1e-4, 1e3, "log")
_STRENGTH = Scale(1e-8, 1.0, "log", zero=True)

# Those an update of Keras reads so that a live float gives the bits of a plain one, in the
# order in which they are listed.
_LIVE = {
    "momentum": _BETA,
    "beta_1": _BETA,
    "beta_2": _BETA,
    "rho": _BETA,
    "adam_beta_1": _BETA,
    "adam_beta_2": _BETA,
    "epsilon": _EPSILON,
    "epsilon_1": Scale(1e-30, 1.0, "log"),
    "epsilon_2": Scale(1e-6, 1.0, "log"),
    "weight_decay": _DECAY,
    "adam_weight_decay": _DECAY,
    "clipnorm": _CLIP,
    "clipvalue": _CLIP,
    "global_clipnorm": _CLIP,
    "ema_momentum": _BETA,
    "l1_regularization_strength": _STRENGTH,
    "l2_regularization_strength": _STRENGTH,
    "l2_shrinkage_regularization_strength": _STRENGTH,
    "beta": Scale(1e-6, 10.0, "log", zero=True),
}
# Read otherwise: as a divisor, an exponent, or beside another constant, which TensorFlow
# combines and rounds differently.
_COMBINED = {
    "beta_2_decay": Scale(-1.0, 0.0),
    "clip_threshold": Scale(1e-2, 1e2, "log"),
    "learning_rate_power": Scale(-1.0, 0.0),
    "adam_lr_ratio": Scale(1e-3, 1e3, "log"),
    "rms_rate": Scale(1e-3, 10.0, "log"),
}
_AT_BUILD = {"initial_accumulator_value"}
CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")  # off at 0, as they are at None
# Optimizer -> the attribute with the velocities that momentum needs when it is not 0.
_SLOTS = {keras.optimizers.SGD: "momentums", keras.optimizers.RMSprop: "_momentums"}


def slots_name(optimizer: Any) -> str | None:
    """The attribute with the velocities that momentum alone needs, if the optimizer has such."""
    return next((name for family, name in _SLOTS.items() if isinstance(optimizer, family)), None)


def optimizers_in(optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """Prefix -> the optimizers that hold the hyperparameters: inside a wrapper, those it wraps."""
    found = {}
    for prefix, optimizer in optimizers.items():
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            names = Names()
            for inner in optimizer.optimizers:
                found[_joined(prefix, names.of(inner))] = inner
        else:
            found[prefix] = getattr(optimizer, "inner_optimizer", optimizer)
    return found


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def learning_rate_spec(prefix: str, optimizer: Any) -> HyperparameterSpec:
    """Where the learning rate is: a variable of Keras's, or a schedule."""
    refs = (AttributeRef(optimizer, "_learning_rate"),)
    return HyperparameterSpec(_joined(prefix, "learning_rate"), refs, _LEARNING_RATE, "variable")


def optimizer_specs(prefix: str, optimizer: Any) -> Iterator[HyperparameterSpec]:
    """Finds the floats of an optimizer that its update reads, but the learning rate."""
    config = optimizer.get_config()
    held = [name for name in config if _is_number(config[name]) and _is_number(getattr(optimizer, name, None))]
    for name in sorted(held, key=lambda name: [*_LIVE].index(name) if name in _LIVE else len(_LIVE)):
        if (kind := _kind_of(optimizer, name)) is not None:
            scale = _LIVE.get(name) or _COMBINED.get(name) or _unknown(float(config[name]))
            yield HyperparameterSpec(_joined(prefix, name), (AttributeRef(optimizer, name),), scale, kind)


def _kind_of(optimizer: Any, name: str) -> Kind | None:
    """How a float of an optimizer acts on a step, or None where it does not at all."""
    value = getattr(optimizer, name)
    if name == "learning_rate" or name in _AT_BUILD or (name == "ema_momentum" and not optimizer.use_ema):
        return None
    if name in CLIPPING and value == 0:
        return None
    if is_stock(optimizer) and name in _LIVE and not _is_combined(optimizer, name):
        return "live"
    return "retrace" if isinstance(value, float) else None


def _is_combined(optimizer: Any, name: str) -> bool:
    """Whether TensorFlow would combine a constant in its place with others, and round differently."""
    if isinstance(optimizer, keras.optimizers.RMSprop):
        return name == "epsilon" and optimizer.centered  # v − a² + ε becomes v + (ε − a²)
    return isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW) and name == "beta_1"  # a divisor


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unknown(value: float) -> Scale:
    """A scale for a number of which only the present value is known."""
    if value > 0:
        return Scale(value / 1e3, value * 1e3, "log", zero=True)
    return Scale(2 * value, 0.0) if value < 0 else Scale(0.0, 1.0)


# ---------------------------------------------------------------------------------- the loss

_SMOOTHING = Scale(0.0, 0.5)


def loss_specs(model: Any) -> list[HyperparameterSpec]:
    """The label smoothing of each loss that has it."""
    losses: dict[int, tuple[str, Any]] = {}
    for name, loss in _losses(model):
        if isinstance(loss, keras.Loss) and _is_number(getattr(loss, "label_smoothing", None)):
            losses.setdefault(id(loss), (name, loss))
    several = len(losses) > 1
    return [_smoothing(name if several else "", loss) for name, loss in losses.values()]


def _smoothing(prefix: str, loss: Any) -> HyperparameterSpec:
    refs = [AttributeRef(loss, "label_smoothing")]
    if "label_smoothing" in getattr(loss, "_fn_kwargs", {}):
        refs.append(AttributeRef(loss._fn_kwargs, "label_smoothing"))
    return HyperparameterSpec(_joined(prefix, "label_smoothing"), tuple(refs), _SMOOTHING, "retrace")


def _losses(model: Any) -> list[tuple[str, Any]]:
    """Output name -> loss, as `compile` was given them."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, Mapping):
        return [(str(name), one) for name, one in loss.items()]
    if isinstance(loss, list | tuple):
        outputs = getattr(model, "output_names", None) or [f"output_{i}" for i in range(len(loss))]
        return list(zip(outputs, loss, strict=False))
    return [("", loss)]


# --------------------------------------------------------------------------------- the layers

_RATE = Scale(0.0, 0.95)
_DEVIATION = Scale(0.0, 1.0)
_DROPOUTS = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)
_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


class Names:
    """Names of objects that do not depend on how many of their kind this process made before.

    An own name stays; an automatic one (`dropout_7`) becomes what it would be in a fresh
    process, counting the objects in the order they are named here.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._used: set[str] = set()

    def of(self, thing: Any) -> str:
        """The name of the next object."""
        stem = to_snake_case(type(thing).__name__)
        automatic = re.fullmatch(rf"((?:forward_|backward_)?{stem})(_\d+)?", thing.name)
        if automatic is None:
            return self._free(thing.name)
        count = self._counts[automatic[1]] = self._counts.get(automatic[1], -1) + 1
        return self._free(f"{automatic[1]}_{count}" if count else automatic[1])

    def _free(self, name: str) -> str:
        candidates = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
        name = next(candidate for candidate in candidates if candidate not in self._used)
        self._used.add(name)
        return name


def named_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer of the model with its name, nested ones after the one they are in."""
    names, found, seen = Names(), [], {id(model)}

    def walk(layer: Any) -> None:
        for child in layer._layers:
            if id(child) not in seen and isinstance(child, keras.layers.Layer):
                seen.add(id(child))
                found.append((names.of(child), child))
                walk(child)

    walk(model)
    return found


def layer_specs(model: Any) -> list[HyperparameterSpec]:
    """Finds what the layers hold: rates of dropout, regularisation."""
    layers = named_layers(model)
    inner = {id(getattr(layer, "_dropout_layer", None)) for _, layer in layers}
    cells = {id(layer.cell): name for name, layer in layers if isinstance(layer, keras.layers.RNN)}
    specs: list[HyperparameterSpec] = []
    seen: set[int] = set()
    for name, layer in layers:
        name = cells.get(id(layer), name)
        if id(layer) not in inner:
            specs += _rates(name, layer)
        specs += _penalties(name, layer, seen)
    return list({spec.name: spec for spec in specs}.values())


def _rates(name: str, layer: Any) -> Iterator[HyperparameterSpec]:
    """Finds its rates, if it can draw: made with 0, a layer of dropout has no seeds to draw from."""
    for attribute, further in _rate_attributes(layer):
        if _is_number(getattr(layer, attribute, None)) and _draws(further[0].owner if further else layer):
            refs, scale = (AttributeRef(layer, attribute), *further), _DEVIATION if attribute == "stddev" else _RATE
            yield HyperparameterSpec(f"{name}.{attribute.strip('_')}", refs, scale, "retrace")


def _draws(layer: Any) -> bool:
    return any(isinstance(held, keras.random.SeedGenerator) for held in vars(layer).values())


def _rate_attributes(layer: Any) -> Iterator[tuple[str, tuple[AttributeRef, ...]]]:
    if isinstance(layer, _DROPOUTS):
        yield "rate", ()
    elif isinstance(layer, keras.layers.GaussianNoise):
        yield "stddev", ()
    elif isinstance(layer, _ATTENTIONS) and hasattr(layer, "_dropout_layer"):
        attribute = "_dropout" if hasattr(layer, "_dropout") else "dropout"
        yield attribute, (AttributeRef(layer._dropout_layer, "rate"),)
    elif isinstance(layer, keras.layers.Attention):
        yield "dropout", ()
    elif hasattr(layer, "get_recurrent_dropout_mask"):  # the cell of a recurrent layer
        yield "dropout", ()
        if getattr(layer, "implementation", 1) == 1:  # the other computes without it
            yield "recurrent_dropout", ()


def _penalties(name: str, layer: Any, seen: set[int]) -> Iterator[HyperparameterSpec]:
    """Finds the strengths of its penalties, of each regularised variable and of the layer's output."""
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        holders = [AttributeRef(variable, "regularizer"), *_holders(layer, variable.regularizer, variable.name)]
        yield from _strengths(f"{name}.{variable.name}", holders, seen)
    yield from _strengths(f"{name}.activity", [AttributeRef(layer, "activity_regularizer")], seen)


def _strengths(name: str, holders: list[AttributeRef], seen: set[int]) -> Iterator[HyperparameterSpec]:
    regularizer = holders[0].get()
    if type(regularizer) not in (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2):
        return
    if id(regularizer) in seen:  # shared with another variable
        regularizer = copy.copy(regularizer)
        for holder in holders:
            holder.put(regularizer)
    seen.add(id(regularizer))
    for norm in ("l1", "l2"):
        if hasattr(regularizer, norm):
            yield HyperparameterSpec(f"{name}_{norm}", (AttributeRef(regularizer, norm),), _STRENGTH, "retrace")


def _holders(layer: Any, regularizer: Any, variable: str) -> list[AttributeRef]:
    """The layer's own attribute with the regularizer of a variable, which its config names."""
    found = [name for name, value in vars(layer).items() if value is regularizer and name.endswith("_regularizer")]
    if len(found) > 1:  # one object for several variables
        found = [name for name in found if name.removesuffix("_regularizer") in (variable, variable.split("_")[0])]
    return [AttributeRef(layer, name) for name in found if name != "activity_regularizer"][:1]


def plain(value: Any) -> float:
    """A number as a person would write it: a float32's shortest decimal."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "numpy"):
        return float(str(np.float32(value)))
    return float(value)
