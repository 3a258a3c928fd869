"""The caviar: many runs with different hyperparameters, each of them a panda, and the best of them."""

import contextlib
import json
import math
import os
import shutil
import sqlite3
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from babysit.core.hyperparameter import any_whole, checked
from babysit.core.scale import Scale
from babysit.places import LOST, Build, Cluster, Here, Job
from babysit.runs import attach
from babysit.session.run import Run
from babysit.session.viewer import Viewer
from babysit.store.database import RECORD
from babysit.store.lock import Lock

RUNS, STUDY = "search.json", "study.log"
_EVERY_S = 0.2  # the runs are looked at
_TRIES = 3  # for a run whose process is lost
_OVER = ("finished", "stopped", "pruned", "failed")
Space = Mapping[str, Scale | Sequence[Any]]


@dataclass
class _Entry:
    """A run of a search, as it is kept on disk.

    Attributes:
        name: Its name; its folder's too, with a hyphen.
        hyperparameters: What `build` is given.
        state: `waiting`, `running`, `paused`, `finished`, `stopped`, `pruned` or `failed`.
        trial: Number in Optuna's study; None for a clone.
        of: For a clone, the run and the step that it comes from, in words.
        at: For a clone, that step, or None.
        changes: For a clone, what is set there.
        branches: For a clone, the branches that the run had when it was copied.
        lost: How often its process was lost.
        error: What it raised.
        seconds: How long it trained, as far as is known.
    """

    name: str
    hyperparameters: dict[str, Any]
    state: str = "waiting"
    trial: int | None = None
    of: str = ""
    at: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    branches: int = 0
    lost: int = 0
    error: str = ""
    seconds: float = 0.0


@dataclass
class _Seen:
    """What was seen of a run last."""

    step: int = 0
    epoch: int = 0
    values: list[float] = field(default_factory=list)  # of each epoch
    examples_a_second: float | None = None
    reported: int = 0  # epochs that the study knows


class Caviar:
    """Trains many runs with different hyperparameters and keeps the best; each can be steered while it trains.

    ```python
    def build(hyperparameters):  # -> a compiled model, and what its `fit` is given
        ...
    caviar = babysit.Caviar(build, {"learning_rate": Scale(1e-4, 1, "log")}, trials=24, epochs=10)
    caviar                                    # last line of a cell: the board
    caviar["run 7"].set(learning_rate=1e-3)   # any run is a panda
    ```

    It begins at once. With Ray (`pip install 'babysit[caviar]'`) as many runs train at a time as this machine or a
    cluster bears; without, one after the other in this kernel. Each is an ordinary run in a folder of its own.

    Args:
        build: `build(hyperparameters)` returns a compiled model, and a dict of what its `fit` is given, without epochs.
            Called under the same seed for each run. In another process it needs what it uses: imports within it, or
            names of the notebook.
        space: Hyperparameter -> a `Scale`, or a list of what may be chosen.
        trials: How many runs.
        epochs: How long each is trained.
        directory: The search's folder, a new one.
        sampler: One of Optuna's samplers; random by default (Bergstra and Bengio 2012).
        pruner: One of Optuna's pruners, asked after each epoch, which ends runs that are behind; none by default.
        at_once: Runs at a time; by default what there is room for.
        by: What is compared, of each epoch's logs; `val_loss`, or `loss` where nothing is validated.
        highest: Whether the highest is the best, as of an accuracy.
        seed: Of the weights, of the order of examples and of the sampler.
        address: Of a Ray cluster, such as `"auto"`, whose machines see the folder; None for this machine.
        resources: What a run takes of Ray's resources: `{"CPU": 1, "GPU": 0.25}`.

    Raises:
        TypeError: If `build` or `space` is of the wrong kind.
        ValueError: If an argument does not fit, or the folder holds a search already.
        ImportError: If Optuna is missing.
    """

    def __init__(
        self,
        build: Build,
        space: Space,
        trials: int = 24,
        epochs: int = 10,
        directory: str | Path = "runs/search",
        sampler: Any = None,
        pruner: Any = None,
        at_once: int | None = None,
        *,
        by: str = "val_loss",
        highest: bool = False,
        seed: int = 0,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if not callable(build):
            raise TypeError(f"`build` must be a function of the hyperparameters. Received: build={build!r}.")
        path = Path(directory).absolute()
        if (path / RUNS).exists():
            raise ValueError(
                f"`directory` must be a new one: {path} holds a search. "
                f"`babysit.Caviar.load({str(directory)!r}, build)` goes on with it."
            )
        facts = {
            "space": _described(space),
            "trials": int(checked("trials", trials, any_whole())),
            "epochs": int(checked("epochs", epochs, any_whole())),
            "by": by,
            "highest": bool(highest),
            "seed": int(checked("seed", seed, any_whole(0))),
        }
        path.mkdir(parents=True, exist_ok=True)
        self._open(path, facts, [])
        self._begin(build, space, sampler, pruner, at_once, address, resources)

    @classmethod
    def load(cls, directory: str | Path, build: Build | None = None, **how: Any) -> "Caviar":
        """A search from disk. With `build` it goes on where it was; without, its runs can only be looked at.

        Args:
            directory: The search's folder.
            build: The function that it was begun with.
            **how: `sampler`, `pruner`, `at_once`, `address` and `resources`, as for a new one.

        Raises:
            ValueError: If there is no search, or another process goes on with it.
        """
        path = Path(directory).absolute()
        if not (path / RUNS).exists():
            raise ValueError(f"`directory` must hold a search. Received: {directory}.")
        kept = json.loads((path / RUNS).read_text(encoding="utf-8"))
        self = cls.__new__(cls)
        self._open(path, kept["facts"], [_Entry(**entry) for entry in kept["runs"]], held=build is not None)
        if build is None:
            self._remarks.append(f"To go on: `babysit.Caviar.load({str(directory)!r}, build)`.")
            for name in self._entries:
                self._look(name)
        else:
            for entry in self._entries.values():
                entry.state = entry.state if entry.state in _OVER else "waiting"
            given = {name: how.pop(name, None) for name in ("sampler", "pruner", "at_once", "address", "resources")}
            if how:
                raise TypeError(f"`load` takes {', '.join(given)}. Received: {', '.join(how)}.")
            self._begin(build, _space(kept["facts"]["space"]), **given)
        return self

    def _open(self, path: Path, facts: dict[str, Any], entries: list[_Entry], held: bool = True) -> None:
        self.directory, self._facts = path, facts
        self._held = Lock(path) if held else None
        self._entries = {entry.name: entry for entry in entries}
        self._seen = {entry.name: _Seen() for entry in entries}
        self._runs: dict[str, Run] = {}
        self._training: dict[str, Any] = {}  # name -> what its place calls it
        self._trials: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._remarks: list[str] = []
        self._state = "stopped"
        self._dashboard: Any = None
        self._thread: threading.Thread | None = None

    def _begin(
        self, build: Build, space: Space, sampler: Any, pruner: Any, at_once: Any, address: Any, resources: Any
    ) -> None:
        optuna = _optuna()
        at_once = None if at_once is None else int(checked("at_once", at_once, any_whole()))
        self._place: Any
        if find_spec("ray") is None:
            self._place = Here(build, 1)
            self._remarks.append(self._place.remark)
            warnings.warn(self._place.remark, stacklevel=3)
        else:
            self._place = Cluster(build, at_once, address, resources or {"CPU": 1})
        self._build, self._space = build, space
        backend = optuna.storages.journal.JournalFileBackend(str(self.directory / STUDY))
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            direction="maximize" if self._facts["highest"] else "minimize",
            sampler=sampler or optuna.samplers.RandomSampler(seed=self._facts["seed"] + len(self._entries)),
            pruner=pruner or optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        for entry in self._entries.values():
            if entry.trial is not None and entry.state not in _OVER:
                self._trials[entry.name] = optuna.trial.Trial(self._study, self._study.trials[entry.trial]._trial_id)
        self._keep()
        self._state = "running"
        self._thread = threading.Thread(target=self._work, name="babysit-caviar", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ what it is

    @property
    def runs(self) -> dict[str, Run]:
        """Name -> run, of those that have begun: a `Panda` where it trains in this kernel, else a viewer of it."""
        found = {}
        for name in list(self._entries):
            with contextlib.suppress(KeyError):
                found[name] = self[name]
        return found

    def __getitem__(self, name: str) -> Run:
        """A run, by its name.

        Raises:
            KeyError: If there is none, or it has not begun.
        """
        if name not in self._entries:
            raise KeyError(f"`{name}` is no run. The runs are {', '.join(self._entries) or 'none yet'}.")
        run = self._runs.get(name)
        if not isinstance(run, Viewer):  # a panda may be gone by now
            try:
                run = self._runs[name] = attach(self._folder(name))
            except (ValueError, sqlite3.Error):
                raise KeyError(f"`{name}` has not begun.") from None
        return run

    @property
    def best(self) -> Run:
        """The run with the best value so far.

        Raises:
            ValueError: If none has a value yet.
        """
        if (name := self._best()) is None:
            raise ValueError(f"No run has a value of {self._facts['by']!r} yet.")
        return self[name]

    def _best(self) -> str | None:
        rows = [row for row in self.rows() if row["best"] is not None]
        if not rows:
            return None
        return str((max if self._facts["highest"] else min)(rows, key=lambda row: row["best"])["name"])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row a run, indexed by its name."""
        try:
            import pandas
        except ImportError:
            raise ImportError("`to_pandas` needs pandas: `pip install pandas`.") from None
        rows = [{**row, **row.pop("hyperparameters")} for row in self.rows()]
        return pandas.DataFrame(rows).set_index("name")

    def wait(self, timeout: float | None = None) -> "Caviar":
        """Waits until all runs are over; returns the search.

        Raises:
            TimeoutError: If it took longer than `timeout` seconds.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"After {timeout} s {len(self._training)} runs still train.")
        return self

    def stop(self) -> None:
        """Stops all runs, keeping everything, and begins no more; returns at once. `load` goes on."""
        self.send({"action": "stop all"})

    def clone(self, name: str, at: int | None = None, **changes: Any) -> str:
        """Goes on from a step of a run, exactly, as a run of its own; returns its name.

        Args:
            name: The run.
            at: Steps done; where it is, if not given.
            **changes: Hyperparameters to be set there, as by `Panda.set`.

        Raises:
            ValueError: If the run has not begun, has no such step, or takes no such change.
        """
        run = self._begun(name)
        at = None if at is None else int(checked("at", at, any_whole(0)))
        if at is not None and at > run.history.steps:
            raise ValueError(f"`at` must be a step of {name}, from 0 to {run.history.steps:,}. Received: at={at}.")
        bounds = run.hyperparameters
        if unknown := [one for one in changes if one not in bounds]:
            raise ValueError(f"A clone can change {', '.join(bounds)}. Received: {', '.join(unknown)}.")
        changes = {one: checked(one, value, bounds[one].scale) for one, value in changes.items()}
        with self._lock:
            entry = _Entry(
                f"run {len(self._entries) + 1}",
                dict(self._entries[name].hyperparameters),
                of=name if at is None else f"{name} at step {at:,}",
                at=at,
                changes=changes,
            )
            entry.branches = _copied(self._folder(name), self._folder(entry.name))
            self._enter(entry)
            self._state = "running" if self._held is not None else self._state
            self._go_on()
        return entry.name

    def dashboard(self) -> Any:
        """The board, an ipywidgets widget; the same one each time."""
        from babysit.ui.board import Board

        if self._dashboard is None:
            self._dashboard = Board(self)
        return self._dashboard.widget

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        from babysit.ui.widgets import mimebundle

        return mimebundle(self.dashboard(), repr(self))

    def __repr__(self) -> str:
        status = self.status()
        best = self._best()
        said = f"best {self._facts['by']} {self._value(best):.4g} of {best}" if best else "no value yet"
        return f"<Caviar: {status['done']} of {status['trials']} runs are over, {said}, {self.directory}>"

    def _value(self, name: str) -> float:
        values = [value for value in self._seen[name].values if math.isfinite(value)]
        return max(values) if self._facts["highest"] else min(values)

    # ------------------------------------------- the seam between search and screen

    def rows(self) -> list[dict[str, Any]]:
        """Each run in plain data: its name, state, hyperparameters, and how far and how good it is."""
        rows = []
        for name, entry in list(self._entries.items()):
            seen = self._seen[name]
            finite = [value for value in seen.values if math.isfinite(value)]
            rows.append(
                {
                    "name": name,
                    "state": entry.state,
                    "step": seen.step,
                    "epoch": seen.epoch,
                    "epochs": self._facts["epochs"],
                    "hyperparameters": {**entry.hyperparameters, **entry.changes},
                    "latest": finite[-1] if finite else None,
                    "best": self._value(name) if finite else None,
                    "examples_a_second": seen.examples_a_second,
                    "error": entry.error,
                    "of": entry.of,
                }
            )
        return rows

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> (epochs, what is compared after each)."""
        values = {name: np.array(seen.values, float) for name, seen in list(self._seen.items())}
        return {name: (np.arange(1, len(each) + 1), each) for name, each in values.items()}

    def status(self) -> dict[str, Any]:
        """How the search stands, in plain data."""
        entries = list(self._entries.values())
        over = [entry for entry in entries if entry.state in _OVER]
        wanted = self._facts["trials"] + sum(entry.trial is None for entry in entries)
        took = [entry.seconds for entry in over if entry.seconds]
        each = sum(took) / len(took) if took and self._state == "running" else None
        return {
            "title": f"search in {self.directory}",
            "by": self._facts["by"],
            "highest": self._facts["highest"],
            "state": self._state,
            "done": len(over),
            "trials": wanted,
            "seconds_left": each and each * (wanted - len(over)) / self._place.at_once,
            "remarks": self._remarks[-3:],
            "space": self._facts["space"],
        }

    def send(self, command: Mapping[str, Any]) -> None:
        """Obeys a command in plain data; what is refused is among the remarks of `status`.

        Args:
            command: `action`: `pause`, `resume`, `stop`, `delete` or `clone` (`at`, `changes`) of `runs`, a list of
                names; `stop worst half`; `stop all`.
        """
        action, names = command.get("action"), list(command.get("runs") or ())
        try:
            match action:
                case "pause" | "resume" | "stop":
                    for name in names:
                        self._steer(name, str(action))
                case "delete":
                    for name in names:
                        self._delete(name)
                case "clone":
                    for name in names:
                        self.clone(name, command.get("at"), **(command.get("changes") or {}))
                case "stop worst half":
                    for name in self._worst_half():
                        self._steer(name, "stop")
                case "stop all":
                    self._stop_all()
                case _:
                    raise ValueError(f"There is no such action. Received: {action!r}.")
        except (ValueError, TypeError, KeyError, OSError) as error:
            self._remarks.append(str(error.args[0] if isinstance(error, KeyError) else error))

    def _steer(self, name: str, action: str) -> None:
        if self._entries[name].state == "waiting" and action == "stop":
            self._over(name, "stopped")
        else:
            self._begun(name).send({"action": action, "author": "dashboard"})

    def _begun(self, name: str) -> Run:
        try:
            return self[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def _delete(self, name: str) -> None:
        if self._entries[name].state not in _OVER:
            raise ValueError(f"{name} is {self._entries[name].state}: stop it before you delete it.")
        with self._lock:
            self._runs.pop(name, None)
            del self._entries[name], self._seen[name]
            self._keep()
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def _worst_half(self) -> list[str]:
        rows = [row for row in self.rows() if row["state"] in ("running", "paused") and row["latest"] is not None]
        rows.sort(key=lambda row: row["latest"], reverse=not self._facts["highest"])  # the worst first
        return [row["name"] for row in rows[: len(rows) // 2]]

    def _stop_all(self) -> None:
        with self._lock:
            self._state = "stopping" if self._training else "stopped"
        for name in list(self._training):
            with contextlib.suppress(ValueError):
                self._begun(name).send({"action": "stop", "author": "dashboard"})

    # ------------------------------------------------------------------ on the thread of the search

    def _go_on(self) -> None:
        """Begins the thread, or lets it go on, unless this only looks at the search."""
        with self._lock:
            if self._thread is None or self._held is not None:
                return
            self._held, self._state = Lock(self.directory), "running"
            self._thread = threading.Thread(target=self._work, name="babysit-caviar", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                self._turn()
            except OSError as error:  # a full disk's, which may have room again
                self._remarks.append(f"The search waits: {error}")
            except Exception as error:
                self._remarks.append(f"The search has stopped: {type(error).__name__}: {error}")
                self._state = "stopped"
            with self._lock:
                if self._state in ("finished", "stopped"):
                    self._place.close()
                    if self._held is not None:
                        self._held.release()
                    self._held = None
                    return
            time.sleep(_EVERY_S)

    def _turn(self) -> None:
        """Looks at the runs that train, ends those that are over, and begins others."""
        for name in list(self._training):
            self._look(name)
            self._report(name)
            outcome = self._place.outcome(self._training[name])
            if outcome is not None:
                self._look(name)
                self._ended(name, outcome)
        while self._state == "running" and len(self._training) < self._place.at_once:
            if (entry := self._next()) is None:
                break
            self._start(entry)
        if not self._training:
            waits = any(entry.state == "waiting" for entry in self._entries.values())
            with self._lock:
                if self._state == "stopping":
                    self._state = "stopped"
                elif self._state == "running" and not waits:
                    self._state = "finished"

    def _next(self) -> _Entry | None:
        """The next run to be trained: one that waits, or a new one."""
        waiting = [entry for entry in self._entries.values() if entry.state == "waiting"]
        if waiting:
            return waiting[0]
        if len(self._study.trials) >= self._facts["trials"]:
            return None
        trial = self._study.ask()
        found = {name: _suggested(trial, name, values) for name, values in self._space.items()}
        with self._lock:
            entry = _Entry(f"run {len(self._study.trials) + self._clones}", found, trial=trial.number)
            while entry.name in self._entries:
                entry.name = f"run {int(entry.name.split()[1]) + 1}"
            self._enter(entry)
        self._trials[entry.name] = trial
        return entry

    @property
    def _clones(self) -> int:
        return sum(entry.trial is None for entry in self._entries.values())

    def _enter(self, entry: _Entry) -> None:
        self._entries[entry.name], self._seen[entry.name] = entry, _Seen()
        self._keep()

    def _start(self, entry: _Entry) -> None:
        job = Job(
            str(self._folder(entry.name)), entry.hyperparameters, self._facts["epochs"], self._facts["seed"],
            entry.at, entry.changes, entry.branches,
        )  # fmt: skip
        entry.state, self._training[entry.name] = "running", self._place.begin(job)
        entry.seconds -= time.time()
        self._keep()

    def _look(self, name: str) -> None:
        """Reads how far a run has come."""
        seen, entry = self._seen[name], self._entries[name]
        try:
            run = self[name]
            status, ends = run.status(), run.history.epoch_ends()
        except (KeyError, ValueError, sqlite3.Error):
            return
        seen.step, seen.epoch, seen.examples_a_second = status["step"], status["epoch"], status["examples_a_second"]
        by = self._facts["by"]
        if by == "val_loss" and ends and by not in ends[-1].logs:
            by = "loss"
        seen.values = [float(end.logs.get(by, math.nan)) for end in ends]
        if name in self._training and status["state"] in ("running", "paused"):
            entry.state = status["state"]

    def _report(self, name: str) -> None:
        """Tells the study of new epochs, and stops the run where its pruner says so."""
        trial, seen = self._trials.get(name), self._seen[name]
        if trial is None:
            return
        for epoch in range(seen.reported, len(seen.values)):
            if math.isfinite(seen.values[epoch]):
                trial.report(seen.values[epoch], epoch)
        if len(seen.values) > seen.reported:
            seen.reported = len(seen.values)
            if self._entries[name].state == "running" and trial.should_prune():
                self._entries[name].state = "pruned"
                self[name].send({"action": "stop", "author": "pruner"})

    def _ended(self, name: str, outcome: str) -> None:
        entry = self._entries[name]
        del self._training[name]
        entry.seconds += time.time()
        if outcome == LOST and entry.lost + 1 < _TRIES:
            entry.lost, entry.state = entry.lost + 1, "waiting"
            self._keep()
            return
        if outcome:
            entry.error = outcome if outcome != LOST else f"{LOST} {_TRIES} times"
        pruned, whole = entry.state == "pruned", self._seen[name].epoch >= self._facts["epochs"]
        state = "failed" if outcome else "pruned" if pruned else "finished" if whole else self._last_state(name)
        self._over(name, state)

    def _last_state(self, name: str) -> str:
        """`finished` or `stopped`, as the run itself says: a callback may have finished it early."""
        try:
            state = self[name].state
        except (KeyError, ValueError):
            return "stopped"
        return state if state in _OVER else "stopped"

    def _over(self, name: str, state: str) -> None:
        """Ends a run, and tells the study what it came to."""
        entry, optuna = self._entries[name], _optuna()
        entry.state = state
        self._keep()
        trial, finite = self._trials.pop(name, None), [one for one in self._seen[name].values if math.isfinite(one)]
        if trial is not None:
            ends = optuna.trial.TrialState
            if state == "failed" or not finite:
                self._study.tell(trial, state=ends.FAIL)
            elif state == "pruned":
                self._study.tell(trial, state=ends.PRUNED)
            else:
                self._study.tell(trial, self._value(name))

    # ------------------------------------------------------------------ on disk

    def _folder(self, name: str) -> Path:
        return self.directory / name.replace(" ", "-")

    def _keep(self) -> None:
        """Writes down which runs there are and how they stand, whole or not at all."""
        with self._lock:
            kept = {"facts": self._facts, "runs": [asdict(entry) for entry in self._entries.values()]}
            for entry in kept["runs"]:
                entry["seconds"] = max(entry["seconds"], 0.0)
            part = self.directory / f"{RUNS}.part"
            part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            os.replace(part, self.directory / RUNS)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError("`Caviar` needs Optuna: `pip install 'babysit[caviar]'`.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _described(space: Space) -> dict[str, Any]:
    """A space in plain data.

    Raises:
        TypeError: If something in it is neither a scale nor a list.
        ValueError: If it is empty, or a list has fewer than two values.
    """
    if not isinstance(space, Mapping) or not space:
        raise TypeError(f"`space` must be a dict of hyperparameter -> Scale or list. Received: {space!r}.")
    described: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Scale):
            described[name] = asdict(values)
        elif isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 1:
            described[name] = {"choices": list(values)}
        else:
            raise TypeError(f"`space[{name!r}]` must be a Scale, or a list of two or more. Received: {values!r}.")
    json.dumps(described)
    return described


def _space(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one["choices"] if "choices" in one else Scale(**one) for name, one in described.items()}


def _suggested(trial: Any, name: str, values: Scale | Sequence[Any]) -> Any:
    return values.suggest(trial, name) if isinstance(values, Scale) else trial.suggest_categorical(name, values)


def _copied(folder: Path, new: Path) -> int:
    """Copies a run as it is now, even while it trains; returns how many branches it has.

    The log is a prefix of what happens, so that the copy is a run that was killed at this moment.
    """
    shutil.copytree(folder / "checkpoints", new / "checkpoints", copy_function=_linked)
    # After the checkpoints, so that it has all that they are of.
    source = sqlite3.connect(f"{(folder / RECORD).as_uri()}?mode=ro", uri=True)
    copy = sqlite3.connect(new / RECORD)
    with contextlib.closing(source), contextlib.closing(copy):
        source.backup(copy)
        branches = copy.execute("SELECT COUNT(*) FROM events WHERE kind = 'rewind'").fetchone()[0]
    return int(branches) + 1


def _linked(source: str, target: str) -> None:
    """A file that never changes, in two places; copied where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
