"""Another run, read from its directory to be laid over the chart, and never written."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from babysit.ui.run_series import RunSeries

_READ_S, _PAUSE_S = 0.1, 5.0  # it is read for so long at a time, and once complete so seldom


class Rows(Protocol):
    """The log of a run."""

    def since(self, cursor: int) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """What was logged after a cursor, by table, and the next cursor."""


OpenRun = Callable[[str], Rows]


class ComparedRun:
    """Another run's series, read a little at each call, and again now and then if it still trains.

    Args:
        open_run: Opens the log of the run in a directory; None where no run can be opened.
    """

    def __init__(self, open_run: OpenRun | None) -> None:
        self.series, self.problem = RunSeries(), ""
        self._directory: str | None = None
        self._run: Rows | None = None
        self._open_run = open_run
        self._cursor, self._next_s = 0, 0.0

    @property
    def name(self) -> str:
        """The name of its directory; empty if none is shown."""
        return Path(self._directory).name if self._directory and not self.problem else ""

    def show(self, directory: str | None) -> None:
        """Switches to the run in a directory, or to none, and reads new rows."""
        if directory != self._directory:
            self.series = RunSeries()
            self._directory, self._run, self.problem, self._cursor, self._next_s = directory, None, "", 0, 0.0
        if directory is not None and time.monotonic() >= self._next_s:
            self.problem = ""
            try:
                self._read(directory)
            except Exception as error:  # of whatever lies in a directory that the user typed
                self._run = None
                self.problem = f"`{directory}` holds no run that could be read: {error}."
                self._next_s = time.monotonic() + _PAUSE_S

    def _read(self, directory: str) -> None:
        if self._open_run is None:
            raise ValueError("this dashboard opens no other runs")
        self._run = self._run or self._open_run(os.path.expanduser(directory))
        end = time.monotonic() + _READ_S
        while time.monotonic() < end:
            tables: Mapping[str, list[dict[str, Any]]]
            tables, cursor = self._run.since(self._cursor)
            if cursor == self._cursor:
                self._next_s = time.monotonic() + _PAUSE_S
                return
            self.series.add(tables)
            self._cursor = cursor
