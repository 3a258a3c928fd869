"""One checkpoint on disk: a state, complete or not there at all.

A checkpoint is a folder with the tensors (safetensors) and a manifest (JSON). It is written under a temporary name,
flushed to disk and renamed, so a folder with a final name is complete. Nothing is ever overwritten.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from babysit.core.controls import Controls
from babysit.core.position import Position
from babysit.core.state import State

FORMAT = 4
_TENSORS, _MANIFEST = "state.safetensors", "manifest.json"
_UNFINISHED = ".unfinished"  # ends the name of a folder that is being written or removed


# ------------------------------------------------------------------------------- writing


def write(directory: Path, state: State, about: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Writes a state to a new folder of `directory`; returns the manifest once all is safe on disk.

    Args:
        directory: Where the checkpoints of a run lie; made if it is not there.
        state: What to write.
        about: What else the manifest says: plain data.
        number: Of the folder.

    Raises:
        OSError: If it cannot be written; then nothing is left.
    """
    directory.mkdir(exist_ok=True)
    folder = directory / f"{number:06d}"
    unfinished = _unfinished(folder)
    try:
        unfinished.mkdir()
        manifest = _fill(unfinished, state, about)
        _sync(unfinished)
        os.rename(unfinished, folder)
        _sync(directory)
    except BaseException:
        remove(folder)
        raise
    return manifest


def _fill(folder: Path, state: State, about: Mapping[str, Any]) -> dict[str, Any]:
    groups = state.tensors.items()
    arrays = {f"{group}/{i:05d}": np.asarray(one, order="C") for group, many in groups for i, one in enumerate(many)}
    _save(folder / _TENSORS, arrays)
    manifest = {
        **about,
        **asdict(replace(state, tensors={})),
        "format": FORMAT,
        "digest": state.digest(),
        "size": (folder / _TENSORS).stat().st_size,
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest | {"sha256": _sha256(manifest)}, indent=1))
    _sync(folder / _MANIFEST)
    return manifest


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        safetensors.numpy.save_file(arrays, path)  # other threads go on meanwhile, as they would not with `save`
    except safetensors.SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {error}") from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # it is its owner's alone before that
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # never tried again: a second one may succeed although data were lost
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------ removing


def remove(folder: Path) -> None:
    """Removes a checkpoint's folder, finished or not; a kill in between leaves none that is listed."""
    with contextlib.suppress(OSError):
        os.rename(folder, _unfinished(folder))
    shutil.rmtree(_unfinished(folder), ignore_errors=True)


def clear_away(directory: Path) -> None:
    """Removes what killed processes left half written or half removed; only the owner of a run may call it."""
    for folder in directory.glob(f".[0-9]*{_UNFINISHED}"):
        shutil.rmtree(folder, ignore_errors=True)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_UNFINISHED}")


# ------------------------------------------------------------------------------- reading


def read(folder: Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint: its state and its manifest.

    Raises:
        ValueError: If it is missing, incomplete or damaged.
    """
    try:
        manifest = _manifest(folder)
        tensors: dict[str, list[np.ndarray]] = {"model": [], "optimizer": [], "metrics": []}
        for name, array in sorted(safetensors.numpy.load_file(folder / _TENSORS).items()):
            tensors.setdefault(name.split("/")[0], []).append(array)
        plain = {one.name: _with_tuples(manifest[one.name]) for one in fields(State)}
        position, controls = Position(**plain["position"]), Controls.from_plain(plain["controls"])
        state = State(**{**plain, "position": position, "controls": controls, "tensors": tensors})
        if state.digest() != manifest["digest"]:
            raise ValueError(f"its {_TENSORS} has changed since it was written")
    except Exception as error:  # whatever damage leads to
        raise ValueError(f"The checkpoint {folder} cannot be used: {error}. Choose another one.") from error
    return state, manifest


def _with_tuples(plain: Any) -> Any:
    """What was a tuple before JSON made a list of it."""
    return tuple(map(_with_tuples, plain)) if isinstance(plain, list) else plain


def manifests(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The complete checkpoints of a run and their manifests, oldest first; the content of tensors is not read."""
    found = []
    for folder in numbered(directory):
        with contextlib.suppress(Exception):  # damaged
            found.append((folder, _manifest(folder)))
    return found


def numbered(directory: Path) -> list[Path]:
    """The folders of a run's checkpoints, damaged ones among them, oldest first."""
    folders = (folder for folder in directory.glob("[0-9]*") if folder.name.isdecimal())
    return sorted(folders, key=lambda folder: int(folder.name))


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError("it was written by another version of babysit")
    if manifest.pop("sha256") != _sha256(manifest):
        raise ValueError("its manifest has changed since it was written")
    if (folder / _TENSORS).stat().st_size != manifest["size"]:
        raise ValueError(f"its {_TENSORS} has another size than when it was written")
    return manifest


def _sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says: the digest covers neither the step nor the ramps."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
