"""The command line: `python -m babysit show`, `verify` or `replay`, each of a run's DIRECTORY.

Reads a run from disk, and writes nothing there.
"""

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from babysit.core.events import ROOT, Note, Saved
from babysit.core.history import History
from babysit.core.journal import Journal
from babysit.core.runlog import RunLog
from babysit.core.words import utc
from babysit.engine import architecture
from babysit.replay import replay as replay_run
from babysit.store.checkpoint_file import check_model, numbered, read
from babysit.store.checkpoint_store import checkpoints_in
from babysit.store.database import RECORD, DatabaseReader


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 1 for what is amiss, 2 where there is nothing to work on."""
    parser = argparse.ArgumentParser(prog="python -m babysit", description="Look at a run on disk.")
    commands = "print a summary and the journal; check every file; or train the run once more, and compare each step"
    parser.add_argument("command", choices=("show", "verify", "replay"), help=commands)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="the folder of the run")
    function, parts = "MODULE:FUNCTION", "gives the compiled model, if it has parts of your own"
    parser.add_argument("--data", metavar=function, help="for `replay`: gives (x, y), or a dict for `fit`")
    parser.add_argument("--model", metavar=function, help=f"for `replay`: {parts}")
    given = parser.parse_args(argv)
    if not (given.directory / RECORD).is_file():
        print(f"`DIRECTORY` must hold a run. Received: {given.directory}, which holds none.", file=sys.stderr)
        return 2
    if given.command == "replay":
        return replay(given.directory, given.data, given.model)
    return show(given.directory) if given.command == "show" else verify(given.directory)


# ---------------------------------------------------------------------------------- show

_UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError)
_STATES = {"fit": "running, or cut off", "resume": "running, or cut off", "pause": "paused"}
_STATES |= {"finish": "finished", "stop": "stopped", "fail": "failed"}


def show(directory: Path) -> int:
    """Prints a summary of a run and its journal; returns 0, or 1 if the record cannot be read."""
    try:
        with DatabaseReader(directory / RECORD) as reader:
            words = "\n".join([*_summary(directory, str(reader.meta("model")), _log_of(reader))])
    except _UNREADABLE as error:
        print(f"The record cannot be read: {error}.", file=sys.stderr)
        return 1
    # Without signs that would steer a terminal.
    print("".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in words))
    return 0


def _log_of(reader: DatabaseReader) -> RunLog:
    log = RunLog()
    while rows := reader.rows(log.seq):
        for row in rows:
            log.append(row)
    return log


def _summary(directory: Path, model: str, log: RunLog) -> Iterator[str]:
    history, journal = History(log, lambda: list(log.branches)[-1]), Journal(log)
    states = [entry for entry in journal if entry.action in _STATES]
    whole = checkpoints_in(directory / "checkpoints", log)
    named = [f"“{one.name}” (step {one.step:,})" for one in whole if one.name]
    branches = [f"{name} (from {parent}, step {step:,})" for name, (parent, step) in history.branches.items() if parent]
    yield f"{model}, {directory}"
    for last in states[-1:]:
        yield f"  state        {_STATES[last.action]} at step {last.step:,}, {utc(last.time)}"
    yield f"  done         {history.steps:,} steps, {len(history.epoch_ends()):,} epochs on {history.branch}"
    for end in history.epoch_ends()[-1:]:
        logs = [f"{name} {value:.4g}" for name, value in end.logs.items() if isinstance(value, int | float)]
        yield f"  epoch {end.epoch:<6,} {', '.join(logs)}"
    yield f"  branches     {', '.join([ROOT, *branches])}"
    yield f"  checkpoints  {', '.join([f'{len(whole):,}', *named])}"
    yield f"\n{journal!r}"


# -------------------------------------------------------------------------------- verify


def verify(directory: Path) -> int:
    """Checks every file of a run; prints a line for each fault, and returns 1 if there is any."""
    faults = list(_faults(directory))
    print("\n".join(faults) if faults else f"{directory}: all is well.")
    return 1 if faults else 0


def _faults(directory: Path) -> Iterator[str]:
    folders = numbered(directory / "checkpoints")
    try:
        with DatabaseReader(directory / RECORD) as reader:
            yield from (f"{RECORD}: {fault}" for fault in reader.faults())
            yield from _lost(_log_of(reader), {folder.name for folder in folders})
    except _UNREADABLE as error:
        yield f"{RECORD}: it cannot be read: {error}."
    for folder in folders:
        try:
            read(folder)
            check_model(folder)
        except ValueError as error:
            if folder.is_dir():  # a run that goes on may just have thinned it out
                yield f"checkpoints/{folder.name}: {error}"


def _lost(log: RunLog, there: set[str]) -> Iterator[str]:
    """Named checkpoints that the log knows and that are not there; automatic ones may have been thinned out."""
    deleted = {event.payload.deleted for event in log.events if isinstance(event.payload, Note)}
    saved = [(event.step, event.payload) for event in log.events if isinstance(event.payload, Saved)]
    for folder, (step, last) in {one.folder: (step, one) for step, one in saved}.items():
        if folder not in there | deleted:
            step = step if last.renamed is None else last.renamed
            yield f"checkpoints/{folder}: “{last.name}”, of step {step:,}, is missing."


# -------------------------------------------------------------------------------- replay


def replay(directory: Path, data: str | None, model: str | None) -> int:
    """Trains a run once more and compares; returns 0 if it is identical, 1 if not, 2 if it could not be tried."""
    try:
        given = _called(data, "--data")
        named = given if isinstance(given, Mapping) else dict(zip(("x", "y", "sample_weight"), given, strict=False))
        with DatabaseReader(directory / RECORD) as record:
            made = _called(model, "--model") if model else architecture.build(record.meta("architecture"))
        found = replay_run(directory, made, progress=True, **named)
    except (*_UNREADABLE, ImportError, AttributeError) as error:
        print(f"The run cannot be replayed: {error}", file=sys.stderr)
        return 2
    print(found)
    return 0 if found.identical else 1


def _called(name: str | None, option: str) -> Any:
    """What a function gives that is named as `module:function`; the module may lie in the present folder."""
    module, found, function = (name or "").partition(":")
    if not found:
        raise ValueError(f"`{option}` must be MODULE:FUNCTION. Received: {name}.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    sys.exit(main())
