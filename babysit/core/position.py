"""The position of a training: arithmetic of steps, epochs and passes over the data."""

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class FitSpec:
    """What a fit was given, as far as its steps depend on it.

    Attributes:
        data: Fingerprint of the data.
        size: Examples in a pass over the data; None where that is not known.
        batch_size: As given to `fit`, at most `size`. A graph differs where all batches have one static size.
        shuffle: Whether the order of the examples is shuffled anew each pass, or `"batch"`.
        steps_per_epoch: Steps of an epoch; None for the data once.
        first_epoch: Keras's number of the run's epoch 0.
    """

    data: str
    size: int | None
    batch_size: int
    shuffle: bool | Literal["batch"] = True
    steps_per_epoch: int | None = None
    first_epoch: int = 0

    def same_examples(self, other: "FitSpec") -> bool:
        """Whether another fit visits the same examples in the same order, in epochs of the same length."""
        sizes = {self.size, other.size} - {None}  # a stream's size is known once it was gone through
        return len(sizes) <= 1 and self._order == other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        shuffle = f"batch of {self.batch_size}" if self.shuffle == "batch" else self.shuffle
        return self.data, shuffle, self.steps_per_epoch


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        epoch_step: Steps of the present epoch done.
        data_pass: Passes over the data done; as many as epochs, unless an epoch has a number of steps of its own.
        example: Examples of the present pass done.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    data_pass: int = 0
    example: int = 0

    def advanced(self, steps: int, examples: int) -> "Position":
        """The position after more steps, which took so many examples together."""
        return replace(
            self, step=self.step + steps, epoch_step=self.epoch_step + steps, example=self.example + examples
        )

    def epoch_ended(self, pass_over: bool) -> "Position":
        """The position in which the next epoch begins, in a new pass over the data where this one is over."""
        begun = replace(self, epoch=self.epoch + 1, epoch_step=0)
        return replace(begun, data_pass=self.data_pass + 1, example=0) if pass_over else begun

    def data_changed(self) -> "Position":
        """The position in which an epoch begins anew, on other data or in another order."""
        return replace(self, epoch_step=0, data_pass=max(self.data_pass, self.epoch), example=0)

    def epoch_over(self, spec: FitSpec) -> bool:
        """Whether the epoch has all its steps, as far as the numbers say: a stream of unknown size ends by itself."""
        enough = spec.steps_per_epoch is not None and self.epoch_step >= spec.steps_per_epoch
        return enough or (spec.size is not None and self.example >= spec.size)
