"""The inbox of a run: a folder in which other processes leave commands for the one that trains.

A command is a small JSON file, written beside and renamed, so that it is whole or not there. It is taken once, in the
order of the names. Whoever waits for it finds an answer in a file of the same name.
"""

import base64
import contextlib
import getpass
import itertools
import json
import os
import platform
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from babysit.core.events import Event
from babysit.store.checkpoint_store import Checkpoint

FOLDER = "inbox"
EVERY_S = 0.2  # so often the folder is looked at
_LARGEST_BYTES = 2**22
_AUTHOR = re.compile(r"[\w.+-]{1,64}@[\w.+-]{1,64}")
# The commands that another process may send, and the kind of whatever they may bring.
_BRINGS: dict[str, dict[str, Any]] = {
    "set": {"changes": dict, "over": int},
    "note": {"on_last_change": bool},
    "save": {"name": str | None},
    "rename": {"folder": str, "name": str},
    "delete": {"folder": str},
    "rewind": {"folder": str, "branch": str, "step": int | str, "hyperparameters": str, "skip": int},
    "run": {"steps": int},
    "more_epochs": {"epochs": int},
    "export": {"kind": str, "content": str},  # bytes, in base 64
    "diagnostics": {"on": bool},
    "fan": {"name": str, "values": list, "steps": int},
    "lr_range_test": {"name": str},
    "cause": {"step": int},
    "keep": {"branch": str | None},
    "watch": {"rule": str, "then": str | None},
    "answer": {"number": int, "then": str},
    **dict.fromkeys(("pause", "resume", "stop", "finish_epoch", "cancel"), {}),
}
_ALL_BRING = {"action": str, "author": str, "why": str, "command": str, "waits": bool}
_ERRORS = {error.__name__: error for error in (ValueError, TypeError, OSError)}
_numbers = itertools.count()


# ------------------------------------------------------------------------- on the side that asks


def is_open(directory: Path) -> bool:
    """Whether the run in a folder takes commands of other processes, if any process trains it."""
    return (directory / FOLDER).is_dir()


def send(directory: Path, command: Mapping[str, Any], waits: bool = False) -> Path:
    """Leaves a command for the process that trains the run in a folder, with who asks; returns its file.

    Raises:
        ValueError: If it holds something that is no plain data.
        OSError: If the inbox cannot be written.
    """
    try:
        content = json.dumps({**command, "author": _who(), "waits": waits}, default=_plain)
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"`{command.get('action')}` from another process takes plain numbers, texts and truth values: {error}. "
            "Do this where the run is trained."
        ) from error
    # The order of one process's commands is kept, and that of several as well as their clocks agree.
    file = directory / FOLDER / f"{time.time_ns():020}-{next(_numbers):06}-{uuid.uuid4().hex}.json"
    file.with_suffix(".part").write_text(content, encoding="utf-8")
    os.replace(file.with_suffix(".part"), file)
    return file


def _plain(value: Any) -> Any:
    """A value as JSON can have it: bytes in base 64, a number of NumPy as Python's."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value.item()


def _who() -> str:
    """The user and the host of this process, as the author of its commands."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # one without a name, as in a container
        user = "unknown"
    return "@".join(re.sub(r"[^\w.+-]", "-", name)[:64] for name in (user, platform.node() or "unknown"))


def ask(directory: Path, command: Mapping[str, Any], is_alive: Callable[[], bool]) -> dict[str, Any]:
    """Has a command obeyed by the process that trains the run in a folder; returns what that answers.

    Args:
        directory: The run's folder.
        command: As `Panda.send` takes it.
        is_alive: Whether there still is such a process.

    Raises:
        ValueError: If it was refused, or the process ended before it had answered.
        TypeError: If it was refused because of a value's type.
        OSError: If a file could not be written.
    """
    file = send(directory, command, waits=True)
    places = file, file.with_suffix(".taken"), file.with_suffix(".answer")  # in the order in which they are there
    for look in itertools.count(1):
        if places[-1].exists():
            break
        if not any(place.exists() for place in places) or (look % 50 == 0 and not is_alive()):
            file.unlink(missing_ok=True)
            raise ValueError(f"`{command['action']}` was not answered: the process that trained the run has ended.")
        time.sleep(0.02)
    answer: dict[str, Any] = json.loads(places[-1].read_text(encoding="utf-8"))
    places[-1].unlink(missing_ok=True)
    if "error" in answer:
        raise _ERRORS.get(answer["type"], RuntimeError)(answer["error"])
    return answer


# ------------------------------------------------------------------------- on the side that trains


def checked(file: Path) -> dict[str, Any]:
    """The command in a file, as plain data.

    Raises:
        ValueError: If it is none, or one that only the process itself may give.
    """
    if file.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"A command must take at most {_LARGEST_BYTES:,} bytes. Received: {file.name}.")
    content = file.read_text(encoding="utf-8")
    command = json.loads(content)
    if not isinstance(command, dict) or str(command.get("action")) not in _BRINGS:
        raise ValueError(f"`action` must be one of {', '.join(_BRINGS)}. Received: {content[:200]}.")
    known = _ALL_BRING | _BRINGS[command["action"]]
    for name, value in command.items():
        if name not in known or not isinstance(value, known[name]):
            raise ValueError(f"`{command['action']}` cannot bring this. Received: {name}={value!r:.200}.")
    if not _AUTHOR.fullmatch(command.get("author", "")):
        raise ValueError(f"`author` must be user@host. Received: {command.get('author')!r:.200}.")
    if "content" in command:
        command["content"] = base64.b64decode(command["content"], validate=True)
    return command


class Inbox:
    """Takes commands out of a run's inbox, on a thread of its own, and has them obeyed.

    Args:
        directory: The run's folder. What an earlier process has left in its inbox is removed.
        worker: Returns what puts a command in the queue and gives its future result; None once the run was
            garbage-collected.
        flush: Writes the log, so that it holds what an answer is about.

    Raises:
        OSError: If the folder cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        worker: Callable[[], Callable[[dict[str, Any]], "Future[Any]"] | None],
        flush: Callable[[], Any],
    ) -> None:
        self._folder, self._worker, self._flush = directory / FOLDER, worker, flush
        self._unanswered: list[tuple[Path, Future[Any]]] = []
        shut(directory)
        self._folder.mkdir()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="babysit-inbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no more commands."""
        self._closing.set()
        if threading.current_thread() is not self._thread:  # whose garbage collection may close this
            self._thread.join()

    def _look_often(self) -> None:
        while not self._closing.wait(EVERY_S / 10 if self._unanswered else EVERY_S):
            with contextlib.suppress(OSError):  # of a network's disk, which may come back
                for file in sorted(self._folder.glob("*.json")):
                    self._take(file)
                self._answer()
        wait([outcome for _, outcome in self._unanswered], timeout=1)  # the command that ended the run is obeyed soon
        with contextlib.suppress(OSError):
            self._answer()

    def _take(self, file: Path) -> None:
        """Takes a command, which is gone then whatever comes of it, and hands it over."""
        if (submit := self._worker()) is None:
            return
        taken = file.rename(file.with_suffix(".taken"))
        try:
            command = checked(taken)
        except Exception as error:  # whatever somebody has put there
            command = {"action": "refuse", "reason": str(error), "author": "inbox", "waits": True}
        waits = command.pop("waits", False)
        outcome = submit(command)
        if waits:
            self._unanswered.append((taken, outcome))
        else:
            taken.unlink()

    def _answer(self) -> None:
        """Answers the commands that have been obeyed or refused by now."""
        for taken, outcome in [one for one in self._unanswered if one[1].done()]:
            self._flush()
            part = taken.with_suffix(".part")
            part.write_text(json.dumps(_answer_of(outcome)), encoding="utf-8")
            os.replace(part, taken.with_suffix(".answer"))
            taken.unlink()
            self._unanswered.remove((taken, outcome))  # last: where the disk is full it is tried again


def _answer_of(outcome: "Future[Any]") -> dict[str, Any]:
    if (error := outcome.exception()) is not None:
        kind = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "")
        return {"error": str(error), "type": kind}
    match outcome.result():
        case Event() as event:
            return {"seq": event.seq}
        case Checkpoint() as checkpoint:
            return {"folder": checkpoint.path.name}
    return {}


def shut(directory: Path) -> None:
    """Removes the inbox of a run, with what is in it."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory / FOLDER)
