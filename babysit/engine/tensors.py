"""The variables that a training changes, in groups: read, compared, written back, by position.

Never by name: two builds of one architecture in one process name their layers differently.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.internals import GLOBAL_SEED_GENERATOR, BaseResourceVariable, get_global_attribute
from babysit.engine.optimizers import inner, rebuild

Tensors = dict[str, list[np.ndarray]]


class TrainingTensors:
    """The variables of a model, of its optimizers and metrics, and those that its step captures besides.

    Args:
        model: A built model.
        optimizers: The optimizers that its step applies.
    """

    def __init__(self, model: Any, optimizers: Sequence[Any]) -> None:
        self._model, self._optimizers = model, list(optimizers)
        self._captured: list[Any] = []
        self._unplaced: list[np.ndarray] = []  # what a state has of variables that no trace has captured yet
        self._reset: tuple[tuple[int, ...], Any] | None = None

    # ------------------------------------------------------------------- which they are

    @property
    def of_optimizers(self) -> list[Any]:
        """The variables of the optimizers."""
        return [variable for optimizer in self._optimizers for variable in optimizer.variables]

    def groups(self) -> dict[str, list[Any]]:
        """Group (`model`, `optimizer`, `metrics`; `raw` where a step captures more) -> variables, as they are now."""
        model = self._model
        groups = {"model": model.variables, "optimizer": self.of_optimizers, "metrics": model.metrics_variables}
        return groups | ({"raw": list(self._captured)} if self._captured else {})

    def note_captures(self, graph: Any, others: Sequence[Any]) -> None:
        """Adds to the group `raw` what the traced steps in a graph capture and no group has yet, in that order.

        A stateful layer's states and a `tf.Variable` that a loss reads are such.

        Args:
            graph: That of a step or of a block.
            others: Variables that are no state of the training.
        """
        variables = [*others, *(variable for group in self.groups().values() for variable in group)]
        known = {id(_of_tensorflow(variable).handle) for variable in variables}
        for handle, _ in graph.captures:
            new = _captured(handle) if handle.dtype == tf.resource and id(handle) not in known else None
            if new is not None:
                known.add(id(handle))
                self._captured.append(new)
                if self._unplaced:
                    new.assign(self._unplaced.pop(0))

    @property
    def _seeds(self) -> list[Any]:
        """The states of the generators of random numbers; the one that all of Keras shares, if a step draws from it."""
        layers = self._model._flatten_layers()
        seeds = [generator.state for layer in layers for generator in getattr(layer, "_seed_generators", ())]
        shared = get_global_attribute(GLOBAL_SEED_GENERATOR)
        handle = None if shared is None else shared.state.value.handle
        return seeds + [variable for variable in self._captured if variable.handle is handle]

    # ------------------------------------------------------------------- read and written

    def read(self) -> Tensors:
        """Returns a copy of their values."""
        tensors = {group: list(map(_value, variables)) for group, variables in self.groups().items()}
        raw = tensors.pop("raw", []) + self._unplaced
        return tensors | ({"raw": raw} if raw else {})

    def write(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Writes values back that `read` returned; of those captured, the last ones when they are known."""
        groups = {"raw": [], **self.groups()}
        for group, arrays in tensors.items():
            for variable, array in zip(groups[group], arrays, strict=group != "raw"):
                _assign(variable, array)
        self._unplaced = list(tensors.get("raw", ()))[len(self._captured) :]
        for layer in self._model._flatten_layers():
            if isinstance(layer, keras.layers.Normalization) and layer.built:
                layer.finalize_state()  # which makes constants of its variables

    def check(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Makes sure that `write` can write these.

        Raises:
            ValueError: If their number or shapes are those of another model.
        """
        for group, variables in self.groups().items():
            have, need = [tuple(one.shape) for one in variables], [one.shape for one in tensors.get(group, ())]
            length = min(len(have), len(need)) if group == "raw" else None
            if have[:length] != need[:length]:
                raise ValueError(
                    f"The checkpoint is of another model: its {group} variables have shapes {_short(need)}, those of "
                    f"`{self._model.name}` have {_short(have)}. Use the model that was trained, compiled as it was."
                )

    @property
    def positions(self) -> dict[int, int]:
        """The id of each of the model's variables -> where it is among them all."""
        return {id(variable): i for i, variable in enumerate(self._model.variables)}

    # ------------------------------------------------------------------- external changes

    def snapshot(self) -> list[Any]:
        """Returns what nothing but a step should change: all but metrics, learning rates and seeds.

        Tensors, not copies: they share their memory with the variables until one of these
        is assigned to, which then gets memory of its own.
        """
        groups = self.groups()
        left_out = {id(inner(optimizer)._learning_rate) for optimizer in self._optimizers}
        left_out |= set(map(id, self._seeds))
        lasting = groups["model"] + groups["optimizer"] + groups.get("raw", [])
        return [_read(each) for each in lasting if id(each) not in left_out]

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
                _assign(variable, value)
            return
        model.reset_metrics()
        metrics = [inner for metric in model.metrics for inner in (metric, *getattr(metric, "metrics", ()))]
        if all(type(metric).__module__.startswith("keras.") for metric in metrics):
            self._reset = known, [tf.convert_to_tensor(_value(variable)) for variable in variables]

    # ------------------------------------------------------------------- what optimizers know

    @property
    def built_for(self) -> tuple[tuple[int, ...], ...]:
        """For each optimizer, the model's variables that it was built for, by position."""
        positions = self.positions
        known = [getattr(inner(optimizer), "_trainable_variables", ()) for optimizer in self._optimizers]
        return tuple(tuple(positions.get(id(variable), -1) for variable in variables) for variables in known)

    def build_for(self, positions: Sequence[Sequence[int]]) -> None:
        """Builds the optimizers again that were built for other variables of the model than these."""
        known, variables = self.built_for, self._model.variables
        for optimizer, now, then in zip(self._optimizers, known, positions, strict=False):
            if now and then and tuple(then) != now and -1 not in (*now, *then):
                rebuild(inner(optimizer), [variables[i] for i in then])

    def extend_optimizers(self) -> None:
        """Builds a lone optimizer again that does not know yet what was frozen and is trainable now."""
        if len(self._optimizers) == 1:
            positions = self.positions
            trainable = [positions[id(variable)] for variable in self._model.trainable_variables]
            known = self.built_for[0]
            self.build_for([[*known, *(i for i in trainable if i not in known)]])


def _captured(handle: Any) -> Any:
    """The variable of a handle that Keras may not know; None for a table, an iterator, or what holds no numbers."""
    data = handle._handle_data
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    shape, dtype = tf.TensorShape(data.shape_and_type[0].shape), tf.as_dtype(data.shape_and_type[0].dtype)
    is_number = dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex
    if not is_number or not shape.is_fully_defined():
        return None
    return BaseResourceVariable(
        trainable=False, shape=shape, dtype=dtype, handle=handle, in_graph_mode=False, name="captured"
    )


def _of_tensorflow(variable: Any) -> Any:
    return variable if isinstance(variable, tf.Variable) else variable.value


def _read(variable: Any) -> Any:
    raw = _of_tensorflow(variable)
    return tf.raw_ops.ReadVariableOp(resource=raw.handle, dtype=raw.dtype)


def _value(variable: Any) -> np.ndarray:
    value: np.ndarray = _read(variable).numpy()  # a copy
    return value


def _assign(variable: Any, value: Any) -> None:
    """Assigns a value of the variable's shape, without what `assign` checks, which lasts as long as several steps."""
    raw = _of_tensorflow(variable)
    if not isinstance(value, np.ndarray) or value.dtype != raw.dtype.as_numpy_dtype:
        value = tf.convert_to_tensor(value, raw.dtype)
    tf.raw_ops.AssignVariableOp(resource=raw.handle, value=value)


def _same(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    a, b = np.asarray(one._numpy()), np.asarray(other._numpy())  # `numpy()` would copy
    return bool(a.ctypes.data == b.ctypes.data) or a.tobytes() == b.tobytes()


def _short(shapes: Sequence[tuple[int, ...]]) -> str:
    return f"{', '.join(map(str, shapes[:4]))}{', …' if len(shapes) > 4 else ''} ({len(shapes)} in all)"
