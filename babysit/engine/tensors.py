"""The variables that a training changes, in groups: read, compared, written back, by position.

Never by name: two builds of one architecture in one process name their layers differently.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from babysit.engine.optimizers import rebuild

Tensors = dict[str, list[np.ndarray]]


class TrainingTensors:
    """The variables of a model, of its optimizers and metrics, and those that its step captures besides.

    Args:
        model: A built model.
        optimizers: The optimizers that its step applies.
    """

    def __init__(self, model: Any, optimizers: Sequence[Any]) -> None:
        self._model, self._optimizers = model, list(optimizers)
        self._captured: list[CapturedVariable] = []
        self._reset: tuple[tuple[int, ...], Any] | None = None

    # ------------------------------------------------------------------- which they are

    def groups(self) -> dict[str, list[Any]]:
        """Group (`model`, `optimizer`, `metrics`; `raw` where a step captures more) -> variables, as they are now."""
        groups = {
            "model": self._model.variables,
            "optimizer": [variable for optimizer in self._optimizers for variable in optimizer.variables],
            "metrics": self._model.metrics_variables,
        }
        return groups | ({"raw": list(self._captured)} if self._captured else {})

    def note_captures(self, handles: Sequence[Any], others: Sequence[Any]) -> None:
        """Adds to the group `raw` what a traced step captures and no group has yet, in the order of capture.

        A stateful layer's states and a `tf.Variable` that a loss reads are such.

        Args:
            handles: The resources that the graph of a step captures.
            others: Variables that are no state of the training.
        """
        variables = [*others, *(variable for group in self.groups().values() for variable in group)]
        known = {id(_of_tensorflow(variable).handle) for variable in variables}
        for handle in handles:
            if id(handle) not in known and (variable := CapturedVariable.of(handle)) is not None:
                known.add(id(handle))
                self._captured.append(variable)

    @property
    def _seeds(self) -> list[Any]:
        """The states of the generators of random numbers; the one that all of Keras shares, if a step draws from it."""
        layers = self._model._flatten_layers()
        seeds = [generator.state for layer in layers for generator in getattr(layer, "_seed_generators", ())]
        shared = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
        handle = None if shared is None else shared.state.value.handle
        return seeds + [variable for variable in self._captured if variable.handle is handle]

    # ------------------------------------------------------------------- read and written

    def read(self) -> Tensors:
        """Returns a copy of their values."""
        return {group: list(map(_value, variables)) for group, variables in self.groups().items()}

    def write(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Writes values back that `read` returned."""
        groups = self.groups()
        for group, arrays in tensors.items():
            for variable, array in zip(groups[group], arrays, strict=group != "raw"):
                variable.assign(array)
        for layer in self._model._flatten_layers():
            if isinstance(layer, keras.layers.Normalization) and layer.built:
                layer.finalize_state()  # which makes constants of its variables

    def check(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Makes sure that `write` can write these.

        Raises:
            ValueError: If their number or shapes are those of another model.
        """
        for group, arrays in tensors.items():  # a group that it was written without stays as it is
            have, need = self.shapes(group), [array.shape for array in arrays]
            if (have[: len(need)] if group == "raw" else have) != need:
                raise ValueError(
                    f"The checkpoint is of another model: its {group} variables have shapes {_short(need)}, those of "
                    f"`{self._model.name}` have {_short(have)}. Use the model that was trained, compiled as it was."
                )

    def shapes(self, group: str) -> list[tuple[int, ...]]:
        """The shapes of a group's variables."""
        return [tuple(variable.shape) for variable in self.groups().get(group, ())]

    def positions(self, variables: Sequence[Any]) -> list[int]:
        """Where some of the model's variables are among them all."""
        position = {id(variable): i for i, variable in enumerate(self._model.variables)}
        return [position[id(variable)] for variable in variables]

    # ------------------------------------------------------------------- external changes

    def snapshot(self) -> list[Any]:
        """Returns what nothing but a step should change: all but metrics, learning rates and seeds.

        Tensors, not copies: they share their memory with the variables until one of these
        is assigned to, which then gets memory of its own.
        """
        groups = self.groups()
        left_out = {id(getattr(_inner(optimizer), "_learning_rate", None)) for optimizer in self._optimizers}
        left_out |= set(map(id, self._seeds))
        lasting = groups["model"] + groups["optimizer"] + groups.get("raw", [])
        return [tf.convert_to_tensor(_of_tensorflow(each)) for each in lasting if id(each) not in left_out]

    def differ_from(self, before: Sequence[Any]) -> bool:
        """Whether anything is another than when `snapshot` returned this."""
        now = self.snapshot()
        return len(now) != len(before) or not all(map(_same, now, before))

    def read_side_effects(self) -> list[tuple[Any, np.ndarray]]:
        """Metrics and seeds with their values: what using a model changes beside its training."""
        return [(variable, _value(variable)) for variable in [*self._model.metrics_variables, *self._seeds]]

    @property
    def seeds(self) -> list[list[int]]:
        """How far each generator of random numbers has been drawn on."""
        return [_value(seed).tolist() for seed in self._seeds]

    @seeds.setter
    def seeds(self, seeds: Sequence[Sequence[int]]) -> None:
        for variable, seed in zip(self._seeds, seeds, strict=True):
            variable.assign(seed)

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

    # ------------------------------------------------------------------- what optimizers know

    @property
    def built_for(self) -> tuple[tuple[int, ...], ...]:
        """For each optimizer, the model's variables that it was built for, by position."""
        position = {id(variable): i for i, variable in enumerate(self._model.variables)}
        return tuple(
            tuple(position.get(id(variable), -1) for variable in getattr(_inner(optimizer), "_trainable_variables", ()))
            for optimizer in self._optimizers
        )

    def build_for(self, positions: Sequence[Sequence[int]]) -> None:
        """Builds the optimizers again that were built for other variables of the model than these."""
        known, variables = self.built_for, self._model.variables
        for optimizer, now, then in zip(self._optimizers, known, positions, strict=False):
            if now and then and tuple(then) != now and -1 not in (*now, *then):
                with self._model.distribute_strategy.scope():
                    rebuild(_inner(optimizer), [variables[i] for i in then])

    def extend_optimizers(self) -> None:
        """Builds a lone optimizer again that does not know yet what was frozen and is trainable now."""
        if len(self._optimizers) == 1:
            position = {id(variable): i for i, variable in enumerate(self._model.variables)}
            trainable = [position[id(each)] for each in self._model.trainable_variables if id(each) in position]
            known = self.built_for[0]
            self.build_for([[*known, *(i for i in trainable if i not in known)]])


class CapturedVariable:
    """A variable that a graph captures and Keras does not know, by its handle."""

    def __init__(self, handle: Any, dtype: Any, shape: tuple[int, ...]) -> None:
        self.handle, self.dtype, self.shape = handle, dtype, shape

    @classmethod
    def of(cls, handle: Any) -> "CapturedVariable | None":
        """The variable of a handle; None for a table, an iterator, or what holds no numbers of a known shape."""
        data = handle._handle_data
        if data is None or not data.is_set or len(data.shape_and_type) != 1:
            return None
        shape, dtype = tf.TensorShape(data.shape_and_type[0].shape), tf.as_dtype(data.shape_and_type[0].dtype)
        is_number = dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex
        return cls(handle, dtype, tuple(shape)) if is_number and shape.is_fully_defined() else None

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)

    def numpy(self) -> np.ndarray:
        """Returns a copy of its value."""
        value: np.ndarray = tf.convert_to_tensor(self).numpy()
        return value

    def assign(self, value: Any) -> None:
        """Sets its value."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=tf.convert_to_tensor(value, self.dtype))


def _of_tensorflow(variable: Any) -> Any:
    return variable if isinstance(variable, tf.Variable | CapturedVariable) else variable.value


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
