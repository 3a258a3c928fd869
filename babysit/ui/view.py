"""The view of a chart: what the user has chosen to see."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """What a chart shows, as plain data; `dataclasses.replace` makes another view.

    Attributes:
        smoothing: Weight of the past in the smoothed loss, from 0 to below 1.
        log: Whether the axis of the loss is logarithmic, if all of it is above 0.
        x: The axis: `step`, `epoch`, or `time` of training without rests.
        last: The number of last steps to show; None for all.
        chosen: Two values of x to show what lies between them, in steps, epochs or seconds; None for all.
        band: Whether to show lowest and highest losses behind the smoothed one.
        annotations: Whether to show annotations of what was done.
        ghosts: Whether to show branches that were abandoned.
        metrics: Metrics to show below the loss; None for as many as have room.
        hyperparameters: Hyperparameters to show below them; None for as many as have room.
        entry: The `seq` of the entry whose annotation is highlighted; None for none.
        other: The directory of another run whose curves are laid over; None for none.
    """

    smoothing: float = 0.97
    log: bool = True
    x: str = "step"
    last: int | None = None
    chosen: tuple[float, float] | None = None
    band: bool = True
    annotations: bool = True
    ghosts: bool = True
    metrics: tuple[str, ...] | None = None
    hyperparameters: tuple[str, ...] | None = None
    entry: int | None = None
    other: str | None = None
