"""Memory: what callbacks remember from epoch to epoch, given back to them where a run is taken up or rewound."""

import contextlib
from typing import Any

import numpy as np

from babysit.engine.callbacks import Callbacks
from babysit.engine.model import TrainableModel
from babysit.session.history import History
from babysit.store.checkpoints import Shelf


class Memory:
    """What the callbacks of a fit remembered behind each of its epochs.

    Args:
        history: The run's, where it is with the end of an epoch.
        shelf: The run's, for the weights that were best.
        subject: The model that is trained.
    """

    def __init__(self, history: History, shelf: Shelf, subject: TrainableModel) -> None:
        self._history, self._shelf, self._subject = history, shelf, subject
        self.begun = 0  # the mark with which the fit began, or the one that it completes
        self.fresh: list[Any] = []  # what its callbacks remembered then

    def after(self, callbacks: Callbacks, seeds: list[list[int]]) -> dict[str, Any]:
        """What the end of an epoch leaves that is done again by no step, see `history.Ended`; `seeds` are of before."""
        now, memory = self._subject.tensors.seeds, callbacks.memory
        return ({"seeds": now} if now != seeds else {}) | ({"callbacks": memory} if memory else {})

    def give_back(self, callbacks: Callbacks, step: int, offset: int) -> None:
        """Has callbacks remember what they did behind the last epoch of the fit that had ended at a step.

        Args:
            callbacks: The fit's.
            step: That.
            offset: Keras's number of an epoch is ours and this.
        """
        if not callbacks.memory:
            return
        row = self._history.epoch_before(step, self.begun)
        memory = (row["after"] or {}).get("callbacks") if row else self.fresh
        callbacks.remember(memory or [], lambda number: self._weights_behind(number - offset + 1))

    def _weights_behind(self, epoch: int) -> list[np.ndarray] | None:
        """The weights that an epoch came to, where the shelf has them."""
        line = self._history.line()
        end = self._history.ended(*line).get(epoch)
        branches = {part.branch for part in line if end is not None and part.start <= end.step <= part.end}
        for kept in self._shelf.candidates():
            if end is not None and kept.branch in branches and kept.step == end.step:
                with contextlib.suppress(ValueError):  # damaged
                    tensors = kept.load().tensors["model"]
                    return [tensors[i] for i in self._subject.tensors.positions(self._subject.model.weights)]
        return None
