"""The present lineage of a run as segments in which nothing changes: a fold over its events.

What an event means is in `core.controls.apply`; what it did to the tensors in another way is read from a checkpoint.
"""

import math
from collections.abc import Mapping
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
            on are shuffled; `static`: the size of the batches where TensorFlow is to know it, or None; `state`: the
            name of a state that is put in place.
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
        has_momentum: Whether the optimizer keeps velocities unless its momentum is 0.

    Attributes:
        segments: All of them, in their order.
        states: Name -> state that a program must load: `start`, and those that were edited.
        size: Examples of the data.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """

    def __init__(self, session: Session, has_momentum: bool) -> None:
        log = session.log
        if not log.begun:
            raise refusal("it has not begun: call `fit` first")
        lineage = log.lineage(session.branch)
        if has_momentum and len({bool(one.values.get("momentum")) for _, one in log.controls_along(lineage)}) == 2:
            raise refusal("`momentum` reached or left 0, and a plain optimizer is built with velocities or without")
        self._kept = [one for one in session.store.candidates() if lies_on(one, lineage)]
        self.segments: list[Segment] = []
        self.states = {"start": self._state(ROOT, 0, 0, "its start")}
        self._facts: Mapping[str, Any] = {}  # what is known of the data
        self._present: dict[str, Any] = {}  # what the program has set so far
        self._changes: dict[str, Any] = {}  # what else changes before the next segment
        self._reasons: list[str] = []
        events, tip, controls, position = log.along(lineage), log.tip(session.branch), Controls(), Position()
        for event, end in zip(events, [*(event.step for event in events[1:]), tip], strict=True):
            self._note(event, controls.fit)
            controls, position = apply(controls, position, event)
            while position.step < end:
                position = self._train(controls, position, end)
        if self._changes:  # after the last step
            self._append(Segment(position.data_pass, position.example, 0, 1))
        self.size = controls.fit.size if controls.fit else None

    def _state(self, branch: str, step: int, event: int, what: str) -> State:
        """The first state of a step that contains an event."""
        for one in self._kept:
            if (one.branch, one.step) == (branch, step) and one.event >= event:
                state: State = one.load()
                return state
        raise refusal(f"the checkpoint of {what} is gone")

    def _note(self, event: Event, before: FitSpec | None) -> None:
        match event.payload:
            case Fit(facts=facts) if not facts["is_dense"]:
                raise refusal("its examples are sparse or ragged, and a program cannot pick them one by one")
            case Fit(spec=spec) if spec.shuffle == "batch":
                raise refusal('its examples were shuffled by `shuffle="batch"`')
            case Fit(spec=spec) if before is not None and event.step and spec.data != before.data:
                raise refusal(f"after step {event.step:,} it went on with other data, and a program loads one set")
            case Edit(values=values) if values:
                raise refusal(f"after step {event.step:,} the model was compiled anew, and a program compiles it once")
            case EpochEnd(seeds=seeds) if seeds is not None:
                raise refusal("its validation or a callback drew random numbers that its steps draw on")
            case Fit(facts=facts):
                self._facts = facts
            case Edit() if event.seq > self.states["start"].event:
                self._load(event)
        if isinstance(event.payload, Set | Edit | Branch) and event.why:
            self._reasons.append(event.why)

    def _load(self, edit: Event) -> None:
        """Has the program load the state after an edit, which holds whatever was done before."""
        name, what = f"edit_{edit.seq}", f"what {edit.author} edited at step {edit.step:,}"
        self.states[name] = self._state(edit.branch, edit.step, edit.seq, what)
        self._changes, self._present = {"state": name}, {}

    def _train(self, controls: Controls, position: Position, end: int) -> Position:
        """Adds a segment from a position on; returns the position after it."""
        values, fit = controls.at(position.step), controls.fit
        assert fit is not None
        batch_size = int(values.pop("batch_size"))
        steps = int(min(end - position.step, controls.steady_for(position.step)))
        alike = position.example % batch_size == (fit.size or 0) % batch_size == 0
        static = batch_size if alike and batch_size == self._facts["static_size"] else None
        shuffle, present = fit.shuffle and not self._facts["is_stream"], self._present
        wanted = {"shuffle": shuffle, "static": static, **values}
        self._changes |= {key: new for key, new in wanted.items() if key not in present or new != present[key]}
        self._present = wanted
        self._append(Segment(position.data_pass, position.example, steps, batch_size))
        left = math.inf if fit.size is None else fit.size - position.example
        return position.advanced(steps, int(min(steps * batch_size, left)))

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
        f"The run cannot be exported: {reason}. `panda.schedules()` and `panda.export_logbook(path)` still work."
    )
