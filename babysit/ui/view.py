"""What a chart shows, chosen by who looks at it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """What a chart shows, in plain data; `dataclasses.replace` makes another one.

    Attributes:
        smoothing: Weight of the past in the smoothed loss, from 0 to below 1.
        log: Whether the axis of the loss is logarithmic, where all of it is above 0.
        x: The axis: `step`, `epoch`, or `time` of training, rests left out.
        last: Show the last so many steps; None for all.
        chosen: Or what lies between two values of x, in its own unit: steps, epochs, seconds.
        follow: Whether the axis follows the run; it stands still otherwise.
        band: Whether to show lowest and highest losses behind the smoothed one.
        gap: Whether to show the generalisation gap, validation loss above training loss.
        marks: Whether to show what was done.
        ghosts: Whether to show branches that were abandoned.
        metrics: Those to show below the loss; None for as many as find room.
        hyperparameters: Those to show below them; None likewise.
        mark: The mark to point out, by its number; None for none.
        other: The directory of another run, to lay its curve over; None for none.
    """

    smoothing: float = 0.97
    log: bool = True
    x: str = "step"
    last: int | None = None
    chosen: tuple[float, float] | None = None
    follow: bool = True
    band: bool = True
    gap: bool = False
    marks: bool = True
    ghosts: bool = True
    metrics: tuple[str, ...] | None = None
    hyperparameters: tuple[str, ...] | None = None
    mark: int | None = None
    other: str | None = None

    def __post_init__(self) -> None:
        """Checks what would fail only later, in the drawing."""
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be from 0 to below 1. Received: smoothing={self.smoothing!r}.")
        if self.x not in ("step", "epoch", "time"):
            raise ValueError(f'`x` must be "step", "epoch" or "time". Received: x={self.x!r}.')
        if self.last is not None and self.last < 1:
            raise ValueError(f"`last` must be a number of steps from 1 on, or None. Received: last={self.last!r}.")
        if self.chosen is not None and not self.chosen[0] < self.chosen[1]:
            raise ValueError(f"`chosen` must be two growing values of x, or None. Received: chosen={self.chosen!r}.")
