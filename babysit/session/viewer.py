"""The viewer: a run of another process, or one that has ended, read from its folder and steered through its inbox."""

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from babysit.core.runlog import RunLog
from babysit.session import inbox
from babysit.session.run import Run
from babysit.store.checkpoint_store import Checkpoint, checkpoints_in
from babysit.store.database import RECORD, DatabaseReader
from babysit.store.lock import holder

# So long after the last news it is seen to whether the run is still held.
SILENCE_S = 2.0


class Viewer(Run):
    """A run of another process: shows what a panda shows, and steers it as a panda does, within a second.

    ```python
    run = babysit.attach("runs/digits-2031-05-04-1")  # from any process that sees the folder
    run.set(learning_rate=1e-3, why="flat")
    run                                               # last line of a cell: the dashboard
    ```

    Commands go through the run's inbox, with who asks as their author, `user@host`. Where no process
    trains the run, or it was begun with `remote=False`, it is only watched: nothing in its folder is changed.

    Args:
        directory: The run's folder.

    Raises:
        ValueError: If another version of babysit has written it, or it was ended before it began.
        sqlite3.Error: If it cannot be read.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self._reader, self._log = DatabaseReader(self.directory / RECORD), RunLog()
        self._version = -1  # of the file when it was read last, and when that was
        self._news_s = 0.0
        self._status: dict[str, Any] = {}
        self._holder: str | None = None
        self._lock = threading.Lock()  # the dashboard's pump reads too
        self._look()
        if not self._status:
            raise ValueError(f"The run at {self.directory} has not begun, or was ended before it began.")

    # ------------------------------------------------------------------ reading

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        self._look()
        return checkpoints_in(self.directory / "checkpoints", self._log)

    def __repr__(self) -> str:
        status = self.status()
        return f"<Viewer of {status['name']}: {status['state']}, step {status['step']:,}, {self.directory}>"

    # ------------------------------------------------------------------ steering

    def _ask(self, action: str, **about: Any) -> Any:
        self._check_open()
        answer = inbox.ask(self.directory, {"action": action, **about}, lambda: holder(self.directory) is not None)
        self._look()
        while action == "run" and self.state == "running":
            time.sleep(0.1)
        if action == "run" and (error := self.status()["error"]):
            raise RuntimeError(error)
        if "folder" in answer:
            return next(one for one in self.checkpoints if one.path.name == answer["folder"])
        event = next((event for event in reversed(self._log.events) if event.seq == answer.get("seq")), None)
        if event is None and "seq" in answer:
            raise OSError(f"It was done, but {self.directory} cannot be written, so that its record does not have it.")
        return event

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands over a command as `Panda.send` takes it, and returns its id at once.

        Raises:
            ValueError: If the run takes no commands, or not this one from another process.
            OSError: If the inbox cannot be written.
        """
        self._check_open()
        sent = {"command": uuid.uuid4().hex, **command}
        inbox.send(self.directory, sent)
        return str(sent["command"])

    def _refuse(self, *args: Any, **about: Any) -> NoReturn:
        """Refuses what only the process that trains the run can do, and names it.

        Raises:
            ValueError: Always.
        """
        self._look()
        here = self._words if self._holder is None else f"That is done where the run is trained, by {self._holder}."
        raise ValueError(here)

    fit = wait = call = digest = schedules = export_script = export_logbook = _refuse
    model = property(_refuse)

    def _check_open(self) -> None:
        self._look()
        if not self._is_open:
            raise ValueError(self._words)

    @property
    def _is_open(self) -> bool:
        return self._holder is not None and inbox.is_open(self.directory)

    @property
    def _words(self) -> str:
        if self._is_open:
            return f"{self._holder} trains this run: what you change here is done there."
        if self._holder is not None:
            return f"This run is only watched from here: {self._holder} holds it, with `remote=False`. Steer it there."
        load = f"`babysit.Panda.load({str(self.directory)!r})` and `fit` with its data take it up."
        return f"This run is only watched from here, and no process holds it: {load}"

    # ------------------------------------------- the seam between run and screen

    def status(self) -> dict[str, Any]:
        """The state of the run, as `Panda.status` gives it, at most half a second old.

        Also `remote`, `read_only`, and `whose`: who trains it, in words.
        """
        self._look()
        status = self._status | {"remote": True, "read_only": not self._is_open, "whose": self._words}
        if self._holder is None and status["state"] == "running":
            words = f"The process that trained this run is gone. {self._words}"
            return status | {"state": "interrupted", "warning": words, "examples_a_second": None, "seconds_left": None}
        return status | {"remarks": [self._words, *status["remarks"]]}

    def _look(self) -> None:
        """Reads what is new in the run's file, and finds out who holds the run."""
        with self._lock:
            version, now = self._reader.version, time.monotonic()
            if version != self._version:
                self._reader.fill(self._log)
                self._status = self._reader.meta("status") or {}
                self._version, self._news_s = version, now
                self._holder = holder(self.directory)
            elif self._holder is not None and now - self._news_s > SILENCE_S:
                self._holder, self._news_s = holder(self.directory), now - SILENCE_S / 2
