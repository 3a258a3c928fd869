"""The past of a run: back to any step of it on any branch, and on from where it was cut off.

The state at a step is that of the nearest earlier checkpoint, and from there the same
steps again under the journal: every entry acts where it acted then, whoever made it, and
no callback is called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from babysit.core.hyperparameter import checked
from babysit.core.scale import Scale
from babysit.session.history import Ended, Stretch
from babysit.session.journal import Entry
from babysit.session.trainer import Trainer
from babysit.store.files import State

# What of the journal changes the state when it is applied again; an edit can only be read from a checkpoint.
REPEATED = ("set", "refuse", "fit")
_DIFFERS = "Rewinding is not exact, because steps that were taken again differed from those before."


class _Edited(ValueError):
    """What was edited on the way can be read from no checkpoint."""


class Timeline:
    """Where a run has been, and how to get there again.

    Args:
        trainer: The run's.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._history, self._journal = trainer, trainer.history, trainer.journal
        self._shelf = trainer.shelf
        self._tail: tuple[Any, int] | None = None  # from which checkpoint and to which step to go before going on
        self.differs: int | None = None  # the first step taken again whose loss is another than it was

    # ------------------------------------------------------------------- rewinding

    def rewind(
        self,
        folder: str | None = None,
        step: int | None = None,
        branch: str | None = None,
        hyperparameters: str = "checkpoint",
        skip: int = 0,
        **about: Any,
    ) -> Entry:
        """Returns to a checkpoint or a step, on a new branch; see `Panda.rewind`.

        Args:
            folder: The name of a checkpoint's folder, to return to the instant when it was saved.
            step: Or the number of steps done, on `branch`; the branch's tip if it is None.
            branch: The present one if it is None.
            hyperparameters: `"checkpoint"` for the values of then, `"keep"` for the present ones.
            skip: Batches to leave out then.
            **about: `author`, `why` and `command` of the entry.

        Raises:
            ValueError: If there is no such place, or it cannot be reached; nothing was changed then.
        """
        trainer = self._trainer
        if hyperparameters not in ("checkpoint", "keep"):
            raise ValueError(f'`hyperparameters` must be "checkpoint" or "keep". Received: {hyperparameters!r}.')
        skip = int(checked("skip", skip, Scale(0, 2**53, whole=True), "It is a number of batches."))
        present, left, waited = trainer.told, trainer.step, trainer.waiting
        with self._or_back() as (before, standing_on):
            origin, mark, name = self._go_to_checkpoint(folder) if folder is not None else self._go_to(step, branch)
            restored, turn, size, batch_size = trainer.told, dict[str, Any](), None, trainer.batch_size
            if hyperparameters == "keep":
                trainer.forget_waiting()
                turn["values"] = {name: value for name, value in present.items() if restored.get(name) != value}
                batch_size = turn["values"].get("batch_size", batch_size)
                size = trainer.put_off(turn["values"])
            if skip:
                turn["skipped"] = trainer.places_to_skip(skip, batch_size)
            trainer.apply(turn)
        if self.differs:
            trainer.restless = trainer.restless or _DIFFERS
        if not trainer.comes_again and before.step:
            trainer.keeper.keep_left(before, standing_on)
        # Kept values are a change against the checkpoint's, restored ones against the present.
        were, now = restored if hyperparameters == "keep" else present, trainer.told
        changes = {name: (old, now[name]) for name, old in were.items() if name in now and old != now[name]}
        trainer.leave(origin, mark, turn, changes)
        said = [f"to {name or f'step {trainer.step:,}'}, from step {left:,}"]
        said += ["hyperparameters kept"] if hyperparameters == "keep" else []
        said += [f"the batch size from step {trainer.keep_size(size):,} on"] if size is not None else []
        said += ["examples {1:,} to {2:,} of pass {0} left out".format(*_counted(turn["skipped"]))] if skip else []
        said += [f"the steps taken again differ from step {self.differs:,} on"] if self.differs else []
        entry = trainer.enter("rewind", changes=changes, why=about.pop("why", "") or ", ".join(said), **about)
        trainer.refuse_dropped(waited, "the run was rewound before that")
        self._tail = None
        trainer.recall()
        trainer.keeper.keep("branch")
        return entry

    def _go_to_checkpoint(self, folder: str) -> tuple[str, int, str]:
        checkpoint, state = self._shelf.found(folder)
        self.differs = None
        self._trainer.restore(state)
        return checkpoint.branch, state.mark, f"“{checkpoint.name}”" if checkpoint.name else ""

    def _go_to(self, step: int | None, branch: str | None) -> tuple[str, int, str]:
        if not self._history.branches:
            raise ValueError("There is no past to rewind to: call `fit(…)` first.")
        place = self._history.branch if branch is None else branch
        if place not in self._history.branches:
            raise ValueError(f"`branch` must be one of {', '.join(self._history.branches)}. Received: {branch!r}.")
        tip = self._trainer.step if place == self._history.branch and self._tail is None else self._history.tip(place)
        if step is None:
            step = tip
        elif not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= tip:
            raise ValueError(
                f"`to` must be a step, a whole number from 0 to {tip:,}, the last one of {place}. Received: {step!r}."
            )
        line = self._way(place, step)
        self._retrace(line, step)
        return line[-1].branch, int(min(line[-1].mark, self._journal.mark)), ""

    def _way(self, branch: str, step: float) -> list[Stretch]:
        """The line of a branch, up to a step."""
        return [replace(part, end=min(part.end, step)) for part in self._history.line(branch) if part.start <= step]

    @contextmanager
    def _or_back(self) -> Iterator[tuple[State, str]]:
        """Whatever fails inside leaves everything as it was; yields the state of before, and its branch."""
        trainer = self._trainer
        before, standing = trainer.state(), trainer.standing
        try:
            yield before, self._history.branch
        except Exception:
            trainer.restore(before)
            trainer.standing = standing
            raise

    # ------------------------------------------------------------- the same steps again

    def _retrace(self, line: list[Stretch], step: int) -> None:
        """Goes to a step of a line: from the nearest checkpoint before it, by the same steps again.

        Raises:
            ValueError: If there is no way: what was done in between can be neither read nor done again.
        """
        reason = ValueError(f"There is no checkpoint from which step {step:,} can be reached.")
        for kept in reversed(self._shelf.candidates()):
            if not _lies_on(kept, line):
                continue
            try:
                self._check_way(kept, line, step)
                state = kept.load()
                self._trainer.restore(state)
            except ValueError as error:
                reason = error
                continue
            self._follow(line, state.mark, kept.branch, step)
            return
        raise ValueError(f"{reason}{self._nearest(line[-1].branch, step) if isinstance(reason, _Edited) else ''}")

    def _nearest(self, branch: str, step: int) -> str:
        """Which steps around one that cannot be returned to can be: those up to the next edit behind a state."""
        line = self._history.line(branch)
        found = [named for part in line for named in self._journal.between(part.branch, -1, part.mark, part.end)]
        edits = [(mark, entry.step - 1) for mark, entry in found if entry.action == "edit"]
        kept = [one for one in self._shelf.candidates() if _lies_on(one, line)]
        ends = [min([last for mark, last in edits if mark > one.mark] or [self._history.tip(branch)]) for one in kept]
        below = [min(end, step) for one, end in zip(kept, ends, strict=True) if one.step <= min(end, step)]
        above = [one.step for one, end in zip(kept, ends, strict=True) if step < one.step <= end]
        nearest = [
            f"step {place:,}" for place in (max(below, default=None), min(above, default=None)) if place is not None
        ]
        return f" The nearest that can be returned to: {' and '.join(nearest)}." if nearest else ""

    def _check_way(self, kept: Any, line: list[Stretch], step: int) -> None:
        """Raises ValueError unless the steps from there on can be taken again."""
        behind = [
            self._journal.between(part.branch, kept.mark, part.mark, part.end) for part in _rest(line, kept.branch)
        ]
        found = [(mark, entry) for entries in behind for mark, entry in entries]
        if edits := [entry for _, entry in found if entry.action == "edit"]:
            raise _Edited(
                f"Step {step:,} lies behind what was edited by {edits[0].author} at step {edits[0].step:,}: that "
                "cannot be done again, and its state is no longer kept."
            )
        marks = [kept.mark, *(mark for mark, entry in found if entry.action == "fit")]
        if kept.step < step and not all(map(self._trainer.trains_on_what_it_had, marks)):
            raise ValueError(
                f"Step {step:,} has to be reached by training again from step {kept.step:,}, on the data of then: call "
                "`fit` with those, `paused=True`, before you rewind there."
            )

    def _follow(self, line: list[Stretch], mark: int, branch: str, step: int) -> None:
        """From a state on a branch, the same steps again up to a step of the line."""
        self.differs, trainer = None, self._trainer
        trainer.forget_waiting()  # what waited then is in the journal where it acted
        rest = _rest(line, branch)
        with trainer.as_then():
            trainer.act_as(mark)
            for part in rest:
                if part is not rest[0]:
                    trainer.act_as(self._history.begun(part.branch))
                    trainer.apply(self._history.turn(part.branch))
                ended = self._history.ended(*line[: line.index(part) + 1])  # before, where this one left within
                for at, entry in self._journal.between(part.branch, mark, part.mark, part.end):
                    self._take_again(part.branch, entry.step, ended)
                    if entry.action == "fit":
                        trainer.act_as(at, begins=True)
                    if entry.action in REPEATED:
                        trainer.repeat(entry)
                self._take_again(part.branch, int(min(part.end, step)), ended)
                trainer.close_epoch(ended)

    def _take_again(self, branch: str, until: int, ended: dict[int, Ended]) -> None:
        for first, losses in self._trainer.retake(until, ended):
            then = self._history.losses(branch, first, len(losses))
            unequal = np.flatnonzero(~((losses == then) | np.isnan(losses) & np.isnan(then)))
            if self.differs is None and len(unequal):
                self.differs = first + int(unequal[0])

    # --------------------------------------------------------------------- from disk

    def take_up(self) -> None:
        """Takes up a run whose record exists: stands at the newest complete checkpoint of its present branch.

        Raises:
            ValueError: If there is none that can be used, or the model is another one.
        """
        trainer, tip = self._trainer, self._history.tip(self._history.branch)
        line = self._way(self._history.branch, tip)
        trainer.build_as_recorded()
        for kept in reversed(self._shelf.candidates()):
            if _lies_on(kept, line):
                try:
                    state = kept.load()
                except ValueError:
                    continue
                trainer.restore(state)
                trainer.read_bounds()
                if kept.step < tip or self._acted(line, kept):
                    self._tail = kept, tip
                break
        else:
            checkpoint, state = self._shelf.newest_sound()
            trainer.restore(state)
            trainer.read_bounds()
            self._break_off(checkpoint.branch, state.mark, tip)
        trainer.rest()

    def _acted(self, line: list[Stretch], kept: Any) -> bool:
        """Whether anything acted behind a checkpoint that the state does not hold."""
        rest = _rest(line, kept.branch)
        found = [
            entry for part in rest for _, entry in self._journal.between(part.branch, kept.mark, part.mark, part.end)
        ]
        return len(rest) > 1 or any(entry.action in (*REPEATED, "edit") and entry.changes for entry in found)

    def catch_up(self) -> None:
        """Takes the steps again that were cut off behind the checkpoint from which the run was taken up."""
        if self._tail is None:
            return
        (kept, tip), self._tail = self._tail, None
        state = self._trainer.state()
        try:
            self._trainer.check_rewindable()
            self._check_way(kept, line := self._way(self._history.branch, tip), tip)
            self._follow(line, kept.mark, kept.branch, tip)
            if self.differs is not None:
                why = f"the steps taken again behind step {kept.step:,} differ from step {self.differs:,} on"
                self._trainer.enter("note", why=why)
        except Exception as error:
            self._trainer.restore(state)
            self._break_off(kept.branch, kept.mark, tip, str(error))

    def _break_off(self, branch: str, mark: int, tip: int, reason: str = "") -> None:
        trainer, left = self._trainer, self._history.branch
        trainer.leave(branch, mark, {}, {})
        why = f"to step {trainer.step:,}, the newest checkpoint on disk, from step {tip:,} of {left}"
        trainer.enter("rewind", why=f"{why}: {reason}" if reason else why)


def _lies_on(kept: Any, line: list[Stretch]) -> bool:
    return any(kept.branch == part.branch and kept.step <= part.end and kept.mark <= part.mark for part in line)


def _rest(line: list[Stretch], branch: str) -> list[Stretch]:
    """The line from a branch on."""
    return line[[part.branch for part in line].index(branch) :]


def _counted(skipped: list[int]) -> tuple[int, int, int]:
    """Pass, first and last example left out, each from 1 on."""
    passes, start, end = skipped
    return passes + 1, start + 1, end
