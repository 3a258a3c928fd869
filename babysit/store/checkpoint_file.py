"""One checkpoint on disk: a state, complete or not there at all.

A checkpoint is a folder with the tensors (safetensors) and a manifest (JSON). It is written under a temporary name,
flushed to disk and renamed, so a folder with a final name is complete. Nothing is ever overwritten.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from babysit.core.controls import Controls
from babysit.core.position import Position
from babysit.core.state import State, array_bytes

FORMAT = 3
_TENSORS, _MODEL, _MANIFEST = "state.safetensors", "model.keras", "manifest.json"
_DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
_TYPES = {
    "bool": "BOOL",
    "complex64": "C64",
    "bfloat16": "BF16",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


# ------------------------------------------------------------------------------- writing


def write(
    directory: Path,
    state: State,
    about: Mapping[str, Any],
    number: int,
    write_model: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Writes a state to a new folder of `directory`; returns the manifest once all is safe on disk.

    Args:
        directory: Where the checkpoints of a run lie; made if it is not there.
        state: What to write.
        about: What else the manifest says: plain data.
        number: Of the folder.
        write_model: Writes `model.keras` to the path it is given. If it raises, the checkpoint goes without, and the
            manifest says why.

    Raises:
        OSError: If it cannot be written; then nothing is left.
    """
    directory.mkdir(exist_ok=True)
    folder = directory / f"{number:06d}"
    temporary = directory / f".{folder.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
        temporary.mkdir()
        manifest = _fill(temporary, state, {**about, "number": number}, write_model)
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
    return manifest


def _fill(
    folder: Path, state: State, about: Mapping[str, Any], write_model: Callable[[Path], Any] | None
) -> dict[str, Any]:
    arrays = _flat(state.tensors)
    _write(folder / _TENSORS, *_packed(arrays))
    reason = _write_model(folder / _MODEL, write_model) if write_model else None
    files = sorted(folder.iterdir())
    manifest = {
        **about,
        **_plain(state),
        **({"without_model": reason} if reason else {}),
        "format": FORMAT,
        "digest": state.digest(),
        "sizes": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: _sha256(file) for file in files},
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
    }
    manifest["sha256"][_MANIFEST] = _manifest_sha256(manifest)
    _write(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _plain(state: State) -> dict[str, Any]:
    names = ("seed", "followed", "trainable", "built_for", "event")
    plain = {name: getattr(state, name) for name in names}
    return {"position": asdict(state.position), "controls": state.controls.to_plain(), **plain}


def _write_model(path: Path, write_model: Callable[[Path], Any]) -> str | None:
    """Writes the model's file; returns the reason if that fails."""
    try:
        write_model(path)
        _sync(path)
    except Exception as error:  # whatever a layer without a configuration raises
        path.unlink(missing_ok=True)
        return f"{type(error).__name__}: {error}"
    return None


def _packed(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file. The library's own writer copies all arrays and holds up other threads."""
    header: dict[str, Any] = {}
    end = 0
    ordered = sorted(arrays.items(), key=lambda named: -named[1].itemsize)  # which aligns each of them
    for name, array in ordered:
        if array.dtype.name not in _TYPES:
            raise TypeError(f"A checkpoint cannot hold numbers of type {array.dtype}, as {name} has them.")
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    yield from (array_bytes(array) for _, array in ordered)


def _write(path: Path, *pieces: bytes | memoryview) -> None:
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # never tried again: a second one may succeed although data were lost


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------ removing


def remove(folder: Path) -> None:
    """Removes a checkpoint's folder; a kill in between leaves none that is listed."""
    hidden = folder.with_name(f".{folder.name}-{os.getpid()}-removed")
    try:
        os.rename(folder, hidden)
    except OSError:
        hidden = folder
        with contextlib.suppress(OSError):
            (folder / _MANIFEST).unlink()
    shutil.rmtree(hidden, ignore_errors=True)


def clear_away(directory: Path) -> None:
    """Removes what killed processes left half written or half removed; only the owner of a run may call it."""
    for folder in directory.glob(".[0-9]*-*"):
        if re.fullmatch(r"\.\d{6,}-\d+(-removed)?", folder.name):
            shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------- reading


def read(folder: Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint: its state and its manifest.

    Raises:
        ValueError: If it is missing, incomplete or damaged.
    """
    with _as_refusal(folder):
        manifest = _manifest(folder)
        _check_content(folder / _TENSORS, manifest)
        arrays = safetensors.numpy.load_file(folder / _TENSORS)
        tensors: dict[str, list[np.ndarray]] = {"model": [], "optimizer": [], "metrics": []}
        for name, shape in manifest["shapes"].items():
            tensors.setdefault(name.split("/")[0], []).append(arrays[name].reshape(shape))
        state = _state(manifest, tensors)
        if state.digest() != manifest["digest"]:
            raise ValueError("its state does not have the recorded digest")
    return state, manifest


def described(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose tensors have their size; their content is not read.

    Raises:
        ValueError: If it is missing, incomplete or damaged.
    """
    with _as_refusal(folder):
        return _manifest(folder)


def check_model(folder: Path) -> None:
    """Checks the model's file, which no state is read from: it may be damaged where all the rest is sound.

    Raises:
        ValueError: If it is missing or damaged.
    """
    manifest = described(folder)
    if _MODEL in manifest["sizes"]:
        try:
            _check_content(folder / _MODEL, manifest)
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}. The state beside it is not touched by that: load or rewind to it.") from error


def complete(directory: Path) -> list[Path]:
    """The folders of a run's checkpoints that were written to the end, oldest first."""
    return [folder for folder, _ in manifests(directory)]


def manifests(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The complete checkpoints of a run and their manifests, oldest first."""
    for folder in numbered(directory):
        with contextlib.suppress(ValueError):
            yield folder, described(folder)


def numbered(directory: Path) -> list[Path]:
    """The folders of a run's checkpoints, damaged ones among them, oldest first."""
    folders = (folder for folder in directory.glob("[0-9]*") if re.fullmatch(r"[0-9]{6,18}", folder.name))
    return sorted(folders, key=lambda folder: int(folder.name))


def is_complete(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Whether a checkpoint that was complete still is, by the sizes of its files."""
    try:
        return (folder / _MANIFEST).is_file() and (folder / _TENSORS).stat().st_size == sizes[_TENSORS]
    except OSError:
        return False


def next_number(directory: Path) -> int:
    """The number of the next folder."""
    return max((int(folder.name) for folder in numbered(directory)), default=0) + 1


def environments(directory: Path) -> list[dict[str, str]]:
    """What exactness depended on while a run was trained, by its checkpoints, each once."""
    found: list[dict[str, str]] = []
    for _, manifest in manifests(directory):
        if (environment := manifest["environment"]) and environment not in found:
            found.append(environment)
    return found


@contextlib.contextmanager
def _as_refusal(folder: Path) -> Iterator[None]:
    """Turns whatever damage leads to into one kind of error, with the folder and the cure."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"The checkpoint {folder} cannot be used: {error}. Choose another one.") from error


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError("it was written by another version of babysit")
    if manifest["sha256"][_MANIFEST] != _manifest_sha256(manifest):
        raise ValueError("its manifest has changed since it was written")
    if manifest["number"] != int(folder.name):
        raise ValueError(f"it is number {manifest['number']}, copied or moved")
    _check_size(folder / _TENSORS, manifest)
    return manifest


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says: the digest covers neither the step nor the ramps."""
    hashes = {name: value for name, value in manifest["sha256"].items() if name != _MANIFEST}
    return hashlib.sha256(json.dumps({**manifest, "sha256": hashes}).encode()).hexdigest()


def _check_size(path: Path, manifest: Mapping[str, Any]) -> None:
    found, expected = path.stat().st_size, manifest["sizes"][path.name]
    if found != expected:
        raise ValueError(f"its {path.name} has {found:,} bytes instead of {expected:,}")


def _check_content(path: Path, manifest: Mapping[str, Any]) -> None:
    _check_size(path, manifest)
    if _sha256(path) != manifest["sha256"][path.name]:
        raise ValueError(f"its {path.name} has changed since it was written")


def _state(manifest: Mapping[str, Any], tensors: Mapping[str, Sequence[np.ndarray]]) -> State:
    return State(
        position=Position(**manifest["position"]),
        controls=Controls.from_plain(manifest["controls"]),
        tensors=tensors,
        seed=manifest["seed"],
        followed=manifest["followed"],
        trainable=tuple(manifest["trainable"]),
        built_for=tuple(map(tuple, manifest["built_for"])),
        event=manifest["event"],
    )


def _flat(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{group}/{i:05d}": array for group, arrays in groups.items() for i, array in enumerate(arrays)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
