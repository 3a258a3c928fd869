"""The progress of a run in a terminal, while a script waits for it."""

import sys
import time
from typing import Any

from tqdm import tqdm

from babysit.core.history import History

INTERVAL_S = 0.1


class Progress:
    """Shows how a fit goes, while somebody waits for it, and tells nothing twice.

    Args:
        history: What the run measures; epochs that it holds already are not told.
        verbose: 0 or False for nothing, 1 or True for a bar, 2 for a line an epoch; `"auto"` for a
            bar if there is a terminal to show it in.

    Raises:
        ValueError: If `verbose` is none of these.
    """

    def __init__(self, history: History, verbose: Any = 0) -> None:
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                '`verbose` must be "auto", 0 for nothing, 1 for a bar or 2 for a line an epoch. '
                f"Received: verbose={verbose!r}."
            )
        self._verbose = verbose
        self._lines = _Lines(history)

    def wait(self, run: Any, timeout: float | None) -> bool:
        """Waits for a run and shows how it goes; returns whether it came to its end.

        Args:
            run: What has `wait(timeout) -> bool` and `status()`.
            timeout: Seconds to wait at most, or None.
        """
        verbose = int(sys.stderr.isatty()) if self._verbose == "auto" else self._verbose
        if not verbose:
            return bool(run.wait(timeout))
        show = _Bar() if verbose == 1 else self._lines
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                left = INTERVAL_S if deadline is None else min(INTERVAL_S, deadline - time.monotonic())
                over = bool(run.wait(max(left, 0)))
                show.update(run.status())
                if over or left <= 0:
                    return over
        finally:
            show.close()


class _Bar:
    """One bar for the whole run, in epochs, with the loss."""

    def __init__(self) -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(total=1.0, bar_format=form, file=sys.stderr, leave=True)

    def update(self, status: dict[str, Any]) -> None:
        done, size = status["examples_done"], status["examples_an_epoch"]
        epochs = max(status["epochs"], 1)
        share = (status["epoch"] + (done / size if size else 0)) / epochs
        self._bar.set_description_str(f"epoch {min(status['epoch'] + 1, epochs)}/{epochs}", refresh=False)
        loss = status["loss"]
        self._bar.set_postfix_str(f"step {status['step']:,}" + ("" if loss is None else f", loss {loss:.4g}"), False)
        self._bar.n = min(share, 1.0)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line for each epoch that is over; one that was trained anew has another."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen: tuple[Any, ...] = ()
        self._seq = max((event.seq for event in history.epoch_end_events()), default=0)

    def update(self, status: dict[str, Any]) -> None:
        if self._seen == (seen := (status["epoch"], status["branch"])):
            return  # nothing to look for in the log
        self._seen = seen
        for event in self._history.epoch_end_events():
            if event.seq > self._seq:
                logs = event.payload.logs
                words = [f"{name}: {value:.4f}" for name, value in logs.items() if isinstance(value, float)]
                print(" - ".join([f"Epoch {event.payload.epoch}/{status['epochs']}", *words]), flush=True)
                self._seq = event.seq

    def close(self) -> None:
        pass
