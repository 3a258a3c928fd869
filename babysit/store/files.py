"""Checkpoints: the whole state of a training run on disk, complete or not there at all.

A checkpoint is a folder with the tensors (safetensors) and a manifest (JSON). It is
written under a temporary name, flushed to disk and renamed, so that a folder with a
final name is complete. Nothing is ever overwritten. NumPy only.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

FORMAT = 2
_TENSORS, _MODEL, _MANIFEST = "state.safetensors", "model.keras", "manifest.json"
_LARGEST_TEXT = 100_000_000  # bytes of a manifest or header; as safetensors has it
_DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
_TYPES = {
    "bool": "BOOL",
    "complex64": "C64",
    "bfloat16": "BF16",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
_ITEM_BYTES = {name: int(re.findall(r"\d+", name)[0]) // 8 for name in _TYPES.values() if name != "BOOL"} | {"BOOL": 1}


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
        tensors: Group (`model`, `optimizer`, `metrics`, perhaps `raw`) -> arrays, in the model's own order.
        hyperparameters: Name -> value in effect.
        structure: What of the hyperparameters fixes the structure of a step.
        seed: Of the order of examples.
        epoch: Epochs done.
        cursor: Examples of the present pass over the data done.
        passes: Passes done; as many as epochs, unless an epoch has a number of steps of its own.
        epoch_step: Steps of the present epoch done.
        step: Steps done. Not part of the digest: it says where, not what; nor are those below.
        shuffle: Whether the order of examples is shuffled.
        declared: The batch size that the fit was given, as the graph is another where all batches have it; 0
            where it was not kept.
        examples: How many there are; 0 if that was not known.
        trainable: Whether each layer learns.
        built_on: For each optimizer, which of the model's variables it was built for, by position.
        steering: What else steers: ramps under way, couplings, changes that wait.
        mark: Sequence number of the journal's last entry when it was taken.
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
    declared: int = 0
    examples: int = 0
    trainable: tuple[bool, ...] = ()
    built_on: tuple[tuple[int, ...], ...] = ()
    steering: Mapping[str, Any] = field(default_factory=dict)
    mark: int = 0

    def digest(self) -> str:
        """sha256 of values, shapes, types and order; never of names, paths or times."""
        sha = hashlib.sha256()
        for group, arrays in sorted(self.tensors.items()):
            sha.update(f"{group}:{len(arrays)};".encode())
            for array in arrays:
                sha.update(f"{array.dtype.str}{array.shape};".encode())
                sha.update(_bytes(array))
        for name, value in self.hyperparameters.items():  # in their order; a layer's name does not count
            sha.update(name.rpartition(".")[2].encode() + struct.pack("<d", value))
        sha.update(struct.pack("<QQQ", self.seed, self.epoch, self.cursor))
        if self.passes != self.epoch:  # epochs of so many steps: what else says where training stands
            sha.update(struct.pack("<QQ", self.passes, self.epoch_step))
        return sha.hexdigest()


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


def save(
    directory: Path,
    state: State,
    about: Mapping[str, Any],
    number: int | None = None,
    write_model: Callable[[Path], Any] | None = None,
) -> Path:
    """Writes a state to a new folder of `directory`; returns the folder once it is safe on disk.

    Args:
        directory: Where the checkpoints of a run lie; made if it is not there.
        state: What to write.
        about: What else the manifest says: plain data.
        number: Of the folder; the next one if not given.
        write_model: Writes `model.keras` to the path it is given. If it raises, the checkpoint goes without.

    Raises:
        OSError: If it cannot be written; then nothing is left behind.
    """
    directory.mkdir(exist_ok=True)
    number = number or next_number(directory)
    folder = directory / f"{number:06d}"
    temporary = directory / f".{folder.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number that was killed
        temporary.mkdir()
        _fill(temporary, state, {**about, "number": number}, write_model)
        _sync(temporary)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        _sync(directory)
    except BaseException:
        remove(folder)
        raise
    return folder


def _fill(folder: Path, state: State, about: Mapping[str, Any], write_model: Callable[[Path], Any] | None) -> None:
    _write(folder / _TENSORS, *_packed(_flat(state.tensors)))
    reason = _add_model(folder / _MODEL, write_model) if write_model else None
    files = sorted(folder.iterdir())
    manifest = {
        **about,
        **({"without_model": reason} if reason else {}),
        "format": FORMAT,
        "digest": state.digest(),
        "sizes": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: _sha256(file) for file in files},
        "shapes": {name: list(array.shape) for name, array in _flat(state.tensors).items()},
        "state": {name: getattr(state, name) for name in State.__dataclass_fields__ if name != "tensors"},
    }
    manifest["seal"] = _seal(manifest)
    _write(folder / _MANIFEST, _text(manifest))


def _add_model(path: Path, write_model: Callable[[Path], Any]) -> str | None:
    """Has the model's file written; returns why it could not be, if so."""
    try:
        write_model(path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except Exception as error:  # whatever a layer without a configuration raises
        path.unlink(missing_ok=True)
        return f"{type(error).__name__}: {error}"
    return None


def remove(folder: Path) -> None:
    """Removes a checkpoint's folder; a kill in between leaves none that is listed."""
    hidden = folder.with_name(f".{folder.name.lstrip('.')}-{os.getpid()}-removed")
    try:
        os.rename(folder, hidden)
    except OSError:
        hidden = folder
        with contextlib.suppress(OSError):
            (folder / _MANIFEST).unlink()
    shutil.rmtree(hidden, ignore_errors=True)


def clear_away(directory: Path) -> None:
    """Removes what killed processes left half written or half removed; for the one writer of a run."""
    for folder in directory.glob(".[0-9]*-*"):
        if re.fullmatch(r"\.\d{6,}(-\d+)+(-removed)?", folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def load(folder: Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint back: its state and its manifest.

    Raises:
        ValueError: If it is missing, incomplete or damaged; nothing was changed then.
    """
    with _told(folder):
        manifest = _manifest(folder)
        _check_sizes(folder, manifest["sizes"])
        _check_content(folder / _TENSORS, manifest)
        _check_header(folder / _TENSORS, manifest["shapes"])
        tensors = safetensors.numpy.load_file(folder / _TENSORS)
        groups: dict[str, list[np.ndarray]] = {}
        for name, shape in manifest["shapes"].items():
            groups.setdefault(name.split("/")[0], []).append(tensors[name].reshape(shape))
        groups = {"model": [], "optimizer": [], "metrics": []} | groups
        state = State(tensors=groups, **{**manifest["state"], **_tuples(manifest["state"])})
        if state.digest() != manifest["digest"]:
            raise ValueError("its state does not have the recorded digest")
    return state, manifest


def check_model(folder: Path) -> None:
    """Checks the model's file, which no state is read from: it may be damaged where all the rest is sound.

    Raises:
        ValueError: If it is missing or damaged.
    """
    manifest = _manifest(folder)
    for name in set(manifest["sizes"]) - {_TENSORS}:
        try:
            _check_size(folder / name, manifest["sizes"][name])
            _check_content(folder / name, manifest)
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}. The state beside it is not touched by that: load or rewind to it.") from error


def described(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose tensors are there, in their size; their content is not read.

    Raises:
        ValueError: If it is missing, incomplete or plainly damaged.
    """
    with _told(folder):
        manifest = _manifest(folder)
        _check_sizes(folder, manifest["sizes"])
    return manifest


def parameters(directory: Path) -> int | None:
    """How many numbers the model's variables hold in the newest checkpoint of a run, as its manifest tells; or None."""
    for folder in reversed(complete(directory)):
        with contextlib.suppress(*_DAMAGE):
            shapes: dict[str, list[int]] = described(folder)["shapes"]
            return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("model/"))
    return None


def complete(directory: Path) -> list[Path]:
    """The folders of a run's checkpoints that were written to the end, oldest first."""
    return [folder for folder in _numbered(directory) if _is_complete(folder)]


def next_number(directory: Path) -> int:
    """The number of the next folder."""
    return max((int(folder.name) for folder in _numbered(directory)), default=0) + 1


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever damage leads to while a checkpoint is read is one kind of error, with the folder and the cure."""
    try:
        yield
    except (*_DAMAGE, struct.error, SafetensorError) as error:
        raise ValueError(f"The checkpoint {folder} cannot be used: {error}. Choose another one.") from error


def _is_complete(folder: Path) -> bool:
    try:
        now = os.lstat(folder / _MANIFEST)
        _check_sizes(folder, _sizes(folder, now.st_mtime_ns, now.st_size, now.st_ino))
    except (*_DAMAGE, struct.error):
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _sizes(folder: Path, *changes_with_the_file: int) -> dict[str, int]:
    """Name -> bytes of each file, as the manifest tells; remembered while that stays as it is."""
    sizes: dict[str, int] = _manifest(folder)["sizes"]
    return sizes


def _manifest(folder: Path) -> dict[str, Any]:
    with _opened(folder / _MANIFEST) as file:
        if (size := os.fstat(file.fileno()).st_size) > _LARGEST_TEXT:
            raise ValueError("its manifest is too large to be one")
        written = file.read(size)
    manifest: dict[str, Any] = json.loads(written)
    # Also what says the same otherwise, as 1E-05 does, is damage.
    if _text(manifest) != written or manifest.pop("seal") != _seal(manifest):
        raise ValueError("its manifest has changed since it was written")
    if manifest["format"] > FORMAT:
        raise ValueError("it was written by a newer babysit: update babysit to open it")
    if folder.name.isdecimal() and manifest.get("number", int(folder.name)) != int(folder.name):
        raise ValueError(f"it is number {manifest['number']}, copied or moved")
    manifest.setdefault("sizes", {_TENSORS: os.lstat(folder / _TENSORS).st_size})  # format 1 told none
    return manifest


def _check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise ValueError("it is no folder")
    if not {_TENSORS} <= set(sizes) <= {_TENSORS, _MODEL}:
        raise ValueError("its manifest tells of other files than a checkpoint has")
    _check_size(folder / _TENSORS, sizes[_TENSORS])


def _check_size(path: Path, size: int) -> None:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"its {path.name} is no plain file")
    if found.st_size != size:
        raise ValueError(f"its {path.name} has {found.st_size:,} bytes instead of {size:,}")


def _check_content(path: Path, manifest: Mapping[str, Any]) -> None:
    if _sha256(path) != manifest["sha256"][path.name]:
        raise ValueError(f"its {path.name} has changed since it was written")


def _check_header(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Checks what a safetensors file declares against its size and the manifest, so that no memory is asked in vain."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _LARGEST_TEXT):
            raise ValueError("its tensors' header is longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    if {name: entry["shape"] for name, entry in header.items()} != {
        name: list(shape) or [1] for name, shape in shapes.items()
    }:
        raise ValueError("its tensors have other names or shapes than its manifest tells")
    end = 0
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        begin, end_before = entry["data_offsets"][0], end
        end = begin + math.prod(entry["shape"]) * _ITEM_BYTES[entry["dtype"]]
        if begin != end_before or [begin, end] != entry["data_offsets"]:
            raise ValueError("its tensors overlap, or are not as large as their shapes")
    if end != size - 8 - length:
        raise ValueError("its tensors are not as large as the file")


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tupled(plain[name]) for name in ("structure", "trainable", "built_on")}


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _numbered(directory: Path) -> list[Path]:
    folders = (folder for folder in directory.glob("[0-9]*") if folder.name.isdecimal())
    return sorted(folders, key=lambda folder: int(folder.name))


def _flat(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{group}/{i:05d}": array for group, arrays in groups.items() for i, array in enumerate(arrays)}


def _packed(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file: its own writer would hold two copies of them all, and other threads up."""
    header: dict[str, Any] = {}
    end = 0
    ordered = sorted(arrays.items(), key=lambda named: -named[1].itemsize)  # which aligns each of them
    for name, array in ordered:
        if array.dtype.name not in _TYPES:
            raise TypeError(f"A checkpoint cannot hold numbers of type {array.dtype}, as {name} has them.")
        begin, end = end, end + array.nbytes
        entry = {"dtype": _TYPES[array.dtype.name], "shape": list(array.shape) or [1], "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    yield from (_bytes(array.astype(array.dtype.newbyteorder("<"), copy=False)) for _, array in ordered)


def _bytes(array: np.ndarray) -> memoryview:
    """An array's bytes in their order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write(path: Path, *pieces: bytes | memoryview) -> None:
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    """sha256 of all that a manifest says: the digest covers neither its step nor what else is told."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A plain file, opened to be read: no link, and nothing that waits for another end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # which closes the descriptor too
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"its {path.name} is no plain file")
        yield file


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
