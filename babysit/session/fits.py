"""Fits: what one is to do, and what the record knows of those before it."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from babysit.core.scale import Scale
from babysit.engine.callbacks import Callbacks
from babysit.store.record import Record


@dataclass
class Plan:
    """What a fit is to do: its data, how long it goes on, and who is told.

    A fit that completes an interrupted one has the hyperparameters as they were left.
    """

    data: Any
    epochs: int
    validation: Any = None
    validation_steps: int | None = None
    validation_freq: int | list[int] = 1
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    shuffle: Any = True
    callbacks: Callbacks = field(default_factory=Callbacks)
    ranges: Mapping[str, Any] | None = None
    verbose: Any = 0
    completes: bool = False
    keeps_size: bool = False  # whether nobody asked for a batch size: the present one, or the one that waits
    own: Mapping[str, Any] | None = None  # what a model's own `fit` is given, where it has one

    @property
    def identity(self) -> list[Any]:
        """What must be the same for a fit to go on in the middle of an epoch."""
        order = f"batch of {self.data.batch_size}" if self.shuffle == "batch" else self.shuffle
        return [self.data.fingerprint(), self.data.size, order, self.steps_per_epoch]

    @property
    def batch_size(self) -> int:
        """As asked for, of all the examples at most."""
        size = self.data.batch_size
        return int(size if self.data.size is None else min(size, self.data.size))

    def declare(self, shuffle: Any, batch_size: int) -> None:
        """Takes another order of examples, and the batch size that it is told with; 0 for the one it has."""
        self.shuffle = shuffle
        self.data.declare(shuffle, batch_size or self.data.batch_size)

    def move(self, place: tuple[int, int], order: tuple[Any, int]) -> tuple[tuple[int, int], tuple[Any, int]]:
        """Goes to a place in the data, in that order; returns where they stood."""
        before = self.data.place, (self.data.shuffle, self.data.batch_size)
        self.data.restore(*place)
        self.declare(*order)
        return before

    def trains_as(self, fits: Iterable[Sequence[Any]]) -> bool:
        """Whether its data are those of all these fits; their order can be taken on."""
        if self.own is not None:
            return False
        last = 3 if hasattr(self.data, "fixed") else 2  # the order of a stream is its own
        return all(_are_same(then[:last], self.identity[:last]) for _, then, *_ in fits)

    def act_as(self, fit: Sequence[Any], begins: bool) -> bool:
        """Has epochs of as many steps as a fit, and its order too where that begins; returns whether it is another."""
        _, identity, *given = fit
        before, self.steps_per_epoch = self.identity, identity[3]
        if not (begins and given):
            return False
        self.declare(*given[0])
        return not _are_same(before, self.identity)

    # --------------------------------------------------------------------- its epochs

    def is_spent(self, steps: int) -> bool:
        """Whether an epoch is over behind so many steps."""
        enough = self.steps_per_epoch is not None and steps >= self.steps_per_epoch
        return bool(enough or self.data.finished)

    def turn_over(self, steps: int, quietly: bool) -> None:
        """Makes the data ready for the epoch behind one of so many steps."""
        if not self.data.finished and self.steps_per_epoch:
            self.data.turn()
            return
        if self.steps_per_epoch and steps < self.steps_per_epoch and not quietly:
            warnings.warn(
                f"The data ran out after {steps} of {self.steps_per_epoch} steps; the epoch ends there.",
                stacklevel=3,
            )
        self.data.next_pass()

    def progress(self, steps: int, batch_size: int) -> tuple[int, int | None]:
        """Examples done in an epoch of which so many steps are, and examples an epoch; None where that is not known."""
        if self.steps_per_epoch:
            return steps * batch_size, self.steps_per_epoch * batch_size
        return self.data.place[1], self.data.size

    def places_to_skip(self, batches: int, batch_size: int) -> list[int]:
        """Where batches are left out: pass, and the places of the first example left out and of the next one not.

        Raises:
            ValueError: If that is more than the epoch has left.
        """
        left = self.data.steps_left(batch_size)
        if left is not None and batches >= left:
            raise ValueError(
                f"`skip` must leave a batch of the epoch. Received: skip={batches}, with {left} left of them there."
            )
        passes, cursor = self.data.place
        return [passes, cursor, cursor + batches * batch_size]

    def check_size(self, examples: int) -> None:
        """Raises ValueError if a state was made on another number of examples; 0 where that was not known."""
        if self.data.size is not None and examples not in (0, self.data.size):
            raise ValueError(
                f"The checkpoint was made on {examples:,} examples, and now there are {self.data.size:,}. "
                "`fit` on those data again before you rewind to it."
            )


class Fits:
    """The fits of a run, as its record tells of them.

    Args:
        record: The run's.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def all(self) -> list[Any]:
        """The mark with which each fit began, its identity, and the order and batch size that it was given."""
        return self._record.meta("fits") or []

    def add(self, mark: int, plan: Plan) -> None:
        """Takes down that a fit has begun."""
        given = plan.shuffle, plan.data.batch_size
        self._record.set_meta({"fits": [*self.all, [mark, plan.identity, given]]})

    def describe(self, plan: Plan, scales: Mapping[str, Scale]) -> None:
        """Takes down the data and the bounds of the fit that is being prepared."""
        self._record.set_meta(
            {
                "spec": plan.data.spec,
                "scales": {name: asdict(scale) for name, scale in scales.items()},
                "fingerprint": plan.data.fingerprint(),
                "batch_size": plan.data.batch_size,
                "shuffle": plan.shuffle,
                "data": plan.identity,
            }
        )

    @property
    def spec(self) -> Any:
        """Of a batch, as it was described last."""
        return self._record.meta("spec")

    @property
    def scales(self) -> dict[str, Scale]:
        """The bounds that were described last."""
        return {name: Scale(**fields) for name, fields in self._record.meta("scales").items()}

    def described(self, plan: Plan) -> bool:
        """Whether the data of a fit are those that were described last."""
        return _are_same(self._record.meta("data") or [None, 0], plan.identity)


def going_on(fits: Sequence[Sequence[Any]], mark: int) -> Sequence[Any] | None:
    """The one of these fits that was going on at a mark, if any was."""
    return next((fit for fit in reversed(fits) if fit[0] <= mark), None)


def _are_same(one: list[Any], other: list[Any]) -> bool:
    """Whether two identities are one; a stream tells its size only when it has been gone through."""
    return [*one[:1], *one[2:]] == [*other[:1], *other[2:]] and (one[1] == other[1] or None in (one[1], other[1]))
