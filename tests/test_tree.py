"""The tree of branches and checkpoints, fed the rows of a record."""

import numpy as np
import pytest

from babysit.ui.tree import CHECKPOINTS, POINTS, Tree


class Rows:
    """Feeds a tree as a record would."""

    def __init__(self):
        self.tree = Tree()

    def branch(self, name, parent=None, step=0):
        self.tree.take("branches", {"name": name, "parent": parent, "step": step})

    def block(self, branch, first, losses):
        columns = np.asarray(losses, float)
        row = {"branch": branch, "first": first, "steps": len(losses), "names": ["loss"]}
        self.tree.take("blocks", row | {"dtype": "float64", "columns": columns.tobytes()})

    def checkpoint(self, branch, step, folder, name=None):
        self.tree.take("checkpoints", {"branch": branch, "step": step, "folder": folder, "name": name})

    def words(self):
        return [place.words.strip() for place in self.tree.lines()]


@pytest.fixture
def rows():
    return Rows()


def test_what_left_a_branch_stands_below_it(rows):
    rows.branch("branch 1")
    rows.checkpoint("branch 1", 0, "000001")
    rows.branch("branch 2", "branch 1", 30)
    rows.branch("branch 3", "branch 2", 40)
    rows.branch("branch 4", "branch 1", 10)
    rows.checkpoint("branch 2", 35, "000002", "good")
    assert [(place.words.strip(), place.folder) for place in rows.tree.lines()] == [
        ("branch 1", None),
        ("• step 0 · automatic", "000001"),
        ("└ branch 2, left branch 1 at step 30", None),
        ("• step 35 · good", "000002"),
        ("└ branch 3, left branch 2 at step 40", None),
        ("└ branch 4 (present), left branch 1 at step 10", None),
    ]


def test_losses_are_those_of_the_branch_up_to_the_step_and_before_its_fork_the_parents(rows):
    rows.branch("branch 1")
    for first, loss in ((1, 5.0), (11, 4.0), (21, 3.0)):
        rows.block("branch 1", first, [loss] * 10)
    rows.tree.take("epochs", {"branch": "branch 1", "epoch": 1, "step": 10, "logs": {"val_loss": 7.0, "loss": 5.5}})
    rows.tree.take("epochs", {"branch": "branch 1", "epoch": 2, "step": 30, "logs": {"val_loss": 6.0, "loss": 3.5}})
    rows.branch("branch 2", "branch 1", 20)
    rows.block("branch 2", 21, [1.0] * 10)
    assert rows.tree.losses("branch 1", None) == "loss 3 · after epoch 2: loss 3.5, val loss 6"
    assert rows.tree.losses("branch 1", 20) == "loss 4 · after epoch 1: loss 5.5, val loss 7"
    assert rows.tree.losses("branch 2", 20) == "loss 4 · after epoch 1: loss 5.5, val loss 7"
    assert rows.tree.losses("branch 2", None) == "loss 1 · after epoch 1: loss 5.5, val loss 7"
    assert rows.tree.losses("branch 1", 0) == "no loss yet"
    assert (rows.tree.tip("branch 1"), rows.tree.tip("branch 2")) == (30, 30)


def test_checkpoints_that_are_gone_are_forgotten(rows):
    rows.branch("branch 1")
    rows.checkpoint("branch 1", 5, "000001")
    rows.checkpoint("branch 1", 9, "000002")
    assert rows.tree.keep({"000002"}) is True
    assert rows.tree.keep({"000002"}) is False
    assert rows.words() == ["branch 1 (present)", "• step 9 · automatic"]


def test_it_stays_small_however_long_the_run(rows):
    rows.branch("branch 1")
    for i in range(4 * POINTS):
        rows.block("branch 1", i + 1, [float(i)])
    branch = rows.tree._branches["branch 1"]
    assert len(branch._losses) <= POINTS + 1
    assert branch.loss_at(4 * POINTS) == 4 * POINTS - 1
    assert branch.loss_at(1000) == pytest.approx(999, abs=16)
    for i in range(2, 500):
        rows.branch(f"branch {i}", "branch 1", 0)
        rows.checkpoint(f"branch {i}", 0, f"{i:06}")
    assert len(rows.words()) < 2 * CHECKPOINTS
    assert rows.words()[-2].startswith("└ branch 499 (present)")


def test_the_losses_of_a_checkpoint_stay_the_same_however_long_the_run(rows):
    rows.branch("branch 1")
    for i in range(3 * POINTS):
        rows.block("branch 1", 1 + 10 * i, [float(i)] * 10)
        if i == 3:
            rows.checkpoint("branch 1", 40, "000001")
            said = rows.tree.losses_at(rows.tree.lines()[1])
    assert said == "loss 3" == rows.tree.losses_at(rows.tree.lines()[1])
