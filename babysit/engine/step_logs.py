"""What steps return: their logs as columns of numbers, and how they travel through a loop of TensorFlow's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class StepLogs:
    """What a block of steps returned.

    Attributes:
        columns: Name -> its value at each step, shape (count,): the logs that are scalars, nested ones by their own
            names, and what was measured.
        last: What the last step logged, as NumPy scalars; None in place of what is no scalar.
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


class LogLayout:
    """Where in a row of numbers the logs of a step lie, one column each; what is no scalar has none.

    Attributes:
        row: The numbers of the step that it was read off.
    """

    def __init__(self, result: StepResult) -> None:
        logs = dict(_flat(_checked(result.logs)))
        columns = {name: tensor for name, tensor in logs.items() if tensor is not None}
        columns |= {name: tf.convert_to_tensor(value) for name, value in (result.measured or {}).items()}
        self._logs, self._names = list(logs), list(columns)
        self._has_loss = result.loss is not None and _is_number(result.loss)
        self._watched = result.loss if result.loss is not None else (result.logs or {}).get("loss")
        tensors = [*columns.values(), *([result.loss] if self._has_loss else [])]
        self._dtypes = [_column_type(tensor.dtype) for tensor in tensors]
        # Anything but float32 wants more room: a float64 holds every whole number up to 2**53.
        dtype = tf.float32 if set(self._dtypes) <= {np.dtype(np.float32)} else tf.float64
        self.row = tf.stack([tf.cast(t, dtype) for t in tensors]) if tensors else tf.zeros([0], dtype)

    @property
    def loss_is_finite(self) -> Any:
        """Whether the loss is finite, as a tensor; True if there is none to watch."""
        if self._watched is None or not (loss := tf.convert_to_tensor(self._watched)).dtype.is_floating:
            return tf.constant(True)
        return tf.reduce_all(tf.math.is_finite(loss)) if loss.shape.rank != 0 else tf.math.is_finite(loss)

    def read(self, table: np.ndarray) -> StepLogs:
        """The logs in a table of shape (steps, columns)."""
        values = [column.astype(dtype) for column, dtype in zip(table.T, self._dtypes, strict=True)]
        columns = dict(zip(self._names, values, strict=False))
        last = {name: columns[name][-1] if name in columns else None for name in self._logs}
        return StepLogs(columns, last, values[-1] if self._has_loss else columns.get("loss"), len(table))


def _checked(logs: Any) -> Mapping[str, Any]:
    if logs is not None and not isinstance(logs, Mapping):
        raise TypeError(
            f"`train_step` must return a dict of logs. Received: {type(logs).__name__}. "
            'Return, for example, `{"loss": loss}`, or `{}`.'
        )
    return logs or {}


def _flat(logs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name -> tensor of each log that is a scalar, or None."""
    for name, value in logs.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            tensor = None if value is None else tf.convert_to_tensor(value)
            yield name, tensor if tensor is not None and _is_number(tensor) else None


def _is_number(tensor: Any) -> bool:
    dtype = tensor.dtype
    return bool(tensor.shape.rank == 0 and (dtype.is_floating or dtype.is_integer or dtype.is_bool))


def _column_type(dtype: Any) -> np.dtype[Any]:
    if dtype == tf.float64:
        return np.dtype(np.float64)
    return np.dtype(np.float32) if dtype.is_floating else np.dtype(np.int64)
