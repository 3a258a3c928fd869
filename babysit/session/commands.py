"""What users ask of a session at a step boundary, by the names that `Panda.send` has for it.

Each is a function of the session, of what goes into the event (`about`: `author`, `why`, `command`), and of what else
the command brings. When training begins, rests and ends is the worker's.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from babysit.core.events import Branch, Edit, Event, Note, Saved, Set
from babysit.session.session import Session

About = Mapping[str, str]


def note(session: Session, about: About, on_last_change: bool = False) -> Event:
    """Writes a line into the log, which may be the reason of the last change of how the training goes on."""
    changes = [event.seq for event in session.log.events if isinstance(event.payload, Set | Edit | Branch)]
    return session.emit(Note(about=changes[-1] if on_last_change and changes else None), **about)


def save(session: Session, about: About, name: str | None = None, write_model: Any = None) -> Any:
    """Saves the state under a new name, made from the step if none is given; returns the checkpoint.

    Raises:
        ValueError: If the name is taken, or none, or nothing has begun yet.
        OSError: If it cannot be written; no part of it is left then.
    """
    if not session.log.begun:
        raise ValueError(
            "`save` needs a run that has begun. Received: an idle one. Call `fit(..., paused=True)` first."
        )
    store, step = session.store, session.position.step
    name = store.free_name(step) if name is None else store.checked_name(name)
    checkpoint = store.save(session.trainer.capture(), session.branch, name, "named", write_model)
    session.emit(Saved(checkpoint.path.name, checkpoint.name), **about)
    return checkpoint


def rename(session: Session, about: About, folder: str, name: str) -> Event:
    """Gives a checkpoint another name, or its first one."""
    return session.emit(Saved(folder, name, session.store.rename(folder, name).step), **about)


def delete(session: Session, about: About, folder: str) -> Event:
    """Deletes a checkpoint from which no branch starts."""
    step = session.store.delete(folder).step
    return session.emit(Note(f"the checkpoint of step {step:,} is deleted", deleted=folder), **about)


def export(
    session: Session, write: Callable[[str, bytes], Path], about: About, kind: str, content: bytes = b""
) -> Event:
    """Writes what leaves a run, of a kind and with a content if it brings one, and notes the file."""
    file = write(kind, content)
    return session.emit(Note(f"{kind} written to {file}", file=str(file)), **about)
