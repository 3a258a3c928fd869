"""The present lineage of a run as segments in which nothing changes: a fold over its events.

What an event means is in `core.controls.apply`; what it did to the tensors in another way is read from a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babysit.core.controls import Controls, apply
from babysit.core.events import ROOT, Branch, Edit, EpochEnd, Event, Fit, Set
from babysit.core.position import FitSpec, Position
from babysit.core.state import State
from babysit.session.rerun import lies_on
from babysit.session.session import Session


@dataclass
class Segment:
    """Steps of one pass over the data in which nothing changes.

    Attributes:
        data_pass: Number of the pass, which determines the order of the examples.
        first: Number of the first example in that order.
        steps: How many steps; 0 where something was changed after the last one.
        batch_size: Examples a step.
        changes: What changes before the first step: hyperparameter -> value; `shuffle`: whether the passes from now
            on are shuffled, or the size of the batches within which they are; `static`: the size of the batches where
            TensorFlow is to know it, or None; `trainable`: for each layer; `state`: the name of a state that is put in
            place; `seeds`: how far each generator of random numbers was drawn on.
        why: The reasons given.
    """

    data_pass: int
    first: int
    steps: int
    batch_size: int
    changes: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def goes_on(self, other: "Segment") -> bool:
        """Whether another segment is just more steps of this one."""
        then = self.first + self.steps * self.batch_size
        same = (other.data_pass, other.first, other.batch_size) == (self.data_pass, then, self.batch_size)
        return same and not other.changes


class Fold:
    """The lineage of a run's present branch as segments.

    Args:
        session: The run.
        momentum: The hyperparameter for which the optimizer keeps velocities unless it is 0, if there is one.

    Attributes:
        segments: All of them, in their order.
        states: Name -> state that a program must load: `start`, and those that were edited.
        fit: What the last fit was given.
        facts: What else is known of its data.
        built_for: The model's variables that the optimizer knows at last, by position.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """

    def __init__(self, session: Session, momentum: str | None) -> None:
        log, self._momentum = session.log, momentum
        lineage = log.lineage(session.branch)
        self._has_velocities: bool | None = None
        self._kept = [one for one in session.store.candidates() if lies_on(one, lineage)]
        self.segments: list[Segment] = []
        self.states = {"start": self._state(ROOT, 0, 0, "its start")}
        self.fit = FitSpec("", None, 1)
        self.facts: Mapping[str, Any] = {}
        self._trainable = list(self.states["start"].trainable)
        self._present: dict[str, Any] = {}  # what the program has set so far
        self._changes: dict[str, Any] = {}  # what else changes before the next segment
        self._reasons: list[str] = []
        self._follow(log.along(lineage), log.tip(session.branch))
        self.built_for = list(self.states.values())[-1].built_for[0]

    def _state(self, branch: str, step: int, event: int, what: str) -> State:
        """The first state of a step that contains an event."""
        for one in self._kept:
            if (one.branch, one.step) == (branch, step) and one.event >= event:
                state: State = one.load()
                return state
        raise refusal(f"the checkpoint of {what} is gone")

    def _follow(self, events: Sequence[Event], tip: int) -> None:
        controls, position = Controls(), Position()
        for event, end in zip(events, [*(event.step for event in events[1:]), tip], strict=True):
            self._note(event, controls.fit)
            controls, position = apply(controls, position, event)
            self._check_momentum(controls.at(event.step), event.step)
            while position.step < end:
                position = self._train(controls, position, end)
        if self._changes:  # after the last step
            self._append(Segment(position.data_pass, position.example, 0, 1))

    def _note(self, event: Event, before: FitSpec | None) -> None:
        match event.payload:
            case Fit(facts=facts) if not facts["is_dense"]:
                raise refusal("its examples are sparse or ragged, and a program cannot pick them one by one")
            case Fit(spec=spec) if before is not None and event.step and spec.data != before.data:
                raise refusal(f"after step {event.step:,} it went on with other data, and a program loads one set")
            case Edit(values=values) if values:
                raise refusal(f"after step {event.step:,} the model was compiled anew, and a program compiles it once")
            case Fit(spec=spec, facts=facts):
                self.fit, self.facts = spec, facts
            case Edit() if event.seq > self.states["start"].event:
                name, what = f"edit_{event.seq}", f"what {event.author} edited at step {event.step:,}"
                state = self.states[name] = self._state(event.branch, event.step, event.seq, what)
                # The state holds whatever was done before, seeds among them.
                self._changes, self._present, self._trainable = {"state": name}, {}, list(state.trainable)
            case EpochEnd(seeds=seeds) if seeds is not None:
                self._changes["seeds"] = seeds
        if isinstance(event.payload, Set | Edit | Branch) and event.why:
            self._reasons.append(event.why)

    def _train(self, controls: Controls, position: Position, end: int) -> Position:
        """Adds a segment from a position on; returns the position after it."""
        values, size = controls.at(position.step), self.fit.size
        self._check_momentum(values, position.step)
        batch_size = int(values.pop("batch_size"))
        steps = int(min(end - position.step, controls.steady_for(position.step)))
        examples = steps * batch_size if size is None else min(steps * batch_size, size - position.example)
        alike = position.example % batch_size == (size or 0) % batch_size == 0
        within_batches = self.fit.batch_size if self.fit.shuffle == "batch" and self.fit.batch_size > 1 else False
        wanted = {
            "shuffle": not self.facts["is_stream"] and (within_batches or self.fit.shuffle is True),
            "static": batch_size if alike and batch_size == self.facts["static_size"] else None,
            "trainable": self._trainable,
            **values,
        }
        present = self._present
        self._changes |= {key: new for key, new in wanted.items() if key not in present or new != present[key]}
        self._present = wanted
        self._append(Segment(position.data_pass, position.example, steps, batch_size))
        return position.advanced(steps, examples)

    def _check_momentum(self, values: Mapping[str, Any], step: int) -> None:
        """Raises where a momentum reaches or leaves 0: a plain optimizer is built with velocities or without."""
        if self._momentum is not None:
            not_zero = bool(values[self._momentum])
            if self._has_velocities not in (None, not_zero):
                raise refusal(
                    f"after step {step:,} `{self._momentum}` reached or left 0, and a plain optimizer is built with "
                    "velocities or without"
                )
            self._has_velocities = not_zero

    def _append(self, segment: Segment) -> None:
        segment.changes, self._changes = self._changes, {}
        if self.segments and self.segments[-1].goes_on(segment):
            self.segments[-1].steps += segment.steps
            return
        segment.why, self._reasons = "; ".join(self._reasons), []
        self.segments.append(segment)


def refusal(reason: str) -> ValueError:
    """The error that a run cannot be exported, with what can be had instead."""
    return ValueError(
        f"The run cannot be exported: {reason}. `panda.schedules()` and `panda.export_logbook(path)` still can be had."
    )
