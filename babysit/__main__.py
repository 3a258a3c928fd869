"""The command line: `python -m babysit show`, `verify` or `replay`, each of a run's DIRECTORY.

Reads a run from disk, and writes nothing there.
"""

import argparse
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name

from babysit.core.events import Note
from babysit.core.runlog import RunLog
from babysit.engine import architecture
from babysit.replay import replay as replay_run
from babysit.runs import checked_run
from babysit.session.viewer import Viewer
from babysit.store.checkpoint_file import numbered, read
from babysit.store.database import RECORD, DatabaseReader

_UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError, ImportError, AttributeError)


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
    if given.command == "replay" and given.data is None:
        parser.error("`replay` needs `--data MODULE:FUNCTION`")
    try:
        directory = checked_run(given.directory)
        if given.command == "replay":
            return replay(directory, given.data, given.model)
        return show(directory) if given.command == "show" else verify(directory)
    except _UNREADABLE as error:
        print(f"{given.directory}: `{given.command}` cannot be done: {error}", file=sys.stderr)
        return 2


def show(directory: Path) -> int:
    """Prints a summary of a run and its journal; returns 0."""
    run = Viewer(directory)
    history = run.history
    branches = [f"{name} (from {parent}, step {step:,})" for name, (parent, step) in run.branches.items() if parent]
    named = [f"“{one.name}” (step {one.step:,})" for one in run.checkpoints if one.name]
    words = (
        f"{run!r}\n"
        f"  done         {history.steps:,} steps, {len(history.epoch_ends()):,} epochs on {history.branch}\n"
        f"  branches     {', '.join(branches) or 'none but the first'}\n"
        f"  checkpoints  {', '.join([f'{len(run.checkpoints):,}', *named])}\n\n{run.journal!r}"
    )
    # Without signs that would steer a terminal.
    print("".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in words))
    return 0


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
            reader.fill(log := RunLog())
            yield from _lost(log, {folder.name for folder in folders})
    except _UNREADABLE as error:
        yield f"{RECORD}: it cannot be read: {error}."
    for folder in folders:
        try:
            read(folder)
        except ValueError as error:
            if folder.is_dir():  # a run that goes on may just have thinned it out
                yield f"checkpoints/{folder.name}: {error}"


def _lost(log: RunLog, there: set[str]) -> Iterator[str]:
    """Named checkpoints that the log knows and that are not there; automatic ones may have been thinned out."""
    deleted = {event.payload.deleted for event in log.events if isinstance(event.payload, Note)}
    for folder, name in log.checkpoint_names.items():
        if folder not in there | deleted:
            yield f"checkpoints/{folder}: “{name}” is missing."


def replay(directory: Path, data: str, model: str | None) -> int:
    """Trains a run once more and compares; returns 0 if it is identical, 1 if not."""
    given = resolve_name(data)()
    named = given if isinstance(given, Mapping) else dict(zip(("x", "y", "sample_weight"), given, strict=False))
    with DatabaseReader(directory / RECORD) as record:
        made = resolve_name(model)() if model else architecture.build(record.meta("architecture"))
    found = replay_run(directory, made, progress=True, **named)
    print(found)
    return 0 if found.identical else 1


if __name__ == "__main__":
    sys.exit(main())
