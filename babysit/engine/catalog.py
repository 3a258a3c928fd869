"""Where a compiled model keeps its hyperparameters, and what each of them is called.

Knows Keras: which numbers a step reads, and which of them a live float may replace. It changes nothing but
regularizers that several variables share: each gets its own.
"""

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from babysit.core.scale import Scale
from babysit.engine.internals import to_snake_case
from babysit.engine.optimizers import inner

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
# Read as a divisor, or beside another constant, which TensorFlow combines and rounds differently.
_COMBINED = {("RMSprop", "epsilon"), ("ScheduleFreeAdamW", "beta_1")}
_ELSEWHERE = {"learning_rate", "initial_accumulator_value"}  # bound by itself; read only when slots are made
_CLIPPING = {"clipnorm", "clipvalue", "global_clipnorm"}
# Optimizer -> the attribute with the velocities that momentum needs when it is not 0.
_SLOTS = {keras.optimizers.SGD: "momentums", keras.optimizers.RMSprop: "_momentums"}


def slots_name(optimizer: Any) -> str | None:
    """The attribute with the velocities that momentum alone needs, if it is a stock optimizer that has such."""
    return _SLOTS.get(type(optimizer))


def optimizers_in(optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """Prefix -> the optimizers that hold the hyperparameters: inside a wrapper, the one that it wraps."""
    return {prefix: inner(optimizer) for prefix, optimizer in optimizers.items()}


def learning_rate_spec(prefix: str, optimizer: Any) -> HyperparameterSpec:
    """Where the learning rate is: a variable of Keras's, or a schedule."""
    refs = (AttributeRef(optimizer, "_learning_rate"),)
    return HyperparameterSpec(f"{prefix}.learning_rate".lstrip("."), refs, _LEARNING_RATE, "variable")


def optimizer_specs(prefix: str, optimizer: Any) -> Iterator[HyperparameterSpec]:
    """Finds the floats of an optimizer that its update reads, but the learning rate."""
    config = optimizer.get_config()
    held = [name for name in config if _is_number(config[name]) and _is_number(getattr(optimizer, name, None))]
    for name in sorted(held, key=lambda name: [*_LIVE].index(name) if name in _LIVE else len(_LIVE)):
        if (kind := _kind_of(optimizer, name)) is not None:
            scale = _LIVE.get(name) or _unknown(float(config[name]))
            yield HyperparameterSpec(f"{prefix}.{name}".lstrip("."), (AttributeRef(optimizer, name),), scale, kind)


def _kind_of(optimizer: Any, name: str) -> Kind | None:
    """How a float of an optimizer acts on a step, or None where it does not at all."""
    value, stock = getattr(optimizer, name), is_stock(optimizer)
    stays_off = name in _CLIPPING or (name == "momentum" and not stock)  # at 0 a trace leaves it out for good
    if name in _ELSEWHERE or (value == 0 and stays_off) or (name == "ema_momentum" and not optimizer.use_ema):
        return None
    if stock and name in _LIVE and (type(optimizer).__name__, name) not in _COMBINED:
        return "live"
    return "retrace" if isinstance(value, float) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unknown(value: float) -> Scale:
    """A scale for a number of which only the present value is known."""
    if value > 0:
        return Scale(value / 1e3, value * 1e3, "log", zero=True)
    return Scale(2 * value, 0.0) if value < 0 else Scale(0.0, 1.0)


# ------------------------------------------------------------------------- the loss and the layers

_SMOOTHING = Scale(0.0, 0.5)
_RATES = {"rate": Scale(0.0, 0.95), "stddev": Scale(0.0, 1.0)}
_PENALTIES = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def loss_specs(model: Any) -> list[HyperparameterSpec]:
    """The label smoothing, if the model has one loss and that has it; of several losses none is steered."""
    loss: Any = getattr(model, "loss", None)
    if "label_smoothing" not in getattr(loss, "_fn_kwargs", {}):
        return []
    refs = AttributeRef(loss, "label_smoothing"), AttributeRef(loss._fn_kwargs, "label_smoothing")
    return [HyperparameterSpec("label_smoothing", refs, _SMOOTHING, "retrace")]


def named_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer of the model with a name that does not depend on how many layers this process made before.

    A name of the user's own stays; an automatic one (`dropout_7`) becomes what it would be in a fresh
    process, counting the layers in the order of the model.
    """
    counts: Counter[str] = Counter()
    names: dict[Any, str] = {model: ""}

    def walk(parent: Any) -> None:
        for layer in parent._layers:
            if layer not in names:
                kind = to_snake_case(type(layer).__name__)
                automatic = re.fullmatch(rf"((?:forward_|backward_)?{kind})(_\d+)?", layer.name)
                stem = automatic[1] if automatic else layer.name
                names[layer] = f"{stem}_{counts[stem]}" if counts[stem] else stem
                counts[stem] += 1
                walk(layer)

    walk(model)
    return [(name, layer) for layer, name in names.items() if name]


def layer_specs(model: Any) -> list[HyperparameterSpec]:
    """Finds what the layers hold: rates of dropout and noise, regularisation."""
    layers = named_layers(model)
    within = {id(vars(layer).get("_dropout_layer")) for _, layer in layers}  # attention, which looks at the rate itself
    specs: list[HyperparameterSpec] = []
    seen: set[int] = set()
    for name, layer in layers:
        # Made with 0, a layer of dropout has no seeds to draw from.
        draws = any(isinstance(held, keras.random.SeedGenerator) for held in vars(layer).values())
        for attribute, scale in _RATES.items() if draws and is_stock(layer) and id(layer) not in within else ():
            if _is_number(vars(layer).get(attribute)):
                specs.append(
                    HyperparameterSpec(f"{name}.{attribute}", (AttributeRef(layer, attribute),), scale, "retrace")
                )
        specs += _penalties(name, layer, seen)
    return list({spec.name: spec for spec in specs}.values())


def _penalties(name: str, layer: Any, seen: set[int]) -> Iterator[HyperparameterSpec]:
    """Finds the strengths of its penalties: those of its attributes `kernel_regularizer` and the like."""
    for attribute, regularizer in list(vars(layer).items()):
        if type(regularizer) not in _PENALTIES:
            continue
        part = attribute.removesuffix("_regularizer")
        variables = layer._trainable_variables + layer._non_trainable_variables
        held = [variable for variable in variables if variable.regularizer is regularizer]
        if not held and part != "activity":
            continue
        if id(regularizer) in seen:  # shared with another variable
            regularizer = copy.copy(regularizer)
            setattr(layer, attribute, regularizer)
            for variable in [one for one in held if one.name in (part, f"{part}_kernel")] or held:
                variable.regularizer = regularizer
        seen.add(id(regularizer))
        for norm in ("l1", "l2"):
            if hasattr(regularizer, norm):
                refs = (AttributeRef(regularizer, norm),)
                yield HyperparameterSpec(f"{name}.{part}_{norm}", refs, _STRENGTH, "retrace")


def plain(value: Any) -> float:
    """A number as a person would write it: a float32's shortest decimal."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "numpy"):
        return float(str(np.float32(value)))
    return float(value)
