"""The present lineage of a run as segments in which nothing changes: a fold over its events.

What an event means is in `core.controls.apply`; what it did to the tensors in another way is read from a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babysit.core.controls import Controls, apply
from babysit.core.events import Edit, EpochEnd, Event, Failed, Finished, Fit, Stopped
from babysit.core.journal import entry_of
from babysit.core.position import FitSpec, Position
from babysit.core.runlog import RunLog
from babysit.core.state import State
from babysit.core.words import CHANGES, by
from babysit.session.rerun import lies_on
from babysit.store.checkpoint_store import Candidate

# Momentum 0 of an optimizer that keeps its velocities: not 0 to Python, and 0 in the types of a model.
TINY = 5e-324


@dataclass(frozen=True)
class Run:
    """What is known of a run, to be exported.

    Attributes:
        model: Built and compiled.
        optimizers: Prefix of the names -> the optimizer that a step applies.
        schedules: Learning rate -> Keras's schedule that it was compiled with, or None.
        log: What was done and measured.
        branch: The present one.
        kept: The states that it can return to, oldest first.
        seed: Of the order of examples.
        architecture: The compiled model in plain data, or None.
        remarks: What cannot be repeated exactly and why, a sentence each.
    """

    model: Any
    optimizers: Mapping[str, Any]
    schedules: Mapping[str, Any]
    log: RunLog
    branch: str
    kept: Sequence[Candidate]
    seed: int
    architecture: Any
    remarks: Sequence[str] = ()


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
    changes: dict[str, Any]
    why: str = ""

    def goes_on(self, other: "Segment") -> bool:
        """Whether another segment is just more steps of this one."""
        then = self.first + self.steps * self.batch_size
        same = (other.data_pass, other.first, other.batch_size) == (self.data_pass, then, self.batch_size)
        return same and not other.changes


class Fold:
    """The lineage of a run's present branch as segments.

    Args:
        run: The run.
        momentums: Hyperparameters for which an optimizer keeps velocities, unless they are 0.

    Attributes:
        segments: All of them, in their order.
        states: Name -> state that a program must load: `start`, and those that were edited.
        fit: What the first fit was given.
        is_stream: Whether its data came batch after batch.
        velocities: Those of `momentums` that are not 0 at some time, so that there are velocities.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """

    def __init__(self, run: Run, momentums: set[str]) -> None:
        lineage, self._momentums = run.log.lineage(run.branch), momentums
        self.velocities: set[str] = set()
        self._kept = [one for one in run.kept if lies_on(one, lineage)]
        self.segments: list[Segment] = []
        self.states = {"start": self._start()}
        self.fit, self.is_stream = FitSpec("", None, 1), False
        self._static_size: int | None = None
        self._shuffle: bool | int = False
        self._trainable = list(self.states["start"].trainable)
        self._present: dict[str, Any] = {"trainable": self._trainable}  # what the program has set so far
        self._changes: dict[str, Any] = {}  # what else changes before the next segment
        self._reasons: list[str] = []
        self._open: set[str] = set()  # momentums that have velocities now
        self._closed: set[str] = set()  # and those that have lost them
        self._follow(run.log.along(lineage), run.log.tip(run.branch))

    @property
    def built_for(self) -> tuple[tuple[int, ...], ...]:
        """For each optimizer, the model's variables that it knows at last, by position."""
        return list(self.states.values())[-1].built_for

    def _start(self) -> State:
        if not self._kept or self._kept[0].step:
            raise ValueError("The run cannot be exported: the checkpoint of its start is gone.")
        return self._kept[0].load()

    def _follow(self, events: Sequence[Event], tip: int) -> None:
        controls, position = Controls(), Position()
        for event, end in zip(events, [*(event.step for event in events[1:]), tip], strict=True):
            self._check(event, controls.fit)
            controls, position = apply(controls, position, event)
            self._note(event, controls)
            while position.step < end:
                position = self._train(controls, position, end)
        if self._changes:  # after the last step
            self._append(Segment(position.data_pass, position.example, 0, 1, {}))

    # ------------------------------------------------------------------------- events

    def _check(self, event: Event, fit: FitSpec | None) -> None:
        match event.payload:
            case Fit(facts=facts) if not facts.get("is_dense", True):
                reason = "its examples are sparse or ragged, and a program cannot pick them one by one"
            case Fit(spec=spec) if fit is not None and event.step and spec.data != fit.data:
                reason = f"after step {event.step:,} it went on with other data, and a program loads one set"
            case Edit(values=values) if values:
                reason = f"after step {event.step:,} the model was compiled anew, and a program compiles it once"
            case _:
                return
        raise ValueError(f"The run cannot be exported: {reason}. `panda.schedules()` and `export_logbook` still can.")

    def _note(self, event: Event, controls: Controls) -> None:
        match event.payload:
            case Fit() as fit:
                self._begin(fit)
            case Edit() if event.seq > self.states["start"].event:
                self._edit(event)
            case EpochEnd(seeds=seeds) if seeds is not None:
                self._changes["seeds"] = seeds
            case Finished() | Stopped() | Failed():  # a stock optimizer has no velocities where momentum is 0
                ended = {name for name in self._open if controls.at(event.step)[name] == 0}
                self._open, self._closed = self._open - ended, self._closed | ended
        self._open_momentums(controls.at(event.step), event.step)
        entry = entry_of(event)
        if entry.action in CHANGES and entry.why:
            self._reasons.append(f"{entry.why}{by(entry)}")

    def _begin(self, fit: Fit) -> None:
        spec, self.is_stream = fit.spec, fit.facts["is_stream"]
        self.fit = self.fit if self.segments else spec
        self._static_size = fit.facts["static_size"]
        within_batches = spec.batch_size > 1 and spec.batch_size
        self._shuffle = not self.is_stream and (within_batches if spec.shuffle == "batch" else spec.shuffle)

    def _edit(self, event: Event) -> None:
        name = f"edit_{event.seq}"
        state = self.states[name] = self._state_after(event)
        self._changes = {"state": name}  # which holds whatever was done before, seeds among them
        self._trainable = list(state.trainable)
        own = ("shuffle", "static", "trainable")  # of the program; all else comes with the state
        self._present = {key: self._present[key] for key in own if key in self._present}

    def _state_after(self, event: Event) -> State:
        for one in self._kept:
            if (one.step, one.branch) == (event.step, event.branch) and one.event >= event.seq:
                return one.load()
        raise ValueError(
            f"The run cannot be exported: the checkpoint of what {event.author} edited at step {event.step:,} is gone."
        )

    # ------------------------------------------------------------------------- steps

    def _train(self, controls: Controls, position: Position, end: int) -> Position:
        """Adds a segment from a position on; returns the position after it."""
        values, fit = controls.at(position.step), controls.fit
        assert fit is not None
        batch_size = int(values.pop("batch_size"))
        steps = int(min(end - position.step, controls.steady_for(position.step)))
        examples = steps * batch_size
        if fit.size is not None:
            examples = min(examples, fit.size - position.example)
        alike = position.example % batch_size == (fit.size or 0) % batch_size == 0
        static = batch_size if alike and batch_size == self._static_size else None
        wanted: dict[str, Any] = {"shuffle": self._shuffle, "static": static, "trainable": self._trainable}
        self._open_momentums(values, position.step)
        wanted |= {name: TINY if value == 0 and name in self._open else value for name, value in values.items()}
        self._changes |= {name: value for name, value in wanted.items() if value != self._present.get(name)}
        self._present = wanted
        self._append(Segment(position.data_pass, position.example, steps, batch_size, {}))
        return position.advanced(steps, examples)

    def _open_momentums(self, values: Mapping[str, Any], step: int) -> None:
        """Notes which momentums have velocities from now on."""
        begun = {name for name in self._momentums if values.get(name)}
        if again := begun & self._closed:
            raise ValueError(
                f"The run cannot be exported: after step {step:,} `{min(again)}` left 0 once more, after a fit that "
                "ended at 0. A plain optimizer would go on with the velocities of then."
            )
        self._open, self.velocities = self._open | begun, self.velocities | begun

    def _append(self, segment: Segment) -> None:
        segment.changes, self._changes = self._changes, {}
        if self.segments and self.segments[-1].goes_on(segment):
            self.segments[-1].steps += segment.steps
            return
        segment.why, self._reasons = "; ".join(self._reasons), []
        self.segments.append(segment)
