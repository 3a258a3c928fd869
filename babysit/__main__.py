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

from babysit.core.rows import decoded
from babysit.engine import architecture
from babysit.session.history import History
from babysit.session.journal import Journal, utc
from babysit.session.replay import replay as once_more
from babysit.store.checkpoints import BEST
from babysit.store.files import check_model, complete, load
from babysit.store.reader import Reader
from babysit.store.record import RECORD, TABLES


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
        with Reader(directory / RECORD) as reader:
            record: Any = reader  # which has all that history and journal ask a record for
            history, journal = History(record), Journal(record)
            told = [*_summary(directory, reader, history, journal), "", repr(journal)]
            print(_printable("\n".join(told)))
    except _UNREADABLE as error:
        print(f"The record cannot be read: {error}.", file=sys.stderr)
        return 1
    return 0


_UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError)


def _printable(text: str) -> str:
    """The text without signs that would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def _summary(directory: Path, record: Reader, history: History, journal: Journal) -> Iterator[str]:
    saved = _checkpoints(record)
    whole = {folder.name for folder in complete(directory / "checkpoints")}
    names = [f"“{row['name']}” (step {row['step']:,})" for row in saved if row["name"] and row["folder"] in whole]
    yield f"{record.meta('model')}, {directory}"
    yield f"  state        {_state(journal)}"
    yield f"  done         {history.steps:,} steps, {len(history.epoch_rows()):,} epochs on {history.branch}"
    yield from (f"  {name:<12} {told}" for name, told in _losses(history))
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
    for row in history.epoch_rows()[-1:]:
        yield f"epoch {row['epoch']:,}", ", ".join(f"{name} {_short(value)}" for name, value in row["logs"].items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _branches(history: History) -> str:
    return ", ".join(
        name if parent is None else f"{name} (from {parent}, step {step:,})"
        for name, (parent, step) in history.branches.items()
    )


# -------------------------------------------------------------------------------- verify


def _checkpoints(record: Reader) -> list[dict[str, Any]]:
    """The last row of each: one may have been given a name later, or been deleted."""
    return list({row["folder"]: row for row in record.rows("checkpoints")}.values())


def verify(directory: Path) -> int:
    """Checks every file of a run; prints a line for each fault, and returns 1 if there is any."""
    faults = list(_faults(directory))
    print("\n".join(faults) if faults else f"{directory}: all is well.")
    return 1 if faults else 0


def _faults(directory: Path) -> Iterator[str]:
    folders = complete(directory / "checkpoints")
    try:
        with Reader(directory / RECORD) as record:
            yield from (f"{RECORD}: {fault}" for fault in record.faults())
            yield from _unreadable_rows(record)
            yield from _lost(record, {folder.name for folder in folders})
    except _UNREADABLE as error:
        yield f"{RECORD}: it cannot be read: {error}."
    for folder in folders:
        try:
            load(folder)
            check_model(folder)
        except ValueError as error:
            yield f"checkpoints/{folder.name}: {error}"


def _unreadable_rows(record: Reader) -> Iterator[str]:
    for table in TABLES:
        try:
            for row in record.rows(table):
                if table == "blocks":
                    decoded(row)
        except _UNREADABLE as error:
            yield f"{RECORD}: a row of {table} cannot be read: {error}."


def _lost(record: Reader, whole: set[str]) -> Iterator[str]:
    """Checkpoints that only the record or only the disk knows; automatic ones may have been thinned out."""
    rows = _checkpoints(record)
    for name in sorted(whole - {row["folder"] for row in rows}):
        yield f"checkpoints/{name}: the record does not know it, nor the steps that led there."
    bests = [row["folder"] for row in rows if row["name"] == BEST]
    for row in rows:
        if row["folder"] in bests[:-1]:
            continue  # a better one has taken its place
        if row["folder"] not in whole and (row["name"] or row.get("anchor")):
            what = f"“{row['name']}”" if row["name"] else f"that of its {row['anchor']}"
            yield f"checkpoints/{row['folder']}: {what}, of step {row['step']:,}, is missing or incomplete."


# -------------------------------------------------------------------------------- replay


def replay(directory: Path, data: str, model: str | None) -> int:
    """Trains a run once more and compares; returns 0 if it is identical, 1 if not, 2 if it could not be tried."""
    try:
        given = _called(data, "--data")
        named = given if isinstance(given, Mapping) else dict(zip(("x", "y", "sample_weight"), given, strict=False))
        with Reader(directory / RECORD) as record:
            made = _called(model, "--model") if model else architecture.build(record.meta("architecture"))
        found = once_more(directory, made, progress=True, **named)
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
