"""A line of training cut into stretches in which nothing changes, as a plain program can follow them.

What Keras does by itself is left out; what a hand, a callback or babysit did is a change
before the first step of a stretch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from babysit.core.words import CHANGES
from babysit.engine.catalog import Place, absorbs_learning_rate, optimizers_in
from babysit.export.schedules import Run, followed, turns
from babysit.session.journal import Entry
from babysit.store.files import State

# Momentum at 0 whose velocities go on: not 0 to Python, and 0 in the types of a model.
TINY = 5e-324


@dataclass
class Stretch:
    """Steps in which nothing changes.

    Attributes:
        steps: How many; 0 where only something is changed.
        batch_size: Examples a step.
        changes: What changed before the first step: hyperparameter -> value; `place`: (pass, examples
            of it done); `declared`: the batch size that a new fit was given; `state`: the name of a
            state that was put in place; `trainable`: for each layer; `average`: the weights became
            their moving average; `velocities`: factors, by the prefix of the optimizer.
        why: The reasons given.
    """

    steps: int
    batch_size: int
    changes: dict[str, Any] = field(default_factory=dict)
    why: str = ""


class Line:
    """The present line of a run, from step 0 to its tip.

    Args:
        run: The run.
        places: Hyperparameter -> where the model keeps it.

    Attributes:
        states: Name -> state that a program must load: `start`, and those that a hand or a callback edited.
        first_fit: What the fit was given with which it begins.
        built_on: For each optimizer, which of the model's variables it knows at last, by position.
        notes: What a program cannot repeat, a sentence each.
        velocities: Names of momentums whose velocities exist at some time.

    Raises:
        ValueError: If the checkpoint of the start is missing or damaged.
    """

    def __init__(self, run: Run, places: Mapping[str, Place]) -> None:
        self._run, self._places = run, places
        parts = run.history.line()
        numbered = [found for p in parts for found in run.journal.between(p.branch, -1, p.mark, p.end)]
        self._entries = [entry for _, entry in numbered]
        self._marks = {_key(entry): mark for mark, entry in numbered}
        self._skipped = {p.start: run.history.turn(p.branch).get("skipped") for p in parts}
        self.steps = run.history.steps
        self.columns = {name: run.history[name] for name in run.history.hyperparameters}
        self.notes = list(run.remarks)
        self.states = {"start": _start(run.kept, [p.branch for p in parts if p.start == 0])}
        self.built_on = self.states["start"].built_on
        self._events: dict[int, dict[str, Any]] = {}
        self._tell_of_fits()
        self._tell_of_edits()
        self._tell_of_velocities()

    def stretches(self) -> list[Stretch]:
        """All of them, in order."""
        tokens = {name: self._tokens(name) for name in self._places if name in self.columns}
        sizes = self.columns.get("batch_size", np.zeros(self.steps))
        turned = [turns(column) for column in (*tokens.values(), sizes)]
        starts = sorted({0, *self._events, *(step for steps in turned for step in steps)})
        return [
            self._stretch(start, end, tokens, sizes)
            for start, end in zip(starts, [*starts[1:], self.steps], strict=True)
        ]

    def _stretch(self, start: int, end: int, tokens: Mapping[str, np.ndarray], sizes: np.ndarray) -> Stretch:
        events = self._events.get(start, {})
        if start >= self.steps:  # behind the last step
            return Stretch(0, int(sizes[-1]) if self.steps else 0, events, self._why(start))
        anew = start == 0 or "state" in events  # all of them, as another state brings other ones
        changes = {
            name: _value(column[start])
            for name, column in tokens.items()
            if (anew or turns(column[start - 1 : start + 1])[1:])
            and (self._run.schedules.get(name) is not None or not np.isnan(column[start]))
        }
        return Stretch(end - start, int(sizes[start]), events | changes, self._why(start))

    def _tokens(self, name: str) -> np.ndarray:
        """The value to set at each step; NaN where a schedule is followed."""
        column = self.columns[name].copy()
        if self._run.schedules.get(name) is not None:
            column[followed(self._run, name)] = np.nan
        for step, is_open in self._openings.get(
            name, ()
        ):  # at 0 a plain optimizer would leave its velocities as they are
            column[step:] = np.where(self.columns[name][step:] == 0, TINY if is_open else 0.0, column[step:])
        return column

    def _why(self, step: int) -> str:
        told = [entry for entry in self._entries if entry.step == step and entry.action in CHANGES]
        return "; ".join(f"{entry.why}{_by(entry)}" for entry in told if entry.why)

    @property
    def averages(self) -> bool:
        """Whether Keras would put moving averages in place of the weights whenever a `fit` ends."""
        optimizers = [getattr(one, "inner_optimizer", one) for one in self._run.optimizers.values()]
        return any(optimizer.use_ema for optimizer in optimizers)

    @property
    def multiplies(self) -> bool:
        """Whether velocities are multiplied somewhere."""
        return any("velocities" in events for events in self._events.values())

    def _happens(self, step: int, **events: Any) -> None:
        self._events.setdefault(step, {}).update(events)

    # ------------------------------------------------------------------------------ the data

    def _tell_of_fits(self) -> None:
        """Finds where training went to another place in the data than the next one."""
        begun = self._fits_on_line()
        epochs, sizes = self._run.history["epoch"], self.columns.get("batch_size", np.zeros(self.steps))
        fit, passes, cursor = begun.get(0, self._run.fits[0]), 0, 0
        self.first_fit = fit
        for step in range(self.steps):
            size, jumped = fit["size"], False
            if step and epochs[step] != epochs[step - 1] and cursor and not fit["steps_per_epoch"]:
                passes, cursor, jumped = passes + 1, 0, True  # an epoch that ended early
            if step and step in begun:
                before, fit = fit, begun[step]
                self._compare(step, before, fit)
                if cursor == 0 or _identity(before) != _identity(fit):
                    done = int(epochs[step]) - 1
                    jumped, passes, cursor = jumped or max(passes, done) != passes or cursor > 0, max(passes, done), 0
            if skipped := self._skipped.get(step):
                (passes, _, cursor), jumped = skipped, True
            if jumped and size is not None:
                self._happens(step, place=(passes, cursor))
            cursor += int(sizes[step])
            if size is not None and cursor >= size:
                passes, cursor = passes + 1, 0

    def _fits_on_line(self) -> dict[int, Mapping[str, Any]]:
        fits = iter(self._run.fits)
        told = [(entry, next(fits, None)) for entry in self._run.journal if entry.action == "fit"]
        return {entry.step: facts for entry, facts in told if facts is not None and self._on_line(entry)}

    def _compare(self, step: int, before: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
        if before["declared"] != fit["declared"]:
            self._happens(step, declared=fit["declared"])
        for what in ("fingerprint", "shuffle"):
            if before[what] != fit[what]:
                words = "other examples" if what == "fingerprint" else "another order of the examples"
                self.notes.append(f"Behind step {step:,} training went on with {words}: not repeated here.")

    # ------------------------------------------------------------------------ edits and velocities

    def _tell_of_edits(self) -> None:
        trainable = self.states["start"].trainable
        for entry in self._entries:
            if entry.action != "edit":
                continue
            if entry.why == "compiled anew":
                self.notes.append(f"Behind step {entry.step:,} the model was compiled anew: not repeated here.")
            elif entry.why == "weights replaced by their moving average":
                self._happens(entry.step, average=True)
            elif (state := self._edited(entry)) is not None:
                trainable = self._tell_of_edit(entry, state, trainable)

    def _edited(self, entry: Entry) -> State | None:
        try:
            return _state(self._run.kept, entry.step, entry.branch, self._marks[_key(entry)])
        except ValueError as error:
            self.notes.append(f"What was edited behind step {entry.step:,} is not repeated here: {error}")
            return None

    def _tell_of_edit(self, entry: Entry, state: State, trainable: tuple[bool, ...]) -> tuple[bool, ...]:
        if "variables changed" in entry.why:
            name = f"step_{entry.step}"
            self.states[name] = state
            self._happens(entry.step, state=name)
            self._events[entry.step].pop("average", None)  # which came before: the state tells what it came to
        if state.trainable != trainable:
            self._happens(entry.step, trainable=list(state.trainable))
        self.built_on = state.built_on
        return state.trainable

    def _tell_of_velocities(self) -> None:
        """Finds when velocities came and went, and by what they were multiplied."""
        names = [name for name, place in self._places.items() if place.gate == "slots"]
        self._openings = {name: list(self._opened(name)) for name in names}
        self.velocities = {name for name in names if any(is_open for _, is_open in self._openings[name])}
        for name in names:
            opened = [step for step, is_open in self._openings[name] if is_open]
            for step in opened[1:]:  # those that come again begin at 0
                self._multiply(name, step, 0.0)
            self._correct(name)

    def _opened(self, name: str) -> Iterator[tuple[int, bool]]:
        """(step, whether velocities exist from there on), in order."""
        is_open = name in self.states["start"].structure
        value = self.states["start"].hyperparameters.get(name, 0.0)
        yield 0, is_open
        for entry in self._entries:
            new = entry.changes.get(name, (None, value))[1]
            value = new if isinstance(new, int | float) else value
            now = False if entry.action in _ENDS and value == 0 else is_open or value != 0
            if now != is_open:
                yield entry.step, now
            is_open = now

    def _correct(self, momentum: str) -> None:
        """Finds the momentum corrections: velocities multiplied as the learning rate jumped."""
        prefix, _, _ = momentum.rpartition(".")
        rate = f"{prefix}.learning_rate".lstrip(".")
        absorbs = absorbs_learning_rate(optimizers_in(self._run.optimizers)[prefix])
        switched = False
        for entry in self._run.journal:
            switched = entry.changes.get("momentum_correction", (None, switched))[1]
            if switched and absorbs and rate in entry.changes and self._on_line(entry):
                self._correct_at(momentum, rate, entry)

    def _correct_at(self, momentum: str, rate: str, entry: Entry) -> None:
        old, new = entry.changes[rate]
        kept = entry.action == "rewind" and "kept" in entry.why
        if isinstance(old, str) or isinstance(new, str):
            self.notes.append(
                f"The momentum correction behind step {entry.step:,}, of a schedule, is not repeated here."
            )
        elif entry.action == "set" and entry.over > 1:
            column = self.columns[rate][: entry.step + entry.over]
            for step in range(max(entry.step, 1), len(column)):
                if column[step] != column[step - 1] and column[step - 1] > 0:
                    self._multiply(momentum, step, column[step] / column[step - 1])
        elif (kept or entry.action == "set") and old > 0:
            self._multiply(momentum, entry.step, new / old)

    def _multiply(self, momentum: str, step: int, factor: float) -> None:
        factors = self._events.setdefault(step, {}).setdefault("velocities", {})
        factors.setdefault(momentum.rpartition(".")[0], []).append(float(factor))

    def _on_line(self, entry: Entry) -> bool:
        return _key(entry) in self._marks


def _value(token: float) -> Any:
    return "schedule" if np.isnan(token) else float(token)


_ENDS = ("finish", "stop", "fail")


def _key(entry: Entry) -> tuple[Any, ...]:
    return entry.time, entry.branch, entry.step, entry.action


def _state(kept: Sequence[Any], step: int, branch: str, mark: int) -> State:
    """The first state kept at a step of a branch behind a mark.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    for one in kept:
        if (one.step, one.branch) == (step, branch) and one.mark >= mark:
            state: State = one.load()
            return state
    raise ValueError(f"There is no checkpoint at step {step:,} of {branch}.")


def _start(kept: Sequence[Any], branches: Sequence[str]) -> State:
    """The state at step 0, of the first of these branches that has one: a run that began anew lost that of others.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    found = {one.branch for one in kept if one.step == 0}
    return _state(kept, 0, next((branch for branch in branches if branch in found), branches[0]), -1)


def _identity(fit: Mapping[str, Any]) -> list[Any]:
    return [fit[name] for name in ("fingerprint", "size", "shuffle", "steps_per_epoch")]


def _by(entry: Entry) -> str:
    return "" if entry.author == "script" else f" (by {entry.author})"
