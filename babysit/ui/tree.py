"""The tree of a run: its branches, and the checkpoints on them; knows no widget."""

import bisect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from babysit.session.history import decoded

# No more branches and checkpoints than a person reads; the newest of each.
BRANCHES, CHECKPOINTS, POINTS = 24, 60, 512


class Place(NamedTuple):
    """A line of the tree, and where it leads: a checkpoint, or the tip of a branch."""

    words: str
    branch: str
    step: int | None  # None for the tip
    folder: str | None


class Branch:
    """What is known of one branch."""

    def __init__(self, name: str, parent: str | None, step: int) -> None:
        self.name, self.parent, self.step, self.tip = name, parent, step, step
        self._losses: list[tuple[int, float]] = []  # (step, mean loss of a block), bounded
        self._epochs: list[tuple[int, int, dict[str, Any]]] = []  # (step, epoch, logs), bounded

    def add_block(self, last: int, losses: np.ndarray) -> None:
        """Takes in the losses of a block that ended with step `last`."""
        self.tip = last
        _append(self._losses, (last, float(np.mean(losses[-200:]))))

    def add_epoch(self, step: int, epoch: int, logs: dict[str, Any]) -> None:
        """Takes in what an epoch came to."""
        _append(self._epochs, (step, epoch, logs))

    def loss_at(self, step: float) -> float | None:
        """The loss about there; None if this branch has no step before it."""
        found = bisect.bisect_right(self._losses, step, key=lambda point: point[0])
        return self._losses[found - 1][1] if found else None

    def epoch_at(self, step: float) -> tuple[int, dict[str, Any]] | None:
        """The last epoch that was over there, and its logs."""
        found = bisect.bisect_right(self._epochs, step, key=lambda point: point[0])
        return self._epochs[found - 1][1:] if found else None


class Tree:
    """The branches of a run and their checkpoints."""

    def __init__(self) -> None:
        self.present = ""
        self._branches: dict[str, Branch] = {}
        self._checkpoints: dict[str, dict[str, Any]] = {}  # by folder

    def take(self, table: str, row: Mapping[str, Any]) -> bool:
        """Takes in a row of the record; whether the tree looks different now."""
        if table == "branches":
            self.present = row["name"]
            self._branches[row["name"]] = Branch(row["name"], row["parent"], row["step"] or 0)
        elif table == "checkpoints":
            # Read when it comes, while the losses around it are all there; a later row only renames it.
            losses = self._checkpoints.get(row["folder"], {}).get("losses") or self.losses(row["branch"], row["step"])
            self._checkpoints[row["folder"]] = {**row, "losses": losses}
        elif table == "blocks" and row["branch"] in self._branches and "loss" in row["names"]:
            losses = decoded(row)[row["names"].index("loss")]
            self._branches[row["branch"]].add_block(row["first"] + row["steps"] - 1, losses)
        elif table == "epochs" and row["branch"] in self._branches:
            self._branches[row["branch"]].add_epoch(row["step"], row["epoch"], row["logs"])
        return table in ("branches", "checkpoints")

    def keep(self, folders: set[str]) -> bool:
        """Forgets the checkpoints that are no longer there; whether there were any."""
        gone = self._checkpoints.keys() - folders
        for folder in gone:
            del self._checkpoints[folder]
        return bool(gone)

    def tip(self, branch: str) -> int:
        """The last step of a branch."""
        return self._branches[branch].tip if branch in self._branches else 0

    # ------------------------------------------------------------------------- to be read

    def lines(self) -> list[Place]:
        """The tree from top to bottom: each branch with its checkpoints, and below a fork what left there."""
        shown = self._shown()
        roots = [branch for branch in shown if branch.parent not in {other.name for other in shown}]
        return [place for root in roots for place in self._lines_of(root, shown, 0)]

    def _shown(self) -> list[Branch]:
        line = {branch.name for branch in self._line(self.present)}
        others = [name for name in self._branches if name not in line][-BRANCHES:]
        return [branch for name, branch in self._branches.items() if name in line or name in others]

    def _lines_of(self, branch: Branch, shown: list[Branch], depth: int) -> Iterator[Place]:
        pad = "\u2003" * depth
        here = " (present)" if branch.name == self.present else ""
        left = f", left {branch.parent} at step {branch.step:,}" if branch.parent is not None else ""
        yield Place(f"{pad}{'└ ' if depth else ''}{branch.name}{here}{left}", branch.name, None, None)
        for saved in self._saved_on(branch.name):
            words = f"{pad}\u2003• step {saved['step']:,}{_named(saved)}"
            yield Place(words, branch.name, saved["step"], saved["folder"])
        for child in shown:
            if child.parent == branch.name:
                yield from self._lines_of(child, shown, depth + 1)

    def _saved_on(self, branch: str) -> list[dict[str, Any]]:
        newest = sorted(self._checkpoints)[-CHECKPOINTS:]
        wanted = [row for row in self._checkpoints.values() if row["name"] or row["folder"] in newest]
        return sorted((row for row in wanted if row["branch"] == branch), key=lambda row: (row["step"], row["folder"]))

    def losses_at(self, place: Place) -> str:
        """What the losses were at a place of the tree, in a sentence."""
        known = self._checkpoints.get(place.folder or "")
        return str(known["losses"]) if known else self.losses(place.branch, place.step)

    def losses(self, branch: str, step: int | None) -> str:
        """What the losses were at a step, in a sentence; of long ago, about there."""
        end: float = math.inf if step is None else step
        loss, epoch = None, None
        for part in self._line(branch):
            loss = part.loss_at(end) if loss is None else loss
            epoch = part.epoch_at(end) if epoch is None else epoch
            end = min(end, part.step)
        said = [f"loss {loss:.4g}"] if loss is not None else ["no loss yet"]
        if epoch is not None:
            found = [(name, value) for name, value in epoch[1].items() if isinstance(value, int | float)]
            found.sort(key=lambda log: (log[0].startswith("val_"), not log[0].endswith("loss")))
            logs = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found)
            said.append(f"after epoch {epoch[0]:,}: {logs}")
        return " · ".join(said)

    def _line(self, branch: str | None) -> Iterator[Branch]:
        """A branch, and those it came from."""
        while branch in self._branches:
            yield self._branches[branch]
            branch = self._branches[branch].parent


def _named(saved: Mapping[str, Any]) -> str:
    if saved["name"]:
        return "" if saved["name"] == f"step {saved['step']:,}" else f" · {saved['name']}"
    return f" · {_ANCHORS.get(saved.get('anchor') or '', saved.get('anchor') or 'automatic')}"


_ANCHORS = {
    "start": "start",
    "fit": "before fit",
    "branch": "start of the branch",
    "edit": "edited by hand",
    "end": "end",
}


def _append(points: list[Any], point: Any) -> None:
    """Adds a point; where there are too many, every second one goes."""
    points.append(point)
    if len(points) > POINTS:
        del points[:-1:2]
