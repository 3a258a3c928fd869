"""What a fit is to do: its data, how long it goes on, and whom it calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from babysit.core.position import FitSpec, Position


@dataclass
class FitPlan:
    """The checked arguments of a fit.

    Attributes:
        source: The data.
        epochs: Epochs to do; with `initial_epoch`, the number of the epoch to end at.
        callbacks: Keras's callbacks.
        validation: Validates after an epoch; None without validation data.
        initial_epoch: Keras's number of the first epoch.
        steps_per_epoch: Steps of an epoch; None for the data once.
        ranges: Hyperparameter -> (low, high), where the default bounds do not serve.
        verbose: What Keras's callbacks get as `verbose`.
        completes: Whether it completes the fit of a run that was loaded.
        keeps_batch_size: Whether no batch size was asked for: the present one stays.
        facts: What a program that trains the same again must know of the data.
        remarks: What cannot be steered, fused or rewound, and why; a sentence each.
    """

    source: Any
    epochs: int
    callbacks: Any
    validation: Any = None
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    ranges: Mapping[str, Any] | None = None
    verbose: Any = 0
    completes: bool = False
    keeps_batch_size: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """Examples a step as asked for, of all the examples at most."""
        return int(self.source.batch_size)

    def spec(self, position: Position) -> FitSpec:
        """What steps depend on, of a fit that begins at a position."""
        source = self.source
        return FitSpec(
            data=source.fingerprint,
            size=source.size,
            batch_size=source.batch_size,
            shuffle=source.shuffle,
            steps_per_epoch=self.steps_per_epoch,
            first_epoch=self.initial_epoch - position.epoch,
        )
