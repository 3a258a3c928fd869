"""Where the runs of a search train: in this kernel, one after the other, or in processes that Ray starts.

A place begins jobs and says what became of them. Nothing else of a run goes through it: what is read and steered is in
the run's folder.
"""

import contextlib
import math
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from babysit.panda import Panda
from babysit.runs import new_directory
from babysit.session.viewer import Viewer
from babysit.store.database import RECORD, DatabaseReader

# Of a model and of what its `fit` is given, by the hyperparameters of a run.
Build = Callable[[dict[str, Any]], tuple[keras.Model, dict[str, Any]]]
LOST = "its process was lost"
NAMESPACE = "babysit"  # of Ray, for the names of processes that outlive a kernel


@dataclass(frozen=True)
class Job:
    """A run to be trained: begun, taken up where it was, or gone on with as a clone.

    Attributes:
        folder: The run's.
        hyperparameters: What `build` is given.
        epochs: Epochs in all.
        seed: Of everything random.
        at: For a clone, the step from which it is another run; None for the one where it is.
        changes: For a clone, what is set there.
        branches: For a clone, how many branches the run had that it was copied from; 0 for any other.
        adopted: Whether the process may have trained it before, for a kernel that is gone.
    """

    folder: str
    hyperparameters: Mapping[str, Any]
    epochs: int
    seed: int
    at: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    branches: int = 0
    adopted: bool = False


def begun(build: Build, job: Job) -> Panda:
    """The panda of a job, which trains.

    Raises:
        Exception: What `build` or `fit` raises.
    """
    keras.utils.set_random_seed(job.seed)
    made = build(dict(job.hyperparameters))
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError(f"`build` must return (model, arguments of fit). Received: {type(made).__name__}.")
    model, arguments = made
    panda = _loaded(job.folder, model) or Panda(model, job.folder, job.seed)
    turn = job.branches > 0 and len(panda.branches) == job.branches  # a clone that does not go its own way yet
    panda.fit(**{"verbose": 0, **arguments, "epochs": job.epochs}, paused=turn)
    if turn:
        panda.rewind(panda.step if job.at is None else job.at)
        if job.changes:
            panda.set(why="a clone", **job.changes)
        panda.resume()
    return panda


def _loaded(folder: str, model: keras.Model) -> Panda | None:
    """The run in a folder; None, and the folder is gone, where none had begun before its process ended."""
    record = Path(folder) / RECORD
    if not record.exists():
        return None
    with contextlib.suppress(sqlite3.Error), DatabaseReader(record) as reader:  # it may have no tables yet
        if reader.meta("seed") is not None:
            panda = Panda.load(folder, model)
            if panda.branches:
                return panda
            panda._close()
    shutil.rmtree(folder)
    return None


class Here:
    """This kernel, in which one run trains at a time."""

    remark = (
        "Ray is not installed, so the runs train one after the other in this kernel: `pip install 'babysit[caviar]'`."
    )

    at_once = 1

    def __init__(self, build: Build) -> None:
        self._build = build

    def free(self) -> str:
        """The name of a process that trains nothing."""
        return ""

    def begin(self, job: Job, name: str) -> Any:
        """Begins to train; returns what `outcome` takes."""
        try:
            return begun(self._build, job)
        except Exception as error:
            return error

    def outcome(self, begun: Any) -> str | None:
        """What became of a job: None while it trains, then an error in words, empty where there was none."""
        if isinstance(begun, Exception):
            return _words(begun)
        if begun.state in ("running", "paused", "idle"):
            return None
        begun._close()
        return "" if begun._worker.error is None else _words(begun._worker.error)

    def close(self) -> None:
        """Begins no more."""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class Cluster:
    """Processes that Ray starts, on this machine or on a cluster: an actor for each run that trains at a time.

    Args:
        build: Makes model and data.
        at_once: Runs at a time; as many as the resources bear, if it is None.
        address: Of a cluster, such as `"auto"`, on which the processes outlive this kernel; None for this machine.
        resources: What a run takes, such as `{"CPU": 1, "GPU": 0.25}`.
        folder: The search's.
    """

    remark = ""

    def __init__(
        self, build: Build, at_once: int | None, address: str | None, resources: Mapping[str, float], folder: str
    ) -> None:
        how = {"lifetime": "detached", "namespace": NAMESPACE} if address else {}
        self._ray, self._make = _actor(address, resources, **how)
        there = self._ray.cluster_resources()
        bears = min(math.floor(there.get(name, 0) / each + 1e-9) for name, each in resources.items() if each)
        if bears < 1:
            has = ", ".join(f"{name} {each:g}" for name, each in there.items() if name in ("CPU", "GPU"))
            raise ValueError(f"`resources` must be there for one run. Received: {dict(resources)}; there is {has}.")
        self.at_once = min(at_once or bears, bears)
        self._detached, self._build, self._folder = bool(address), self._ray.put(build), folder
        self._actors = {name: self._ray.get_actor(name, NAMESPACE) for name in self._left_by_others()}
        self._busy: set[str] = set()

    def _left_by_others(self) -> list[str]:
        """The processes of this search that a kernel has begun on a cluster which is gone."""
        named = self._ray.util.list_named_actors(all_namespaces=True) if self._detached else []
        names = [one["name"] for one in named if one["namespace"] == NAMESPACE]
        return [name for name in names if name.startswith(f"{self._folder}#")]

    def free(self) -> str:
        """The name of a process that trains nothing, or of a new one."""
        return next((name for name in self._actors if name not in self._busy), f"{self._folder}#{uuid.uuid4().hex}")

    def begin(self, job: Job, name: str) -> Any:
        """Begins to train in the process of that name; returns what `outcome` takes."""
        if name not in self._actors:
            self._actors[name] = self._make(**({"name": name} if self._detached else {}))
        self._busy.add(name)
        return name, self._actors[name].train.remote(self._build, job)

    def outcome(self, begun: Any) -> str | None:
        """What became of a job: None while it trains, then an error in words, empty where there was none."""
        name, result = begun
        if not self._ray.is_initialized():  # otherwise Ray would begin anew
            raise RuntimeError("Ray was shut down")
        if not self._ray.wait([result], timeout=0)[0]:
            return None
        self._busy.discard(name)
        try:
            error: str = self._ray.get(result)
        except self._ray.exceptions.RayError as lost:
            self._ray.kill(self._actors.pop(name))  # which is perhaps still there, and belongs to nobody else
            return LOST if isinstance(lost, self._ray.exceptions.ActorDiedError) else _words(lost)
        return error

    def close(self) -> None:
        """Begins no more, and ends the processes that train nothing."""
        if self._ray.is_initialized():
            for actor in self._actors.values():
                self._ray.kill(actor)
        self._actors.clear()


class _Trains:
    """An actor: a process that trains one run after the other."""

    def __init__(self, cores: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(cores)
        for device in tf.config.list_physical_devices("GPU"):  # which several runs may share
            tf.config.experimental.set_memory_growth(device, True)
        self._outcomes: dict[str, str] = {}

    def train(self, build: Build, job: Job) -> str:
        """Trains a run to its end; returns what it raised, in words."""
        if not job.adopted or job.folder not in self._outcomes:
            self._outcomes[job.folder] = self._outcome(build, job)
        return self._outcomes[job.folder]

    def _outcome(self, build: Build, job: Job) -> str:
        panda = None
        try:
            panda = begun(build, job)
            panda._worker.wait(None)
            return "" if panda._worker.error is None else _words(panda._worker.error)
        except Exception as error:
            return _words(error)
        finally:
            if panda is not None:
                with contextlib.suppress(Exception):
                    panda._close()


def _actor(address: str | None, resources: Mapping[str, float], **how: Any) -> tuple[Any, Any]:
    """Ray, and what makes an actor on that many resources."""
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do, without its warning
        board = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **board)
    others = {name: each for name, each in resources.items() if name not in ("CPU", "GPU")}
    given: dict[str, Any] = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
    made: Any = ray.remote(_Trains)

    def make(**names: Any) -> Any:
        return made.options(**given, resources=others, **how, **names).remote(max(1, int(resources.get("CPU", 1))))

    return ray, make


_actors: list[Any] = []  # of `remote`: an actor that nobody refers to is ended


def remote(
    build: Build,
    hyperparameters: Mapping[str, Any],
    epochs: int = 1,
    directory: str | Path | None = None,
    *,
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Viewer:
    """Trains one run in a process of Ray's, which goes on when this kernel ends if the cluster does.

    Args:
        build: As for `Caviar`.
        hyperparameters: What it is given.
        epochs: How long it is trained.
        directory: The run's folder, which this machine sees too.
        address: Of a Ray cluster, such as `"auto"`; None for this machine, whose processes end with this kernel.
        resources: What it takes of Ray's resources; one processor by default.
        seed: Of everything random.

    Returns:
        The run: what `babysit.attach(directory)` gives, here or anywhere.

    Raises:
        RuntimeError: What `build` or `fit` raised there.
        ImportError: If Ray is missing.
    """
    folder = str(new_directory("remote", directory).absolute())
    detached = {"lifetime": "detached", "name": folder, "namespace": NAMESPACE} if address else {}
    ray, make = _actor(address, resources or {"CPU": 1}, **detached)
    actor = make()
    result = actor.train.remote(build, Job(folder, hyperparameters, epochs, seed))
    _actors.append(actor)
    while True:
        with contextlib.suppress(ValueError, sqlite3.Error):  # it has not begun
            return Viewer(folder)
        if ray.wait([result], timeout=0.2)[0] and (error := ray.get(result)):
            raise RuntimeError(error)
