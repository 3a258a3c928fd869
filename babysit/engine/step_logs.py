"""What steps return: their logs as columns of numbers, and how they travel through a loop of TensorFlow's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class StepLogs:
    """What a block of steps returned.

    Attributes:
        columns: Name -> its value at each step, shape (count,), for what is a scalar: the logs,
            nested ones by their own names, and what was measured.
        last: What the last step returned, in its structure, as NumPy scalars and arrays.
        loss: The loss of each step, of its batch alone where that is known; None if there is none.
        count: How many steps were run.
    """

    columns: dict[str, np.ndarray]
    last: dict[str, Any]
    loss: np.ndarray | None
    count: int

    @classmethod
    def joined(cls, parts: Sequence["StepLogs"]) -> "StepLogs":
        """The logs of several blocks, one after the other."""
        first, last = parts[0], parts[-1]
        if first is last:
            return first
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
        losses = [part.loss for part in parts if part.loss is not None]
        return cls(columns, last.last, np.concatenate(losses) if losses else None, sum(part.count for part in parts))


class StepResult(NamedTuple):
    """What one step returns: its logs, the loss of its batch alone where that is known, and what was measured."""

    logs: Any
    loss: Any = None
    measured: Any = None


class Carried(NamedTuple):
    """The type of a row and the shapes and types of the extras, as a loop carries them."""

    dtype: Any = tf.float32
    extras: tuple[Any, ...] = ()

    @property
    def zeros(self) -> tuple[Any, ...]:
        """Extras to begin a loop with."""
        shapes = [[] if spec.shape.rank is None else [size or 0 for size in spec.shape] for spec in self.extras]
        return tuple(tf.zeros(shape, spec.dtype) for shape, spec in zip(shapes, self.extras, strict=True))


class LogLayout:
    """Where in a row of numbers, and in the extras beside it, the logs of a step lie.

    Read off one step: scalars go into the row, one column each; everything else is an extra.
    """

    def __init__(self, result: StepResult) -> None:
        self.columns: dict[str, Any] = {}
        self.extras: list[Any] = []
        self._form = self._lay_out("logs", _checked(result.logs))
        self.columns |= {name: tf.convert_to_tensor(value) for name, value in (result.measured or {}).items()}
        self._has_loss = result.loss is not None and _is_number(result.loss)
        self._watched = result.loss if result.loss is not None else (result.logs or {}).get("loss")
        tensors = [*self.columns.values(), *([result.loss] if self._has_loss else [])]
        self._dtypes = [_column_type(tensor.dtype) for tensor in tensors]
        # Anything but float32 wants more room: a float64 holds every whole number up to 2**53.
        dtype = tf.float32 if set(self._dtypes) <= {np.dtype(np.float32)} else tf.float64
        self.row = tf.stack([tf.cast(t, dtype) for t in tensors]) if tensors else tf.zeros([0], dtype)
        self.carried = Carried(dtype, tuple(tf.TensorSpec(extra.shape, extra.dtype) for extra in self.extras))

    def _lay_out(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._lay_out(key, item) for key, item in value.items()}
        if value is None:
            return None
        tensor = tf.convert_to_tensor(value)
        if _is_number(tensor):
            self.columns[name] = tensor
            return name
        self.extras.append(tensor)
        return len(self.extras) - 1

    @property
    def loss_is_finite(self) -> Any:
        """Whether the loss is finite, as a tensor; True if there is none to watch."""
        if self._watched is None or not (loss := tf.convert_to_tensor(self._watched)).dtype.is_floating:
            return tf.constant(True)
        return tf.reduce_all(tf.math.is_finite(loss)) if loss.shape.rank != 0 else tf.math.is_finite(loss)

    def read(self, table: np.ndarray, extras: Any) -> StepLogs:
        """The logs in a table of shape (steps, columns) and the last step's extras."""
        values = [column.astype(dtype) for column, dtype in zip(table.T, self._dtypes, strict=True)]
        columns = dict(zip(self.columns, values, strict=False))
        last = _filled(self._form, columns, [np.asarray(extra) for extra in extras])
        return StepLogs(columns, last, values[-1] if self._has_loss else columns.get("loss"), len(table))

    def read_one(self) -> StepLogs:
        """The logs of the one step that it was read off, taken eagerly."""
        return self.read(self.row.numpy()[None], self.extras)


def _checked(logs: Any) -> Mapping[str, Any]:
    if logs is not None and not isinstance(logs, Mapping):
        raise TypeError(
            f"`train_step` must return a dict of logs. Received: {type(logs).__name__}. "
            'Return, for example, `{"loss": loss}`, or `{}`.'
        )
    return logs or {}


def _is_number(tensor: Any) -> bool:
    dtype = tensor.dtype
    return bool(tensor.shape.rank == 0 and (dtype.is_floating or dtype.is_integer or dtype.is_bool))


def _column_type(dtype: Any) -> np.dtype[Any]:
    if dtype == tf.float64:
        return np.dtype(np.float64)
    return np.dtype(np.float32) if dtype.is_floating else np.dtype(np.int64)


def _filled(form: Any, columns: Mapping[str, np.ndarray], extras: list[np.ndarray]) -> Any:
    if isinstance(form, Mapping):
        return {key: _filled(item, columns, extras) for key, item in form.items()}
    return form if form is None else columns[form][-1] if isinstance(form, str) else extras[form]
