"""Checkpoints: the whole state of a training run on disk, complete or not there at all.

A checkpoint is a folder with the tensors (safetensors) and a manifest (JSON). It is
written under a temporary name, flushed to disk and renamed, so that a folder with a
final name is complete. Nothing is ever overwritten. NumPy only.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

FORMAT = 1
_TENSORS, _MANIFEST = "state.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        step: Steps done on its branch.
        name: What it was named, or None for an automatic one.
        path: Its folder.
        branch: The branch it was saved on.
        digest: sha256 of the state, hexadecimal.
    """

    step: int
    name: str | None
    path: Path
    branch: str
    digest: str


@dataclass(frozen=True)
class State:
    """Everything that decides how training goes on, in plain data.

    Attributes:
        tensors: Group (`model`, `optimizer`, `metrics`) -> arrays, in the model's own order.
        hyperparameters: Name -> value in effect.
        structure: What of the hyperparameters fixes the structure of a step.
        seed: Of the order of examples.
        epoch: Epochs done.
        cursor: Examples of the present pass over the data done.
        passes: Passes done; as many as epochs, unless an epoch has a number of steps of its own.
        epoch_step: Steps of the present epoch done.
        step: Steps done. Not part of the digest: it says where, not what; nor are those below.
        shuffle: Whether the order of examples is shuffled.
        examples: How many there are; 0 if that was not known.
        trainable: Whether each layer learns.
        built_on: For each optimizer, which of the model's variables it was built for, by position.
        steering: What else steers: ramps under way, couplings, changes that wait.
    """

    tensors: Mapping[str, Sequence[np.ndarray]]
    hyperparameters: Mapping[str, float]
    structure: tuple[Any, ...]
    seed: int
    epoch: int
    cursor: int
    passes: int
    epoch_step: int
    step: int
    shuffle: bool | str = True
    examples: int = 0
    trainable: tuple[bool, ...] = ()
    built_on: tuple[tuple[int, ...], ...] = ()
    steering: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """sha256 of values, shapes, types and order; never of names, paths or times."""
        sha = hashlib.sha256()
        for group, arrays in sorted(self.tensors.items()):
            sha.update(f"{group}:{len(arrays)};".encode())
            for array in arrays:
                sha.update(f"{array.dtype.str}{array.shape};".encode())
                sha.update(np.ascontiguousarray(array).tobytes())
        for name, value in self.hyperparameters.items():  # in their order; a layer's name does not count
            sha.update(name.rpartition(".")[2].encode() + struct.pack("<d", value))
        sha.update(struct.pack("<QQQ", self.seed, self.epoch, self.cursor))
        if self.passes != self.epoch:  # epochs of so many steps: what else says where training stands
            sha.update(struct.pack("<QQ", self.passes, self.epoch_step))
        return sha.hexdigest()


class Shelf:
    """The checkpoints of a run: folders on disk, and the rows of the record that tell of them.

    Args:
        record: The run's.
        folder: Where they lie.
    """

    def __init__(self, record: Any, folder: Path) -> None:
        self._record, self._folder = record, folder

    @property
    def all(self) -> list[Checkpoint]:
        """The complete ones, oldest first."""
        whole = {folder.name: folder for folder in complete(self._folder)}
        return [
            Checkpoint(row["step"], row["name"], whole[row["folder"]], row["branch"], row["digest"])
            for row in self._record.rows("checkpoints")
            if row["folder"] in whole
        ]

    def keep(self, state: "State", name: str | None, branch: str) -> Checkpoint:
        """Saves a state; it is safe on disk when this returns.

        Raises:
            OSError: If the disk does not take it; nothing is left behind.
        """
        now, digest = time.time(), state.digest()
        about = {"name": name, "branch": branch, "time": now}
        folder = save(self._folder, state, about)
        self._record.append("checkpoints", step=state.step, folder=folder.name, digest=digest, **about)
        self._record.flush()
        return Checkpoint(state.step, name, folder, branch, digest)

    def found(self, folder: str) -> tuple[Checkpoint, "State"]:
        """The checkpoint in a folder of that name, and its state.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        for checkpoint in self.all:
            if checkpoint.path.name == folder:
                return checkpoint, load(checkpoint.path)[0]
        raise ValueError(f"`folder` must be that of a checkpoint. Received: {folder!r}. Choose one of the list.")

    def newest_sound(self) -> tuple[Checkpoint, "State"]:
        """The newest one that can be used, and its state.

        Raises:
            ValueError: If there is none; it says why.
        """
        reasons = []
        for checkpoint in reversed(self.all):
            try:
                return checkpoint, load(checkpoint.path)[0]
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError(f"The run has no checkpoint that can be used. {' '.join(reasons)}")

    def checked_name(self, name: object) -> str:
        """Returns a name that a new checkpoint may have; see `checked_name`."""
        return checked_name(name, self._names)

    def free_name(self, step: int) -> str:
        """A new name that tells the step."""
        candidates = itertools.chain([""], (f" ({i})" for i in itertools.count(2)))
        return next(name for more in candidates if (name := f"step {step:,}{more}") not in self._names)

    @property
    def _names(self) -> list[str]:
        return [checkpoint.name for checkpoint in self.all if checkpoint.name]


def checked_name(name: object, taken: Sequence[str]) -> str:
    """Returns a checkpoint's name if it is one.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty, long, holds what is no letter, digit, space or `-_.,()`, or is taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string. Received: name={name!r}.")
    if not re.fullmatch(r"\w[\w \-.,()]{0,79}", name):
        raise ValueError(
            "`name` must begin with a letter or digit and hold at most 80 letters, digits, spaces and -_.,() "
            f"only. Received: name={name[:100]!r}. Choose a plainer one."
        )
    if name in taken:
        raise ValueError(f"`name` must be new: a checkpoint {name!r} exists and is never overwritten. Choose another.")
    return name


def save(directory: Path, state: State, about: Mapping[str, Any]) -> Path:
    """Writes a state to a new folder of `directory`; returns the folder once it is safe on disk.

    Args:
        directory: Where the checkpoints of a run lie; made if it is not there.
        state: What to write.
        about: What else the manifest says: plain data.

    Raises:
        OSError: If it cannot be written; then nothing is left behind.
    """
    directory.mkdir(exist_ok=True)
    folder = directory / f"{_next_number(directory):06d}"
    temporary = directory / f".{folder.name}-{os.getpid()}"
    unsafe = temporary
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number that was killed
        temporary.mkdir()
        tensors = _named(state.tensors)
        _write(temporary / _TENSORS, safetensors.numpy.save(tensors))
        manifest = {
            **about,
            "format": FORMAT,
            "digest": state.digest(),
            "sha256": {_TENSORS: _sha256(temporary / _TENSORS)},
            "shapes": {name: list(array.shape) for name, array in _flat(state.tensors).items()},
            "state": {name: getattr(state, name) for name in State.__dataclass_fields__ if name != "tensors"},
        }
        manifest["seal"] = _seal(manifest)
        _write(temporary / _MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync(temporary)
        os.rename(temporary, folder)
        unsafe = folder
        _sync(directory)
    except BaseException:
        shutil.rmtree(unsafe, ignore_errors=True)
        raise
    return folder


def load(folder: Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint back: its state and its manifest.

    Raises:
        ValueError: If it is missing, incomplete or damaged; nothing was changed then.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest.pop("seal") != _seal(manifest):
            raise ValueError("its manifest has changed since it was written")
        if _sha256(folder / _TENSORS) != manifest["sha256"][_TENSORS]:
            raise ValueError("its tensors have changed since they were written")
        tensors = safetensors.numpy.load_file(folder / _TENSORS)
        groups: dict[str, list[np.ndarray]] = {}
        for name, shape in manifest["shapes"].items():
            groups.setdefault(name.split("/")[0], []).append(tensors[name].reshape(shape))
        groups = {group: groups.get(group, []) for group in ("model", "optimizer", "metrics")}
        state = State(tensors=groups, **{**manifest["state"], **_tuples(manifest["state"])})
        if state.digest() != manifest["digest"]:
            raise ValueError("its state does not have the recorded digest")
    except (OSError, LookupError, TypeError, ValueError, AttributeError, struct.error, SafetensorError) as error:
        raise ValueError(f"The checkpoint {folder} cannot be used: {error}. Choose another one.") from error
    return state, manifest


def complete(directory: Path) -> list[Path]:
    """The folders of a run's checkpoints that were written to the end, oldest first."""
    return [folder for folder in _numbered(directory) if (folder / _MANIFEST).is_file()]


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tupled(plain[name]) for name in ("structure", "trainable", "built_on")}


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _next_number(directory: Path) -> int:
    return max((int(folder.name) for folder in _numbered(directory)), default=0) + 1


def _numbered(directory: Path) -> list[Path]:
    folders = (folder for folder in directory.glob("[0-9]*") if folder.name.isdecimal())
    return sorted(folders, key=lambda folder: int(folder.name))


def _flat(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{group}/{i:05d}": array for group, arrays in groups.items() for i, array in enumerate(arrays)}


def _named(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    # The NumPy writer of safetensors fails on scalars, so they are written as vectors of one.
    return {name: np.ascontiguousarray(np.atleast_1d(array)) for name, array in _flat(groups).items()}


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(manifest: Mapping[str, Any]) -> str:
    """sha256 of all that a manifest says: the digest covers neither its step nor what else is told."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
