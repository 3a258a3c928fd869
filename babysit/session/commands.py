"""What users ask of a session at a step boundary, by the names that `Panda.send` has for it.

Each is a function of the session and of what the command brings. When training begins, rests and ends is the worker's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from babysit.core.events import Branch, Edit, Event, Note, Payload, Saved, Set
from babysit.session.session import Session


def of_session(session: Session, model: Any, write: Callable[[str, bytes], Path]) -> dict[str, Callable[..., Any]]:
    """The commands by name, each for a call with what it brings.

    Args:
        session: The run.
        model: Passed to the functions of `call`, and saved with named checkpoints.
        write: Writes a file of a kind, with a content if it brings one; returns the file.
    """
    return {
        "set": session.set,
        "call": lambda function, **about: session.call(function, model),
        "note": partial(note, session),
        "save": partial(save, session, write_model=model.save),
        "rename": partial(rename, session),
        "delete": partial(delete, session),
        "export": partial(export, session, write),
        "keep_last": lambda **about: session.keep_last(),
        "digest": lambda **about: session.trainer.capture().digest(),
    }


def note(session: Session, why: str = "", on_last_change: bool = False, **about: Any) -> Event:
    """Writes a line into the log, which may be the reason of the last change of how the training goes on."""
    changing = (Set, Edit, Branch)
    changes = [event.seq for event in session.log.events if isinstance(event.payload, changing)]
    return emit(session, Note(about=changes[-1] if on_last_change and changes else None), {**about, "why": why})


def save(session: Session, name: str | None = None, write_model: Any = None, **about: Any) -> Any:
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
    emit(session, Saved(checkpoint.path.name, checkpoint.name), about)
    return checkpoint


def rename(session: Session, folder: str, name: str, **about: Any) -> Event:
    """Gives a checkpoint another name, or its first one."""
    return emit(session, Saved(folder, name, session.store.rename(folder, name).step), about)


def delete(session: Session, folder: str, **about: Any) -> Event:
    """Deletes a checkpoint from which no branch starts."""
    step = session.store.delete(folder).step
    return emit(session, Note(f"the checkpoint of step {step:,} is deleted", deleted=folder), about)


def export(session: Session, write: Callable[[str, bytes], Path], kind: str, content: bytes = b"", **about: Any) -> Any:
    """Writes what leaves a run, of a kind and with a content if it brings one, and notes the file."""
    file = write(kind, content)
    return emit(session, Note(f"{kind} written to {file}", file=str(file)), about)


def emit(session: Session, payload: Payload, about: Mapping[str, Any]) -> Event:
    """Appends an event with what a command says of itself."""
    return session.emit(payload, **of_event(about))


def of_event(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of a command goes into its event, as text: a command may bring anything."""
    given = {key: about[key] for key in ("author", "why", "command") if key in about}
    return {key: value if value is None else str(value) for key, value in given.items()}
