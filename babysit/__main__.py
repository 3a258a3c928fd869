"""The command line: looks at a run on disk, or steers it where another process trains it.

`python -m babysit show DIRECTORY`, `verify`, `replay` and `watch` write nothing there; `set`, `pause`, `resume`,
`run`, `stop`, `save`, `rewind` and `note` ask the process that trains it, and print what came of it.
"""

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from babysit.core.events import EpochEnd, Note
from babysit.core.journal import Entry, entry_of, line_of
from babysit.core.runlog import RunLog
from babysit.engine import architecture
from babysit.replay import replay as replay_run
from babysit.runs import attach, checked_run
from babysit.session.run import Run
from babysit.session.viewer import Viewer
from babysit.store.checkpoint_file import numbered, read
from babysit.store.database import RECORD, DatabaseReader

_UNREADABLE = (sqlite3.Error, OSError, ValueError, LookupError, TypeError, ImportError, AttributeError)
_RAISED = (*_UNREADABLE, FloatingPointError, RuntimeError)  # the latter by a training
_WATCHED_EVERY_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 1 for what is amiss, 2 where there is nothing to work on."""
    given = vars(_parser().parse_args(argv))
    act, name, directory = given.pop("act"), given.pop("command"), given.pop("directory")
    try:
        return int(act(checked_run(directory), **given))
    except _RAISED as error:
        print(f"{directory}: `{name}` cannot be done: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m babysit", description="Look at a run, or steer it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, act: Any, words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(act=act)
        made.add_argument("directory", type=Path, metavar="DIRECTORY", help="the folder of the run")
        return made

    made = command("show", show, "print a summary and the journal")
    made.add_argument(
        "--json", dest="as_json", action="store_true", help="as JSON: the status, the branches and the journal"
    )
    command("verify", verify, "check every file")
    made = command("replay", replay, "train the run once more, and compare each step")
    function, parts = "MODULE:FUNCTION", "gives the compiled model, if it has parts of your own"
    made.add_argument("--data", metavar=function, required=True, help="gives (x, y), or a dict for `fit`")
    made.add_argument("--model", metavar=function, help=parts)
    command("watch", watch, "print what happens in the run, until it ends")
    made = command("set", steer_set, "change hyperparameters from the next step on")
    made.add_argument("changes", nargs="+", metavar="NAME=VALUE", help="such as learning_rate=1e-3")
    made.add_argument("--why", default="", help="the reason, for the journal")
    made.add_argument("--over", type=int, default=1, metavar="STEPS", help="move there in so many steps")
    for name, words in _PLAIN.items():
        command(name, lambda directory, name=name: steer(directory, name), words)
    made = command("run", lambda directory, steps: steer(directory, "run", steps), "take so many steps, then rest")
    made.add_argument("steps", type=int, metavar="STEPS")
    made = command("save", lambda directory, name: steer(directory, "save", name), "save a named checkpoint")
    made.add_argument("name", nargs="?", metavar="NAME", help="made from the step if not given")
    made = command("rewind", steer_rewind, "return to a checkpoint, a step or a branch, on a new branch")
    made.add_argument("to", metavar="TO", help="a step, or the name of a checkpoint or a branch")
    made.add_argument("--keep", action="store_true", help="keep the present hyperparameters")
    made = command("note", lambda directory, words: steer(directory, "note", words), "write a line into the journal")
    made.add_argument("words", metavar="WORDS")
    return parser


_PLAIN = {"pause": "rest at the next step", "resume": "go on training", "stop": "end the fit, keeping everything"}


# ------------------------------------------------------------------------- steers it


def steer(directory: Path, action: str, *about: Any, **named: Any) -> int:
    """Calls a method of a run that another process trains; prints what came of it, and returns 0."""
    run = attach(directory)
    came = getattr(run, action)(*about, **named)
    if isinstance(came, Entry):
        print(_printable(line_of(came)))
    else:
        print(_printable(repr(run if came is None else came)))
    return 0


def steer_set(directory: Path, changes: Sequence[str], why: str, over: int) -> int:
    """Changes hyperparameters, each given as `name=value`; returns 0."""
    pairs = [change.partition("=") for change in changes]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise ValueError(f"`NAME=VALUE` must be such as learning_rate=1e-3. Received: {name}{sign}{value}.")
    return steer(directory, "set", why=why, over=over, **{name: _number(value) for name, _, value in pairs})


def steer_rewind(directory: Path, to: str, keep: bool) -> int:
    """Returns to a step, a checkpoint or a branch; returns 0."""
    return steer(directory, "rewind", int(to) if to.isdecimal() else to, "keep" if keep else "checkpoint")


def _number(words: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(words)
        except ValueError:
            pass
    return words


# ------------------------------------------------------------------------- looks at it


def watch(directory: Path) -> int:
    """Prints each entry of the journal and the end of each epoch from now on; returns 0 if the run ends well."""
    run: Run = attach(directory)
    print(repr(run), flush=True)
    seen = run.logs[directory.absolute().name].seq
    while True:
        status = run.status()  # before the log, so that the last entries are printed
        for event in run.logs[directory.absolute().name].events_after(seen):
            seen, payload = event.seq, event.payload
            if isinstance(payload, EpochEnd):
                logs = [f"{name} {value:.4g}" for name, value in payload.logs.items() if isinstance(value, int | float)]
                print(f"{event.step:>8,}  epoch {payload.epoch:,}: {' · '.join(logs)}", flush=True)
            else:
                print(_printable(line_of(entry_of(event))), flush=True)
        if status["state"] not in ("running", "paused"):
            print(repr(run), flush=True)
            return int(status["state"] not in ("finished", "stopped"))
        time.sleep(_WATCHED_EVERY_S)


def show(directory: Path, as_json: bool = False) -> int:
    """Prints a summary of a run and its journal; returns 0."""
    run = Viewer(directory)
    if as_json:
        print(_as_json(run))
        return 0
    history = run.history
    branches = [f"{name} (from {parent}, step {step:,})" for name, (parent, step) in run.branches.items() if parent]
    named = [f"“{one.name}” (step {one.step:,})" for one in run.checkpoints if one.name]
    words = (
        f"{run!r}\n"
        f"  done         {history.steps:,} steps, {len(history.epoch_ends()):,} epochs on {history.branch}\n"
        f"  branches     {', '.join(branches) or 'none but the first'}\n"
        f"  checkpoints  {', '.join([f'{len(run.checkpoints):,}', *named])}\n\n{run.journal!r}"
    )
    print(_printable(words))
    return 0


def _as_json(run: Viewer) -> str:
    status = run.status()
    status |= {"branches": run.branches, "journal": [vars(entry) for entry in run.journal]}
    return json.dumps(status, default=str, indent=2)


def _printable(words: str) -> str:
    """Words without signs that would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in words)


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
