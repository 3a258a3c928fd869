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

from babysit.core.hyperparameter import any_whole, checked
from babysit.core.scale import Scale
from babysit.group import Together
from babysit.places import LOST, Build, Cluster, Here, Job
from babysit.runs import attach
from babysit.session.run import Run, Shown
from babysit.session.viewer import Viewer
from babysit.store.database import RECORD
from babysit.store.lock import Lock

RUNS, STUDY = "search.json", "study.log"
_EVERY_S = 0.2  # the runs are looked at
_TRIES = 3  # for a run whose process is lost
_OVER = ("finished", "stopped", "pruned", "failed")
_HOW = ("sampler", "pruner", "at_once", "address", "resources")
Space = Mapping[str, Scale | Sequence[Any]]


@dataclass
class _Run:
    """A run of a search.

    Attributes:
        name: Its name; its folder's too, with a hyphen.
        hyperparameters: What `build` is given.
        state: `waiting`, `running`, `paused`, `finished`, `stopped`, `pruned` or `failed`.
        number: In Optuna's study; None for a clone.
        of: For a clone, the run and the step that it comes from, in words.
        at: For a clone, that step, or None for where the run was.
        changes: For a clone, what is set there.
        branches: For a clone, how many branches the run had when it was copied.
        lost: How often its process was lost.
        process: What the place where it trains calls its process.
        error: What it raised.
        seconds: How long it trained, in all.
        step: Steps done, as far as was seen.
        values: What is compared, after each epoch.
        examples_a_second: Its speed.
        trial: Optuna's, while it trains.
        place: What the place where it trains calls it; None where it does not.
        began: When it began to train, in seconds.
        told: Epochs that the study knows.
    """

    name: str
    hyperparameters: dict[str, Any]
    state: str = "waiting"
    number: int | None = None
    of: str = ""
    at: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    branches: int = 0
    lost: int = 0
    process: str = ""
    error: str = ""
    seconds: float = 0.0
    step: int = 0
    values: list[float] = field(default_factory=list)
    examples_a_second: float | None = None
    trial: Any = None
    place: Any = None
    began: float = 0.0
    told: int = 0

    @property
    def kept(self) -> dict[str, Any]:
        """What is kept on disk of it; the rest is in its folder."""
        names = list(_Run.__dataclass_fields__)
        return {name: getattr(self, name) for name in names[: names.index("step")]}

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if math.isfinite(value)]


class Caviar(Shown):
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
        address: Of a Ray cluster, such as `"auto"`, whose machines see the folder, and where runs that have begun go on
            when this kernel ends, until `load` with the same address takes the search up; None for this machine.
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
        self._begin(build, sampler, pruner, at_once, address, resources)

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
        if unknown := set(how) - set(_HOW):
            raise TypeError(f"`load` takes {', '.join(_HOW)}. Received: {', '.join(unknown)}.")
        kept = json.loads((path / RUNS).read_text(encoding="utf-8"))
        self = cls.__new__(cls)
        self._open(path, kept["facts"], [_Run(**run) for run in kept["runs"]])
        for run in self._all.values():
            self._look(run)
        if build is None:
            self._remarks.append(f"To go on: `babysit.Caviar.load({str(directory)!r}, build)`.")
        else:
            for run in self._all.values():
                run.state = run.state if run.state in _OVER else "waiting"
            self._begin(build, *(how.get(name) for name in _HOW))
        return self

    def _open(self, path: Path, facts: dict[str, Any], runs: list[_Run]) -> None:
        self.directory, self._facts = path, facts
        self._all = {run.name: run for run in runs}
        self._seen: dict[str, Run] = {}  # as they were attached to
        self._lock = threading.RLock()  # for `_all`, `_state` and the thread
        self._remarks: list[str] = []
        self._state = "stopped"
        self._held: Lock | None = None  # the folder, while the thread goes on
        self._thread: threading.Thread | None = None

    def _begin(self, build: Build, sampler: Any, pruner: Any, at_once: Any, address: Any, resources: Any) -> None:
        optuna = _optuna()
        at_once = None if at_once is None else int(checked("at_once", at_once, any_whole()))
        self._place: Any
        if find_spec("ray") is None:
            self._place = Here(build)
            self._remarks.append(self._place.remark)
            warnings.warn(self._place.remark, stacklevel=3)
        else:
            self._place = Cluster(build, at_once, address, resources or {"CPU": 1}, str(self.directory))
        with contextlib.ExitStack() as undo:
            self._held = Lock(self.directory)
            undo.callback(self._held.release)  # as where the disk is full
            self._open_study(optuna, sampler, pruner)
            self._keep()
            undo.pop_all()
        self._start()

    def _open_study(self, optuna: Any, sampler: Any, pruner: Any) -> None:
        facts = self._facts
        backend = optuna.storages.journal.JournalFileBackend(str(self.directory / STUDY))
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            direction="maximize" if facts["highest"] else "minimize",
            sampler=sampler or optuna.samplers.RandomSampler(seed=facts["seed"] + len(self._all)),
            pruner=pruner or optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        for run in self._all.values():
            if run.number is not None and run.state not in _OVER:
                known = self._study.trials[run.number]
                run.trial = optuna.trial.Trial(self._study, known._trial_id)
                run.told = 1 + max(known.intermediate_values, default=-1)

    def _start(self) -> None:
        self._state = "running"
        self._thread = threading.Thread(target=self._work, name="babysit-caviar", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ what it is

    @property
    def runs(self) -> dict[str, Run]:
        """Name -> run, of those that have begun: a `Panda` where it trains in this kernel, else a viewer of it."""
        found = {}
        for name in list(self._all):
            with contextlib.suppress(KeyError):
                found[name] = self[name]
        return found

    def __getitem__(self, name: str) -> Run:
        """A run, by its name.

        Raises:
            KeyError: If there is none, or it has not begun.
        """
        if name not in self._all:
            raise KeyError(f"`{name}` is no run. The runs are {', '.join(self._all) or 'none yet'}.")
        if not isinstance(self._seen.get(name), Viewer):  # a panda may be gone by now
            try:
                self._seen[name] = attach(self._folder(name))
            except (ValueError, sqlite3.Error):
                raise KeyError(f"`{name}` has not begun.") from None
        return self._seen[name]

    def together(self, *names: str) -> Together:
        """Several runs under one set of controls: `caviar.together("run 3", "run 7").set(learning_rate=1e-3)`.

        Raises:
            KeyError: If one has not begun.
            ValueError: If they are fewer than two, or one is named twice.
        """
        return Together(*(self[name] for name in names), names=names)

    @property
    def best(self) -> Run:
        """The run with the best value so far.

        Raises:
            ValueError: If none has a value yet.
        """
        if (best := self._best()) is None:
            raise ValueError(f"No run has a value of {self._facts['by']!r} yet.")
        return self[best["name"]]

    def _best(self) -> dict[str, Any] | None:
        rows = [row for row in self.rows() if row["best"] is not None]
        return (max if self._facts["highest"] else min)(rows, key=lambda row: row["best"], default=None)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row a run, indexed by its name."""
        try:
            import pandas
        except ImportError:
            raise ImportError("`to_pandas` needs pandas: `pip install pandas`.") from None
        rows = [row | row["hyperparameters"] for row in self.rows()]
        return pandas.DataFrame(rows).set_index("name").drop(columns=["hyperparameters", "values"])

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
            if self._thread is None:
                raise ValueError(f"This search is only looked at. {self._remarks[0]}")
            of = name if at is None else f"{name} at step {at:,}"
            clone = _Run(self._new_name(), self._all[name].hyperparameters, of=of, at=at, changes=changes)
            clone.branches = _copied(self._folder(name), self._folder(clone.name))
            self._enter(clone)
            if self._held is None:  # all was over
                self._held = Lock(self.directory)
                self._start()
            self._state = "running"
        return clone.name

    def _screen(self) -> Any:
        from babysit.ui.board import Board

        return Board(self)

    def __repr__(self) -> str:
        status, best = self.status(), self._best()
        said = f"best {status['by']} {best['best']:.4g} of {best['name']}" if best else "no value yet"
        return f"<Caviar: {status['done']} of {status['trials']} runs are over, {said}, {self.directory}>"

    # ------------------------------------------- the seam between search and screen

    def rows(self) -> list[dict[str, Any]]:
        """Each run in plain data: its name, state, hyperparameters, and how far and how good it is."""
        pick = max if self._facts["highest"] else min
        return [
            {
                "name": run.name,
                "state": run.state,
                "step": run.step,
                "epoch": len(run.values),
                "values": run.values,
                "epochs": self._facts["epochs"],
                "hyperparameters": {**run.hyperparameters, **run.changes},
                "latest": run.finite[-1] if run.finite else None,
                "best": pick(run.finite, default=None),
                "examples_a_second": run.examples_a_second,
                "error": run.error,
                "of": run.of,
            }
            for run in list(self._all.values())
        ]

    def status(self) -> dict[str, Any]:
        """How the search stands, in plain data."""
        runs = list(self._all.values())
        over = [run for run in runs if run.state in _OVER]
        wanted = self._facts["trials"] + sum(run.number is None for run in runs)
        took = [run.seconds for run in over if run.seconds] if self._state == "running" else []
        left = sum(took) / len(took) * (wanted - len(over)) / self._place.at_once if took else None
        about = {name: self._facts[name] for name in ("by", "highest", "space")}
        return about | {
            "title": f"search in {self.directory.name}",
            "state": self._state,
            "done": len(over),
            "trials": wanted,
            "seconds_left": left,
            "best": best["name"] if (best := self._best()) else None,
            "remarks": self._remarks[-3:],
        }

    def send(self, command: Mapping[str, Any]) -> None:
        """Obeys a command in plain data; what is refused is among the remarks of `status`.

        Args:
            command: `action`: `pause`, `resume`, `stop`, `delete` or `clone` (`at`, `changes`) of `runs`, a list of
                names; `stop worst half`; `stop all`.
        """
        action, names = command.get("action"), list(command.get("runs") or ())
        if action == "stop all":
            with self._lock:
                self._state = "stopping" if self._held else "stopped"
        elif action == "stop worst half":
            action, names = "stop", self._worst_half()
        elif action not in ("pause", "resume", "stop", "delete", "clone"):
            self._remarks.append(f"There is no such action. Received: {action!r}.")
            return
        for name in names:
            try:
                self._obey(action, name, command)
            except KeyError:  # it was deleted meanwhile
                self._remarks.append(f"`{name}` is no run.")
            except (ValueError, TypeError, OSError, sqlite3.Error) as error:
                self._remarks.append(str(error))

    def _obey(self, action: str, name: str, command: Mapping[str, Any]) -> None:
        if action == "delete":
            self._delete(name)
        elif action == "clone":
            self.clone(name, command.get("at"), **(command.get("changes") or {}))
        elif action == "stop" and self._all[name].state == "waiting":
            self._end(self._all[name], "stopped")
        else:
            self._begun(name).send({"action": action, "author": "dashboard"})

    def _begun(self, name: str) -> Run:
        try:
            return self[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def _delete(self, name: str) -> None:
        if self._all[name].state not in _OVER:
            raise ValueError(f"{name} is {self._all[name].state}: stop it before you delete it.")
        with self._lock:
            self._seen.pop(name, None)
            del self._all[name]
            self._keep()
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def _worst_half(self) -> list[str]:
        rows = [row for row in self.rows() if row["state"] in ("running", "paused") and row["latest"] is not None]
        rows.sort(key=lambda row: row["latest"], reverse=not self._facts["highest"])  # the worst first
        return [row["name"] for row in rows[: len(rows) // 2]]

    # ------------------------------------------------------------------ on the thread of the search

    @property
    def _training(self) -> list[_Run]:
        return [run for run in list(self._all.values()) if run.place is not None]

    def _work(self) -> None:
        while True:
            try:
                self._turn()
            except OSError as error:  # a full disk's, which may have room again
                words = f"The search waits: {error}"
                self._remarks += [words] if self._remarks[-1:] != [words] else []
            except Exception as error:
                self._remarks.append(f"The search has stopped: {type(error).__name__}: {error}")
                self._state = "stopped"
            with self._lock:
                if self._state in ("finished", "stopped") and self._held is not None:
                    self._place.close()
                    self._held.release()
                    self._held = None
                    return
            time.sleep(_EVERY_S)

    def _turn(self) -> None:
        """Looks at the runs that train, ends those that are over, and begins others."""
        for run in list(self._all.values()):
            if run.state in _OVER and run.trial is not None:  # the disk was full when it ended
                self._end(run, run.state)
        for run in self._training:
            if self._state == "stopping":
                with contextlib.suppress(KeyError, ValueError):  # it has not begun, and is told again
                    self[run.name].send({"action": "stop", "author": "dashboard"})
            outcome = self._place.outcome(run.place)  # before it is looked at, so that all of it is seen
            self._look(run)
            self._tell(run)
            if outcome is not None:
                self._over(run, outcome)
        while self._state == "running" and len(self._training) < self._place.at_once and (new := self._next()):
            about = new.hyperparameters, self._facts["epochs"], self._facts["seed"], new.at, new.changes, new.branches
            job = Job(str(self._folder(new.name)), *about, adopted=bool(new.process))
            new.process = new.process or self._place.free()
            self._keep()  # before it begins, so that another kernel finds it
            new.state, new.began = "running", time.monotonic()
            new.place = self._place.begin(job, new.process)
        with self._lock:
            if not self._training and self._state == "stopping":
                self._state = "stopped"
            elif not self._training and not any(run.state == "waiting" for run in self._all.values()):
                self._state = "finished"

    def _next(self) -> _Run | None:
        """The next run to be trained: one that waits, or a new one."""
        if waiting := [run for run in self._all.values() if run.state == "waiting"]:
            return min(waiting, key=lambda run: not run.process)  # first those that a process may still train
        if len(self._study.trials) >= self._facts["trials"]:
            return None
        trial = self._study.ask()
        found = {name: _suggested(trial, name, one) for name, one in self._facts["space"].items()}
        with self._lock:
            run = _Run(self._new_name(), found, number=trial.number, trial=trial)
            self._enter(run)
        return run

    def _new_name(self) -> str:
        return f"run {1 + max((int(name.split()[1]) for name in self._all), default=0)}"

    def _enter(self, run: _Run) -> None:
        self._all[run.name] = run
        self._keep()

    def _look(self, run: _Run) -> None:
        """Reads how far a run has come."""
        try:
            seen = self[run.name]
            status, ends = seen.status(), seen.history.epoch_ends()
        except (KeyError, ValueError, sqlite3.Error):
            return
        by = self._facts["by"]
        if by == "val_loss" and ends and by not in ends[-1].logs:
            by = "loss"
        run.values = [float(end.logs.get(by, math.nan)) for end in ends]
        run.step, run.examples_a_second = status["step"], status["examples_a_second"]
        if run.place is not None and run.state in ("running", "paused") and status["state"] in ("running", "paused"):
            run.state = status["state"]

    def _tell(self, run: _Run) -> None:
        """Tells the study of new epochs, and stops the run where its pruner says so."""
        if run.trial is None or len(run.values) <= run.told:
            return
        for epoch in range(run.told, len(run.values)):
            if math.isfinite(run.values[epoch]):
                run.trial.report(run.values[epoch], epoch)
        run.told = len(run.values)
        if run.state == "running" and run.trial.should_prune():
            run.state = "pruned"
            self[run.name].send({"action": "stop", "author": "pruner"})

    def _over(self, run: _Run, outcome: str) -> None:
        """Notes what a run came to; one whose process was lost goes on in another one."""
        run.place, run.process, run.seconds = None, "", run.seconds + time.monotonic() - run.began
        if outcome == LOST and run.lost + 1 < _TRIES:
            run.lost, run.state = run.lost + 1, "waiting"
            self._keep()
            return
        run.error = f"{LOST} {_TRIES} times" if outcome == LOST else outcome
        if outcome:
            state = "failed"
        elif run.state == "pruned":
            state = "pruned"
        else:
            state = self._seen[run.name].state if run.name in self._seen else "stopped"
        self._end(run, state if state in _OVER else "stopped")

    def _end(self, run: _Run, state: str) -> None:
        """Ends a run, and tells the study what it came to."""
        run.state = state
        self._keep()
        if (trial := run.trial) is not None:
            ends, value, ended = _optuna().trial.TrialState, None, None
            if state == "pruned":
                ended = ends.PRUNED
            elif state == "failed" or not run.finite:
                ended = ends.FAIL
            else:
                value = (max if self._facts["highest"] else min)(run.finite)
            self._study.tell(trial, value, ended, skip_if_finished=True)
            run.trial = None  # last, so that it is told again where the disk was full

    # ------------------------------------------------------------------ on disk

    def _folder(self, name: str) -> Path:
        return self.directory / name.replace(" ", "-")

    def _keep(self) -> None:
        """Writes down which runs there are and how they stand, whole or not at all."""
        with self._lock:
            kept = {"facts": self._facts, "runs": [run.kept for run in self._all.values()]}
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
        TypeError: If it is empty, or something in it is neither a scale nor a list of two or more plain values.
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


def _suggested(trial: Any, name: str, described: Mapping[str, Any]) -> Any:
    """A value that a trial of Optuna's tries."""
    if "choices" in described:
        return trial.suggest_categorical(name, described["choices"])
    return Scale(**described).suggest(trial, name)


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
        return 1 + int(copy.execute("SELECT COUNT(*) FROM events WHERE kind = 'rewind'").fetchone()[0])


def _linked(source: str, target: str) -> None:
    """Puts a file that never changes in a second place; copies it where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
