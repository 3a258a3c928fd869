"""The progress of a run in a terminal, while a script waits for it."""

import sys
import time
from typing import Any

from tqdm import tqdm

INTERVAL_S = 0.1


def shown(run: Any, history: Any, verbose: Any, timeout: float | None) -> bool:
    """Waits for a run and shows how it goes; returns whether it came to its end.

    Args:
        run: What has `wait(timeout) -> bool` and `status()`.
        history: What it measures.
        verbose: 0 for nothing, 1 for a bar, 2 for a line an epoch; `"auto"` for a bar if there is
            a terminal to show it in.
        timeout: Seconds to wait at most, or None.
    """
    if verbose == "auto":
        verbose = 1 if sys.stderr.isatty() else 0
    if not verbose:
        return bool(run.wait(timeout))
    show = _Bar() if int(verbose) == 1 else _Lines(history)
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
    """A line for each epoch that is over."""

    def __init__(self, history: Any) -> None:
        self._history, self._told = history, 0

    def update(self, status: dict[str, Any]) -> None:
        if status["epoch"] == self._told:
            return
        logs = self._history.history
        for epoch in range(self._told, max(map(len, logs.values()), default=0)):
            words = [f"{name}: {values[epoch]:.4f}" for name, values in logs.items() if _is_there(values, epoch)]
            print(f"Epoch {epoch + 1}/{status['epochs']} - {' - '.join(words)}", flush=True)
            self._told = epoch + 1

    def close(self) -> None:
        pass


def _is_there(values: list[Any], epoch: int) -> bool:
    return epoch < len(values) and isinstance(values[epoch], float)
