"""Replay of a run from its folder: no session, no thread, and nothing is written."""

import inspect
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from babysit.core.events import Fit
from babysit.core.position import Position
from babysit.core.runlog import RunLog
from babysit.engine.environment import describe, differences
from babysit.engine.trainer import KerasTrainer
from babysit.panda import Panda
from babysit.runs import check_model, checked_run, pandas_in
from babysit.session.fit import plan_of
from babysit.session.replay import Replay, compare_run
from babysit.store.checkpoint_file import manifests
from babysit.store.checkpoint_store import checkpoints_in, in_order
from babysit.store.database import RECORD, DatabaseReader


def replay(
    directory: str | Path, model: Any, x: Any = None, y: Any = None, *, progress: bool = False, **arguments: Any
) -> Replay:
    """Runs a whole record again, all its branches, and compares.

    Args:
        directory: The run's folder; nothing is written there.
        model: A model of the same architecture, compiled as it was; its variables are overwritten.
        x: The data of `fit`, and likewise `y` and all other arguments that were given there.
        y: See there.
        progress: Whether to show a progress bar.
        **arguments: Those of `Panda.fit` that make the data what they are: weights, `validation_split`. The order of
            examples, the sizes of batches and epochs are the recorded ones, whatever is said here; nothing is
            validated and callbacks are not called, for what they did is in the log.

    Raises:
        ValueError: If there is no run, or the data or the model are others.
    """
    directory = checked_run(directory)
    for panda in pandas_in(directory):
        panda._database.flush()
    check_model(model)
    log = RunLog()
    with DatabaseReader(directory / RECORD) as reader:
        reader.fill(log)
        seed = int(reader.meta("seed"))
    fits = [event.payload.spec for event in log.events if isinstance(event.payload, Fit)]
    if not fits:
        raise ValueError(f"The run at {directory} has not begun: there is nothing to replay.")
    trainer = KerasTrainer(model, seed)
    defaults = {name: one.default for name, one in inspect.signature(Panda.fit).parameters.items()}
    given = defaults | arguments | {"x": x, "y": y, "callbacks": None, "verbose": 0, "steps_per_epoch": None}
    plan = plan_of(trainer, given, seed, fits[0])
    if any(fit.data != fits[0].data for fit in fits):
        raise ValueError(
            "`x` and `y`, with their weights, must be the data of every fit of the run, as one replay goes through "
            "them all. Received: others. A run that went on with other data cannot be replayed."
        )

    checkpoints = directory / "checkpoints"
    total = sum(log.tip(name) - begun.step for name, begun in log.branches.items())
    try:
        trainer.prepare(plan.source, None, fits[0].batch_size, fits[0], Position())
        with tqdm(total=total, unit="step", disable=not progress) as bar:
            found = compare_run(log, in_order(checkpoints_in(checkpoints, log)), trainer, bar.update)
    finally:
        trainer.release()
        plan.source.close()
    now, then = describe(), [manifest["environment"] for _, manifest in manifests(checkpoints)]
    elsewhere = dict.fromkeys(one for environment in then if environment for one in differences(environment, now))
    found.remarks.extend([f"The run was trained elsewhere: {', '.join(elsewhere)}."] if elsewhere else [])
    found.remarks.extend(plan.remarks)
    return found
