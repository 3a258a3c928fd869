"""What can be read of a run, and how it is steered, whether this process trains it or another one."""

import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from babysit.core.history import History
from babysit.core.hyperparameter import Hyperparameter
from babysit.core.journal import Entry, Journal, entry_of
from babysit.core.runlog import RunLog
from babysit.core.scale import Scale
from babysit.store.checkpoint_store import Checkpoint

Watcher = Callable[[], Sequence[Mapping[str, Any]]]


class Shown:
    """What has a screen, which is made when it is asked for, as by the last line of a cell."""

    _dashboard: Any = None

    def _screen(self) -> Any:
        from babysit.ui.dashboard import Dashboard

        return Dashboard(self)  # type: ignore[arg-type]

    def dashboard(self) -> Any:
        """The screen, an ipywidgets widget; the same one each time."""
        if self._dashboard is None:
            self._dashboard = self._screen()
        return self._dashboard.widget

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        from babysit.ui.widgets import mimebundle

        return mimebundle(self.dashboard(), repr(self))


class Run(Shown):
    """A run: what steers it, and what was measured and done; for a screen `send`, `status` and `logs`.

    Last line of a cell: its dashboard.

    Attributes:
        directory: Its folder.
    """

    directory: Path
    _log: RunLog

    # ----------------------------------------------------------------- steering

    def _ask(self, action: str, **about: Any) -> Any:
        """Has a command obeyed on the training thread; returns what came of it, such as an event of the log."""
        raise NotImplementedError

    def set(self, *, why: str = "", over: int = 1, **changes: float | str | bool) -> Entry:
        """Changes hyperparameters, all from the same next step on: `set(momentum=0.95, why="…")`.

        A learning rate that follows a schedule is taken over by a number, and given back by
        `set(learning_rate="schedule")`. Couplings are switched likewise:
        `set(scaling="linear")` or `"square root"` lets the learning rate follow the batch size
        (Goyal et al. 2017, section 2.1; Malladi et al. 2022), `"off"` ends it.

        Args:
            why: The reason, for the journal.
            over: Steps in which to move there, evenly on each one's own scale: a ramp. A batch size that grows so is
                not taken back where memory runs out on the way.
            **changes: Hyperparameter -> new value; see `hyperparameters` for names and bounds.

        Returns:
            The journal's entry; its `step` is the number of steps done without the change. Where
            gradients are accumulated a batch size waits until they have been applied.

        Raises:
            TypeError: If a value is not a number.
            ValueError: If a name is unknown, or a value out of bounds. Nothing was changed then.
        """
        entry = entry_of(self._ask("set", changes=changes, over=over, why=why))
        self._flush()
        return entry

    def _flush(self) -> None:
        """Sees to it that the record on disk has what was done, where this process writes it."""

    def pause(self) -> None:
        """Rests at the next step boundary; returns when it rests."""
        self._ask("pause")

    def resume(self) -> None:
        """Goes on training; returns at once.

        Raises:
            ValueError: If no fit is going on.
        """
        self._ask("resume")

    def stop(self) -> None:
        """Ends the fit at the next step boundary, keeping everything; returns at once."""
        self._ask("stop")

    def run(self, steps: int = 1) -> None:
        """Takes exactly `steps` steps, fewer only where the run ends, and rests again.

        Returns when it rests. While running: that many more, and then a rest.

        Raises:
            ValueError: If no fit is going on, or `steps` is no whole number from 1 on.
            FloatingPointError: If it rests before that because the loss is no longer finite.
            Exception: Whatever the training raised.
        """
        self._ask("run", steps=steps)
        self._check_finite()

    def note(self, why: str) -> Entry:
        """Writes a line into the journal."""
        return entry_of(self._ask("note", why=why))

    def save(self, name: str | None = None) -> Checkpoint:
        """Saves the whole training state at the next boundary.

        Args:
            name: A new name; made from the step if not given.

        Raises:
            ValueError: If the name is taken, or none that a checkpoint can have, or before the first `fit`.
            OSError: If it cannot be written. No part of it is left then, and the training goes on.
        """
        checkpoint: Checkpoint = self._ask("save", name=name)
        return checkpoint

    def rewind(self, to: Checkpoint | str | int, hyperparameters: str = "checkpoint", skip: int = 0) -> Entry:
        """Returns to a checkpoint or a step, on a new branch; goes on running if it was running.

        The state at a step is that in which the next one was taken: it is reached from the
        nearest earlier checkpoint by the same steps again, under the journal. A checkpoint
        restores the instant at which it was saved.

        Args:
            to: A checkpoint or its name; a branch, for its tip; or a step of the present branch, 0 included.
            hyperparameters: `"checkpoint"` for the values at that time, `"keep"` for the present ones.
            skip: Batches of the present size to skip after that: for a loss spike that a stretch of
                data caused (Chowdhery et al. 2022, section 5.1).

        Raises:
            TypeError: If `to` is none of these.
            ValueError: If there is no such place, it cannot be reached, or the epoch has fewer
                batches left than `skip`. Nothing was changed then.
        """
        event = self._ask("rewind", **self._found(to), hyperparameters=hyperparameters, skip=skip)
        if (differs := event.payload.differs) is not None:
            warnings.warn(
                f"The steps taken again differ from step {differs:,} on: this is not quite the state that was there.",
                stacklevel=2,
            )
        return entry_of(event)

    def _check_finite(self) -> None:
        status = self.status()
        if status["not_finite"]:
            raise FloatingPointError(
                f"The loss of step {status['step']:,} is not finite. The run is paused there: `rewind` to a checkpoint "
                "and lower the learning rate, or `resume()` all the same."
            )

    def _found(self, to: Checkpoint | str | int) -> dict[str, Any]:
        """A place to rewind to, as a command names it."""
        if isinstance(to, numbers.Integral) and not isinstance(to, bool):
            return {"step": int(to)}
        if to in self.branches and all(row["name"] != to for row in self.status()["checkpoints"]):
            return {"branch": to}  # without waiting for checkpoints that are being written
        wanted = to.path if isinstance(to, Checkpoint) else to  # its name may have changed, or gone to another one
        for checkpoint in reversed(self.checkpoints):
            if wanted is not None and wanted in (checkpoint.path, checkpoint.name):
                return {"folder": checkpoint.path.name}
        if wanted in self.branches:
            return {"branch": wanted}
        names = [repr(name) for name in (*(one.name for one in self.checkpoints if one.name), *self.branches)]
        raise (ValueError if isinstance(to, Checkpoint | str) else TypeError)(
            "`to` must be a step, or a checkpoint or branch of this run. "
            f"Received: to={to!r}. There are: {', '.join(names) or 'none yet'}."
        )

    # ----------------------------------------------------------------- reading

    @property
    def state(self) -> str:
        """`idle`, `running`, `paused`, `finished`, `stopped` or `failed`; `interrupted` where its process is gone."""
        return str(self.status()["state"])

    @property
    def step(self) -> int:
        """Steps done on the present branch."""
        return int(self.status()["step"])

    @property
    def epoch(self) -> int:
        """Epochs done on the present branch."""
        return int(self.status()["epoch"])

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """Name -> value and bounds, in a stable order."""
        fields = Scale.__dataclass_fields__
        return {
            name: Hyperparameter(about["value"], Scale(**{field: about[field] for field in fields}))
            for name, about in self.status()["hyperparameters"].items()
        }

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        raise NotImplementedError

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands over a command, in plain data, and returns its id; an entry of the journal says what came of it."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """The present state of the run, in plain data."""
        raise NotImplementedError

    @property
    def log(self) -> RunLog:
        """All events and steps, on all branches."""
        self._look()
        return self._log

    @property
    def logs(self) -> dict[str, RunLog]:
        """Name -> log, for a screen; `babysit.Together` has several."""
        return {self.directory.name: self.log}

    @property
    def watchers(self) -> list[Watcher]:
        """Called after each block of steps, on the training thread; each gives commands, which are obeyed at once."""
        raise ValueError("A run is watched where it is trained.")

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
