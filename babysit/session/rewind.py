"""The time machine of a session: back to a checkpoint or a step, on after a kill, back after a step that failed.

All of it is `reach`: the nearest kept state, and from there the same events and steps again.
"""

from typing import TYPE_CHECKING, Any

from babysit.core.events import ROOT, Branch, Edit, EpochEnd, Event, Fit, Note, Set
from babysit.core.hyperparameter import checked
from babysit.core.position import Position
from babysit.core.scale import Scale
from babysit.session.rerun import Unreachable, lies_on, reach

if TYPE_CHECKING:
    from babysit.session.session import Session


def rewind(
    session: "Session",
    folder: str | None = None,
    step: int | None = None,
    branch: str | None = None,
    hyperparameters: str = "checkpoint",
    skip: int = 0,
    **about: Any,
) -> Event:
    """Returns a session to a checkpoint or a step, on a new branch; see `Panda.rewind`.

    Args:
        session: The one to return.
        folder: Name of a checkpoint's folder, to return to the instant at which it was saved.
        step: Or the number of steps done, on `branch`; the branch's tip if it is None.
        branch: The present one if it is None.
        hyperparameters: `"checkpoint"` for the values of then, `"keep"` for the present ones.
        skip: Batches to leave out then.
        **about: `author`, `why` and `command` of the event.

    Raises:
        ValueError: If there is no such place, or it cannot be reached; nothing was changed then.
    """
    if hyperparameters not in ("checkpoint", "keep"):
        raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
    skip = int(checked("skip", skip, Scale(0, 2**53, whole=True), "It is a number of batches."))
    place = None if folder is not None else _place(session, step, branch)
    trainer, before, left, present = session.trainer, session.trainer.capture(), session.branch, session.values
    try:
        name, parent, differs = _go_to(session, folder or "") if place is None else _go_along(session, *place)
        _check_data(session, before.position)
        then = session.values
        changed = {key: (then[key], new) for key, new in present.items() if key in then and then[key] != new}
        keep = changed if hyperparameters == "keep" else {}
        restored = {} if keep else {key: (new, old) for key, (old, new) in changed.items()}
        later = {key: keep.pop(key) for key in ["batch_size"] if key in keep and trainer.steps_to_update}
        examples = _examples_in(session, skip, keep.get("batch_size", (0, then.get("batch_size")))[1])
    except Exception:
        trainer.restore(before)
        raise
    session.store.save_soon(before, left, kept="tip")
    payload = Branch(parent, trainer.event, before.position.step, name, keep, examples, restored, differs)
    event = session.leave(payload, **about)
    if later:
        session.emit(Set(later, acts_at=session.position.step + trainer.steps_to_update), author=event.author)
    session.remind_callbacks()
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


def _go_to(session: "Session", folder: str) -> tuple[str, str, int | None]:
    checkpoint = session.store.found(folder)
    session.trainer.restore(checkpoint.load())
    return checkpoint.name or "", checkpoint.branch, None


def _go_along(session: "Session", branch: str, step: int) -> tuple[str, str, int | None]:
    lineage = session.log.lineage(branch, step)
    rerun = reach(session.trainer, session.log, session.store.candidates(), lineage, step)
    return "", lineage[-1].branch, rerun.differs


def _examples_in(session: "Session", batches: int, batch_size: int) -> int:
    """Examples in batches that are to be left out."""
    if not batches:
        return 0
    if session.plan is None:
        raise ValueError("`skip` needs the data. Call `fit(…, paused=True)` first.")
    left = session.trainer.steps_left(batch_size)
    if left is not None and batches >= left:
        raise ValueError(
            f"`skip` must leave a batch of the epoch. Received: skip={batches}, with {left} left of them there."
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
        now, then = plan.source.size, fit.size
        raise ValueError(
            f"The checkpoint was made on other data: {then or 'an unknown number of'} examples, and now there are "
            f"{now or 'others'}. `fit` on those data again, `paused=True`, before you rewind to it."
        )


# ------------------------------------------------------------------------------- after a kill


def load(session: "Session") -> None:
    """Restores the newest checkpoint of the present branch that can be used; a fit takes the steps after it.

    Where no checkpoint is left, the run begins anew on a branch of its own.

    Raises:
        ValueError: If there is none that can be used.
    """
    candidates, lineage = session.store.candidates(), session.log.lineage(session.branch)
    if not candidates:
        session.leave(Branch(ROOT, 0, session.log.tip(session.branch), reason="no checkpoint is left"))
        return
    for candidate in reversed(candidates):
        if lies_on(candidate, lineage):
            try:
                session.trainer.restore(candidate.load())
            except ValueError:
                continue
            return
    branch_off(session, "no checkpoint of the branch can be used")


def recover(session: "Session") -> None:
    """Takes the steps again that a run had done after the state from which it was loaded."""
    trainer, log, tip = session.trainer, session.log, session.log.tip(session.branch)
    before, lineage = trainer.capture(), log.lineage(session.branch)
    acting = (Fit, Set, EpochEnd, Branch, Edit)
    lacking = any(isinstance(event.payload, acting) for event in log.along(lineage, before.event))
    if before.position.step == tip and not lacking:
        return
    try:
        rerun = reach(trainer, log, session.store.candidates(), lineage, tip)
    except Exception as error:
        trainer.restore(before)
        branch_off(session, str(error))
        return
    if rerun.differs is not None:
        text = f"the steps taken again after step {rerun.start:,} differ from step {rerun.differs:,} on"
        session.emit(Note(text), author="babysit")


def branch_off(session: "Session", reason: str) -> None:
    """Goes on from the newest state that can be used, on a new branch.

    Raises:
        Unreachable: If there is none.
    """
    lineage, tip = session.log.lineage(session.branch), session.log.tip(session.branch)
    candidates = session.store.candidates()
    reasons: dict[str, None] = {}
    for candidate in reversed([one for one in candidates if lies_on(one, lineage)] or candidates):
        try:
            session.trainer.restore(state := candidate.load())
        except ValueError as error:
            reasons[str(error)] = None
            continue
        session.leave(Branch(candidate.branch, state.event, tip, reason=reason))
        return
    raise Unreachable(" ".join(["The run has no checkpoint that can be used.", *reasons]))


# ------------------------------------------------------------------------------- after a step that failed


def return_to_boundary(session: "Session", error: Exception) -> None:
    """Returns a session to the state before the block that failed.

    Raises:
        Exception: `error`, unless it says that memory did not suffice for a batch size that has just been set: the
            former one acts again then.
    """
    if not session.trainer.interrupted:  # fetching the data failed: nothing has changed
        raise error
    lineage = session.log.lineage(session.branch)
    back = _batch_size_back(session)
    try:
        reach(session.trainer, session.log, session.store.candidates(), lineage, session.log.tip(session.branch))
    except Exception as again:
        branch_off(session, f"a step failed, and those before it cannot be taken again ({again})")
    if not (back and session.trainer.short_of_memory(error)):
        raise error
    was, now = back["batch_size"]
    why = f"`batch_size` {was} needs more memory than there is: back to {now}"
    session.emit(Set(back, refusal=f"{why} ({str(error).splitlines()[0][:200]})"), author="babysit")


def _batch_size_back(session: "Session") -> dict[str, tuple[Any, Any]]:
    """The changes that take back the last change of the batch size, if no step was taken with it yet."""
    step, lineage = session.position.step, session.log.lineage(session.branch)
    now, before = session.controls.at(step), session.controls.at(step - 1)
    for event in reversed(session.log.along(lineage)):
        payload = event.payload
        if isinstance(payload, Set) and "batch_size" in payload.changes:
            ramp = payload.over > 1
            acts = now["batch_size"] != before["batch_size"] if ramp else step <= (payload.acts_at or event.step)
            if payload.refusal or not acts:
                return {}
            olds = before if ramp else {name: old for name, (old, _) in payload.changes.items()}
            return {name: (now[name], olds[name]) for name in payload.changes if name in now}
    return {}
