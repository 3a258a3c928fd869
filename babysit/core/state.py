"""A state: everything that decides how a training goes on, as plain data."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from babysit.core.controls import SCHEDULE, Controls
from babysit.core.position import Position


@dataclass(frozen=True)
class State:
    """A training at a step: its position, its controls and its tensors. Its arrays are never changed.

    Attributes:
        position: Steps, epochs, place in the data.
        controls: Hyperparameters, ramps, what the fit was given.
        tensors: Group (`model`, `optimizer`, `metrics`, perhaps `raw`) -> arrays, in the model's own order.
        seed: Of the order of examples.
        followed: Learning rate -> number that its schedule gives here.
        trainable: Whether each layer is trained.
        built_for: For each optimizer, the model's variables it was built for, by position.
        slots: Momentums that have velocities.
        event: Number of the last event that the state contains.
    """

    position: Position
    controls: Controls
    tensors: Mapping[str, Sequence[np.ndarray]]
    seed: int = 0
    followed: Mapping[str, float] | None = None
    trainable: tuple[bool, ...] = ()
    built_for: tuple[tuple[int, ...], ...] = ()
    slots: tuple[str, ...] = ()
    event: int = 0

    def digest(self) -> str:
        """sha256, hexadecimal, of values, shapes, types and order; never of names, paths or times."""
        sha = hashlib.sha256()
        for group, arrays in sorted(self.tensors.items()):
            sha.update(f"{group}:{len(arrays)};".encode())
            for array in arrays:
                sha.update(f"{array.dtype.str}{array.shape};".encode())
                sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        values = self.controls.at(self.position.step) | dict(self.followed or {})
        for name, value in values.items():  # in their order; a layer's name does not count
            sha.update(name.rpartition(".")[2].encode() + struct.pack("<d", 0.0 if value == SCHEDULE else value))
        at = self.position
        sha.update(struct.pack("<QQQ", self.seed, at.epoch, at.example))
        if at.data_pass != at.epoch:  # epochs of a number of steps of their own
            sha.update(struct.pack("<QQ", at.data_pass, at.epoch_step))
        return sha.hexdigest()

    @property
    def size_bytes(self) -> int:
        """What its arrays take."""
        return sum(array.nbytes for arrays in self.tensors.values() for array in arrays)
