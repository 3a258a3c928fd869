"""What can be read of a run, whether this process trains it or another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babysit.core.history import History
from babysit.core.journal import Journal
from babysit.core.runlog import RunLog


class Run:
    """A run as a screen sees it: `send`, `status`, `logs`; and what was measured and done.

    Last line of a cell: its dashboard.

    Attributes:
        directory: Its folder.
    """

    directory: Path
    _log: RunLog
    _dashboard: Any = None

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands over a command, in plain data, and returns its id; an entry of the journal says what came of it."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """The present state of the run, in plain data."""
        raise NotImplementedError

    @property
    def logs(self) -> dict[str, RunLog]:
        """Name -> log, for a screen; `babysit.Together` has several."""
        self._look()
        return {self.directory.name: self._log}

    @property
    def history(self) -> History:
        """What was measured, step by step, along the present branch."""
        self._look()
        return History(self._log, lambda: list(self._log.branches)[-1])

    @property
    def journal(self) -> Journal:
        """What was done, by whom, at which step, and why."""
        self._look()
        return Journal(self._log)

    @property
    def branches(self) -> dict[str, tuple[str | None, int]]:
        """Name -> (parent, step at which it left)."""
        return self.history.branches if self._log.begun else {}

    def _look(self) -> None:
        """Reads what is new, where another process writes it."""

    def dashboard(self) -> Any:
        """The dashboard, an ipywidgets widget; the same one each time."""
        from babysit.ui.dashboard import Dashboard

        if self._dashboard is None:
            self._dashboard = Dashboard(self)
        return self._dashboard.widget

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.dashboard()._repr_mimebundle_(**kwargs)
