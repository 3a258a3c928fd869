"""The progress of a run in a terminal, while a script waits for it."""

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from babysit.core.history import History

INTERVAL_S = 0.1
_FORM = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Progress:
    """Prints the progress of a fit while a caller waits for it, each epoch once.

    Args:
        history: What the run measures; epochs that it holds already are not printed.
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
        self._history, self._verbose = history, verbose
        self._seq = max((event.seq for event in history.epoch_end_events()), default=0)  # of the last epoch printed
        self._seen: Any = None

    def wait(self, run: Any, timeout: float | None) -> bool:
        """Waits for a run and shows how it goes; returns whether it came to its end.

        Args:
            run: What has `wait(timeout) -> bool` and `status()`.
            timeout: Seconds to wait at most, or None.
        """
        verbose = int(sys.stderr.isatty()) if self._verbose == "auto" else self._verbose
        if not verbose:
            return bool(run.wait(timeout))
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        with tqdm(total=1.0, bar_format=_FORM, file=sys.stderr, disable=verbose == 2) as bar:
            while True:
                left = end - time.monotonic()
                over = bool(run.wait(min(max(left, 0), INTERVAL_S)))
                if verbose == 2:
                    self._print_epochs(run.status())
                else:
                    _move(bar, run.status())
                if over or left <= 0:
                    return over

    def _print_epochs(self, status: dict[str, Any]) -> None:
        """Prints a line for each epoch that is over; one that was trained anew has another."""
        seen, self._seen = self._seen, (status["epoch"], status["branch"])
        for event in self._history.epoch_end_events() if seen != self._seen else ():
            if event.seq > self._seq:
                logs = event.payload.logs
                words = [f"{name}: {value:.4f}" for name, value in logs.items() if isinstance(value, float)]
                print(" - ".join([f"Epoch {event.payload.epoch}/{status['epochs']}", *words]), flush=True)
                self._seq = event.seq


def _move(bar: Any, status: dict[str, Any]) -> None:
    """Moves the one bar of the whole run, in epochs, with the loss."""
    done, size, epochs = status["examples_done"], status["examples_an_epoch"], max(status["epochs"], 1)
    loss = "" if status["loss"] is None else f", loss {status['loss']:.4g}"
    bar.n = min((status["epoch"] + (done / size if size else 0)) / epochs, 1.0)
    bar.set_description_str(f"epoch {min(status['epoch'] + 1, epochs)}/{epochs}", refresh=False)
    bar.set_postfix_str(f"step {status['step']:,}{loss}")
