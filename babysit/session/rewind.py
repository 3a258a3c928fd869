"""The time machine of a session: back to a checkpoint or a step, on after a kill, back after a step that failed.

All of it is `reach`: the nearest kept state, and from there the same events and steps again.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from babysit.core.events import ROOT, Branch, Changes, Event, Note, Set
from babysit.core.hyperparameter import any_whole, checked
from babysit.core.position import Position
from babysit.session.rerun import Unreachable, lies_on, reach
from babysit.store.checkpoint_store import Candidate

if TYPE_CHECKING:
    from babysit.session.session import Session


def rewind(
    session: "Session",
    about: Mapping[str, str],
    folder: str | None = None,
    step: int | None = None,
    branch: str | None = None,
    hyperparameters: str = "checkpoint",
    skip: int = 0,
    write: Sequence[str] = ("tip", "branch"),
) -> Event:
    """Returns a session to a checkpoint or a step, on a new branch; see `Panda.rewind`.

    Args:
        session: The one to return.
        about: `author`, `why` and `command` of the event.
        folder: Name of a checkpoint's folder, to return to the instant at which it was saved.
        step: Or the number of steps done, on `branch`; the branch's tip if it is None.
        branch: The present one if it is None.
        hyperparameters: `"checkpoint"` for the values at that time, `"keep"` for the present ones.
        skip: Batches to skip after that.
        write: What is written to disk: the `tip` that is left, the first state of the new `branch`. What cannot be kept
            in memory, or whose steps cannot be taken again, is written all the same.

    Raises:
        ValueError: If there is no such place, or it cannot be reached; nothing was changed then.
    """
    if hyperparameters not in ("checkpoint", "keep"):
        raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
    skip = int(checked("skip", skip, any_whole(0), "It is a number of batches."))
    trainer, before, left, present = session.trainer, session.trainer.capture(), session.branch, session.values
    place = _place(session, step, branch) if folder is None else (left, 0)
    remembered = folder is None and session.store.remember(before, left)  # it may be where this leads
    try:
        if folder is not None:
            checkpoint, differs = session.store.found(folder), None
            trainer.restore(checkpoint.load())
            name, parent = checkpoint.name or "", checkpoint.branch
        else:
            lineage = session.log.lineage(*place)
            differs = reach(trainer, session.log, session.store.candidates(), lineage, place[1])
            name, parent = "", lineage[-1].branch
        _check_data(session, before.position)
        then = session.values
        changed = {key: (then[key], new) for key, new in present.items() if key in then and then[key] != new}
        keep = changed if hyperparameters == "keep" else {}
        restored = {} if keep else {key: (new, old) for key, (old, new) in changed.items()}
        examples = _examples_in(session, skip, keep.get("batch_size", (0, then.get("batch_size")))[1])
        wait = trainer.steps_to_update if "batch_size" in keep else 0
        acts_at = session.position.step + wait if wait else None
    except Exception:
        trainer.restore(before)
        raise
    if not (remembered and trainer.repeatable):
        write = "tip", "branch"
    if "tip" in write:
        session.store.save_soon(before, left, kept="tip")
    origin = before.position.step
    payload = Branch(parent, trainer.event, origin, name, keep, examples, restored, differs, acts_at=acts_at)
    event = session.leave(payload, **about)
    session.remind_callbacks()
    if "branch" in write:
        session.keep("branch")
    return event


def _place(session: "Session", step: int | None, branch: str | None) -> tuple[str, int]:
    """A branch and a step of it."""
    log = session.log
    if not log.begun:
        raise ValueError("There is no past to rewind to: call `fit(…)` first.")
    branch = session.branch if branch is None else branch
    if branch not in log.branches:
        raise ValueError(f"`branch` must be one of {', '.join(log.branches)}. Received: {branch!r}.")
    tip = log.tip(branch)
    step = tip if step is None else step
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= tip:
        raise ValueError(
            f"`to` must be a step, a whole number from 0 to {tip:,}, the last one of {branch}. Received: {step!r}."
        )
    return branch, step


def _examples_in(session: "Session", batches: int, batch_size: int) -> int:
    """Examples in batches that are to be skipped."""
    if not batches:
        return 0
    if session.plan is None:
        raise ValueError("`skip` needs the data. Call `fit(…, paused=True)` first.")
    left = session.trainer.steps_left(batch_size)
    if left is not None and batches >= left:
        raise ValueError(
            f"`skip` must leave at least one batch of the epoch. Received: skip={batches}, with {left} left there."
        )
    return batches * batch_size


def _check_data(session: "Session", before: Position) -> None:
    """Raises unless the present data are those of the restored state, and can go on from its position."""
    fit, at, plan = session.controls.fit, session.position, session.plan
    if plan is None or fit is None:
        return
    if not session.trainer.repeatable and (at.data_pass, at.example) != (before.data_pass, before.example):
        raise ValueError(plan.source.limitation)
    if fit.data != plan.source.fingerprint:
        raise ValueError(
            "The checkpoint was made with other data. Call `fit` with them and `paused=True` before you rewind to it."
        )


# ------------------------------------------------------------------------------- after a kill


def load(session: "Session") -> None:
    """Restores the newest checkpoint that can be used, of the present branch if it has one; `fit` takes later steps.

    Where no checkpoint is left, the run begins anew on a branch of its own.

    Raises:
        ValueError: If there is none that can be used.
    """
    if not session.store.candidates():
        tip = session.log.tip(session.branch)
        session.leave(Branch(ROOT, 0, tip, reason="no checkpoint is left"))
    elif not lies_on(found := _restore_newest(session), session.log.lineage(session.branch)):
        _leave_at(session, found, "no checkpoint of the branch can be used")


def recover(session: "Session") -> None:
    """Takes the steps again that a run had done after the state from which it was loaded."""
    trainer, log = session.trainer, session.log
    lineage, tip = log.lineage(session.branch), log.tip(session.branch)
    if trainer.position.step == tip and not log.along(lineage, trainer.event):
        return
    try:
        differs = reach(trainer, log, session.store.candidates(), lineage, tip)
    except Exception as error:
        _leave_at(session, _restore_newest(session), str(error))
        return
    if differs is not None:
        session.emit(Note(f"the steps taken again differ from step {differs:,} on"), author="babysit")


def _restore_newest(session: "Session") -> Candidate:
    """Restores the newest state that can be used, of the present branch if it has one.

    Raises:
        Unreachable: If there is none.
    """
    lineage, reasons = session.log.lineage(session.branch), dict[str, None]()
    candidates: list[Candidate] = session.store.candidates()
    for candidate in sorted(candidates, key=lambda one: lies_on(one, lineage))[::-1]:
        try:
            session.trainer.restore(candidate.load())
        except ValueError as error:
            reasons[str(error)] = None
        else:
            return candidate
    raise Unreachable(" ".join(["The run has no checkpoint that can be used.", *reasons]))


def _leave_at(session: "Session", state: Candidate, reason: str) -> None:
    """Goes on from a restored state, on a new branch."""
    tip = session.log.tip(session.branch)
    session.leave(Branch(state.branch, state.event, tip, reason=reason))


# ------------------------------------------------------------------------------- after a step that failed


def return_to_boundary(session: "Session", error: Exception) -> None:
    """Returns a session to the state before the block that failed.

    Raises:
        Exception: `error`, unless it says that memory did not suffice for a batch size that has just been set: the
            former one acts again then.
    """
    if not session.trainer.interrupted:  # fetching the data failed: nothing has changed
        raise error
    lineage, back = session.log.lineage(session.branch), _batch_size_back(session)
    try:
        reach(session.trainer, session.log, session.store.candidates(), lineage, session.log.tip(session.branch))
    except Exception as again:
        reason = f"a step failed, and those before it cannot be taken again ({again})"
        _leave_at(session, _restore_newest(session), reason)
    if not (back and session.trainer.short_of_memory(error)):
        raise error
    was, now = back["batch_size"]
    why = f"`batch_size` {was} needs more memory than there is: back to {now}"
    session.emit(Set(back, refusal=f"{why} ({str(error).splitlines()[0][:200]})"), author="babysit")


def _batch_size_back(session: "Session") -> Changes:
    """The changes that take back the last change of the batch size, if no step was taken with it yet."""
    for event in reversed(session.log.along(session.log.lineage(session.branch))):
        change = event.payload
        if isinstance(change, Set) and "batch_size" in change.changes:
            acts = session.position.step <= (change.acts_at or event.step) and change.over == 1 and not change.refusal
            return {name: (new, old) for name, (old, new) in change.changes.items()} if acts else {}
    return {}
