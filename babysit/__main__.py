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

from babysit.core.events import Note, Saved
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
    arguments = vars(_parser().parse_args(argv))
    directory: Path = arguments["directory"]
    if not (directory / RECORD).is_file():
        print(f"`DIRECTORY` must hold a run. Received: {directory}, which holds none.", file=sys.stderr)
        return 2
    return int(arguments.pop("command")(**arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m babysit", description="Look at a run on disk.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, says in (
        ("show", show, "print a summary of the run and its journal"),
        ("verify", verify, "check every file of the run"),
        ("replay", replay, "train the run once more, and compare it step by step"),
    ):
        added = commands.add_parser(name, help=says, description=f"{says.capitalize()}.")
        added.add_argument("directory", type=Path, metavar="DIRECTORY", help="the folder of the run")
        added.set_defaults(command=command)
    added.add_argument("--data", required=True, metavar="MODULE:FUNCTION", help="gives (x, y), or a dict for `fit`")
    added.add_argument(
        "--model", metavar="MODULE:FUNCTION", help="gives the compiled model, if it has parts of your own"
    )
    return parser


# ---------------------------------------------------------------------------------- show


def show(directory: Path) -> int:
    """Prints a summary of a run and its journal; returns 0, or 1 if the record cannot be read."""
    try:
        with DatabaseReader(directory / RECORD) as reader:
            log = _log_of(reader)
            history, journal = History(log, lambda: list(log.branches)[-1]), Journal(log)
            said = [*_summary(directory, str(reader.meta("model")), log, history, journal), "", repr(journal)]
            print(_printable("\n".join(said)))
    except _UNREADABLE as error:
        print(f"The record cannot be read: {error}.", file=sys.stderr)
        return 1
    return 0


_UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError)


def _printable(text: str) -> str:
    """The text without signs that would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def _log_of(reader: DatabaseReader) -> RunLog:
    log = RunLog()
    while rows := reader.rows(log.seq):
        for row in rows:
            log.append(row)
    return log


def _summary(directory: Path, model: str, log: RunLog, history: History, journal: Journal) -> Iterator[str]:
    named = {event.payload.folder: event.payload.name for event in log.events if isinstance(event.payload, Saved)}
    whole = checkpoints_in(directory / "checkpoints", named)
    names = [f"“{one.name}” (step {one.step:,})" for one in whole if one.name]
    yield f"{model}, {directory}"
    yield f"  state        {_state(journal)}"
    yield f"  done         {history.steps:,} steps, {len(history.epoch_ends()):,} epochs on {history.branch}"
    yield from (f"  {name:<12} {said}" for name, said in _losses(history))
    yield f"  branches     {_branches(history)}"
    yield f"  checkpoints  {len(whole):,}{': ' if names else ''}{', '.join(names)}"


def _state(journal: Journal) -> str:
    """How the run stands, by what was done last that tells."""
    told = [entry for entry in journal if entry.action in _STATES]
    if not told:
        return "not begun"
    return f"{_STATES[told[-1].action]} at step {told[-1].step:,}, {utc(told[-1].time)}"


_STATES = {
    "fit": "running, or cut off while it ran; it began",
    "resume": "running, or cut off while it ran; it was resumed",
    "pause": "paused",
    "finish": "finished",
    "stop": "stopped",
    "fail": "failed",
}


def _losses(history: History) -> Iterator[tuple[str, str]]:
    if history.steps and "loss" in history.columns:
        yield "last losses", ", ".join(f"{loss:.4g}" for loss in history["loss"][-5:])
    for end in history.epoch_ends()[-1:]:
        yield f"epoch {end.epoch:,}", ", ".join(f"{name} {_short(value)}" for name, value in end.logs.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _branches(history: History) -> str:
    return ", ".join(
        name if parent is None else f"{name} (from {parent}, step {step:,})"
        for name, (parent, step) in history.branches.items()
    )


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


def replay(directory: Path, data: str, model: str | None) -> int:
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


def _called(name: str, option: str) -> Any:
    """What a function gives that is named as `module:function`; the module may lie in the present folder."""
    module, found, function = name.partition(":")
    if not found:
        raise ValueError(f"`{option}` must be MODULE:FUNCTION. Received: {name}.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    sys.exit(main())
