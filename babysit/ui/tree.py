"""The tree of a run: its branches, the checkpoints on them, and the losses at each; knows no widget."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from babysit.core.words import label
from babysit.ui.entries import AROUND
from babysit.ui.run_series import RunSeries

BRANCHES, CHECKPOINTS = 24, 60  # the newest of each are shown
_REASONS = {
    "start": "start",
    "fit": "before fit",
    "branch": "start of the branch",
    "tip": "end of the branch",
    "edit": "edited by hand",
    "end": "end",
}


class TreeNode(NamedTuple):
    """A line of the tree, and where it leads: a checkpoint, or the tip of a branch."""

    words: str
    branch: str
    step: int | None  # None for the tip
    folder: str | None


def tree_nodes(series: RunSeries, checkpoints: Mapping[str, Mapping[str, Any]]) -> list[TreeNode]:
    """The tree from top to bottom: each branch with its checkpoints, and below it the branches that left it.

    Args:
        series: The run's branches.
        checkpoints: Rows of checkpoints, by folder.
    """
    lineage = series.lineage()
    others = [name for name in series.branches if name not in lineage][-BRANCHES:]
    shown = [name for name in series.branches if name in lineage or name in others]
    newest = sorted(checkpoints)[-CHECKPOINTS:]
    saved = [row for row in checkpoints.values() if row["name"] or row["folder"] in newest]
    saved.sort(key=lambda row: (row["step"], row["folder"]))

    def below(name: str, depth: int) -> Iterator[TreeNode]:
        branch, pad = series.branches[name], "\u2003" * depth
        here = " (present)" if name == series.branch else ""
        left = f", left {branch.parent} at step {branch.start:,}" if branch.parent is not None else ""
        yield TreeNode(f"{pad}{'└ ' if depth else ''}{name}{here}{left}", name, None, None)
        for row in saved:
            if row["branch"] == name:
                words = f"{pad}\u2003• step {row['step']:,}{_checkpoint_words(row)}"
                yield TreeNode(words, name, row["step"], row["folder"])
        for child in shown:
            if series.branches[child].parent == name:
                yield from below(child, depth + 1)

    roots = [name for name in shown if series.branches[name].parent not in shown]
    return [node for root in roots for node in below(root, 0)]


def losses_at(series: RunSeries, branch: str, step: int | None) -> str:
    """The losses at a step of a branch, or at its tip, in a sentence."""
    end = math.inf if step is None else step
    loss, steps = series.mean_loss(branch, min(end, series.steps(branch)) - AROUND, end)
    sentences = [f"loss {loss:.4g}" if steps else "no loss yet"]
    if logs := series.epoch_logs(branch, end):
        epoch = int(logs.pop("epoch"))
        names = sorted(logs, key=lambda name: (name.startswith("val_"), not name.endswith("loss")))
        sentences.append(f"after epoch {epoch:,}: " + ", ".join(f"{label(name)} {logs[name]:.4g}" for name in names))
    return " · ".join(sentences)


def _checkpoint_words(row: Mapping[str, Any]) -> str:
    if row["name"]:
        return "" if row["name"] == f"step {row['step']:,}" else f" · {row['name']}"
    reason = row.get("kept") or "automatic"
    return f" · {_REASONS.get(reason, reason)}"
