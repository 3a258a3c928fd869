"""The variables that a training changes, in groups: read, compared, written back, by position.

Never by name: two builds of one architecture in one process name their layers differently.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

Tensors = dict[str, list[np.ndarray]]

# A list of a model's that is longer holds data, not variables.
_LONGEST = 1000


class TrainingTensors:
    """The variables of a model, of the optimizers that its step applies, of its metrics, and those Keras does not know.

    Args:
        model: A built model.
        optimizers: The optimizers that its step applies.
    """

    def __init__(self, model: Any, optimizers: Sequence[Any]) -> None:
        self._model, self._optimizers = model, list(optimizers)
        self._reset: tuple[tuple[int, ...], Any] | None = None

    def groups(self) -> dict[str, list[Any]]:
        """Group (`model`, `optimizer`, `metrics`; `raw` where there are such) -> variables, as they are now."""
        groups = {
            "model": self._model.variables,
            "optimizer": [variable for optimizer in self._optimizers for variable in optimizer.variables],
            "metrics": self._model.metrics_variables,
        }
        if raw := raw_variables(self._model):
            known = {id(_of_tensorflow(variable)) for variables in groups.values() for variable in variables}
            raw = [variable for variable in raw if id(variable) not in known]
        return groups | ({"raw": raw} if raw else {})

    def unknown(self, handles: Sequence[Any]) -> str:
        """Why steps that change the variables behind these handles cannot be taken again, in a sentence, or empty."""
        known = {id(_of_tensorflow(variable).handle) for variables in self.groups().values() for variable in variables}
        if known.issuperset(map(id, handles)):
            return ""
        return (
            "Rewinding is not exact, because the model's step changes variables that the model does not hold: "
            "make them with `add_weight`, or keep them as attributes of the model."
        )

    def read(self) -> Tensors:
        """A copy of their values."""
        return {group: list(map(_value, variables)) for group, variables in self.groups().items()}

    def write(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Puts values back that `read` gave."""
        groups = self.groups()
        for group, arrays in tensors.items():
            for variable, array in zip(groups[group], arrays, strict=True):
                variable.assign(array)
        for layer in self._model._flatten_layers():
            if isinstance(layer, keras.layers.Normalization) and layer.built:
                layer.finalize_state()  # which makes constants of its variables

    def snapshot(self) -> list[Any]:
        """What nobody but a step should change, as it is now: all but metrics, learning rates and seeds.

        Tensors, not copies: they share their memory with the variables until somebody assigns
        to one of these, which then takes memory of its own.
        """
        groups = self.groups()
        left_out = {id(getattr(_inner(optimizer), "_learning_rate", None)) for optimizer in self._optimizers}
        left_out |= set(map(id, self._seeds))
        lasting = groups["model"] + groups["optimizer"] + groups.get("raw", [])
        return [tf.convert_to_tensor(_of_tensorflow(each)) for each in lasting if id(each) not in left_out]

    def differ_from(self, before: Sequence[Any]) -> bool:
        """Whether anything is another than when `snapshot` gave this."""
        now = self.snapshot()
        return len(now) != len(before) or not all(map(_same, now, before))

    def positions(self, variables: Sequence[Any]) -> list[int]:
        """Where some of the model's variables stand among them all."""
        place = {id(variable): i for i, variable in enumerate(self._model.variables)}
        return [place[id(variable)] for variable in variables]

    @property
    def built_for(self) -> tuple[tuple[int, ...], ...]:
        """For each optimizer, the model's variables that it was built for, by position."""
        place = {id(variable): i for i, variable in enumerate(self._model.variables)}
        return tuple(
            tuple(place.get(id(variable), -1) for variable in getattr(_inner(optimizer), "_trainable_variables", ()))
            for optimizer in self._optimizers
        )

    def build_for(self, positions: Sequence[Sequence[int]]) -> bool:
        """Builds the optimizers for other variables of the model; returns whether any was."""
        known, variables, built = self.built_for, self._model.variables, False
        for optimizer, now, then in zip(self._optimizers, known, positions, strict=False):
            if now and then and tuple(then) != now and -1 not in (*now, *then):
                with self._model.distribute_strategy.scope():
                    _rebuild(_inner(optimizer), [variables[i] for i in then])
                built = True
        return built

    def extend_optimizers(self) -> bool:
        """Makes an optimizer know what was frozen when it was built and now learns; returns whether there was any."""
        if len(self._optimizers) != 1:
            return False
        place = {id(variable): i for i, variable in enumerate(self._model.variables)}
        learns = [place[id(variable)] for variable in self._model.trainable_variables if id(variable) in place]
        known = self.built_for[0]
        return self.build_for([[*known, *(i for i in learns if i not in known)]])

    def check(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Makes sure that `write` can take these.

        Raises:
            ValueError: If their number or shapes are those of another model.
        """
        groups = self.groups()
        for group, arrays in tensors.items():  # a group that it was written without stays as it is
            have = [tuple(variable.shape) for variable in groups.get(group, ())]
            need = [array.shape for array in arrays]
            if have != need:
                raise ValueError(
                    f"The checkpoint is of another model: its {group} variables have shapes {_short(need)}, those of "
                    f"`{self._model.name}` have {_short(have)}. Use the model that was trained, compiled as it was."
                )

    def reset_metrics(self) -> None:
        """`model.reset_metrics()`; where every metric is Keras's own, by what that came to the first time."""
        model, variables = self._model, self._model.metrics_variables
        known = tuple(map(id, variables))
        if self._reset is not None and self._reset[0] == known:
            for variable, value in zip(variables, self._reset[1], strict=True):
                if type(variable.value) is ResourceVariable:  # without what `assign` looks at each time
                    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)
                else:
                    variable.value.assign(value, read_value=False)
            return
        model.reset_metrics()
        metrics = [inner for metric in model.metrics for inner in (metric, *getattr(metric, "metrics", ()))]
        if all(type(metric).__module__.startswith("keras.") for metric in metrics):
            self._reset = known, [tf.convert_to_tensor(_value(variable)) for variable in variables]

    def read_side_effects(self) -> list[tuple[Any, np.ndarray]]:
        """Metrics and seeds with their values: what looking at a model changes and must not."""
        return [(variable, _value(variable)) for variable in [*self._model.metrics_variables, *self._seeds]]

    @property
    def seeds(self) -> list[list[int]]:
        """How far each generator of random numbers has been drawn on."""
        return [seed.numpy().tolist() for seed in self._seeds]

    @seeds.setter
    def seeds(self, seeds: Sequence[Sequence[int]]) -> None:
        for variable, seed in zip(self._seeds, seeds, strict=True):
            variable.assign(seed)

    @property
    def _seeds(self) -> list[Any]:
        layers = self._model._flatten_layers()
        return [generator.state for layer in layers for generator in getattr(layer, "_seed_generators", ())]


def raw_variables(model: Any) -> list[Any]:
    """TensorFlow's own variables of numbers that a model or a layer has as attributes, alone or in a list.

    A step written by hand may accumulate in them; Keras neither tracks nor saves them.
    """
    found = {id(raw): raw for layer in model._flatten_layers() for raw in _raw_in(list(vars(layer).values()))}
    return list(found.values())


def _raw_in(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tf.Variable):
            dtype = value.dtype
            if value.shape.is_fully_defined() and (dtype.is_floating or dtype.is_integer or dtype.is_bool):
                yield value
        elif isinstance(value, list | tuple | Mapping) and len(value) <= _LONGEST:
            yield from _raw_in(value.values() if isinstance(value, Mapping) else value)
        elif isinstance(value, tf.Module):
            yield from _raw_in(value.variables)


def _of_tensorflow(variable: Any) -> Any:
    return variable if isinstance(variable, tf.Variable) else variable.value


def _value(variable: Any) -> np.ndarray:
    value: np.ndarray = _of_tensorflow(variable).numpy()  # a copy already, as tensors are immutable
    return value


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _same(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    a, b = (np.ascontiguousarray(tensor._numpy()) for tensor in (one, other))  # `numpy()` would copy
    return bool(a.ctypes.data == b.ctypes.data) or np.array_equal(a.reshape(-1).view("u1"), b.reshape(-1).view("u1"))


def _short(shapes: Sequence[tuple[int, ...]]) -> str:
    return f"{', '.join(map(str, shapes[:4]))}{', …' if len(shapes) > 4 else ''} ({len(shapes)} in all)"


def attribute_optimizers(model: Any) -> dict[str, Any]:
    """Optimizers that a model keeps beside `model.optimizer`, by what they are for.

    `discriminator_optimizer` and the optimizer that a submodel `discriminator` was compiled
    with are both called `discriminator`.
    """
    found: dict[str, Any] = {}
    for attribute, value in vars(model).items():
        optimizer = value if isinstance(value, keras.Optimizer) else getattr(value, "optimizer", None)
        if attribute.startswith("_") or attribute == "optimizer" or not isinstance(optimizer, keras.Optimizer):
            continue
        if optimizer is not model.optimizer and not any(optimizer is other for other in found.values()):
            found[_purpose(attribute, found)] = optimizer
    return found


def _purpose(attribute: str, taken: Mapping[str, Any]) -> str:
    for ending in ("_optimizer", "_optim", "_opt"):
        plain = attribute.removesuffix(ending)
        if plain not in ("", attribute) and plain not in taken:
            return plain
    return attribute


@contextlib.contextmanager
def applied_in(optimizers: Mapping[str, Any]) -> Iterator[set[str]]:
    """Inside, gathers the names of the optimizers that are applied, be it only in a trace."""
    applied: set[str] = set()

    def listening(name: str, apply: Any) -> Any:
        def listen(*args: Any, **kwargs: Any) -> Any:
            applied.add(name)
            return apply(*args, **kwargs)

        return listen

    for name, optimizer in optimizers.items():
        optimizer.apply = listening(name, optimizer.apply)
    try:
        yield applied
    finally:
        for optimizer in optimizers.values():
            del optimizer.apply


def _rebuild(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds an optimizer for other variables than before; what it holds for those it knows stays."""
    old = by_occurrence(optimizer)
    kept = {id(optimizer._iterations), id(optimizer._learning_rate)}
    for variable in list(optimizer.variables):
        if id(variable) not in kept:
            optimizer._tracker.untrack(variable)
    optimizer.built = False
    optimizer._trainable_variables_indices.clear()
    optimizer.build(list(variables))
    for key, variable in by_occurrence(optimizer).items():
        if key in old:
            variable.assign(old[key].value)


def by_occurrence(optimizer: Any) -> dict[tuple[str, int], Any]:
    """An optimizer's variables by name, and by their order where a name comes twice."""
    found: dict[tuple[str, int], Any] = {}
    for variable in optimizer.variables:
        count = sum(name == variable.name for name, _ in found)
        found[variable.name, count] = variable
    return found
